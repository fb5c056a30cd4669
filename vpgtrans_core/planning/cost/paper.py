"""What the paper reports of cost (its tables 4 and 5), to set beside what vpgt expects."""

from __future__ import annotations

from dataclasses import dataclass

STAGE1_PAIRS = 1.4e6
"""COCO captions and SBU, one epoch: the data of the projector's warm-up."""
A100_TFLOPS = 312.0


@dataclass(frozen=True)
class PaperRun:
    """One run of the paper.

    Attributes:
        source, target: aliases; source None for BLIP-2's training from scratch.
        pairs: image-text pairs seen in all.
        hours: A100-hours.
    """

    source: str | None
    target: str
    pairs: float
    hours: float

    @property
    def stage1_pairs(self) -> float:
        return STAGE1_PAIRS if self.source else 0.0


OPT_TRANSFER = PaperRun("opt-2.7b", "opt-6.7b", 13.8e6, 59.0)
T5_TRANSFER = PaperRun("flan-t5-xl", "flan-t5-xxl", 5.3e6, 32.4)
OPT_SCRATCH = PaperRun(None, "opt-6.7b", 129e6, 631.5)
T5_SCRATCH = PaperRun(None, "flan-t5-xxl", 121.6e6, 684.0)
RUNS = (OPT_TRANSFER, T5_TRANSFER, OPT_SCRATCH, T5_SCRATCH)


def transfer_like(encoder_decoder: bool) -> PaperRun:
    """The paper's transfer at scale to this kind of LLM: how much data a transfer takes."""
    return T5_TRANSFER if encoder_decoder else OPT_TRANSFER


def scratch_like(encoder_decoder: bool) -> PaperRun:
    """BLIP-2's training from scratch of this kind of LLM: how much data it took."""
    return T5_SCRATCH if encoder_decoder else OPT_SCRATCH
