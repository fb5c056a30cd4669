"""Hostile files of every kind: none is executed, and none costs much time or memory."""

from pathlib import Path

import pytest

from tests.faults import hostile, hostile_files


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    hostile.warm()


@pytest.mark.parametrize("name", hostile.CASES)
def test_a_hostile_file_costs_little_and_does_nothing(name: str) -> None:
    outcome = hostile.outcome(name)
    assert outcome.fault is None, outcome


def test_there_are_enough() -> None:
    assert len(hostile.CASES) >= 40


def test_the_check_sees_code_that_runs_and_memory_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a reader that trusts its file."""
    import pickle

    def trusting(path: Path) -> None:
        pickle.loads(path.read_bytes())
        bytearray(600 << 20)[::4096] = bytes(range(256)) * 600

    monkeypatch.setitem(hostile.CASES, "control", (hostile_files.pickled("a.pth"), trusting))
    outcome = hostile.outcome("control")
    assert outcome.executed and outcome.bytes > hostile.MOST_BYTES and outcome.fault
