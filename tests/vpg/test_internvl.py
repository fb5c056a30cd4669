"""InternVL as a source and as an output: transformers' own classes, tiny and random, judge every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from typer.testing import CliRunner
from vpg_internvl.adapter import InternVLVPG
from vpg_internvl.cards import SOURCES
from vpg_internvl.classes import image_processor
from vpg_internvl.preprocessing import MEAN, STD, preprocessing_of

from tests.vpg.families import save_internvl
from tests.vpg.judging import odd_pictures
from vpgtrans_core.cli.main import app
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.data.preprocessing import Preprocessing

pytest_plugins = ["tests.vpg.shared"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """An InternVL that transformers itself made and wrote."""
    folder = tmp_path_factory.mktemp("internvl")
    save_internvl(folder)
    return folder


@pytest.mark.parametrize("changes", [{}, {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": True}])
def test_soft_prompts_are_transformers_image_features(changes, picture, tmp_path):
    source = tmp_path
    save_internvl(source, kind="llama", **changes)
    model = InternVLForConditionalGeneration.from_pretrained(source).eval()
    vpg = InternVLVPG.load(source)
    weight, bias = InternVLVPG.load_projector(source)
    own = GotOcr2ImageProcessorPil.from_pretrained(source)
    given = own(Image.open(picture).convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = model.model.get_image_features(given).pooler_output
        assert torch.allclose(vpg(given) @ weight.T + bias, theirs, atol=1e-5)


def test_the_plan_of_a_folder(source, targets):
    """The width of the MLP's hidden layer is known from the source's LLM alone."""
    result = CliRunner().invoke(app, ["plan", "--from", str(source), "--to", str(targets["llama"]), "--json"])
    assert result.exit_code == 0, result.output
    vpg = json.loads(result.output)["plan"]["vpg"]
    assert (vpg["num_prompts"], vpg["output_size"], vpg["feature_shape"]) == (4, 32, [4, 64])


def test_the_published_sizes():
    sizes = InternVLVPG.describe(SOURCES[0].config)
    assert (sizes["num_prompts"], sizes["image_size"], sizes["feature_shape"]) == (256, 448, (256, 4096))
    assert 303e6 < sizes["frozen"] < 306e6


def test_twenty_odd_pictures_are_read_as_by_the_familys_own_processor(tmp_path):
    for size in (28, 33):
        square = {"height": size, "width": size}
        own = GotOcr2ImageProcessorPil(size=square, image_mean=MEAN, image_std=STD, crop_to_patches=False)
        own.save_pretrained(tmp_path)
        preprocessing = preprocessing_of(tmp_path, size)
        assert preprocessing == Preprocessing(size=size, mean=MEAN, std=STD)
        for picture in odd_pictures():
            ours = normalize(pixels(picture, preprocessing), preprocessing)
            for processor in (own, image_processor(preprocessing)):
                theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
                assert (ours - theirs).abs().max() < 1e-5, picture.size
