"""What a pre-training takes, from configs and the list of the data alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vpgtrans_core.planning.cost.assumptions import MFU
from vpgtrans_core.planning.cost.chips import chips
from vpgtrans_core.pretraining.spec import InitSpec, init_spec, with_data
from vpgtrans_core.registry import Registry
from vpgtrans_core.run.feed import TrainingData, open_training_data
from vpgtrans_core.settings import Settings
from vpgtrans_core.settings.initial import InitSettings
from vpgtrans_core.vpg.pretraining import END, Pretraining

TRACED = 2
"""Images that are counted; the rest cost as much each."""
TOKENS_PER_WORD, MARKS = 1.5, 1
"""Tokens of a caption's word where the vocabulary is small, and the one that ends it."""
SHOWN = ("cpu", "a100", "h100")
"""The chips for which the time is said."""


@dataclass(frozen=True)
class InitPlan:
    """The plan of a pre-training.

    Attributes:
        facts: the VPG's sizes, as of `VPG.describe`.
        text_side: parameters that are dropped in the end.
        images, captions, held_out: of the data.
        flops_per_image: in a step, backward pass and text side included; of a given tower without the cache.
        hours: by chip, at the assumed share of its peak.
        file_bytes: of the finished weights.
    """

    spec: InitSpec
    facts: dict[str, Any]
    text_side: int
    images: int
    captions: int
    held_out: int
    flops_per_image: float
    hours: dict[str, float]
    file_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        stage = self.spec.stage
        assert stage is not None
        own = {name: value for name, value in vars(self).items() if name != "spec"}
        batch = self.spec.settings.batch_size
        return {"config": self.spec.config, "steps": stage.steps, "batch_size": batch, "lr": stage.lr, **own}

    def __str__(self) -> str:
        facts, stage, batch = self.facts, self.spec.stage, self.spec.settings.batch_size or 0
        assert stage is not None
        tower = f"of {self.spec.initial.vision}, unchanged" if self.spec.vision else "from nothing"
        epochs = self.spec.steps * batch / self.images
        work = self.flops_per_image * self.spec.steps * batch
        times = ", ".join(f"{_hours(hours)} on {name}" for name, hours in self.hours.items())
        return "\n".join(
            [
                f"VPG      {facts['image_size']} px -> features {tuple(facts['feature_shape'])} -> "
                f"{facts['num_prompts']} soft prompts of {facts['output_size']}",
                f"         {_count(facts['frozen'])} parameters look at the image ({tower}), "
                f"{_count(facts['trained'])} make soft prompts (from nothing)",
                f"         {_count(self.text_side)} more read and write captions, and are dropped in the end",
                f"data     {self.images:,} images, {self.captions:,} captions; {self.held_out:,} images held out",
                f"training {self.spec.steps:,} steps of {batch} images, {epochs:.3g} epochs; learning rate "
                f"{stage.lr:.2g}",
                f"work     {work:.2g} FLOPs, {self.flops_per_image / 1e9:.3g} G an image: about {times} (at {MFU:.0%} "
                "of the peak; small models reach less on a GPU)",
                f"output   {self.spec.settings.out}, {self.file_bytes / 1e6:.1f} MB in {self.spec.initial.save_dtype}",
            ]
        )


def plan_initial(initial: InitSettings, settings: Settings, registry: Registry) -> InitPlan:
    """The plan; opens the data's list, loads no weights and no image.

    Raises:
        VpgtError: as `init_spec`, and DataError.
    """
    spec = init_spec(initial, settings, registry, weights=False)
    data = open_training_data(spec.settings)
    with torch.device("meta"):
        longest = spec.settings.max_tokens + 1
        model: Pretraining = spec.pretraining(
            spec.config, initial.vocabulary, longest, trains_vision=spec.vision is None
        )
        facts = type(model.vpg).describe(spec.config)
        flops = _flops(model, _tokens(data, longest))
        kept = sum(p.numel() for p in model.finished().parameters())
    spec = with_data(spec, data.train, facts["output_size"])
    described = data.describe()
    work = flops * spec.steps * (spec.settings.batch_size or 1)
    table = chips(registry.switches.folder)
    return InitPlan(
        spec=spec,
        facts=facts,
        text_side=sum(p.numel() for p in model.parameters()) - kept,
        images=described["images"],
        captions=described["captions"],
        held_out=data.held_out_images,
        flops_per_image=flops,
        hours={table[name].title: work / (3600 * 1e12 * MFU * table[name].tflops) for name in SHOWN if name in table},
        file_bytes=kept * getattr(torch, initial.save_dtype).itemsize,
    )


def _tokens(data: TrainingData, longest: int) -> int:
    """Tokens of a usual caption, counted on the first ones."""
    words = [
        len(caption.text.split())
        for source, rows in enumerate(data.train.train)
        for row in rows[:100]
        for caption in data.train.sample(source, int(row)).captions[:1]
    ]
    return min(longest, math.ceil(TOKENS_PER_WORD * sum(words) / max(1, len(words))) + MARKS)


def _flops(model: Pretraining, tokens: int) -> float:
    """FLOPs of one image and its caption, forward and backward."""
    size = model.vpg.preprocessing.size
    model.train_only()
    pixels, ids = torch.empty(TRACED, 3, size, size), torch.full((TRACED, tokens), END)
    with FlopCounterMode(display=False) as counter:
        features = model.features(pixels) if model.trains_vision else model.vpg.features(pixels)
        made = model.embed(features, ids)
        loss = model.similarities(made.images, made.texts).sum()
        (loss if made.text_loss is None else loss + made.text_loss).backward()
    return float(counter.get_total_flops()) / TRACED


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(60 * hours))} min"
