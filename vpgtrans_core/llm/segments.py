"""Rows for encoder-decoder LLMs: what the encoder reads of an image, and what the decoder must say of it.

The encoder reads a text up to its first label. Texts of which it reads the same (most often an image alone) share an
encoder segment. Where the model knows
positions only relative to one another, segments are packed into rows: a row of encoder segments and, beside it, a row
of the decoder texts that belong to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from vpgtrans_core.llm.elements import Line, Tables, images_of_samples, line_of
from vpgtrans_core.llm.loss import NO_LABEL
from vpgtrans_core.llm.packing import balance, sequences_a_row
from vpgtrans_core.llm.rows import TensorRows
from vpgtrans_core.llm.shown import Elements, Images
from vpgtrans_core.llm.sizes import EXACT, Sizes
from vpgtrans_core.llm.text import ImagePlace, Text

T = TypeVar("T")
LONGEST_ROW = 192
"""Encoder rows are not filled beyond this length: a relative bias makes the model hold the scores of every head."""


@dataclass
class EncoderDecoderRows(TensorRows):
    """Packed segments, or padded rows of one segment each.

    Attributes:
        segments: ``[R, L]`` the number of a position's segment in its row; -1 in padding.
        decoder_ids: ``[T, M]`` the decoder's input ids: start token, then the text without its last label.
        decoder_segments: ``[T, M]`` the encoder segment that a decoder position reads.
        decoder_texts: ``[T, M]`` the number of a position's text in its row; -1 in padding.
        encoder_rows: ``[T]`` the encoder row that a decoder row reads.
        predictors: ``[P]`` flat decoder positions whose outputs predict labels; where sizes are rounded, then some
            whose outputs predict none.
        targets: ``[P, 1]`` their labels; `NO_LABEL` for none.
        packed: whether a row may hold several segments.
    """

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


@dataclass
class Segment:
    """What the encoder reads (see `vpgtrans_core.llm.elements`), and the decoder's texts that go with it."""

    read: list[int]
    said: list[Line] = field(default_factory=list)

    @property
    def spoken(self) -> int:
        """Decoder positions."""
        return sum(len(line.elements) for line in self.said)

    def split(self, most: int) -> Iterator[Segment]:
        """Parts with at most `most` decoder positions each (or one text): one large segment would stretch every row."""
        part = Segment(self.read)
        for line in self.said:
            if part.said and part.spoken + len(line.elements) > most:
                yield part
                part = Segment(self.read)
            part.said.append(line)
        yield part


def encoder_decoder_rows(
    texts: Sequence[Sequence[Text]],
    num_prompts: Images,
    start: int,
    width: int,
    packs: bool,
    images: Sequence[int] = (),
    sizes: Sizes = EXACT,
) -> EncoderDecoderRows:
    """Lay out the texts of samples for an encoder-decoder.

    Args:
        texts: the texts of each sample.
        num_prompts: soft prompts an image, Q, or what stands in each image's place.
        start: the decoder's first token.
        width: the LLM's hidden size.
        packs: pack several segments into a row, else one a row.
        images: how many images each sample has; empty for one each.
        sizes: of the rows on both sides, and of what is predicted from.

    Raises:
        ValueError: an image stands after a label.
    """
    segments = _segments(texts, num_prompts, images)
    if packs:
        encoder = _filled(_pack(segments, width, sizes), sizes)
        decoder = [[(n, line) for n, s in enumerate(row) for line in s.said] for row in encoder]
        encoder_rows = list(range(len(encoder)))
    else:
        encoder = _filled([[segment] for segment in segments], sizes)
        decoder = _filled([[(0, line)] for segment in segments for line in segment.said], sizes)
        encoder_rows = [r for r, segment in enumerate(segments) for _ in segment.said]
        encoder_rows += [0] * (len(decoder) - len(encoder_rows))
    tensors = _encoder_tensors(encoder, sizes) | _decoder_tensors(decoder, start, sizes)
    return EncoderDecoderRows(
        labels=sum(len(line.labels) for segment in segments for line in segment.said),
        positions=tensors["ids"].numel() + tensors["decoder_ids"].numel(),
        encoder_rows=torch.tensor(encoder_rows, dtype=torch.long),
        packed=packs,
        **tensors,
    )


