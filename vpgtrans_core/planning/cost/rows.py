"""Positions that the LLM computes for a batch, counted on random captions by the code that lays out real ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpgtrans_core.llm.text import Text

SAMPLE_IMAGES = 64
"""Images with random captions: enough for rows to be packed as in training."""
SPREAD = 0.25
"""Standard deviation of a caption's length over its mean; about that of COCO's captions."""
WORDS = 4000
"""Different tokens in the random captions: few captions begin alike by chance."""


@dataclass(frozen=True)
class TextSize:
    """Mean size of the texts: tokens of a caption (start and end token included) and captions of an image."""

    tokens: float
    captions_per_image: float


@dataclass(frozen=True)
class RowSizes:
    """What the LLM computes for one image, on average.

    Attributes:
        captions, labels: captions of the image and their labelled tokens.
        positions, length: positions of the decoder (padding included), and the length of its rows.
        encoder_positions, encoder_length: the same of the encoder; 0 for decoder-only LLMs.
        logits: positions at which the head is computed.
        views: VPG passes: 1, or one a caption in the paper's code.
    """

    captions: float
    labels: float
    positions: float
    length: int
    encoder_positions: float = 0.0
    encoder_length: int = 0
    logits: float = 0.0
    views: float = 1.0

    @property
    def all_positions(self) -> float:
        return self.positions + self.encoder_positions


@lru_cache(maxsize=64)
def row_sizes(
    text: TextSize,
    num_prompts: int,
    width: int,
    *,
    encoder_decoder: bool,
    share: bool,
    max_tokens: int = 32,
    start_first: bool = False,
) -> RowSizes:
    """Lay out random captions as training does and count.

    Args:
        text: the mean size of the texts.
        num_prompts: Q, soft prompts per image.
        width: the LLM's hidden size.
        share: whether rows hold several captions.
        max_tokens: maximum tokens of a caption.
        start_first: whether a decoder-only LLM's start token stands before the image, without a label.
    """
    texts = invented_texts(text, max_tokens, encoder_decoder, start_first)
    captions = sum(map(len, texts)) / len(texts)
    if encoder_decoder:
        from vpgtrans_core.llm.segments import encoder_decoder_rows

        pairs = encoder_decoder_rows(texts, num_prompts, 0, width, share)
        return RowSizes(
            captions=captions,
            labels=pairs.labels / len(texts),
            positions=pairs.decoder_ids.numel() / len(texts),
            length=pairs.decoder_ids.shape[1],
            encoder_positions=pairs.ids.numel() / len(texts),
            encoder_length=pairs.ids.shape[1],
            logits=len(pairs.predictors) / len(texts),
        )
    from vpgtrans_core.llm.rows import decoder_rows

    rows = decoder_rows(texts, num_prompts, width, share)
    return RowSizes(
        captions=captions,
        labels=rows.labels / len(texts),
        positions=rows.positions / len(texts),
        length=rows.ids.shape[1],
        logits=len(rows.predictors) / len(texts),
    )


def paper_rows(text: TextSize, num_prompts: int, *, encoder_decoder: bool) -> RowSizes:
    """What the paper's code computes for one caption: a row of its own, padded to the batch's longest caption, logits
    everywhere, and the VPG once a caption."""
    longest = round(text.tokens * 1.3)  # of 16 to 48 captions in a micro-batch
    if encoder_decoder:
        # The caption is split at random between encoder and decoder, and both are padded.
        half = round(0.9 * longest)
        return RowSizes(1, text.tokens / 2, half, half, num_prompts + half, num_prompts + half, logits=half)
    length = num_prompts + longest
    return RowSizes(1, text.tokens, length, length, logits=length)


def invented_texts(text: TextSize, max_tokens: int, split: bool, start_first: bool = False) -> Sequence[Sequence[Text]]:
    """Captions of `SAMPLE_IMAGES` images, the same at every call; `split` cuts them for an encoder-decoder."""
    from vpgtrans_core.llm.text import Text

    rng = random.Random(0)

    def invented() -> Text:
        length = min(max_tokens, max(2, round(rng.gauss(text.tokens, SPREAD * text.tokens))))
        ids = (0, *(rng.randrange(1, WORDS) for _ in range(length - 1)))
        if not split:
            return Text.of((), ids[1:], before=ids[:1]) if start_first else Text.of((), ids)
        cut = rng.randrange(length - 1)  # prefix language modelling; both parts have an end token
        return Text.of((*ids[:cut], 0), ids[cut:])

    def captions() -> int:
        whole, part = divmod(text.captions_per_image, 1)
        return max(1, int(whole) + (rng.random() < part))

    return [[invented() for _ in range(captions())] for _ in range(SAMPLE_IMAGES)]
