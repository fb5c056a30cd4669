"""A run whose LLM is spread over two places is the run with the LLM in one: here the second place is the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vpgtrans_core
from tests.run.test_resume import settings
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.llm import placing
from vpgtrans_core.llm.placing import Placement, device_map
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings, build
from vpgtrans_core.weights import Weights

ROOM = {"opt": 60_000, "llama": 110_000, "t5": 130_000}
"""Bytes for about half of each LLM, and for the largest part of the other half while it computes."""


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The device maps of the models that are loaded."""
    seen: list[dict] = []
    monkeypatch.setattr(Placement, "check_map", lambda self, model: seen.append(dict(device_map(model))))
    return seen


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("loss", "held_out_loss") if name in line]


@pytest.mark.parametrize("target", ROOM)
def test_a_placed_run_is_the_run_in_one_place(
    world: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch, maps: list[dict]
) -> None:
    own = {"target": str(world / target), "stage1_optimizer": "adamw", "save": "model", "source_loss": False}
    whole = transfer(**settings(world, tmp_path / "whole", **own))
    monkeypatch.setattr(placing, "room", lambda *given: {"cpu": ROOM[target], "disk": 1 << 30})
    placed = transfer(**settings(world, tmp_path / "placed", **own, place="auto:cpu"))
    (where,) = maps
    assert set(where.values()) == {"cpu", "disk"}
    assert len(losses(tmp_path / "whole")) >= 8
    assert losses(tmp_path / "placed") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    one, other = Weights(whole.folder), Weights(placed.folder)
    assert set(one) == set(other)
    for name in one:
        same = one.read(name).double() - other.read(name).double()
        assert float(same.abs().max()) <= (0 if name.startswith("language_model.") else 1e-6), name
    check = [record["self_check"]["examples"] for record in (whole.record, placed.record)]
    assert check[0] == check[1]
    picture = str(next((world / "data" / "images").glob("*.png")))
    said = vpgtrans_core.caption(str(placed.folder), [picture], settings=Settings(place="auto:cpu", device="cpu"))
    assert said == vpgtrans_core.caption(str(whole.folder), [picture], settings=Settings(device="cpu"))
    assert len(maps) == 2 and set(maps[1].values()) == {"cpu", "disk"}


def test_an_llm_that_is_too_large_is_refused_before_it_is_loaded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "room", lambda *given: {"cpu": 20_000})
    with pytest.raises(ModelError, match=r"the LLM's weights take 0\.1 GB|take 0\.0 GB") as error:
        transfer(**settings(world, tmp_path / "out", place="auto", source_loss=False))
    assert "--place auto:cpu" in str(error.value)


def test_a_part_that_only_the_disk_has_room_for_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the sum would fit, but the parts do not."""
    monkeypatch.setattr(placing, "room", lambda *given: {"cpu": ROOM["llama"]})
    monkeypatch.setattr(Placement, "check_size", lambda *given: None)
    with pytest.raises(ModelError, match="there is room for the host"):
        transfer(**settings(world, tmp_path / "out", place="auto", source_loss=False))


def test_what_does_not_go_together_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as error:
        build({"place": "auto:cpu", "compile": True, "quantization": "8bit", "device": "cuda:1"})
    told = str(error.value)
    assert "give one of compile and place" in told and "stays on GPUs" in told and "CUDA_VISIBLE_DEVICES" in told
    with pytest.raises(ConfigError, match="no GPU to place"):
        placing.placement("auto", choose_machine(Settings(device="cpu"), "float32").device)
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="2 processes were started") as several:
        choose_machine(Settings(place="auto"), "float16")
    assert several.value.in_every_process
