"""The names and sizes of the paper's code (LAVIS), and what they are in transformers' format."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpg_qformer.config import BLIP2, Sizes, sizes_of
from vpg_qformer.reading import PROJECTOR, TEXT_BRANCH
from vpgtrans_core.errors import ModelError
from vpgtrans_core.weights import read_json

VIT = "visual_encoder."
POSITIONS = "Qformer.bert.embeddings.position_ids"
LN_VISION_EPS = 1e-5
"""LAVIS leaves ``ln_vision`` torch's eps, unlike the ViT's 1e-6."""

PAIRS = (
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.*", "vision_model.embeddings.patch_embedding.*"),
    ("visual_encoder.blocks.#.norm1.*", "vision_model.encoder.layers.#.layer_norm1.*"),
    ("visual_encoder.blocks.#.norm2.*", "vision_model.encoder.layers.#.layer_norm2.*"),
    ("visual_encoder.blocks.#.attn.qkv.*", "vision_model.encoder.layers.#.self_attn.qkv.*"),
    ("visual_encoder.blocks.#.attn.proj.*", "vision_model.encoder.layers.#.self_attn.projection.*"),
    ("visual_encoder.blocks.#.mlp.*", "vision_model.encoder.layers.#.mlp.*"),
    ("ln_vision.*", "vision_model.post_layernorm.*"),
    ("query_tokens", "query_tokens"),
    ("Qformer.bert.embeddings.LayerNorm.*", "qformer.layernorm.*"),
    ("Qformer.bert.encoder.layer.#.attention.self.*", "qformer.encoder.layer.#.attention.attention.*"),
    ("Qformer.bert.encoder.layer.#.crossattention.self.*", "qformer.encoder.layer.#.crossattention.attention.*"),
    ("Qformer.bert.encoder.layer.#.*", "qformer.encoder.layer.#.*"),
)
"""LAVIS's name and ours, the first that fits; ``#`` is a layer's number, ``*`` the rest."""

PROJECTORS = {"opt_proj.": "opt", "t5_proj.": "t5", "llama_proj.": "llama"}
"""The projector's name in LAVIS, and the model type of the LLM that it leads to."""

DROPPED = {
    "frozen LLM": re.compile(r"(opt|t5|llama)_model\."),
    "positions": re.compile(re.escape(POSITIONS)),
    "text branch of pre-training": re.compile(
        r"Qformer\.bert\.embeddings\.(word|position)_embeddings\.|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\."
        r"|Qformer\.cls\.|vision_proj\.|text_proj\.|itm_head\.|temp$"
    ),
    "head of the ViT": re.compile(r"visual_encoder\.(norm|fc_norm|head)\.|visual_encoder\.mask_token$"),
}
"""What a checkpoint may hold beside VPG and projector, by exact prefix: never loaded."""

EVA_G = {"width": 1408, "blocks": 40, "used": 39}
"""EVA-CLIP ViT-g's own file has 40 blocks; LAVIS leaves the last one out."""
HEADS = {1408: 16, 768: 12}
"""Attention heads by width (ViT-g, BERT-base): they do not show in the tensors."""


def to_ours(name: str) -> str | None:
    """Our name of a LAVIS tensor of the VPG or projector, or None."""
    for prefix in PROJECTORS:
        if name.startswith(prefix):
            return PROJECTOR + name.removeprefix(prefix)
    return _translate(name, PAIRS)


def to_lavis(name: str, projector: str) -> str | None:
    """LAVIS's name of one of our tensors, with `projector` as the prefix of the projector's; None for others."""
    if name.startswith(PROJECTOR):
        return projector + name.removeprefix(PROJECTOR)
    return None if TEXT_BRANCH.match(name) else _translate(name, [(ours, lavis) for lavis, ours in PAIRS])


def why_dropped(name: str) -> str | None:
    """Why a LAVIS tensor is not loaded, or None when it is."""
    return next((why for why, pattern in DROPPED.items() if pattern.match(name)), None)


