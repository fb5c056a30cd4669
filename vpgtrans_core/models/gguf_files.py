"""Models in GGUF files: those that the user names and those inside installed packages, converted once. Loads no torch
but to convert."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import CONFIG, cache_root, sha256_files

SUFFIX = ".gguf"


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one of a folder that is not a transformers folder.

    Raises:
        ModelError: the folder has several.
    """
    if path.is_file():
        return path if path.suffix == SUFFIX else None
    if not path.is_dir() or (path / CONFIG).is_file():
        return None
    files = sorted(file for file in path.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise ModelError(
            f"{path} holds {len(files)} GGUF files: {', '.join(file.name for file in files[:6])}",
            "name the one to use",
        )
    return files[0] if files else None


def installed_files(names: Sequence[str]) -> list[Path] | None:
    """The files of ``"package:file"`` names, found without importing the packages; None where one is not installed."""
    found = []
    for name in names:
        package, _, inner = name.partition(":")
        spec = importlib.util.find_spec(package)
        places = [Path(place) / inner for place in (spec.submodule_search_locations or ())] if spec else []
        found += [place for place in places if place.is_file()][:1]
    return found if len(found) == len(names) else None


class Converted:
    """Folders that were made of GGUF files, in the cache, by the SHA-256 of the whole file, in parts or not."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.root = cache_root() / "gguf"
        self.note = note

    def folder(self, files: Sequence[Path], *, convert: bool) -> Path | None:
        """The folder of a file, or of one that lies in parts; None where there is none and `convert` is off.

        Raises:
            ModelError, UnsafeInput: see `vpgtrans_core.weights.gguf.convert_gguf`.
        """
        out = self.root / sha256_files(files)[:16]
        if not (out / CONFIG).is_file() and convert:
            self.note(f"converting {files[0].name} to safetensors in {out}, once (minutes for large vocabularies)")
            self._convert(files, out)
        return out if (out / CONFIG).is_file() else None

    def config(self, files: Sequence[Path]) -> dict[str, Any]:
        """The config of a file's model, read without its weights."""
        from vpgtrans_core.weights.gguf import gguf_config

        return gguf_config(files[0])

    def _convert(self, files: Sequence[Path], out: Path) -> None:
        from vpgtrans_core.weights.gguf import convert_gguf, join_parts

        self.root.mkdir(parents=True, exist_ok=True)
        if len(files) == 1:
            return convert_gguf(files[0], out)
        whole = self.root / f"{out.name}{SUFFIX}"
        whole.unlink(missing_ok=True)
        try:
            join_parts(files, whole)
            convert_gguf(whole, out)
        finally:
            whole.unlink(missing_ok=True)
