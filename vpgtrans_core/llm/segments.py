"""Rows for encoder-decoder LLMs: what the encoder reads of an image, and what the decoder must say of it.

Texts of one image with the same encoder text (most often an empty one) share its encoder segment. Where the model knows
positions only relative to one another, segments are packed into rows: a row of encoder segments and, beside it, a row
of the decoder texts that belong to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vpgtrans_core.llm.packing import balance, sequences_a_row
from vpgtrans_core.llm.rows import TensorRows
from vpgtrans_core.llm.text import Text

LONGEST_ROW = 192
"""Encoder rows are not filled beyond this length: a relative bias makes the model hold the scores of every head."""


@dataclass
class EncoderDecoderRows(TensorRows):
    """Packed segments, or padded rows of one segment each.

    Attributes:
        ids: ``[R, L]`` the encoder's token ids; 0 under soft prompts and padding.
        prompt_slots, prompt_sources: ``[S]`` flat position of each soft prompt, and which one: ``image * Q + q``.
        segments: ``[R, L]`` the number of a position's segment in its row; -1 in padding.
        decoder_ids: ``[T, M]`` the decoder's input ids: start token, then the text without its last token.
        decoder_segments: ``[T, M]`` the encoder segment that a decoder position reads.
        decoder_texts: ``[T, M]`` the number of a position's text in its row; -1 in padding.
        encoder_rows: ``[T]`` the encoder row that a decoder row reads.
        predictors: ``[P]`` flat decoder positions whose outputs predict labels.
        targets: ``[P, 1]`` their labels.
        packed: whether a row may hold several segments.
    """

    ids: Tensor
    prompt_slots: Tensor
    prompt_sources: Tensor
    segments: Tensor
    decoder_ids: Tensor
    decoder_segments: Tensor
    decoder_texts: Tensor
    encoder_rows: Tensor
    predictors: Tensor
    targets: Tensor
    packed: bool

    def encoder_mask(self) -> Tensor:
        """``[R, 1, L, L]`` bool: a segment sees itself alone."""
        return (self.segments[:, :, None] == self.segments[:, None, :])[:, None]

    def decoder_mask(self) -> Tensor:
        """``[T, 1, M, M]`` bool: a text sees its own past."""
        place = torch.arange(self.decoder_ids.shape[1], device=self.decoder_ids.device)
        same = self.decoder_texts[:, :, None] == self.decoder_texts[:, None, :]
        return (same & (place[:, None] >= place[None, :]))[:, None]

    def cross_mask(self) -> Tensor:
        """``[T, 1, M, L]`` bool: a text reads its own encoder segment; padding reads the row's first."""
        encoder = self.segments[self.encoder_rows]
        return (self.decoder_segments[:, :, None] == encoder[:, None, :])[:, None]

    def inputs(self, embeddings: Tensor, soft_prompts: Tensor) -> Tensor:
        """Put soft prompts ``[I, Q, D]`` at their places among the encoder's word embeddings ``[R, L, D]``."""
        prompts = soft_prompts.flatten(0, 1)[self.prompt_sources].to(embeddings.dtype)
        return embeddings.flatten(0, 1).index_copy(0, self.prompt_slots, prompts).view_as(embeddings)


@dataclass
class Segment:
    """One encoder text of one image and the decoder texts that go with it."""

    image: int
    context: tuple[int, ...]
    targets: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def spoken(self) -> int:
        """Decoder positions."""
        return sum(map(len, self.targets))

    def split(self, most: int) -> Iterator[Segment]:
        """Parts with at most `most` decoder positions each (or one text): one large segment would stretch every row."""
        part = Segment(self.image, self.context)
        for target in self.targets:
            if part.targets and part.spoken + len(target) > most:
                yield part
                part = Segment(self.image, self.context)
            part.targets.append(target)
        yield part


