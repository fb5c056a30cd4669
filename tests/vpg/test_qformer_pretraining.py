"""A Q-Former's pre-training against transformers' BLIP-2 for retrieval, and its vision towers against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import shake
from transformers import (
    AutoModel,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)
from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.pretraining import QFormerPretraining
from vpg_qformer.tower import TowerVPG

from vpgtrans_core.cards import VPGSizes
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.vpg.pretraining import END, PAD, READ

SIZES = VPGSizes(image_size=28, patch_size=14, vision_width=16, vision_layers=1, width=24, layers=2, heads=2, queries=3)
PIXELS = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[5, 9, 7, END], [6, 6, END, PAD], [8, END, PAD, PAD]])
WORDS, LONGEST = 12, 6
BLOCK = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {**BLOCK, "image_size": 32, "patch_size": 8}
TEXT = {**BLOCK, "vocab_size": 50}


def made(*, sizes: VPGSizes = SIZES, trains_vision: bool = True) -> QFormerPretraining:
    torch.manual_seed(0)
    model = QFormerPretraining(QFormerPretraining.configure(sizes), WORDS, LONGEST, trains_vision=trains_vision)
    shake(model)
    model.train_only()
    return model


def test_contrast_equals_transformers():
    model = made()
    own = model.vpg.qformer.config
    config = Blip2Config(
        vision_config=model.vpg.sizes.vision.to_dict(),
        qformer_config=own.to_dict(),
        num_query_tokens=3,
        image_text_hidden_size=24,
    )
    config.image_token_index = None
    reference = Blip2ForImageTextRetrieval(config).eval()
    reference.query_tokens = model.vpg.query_tokens
    for name, part in {
        "vision_model": model.vpg.vision_model,
        "qformer": model.vpg.qformer,
        "embeddings": model.embeddings,
        "vision_projection": model.image_head,
        "text_projection": model.text_head,
    }.items():
        setattr(reference, name, part)
    read = torch.nn.functional.pad(IDS, (1, 0), value=READ)
    with torch.no_grad():
        expected = reference(PIXELS, read, attention_mask=(read != PAD).long()).logits_per_image
        embedded = model.embed(model.features(PIXELS), IDS)
        mine = model.similarities(embedded.images, embedded.texts) / model.sharpness.exp()
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_text_is_written_from_the_image_and_the_tokens_before_and_the_image_is_read_without_the_text():
    model = made()
    features = model.features(PIXELS)
    images = model.vpg.vision_model.post_layernorm(features)
    asked, written = model._ask(images, IDS)
    torch.testing.assert_close(asked, model.vpg.prompts(features))
    other = IDS.clone()
    other[0, 2] = 4  # it is told from the tokens before it, and the next one from it
    asked_again, again = model._ask(images, other)
    torch.testing.assert_close(asked_again, asked)
    torch.testing.assert_close(again[0, :3], written[0, :3])
    assert not torch.allclose(again[0, 3], written[0, 3])
    assert not torch.allclose(model._ask(images.flip(0), IDS)[1][0], written[0])


@torch.no_grad()
def test_what_fills_up_a_row_changes_nothing():
    model = made()
    features = model.features(PIXELS)
    short = model.embed(features, IDS)
    long = model.embed(features, torch.nn.functional.pad(IDS, (0, 2), value=PAD))
    for name in ("images", "texts", "text_loss"):
        torch.testing.assert_close(getattr(long, name), getattr(short, name))


def test_all_is_trained_but_a_tower_that_was_given():
    for trains_vision in (True, False):
        model = made(trains_vision=trains_vision)
        features = model.features(PIXELS) if trains_vision else model.vpg.features(PIXELS)
        embedded = model.embed(features, IDS)
        sims = model.similarities(embedded.images, embedded.texts)
        (torch.nn.functional.cross_entropy(sims, torch.arange(3)) + embedded.text_loss).backward()
        without = {n for n, p in model.named_parameters() if p.grad is None}
        tower = {f"vpg.{name}" for name in model.vpg.frozen_names()}
        assert without == (set() if trains_vision else tower)
        assert set(model.trained()) == {n for n, _ in model.named_parameters()} - without


@torch.no_grad()
def test_the_finished_vpg_computes_the_same_without_the_text_side(tmp_path: Path):
    model = made()
    vpg = model.finished()
    torch.testing.assert_close(vpg(PIXELS), model.vpg.prompts(model.vpg.features(PIXELS)))
    vpg.save_part(tmp_path, None, references={})
    again = QFormerVPG.load(tmp_path)
    torch.testing.assert_close(again(PIXELS), vpg(PIXELS))
    assert QFormerVPG.load_projector(tmp_path) is None
    assert not any("intermediate." in name for name in again.state_dict())
    text_side = {n for n, _ in model.named_parameters()} - {f"vpg.{n}" for n, _ in again.named_parameters()}
    assert len(text_side) > 10


def test_sizes_follow_from_those_that_are_given_and_from_another_model():
    plain = QFormerPretraining.configure(VPGSizes(width=64))
    assert plain["qformer_config"]["hidden_size"] == 64 and plain["qformer_config"]["intermediate_size"] == 256
    like = QFormerPretraining.configure(VPGSizes(queries=5), like=made().vpg.sizes.to_dict() | {"model_type": "blip-2"})
    assert like["num_query_tokens"] == 5 and like["vision_config"]["image_size"] == 28
    assert like["qformer_config"]["num_attention_heads"] == 2
    with pytest.raises(ConfigError) as error:
        QFormerPretraining.configure(VPGSizes(image_size=30, patch_size=14, width=24, heads=5))
    assert len(error.value.problems) == 2 and "patches of 14" in str(error.value) and "5 heads" in str(error.value)


def tower(kind: str, folder: Path) -> Path:
    torch.manual_seed(3)
    model = {
        "clip": lambda: CLIPModel(CLIPConfig(vision_config=SMALL, text_config=TEXT, projection_dim=16)),
        "clip, vision alone": lambda: CLIPVisionModel(CLIPVisionConfig(**SMALL)),
        "siglip": lambda: SiglipModel(SiglipConfig(vision_config=SMALL, text_config=TEXT)),
        "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL)),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**{**SMALL, "mlp_ratio": 2})),
    }[kind]()
    shake(model)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["clip", "clip, vision alone", "siglip", "vit", "dinov2"])
@torch.no_grad()
def test_a_tower_sees_what_it_sees_in_transformers(kind: str, tmp_path: Path):
    folder = tower(kind, tmp_path / "tower")
    config = QFormerPretraining.configure(VPGSizes(width=24), json.loads((folder / "config.json").read_text()))
    model = QFormerPretraining(config, WORDS, LONGEST, trains_vision=False)
    model.read_vision(folder)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    whole = AutoModel.from_pretrained(folder).eval()
    expected = getattr(whole, "vision_model", whole)(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(model.vpg.features(pixels), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape[1:] == model.vpg.feature_shape
    model.finished().save_part(tmp_path / "part", None, references={})
    again = TowerVPG.load_lazily(tmp_path / "part")
    torch.testing.assert_close(again(pixels), model.finished()(pixels), rtol=1e-5, atol=1e-5)


def test_models_without_a_tower_and_sizes_that_a_tower_has_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="no vision tower"):
        QFormerPretraining.configure(VPGSizes(), {"model_type": "opt", "hidden_size": 16})
    folder = tower("vit", tmp_path / "tower")
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(ConfigError, match="image_size: the vision tower has its own"):
        QFormerPretraining.configure(VPGSizes(image_size=64), config)
    model = QFormerPretraining(QFormerPretraining.configure(VPGSizes(), config), WORDS, LONGEST, trains_vision=False)
    torch.save(ViTForImageClassification.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="in pickles"):
        model.read_vision(folder)
