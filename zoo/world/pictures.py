"""Build a small real world: ``python -m zoo.world.pictures --packages FOLDER --out DIR``.

`FOLDER` is where npm installed the packages (docs/world.md names them); ``--stamps`` adds the photos and drawings of
Tux Paint with their lines. Every part of the data is a folder with ``captions.json`` that ``--data`` reads: pictures to
train on, those of a style or of concepts that no training picture shows, and those of both. ``words.json`` has the
keywords, too. ``world.json`` beside them has counts, licences and versions. The same packages give the same parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image

from vpgtrans_core.errors import DataError, VpgtError
from vpgtrans_core.files import write_json
from zoo.world.styles import STYLES, Draw, Style, on_white, package_folder, pictures
from zoo.world.words import CLDR, CLDR_LICENCE, STAMPS_LICENCE, Concept, concepts, stamps

TRAIN, STYLE, CONCEPTS, BOTH = "train", "held-style", "held-concepts", "held-both"
PARTS = (TRAIN, STYLE, CONCEPTS, BOTH)
HELD_STYLE = "twemoji"
HELD_PERCENT = 12
"""Of all concepts, how many no training picture shows."""
FEWEST_STYLES = 2
"""A concept of fewer styles is left out: mostly signs that only one font draws."""
RECORD = "world.json"
CAPTIONS, WORDS = "captions.json", "words.json"
"""The names alone, and with the keywords as a second caption."""
Row = dict[str, Any]


def is_held(concept: str) -> bool:
    """Whether a concept is held out; it follows from its name alone, so that more packages move no concept."""
    return int(hashlib.sha256(concept.encode()).hexdigest(), 16) % 100 < HELD_PERCENT


def part_of(concept: str, style: str, held_style: str) -> str:
    """The part of the data that a picture belongs to."""
    return {(0, 0): TRAIN, (0, 1): STYLE, (1, 0): CONCEPTS, (1, 1): BOTH}[is_held(concept), style == held_style]


def build(
    packages: Path,
    out: Path,
    styles: Sequence[Style] = STYLES,
    held_style: str = HELD_STYLE,
    stamps_folder: Path | None = None,
) -> dict[str, Any]:
    """Write all parts and their record, which is returned.

    Raises:
        DataError: a package is missing, the held-out style is none of the styles, or `out` is in use.
    """
    if held_style not in {style.name for style in styles}:
        raise DataError(f"the held-out style {held_style!r} is none of {', '.join(s.name for s in styles)}")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty", "give a new folder, or delete it first")
    rows: dict[str, list[Row]] = {part: [] for part in PARTS}
    for part in PARTS:
        (out / part / "images").mkdir(parents=True)
    try:
        for row, draw in [*_emoji(packages, styles), *_stamps(stamps_folder)]:
            part = part_of(row["concept"], row["style"], held_style)
            on_white(draw()).save(out / part / row["image"])
            rows[part].append(row)
    except BaseException:
        shutil.rmtree(out)
        raise
    for part in PARTS:
        write_json(out / part / CAPTIONS, rows[part])
        write_json(out / part / WORDS, [row | {"caption": _all_words(row)} for row in rows[part]])
    record = _record(packages, styles, held_style, rows, stamps_folder is not None)
    write_json(out / RECORD, record)
    return record


def _emoji(packages: Path, styles: Sequence[Style]) -> Iterator[tuple[Row, Draw]]:
    finders = {style.name: pictures(style, packages) for style in styles}
    seen: set[str] = set()
    for concept in concepts(packages):
        found = {name: find(concept.signs, concept.name) for name, find in finders.items()}
        drawn = {name: draw for name, draw in found.items() if draw is not None}
        if len(drawn) >= min(FEWEST_STYLES, len(styles)) and concept.name not in seen:
            seen.add(concept.name)
            yield from ((_row(concept, name), draw) for name, draw in drawn.items())


def _row(concept: Concept, style: str) -> Row:
    name = concept.name.replace(" ", "-").replace("'", "")
    words = {"caption": [concept.name], "keywords": list(concept.keywords)}
    return {"image": f"images/{name}-{style}.png", **words, "concept": concept.name, "style": style}


def _stamps(folder: Path | None) -> Iterator[tuple[Row, Draw]]:
    for stamp in stamps(folder) if folder is not None else ():
        row = {"image": f"images/stamp-{stamp.name}.png", "caption": [stamp.line], "keywords": []}
        yield row | {"concept": stamp.line, "style": "stamps"}, lambda file=stamp.file: Image.open(file)


def _all_words(row: Row) -> list[str]:
    return [*row["caption"], ", ".join(row["keywords"])] if row["keywords"] else row["caption"]


def _record(
    packages: Path, styles: Sequence[Style], held_style: str, rows: dict[str, list[Row]], with_stamps: bool
) -> dict[str, Any]:
    sources = [
        {"style": s.name, "package": s.package, "version": _version(packages, s.package)}
        | {"licence": s.licence, "author": s.author}
        for s in styles
    ]
    sources.append({"words": "emoji", "package": CLDR, "version": _version(packages, CLDR), "licence": CLDR_LICENCE})
    if with_stamps:
        sources.append({"style": "stamps", "package": "tuxpaint-stamps-default (Debian)", "licence": STAMPS_LICENCE})
    return {
        "held_style": held_style,
        "pictures": {part: dict(Counter(row["style"] for row in own)) for part, own in rows.items()},
        "concepts": {part: len({row["concept"] for row in own}) for part, own in rows.items()},
        "sha256": {part: _hash(own) for part, own in rows.items()},
        "sources": sources,
        "versions": {name: metadata.version(name) for name in ("pillow", "resvg-py") if _installed(name)},
    }


def _hash(rows: list[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _version(packages: Path, name: str) -> str:
    return str(json.loads((package_folder(packages, name) / "package.json").read_text(encoding="utf-8"))["version"])


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="where npm installed the packages")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, help="a folder above tuxpaint/stamps")
    parser.add_argument("--styles", nargs="+", default=[s.name for s in STYLES], help="leave out what you do not have")
    parser.add_argument("--held-style", default=HELD_STYLE, help=f"the style of no training picture [{HELD_STYLE}]")
    given = parser.parse_args()
    try:
        styles = [style for style in STYLES if style.name in given.styles]
        record = build(given.packages, given.out, styles, given.held_style, given.stamps)
    except VpgtError as error:
        raise SystemExit(str(error)) from error
    for part in PARTS:
        counts = record["pictures"][part]
        print(f"{part}: {sum(counts.values())} pictures of {record['concepts'][part]} concepts, {counts}")


if __name__ == "__main__":
    main()
