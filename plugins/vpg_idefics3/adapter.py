"""Idefics3's ViT and pixel shuffle, on transformers' own vision class.

One tile a picture: the patches of a square of ``scale x scale`` become one soft prompt, of the patches' width times
``scale^2``. The ViT's last norm is what stage 2 trains of the VPG. The connector's matrix is the linear projector that
the core owns; it has no bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector, Idefics3VisionTransformer

from vpg_idefics3.names import PROJECTOR, TOWER, TRAINED
from vpg_idefics3.preprocessing import Shrunk, preprocessing_of
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.weights import Weights, check_finite, load_strict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

LOADING_CODE = """from transformers import AutoProcessor, Idefics3ForConditionalGeneration
from PIL import Image

processor = AutoProcessor.from_pretrained("{folder}")
model = Idefics3ForConditionalGeneration.from_pretrained("{folder}")
prompt = processor.apply_chat_template([dict(role="user", content=[dict(type="image")])], add_generation_prompt=True)
inputs = processor(images=Image.open("picture.png"), text=prompt, add_special_tokens=False, return_tensors="pt")
said = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(said, skip_special_tokens=True)[0].strip())
"""
FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
    "num_channels", "hidden_act", "layer_norm_eps",
)  # fmt: skip
"""Fields of the vision config that say how it computes."""


class Idefics3VPG(VPG):
    """A ViT and a pixel shuffle. Parameters carry the names of Idefics3's files.

    Args:
        config: the contents of a config.json, Idefics3's or that of a folder of ours.
        preprocessing: how images become pixels; by default the family's at the ViT's image size.

    Attributes:
        vision: the ViT's config.
        scale: how many patches a soft prompt takes in height, and in width.
    """

    loading_code = LOADING_CODE
    projector_bias = False

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.vision = vision_config(config)
        self.scale = int(config.get("scale_factor", 2))
        size, patch = cast(int, self.vision.image_size), cast(int, self.vision.patch_size)
        side = size // patch
        if side % self.scale:
            raise ModelError(f"a grid of {side} x {side} patches cannot be shuffled by {self.scale}")
        self.num_prompts = (side // self.scale) ** 2
        self.output_size = self.vision.hidden_size * self.scale**2
        self.feature_shape = (side**2, self.vision.hidden_size)
        self.preprocessing = preprocessing or Shrunk(size=size, longest=4 * size)
        self.model = nn.ModuleDict({"vision_model": Idefics3VisionTransformer._from_config(self.vision)})
        self.requires_grad_(False)
        self.eval()

    @property
    def vit(self) -> Any:
        return self.model["vision_model"]

    @classmethod
    def from_config(cls, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> Idefics3VPG:
        """A VPG with random weights.

        Raises:
            ModelError: the config describes no ViT of this family.
        """
        try:
            return cls(config, preprocessing)
        except ModelError:
            raise
        except Exception as error:  # transformers checks its configs with many kinds of error
            raise ModelError(f"config.json describes no Idefics3: {type(error).__name__}: {error}") from error

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Idefics3VPG:
        config = read_json(Path(folder) / "config.json")
        size = cast(int, vision_config(config).image_size)
        vpg = cls.from_config(config, preprocessing_of(folder, size))
        weights = Weights(folder)
        tensors = {name: weights.read(name) for name in weights if name.startswith(TOWER)}
        load_strict(
            vpg, tensors, folder, dtype=lambda n: torch.float32 if n.startswith(TRAINED) else dtype, device=device
        )
        return vpg.eval()

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        weights, name = Weights(folder), PROJECTOR + "weight"
        if name not in weights:
            return None
        weight = weights.read(name).float()
        check_finite({name: weight}, folder)
        return weight, torch.zeros(len(weight))

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            vpg = cls.from_config(config)
        return vpg.facts(vpg.vision.image_size)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the patches ``[B, N, C]`` before the ViT's last norm, in the ViT's dtype."""
        kind = "cuda" if pixels.is_cuda else "cpu"  # a plan's "meta" device knows no autocast
        with torch.autocast(kind, enabled=False):  # it would cast every norm to fp32 and back
            pixels = pixels.to(self.vit.embeddings.patch_embedding.weight.dtype)
            side = cast(int, self.vision.image_size) // cast(int, self.vision.patch_size)
            whole = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
            patches = self.vit.embeddings(pixel_values=pixels, patch_attention_mask=whole)
            return self.vit.encoder(inputs_embeds=patches).last_hidden_state

    def prompts(self, features: Tensor) -> Tensor:
        """Patches ``[B, N, C]`` to shuffled patches ``[B, N / scale^2, C scale^2]`` in fp32."""
        norm = self.vit.post_layernorm
        normed = norm(features.to(norm.weight.dtype))
        return Idefics3Connector.pixel_shuffle(cast(Any, None), normed, self.scale).float()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if name.startswith(TRAINED))

    @classmethod
    def why_not_whole(cls, llm: PreTrainedConfig) -> str | None:
        from vpg_idefics3.folder import why_not_whole

        return why_not_whole(llm)

    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_idefics3.folder import save_idefics3

        save_idefics3(Path(folder), self, projector, llm, llm_reference)

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_idefics3.folder import check_idefics3

        check_idefics3(Path(folder), self, projector, llm, llm_reference)

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        from vpg_idefics3.folder import save_part

        save_part(Path(folder), self, projector, references)


def vision_config(config: dict[str, Any]) -> Idefics3VisionConfig:
    """The ViT's config; SmolVLM's has the same fields under another name."""
    vision = config.get("vision_config") or {}
    return Idefics3VisionConfig(**{name: vision[name] for name in FIELDS if name in vision})
