"""What a stage of conversations learns of an image, from a sample of its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.settings import stage_settings

if TYPE_CHECKING:
    from vpgtrans_core.data.data import Data
    from vpgtrans_core.llm.text import Text
    from vpgtrans_core.run.feed import TrainingData
    from vpgtrans_core.run.spec import RunSpec

SAMPLED = 1000
"""Images of a source whose texts are read."""
TOKENS_PER_WORD = 1.1
"""Tokens per word, for data whose tokenizer is not available; start and end token are added."""
WHOLE = 0.9
"""The share of the conversations that `Conversations.whole` holds."""


@dataclass(frozen=True)
class Conversations:
    """What one image of a stage brings, on average.

    Attributes:
        tokens: of a conversation as it is read: in its template, and cut at the stage's limit.
        texts: conversations of an image.
        answers: answers of an image; the batch size counts them.
        longest: the stage's limit of length.
        source: where `tokens` comes from: ``data``, read by the LLM's tokenizer; ``words`` of the data, where the
            tokenizer is not at hand; or the ``limit``, where no data is given.
        whole: the limit that would hold 90 % of the conversations; None where the tokenizer is not at hand.
        cut: the share of the labels that the limit cuts off; None alike.
    """

    tokens: float
    texts: float
    answers: float
    longest: int
    source: Literal["data", "words", "limit"]
    whole: int | None = None
    cut: float | None = None


def conversations_of(spec: RunSpec, stage: Stage, data: TrainingData | None) -> Conversations | None:
    """What a stage's images bring; None for a stage of captions.

    Raises:
        ModelError: the stage's template cannot be used.
    """
    if stage.texts != "instruction":
        return None
    from vpgtrans_core.run.lengths import Lengths

    settings = stage_settings(spec.settings, stage)
    if data is None:
        return Conversations(settings.max_tokens, 1.0, 1.0, settings.max_tokens, "limit")
    answers = data.train.captions_a_visit(settings.captions_per_image)
    texts = _mean(_texts_of(data.train, settings.captions_per_image))
    read = _read(spec, stage, data.train)
    if read is None:
        words = _mean(_words(data.train))
        tokens = min(2 + TOKENS_PER_WORD * words, float(settings.max_tokens))
        return Conversations(round(tokens, 1), texts, answers, settings.max_tokens, "words")
    lengths = Lengths()
    lengths.count(read)
    tokens = _mean(text.tokens for text in read)
    whole, cut = lengths.length_for(WHOLE), round(lengths.share, 4)
    return Conversations(round(tokens, 1), texts, answers, settings.max_tokens, "data", whole, cut)


def _read(spec: RunSpec, stage: Stage, data: Data) -> list[Text] | None:
    """A sample of the texts, made as training makes them; None without the LLM's tokenizer."""
    from vpgtrans_core.data.loader import ReadOptions, StepReader
    from vpgtrans_core.data.order import Draw
    from vpgtrans_core.data.preprocessing import Preprocessing
    from vpgtrans_core.llm.loading import load_tokenizer
    from vpgtrans_core.run.chatting import stage_template

    llm = spec.target
    if llm.folder is None:
        return None
    try:
        tokenizer = load_tokenizer(llm.folder, spec.settings.trust_remote_code)
    except ModelError:  # a folder of configs alone
        return None
    settings = stage_settings(spec.settings, stage)
    options = ReadOptions(
        Preprocessing(1),
        settings.max_tokens,
        settings.seed,
        settings.captions_per_image,
        texts=stage.texts,
        template=stage_template(spec, stage, tokenizer),
        instructions=stage.instructions,
    )
    reader = StepReader(data, load(llm.family.adapter).text_encoder_of(tokenizer, llm.family), options)
    return [text for source, row in _sampled(data) for text in reader.texts(Draw(source, row, 0))]


def _words(data: Data) -> Iterator[int]:
    """The words of each sampled conversation."""
    for source, row in _sampled(data):
        for talk in data.sample(source, row).conversations():
            yield sum(len(part.split()) for turn in talk.turns for part in turn.content if isinstance(part, str))


def _texts_of(data: Data, captions_per_image: int | None) -> Iterator[int]:
    for source, row in _sampled(data):
        count = len(data.sample(source, row).texts)
        yield min(count, captions_per_image or count)


def _sampled(data: Data) -> Iterator[tuple[int, int]]:
    """Source and row of images spread over each source."""
    for source, rows in enumerate(data.train):
        for row in rows[:: max(1, len(rows) // SAMPLED)]:
            yield source, int(row)


def _mean(numbers: Iterable[int]) -> float:
    counted = list(numbers)
    return sum(counted) / max(1, len(counted))
