"""The look at what a new model says: it speaks up when a real model is silent or says the same of all, only then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.run import tiny_world
from vpgtrans_core.llm.frozen import end_token
from vpgtrans_core.run.pipeline import Silent, transfer
from vpgtrans_core.weights import Weights, save_tensors


class Listening(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    tiny_world.save_llm(root / "opt", "opt")
    tiny_world.save_source(root / "source", root / "opt")
    tiny_world.save_images(root / "data")
    return root


def run(world: Path, target: Path, out: Path) -> tuple[list[str], dict]:
    """The warnings of a transfer that trains nothing, and what it recorded."""
    listening = Listening()
    transfer(
        reporter=listening, source=str(world / "source"), target=str(target), data=(str(world / "data"),),
        out=str(out), batch_size=12, workers=0, val_images=6, device="cpu", stage1_steps=0, stage2_steps=0,
        augment=False, save="vpg",
    )  # fmt: skip
    return listening.warnings, json.loads((out / "run.json").read_text())


def kinds(record: dict) -> list[str]:
    return [problem["kind"] for problem in record["verdict"]["problems"]]


def changed(world: Path, folder: Path, change) -> Path:
    """The target LLM with other weights."""
    shutil.copytree(world / "opt", folder)
    weights = Weights(folder)
    tensors = {name: weights.read(name).clone() for name in weights}
    change(tensors)
    save_tensors(folder / "model.safetensors", tensors)
    return folder


def prefer(tensors: dict[str, torch.Tensor], token: int) -> None:
    """Let one token win whatever was read: the last norm's bias points at it, and no other row does."""
    table = tensors["model.decoder.embed_tokens.weight"]
    tensors["model.decoder.final_layer_norm.weight"].zero_()
    tensors["model.decoder.final_layer_norm.bias"].fill_(1.0)
    table[:] -= table.mean(1, keepdim=True)
    table[token] += 1.0


def test_a_model_that_ends_at_once(world: Path, tmp_path: Path) -> None:
    end = end_token(tiny_world.tokenizer("opt"))
    silent = changed(world, tmp_path / "silent", lambda tensors: prefer(tensors, end))
    warnings, found = run(world, silent, tmp_path / "out")
    assert {example["said"] for example in found["self_check"]["examples"]} == {""}
    assert any("generates no text for 4 of 4 images" in text for text in warnings)
    assert "empty" in kinds(found) and len(warnings) == len(kinds(found))
    assert "it generates no text for 4 of 4 images" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_that_says_the_same_of_all(world: Path, tmp_path: Path) -> None:
    word = tiny_world.tokenizer("opt")("red", add_special_tokens=False).input_ids[0]
    same = changed(world, tmp_path / "same", lambda tensors: prefer(tensors, word))
    warnings, found = run(world, same, tmp_path / "out")
    examples = found["self_check"]["examples"]
    assert len({example["said"] for example in examples}) == 1 and examples[0]["said"]
    assert any("generates the same text for 4 images" in text for text in warnings)
    assert {"blind", "constant", "repetition"} <= set(kinds(found))  # its loss does not depend on the picture


def test_a_model_that_sees_gives_no_warning(tmp_path: Path) -> None:
    """The miniature's source, given back to its own LLM."""
    listening = Listening()
    result = transfer(
        reporter=listening, source="opt-mini-s", target="opt-mini-s", out=str(tmp_path / "out"), limit=24,
        val_images=6, device="cpu", workers=0, stage1_steps=0, stage2_steps=0, start="converter", save="vpg",
    )  # fmt: skip
    said = [example["said"] for example in result.record["self_check"]["examples"]]
    assert len(set(said)) > 2 and all(said)
    assert not listening.warnings and not result.record["verdict"]["problems"]
    assert "that the source sees" not in result.record["verdict"]["sentence"]  # nothing was trained: not worth it
