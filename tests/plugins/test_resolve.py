"""Names to models: folders, aliases, hub ids, references; and every refusal with its words."""

import json

import pytest

from vpgtrans_core.errors import ModelError, UnsafeInput, VpgtError
from vpgtrans_core.models.hub import wanted_files
from vpgtrans_core.models.resolve import resolve_reference, resolve_source, resolve_target
from vpgtrans_core.models.sizes import card_config
from vpgtrans_core.registry import load_registry
from vpgtrans_core.settings import Settings

OPT = {"model_type": "opt", "hidden_size": 16, "vocab_size": 99, "architectures": ["OPTForCausalLM"]}
BLIP2 = {"model_type": "blip-2", "vision_config": {}, "qformer_config": {}, "text_config": OPT}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return load_registry((), {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("none"))})


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that refuses connections, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def folder(path, config, weights="model.safetensors"):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if weights:
        (path / weights).write_bytes(b"")
    return str(path)


def refusal(resolve, name, registry, **settings):
    with pytest.raises(VpgtError) as caught:
        resolve(name, registry, Settings(**settings))
    return str(caught.value)


def test_llm_folder_is_a_target(registry, tmp_path):
    target = resolve_target(folder(tmp_path / "llm", OPT), registry, Settings())
    assert (target.family.name, target.plugin, target.embedding_size, target.prefix) == ("opt", "llm_opt", 16, "")


def test_blip2_folder_is_a_source_with_its_llm_inside(registry, tmp_path):
    source = resolve_source(folder(tmp_path / "vl", BLIP2), registry, Settings())
    assert (source.vpg_family.name, source.plugin, source.whole) == ("qformer", "vpg_qformer", True)
    assert (source.llm.prefix, source.llm.embedding_size, source.llm.folder) == ("language_model.", 16, source.folder)


def test_saved_vpg_finds_its_llm_by_reference(registry, tmp_path):
    llm = resolve_target(folder(tmp_path / "llm", OPT), registry, Settings())
    part = tmp_path / "part"
    folder(part, {"model_type": "vpgt-vpg"}, "vpg.safetensors")
    (part / "references.json").write_text(json.dumps({"llm": llm.reference()}))
    source = resolve_source(str(part), registry, Settings())
    assert (source.llm.folder, source.whole) == (llm.folder.resolve(), False)
    inside = resolve_source(folder(tmp_path / "vl", BLIP2), registry, Settings()).llm
    assert resolve_reference(inside.reference(), registry, Settings()).prefix == "language_model."


def test_reference_may_be_relative_to_its_folder(registry, tmp_path):
    folder(tmp_path / "llm", OPT)
    part = tmp_path / "part"
    folder(part, {"model_type": "vpgt-vpg"}, "vpg.safetensors")
    (part / "references.json").write_text(json.dumps({"llm": {"folder": "../llm"}}))
    assert resolve_source(str(part), registry, Settings()).llm.embedding_size == 16


def test_lost_reference_says_where_to_correct_it(registry, tmp_path):
    part = tmp_path / "part"
    folder(part, {"model_type": "vpgt-vpg"}, "vpg.safetensors")
    (part / "references.json").write_text(json.dumps({"llm": {"folder": "/gone"}}))
    assert "correct its 'folder' in" in refusal(resolve_source, str(part), registry)


def test_plugin_before_a_folder_chooses_the_plugin(registry, tmp_path):
    target = resolve_target("llm_opt:" + folder(tmp_path / "llm", OPT), registry, Settings())
    assert target.plugin == "llm_opt"


def test_alias_of_an_llm_means_its_vl_llm_and_cards_plan_without_network(registry, no_hub):
    source = resolve_source("opt-2.7b", registry, Settings(), weights=False)
    assert (source.card.alias, source.from_card, source.folder) == ("blip2-opt-2.7b", True, None)
    assert (source.llm.name, source.llm.embedding_size) == ("opt-2.7b", 2560)
    target = resolve_target("llama-7b", registry, Settings(), weights=False)
    assert (target.from_card, target.embedding_size, target.vocab_size) == (True, 4096, 32000)


def test_cards_become_configs_of_the_right_sizes(registry):
    from transformers import AutoConfig

    for known in registry.llms():
        config = AutoConfig.for_model(**card_config(known.card, known.family))
        assert (config.hidden_size, config.num_attention_heads) == (known.card.hidden_size, known.card.heads)
        assert config.num_hidden_layers == known.card.layers
        width = getattr(config, "ffn_dim", None) or getattr(config, "d_ff", None) or config.intermediate_size
        assert width == known.card.intermediate_size


@pytest.mark.parametrize("offline", [False, True])
def test_hub_without_network_says_what_to_do(registry, no_hub, offline):
    for resolve, name in ((resolve_target, "someone/some-llm"), (resolve_source, "blip2-opt-2.7b")):
        said = refusal(resolve, name, registry, offline=offline)
        assert "cannot get" in said
        assert "hf download" in said
        assert ("--offline forbids asking the hub" in said) == offline


