"""Disable, allow, strict, trace, single files and users' cards: by environment and by the user's config file."""

import json

import pytest
from distributions import GOOD, Distribution, install, records, vpgt

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.registry.switches import read_switches

RAISES = "raise RuntimeError('no')\n"
CARDS = """
[[llm]]
family = "opt"
alias = "my-opt"
hub_id = "me/my-opt"
parameters = 1000
hidden_size = 64
layers = 2
heads = 4
intermediate_size = 256
vocab_size = 300
licence = "mine"
"""

SOURCES = """
source:
- {family: qformer, alias: my-vl, hub_id: me/vl, llm: opt-2.7b, licence: mine, config: {num_query_tokens: 16}}
"""
WRONG = {
    "toml": CARDS.replace('"opt"', '"optt"')
    .replace("layers = 2", "layrs = 2")
    .replace("heads = 4", "heads = 0")
    .replace("parameters = 1000", 'parameters = "many"')
    + '[[source]]\nfamily = "qfomer"\nalias = "my vl"\nhub_id = "a/b"\nlicence = "mine"\n[[llms]]\nx = 1\n',
    "yaml": """
llm:
- {family: optt, alias: a, hub_id: me/x, parameters: many, hidden_size: 8, layrs: 1, heads: 0,
   intermediate_size: 8, vocab_size: 8, licence: mine}
source:
- {family: qfomer, alias: my vl, hub_id: a/b, licence: mine}
llms: []
""",
}


@pytest.fixture
def config(tmp_path):
    """The user's config folder."""
    folder = tmp_path / "vpgt"
    folder.mkdir()
    return folder


@pytest.fixture
def here(good, config):
    """Where commands run: the good plugin is installed, and the user has that config folder."""
    return {"path": [good], "config": config.parent}


def test_disable_and_allow_cover_built_ins(here):
    found = records(**here, VPGT_DISABLE_PLUGINS="llm_t5, good_plugin-dist")
    assert found["llm_t5 (vpgt)"]["status"] == found["good_plugin (good_plugin-dist)"]["status"] == "disabled"
    found = records(**here, VPGT_ALLOW_PLUGINS="good_plugin")
    assert [k for k, r in found.items() if r["status"] == "active"] == ["good_plugin (good_plugin-dist)"]


def test_config_file_says_the_same_and_the_environment_wins(here, config):
    (config / "config.yaml").write_text("disable_plugins: [llm_opt]\n")
    assert records(**here)["llm_opt (vpgt)"]["status"] == "disabled"
    assert records(**here, VPGT_DISABLE_PLUGINS="")["llm_opt (vpgt)"]["status"] == "active"


def test_config_problems_come_all_at_once(config):
    (config / "config.yaml").write_text("disable_plugin: [a]\nstrict: often\nplugin_timeout: -1\n")
    with pytest.raises(ConfigError) as caught:
        read_switches({"XDG_CONFIG_HOME": str(config.parent), "VPGT_TRACE_HOOKS": "maybe"})
    assert len(caught.value.problems) == 4
    assert "did you mean 'disable_plugins'" in str(caught.value)


def test_bad_config_file_is_an_error_and_doctor_reports_it(here, config):
    (config / "config.yaml").write_text("strict: [")
    done = vpgt("list-plugins", **here)
    assert done.returncode == 2
    assert "is not plain yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_strict_has_its_own_exit_code(here, tmp_path):
    assert vpgt("list-models", **here, VPGT_STRICT="1").returncode == 0
    here["path"].append(install(tmp_path / "bad", [Distribution("bad", RAISES)]))
    done = vpgt("list-models", **here, VPGT_STRICT="1")
    assert done.returncode == 3
    assert "RuntimeError: no (bad.py line 1)" in done.stderr
    listed = vpgt("list-plugins", **here, VPGT_STRICT="1")
    assert listed.returncode == 3
    assert "bad: broken at import" in listed.stdout
    assert vpgt("list-models", **here, VPGT_STRICT="1", VPGT_DISABLE_PLUGINS="bad").returncode == 0


def test_trace_shows_the_calls(here):
    done = vpgt("list-models", "--json", **here, VPGT_TRACE_HOOKS="1")
    assert "hook: good_plugin.vpgt_llm_families() -> " in done.stderr
    json.loads(done.stdout)


