"""Where a model is: inside a package, in a folder, or on the hub. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from vpgtrans_core.cards import LLMCard, SourceCard
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import CONFIG
from vpgtrans_core.models import refusals
from vpgtrans_core.models.gguf_files import Converted, gguf_of, installed_files
from vpgtrans_core.models.hub import HUB_ID, Hub, HubRefused, HubUnreachable, split_hub_id
from vpgtrans_core.models.sizes import card_config, read_config
from vpgtrans_core.registry import KnownLLM, KnownSource, Registry
from vpgtrans_core.settings import Settings

Origin = Literal["hub", "folder", "bundled", "package"]
Known = KnownLLM | KnownSource


@dataclass(frozen=True)
class Place:
    """Where a model is and what its config says.

    Attributes:
        folder: None when only its config is known (planning, not downloaded).
        config: the content of ``config.json``.
        origin: ``folder``, ``hub``, ``bundled`` (comes with vpgt or a plugin) or ``package`` (of another package).
        hub_id, revision: set for a model of the hub; `revision` is a commit.
        from_card: the config was made of a card's sizes, because the hub could not be asked or did not tell.
    """

    folder: Path | None
    config: dict[str, Any]
    origin: Origin
    hub_id: str | None = None
    revision: str | None = None
    from_card: bool = False


class Places:
    """Finds the place of a model whose name is known to be an alias (`known`), a folder or a hub id.

    Args:
        weights: whether the model's weights are needed; without, nothing but a config is downloaded.
    """

    def __init__(self, registry: Registry, settings: Settings, weights: bool) -> None:
        self.registry = registry
        self.weights = weights
        self.hub = Hub(offline=settings.offline, note=registry.warn_once)

    def of(self, name: str, rest: str, known: Known | None) -> Place:
        """The place of a model.

        Args:
            name: what the user wrote; `rest` is the same without the plugin's name.
            known: what the registry knows under that name.

        Raises:
            ModelError: it is not there, or what is there holds no model.
        """
        if not rest:
            raise refusals.unknown([rest], self.registry)
        if known:
            if known.card.bundled:
                return self._in_package(known.card)
            return self._installed(known) or self._known_on_hub(known)
        folder = Path(rest).expanduser()
        if file := gguf_of(folder):
            return self._in_gguf([file])
        if folder.is_dir():
            return self._in_folder(folder)
        if folder.is_file():
            raise ModelError(f"{name} is a file, not a model", "give the folder with config.json and the weights")
        if is_path(rest) or rest.count("/") > 1:
            raise ModelError(
                f"the folder {rest} does not exist", "check the path; `vpgt list-models` lists the known models"
            )
        if not HUB_ID.fullmatch(rest):
            raise refusals.unknown([name], self.registry)
        try:
            return self._on_hub(*split_hub_id(rest))
        except HubUnreachable as error:
            raise HubUnreachable(f"{error.message} (and there is no folder {rest} here)", error.hint) from error

    def _in_package(self, card: LLMCard | SourceCard) -> Place:
        package, _, inner = (card.bundled or "").partition(":")
        try:
            folder = Path(str(resources.files(package))) / inner
        except ImportError as error:
            raise ModelError(f"{card.alias} ships in the package {package!r}, which is not installed") from error
        if not (folder / CONFIG).is_file():
            raise ModelError(f"{card.alias} is missing from {folder}", "install the package again")
        return replace(self._in_folder(folder), origin="bundled")

    def _in_gguf(self, files: list[Path], card_config: dict[str, Any] | None = None) -> Place:
        """A model in a GGUF file, which is converted where weights are needed."""
        converted = Converted(self.registry.warn_once)
        folder = converted.folder(files, convert=self.weights)
        if folder is None:
            return Place(None, card_config or converted.config(files), "folder", from_card=card_config is not None)
        return self._in_folder(folder)

    def _installed(self, known: Known) -> Place | None:
        """A model whose weights lie in installed packages."""
        if not isinstance(known, KnownLLM) or not (files := installed_files(known.card.packaged)):
            return None
        return replace(self._in_gguf(files, self._card_config(known)), origin="package")

    def _in_folder(self, folder: Path) -> Place:
        refusals.refuse_folder(folder, self.weights)
        return Place(folder, read_config(folder / CONFIG), "folder")

    def _on_hub(self, hub_id: str, revision: str | None) -> Place:
        if self.weights:
            folder = self.hub.folder(hub_id, revision)
            return replace(self._in_folder(folder), origin="hub", hub_id=hub_id, revision=folder.name)
        path = self.hub.config(hub_id, revision)
        return Place(None, read_config(path), "hub", hub_id, path.parent.name)

    def _known_on_hub(self, known: Known) -> Place:
        """A model of the hub whose sizes a card has: a plan can do without the hub."""
        card = known.card
        try:
            return self._on_hub(card.hub_id, card.revision)
        except (HubUnreachable, HubRefused) as error:
            if self.weights:
                raise
            if isinstance(error, HubRefused):  # the run itself would end here
                self.registry.warn_once(
                    f"{error.message}; the plan uses the sizes of its card. To run it, {error.hint}"
                )
            return Place(None, self._card_config(known), "hub", card.hub_id, card.revision, from_card=True)

    def _card_config(self, known: Known) -> dict[str, Any]:
        if isinstance(known, KnownLLM):
            return card_config(known.card, known.family)
        config = {"model_type": known.family.model_types[0], **known.card.config}
        if known.card.llm:
            llm = self.registry.llm_of(known)
            config["text_config"] = card_config(llm.card, llm.family)
        return config


def is_path(text: str) -> bool:
    """Whether the user writes a path, as against a name that may also be that of a folder here."""
    return text.startswith((".", "/", "~")) or text.endswith("/")
