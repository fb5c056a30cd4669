"""LLaVA as a source and as an output: transformers' own classes, tiny and random, judge every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from vpg_llava.adapter import LlavaVPG
from vpg_llava.classes import image_processor
from vpg_llava.preprocessing import CentreCrop, preprocessing_of

from tests.vpg.families import save_llava
from tests.vpg.judging import odd_pictures, run
from vpgtrans_core import Settings
from vpgtrans_core.cli.main import main
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.models.resolve import resolve_source, resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.run import Run
from vpgtrans_core.testing.tiny_models import save_tiny_llm
from vpgtrans_core.weights import Weights

pytest_plugins = ["tests.vpg.shared"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A LLaVA that transformers itself made and wrote."""
    folder = tmp_path_factory.mktemp("llava")
    save_llava(folder)
    return folder


def test_a_folder_that_does_not_state_the_order_of_bos_has_llavas(source):
    assert "bos" not in json.loads((source / "config.json").read_text())
    assert resolve_source(str(source), default_registry(), Settings()).llm.family.bos == "first"


def test_a_narrower_llm_gets_the_units_that_tell_most(source, data, targets, tmp_path):
    record = run(source, targets["llama"], data, tmp_path / "out", stage2_steps=0)
    kept = record["narrowed"]
    assert len(kept["units"]) == 24 and kept["of"] == 32 and kept["lost"] < 0.1
    whole, narrow = LlavaVPG.load(source), LlavaVPG.load(tmp_path / "out")
    assert torch.equal(
        whole.multi_modal_projector["linear_1"].weight[kept["units"]], narrow.multi_modal_projector["linear_1"].weight
    )


def test_a_narrowed_run_resumes_with_the_units_it_began_with(source, data, targets, tmp_path, monkeypatch):
    run(source, targets["llama"], data, tmp_path / "whole")
    train = Run._train_stage

    def stop(self, stage, *rest):
        if stage.number == 2:
            raise RuntimeError("stopped")
        train(self, stage, *rest)

    monkeypatch.setattr(Run, "_train_stage", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        run(source, targets["llama"], data, tmp_path / "out")
    monkeypatch.undo()
    record = run(source, targets["llama"], data, tmp_path / "out", resume=True)
    assert record["status"] == "done" and len(record["narrowed"]["units"]) == 24
    resumed, whole = Weights(tmp_path / "out"), Weights(tmp_path / "whole")
    assert all(torch.equal(resumed.read(name), whole.read(name)) for name in whole)


def test_an_llm_that_the_class_computes_wrongly_is_refused_before_the_run(source, data, tmp_path):
    target = save_tiny_llm(tmp_path / "phi", "phi")
    with pytest.raises(ConfigError, match=r"cannot be written with .*phi: the class would compute other logits"):
        run(source, target, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(source, target, data, tmp_path / "out", save="vpg")["status"] == "done"


def test_a_wide_folder_is_a_source_again(source, data, targets, tmp_path):
    run(source, targets["qwen2"], data, tmp_path / "first")
    stored = Weights(tmp_path / "first")
    assert stored.shape("multi_modal_projector.linear_1.weight") == (48, 16)
    assert LlavaVPG.load(tmp_path / "first").output_size == 32
    record = run(tmp_path / "first", targets["smollm"], data, tmp_path / "second")
    assert record["status"] == "done" and "narrowed" not in record


def test_a_siglip_processor_that_does_not_speak_of_crops_makes_none(tmp_path):
    SiglipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    assert "do_center_crop" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert type(preprocessing_of(tmp_path, 28)) is Preprocessing


def test_twenty_odd_pictures_are_read_as_by_the_familys_own_processor():
    for picture in odd_pictures():
        for preprocessing in (CentreCrop(size=28), CentreCrop(size=33)):
            ours = normalize(pixels(picture, preprocessing), preprocessing)
            theirs = image_processor(preprocessing)(picture, return_tensors="pt")["pixel_values"][0]
            assert (ours - theirs).abs().max() < 1e-5, picture.size


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3_text", "olmo2", "qwen3_5_text"])
def test_llms_that_the_class_computes_rightly(kind):
    assert LlavaVPG.why_not_whole(AutoConfig.for_model(kind)) is None


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("granite", {"logits_scaling": 8.0, "embedding_multiplier": 3.0}), ("cohere2", {"logit_scale": 0.1})],
)
def test_a_factor_on_the_logits_is_written_into_the_head(kind, changes):
    assert LlavaVPG.why_not_whole(AutoConfig.for_model(kind, **changes)) is None


@pytest.mark.parametrize(
    ("kind", "why"), [("phi", "other logits"), ("gemma2", "other logits"), ("t5", "encoder"), ("mamba", "fails")]
)
def test_llms_that_the_class_computes_wrongly_are_refused(kind, why):
    assert why in (LlavaVPG.why_not_whole(AutoConfig.for_model(kind)) or "")


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "mllama", "gemma3", "paligemma", "phi4_multimodal"])
def test_vl_llms_that_cannot_be_carried_are_refused_with_the_reason(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "vision_config": {}}))
    for resolve, role in ((resolve_target, "a target"), (resolve_source, "a source")):
        with pytest.raises(ModelError, match=f"cannot be {role}: its"):
            resolve(str(tmp_path), default_registry(), Settings(), weights=False)


def test_export_makes_the_saved_part_whole(source, data, targets, tmp_path):
    """`vpgt export` writes through the core what a run with --save model would have written."""
    run(source, targets["qwen2"], data, tmp_path / "part", save="vpg")
    run(source, targets["qwen2"], data, tmp_path / "whole")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "part"), "--to", "hf", "--out", str(tmp_path / "made")])
    assert not ended.value.code
    made, whole = Weights(tmp_path / "made"), Weights(tmp_path / "whole")
    assert set(made) == set(whole)
    assert all(torch.equal(made.read(name), whole.read(name)) for name in whole)
