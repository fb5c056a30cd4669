"""A chat template as jinja, rendered by transformers; answers and images are located in what it renders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.conversation import Conversation, ImageMark, Span, Turn
from vpgtrans_core.errors import ModelError

if TYPE_CHECKING:
    from vpgtrans_core.data.sample import Encoder

IMAGE = "<image>"
"""What a template writes where an image stands."""
LITERAL = "\ufdd0"
"""Stands for ``<image>`` where a person has written it."""
DATE = "26 Jul 2024"
"""The day that templates which tell the date are given, so that a text is the same every day: their own default."""
QUESTION, ANSWER, AGAIN, MORE = "What do you see?", "A small red boat.", "And behind it?", "Two trees."
PROBE = Conversation(
    (
        Turn("user", (ImageMark(0), QUESTION)),
        Turn("assistant", (ANSWER,)),
        Turn("user", (AGAIN,)),
        Turn("assistant", (MORE,)),
    )
)
"""The conversation that a template is tried on."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, checked. Picklable: it travels to data workers.

    Attributes:
        name: of a template that ships, ``own`` for the tokenizer's, or a file.
        source: jinja, for messages whose content is a list of ``{"type": "image"}`` and ``{"type": "text", "text"}``;
            it writes ``<image>`` where an image stands. A model folder holds it as ``chat_template.jinja``.
        tokens: the tokenizer's special tokens by name, which templates read (``bos_token``, ``eos_token`` ...).
        verbatim: whether all that is rendered is tokenized as transformers tokenizes it. Otherwise the LLM's encoder
            places the start token and the end of text, and tokenizes what stands between images and answers piece by
            piece, as the code of the paper does.
        added: all texts that the tokenizer reads as one special token.
        end: what ends an answer.

    Raises:
        ModelError: it cannot be rendered, an answer cannot be told from its prompt, answers have no end, or it does
            not show images.
    """

    name: str
    source: str
    tokens: dict[str, str] = field(default_factory=dict, hash=False)
    verbatim: bool = True
    added: tuple[str, ...] = ()
    end: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", self._checked_end())

    def spans(self, conversation: Conversation) -> list[Span | ImageMark]:
        """See `Template.spans`.

        Raises:
            BadSampleError: the template does not take the conversation (a system turn, two questions in a row ...), or
                changes an answer so that it cannot be located.
        """
        whole = self.render(conversation, ask=conversation.turns[-1].role != "assistant")
        spans: list[Span | ImageMark] = []
        place = 0
        for begin, stop in self._answers(conversation, whole):
            spans += self._read(whole[place:begin])
            spans.append(self._said(whole[begin:stop]))
            place = stop
        spans += self._read(whole[place:])
        if not self.verbatim:
            spans = self._without_start(spans)
        return self._with_indices(spans, conversation.marks)

    def render(self, conversation: Conversation, *, ask: bool = False) -> str:
        """The text of a conversation, with ``<image>`` for each image; `ask` adds what comes before an answer."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        more: dict[str, Any] = {"date_string": DATE, **self.tokens}
        try:
            rendered: Any = render_jinja_template(
                [messages(conversation)], chat_template=self.source, add_generation_prompt=ask, **more
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise BadSampleError(bad.BAD_TEXT, f"the template {self.name} refuses it: {error}") from error
        return str(rendered[0][0])

    def _answers(self, conversation: Conversation, whole: str) -> list[tuple[int, int]]:
        """Where each answer begins and stops in the text of the whole conversation, with its end."""
        places = []
        for number, turn in enumerate(conversation.turns):
            if turn.role != "assistant":
                continue
            prompt = self.render(Conversation(conversation.turns[:number]), ask=True)
            answer = _plain("".join(part for part in turn.content if isinstance(part, str))).strip()
            if not whole.startswith(prompt):
                raise BadSampleError(bad.BAD_TEXT, f"an answer cannot be told from its prompt in template {self.name}")
            if self.end in answer:
                raise BadSampleError(bad.BAD_TEXT, f"an answer holds {self.end!r}, which ends one in {self.name}")
            said = whole.find(answer, len(prompt))
            if said < 0:
                raise BadSampleError(bad.BAD_TEXT, f"the template {self.name} does not write an answer as it is")
            stop = said + len(answer)
            tail = whole[stop:]
            ended = tail[: len(tail) - len(tail.lstrip())] + self.end
            if not tail.startswith(ended):
                ended = self.end
            if not tail.startswith(ended):
                raise BadSampleError(bad.BAD_TEXT, f"the template {self.name} does not end an answer by {self.end!r}")
            places.append((len(prompt), stop + len(ended)))
        return places

    def _checked_end(self) -> str:
        """What ends the answers of the probe, after the checks of the class's docstring."""
        hint = "give another --template; `vpgt template --list` names those that ship"
        turns = PROBE.turns
        asked, asked_again = (self._probe(turns[:number], ask=True) for number in (1, 3))
        answered, whole = self._probe(turns[:2]), self._probe(turns)
        if whole.count(IMAGE) != 1:
            raise ModelError(f"the chat template {self.name} does not write {IMAGE} where an image stands", hint)
        if not (whole.startswith(asked) and whole.startswith(asked_again) and answered.startswith(asked)):
            raise ModelError(
                f"with the chat template {self.name} an answer cannot be told from its prompt: the text of the "
                "question is not the beginning of the text with its answer",
                hint,
            )
        end = self._end_of(answered[len(asked) :].partition(ANSWER)[2])
        if not end or end not in whole[len(asked_again) :].partition(MORE)[2]:
            raise ModelError(
                f"with the chat template {self.name} an answer has no end: the LLM would never stop",
                "the template must write an end token (for example eos_token) after each answer",
            )
        return end

    def _end_of(self, tail: str) -> str:
        """The end in what follows an answer: up to its first special token, else all of it without white space, else a
        line break, which ends answers of one line."""
        found = [(tail.find(token), token) for token in self.added if token and token in tail]
        if not found:
            return tail.strip() or ("\n" if "\n" in tail else "")
        place, token = min(found, key=lambda one: (one[0], -len(one[1])))
        return tail[:place].lstrip() + token

    def _probe(self, turns: tuple[Turn, ...], *, ask: bool = False) -> str:
        try:
            return self.render(Conversation(turns), ask=ask)
        except BadSampleError as error:
            raise ModelError(
                f"the chat template {self.name} cannot be used: {error.detail}", "give another --template"
            ) from error

    def _read(self, text: str) -> list[Span | ImageMark]:
        """Text that is only read, with marks for its images."""
        parts: list[Span | ImageMark] = []
        for number, piece in enumerate(text.split(IMAGE)):
            parts += [ImageMark()] if number else []
            parts += [Span(_written(piece), verbatim=self.verbatim)] if piece else []
        return parts

    def _said(self, text: str) -> Span:
        """An answer; the encoder of the LLM adds the end of text itself unless all is verbatim."""
        eos = self.tokens.get("eos_token")
        if not self.verbatim and self.end == eos:
            return Span(_written(text.removesuffix(self.end)), labelled=True)
        return Span(_written(text), labelled=True, ended=True, verbatim=self.verbatim)

    def _without_start(self, spans: list[Span | ImageMark]) -> list[Span | ImageMark]:
        start = self.tokens.get("bos_token", "")
        if not spans or not isinstance(spans[0], Span) or not spans[0].text.startswith(start):
            return spans
        rest = dataclasses.replace(spans[0], text=spans[0].text.removeprefix(start))
        return [rest, *spans[1:]] if rest.text else spans[1:]

    def _with_indices(self, spans: list[Span | ImageMark], marks: list[int]) -> list[Span | ImageMark]:
        """The images' numbers, in the order in which the conversation shows them."""
        shown = sum(isinstance(span, ImageMark) for span in spans)
        if shown != len(marks):
            raise BadSampleError(bad.BAD_TEXT, f"the template {self.name} shows {shown} of {len(marks)} images")
        order = iter(marks)
        return [ImageMark(next(order)) if isinstance(span, ImageMark) else span for span in spans]


def chat_text(encoder: Encoder, template: ChatTemplate, conversation: Conversation) -> Any:
    """The text that an LLM continues with its next answer, or learns if the last turn is an answer.

    Args:
        encoder: the LLM's `TextEncoder`.
        conversation: its last turn is a question where an answer is to be generated.

    Returns:
        A `vpgtrans_core.llm.text.Text`, for `generate` of the LLM or of the whole model; it knows how answers end.

    Raises:
        BadSampleError: the template does not take the conversation, or the LLM cannot read images where they stand.
    """
    return dataclasses.replace(encoder.encode_spans(template.spans(conversation)), end=template.end)


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as chat messages, the form that chat templates and OpenAI's clients use."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "image"} if isinstance(part, ImageMark) else {"type": "text", "text": _plain(part)}
                for part in turn.content
            ],
        }
        for turn in conversation.turns
    ]


def _plain(text: str) -> str:
    return text.replace(IMAGE, LITERAL)


def _written(text: str) -> str:
    return text.replace(LITERAL, IMAGE)
