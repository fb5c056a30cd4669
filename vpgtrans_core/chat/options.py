"""What a person may change of how answers are generated, by the same names in the terminal and on the page."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from vpgtrans_core.errors import ConfigError, did_you_mean
from vpgtrans_core.llm.adapter import GenerateOptions

CHAT = GenerateOptions(num_beams=1, max_new_tokens=300, min_new_tokens=1)
"""Word for word, so that an answer can be shown while it grows; as long as in MiniGPT-4's demo."""


@dataclass(frozen=True)
class Choice:
    """A setting with its bounds.

    Attributes:
        name: in the terminal.
        field: of `GenerateOptions`.
        whole: whether it is a whole number.
    """

    name: str
    field: str
    low: float
    high: float
    whole: bool
    help: str


CHOICES = (
    Choice("temperature", "temperature", 0, 2, False, "0: the most likely words; higher: more at random"),
    Choice("beams", "num_beams", 1, 10, True, "above 1, several answers are compared, and the best is shown when done"),
    Choice("length", "max_new_tokens", 1, 4096, True, "longest answer, in tokens"),
)


def changed(options: GenerateOptions, name: str, value: str | float) -> GenerateOptions:
    """`options` with one of them changed.

    Raises:
        ConfigError: there is no such setting, or it cannot have this value.
    """
    choice = next((choice for choice in CHOICES if choice.name == name), None)
    if choice is None:
        names = [each.name for each in CHOICES]
        hint = did_you_mean(name, names) or f"there are {', '.join(names)}"
        raise ConfigError([f"there is no setting {name!r}"], hint)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not choice.low <= number <= choice.high or (choice.whole and number != int(number)):
        what = "a whole number" if choice.whole else "a number"
        raise ConfigError([f"{name} must be {what} from {choice.low:g} to {choice.high:g}, not {value}"])
    values: dict[str, Any] = {choice.field: int(number) if choice.whole else number}
    return dataclasses.replace(options, **values)


def described(options: GenerateOptions) -> str:
    """All settings, a line each."""
    return "\n".join(f"{c.name} = {getattr(options, c.field):g}   ({c.help})" for c in CHOICES)
