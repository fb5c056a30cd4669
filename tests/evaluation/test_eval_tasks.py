"""Tasks read the published files as they are, and say what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation import official
from vpgtrans_core.cards import load
from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.files import open_files, refuse_missing
from vpgtrans_core.evaluation.plugin import vpgt_eval_tasks
from vpgtrans_core.evaluation.task import EvalSample, Task

TARGETS = {card.name: card.target for card in vpgt_eval_tasks()}


def task(name: str) -> Task:
    return load(TARGETS[name])()


def read(name: str, *files: Path | str, scored: bool = True) -> list[EvalSample]:
    return task(name).read(open_files(name, [str(file) for file in files]), scored=scored)


def test_coco_in_its_three_forms(tmp_path: Path) -> None:
    samples = read("coco", official.coco(tmp_path / "coco"))
    assert [sample.id for sample in samples] == list(range(official.COUNT))  # the image without captions is not asked
    assert all(len(sample.references) == 5 and not sample.question for sample in samples)
    samples = read("coco", official.karpathy(tmp_path / "karpathy"))
    assert [(sample.id, sample.references) for sample in samples] == [(1, ("A dog .",)), (3, ("A dog .",))]
    samples = read("coco", official.lavis(tmp_path / "lavis"))
    assert [(sample.id, sample.references) for sample in samples] == [(n, ("A dog.", "Dogs.")) for n in (391895, 60623)]
    assert all(sample.image.read() for sample in samples)


def test_nocaps_has_domains(tmp_path: Path) -> None:
    samples = read("nocaps", official.nocaps(tmp_path))
    assert [sample.group for sample in samples] == ["in-domain", "near-domain", "out-domain"] * 2


@pytest.mark.parametrize(("name", "raw"), [("vqav2", False), ("okvqa", True)])
def test_questions_and_annotations_in_any_order(name: str, raw: bool, tmp_path: Path) -> None:
    questions, annotations = official.vqa(tmp_path, raw=raw)
    samples = read(name, annotations, questions)
    assert samples == read(name, questions, annotations) and len(samples) == 3 * official.COUNT
    assert all(sample.question.endswith("?") and len(sample.references) == 10 for sample in samples)
    assert [sample.group for sample in samples[:3]] == list(official.KINDS)
    assert samples[4].image.name == "COCO_val2014_000000000001.jpg" and samples[4].id == 11
    assert task(name).prompt(samples[0], "Q: {} A:") == f"Q: {samples[0].question} A:"
    assert task(name).submission([(samples[4], "red")]) == [{"question_id": 11, "answer": "red"}]


def test_pictures_with_other_names(tmp_path: Path) -> None:
    """A list of images in COCO's form names them."""
    questions, annotations = official.vqa(tmp_path)
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in range(official.COUNT)]
    (tmp_path / "images.json").write_text(json.dumps({"images": images, "annotations": []}))
    plain = json.loads(questions.read_text())
    del plain["data_subtype"]
    questions.write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"for instance '0\.jpg'"):
        read("vqav2", questions, annotations)
    samples = read("vqav2", questions, annotations, f"{tmp_path / 'images.json'}:{tmp_path / 'val2014'}")
    refuse_missing(sample.image for sample in samples)
    (tmp_path / "images.json").write_text(json.dumps({"images": images[1:], "annotations": []}))
    with pytest.raises(DataError, match="the image 0, of which"):
        read("vqav2", questions, annotations, tmp_path / "images.json")


def test_gqa(tmp_path: Path) -> None:
    samples = read("gqa", official.gqa(tmp_path))
    assert samples[1].id == "21" and samples[1].references == ("ball",) and samples[1].image.name == "n1.jpg"
    assert task("gqa").submission([(samples[1], "dog")]) == [{"questionId": "21", "prediction": "dog"}]


