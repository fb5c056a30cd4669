"""A few of the changed files of `mutations.py`: none ends in a traceback, and none changes a result unseen."""

import os

import pytest
import torch

from tests.faults.mutations import KINDS, SLOW, fault

MANY = 200 if "VPGT_CAMPAIGN" in os.environ else 0


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_refused_or_means_the_same(kind: str) -> None:
    count = MANY or (4 if kind in SLOW else 25)
    assert not [one for number in range(count) if (one := fault(kind, number))]


@pytest.mark.parametrize(("kind", "number"), [("record", 49), ("state", 53), ("shards", 10)])
def test_what_was_once_taken(kind: str, number: int) -> None:
    assert fault(kind, number) is None


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: readers that trust what they read, and results that change."""

    def trusting(rng: object, root: object):
        return "x = 1", lambda: {}["x"]

    def careless(rng: object, root: object):
        return "x = 1", lambda: "taken, and the result is another"

    monkeypatch.setitem(KINDS, "trusting", trusting)
    monkeypatch.setitem(KINDS, "careless", careless)
    assert "KeyError" in (fault("trusting", 0) or "") and "another" in (fault("careless", 0) or "")
