"""One step of a pre-training: the loss of a batch, its gradient, and what is measured on held-out images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vpgtrans_core.data.images import normalize
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.pretraining.contrast import alike, contrast_loss, recalls
from vpgtrans_core.pretraining.feed import Pairs
from vpgtrans_core.train.step import StepResult
from vpgtrans_core.vpg.pretraining import Embedded, Pretraining

SMOOTHING = 0.1
"""Label smoothing of the contrast in training, as in BLIP-2."""


class PairStepper:
    """Computes losses and gradients; for `StageRunner`.

    Args:
        frozen: gives a batch with the features of a tower that is not trained.
        writes: whether the text's loss counts, too.
        half: autocast precision, or None for fp32.
    """

    micro_positions = 1
    """A batch is never cut: each image is told from all others of it."""

    def __init__(
        self,
        model: Pretraining,
        accelerator: Accelerator,
        frozen: Callable[[Pairs], Pairs],
        *,
        writes: bool,
        half: torch.dtype | None,
    ) -> None:
        self.model = model
        self.accelerator = accelerator
        self.half = half
        self._frozen = frozen
        self._writes = writes

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.trained().values())

    def backward(
        self, batch: Pairs, signal: int = 0, scale: Callable[[Tensor], Tensor] = lambda loss: loss
    ) -> StepResult:
        """Put the gradient of the batch's loss, scaled by `scale`, into the parameters."""
        try:
            loss = self._loss(self._embed(batch), batch, SMOOTHING)
            scale(loss).backward()
        except torch.OutOfMemoryError as error:
            raise VpgtError(
                f"out of memory with {len(batch)} images a step",
                "give a smaller --batch-size; each image is then told from fewer others",
            ) from error
        return StepResult(float(loss.detach()), len(batch), len(batch), len(batch), signal)

    def largest(self, signal: int) -> int:
        return signal

    def even(self, batches: Iterable[Pairs]) -> Iterable[Pairs]:
        return batches

    @torch.no_grad()
    def loss_sum(self, batch: Pairs) -> tuple[float, int]:
        """Sum of the losses, without smoothing, and number of images of a batch."""
        return float(self._loss(self._embed(batch), batch)) * len(batch), len(batch)

    @torch.no_grad()
    def found(self, batches: Sequence[Pairs]) -> dict[str, float]:
        """How often the right text is found for an image ``among`` those of all batches, and the other way round (see
        `recalls`); empty without images."""
        self.model.eval()
        made = [self._embed(batch) for batch in batches]
        if not made:
            return {}
        images, texts = (torch.cat([getattr(each, name) for each in made]) for name in ("images", "texts"))
        longest = max(batch.ids.shape[1] for batch in batches)
        ids = torch.cat([nn.functional.pad(batch.ids, (0, longest - batch.ids.shape[1])) for batch in batches])
        shares = recalls(self.model.similarities(images, texts), alike(ids).to(images.device))
        return {**shares, "among": len(ids)}

    def _embed(self, batch: Pairs) -> Embedded:
        model = self.model
        batch = self._frozen(batch)
        visual = batch.visual.to(model.device, non_blocking=True)
        with self._autocast():
            if batch.kind == "pixels":
                visual = model.features(normalize(visual, model.vpg.preprocessing))
            return model.embed(visual, batch.ids.to(model.device))

    def _loss(self, made: Embedded, batch: Pairs, smoothing: float = 0.0) -> Tensor:
        same = alike(batch.ids).to(made.images.device)
        loss = contrast_loss(self.model.similarities(made.images, made.texts), same, smoothing)
        if self._writes and made.text_loss is not None:
            loss = loss + made.text_loss
        return loss

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.half)
