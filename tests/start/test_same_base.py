"""A target that is a fine-tune of the source's LLM: what is recognised, and what a run then does."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vpgtrans_core import transfer
from vpgtrans_core.miniature.data import save_training
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.start.same_base import NEAR, embedding_distance

SHAPE = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2}
WORDS = {f"w{number}": number for number in range(200)}


def distance(second: torch.Tensor, shape: dict[str, Any] | None = None, words: dict[str, int] | None = None):
    first = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    return embedding_distance(
        (SimpleNamespace(**SHAPE), SimpleNamespace(**{**SHAPE, **(shape or {})})),
        (WORDS, WORDS if words is None else words),
        (lambda ids: first[ids], lambda ids: second[ids]),
        (200, len(second)),
    )


def table(noise: float = 0.0, more: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(200, 8, generator=generator)
    return torch.cat([first + noise * torch.randn(200, 8, generator=generator), torch.ones(more, 8)])


def test_a_fine_tune_is_near_and_another_llm_is_not():
    assert distance(table()) == 0
    assert 0 < distance(table(0.02)) < 0.04 < NEAR
    assert distance(torch.randn(200, 8, generator=torch.Generator().manual_seed(5))) > 1 > NEAR


def test_a_fine_tune_may_have_more_tokens():
    words = {**WORDS, "<pad>": 200, "<image>": 201}
    assert distance(table(more=2), words=words) == 0


@pytest.mark.parametrize("change", [{"hidden_size": 9}, {"num_hidden_layers": 3}, {"model_type": "mistral"}])
def test_other_shapes_are_another_base(change):
    assert distance(table(), shape=change) is None


def test_other_words_are_another_base():
    assert distance(table(), words={word: 199 - number for word, number in WORDS.items()}) is None


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature source's own LLM, every weight of which has moved a little."""
    folder = tmp_path_factory.mktemp("tuned") / "opt"
    shutil.copytree(resolve_target("opt-mini-s", default_registry(), Settings()).folder, folder)
    generator = torch.Generator().manual_seed(0)
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        moved = {
            name: value + 0.01 * value.float().std().nan_to_num() * torch.randn(value.shape, generator=generator)
            for name, value in weights.items()
        }
        save_file({name: value.to(weights[name].dtype) for name, value in moved.items()}, path, {"format": "pt"})
    return folder


def run(target: Path | str, out: Path, **more: Any) -> tuple[Any, list[str]]:
    said: list[str] = []

    class Reporter:
        def __getattr__(self, name: str) -> Any:
            return lambda *texts, **values: said.extend(str(text) for text in texts)

    result = transfer(
        source="opt-mini-s", target=str(target), out=str(out), limit=80, val_images=24, batch_size=40, device="cpu",
        stage1_steps=2, stage2_steps=1, workers=0, source_loss=True, cache_features=False, save="vpg",
        data=more.pop("data"), reporter=Reporter(), **more,
    )  # fmt: skip
    return result, said


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    save_training(104, folder)
    return [str(folder / "captions.json")]


def test_the_projector_is_kept_and_the_warm_up_left_out(tuned, data, tmp_path):
    result, said = run(tuned, tmp_path / "out", data=data)
    record = result.record
    assert record["start"]["start"] == "kept" and 0 < record["start"]["same_base"] < 0.05
    first, second = record["stages"]["1"], record["stages"]["2"]
    assert (first["steps"], first["ended_early"], second["steps"]) == (0, True, 1)
    assert any("fine-tune of the source's LLM" in text for text in said)
    assert any(text.startswith("stage 1 is not needed: a held-out loss of") for text in said)
    assert first["held_out_loss"] == first["first_held_out_loss"]


def test_the_user_can_have_the_usual_start(tuned, data, tmp_path):
    record = run(tuned, tmp_path / "out", data=data, same_base=False)[0].record
    assert record["start"]["start"] == "words" and record["stages"]["1"]["steps"] == 2


def test_another_llm_starts_as_usual(data, tmp_path):
    record = run("opt-mini-l", tmp_path / "out", data=data, stages=(1,))[0].record
    assert record["start"]["start"] == "words" and record["stages"]["1"]["steps"] == 2
