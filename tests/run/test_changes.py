"""What may change between a stop and a resume, and what may not: contents are compared, places are not."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.run.test_folder import Told
from tests.run.test_resume import digest, settings, stop
from vpgtrans_core.errors import ConfigError, DataError
from vpgtrans_core.run import identity
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.run.resuming import placeless, recordable
from vpgtrans_core.run.skipped import skipped
from vpgtrans_core.settings import build

pytestmark = pytest.mark.usefixtures("one_thread")


def edit_caption(run: Path) -> None:
    file = run / "data" / "captions.json"
    file.write_text(file.read_text().replace("circle", "ring", 1))


def add_row(run: Path) -> None:
    content = json.loads((run / "data" / "captions.json").read_text())
    content["annotations"].append({"id": 999, "image_id": 0, "caption": "one more"})
    (run / "data" / "captions.json").write_text(json.dumps(content))


def scale_llm(run: Path) -> None:
    weights = load_file(run / "llm" / "model.safetensors")
    save_file({k: v * 1.05 for k, v in weights.items()}, run / "llm" / "model.safetensors", metadata={"format": "pt"})


def edit_tokenizer(run: Path) -> None:
    file = run / "llm" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")


def edit_special_tokens(run: Path) -> None:
    file = run / "llm" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_bos_token": False}))


def edit_seed(run: Path) -> None:
    file = run / "out" / "run.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 7'))


def edit_rate(run: Path) -> None:
    record = json.loads((run / "out" / "run.json").read_text())
    record["settings"]["stage2_lr"] = 0.5
    (run / "out" / "run.json").write_text(json.dumps(record))


CHANGES = [
    (edit_caption, "data: .*captions.json holds other images or captions"),
    (add_row, "24 images with 72 captions before, 24 with 73 now"),
    (scale_llm, "target: changed contents in model.safetensors"),
    (edit_tokenizer, "target: changed contents in tokenizer.json"),
    (edit_special_tokens, "target: changed contents in tokenizer_config.json"),
    (edit_seed, "seed: was 0, is now 7"),
    (edit_rate, "stage2_lr: was 0.0001, is now 0.5"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_what_has_changed_is_refused(run: Path, change, told: str) -> None:
    change(run)
    before = (run / "out" / "run.json").read_bytes()
    with pytest.raises(ConfigError, match=told) as caught:
        transfer(out=str(run / "out"), resume=True)
    assert "--accept-changes" in caught.value.hint
    old, new = json.loads(before), json.loads((run / "out" / "run.json").read_text())
    assert new["data"] == old["data"] and new["target"] == old["target"], "the record tells what the run was begun with"


def test_a_change_is_accepted_when_told_and_recorded(run: Path) -> None:
    edit_caption(run)
    told = Told()
    result = transfer(out=str(run / "out"), resume=True, accept_changes=True, reporter=told)
    (accepted,) = result.record["accepted_changes"]
    assert accepted["changes"][0].startswith("data:") and accepted["at"]
    assert any("continuing with a change: data:" in text for text in told.warnings)
    assert result.record["status"] == "done"


def test_an_accepted_rate_is_the_one_that_is_used(run: Path) -> None:
    """The optimiser's state has the old one."""
    transfer(out=str(run / "out"), resume=True, accept_changes=True, stage2_lr=1e-2)
    lines = [json.loads(line) for line in (run / "out/metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if "lr" in line and line["stage"] == 2]
    assert len(rates) == 4 and max(rates[:2]) <= 1e-4 and min(rates[2:]) > 1e-3


def test_data_and_models_may_move(run: Path, whole: str) -> None:
    (run / "data").rename(run / "elsewhere")
    (run / "llm").rename(run / "llm-moved")
    with pytest.raises(DataError, match=r"the data .* does not exist"):
        transfer(out=str(run / "out"), resume=True, target=str(run / "llm-moved"))
    places = {"data": (str(run / "elsewhere/captions.json"),), "target": str(run / "llm-moved")}
    transfer(out=str(run / "out"), resume=True, **places)
    assert digest(run / "out") == whole


def test_a_run_with_relative_paths_is_resumed_from_elsewhere(world: Path, whole: str, tmp_path: Path) -> None:
    """Its record names places from the root of the file system."""
    here = Path.cwd()
    shutil.copytree(world, tmp_path / "world")
    try:
        os.chdir(tmp_path / "world")
        values = settings(Path("."), Path("out"), source="./source", target="llama")
        stop(values, "step 2.3", signal.SIGKILL).wait()
        os.chdir(tmp_path)
        transfer(out="world/out", resume=True)
    finally:
        os.chdir(here)
    assert digest(tmp_path / "world" / "out") == whole


def test_bounds_and_what_is_saved_may_change(world: Path, run: Path, whole: str) -> None:
    result = transfer(out=str(run / "out"), resume=True, max_bad_ratio=0.5, max_bad_run=3, save="vpg")
    assert result.record["settings"]["max_bad_ratio"] == 0.5
    assert digest(run / "out") == whole


def test_an_older_record_is_compared_as_far_as_it_goes() -> None:
    """Runs of earlier versions noted no hashes of configs, and nothing in their checkpoints."""
    source = {"path": "x", "sha256": "a", "images": 1, "captions": 1, "files": []}
    record = {"data": {"sources": [source]}, "target": {"sha256": {"model.safetensors": "b"}}, "source": {"sha256": {}}}
    models = {name: {**record[name], "config_sha256": {"config.json": "c"}} for name in ("source", "target")}
    now = identity.identity_of({"seed": 0}, record["data"], models)
    assert identity.differences(identity.recorded(record), now) == []
    models["target"]["sha256"] = {"model.safetensors": "other"}
    now = identity.identity_of({"seed": 0}, record["data"], models)
    assert identity.differences(identity.recorded(record), now) == ["target: changed contents in model.safetensors"]


def test_a_shard_of_another_size_is_seen() -> None:
    def of(size: int) -> dict:
        files = [{"name": "0.tar", "bytes": size}, {"name": "captions.json", "bytes": 2 * size}]
        source = {"path": "x", "sha256": "a", "images": 1, "captions": 1, "files": files}
        return identity.identity_of({}, {"sources": [source]}, {})

    assert identity.differences(of(3), of(3)) == []
    assert identity.differences(of(3), of(4)) == ["data: the shards of x have other names or sizes"]


def test_the_whole_model_is_asked_for_before_the_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that refuses to write what it was given, as GenerationConfig does: no step is taken."""
    import vpg_qformer.folder

    def refuse(*_: object) -> None:
        raise ValueError("`temperature` is set without `do_sample`")

    monkeypatch.setattr(vpg_qformer.folder, "generation_config", refuse)
    values = settings(world, tmp_path / "out", save="model", stage1_steps=1, stage2_steps=1)
    with pytest.raises(ConfigError, match=r"cannot be written: ValueError: `temperature`") as caught:
        transfer(**values)
    assert "--save vpg" in caught.value.hint
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    transfer(out=str(tmp_path / "out"), resume=True, save="vpg")
    assert (tmp_path / "out" / "vpg.safetensors").exists()


def test_skipped_samples_are_told_at_the_end(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    (tmp_path / "data" / "images" / "7.png").write_bytes(b"no picture")
    told = Told()
    data = str(tmp_path / "data" / "captions.json")
    values = settings(world, tmp_path / "out", data=[data], val_images=0, max_bad_ratio=0.5)
    result = transfer(**values, reporter=told)
    (line,) = skipped(result.record["data"])
    assert line in told.warnings and line.startswith(f"{data}: 1 sample was skipped: 1 x ")


def test_skipped_samples_are_added_up_by_kind() -> None:
    source = {"path": "a.json", "skipped": {"counts": {"empty caption": 2}}}
    data = {"sources": [source, {"path": "b.json"}], "bad": [{"counts": {"missing file": 3}}, {"counts": {}}]}
    (line,) = skipped(data)
    assert line == "a.json: 5 samples were skipped: 3 x missing file, 2 x empty caption (run.json names them)"


def test_a_missing_file_is_told_once(world: Path, tmp_path: Path) -> None:
    """The listing finds it and training meets it in both stages."""
    shutil.copytree(world / "data", tmp_path / "data")
    next((tmp_path / "data").rglob("*.png")).unlink()
    told = Told()
    values = settings(world, tmp_path / "out", data=[str(tmp_path / "data/captions.json")], max_bad_ratio=0.5)
    transfer(**values, reporter=told)
    (line,) = [text for text in told.warnings if "skipped" in text]
    assert ": 1 sample was skipped: 1 x missing" in line


def test_a_resume_without_the_stage_of_its_checkpoint_keeps_what_was_trained(run: Path) -> None:
    """Nothing is left to train; a blank projector must not be what is written."""
    transfer(out=str(run / "out"), resume=True, stages=(1,), accept_changes=True)
    weights = load_file(run / "out" / "vpg.safetensors")
    assert all(value.abs().sum() > 0 for name, value in weights.items() if name.startswith("language_projection"))


def test_the_data_of_a_stage_is_recorded_from_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    stage = {"name": "more", "trains": ["vpg"], "lr": 1e-4, "steps": 1, "data": ["a.json"]}
    recorded = recordable(build({"stages": [1, stage]}))
    assert recorded["stages"][0] == 1 and recorded["stages"][1]["data"] == (str(tmp_path / "a.json"),)
    assert placeless(recorded["stages"]) == placeless(build({"stages": [1, stage]}).stages)


def test_an_old_name_changes_given_settings(world: Path, tmp_path: Path) -> None:
    given = build({**settings(world, tmp_path / "out"), "stage1_steps": 0, "stage2_steps": 0, "warmup_steps": 3})
    result = transfer(given, warmup_steps=7)
    assert result.record["settings"]["stage2_lr_warmup_steps"] == 7
