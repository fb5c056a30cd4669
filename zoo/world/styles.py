"""The pictures of one concept in several styles, as packages of emoji hold them.

Nothing of these packages is in this repository. A style says which package has it, where its pictures lie there, and
under which licence they are; `pictures` finds them by code points, or by the concept's name where a package has none.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vpgtrans_core.errors import DataError

SIDE = 128
"""Pixels of a side of drawings made from SVG, and at most of other pictures."""
Draw = Callable[[], Image.Image]


@dataclass(frozen=True)
class Style:
    """One way to draw emoji.

    Attributes:
        package: the npm package.
        place: the folder with one file a picture, named by code points, or the json file of an icon set.
        licence: the artwork's licence, as its authors state it.
        author: whom the licence wants named.
    """

    name: str
    package: str
    place: str
    licence: str
    author: str


STYLES = (
    Style("noto", "emoji-datasource-google", "img/google/64", "Apache-2.0", "Google"),
    Style("twemoji", "emoji-datasource-twitter", "img/twitter/64", "CC-BY-4.0", "Twitter, Inc and other contributors"),
    Style("openmoji", "openmoji", "color/svg", "CC-BY-SA-4.0", "the OpenMoji project"),
    Style("fluent-3d", "@lobehub/fluent-emoji-3d", "assets", "MIT", "Microsoft Corporation"),
    Style("fluent-flat", "@iconify-json/fluent-emoji-flat", "icons.json", "MIT", "Microsoft Corporation"),
    Style("blob", "@iconify-json/noto-v1", "icons.json", "Apache-2.0", "Google"),
)


def code_of(text: str) -> str:
    """The code points of an emoji, or of a file named by them, as ``1f34e`` or ``1f468-200d-1f9b0``; the selector of
    coloured signs (``fe0f``) does not tell emoji apart."""
    points = text.lower().split("-") if text.isascii() else [f"{ord(sign):x}" for sign in text]
    return "-".join(point.lstrip("0") for point in points if point != "fe0f")


def slug_of(name: str) -> str:
    """How icon sets write a name: ``red-apple``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("’", "").replace("'", "")).strip("-")


def package_folder(packages: Path, name: str) -> Path:
    """The folder of an installed npm package.

    Raises:
        DataError: it is not there.
    """
    for folder in (packages / name, packages / "node_modules" / name):
        if (folder / "package.json").is_file():
            return folder
    raise DataError(
        f"the package {name} is not in {packages}",
        f"install it with npm install --prefix {packages} {name}, or leave its style out",
    )


def pictures(style: Style, packages: Path) -> Callable[[str, str], Draw | None]:
    """A function that finds a style's picture of an emoji (its signs and its name), or None."""
    place = package_folder(packages, style.package) / style.place
    if not place.exists():
        raise DataError(f"{place} is missing", f"another version of {style.package} may have it")
    return _icons(place) if place.is_file() else _files(place)


def _files(folder: Path) -> Callable[[str, str], Draw | None]:
    by_code = {
        code_of(path.stem): path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".webp", ".svg")
    }

    def find(signs: str, name: str) -> Draw | None:
        path = by_code.get(code_of(signs))
        return None if path is None else lambda: _open(path)

    return find


def _open(path: Path) -> Image.Image:
    if path.suffix == ".svg":
        return draw_svg(path.read_text(encoding="utf-8"))
    with Image.open(path) as image:
        return image.convert("RGBA")


def _icons(file: Path) -> Callable[[str, str], Draw | None]:
    """An icon set in one json file: bodies of SVG by name, and in ``chars.json`` beside it perhaps names by code."""
    icons = json.loads(file.read_text(encoding="utf-8"))
    chars = file.with_name("chars.json")
    by_code = json.loads(chars.read_text(encoding="utf-8")) if chars.is_file() else {}
    names = {code_of(code): name for code, name in by_code.items()}

    def find(signs: str, name: str) -> Draw | None:
        own = names.get(code_of(signs), slug_of(name))
        if own not in icons["icons"]:
            return None
        icon = icons["icons"][own]
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        return lambda: draw_svg(f"<svg {box}>{icon['body']}</svg>")

    return find


def draw_svg(source: str) -> Image.Image:
    """A drawing as pixels.

    Raises:
        DataError: the package resvg-py is not installed, or the drawing is damaged.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("drawings in SVG need the package resvg-py", "pip install resvg-py") from error
    try:
        drawn = bytes(resvg_py.svg_to_bytes(svg_string=source, width=SIDE, height=SIDE))
    except Exception as error:  # the library has errors of many kinds
        raise DataError(f"a drawing cannot be drawn: {error}", "another version of its package may be whole") from error
    with Image.open(io.BytesIO(drawn)) as image:
        return image.convert("RGBA")


def on_white(image: Image.Image, side: int = SIDE) -> Image.Image:
    """A picture as an RGB square on white, of at most `side` pixels."""
    image = image.convert("RGBA")
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    longest = max(image.size)
    square = Image.new("RGBA", (longest, longest), (255, 255, 255, 255))
    square.alpha_composite(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    return square.convert("RGB")
