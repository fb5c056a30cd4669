"""Encoder-decoder LLMs: soft prompts and perhaps some text into the encoder, the rest out of the decoder."""

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
from vpgtrans_core.llm.frozen import FrozenLLM
from vpgtrans_core.llm.loss import label_loss
from vpgtrans_core.llm.segments import EncoderDecoderRows, encoder_decoder_rows
from vpgtrans_core.llm.text import Text, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Seq2SeqText(TextEncoder):
    """Texts for encoder-decoders: the prompt, if any, goes into the encoder, the caption is what the decoder says.

    With `split`, a caption without prompt is cut at a random place between words (prefix language modelling, section
    3.2 of the BLIP-2 paper): its first part, possibly empty, goes into the encoder, the rest is to be said.
    """

    tokenizer: PreTrainedTokenizerBase
    end: int
    split: bool = False

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        prefix, said = caption.prompt.strip(), caption.text
        if self.split and not prefix:
            words = caption.text.split()
            cut = rng.randrange(len(words)) if words else 0  # at least one word is left to be said
            prefix, said = " ".join(words[:cut]), " ".join(words[cut:])
        return Text(self._ids(prefix, max_tokens), self._ids(said, max_tokens))

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """What the encoder reads after the soft prompts when a text is generated."""
        return self._ids(prompt.strip(), None)

    def _ids(self, text: str, max_tokens: int | None) -> tuple[int, ...]:
        """Ids with the end token, which is kept when a text is cut, as the family's tokenizers do."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return (*ids[: max_tokens - 1 if max_tokens else None], self.end)


class EncoderDecoderLLM(FrozenLLM):
    """An encoder-decoder of transformers whose forward takes `inputs_embeds` for its encoder.

    Captions of an image whose encoder text is the same share the encoder's work always. A family whose attention knows
    positions only relative to one another may set `relative_positions`: its segments are then packed into rows.
    """

    text: Seq2SeqText
    relative_positions = False
    splits_captions = False
    """Whether captions are cut for prefix language modelling."""

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    def may_share(self) -> bool:
        return self.relative_positions

    def text_encoder(self) -> Seq2SeqText:
        if self.tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end token", "set eos_token in its tokenizer_config.json")
        return Seq2SeqText(self.tokenizer, self.tokenizer.eos_token_id, self.splits_captions)

    def trunk_name(self) -> str:
        return "decoder" if "decoder" in self.model._modules else self.model.base_model_prefix

    def trunks(self) -> list[nn.Module]:
        return [self.model.get_encoder(), self.model.get_decoder()]

    def run_head(self, shell: nn.Module, hidden: Tensor) -> Tensor:
        return shell(
            encoder_outputs=(hidden,), decoder_inputs_embeds=hidden, inputs_embeds=hidden, use_cache=False
        ).logits

    @property
    def start(self) -> int:
        """The token that the decoder begins with.

        Raises:
            ModelError: the config names none.
        """
        config = self.model.config
        start = getattr(config, "decoder_start_token_id", None)
        start = config.pad_token_id if start is None else start
        if start is None:
            raise ModelError("the config names no decoder_start_token_id", "add it to the LLM's config.json")
        return start

    def layout(self, texts: Sequence[Sequence[Text]], num_prompts: int) -> EncoderDecoderRows:
        return encoder_decoder_rows(texts, num_prompts, self.start, self.embedding_size, self.shares_prefix)

    def positions(self, texts: Sequence[Text], num_prompts: int) -> int:
        contexts = {text.context for text in texts}
        return sum(num_prompts + len(context) for context in contexts) + sum(len(text.target) for text in texts)

    def trunk(self, inputs: Tensor, rows: EncoderDecoderRows) -> Tensor:
        """The decoder's hidden states ``[T, M, D]`` from the encoder's input embeddings ``[R, L, D]``."""
        if rows.packed:
            encoder_mask, decoder_mask = self.attention(rows.encoder_mask()), self.attention(rows.decoder_mask())
            cross_mask = self.attention(rows.cross_mask())
        else:
            encoder_mask, decoder_mask = (rows.segments >= 0).long(), (rows.decoder_texts >= 0).long()
            cross_mask = encoder_mask[rows.encoder_rows]
        read = self.model.get_encoder()(inputs_embeds=inputs, attention_mask=encoder_mask)[0]
        return self.model.get_decoder()(
            input_ids=rows.decoder_ids,
            attention_mask=decoder_mask,
            encoder_hidden_states=read[rows.encoder_rows],
            encoder_attention_mask=cross_mask,
            use_cache=False,
        )[0]

    def loss(self, soft_prompts: Tensor, rows: Rows) -> Tensor:
        assert isinstance(rows, EncoderDecoderRows)
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
        padding = self.tokenizer.pad_token_id
        return {
            "decoder_start_token_id": self.start,
            "eos_token_id": self.text.end,
            "pad_token_id": self.text.end if padding is None else padding,
        }
