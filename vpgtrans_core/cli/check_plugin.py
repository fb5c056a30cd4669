"""``vpgt check-plugin``: the conformance kit's checks of one plugin, as a table."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpgtrans_core.cli.columns import columns
from vpgtrans_core.cli.listing import Json

if TYPE_CHECKING:
    from vpgtrans_core.testing.checks import Result

FAILED = 1
"""Exit code when a check failed."""


def add_to(app: typer.Typer) -> None:
    app.command("check-plugin")(check_plugin)


def check_plugin(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_PATH", help="An installed plugin, a module, a package, a project or a .py file."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Run the conformance kit on a plugin. Shows what passed, what failed and where to look."""
    results = list(check(plugin))
    if as_json:
        print(json.dumps([dataclasses.asdict(r) for r in results], indent=2))
    else:
        print("\n".join(result_lines(results)))
    if any(r.outcome == "failed" for r in results):
        raise typer.Exit(FAILED)


def check(plugin: str) -> Iterator[Result]:
    """Run all checks on every family of a plugin.

    Raises:
        PluginError: there is no such plugin.
    """
    from vpgtrans_core.testing.checks import run_checks
    from vpgtrans_core.testing.opening import open_plugin

    opened = open_plugin(plugin)
    if not opened.llm_families and not opened.vpg_families:
        yield _no_family(opened)
        return
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")  # libraries warn about tiny models
    from vpgtrans_core.testing.llm_checks import LLM_CHECKS
    from vpgtrans_core.testing.llm_subject import LLMSubject
    from vpgtrans_core.testing.vpg_checks import VPG_CHECKS
    from vpgtrans_core.testing.vpg_subject import VPGSubject

    subjects: list[tuple[Any, Any]] = [(LLM_CHECKS, LLMSubject(opened, f.name)) for f in opened.llm_families]
    subjects += [(VPG_CHECKS, VPGSubject(opened, f.name)) for f in opened.vpg_families]
    for checks, subject in subjects:
        try:
            yield from run_checks(checks, subject)
        finally:
            subject.close()


def result_lines(results: list[Result]) -> list[str]:
    """The table, and under it what failed or is unsupported, and where to look."""
    rows = [(r.family, r.check.replace("_", " "), r.outcome, f"{r.seconds:.1f}") for r in results]
    lines = columns(("FAMILY", "CHECK", "RESULT", "SECONDS"), rows, right=(3,))
    for reason, alike in _by_reason(results).items():
        first = alike[0]
        lines += ["", f"{first.outcome}: {first.family}: {first.check.replace('_', ' ')}", f"  {reason}"]
        if first.outcome == "failed":
            lines.append(f"  where to look: {first.where}")
        if others := ", ".join(r.check.replace("_", " ") for r in alike[1:]):
            lines.append(f"  for the same reason: {others}")
    counts = {o: sum(r.outcome == o for r in results) for o in ("passed", "failed", "unsupported")}
    return [*lines, "", ", ".join(f"{n} {outcome}" for outcome, n in counts.items())]


def _by_reason(results: list[Result]) -> dict[str, list[Result]]:
    """What did not pass; checks with the same message are listed together."""
    reasons: dict[str, list[Result]] = {}
    for r in results:
        if r.outcome != "passed":
            reasons.setdefault(r.reason, []).append(r)
    return reasons


def _no_family(opened: Any) -> Result:
    from vpgtrans_core.testing.checks import Result

    record = opened.record
    if record.status == "active":
        return Result(
            record.name,
            "description_resolves",
            "failed",
            "the plugin provides neither an LLM family nor a VPG family",
            record.target,
        )
    return Result(record.name, "description_resolves", "failed", f"the plugin is {record.verdict}", record.target)
