"""``vpgt init-vpg`` on tiny pictures: what it trains and writes, how it goes on, and the source that comes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from vpg_qformer.tower import TowerVPG

from tests.run import tiny_world
from vpgtrans_core import transfer
from vpgtrans_core.cli.main import main
from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.pretraining.pipeline import init_vpg
from vpgtrans_core.run.pipeline import Silent
from vpgtrans_core.sharing.content import model_content
from vpgtrans_core.weights import read_tensors, tensor_shapes

SIZES: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "vision_width": 24, "vision_layers": 2, "width": 24, "layers": 2, "queries": 4,
}  # fmt: skip
TRAINED: dict[str, Any] = {"steps": 8, "batch_size": 12, "device": "cpu", "workers": 0, "augment": False}
TRANSFER: dict[str, Any] = {"device": "cpu", "workers": 0, "val_images": 4, "augment": False, "batch_size": 16}


class Stops(Silent):
    """A reporter that ends a run after some steps, as a crash would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, advance: int = 1, **values: float) -> None:
        self.left -= 1
        if not self.left:
            raise RuntimeError("the power is out")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data/captions.json`` and the LLMs ``opt`` and ``llama``."""
    root = tmp_path_factory.mktemp("own")
    tiny_world.save_images(root / "data", count=60)
    for name in ("opt", "llama"):
        tiny_world.save_llm(root / name, name)
    return root


@pytest.fixture(scope="module")
def data(home: Path) -> tuple[str, ...]:
    return (str(home / "data/captions.json"),)


@pytest.fixture(scope="module")
def vpg(home: Path, data: tuple[str, ...]) -> Path:
    """A VPG that was trained for a few steps."""
    return init_vpg(data=data, out=str(home / "vpg"), **SIZES, **TRAINED).folder


@pytest.fixture(scope="module")
def source(home: Path, vpg: Path, data: tuple[str, ...]) -> Path:
    """A source that was made of it."""
    values = {"source": str(vpg), "target": str(home / "opt"), "data": data, "out": str(home / "source")}
    return transfer(**values, method="scratch", stage2_steps=2, **TRANSFER).folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder, tensor_shapes(folder))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_learns_and_says_so(tmp_path: Path, data: tuple[str, ...]) -> None:
    run = init_vpg(data=data, out=str(tmp_path / "vpg"), **SIZES, **TRAINED | {"steps": 60, "lr": 2e-3})
    record, stage = run.record, run.record["stages"]["1"]
    assert stage["steps"] == 60 and stage["held_out_loss"] < stage["first_held_out_loss"] - 2
    assert record["status"] == "done" and record["found"]["among"] == 12
    assert record["found"]["text_recall_at_5"] > 5 / 12
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "text_recall_at_1" in line]) == 21  # at the start, and twenty times
    card = (run.folder / "README.md").read_text()
    assert "vpgt transfer --method scratch --from vpg" in card and "the caption of an image among 12" in card
    assert (run.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {"config.json", "vpg.safetensors", "preprocessor_config.json", "run.json"}
    assert not names & {"checkpoints", "references.json"}


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path: Path, vpg: Path, data: tuple[str, ...]) -> None:
    out = str(tmp_path / "cut")
    with pytest.raises(RuntimeError, match="power"):
        init_vpg(data=data, out=out, checkpoint_steps=3, reporter=Stops(5), **SIZES, **TRAINED)
    with pytest.raises(ConfigError) as error:
        init_vpg(out=out, resume=True, width=48, seed=7)
    assert "seed" in str(error.value)
    with pytest.raises(ConfigError, match=r"width: the run in .* uses 24, not 48"):
        init_vpg(out=out, resume=True, width=48)
    done = init_vpg(out=out, resume=True, device="cpu")
    assert same(weights(done.folder), weights(vpg))
    steps = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, 9))
    assert init_vpg(out=out, resume=True).record["found"] == done.record["found"]  # nothing is left to do


def test_other_data_is_noticed(tmp_path: Path, data: tuple[str, ...]) -> None:
    copy = shutil.copytree(Path(data[0]).parent, tmp_path / "data")
    values: dict[str, Any] = {"data": (str(copy / "captions.json"),), "out": str(tmp_path / "cut")}
    with pytest.raises(RuntimeError):
        init_vpg(**values, checkpoint_steps=3, reporter=Stops(5), **SIZES, **TRAINED)
    listed = (copy / "captions.json").read_text().replace("A red circle", "A pink circle")
    (copy / "captions.json").write_text(listed)
    with pytest.raises(ConfigError, match="holds other images or captions"):
        init_vpg(out=values["out"], resume=True)


def test_the_source_and_what_comes_of_it_find_the_vpg_again(
    home: Path, vpg: Path, source: Path, data: tuple[str, ...], tmp_path: Path
) -> None:
    assert json.loads((source / "references.json").read_text()) == {"pretrained": str(vpg)}
    onward = {"target": str(home / "llama"), "data": data, **TRANSFER}
    far = transfer(source=str(source), out=str(tmp_path / "far"), stage1_steps=1, stage2_steps=1, save="vpg", **onward)
    assert json.loads((far.folder / "references.json").read_text())["pretrained"] == str(vpg)
    for start in (source, far.folder):
        values = {"source": str(start), "out": str(tmp_path / f"from-{start.name}"), **onward}
        again = transfer(**values, method="scratch", stage2_steps=0, save="vpg").folder
        mine = {name: value for name, value in weights(again).items() if not name.startswith("language_projection")}
        assert same(mine, weights(vpg))


def test_a_source_can_be_shared_without_the_place_of_its_vpg(source: Path) -> None:
    content = model_content(source, "me/source")
    assert "pretrained" not in json.loads(bytes(content.files["references.json"]))


def test_half_precision_halves_the_file(tmp_path: Path, vpg: Path, data: tuple[str, ...]) -> None:
    half = init_vpg(data=data, out=str(tmp_path / "half"), save_dtype="bfloat16", **SIZES, **TRAINED).folder
    assert same(weights(half), {name: value.bfloat16() for name, value in weights(vpg).items()})


def test_a_given_tower_stays_as_it_is_and_its_features_are_kept(
    home: Path, data: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(5)
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(tmp_path / "clip")
    looked: list[int] = []
    features = TowerVPG.features
    monkeypatch.setattr(TowerVPG, "features", lambda vpg, pixels: looked.append(len(pixels)) or features(vpg, pixels))
    values: dict[str, Any] = {"data": data, "vision": str(tmp_path / "clip"), "width": 24, "layers": 2, "queries": 4}
    values |= {**TRAINED, "steps": 12, "augment": None, "cache": str(tmp_path / "cache")}
    run = init_vpg(out=str(tmp_path / "vpg"), **values)
    assert 0 < sum(looked) <= 60  # the images; twelve steps have 144
    looked.clear()
    again = init_vpg(out=str(tmp_path / "again"), **values)
    assert not looked and same(weights(again.folder), weights(run.folder))
    before = CLIPVisionModel.from_pretrained(tmp_path / "clip").state_dict()
    tower = {n.removeprefix("vision_model.tower."): v for n, v in weights(run.folder).items() if ".tower." in n}
    assert same(tower, dict(before))
    assert "the vision tower of clip, unchanged" in (run.folder / "README.md").read_text()
    values = {"source": str(run.folder), "target": str(home / "opt"), "data": data, "method": "scratch", **TRANSFER}
    with pytest.raises(ConfigError, match="no library can load"):
        transfer(out=str(tmp_path / "whole"), **values)
    part = transfer(out=str(tmp_path / "part"), save="vpg", stage2_steps=2, **values)
    assert part.record["stages"]["2"]["held_out_loss"] < 20


def test_a_dry_run_says_what_the_run_is(
    vpg: Path, data: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    with pytest.raises(SystemExit) as ended:
        main(["init-vpg", "--data", *data, *flags, "--dry-run", "--json", "--batch-size", "12", "--epochs", "3"])
    assert not ended.value.code
    planned = json.loads(capsys.readouterr().out)
    record = json.loads((vpg / "run.json").read_text())
    assert planned["facts"] == record["vpg"] and planned["images"] == record["data"]["images"] == 48
    assert planned["steps"] == 12 and planned["batch_size"] == 12
    assert planned["file_bytes"] == sum(value.nbytes for value in weights(vpg).values())
    with pytest.raises(SystemExit):
        main(["init-vpg", "--data", *data, *flags, "--dry-run", "--layers", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["flops_per_image"] > planned["flops_per_image"]
    assert not (tmp_path / "runs").exists()


def test_wrong_input_is_told_at_once(home: Path, data: tuple[str, ...], tmp_path: Path) -> None:
    out = str(tmp_path / "none")
    with pytest.raises(ConfigError) as error:
        init_vpg(data=data, out=out, batch_size=1, steps=3, epochs=2, seed="x", stage2_lr=1.0)
    assert len(error.value.problems) == 4
    with pytest.raises(DataError, match="no training data"):
        init_vpg(out=out)
    with pytest.raises(ConfigError, match="llava cannot be made from nothing"):
        init_vpg(data=data, out=out, family="llava")
    with pytest.raises(ModelError, match="no vision tower"):
        init_vpg(data=data, out=out, vision=str(home / "opt"))
    with pytest.raises(ModelError, match="is a language model"):
        init_vpg(data=data, out=out, vision="llama-mini")
    assert not Path(out).exists()
