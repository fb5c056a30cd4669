"""The benchmark commands run at tiny shapes and print what they promise."""

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.conftest import BENCHMARKS


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_steps(tmp_path: Path) -> None:
    out = run(
        "steps.py", "--tiny", "--headline", "--rounds", "1", "--images", "2", "--json", str(tmp_path / "steps.json")
    )
    record = json.loads((tmp_path / "steps.json").read_text())
    assert {r["shape"] for r in record["results"]} == {"tiny-opt", "tiny-llama", "tiny-t5"}
    plain, tree = (
        next(r for r in record["results"] if r["shape"] == "tiny-llama" and r["name"] == name)
        for name in ("plain", "cached: tree, head")
    )
    assert plain["speedup"] == 1 and tree["tflop"] < plain["tflop"]
    assert record["hours_of_the_papers_data"]["tiny-opt"]["plain"] > 0
    assert "| tiny-t5 | 2 | features cached, tree |" in out


def test_steps_of_one_family(tmp_path: Path) -> None:
    out = run("steps.py", "--tiny", "--family", "opt", "--rounds", "1", "--only", "tree")
    assert "tiny-opt" in out and "tiny-t5" not in out and "packed rows" not in out


def test_cold_start(tmp_path: Path) -> None:
    every = ("--help", "list-models", "cache build --help")
    named = [f"--command={command}" for command in every]
    run("cold_start.py", "--runs", "1", "--json", str(tmp_path / "start.json"), *named)
    results = json.loads((tmp_path / "start.json").read_text())
    assert [r["command"] for r in results] == list(every) and not any(r["torch"] for r in results)


def test_cold_start_sees_torch_and_knows_all_commands() -> None:
    """The control for `torch: no`, and the list of what is timed by default."""
    from cold_start import commands, imports_torch

    every = [" ".join(command) for command in commands()]
    assert {"--help", "list-plugins", "transfer --help", "cache --help"} <= set(every)
    assert imports_torch(["doctor"])
