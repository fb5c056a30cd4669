"""Initialise the projector: from words, by the paper's merge with a word converter, at random, or as the source has it
where the target is a fine-tune of the source's LLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.models.resolved import ResolvedSource
from vpgtrans_core.settings import Settings
from vpgtrans_core.start.converter import fit_ridge, fit_sgd
from vpgtrans_core.start.pairs import WordPairs, caption_tokens, word_pairs, words_said
from vpgtrans_core.start.probe import START_IMAGES, StartProbe
from vpgtrans_core.start.projector import Linear, merge, random_projector
from vpgtrans_core.start.same_base import NEAR, embedding_distance
from vpgtrans_core.start.words import choose_spread, words_start
from vpgtrans_core.vlm.assemble import SourceWords
from vpgtrans_core.vlm.model import VLModel

SGD_EPOCHS_SAME, SGD_EPOCHS_OTHER = 5, 8
"""The paper's epochs of its word converter within a family and across types."""


@dataclass(frozen=True)
class ProjectorStart:
    """The projector before training: weight ``[D_llm, D]``, bias ``[D_llm]``, and its values for run.json."""

    projector: Linear
    record: dict[str, Any]


def start_projector(
    settings: Settings,
    probe: StartProbe,
    *,
    source: Callable[[], SourceWords],
    captions: Callable[[], Iterable[str]],
    say: Callable[[str], None] = lambda text: None,
) -> ProjectorStart:
    """Initialise the projector.

    Args:
        probe: the model on some training images; used only if needed.
        source: loads the source's words and projector; called only if needed.
        captions: gives training captions, whose words are counted.
        say: is told what is done.
    """
    llm = probe.model.llm
    if settings.start == "random":
        projector = random_projector(probe.model.vpg.output_size, llm.embedding_size, settings.seed)
        return ProjectorStart(projector, {"start": "random"})
    words = source()
    if (kept := _same_base(settings, words, llm)) is not None:
        say("the target is a fine-tune of the source's LLM: the projector starts as the source's own")
        return replace(kept, projector=probe.held(kept.projector))
    texts = list(captions())
    if settings.start == "words":
        started = _from_words(settings, words, texts, probe, say)
    elif settings.converter == "sgd":
        started = _paper(words, llm, texts, settings.seed)
    else:
        started = _merged(settings, words, texts, llm)
    return replace(started, projector=probe.held(started.projector))


def kept_projector(source: ResolvedSource, model: VLModel) -> ProjectorStart:
    """The projector that a model has: it is trained on.

    Raises:
        ModelError: it has none that fits its LLM.
    """
    projector = load(source.vpg_family.adapter).load_projector(source.folder)
    if projector is None or projector[0].shape != model.projector.weight.shape:
        raise ModelError(
            f"{source.name} has no projector that fits its language model",
            "transfer it to an LLM first: `vpgt transfer --from ... --to ...`",
        )
    return ProjectorStart(projector, {"start": "kept"})


def _same_base(settings: Settings, words: SourceWords, llm: LLM) -> ProjectorStart | None:
    """The source's projector as it is, where the target is a fine-tune of the source's LLM; None where it is not, or
    where the settings ask for another start."""
    if not settings.same_base or settings.start != "words" or settings.shuffle_pairs:
        return None
    distance = embedding_distance(
        (words.words.reader.config, llm.model.config.get_text_config()),
        (words.tokenizer.get_vocab(), llm.tokenizer.get_vocab()),
        (words.words, _target_table(llm)),
        _table_sizes(words, llm),
    )
    if distance is None or distance > NEAR:
        return None
    return ProjectorStart(words.projector, {"start": "kept", "same_base": distance})


def _from_words(
    settings: Settings, words: SourceWords, texts: Sequence[str], probe: StartProbe, say: Callable[[str], None]
) -> ProjectorStart:
    """From the words that the source's soft prompts stand for."""
    llm = probe.model.llm
    say(f"start from words: pairing the words of {len(texts):,} captions")
    pairs = _embedded_pairs(words, llm, texts).whole_words()
    say(f"start from words: {len(pairs):,} pairs; computing soft prompts of up to {START_IMAGES:,} images")
    spoken = words_said(pairs, words.tokenizer, llm.tokenizer, probe.captions())
    pairs, record = _shuffled(settings, pairs)  # after matching the captions, so that only the pairing is destroyed
    outputs = probe.outputs().cpu()
    start = words_start(outputs, words.projector, pairs, words.words, _target_table(llm), spoken)
    projector, factor = choose_spread(start.projector, outputs.mean((0, 1)), probe.loss, say=say)
    record |= {"agreement": start.agreement, "words_per_prompt": start.words, "spread": factor}
    return ProjectorStart(projector, record)


def _merged(settings: Settings, words: SourceWords, texts: Sequence[str], llm: LLM) -> ProjectorStart:
    """The word converter in closed form, merged with the source's projector."""
    pairs, record = _shuffled(settings, _embedded_pairs(words, llm, texts))
    converter = fit_ridge(pairs, words.words, _target_table(llm), seed=settings.seed)
    record |= {"held_out_cosine": converter.held_out, "ridge": converter.ridge}
    return ProjectorStart(merge(converter, *words.projector), record)


def _shuffled(settings: Settings, pairs: WordPairs) -> tuple[WordPairs, dict[str, Any]]:
    """The pairs, shuffled if the settings say so, and their values for run.json."""
    if settings.shuffle_pairs:
        pairs = pairs.shuffled(settings.seed)
    return pairs, {"start": settings.start, "pairs": pairs.counts(), "shuffled": settings.shuffle_pairs}


def _paper(words: SourceWords, llm: LLM, captions: Sequence[str], seed: int) -> ProjectorStart:
    """The paper's converter, trained by SGD on the captions' tokens, merged with the source's projector."""
    tokens = caption_tokens(words.tokenizer, llm.tokenizer, captions, _table_sizes(words, llm))
    same = torch.equal(tokens.source, tokens.target)  # tokens that were added and that no caption has change nothing
    everything = torch.arange(_table_sizes(words, llm)[1], device=llm.model.device)
    target = llm.embed(everything).detach().float().cpu()
    converter = fit_sgd(
        tokens, words.words.table(), target, epochs=SGD_EPOCHS_SAME if same else SGD_EPOCHS_OTHER, seed=seed
    )
    record = {"start": "converter", "converter": "sgd", "captions_dropped": tokens.dropped}
    return ProjectorStart(merge(converter, *words.projector), record)


def _embedded_pairs(words: SourceWords, llm: LLM, texts: Sequence[str]) -> WordPairs:
    """The word pairs of the captions whose tokens both LLMs embed."""
    return word_pairs(words.tokenizer, llm.tokenizer, texts).within(*_table_sizes(words, llm))


def _table_sizes(words: SourceWords, llm: LLM) -> tuple[int, int]:
    """Rows of the source's and of the target's embedding table; a tokenizer may have more tokens."""
    table = llm.model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    return len(words.words), len(table)


def _target_table(llm: LLM) -> Callable[[Tensor], Tensor]:
    def rows(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return llm.embed(ids.to(llm.model.device)).float().cpu()

    return rows


def judge_words(words: SourceWords, llm: LLM, captions: Sequence[str], seed: int) -> dict[str, Any]:
    """How well the source's words can be mapped to the target's: the pairs of the captions' words, counted by kind,
    and the cosine of a word converter on pairs that it was not fitted on."""
    pairs = _embedded_pairs(words, llm, captions)
    converter = fit_ridge(pairs, words.words, _target_table(llm), seed=seed)
    return {"pairs": pairs.counts(), "held_out_cosine": converter.held_out}
