"""``vpgt chat`` in a terminal: a pseudo-terminal, as `tmux` gives one, and the loop alone."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from vpgtrans_core.chat.chat import Chat
from vpgtrans_core.chat.terminal import Terminal

ASK = "question: what is it ? answer:"


class Screen:
    """A program in a pseudo-terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        main, side = pty.openpty()
        self.main, self.text = main, ""
        command = [sys.executable, "-m", "vpgtrans_core.cli.main", *arguments]
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, start_new_session=True, preexec_fn=_own_terminal
        )
        os.close(side)

    def wait(self, pattern: str, limit: float = 120) -> str:
        """Read until the pattern shows in what is new; return that."""
        end = time.monotonic() + limit
        while not (found := re.search(pattern, self.text)):
            if time.monotonic() >= end:
                raise TimeoutError(f"{pattern!r} does not come:\n{self.text}")
            if select.select([self.main], [], [], 0.2)[0]:
                self.text += os.read(self.main, 4096).decode(errors="replace")
        seen, self.text = self.text[: found.end()], self.text[found.end() :]
        return seen

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C until the pattern shows: readline misses one that comes between two of its reads."""
        for _ in range(12):
            self.type("\x03")
            with contextlib.suppress(TimeoutError):
                self.wait(pattern, 10)
                return
        raise TimeoutError(f"Ctrl-C has no effect:\n{self.text}")


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def screen(picture) -> Iterator[Screen]:
    screen = Screen("chat", "opt-mini-s", str(picture), "--template", "plain", "--device", "cpu")
    yield screen
    screen.process.kill()
    screen.process.wait()
    os.close(screen.main)


def test_a_conversation_in_a_terminal(screen: Screen, picture) -> None:
    screen.wait("you> ")
    screen.type("/set length 8\n")
    screen.wait(r"length = 8 .*\s+you> ")
    screen.type(f"{ASK}\n")
    first = screen.wait("you> ")
    assert re.search(r"answer:\s+\w+", first)
    screen.type(f"/image '{picture}'\n")
    screen.wait(r"red.png: shown with the next question\)\s+you> ")
    screen.type(ASK)
    screen.wait(re.escape(ASK))
    screen.interrupt(r"\(/quit ends\)\s+you> ")  # while a line is written
    screen.type("/set length 200\n")
    screen.wait("you> ")
    screen.type(f"{ASK}\n")
    screen.wait(r"answer:\s+\w")  # the answer has begun
    screen.interrupt("you> ")
    assert screen.process.poll() is None
    screen.type("/image nowhere.png\n")
    screen.wait(r"error: cannot read the image nowhere.png")
    screen.wait("you> ")
    screen.type("/quit\n")
    assert screen.process.wait(60) == 0


def test_ctrl_d_ends(screen: Screen) -> None:
    screen.wait("you> ")
    screen.type("\x04")
    assert screen.process.wait(60) == 0


def run(chat: Chat, capsys, *lines: str) -> str:
    waiting = [*lines, "/quit"]
    Terminal(chat, ask=lambda _: waiting.pop(0)).run()
    return capsys.readouterr().out


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(chat: Chat, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_):
        yield "a small"
        raise KeyboardInterrupt

    monkeypatch.setattr(chat.speaker, "answer", interrupted)
    assert "a small\n(stopped)" in run(chat, capsys, ASK)
    assert [e.answer for e in chat.past] == ["a small"]


def test_another_signal_ends_the_program(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpgtrans_core.train.signals import Stopped

    def terminated(*_):
        yield "a"
        raise Stopped(15)

    monkeypatch.setattr(chat.speaker, "answer", terminated)
    with pytest.raises(Stopped):
        Terminal(chat, ask=lambda _: ASK).run()


def test_commands(chat: Chat, capsys, picture) -> None:
    said = run(
        chat, capsys, "/help", "/nothing", "/image", f'/image "{picture}"', "/set", "/set beams 99", "/set beams 2",
        "/settings", ASK, "/reset",
    )  # fmt: skip
    assert "there is no command /nothing" in said and "/image needs a file" in said
    assert "red.png: shown with the next question" in said
    assert "/set needs a name and a value" in said and "beams must be a whole number from 1 to 10" in said
    assert said.count("beams = 2") == 2
    assert not chat.past and not chat.pending
