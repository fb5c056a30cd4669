"""Which files of a model folder are published, without the paths of this machine."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import ADAPTER, REFERENCES
from vpgtrans_core.models.places import is_path
from vpgtrans_core.models.refusals import refuse_apart
from vpgtrans_core.run.card import plain_model_card
from vpgtrans_core.run.folder import METRICS, RECORD
from vpgtrans_core.sharing.places import Places
from vpgtrans_core.weights import Weights, read_json

CARD = "README.md"
RECORDS = (RECORD, "import.json")
CONFIGS = ("config.json", "generation_config.json", "*processor_config.json", "tokenizer_config.json")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
BELONGS = (
    *(CARD, REFERENCES, METRICS, "loss.png", "LICENSE*", "NOTICE*"),
    *RECORDS,
    *CONFIGS,
    *WEIGHTS,
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("*.model", "*.tiktoken", "chat_template.jinja"),
)
"""Names of the files that belong to a model. Other files of its folder are not published, and are listed."""


@dataclass(frozen=True)
class Content:
    """Which files are published, and which are not.

    Attributes:
        files: by name, the file on this machine, or the bytes that go in its place.
        aside: names in the folder that stay here.
        changed: names of files in which places on this machine were shortened or taken out.
    """

    files: dict[str, Path | bytes]
    aside: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def size(self, name: str) -> int:
        """Bytes of one file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    @property
    def total(self) -> int:
        return sum(self.size(name) for name in self.files)


def model_content(folder: Path, name: str) -> Content:
    """Look through a model folder that is to be shared under `name`.

    Raises:
        ModelError: it is not whole, its weights are pickles, or it refers to what only this machine has.
        UnsafeInput: its weights are damaged.
    """
    _check_whole(folder)
    refuse_apart(str(folder), folder / ADAPTER if (folder / ADAPTER).is_dir() else None, "is not shared like this")
    inside = sorted(path.name for path in folder.iterdir())
    files: dict[str, Path | bytes] = {n: folder / n for n in inside if (folder / n).is_file() and belongs(n)}
    places = Places()
    references = _references(folder)
    if references:
        files[REFERENCES] = _as_json(_for_others(references, folder))
    for record in [n for n in RECORDS if n in files]:
        files[record] = _as_json(places.shortened(_without_data(read_json(folder / record))))
    for config in [n for n in files if any(fnmatch.fnmatchcase(n, p) for p in CONFIGS)]:
        before = read_json(folder / config)
        if (after := places.without_origin(before)) != before:
            files[config] = _as_json(after)
    files[CARD] = _card(folder, name, references, places).encode()
    changed = [n for n in inside if isinstance(made := files.get(n), bytes) and made != (folder / n).read_bytes()]
    return Content(files, [n for n in inside if n not in files], changed)


def _without_data(record: Any) -> Any:
    """A record without what was in the training data: no captions, names of files or of bad samples; their counts and
    hashes stay."""
    if isinstance(record, list):
        return [_without_data(item) for item in record]
    if not isinstance(record, dict):
        return record
    private = {"examples"}
    if "files_total" in record:
        private.add("files")
    if "counts" in record:
        private.add("named")
    return {key: _without_data(value) for key, value in record.items() if key not in private}


def belongs(name: str) -> bool:
    """Whether a file at the top of a model's folder belongs to the model; files in folders below it never do."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in BELONGS)


def _check_whole(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder", "give the folder of a finished run, an import or an export")
    if not (folder / "config.json").is_file():
        begun = (folder / RECORD).is_file()
        hint = f"finish the run: vpgt transfer --resume --out {folder}" if begun else "give the folder of a whole model"
        raise ModelError(f"{folder} is not whole: it has no config.json", hint)
    Weights(folder)  # the gate: damaged files, missing shards
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has its weights in pickles, which are not passed on", "write it anew: vpgt export DIR --to hf"
        )


def _references(folder: Path) -> dict[str, Any]:
    return read_json(folder / REFERENCES) if (folder / REFERENCES).is_file() else {}


def _for_others(references: dict[str, Any], folder: Path) -> dict[str, Any]:
    """References by id or alias alone: nobody else has a folder of this machine.

    Raises:
        ModelError: naming what others cannot find.
    """
    lost = [
        f"the {'ViT' if key == 'vit' else 'language model'} in {reference.get('folder')}"
        for key, reference in references.items()
        if isinstance(reference, dict) and not (reference.get("id") or reference.get("alias"))
    ]
    if lost:
        raise ModelError(
            f"{folder} refers to {' and '.join(lost)}, where nobody else finds it",
            f"share the whole model (vpgt export {folder} --to hf --out FOLDER), or give its hub 'id' in "
            f"{folder / REFERENCES}",
        )
    places = Places()
    return {
        key: places.shortened(value | {"folder": None} if "folder" in value else value)
        if isinstance(value, dict)
        else value
        for key, value in references.items()
        if not (key == "pretrained" and is_path(str(value)))  # a VPG that only this machine has
    }


def _card(folder: Path, name: str, references: dict[str, Any], places: Places) -> str:
    """The model card under the model's new name, with a front matter that the hub can read.

    Raises:
        ModelError: the folder's own card has a front matter that is not yaml.
    """
    from huggingface_hub import ModelCard

    path = folder / CARD
    if path.is_file():
        here = folder.resolve().name
        text = path.read_text(encoding="utf-8")
        text = text.replace(f"vpgt caption {here} ", f"vpgt caption {name} ")
        text = places.shortened_in(text.replace(f'from_pretrained("{here}")', f'from_pretrained("{name}")'))
    else:
        imported = read_json(folder / "import.json") if (folder / "import.json").is_file() else {}
        text = plain_model_card(name, read_json(folder / "config.json"), references or imported)
    try:
        ModelCard(text)
    except Exception as error:  # yaml's errors, and those of the hub's own checks
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"the front matter of {path} cannot be read: {said}", "mend the lines between ---") from error
    return text


def _as_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
