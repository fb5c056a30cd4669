"""The README.md of a finished model: what it is, how it was made, how to use it, what its run measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpgtrans_core.run.needed import plugins_text, with_classes

HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
"""Licences that the hub knows by these names; any other is ``other`` there, with its own name."""
TAGS = ["vpgtrans", "vpgt", "visual-prompt-generator"]
PAPER = "[arXiv 2305.01278](https://arxiv.org/abs/2305.01278)"
CURVE = "loss.png"
_RECORD = """## How it was made
`run.json` holds every setting, seed, version, data hash and time of the run, `metrics.jsonl` every step.
"""
_PLACE = re.compile(r"(~|/|[A-Za-z]:[\\/]).*[\\/]")


def write_model_card(path: Path, name: str, record: dict[str, Any], *, loading_code: str = "") -> None:
    """Write the model card of the folder called `name` from its run's record (see `run_folder`).

    `loading_code` says how the whole model is loaded by its library (`VPG.loading_code`); empty for a VPG alone. The
    loss curve and the record are named where they are: beside the run's own model, not beside an export of it.
    """
    own = (path.parent / CURVE).exists()
    parts = [
        _front_matter(record, "transformers" if loading_code else "vpgt"),
        _summary(record),
        f"![loss curve]({CURVE})\n" if own else "",
        _use(name, loading_code, record.get("needs", [])),
        _RECORD if own else "",
        _licences(record),
    ]
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def plain_model_card(
    name: str, config: dict[str, Any], references: dict[str, Any], needs: Sequence[Mapping[str, str]] = ()
) -> str:
    """The model card of a folder without a run's record: an import, or an export of a model from elsewhere.

    Args:
        name: the model's name.
        config: its ``config.json``.
        references: what it says of the LLM (``"llm"``) and the ViT (``"vit"``) it was made of, if anything.
        needs: the plugins that it needs, see `needed_plugins`.
    """
    whole = bool(config.get("architectures"))
    known = {key: value for key in ("llm", "vit") if isinstance(value := references.get(key), dict)}
    text = config.get("text_config") or {}
    llm = last_part(known.get("llm", {}).get("name") or text.get("_name_or_path") or text.get("model_type") or "")
    front = metadata_block(
        licences=[None],
        base_models=[reference.get("id") for reference in known.values()],
        library="transformers" if whole else "vpgt",
    )
    what = f"A visual prompt generator and its projector for the language model {llm}" if llm else "A VL-LLM's VPG"
    if whole:
        what = f"The language model {llm or 'inside'} with a visual prompt generator, which lets it see images"
    body = f"# {name.rpartition('/')[2]}\n\n{what}. Written by vpgt, for transfers with VPGTrans ({PAPER}).\n"
    licence = (
        "## Licence\nThe weights combine those of the VPG and of the language model: the licences of both apply.\n"
    )
    return "\n".join([front, body, _use(name, "", needs), licence])


def _front_matter(record: dict[str, Any], library: str) -> str:
    models = [record["target"], record["source"]]
    return metadata_block([m.get("licence") for m in models], [m.get("hub_id") for m in models], library)


def metadata_block(
    licences: list[str | None], base_models: list[str | None], library: str, task: str = "image-text-to-text"
) -> str:
    """The block in front of a card by which the hub sorts models.

    The licence is one that the hub knows only where all parts have the same one.
    """
    from huggingface_hub import ModelCardData

    names = {(licence or "").lower() for licence in licences}
    known = len(names) == 1 and names <= set(HUB_LICENCES)
    named = [model for model in dict.fromkeys(base_models) if model]
    data = ModelCardData(
        license=names.pop() if known else "other",
        license_name=None if known else "see-model-card",
        base_model=named or None,
        library_name=library,
        pipeline_tag=task,
        tags=list(TAGS),
    )
    return f"---\n{data.to_yaml()}\n---"


def _summary(record: dict[str, Any]) -> str:
    target, source = last_part(record["target"]["name"]), last_part(record["source"]["name"])
    data, stages = record["data"], record.get("stages", {})
    titles = {n: f"stage {n} ({s['name']})" if s.get("name") else f"stage {n}" for n, s in stages.items()}
    losses = [
        f"{s['held_out_loss']:.4f} after stage {n}" for n, s in stages.items() if s.get("held_out_loss") is not None
    ]
    what = f"{target} with eyes: the visual prompt generator of {source}, transferred to it with VPGTrans"
    title = f"{target} + {source}"
    if record["settings"]["method"] == "tune":
        title, what = f"{source}, tuned", f"{source}, its visual prompt generator tuned on conversations as in VPGTrans"
    template = f"\n| chat template | {record['template']} |" if record.get("template") else ""
    return f"""# {title}

{what}
({PAPER}) by vpgt {record["vpgt"]}. {_language_model(record)}

| | |
|---|---|
| source | {source} |
| language model | {target} |
| method | {record["settings"]["method"]} |{template}
| data | {data.get("images", 0)} images, {data.get("captions", 0)} captions |
{_captions(record)}| stages | {"; ".join(f"{titles[n]}: {s['steps']} steps" for n, s in stages.items()) or "none"} |
| held-out loss | {"; ".join(losses) or "not measured"} |
{_sight(record.get("verdict", {}))}"""


def _language_model(record: dict[str, Any]) -> str:
    """What the run did to the language model."""
    if not (lora := record.get("lora")):
        return "The language model is unchanged."
    what = f"LoRA of rank {lora['rank']} changed the language model's attention"
    merged = "it is merged into the weights here" if lora["merged"] else "the folder `adapter` holds it, for PEFT"
    return f"{what}; {merged}."


def _sight(verdict: dict[str, Any]) -> str:
    """What the model sees, as a row of the table, and what is wrong with it."""
    sentence = verdict.get("sentence", "").removeprefix("sees: ")
    row = f"| sees (what exchanged pictures add to the held-out loss) | {sentence or 'not measured'} |\n"
    problems = "".join(f"- {problem['text']}\n" for problem in verdict.get("problems", []))
    return row + (f"\n**Beware of this model:**\n\n{problems}" if problems else "")


def _captions(record: dict[str, Any]) -> str:
    """A line on captions that the source wrote, if it wrote any."""
    told = record.get("captions")
    if not told:
        return ""
    dropped = sum(told["dropped"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in told["dropped"].items())
    text = (
        f"written by {last_part(told['by'])} itself for {told['described']} images without captions, at temperature "
        f"{told['temperature']:g}; {dropped} of {told['sampled']} dropped" + (f" ({kinds})" if kinds else "")
    )
    return f"| captions | {text} |\n"


def _use(name: str, loading_code: str, needs: Sequence[Mapping[str, str]]) -> str:
    """How the model is used, and the plugins that this takes."""
    code = with_classes(needs, loading_code.format(folder=name))
    python = f"```python\n{code}```\n" if code else ""
    return f"## Use\n{plugins_text(needs, bool(code))}```\nvpgt caption {name} picture.png\n```\n{python}"


def _licences(record: dict[str, Any]) -> str:
    parts = [f"{last_part(m['name'])}: {m.get('licence') or 'not known'}" for m in (record["source"], record["target"])]
    return f"""## Licence
The weights combine those of the source and of the language model: the licences of both apply.
{"; ".join(parts)}.
"""


def last_part(name: str) -> str:
    """A model's name for other users: for a folder on this machine only its last part."""
    return Path(name).name if _PLACE.match(name) else name
