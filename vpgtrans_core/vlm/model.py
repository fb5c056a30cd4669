"""A VL-LLM as one module: VPG, projector and frozen LLM, and the parts that a stage trains."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from vpgtrans_core.data.images import normalize
from vpgtrans_core.data.sample import VisualKind
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import LLM, GenerateOptions
from vpgtrans_core.llm.lora import Lora
from vpgtrans_core.llm.text import Text
from vpgtrans_core.recipes.adapters import LORA
from vpgtrans_core.templates import ChatTemplate
from vpgtrans_core.vpg.adapter import VPG


class VLModel(nn.Module):
    """VPG + projector + frozen LLM, and the chat template of the conversations that it learns or has learned.

    The LLM is kept outside of torch's module tree, because it is never trained, saved or moved with the rest. Adapters
    that are trained inside of it are in the tree.
    """

    def __init__(
        self,
        vpg: VPG,
        projector: nn.Linear,
        llm: LLM,
        template: ChatTemplate | None = None,
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        self.template = template
        self.vpg = vpg
        self.projector = projector
        self.lora = lora
        self._llm = (llm,)

    @property
    def llm(self) -> LLM:
        return self._llm[0]

    @property
    def device(self) -> torch.device:
        return self.projector.weight.device

    @property
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that a stage may train, by the names that `Stage.trains` uses."""
        own = {"projector": list(self.projector.parameters()), "vpg": [p for _, p in self.vpg.trained()]}
        return own if self.lora is None else own | {LORA: list(self.lora.parameters())}

    def train_only(self, names: Collection[str]) -> None:
        """Freeze everything but the groups called `names`.

        A frozen part runs in evaluation mode, because dropout would make its output random and useless for a cache.

        Raises:
            ModelError: a group does not exist.
        """
        groups = self.groups
        if unknown := sorted(set(names) - set(groups)):
            raise ModelError(f"no trainable part is called {', '.join(unknown)}", f"there are {', '.join(groups)}")
        self.requires_grad_(False)
        self.eval()
        self.llm.freeze()
        for name in names:
            for parameter in groups[name]:
                parameter.requires_grad_(True)
        self.vpg.train("vpg" in names)

    def merge_lora(self) -> None:
        """Add the adapters, if there are any, to the LLM's weights."""
        if self.lora is not None:
            self.lora.merge()
            self.lora = None

    def trained(self) -> dict[str, nn.Parameter]:
        """The trainable parameters, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def parameters_of(self, names: Collection[str]) -> dict[str, nn.Parameter]:
        """The parameters of the groups called `names`, by name."""
        wanted = {id(p) for name in names for p in self.groups[name]}
        return {name: p for name, p in self.named_parameters() if id(p) in wanted}

    @torch.no_grad()
    def frozen(self, visual: Tensor, kind: VisualKind) -> tuple[Tensor, VisualKind]:
        """Compute the frozen parts, starting from what the batch holds.

        Ends at the VPG's outputs ``[B, Q, D]``, or at its features ``[B, *feature_shape]`` while the VPG is trained:
        the boundary at which a cache keeps them.
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
        """Soft prompts ``[B, Q, D_llm]`` in the precision of the LLM.

        Raises:
            ModelError: the VPG's outputs do not have the sizes that its adapter states, for which texts are laid out.
        """
        visual, kind = self.frozen(visual, kind)
        outputs = visual if kind == "outputs" else self.vpg.prompts(visual)
        stated = (self.vpg.num_prompts, self.vpg.output_size)
        if outputs.shape[1:] != stated:
            raise ModelError(
                f"{type(self.vpg).__name__} gives {outputs.shape[1]} soft prompts of size {outputs.shape[-1]}, "
                f"but states {stated[0]} of size {stated[1]}",
                "correct `num_prompts` and `output_size` of its adapter, or `prompts`; see docs/plugins.md",
            )
        return self.projector(outputs.to(self.projector.weight.dtype)).to(self.llm.model.dtype)

    @torch.no_grad()
    def generate(
        self,
        visual: Tensor,
        kind: VisualKind = "pixels",
        prompt: str | Text | Sequence[str | Text] = "",
        options: GenerateOptions | None = None,
        images: Sequence[int] = (),
    ) -> list[str]:
        """Generate one text per sample; `prompt` and `images` as in `LLM.generate`."""
        was_training = self.training
        self.eval()
        try:
            with torch.compiler.set_stance("force_eager"):  # a growing text would be recompiled at every length
                return self.llm.generate(self.soft_prompts(visual, kind), prompt, options, images)
        finally:
            self.train(was_training)


def snapshot(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies of named parameters on the CPU, for a checkpoint."""
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def count(parameters: Sequence[nn.Parameter]) -> int:
    """Number of scalars in `parameters`."""
    return sum(p.numel() for p in parameters)
