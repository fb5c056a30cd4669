"""The visual prompt generator at work: what every VPG family's adapter gives to the core."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vpgtrans_core.data.preprocessing import USUAL, Preprocessing
from vpgtrans_core.data.tiles import Tiles
from vpgtrans_core.weights import sha256_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

__all__ = ["VPG", "Preprocessing"]


class VPG(nn.Module, ABC):
    """Image to soft prompts, in two parts with the cache's boundary between them.

    ``pixels [B, 3, H, W] -> features -> output [B, Q, D]``: `features` is frozen for good (a ViT without its last
    norm); `prompts` is what stage 2 trains (final norm, Q-Former, query tokens). A linear projector, which the core
    owns, then maps ``D`` to the LLM's embedding size.

    A family whose preprocessing is tiled computes tiles as other families compute images, and `arrange` makes of a
    picture's tiles its outputs.

    Attributes:
        num_prompts: Q, soft prompts an image, or a tile.
        output_size: D, the width of the VPG's output.
        feature_shape: the shape ``(N, C)`` of the features of one image, or tile.
        preprocessing: how images become pixels.
        loading_code: Python for the folder's README: it loads the folder which `save_model` writes, called
            ``{folder}``, and prints the caption of ``picture.png``; empty for a family without such a folder, whose
            runs need ``--save vpg``.
        projector_bias: whether the linear projector has a bias. Where its folders have no place for one, none is made
            or trained, and what the start needs of it is put into the weight.
        formats: forms of its own that ``vpgt export --to`` writes, each with ``"module:function"``, which is called
            with the `ResolvedSource`, the output's path, `overwrite` and the command's further options.
    """

    loading_code: ClassVar[str] = ""
    projector_bias: ClassVar[bool] = True
    formats: ClassVar[dict[str, str]] = {}

    num_prompts: int
    output_size: int
    feature_shape: tuple[int, ...]
    preprocessing: Preprocessing

    @classmethod
    @abstractmethod
    def load(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> VPG:
        """Load the VPG alone (no projector, no LLM weights) from a folder of this family, in evaluation mode.

        `dtype` is that of the frozen part; what stage 2 trains is always fp32.

        Raises:
            ModelError: tensors are missing, unexpected or of the wrong shape; all of them are listed.
        """

    @classmethod
    def load_lazily(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> VPG:
        """As `load`, but a family may leave the frozen part on disk until `features` is first called: with everything
        in the cache it never is. `fingerprint` must not differ. By default all is loaded."""
        return cls.load(folder, dtype=dtype, device=device)

    @classmethod
    @abstractmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        """Return the source's projector ``(weight [D_llm, D], bias [D_llm])`` in fp32, or None when there is none. The
        bias of one that has none is zero."""

    @classmethod
    @abstractmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the sizes in a folder's ``config.json`` that planning needs, without weights: ``num_prompts``,
        ``output_size``, ``feature_shape``, ``image_size`` and parameter counts ``frozen`` and ``trained``: the `facts`
        of a VPG on the meta device."""

    def facts(self, image_size: int) -> dict[str, Any]:
        """What `describe` returns, of this VPG; of a tiled family also ``tiles`` and ``picture_prompts``, how many
        tiles and soft prompts a usual picture has, and ``most_prompts``, how many any has at most."""
        trained = sum(parameter.numel() for _, parameter in self.trained())
        images, tiled = self.preprocessing, {}
        if images.tiled:
            prompts = sum(run for run in images.runs(*USUAL) if isinstance(run, int))
            tiled = {"tiles": images.usual_tiles, "picture_prompts": prompts, "most_prompts": images.most_prompts}
        return {
            **tiled,
            "num_prompts": self.num_prompts,
            "output_size": self.output_size,
            "feature_shape": self.feature_shape,
            "image_size": image_size,
            "frozen": sum(parameter.numel() for parameter in self.parameters()) - trained,
            "trained": trained,
        }

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """The frozen part: pixels ``[B, 3, H, W]`` to features ``[B, *feature_shape]``, without gradient."""

    @abstractmethod
    def prompts(self, features: Tensor) -> Tensor:
        """The trained part: features ``[B, *feature_shape]`` to the VPG's output ``[B, Q, D]`` in fp32."""

    @property
    def most_prompts(self) -> int:
        """How many positions of an LLM an image takes at most."""
        return self.preprocessing.most_prompts if self.preprocessing.tiled else self.num_prompts

    def arrange(self, outputs: Tiles) -> Sequence[Tensor]:
        """The outputs ``[n, D]`` of each picture, in the order in which the LLM reads them, from those of its tiles
        ``[T, Q, D]``: as many as `Preprocessing.runs` says. By default one tile after the other."""
        return [tiles.flatten(0, 1) for tiles in outputs.each]

    def attention_maps(self, features: Tensor) -> Tensor | None:
        """Where in the picture each query looks, for features ``[B, *feature_shape]``: shares ``[B, Q, H, W]`` of its
        attention on a grid of patches, not above 1 in sum. None, the default, for a family without queries."""
        return None

    @abstractmethod
    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that stage 2 trains, under this module's own names."""

    @abstractmethod
    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        """Write the whole VL-LLM (VPG, projector, LLM, processor, tokenizer, generation config) as the folder that the
        field's library loads, safetensors only. For a Q-Former this is transformers' BLIP-2 folder. A family that has
        none raises `VpgtError` and leaves `loading_code` empty."""

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        """Learn before the training whether `save_model` will work after it: write into the empty `folder` what costs
        nothing (configs, tokenizer), and raise what would stop the rest. By default nothing is asked."""

    @classmethod
    def why_not_whole(cls, llm: PreTrainedConfig) -> str | None:
        """Why `save_model` cannot write an LLM of this config, in one sentence; None where it can. Asked before
        anything is loaded. A class of transformers that holds a bare LLM under a plain head computes another function
        for some LLMs, without an error: see `vpgtrans_core.vpg.whole.why_other_logits`."""
        return None

    @classmethod
    def widest(cls, embedding_size: int) -> int | None:
        """The largest `output_size` that `save_model` can write beside an LLM of this embedding size; None without a
        limit. Of a wider VPG a run that saves the whole model keeps the outputs that tell most (`keep_outputs`)."""
        return None

    def keep_outputs(self, units: Tensor) -> None:
        """Keep only the entries `units` ``[K]`` of each output vector, in this order; `output_size` becomes K. A family
        that states `widest` overrides this."""
        raise NotImplementedError(f"{type(self).__name__} cannot leave out entries of its output")

    def prepare_endpoint(self, folder: Path, ends: Sequence[int]) -> None:
        """Change the folder of a chat model, which `save_model` has written and which has a ``chat_template.jinja``,
        so that a chat endpoint can answer it; `ends` are the tokens that end an answer. By default nothing is done."""

    @classmethod
    def is_endpoint(cls, folder: Path) -> bool:
        """Whether `prepare_endpoint` has changed a folder."""
        return False

    @abstractmethod
    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        """Write the VPG and projector without the LLM (``--save vpg``): small, with `references` to the rest."""

    def fingerprint(self, *, trained: bool) -> str:
        """SHA-256 of the weights as they are now: of all of them, or without those that stage 2 trains. A cache belongs
        to a VPG by it."""
        left_out = set() if trained else {name for name, _ in self.trained()}
        return sha256_tensors({name: value for name, value in self.state_dict().items() if name not in left_out})

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the VPG's output ``[B, Q, D]``."""
        return self.prompts(self.features(pixels))
