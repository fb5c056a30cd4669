"""Datasets of Hugging Face's `datasets` library: saved with ``save_to_disk``, or parquet files as the hub keeps them.

Parquet files are read by the library too, which unpacks them once into its cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import CAPTIONS, Reading, as_list
from vpgtrans_core.data.readers.json_rows import nothing_usable
from vpgtrans_core.data.readers.llava import conversation
from vpgtrans_core.data.readers.turns import TURNS
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.errors import DataError

IMAGE_COLUMNS = ("image", "images", "jpg", "jpeg", "png", "webp")
"""Columns that hold encoded images when the file does not say which one does (img2dataset's parquet)."""


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
        if isinstance(value, list):
            if len(value) > 1:
                raise BadSampleError(bad.BAD_ROW, f"{len(value)} images, but a row may have one")
            value = value[0] if value else None
        if value is None:
            raise BadSampleError(bad.MISSING_IMAGE)
        if isinstance(value, bytes):
            return value
        if value.get("bytes") is None:
            raise BadSampleError(bad.OUTSIDE_ROOT, f"the row holds no image, only the path {value.get('path')!r}")
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


def parquet_files(path: Path) -> list[Path]:
    """The parquet files that a path is or holds; where their names tell parts, those of ``train``."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    files = sorted(file for pattern in ("*.parquet", "*/*.parquet") for file in path.glob(pattern) if file.is_file())
    return [file for file in files if file.name.startswith("train") or file.parent.name == "train"] or files


def read(path: Path, reading: Reading) -> Listing:
    """Make the listing of the dataset, of its ``train`` part, or of its only part.

    Raises:
        DataError: `datasets` is not installed, the folder is damaged, or has no image or no caption column.
    """
    saved = path.is_dir() and is_one(path)
    parquet = [] if saved else parquet_files(path)
    source = "\n".join(map(str, parquet)) if parquet else str(_part(path))
    columns = _features(source)
    image, caption = _image_column(columns), _caption_column(columns, reading)
    if image is None or caption is None:
        held = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in columns.items())
        raise DataError(
            f"{path} has no {'image' if image is None else 'caption'} column; it holds: {held}",
            "cast a column to datasets.Image(), name the captions one of "
            f"{', '.join(reading.captions(*CAPTIONS))}, or name their column with --caption-key",
        )
    turns = caption in TURNS
    clean = reading.clean_answer if turns else reading.clean_caption
    builder = ListingBuilder(str(path), "parquet" if parquet else "datasets", clean)
    rows = []
    for row, value in enumerate(_column(source, caption)):
        try:
            if builder.add(f"row {row}", [conversation(value, 1)] if turns else as_list(value)):
                rows.append(row)
        except BadSampleError as error:
            builder.skip(f"row {row}", error.kind, error.detail)
    if not rows:
        raise nothing_usable(builder, path)
    files = parquet or _arrow_files(Path(source))
    return builder.build(DatasetImages(source, image, np.array(rows, dtype=np.int64)), files)


def _image_column(columns: dict[str, Any]) -> str | None:
    """The column that holds pictures, alone or in lists; else one of a usual name that holds bytes."""
    kinds = {name: type(feature).__name__ for name, feature in columns.items()}
    pictures = [name for name, kind in kinds.items() if kind == "Image"]
    lists = [name for name, one in columns.items() if type(getattr(one, "feature", None)).__name__ == "Image"]
    packed = [name for name in IMAGE_COLUMNS if "binary" in str(getattr(columns.get(name), "dtype", ""))]
    structs = [name for name in IMAGE_COLUMNS if isinstance(columns.get(name), dict) and "bytes" in columns[name]]
    return next(iter(pictures + lists + packed + structs), None)


def _caption_column(columns: dict[str, Any], reading: Reading) -> str | None:
    return next(
        (name for name in (*reading.captions(*CAPTIONS), *([] if reading.caption_key else TURNS)) if name in columns),
        None,
    )


def _part(path: Path) -> Path:
    if not (path / "dataset_dict.json").is_file():
        return path
    parts = sorted(entry.name for entry in path.iterdir() if (entry / "state.json").is_file())
    if "train" in parts or len(parts) == 1:
        return path / ("train" if "train" in parts else parts[0])
    raise DataError(
        f"{path} holds the parts {', '.join(parts) or '(none)'}, none of them named train",
        "give the folder of one part",
    )


def _arrow_files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*.arrow"))


def _load(source: str) -> Any:
    """A saved dataset's folder, or parquet files one a line."""
    parquet = source.endswith(".parquet")
    try:
        from datasets import load_dataset, load_from_disk
    except ImportError as error:
        raise DataError(
            f"{source.splitlines()[0]} needs the `datasets` library, which is not installed",
            "install it: pip install 'vpgt[datasets]'",
        ) from error
    try:
        if parquet:
            return load_dataset("parquet", data_files=source.split("\n"), split="train").with_format(None)
        return load_from_disk(source).with_format(None)  # it may have been saved with another one
    except Exception as error:  # its many readers raise many kinds
        raise DataError(
            f"cannot open the dataset in {source.splitlines()[0]}: {error}", "check that it is complete"
        ) from error


def _features(source: str) -> dict[str, Any]:
    return dict(_load(source).features)


def _column(source: str, name: str) -> Iterator[Any]:
    for batch in _load(source).select_columns([name]).iter(batch_size=1000):
        yield from batch[name]


@lru_cache(maxsize=8)
def _open(source: str, column: str) -> Any:
    """The dataset's images as encoded bytes; opened once a process, memory-mapped."""
    from datasets import Image, List

    data = _load(source).select_columns([column])
    feature = data.features[column]
    if type(feature).__name__ == "Image":
        return data.cast_column(column, Image(decode=False))
    if type(getattr(feature, "feature", None)).__name__ == "Image":
        return data.cast_column(column, List(Image(decode=False)))
    return data
