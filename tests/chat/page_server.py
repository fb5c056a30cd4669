"""``vpgt chat --web`` in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def served(*arguments: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The page's address, and the process; it is stopped by Ctrl-C in the end, and must end well."""
    command = [sys.executable, "-m", "vpgtrans_core.cli.main", "chat", *arguments, "--web", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    said = ""
    try:
        for line in process.stdout:
            said += line
            if found := re.search(r"^(http://\S+)", line):
                yield found.group(1), process
                break
        else:
            raise AssertionError(f"the page was not served:\n{said}")
    finally:
        process.terminate()
        process.wait(60)
