"""Decoder-only LLMs: soft prompts and words in one row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vpgtrans_core.data.conversation import ImageMark, Span
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import Rows
from vpgtrans_core.llm.elements import lengths_of
from vpgtrans_core.llm.frozen import FrozenLLM, end_token, start_tokens
from vpgtrans_core.llm.loss import label_loss
from vpgtrans_core.llm.rows import DecoderRows, decoder_rows
from vpgtrans_core.llm.shown import Images, Prompts
from vpgtrans_core.llm.text import ImagePlace, Piece, Text, TextEncoder, Tokens, length, limited, words_after_token
from vpgtrans_core.llm.verbatim import verbatim_pieces
from vpgtrans_core.llm.vocabulary import within

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class CausalText(TextEncoder):
    """Texts for decoder-only LLMs.

    A caption is ``caption [end]``, after the image and the prompt. The start stands before the image (`start_first`)
    and has no label, or after it as in the paper's code: then it begins the prompt, and the caption where there is no
    prompt. A conversation is ``[start]`` and the template's text, in which every answer is labelled and ended by the
    template's end or the end of text; or, verbatim, just the template's text. What is cut at `max_tokens` has no end
    token: the LLM must not learn to stop in the middle.

    Attributes:
        start: the token that begins a text, or none.
        end: the token that ends a caption.
        start_first: whether the start stands before the image.
    """

    tokenizer: PreTrainedTokenizerBase
    start: tuple[int, ...]
    end: int
    start_first: bool = False

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        prompt = caption.prompt.rstrip()
        context, said = self._pair(f"{prompt} " if prompt else "", caption.text)
        before, after = self._starts
        context = (*after, *context) if prompt else ()
        target = (*said, self.end) if prompt else (*after, *said, self.end)
        room = max(1, max_tokens - len(before))
        read = context[: room - 1]  # at least one token remains to be said
        kept = target[: room - len(read)]
        whole = len(before) + len(context) + len(target)
        return Text.of(read, kept, before=before, cut=len(target) - len(kept), whole=whole)

    def encode_spans(self, spans: Sequence[Span | ImageMark], max_tokens: int | None = None) -> Text:
        if any(isinstance(span, Span) and span.verbatim for span in spans):
            return limited(verbatim_pieces(spans, self.tokenizer), max_tokens)
        pieces: list[Piece] = [Tokens(self.start)]
        words = ""  # those right before
        for span in spans:
            if isinstance(span, Span) and not span.labelled:
                words += span.text
                continue
            if isinstance(span, ImageMark):
                pieces += [Tokens(self._ids(words)), ImagePlace(span.index)]
            else:
                asked, answer = self._asked(words, span.text)
                end = () if span.ended else (self.answer_end,)
                pieces += [Tokens(asked), Tokens((*answer, *end), labelled=True)]
            words = ""
        return limited([*pieces, Tokens(self._asked(words, "")[0])], max_tokens)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return (*self._starts[1], *self._ids(prompt.rstrip()))

    def prompt_text(self, prompt: str) -> Text:
        before, _ = self._starts
        return limited([Tokens(before), ImagePlace(), Tokens(self.prompt_ids(prompt))], None)

    @property
    def _starts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What of the start stands before the image, and what after it."""
        return (self.start, ()) if self.start_first else ((), self.start)

    @property
    def answer_end(self) -> int:
        """The end of text: an answer may have several lines, a caption has one."""
        return self.end if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id

    def _asked(self, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A template's prompt and the answer. The white space that ends a prompt belongs to the answer's first word;
        but it stays where a tokenizer takes every text for the beginning of a word: there the paper's code tokenizes
        the two apart."""
        if prompt[-1:].isspace() and self._ids(" a")[-1:] == self._ids("a"):
            return self._ids(prompt), self._ids(answer)
        return self._pair(prompt, answer)

    def _pair(self, prompt: str, said: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A prompt, and what is said after it: the tokens of both together, parted where those of the prompt alone end.

        White space between the two is said: a tokenizer may take it for the beginning of a word."""
        alone, together = self._ids(prompt.rstrip()), self._ids(f"{prompt}{said}")
        same = next((n for n, (a, b) in enumerate(zip(alone, together, strict=False)) if a != b), len(alone))
        return together[:same], together[same:]

    def words(self, text: str) -> tuple[int, ...]:
        return words_after_token(self.tokenizer, text)

    def _ids(self, text: str) -> tuple[int, ...]:
        """A text's ids. Not `verbose`: a warning of its length would be untrue, as that is limited afterwards."""
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else ()


class DecoderOnlyLLM(FrozenLLM):
    """An ordinary causal LM of transformers: every family that does nothing unusual needs no code beyond this."""

    text: CausalText

    @classmethod
    def auto_class(cls) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def text_encoder(self) -> CausalText:
        start, end = start_tokens(self.tokenizer), end_token(self.tokenizer)
        return CausalText(self.tokenizer, start, end, start_first=self.family.bos == "first")

    def trunk_name(self) -> str:
        children: dict[str, Any] = dict(self.model._modules)
        name = self.model.base_model_prefix
        if name not in children:  # Llama 4 has there what it is called inside its multimodal wrapper
            table = self.model.get_input_embeddings()
            name = next((n for n, child in children.items() if any(m is table for m in child.modules())), "")
        if not name:
            raise ModelError(
                f"{type(self.model).__name__} does not show where its decoder is (it has no child named "
                f"{self.model.base_model_prefix!r})",
                "a plugin for this family can override `trunk_name` and `trunk`: see docs/plugins.md",
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
        hidden = getattr(self.model, self.trunk_name())(inputs_embeds=inputs, use_cache=False, **arguments)[0]
        return hidden.to(inputs.device)  # the last block may be on another device

    def layout(self, texts: Sequence[Sequence[Text]], num_prompts: Images, images: Sequence[int] = ()) -> DecoderRows:
        self.check_ids(text for sample in texts for text in sample)
        deepest = max(lengths_of(texts, num_prompts, images), default=0)
        # Our mask replaces the model's own; within its sliding window the two mean the same.
        share = self.shares_prefix and deepest <= (self._text_config("sliding_window") or deepest)
        return decoder_rows(texts, num_prompts, self.embedding_size, share, images, self.sizes)

    def loss(self, soft_prompts: Prompts, rows: Rows) -> Tensor:
        assert isinstance(rows, DecoderRows)
        inputs = rows.inputs(self.embed(rows.ids), soft_prompts)
        hidden = self.trunk(inputs, rows).flatten(0, 1)[rows.predictors]
        return label_loss(hidden, rows.targets, self.head, self.vocab_size)

    def room(self, prompt: Text, num_prompts: int | Sequence[int]) -> int | None:
        positions = self._text_config("max_position_embeddings")
        return positions and positions - length(prompt.pieces, num_prompts)

    def generation_settings(self) -> dict[str, Any]:
        ends = within([self.text.end, self.tokenizer.eos_token_id], self.vocab_size) or [self.text.end]
        padding = within([self.tokenizer.pad_token_id], self.vocab_size)
        return {
            "bos_token_id": self.text.start[0] if self.text.start else self.tokenizer.bos_token_id,
            "eos_token_id": ends,
            "pad_token_id": (padding or ends)[-1],
        }

    def _text_config(self, name: str) -> Any:
        return getattr(self.model.config.get_text_config(), name, None)
