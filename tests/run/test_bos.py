"""Where BOS stands, from the flag to the folders: what can be chosen, what is recorded, and what is read again."""

from __future__ import annotations

import json
import shutil

import pytest

import vpgtrans_core
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.models.resolve import resolve_source, resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.spec import run_spec
from vpgtrans_core.settings import Settings


def settings(world, target, **values):
    source, data = str(world / "source"), (str(world / "data" / "captions.json"),)
    return Settings(source=source, target=str(world / target), data=data, device="cpu", **values)


def spec(world, target, **values):
    return run_spec(settings(world, target, **values), default_registry(), weights=False)


def state(folder, bos):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos": bos}))


@pytest.mark.parametrize("bos", ["first", "after"])
def test_an_encoder_decoder_has_no_bos_to_place(world, bos):
    with pytest.raises(ConfigError, match="encoder") as caught:
        spec(world, "t5", bos=bos)
    assert "leave --bos out" in str(caught.value)
    assert spec(world, "t5").settings.bos == "auto"  # what the hint says works
    assert spec(world, "t5", bos="after", resume=True).settings.bos == "after"  # as older records say it


def test_a_model_that_is_tuned_keeps_its_order(world):
    with pytest.raises(ConfigError, match="trained with BOS after"):
        run_spec(Settings(source=str(world / "source"), method="tune", bos="first"), default_registry(), weights=False)


def test_the_llm_s_own_folder_may_say_it(world, tmp_path):
    shutil.copytree(world / "llama", tmp_path / "llama")
    known = default_registry()

    def order(**values):
        return resolve_target(str(tmp_path / "llama"), known, Settings(**values)).family.bos

    assert order() == "first"
    state(tmp_path / "llama", "after")
    assert order() == "after" and order(bos="first") == "first"  # the flag has the last word
    state(tmp_path / "llama", "last")
    with pytest.raises(ModelError, match="'last' for the place of BOS"):
        order()


def test_a_copy_of_the_miniature_llama_reads_as_it_was_trained(tmp_path):
    known = default_registry()
    by_alias = resolve_target("llama-mini", known, Settings())
    shutil.copytree(by_alias.folder, tmp_path / "copy")
    assert resolve_target(str(tmp_path / "copy"), known, Settings()).family.bos == by_alias.family.bos == "after"


@pytest.mark.parametrize("save", ["model", "vpg"])
@pytest.mark.parametrize("bos", ["first", "after"])
def test_the_output_records_the_order_and_is_read_by_it(world, tmp_path, save, bos):
    few = {"stage1_steps": 1, "stage2_steps": 1, "batch_size": 6, "val_images": 4, "start": "random"}
    given = {"source": str(world / "source"), "target": str(world / "llama"), "out": str(tmp_path / "out"), **few}
    data = [str(world / "data/captions.json")]
    out = vpgtrans_core.transfer(**given, data=data, device="cpu", bos=bos, save=save).folder
    stated = json.loads((out / "config.json").read_text()).get("bos")
    if save == "vpg":
        stated = json.loads((out / "references.json").read_text())["llm"]["bos"]
    assert stated == bos == json.loads((out / "run.json").read_text())["settings"]["bos"]
    assert resolve_source(str(out), default_registry(), Settings()).llm.family.bos == bos
