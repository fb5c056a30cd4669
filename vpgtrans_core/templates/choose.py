"""Which chat template a model is used with: one that ships, the tokenizer's own, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core.errors import ConfigError, ModelError, did_you_mean
from vpgtrans_core.files import read_bounded
from vpgtrans_core.templates.chat import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "chat_template.jinja"
"""The template's name in a model folder, as transformers calls it."""
AUTO, OWN = "auto", "own"
DEFAULTS = ("minigpt4", "plain")
"""For an LLM without a template of its own: the one in which the paper's chat models are tuned; the other where the
tokenizer cannot write its end."""
HEADER = "{{# vpgt template {name} #}}"
"""A template that ships begins with its name in a model folder, and is recognised by it."""
LIMIT = 1 << 18
"""Largest template file that is read, in bytes."""
WITH_IMAGES = """\
{%- set seen = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.content is string -%}
{%- set seen.messages = seen.messages + [message] -%}
{%- else -%}
{%- set words = namespace(text='') -%}
{%- for part in message.content -%}
{%- set words.text = words.text + ('<image>\\n' if part.type == 'image' else part.text) -%}
{%- endfor -%}
{%- set seen.messages = seen.messages + [dict(message, content=words.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = seen.messages %}"""
"""Goes before a template for texts only: images become ``<image>`` and a line break in what is said."""


def template_names() -> list[str]:
    """The templates that ship."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.jinja"))


def template_problem(value: str) -> str | None:
    """What is wrong with a value of ``--template``, None if it may be one."""
    if value in (AUTO, OWN, *template_names()) or value.endswith(".jinja"):
        return None
    known = [AUTO, OWN, *template_names()]
    guess = did_you_mean(value, known) or f"there are {', '.join(known)}, FILE.jinja"
    return f"unknown template {value!r}; {guess}"


def choose_template(
    name: str, tokenizer: PreTrainedTokenizerBase, folder: Path | None = None, defaults: Sequence[str] = DEFAULTS
) -> ChatTemplate:
    """The template called `name`, for an LLM with this tokenizer.

    Args:
        name: ``auto``, ``own``, one that ships, or a file. ``auto`` is the one that `folder` records, else the
            tokenizer's own, else the first of `defaults` that can be used.
        folder: of a finished model, whose ``chat_template.jinja`` comes first; None for an LLM alone.
        defaults: none of them refuse a model without a template.

    Raises:
        ModelError: there is none, or it cannot be used (see `ChatTemplate`). ConfigError: the file cannot be read.
    """
    if name in (AUTO, OWN):
        if (own := own_template(tokenizer, folder)) is not None:
            return own
        if name == OWN or not defaults:
            raise ModelError(
                "the tokenizer has no chat template" + ("" if folder is None else f", and {folder} records none"),
                f"give one with --template: {', '.join(template_names())}, or a file of jinja",
            )
        name = next((one for one in defaults if _writes(tokenizer, shipped(one, tokenizer).end)), defaults[-1])
    if name in template_names():
        return _writable(shipped(name, tokenizer), tokenizer)
    return of_source(name, _read(Path(name).expanduser()), tokenizer)


def own_template(tokenizer: PreTrainedTokenizerBase, folder: Path | None = None) -> ChatTemplate | None:
    """The template that a model's folder records, else the tokenizer's own; None if there is neither.

    Raises:
        ModelError: it cannot be used.
    """
    if folder is not None and (folder / FILE).is_file():
        return of_source(OWN, _read(folder / FILE), tokenizer)
    if getattr(tokenizer, "chat_template", None):
        return of_source(OWN, tokenizer.get_chat_template(), tokenizer)
    return None


def usable_template(name: str, tokenizer: PreTrainedTokenizerBase, folder: Path | None = None) -> ChatTemplate | None:
    """As `choose_template` for a model that need not chat: None where ``auto`` leads to none that can be used."""
    try:
        return choose_template(name, tokenizer, folder, defaults=())
    except ModelError:
        if name != AUTO:
            raise
        return None


def write_template(folder: Path, template: ChatTemplate) -> None:
    """Record a model's template in its folder, where transformers' processor reads it."""
    (folder / FILE).write_text(template.source, encoding="utf-8")


def shipped(name: str, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    """One of the templates that ship."""
    body = _body(name)
    start = "{{ bos_token }}" if _starts(tokenizer) else ""
    if "eos_token" in body and tokenizer.eos_token is None:
        raise ModelError(
            f"the template {name} ends answers with the end of text, and the tokenizer has none",
            "set eos_token in its tokenizer_config.json",
        )
    source = HEADER.format(name=name) + start + body
    return ChatTemplate(name, source, _tokens(tokenizer), verbatim=False, added=_added(tokenizer))


def of_source(name: str, source: str, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    """A template from its jinja; one for texts only learns to show images."""
    for own in template_names():
        if source.startswith(HEADER.format(name=own)):
            return shipped(own, tokenizer)
    options: dict[str, Any] = {"tokens": _tokens(tokenizer), "added": _added(tokenizer)}
    try:
        template = ChatTemplate(name, source, **options)
    except ModelError:  # it may know texts only, or write images in a way of its own
        template = ChatTemplate(name, WITH_IMAGES + source, **options)
    return _writable(template, tokenizer)


def _writable(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    if not _writes(tokenizer, template.end):
        raise ModelError(
            f"the template {template.name} ends answers with {template.end!r}, which this tokenizer does not know: "
            "the LLM would never stop",
            "give another --template; `vpgt template --list` names those that ship",
        )
    return template


def _writes(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether the tokenizer has tokens for all of a text."""
    return tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False).input_ids


@cache
def _body(name: str) -> str:
    return (Path(__file__).parent / f"{name}.jinja").read_text(encoding="utf-8").strip()


def _read(path: Path) -> str:
    try:
        content = read_bounded(path, LIMIT)
        if content is None:
            raise ConfigError([f"{path} is larger than {LIMIT} bytes, too large for a template"])
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot read the template {path}: {error}"], "give a file of jinja") from error


def _tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    return tuple(sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}))


def _starts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts its start token before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