def _segments(texts: Sequence[Sequence[Text]], num_prompts: Images, images: Sequence[int]) -> list[Segment]:
    """The different encoder texts in order, each with what follows; texts without a label are left out."""
    segments: dict[tuple[int, ...], Segment] = {}
    shown = Elements(num_prompts)
    for sample, numbers in zip(texts, images_of_samples(len(texts), images), strict=True):
        for text in sample:
            before, after = text.split()
            if any(isinstance(piece, ImagePlace) for piece in after):
                raise ValueError("an image after a label: an encoder-decoder reads its images before it says anything")
            read, line = (line_of(pieces, numbers, shown) for pieces in (before, after))
            if line.labels:
                segment = segments.setdefault(tuple(read.elements), Segment(read.elements))
                segment.said.append(line.up_to_last_label())
    return list(segments.values())


def _filled(rows: list[list[T]], sizes: Sizes) -> list[list[T]]:
    """The rows, and as many empty ones as `sizes` wants."""
    return rows + [[]] * (sizes.count(len(rows)) - len(rows))


def _pack(segments: list[Segment], width: int, sizes: Sizes) -> list[list[Segment]]:
    """Rows of segments whose encoder and decoder parts are both of even length, at the least cost."""
    if not segments:
        return []
    longest_text = max(len(line.elements) for s in segments for line in s.said)

    most = max(round(2 * sum(s.spoken for s in segments) / len(segments)), longest_text)
    parts = [part for segment in segments for part in segment.split(most)]
    lengths = [(len(s.read), s.spoken) for s in parts]

    def rows_of(each: int) -> list[list[Segment]]:
        return [[parts[n] for n in row] for row in balance(lengths, -(-len(parts) // each))]

    def cost(rows: list[list[Segment]]) -> tuple[bool, float]:
        read = sizes.length(max(sum(len(s.read) for s in row) for row in rows))
        spoken = sizes.length(max(sum(s.spoken for s in row) for row in rows))
        # A position costs as much in the decoder as in the encoder, whose keys and values the decoder's blocks compute
        # besides. Relative biases make the scores of a row dear.
        work = sizes.count(len(rows)) * (read * (1 + read / (3 * width)) + spoken * (1 + (read + spoken) / (3 * width)))
        return read > LONGEST_ROW, work

    tried = sequences_a_row(sum(read for read, _ in lengths) / len(lengths), LONGEST_ROW)
    return min(map(rows_of, tried), key=cost)


def _encoder_tensors(rows: list[list[Segment]], sizes: Sizes) -> dict[str, Tensor]:
    """Write each row's segments one after the other; an empty row is one segment of padding, for those who read it."""
    length = sizes.length(max((sum(len(s.read) for s in row) for row in rows), default=0))
    tables = Tables(len(rows), length, elements=0, segments=-1)
    for r, row in enumerate(rows):
        for n, segment in enumerate(row):
            tables.write(r, elements=segment.read, segments=[n] * len(segment.read))
        if not row:
            tables.write(r, segments=[0] * length)
    return {**tables.elements("elements"), "segments": tables.tensor("segments")}


def _decoder_tensors(rows: list[list[tuple[int, Line]]], start: int, sizes: Sizes) -> dict[str, Tensor]:
    """Write each row's texts, given as (segment in the encoder's row, line), one after the other; an empty row is one
    text of padding."""
    length = sizes.length(max((sum(len(line.elements) for _, line in row) for row in rows), default=0))
    tables = Tables(len(rows), length, ids=start, segments=0, texts=-1)
    predictors: list[int] = []
    targets: list[int] = []
    for r, row in enumerate(rows):
        for n, (segment, line) in enumerate(row):
            said = line.elements
            flat = tables.write(r, ids=[start, *said[:-1]], segments=[segment] * len(said), texts=[n] * len(said))
            predictors += [flat + place for place in line.labels]
            targets += [said[place] for place in line.labels]
        if not row:
            tables.write(r, texts=[0] * length)
    nothing = sizes.count(len(predictors)) - len(predictors)
    predictors, targets = predictors + [0] * nothing, targets + [NO_LABEL] * nothing
    return {
        "decoder_ids": tables.tensor("ids"),
        "decoder_segments": tables.tensor("segments"),
        "decoder_texts": tables.tensor("texts"),
        "predictors": torch.tensor(predictors, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long)[:, None],
    }
