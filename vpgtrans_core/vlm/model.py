"""A VL-LLM as one module: VPG, projector and frozen LLM, and the parts that a stage trains."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from vpgtrans_core.data.images import normalize
from vpgtrans_core.data.sample import VisualKind
from vpgtrans_core.data.tiles import Tiles, Visual, changed, whole_pictures
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import LLM, GenerateOptions
from vpgtrans_core.llm.blocks import blocks
from vpgtrans_core.llm.lora import Lora
from vpgtrans_core.llm.shown import Images, Prompts, Run, Shown, SoftPrompts, prompts_of
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
    def chance(self) -> float:
        """The loss with which the LLM gives all tokens the same probability."""
        return math.log(len(self.llm.tokenizer))

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

    def compile_vit(self) -> None:
        """``torch.compile`` the VPG's blocks that no stage trains: the ViT's, if it is loaded."""
        trained = {id(parameter) for _, parameter in self.vpg.trained()}
        for block in blocks(self.vpg):
            if not any(id(parameter) in trained for parameter in block.parameters()):
                block.compile(dynamic=True)

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
    def frozen(self, visual: Visual, kind: VisualKind) -> tuple[Visual, VisualKind]:
        """Compute the frozen parts, starting from what the batch holds.

        Ends at the VPG's outputs ``[B, Q, D]``, or at its features ``[B, *feature_shape]`` while the VPG is trained:
        the boundary at which a cache keeps them. Of pictures in tiles, at those of their tiles.
        """
        if kind == "pixels":
            visual, kind = changed(visual, self._features), "features"
        if kind == "features" and not self.trains_vpg:
            visual, kind = changed(visual, self.vpg.prompts), "outputs"
        return visual, kind

    def _features(self, pixels: Tensor) -> Tensor:
        return self.vpg.features(normalize(pixels, self.vpg.preprocessing) if pixels.dtype == torch.uint8 else pixels)

    def shown(self, visual: Visual) -> Images:
        """What stands in a text in the place of each of these pictures."""
        if not isinstance(visual, Tiles):
            return self.vpg.num_prompts
        return [self.shown_of(*size) for size in visual.sizes]

    def shown_of(self, width: int, height: int) -> Shown:
        """What stands in the place of a picture of this size that is cut into tiles."""
        runs = self.vpg.preprocessing.runs(width, height)
        return tuple(run if isinstance(run, int) else self._words(run) for run in runs)

    def _words(self, words: str) -> Run:
        return self.llm.text.words(words)

    def whole_pictures(self, visual: Visual) -> Tensor:
        """Of each picture the tile that shows all of it; all that there is of pictures that are not cut."""
        return whole_pictures(visual, self.vpg.preprocessing.whole)

    @property
    def trains_vpg(self) -> bool:
        return any(p.requires_grad for _, p in self.vpg.trained())

    def soft_prompts(self, visual: Visual, kind: VisualKind) -> Prompts:
        """Soft prompts ``[B, Q, D_llm]`` in the precision of the LLM; of pictures in tiles, as many as each has.

        Raises:
            ModelError: the VPG's outputs do not have the sizes that its adapter states, for which texts are laid out.
        """
        visual, kind = self.frozen(visual, kind)
        if kind != "outputs":
            visual = changed(visual, self.vpg.prompts)
        outputs = visual.values if isinstance(visual, Tiles) else visual
        stated = (self.vpg.num_prompts, self.vpg.output_size)
        if outputs.shape[1:] != stated:
            raise ModelError(
                f"{type(self.vpg).__name__} gives {outputs.shape[1]} soft prompts of size {outputs.shape[-1]}, "
                f"but states {stated[0]} of size {stated[1]}",
                "correct `num_prompts` and `output_size` of its adapter, or `prompts`; see docs/plugins.md",
            )
        if not isinstance(visual, Tiles):
            return self._projected(outputs)
        shown = [self.shown_of(*size) for size in visual.sizes]
        arranged = self.vpg.arrange(visual)
        if (given := [len(each) for each in arranged]) != (promised := [prompts_of(each) for each in shown]):
            raise ModelError(
                f"{type(self.vpg).__name__} arranges {given} soft prompts of these pictures, and its preprocessing "
                f"states {promised}",
                "correct `arrange` of its adapter or `runs` of its preprocessing; see docs/plugins.md",
            )
        return SoftPrompts(self._projected(torch.cat(list(arranged))), tuple(shown))

    def _projected(self, outputs: Tensor) -> Tensor:
        return self.projector(outputs.to(self.projector.weight.dtype)).to(self.llm.model.dtype)

    @torch.no_grad()
    def generate(
        self,
        visual: Visual,
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
