"""An Idefics3 as the folder that transformers' ``Idefics3ForConditionalGeneration`` loads, and its VPG alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlavaProcessor

from vpg_idefics3.names import HEAD, PART, PROJECTOR, TRAINED, TRUNK
from vpg_idefics3.preprocessing import image_processor
from vpgtrans_core.files import REFERENCES, fsync, write_json
from vpgtrans_core.llm.text import ImagePlace, Piece, Tokens
from vpgtrans_core.vpg.image_token import IMAGE, ImageToken, with_image_token
from vpgtrans_core.vpg.whole import (
    bare_tensors,
    check_loadable,
    check_width,
    generation_config,
    unquantised,
    unquantised_place,
    used_ids,
    why_other_logits,
    written_config,
    written_head,
)
from vpgtrans_core.weights import save_model_tensors, save_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from vpg_idefics3.adapter import Idefics3VPG
    from vpgtrans_core.cards import BosOrder
    from vpgtrans_core.llm.adapter import LLM

TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def why_not_whole(llm: PreTrainedConfig) -> str | None:
    """Why Idefics3's class cannot hold an LLM of this config; see `VPG.why_not_whole`."""
    return why_other_logits(llm, _tiny)


def _tiny(text: PreTrainedConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
    config = Idefics3Config(vision_config=TINY_VISION, text_config=text.to_dict(), image_token_id=text.vocab_size - 1)
    config._attn_implementation = "eager"
    model: Any = Idefics3ForConditionalGeneration(config)
    return model, model.model.text_model, model.lm_head


def save_idefics3(folder: Path, vpg: Idefics3VPG, projector: nn.Linear, llm: LLM, reference: dict[str, Any]) -> None:
    """Write config, weights, processor, tokenizer and generation config.

    The frozen ViT and LLM are written in the LLM's precision, what was trained in fp32.

    Raises:
        ModelError: the LLM cannot stand in an Idefics3 folder, or the unquantised LLM is not at hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = unquantised(llm, reference)
    check_loadable(model)
    config = _save_settings(folder, vpg, projector, llm, model, reference)
    save_model_tensors(folder, _tensors(vpg, projector, model, rows=config.text_config.vocab_size))
    for file in folder.iterdir():
        fsync(file)


def check_idefics3(folder: Path, vpg: Idefics3VPG, projector: nn.Linear, llm: LLM, reference: dict[str, Any]) -> None:
    """Write all that `save_idefics3` writes but the tensors, to learn whether it can."""
    if unquantised_place(llm, reference) is None:
        check_loadable(llm.model)
    _save_settings(folder, vpg, projector, llm, llm.model, reference)


def save_part(folder: Path, vpg: Idefics3VPG, projector: nn.Linear | None, references: dict[str, Any]) -> None:
    """Write VPG and projector without the LLM; the ViT is always written along."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.cpu() for name, value in vpg.state_dict().items()}
    if projector is not None:
        tensors |= {PROJECTOR + name: value.float().cpu() for name, value in projector.state_dict().items()}
    save_tensors(folder / "vpg.safetensors", tensors)
    image_processor(vpg.preprocessing).save_pretrained(folder)
    references = {name: value for name, value in references.items() if name != "vit"}
    if references:
        write_json(folder / REFERENCES, references)
    write_json(
        folder / "config.json",
        {"model_type": PART, "vision_config": vpg.vision.to_dict(), "scale_factor": vpg.scale},
    )


def _save_settings(
    folder: Path, vpg: Idefics3VPG, projector: nn.Linear, llm: LLM, model: PreTrainedModel, reference: dict[str, Any]
) -> Idefics3Config:
    """Write config, generation config and processor; return the config."""
    settings = llm.generation_settings()
    check_width(model, projector, "Idefics3")
    token = with_image_token(llm.tokenizer, model.config.vocab_size, used_ids(model, settings))
    config = _config(model, vpg, token, settings, reference, llm.family.bos)
    config.save_pretrained(folder)
    generation_config(settings, token).save_pretrained(folder)
    _processor(vpg, token, llm, settings).save_pretrained(folder)
    image_processor(vpg.preprocessing).save_pretrained(folder)
    return config


def _config(
    model: PreTrainedModel,
    vpg: Idefics3VPG,
    token: ImageToken,
    settings: dict[str, Any],
    reference: dict[str, Any],
    bos: BosOrder,
) -> Idefics3Config:
    text = written_config(model.config)
    text.architectures = [type(model).__name__]
    text._name_or_path = reference.get("id") or ""  # not the folder that it was loaded from: that is nobody else's
    for name, value in settings.items():
        setattr(text, name, value)
    text.vocab_size = max(text.vocab_size, token.id + 1)
    config = Idefics3Config(
        vision_config=vpg.vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=token.id,
        scale_factor=vpg.scale,
    )
    config.bos = bos
    config.architectures = ["Idefics3ForConditionalGeneration"]
    config.dtype = model.dtype
    return config


def _tensors(vpg: Idefics3VPG, projector: nn.Linear, model: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """All tensors under the names of Idefics3's files; a row of the table for ``<image>`` is the mean of the others."""
    tensors = {
        name: value.float() if name.startswith(TRAINED) else value.to(model.dtype)
        for name, value in vpg.state_dict().items()
    }
    tensors[PROJECTOR + "weight"] = projector.weight.detach().float()
    table = model.get_input_embeddings().weight
    for name, value in bare_tensors(model).items():
        tensors[TRUNK + name] = _grown(value, rows) if value.data_ptr() == table.data_ptr() else value
    tensors[HEAD + "weight"] = _grown(written_head(model).detach(), rows).clone()
    return tensors


def _grown(value: Tensor, rows: int) -> Tensor:
    missing = rows - len(value)
    return (
        torch.cat([value, *[value.float().mean(0, keepdim=True).to(value.dtype)] * missing]) if missing > 0 else value
    )


def _processor(vpg: Idefics3VPG, token: ImageToken, llm: LLM, settings: dict[str, Any]) -> LlavaProcessor:
    tokenizer = token.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(settings["pad_token_id"])
    tokenizer.padding_side = "left"
    # The family's own processor puts words of SmolVLM's around an image, which other LLMs were never taught.
    return LlavaProcessor(
        image_processor=image_processor(vpg.preprocessing),
        tokenizer=tokenizer,
        patch_size=vpg.vision.patch_size * vpg.scale,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE,
        chat_template=_template(llm),
    )


def _template(llm: LLM) -> str:
    """A chat template that asks as this model was trained: its start token before or after an image, as the LLM had it,
    then of each message its images and words."""
    pieces = llm.text.prompt_text("").pieces
    place = pieces.index(ImagePlace())
    before, after = (_spelled(llm, part) for part in (pieces[:place], pieces[place + 1 :]))
    return (
        before + "{%- for message in messages -%}{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'image' -%}" + IMAGE + after + "{%- elif part['type'] == 'text' -%}{{ part['text'] }}"
        "{%- endif -%}{%- endfor -%}{%- endfor -%}"
    )


def _spelled(llm: LLM, pieces: Sequence[Piece]) -> str:
    ids = [i for piece in pieces if isinstance(piece, Tokens) for i in piece.ids]
    return "".join(llm.tokenizer.convert_ids_to_tokens(ids))
