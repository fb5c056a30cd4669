"""Encoder-decoder LLMs: soft prompts and perhaps some text go into the encoder, the decoder says the rest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.conversation import ImageMark, Span
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import Rows
from vpgtrans_core.llm.frozen import FrozenLLM
from vpgtrans_core.llm.loss import label_loss
from vpgtrans_core.llm.segments import EncoderDecoderRows, encoder_decoder_rows
from vpgtrans_core.llm.shown import Images, Prompts
from vpgtrans_core.llm.text import ImagePlace, Piece, Text, TextEncoder, Tokens, length, limited, words_after_token
from vpgtrans_core.llm.vocabulary import within

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Seq2SeqText(TextEncoder):
    """Texts for encoder-decoders.

    Of a caption the prompt, if any, goes into the encoder, and the decoder says the caption. Of a conversation the
    encoder reads all up to the first answer; the decoder has the rest, and learns to say the answers and their ends.

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
        read, target = self._ids(prefix), self._ids(said)
        kept = self._limited(target, max_tokens)
        return Text.of(
            self._limited(read, max_tokens),
            kept,
            cut=len(target) + 1 - len(kept),
            whole=max(len(read), len(target)) + 1,  # each has an end token
        )

    def encode_spans(self, spans: Sequence[Span | ImageMark], max_tokens: int | None = None) -> Text:
        first = next((n for n, span in enumerate(spans) if isinstance(span, Span) and span.labelled), len(spans))
        read, said = spans[:first], spans[first:]
        if any(isinstance(span, ImageMark) for span in said):
            raise BadSampleError(
                bad.BAD_TEXT, "an image stands after the first answer, where the encoder cannot read it"
            )
        encoder = limited(map(self._piece, read), None if max_tokens is None else max_tokens - 1)
        decoder = limited(map(self._piece, said), max_tokens)
        pieces = (*encoder.pieces, Tokens((self.end,)), *decoder.pieces)
        return Text(pieces, cut=decoder.cut, whole=max(encoder.whole + 1, decoder.whole))

    def _piece(self, span: Span | ImageMark) -> Piece:
        if isinstance(span, ImageMark):
            return ImagePlace(span.index)
        if not span.labelled:
            return Tokens(self._ids(span.text))
        return Tokens((*self._ids(span.text.lstrip()), *(() if span.ended else (self.end,))), labelled=True)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return (*self._ids(prompt.strip()), self.end)

    @property
    def answer_end(self) -> int:
        return self.end

    def _limited(self, ids: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        """Ids with the end token, which is kept when a text is cut, as the family's tokenizers do."""
        return (*ids[: max_tokens - 1], self.end)

    def words(self, text: str) -> tuple[int, ...]:
        return words_after_token(self.tokenizer, text)

    def _ids(self, text: str) -> tuple[int, ...]:
        """A text's ids. Not `verbose`: a warning of its length would be untrue, as that is limited afterwards."""
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else ()


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

    def layout(
        self, texts: Sequence[Sequence[Text]], num_prompts: Images, images: Sequence[int] = ()
    ) -> EncoderDecoderRows:
        self.check_ids(text for sample in texts for text in sample)
        return encoder_decoder_rows(
            texts, num_prompts, self.start, self.embedding_size, self.shares_prefix, images, self.sizes
        )

    def positions(self, texts: Sequence[Text], num_prompts: int | Sequence[int]) -> int:
        read, said = zip(*(text.split() for text in texts), strict=True) if texts else ((), ())
        return sum(length(pieces, num_prompts) for pieces in (*set(read), *said))

    def read_and_said(self, prompt: Text) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        return prompt.split()

    def trunk(self, inputs: Tensor, rows: EncoderDecoderRows) -> Tensor:
        """The decoder's hidden states ``[T, M, D]`` from the encoder's input embeddings ``[R, L, D]``."""
        if rows.packed:
            encoder_mask, decoder_mask = self.attention(rows.encoder_mask()), self.attention(rows.decoder_mask())
            cross_mask = self.attention(rows.cross_mask())
        else:
            encoder_mask, decoder_mask = (rows.segments >= 0).long(), (rows.decoder_texts >= 0).long()
            cross_mask = encoder_mask[rows.encoder_rows]
        read = self.model.get_encoder()(inputs_embeds=inputs, attention_mask=encoder_mask)[0].to(inputs.device)
        hidden = self.model.get_decoder()(
            input_ids=rows.decoder_ids,
            attention_mask=decoder_mask,
            encoder_hidden_states=read[rows.encoder_rows],
            encoder_attention_mask=cross_mask,
            use_cache=False,
        )[0]
        return hidden.to(inputs.device)  # the last block may be on another device

    def loss(self, soft_prompts: Prompts, rows: Rows) -> Tensor:
        assert isinstance(rows, EncoderDecoderRows)
        inputs = rows.inputs(self.embed(rows.ids), soft_prompts)
        hidden = self.trunk(inputs, rows).flatten(0, 1)[rows.predictors]
        return label_loss(hidden, rows.targets, self.head, self.vocab_size)

    def room(self, prompt: Text, num_prompts: int | Sequence[int]) -> int | None:
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if not positions:  # T5's are relative
            return None
        read, said = (length(part, num_prompts) for part in self.read_and_said(prompt))
        return min(positions - read, 0) or positions - 1 - said  # the decoder has its start token, too

    def generation_settings(self) -> dict[str, Any]:
        padding = within([self.tokenizer.pad_token_id], self.vocab_size)
        return {
            "decoder_start_token_id": self.start,
            "eos_token_id": self.text.end,
            "pad_token_id": (padding or [self.text.end])[0],
        }
