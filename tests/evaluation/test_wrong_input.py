"""Wrong files end in errors of ours that name the file, whatever is wrong with them, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation import official
from vpgtrans_core.cards import load
from vpgtrans_core.cli.main import main
from vpgtrans_core.errors import ConfigError, DataError, VpgtError
from vpgtrans_core.evaluation.files import DataFile, DataFiles
from vpgtrans_core.evaluation.given import read_given
from vpgtrans_core.evaluation.plugin import vpgt_eval_tasks
from vpgtrans_core.evaluation.run import EvalSettings, evaluate, open_metrics, read_samples
from vpgtrans_core.evaluation.scoring import score
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.lock import FolderLock
from vpgtrans_core.settings import Settings

CARDS = {card.name: card for card in vpgt_eval_tasks()}
WRONG: tuple[Any, ...] = (None, 5, 1.5, True, "", "x", [], {}, [[1]], {"a": 1}, "remove")
FILES = {
    "coco": lambda folder: [official.coco(folder)],
    "karpathy": lambda folder: [official.karpathy(folder)],
    "lavis": lambda folder: [official.lavis(folder)],
    "nocaps": lambda folder: [official.nocaps(folder)],
    "vqav2": lambda folder: list(official.vqa(folder)),
    "okvqa": lambda folder: list(official.vqa(folder, raw=True)),
    "gqa": lambda folder: [official.gqa(folder)],
}
TASK = {"karpathy": "coco", "lavis": "coco"}


def places(content: Any) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a json file, of long lists the first and the last item."""
    inner: Any = ()
    if isinstance(content, dict):
        inner = content.items()
    elif isinstance(content, list):
        inner = {0: content[0], len(content) - 1: content[-1]}.items() if content else ()
    for key, value in inner:
        yield (key,)
        yield from ((key, *more) for more in places(value))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The content with another value in one place, or without it."""
    content = deepcopy(content)
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if value == "remove":
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return content


@pytest.mark.parametrize("name", FILES)
def test_any_wrong_value_is_an_error_of_ours_or_can_be_scored(name: str, tmp_path: Path) -> None:
    card = CARDS[TASK.get(name, name)]
    paths = FILES[name](tmp_path)
    contents = [json.loads(path.read_text()) for path in paths]
    metrics = open_metrics(EvalSettings(card.name), card, default_registry())
    refused = tried = 0
    for number, content in enumerate(contents):
        for place in places(content):
            for value in WRONG:
                given = [*contents]
                given[number] = changed(content, place, value)
                tried += 1
                try:
                    files = DataFiles(card.name, [DataFile(p, None, c) for p, c in zip(paths, given, strict=True)])
                    samples = read_samples(load(card.target)(), files, EvalSettings(card.name))
                except VpgtError as error:
                    refused += 1
                    named = (*map(str, paths), str(tmp_path), card.name)
                    assert any(one in error.message for one in named), (place, value, error.message)
                else:
                    score(metrics, samples, ["a dog"] * len(samples))
    assert tried > 50 and refused > tried / 10


@pytest.mark.parametrize("name", FILES)
def test_files_that_were_cut_off(name: str, tmp_path: Path) -> None:
    card = CARDS[TASK.get(name, name)]
    path = FILES[name](tmp_path)[0]
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError) as error:
            evaluate(EvalSettings(card.name, "opt-mini-s", (str(path),), out=str(tmp_path / "eval")))
        assert str(path) in error.value.message and error.value.hint
    assert not (tmp_path / "eval").exists()


def test_any_wrong_value_in_given_answers(tmp_path: Path) -> None:
    known = {1: 0, 2: 1, "three": 2}
    task = load(CARDS["vqav2"].target)()
    right = [{"question_id": key, "answer": "yes"} for key in known]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(right))
    assert read_given(path, task, known) == {0: "yes", 1: "yes", 2: "yes"}
    for place in places(right):
        for value in WRONG:
            if place[1:] == ("answer",) and isinstance(value, str) and value != "remove":
                continue  # any text may be an answer
            path.write_text(json.dumps(changed(right, place, value)))
            with pytest.raises(DataError) as error:
                read_given(path, task, known)
            assert str(path) in error.value.message
    for text in ("", "[", "{}", "[]", "5", "null", '"yes"', '{"question_id": 1, "answer": "yes"}\n{"question_id"'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"answers\.json"):
            read_given(path, task, known)


def test_bad_lines_are_told_with_file_and_line(tmp_path: Path) -> None:
    """Of a file with an answer a line, blank lines counted; all of them at once."""
    task, path = load(CARDS["vqav2"].target)(), tmp_path / "answers.jsonl"
    lines = ['{"question_id": 1, "answer": "a"}', "", '{"question_id": 2}', "", '{"question_id": 9, "answer": "b"}']
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read_given(path, task, {1: 0, 2: 1})
    assert f"{path}: line 3 has no question_id or no answer" in error.value.message
    assert f"{path}: line 5 answers 9, which the task does not ask" in error.value.message
    path.write_text("\n".join([*lines, "{", lines[0] + lines[0], "x"]))
    with pytest.raises(DataError) as error:
        read_given(path, task, {1: 0, 2: 1})
    assert str(path) in error.value.message and all(f"line {n}: " in error.value.message for n in (6, 7, 8))
    rows = json.loads(official.lavis(tmp_path).read_text())
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n\n".join(json.dumps(row) for row in [*rows, {"image": "a.jpg"}]))
    with pytest.raises(DataError, match=r"asked.jsonl: line 5 has no image or no caption"):
        evaluate(EvalSettings("coco", "opt-mini-s", (str(asked),), out=str(tmp_path / "eval")))


def test_ids_that_are_there_twice(tmp_path: Path) -> None:
    questions, annotations = official.vqa(tmp_path / "vqa")
    content = json.loads(annotations.read_text())
    content["annotations"].append(content["annotations"][0])
    annotations.write_text(json.dumps(content))
    karpathy = official.karpathy(tmp_path / "karpathy")
    content = json.loads(karpathy.read_text())
    content["images"].append(content["images"][0])
    karpathy.write_text(json.dumps(content))
    for task, files, told in (
        ("vqav2", (questions, annotations), "the question_id 0 is answered twice"),
        ("coco", (karpathy,), "the cocoid 1 is there twice"),
    ):
        with pytest.raises(DataError, match=told):
            evaluate(EvalSettings(task, "opt-mini-s", tuple(map(str, files)), out=str(tmp_path / "eval")))
    assert not (tmp_path / "eval").exists()


def short(out: Path, task: str = "mini-captions", **changes: Any) -> None:
    options = {"num_beams": 1, "max_new_tokens": 8}
    machine = Settings(device="cpu")
    evaluate(EvalSettings(task, **{"model": "opt-mini-s", "limit": 2, "options": options, "machine": machine,
                                   "out": str(out), **changes}))  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    short(folder)
    before = contents(folder)
    for changes, told in (
        ({"task": "mini-questions"}, 'task was "mini-captions" and is now "mini-questions"'),
        ({"model": "blip2-opt-mini-s"}, 'model was "opt-mini-s"'),
        ({"options": {"num_beams": 2}}, "options was"),
        ({"model": None, "predictions": str(folder / "submission.json")}, "predictions was null"),
    ):
        with pytest.raises(ConfigError, match=told):
            short(folder, **changes)
        assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "mine", tmp_path / "file"):  # --overwrite replaces evaluations, nothing else
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match="something else than an evaluation"):
                short(place, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_damaged_record_and_answers_of_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    short(folder)
    before = contents(folder)
    (folder / "eval.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged") as error:
        short(folder)
    assert "--overwrite" in error.value.hint
    (folder / "eval.json").write_bytes(before["eval.json"])
    lines = before["predictions.jsonl"].decode().splitlines()
    odd = ['{"id": [1], "answer": "a"}', '{"id": "x"}', "null", lines[0][:20]]
    (folder / "predictions.jsonl").write_text("\n".join([*odd, *lines]) + "\n")
    short(folder)  # what is no answer does not count
    assert contents(folder) == before
    (folder / "predictions.jsonl").write_text('{"id": "other", "answer": "a"}\n')
    with pytest.raises(DataError, match="'other', which the task does not ask"):
        short(folder)
    short(folder, overwrite=True)
    assert contents(folder).keys() == before.keys()


def test_two_evaluations_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    lock = FolderLock.take(folder)
    assert lock is not None
    with pytest.raises(ConfigError, match="another run is using"):
        short(folder)
    lock.release()
    assert not list(folder.iterdir())
    short(folder)
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["opt-mini-s", "--task", "coc", "--data", "x.json"], "did you mean 'coco'?"),
        (["opt-mini-s", "--task", "coco", "--data", "x.json"], "no file x.json"),
        (["opt-mini-s", "--task", "coco"], "what is left of --data is nothing"),
        (["opt-mini-s", "--task", "mini-captions", "--metric", "cidr"], "did you mean 'cider'?"),
        (["llama-mini", "--task", "mini-captions"], "llama-mini"),
        (["vpg-mini", "--task", "mini-captions"], "VPG without a language model"),
        (["--task", "mini-captions", "--predictions", "none.json"], "none.json"),
        (["opt-mini-s", "--task", "mini-captions", "--cache-gb", "-1"], "cache_gb"),
        (["opt-mini-s", "--task", "mini-captions", "--min-new-tokens", "9", "--max-new-tokens", "3"], "min_new_tokens"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], told: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["eval", *arguments, "--out", "eval", "--device", "cpu", "--offline"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and told in said and "Traceback" not in said
    assert not (tmp_path / "eval").exists()
