"""Shortens paths of this machine to their last part in everything that is published about a model."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_ORIGIN = re.compile(r"_?name_or_path|\w+_file|folder")
"""Keys of a config that may say where on a machine something was loaded from."""
_START = r"(?:file://[^/\s]*(?=/))?(?:~[\w.-]*/|/(?!/)|[A-Za-z]:[\\/](?!/)|\\\\(?=\w)|(?:\.\.[\\/])+)"
_WHOLE = re.compile(rf"{_START}[^\n]*")
_TAG = r"(?!(?<=<)/[^/\s>]*>)"
"""No closing tag such as </s>."""
_QUOTED = re.compile(rf"(?<=['\"]){_START}[^'\"\n]+(?=['\"])")
_INSIDE = re.compile(rf"(?<![^\s:='\"(\[,@<;|]){_TAG}{_START}[^\s:='\")\],<>;|]+")


class Places:
    """Shortens absolute paths, and remembers them to find them in running text."""

    def __init__(self) -> None:
        home = Path.home()
        self.met: dict[str, str] = {str(home): "~"} if len(home.parts) > 1 else {}

    def shortened(self, value: Any) -> Any:
        """A json value with every absolute path in its strings cut down to the last part."""
        if isinstance(value, dict):
            return self._shortened_keys({key: self.shortened(item) for key, item in value.items()})
        if isinstance(value, list):
            return [self.shortened(item) for item in value]
        return self._short(value) if isinstance(value, str) else value

    def without_origin(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config whose entries that say where it came from hold no absolute path; all else is left alone."""
        result: dict[str, Any] = {}
        for key, value in config.items():
            if isinstance(value, dict):
                result[key] = self.without_origin(value)
            elif isinstance(value, str) and _ORIGIN.fullmatch(key):
                result[key] = self._short(value)
            else:
                result[key] = value
        return result

    def shortened_in(self, text: str) -> str:
        """Running text without the paths that were met before; others in it were meant to be there."""
        for place in sorted(self.met, key=len, reverse=True):
            found = rf"(?:\bfile://|(?<![\w./~-])){re.escape(place)}(?!\w|[.-]\w)"
            text = re.sub(found, self.met[place].replace("\\", r"\\"), text)
        return text

    def _short(self, text: str) -> str:
        if _WHOLE.fullmatch(text) and ":" not in text[2:]:
            return self._last(text)
        for pattern in (_QUOTED, _INSIDE):
            text = pattern.sub(lambda match: self._last(match[0]), text)
        return text

    def _shortened_keys(self, values: dict[str, Any]) -> dict[str, Any]:
        """The same under short keys; of those that become the same, all but the first are numbered."""
        result: dict[str, Any] = {}
        for key, item in values.items():
            short = new = self._short(key)
            number = 1
            while new in result:
                number += 1
                new = f"{short} ({number})"
            result[new] = item
        return result

    def _last(self, place: str) -> str:
        kind = PureWindowsPath if "\\" in place or place[1:2] == ":" else PurePosixPath
        if len(kind(place).parts) < 2:
            return place  # the root, which says nothing
        self.met[place] = kind(place).name
        return self.met[place]
