"""What the families write alike: the order of a whole folder, the LLM's part of its config and tensors, a VPG alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpgtrans_core.files import REFERENCES, fsync, write_json
from vpgtrans_core.llm.text import ImagePlace, Piece, Tokens
from vpgtrans_core.vpg.image_token import IMAGE, ImageToken
from vpgtrans_core.vpg.whole import bare_tensors, check_loadable, unquantised, unquantised_place, written_head
from vpgtrans_core.weights import save_model_tensors, save_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from vpgtrans_core.llm.adapter import LLM
    from vpgtrans_core.vpg.adapter import VPG

SaveSettings = Callable[["PreTrainedModel"], "PreTrainedConfig"]
"""Writes config, generation config and processor of a folder with this LLM inside; returns the config."""


def write_whole(
    folder: Path,
    llm: LLM,
    reference: dict[str, Any],
    save_settings: SaveSettings,
    tensors: Callable[[PreTrainedModel, int], dict[str, Tensor]],
) -> None:
    """Write a whole VL-LLM's folder.

    Args:
        reference: where the LLM came from; an LLM that is at work quantised is read from there again.
        save_settings: writes all but the tensors.
        tensors: all tensors by name, given the LLM and how many rows its table shall have.

    Raises:
        ModelError: the LLM cannot be written, or the unquantised LLM is not at hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = unquantised(llm, reference)
    check_loadable(model)
    config = save_settings(model)
    save_model_tensors(folder, tensors(model, config.text_config.vocab_size))
    for file in folder.iterdir():
        fsync(file)


def check_whole(llm: LLM, reference: dict[str, Any], save_settings: SaveSettings) -> None:
    """Write all that `write_whole` writes but the tensors, to learn whether it can.

    Raises:
        ModelError: see `write_whole`. transformers raises errors of its own, too.
    """
    if unquantised_place(llm, reference) is None:
        check_loadable(llm.model)
    save_settings(llm.model)


def write_part(
    folder: Path, vpg: VPG, projector: nn.Linear | None, prefix: str, references: dict[str, Any], config: dict[str, Any]
) -> None:
    """Write VPG and projector without the LLM, for a family that always writes its whole ViT.

    Args:
        prefix: what the projector's names begin with.
        config: the contents of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.cpu() for name, value in vpg.state_dict().items()}
    if projector is not None:
        tensors |= {prefix + name: value.float().cpu() for name, value in projector.state_dict().items()}
    save_tensors(folder / "vpg.safetensors", tensors)
    references = {name: value for name, value in references.items() if name != "vit"}
    if references:
        write_json(folder / REFERENCES, references)
    write_json(folder / "config.json", config)


def name_inner(
    text: PreTrainedConfig,
    model: PreTrainedModel,
    token: ImageToken,
    settings: dict[str, Any],
    reference: dict[str, Any],
) -> PreTrainedConfig:
    """Complete `text`, the LLM's config as it stands inside the folder's: class, origin, special tokens, rows."""
    text.architectures = [type(model).__name__]  # vLLM and llama.cpp build the LLM by this name
    text._name_or_path = reference.get("id") or ""  # not the folder that it was loaded from: that is nobody else's
    for name, value in settings.items():
        setattr(text, name, value)
    text.vocab_size = max(text.vocab_size, token.id + 1, *(i + 1 for i in token.others))
    return text


def bare_llm_tensors(
    model: PreTrainedModel, trunk: str, head: str, rows: int, written: Mapping[int, Tensor] | None = None
) -> dict[str, Tensor]:
    """An LLM's tensors for a class that holds the bare LLM, named `trunk`, under a plain head, named `head`; `written`
    are embeddings ``[D_llm]`` of tokens that the LLM's own texts do not use."""
    table: Any = model.get_input_embeddings().weight
    tensors = {
        trunk + name: _with_words(value, rows, written or {}) if value.data_ptr() == table.data_ptr() else value
        for name, value in bare_tensors(model).items()
    }
    return {**tensors, head + "weight": with_rows(written_head(model).detach(), rows).clone()}


def with_rows(table: Tensor, rows: int) -> Tensor:
    """A table ``[V, ...]`` with rows for ``<image>`` up to `rows`, each the mean of the others: its logit is then never
    above the largest, and its share of the softmax never above one in the number of rows."""
    missing = rows - len(table)
    if missing <= 0:
        return table
    return torch.cat([table, *[table.float().mean(0, keepdim=True).to(table.dtype)] * missing])


def _with_words(table: Tensor, rows: int, written: Mapping[int, Tensor]) -> Tensor:
    """A table with `rows` rows, and with other embeddings of some tokens."""
    table = with_rows(table, rows)
    if written:
        table = table.detach().clone()
        for row, value in written.items():
            table[row] = value.to(table)
    return table


def padding(tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any], side: str = "left") -> Any:
    """The tokenizer, padding on this side and with some token."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(settings["pad_token_id"])
    tokenizer.padding_side = side
    return tokenizer


def image_template(llm: LLM) -> str:
    """A chat template that asks as a model of captions was trained: its start token before or after an image, as the
    LLM had it, then of each message its images and words."""
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
