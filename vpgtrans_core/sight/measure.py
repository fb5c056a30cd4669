"""The loss of held-out texts with their own pictures, with exchanged ones, and without any.

The frozen parts are not computed again: exchanging pictures only gives the VPG's outputs of one to the texts of
another. All processes take part, and however many they are the pairs are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vpgtrans_core.data.sample import View
from vpgtrans_core.data.tiles import Visual, joined
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.llm.text import Piece, Text, Tokens
from vpgtrans_core.sight.exchange import group_of, partners
from vpgtrans_core.train.step import Batch, Stepper

Gather = Callable[[list[Any]], list[Any]]


@dataclass(frozen=True)
class Sums:
    """Nats and labels of some texts, over all processes."""

    nats: float
    labels: int

    @property
    def mean(self) -> float | None:
        return self.nats / self.labels if self.labels else None


@dataclass(frozen=True)
class Exchanged:
    """The losses of the same texts with their own and with exchanged pictures, nats a token.

    Attributes:
        samples: how many had a partner; the others, whose captions most of the set shares, count in neither.
    """

    own: float
    exchanged: float
    samples: int


def exchanged_loss(stepper: Stepper, held_out: Iterable[Batch], gather: Gather) -> Exchanged | None:
    """The loss with each sample's images exchanged for another one's with other captions.

    Every process must call it. Returns None where no sample has a partner.

    Args:
        held_out: the batches of this process.
        gather: gives the items of all processes.
    """
    stepper.model.eval()
    batches = [stepper.with_outputs(batch) for batch in held_out]
    samples = {key: value for part in gather([_samples(batches)]) for key, value in part.items()}
    keys = sorted(samples)  # alike in every process
    pairs = partners([samples[key][0] for key in keys])
    chosen = {key: samples[keys[other]][1] for key, other in zip(keys, pairs, strict=True) if other is not None}
    own = [part for batch in batches if (part := _with_partner(batch, set(chosen))) is not None]
    given = [_with(batch, chosen) for batch in own]
    right, wrong = total(stepper, own), total(stepper, given)
    if right.mean is None or wrong.mean is None:
        return None
    return Exchanged(right.mean, wrong.mean, len(chosen))


def text_only_loss(stepper: Stepper, held_out: Iterable[Batch]) -> float | None:
    """The loss of the texts without pictures: no soft prompts stand in the LLM's input. Every process must call it.

    The mean is over the labels that the texts have with pictures. A start token, which nothing then predicts, costs
    nothing; an LLM without one reads its tokenizer's BOS or end token first.
    """
    stepper.model.eval()
    llm, nothing = stepper.model.llm, stepper.model.vpg
    nats, labels = 0.0, 0
    for batch in stepper.even(held_out):
        visual = torch.zeros(0, nothing.num_prompts, nothing.output_size)
        texts = [[without_images(text, llm) for text in sample] for sample in batch.texts]
        nats += stepper.loss_sum(Batch(visual, "outputs", texts, images=[0] * len(texts)))[0]
        labels += batch.labels
    return _over_processes(stepper, nats, labels).mean


def without_images(text: Text, llm: LLM) -> Text:
    """A text without its images' places, and with something to read before its first label."""
    pieces: list[Piece] = [piece for piece in text.pieces if isinstance(piece, Tokens) and piece.ids]
    first = pieces[0] if pieces else None
    if not isinstance(first, Tokens) or not first.labelled or llm.family.encoder_decoder:
        return Text(tuple(pieces))
    specials = set(llm.tokenizer.all_special_ids)
    if first.ids[0] in specials and len(first.ids) > 1:
        return Text((Tokens(first.ids[:1]), Tokens(first.ids[1:], labelled=True), *pieces[1:]))
    tokenizer = llm.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return Text((Tokens((llm.text.answer_end if start is None else start,)), *pieces))


def characters(stepper: Stepper, held_out: Iterable[Batch]) -> Sums:
    """The characters of what is to be said (as `nats`), and its labels: what compares losses of two vocabularies."""
    count, labels = 0, 0
    for batch in held_out:
        ids = [list(text.target) for sample in batch.texts for text in sample]
        said = stepper.model.llm.tokenizer.batch_decode(ids, skip_special_tokens=True) if ids else []
        count, labels = count + sum(len(text.strip()) for text in said), labels + batch.labels
    return _over_processes(stepper, float(count), labels)


def total(stepper: Stepper, batches: Iterable[Batch]) -> Sums:
    """The losses of all batches of all processes."""
    nats, labels = 0.0, 0
    for batch in stepper.even(batches):
        loss, count = stepper.loss_sum(batch)
        nats, labels = nats + loss, labels + count
    return _over_processes(stepper, nats, labels)


def _over_processes(stepper: Stepper, nats: float, labels: int) -> Sums:
    sums = torch.tensor([nats, float(labels)], dtype=torch.float64, device=stepper.model.device)
    sums = stepper.accelerator.reduce(sums, reduction="sum")
    return Sums(float(sums[0]), round(float(sums[1])))


def _samples(batches: Sequence[Batch]) -> dict[View, tuple[str, Visual]]:
    """Each sample's group and its images' outputs ``[n, Q, D]``, by the view of its first image."""
    return {
        part.views[0]: (group_of(part.texts[0], len(part.visual)), part.visual)
        for batch in batches
        for part in (batch.part(n, n + 1) for n in range(len(batch.texts)))
    }


def _with_partner(batch: Batch, keys: set[View]) -> Batch | None:
    """The samples of a batch that have a partner."""
    parts = [part for n in range(len(batch.texts)) if (part := batch.part(n, n + 1)).views[0] in keys]
    if len(parts) == len(batch.texts):
        return batch
    if not parts:
        return None
    return Batch(
        joined([part.visual for part in parts]),
        batch.kind,
        [part.texts[0] for part in parts],
        [view for part in parts for view in part.views],
        [len(part.visual) for part in parts],
    )


def _with(batch: Batch, chosen: dict[View, Visual]) -> Batch:
    """The batch with the images of each sample's partner."""
    firsts = [batch.part(n, n + 1).views[0] for n in range(len(batch.texts))]
    return replace(batch, visual=joined([chosen[view] for view in firsts]))
