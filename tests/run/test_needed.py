"""The plugins that a finished model needs, in its card; and those that have changed since a run began."""

from __future__ import annotations

from types import SimpleNamespace

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.registry import load_registry
from vpgtrans_core.registry.loading import PluginRecord
from vpgtrans_core.run.card import plain_model_card
from vpgtrans_core.run.identity import changed_plugins
from vpgtrans_core.run.needed import needed_plugins, plugins_text, with_classes

SKETCH = LLMFamily("sketch", ("sketch",), "llm_sketch.adapter:Sketch", classes="llm_sketch.modeling")


def registry(**records: PluginRecord):
    return SimpleNamespace(record=records.__getitem__)


def test_vpgts_own_plugins_are_not_named():
    assert needed_plugins(load_registry(), "vpg_qformer", "llm_opt", None) == []
    assert needed_plugins(load_registry(), "vpg_qformer", None, None) == []


def test_an_installed_plugin_is_named_with_its_version_and_its_classes():
    known = registry(my_eyes=PluginRecord("my_eyes", "my-eyes", "0.3", "my_eyes"),
                     llm_sketch=PluginRecord("llm_sketch", "vpgt-llm-sketch", "1.0", "llm_sketch"))  # fmt: skip
    needs = needed_plugins(known, "my_eyes", "llm_sketch", SKETCH)
    assert needs == [
        {"name": "my_eyes", "get": "pip install my-eyes==0.3", "classes": ""},
        {"name": "llm_sketch", "get": "pip install vpgt-llm-sketch==1.0", "classes": "llm_sketch.modeling"},
    ]
    card = plain_model_card("m", {"architectures": ["x"]}, {}, needs)
    assert "vpgt needs the plugin `my_eyes`: `pip install my-eyes==0.3`." in card
    assert "vpgt and transformers need the plugin `llm_sketch`" in plugins_text(needs, whole=True)
    assert with_classes(needs, "x = 1\n") == "import llm_sketch.modeling  # the language model's classes\nx = 1\n"
    assert with_classes(needs, "") == ""


def test_a_file_is_named_without_its_place():
    record = PluginRecord("mine", "/home/me/mine.py", "sha256:1", "/home/me/mine.py", origin="file")
    (need,) = needed_plugins(registry(mine=record), "mine", None, None)
    assert need["get"] == "vpgt --plugin mine.py ..."


def entry(name: str, version: str, distribution: str = "other", status: str = "active") -> dict[str, str]:
    return {"name": name, "version": version, "distribution": distribution, "status": status}


def test_another_version_of_a_plugin_is_told_and_vpgts_own_are_not():
    before = [entry("mine", "1"), entry("same", "1"), entry("llm_opt", "0.1", "vpgt"), entry("gone", "1"), "damaged"]
    now = [entry("mine", "2"), entry("same", "1"), entry("llm_opt", "0.2", "vpgt"), entry("gone", "2", status="broken")]
    assert changed_plugins(before, now) == ["mine was 1 when the run started, and is 2 now"]
