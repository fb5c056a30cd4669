"""Rows for decoder-only LLMs: the texts of each sample as a tree of what they begin with.

The captions of one image share its soft prompts and whatever tokens they begin with; so do questions in a template the
words before the image, too. A position attends to its ancestors alone and counts its place from the root, so that every
text computes what it would compute in a row of its own. Positions stand in depth-first order: then the descendants of
position j are the run ``j .. ends[j] - 1`` and the whole attention mask is ``j <= i < ends[j]``. Several trees are
packed into one row.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from vpgtrans_core.llm.adapter import Rows
from vpgtrans_core.llm.elements import Line, Tables, images_of_samples, line_of
from vpgtrans_core.llm.loss import NO_LABEL
from vpgtrans_core.llm.packing import pack_cheaply
from vpgtrans_core.llm.shown import Elements, Images, Prompts, flat
from vpgtrans_core.llm.sizes import EXACT, Sizes
from vpgtrans_core.llm.text import Text


@dataclass
class Tree:
    """Texts with a common beginning, as positions in depth-first order.

    `elements` holds what stands at each position (see `vpgtrans_core.llm.elements`), `depths` the distance from the
    root, `ends` one past the last descendant. `labels` holds what a position predicts: one token of each text that goes
    on from it. The last label of a text is predicted but never read, so it has no position.
    """

    elements: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    labels: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.elements)

    @classmethod
    def grow(cls, lines: Iterable[Line]) -> list[Tree]:
        """Merge lines by their common beginnings; those that begin otherwise are another tree, and those without a
        label in none.

        Raises:
            ValueError: a line begins with a label, which nothing predicts.
        """
        trees: list[Tree] = []
        path: list[int] = []  # the positions from the root to where we are
        previous: list[int] = []
        # Sorted, a walk never comes back to a branch.
        for line in sorted((line.up_to_last_label() for line in lines if line.labels), key=lambda line: line.elements):
            if line.labels[0] == 0:
                raise ValueError("a text of a decoder-only LLM cannot begin with a label: no position predicts it")
            read = line.elements[:-1]
            shared = _common(previous, read)
            if trees:
                trees[-1]._leave(path[shared:])
            if not shared:
                trees.append(cls())
            trees[-1]._enter(read, shared, path)
            for place in line.labels:
                trees[-1].labels.setdefault(path[place - 1], []).append(line.elements[place])
            previous = read
        if trees:
            trees[-1]._leave(path)
        return trees

    def _enter(self, read: list[int], shared: int, path: list[int]) -> None:
        """Go on with ``read[shared:]`` from the position where the path has `shared` steps."""
        path[shared:] = range(len(self), len(self) + len(read) - shared)
        self.elements += read[shared:]
        self.depths += range(shared, len(read))
        self.ends += [0] * (len(read) - shared)

    def _leave(self, positions: list[int]) -> None:
        for position in positions:
            self.ends[position] = len(self)


def _common(a: list[int], b: list[int]) -> int:
    """Number of equal leading elements."""
    differ = list(map(operator.ne, a, b))
    return differ.index(True) if True in differ else len(differ)


@dataclass
class TensorRows(Rows):
    """Rows whose dataclass fields are tensors and counts.

    Attributes:
        ids: ``[R, L]`` token ids; 0 under soft prompts and padding.
        prompt_slots, prompt_sources: ``[S]`` flat position ``r * L + l`` of each soft prompt, and which one of the
            batch's stands there: ``image * Q + q`` where every image has Q of them.
    """

    labels: int
    positions: int
    ids: Tensor
    prompt_slots: Tensor
    prompt_sources: Tensor

    def inputs(self, embeddings: Tensor, soft_prompts: Prompts) -> Tensor:
        """Put soft prompts ``[I, Q, D]`` at their places among the word embeddings ``[R, L, D]``."""
        prompts = flat(soft_prompts)[self.prompt_sources].to(embeddings.dtype)
        return embeddings.flatten(0, 1).index_copy(0, self.prompt_slots, prompts).view_as(embeddings)

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
        predictors: ``[P]`` flat positions whose outputs predict labels, each once; where sizes are rounded, then some
            whose outputs predict none.
        targets: ``[P, K]`` their labels; `NO_LABEL` where a position has fewer than K.
        ends, depths: ``[R, L]`` the tree's mask and position ids; None for padded rows.
        attention: ``[R, L]`` the ordinary mask of padded rows; None for trees.
    """

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


def decoder_rows(
    texts: Sequence[Sequence[Text]],
    num_prompts: Images,
    width: int,
    share: bool,
    images: Sequence[int] = (),
    sizes: Sizes = EXACT,
) -> DecoderRows:
    """Lay out the texts of samples for an LLM of hidden size `width`.

    Args:
        texts: the texts of each sample.
        num_prompts: soft prompts an image, Q, or what stands in each image's place.
        share: pack trees, else one text a row.
        images: how many images each sample has; empty for one each.
        sizes: of the rows, and of what is predicted from.
    """
    numbered = zip(texts, images_of_samples(len(texts), images), strict=True)
    shown = Elements(num_prompts)
    lines = [[line_of(text.pieces, numbers, shown) for text in sample] for sample, numbers in numbered]
    if share:
        trees = [tree for sample in lines for tree in Tree.grow(sample)]
        rows = pack_cheaply([len(tree) for tree in trees], width, sizes)
    else:
        trees = [tree for sample in lines for line in sample for tree in Tree.grow([line])]
        rows = [[n] for n in range(len(trees))]
    return _assemble([[trees[n] for n in row] for row in rows], share, sizes)


def _assemble(rows: list[list[Tree]], share: bool, sizes: Sizes) -> DecoderRows:
    """Write each row's trees one after the other, padded at the end to the longest row; add rows and predictors that
    stand for nothing, as `sizes` wants."""
    length = sizes.length(max((sum(map(len, row)) for row in rows), default=0))
    rows = rows + [[]] * (sizes.count(len(rows)) - len(rows))
    tables = Tables(len(rows), length, elements=0, ends=0, depths=0)
    predictors: list[int] = []
    labels: list[list[int]] = []
    for r, row in enumerate(rows):
        for tree in row:
            start = tables.used[r]
            ends = [start + end for end in tree.ends]
            flat = tables.write(r, elements=tree.elements, depths=tree.depths, ends=ends)
            predictors += [flat + p for p in tree.labels]
            labels += tree.labels.values()
        # Padding sees itself: a softmax over nothing is NaN.
        tables.write(r, ends=range(tables.used[r] + 1, length + 1))
    layout: dict[str, Tensor]
    if share:
        layout = {"ends": tables.tensor("ends"), "depths": tables.tensor("depths")}
    else:
        lengths = torch.tensor([sum(map(len, row)) or length for row in rows], dtype=torch.long)
        layout = {"attention": (torch.arange(length) < lengths[:, None]).long()}
    nothing = sizes.count(len(predictors)) - len(predictors)
    predictors, labels = predictors + [0] * nothing, labels + [[]] * nothing
    return DecoderRows(
        labels=sum(map(len, labels)),
        positions=len(rows) * length,
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=_table(labels),
        **tables.elements("elements"),
        **layout,
    )


def _table(labels: list[list[int]]) -> Tensor:
    """Labels of P positions as ``[P, K]``, filled up with `NO_LABEL`."""
    most = max(map(len, labels), default=1)
    rows = [[*row, *[NO_LABEL] * (most - len(row))] for row in labels]
    return torch.tensor(rows, dtype=torch.long).view(len(labels), most)
