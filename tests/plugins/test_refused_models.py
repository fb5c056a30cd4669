"""What people really give: adapters in every form, sizes that no model has, lost plugins, families that two have."""

import json

import pytest

from tests.plugins.test_resolve import BLIP2, OPT, folder, refusal
from vpgtrans_core.errors import ModelError, PluginError
from vpgtrans_core.models.resolve import check_names, resolve_source, resolve_target
from vpgtrans_core.registry import load_registry
from vpgtrans_core.settings import Settings

SECOND = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMFamily

@hookimpl
def vpgt_llm_families():
    return [LLMFamily("second", ("opt",), "second_family:Adapter")]
"""


@pytest.fixture
def registry(nowhere):
    return load_registry((), nowhere)


# Adapters


def _adapter(path, *files):
    for name in files:
        (path / name).write_bytes(b"{}")
    return str(path)


@pytest.mark.parametrize("resolve", [resolve_target, resolve_source])
@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("config", [OPT, BLIP2, None])
def test_adapter_is_refused_with_the_way_to_merge_it(registry, tmp_path, resolve, weights, config):
    path = tmp_path / "lora"
    folder(path, config or {}, weights=None)
    if config is None:
        (path / "config.json").unlink()
    for files in ((weights,), (weights, "adapter_config.json")):
        said = refusal(resolve, _adapter(path, *files), registry)
        assert "holds a PEFT adapter, not a model" in said
        assert "merge_and_unload" in said


@pytest.mark.parametrize("whole", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_adapter_beside_whole_weights_is_refused_and_moving_it_away_helps(registry, tmp_path, whole):
    path = folder(tmp_path / "m", OPT, whole)
    _adapter(tmp_path / "m", "adapter_config.json", "adapter_model.safetensors")
    for weights in (True, False):
        with pytest.raises(ModelError, match="both full weights and a PEFT adapter") as e:
            resolve_target(path, registry, Settings(), weights=weights)
        assert "move adapter_* to another folder" in e.value.hint
    for file in (tmp_path / "m").glob("adapter_*"):
        file.unlink()
    assert resolve_target(path, registry, Settings()).embedding_size == 16


def test_adapter_in_an_inner_folder_is_named(registry, tmp_path):
    (tmp_path / "run" / "checkpoint-10").mkdir(parents=True)
    _adapter(tmp_path / "run" / "checkpoint-10", "adapter_config.json")
    assert "checkpoint-10 holds a PEFT adapter" in refusal(resolve_target, str(tmp_path / "run"), registry)


# Sizes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000"),
        ({"hidden_size": 10**9, "vocab_size": 10**12}, "hidden_size is 1000000000"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"ffn_dim": "many"}, 'ffn_dim is "many"'),
        ({"num_attention_heads": True}, "num_attention_heads is true"),
        ({"intermediate_size": [64, 1.5]}, "intermediate_size is [64, 1.5]"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_built(registry, tmp_path, changes, named):
    said = refusal(resolve_target, folder(tmp_path / "llm", OPT | changes), registry)
    assert named in said
    inner = {**BLIP2, "text_config": OPT | changes}
    assert f"text_config.{named}" in refusal(resolve_source, folder(tmp_path / "vl", inner), registry)


def test_sizes_for_each_layer_and_absent_ones_are_right(registry, tmp_path):
    config = OPT | {"intermediate_size": [64, 128], "num_key_value_heads": None, "num_hidden_layers": 2}
    assert resolve_target(folder(tmp_path / "llm", config), registry, Settings()).embedding_size == 16


def test_vpg_that_refers_to_itself_is_refused(registry, tmp_path):
    part = folder(tmp_path / "part", {"model_type": "vpgt-vpg"}, "vpg.safetensors")
    (tmp_path / "part" / "references.json").write_text(
        json.dumps({"llm": {"folder": part, "prefix": "language_model."}})
    )
    assert "refers to itself" in refusal(resolve_source, part, registry)


# Lost plugins


def _record(path, **plugin):
    plugin = {"name": "my_llm", "distribution": "my-llm", "version": "0.2", "status": "active"} | plugin
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text(json.dumps({"plugins": [plugin]}))


@pytest.mark.parametrize(
    ("plugin", "way"),
    [({}, "install my-llm 0.2"), ({"distribution": "/home/me/my_llm.py", "version": ""}, "give --plugin /home/me/my_")],
)
def test_resumed_run_names_the_lost_plugin_before_a_guess(registry, tmp_path, plugin, way):
    _record(tmp_path / "out", **plugin)
    settings = Settings(out=str(tmp_path / "out"), resume=True)
    with pytest.raises(ModelError) as caught:
        check_names(("opt-2.7x", "opt-2.7b"), registry, settings)
    hint = caught.value.hint
    assert way in hint
    assert hint.index("my_llm") < hint.index("did you mean 'opt-2.7b'")


def test_folder_of_a_lost_plugin_names_it(registry, tmp_path):
    path = folder(tmp_path / "vl", {"model_type": "my-vpg"})
    _record(tmp_path / "vl")
    said = refusal(resolve_source, path, registry)
    assert "the plugin 'my_llm', which is not active here: install my-llm 0.2" in said


def test_prefix_of_a_lost_plugin_is_named(registry):
    assert "the plugin 'my_llm' is not active here" in refusal(resolve_target, "my_llm:opt-9b", registry)


@pytest.mark.parametrize(
    "content", ["[]", '{"plugins": 3}', '{"plugins": [3, {}]}', "{", '{"plugins": [{"name": []}]}']
)
def test_tampered_record_hides_no_refusal(registry, tmp_path, content):
    path = folder(tmp_path / "vl", {"model_type": "my-vpg"})
    (tmp_path / "vl" / "run.json").write_text(content)
    assert "is not a VL-LLM (model_type 'my-vpg')" in refusal(resolve_source, path, registry)


# Ambiguous families


def test_hint_of_an_ambiguous_family_can_be_followed(nowhere, plugin_file, tmp_path):
    registry = load_registry((plugin_file("second_family", SECOND),), nowhere)
    llm, vl = folder(tmp_path / "llm", OPT), folder(tmp_path / "vl", BLIP2)
    part = folder(tmp_path / "part", {"model_type": "vpgt-vpg"}, "vpg.safetensors")
    (tmp_path / "part" / "references.json").write_text(json.dumps({"llm": {"folder": llm}}))
    for resolve, name in ((resolve_target, llm), (resolve_source, vl), (resolve_source, part)):
        with pytest.raises(PluginError, match="model type 'opt' is ambiguous") as caught:
            resolve(name, registry, Settings())
        assert "write llm_opt:MODEL or second_family:MODEL" in caught.value.hint
        for plugin, family in (("llm_opt", "opt"), ("second_family", "second")):
            model = resolve(f"{plugin}:{name}", registry, Settings())
            assert (model.family if resolve is resolve_target else model.llm.family).name == family
    left = load_registry((), {**nowhere, "VPGT_DISABLE_PLUGINS": "llm_opt"})
    assert resolve_target(llm, left, Settings()).plugin is None
    assert any("'second_family:MODEL'" in w for r in registry.records for w in r.warnings)


# Card files


DEEP = "llm: " + "[" * 3000 + "]" * 3000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
CARD = 'hub_id = "x/y"\nparameters = 1\nhidden_size = 1\nlayers = 1\nheads = 1\nintermediate_size = 1\nvocab_size = 1\n'


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("cards.yaml", DEEP, "cannot be used"),
        ("cards.yaml", LAUGHS, "more than 100000 values"),
        ("cards.yaml", "llm: &a [*a]", "nested deeper than"),
        ("cards.yaml", "llm: 2024-99-99", "cannot be used"),
        ("cards.yaml", "? [1, 2]\n: 3", "plain yaml"),
        ("cards.toml", "llm = " + "[" * 3000 + "]" * 3000, "cannot read"),
        ("cards.toml", f'[[llm]]\nfamily = "opt"\nalias = "a\\u001b[2Jb"\nlicence = "x"\n{CARD}', "control characters"),
        ("cards.toml", f'[[llm]]\nfamily = "opt"\nalias = "ab"\nlicence = "\\u202ex"\n{CARD}', "control characters"),
    ],
)
def test_broken_card_file_stops_nothing_and_says_why(tmp_path, name, content, cause):
    (tmp_path / "vpgt").mkdir()
    (tmp_path / "vpgt" / name).write_text(content)
    registry = load_registry((), {"XDG_CONFIG_HOME": str(tmp_path)})
    record = next(r for r in registry.records if r.name == name)
    assert record.status == "broken"
    assert cause in record.cause
    assert len(record.cause) < 2000
    assert "\x1b" not in record.cause
    assert registry.llm_card("opt-2.7b").card.alias == "opt-2.7b"


@pytest.mark.parametrize("content", [DEEP, LAUGHS, "seed: &a [*a]"])
def test_deep_and_aliased_config_is_refused_in_words(tmp_path, content):
    from vpgtrans_core.errors import ConfigError
    from vpgtrans_core.files import read_yaml

    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match="cannot be used"):
        read_yaml(tmp_path / "c.yaml")
