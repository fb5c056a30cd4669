"""Statements about pictures, as NLVR has them: true ones are captions, all are yes-or-no questions with few votes.

They are put to a model that was transferred here, and to one that was imported from a checkpoint of the paper's code.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Blip2ForConditionalGeneration

from tests.run import tiny_world
from vpgtrans_core import transfer
from vpgtrans_core.cli.main import main
from vpgtrans_core.miniature.data import items

COUNT = 5


def vpgt(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert (ended.value.code or 0) == code


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of each statement; those of which it is false have no caption."""
    folder = tmp_path_factory.mktemp("statements")
    images, captions, questions, answers = [], [], [], []
    every = items("val", 2 * COUNT)
    (folder / "pictures").mkdir()
    for number, item in enumerate(every, 1):
        name, true = f"s-{number}.png", number % 2 == 1
        item.image.save(folder / "pictures" / name)
        statement = " ".join(every[(number - 1) // 2 * 2].captions[0].split()[:3])
        images.append({"id": number, "file_name": name})
        captions += [{"id": number, "image_id": number, "caption": statement}] if true else []
        questions.append({"question_id": number, "image_id": number, "question": f"true: {statement}?"})
        votes = [{"answer_id": i, "answer": "yes" if true else "no"} for i in range(5)]
        answers.append({"question_id": number, "image_id": number, "answer_type": "yes/no", "answers": votes})
    for name, content in (
        ("captions", {"images": images, "annotations": captions}),
        ("questions", {"questions": questions}),
        ("answers", {"annotations": answers}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module", params=["transferred", "imported"])
def model(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "transferred":
        return transfer(
            source="opt-mini-s", target="llama-mini", data=(str(data / "captions.json"),), out=str(folder / "model"),
            device="cpu", augment=False, stage1_steps=1, stage2_steps=1, val_images=0, workers=0, save="model",
        ).folder  # fmt: skip
    llm = tiny_world.save_llm(folder / "llm", "opt")
    tiny = Blip2ForConditionalGeneration.from_pretrained(tiny_world.save_source(folder / "blip2", llm))
    with torch.no_grad():
        for name, parameter in tiny.vision_model.named_parameters():
            if name.endswith("qkv.bias"):
                parameter.view(3, -1)[1] = 0  # the paper's ViT has no bias of keys
    tiny.save_pretrained(folder / "blip2")
    vpgt("export", folder / "blip2", "--to", "lavis", "--with-vit", "--out", folder / "checkpoint.pth")
    (folder / "shapes.json").write_text('{"vit": {"num_heads": 2}, "bert": {"num_attention_heads": 2}}')
    vpgt("import", folder / "checkpoint.pth", "--shapes", folder / "shapes.json", "--llm", llm, "--out",
         folder / "model")  # fmt: skip
    return folder / "model"


@pytest.mark.parametrize(("task", "names", "count"), [("coco", ("captions",), COUNT), ("vqav2", (), 2 * COUNT)])
def test_statements_are_captions_and_questions(task, names, count, model, data, tmp_path, capsys) -> None:
    given = [f"--data={data / name}.json" for name in names or ("questions", "answers", "captions")]
    vpgt("eval", model, "--task", task, *given, "--device", "cpu", "--num-beams", 2, "--json", "--max-new-tokens", 4,
         "--out", tmp_path / "eval")  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
    assert result["samples"]["all"] == len(rows) == count and any(row["answer"] for row in rows)
    assert {row["id"] for row in rows} == set(range(1, 2 * COUNT + 1, 1 if task == "vqav2" else 2))
    if task == "vqav2":
        assert all(len(row["references"]) == 5 and row["question"].startswith("true: ") for row in rows)


def test_questions_that_are_too_long_for_the_llm_are_named(data: Path, tmp_path: Path, capsys) -> None:
    """Before anything is written; the miniature's LLMs have 128 positions."""
    content = json.loads((data / "questions.json").read_text())
    content["questions"][3]["question"] *= 40
    (tmp_path / "questions.json").write_text(json.dumps(content))
    given = [f"--data={data / name}.json:{data / 'pictures'}" for name in ("answers", "captions")]
    given.append(f"--data={tmp_path / 'questions.json'}")
    vpgt("eval", "opt-mini-s", "--task", "vqav2", *given, "--device", "cpu", "--out", tmp_path / "eval", code=2)
    told = capsys.readouterr().err
    assert "the question 4 leaves the LLM 0 positions for 10 tokens" in told and not (tmp_path / "eval").exists()


def test_without_the_list_of_pictures_the_hint_asks_for_it(data: Path, tmp_path: Path, capsys) -> None:
    given = [f"--data={data / name}.json" for name in ("questions", "answers")]
    vpgt("eval", "opt-mini-s", "--task", "vqav2", *given, "--out", tmp_path / "eval", code=2)
    told = capsys.readouterr().err
    assert "for instance '1.jpg'" in told and "COCO's list of images" in told
    assert not (tmp_path / "eval").exists()
