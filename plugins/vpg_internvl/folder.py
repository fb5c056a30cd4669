"""An InternVL as the folder that transformers' ``InternVLForConditionalGeneration`` loads, and its VPG alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, LlavaProcessor

from vpg_internvl.names import HEAD, LAYER, NORM, PART, PROJECTOR, TRUNK
from vpg_internvl.preprocessing import image_processor
from vpgtrans_core.vpg.image_token import IMAGE, ImageToken, with_image_token
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

    from vpg_internvl.adapter import InternVLVPG
    from vpgtrans_core.cards import BosOrder
    from vpgtrans_core.llm.adapter import LLM

TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": (28, 28),
    "patch_size": (14, 14),
}


def why_not_whole(llm: PreTrainedConfig) -> str | None:
    """Why InternVL's class cannot hold an LLM of this config; see `VPG.why_not_whole`."""
    return why_other_logits(llm, _tiny)


def _tiny(text: PreTrainedConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
    config = InternVLConfig(
        vision_config=TINY_VISION,
        text_config=text.to_dict(),
        image_token_id=text.vocab_size - 1,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    model: Any = InternVLForConditionalGeneration(config)
    return model, model.model.language_model, model.lm_head


def save_internvl(folder: Path, vpg: InternVLVPG, projector: nn.Linear, llm: LLM, reference: dict[str, Any]) -> None:
    """Write config, weights, processor, tokenizer and generation config.

    The frozen ViT and LLM are written in the LLM's precision, what was trained in fp32.

    Raises:
        ModelError: the LLM cannot stand in an InternVL folder, or the unquantised LLM is not at hand.
    """
    write_whole(
        folder,
        llm,
        reference,
        lambda model: _save_settings(folder, vpg, projector, llm, model, reference),
        lambda model, rows: _tensors(vpg, projector, model, rows),
    )


def check_internvl(folder: Path, vpg: InternVLVPG, projector: nn.Linear, llm: LLM, reference: dict[str, Any]) -> None:
    """Write all that `save_internvl` writes but the tensors, to learn whether it can."""
    check_whole(llm, reference, lambda model: _save_settings(folder, vpg, projector, llm, model, reference))


def save_part(folder: Path, vpg: InternVLVPG, projector: nn.Linear | None, references: dict[str, Any]) -> None:
    """Write VPG and projector without the LLM; the ViT is always written along."""
    config = {"model_type": PART, "vision_config": vpg.vision.to_dict(), HIDDEN: vpg.output_size, **vpg.settings}
    write_part(folder, vpg, projector, PROJECTOR, references, config)
    image_processor(vpg.preprocessing).save_pretrained(folder)


def _save_settings(
    folder: Path, vpg: InternVLVPG, projector: nn.Linear, llm: LLM, model: PreTrainedModel, reference: dict[str, Any]
) -> InternVLConfig:
    """Write config, generation config and processor; return the config."""
    settings = llm.generation_settings()
    check_width(model, projector, "InternVL")
    check_units(vpg.output_size, projector, "InternVL")
    token = with_image_token(llm.tokenizer, model.config.vocab_size, used_ids(model, settings))
    config = _config(model, vpg, token, settings, reference, llm.family.bos)
    config.save_pretrained(folder)
    generation_config(settings, token).save_pretrained(folder)
    _processor(vpg, token, llm, settings).save_pretrained(folder)
    image_processor(vpg.preprocessing).save_pretrained(folder)
    return config


def _config(
    model: PreTrainedModel,
    vpg: InternVLVPG,
    token: ImageToken,
    settings: dict[str, Any],
    reference: dict[str, Any],
    bos: BosOrder,
) -> InternVLConfig:
    text = name_inner(written_config(model.config), model, token, settings, reference)
    config = InternVLConfig(
        vision_config=vpg.vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=token.id,
        image_seq_length=vpg.num_prompts,
        tie_word_embeddings=False,  # the head is written, too
        **vpg.settings,
    )
    setattr(config, HIDDEN, vpg.output_size)
    config.bos = bos
    config.architectures = ["InternVLForConditionalGeneration"]
    config.dtype = model.dtype
    return config


def _tensors(vpg: InternVLVPG, projector: nn.Linear, model: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """All tensors under the names of InternVL's files. The MLP's hidden layer is filled up to the LLM's width with
    units that nothing reads; a row of the table for ``<image>`` is the mean of the others."""
    missing = projector.out_features - vpg.output_size
    tensors = last_layer_tensors(projector, PROJECTOR)
    for name, value in vpg.state_dict().items():
        if name.startswith(LAYER):
            tensors[name] = filled(value.float(), missing)
        else:
            tensors[name] = value.float() if name.startswith(NORM) else value.to(model.dtype)
    return tensors | bare_llm_tensors(model, TRUNK, HEAD, rows)


def _processor(vpg: InternVLVPG, token: ImageToken, llm: LLM, settings: dict[str, Any]) -> LlavaProcessor:
    # The family's own processor puts words of InternVL's around an image, which other LLMs were never taught.
    side = round(vpg.num_prompts**0.5)
    return LlavaProcessor(
        image_processor=image_processor(vpg.preprocessing),
        tokenizer=padding(token.tokenizer, settings),
        patch_size=vpg.preprocessing.size // side,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE,
        chat_template=image_template(llm),
    )
