"""The reporter: a bar on a terminal, few lines elsewhere, nothing when quiet or not the main process."""

import contextlib
import io
import os
import pty
from itertools import count
from types import SimpleNamespace

import pytest

from vpgtrans_core.cli import progress
from vpgtrans_core.cli.progress import Reporter


def lines(**options):
    stream = io.StringIO()
    with Reporter(stream=stream, **options) as reporter:
        reporter.stage("stage 1", 1000)
        for step in range(1000):
            reporter.step(1, loss=2.0 - step / 1000, images_per_second=45.0, waiting=0.021)
        reporter.message("held-out loss 1.2")
        reporter.warning("one image is bad")
    return stream.getvalue().splitlines()


def test_plain_lines_are_few_and_say_the_end():
    said = lines()
    assert said[0] == "stage 1: 1000 steps"
    assert said[1:3] == ["held-out loss 1.2", "warning: one image is bad"]
    assert said[3] == "stage 1: 1000/1000, loss 1.0010, 45 images/s, waiting 2%"
    assert len(said) == 4


def test_lines_come_after_the_interval_with_time_left(monkeypatch):
    """On a clock that goes on by three seconds a step."""
    clock = count(step=3)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    stream, now = io.StringIO(), [next(clock)]
    reporter = Reporter(stream=stream, interval=5)
    reporter.stage("stage 2", 10)
    for _ in range(4):
        now[0] = next(clock)
        reporter.step(1, loss=1.0)
    middle = [line for line in stream.getvalue().splitlines() if "/10" in line]
    assert [line.split(",")[0] for line in middle] == ["stage 2: 2/10", "stage 2: 4/10"]
    assert "0.333 steps/s" in middle[0]
    assert middle[0].endswith("0:24 left")


def test_quiet_says_only_warnings():
    assert lines(quiet=True) == ["warning: one image is bad"]


def test_other_processes_are_silent(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert lines() == []


def test_steps_without_a_stage_say_nothing():
    stream = io.StringIO()
    with Reporter(stream=stream, interval=0) as reporter:
        reporter.step()
    assert stream.getvalue() == ""


def read_all(terminal):
    """All that was written to a terminal whose other end is closed; Linux says the end with an error."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


def test_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    main, other = pty.openpty()
    with os.fdopen(other, "w") as stream, Reporter(stream=stream) as reporter:
        reporter.stage("stage 1", 4)
        for _ in range(4):
            reporter.step(1, loss=1.25, waiting=0.5)
        reporter.message("between [brackets]")
    shown = read_all(main)
    assert "4/4" in shown
    assert "loss 1.2500" in shown
    assert "waiting 50%" in shown
    assert "between [brackets]" in shown


def test_reporter_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, vpgtrans_core.cli.progress as p; p.Reporter().stage('x', 1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("total", [0, 1])
def test_empty_stages(total):
    stream = io.StringIO()
    with Reporter(stream=stream) as reporter:
        reporter.stage("nothing", total)
        reporter.stage("next", 1)
        reporter.step()
    assert stream.getvalue().splitlines()[-1].startswith("next: 1/1")
