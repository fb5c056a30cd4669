"""A family of language models under test: its tiny models, made when a check first asks for them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpgtrans_core.cards import LLMFamily, know_classes, load
from vpgtrans_core.llm.shown import Prompts, shown_in
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.testing import kit_vpg
from vpgtrans_core.testing.opening import Opened
from vpgtrans_core.testing.subject import Subject
from vpgtrans_core.testing.tiny_models import save_tiny_llm, tiny_tokenizer
from vpgtrans_core.testing.transferring import transfer_two_steps

if TYPE_CHECKING:
    from vpgtrans_core.llm.adapter import LLM

PROMPTS = 4
END = 202
PRECISE = torch.float64
TOLERANCE = 1e-6
"""Largest relative difference of two ways to compute the same in fp64. Norms and rotary embeddings that compute in fp32
whatever the model's precision leave no more than this."""
TOLERANCE_FP32 = 1e-4
"""The same for models that have no fp64 kernel: mixtures of experts."""
MANY = 90
"""Captions of the image whose tree is longer than most windows of local attention."""

TEXTS = [
    [
        Text.of((), (2, 68, 120, END)),
        Text.of((), (2, 68, 121, 77, 140, END)),
        Text.of((), (2, 68, 121, 90, END)),
        Text.of((), (2, 68, 120, END)),
        Text.of((2, 50, 51, 52), (99, END)),
    ],
    [Text.of((), (2, 91, END))],
    [Text.of((2, 50, 51), (99, END)), Text.of((2, 50, 51), (98, 97, END)), Text.of((), (130,))],
    [
        Text((Tokens((2, 54, 55)), ImagePlace(), Tokens((56, 57)), Tokens((99, 98, END), labelled=True))),
        Text(
            (
                Tokens((2, 54, 55)),
                ImagePlace(),
                Tokens((56, 58)),
                Tokens((97, END), labelled=True),
                Tokens((59, 57)),
                Tokens((96, 99, END), labelled=True),
            )
        ),
    ],
]
"""Four images: common beginnings, a caption twice, one alone, questions with context, a single token; an image inside a
prompt, with one answer and with two."""


class LLMSubject(Subject[LLMFamily]):
    """One LLM family of a plugin. `config` is what its tiny models change in transformers' config; see `Subject`.

    Args:
        tokenizer: a tokenizer in the family's manner; default a byte-level one.
        tolerance: largest relative difference of two ways to compute the same in fp64.
    """

    kind = "LLM"

    def __init__(
        self,
        opened: Opened,
        family: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        unsupported: dict[str, str] | None = None,
        tokenizer: Any = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        super().__init__(opened, family, config=config, unsupported=unsupported)
        for own in self.families():
            know_classes(own)
        self.config = dict(self.config or {})
        self._tolerance = tolerance
        self._tokenizer = tokenizer
        self._llms: dict[bool, LLM] = {}

    def families(self) -> list[LLMFamily]:
        return self.opened.llm_families

    @property
    def model_type(self) -> str:
        return self.family.model_types[0]

    def make(self, name: str, seed: int = 0) -> Path:
        """A tiny random model with its tokenizer in a folder of this name, made once."""
        folder = self.home / name
        if not folder.is_dir():
            tokenizer = self._tokenizer or tiny_tokenizer(self.family.encoder_decoder)
            part = self.empty(f"{name}.part")  # half a model must not pass for a whole one
            save_tiny_llm(part, self.model_type, changes=self.config, tokenizer=tokenizer, seed=seed)
            part.rename(folder)
        return folder

    @cached_property
    def folder(self) -> Path:
        return self.make("llm")

    def load(self, folder: Path, **options: Any) -> LLM:
        """A folder's model through the plugin's adapter, in fp32 unless `options` say otherwise."""
        return load(self.family.adapter).load(folder, family=self.family, **options)

    def llm(self, share: bool = True) -> LLM:
        """The tiny model through the adapter in `dtype`; loaded once for each value of `share`."""
        if share not in self._llms:
            self._llms[share] = self.load(self.folder, share=share, dtype=self.dtype)
        return self._llms[share]

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the adapter is compared with transformers: fp64 where the model can."""
        return next(self.reference.parameters()).dtype

    @property
    def tolerance(self) -> float:
        return self._tolerance if self.dtype == PRECISE else TOLERANCE_FP32

    @cached_property
    def reference(self) -> Any:
        """The same folder through transformers alone."""
        model = self._plain_model(PRECISE)
        try:
            with torch.no_grad():
                model(input_ids=self.prompt_ids(), **self.decoder_start(len(TEXTS)))
        except RuntimeError:  # no kernel for it
            return self._plain_model(torch.float32)
        return model

    def decoder_start(self, rows: int) -> dict[str, Tensor]:
        """What an encoder-decoder is also asked with: a decoder's text of one token."""
        return {"decoder_input_ids": torch.full((rows, 1), END)} if self.family.encoder_decoder else {}

    def _plain_model(self, dtype: torch.dtype) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        config = AutoConfig.from_pretrained(self.folder).get_text_config()
        kernel = "eager" if getattr(config, "attn_logit_softcapping", None) else None  # the only one that computes it
        auto: Any = AutoModelForSeq2SeqLM if self.family.encoder_decoder else AutoModelForCausalLM
        return auto.from_pretrained(self.folder, dtype=dtype, attn_implementation=kernel).eval()

    @property
    def many_texts(self) -> list[list[Text]]:
        """`TEXTS`, and an image with so many captions that a row of them is longer than most windows of attention."""
        return [*TEXTS, [Text.of((), (2, 60 + n, 150 + n, 68, 120, END)) for n in range(MANY)]]

    def prompt_ids(self, images: int = len(TEXTS)) -> Tensor:
        """Words ``[I, Q]`` that stand where soft prompts will."""
        return torch.arange(40, 40 + PROMPTS * images).view(-1, PROMPTS)

    def soft_prompts(self, images: int = len(TEXTS)) -> Tensor:
        """Soft prompts ``[I, Q, D]`` between the words' sizes, wanting a gradient."""
        words = self.llm().embed(self.prompt_ids(images)).detach()
        noise = torch.randn(words.shape, generator=torch.Generator().manual_seed(1)) * words.std()
        return (words + 0.5 * noise).requires_grad_()

    def loss(self, llm: LLM, soft_prompts: Prompts, texts: list[list[Text]] | None = None) -> Tensor:
        texts = TEXTS if texts is None else texts
        return llm.loss(soft_prompts, llm.layout(texts, shown_in(soft_prompts)).to(torch.device("cpu")))

    @cached_property
    def source(self) -> Path:
        """A tiny VL-LLM with the kit's VPG and a model of this family, to transfer from."""
        from torch import nn

        from vpgtrans_core.testing.patch_vpg import PatchVPG

        if not any(r.name == "kit_vpg" for r in self.opened.registry.records):
            self.opened.registry.add(kit_vpg, "kit_vpg")
        llm = self.make("source_llm", seed=7)
        torch.manual_seed(3)
        vpg = PatchVPG()
        projector = nn.Linear(vpg.output_size, self.load(llm).embedding_size)
        vpg.save_part(self.home / "source", projector, references={"llm": {"folder": str(llm)}})
        return self.home / "source"

    @cached_property
    def transferred(self) -> Path:
        """Where a transfer of two steps to the tiny model has run; its result is in ``out``."""
        home = self.empty("transfer")
        transfer_two_steps(self.opened.registry, self.opened.named(self.source), self.opened.named(self.folder), home)
        return home
