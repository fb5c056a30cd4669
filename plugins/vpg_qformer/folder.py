"""The whole VL-LLM as the folder that transformers' ``Blip2ForConditionalGeneration`` loads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import Blip2Config, Blip2Processor

from vpg_qformer.images import image_processor, save_image_processor
from vpg_qformer.reading import PROJECTOR
from vpgtrans_core.files import LLM_PREFIX
from vpgtrans_core.llm.placing import state_of
from vpgtrans_core.llm.text import ImagePlace, Tokens
from vpgtrans_core.vpg.image_token import ImageToken, put_start_before_images, with_image_token
from vpgtrans_core.vpg.whole import check_width, generation_config, used_ids
from vpgtrans_core.vpg.writing import check_whole, name_inner, padding, with_rows, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vpg_qformer.adapter import QFormerVPG
    from vpgtrans_core.llm.adapter import LLM


def save_blip2(folder: Path, vpg: QFormerVPG, projector: nn.Linear, llm: LLM, llm_reference: dict[str, Any]) -> None:
    """Write config, weights, processor, tokenizer and generation config.

    The frozen ViT and LLM are written in the LLM's precision, what was trained in fp32. A quantised LLM is written from
    the folder that `llm_reference` names.

    Raises:
        ModelError: the LLM cannot stand in a BLIP-2 folder, or the unquantised LLM is not at hand.
    """
    write_whole(
        folder,
        llm,
        llm_reference,
        lambda model: _save_settings(folder, vpg, projector, llm, model, llm_reference),
        lambda model, rows: _tensors(vpg, projector, model, rows),
    )


def check_blip2(folder: Path, vpg: QFormerVPG, projector: nn.Linear, llm: LLM, llm_reference: dict[str, Any]) -> None:
    """Write all that `save_blip2` writes but the tensors, to learn whether it can.

    Raises:
        ModelError: see `save_blip2`. transformers raises errors of its own, too.
    """
    check_whole(llm, llm_reference, lambda model: _save_settings(folder, vpg, projector, llm, model, llm_reference))


def _save_settings(
    folder: Path, vpg: QFormerVPG, projector: nn.Linear, llm: LLM, model: PreTrainedModel, reference: dict[str, Any]
) -> Blip2Config:
    """Write config, generation config and processor; return the config."""
    settings = llm.generation_settings()
    check_width(model, projector, "BLIP-2")
    token = with_image_token(llm.tokenizer, model.config.vocab_size, used_ids(model, settings))
    config = _config(model, vpg, token, settings, reference)
    start = _start_before_images(llm)
    if not model.config.is_encoder_decoder:
        config.bos = llm.family.bos
    if start:
        config.text_config.bos_token_id = None  # else a generation without input ids would begin in the other order
    config.save_pretrained(folder)
    generation_config(settings, token).save_pretrained(folder)
    _processor(vpg, token, settings, start, seq2seq=model.config.is_encoder_decoder).save_pretrained(folder)
    save_image_processor(folder, vpg.preprocessing)  # where readers older than processor_config.json look
    return config


def _start_before_images(llm: LLM) -> tuple[int, ...]:
    """The tokens that the LLM reads before an image when it describes one."""
    pieces = llm.text.prompt_text("").pieces
    before = pieces[: pieces.index(ImagePlace())]
    return tuple(i for piece in before if isinstance(piece, Tokens) for i in piece.ids)


def _config(
    model: PreTrainedModel, vpg: QFormerVPG, token: ImageToken, settings: dict[str, Any], reference: dict[str, Any]
) -> Blip2Config:
    text = name_inner(copy.deepcopy(model.config), model, token, settings, reference)
    # Without a prompt transformers starts the text with this token: an encoder's text is then just its end.
    start = text.eos_token_id if text.is_encoder_decoder else getattr(text, "bos_token_id", None)
    start = text.eos_token_id if start is None else start
    text.bos_token_id = start[-1] if isinstance(start, list) else start
    config = Blip2Config(
        vision_config=vpg.sizes.vision.to_dict(),
        qformer_config=vpg.sizes.qformer.to_dict(),
        text_config=text,
        num_query_tokens=vpg.num_prompts,
        image_token_index=token.id,
    )
    config.architectures = ["Blip2ForConditionalGeneration"]
    config.dtype = model.dtype
    return config


def _tensors(vpg: QFormerVPG, projector: nn.Linear, model: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """All tensors under transformers' names; of tied ones the first, which is the input embedding.

    `rows` is how many rows the table and the head shall have.
    """
    tensors = {name: value.to(model.dtype) for name, value in vpg.frozen_tensors().items()} | vpg.trained_tensors()
    tensors |= {PROJECTOR + name: value.float() for name, value in projector.state_dict().items()}
    state, words = state_of(model), (model.get_input_embeddings(), model.get_output_embeddings())
    names = tuple(f"{name}." for name, module in model.named_modules() if module in words)
    tables = {value.data_ptr() for name, value in state.items() if name.startswith(names)}
    seen = set()
    for name, value in state.items():
        if value.data_ptr() not in seen or value.numel() == 0:
            tensors[LLM_PREFIX + name] = with_rows(value, rows) if value.data_ptr() in tables else value
        seen.add(value.data_ptr())
    return tensors


def _processor(
    vpg: QFormerVPG, token: ImageToken, settings: dict[str, Any], start: tuple[int, ...], *, seq2seq: bool
) -> Blip2Processor:
    """The processor. It puts image tokens before whatever the tokenizer makes of a text, start token included; where
    the start stands before them, the tokenizer itself adds both and the processor none."""
    tokenizer, own = token.tokenizer, vpg.num_prompts
    if start:
        tokenizer, own = put_start_before_images(token, start, vpg.num_prompts), 0
    tokenizer = padding(tokenizer, settings, "right" if seq2seq else "left")
    return Blip2Processor(image_processor(vpg.preprocessing), tokenizer, num_query_tokens=own)
