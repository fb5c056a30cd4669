"""The Q-Former VPG against transformers' BLIP-2: the same numbers, read from the same folders."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import VPG_CONFIG, blip2, shake
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.errors import ModelError
from vpgtrans_core.weights import Weights, save_tensors, tensor_shapes

PIXELS = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return blip2()


@pytest.fixture(params=["100GB", "20KB"], ids=["single", "sharded"])
def folder(request, model, tmp_path):
    model.save_pretrained(tmp_path / "source", max_shard_size=request.param)
    return tmp_path / "source"


@torch.no_grad()
def test_equals_transformers(model, folder):
    vpg = QFormerVPG.load(folder)
    features = vpg.features(PIXELS)
    output = vpg.prompts(features)
    reference = model.get_image_features(PIXELS, return_dict=True)
    assert features.shape == (3, *vpg.feature_shape) and output.shape == (3, vpg.num_prompts, vpg.output_size)
    torch.testing.assert_close(
        vpg.vision_model.post_layernorm(features), reference.last_hidden_state, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(output, reference.qformer_outputs.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(vpg(PIXELS), output)
    weight, bias = QFormerVPG.load_projector(folder)
    torch.testing.assert_close(
        torch.nn.functional.linear(output, weight, bias), reference.pooler_output, rtol=1e-5, atol=1e-5
    )


def test_reads_half_precision_folders(model, tmp_path):
    blip2().half().save_pretrained(tmp_path)
    vpg = QFormerVPG.load(tmp_path)
    expected = model.qformer.encoder.layer[0].attention.attention.query.weight
    torch.testing.assert_close(
        vpg.qformer.encoder.layer[0].attention.attention.query.weight, expected, rtol=1e-3, atol=1e-3
    )
    assert vpg(PIXELS).dtype == torch.float32


def test_what_trains_is_all_but_the_vit(folder):
    names = [name for name, _ in QFormerVPG.load(folder).trained()]
    assert "query_tokens" in names and "vision_model.post_layernorm.bias" in names
    assert all(n.startswith(("query_tokens", "qformer.", "vision_model.post_layernorm.")) for n in names)


def test_the_last_norm_trains_as_if_it_stood_before_the_qformer():
    """In training its scale and shift are multiplied into the Q-Former's weights; all gradients stay the norm's."""
    vpg = QFormerVPG.from_config(VPG_CONFIG).double()
    shake(vpg)
    vpg.vision_model.post_layernorm.eps = 1e-2  # not some default's
    features = torch.randn(3, 5, 24, dtype=torch.float64)
    for _, parameter in vpg.trained():
        parameter.requires_grad_(True)
    weight = torch.randn(32, dtype=torch.float64)

    def gradients(output):
        vpg.zero_grad()
        (output.double() @ weight).sum().backward()
        return {name: p.grad.clone() for name, p in vpg.trained() if p.grad is not None}

    read: list[bool] = []
    reader = vpg.qformer.encoder.layer[0].crossattention.attention.key
    reader.register_forward_hook(lambda _, inputs, output: read.append(inputs[0].requires_grad))
    found = gradients(vpg.prompts(features))
    queries = vpg.query_tokens.expand(3, -1, -1)
    plain = vpg.qformer(query_embeds=queries, encoder_hidden_states=vpg.vision_model.post_layernorm(features))
    expected = gradients(plain.last_hidden_state)
    assert read == [False, True]  # this is what it saves
    assert found.keys() == expected.keys() and "vision_model.post_layernorm.bias" in found
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():  # a key's bias moves no softmax: its gradient is rounding alone
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-7 * largest), name


@pytest.mark.parametrize("size", [224, 364])
def test_the_cards_sizes_are_those_of_blip2(size):
    from vpg_qformer.cards import SOURCES

    card = next(c for c in SOURCES if c.image_size == size)
    facts = QFormerVPG.describe(card.config)
    assert facts["feature_shape"] == ((size // 14) ** 2 + 1, 1408)
    assert (facts["num_prompts"], facts["output_size"], facts["image_size"]) == (32, 768, size)
    assert 0.98e9 < facts["frozen"] < 1.0e9  # ViT-g of 40 layers less its last
    assert 105e6 < facts["trained"] < 108e6


def test_all_mismatches_are_listed_at_once(folder):
    config = json.loads((folder / "config.json").read_text())
    config["num_query_tokens"] = 5
    config["qformer_config"]["num_hidden_layers"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        QFormerVPG.load(folder)
    text = str(caught.value)
    assert "query_tokens [1, 4, 32] instead of [1, 5, 32]" in text
    assert "unexpected" in text and "qformer.encoder.layer.2" in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, "not a VL-LLM with a Q-Former"),
        ({"model_type": "vpgt-vpg", "vpg_family": "resampler"}, "family 'resampler'"),
        ({"model_type": "vpgt-vpg", "vpg_family": "qformer", "format": 2}, "format 2"),
        ({"model_type": "blip-2", "vision_config": {"hidden_size": 25}}, "no ViT"),
        ({"model_type": "blip-2", "vision_config": {"hidden_size": "wide"}}, "no ViT"),
        ({"model_type": "blip-2", "num_query_tokens": "many"}, "no ViT"),
    ],
)
def test_configs_that_are_no_source(config, said):
    with pytest.raises(ModelError, match=said):
        QFormerVPG.describe(config)


def test_folders_without_config_or_weights(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        QFormerVPG.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(VPG_CONFIG))
    with pytest.raises(ModelError, match="holds no weights"):
        QFormerVPG.load(tmp_path)


def test_nan_weights_are_refused(tmp_path):
    broken = blip2()
    with torch.no_grad():
        broken.qformer.layernorm.bias[3] = float("nan")
    broken.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"qformer\.layernorm\.bias"):
        QFormerVPG.load(tmp_path)


@torch.no_grad()
def test_pretrained_checkpoints_with_a_text_branch(tmp_path):
    """The hub's Blip2ForImageTextRetrieval, from which training from scratch starts: no projector, extra heads."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    config = Blip2Config(**{k: v for k, v in VPG_CONFIG.items() if k != "model_type"})
    config.qformer_config.use_qformer_text_input = True
    model = Blip2ForImageTextRetrieval(config).eval()
    shake(model)
    model.save_pretrained(tmp_path)
    vpg = QFormerVPG.load(tmp_path)
    images = model.vision_model(PIXELS).last_hidden_state
    expected = model.qformer(query_embeds=model.query_tokens.expand(3, -1, -1), encoder_hidden_states=images)
    torch.testing.assert_close(vpg(PIXELS), expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert QFormerVPG.load_projector(tmp_path) is None


def projector(weight, bias):
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


def test_small_vits_are_written_along(folder, tmp_path):
    QFormerVPG.load(folder).save_part(tmp_path / "part", None, references={"vit": {"folder": str(folder)}})
    assert not (tmp_path / "part" / "references.json").exists()
    assert any(name.startswith("vision_model.encoder") for name in tensor_shapes(tmp_path / "part"))


def test_part_folder_that_refers_to_its_vit(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vpg_qformer.part.SMALL", 0)
    vpg, out = QFormerVPG.load(folder), tmp_path / "part"
    shake(vpg.qformer)
    vpg.save_part(out, None, references={"vit": {"folder": str(folder)}})
    assert not any(name.startswith("vision_model.encoder") for name in tensor_shapes(out))
    again = QFormerVPG.load(out)
    assert torch.equal(again(PIXELS), vpg(PIXELS))
    assert QFormerVPG.load_projector(out) is None

    weights = Weights(folder)
    changed = {name: weights.read(name).clone() for name in weights}
    changed["vision_model.embeddings.patch_embedding.bias"] += 1
    for file in folder.glob("model*"):
        file.unlink()
    save_tensors(folder / "model.safetensors", changed)
    with pytest.raises(ModelError, match="is not the one"):
        QFormerVPG.load(out)
    (folder / "model.safetensors").unlink()
    folder.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="does not exist"):
        QFormerVPG.load(out)


def test_the_part_of_a_half_precision_run_keeps_the_sources_vit(folder, tmp_path):
    QFormerVPG.load(folder, dtype=torch.bfloat16).save_part(tmp_path / "part", None, references={})
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(Weights(tmp_path / "part").read(name), Weights(folder).read(name))


def test_the_last_norms_eps_travels(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["post_layernorm_eps"] = 1e-5
    (folder / "config.json").write_text(json.dumps(config))
    vpg = QFormerVPG.load(folder)
    assert vpg.vision_model.post_layernorm.eps == 1e-5
    vpg.save_part(tmp_path / "part", None, references={})
    assert QFormerVPG.load(tmp_path / "part").vision_model.post_layernorm.eps == 1e-5
