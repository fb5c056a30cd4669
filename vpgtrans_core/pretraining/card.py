"""The README.md of a VPG of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpgtrans_core.run.card import CURVE, PAPER, last_part, metadata_block


def write_initial_card(path: Path, name: str, record: dict[str, Any]) -> None:
    """Write the model card of the folder called `name` from the record of its pre-training."""
    vision = record["vision"]
    front = metadata_block([vision.get("licence")], [vision.get("hub_id")], "vpgt", task="image-feature-extraction")
    path.write_text("\n".join([front, _summary(name, record), _use(name), _MADE, _licence(vision)]), encoding="utf-8")


_MADE = """## How it was made
`run.json` holds every setting, seed, version, data hash and time of the run, `metrics.jsonl` every step.
"""


def _summary(name: str, record: dict[str, Any]) -> str:
    facts, data, stage = record["vpg"], record["data"], record["stages"]["1"]
    vision = record["vision"].get("name")
    tower = f"the vision tower of {last_part(vision)}, unchanged" if vision else "made from nothing"
    rows = {
        "frozen part": f"{facts['frozen']:,} parameters, {tower}",
        "trained part": f"{facts['trained']:,} parameters, made from nothing",
        "soft prompts": f"{facts['num_prompts']} of size {facts['output_size']} an image of {facts['image_size']} px",
        "data": f"{data.get('images', 0)} images, {data.get('captions', 0)} captions",
        "pre-training": f"{stage['steps']} steps of {record['settings']['batch_size']} images",
        "held-out loss": "not measured" if stage["held_out_loss"] is None else f"{stage['held_out_loss']:.4f}",
        "found on held-out images": found_text(record.get("found", {})) or "not measured",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# {name}

A visual prompt generator before any language model, pre-trained by vpgt {record["vpgt"]} to tell which caption belongs
to an image{", and to write it" if record["initial"]["text_loss"] else ""}, as in BLIP-2's first stage. It is where
training from scratch begins, whose result is a source for transfers with VPGTrans ({PAPER}).

| | |
|---|---|
{table}

![loss curve]({CURVE})
"""


def found_text(found: dict[str, Any]) -> str:
    """The recalls in words, ``""`` without any."""
    if not found:
        return ""
    among = found["among"]
    return (
        f"the caption of an image among {among}: {found['text_recall_at_1']:.0%} at first, "
        f"{found['text_recall_at_5']:.0%} within five; the image of a caption: {found['image_recall_at_1']:.0%}, "
        f"{found['image_recall_at_5']:.0%}"
    )


def _use(name: str) -> str:
    return f"""## Use
```
vpgt transfer --method scratch --from {name} --to LLM --data CAPTIONS
```
"""


def _licence(vision: dict[str, Any]) -> str:
    if not vision:
        return "## Licence\nThat of the images and captions it was trained on allows what it allows.\n"
    return (
        "## Licence\nThe weights hold the vision tower: its licence applies.\n"
        f"{last_part(vision['name'])}: {vision.get('licence') or 'not known'}.\n"
    )
