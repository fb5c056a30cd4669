"""Which projector stage 1 begins with: from words, by the paper's merge, or at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.settings import Settings
from vpgtrans_core.start.converter import fit_ridge, fit_sgd
from vpgtrans_core.start.pairs import caption_tokens, word_pairs, words_said
from vpgtrans_core.start.projector import Linear, merge, random_projector
from vpgtrans_core.start.words import choose_spread, words_start
from vpgtrans_core.vlm.assemble import SourceWords

SGD_EPOCHS_SAME, SGD_EPOCHS_OTHER = 5, 8
"""The paper's epochs of its word converter within a family and across types."""


@dataclass(frozen=True)
class ProjectorStart:
    """The projector before training: weight ``[D_llm, D]``, bias ``[D_llm]``, and what is worth recording of it."""

    projector: Linear
    record: dict[str, Any]


def start_projector(
    settings: Settings,
    output_size: int,
    llm: LLM,
    source: Callable[[], SourceWords],
    captions: Callable[[], Iterable[str]],
    outputs: Callable[[], Tensor],
    said: Callable[[], Sequence[Sequence[str]]],
    loss: Callable[[Tensor, Tensor], float],
) -> ProjectorStart:
    """Make the projector that training begins with.

    Args:
        output_size: D, the width of the VPG's output.
        source: gives the source's words and projector; called only where they are needed.
        captions: gives training captions, whose words count.
        outputs: gives the VPG's outputs ``[n, Q, D]`` of some training images.
        said: gives the captions of each of those images.
        loss: from weight and bias to the LLM's loss on some training images.
    """
    if settings.start == "random":
        projector = random_projector(output_size, llm.embedding_size, settings.seed)
        return ProjectorStart(projector, {"start": "random"})
    words = source()
    texts = list(captions())
    if settings.start == "converter" and settings.converter == "sgd":
        return _paper(words, llm, texts, settings.seed)
    pairs, spoken = word_pairs(words.tokenizer, llm.tokenizer, texts), None
    if settings.start == "words":
        pairs = pairs.whole_words()
        spoken = words_said(pairs, words.tokenizer, llm.tokenizer, said())
    if settings.shuffle_pairs:  # after the captions were matched: nothing but the pairing is destroyed
        pairs = pairs.shuffled(settings.seed)
    record: dict[str, Any] = {"start": settings.start, "pairs": pairs.counts(), "shuffled": settings.shuffle_pairs}
    table = _target_table(llm)
    if settings.start == "converter":
        converter = fit_ridge(pairs, words.words, table, seed=settings.seed)
        record |= {"held_out_cosine": converter.held_out, "ridge": converter.ridge}
        return ProjectorStart(merge(converter, *words.projector), record)
    seen = outputs().cpu()
    begun = words_start(seen, words.projector, pairs, words.words, table, spoken)
    projector, factor = choose_spread(begun.projector, seen.mean((0, 1)), loss)
    record |= {"agreement": begun.agreement, "words_per_prompt": begun.words, "spread": factor}
    return ProjectorStart(projector, record)


def _paper(words: SourceWords, llm: LLM, captions: Sequence[str], seed: int) -> ProjectorStart:
    """The paper's converter, trained by SGD on the captions' tokens, merged with the source's projector."""
    same = words.tokenizer.get_vocab() == llm.tokenizer.get_vocab()
    tokens = caption_tokens(words.tokenizer, llm.tokenizer, captions)
    everything = torch.arange(len(llm.tokenizer), device=llm.model.device)
    target = llm.embed(everything).detach().float().cpu()
    converter = fit_sgd(
        tokens, words.words.table(), target, epochs=SGD_EPOCHS_SAME if same else SGD_EPOCHS_OTHER, seed=seed
    )
    record = {"start": "converter", "converter": "sgd", "captions_dropped": tokens.dropped}
    return ProjectorStart(merge(converter, *words.projector), record)


def _target_table(llm: LLM) -> Callable[[Tensor], Tensor]:
    def rows(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return llm.embed(ids.to(llm.model.device)).float().cpu()

    return rows
