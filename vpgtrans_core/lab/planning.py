"""The plan of every cell without running any: what it costs on a GPU, and how long it takes on this machine if others
like it were run here. Loads torch, but no weights and no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vpgtrans_core.lab.experiment import Experiment
from vpgtrans_core.lab.folder import LabFolder
from vpgtrans_core.lab.matrix import Cell, check_models, distinct
from vpgtrans_core.lab.results import mean
from vpgtrans_core.planning.cost.assumptions import assumptions_for
from vpgtrans_core.planning.cost.chips import chip, chips
from vpgtrans_core.planning.cost.estimate import Cost, Estimator
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings, build

GPU = "a100"


def plan_cells(
    experiments: Sequence[Experiment], registry: Registry, lab: LabFolder, jobs: int = 1
) -> list[tuple[str, str, str, str]]:
    """``(cell, captions, GPU-hours, seconds of this machine)`` of every cell, as text; what needs data to be known is a
    guess or a dash.

    Args:
        lab: whose finished cells say how long others take; it need not exist.
        jobs: cells that run at once.

    Raises:
        VpgtError: a cell cannot be planned.
    """
    check_models(experiments, registry)
    cells = distinct(experiments)
    seconds = seconds_here(lab, cells)
    rows, hours = [], 0.0
    known: dict[str, Cost] = {}
    for cell in cells.values():
        key = kind(cell)
        cost = known[key] = known.get(key) or cell_cost(cell, registry)
        hours += cost.gpu_hours
        time = f"{seconds[cell.id]:,.0f}" if cell.id in seconds else "–"
        rows.append((cell.id, f"{sum(s.captions for s in cost.stages):,.0f}", f"{cost.gpu_hours:,.2f}", time))
    rows.append((f"together, on one {GPU.upper()}", "", f"{hours:,.1f}", ""))
    if seconds:
        minutes = sum(seconds.values()) / 60 / jobs
        unknown = f", without {len(cells) - len(seconds)} of unknown length" if len(seconds) < len(cells) else ""
        rows.append((f"together, on this machine with --jobs {jobs}{unknown}", "", "", f"{minutes:,.0f} min"))
    return rows


def seconds_here(lab: LabFolder, cells: Mapping[str, Cell]) -> dict[str, float]:
    """Seconds of one core that cells take here: what finished ones took, and of others the mean of those like them:
    the same target and epochs, or else the same epochs. Those like none are left out."""
    done = lab.finished()
    known: dict[object, list[float]] = {}
    for cell, seconds in done.values():
        for key in _alike(cell):
            known.setdefault(key, []).append(seconds)
    found = {}
    for name, cell in cells.items():
        alike = [done[name][1]] if name in done else next((known[k] for k in _alike(cell) if k in known), [])
        if alike:
            found[name] = mean(alike)
    return found


def _alike(cell: Cell) -> tuple[object, object]:
    """What cells have in common that take about as long, the closest first."""
    epochs = sum(float(cell.settings.get(f"stage{n}_epochs") or 0) for n in cell.settings.get("stages") or (1, 2))
    length = epochs, cell.points, cell.pictures, tuple(cell.tasks)
    return (cell.target, *length), length


def cell_cost(cell: Cell, registry: Registry) -> Cost:
    """What a cell costs on the GPU, for the paper's amount of data where the cell's lengths are in epochs.

    Raises:
        VpgtError: it cannot be planned.
    """
    made = plan(planned_settings(cell), registry=registry, downloads=False)
    device = chip(GPU, chips(registry.switches.folder))
    assumed = assumptions_for(made, device, gpus=1, mfu=None, price=None, caption_tokens=None)
    return Estimator(made, registry, device, assumed).cost()


def kind(cell: Cell) -> str:
    """Cells of one kind have the same plan, whatever their seed and, where a source is trained first, their source."""
    return repr(replace(planned_settings(cell), seed=0))


def planned_settings(cell: Cell) -> Settings:
    """The settings for planning: without data, and with the pre-trained VPG for a source that is not trained yet."""
    values = {name: value for name, value in cell.settings.items() if name not in ("data", "format", "ratios")}
    settings = build({**values, "val_data": None, "source": cell.source, "target": cell.target})
    return replace(settings, source=cell.vpg, start="random") if cell.needs else settings
