"""InternVL as a source and as an output: transformers' own classes, tiny and random, judge every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, InternVLConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from typer.testing import CliRunner
from vpg_internvl.adapter import InternVLVPG
from vpg_internvl.cards import SOURCES
from vpg_internvl.folder import why_not_whole
from vpg_internvl.preprocessing import MEAN, STD, image_processor, preprocessing_of

from tests.vpg.judging import agree, draw, judge, odd_pictures, run, write_all
from vpgtrans_core.cli.main import app
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.testing.tiny_models import tiny_config, tiny_tokenizer
from vpgtrans_core.vpg.image_token import with_image_token
from vpgtrans_core.weights import Weights

VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": (28, 28), "patch_size": (7, 7),
}  # fmt: skip


def save_internvl(folder: Path, kind: str = "qwen2", **changes) -> Path:
    """An InternVL that transformers itself made and wrote, with the family's own image processor."""
    torch.manual_seed(0)
    words = tiny_tokenizer(False)
    text = tiny_config(kind, words, {"tie_word_embeddings": False})
    token = with_image_token(words, text.vocab_size, {1, 2})
    config = InternVLConfig(
        vision_config={**VISION, **changes}, text_config=text.to_dict(), image_token_id=token.id, image_seq_length=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = InternVLForConditionalGeneration(config)
    draw(model)
    model.save_pretrained(folder)
    token.tokenizer.save_pretrained(folder)
    own = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, image_mean=MEAN, image_std=STD)
    own.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return save_internvl(tmp_path_factory.mktemp("internvl"))


RUNS = {
    "narrower": ("llama", {}),
    "wider": ("qwen2", {"start": "converter"}),
    "tied": ("smollm", {"bos": "first", "method": "inherit"}),
    "after": ("llama", {"bos": "after"}),
}


@pytest.fixture(scope="module")
def written(source, data, targets, tmp_path_factory) -> dict[str, Path]:
    return write_all(RUNS, source, targets, data, tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def judged(written, picture) -> dict:
    return judge("InternVLForConditionalGeneration", written, picture)


@pytest.mark.parametrize("name", RUNS)
def test_transformers_alone_gives_our_loss_and_our_captions(name, written, picture, judged):
    agree(written[name], picture, judged[name])


def test_the_folder_is_the_familys(written):
    stored = Weights(written["wider"])
    assert stored.shape("multi_modal_projector.linear_1.weight") == (48, 64)
    assert InternVLVPG.load(written["wider"]).output_size == 32  # the other units are zeros that nothing reads
    config = json.loads((written["wider"] / "config.json").read_text())
    assert config["text_config"]["architectures"] == ["Qwen2ForCausalLM"]
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("changes", [{}, {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": True}])
def test_soft_prompts_are_transformers_image_features(changes, picture, tmp_path):
    source = save_internvl(tmp_path, "llama", **changes)
    model = InternVLForConditionalGeneration.from_pretrained(source).eval()
    vpg = InternVLVPG.load(source)
    weight, bias = InternVLVPG.load_projector(source)
    own = GotOcr2ImageProcessorPil.from_pretrained(source)
    given = own(Image.open(picture).convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = model.model.get_image_features(given).pooler_output
        assert torch.allclose(vpg(given) @ weight.T + bias, theirs, atol=1e-5)


def test_stage_two_moves_the_mlp_and_nothing_else(source, data, targets, tmp_path):
    run(source, targets["qwen2"], data, tmp_path / "out", save="vpg")
    old, new = InternVLVPG.load(source).state_dict(), InternVLVPG.load(tmp_path / "out").state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    parts = ("layer_norm", "linear_1")
    assert moved == {f"multi_modal_projector.{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_an_output_is_a_source_again_through_the_command_line(written, targets, data, tmp_path):
    command = ["transfer", "--from", str(written["wider"]), "--to", str(targets["smollm"]), "--data", str(data)]
    short = ["--stage1-steps", "1", "--stage2-steps", "1", "--batch-size", "6", "--val-images", "2", "--workers", "0"]
    result = CliRunner().invoke(app, [*command, *short, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert Weights(tmp_path / "out").shape("multi_modal_projector.linear_2.weight") == (40, 40)


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


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("llama", None),
        ("qwen2", None),
        ("qwen3", None),
        ("granite", None),
        ("phi", "other logits"),
        ("t5", "encoder"),
    ],
)
def test_which_llms_the_class_computes_rightly(kind, why):
    answer = why_not_whole(AutoConfig.for_model(kind))
    assert answer is None if why is None else why in answer