def test_single_file_plugin(here, tmp_path):
    file = tmp_path / "files" / "my_llm.py"
    file.parent.mkdir()
    file.write_text(GOOD.replace("good-1b", "mine-1b").replace("good_plugin", "my_llm").replace("good", "mine"))
    done = vpgt("--plugin", str(file), "list-models", "--json", **here)
    assert "mine-1b" in [m["alias"] for m in json.loads(done.stdout)["llms"]]
    greeted = vpgt("--plugin", str(file), "my_llm:greet", **here)
    assert greeted.stdout == "hello you\n", greeted.stderr


@pytest.mark.parametrize(
    "name, code, said",
    [
        ("bad.py", RAISES, "RuntimeError: no (bad.py line 1)"),
        ("json.py", GOOD, "a module 'json' already exists"),
        ("not-a-name.py", GOOD, "is not a valid module name"),
        ("missing.py", None, "cannot read"),
    ],
)
def test_a_file_that_is_named_must_work(here, tmp_path, name, code, said):
    file = tmp_path / "files" / name
    file.parent.mkdir()
    if code:
        file.write_text(code)
    done = vpgt("--plugin", str(file), "list-models", **here)
    assert done.returncode == 2
    assert said in done.stderr
    assert vpgt("--plugin", str(file), "list-plugins", **here).returncode == 0


def test_models_as_data_alone(here, config):
    (config / "cards.toml").write_text(CARDS)
    listed = vpgt("list-models", "--json", "--family", "opt", **here)
    mine = [m for m in json.loads(listed.stdout)["llms"] if m["alias"] == "my-opt"]
    assert mine[0]["family"] == "opt"
    assert records(**here)["cards.toml (user's config)"]["provides"] == ["llm my-opt"]


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_wrong_cards_are_named_all_at_once(here, config, suffix):
    (config / f"cards.{suffix}").write_text(WRONG[suffix])
    record = records(**here)[f"cards.{suffix} (user's config)"]
    assert record["status"] == "broken"
    for said in (
        "unknown LLM family 'optt'",
        "did you mean 'opt'",
        "unknown field 'layrs'; did you mean 'layers'?",
        "field 'layers' is missing",
        "heads: must be above 0, not 0",
        "parameters: must be a whole number, not 'many'",
        "unknown table 'llms'; did you mean 'llm'?",
        "source 1 (my vl): unknown VPG family 'qfomer'",
        "alias: must be a name without spaces",
    ):
        assert said in record["cause"]
    assert vpgt("list-models", **here).returncode == 0


def test_both_card_files_are_read_and_told_apart(here, config):
    (config / "cards.toml").write_text(CARDS)
    (config / "cards.yaml").write_text(SOURCES)
    found = records(**here)
    assert found["cards.toml (user's config)"]["provides"] == ["llm my-opt"]
    assert found["cards.yaml (user's config)"]["provides"] == ["source my-vl"]
    off = records(**here, VPGT_DISABLE_PLUGINS="cards.yaml")
    assert off["cards.yaml (user's config)"]["status"] == "disabled"
    assert off["cards.toml (user's config)"]["status"] == "active"


@pytest.mark.slow
def test_another_source_on_an_llm_changes_nothing_for_ours(here, config):
    """``--from opt-2.7b`` is vpgt's own VL-LLM still, and plans compare with the paper's runs still."""
    (config / "cards.yaml").write_text(SOURCES)
    for source in ("opt-2.7b", "my-vl"):
        done = vpgt("plan", "--from", source, "--to", "opt-6.7b", "--offline", **here)
        assert done.returncode == 0, done.stderr
        assert ("blip2-opt-2.7b" in done.stdout) == (source == "opt-2.7b")


def test_same_name_twice_in_yaml_cards_is_ambiguous(here, config):
    (config / "cards.yaml").write_text(
        "llm:\n- {family: opt, alias: opt-2.7b, hub_id: me/x, parameters: 1, hidden_size: 8, layers: 1, heads: 1,"
        " intermediate_size: 8, vocab_size: 8, licence: mine}\n"
    )
    found = records(**here)
    assert any("LLM alias 'opt-2.7b' is ambiguous" in w for w in found["cards.yaml (user's config)"]["warnings"])
    assert any("write 'llm_opt:opt-2.7b'" in w for w in found["llm_opt (vpgt)"]["warnings"])
