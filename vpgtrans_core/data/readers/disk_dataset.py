"""A dataset of Hugging Face's `datasets` library, saved on disk with ``save_to_disk``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.json_rows import as_list, nothing_usable
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.errors import DataError

CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "sentences")


def is_one(path: Path) -> bool:
    """Whether a folder holds a saved dataset or a dictionary of them."""
    return (path / "dataset_dict.json").is_file() or all(
        (path / name).is_file() for name in ("dataset_info.json", "state.json")
    )


@dataclass(frozen=True)
class DatasetImage:
    """The image of one row. Its bytes must be in the dataset: paths to files elsewhere are not followed."""

    folder: str
    column: str
    row: int

    @property
    def name(self) -> str:
        return f"row {self.row}"

    def read(self) -> bytes:
        value = _open(self.folder, self.column)[self.row][self.column]
        if value is None:
            raise BadSampleError(bad.MISSING_IMAGE)
        if value.get("bytes") is None:
            raise BadSampleError(bad.OUTSIDE_ROOT, f"the row holds no image but the path {value.get('path')!r}")
        return value["bytes"]


@dataclass(frozen=True)
class DatasetImages:
    """The images of the rows that have a caption."""

    folder: str
    column: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> ImageRef:
        return DatasetImage(self.folder, self.column, int(self.rows[row]))


def read(path: Path, clean: Callable[[str], str]) -> Listing:
    """Make the listing of the dataset, of its ``train`` part, or of its only part.

    Raises:
        DataError: `datasets` is not installed, the folder is damaged, or has no image or no caption column.
    """
    folder = _part(path)
    columns = _features(folder)
    images = [name for name, feature in columns.items() if type(feature).__name__ == "Image"]
    captions = [name for name in CAPTION_COLUMNS if name in columns]
    if not images or not captions:
        held = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in columns.items())
        raise DataError(
            f"{folder} has no {'image' if not images else 'caption'} column; it holds: {held}",
            f"cast a column to datasets.Image(), or name the captions one of: {', '.join(CAPTION_COLUMNS)}",
        )
    builder = ListingBuilder(str(path), "datasets", clean)
    rows = []
    for row, value in enumerate(_column(folder, captions[0])):
        if builder.add(f"row {row}", as_list(value)):
            rows.append(row)
    if not rows:
        raise nothing_usable(builder, path)
    return builder.build(DatasetImages(str(folder), images[0], np.array(rows, dtype=np.int64)), _arrow_files(folder))


def _part(path: Path) -> Path:
    if not (path / "dataset_dict.json").is_file():
        return path
    parts = sorted(entry.name for entry in path.iterdir() if (entry / "state.json").is_file())
    if "train" in parts or len(parts) == 1:
        return path / ("train" if "train" in parts else parts[0])
    raise DataError(
        f"{path} holds the parts {', '.join(parts) or '(none)'}, none called train", "give one part's folder"
    )


def _arrow_files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*.arrow"))


def _load(folder: Path | str) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise DataError(
            f"{folder} was saved by the `datasets` library, which is not installed", "pip install 'vpgt[datasets]'"
        ) from error
    try:
        return load_from_disk(str(folder)).with_format(None)  # it may have been saved with another one
    except Exception as error:  # its many readers raise many kinds
        raise DataError(f"cannot open the dataset in {folder}: {error}", "check that the folder is whole") from error


def _features(folder: Path) -> dict[str, Any]:
    return dict(_load(folder).features)


def _column(folder: Path, name: str) -> Any:
    for batch in _load(folder).select_columns([name]).iter(batch_size=1000):
        yield from batch[name]


@lru_cache(maxsize=8)
def _open(folder: str, column: str) -> Any:
    """The dataset's images as encoded bytes; opened once a process, memory-mapped."""
    from datasets import Image

    return _load(folder).select_columns([column]).cast_column(column, Image(decode=False))
