"""What a check is, how it fails, and how checks are run one after the other."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vpgtrans_core.errors import VpgtError, did_you_mean

Outcome = Literal["passed", "failed", "unsupported"]


class CheckFailed(AssertionError):
    """A check found something wrong.

    Args:
        reason: what is wrong, with the numbers.
        where: where to look; default the check's own place.
    """

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{reason} (look at: {where})" if where else reason)
        self.reason = reason
        self.where = where


@dataclass(frozen=True)
class Check:
    """One check: `run` takes the subject (an `LLMSubject` or a `VPGSubject`) and raises `CheckFailed`.

    `optional` checks are of what a family may be unable to do; it then declares that, with the reason. A check that
    `follows` another is unsupported where that one is.
    """

    name: str
    run: Callable[[Any], None]
    where: str
    optional: bool = False
    follows: str = ""

    @property
    def title(self) -> str:
        return (self.run.__doc__ or self.name).strip().splitlines()[0]


@dataclass(frozen=True)
class Result:
    """What became of one check on one family."""

    family: str
    check: str
    outcome: Outcome
    reason: str = ""
    where: str = ""
    seconds: float = 0.0


def check(
    checks: list[Check], where: str, *, optional: bool = False, follows: str = ""
) -> Callable[[Callable], Callable]:
    """Add the decorated function to `checks`, under its own name."""

    def add(function: Callable) -> Callable:
        checks.append(Check(function.__name__, function, where, optional or bool(follows), follows))
        return function

    return add


def expect(true: Any, reason: str, where: str = "") -> None:
    """Raise `CheckFailed` unless `true`."""
    if not true:
        raise CheckFailed(reason, where)


def run_check(checked: Check, subject: Any) -> Result:
    """Run one check; whatever it raises becomes its result."""
    began = time.perf_counter()
    declared = subject.unsupported.get(checked.name) or subject.unsupported.get(checked.follows)
    outcome, reason, where = _outcome(checked, subject, declared)
    return Result(subject.title, checked.name, outcome, reason, where, time.perf_counter() - began)


def run_checks(checks: Sequence[Check], subject: Any) -> list[Result]:
    """Run all checks on one family."""
    return [run_check(checked, subject) for checked in checks]


def _outcome(checked: Check, subject: Any, declared: str | None) -> tuple[Outcome, str, str]:
    if declared is not None and checked.optional:
        return "unsupported", declared, ""
    if declared is not None:
        return "failed", f"{checked.name} is not a check that may be declared unsupported", "VPGT_CONFORMANCE"
    try:
        checked.run(subject)
    except CheckFailed as failure:
        return "failed", failure.reason, failure.where or checked.where
    except VpgtError as error:
        return "failed", " ".join(str(error).split()), checked.where
    except Exception as error:  # a plugin's code may fail in any way: that is what is to be found
        return "failed", f"{type(error).__name__}: {error}", f"{_last_place(error)}; {checked.where}"
    return "passed", "", ""


def _last_place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"


def expect_known_declarations(declared: Mapping[str, str], checks: Sequence[Check]) -> None:
    """Raise `CheckFailed` when `declared` names a check that there is not: what it shall excuse would still run."""
    names = [c.name for c in checks]
    unknown = sorted(set(declared) - set(names))
    guesses = (
        did_you_mean(name, names, 1) or f"there are {', '.join(c.name for c in checks if c.optional)}"
        for name in unknown
    )
    listed = "; ".join(f"{name!r} ({guess})" for name, guess in zip(unknown, guesses, strict=True))
    expect(not unknown, f"`unsupported` names checks that the kit does not have: {listed}", "VPGT_CONFORMANCE")
