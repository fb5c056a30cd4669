"""Families as sources and as outputs: transformers' own classes, tiny and random, judge every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig
from typer.testing import CliRunner

from tests.vpg.families import FAMILIES
from tests.vpg.judging import agree, judge_all, run, write_all
from vpgtrans_core import Settings
from vpgtrans_core.cli.main import app
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.registry import default_registry
from vpgtrans_core.weights import Weights

pytest_plugins = ["tests.vpg.shared"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def source(family, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    family.save(folder)
    return folder


@pytest.fixture(scope="module")
def written(family, source, data, targets, tmp_path_factory) -> dict[str, Path]:
    return write_all(family.all_runs, source, targets, data, tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def pictures(picture, tmp_path_factory) -> list[Path]:
    """One of the training's, and one of another shape."""
    wide = tmp_path_factory.mktemp("wide") / "wide.png"
    values = torch.randint(0, 256, (30, 100, 3), generator=torch.Generator().manual_seed(1))
    Image.fromarray(values.to(torch.uint8).numpy()).save(wide)
    return [picture, wide]


def test_transformers_alone_gives_our_loss_and_our_captions(family, written, pictures):
    judged = judge_all(family.adapter.whole.model.__name__, written, pictures)
    for picture, one in zip(pictures, judged, strict=True):
        for name, folder in written.items():
            agree(folder, picture, one[name])
    if not family.settings:
        starts = {name: judged[0][name]["start"] for name in ("narrower", "after")}
        bos, *images = starts["narrower"]
        assert starts["after"] == [*images, bos] and len(set(images)) == 1


def test_the_folder_is_the_familys(family, written):
    config = json.loads((written["wider"] / "config.json").read_text())
    assert config["text_config"]["architectures"] == ["Qwen2ForCausalLM"]
    assert config["architectures"] == [family.adapter.whole.model.__name__]
    assert Weights(written["wider"]).shape(family.projector)[0] == 48
    assert config.get("tiles", False) is bool(family.settings)
    for name, order in (("narrower", "first"), ("after", "after")):
        assert resolve_source(str(written[name]), default_registry(), Settings()).llm.family.bos == order


def test_stage_two_moves_what_it_should_and_nothing_else(family, source, data, targets, tmp_path):
    run(source, targets["qwen2"], data, tmp_path / "out", save="vpg", **family.settings)
    old, new = (family.adapter.load(folder).state_dict() for folder in (source, tmp_path / "out"))
    assert {name for name in old if not torch.equal(old[name], new[name])} == family.moved


def test_an_output_is_a_source_again_through_the_command_line(family, written, targets, data, tmp_path):
    command = ["transfer", "--from", str(written["wider"]), "--to", str(targets["smollm"]), "--data", str(data)]
    short = ["--stage1-steps", "1", "--stage2-steps", "1", "--batch-size", "6", "--val-images", "2", "--workers", "0"]
    result = CliRunner().invoke(app, [*command, *short, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert Weights(tmp_path / "out").shape(family.projector)[0] == 40
    assert json.loads((tmp_path / "out/config.json").read_text()).get("tiles", False) is bool(family.settings)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("llama", None), ("qwen2", None), ("granite", None), ("phi", "other logits"), ("t5", "encoder")],
)
def test_which_llms_the_class_computes_rightly(family, kind, why):
    answer = family.adapter.why_not_whole(AutoConfig.for_model(kind))
    assert answer is None if why is None else why in answer
