"""A transfer of two steps between tiny models, in the kit's temporary folder, and what its result says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vpgtrans_core.registry import Registry
from vpgtrans_core.testing import kit_vpg
from vpgtrans_core.testing.checks import expect
from vpgtrans_core.testing.opening import Opened, in_new_process
from vpgtrans_core.testing.tiny_models import save_pictures

CAPTIONS = 12
SHORT = {"num_beams": 1, "max_new_tokens": 4, "min_new_tokens": 1}
"""How long the captions are that the kit asks for."""
AGAIN = """
import sys
from vpgtrans_core.testing.opening import open_plugin
from vpgtrans_core.testing.transferring import said_of
print("said:" + said_of(open_plugin({plugin!r}), {folder!r}, {picture!r}))
"""


def transfer_two_steps(registry: Registry, source: str, target: str, home: Path) -> dict[str, Any]:
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
        source=source,
        target=target,
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


def first_picture(home: Path) -> Path:
    """One of the pictures of the transfer in `home`."""
    return home / "data" / "images" / "0.png"


def said_of(opened: Opened, folder: str, picture: str) -> str:
    """The caption of a picture by the model in `folder`, which may have the kit's VPG."""
    from vpgtrans_core.settings import Settings
    from vpgtrans_core.vlm.captioning import caption

    if not any(record.name == "kit_vpg" for record in opened.registry.records):
        opened.registry.add(kit_vpg, "kit_vpg")
    settings = Settings(device="cpu", offline=True)
    return caption(opened.named(folder), [picture], options=SHORT, settings=settings, registry=opened.registry)[0].text


def expect_the_same_again(opened: Opened, home: Path) -> None:
    """Raise `CheckFailed` unless a new process says of a picture, with the result of the transfer in `home`, what this
    one says."""
    asked = str(home / "out"), str(first_picture(home))
    code = AGAIN.format(plugin=opened.anywhere, folder=asked[0], picture=asked[1])
    again = in_new_process(code, home).rpartition("said:")[2]
    mine = said_of(opened, *asked)
    expect(again == mine, f"a new process says {again!r}, this one {mine!r}", "what is read from the folder at loading")
