"""A LLaVA as the folder that transformers' ``LlavaForConditionalGeneration`` loads, and its VPG alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from vpg_llava.names import HEAD, HIDDEN, PART, PROJECTOR, TOWER, TRAINED, TRUNK
from vpg_llava.preprocessing import FILE, image_processor
from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.image_token import IMAGE, ImageToken, with_image_token
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


def why_not_whole(llm: PreTrainedConfig) -> str | None:
    """Why LLaVA's class cannot hold an LLM of this config; see `VPG.why_not_whole`."""
    return why_other_logits(llm, _tiny)


def _tiny(text: PreTrainedConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
    config = LlavaConfig(vision_config=TINY_VISION, text_config=text.to_dict(), image_token_index=text.vocab_size - 1)
    config._attn_implementation = "eager"
    model: Any = LlavaForConditionalGeneration(config)
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
    config = {"model_type": PART, "vision_config": vpg.vision.to_dict(), HIDDEN: vpg.output_size, **vpg.settings}
    write_part(folder, vpg, projector, PROJECTOR, references, config)
    image_processor(vpg.preprocessing).save_pretrained(folder)


def _save_settings(
    folder: Path, vpg: LlavaVPG, projector: nn.Linear, llm: LLM, model: PreTrainedModel, reference: dict[str, Any]
) -> LlavaConfig:
    """Write config, generation config and processor; return the config."""
    settings = llm.generation_settings()
    check_width(model, projector, "LLaVA")
    if vpg.output_size > projector.out_features:
        raise ModelError(
            f"the MLP's hidden layer has {vpg.output_size} units, and transformers' LLaVA has the LLM's width there, "
            f"{projector.out_features}",
            "save with --save vpg instead, or start the run anew with --save model",
        )
    token = with_image_token(llm.tokenizer, model.config.vocab_size, used_ids(model, settings))
    config = _config(model, vpg, token, settings, reference, llm.family.bos)
    config.save_pretrained(folder)
    generation_config(settings, token).save_pretrained(folder)
    _processor(vpg, token, llm, settings).save_pretrained(folder)
    image_processor(vpg.preprocessing).save_pretrained(folder)  # FILE, where readers look first
    assert (folder / FILE).is_file()
    return config


def _config(
    model: PreTrainedModel,
    vpg: LlavaVPG,
    token: ImageToken,
    settings: dict[str, Any],
    reference: dict[str, Any],
    bos: BosOrder,
) -> LlavaConfig:
    text = name_inner(written_config(model.config), model, token, settings, reference)
    config = LlavaConfig(
        vision_config=vpg.vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=token.id,
        image_seq_length=vpg.num_prompts,
        **vpg.settings,
    )
    setattr(config, HIDDEN, vpg.output_size)
    config.bos = bos
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = model.dtype
    return config


def _tensors(vpg: LlavaVPG, projector: nn.Linear, model: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """All tensors under the names of LLaVA's files. The MLP's hidden layer is filled up to the LLM's width with units
    that nothing reads; a row of the table for ``<image>`` is the mean of the others."""
    width, units = projector.out_features, vpg.output_size
    tensors = {}
    for name, value in vpg.state_dict().items():
        trained = name.startswith(TRAINED)
        tensors[name] = _filled(value.float(), width - units) if trained else value.to(model.dtype)
    tensors[PROJECTOR + "weight"] = _filled(projector.weight.detach().float().T, width - units).T.contiguous()
    tensors[PROJECTOR + "bias"] = projector.bias.detach().float()
    tensors |= bare_llm_tensors(model, TRUNK, HEAD, rows)
    assert any(name.startswith(TOWER) for name in tensors)
    return tensors


def _filled(value: Tensor, rows: int) -> Tensor:
    """The tensor with `rows` rows of zeros behind it."""
    return torch.cat([value, value.new_zeros(rows, *value.shape[1:])]) if rows else value


def _processor(vpg: LlavaVPG, token: ImageToken, llm: LLM, settings: dict[str, Any]) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=image_processor(vpg.preprocessing),
        tokenizer=padding(token.tokenizer, settings),
        patch_size=vpg.vision.patch_size,
        vision_feature_select_strategy=vpg.settings["vision_feature_select_strategy"],
        num_additional_image_tokens=int(vpg.vision.model_type == "clip_vision_model"),
        image_token=IMAGE,
        chat_template=image_template(llm),
    )
