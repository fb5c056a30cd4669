"""A ViT and the first layer of LLaVA's MLP, on transformers' own vision classes.

LLaVA maps each patch by ``linear_2(act(linear_1(patch)))``. `linear_1` and the activation belong to the VPG, and
`linear_1` is what stage 2 trains of it; `linear_2` is the linear projector that the core owns and initialises anew for
another language model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.activations import ACT2FN

from vpg_llava.names import LLAVA, PART, PROJECTOR, TEXT_TYPE, TOWER, TRAINED
from vpg_llava.preprocessing import CentreCrop, preprocessing_of
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.vpg.mlp import hidden_size, read_last_layer, with_units
from vpgtrans_core.weights import Weights, load_strict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

LOADING_CODE = """from transformers import AutoProcessor, LlavaForConditionalGeneration
from PIL import Image

processor = AutoProcessor.from_pretrained("{folder}")
model = LlavaForConditionalGeneration.from_pretrained("{folder}")
prompt = processor.apply_chat_template([dict(role="user", content=[dict(type="image")])], add_generation_prompt=True)
inputs = processor(images=Image.open("picture.png"), text=prompt, add_special_tokens=False, return_tensors="pt")
said = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(said, skip_special_tokens=True)[0].strip())
"""


class LlavaVPG(VPG):
    """One soft prompt for each patch. Parameters carry the names of LLaVA's files.

    Args:
        config: the contents of a config.json, LLaVA's or that of a folder of ours.
        preprocessing: how images become pixels; default CLIP's at the ViT's image size.

    Attributes:
        kind, part: the ``model_type`` of whole folders, and of those without an LLM.
        defaults: fields of the class's config that say how the VPG computes, with what they are when left out.
        settings: the same fields of this VPG.
    """

    loading_code = LOADING_CODE
    kind: ClassVar[str] = LLAVA
    part: ClassVar[str] = PART
    defaults: ClassVar[dict[str, Any]] = {
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
    }

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.settings = {name: config.get(name, value) for name, value in self.defaults.items()}
        self.vision = vision_config(config, self.settings)
        self.output_size = hidden_size(config, TEXT_TYPE)
        size, patch = self.vision.image_size, self.vision.patch_size
        self.vision_tower = AutoModel.from_config(self.vision)
        has_class = self.vision.model_type == "clip_vision_model"
        self.first = 1 if has_class and self.settings["vision_feature_select_strategy"] == "default" else 0
        self.num_prompts = (size // patch) ** 2 + has_class - self.first
        self.feature_shape = (self.num_prompts, self.vision.hidden_size)
        self.preprocessing = preprocessing or self.plain_preprocessing()
        self.multi_modal_projector = nn.ModuleDict({"linear_1": nn.Linear(self.vision.hidden_size, self.output_size)})
        self.act = ACT2FN[self.settings["projector_hidden_act"]]
        self.requires_grad_(False)
        self.eval()

    def plain_preprocessing(self) -> Preprocessing:
        """How images become pixels where no folder says it."""
        return CentreCrop(size=self.vision.image_size)

    def preprocessing_of(self, folder: str | Path) -> Preprocessing:
        """How images become pixels as a folder says it."""
        return preprocessing_of(folder, self.vision.image_size)

    @classmethod
    def from_config(cls, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> LlavaVPG:
        """A VPG with random weights.

        Raises:
            ModelError: the config describes another kind of vision model.
        """
        try:
            vpg = cls(config, preprocessing)
        except ModelError:
            raise
        except Exception as error:  # transformers checks its configs with many kinds of error
            raise ModelError(f"config.json describes no LLaVA: {type(error).__name__}: {error}") from error
        return vpg

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> LlavaVPG:
        vpg = cls.from_config(read_json(Path(folder) / "config.json"))
        vpg.preprocessing = vpg.preprocessing_of(folder)
        tensors = vpg.read_tensors(folder, Weights(folder))
        load_strict(
            vpg, tensors, folder, dtype=lambda n: dtype if n.startswith(TOWER) else torch.float32, device=device
        )
        return vpg.eval()

    def read_tensors(self, folder: str | Path, weights: Weights) -> dict[str, Tensor]:
        """The tensors of a folder that are the VPG's."""
        tensors = {}
        for name in weights:
            if name.startswith(TOWER):  # older files have one more level of names
                tensors[name.replace(f"{TOWER}vision_model.", TOWER)] = weights.read(name)
            elif name.startswith(TRAINED):  # units beyond ours fill the folder up to the LLM's width
                tensors[name] = weights.read(name)[: self.output_size]
        return tensors

    def written(self, projector: nn.Linear) -> dict[str, Tensor]:
        """Tensors of a whole folder that are not the VPG's own under their own names."""
        return {}

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        return read_last_layer(folder, PROJECTOR, TEXT_TYPE)

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            vpg = cls.from_config(config)
        return vpg.facts(vpg.vision.image_size)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the patches ``[B, N, C]`` of the layer that LLaVA reads, in the ViT's dtype."""
        kind = "cuda" if pixels.is_cuda else "cpu"  # a plan's "meta" device knows no autocast
        with torch.autocast(kind, enabled=False):  # it would cast every norm to fp32 and back
            pixels = pixels.to(next(self.vision_tower.parameters()).dtype)
            states = self.vision_tower(pixels, output_hidden_states=True).hidden_states
        return states[self.settings["vision_feature_layer"]][:, self.first :]

    def prompts(self, features: Tensor) -> Tensor:
        """Patches ``[B, N, C]`` to the MLP's hidden layer ``[B, N, D]`` in fp32."""
        linear = self.multi_modal_projector["linear_1"]
        return self.act(linear(features.to(linear.weight.dtype))).float()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if name.startswith(TRAINED))

    def train(self, mode: bool = True) -> LlavaVPG:
        """The frozen ViT stays in evaluation mode."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    @classmethod
    def why_not_whole(cls, llm: PreTrainedConfig) -> str | None:
        from vpg_llava.folder import why_not_whole

        return why_not_whole(llm, cls.kind)

    @classmethod
    def widest(cls, embedding_size: int) -> int:
        return embedding_size

    def keep_outputs(self, units: Tensor) -> None:
        self.multi_modal_projector["linear_1"] = with_units(self.multi_modal_projector["linear_1"], units)
        self.output_size = len(units)

    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_llava.folder import save_llava

        save_llava(Path(folder), self, projector, llm, llm_reference)

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_llava.folder import check_llava

        check_llava(Path(folder), self, projector, llm, llm_reference)

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        from vpg_llava.folder import save_part

        save_part(Path(folder), self, projector, references)


def vision_config(config: dict[str, Any], settings: dict[str, Any]) -> PreTrainedConfig:
    """The ViT's config.

    Raises:
        ModelError: it is another kind of ViT than CLIP's or SigLIP's, or read in a way that is not supported.
    """
    vision = dict(config.get("vision_config") or {})
    kind = vision.setdefault("model_type", "clip_vision_model")
    layer = settings["vision_feature_layer"]
    if kind not in ("clip_vision_model", "siglip_vision_model") or not isinstance(layer, int):
        raise ModelError(
            f"a LLaVA with the ViT {kind!r}, layer {layer!r}, is not supported",
            "one layer of a CLIP or SigLIP ViT is",
        )
    if not settings["multimodal_projector_bias"]:
        raise ModelError("a LLaVA whose MLP has no bias is not supported", "use another source")
    return AutoConfig.for_model(**vision)
