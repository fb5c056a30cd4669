"""A LLaVA of any kind as the folder that transformers' class loads, and its VPG alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vpg_llava.classes import CLASSES, Classes, image_processor, save_processor
from vpg_llava.names import HEAD, LLAVA, PROJECTOR, TOWER, TRAINED, TRUNK
from vpgtrans_core.vpg.image_token import ImageToken, with_image_token
from vpgtrans_core.vpg.mlp import HIDDEN, check_units, filled, last_layer_tensors
from vpgtrans_core.vpg.whole import check_width, generation_config, used_ids, why_other_logits, written_config
from vpgtrans_core.vpg.writing import (
    bare_llm_tensors,
    check_whole,
    image_template,
    name_inner,
    padding,
    write_part,
    write_whole,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from vpg_llava.adapter import LlavaVPG
    from vpgtrans_core.cards import BosOrder
    from vpgtrans_core.llm.adapter import LLM

TINY_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def why_not_whole(llm: PreTrainedConfig, kind: str = LLAVA) -> str | None:
    """Why LLaVA's class of this kind cannot hold an LLM of this config; see `VPG.why_not_whole`."""
    return why_other_logits(llm, lambda text: _tiny(text, CLASSES[kind]))


def _tiny(text: PreTrainedConfig, classes: Classes) -> tuple[nn.Module, nn.Module, nn.Module]:
    config = classes.config(
        vision_config=TINY_VISION,
        text_config=text.to_dict(),
        image_token_index=text.vocab_size - 1,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    model: Any = classes.model(config)
    return model, model.model.language_model, model.lm_head


def save_llava(folder: Path, vpg: LlavaVPG, projector: nn.Linear, llm: LLM, reference: dict[str, Any]) -> None:
    """Write config, weights, processor, tokenizer and generation config.

    The frozen ViT and LLM are written in the LLM's precision, what was trained in fp32.

    Raises:
        ModelError: the LLM cannot stand in a LLaVA folder, or the unquantised LLM is not at hand.
    """
    write_whole(
        folder,
        llm,
        reference,
        lambda model: _save_settings(folder, vpg, projector, llm, model, reference),
        lambda model, rows: _tensors(vpg, projector, model, rows),
    )


def check_llava(folder: Path, vpg: LlavaVPG, projector: nn.Linear, llm: LLM, reference: dict[str, Any]) -> None:
    """Write all that `save_llava` writes but the tensors, to learn whether it can."""
    check_whole(llm, reference, lambda model: _save_settings(folder, vpg, projector, llm, model, reference))


def save_part(folder: Path, vpg: LlavaVPG, projector: nn.Linear | None, references: dict[str, Any]) -> None:
    """Write VPG and projector without the LLM; the ViT is always written along."""
    config = {"model_type": vpg.part, "vision_config": vpg.vision.to_dict(), HIDDEN: vpg.output_size, **vpg.settings}
    write_part(folder, vpg, projector, PROJECTOR, references, config)
    image_processor(vpg.preprocessing).save_pretrained(folder)


def _save_settings(
    folder: Path, vpg: LlavaVPG, projector: nn.Linear, llm: LLM, model: PreTrainedModel, reference: dict[str, Any]
) -> Any:
    """Write config, generation config and processor; return the config."""
    settings = llm.generation_settings()
    check_width(model, projector, CLASSES[vpg.kind].name)
    check_units(vpg.output_size, projector, CLASSES[vpg.kind].name)
    token = with_image_token(llm.tokenizer, model.config.vocab_size, used_ids(model, settings))
    config = _config(model, vpg, token, settings, reference, llm.family.bos)
    config.save_pretrained(folder)
    generation_config(settings, token).save_pretrained(folder)
    save_processor(folder, vpg, padding(token.tokenizer, settings), image_template(llm))
    return config


def _config(
    model: PreTrainedModel,
    vpg: LlavaVPG,
    token: ImageToken,
    settings: dict[str, Any],
    reference: dict[str, Any],
    bos: BosOrder,
) -> Any:
    text = name_inner(written_config(model.config), model, token, settings, reference)
    config = CLASSES[vpg.kind].config(
        vision_config=vpg.vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=token.id,
        image_seq_length=vpg.num_prompts,
        tie_word_embeddings=False,  # the head is written, too
        **vpg.settings,
    )
    setattr(config, HIDDEN, vpg.output_size)
    config.bos = bos
    config.architectures = [CLASSES[vpg.kind].model.__name__]
    config.dtype = model.dtype
    return config


def _tensors(vpg: LlavaVPG, projector: nn.Linear, model: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """All tensors under the names of LLaVA's files. The MLP's hidden layer is filled up to the LLM's width with units
    that nothing reads; a row of the table for ``<image>`` is the mean of the others."""
    missing = projector.out_features - vpg.output_size
    tensors = last_layer_tensors(projector, PROJECTOR)
    for name, value in vpg.state_dict().items():
        tensors[name] = filled(value.float(), missing) if name.startswith(TRAINED) else value.to(model.dtype)
    tensors |= vpg.written(projector) | bare_llm_tensors(model, TRUNK, HEAD, rows)
    assert any(name.startswith(TOWER) for name in tensors)
    return tensors