def encoder_decoder_rows(
    texts: Sequence[Sequence[Text]], num_prompts: int, start: int, width: int, packs: bool
) -> EncoderDecoderRows:
    """Lay out the texts of I images for an LLM of hidden size `width` whose decoder begins with the token `start`."""
    segments: dict[tuple[int, tuple[int, ...]], Segment] = {}
    for image, group in enumerate(texts):
        for text in group:
            key = image, text.context
            segments.setdefault(key, Segment(*key)).targets.append(text.target)
    found = list(segments.values())
    if packs:
        encoder = _pack(found, num_prompts, width)
        decoder = [[(n, t) for n, s in enumerate(row) for t in s.targets] for row in encoder]
        encoder_rows = list(range(len(encoder)))
    else:
        encoder = [[segment] for segment in found]
        decoder = [[(0, target)] for segment in found for target in segment.targets]
        encoder_rows = [r for r, segment in enumerate(found) for _ in segment.targets]
    tensors = _encoder_tensors(encoder, num_prompts) | _decoder_tensors(decoder, start)
    return EncoderDecoderRows(
        labels=sum(s.spoken for s in found),
        positions=tensors["ids"].numel() + tensors["decoder_ids"].numel(),
        encoder_rows=torch.tensor(encoder_rows),
        packed=packs,
        **tensors,
    )


def _pack(segments: list[Segment], num_prompts: int, width: int) -> list[list[Segment]]:
    """Rows of segments whose encoder and decoder parts are both of even length, at the least cost."""
    if not segments:
        return []
    longest_text = max(len(t) for s in segments for t in s.targets)

    most = max(round(2 * sum(s.spoken for s in segments) / len(segments)), longest_text)
    parts = [part for segment in segments for part in segment.split(most)]
    sizes = [(num_prompts + len(s.context), s.spoken) for s in parts]

    def rows_of(each: int) -> list[list[Segment]]:
        return [[parts[n] for n in row] for row in balance(sizes, -(-len(parts) // each))]

    def cost(rows: list[list[Segment]]) -> tuple[bool, float]:
        read = max(sum(num_prompts + len(s.context) for s in row) for row in rows)
        spoken = max(sum(s.spoken for s in row) for row in rows)
        # A position costs as much in the decoder as in the encoder, whose keys and values the decoder's blocks compute
        # besides. Relative biases make the scores of a row dear.
        work = len(rows) * (read * (1 + read / (3 * width)) + spoken * (1 + (read + spoken) / (3 * width)))
        return read > LONGEST_ROW, work

    tried = sequences_a_row(sum(read for read, _ in sizes) / len(sizes), LONGEST_ROW)
    return min(map(rows_of, tried), key=cost)


def _encoder_tensors(rows: list[list[Segment]], num_prompts: int) -> dict[str, Any]:
    """Write each row's segments one after the other: soft prompts, then text."""
    length = max((sum(num_prompts + len(s.context) for s in row) for row in rows), default=0)
    ids = [[0] * length for _ in rows]
    numbers = [[-1] * length for _ in rows]
    slots: list[int] = []
    sources: list[int] = []
    for r, row in enumerate(rows):
        used = 0
        for n, segment in enumerate(row):
            end = used + num_prompts + len(segment.context)
            ids[r][used + num_prompts : end] = segment.context
            numbers[r][used:end] = [n] * (end - used)
            slots += range(r * length + used, r * length + used + num_prompts)
            sources += range(segment.image * num_prompts, (segment.image + 1) * num_prompts)
            used = end
    return {
        "ids": torch.tensor(ids),
        "segments": torch.tensor(numbers),
        "prompt_slots": torch.tensor(slots),
        "prompt_sources": torch.tensor(sources),
    }


def _decoder_tensors(rows: list[list[tuple[int, tuple[int, ...]]]], start: int) -> dict[str, Any]:
    """Write each row's texts, given as (segment in the encoder's row, target), one after the other."""
    length = max((sum(len(target) for _, target in row) for row in rows), default=0)
    ids = [[start] * length for _ in rows]
    segments = [[0] * length for _ in rows]
    numbers = [[-1] * length for _ in rows]
    predictors: list[int] = []
    targets: list[int] = []
    for r, row in enumerate(rows):
        used = 0
        for n, (segment, target) in enumerate(row):
            end = used + len(target)
            ids[r][used:end] = (start, *target[:-1])
            segments[r][used:end] = [segment] * len(target)
            numbers[r][used:end] = [n] * len(target)
            predictors += range(r * length + used, r * length + end)
            targets += target
            used = end
    return {
        "decoder_ids": torch.tensor(ids),
        "decoder_segments": torch.tensor(segments),
        "decoder_texts": torch.tensor(numbers),
        "predictors": torch.tensor(predictors),
        "targets": torch.tensor(targets, dtype=torch.long)[:, None],
    }
