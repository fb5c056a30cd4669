"""Idefics3 and SmolVLM as sources and as outputs: transformers' own classes, tiny and random, judge every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, Idefics3Config, Idefics3ForConditionalGeneration
from typer.testing import CliRunner
from vpg_idefics3.adapter import Idefics3VPG
from vpg_idefics3.folder import why_not_whole
from vpg_idefics3.preprocessing import Shrunk, image_processor

from tests.vpg.judging import agree, draw, judge, odd_pictures, write_all
from vpgtrans_core.cli.main import app
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.start.projector import unity, without_bias
from vpgtrans_core.testing.tiny_models import tiny_config, tiny_tokenizer
from vpgtrans_core.vpg.image_token import with_image_token
from vpgtrans_core.weights import Weights

VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
PROJECTOR = "model.connector.modality_projection.proj.weight"


def whole(words, **changes):
    text = tiny_config("llama", words, {"tie_word_embeddings": False, **changes})
    token = with_image_token(words, text.vocab_size, {1, 2})
    config = Idefics3Config(vision_config=VISION, text_config=text.to_dict(), image_token_id=token.id, scale_factor=2)
    model = Idefics3ForConditionalGeneration(config).eval()
    draw(model)
    return model, token


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """An Idefics3 that transformers itself made and wrote."""
    folder = tmp_path_factory.mktemp("idefics3")
    torch.manual_seed(0)
    model, token = whole(tiny_tokenizer(False))
    model.save_pretrained(folder)
    token.tokenizer.save_pretrained(folder)
    image_processor(Shrunk(size=32, longest=128)).save_pretrained(folder)
    return folder


RUNS = {
    "narrower": ("llama", {}),
    "wider": ("qwen2", {"start": "converter"}),
    "after": ("llama", {"bos": "after", "start": "random"}),
}


@pytest.fixture(scope="module")
def written(source, data, targets, tmp_path_factory) -> dict[str, Path]:
    return write_all(RUNS, source, targets, data, tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def judged(written, picture) -> dict:
    return judge("Idefics3ForConditionalGeneration", written, picture)


@pytest.mark.parametrize("name", RUNS)
def test_transformers_alone_gives_our_loss_and_our_captions(name, written, picture, judged):
    agree(written[name], picture, judged[name])


def test_the_folder_is_the_familys(written):
    weights = Weights(written["wider"])
    assert weights.shape(PROJECTOR) == (48, 64) and not any(
        name.endswith("proj.bias") and "connector" in name for name in weights
    )
    config = json.loads((written["wider"] / "config.json").read_text())
    assert config["text_config"]["architectures"] == ["Qwen2ForCausalLM"]


def test_soft_prompts_are_transformers_image_features(source, picture):
    model = Idefics3ForConditionalGeneration.from_pretrained(source).eval()
    vpg = Idefics3VPG.load(source)
    weight, bias = Idefics3VPG.load_projector(source)
    given = image_processor(vpg.preprocessing)(Image.open(picture), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = model.get_image_features(given).pooler_output[0]
        assert torch.allclose(vpg(given[0])[0] @ weight.T + bias, theirs, atol=1e-5)


def test_stage_two_moves_the_last_norm_and_nothing_else(source, written):
    old, new = Idefics3VPG.load(source).state_dict(), Idefics3VPG.load(written["narrower"]).state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"model.vision_model.post_layernorm.weight", "model.vision_model.post_layernorm.bias"}


def test_an_output_is_a_source_again_through_the_command_line(written, targets, data, tmp_path):
    command = ["transfer", "--from", str(written["wider"]), "--to", str(targets["smollm"]), "--data", str(data)]
    short = ["--stage1-steps", "1", "--stage2-steps", "1", "--batch-size", "6", "--val-images", "2", "--workers", "0"]
    result = CliRunner().invoke(app, [*command, *short, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert Weights(tmp_path / "out").shape(PROJECTOR) == (40, 64)


def test_twenty_odd_pictures_are_read_as_by_the_familys_own_processor():
    for picture in odd_pictures():
        for preprocessing in (Shrunk(size=32, longest=128), Shrunk(size=33, longest=97)):
            ours = normalize(pixels(picture, preprocessing), preprocessing)
            theirs = image_processor(preprocessing)(picture, return_tensors="pt")["pixel_values"][0, 0]
            assert (ours - theirs).abs().max() < 1e-5, picture.size


@pytest.mark.parametrize(
    ("kind", "why"), [("llama", None), ("qwen2", None), ("granite", None), ("phi", "other logits"), ("gemma2", "other")]
)
def test_which_llms_the_class_computes_rightly(kind, why):
    answer = why_not_whole(AutoConfig.for_model(kind))
    assert answer is None if why is None else why in answer


def test_a_bias_in_the_weight_gives_almost_the_same_soft_prompts():
    torch.manual_seed(0)
    outputs = torch.randn(400, 24) * torch.linspace(0.01, 1, 24) + torch.randn(24)
    weight, bias = torch.randn(10, 24), torch.randn(10) * 5
    held, nothing = without_bias((weight, bias), unity(outputs))
    assert not nothing.any()
    gap = (outputs @ held.T - (outputs @ weight.T + bias)).norm() / (bias.norm() * 20)
    assert gap < 0.02


def test_the_plan_counts_no_bias(source, targets):
    result = CliRunner().invoke(app, ["plan", "--from", str(source), "--to", str(targets["llama"]), "--json"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.output)
    assert plan["plan"]["stages"][0]["trained"] == 24 * 64
