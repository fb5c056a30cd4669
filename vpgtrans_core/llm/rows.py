"""Rows for decoder-only LLMs: the texts of each image as a tree whose root is the image's soft prompts.

The captions of one image share its soft prompts and whatever tokens they begin with; a position attends to its
ancestors alone and counts its place from the root, so that every caption computes what it would compute in a row of
its own. Positions stand in depth-first order: then the descendants of position j are the run ``j .. ends[j] - 1`` and
the whole attention mask is ``j <= i < ends[j]``. Several trees are packed into one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from vpgtrans_core.llm.adapter import Rows
from vpgtrans_core.llm.loss import NO_LABEL
from vpgtrans_core.llm.packing import pack_cheaply
from vpgtrans_core.llm.text import Text


@dataclass
class Tree:
    """Texts that continue one image's soft prompts, as positions in depth-first order.

    `ids` holds a token for each position (0 under a soft prompt), `depths` the distance from the root, `ends` one past
    the last descendant. `labels` holds what a position predicts: one token of each text that goes on from it. The last
    token of a text is predicted but never read, so it has no position.
    """

    num_prompts: int
    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    labels: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def grow(cls, texts: Sequence[Text], num_prompts: int) -> Tree:
        """Merge texts (at least one soft prompt or context token before each target) by their common beginnings."""
        tree = cls(num_prompts, [0] * num_prompts, list(range(num_prompts)), [0] * num_prompts)
        path = list(range(num_prompts))  # the positions from the root to where we are
        previous: tuple[int, ...] = ()
        for text in sorted(texts, key=lambda t: t.context + t.target):  # sorted, a walk never comes back to a branch
            tokens = text.context + text.target
            shared = num_prompts + _common(previous, tokens[:-1])
            tree._leave(path[shared:])
            del path[shared:]
            for token in tokens[shared - num_prompts : -1]:
                tree._enter(token, path)
            for place in range(len(text.context), len(tokens)):
                tree.labels.setdefault(path[num_prompts + place - 1], []).append(tokens[place])
            previous = tokens[:-1]
        tree._leave(path)
        return tree

    def _enter(self, token: int, path: list[int]) -> None:
        self.ids.append(token)
        self.depths.append(len(path))
        self.ends.append(0)
        path.append(len(self.ids) - 1)

    def _leave(self, positions: list[int]) -> None:
        for position in positions:
            self.ends[position] = len(self.ids)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of equal leading elements."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass
class TensorRows(Rows):
    """Rows whose dataclass fields are tensors and counts."""

    labels: int
    positions: int

    def to(self, device: torch.device | str) -> Self:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Copy every tensor to page-locked memory; torch's data loader calls this when it pins a batch."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        old = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        new: dict[str, Any] = {name: change(v) if isinstance(v, Tensor) else v for name, v in old.items()}
        return type(self)(**new)


@dataclass
class DecoderRows(TensorRows):
    """Packed trees, or padded rows of one text each.

    Attributes:
        ids: ``[R, L]`` token ids; 0 under soft prompts and padding.
        prompt_slots, prompt_sources: ``[S]`` flat position ``r * L + l`` of each soft prompt, and which one stands
            there: ``image * Q + q``.
        predictors: ``[P]`` flat positions whose outputs predict labels, each once.
        targets: ``[P, K]`` their labels; `NO_LABEL` where a position has fewer than K.
        ends, depths: ``[R, L]`` the tree's mask and position ids; None for padded rows.
        attention: ``[R, L]`` the ordinary mask of padded rows; None for trees.
    """

    ids: Tensor
    prompt_slots: Tensor
    prompt_sources: Tensor
    predictors: Tensor
    targets: Tensor
    ends: Tensor | None = None
    depths: Tensor | None = None
    attention: Tensor | None = None

    def mask(self) -> Tensor:
        """``[R, 1, L, L]`` bool, True where position i (third axis) attends to position j (last); trees only."""
        assert self.ends is not None
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        not_later = place[:, None] >= place[None, :]
        return (not_later & (place[:, None] < self.ends[:, None, :]))[:, None]

    def inputs(self, embeddings: Tensor, soft_prompts: Tensor) -> Tensor:
        """Put soft prompts ``[I, Q, D]`` at their places among the word embeddings ``[R, L, D]``."""
        prompts = soft_prompts.flatten(0, 1)[self.prompt_sources].to(embeddings.dtype)
        return embeddings.flatten(0, 1).index_copy(0, self.prompt_slots, prompts).view_as(embeddings)


def decoder_rows(texts: Sequence[Sequence[Text]], num_prompts: int, width: int, share: bool) -> DecoderRows:
    """Lay out the texts of I images for an LLM of hidden size `width`; `share` packs trees, else one text a row."""
    if share:
        images = [i for i, image in enumerate(texts) if image]
        trees = [Tree.grow(texts[i], num_prompts) for i in images]
        rows = pack_cheaply([len(tree) for tree in trees], width)
    else:
        images = [i for i, image in enumerate(texts) for _ in image]
        trees = [Tree.grow([text], num_prompts) for image in texts for text in image]
        rows = [[n] for n in range(len(trees))]
    return _assemble(trees, images, rows, share)


def _assemble(trees: list[Tree], images: list[int], rows: list[list[int]], share: bool) -> DecoderRows:
    """Write each row's trees one after the other, padded at the end to the longest row."""
    length = max((sum(len(trees[n]) for n in row) for row in rows), default=0)
    ids, ends, depths = ([[0] * length for _ in rows] for _ in range(3))
    used = [0] * len(rows)
    slots: list[int] = []
    sources: list[int] = []
    predictors: list[int] = []
    labels: list[list[int]] = []
    for r, row in enumerate(rows):
        for n in row:
            tree, start = trees[n], used[r]
            used[r] += len(tree)
            ids[r][start : used[r]] = tree.ids
            depths[r][start : used[r]] = tree.depths
            ends[r][start : used[r]] = [start + end for end in tree.ends]
            flat = r * length + start
            slots += range(flat, flat + tree.num_prompts)
            sources += range(images[n] * tree.num_prompts, (images[n] + 1) * tree.num_prompts)
            predictors += [flat + p for p in tree.labels]
            labels += tree.labels.values()
        ends[r][used[r] :] = range(used[r] + 1, length + 1)  # padding sees itself: a softmax over nothing is NaN
    layout: dict[str, Tensor]
    if share:
        layout = {"ends": torch.tensor(ends), "depths": torch.tensor(depths)}
    else:
        layout = {"attention": (torch.arange(length) < torch.tensor(used)[:, None]).long()}
    return DecoderRows(
        labels=sum(map(len, labels)),
        positions=len(rows) * length,
        ids=torch.tensor(ids),
        prompt_slots=torch.tensor(slots),
        prompt_sources=torch.tensor(sources),
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=_table(labels),
        **layout,
    )


def _table(labels: list[list[int]]) -> Tensor:
    """Labels of P positions as ``[P, K]``, filled up with `NO_LABEL`."""
    most = max(map(len, labels), default=1)
    rows = [[*row, *[NO_LABEL] * (most - len(row))] for row in labels]
    return torch.tensor(rows, dtype=torch.long).view(len(labels), most)
