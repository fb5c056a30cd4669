"""``vpgt check-plugin``: written plugins pass it, broken ones are reported, and what a family cannot do is said."""

from __future__ import annotations

import json
import os

from tests import warm
from tests.testing.test_each_check_can_fail import write
from vpgtrans_core.cli.scaffold import write_plugin

BLOOM = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMFamily

VPGT_CONFORMANCE = {
    "bloom": {
        "unsupported": {
            "packing_changes_nothing": "its positions are slopes over the row",
            "embedding_table_is_what_the_first_block_sees": "a norm stands between",
        }
    }
}

@hookimpl
def vpgt_llm_families():
    return [LLMFamily("bloom", ("bloom",), "vpgtrans_core.llm.any_causal:AnyCausalLM")]
"""


def vpgt(*arguments, folder=None):
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder or "/nonexistent"), "COLUMNS": "200"}
    return warm.vpgt("check-plugin", *arguments, environment=environment)


def test_what_fails_is_said_with_where_to_look(tmp_path):
    done = vpgt(write(tmp_path, 300, "vpg", "CountsWrong", {}))
    assert done.returncode == 1
    assert "failed: broken_vpg_300: description counts right" in done.stdout
    assert "trained is 156, not 7" in done.stdout and "where to look: the adapter's `describe`" in done.stdout
    assert "12 passed, 1 failed, 2 unsupported" in done.stdout


def test_json_of_a_plugin_that_cannot_be_imported(tmp_path):
    path = tmp_path / "wont_import.py"
    path.write_text("import nothing_of_this_name")
    done = vpgt(str(path), "--json")
    (result,) = json.loads(done.stdout)
    assert done.returncode == 1 and result["outcome"] == "failed" and "nothing_of_this_name" in result["reason"]


def test_a_name_that_nothing_has():
    done = vpgt("llm_optt")
    assert done.returncode == 2 and "unknown plugin 'llm_optt'" in done.stderr
    assert "did you mean 'llm_opt'" in done.stderr


def test_a_plugin_that_is_disabled(monkeypatch):
    monkeypatch.setenv("VPGT_DISABLE_PLUGINS", "llm_opt")
    done = vpgt("llm_opt")
    assert done.returncode == 1 and "the plugin is disabled: disabled by the user (llm_opt)" in done.stdout


def test_a_projects_folder_and_one_reason_said_once(tmp_path):
    """A new plugin whose model type nobody knows fails meaningfully; it need not be installed."""
    done = vpgt(str(write_plugin("no-such-type", "llm", tmp_path)))
    assert done.returncode == 1 and "3 passed, 18 failed, 0 unsupported" in done.stdout
    assert done.stdout.count("transformers does not support the model type 'no_such_type'") == 1
    assert "for the same reason: embedding access has its shape, " in done.stdout
    (tmp_path / "no-such-type" / "second").mkdir()
    (tmp_path / "no-such-type" / "second" / "__init__.py").touch()
    done = vpgt(str(tmp_path / "no-such-type"))
    assert done.returncode == 2 and "which package of" in done.stderr


def test_bloom_declares_what_it_cannot_do(tmp_path):
    path = tmp_path / "llm_bloom.py"
    path.write_text(BLOOM)
    done = vpgt(str(path))
    assert "19 passed, 0 failed, 2 unsupported" in done.stdout, done.stdout
    assert "a norm stands between" in done.stdout and done.returncode == 0
