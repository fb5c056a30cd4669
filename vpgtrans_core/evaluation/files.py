"""The files that ``--data`` gives to a task: read once, told apart by what is in them. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpgtrans_core.data.listing import FileImage
from vpgtrans_core.data.readers.image_root import find_root
from vpgtrans_core.data.readers.json_rows import read_rows
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.data.strings import Strings
from vpgtrans_core.errors import DataError
from vpgtrans_core.files import sha256_file

SHOWN = 10
"""Problems that a message names; it counts the others."""


@dataclass(frozen=True)
class DataFile:
    """One json file.

    Attributes:
        root: the images' folder that was named after the colon.
        needs_images: False where answers are at hand and only compared.
        lines: the number of each row's line in a file with a row a line, else none.
    """

    path: Path
    root: Path | None
    content: Any
    needs_images: bool = True
    lines: list[int] = field(default_factory=list)

    @property
    def shape(self) -> str:
        """What is in it, in a few words."""
        if isinstance(self.content, dict):
            keys = ", ".join(map(repr, list(self.content)[:6]))
            return f"{self.path} (an object with {keys or 'no keys'})"
        rows = self.content if isinstance(self.content, list) else []
        first = (
            f", the first with {', '.join(map(repr, list(rows[0])[:6]))}" if rows and isinstance(rows[0], dict) else ""
        )
        return f"{self.path} (a list of {len(rows)} rows{first})"


class DataFiles:
    """The files of one evaluation; a task takes each of them once."""

    def __init__(self, task: str, files: Sequence[DataFile], wanted: str = "") -> None:
        self.task = task
        self.wanted = wanted
        self.all = tuple(files)
        self._left = list(files)

    def take(self, what: str, fits: Callable[[Any], bool]) -> DataFile:
        """Take the first file whose content fits.

        Raises:
            DataError: none does; the message says what was given.
        """
        file = self.take_if_there(fits)
        if file is None:
            given = "; ".join(file.shape for file in self._left) or "nothing"
            raise DataError(f"the task {self.task} needs {what}; what is left of --data is {given}", self.hint)
        return file

    def take_if_there(self, fits: Callable[[Any], bool]) -> DataFile | None:
        """Take the first file whose content fits, or None."""
        file = next((file for file in self._left if fits(file.content)), None)
        if file is not None:
            self._left.remove(file)
        return file

    def end(self) -> None:
        """Say that the task has taken all it needs.

        Raises:
            DataError: a file is left over: it belongs to another task, or was given twice.
        """
        if self._left:
            raise DataError(
                f"the task {self.task} has no use for {'; '.join(file.shape for file in self._left)}", self.hint
            )

    @property
    def hint(self) -> str:
        return f"--data for {self.task}: {self.wanted}" if self.wanted else ""

    def hashes(self) -> list[list[str]]:
        """Of each file its name, its SHA-256, and the images' folder that was named with it."""
        return [
            [file.path.name, sha256_file(file.path), str(file.root.absolute()) if file.root else ""]
            for file in self.all
        ]


def open_files(task: str, given: Sequence[str], wanted: str = "", *, needs_images: bool = True) -> DataFiles:
    """Read what ``--data`` names: ``FILE.json`` or ``FILE.json:FOLDER``, with the images' folder.

    Raises:
        DataError: listing every file or folder that is not there; or one is not json.
    """
    parts = [_split(name) for name in given]
    problems = [f"there is no file {file}" for file, _ in parts if not file.is_file()]
    problems += [f"there is no image folder {root}" for _, root in parts if root is not None and not root.is_dir()]
    refuse(problems, "check the path; relative ones start at the current folder")
    read = [(file, root, *read_rows(file)) for file, root in parts]
    files = [DataFile(file, root, content, needs_images, lines) for file, root, content, lines in read]
    return DataFiles(task, files, wanted)


def images_of(file: DataFile, names: Sequence[str]) -> list[FileImage]:
    """The images of a task, by their names below the folder in which they are.

    Raises:
        DataError: no folder has them.
    """
    if not names:
        return []
    if not file.needs_images:
        return [FileImage(str(file.root or file.path.parent), name) for name in names]
    root = find_root(file.path, Strings.of(names), file.root)
    return [FileImage(str(root), name) for name in names]


def refuse_missing(images: Iterable[ImageRef]) -> None:
    """Refuse images whose files are not there.

    Raises:
        DataError: naming the first of them.
    """
    files = dict.fromkeys(Path(image.root) / image.name for image in images if isinstance(image, FileImage))
    problems = [f"the image {file} is missing" for file in files if not file.is_file()]
    refuse(problems, "complete the images' folder, or name another after a colon: --data FILE.json:FOLDER")


def refuse(problems: Sequence[str], hint: str = "") -> None:
    """Raise all problems as one error, if there are any.

    Raises:
        DataError: naming the first of them and counting the others.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(problems[0], hint)
    more = [f"  ... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    raise DataError("\n".join([f"{len(problems)} problems:", *(f"  - {p}" for p in problems[:SHOWN]), *more]), hint)


def place_of(row: int, lines: Sequence[int]) -> str:
    """Where the `row`-th row of a file, from 1, stands in it: its line where each row has one."""
    return f"line {lines[row - 1]}" if lines else f"row {row}"


def rows_of(content: Any, key: str) -> list[Any]:
    """The list under a key of an object; empty where there is none."""
    rows = content.get(key) if isinstance(content, dict) else None
    return rows if isinstance(rows, list) else []


def has_fields(rows: Sequence[Any], *names: str) -> bool:
    """Whether the first row is an object with these fields: what tells files apart."""
    return bool(rows) and isinstance(rows[0], dict) and all(name in rows[0] for name in names)


def lacking(row: Any, *, ids: Sequence[str] = (), texts: Sequence[str] = (), said: Sequence[str] = ()) -> list[str]:
    """The fields that a row does not have as it must: `ids` are whole numbers or texts, `texts` are not empty, and
    those that people have `said` may be."""
    if not isinstance(row, dict):
        return [*ids, *texts, *said]
    wrong = [name for name in ids if not is_id(row.get(name))]
    wrong += [name for name in texts if not is_text(row.get(name))]
    return wrong + [name for name in said if not isinstance(row.get(name), str)]


def is_id(value: Any) -> bool:
    """Whether a value can name a sample: a whole number, or a text that is not empty."""
    return is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _split(given: str) -> tuple[Path, Path | None]:
    path = Path(given).expanduser()
    file, colon, root = given.rpartition(":")
    if colon and not path.exists() and Path(file).expanduser().is_file():
        return Path(file).expanduser(), Path(root).expanduser()
    return path, None
