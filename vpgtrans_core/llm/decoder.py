"""Decoder-only LLMs: soft prompts, then text, in one row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import GenerateOptions, Rows
from vpgtrans_core.llm.frozen import FrozenLLM, end_token, start_tokens
from vpgtrans_core.llm.loss import label_loss
from vpgtrans_core.llm.rows import DecoderRows, decoder_rows
from vpgtrans_core.llm.text import Text, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class CausalText(TextEncoder):
    """Captions for decoder-only LLMs: ``[start] caption [end]``, or ``[start] prompt`` as context and the rest to say.

    A caption that is cut at `max_tokens` has no end token: the LLM must not learn to stop in the middle.
    """

    tokenizer: PreTrainedTokenizerBase
    start: tuple[int, ...]
    end: int

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        prompt = caption.prompt.rstrip()
        if not prompt:
            return Text((), (*self.start, *self._ids(caption.text), self.end)[:max_tokens])
        context = self.prompt_ids(prompt)
        tokens = (*self.start, *self._ids(f"{prompt} {caption.text}"), self.end)
        same = next((n for n, (a, b) in enumerate(zip(context, tokens, strict=False)) if a != b), len(context))
        cut = min(same, max_tokens - 1)  # at least one token remains to be said
        return Text(tokens[:cut], tokens[same : same + max_tokens - cut])

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """What stands between the soft prompts and the text that is generated."""
        prompt = prompt.rstrip()
        return (*self.start, *self._ids(prompt)) if prompt else self.start

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)


class DecoderOnlyLLM(FrozenLLM):
    """An ordinary causal LM of transformers: every family that does nothing unusual needs no code beyond this."""

    text: CausalText

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def text_encoder(self) -> CausalText:
        return CausalText(self.tokenizer, start_tokens(self.tokenizer), end_token(self.tokenizer))

    def trunk_name(self) -> str:
        children: dict[str, Any] = dict(self.model._modules)
        name = self.model.base_model_prefix
        if name not in children:  # Llama 4 has there what it is called inside its multimodal wrapper
            table = self.model.get_input_embeddings()
            name = next((n for n, child in children.items() if any(m is table for m in child.modules())), "")
        if not name:
            raise ModelError(
                f"{type(self.model).__name__} does not say where its decoder is (no child named "
                f"{self.model.base_model_prefix!r})",
                "a plugin for this family can: override `trunk_name` and `trunk`, see docs/plugins.md",
            )
        return name

    def run_head(self, shell: nn.Module, hidden: Tensor) -> Tensor:
        return shell(inputs_embeds=hidden, use_cache=False).logits

    def trunk(self, inputs: Tensor, rows: DecoderRows) -> Tensor:
        """Hidden states ``[R, L, D]`` of input embeddings ``[R, L, D]``."""
        if rows.attention is not None:
            arguments: dict[str, Any] = {"attention_mask": rows.attention}
        else:
            arguments = {"attention_mask": self.attention(rows.mask()), "position_ids": rows.depths}
        return getattr(self.model, self.trunk_name())(inputs_embeds=inputs, use_cache=False, **arguments)[0]

    def layout(self, texts: Sequence[Sequence[Text]], num_prompts: int) -> DecoderRows:
        deepest = max((num_prompts + len(t.context) + len(t.target) for image in texts for t in image), default=0)
        # Our mask replaces the model's own; within its sliding window the two mean the same.
        share = self.shares_prefix and deepest <= (self._text_config("sliding_window") or deepest)
        return decoder_rows(texts, num_prompts, self.embedding_size, share)

    def loss(self, soft_prompts: Tensor, rows: Rows) -> Tensor:
        assert isinstance(rows, DecoderRows)
        inputs = rows.inputs(self.embed(rows.ids), soft_prompts)
        hidden = self.trunk(inputs, rows).flatten(0, 1)[rows.predictors]
        return label_loss(hidden, rows.targets, self.head, self.vocab_size)

    @torch.no_grad()
    def generate(
        self, soft_prompts: Tensor, prompt: str | Sequence[str] = "", options: GenerateOptions | None = None
    ) -> list[str]:
        inputs = self.prompted(soft_prompts, prompt)
        model: Any = self.model
        ids = model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device),
            generation_config=self.generation_arguments(options),
        )
        return self.decode(ids)

    def generation_settings(self) -> dict[str, Any]:
        ends = list(dict.fromkeys(t for t in (self.text.end, self.tokenizer.eos_token_id) if t is not None))
        padding = self.tokenizer.pad_token_id
        return {
            "bos_token_id": self.text.start[0] if self.text.start else self.tokenizer.bos_token_id,
            "eos_token_id": ends,
            "pad_token_id": ends[-1] if padding is None else padding,
        }

    def _text_config(self, name: str) -> Any:
        return getattr(self.model.config.get_text_config(), name, None)
