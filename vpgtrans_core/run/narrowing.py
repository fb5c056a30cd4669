"""A VPG with fewer outputs, where the finished model's folder has no room for all of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from vpgtrans_core.machine import Machine
from vpgtrans_core.run.folder import RunFolder
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.start.narrow import narrow
from vpgtrans_core.start.projector import Linear
from vpgtrans_core.train.stage import Progress
from vpgtrans_core.train.step import Batch
from vpgtrans_core.vlm.assemble import source_projector
from vpgtrans_core.vlm.model import VLModel
from vpgtrans_core.vpg.adapter import VPG

NARROWED_IMAGES = 128
"""Training images whose outputs decide which of them a narrower VPG keeps."""


def keep_narrowed(folder: RunFolder, vpg: VPG) -> None:
    """Leave out what the run's record says was left out when it began."""
    if narrowed := folder.record.get("narrowed"):
        vpg.keep_outputs(torch.tensor(narrowed["units"]))


def narrow_vpg(
    model: VLModel,
    batches: Iterable[Batch],
    width: int,
    spec: RunSpec,
    folder: RunFolder,
    machine: Machine,
    reporter: Progress,
) -> Linear | None:
    """Keep `width` of the VPG's outputs, alike in every process, and record which.

    Args:
        batches: images whose outputs decide.

    Returns:
        the source's projector from the outputs that stay.
    """
    vpg = model.vpg
    shown = [model.whole_pictures(model.frozen(b.visual.to(model.device), b.kind)[0]) for b in batches]
    outputs = torch.cat([part.float().cpu() for part in shown])
    chosen = narrow(outputs, source_projector(spec.source), width)
    units = machine.accelerator.broadcast(chosen.units.to(model.device)).cpu()
    folder.write_record(narrowed={"units": units.tolist(), "of": vpg.output_size, "lost": chosen.lost})
    reporter.message(
        f"keeping {width} of the VPG's {vpg.output_size} outputs, as many as the folder has room for beside "
        f"{spec.target.name}; the source's soft prompts lose {chosen.lost:.1%} of their variance"
    )
    vpg.keep_outputs(units)
    return chosen.projector
