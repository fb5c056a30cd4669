"""BLIP-2's ViT and Q-Former on transformers' own classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vpg_qformer.config import PART, Sizes, preprocessing_of, read_config, sizes_of
from vpg_qformer.folded_norm import ask_with_folded_norm
from vpg_qformer.reading import PROJECTOR, TRAINED, VISION, is_frozen, read_frozen, read_vpg
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.weights import Weights, check_finite, check_shapes, load_strict, sha256_tensors

if TYPE_CHECKING:
    from vpgtrans_core.llm.adapter import LLM
VIT = ("embeddings", "encoder")
"""The frozen children of the vision model."""


LOADING_CODE = """from transformers import Blip2ForConditionalGeneration, Blip2Processor
from PIL import Image

processor = Blip2Processor.from_pretrained("{folder}")
model = Blip2ForConditionalGeneration.from_pretrained("{folder}")
inputs = processor(images=Image.open("picture.png"), text="", return_tensors="pt")
generated = model.generate(**inputs, generation_config=model.generation_config)
print(processor.batch_decode(generated, skip_special_tokens=True)[0].strip())
"""


class QFormerVPG(VPG):
    """A ViT, its last norm, and a Q-Former that asks it with query tokens.

    Parameters carry the names of ``Blip2ForConditionalGeneration``. Built directly, the weights are random
    (`load` reads them from a folder).

    Args:
        sizes: the modules' sizes.
        preprocessing: how images become pixels; default BLIP's at the ViT's image size.

    Attributes:
        folder: where the weights were read from; None for random ones.
        waiting: the precision in which the ViT will be read when pixels come (see `load_lazily`); None: it is there.
    """

    model_type: ClassVar[str] = PART
    """Of the folder that `save_part` writes."""
    loading_code = LOADING_CODE
    formats = {"lavis": "vpg_qformer.conversion:export_pth"}  # noqa: RUF012

    def __init__(self, sizes: Sizes, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.preprocessing = preprocessing or Preprocessing(size=sizes.vision.image_size)
        self.num_prompts = sizes.num_query_tokens
        self.output_size = sizes.qformer.hidden_size
        self.feature_shape = sizes.feature_shape
        self.folder: Path | None = None
        self.waiting: torch.dtype | None = None
        self._frozen_hash: str | None = None
        self.vision_model = sizes.vision_model()
        self.query_tokens = nn.Parameter(torch.empty(1, self.num_prompts, self.output_size))
        nn.init.normal_(self.query_tokens, std=sizes.qformer.initializer_range)
        self.qformer = sizes.qformer_model()
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QFormerVPG:
        """A VPG with random weights from the contents of a config.json."""
        return cls(sizes_of(config))

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> QFormerVPG:
        sizes = sizes_of(read_config(folder))
        with torch.device("meta"):
            vpg = cls(sizes, preprocessing_of(folder, sizes))
        load_strict(
            vpg,
            read_vpg(folder, vpg),
            folder,
            dtype=lambda name: torch.float32 if name.startswith(TRAINED) else dtype,
            device=device,
        )
        vpg.folder = Path(folder)
        return vpg

    @classmethod
    def load_lazily(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> QFormerVPG:
        """Load without the ViT; its tensors' names and shapes are checked now, it is read when pixels come."""
        sizes = sizes_of(read_config(folder))
        with torch.device("meta"):
            vpg = cls(sizes, preprocessing_of(folder, sizes))
        tensors = read_vpg(folder, vpg, frozen=False)
        for part in VIT:
            setattr(vpg.vision_model, part, None)
        load_strict(vpg, tensors, folder, dtype=lambda name: torch.float32, device=device)
        vpg.folder, vpg.waiting = Path(folder), dtype
        return vpg

    def _read_vit(self) -> None:
        """Put the ViT in its place, on the device of the rest."""
        assert self.folder is not None and self.waiting is not None
        dtype, self.waiting = self.waiting, None
        with torch.device("meta"):
            vit = self.sizes.vision_model()
            vit.post_layernorm = None
        tensors = {name.removeprefix(VISION): value for name, value in read_frozen(self.folder).items()}
        load_strict(vit, tensors, self.folder, dtype=lambda name: dtype, device=self.query_tokens.device)
        vit.requires_grad_(False).eval()
        for part in VIT:
            setattr(self.vision_model, part, getattr(vit, part))

    def fingerprint(self, *, trained: bool) -> str:
        """SHA-256 of the weights; those of the ViT as the source's files hold them, whether or not they are loaded."""
        if self._frozen_hash is None:
            self._frozen_hash = sha256_tensors(self.frozen_tensors())
        if not trained:
            return self._frozen_hash
        return hashlib.sha256(f"{self._frozen_hash} {sha256_tensors(self.trained_tensors())}".encode()).hexdigest()

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        weights = Weights(folder)
        names = PROJECTOR + "weight", PROJECTOR + "bias"
        if not any(name in weights for name in names):
            return None
        weight, bias = (weights.read(name).float() for name in names)
        check_finite({names[0]: weight, names[1]: bias}, folder)
        width = sizes_of(read_config(folder)).qformer.hidden_size
        check_shapes(
            {names[0]: (bias.numel(), width), names[1]: (bias.numel(),)},
            {names[0]: tuple(weight.shape), names[1]: tuple(bias.shape)},
            folder,
        )
        return weight, bias

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        sizes = sizes_of(config)
        with torch.device("meta"):
            vpg = cls(sizes)
        return vpg.facts(sizes.vision.image_size)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the ViT's last layer ``[B, N, C]``, before its last norm, in the ViT's dtype."""
        if self.waiting is not None:
            self._read_vit()
        kind = "cuda" if pixels.is_cuda else "cpu"  # a plan's "meta" device knows no autocast
        with torch.autocast(kind, enabled=False):  # it would cast every norm to fp32 and back
            embedded = self.vision_model.embeddings(pixels.to(self.vision_model.embeddings.class_embedding.dtype))
            return self.vision_model.encoder(inputs_embeds=embedded).last_hidden_state

    def prompts(self, features: Tensor) -> Tensor:
        """Features ``[B, N, C]`` through the last norm and the Q-Former to ``[B, Q, D]`` in fp32."""
        norm = self.vision_model.post_layernorm
        queries = self.query_tokens.expand(len(features), -1, -1)
        if torch.is_grad_enabled() and norm.weight.requires_grad:
            return ask_with_folded_norm(self.qformer, norm, queries, features).float()
        images = norm(features.to(norm.weight.dtype))
        return self.qformer(query_embeds=queries, encoder_hidden_states=images).last_hidden_state.float()

    @torch.no_grad()
    def attention_maps(self, features: Tensor) -> Tensor | None:
        """Shares ``[B, Q, H, W]`` of the queries' cross-attention, the mean over heads and layers; what goes to the
        class token lies nowhere in the picture."""
        norm = self.vision_model.post_layernorm
        config = self.qformer.config
        kernel, config._attn_implementation = config._attn_implementation, "eager"  # the others keep no weights
        try:
            asked = self.qformer(
                query_embeds=self.query_tokens.expand(len(features), -1, -1),
                encoder_hidden_states=norm(features.to(norm.weight.dtype)),
                output_attentions=True,
            )
        finally:
            config._attn_implementation = kernel
        looks = torch.stack([layer.mean(1) for layer in asked.cross_attentions]).mean(0)  # [B, Q, N]
        side = self.sizes.vision.image_size // self.sizes.vision.patch_size
        return looks[..., -side * side :].unflatten(-1, (side, side))

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if name.startswith(TRAINED))

    def train(self, mode: bool = True) -> QFormerVPG:
        """Set the Q-Former's dropout; the frozen ViT stays in evaluation mode."""
        super().train(mode)
        self.vision_model.eval()
        return self

    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_qformer.folder import save_blip2

        save_blip2(Path(folder), self, projector, llm, llm_reference)

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_qformer.folder import check_blip2

        check_blip2(Path(folder), self, projector, llm, llm_reference)

    def prepare_endpoint(self, folder: Path, ends: Sequence[int]) -> None:
        from vpg_qformer.endpoint import prepare_endpoint

        prepare_endpoint(Path(folder), self.preprocessing.size, self.num_prompts, ends)

    @classmethod
    def is_endpoint(cls, folder: Path) -> bool:
        from vpg_qformer.endpoint import is_prepared

        return is_prepared(Path(folder))

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        from vpg_qformer.part import save_part

        save_part(Path(folder), self, projector, references)

    def frozen_tensors(self) -> dict[str, Tensor]:
        """The ViT without its last norm, by name: as the source's files hold it where they are still at hand, so that
        a ViT that ran in half precision is not saved in it."""
        if self.folder is not None and self.folder.is_dir():
            return read_frozen(self.folder)
        return {name: value for name, value in self.state_dict().items() if not name.startswith(TRAINED)}

    def frozen_names(self) -> list[str]:
        """The names of what `frozen_tensors` returns."""
        return [name for name in self.state_dict() if is_frozen(name)]

    def trained_tensors(self) -> dict[str, Tensor]:
        """What stage 2 trains, by name, in fp32 on the CPU."""
        return {name: value.float().cpu() for name, value in self.state_dict().items() if name.startswith(TRAINED)}
