"""Load one plugin in a process of its own and measure it, for `vpgt doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from vpgtrans_core.registry.loading import PluginRecord

_CODE = """
import importlib, json, sys, time
sys.path[:] = json.loads(sys.argv[1])
began = time.perf_counter()
module, _, names = sys.argv[2].partition(":")
error = ""
try:
    found = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        found = getattr(found, name)
except BaseException as caught:
    error = f"{type(caught).__name__}: {caught}"
heavy = [m for m in ("torch", "transformers", "tensorflow", "jax") if m in sys.modules]
answer = {"seconds": time.perf_counter() - began, "error": error, "heavy": heavy}
print("\\nvpgt-probe " + json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Probe:
    """How loading a plugin alone went: `seconds` it took (until it was stopped, when `timed_out`), heavy libraries that
    it loaded, and its error."""

    seconds: float
    heavy: tuple[str, ...] = ()
    error: str = ""
    timed_out: bool = False


def probe_plugin(record: PluginRecord, limit: float) -> Probe:
    """Import an installed plugin in a fresh process; stop it after `limit` seconds (0: never)."""
    path = json.dumps([p or os.getcwd() for p in sys.path])
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE, path, record.target],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit or None,
        )
    except subprocess.TimeoutExpired:
        return Probe(time.perf_counter() - began, timed_out=True)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("vpgt-probe "):
            answer = json.loads(line.removeprefix("vpgt-probe "))
            return Probe(answer["seconds"], tuple(answer["heavy"]), answer["error"])
    return Probe(time.perf_counter() - began, error=f"the process ended with code {done.returncode}")
