"""The costs that the paper reports, for comparison with vpgt's estimates: ``paper.yaml`` holds its runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

WARM_UP_PAIRS = 1.4e6
"""COCO captions and SBU, one epoch: the data of the projector's warm-up."""
A100_TFLOPS = 312.0


@dataclass(frozen=True)
class PaperRun:
    """One run of the paper.

    Attributes:
        target: alias of the LLM.
        pairs: image-text pairs seen in all.
        hours: A100-hours.
        encoder_decoder: the kind of its LLM.
        source: alias; None for BLIP-2's training from scratch.
        vpg: in place of `source`, an alias of a VL-LLM with the VPG's sizes.
    """

    target: str
    pairs: float
    hours: float
    encoder_decoder: bool
    source: str | None = None
    vpg: str | None = None

    def pairs_of(self, trains_vpg: bool) -> float:
        """Pairs of the stages that train the VPG, or of those that train the projector alone."""
        warm_up = WARM_UP_PAIRS if self.source else 0.0
        return self.pairs - warm_up if trains_vpg else warm_up


@cache
def paper_runs() -> tuple[PaperRun, ...]:
    """The paper's runs at scale."""
    text = (resources.files(__package__) / "paper.yaml").read_text(encoding="utf-8")
    return tuple(PaperRun(**values) for values in yaml.safe_load(text))


def transfer_like(encoder_decoder: bool) -> PaperRun:
    """The paper's transfer at scale to this kind of LLM: how much data a transfer takes."""
    return next(run for run in paper_runs() if run.source and run.encoder_decoder == encoder_decoder)


def scratch_like(encoder_decoder: bool) -> PaperRun:
    """BLIP-2's training from scratch of this kind of LLM: how much data it took."""
    return next(run for run in paper_runs() if not run.source and run.encoder_decoder == encoder_decoder)
