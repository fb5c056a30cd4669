"""The plan of a run as text: what ``--dry-run`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpgtrans_core.planning.cost.downloads import Download
    from vpgtrans_core.planning.parts import ModelPlan, Plan, StageWork

GROUPS = {"vpg": "VPG (except its frozen part)", "lora": "LoRA in the LLM's attention"}
"""Longer names of groups of parameters."""
START = {
    "kept": "as the model has it",
    "random": "at random",
    "words": "from words",
    "converter": "with the word converter",
}
"""How the projector is initialised, by the setting ``start``."""


def plan_text(plan: Plan) -> str:
    """The plan as lines of a name and a text."""
    vpg = plan.vpg
    lines = {
        "method": f"{plan.method}, projector initialised {START.get(plan.start, plan.start)}",
        "source": plan.source
        + (f" with the LLM {_model(plan.source_llm)}" if plan.source_llm else ", a VPG without LLM"),
        "target": _model(plan.target),
        "VPG": f"{vpg.name} ({vpg.family}): image {vpg.image_size} px -> {shape(vpg.feature_shape)} frozen features "
        f"-> {shape((vpg.num_prompts, vpg.output_size))} outputs; {count(vpg.frozen + vpg.trained)} parameters",
        **({"pictures": plan.too_large} if plan.too_large else {}),
        "converter": f"{shape(plan.converter)} (from the source LLM's word embeddings to the target's)"
        if plan.converter
        else "none",
        "projector": f"{shape(plan.projector)}, {count(vpg.projector_parameters(plan.projector[0]))} parameters",
        "rows": plan.rows,
        "batch": f"{plan.batch_captions} {_learned(plan.stages[0]) if plan.stages else 'captions'}"
        + (f" of {plan.batch_images} images" if plan.batch_images else "")
        + f": {plan.batch_rule}",
        "data": _data(plan),
        **{f"stage {stage.number}": f"{stage.name}: {_stage(stage)}" for stage in plan.stages},
        "source's loss": "not measured"
        if plan.source_share is None
        else f"measured once on the held-out captions, {plan.source_share:.1%} of the training's work",
        "downloads": "; ".join(map(download_text, plan.downloads)) or "none",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def shape(sizes: tuple[int, ...] | None) -> str:
    return f"[{', '.join(map(str, sizes or ()))}]"


def count(number: float) -> str:
    """A count with three significant digits: ``6.66 B``, ``188 M``, ``512``."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            return f"{number / limit:#.3g}".rstrip(".") + f" {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Bytes: ``13.3 GB``, ``98.3 kB``."""
    return count(number).replace("B", "G") + ("B" if number >= 999.5 else " B")


def download_text(download: Download) -> str:
    return f"{download.hub_id} ({'' if download.exact else 'at most '}{size(download.size)})"


def _model(model: ModelPlan | None) -> str:
    if model is None:
        return "none"
    sizes = model.shape
    origin = ", sizes from vpgt's own table" if model.from_card else ""
    return (
        f"{model.name} ({model.family}, {count(sizes.parameters)} parameters, word embeddings "
        f"[{sizes.vocab_size}, {sizes.embedding_size}]{origin})"
    )


def _data(plan: Plan) -> str:
    if plan.data is None:
        return "none given"
    data = plan.data
    return (
        f"{data.images:,} images with {data.captions:,} {_learned(plan.stages[0]) if plan.stages else 'captions'} "
        f"({data.captions_per_image:.2f} per image); "
        f"{data.held_out_images:,} images held out{_described(plan)}"
    )


def _described(plan: Plan) -> str:
    """What the source writes before the training."""
    from vpgtrans_core.planning.cost.teaching import described

    images, each = described(plan)
    if not images:
        return ""
    temperature = plan.settings.caption_temperature
    how = f"sampled at temperature {temperature:g}" if temperature else "of the likeliest words"
    return f"; the source describes {images:,} images, with up to {each} captions each, {how}"


def _learned(stage: StageWork) -> str:
    """What a stage's batch size counts."""
    return "captions" if stage.conversations is None else "answers"


def conversations_text(stage: StageWork) -> str:
    """How long a stage's conversations are, and what of them its limit cuts off."""
    told = stage.conversations
    assert told is not None
    text = f"{stage.batch_captions} answers a step"
    if told.source == "limit":
        return f"{text}; {told.longest} tokens each with its question, the most there may be: no data is given"
    how = "" if told.source == "data" else f", estimated by their words (longest {told.longest})"
    text += f", {told.answers:.2f} an image; conversations of {told.tokens:g} tokens{how}"
    if told.cut:
        text += f"; the limit of {told.longest} cuts off {told.cut:.1%} of the labels, {told.whole} would hold 90 %"
    return text


def _stage(stage: StageWork) -> str:
    epochs = f"{stage.epochs or 0:g} epoch{'' if stage.epochs == 1 else 's'}"
    work = epochs if stage.steps is None else f"{stage.steps:,} steps"
    if stage.images is not None and stage.captions is not None:
        work += f", {stage.images:,} images, {stage.captions:,} {_learned(stage)}"
    if stage.conversations is not None:
        work += f"; {conversations_text(stage)}"
    of_all = f"{count(stage.trained)} of {count(stage.trained + stage.frozen)} parameters"
    trains = " + ".join(GROUPS.get(group, group) for group in stage.trains)
    own = f"; its own data: {', '.join(stage.data)}" if stage.data else ""
    rate = f"{stage.optimizer}, learning rate {stage.rate:g}, {stage.schedule} schedule"
    return f"trains {trains} ({of_all}); {work}; {rate}{own}"
