"""One training step: a global batch, cut into micro-batches and shared among processes, gives one mean over its labels.

The loss of a batch is the mean over all its labelled tokens, however many processes and micro-batches computed it:
each micro-batch's sum is divided by the *global* number of labels and the gradients are summed. So the result does
not depend on how the batch was cut (up to rounding).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from vpgtrans_core.data.sample import View, VisualKind
from vpgtrans_core.data.tiles import Visual, changed
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.llm.elements import images_of_samples
from vpgtrans_core.llm.shown import positions_of_some
from vpgtrans_core.llm.text import Text
from vpgtrans_core.vlm.model import VLModel

SMALLEST = 64
"""Positions at once below which micro-batches are not made smaller when memory runs out."""


@dataclass
class Batch:
    """The samples of one step on this process.

    Attributes:
        visual: their images, ``[I, ...]``: first those of the first sample, then those of the second, and so on; or
            their tiles.
        kind: whether `visual` holds pixels, features or outputs.
        texts: each sample's texts.
        views: the image and view of each row of `visual`, for a cache of what is computed from it.
        images: the number of images of each sample; empty for one each.
    """

    visual: Visual
    kind: VisualKind
    texts: Sequence[Sequence[Text]]
    views: Sequence[View] = ()
    images: Sequence[int] = ()

    @property
    def labels(self) -> int:
        return sum(text.labels for sample in self.texts for text in sample)

    @property
    def captions(self) -> int:
        return sum(len(sample) for sample in self.texts)

    def part(self, start: int, end: int) -> Batch:
        """The samples from `start` up to `end`."""
        counts = self.images or [1] * len(self.texts)
        first, last = sum(counts[:start]), sum(counts[:end])
        return Batch(
            self.visual[first:last],
            self.kind,
            self.texts[start:end],
            self.views[first:last],
            self.images[start:end],
        )


@dataclass(frozen=True)
class StepResult:
    """Sums over all processes: `loss` is the mean over labels; `signal` is the largest of the processes' signals."""

    loss: float
    labels: int
    images: int
    captions: int
    signal: int