def with_qkv_bias(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the ViT's ``q_bias`` and ``v_bias`` by ``qkv.bias``, in which the keys' part is zero."""
    result = {}
    for name, value in tensors.items():
        if name.endswith("attn.q_bias"):
            other = tensors.get(name.replace("q_bias", "v_bias"))
            if other is not None:
                result[name.replace("q_bias", "qkv.bias")] = torch.cat([value, torch.zeros_like(value), other])
        elif not name.endswith("attn.v_bias"):
            result[name] = value
    return result


def without_qkv_bias(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `with_qkv_bias`.

    Raises:
        ModelError: the keys have a bias, for which LAVIS has no place.
    """
    result = {}
    for name, value in tensors.items():
        if not name.endswith("attn.qkv.bias"):
            result[name] = value
            continue
        queries, keys, values = value.chunk(3)
        if keys.any():
            raise ModelError(f"{name}: the keys have a bias, and LAVIS's ViT has none", "export to hf or vpg instead")
        result |= {name.replace("qkv.bias", "q_bias"): queries, name.replace("qkv.bias", "v_bias"): values}
    return result


def detect_sizes(tensors: dict[str, Tensor], shapes: dict[str, Any] | None) -> Sizes:
    """The sizes of a ViT + Q-Former, from tensors under LAVIS's names and, where given, a shapes file.

    Raises:
        ModelError: the tensors do not tell, and no shapes are given.
    """
    try:
        vision, qformer = _from_tensors(tensors)
    except KeyError as error:
        raise ModelError(
            f"the files lack {error.args[0]}, so the sizes of the ViT and Q-Former cannot be known",
            "give the ViT's file with --vit; a file with the projector alone (stage 1) needs the model that it was "
            "trained from, as --vpg, or goes to --projector beside the .pth that holds the Q-Former",
        ) from None
    queries = tensors["query_tokens"].shape[1]
    if shapes:
        queries = shapes.get("num_query_token", queries)
        vision |= _vit_shapes(shapes.get("vit", {}), shapes)
        qformer |= _bert_shapes(shapes.get("bert", {}), shapes)
    for part, what in ((vision, "ViT"), (qformer, "Q-Former")):
        if part.get("num_attention_heads") is None:
            raise ModelError(
                f"a {what} of width {part['hidden_size']}: the tensors do not tell its number of attention heads",
                "give it in a file with --shapes: "
                + json.dumps({"vit": {"num_heads": 16}, "bert": {"num_attention_heads": 12}}),
            )
    return sizes_of(
        {"model_type": BLIP2, "num_query_tokens": queries, "vision_config": vision, "qformer_config": qformer}
    )


def read_shapes(path: str | Path | None) -> dict[str, Any] | None:
    """A shapes file: ``{"vit": {...}, "bert": {...}, "num_query_token": ..}`` with LAVIS's words.

    Raises:
        ModelError: it cannot be read, or holds other things.
    """
    if path is None:
        return None
    shapes = read_json(Path(path))
    groups = [shapes.get("vit", {}), shapes.get("bert", {})]
    numbers = [v for k, v in shapes.items() if k not in ("vit", "bert")]
    if not all(isinstance(g, dict) for g in groups):
        raise ModelError(f"{path}: 'vit' and 'bert' must be objects")
    numbers += [value for group in groups for value in group.values()]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0 for n in numbers):
        raise ModelError(f"{path}: every size must be a number above 0")
    return shapes


def _translate(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    for left, right in pairs:
        pattern = re.escape(left).replace(r"\#", "#").replace("#", r"(\d+)").replace(r"\*", "(.+)")
        if match := re.fullmatch(pattern, name):
            for group in match.groups():
                right = re.sub(r"[#*]", group, right, count=1)
            return right
    return None


def _from_tensors(tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    patches = tensors["visual_encoder.patch_embed.proj.weight"]
    side = math.isqrt(tensors["visual_encoder.pos_embed"].shape[1] - 1)
    width, patch = patches.shape[0], patches.shape[-1]
    vision = {
        "hidden_size": width,
        "patch_size": patch,
        "image_size": side * patch,
        "intermediate_size": tensors["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _layers(tensors, "visual_encoder.blocks."),
        "num_attention_heads": HEADS.get(width),
        "layer_norm_eps": 1e-6,
        "post_layernorm_eps": LN_VISION_EPS,
    }
    if (width, vision["num_hidden_layers"]) == (EVA_G["width"], EVA_G["blocks"]):
        vision["num_hidden_layers"] = EVA_G["used"]
    layer = "Qformer.bert.encoder.layer."
    crossed = [i for i in range(_layers(tensors, layer)) if f"{layer}{i}.crossattention.self.query.weight" in tensors]
    hidden = tensors["query_tokens"].shape[-1]
    qformer = {
        "hidden_size": hidden,
        "intermediate_size": tensors[f"{layer}0.intermediate_query.dense.weight"].shape[0],
        "num_hidden_layers": _layers(tensors, layer),
        "num_attention_heads": HEADS.get(hidden),
        "cross_attention_frequency": crossed[1] - crossed[0] if len(crossed) > 1 else _layers(tensors, layer),
        "encoder_hidden_size": width,
    }
    if POSITIONS in tensors:
        qformer["max_position_embeddings"] = tensors[POSITIONS].shape[-1]
    return vision, qformer


def _layers(tensors: dict[str, Tensor], prefix: str) -> int:
    numbers = {int(n.removeprefix(prefix).split(".")[0]) for n in tensors if n.startswith(prefix)}
    return max(numbers, default=-1) + 1


def _vit_shapes(vit: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    names = {
        "img_size": "image_size",
        "patch_size": "patch_size",
        "embed_dim": "hidden_size",
        "depth": "num_hidden_layers",
        "num_heads": "num_attention_heads",
    }
    found = {names[k]: v for k, v in vit.items() if k in names}
    if "embed_dim" in vit and "mlp_ratio" in vit:
        found["intermediate_size"] = int(vit["embed_dim"] * vit["mlp_ratio"])
    eps = {"vit_layer_norm_eps": "layer_norm_eps", "ln_vision_eps": "post_layernorm_eps"}
    return found | {ours: shapes[name] for name, ours in eps.items() if name in shapes}


def _bert_shapes(bert: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    found = {name: bert[name] for name in (*same, "max_position_embeddings") if name in bert}
    other = {"cross_attention_freq": "cross_attention_frequency", "qformer_layer_norm_eps": "layer_norm_eps"}
    return found | {ours: shapes[name] for name, ours in other.items() if name in shapes}