def test_only_one_set_of_weights_is_downloaded():
    both = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.safetensors"]
    assert "model.safetensors" in wanted_files(both)
    assert not any("bin" in pattern for pattern in wanted_files(both))
    assert "pytorch_model.bin" in wanted_files(["config.json", "pytorch_model.bin"])
    assert "model-*.safetensors" in wanted_files(["model.safetensors.index.json", "consolidated.safetensors"])


def test_refused_names(registry, tmp_path):
    assert "did you mean 'opt-2.7b'" in refusal(resolve_target, "opt-2.7", registry)
    assert "vpgt list-models" in refusal(resolve_source, "blib2-opt-2.7b", registry)
    assert "no model was given" in refusal(resolve_target, "", registry)
    assert "the folder ./nothing does not exist" in refusal(resolve_target, "./nothing", registry)
    assert "no known VL-LLM uses it" in refusal(resolve_source, "llama-7b", registry)
    assert "an alias of a VL-LLM" in refusal(resolve_target, "blip2-opt-2.7b", registry)
    (tmp_path / "weights.pth").write_bytes(b"")
    assert "is a file, not a model" in refusal(resolve_source, str(tmp_path / "weights.pth"), registry)


def test_refused_folders(registry, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in refusal(resolve_target, str(tmp_path / "empty"), registry)
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert "PEFT adapter" in refusal(resolve_target, str(tmp_path / "empty"), registry)
    bare = folder(tmp_path / "bare", OPT, weights=None)
    assert "no weights" in refusal(resolve_target, bare, registry)
    assert resolve_target(bare, registry, Settings(), weights=False).embedding_size == 16
    (tmp_path / "bare" / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match="does not hold a json object"):
        resolve_target(bare, registry, Settings(), weights=False)


def test_a_language_model_is_no_source(registry, tmp_path):
    said = refusal(resolve_source, folder(tmp_path / "llm", OPT), registry)
    assert "is not a VL-LLM (model_type 'opt')" in said
    assert "blip2-opt-2.7b" in said


def test_a_vl_llm_of_another_kind_is_no_source(registry, tmp_path):
    said = refusal(resolve_source, folder(tmp_path / "l", {"model_type": "kosmos-2", "vision_config": {}}), registry)
    assert (
        "no plugin supports the VL-LLM" in said and "(model_type 'kosmos-2'; supported: " in said and "blip-2" in said
    )


def test_a_model_that_sees_is_no_target(registry, tmp_path):
    assert "is a VL-LLM" in refusal(resolve_target, folder(tmp_path / "vl", BLIP2), registry)
    other = folder(tmp_path / "l", {"model_type": "kosmos-2", "vision_config": {}})
    assert "a model that already reads images" in refusal(resolve_target, other, registry)


@pytest.mark.parametrize(
    "config",
    [{"model_type": "vit"}, {"model_type": "bert", "architectures": ["BertForMaskedLM"]}, {"hidden_size": 8}],
)
def test_a_model_without_word_embeddings_for_us_is_no_target(registry, tmp_path, config):
    said = refusal(resolve_target, folder(tmp_path / "m", config), registry)
    assert "vpgt cannot feed soft prompts to" in said


def test_an_ordinary_causal_model_needs_no_plugin(registry, tmp_path):
    config = {"model_type": "gpt_neox", "hidden_size": 8, "architectures": ["GPTNeoXForCausalLM"]}
    target = resolve_target(folder(tmp_path / "m", config), registry, Settings())
    assert (target.plugin, target.family.model_types) == (None, ("gpt_neox",))


def test_code_in_a_folder_is_refused_until_it_is_trusted(registry, tmp_path):
    config = {"model_type": "theirs", "auto_map": {"AutoModelForCausalLM": "x.Y"}, "architectures": ["YForCausalLM"]}
    name = folder(tmp_path / "m", config)
    with pytest.raises(UnsafeInput, match="--trust-remote-code"):
        resolve_target(name, registry, Settings())
    trusted = resolve_target(name, registry, Settings(trust_remote_code=True))
    assert trusted.family.adapter.endswith(":AnyCausalLM")
    known = folder(tmp_path / "opt", OPT | {"auto_map": {"AutoModelForCausalLM": "x.Y"}})
    assert resolve_target(known, registry, Settings()).family.name == "opt"  # transformers' own class is used


def test_broken_pretrained_card_is_said(registry, tmp_path, monkeypatch):
    known = registry.source("vpg-mini")
    monkeypatch.setattr(
        type(registry), "source", lambda self, name: type(known)(_gone(known.card), known.family, known.plugin)
    )
    with pytest.raises(ModelError, match="is missing from"):
        resolve_source("vpg-mini", registry, Settings())


def _gone(card):
    import dataclasses

    return dataclasses.replace(card, bundled="vpgtrans_core.miniature:zoo/gone")
