"""What an LLM reads of a conversation, from its tokenizer alone: no weights are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpgtrans_core.cards import load
from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.loading import load_tokenizer
from vpgtrans_core.llm.text import Text
from vpgtrans_core.models.resolve import resolve_source, resolve_target
from vpgtrans_core.models.resolved import ResolvedLLM, ResolvedSource
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import ChatTemplate, chat_text, choose_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLE = Conversation(
    (
        Turn("user", (ImageMark(0), "what is on the picture ?")),
        Turn("assistant", ("a small red ball",)),
        Turn("user", ("where is it ?",)),
        Turn("assistant", ("on the grass",)),
    )
)


def example_of(
    name: str, settings: Settings, registry: Registry, conversation: Conversation = EXAMPLE
) -> tuple[ChatTemplate, Text, PreTrainedTokenizerBase]:
    """A model's template, a conversation as it is learned in it, and the tokenizer.

    Args:
        name: of an LLM or a VL-LLM.
        settings: ``template``, ``offline`` and the like.

    Raises:
        ModelError: the model is not there, or its template cannot be used.
    """
    llm, source = _resolve(name, settings, registry)
    place = llm.folder or llm.hub_id
    if llm.folder is None and settings.offline:
        raise ModelError(f"the tokenizer of {name} is not here, and --offline asks for no other place")
    assert place is not None
    tokenizer = load_tokenizer(place, settings.trust_remote_code)
    template = choose_template(settings.template, tokenizer, source.folder if source else None)
    encoder = load(llm.family.adapter).text_encoder_of(tokenizer, llm.family)
    return template, chat_text(encoder, template, conversation), tokenizer


def _resolve(name: str, settings: Settings, registry: Registry) -> tuple[ResolvedLLM, ResolvedSource | None]:
    """The LLM called `name`, or the VL-LLM's with the VL-LLM."""
    if not registry.knows_llm(name):
        try:
            source = resolve_source(name, registry, settings, weights=False)
        except ModelError:
            return resolve_target(name, registry, settings, weights=False), None
        if source.llm is None:
            raise ModelError(f"{name} is a VPG without language model", "give its LLM")
        return source.llm, source
    return resolve_target(name, registry, settings, weights=False), None
