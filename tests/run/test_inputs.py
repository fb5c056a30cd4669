"""What a command reads is never in the folder that it empties; finished runs whose model is damaged are told."""

import shutil
from pathlib import Path

import pytest

from tests.run.test_folder import Told
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.export import export_model
from vpgtrans_core.run.inputs import refuse_inside
from vpgtrans_core.run.lock import alone
from vpgtrans_core.run.pipeline import transfer, tune
from vpgtrans_core.settings import Settings, build


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def model(transferred: Path, tmp_path: Path) -> Path:
    """A finished run with the data and an LLM in it, of which a test may lose what it can."""
    shutil.copytree(transferred, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("what", ["source", "target", "data", "val_data"])
def test_overwrite_removes_nothing_that_the_run_reads(what: str, world: Path, model: Path) -> None:
    shutil.copytree(world / "data", model / "data")
    shutil.copytree(world / "llama", model / "llm")
    inside = {"source": str(model), "target": str(model / "llm"), "data": (str(model / "data/captions.json"),)}
    inside["val_data"] = str(model / "data/captions.json")
    values = {"source": str(world / "source"), "target": str(world / "llama")}
    values |= {"data": (str(world / "data/captions.json"),), what: inside[what]}
    before = contents(model)
    with pytest.raises(ConfigError, match=f"{what.replace('val_', '')}: .* lies in the output folder"):
        transfer(**values, out=str(model), overwrite=True, device="cpu")
    assert contents(model) == before


def test_tune_and_export_keep_the_model_that_they_read(world: Path, model: Path) -> None:
    before = contents(model)
    with pytest.raises(ConfigError, match=r"source: .* lies in the output folder"):
        tune(str(model), data=(str(world / "data/captions.json"),), out=str(model), overwrite=True, device="cpu")
    (model.parent / "link").symlink_to(model, target_is_directory=True)
    for out in (model, model.parent / "link", model.parent):
        with pytest.raises(ConfigError, match=r"model: .* lies in the output folder"):
            export_model(str(model), str(out), "vpg", registry=default_registry(), settings=Settings(), overwrite=True)
    assert contents(model) == before


def test_what_lies_elsewhere_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    refuse_inside(tmp_path / "out", [("data", tmp_path / "out.json"), ("llm", tmp_path / "output"), ("none", None)])
    refuse_inside(tmp_path / ("x" * 300), [("data", tmp_path)])


@pytest.mark.parametrize("damage", ["gone", "cut", "none"])
def test_a_finished_run_is_done_only_with_its_model(damage: str, model: Path) -> None:
    weights = model / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    if damage == "none":
        told = Told()
        transfer(out=str(model), resume=True, reporter=told)
        assert any("nothing to do" in text for text in told.messages)
        return
    with pytest.raises(ConfigError, match=f"finished, but its model is {'gone' if damage == 'gone' else 'damaged'}"):
        transfer(out=str(model), resume=True)


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    with alone(part := tmp_path / "part"), pytest.raises(ConfigError, match="is writing"), alone(part):
        pass
    with alone(tmp_path / "part"):
        (tmp_path / "part").rename(tmp_path / "whole")
        with alone(tmp_path / "part"):  # another one, once the first has its place
            pass


@pytest.mark.parametrize("values", [{"out": ""}, {"data": [""]}, {"cache": ""}, {"out": "a\0b"}, {"val_data": ""}])
def test_what_an_unset_variable_leaves_is_refused(values: dict) -> None:
    with pytest.raises(ConfigError, match=r"must not be empty|must not hold a zero byte"):
        build({"source": "opt-mini-s", "target": "llama-mini", **values})
