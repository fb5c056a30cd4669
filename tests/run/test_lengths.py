"""Labels that the limit of length cuts off are counted and told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vpgtrans_core
from vpgtrans_core.errors import DataError
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.run.lengths import EARLY, Lengths


def cut_text(whole: int, limit: int) -> Text:
    ids = tuple(range(whole))
    return Text.of((), ids[:limit], cut=max(0, whole - limit), whole=whole)


def test_counts_and_message() -> None:
    lengths = Lengths()
    lengths.count(cut_text(whole, 8) for whole in range(1, 21))
    assert (lengths.labels, lengths.cut, lengths.texts) == (36 + 12 * 8, sum(range(1, 13)), 20)
    assert lengths.length_for(0.9) == 18 and lengths.length_for(1.0) == 20
    message = lengths.message(8)
    assert message is not None and "cuts off 78 of 210 labels, 37.1%" in message and "--max-tokens 18" in message
    again = Lengths()
    again.load_state_dict(json.loads(json.dumps(lengths.state_dict())))
    assert again == lengths
    again.add(lengths)
    assert again.cut == 2 * lengths.cut and again.length_for(0.9) == 18 and again.share == lengths.share


def test_nothing_is_said_where_nothing_is_cut() -> None:
    lengths = Lengths()
    lengths.count([cut_text(5, 8)] * EARLY)
    assert lengths.message(8) is None and not lengths.alarming
    lengths.count([cut_text(9, 8)] * 200)
    assert lengths.message(8) is not None and lengths.alarming


def test_a_text_without_any_label_is_named() -> None:
    lengths = Lengths()
    lengths.count([Text((), cut=4, whole=40)])
    assert "1 texts have no label left" in str(lengths.message(8)) and lengths.describe()["texts_without_label"] == 1


class Listener:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def __getattr__(self, name: str):
        return lambda *args, **values: None


@pytest.mark.parametrize("limit", [6, 32])
def test_a_run_records_and_tells_what_it_cuts(limit: int, tmp_path: Path) -> None:
    listener = Listener()
    settings = {"limit": 60, "val_images": 10, "stage1_steps": 2, "stage2_steps": 2, "batch_size": 40}
    result = vpgtrans_core.transfer(
        source="opt-mini-s",
        target="llama-mini",
        out=str(tmp_path / "out"),
        device="cpu",
        max_tokens=limit,
        reporter=listener,
        **settings,
    )
    told = [text for text in listener.warnings if "cuts off" in text]
    stages = result.record["stages"]
    assert len(told) == (2 if limit == 6 else 0)
    for stage in stages.values():
        assert (stage["labels_cut"] > 0) == (limit == 6) and stage["labels"] > 0
        assert limit == 32 or stage["tokens_of_90_percent"] > limit


def test_a_limit_that_leaves_nothing_to_learn_is_refused() -> None:
    lengths = Lengths()
    lengths.count([Text((ImagePlace(), Tokens((2, 3, 4)), Tokens((9,), labelled=True)), cut=3, whole=7)] * 3)
    lengths.count([Text.of((), (5, 6))])
    with pytest.raises(DataError, match="leaves at most one label in 3 of 4 texts") as caught:
        lengths.check(4)
    assert "--max-tokens 7" in caught.value.hint
    lengths.count([Text.of((), (5, 6))] * 9)
    lengths.check(4)
