"""A transfer of two steps between tiny models, in the kit's temporary folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vpgtrans_core.registry import Registry
from vpgtrans_core.testing.checks import expect
from vpgtrans_core.testing.tiny_models import save_pictures

CAPTIONS = 12


def transfer_two_steps(registry: Registry, source: Path, target: Path, home: Path) -> dict[str, Any]:
    """Transfer `source` to `target` with one step of each stage; return the run's record.

    Raises:
        CheckFailed: the run's record does not say that it trained and ended well.
    """
    from vpgtrans_core.run.pipeline import transfer

    data = home / "data" / "captions.json"
    if not data.is_file():
        save_pictures(data.parent)
    record = transfer(
        registry=registry,
        source=str(source),
        target=str(target),
        data=[str(data)],
        out=str(home / "out"),
        batch_size=CAPTIONS,
        val_images=2,
        stage1_steps=1,
        stage2_steps=1,
        warmup_steps=1,
        workers=0,
        augment=False,
        device="cpu",
        save="vpg",
        cache=str(home / "cache"),
    ).record
    expect(record["status"] == "done", f"the run ended as {record['status']!r}")
    for number, stage in record["stages"].items():
        expect(stage["steps"] == 1 and not stage["bad_steps"], f"stage {number} made no good step: {stage}")
        expect(math.isfinite(stage["held_out_loss"]), f"the held-out loss of stage {number} is not finite: {stage}")
    return record
