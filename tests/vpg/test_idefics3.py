"""Idefics3 and SmolVLM as sources and as outputs: transformers' own classes, tiny and random, judge every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Idefics3ForConditionalGeneration
from typer.testing import CliRunner
from vpg_idefics3.adapter import Idefics3VPG
from vpg_idefics3.classes import image_processor
from vpg_idefics3.preprocessing import Shrunk

from tests.vpg.families import save_idefics3
from tests.vpg.judging import odd_pictures
from vpgtrans_core.cli.main import app
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.start.projector import unity, without_bias

pytest_plugins = ["tests.vpg.shared"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """An Idefics3 that transformers itself made and wrote."""
    folder = tmp_path_factory.mktemp("idefics3")
    save_idefics3(folder)
    return folder


def test_soft_prompts_are_transformers_image_features(source, picture):
    model = Idefics3ForConditionalGeneration.from_pretrained(source).eval()
    vpg = Idefics3VPG.load(source)
    weight, bias = Idefics3VPG.load_projector(source)
    given = image_processor(vpg.preprocessing)(Image.open(picture), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = model.get_image_features(given).pooler_output[0]
        assert torch.allclose(vpg(given[0])[0] @ weight.T + bias, theirs, atol=1e-5)


def test_twenty_odd_pictures_are_read_as_by_the_familys_own_processor():
    for picture in odd_pictures():
        for preprocessing in (Shrunk(size=32, longest=128), Shrunk(size=33, longest=97)):
            ours = normalize(pixels(picture, preprocessing), preprocessing)
            theirs = image_processor(preprocessing)(picture, return_tensors="pt")["pixel_values"][0, 0]
            assert (ours - theirs).abs().max() < 1e-5, picture.size


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
