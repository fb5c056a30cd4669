"""The README.md of a finished model: what it is, where it comes from, how to use it, what its run measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CARD = """---
license: {licence}
library_name: {library}
pipeline_tag: image-text-to-text
tags: [vpgtrans, vpgt, visual-prompt-generator]
---
# {title}

{target} that sees: the visual prompt generator of {source}, transferred with VPGTrans
([arXiv 2305.01278](https://arxiv.org/abs/2305.01278)) by vpgt {version}. The language model is unchanged.

| | |
|---|---|
| source | {source} |
| language model | {target} |
| method | {method} |
| data | {data} |
| stages | {stages} |
| held-out loss | {losses} |

![loss curve](loss.png)

## Use
```
vpgt caption {folder} picture.png
```
{use}
## How it was made
`run.json` holds every setting, seed, version, data hash and time of the run, `metrics.jsonl` every step.

The weights combine those of the source and of the language model: the licences of both apply.
"""


def write_model_card(path: Path, name: str, record: dict[str, Any], *, loading_code: str = "") -> None:
    """Write the model card of the folder called `name` from its run's record (see `run_folder`).

    `loading_code` says how the whole model is loaded by its library (`VPG.loading_code`); empty for a VPG alone.
    """
    stages = record.get("stages", {})
    target, source = record["target"], record["source"]
    data = record["data"]
    text = _CARD.format(
        licence=target.get("licence") or "other",
        library="transformers" if loading_code else "vpgt",
        title=f"{target['name']} + {source['name']}",
        target=target["name"],
        source=source["name"],
        version=record["vpgt"],
        method=record["settings"]["method"],
        data=f"{data.get('images', 0)} images, {data.get('captions', 0)} captions",
        stages="; ".join(f"stage {n}: {s['steps']} steps" for n, s in stages.items()) or "none",
        losses="; ".join(
            f"{s['held_out_loss']:.4f} after stage {n}" for n, s in stages.items() if s.get("held_out_loss") is not None
        )
        or "not measured",
        folder=name,
        use=f"```python\n{loading_code.format(folder=name)}```\n" if loading_code else "",
    )
    path.write_text(text, encoding="utf-8")
