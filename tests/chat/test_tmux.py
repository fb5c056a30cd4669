"""``vpgt chat`` in tmux, a real terminal: what a person types, and what the screen then shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TMUX = shutil.which("tmux")
pytestmark = pytest.mark.skipif(TMUX is None, reason="needs a terminal: apt-get install tmux")

ASK = "question: what is it ? answer:"
TRIES = 20


class Pane:
    """A program in a tmux of its own."""

    def __init__(self, *command: str) -> None:
        self.server = f"vpgt-test-{os.getpid()}"
        self.tmux("new-session", "-d", "-s", "talk", "-x", "120", "-y", "50", shlex.join(command))

    def tmux(self, *arguments: str, check: bool = True) -> str:
        run = subprocess.run([str(TMUX), "-L", self.server, *arguments], capture_output=True, text=True)
        assert not check or run.returncode == 0, run.stderr
        return run.stdout

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-t", "talk", "-l", text)
        self.press("Enter")

    def press(self, key: str) -> None:
        self.tmux("send-keys", "-t", "talk", key)

    @property
    def text(self) -> str:
        """All that was shown so far, lines that were wrapped as one."""
        return self.tmux("capture-pane", "-p", "-J", "-t", "talk", "-S", "-2000")

    @property
    def ended(self) -> bool:
        return not self.tmux("list-panes", "-t", "talk", check=False)

    def prompts(self) -> int:
        """How often the program has asked for a line."""
        return len(re.findall(r"^you> ?", self.text, re.MULTILINE))

    def wait(self, what: str, limit: float = 120) -> str:
        """Wait until a pattern is on the screen; return all that is there."""
        end = time.monotonic() + limit
        while not re.search(what, text := self.text, re.MULTILINE):
            assert time.monotonic() < end, f"{what!r} does not come:\n{text}"
            time.sleep(0.02)
        return text

    def wait_for_prompt(self, number: int) -> str:
        """Wait until the program asks for its line of this number, from 1, and return what the one before led to."""
        text = self.wait(rf"(?s)(^you>.*){{{number}}}")
        return re.split(r"(?m)^you>", text)[number - 1]

    def close(self) -> None:
        self.tmux("kill-server", check=False)


@pytest.fixture
def pane(picture: Path) -> Iterator[Pane]:
    program = (sys.executable, "-m", "vpgtrans_core.cli.main")
    pane = Pane(*program, "chat", "opt-mini-s", str(picture), "--template", "plain", "--device", "cpu")
    yield pane
    pane.close()


def test_a_person_talks_in_a_real_terminal(pane: Pane, picture: Path) -> None:
    pane.wait_for_prompt(1)
    pane.type("/set length 8")
    assert "length = 8" in pane.wait_for_prompt(2)
    pane.type(ASK)
    first = pane.wait_for_prompt(3)
    assert re.search(rf"{re.escape(ASK)}\n\S+", first)
    pane.type(f"/image {picture}")
    assert "(red.png: shown with the next question)" in pane.wait_for_prompt(4)
    pane.type(ASK)
    assert pane.wait_for_prompt(5) != first
    pane.type("/reset")
    assert "(a new conversation; /image shows a picture)" in pane.wait_for_prompt(6)
    pane.type(f"/image {picture}")
    pane.wait_for_prompt(7)
    pane.type(ASK)
    assert pane.wait_for_prompt(8) == first  # the conversation is as it was in the beginning
    pane.type("/set length 4096")
    pane.wait_for_prompt(9)
    number = _stop_an_answer(pane, 9)
    pane.type("/set length 8")
    assert "length = 8" in pane.wait_for_prompt(number + 1)  # the program goes on
    pane.type("/quit")
    while not pane.ended:
        time.sleep(0.05)


def _stop_an_answer(pane: Pane, number: int) -> int:
    """Press Ctrl-C while an answer grows: its beginning is on the screen, and it ends there. An answer that was faster
    is asked for again. Returns the number of the next line."""
    for _ in range(TRIES):
        pane.type("/reset")
        pane.wait_for_prompt(number := number + 1)
        pane.type(ASK)
        pane.wait(rf"(?s)(^you>.*){{{number}}}answer:\s+\w")
        pane.press("C-c")
        said = pane.wait_for_prompt(number := number + 1)
        if re.search(r"(?s)answer:\n\s*\w.*\(stopped\)", said):
            return number
        pane.wait(r"\(/quit ends\)")  # Ctrl-C met the line after the answer
        number = pane.prompts()
    raise AssertionError(f"no answer was stopped in {TRIES} tries:\n{pane.text}")
