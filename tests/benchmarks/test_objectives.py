"""Other ways to warm a projector up: what they want, and the table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.benchmarks.conftest import BENCHMARKS  # noqa: F401 - it makes the benchmarks importable
from tests.benchmarks.test_commands import run


@pytest.fixture(scope="module")
def objectives() -> Iterator[ModuleType]:
    import objectives

    yield objectives


@pytest.fixture(scope="module")
def lesson(objectives):
    options = argparse.Namespace(source="opt-mini-s", target="llama-mini", images=24, steps=2, batch=4, dtype="float32")
    return objectives.at_start("words", 0, options)


def test_a_picture_that_is_its_caption_leaves_nothing_to_learn(objectives, lesson) -> None:
    """If the soft prompts are the caption's own embeddings, both distillations are at their end."""
    some = lesson.training.batch([0, 1, 2])
    own = [objectives.embedded(lesson.model, text.target[:-1]) for text in some.texts]
    for speak in (True, False):
        got = objectives.states(lesson.model, some.texts, own, speak=speak)
        count = sum(len(text.target) if speak else 1 for text in some.texts)
        assert got.shape[1] == count
        assert objectives.distance(got, got) == 0
        assert objectives.distilled(lesson.model, some, speak=speak) > 0


def test_states_do_not_depend_on_the_other_rows(objectives, lesson) -> None:
    some = lesson.training.batch([0, 1, 2])
    read = list(objectives.prompts(lesson.model, some))
    together = objectives.states(lesson.model, some.texts, read, speak=True)
    alone = [objectives.states(lesson.model, [t], [r], speak=True) for t, r in zip(some.texts, read, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone, 1))


def test_a_mixture_begins_as_the_projector_and_learns_within_the_words(objectives) -> None:
    torch.manual_seed(0)
    projector, words = nn.Linear(6, 10), torch.randn(4, 10)
    mixture = objectives.Mixture(projector, words)
    outputs = torch.randn(3, 6)
    torch.testing.assert_close(mixture(outputs), projector(outputs))
    before = mixture.weight.detach()
    mixture(outputs).square().sum().backward()
    with torch.no_grad():
        mixture.shares.weight -= 0.1 * mixture.shares.weight.grad
    change = (mixture.weight - before).detach()
    assert change.norm() > 0
    inside = words.T @ torch.linalg.pinv(words.T)
    torch.testing.assert_close(inside @ change, change, atol=1e-5, rtol=1e-4)


def test_the_table(tmp_path: Path) -> None:
    short = ("--target", "llama-mini", "--images", "24", "--steps", "2", "--batch", "4", "--seeds", "0")
    chosen = ("--ways", "captions", "norms of words", "--starts", "words", "random projector")
    out = run("objectives.py", *short, *chosen, "--json", str(tmp_path / "all.json"))
    rows = {row["way"]: row for row in json.loads((tmp_path / "all.json").read_text())["rows"]}
    assert list(rows) == [
        "captions, words", "norms of words, words", "captions, random projector", "norms of words, random projector",
    ]  # fmt: skip
    assert rows["captions, words"]["end"] < rows["captions, words"]["start"] != rows["norms of words, words"]["start"]
    assert "opt-mini-s -> llama-mini" in out
