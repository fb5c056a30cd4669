"""What the source itself achieves on the held-out captions: the line that a transferred model can hope to reach."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from vpgtrans_core.cards import load
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.llm.empty import empty_model
from vpgtrans_core.machine import Machine
from vpgtrans_core.models.resolved import ResolvedLLM
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.feed import Feed, TrainingData
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import Settings, stage_settings
from vpgtrans_core.sight.cost import measures_source, source_share
from vpgtrans_core.sight.measure import characters, exchanged_loss, text_only_loss, total
from vpgtrans_core.templates import choose_template
from vpgtrans_core.train.step import Stepper
from vpgtrans_core.vlm.assemble import load_llm, load_vpg, micro_positions, projector_module
from vpgtrans_core.vlm.model import VLModel

NOT_OF_METHOD = "scratch"
"""Training from scratch takes nothing from the source, and never loads its VPG."""


def why_not(spec: RunSpec, data: list[TrainingData]) -> str | None:
    """Why the source's own loss is not measured in this run; None if it is."""
    source, settings = spec.source.llm, spec.settings
    if not spec.stages or not data[0].held_out_images:
        return "no images are held out"
    if source is None or source.folder is None:
        return f"{spec.source.name} has no language model"
    if settings.source_loss is False:
        return "--no-source-loss"
    if settings.method == NOT_OF_METHOD:
        return "training from scratch does not use the source"
    if settings.source_loss:
        return None
    if any(_has_own_code(llm) for llm in (source, spec.target)):
        return "the size of an LLM with code of its own is not known before it runs; --source-loss measures it"
    own, target = _parameters(source, settings), _parameters(spec.target, settings)
    held_out = data[0].held_out_images * data[0].held_out.captions_a_visit()
    share = source_share(own, target, held_out, _captions(spec, data))
    if not measures_source(own, target, share):
        size = "larger than" if own > target else "as large as"
        return (
            f"its LLM is {size} the target and would take {share:.2g} of the training's work; --source-loss measures it"
        )
    return None


def measure_source(spec: RunSpec, data: list[TrainingData], machine: Machine) -> dict[str, Any]:
    """The source's losses on the first stage's held-out texts, in nats a character: tokens of two LLMs differ.

    Its LLM is loaded for this alone, before the target. What is frozen goes to the run's cache where there is one.
    Every process must call it.

    Returns:
        ``loss``, ``exchanged`` and ``text_only``; or ``missing``, the reason why there are none.
    """
    if (reason := why_not(spec, data)) is not None:
        return {"missing": reason}
    try:
        return _measure(spec, data[0], machine, spec.stages[0])
    except VpgtError as error:
        return {"missing": error.message}


def _measure(spec: RunSpec, data: TrainingData, machine: Machine, stage: Stage) -> dict[str, Any]:
    source, settings = spec.source, stage_settings(spec.settings, stage)
    assert source.llm is not None
    projector = load(source.vpg_family.adapter).load_projector(source.folder)
    if projector is None:
        return {"missing": f"{source.name} has no projector"}
    vpg = load_vpg(source, machine, lazily=True)
    weight, bias = projector
    llm = load_llm(source.llm, machine, settings)
    template = (
        choose_template(settings.template, llm.tokenizer, source.folder) if stage.texts == "instruction" else None
    )
    model = VLModel(vpg, projector_module(weight, bias, machine.device), llm)
    model.train_only(stage.trains)  # what is kept of the images is then what the stage needs, too
    model.to(machine.device)
    feed = Feed(dataclasses.replace(data, met=[]), settings, model, machine, stage.number, stage, template)
    stepper = Stepper(model, machine.accelerator, micro_positions(machine, llm, settings), machine.autocast)
    held_out = list(feed.held_out())
    long = characters(stepper, held_out)
    right, exchanged = total(stepper, held_out), exchanged_loss(stepper, held_out, machine.accelerator.gather_object)
    alone = text_only_loss(stepper, held_out)
    data.caches.flush()
    del model, stepper, feed
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
    if not long.nats or right.mean is None:
        return {"missing": "the held-out texts have nothing that the source could say"}
    each = long.labels / long.nats  # tokens a character
    values = {"loss": right.mean, "text_only": alone}
    values |= {"own": exchanged.own, "exchanged": exchanged.exchanged} if exchanged else {}
    return {name: value * each for name, value in values.items() if value is not None}


def _has_own_code(llm: ResolvedLLM) -> bool:
    """Whether transformers itself does not know the LLM's type."""
    from transformers import CONFIG_MAPPING

    return llm.config["model_type"] not in CONFIG_MAPPING


def _parameters(llm: ResolvedLLM, settings: Settings) -> float:
    from transformers import AutoConfig

    model = empty_model(AutoConfig.for_model(**llm.config), trust_remote_code=settings.trust_remote_code)
    return float(sum(p.numel() for p in model.parameters()))


def _captions(spec: RunSpec, data: list[TrainingData]) -> float:
    """Captions that all stages train on."""
    captions = 0.0
    for stage, own in zip(spec.stages, data, strict=True):
        settings = stage_settings(spec.settings, stage)
        a_visit = own.train.captions_a_visit(settings.captions_per_image)
        images = min(own.train.images, own.train.images_per_step(settings.batch_size or 1, settings.captions_per_image))
        captions += stage.steps_for(max(1, own.train.images // images)) * images * a_visit
    return captions
