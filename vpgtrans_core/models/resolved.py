"""What a name became: a language model or a source, with its place, its family and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpgtrans_core.cards import LLMCard, LLMFamily, SourceCard, VPGFamily
from vpgtrans_core.models.places import Origin, Place
from vpgtrans_core.models.sizes import config_size


class _Placed:
    """What a model's place says, for those who ask the model."""

    place: Place

    @property
    def folder(self) -> Path | None:
        return self.place.folder

    @property
    def origin(self) -> Origin:
        return self.place.origin

    @property
    def bundled(self) -> bool:
        return self.place.origin == "bundled"

    @property
    def hub_id(self) -> str | None:
        return self.place.hub_id

    @property
    def revision(self) -> str | None:
        return self.place.revision

    @property
    def from_card(self) -> bool:
        return self.place.from_card


@dataclass(frozen=True)
class ResolvedLLM(_Placed):
    """A language model whose name was resolved.

    Attributes:
        name: what the user wrote, or the alias.
        place: where it is; `place.config` is that of the whole VL-LLM where it lies inside one.
        config: transformers' config of the language model itself (a VL-LLM's ``text_config``).
        family: its family, the fallback's where no plugin has one; `family.bos` is where BOS stands in this model's
            texts.
        plugin: the plugin of the family, None for the fallback.
        card: its card where it is known.
        prefix: what its tensors' names begin with in `folder`: ``""``, or inside a VL-LLM `LLM_PREFIX` or what the
            VPG's family says of the LLM's body.
        head: what its head's names begin with there; empty where the whole LLM has one prefix.
        adapter: the folder of a LoRA adapter that is kept for it beside a saved VPG; None for none.
    """

    name: str
    place: Place
    config: dict[str, Any]
    family: LLMFamily
    plugin: str | None = None
    card: LLMCard | None = None
    prefix: str = ""
    head: str = ""
    adapter: Path | None = None

    @property
    def embedding_size(self) -> int:
        """The width of the first block's input, as the config says it."""
        return config_size(self.config, "hidden_size", "d_model", "n_embd", "dim")

    @property
    def vocab_size(self) -> int:
        return config_size(self.config, "vocab_size")

    def reference(self) -> dict[str, Any]:
        """What another folder needs to find this model again; see `resolve_reference`."""
        return {
            "name": self.name,
            "alias": self.card.alias if self.card else None,
            "id": self.hub_id,
            "revision": self.revision,
            "folder": str(self.folder.resolve()) if self.folder and self.origin == "folder" else None,
            "prefix": self.prefix,
            "model_type": self.config.get("model_type"),
            "bos": self.family.bos,
        }


@dataclass(frozen=True)
class ResolvedSource(_Placed):
    """A trained VL-LLM, or a VPG alone, whose name was resolved.

    Attributes:
        vpg_family: the family whose adapter loads it.
        llm: the LLM that its projector belongs to; None for a VPG alone, which has no projector either.
        pretrained: alias of its VPG as pre-training left it, where training from scratch starts.
        references: what its ``references.json`` says, empty without one.
    """

    name: str
    place: Place
    vpg_family: VPGFamily
    plugin: str | None = None
    llm: ResolvedLLM | None = None
    card: SourceCard | None = None
    pretrained: str | None = None
    references: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The content of its ``config.json``."""
        return self.place.config

    @property
    def scratch_from(self) -> str | None:
        """The VPG before any language model, from which training from scratch starts: the one that the source names,
        or the source itself where it is one. An alias, hub id or folder."""
        if self.llm is not None:
            return self.pretrained
        if self.card:
            return self.card.alias
        return f"{self.hub_id}@{self.revision}" if self.hub_id else str(self.folder and self.folder.resolve())

    @property
    def whole(self) -> bool:
        """Whether its folder holds the LLM's weights too."""
        return bool(self.llm and self.llm.prefix)
