"""A file holds one thing, and a function is readable at one glance."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from tests.house.sources import ROOT, files

PARTS = ("vpgtrans_core", "plugins", "zoo", "tests", "benchmarks", "examples")
LINES = 400
COMPLEXITY = 12


def test_no_file_is_long():
    lengths = {
        p.relative_to(ROOT).as_posix(): p.read_bytes().count(b"\n") for part in PARTS for p in files(ROOT / part)
    }
    assert len(lengths) > 200
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_no_function_is_complex(tmp_path):
    """ruff's C901 is on, nowhere off, and sees a function that is too complex."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "C901" in lint["select"] and lint["mccabe"]["max-complexity"] <= COMPLEXITY
    switched_off = [*lint["ignore"], *(rule for rules in lint.get("per-file-ignores", {}).values() for rule in rules)]
    assert not [rule for rule in switched_off if rule.startswith("C")]
    assert not [p for part in PARTS for p in files(ROOT / part) if "noqa: C" + "901" in p.read_text(encoding="utf-8")]
    branches = "".join(f"    if x == {n}:\n        return {n}\n" for n in range(COMPLEXITY))
    (tmp_path / "complex.py").write_text(f"def f(x):\n{branches}")
    config = ("--config", str(ROOT / "pyproject.toml"))
    check = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "C901", *config]
    seen = subprocess.run([*check, str(tmp_path)], capture_output=True, text=True)
    assert seen.returncode == 1 and "C901" in seen.stdout
