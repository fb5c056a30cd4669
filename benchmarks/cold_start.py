"""How long each command takes to start: ``--help`` of all of them, and the listing commands whole.

    python benchmarks/cold_start.py [--runs 5] [--json out.json]

Each command runs in a process of its own, in turn with the others; the median and the least are shown, with whether
torch was imported. ``--help`` and ``list-*`` promise half a second and no torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROMISED = 0.5
MAIN = "from vpgtrans_core.cli.main import main; main({arguments!r})"
COMMANDS = "from vpgtrans_core.cli.main import app; import typer; print(*typer.main.get_command(app).commands)"


def commands() -> list[list[str]]:
    """Every built-in command's help, and the commands that list."""
    names = subprocess.run([sys.executable, "-c", COMMANDS], capture_output=True, text=True, check=True).stdout.split()
    helps = [[name, "--help"] for name in names]
    return [["--help"], ["--version"], *([name] for name in names if name.startswith("list-")), *helps]


def seconds(arguments: list[str]) -> float:
    """One start, in a new process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", MAIN.format(arguments=arguments)], capture_output=True, check=True)
    return time.perf_counter() - start


def imports_torch(arguments: list[str]) -> bool:
    """Whether the command imports torch."""
    code = f"import sys\ntry:\n    {MAIN.format(arguments=arguments)}\nfinally:\n    sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 1


def main(given: list[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--command", action="append", help="only this one, for instance 'transfer --help'; repeatable")
    options = parser.parse_args(given)
    every = [command.split() for command in options.command] if options.command else commands()
    times: dict[str, list[float]] = {" ".join(arguments): [] for arguments in every}
    for _ in range(options.runs):
        for arguments in every:
            times[" ".join(arguments)].append(seconds(arguments))
    results: list[dict[str, object]] = [
        {
            "command": " ".join(arguments),
            "median_seconds": round(statistics.median(times[" ".join(arguments)]), 3),
            "least_seconds": round(min(times[" ".join(arguments)]), 3),
            "torch": imports_torch(arguments),
        }
        for arguments in every
    ]
    print(f"| command | median s | least s | torch |\n|---|---|---|---|\n{_rows(results)}")
    print(f"promised: {PROMISED} s on a warm machine, no torch")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return results


def _rows(results: list[dict[str, object]]) -> str:
    return "\n".join(
        f"| vpgt {r['command']} | {r['median_seconds']} | {r['least_seconds']} | {'yes' if r['torch'] else 'no'} |"
        for r in results
    )


if __name__ == "__main__":
    main()
