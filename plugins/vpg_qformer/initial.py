"""The sizes of a ViT + Q-Former that is made from nothing."""

from __future__ import annotations

from typing import Any

from vpg_qformer.config import FAMILY, FORMAT, MODEL_TYPES, PART, TOWER_FAMILY, TOWER_PART, sizes_of
from vpgtrans_core.cards import VPGSizes
from vpgtrans_core.errors import ConfigError, ModelError

IMAGE, PATCH, VISION_WIDTH, VISION_LAYERS = 96, 12, 192, 4
WIDTH, LAYERS, QUERIES = 192, 3, 16
"""The sizes where nothing is said: about 3.5 million parameters, for experiments on a CPU."""
BERT_SPREAD = 0.02 * 768**0.5
"""Standard deviation of fresh weights times the root of the width, as in BERT."""


def configured(sizes: VPGSizes, vision: dict[str, Any] | None, like: dict[str, Any] | None) -> dict[str, Any]:
    """The ``config.json`` of a VPG's folder; see `Pretraining.configure`."""
    known = sizes_of(like) if like else None
    tower = _tower(vision) if vision else None
    if tower and (given := [n for n in ("image_size", "patch_size") if getattr(sizes, n)] + _vision_sizes(sizes)):
        raise ConfigError([f"{name}: the vision tower has its own" for name in given], "leave these sizes out")
    own = tower or _vision(sizes, known.vision.to_dict() if known else {})
    qformer = _qformer(sizes, known.qformer.to_dict() if known else {}, own["hidden_size"])
    if problems := _problems(own, qformer, given_tower=bool(tower)):
        raise ConfigError(problems, "give other sizes")
    plain = not vision or vision.get("model_type") in MODEL_TYPES
    return {
        "model_type": PART if plain else TOWER_PART,
        "vpg_family": FAMILY if plain else TOWER_FAMILY,
        "format": FORMAT,
        "num_query_tokens": sizes.queries or (known.num_query_tokens if known else QUERIES),
        "vision_config": own,
        "qformer_config": qformer,
    }


def _vision_sizes(sizes: VPGSizes) -> list[str]:
    return [name for name in ("vision_width", "vision_layers", "vision_heads") if getattr(sizes, name)]


def _tower(config: dict[str, Any]) -> dict[str, Any]:
    """The vision tower's part of a model's config.

    Raises:
        ModelError: it has none that transformers can build alone, or one that gives no sequence of vectors.
    """
    if config.get("model_type") in MODEL_TYPES:
        vit = sizes_of(config).vision
        return vit.to_diff_dict() | {"hidden_size": vit.hidden_size}
    from transformers import AutoConfig

    inner = config.get("vision_config")
    plain = {k: v for k, v in (inner if isinstance(inner, dict) else config).items() if k != "architectures"}
    kind = str(plain.pop("model_type", "") or f"{config.get('model_type')}_vision_model")
    plain |= {"vision_use_head": False} if "vision_use_head" in plain or "siglip" in kind else {}
    try:
        full = AutoConfig.for_model(kind, **plain)
        made = {**full.to_diff_dict(), "model_type": full.model_type, "hidden_size": full.hidden_size}
        made |= {"image_size": int(full.image_size), "patch_size": int(full.patch_size)}
        sizes_of({"model_type": TOWER_PART, "vpg_family": TOWER_FAMILY, "format": FORMAT, "vision_config": made})
    except Exception as error:  # transformers refuses configs with many kinds of error
        raise ModelError(
            f"a model of the type {config.get('model_type')!r} has no vision tower that can be used: {error}",
            "give a folder with a CLIP, SigLIP, ViT or DINOv2 model",
        ) from error
    return made


def _vision(sizes: VPGSizes, known: dict[str, Any]) -> dict[str, Any]:
    return {
        **_block(
            known, sizes.vision_width or known.get("hidden_size", VISION_WIDTH), sizes.vision_layers, VISION_LAYERS,
            sizes.vision_heads,
        ),
        "image_size": sizes.image_size or known.get("image_size", IMAGE),
        "patch_size": sizes.patch_size or known.get("patch_size", PATCH),
    }  # fmt: skip


def _qformer(sizes: VPGSizes, known: dict[str, Any], vision_width: int) -> dict[str, Any]:
    block = _block(known, sizes.width or known.get("hidden_size", WIDTH), sizes.layers, LAYERS, sizes.heads)
    dropout = sizes.dropout if sizes.dropout is not None else known.get("hidden_dropout_prob", 0.0)
    return {
        **block,
        "encoder_hidden_size": vision_width,
        "cross_attention_frequency": known.get("cross_attention_frequency", 2),
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }


def _block(
    known: dict[str, Any], width: int, layers: int | None, usual_layers: int, heads: int | None
) -> dict[str, Any]:
    """The fields that both parts have; heads and the inner width of `known` fit its own width only."""
    known = known if known.get("hidden_size") in (None, width) else {"num_hidden_layers": known["num_hidden_layers"]}
    return {
        "hidden_size": width,
        "intermediate_size": known.get("intermediate_size", 4 * width),
        "num_hidden_layers": layers or known.get("num_hidden_layers", usual_layers),
        "num_attention_heads": heads or known.get("num_attention_heads") or _heads(width),
        "initializer_range": round(BERT_SPREAD / width**0.5, 4),
    }


def _heads(width: int) -> int:
    """So many heads that each is about 64 wide, 32 in small models."""
    wanted = 64 if width >= 512 else 32
    fitting = [heads for heads in range(1, width + 1) if width % heads == 0]
    return min(fitting, key=lambda heads: abs(width / heads - wanted))


def _problems(vision: dict[str, Any], qformer: dict[str, Any], *, given_tower: bool) -> list[str]:
    problems = []
    for name, part in (("vision_heads", vision), ("heads", qformer)):
        if name == "vision_heads" and given_tower:
            continue
        width, heads = part["hidden_size"], part["num_attention_heads"]
        if width % heads:
            problems.append(f"{name}: a width of {width} cannot be parted among {heads} heads")
    if not given_tower and vision["image_size"] % vision["patch_size"]:
        problems.append(
            f"patch_size: images of {vision['image_size']} pixels cannot be cut into patches of {vision['patch_size']}"
        )
    return problems
