"""The one kind of error that a user meets: what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VpgtError(Exception):
    """An error whose cause lies in what came from outside: arguments, files, models, plugins.

    The command line prints ``error: MESSAGE`` and ``hint: HINT`` and exits with code 2; a traceback is shown
    only with ``--debug``.

    Args:
        message: what is wrong and where, in one sentence or a short list.
        hint: what to do next; may be empty.

    Attributes:
        in_every_process: whether all processes of a run meet the same error, so that one of each machine shows it.
    """

    in_every_process = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(VpgtError):
    """Settings that cannot be used. Lists every problem at once."""

    def __init__(self, problems: list[str], hint: str = "") -> None:
        text = (
            problems[0]
            if len(problems) == 1
            else "\n".join([f"{len(problems)} problems:", *(f"  - {p}" for p in problems)])
        )
        super().__init__(text, hint)
        self.problems = problems


class DataError(VpgtError):
    """Training data that cannot be used: missing, empty, of no known format, or with too many bad samples."""


class ModelError(VpgtError):
    """A model that cannot be used: not found, not of a known kind, or with weights that do not fit."""


class PluginError(VpgtError):
    """A plugin that cannot be used or a name that several plugins claim."""


class UnsafeInput(VpgtError):
    """Input refused at the gate: code in a pickle, a path that leaves its root, a decompression bomb, a bad header."""


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ``"did you mean 'opt-2.7b'?"`` for the nearest known names, or ``""`` when none is near."""
    near = difflib.get_close_matches(name.lower(), list(known), n=count, cutoff=0.6)
    return f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