def test_the_miniature_asks_as_its_models_read() -> None:
    samples = read("mini-questions")
    prompt = task("mini-questions").prompt(samples[0], "Question: {} Short answer:")
    assert prompt == f"question: {samples[0].question} short answer:" and samples[0].question.endswith(" ?")
    assert len({sample.id for sample in samples}) == len(samples) and {"colour", "steps"} <= {s.group for s in samples}
    assert {s.id for s in read("mini-captions")}.isdisjoint(s.id for s in read("mini-held"))
    steps, knowledge = read("mini-steps"), read("mini-knowledge")
    assert {s.group for s in steps} == {"relation", "steps"} and {s.group for s in knowledge} == {"knowledge"}
    assert {s.id for s in steps + knowledge} < {s.id for s in samples}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("vqav2", ("questions",), "needs a file of answers"),
        ("vqav2", ("annotations",), "needs a file of questions"),
        ("vqav2", ("questions", "annotations", "gqa"), "has no use for"),
        ("vqav2", ("questions", "raw"), "has the answers of OK-VQA"),
        ("okvqa", ("questions", "annotations"), "they are not those of OK-VQA"),
        ("gqa", ("coco",), 'needs a file of questions, {"QUESTION_ID"'),
        ("coco", ("nocaps",), "is a file of NoCaps"),
        ("nocaps", ("coco",), "not a file of NoCaps"),
        ("coco", ("questions",), "needs a caption file"),
        ("coco", (), "what is left of --data is nothing"),
        ("mini-captions", ("coco",), "has no use for"),
    ],
)
def test_files_of_another_task(name: str, given: tuple[str, ...], message: str, tmp_path: Path) -> None:
    questions, annotations = official.vqa(tmp_path / "vqa")
    files = {
        "questions": questions, "annotations": annotations, "raw": official.vqa(tmp_path / "raw", raw=True)[1],
        "gqa": official.gqa(tmp_path / "gqa"), "coco": official.coco(tmp_path / "coco"),
        "nocaps": official.nocaps(tmp_path / "nocaps"),
    }  # fmt: skip
    with pytest.raises(DataError, match=message):
        read(name, *(files[one] for one in given))


def test_all_damaged_rows_are_named_at_once(tmp_path: Path) -> None:
    path = official.coco(tmp_path)
    content = json.loads(path.read_text())
    content["images"][-1] = {"id": 6}
    content["images"].append(content["images"][0])
    content["annotations"][0] = {"image_id": 0}
    content["annotations"][-1]["image_id"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read("coco", path)
    for part in ("image 7 has no file_name", "image id 0 is there twice", "annotation 1 has no", "of the image 99"):
        assert part in error.value.message


def test_questions_without_answers(tmp_path: Path) -> None:
    questions, annotations = official.vqa(tmp_path)
    content = json.loads(annotations.read_text())
    content["annotations"] = content["annotations"][2:]
    annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match="2 problems") as error:
        read("vqav2", questions, annotations)
    assert "the question 1 of" in error.value.message and "same dataset and split" in error.value.hint
    assert len(read("vqav2", questions, scored=False)) == 3 * official.COUNT


def test_damaged_questions_and_answers(tmp_path: Path) -> None:
    questions, annotations = official.vqa(tmp_path)
    asked, answered = json.loads(questions.read_text()), json.loads(annotations.read_text())
    asked["questions"][1]["question_id"] = asked["questions"][0]["question_id"]
    del asked["questions"][2]["question"]
    questions.write_text(json.dumps(asked))
    with pytest.raises(DataError, match="is there twice") as error:
        read("vqav2", questions, annotations)
    assert "question 3 has no" in error.value.message
    questions, _ = official.vqa(tmp_path)
    answered["annotations"][1]["answers"] = []
    annotations.write_text(json.dumps(answered))
    with pytest.raises(DataError, match="annotation 2 has no answers"):
        read("vqav2", questions, annotations)


def test_files_and_folders_that_are_not_there(tmp_path: Path) -> None:
    file = official.coco(tmp_path)
    with pytest.raises(DataError, match="2 problems") as error:
        open_files("coco", [str(tmp_path / "nothing.json"), f"{file}:{tmp_path / 'nowhere'}"])
    assert "no file" in error.value.message and "no image folder" in error.value.message
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(DataError, match=r"damaged\.json"):
        open_files("coco", [str(tmp_path / "damaged.json")])


def test_two_images_of_one_number_are_not_one(tmp_path: Path) -> None:
    file = official.lavis(tmp_path / "lavis")
    rows = json.loads(file.read_text())
    first = Path(rows[0]["image"])
    other = first.with_name(f"other_{first.stem.rpartition('_')[2]}{first.suffix}")
    file.write_text(json.dumps([*rows, {"image": str(other), "caption": "a"}]))
    with pytest.raises(DataError, match="has the id of another image"):
        read("coco", file)
