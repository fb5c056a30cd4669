"""The example of a VPG that is no Q-Former: the kit, LLaVA's own numbers, and transfers between LLMs."""

import json
from pathlib import Path

import pytest
import torch
import vpg_clip_mlp
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration
from vpg_clip_mlp.adapter import ClipMLP

from tests.run import tiny_world
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.registry import load_registry
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.testing import VPGConformance

PIXELS = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))


class TestClipMLP(VPGConformance):
    plugin = "vpg_clip_mlp"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny LLMs, pictures, and a tiny LLaVA around the tiny LLaMA as transformers writes it."""
    root = tmp_path_factory.mktemp("llava")
    for name in ("llama", "opt", "t5"):
        tiny_world.save_llm(root / name, name, seed=len(name))
    tiny_world.save_images(root / "data")
    text = AutoConfig.from_pretrained(root / "llama")
    config = LlavaConfig(vision_config={**vpg_clip_mlp.TINY["vision_config"], "model_type": "clip_vision_model"},
                         text_config=text, image_token_index=text.vocab_size - 1)  # fmt: skip
    torch.manual_seed(4)
    LlavaForConditionalGeneration(config).save_pretrained(root / "llava")
    tiny_world.tokenizer("llama").save_pretrained(root / "llava")
    return root


@torch.no_grad()
def test_it_sees_what_llava_sees(world: Path) -> None:
    llava = LlavaForConditionalGeneration.from_pretrained(world / "llava").eval()
    vpg, (weight, bias) = ClipMLP.load(world / "llava"), ClipMLP.load_projector(world / "llava")
    found = torch.nn.functional.linear(vpg(PIXELS), weight, bias)
    wanted = llava.model.get_image_features(PIXELS, return_dict=True).pooler_output
    torch.testing.assert_close(found, torch.stack(list(wanted)), rtol=1e-5, atol=1e-5)


def own(world: Path) -> str:
    """The source as read by the example: a built-in family has the same model type."""
    return f"vpg_clip_mlp:{world / 'llava'}"


@pytest.mark.parametrize("target", ["opt", "t5"])
def test_transfer_from_llava_to_another_llm(world: Path, tmp_path: Path, target: str) -> None:
    registry = load_registry()
    registry.add(vpg_clip_mlp, "vpg_clip_mlp")
    result = transfer(
        registry=registry, source=own(world), target=str(world / target), out=str(tmp_path / "out"),
        data=[str(world / "data" / "captions.json")], batch_size=12, workers=0, val_images=4, device="cpu",
        warmup_steps=1, stage1_steps=3, stage2_steps=3, augment=False, save="vpg",
    )  # fmt: skip
    assert result.record["status"] == "done" and result.record["start"]
    assert all(s["steps"] == 3 and s["held_out_loss"] > 0 for s in result.record["stages"].values())
    before, after = ClipMLP.load(world / "llava"), ClipMLP.load(result.folder)
    moved = {n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    assert moved == {n for n, _ in after.trained()}
    width = AutoConfig.from_pretrained(world / target).hidden_size
    assert ClipMLP.load_projector(result.folder)[0].shape == (width, after.output_size)
    assert json.loads((result.folder / "references.json").read_text())["llm"]["folder"] == str(world / target)


def test_sizes_of_the_card() -> None:
    facts = ClipMLP.describe(vpg_clip_mlp.SOURCES[0].config)
    assert facts["feature_shape"] == (576, 1024) and facts["num_prompts"] == 576
    assert facts["trained"] == 1024 * 4096 + 4096 and facts["image_size"] == 336


def test_a_whole_model_that_could_not_be_written_is_refused_before_training(world: Path, tmp_path: Path) -> None:
    registry = load_registry()
    registry.add(vpg_clip_mlp, "vpg_clip_mlp")
    with pytest.raises(ConfigError, match="family 'clip_mlp'"):
        transfer(
            registry=registry, source=own(world), target=str(world / "opt"), out=str(tmp_path / "out"),
            data=[str(world / "data" / "captions.json")], device="cpu",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
