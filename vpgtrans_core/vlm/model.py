"""A VL-LLM at work: VPG, projector and frozen LLM, with the parts that a stage trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vpgtrans_core.data.images import normalize
from vpgtrans_core.llm.adapter import LLM, GenerateOptions
from vpgtrans_core.vpg.adapter import VPG

VisualKind = Literal["pixels", "features", "outputs"]
"""What a batch carries of its images: pixels, the VPG's frozen features, or the VPG's outputs."""


class VLModel(nn.Module):
    """VPG + projector + frozen LLM.

    The LLM is kept outside of torch's module tree: it is never trained, saved or moved with the rest.
    """

    def __init__(self, vpg: VPG, projector: nn.Linear, llm: LLM) -> None:
        super().__init__()
        self.vpg = vpg
        self.projector = projector
        self._llm = (llm,)

    @property
    def llm(self) -> LLM:
        return self._llm[0]

    @property
    def device(self) -> torch.device:
        return self.projector.weight.device

    def set_stage(self, stage: int) -> None:
        """Freeze all that `stage` does not train: in stage 1 all but the projector, in stage 2 ViT and LLM.

        A frozen part runs in evaluation mode: its dropout would make the frozen VPG's output random, and uncacheable.
        """
        self.requires_grad_(False)
        self.eval()
        self.projector.requires_grad_(True)
        if stage == 2:
            for _, parameter in self.vpg.trained():
                parameter.requires_grad_(True)
            self.vpg.train()
        self.llm.freeze()

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that the present stage trains, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def frozen(self, visual: Tensor, kind: VisualKind) -> tuple[Tensor, VisualKind]:
        """Compute what the present stage does not train, from whatever the batch carries.

        Ends at the VPG's outputs ``[B, Q, D]`` in stage 1 and at its features ``[B, *feature_shape]`` in stage 2: the
        boundary at which a cache keeps them.
        """
        if kind == "pixels":
            pixels = normalize(visual, self.vpg.preprocessing) if visual.dtype == torch.uint8 else visual
            visual, kind = self.vpg.features(pixels), "features"
        if kind == "features" and not self.trains_vpg:
            visual, kind = self.vpg.prompts(visual), "outputs"
        return visual, kind

    @property
    def trains_vpg(self) -> bool:
        return any(p.requires_grad for _, p in self.vpg.trained())

    def soft_prompts(self, visual: Tensor, kind: VisualKind) -> Tensor:
        """Soft prompts ``[B, Q, D_llm]`` in the precision of the LLM."""
        visual, kind = self.frozen(visual, kind)
        outputs = visual if kind == "outputs" else self.vpg.prompts(visual)
        return self.projector(outputs.to(self.projector.weight.dtype)).to(self.llm.model.dtype)

    @torch.no_grad()
    def generate(
        self,
        visual: Tensor,
        kind: VisualKind = "pixels",
        prompt: str | Sequence[str] = "",
        options: GenerateOptions | None = None,
    ) -> list[str]:
        """Generate one text an image, after one prompt for all or one an image (see `LLM.generate`)."""
        was_training = self.training
        self.eval()
        try:
            with torch.compiler.set_stance("force_eager"):  # a growing text would be compiled again and again
                return self.llm.generate(self.soft_prompts(visual, kind), prompt, options)
        finally:
            self.train(was_training)


def snapshot(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies of named parameters on the CPU, for a checkpoint."""
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def count(parameters: Sequence[nn.Parameter]) -> int:
    """Number of scalars in `parameters`."""
    return sum(p.numel() for p in parameters)
