"""The registry inside one process: look-ups, observers, records; and that it loads no torch."""

import subprocess
import sys

import pytest

from vpgtrans_core.cards import RunEvent
from vpgtrans_core.errors import ModelError, PluginError
from vpgtrans_core.registry import load_registry
from vpgtrans_core.registry.card_checks import card_problems
from vpgtrans_core.registry.hooks import DESCRIBING
from vpgtrans_core.registry.loading import HOME
from vpgtrans_core.registry.printable import control_problems

OBSERVER = """
from vpgtrans_core import hookimpl

SEEN = []

@hookimpl
def vpgt_run_event(event):
    SEEN.append(event.kind)
    if event.kind == "step":
        raise ValueError("no disk")
"""
SECOND = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMFamily

@hookimpl
def vpgt_llm_families():
    return [LLMFamily("second", ("opt",), "second_family:Adapter")]
"""


def test_look_ups(nowhere):
    registry = load_registry((), nowhere)
    assert registry.llm_card("OPT-2.7B").card.hub_id == "facebook/opt-2.7b"
    assert registry.llm_card("llm_opt:opt-2.7b") == registry.llm_card("facebook/opt-2.7b")
    assert registry.source("opt-2.7b").card.alias == "blip2-opt-2.7b"
    assert registry.llm_family_of("t5").encoder_decoder
    assert registry.llm_family_of("no_such_type") is None
    assert registry.vpg_family_of("blip-2").name == "qformer"
    assert registry.embedding_access("opt").reader.startswith("llm_opt.")
    assert registry.embedding_access("llama") is None


def test_unknown_name_says_what_is_near_and_how_to_list(nowhere):
    with pytest.raises(ModelError) as caught:
        load_registry((), nowhere).llm_card("opt-2,7b")
    assert "did you mean 'opt-2.7b'" in caught.value.hint
    assert "vpgt list-models" in caught.value.hint


def test_unknown_name_blames_what_is_disabled(nowhere):
    registry = load_registry((), nowhere | {"VPGT_DISABLE_PLUGINS": "llm_opt"})
    with pytest.raises(ModelError) as caught:
        registry.llm_card("opt-2.7b")
    assert "plugin 'llm_opt' (vpgt" in caught.value.hint
    assert "might provide it, but is disabled" in caught.value.hint


def test_ambiguous_model_type_names_both_and_a_plugin_can_be_chosen(nowhere, plugin_file):
    registry = load_registry((plugin_file("second_family", SECOND),), nowhere)
    with pytest.raises(PluginError, match=r"(?s)llm_opt.*second_family"):
        registry.llm_family_of("opt")
    assert registry.llm_family_of("opt", "second_family").name == "second"
    assert registry.llm_family_of("opt", "llm_opt").name == "opt"


def test_observer_that_raises_is_reported_once_and_stops_nothing(nowhere, plugin_file):
    registry = load_registry((plugin_file("observing", OBSERVER),), nowhere)
    said = []
    registry.on_warning = said.append
    for kind in ("run_start", "step", "step", "run_end"):
        registry.emit(RunEvent(kind, "out"))
    assert sys.modules["observing"].SEEN == ["run_start", "step", "step", "run_end"]
    assert len(said) == 1
    assert "ValueError: no disk" in said[0]
    assert any("no disk" in w for w in registry.problems())


def test_observer_that_exits_stops_nothing(nowhere, plugin_file):
    exits = OBSERVER.replace('ValueError("no disk")', "SystemExit(7)")
    registry = load_registry((plugin_file("leaving", exits),), nowhere)
    said = []
    registry.on_warning = said.append
    registry.emit(RunEvent("step", "out"))
    assert "raised SystemExit: 7 at 'step'; the run goes on" in said[0]


def test_a_source_finds_the_llm_of_its_own_distribution(nowhere, plugin_file):
    """Another plugin's model of the same name makes the name ambiguous, not the sources that meant ours."""
    thief = SECOND.replace("import LLMFamily", "import LLMCard, LLMFamily").replace(
        '("opt",), "second_family:Adapter")',
        '("opt",), "a:B", (LLMCard("opt-2.7b", "me/x", 1, 8, 1, 1, 8, 8, "MIT"),))',
    )
    registry = load_registry((plugin_file("thief_of_names", thief),), nowhere)
    with pytest.raises(PluginError, match="ambiguous"):
        registry.llm_card("opt-2.7b")
    assert registry.llm_of(registry.source("blip2-opt-2.7b")).plugin == "llm_opt"


def test_snapshot_identifies_what_ran(nowhere, plugin_file):
    snapshot = load_registry((plugin_file("observing", OBSERVER),), nowhere).snapshot()
    assert {"name": "llm_opt", "distribution": "vpgt", "version": "0.1.0", "status": "active"} in snapshot
    mine = next(p for p in snapshot if p["name"] == "observing")
    assert mine["version"].startswith("sha256:")


def test_loading_all_plugins_loads_no_torch():
    code = (
        "import sys, vpgtrans_core, vpgtrans_core.models.resolve\n"
        "from vpgtrans_core.registry import load_registry\n"
        "r = load_registry(); r.llms(); r.sources()\n"
        "assert not r.problems(), r.problems()\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_our_own_cards_pass_the_checks_of_everybody_s():
    """A command does not check them, to save the import of the validator; this test does."""
    registry = load_registry((), {})
    own = [record.name for record in registry.records if record.distribution == HOME]
    items = [
        item for name in own for hook in DESCRIBING for answer in registry._hooks.call(name, hook) for item in answer
    ]
    assert len(own) >= 5 and len(items) >= 20
    assert [p for item in items for p in card_problems(item) + control_problems(item)] == []
