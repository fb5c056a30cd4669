"""The plan of every cell without running any: what it costs on a GPU. Loads torch, but no weights and no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vpgtrans_core.lab.experiment import Experiment
from vpgtrans_core.lab.matrix import Cell, check_models, distinct
from vpgtrans_core.planning.cost.assumptions import assumptions_for
from vpgtrans_core.planning.cost.chips import chip, chips
from vpgtrans_core.planning.cost.estimate import Cost, Estimator
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings, build

GPU = "a100"


def plan_cells(experiments: Sequence[Experiment], registry: Registry) -> list[tuple[str, str, str]]:
    """``(cell, captions, GPU-hours)`` of every cell, as text; what needs data to be known is a guess or a dash.

    Raises:
        VpgtError: a cell cannot be planned.
    """
    check_models(experiments, registry)
    rows, hours = [], 0.0
    known: dict[str, Cost] = {}
    for cell in distinct(experiments).values():
        key = kind(cell)
        cost = known[key] = known.get(key) or cell_cost(cell, registry)
        hours += cost.gpu_hours
        rows.append((cell.id, f"{sum(s.captions for s in cost.stages):,.0f}", f"{cost.gpu_hours:,.2f}"))
    return [*rows, (f"together, on one {GPU.upper()}", "", f"{hours:,.1f}")]


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
