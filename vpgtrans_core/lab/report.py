"""The report of a laboratory: one HTML page and the same as Markdown, from the records of its cells. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.files import write_synced, writing
from vpgtrans_core.lab import paper
from vpgtrans_core.lab.blocks import Block, Charts, Section, Table, Text, html, markdown
from vpgtrans_core.lab.charts import Series, line_chart
from vpgtrans_core.lab.experiment import Pair
from vpgtrans_core.lab.findings import Finding, findings
from vpgtrans_core.lab.folder import LabFolder
from vpgtrans_core.lab.prediction import prediction
from vpgtrans_core.lab.results import LOSS, Results, collect, last, name_of, spread
from vpgtrans_core.lab.speedup import speed_ups

TITLE = "Laboratory report"


def write_report(folder: Path) -> list[Path]:
    """Write ``report.html`` and ``report.md`` of a laboratory, finished or not; return their paths.

    Raises:
        ConfigError: the folder is not that of a laboratory, or no cell is finished.
    """
    every = collect(LabFolder(folder))
    if not any(results.finished for results in every):
        raise ConfigError([f"no cell in {folder} is finished"], "run `vpgt lab run` until one is")
    sections = [_state(every), _findings(every)]
    sections += [_experiment(results) for results in every if results.finished]
    sections += [_failures(every)] if any(results.failed for results in every) else []
    paths = []
    for name, text in (("report.html", html(TITLE, sections)), ("report.md", markdown(TITLE, sections))):
        content = text.encode()
        with writing("the report", folder, len(content)):
            write_synced(folder / name, content)
        paths.append(folder / name)
    return paths


def _state(every: Sequence[Results]) -> Section:
    rows = [
        (r.experiment.name, str(len(r.cells)), str(len(r.finished)), str(len(r.failed)),
         str(len(r.cells) - len(r.finished) - len(r.failed)), r.experiment.about)
        for r in every
    ]  # fmt: skip
    done, asked = sum(len(r.finished) for r in every), sum(len(r.cells) for r in every)
    note = "Every cell is finished." if done == asked else (
        "The laboratory is not finished: what follows compares the finished cells only.")  # fmt: skip
    machines = sorted({str(f.record["machine"].get("device")) for r in every for f in r.finished.values()})
    text = (
        f"{note} Figures are means over the seeds; the lowest and the highest stand in brackets. "
        f"Scores are times 100. Devices: {', '.join(machines)}."
    )
    head = ("experiment", "cells", "finished", "failed", "not run", "about")
    return Section("What was run", [Text(text), Table("", head, rows)])


def _findings(every: Sequence[Results]) -> Section:
    judged = findings(every)
    rows = [(f.number, f.says, f.verdict, _evidence(f) or "–", f.rule)
            for f in judged]  # fmt: skip
    text = (
        "A finding is reproduced if its rule holds in more than half of the comparisons that this laboratory has; "
        "without a comparison it is not testable here. The rules are code (vpgtrans_core/lab/findings.py)."
    )
    head = ("", "the paper says", "here", "evidence", "rule")
    return Section("The paper's findings", [Text(text), Table("", head, rows)])


def _evidence(finding: Finding) -> str:
    """A line a comparison, after how many of them hold."""
    holding = sum(one.holds for one in finding.evidence)
    several = [f"holds in {holding} of {len(finding.evidence)} comparisons"] if len(finding.evidence) > 1 else []
    return "\n".join([*several, *map(str, finding.evidence)])


def _experiment(results: Results) -> Section:
    blocks: list[Block] = [Text(results.experiment.about)] if results.experiment.about else []
    blocks += [_speed_ups(results)] if results.has("scratch") else []
    blocks += [_finals(results)] if results.tasks else []
    blocks += [chart for pair in results.pairs() if (chart := _curves(results, pair)) is not None]
    blocks += [_costs(results)]
    blocks += prediction(results)
    return Section(results.experiment.name, blocks)


def _speed_ups(results: Results) -> Table:
    """The paper's table 3: speed-ups in epochs, a row a pair and arm; the paper's own row under its counterpart."""
    rows: list[Sequence[str]] = []
    compared = [a for a in results.experiment.arms if a != "scratch" and results.experiment.arm(a).length != "none"]
    for pair in results.pairs():
        for arm in compared:
            found = [str(speed_ups(results, pair, arm, task)) for task in (LOSS, *results.tasks)]
            rows.append((name_of(pair), results.experiment.arm(arm).title, *found))
        for row in pair.paper:
            told = ", ".join(f"{task} {value}" for task, value in zip(paper.TASKS, paper.table()[row], strict=True))
            rows.append((f"in the paper: {row}", told, *("" for _ in (LOSS, *results.tasks))))
    title = "Speed-up over training from scratch: its epochs to its best score, over the arm's epochs to that score"
    return Table(title, ("", "", LOSS, *results.tasks), rows)


def _finals(results: Results) -> Table:
    rows = []
    for pair, arm in itertools.product(results.pairs(), results.experiment.arms):
        found = results.of(pair, arm)
        if not found:
            continue
        scores = [spread([s for f in found if (s := f.final(t)) is not None], 1, 100) for t in results.tasks]
        held = [f.losses()[-1][1] for f in found if f.losses()]
        starts = [f.record["first_held_out_loss"] for f in found if f.record["first_held_out_loss"] is not None]
        title = results.experiment.arm(arm).title
        rows.append((name_of(pair), title, str(len(found)), spread(starts, 3), spread(held, 3), *scores))
    head = ("", "", "seeds", "loss before training", "loss at the end", *results.tasks)
    return Table("Scores at the end", head, rows)


def _curves(results: Results, pair: Pair) -> Charts | None:
    """Held-out loss and every task over the epochs, for one pair."""
    arms = [a for a in results.experiment.arms if results.experiment.arm(a).length != "none" and results.of(pair, a)]
    if not arms:
        return None

    def series(what: str) -> list[Series]:
        lines = []
        for number, arm in enumerate(arms):
            runs = results.of(pair, arm)
            curves = [f.losses() if what == LOSS else f.curve(what) for f in runs]
            curves = curves if what == LOSS else [[(x, 100 * y) for x, y in curve] for curve in curves]
            lines.append(Series(results.experiment.arm(arm).title, number, curves))
        return lines

    drawn = []
    for what in (LOSS, *results.tasks):
        if svg := line_chart(series(what), "epochs", f"{name_of(pair)}: {what} over the epochs"):
            drawn.append((what, svg))
    return Charts(f"{name_of(pair)}: learning curves", drawn, series(LOSS)) if drawn else None


def _costs(results: Results) -> Table:
    """What each arm cost, a run; training only."""
    price = results.experiment.price
    named = [
        (name_of(pair), results.experiment.arm(arm).title, found)
        for pair, arm in itertools.product(results.pairs(), results.experiment.arms)
        if (found := results.of(pair, arm))
    ]
    made = [f for f in results.finished.values() if f.cell.arm == "source"]
    named += [(f"source with {last(f.cell.target)}", "trained here", [f]) for f in made]
    rows = []
    for name, title, found in named:
        cost = [f.record["cost"] for f in found]
        amounts = [spread([c[what] for c in cost], 0) for what in ("steps", "captions", "seconds")]
        money = spread([c["seconds"] / 3600 for c in cost], 4, price) if price else "–"
        rows.append((name, title, *amounts, money))
    dollars = f"USD at {price:g} an hour" if price else "USD (no price given)"
    head = ("", "", "steps", "captions", "seconds of training", dollars)
    return Table("Costs of a run (wall-clock time: other work on the machine lengthens it)", head, rows)


def _failures(every: Sequence[Results]) -> Section:
    rows = [(identity, cause) for results in every for identity, cause in results.failed.items()]
    return Section("Cells that failed", [Table("", ("cell", "cause"), rows)])
