"""A whole VL-LLM whose class holds a bare LLM under a plain head, as the folder that transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vpgtrans_core.vpg.image_token import ImageToken, with_image_token
from vpgtrans_core.vpg.whole import check_width, generation_config, used_ids, written_config
from vpgtrans_core.vpg.writing import bare_llm_tensors, check_whole, image_template, name_inner, padding, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from vpgtrans_core.llm.adapter import LLM
    from vpgtrans_core.vpg.bare import BareVPG


@dataclass(frozen=True)
class BareFolder:
    """One folder to be written, with all that goes into it; `reference` says where the LLM came from."""

    folder: Path
    vpg: BareVPG
    projector: nn.Linear
    llm: LLM
    reference: dict[str, Any]

    def save(self) -> None:
        """Write config, weights, processor, tokenizer and generation config.

        The frozen ViT and LLM are written in the LLM's precision, what was trained in fp32.

        Raises:
            ModelError: the LLM cannot stand in the family's folder, or the unquantised LLM is not at hand.
        """
        write_whole(self.folder, self.llm, self.reference, self._save_settings, self._tensors)

    def check(self) -> None:
        """Write all that `save` writes but the tensors, to learn whether it can.

        Raises:
            ModelError: see `save`. transformers raises errors of its own, too.
        """
        check_whole(self.llm, self.reference, self._save_settings)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return self.llm.generation_settings()

    @cached_property
    def _token(self) -> ImageToken:
        model = self.llm.model
        return with_image_token(
            self.llm.tokenizer, model.config.vocab_size, used_ids(model, self._settings), self.vpg.tokens
        )

    def _save_settings(self, model: PreTrainedModel) -> PreTrainedConfig:
        """Write config, generation config and processor; return the config."""
        check_width(model, self.projector, self.vpg.what)
        self.vpg.check_room(self.projector)
        config = self._config(model)
        config.save_pretrained(self.folder)
        generation_config(self._settings, self._token).save_pretrained(self.folder)
        tokenizer = padding(self._token.tokenizer, self._settings)
        self.vpg.save_processor(self.folder, tokenizer, image_template(self.llm))
        self.vpg.image_processor().save_pretrained(self.folder)  # a file of its own, where readers look first
        return config

    def _config(self, model: PreTrainedModel) -> Any:
        whole = self.vpg.whole
        text = name_inner(written_config(model.config), model, self._token, self._settings, self.reference)
        config = whole.config(
            text_config=text.to_dict(),
            tie_word_embeddings=False,  # the head is written, too
            **{whole.image_token: self._token.id},
            **self.vpg.whole_values(),
        )
        config.bos = self.llm.family.bos
        config.architectures = [whole.model.__name__]
        config.dtype = model.dtype
        return config

    def _tensors(self, model: PreTrainedModel, rows: int) -> dict[str, Tensor]:
        """All tensors by name. A row that the table gets for ``<image>`` is the mean of the others."""
        whole, own = self.vpg.whole, self.vpg.token_rows(self.projector)
        written = {} if own is None else dict(zip(self._token.others, own, strict=True))
        llm = bare_llm_tensors(model, whole.trunk, whole.head, rows, written)
        return self.vpg.whole_tensors(self.projector, model.dtype) | llm
