"""The command lines of the documents: they parse, and those that need neither weights nor network run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from tests.docs.documents import ROOT, blocks, read, shell_lines
from vpgtrans_core.cli.main import State, app, main
from vpgtrans_core.cli.options import settings_from

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/data.md", "docs/evaluation.md", "docs/lab.md", "docs/own-source.md")
MODULE = "-m vpgtrans_core.cli.main "
RUN = ("list-models", "list-plugins", "cache info")
"""Commands that are run as they stand, besides every ``--dry-run``."""
LINES = [line for name in DOCUMENTS for line in shell_lines(name)]


def arguments(line: str) -> list[str] | None:
    """What a line gives to vpgt, by its name or as a module; None for other programs' lines."""
    if MODULE in line:
        return shlex.split(line.partition(MODULE)[2])
    return shlex.split(line)[1:] if line.startswith("vpgt ") else None


OURS = [line for line in LINES if arguments(line) is not None]


def group_and_context():
    group = typer.main.get_command(app)
    return group, group.make_context("vpgt", [], obj=State(), resilient_parsing=True)


def parse(given: list[str]):
    """Parse a command line as `vpgt` would, down to the command's own parameters; runs nothing."""
    group, context = group_and_context()
    while given[0].startswith("--"):
        given = given[2:]  # a global option and its value
    while hasattr(group, "resolve_command"):
        command = given[0]
        name, group, given = group.resolve_command(context, given)
        assert group is not None, f"there is no command {command!r}"
        context = group.make_context(name, list(given), parent=context, obj=context.obj)
        given = [*getattr(context, "_protected_args", ()), *context.args]
    return name, context.params


def test_there_are_lines():
    assert len(OURS) > 15


@pytest.mark.parametrize("line", OURS)
def test_line_parses(line, desk):
    for folder in ("laion", "train2017"):
        (desk / folder).mkdir()
    (desk / "run.yaml").write_text(blocks("README.md", "yaml")[0])
    name, params = parse(arguments(line) or [])
    if name in ("transfer", "plan"):
        config = params.pop("config")
        own = {"dry_run", "as_json", "quiet", "gpu", "gpus", "mfu", "price", "caption_tokens"}
        settings = settings_from(Path(config) if config else None, {k: v for k, v in params.items() if k not in own})
        assert settings.resume or (settings.source and settings.target)


def test_a_wrong_line_does_not_parse():
    with pytest.raises(Exception, match="no-such-option"):
        parse(["transfer", "--no-such-option"])
    with pytest.raises(AssertionError, match="no-such-command"):
        parse(["no-such-command"])


@pytest.mark.parametrize(
    "line", [ln for ln in OURS if "--dry-run" in ln or ln.startswith(tuple(f"vpgt {c}" for c in RUN))]
)
def test_line_runs_without_weights_and_network(line, desk, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments(line))
    assert ended.value.code in (0, None)
    said = capsys.readouterr()
    assert said.out.strip() and "error" not in said.err


def test_settings_files_are_settings(desk):
    for block in blocks("README.md", "yaml"):
        assert len(yaml.safe_load(block)) > 3
        (desk / "run.yaml").write_text(block)
        settings = settings_from(desk / "run.yaml", {})
        assert settings.source and settings.target


def test_readme_has_every_command():
    group, context = group_and_context()
    commands = group.list_commands(context)
    text = read("README.md")
    assert len(commands) > 8
    assert not [name for name in commands if not re.search(rf"^\| `vpgt {name}` \|", text, re.MULTILINE)]


def test_make_has_every_target_that_is_named():
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    named = {line.split()[1] for line in LINES if line.startswith("make ")}
    in_readme = {line.split()[1] for line in shell_lines("README.md") if line.startswith("make ")}
    assert {"demo", "demo-mini", "test"} <= in_readme <= named <= targets


def test_extras_that_are_named_exist():
    import tomllib

    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = re.findall(r'"\.\[([\w-]+)\]"', "".join(read(name) for name in DOCUMENTS))
    assert named and set(named) <= extras
