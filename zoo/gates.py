"""Text-only gates: what an LLM must know of the world's language before it is shown pictures."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from vpgtrans_core.miniature.language import Document, Question, Words, caption, notes, questions
from vpgtrans_core.miniature.world import Scene, sample
from zoo.llms import collate, encoder_inputs
from zoo.reading import EncoderDecoderReader, Reader, Row, pad
from zoo.score import read, truth

LONGEST = 32
"""Most tokens of a generated caption."""


@torch.no_grad()
def gates(model: PreTrainedModel, reader: Reader, scenes: int, seed: int) -> dict[str, float]:
    """Shares of right answers by kind of question, of exact paraphrases and of exact captions from notes.

    Half of the scenes of the questions have two things and nothing is drawn: contexts are captions.
    """
    rng = random.Random(seed)
    found = [sample(rng) for _ in range(scenes)]
    result = _answers(model, reader, [(caption(s, rng), q) for s in found for q in questions(s, rng)])
    for name, describe in (("paraphrase", caption), ("notes", notes)):
        told = generate(model, reader, [describe(s, rng) for s in found])
        result[name] = sum(map(_exact, told, found)) / scenes
    return {name: round(value, 4) for name, value in result.items()}


def _exact(told: str, scene: Scene) -> bool:
    return read(told) == truth(scene)


def _answers(model: PreTrainedModel, reader: Reader, asked: Sequence[tuple[Words, Question]]) -> dict[str, float]:
    """An answer is right when each of its tokens is the likeliest: greedy decoding would give just it."""
    right, count = defaultdict[str, float](float), defaultdict[str, int](int)
    rng = random.Random(0)
    for i in range(0, len(asked), 256):
        part = asked[i : i + 256]
        batch = collate([reader.read(Document(c, asked=[q]), rng) for c, q in part], _start(model))
        hits = model(**batch.inputs, use_cache=False).logits.argmax(-1) == batch.targets
        judged = batch.weights == reader.weights["answer"]
        for (_, question), good in zip(part, (hits | ~judged).all(-1).tolist(), strict=True):
            right[question.kind] += good
            count[question.kind] += 1
    return {kind: right[kind] / count[kind] for kind in sorted(count)}


def _start(model: PreTrainedModel) -> int | None:
    return getattr(model.config, "decoder_start_token_id", None)


def generate(model: PreTrainedModel, reader: Reader, contexts: Sequence[Words]) -> list[str]:
    """Greedy captions after contexts, computed anew for each token: slow, short and the same for every family."""
    rows = [_context(reader, words) for words in contexts]
    if isinstance(reader, EncoderDecoderReader):
        encoder = encoder_inputs(rows)
        said = [[_start(model) or 0] for _ in rows]
        _extend(model, said, encoder, reader.tokenizer.eos_token_id)
        return [str(reader.tokenizer.decode(row[1:], skip_special_tokens=True)) for row in said]
    said = [list(row) for row in rows]
    _extend(model, said, None, reader.newline[-1])
    return [
        str(reader.tokenizer.decode(row[len(before) :], skip_special_tokens=True))
        for row, before in zip(said, rows, strict=True)
    ]


def _context(reader: Reader, words: Words) -> list[int]:
    row = Row()
    reader.context(row, words, 0.0)
    tokenizer = reader.tokenizer
    return [*row.ids, tokenizer.eos_token_id if isinstance(reader, EncoderDecoderReader) else tokenizer.bos_token_id]


def _extend(model: PreTrainedModel, rows: list[list[int]], encoder: dict[str, torch.Tensor] | None, end: int) -> None:
    """Add the likeliest tokens to every row until all have said `end` or are too long."""
    name = "input_ids" if encoder is None else "decoder_input_ids"
    open_rows = set(range(len(rows)))
    for _ in range(LONGEST):
        ids = pad(rows, 0, torch.long)
        last = torch.tensor([len(row) - 1 for row in rows])
        logits = model(**{**(encoder or {}), name: ids}, use_cache=False).logits
        tokens = logits[torch.arange(len(rows)), last].argmax(-1).tolist()
        for i in sorted(open_rows):
            if tokens[i] == end:
                open_rows.discard(i)
            else:
                rows[i].append(tokens[i])
        if not open_rows:
            return
