"""From what a task of lmms-eval asks a chat model to how BLIP-2 is asked: no prompt for a caption, ``Question: ...
Answer:`` for a question, and beam search as in the paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.vlm.captioning import default_options

_CAPTION = re.compile(r"\b(captions?|describe|description)\b", re.IGNORECASE)
_INSTRUCTION = re.compile(
    r"\s*(please\b.*|answer (the|this|with|in|briefly|directly)\b.*|respond\b.*|give\b.*|only give\b.*|provide\b.*"
    r"|your response must\b.*|when the provided information is insufficient\b.*)?",
    re.IGNORECASE,
)
"""A line that tells a chat model how to answer: BLIP-2 was never told so and takes it for part of the question."""
LONG = 128
"""New tokens where a task is to be asked in its own words and sets no limit."""


@dataclass(frozen=True)
class Asked:
    """A request as the model gets it: the text after the soft prompts, and how to generate."""

    prompt: str
    options: GenerateOptions


def as_blip2(
    context: str, wanted: Mapping[str, Any], *, caption_prompt: str, question_prompt: str, own: Mapping[str, Any]
) -> Asked:
    """BLIP-2's own prompt and beam search; the request may only shorten what is generated.

    Args:
        context: the task's text.
        wanted: the request's generation arguments.
        caption_prompt: the prompt for captions.
        question_prompt: the prompt for a question, with ``{}`` in its place.
        own: generation options that the user has set, which win.
    """
    if is_caption(context):
        prompt, options = caption_prompt, default_options("")
    else:
        prompt = ask(context, question_prompt)
        options = default_options(prompt)
    longest = min(options.max_new_tokens, int(wanted.get("max_new_tokens") or options.max_new_tokens))
    options = replace(options, max_new_tokens=longest, min_new_tokens=min(options.min_new_tokens, longest))
    return Asked(prompt, replace(options, **own))


def as_given(context: str, wanted: Mapping[str, Any], *, own: Mapping[str, Any]) -> Asked:
    """The task's own words and generation arguments; for models that were tuned to them."""
    options = GenerateOptions(
        num_beams=int(wanted.get("num_beams") or 1),
        max_new_tokens=int(wanted.get("max_new_tokens") or LONG),
        min_new_tokens=int(wanted.get("min_new_tokens") or 1),
        length_penalty=float(wanted.get("length_penalty") or 1.0),
    )
    return Asked(_plain(context), replace(options, **own))


def is_caption(context: str) -> bool:
    """Whether a task's text asks for a caption, not for an answer."""
    return "?" not in context and (not context.strip() or bool(_CAPTION.search(context)))


def ask(context: str, question_prompt: str) -> str:
    """A task's question in BLIP-2's prompt, without the lines that tell how to answer."""
    text = _plain(context)
    if text.lower().endswith("answer:"):
        return text  # a prompt of this kind already
    lines = text.split("\n")
    while len(lines) > 1 and _INSTRUCTION.fullmatch(lines[-1]):
        lines.pop()
    return question_prompt.replace("{}", "\n".join(lines).strip())


def until(wanted: Mapping[str, Any]) -> list[str]:
    """The texts at which a request wants an answer to end."""
    ends = wanted.get("until") or []
    return [end for end in ([ends] if isinstance(ends, str) else ends) if end]


def cut(text: str, ends: list[str]) -> str:
    """A text before the first of its ends."""
    for end in ends:
        text = text.split(end)[0]
    return text.strip()


def _plain(context: str) -> str:
    return context.replace("<image>", "").strip()