class Stepper:
    """Computes losses and gradients of batches for one stage.

    Args:
        model: the model, after `model.train_only`.
        accelerator: the processes.
        micro_positions: LLM positions computed at once.
        half: autocast precision of the VPG and projector, or None for fp32.
        keep: caches every frozen result that was computed from pixels; returns it, replaced by the cached value if
            there was one before, so that a resumed run sees the same bits.
    """

    def __init__(
        self,
        model: VLModel,
        accelerator: Accelerator,
        micro_positions: int,
        half: torch.dtype | None = None,
        keep: Callable[[Sequence[View], Visual, VisualKind], Visual] | None = None,
    ) -> None:
        self.model = model
        self.accelerator = accelerator
        self.shards = model.llm.shards
        # With less memory on one GPU than on another, the smallest decides: they cut and halve alike.
        self.micro_positions = self.shards.lockstep.least(micro_positions) if self.shards else micro_positions
        self.half = half
        self.keep = keep
        self.parameters = list(model.trained().values())

    def backward(
        self, batch: Batch, signal: int = 0, scale: Callable[[Tensor], Tensor] = lambda loss: loss
    ) -> StepResult:
        """Put the gradient of the global batch's mean loss, scaled by `scale`, into the trainable parameters."""
        sums = self._total([batch.labels, len(batch.visual), batch.captions])
        loss = self._accumulate(batch, max(sums[0], 1), scale)
        self._sum_gradients()
        total = self.accelerator.reduce(loss, reduction="sum")
        return StepResult(float(total), sums[0], sums[1], sums[2], self.largest(signal))

    def largest(self, signal: int) -> int:
        """The largest of the processes' signals, so that all of them stop at the same step."""
        return int(self.accelerator.gather(torch.tensor([signal], device=self.model.device)).max())

    def _accumulate(self, batch: Batch, labels: int, scale: Callable[[Tensor], Tensor]) -> Tensor:
        """This process's share of the loss and its gradients; micro-batches become smaller when memory runs out."""
        loss = torch.zeros((), dtype=torch.float64, device=self.model.device)

        def add(part: Batch) -> None:
            part_loss = self._loss(part) / labels
            scale(part_loss).backward()
            loss.add_(part_loss.detach())

        try:
            self._each_part(batch, add, gradients=True)
            return loss
        except torch.OutOfMemoryError as error:
            if self._most_samples(batch) < 2 or self.micro_positions < SMALLEST:
                raise VpgtError(
                    "out of memory, even with one image at a time",
                    "try --checkpoint-activations, --quantization 8bit or 4bit, or a smaller LLM; see `vpgt plan`",
                ) from error
        # Outside of the handler: the exception's traceback would keep the failed graph alive.
        self.micro_positions //= 2
        for parameter in self.parameters:
            parameter.grad = None
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._accumulate(batch, labels, scale)

    @torch.no_grad()
    def loss_sum(self, batch: Batch) -> tuple[float, int]:
        """Sum of the losses and number of labels of this process's batch, without gradients."""
        losses: list[Tensor] = []
        self._each_part(batch, lambda part: losses.append(self._loss(part).double()), gradients=False)
        return float(sum(losses, torch.zeros(()).double())), batch.labels

    def even(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """These batches; and where the LLM is in shards empty ones, until every process has had as many."""
        count = 0
        if self.shards is not None:
            batches = list(batches)
            count = self.shards.lockstep.most(len(batches)) - len(batches)
        yield from batches
        vpg = self.model.vpg
        for _ in range(count):
            yield Batch(torch.zeros(0, vpg.num_prompts, vpg.output_size), "outputs", [])

    @torch.no_grad()
    def with_outputs(self, batch: Batch) -> Batch:
        """The same batch with the VPG's outputs as they are now, on the CPU."""
        with self._autocast():
            visual, kind = self.model.frozen(batch.visual.to(self.model.device), batch.kind)
            if kind == "features":
                visual = changed(visual, self.model.vpg.prompts)
        return replace(batch, visual=visual.cpu(), kind="outputs")

    def _loss(self, batch: Batch) -> Tensor:
        llm, device = self.model.llm, self.model.device
        with self._autocast():
            visual, kind = self.model.frozen(batch.visual.to(device, non_blocking=True), batch.kind)
        # On a GPU, which computes the ViT meanwhile; a copy from memory that is not pinned would wait for it.
        rows = llm.layout(batch.texts, self.model.shown(batch.visual), batch.images)
        rows = (rows.pin_memory() if device.type == "cuda" else rows).to(device)
        with self._autocast():
            if self.keep is not None and batch.kind != kind:
                visual = self.keep(batch.views, visual, kind)
            soft_prompts = self.model.soft_prompts(visual, kind)
        return llm.loss(soft_prompts, rows)

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.half)

    def _each_part(self, batch: Batch, work: Callable[[Batch], None], *, gradients: bool) -> None:
        """Do `work` on each micro-batch, in step with the other processes where the LLM is in shards."""
        parts = self._micro_batches(batch)
        if self.shards is not None:
            self.shards.run(self.model.llm, list(parts), work, gradients=gradients)
            return
        for part in parts:
            work(part)

    def _most_samples(self, batch: Batch) -> int:
        """How many samples can be parted: those of the largest batch where the processes cut alike."""
        return len(batch.texts) if self.shards is None else self.shards.lockstep.most(len(batch.texts))

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """Cut a batch between samples so that no part computes more than `micro_positions` positions (one sample at
        least)."""
        start = 0
        shown, numbers = self.model.shown(batch.visual), images_of_samples(len(batch.texts), batch.images)
        sizes = map(self.model.llm.positions, batch.texts, (positions_of_some(shown, own) for own in numbers))
        for end in _cuts(list(sizes), self.micro_positions):
            yield batch.part(start, end)
            start = end

    def _total(self, counts: list[int]) -> list[int]:
        tensor = torch.tensor(counts, dtype=torch.int64, device=self.model.device)
        return [int(v) for v in self.accelerator.reduce(tensor, reduction="sum")]

    def _sum_gradients(self) -> None:
        """Sum the gradients of all processes in one reduction; a process without images adds zeros."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        flat = self.accelerator.reduce(torch.cat([g.reshape(-1) for g in gradients]), reduction="sum")
        for parameter, piece in zip(self.parameters, flat.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = piece.view_as(parameter)


def _cuts(sizes: list[int], budget: int) -> list[int]:
    """Ends of as few runs of `sizes` as keep their sums within `budget` (a single larger one stands alone), and the
    runs as even as that number allows: the largest decides how much memory is taken."""
    parts = len(_runs(sizes, budget))
    low, high = sum(sizes) // max(parts, 1), budget
    while low < high:  # the smallest budget with which they are no more
        middle = (low + high) // 2
        low, high = (low, middle) if len(_runs(sizes, middle)) <= parts else (middle + 1, high)
    return _runs(sizes, high)


def _runs(sizes: list[int], budget: int) -> list[int]:
    """Ends of the runs when each takes what still fits."""
    ends, total = [], 0
    for index, size in enumerate(sizes):
        if total and total + size > budget:
            ends.append(index)
            total = 0
        total += size
    if sizes:
        ends.append(len(sizes))
    return ends
