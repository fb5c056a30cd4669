"""Images are encoded once: for several questions, tasks and models, and after a training that has kept them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from vpg_qformer.adapter import QFormerVPG

from tests.evaluation import official
from tests.run import tiny_world
from vpgtrans_core.cache.key import CacheKey
from vpgtrans_core.cli.main import main
from vpgtrans_core.evaluation.run import EvalSettings, evaluate
from vpgtrans_core.settings import Settings

MODEL = "opt-mini-s"
GREEDY = {"num_beams": 1, "max_new_tokens": 12}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts the images that pass through a ViT."""
    count = Counter()
    features = QFormerVPG.features

    def counting(self, pixels):
        count["images"] += len(pixels)
        return features(self, pixels)

    monkeypatch.setattr(QFormerVPG, "features", counting)
    return count


def answers(out: Path, cache: Path | None, task: str = "mini-captions", limit: int = 6, **changes) -> list[str]:
    machine = Settings(device="cpu", cache=str(cache), cache_features=None if cache else False)
    asked = {"model": MODEL, "batch_size": 4, "options": GREEDY, "limit": limit, "machine": machine, "out": str(out)}
    evaluate(EvalSettings(task, **{**asked, **changes}))
    return [json.loads(line)["answer"] for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_images_are_encoded_once_with_the_same_answers(tmp_path: Path, encoded: Counter) -> None:
    cache = tmp_path / "cache"
    without = answers(tmp_path / "without", None)
    assert encoded.pop("images") == 6 and not cache.exists() and len(set(without)) > 1
    assert answers(tmp_path / "first", cache) == without and encoded.pop("images") == 6
    assert answers(tmp_path / "second", cache) == without and encoded["images"] == 0


def test_tasks_and_questions_share_their_images(tmp_path: Path, encoded: Counter) -> None:
    """The miniature's first questions are about the pictures that it captions first."""
    cache = tmp_path / "cache"
    answers(tmp_path / "captions", cache)
    encoded.clear()
    said = answers(tmp_path / "questions", cache, "mini-questions", 20)
    rows = [json.loads(line) for line in (tmp_path / "questions" / "predictions.jsonl").read_text().splitlines()]
    pictures = {row["image"] for row in rows}
    captioned = {
        json.loads(line)["image"] for line in (tmp_path / "captions" / "predictions.jsonl").read_text().splitlines()
    }
    assert 1 < len(pictures) < 20 and encoded.pop("images", 0) == len(pictures - captioned) < len(pictures)
    assert answers(tmp_path / "without", None, "mini-questions", 20) == said and encoded["images"] == len(pictures)


def test_an_interruption_keeps_what_was_encoded(tmp_path: Path, encoded: Counter) -> None:
    class Stop:
        def stage(self, name, total) -> None: ...

        def message(self, text) -> None:
            assert "cached" in text

        def step(self, advance=1) -> None:
            raise KeyboardInterrupt

    machine = Settings(device="cpu", cache=str(tmp_path / "cache"))
    settings = EvalSettings("mini-captions", MODEL, limit=6, batch_size=4, options=GREEDY, machine=machine,
                            out=str(tmp_path / "eval"))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, progress=Stop())
    assert encoded.pop("images") == 6
    evaluate(settings)
    assert encoded["images"] == 0


def test_a_trainings_cache_serves_its_model_and_others(tmp_path: Path, encoded: Counter) -> None:
    """The training keeps the ViT's features, which models with other Q-Formers share."""
    data, cache = official.coco(tmp_path / "coco"), tmp_path / "cache"
    from vpgtrans_core import transfer

    run = transfer(
        source=MODEL, target="llama-mini", data=(str(data),), out=str(tmp_path / "run"), cache=str(cache), device="cpu",
        save="vpg", augment=False, stage1_steps=1, stage2_steps=1, val_images=0, workers=0,
    )  # fmt: skip
    trained = json.loads((run.folder / "run.json").read_text())["stages"]["2"]
    assert trained["steps"] == 1
    for model in (str(run.folder), MODEL):
        encoded.clear()
        with_cache = answers(tmp_path / f"with-{Path(model).name}", cache, "coco", data=(str(data),), model=model)
        assert encoded["images"] == 0
        without = answers(tmp_path / f"without-{Path(model).name}", None, "coco", data=(str(data),), model=model)
        assert encoded["images"] == official.COUNT and with_cache == without
    image = data.parent / "images" / "COCO_val2014_000000000002.jpg"
    image.write_bytes((data.parent / "images" / "COCO_val2014_000000000001.jpg").read_bytes() + b"\0")
    encoded.clear()
    said = answers(tmp_path / "changed", cache, "coco", data=(str(data),))
    assert encoded["images"] == 1 and said[2] == said[1]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, encoded: Counter, caplog) -> None:
    (tmp_path / "file").write_text("")
    said = answers(tmp_path / "eval", tmp_path / "file" / "cache")
    assert "no cache in" in caplog.text and said == answers(tmp_path / "without", None)


def test_the_command_has_the_caches_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["eval", MODEL, "--task", "mini-captions", "--limit", "2", "--num-beams", "1", "--device", "cpu"]
    for number, flags in enumerate((["--no-cache-features"], [], ["--cache-gb", "0.0000001", "--overwrite"])):
        with pytest.raises(SystemExit) as ended:
            main([*common, "--out", str(tmp_path / f"eval{number}"), "--cache", str(tmp_path / "cache"), *flags])
        said = capsys.readouterr().err
        assert ended.value.code in (0, None) and (tmp_path / "cache").exists() == bool(number)
        assert ("more than --cache-gb 1e-07" in said) == (number == 2)


def test_outputs_in_half_precision_are_not_those_of_training() -> None:
    """Training computes the Q-Former under autocast, a finished model in fp32; features are the same for both."""
    vpg = QFormerVPG.from_config({
        "model_type": "blip-2",
        "vision_config": tiny_world.VISION, "qformer_config": tiny_world.QFORMER, "num_query_tokens": 4
    })  # fmt: skip
    for kind, dtype, same in (
        ("outputs", torch.float32, True), ("outputs", torch.bfloat16, False), ("features", torch.bfloat16, True)
    ):  # fmt: skip
        trains, answers = (CacheKey.of(vpg, kind, dtype, training=training) for training in (True, False))
        assert (trains.folder == answers.folder) == same
        assert answers.entry_dtype == (torch.bfloat16 if kind == "features" else torch.float32)
