"""Broken plugins, each installed beside a good one: every command works and each is reported rightly."""

import json
import subprocess
import sys

import pytest
from distributions import GOOD, add_distribution, records, vpgt

HOOK = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import *
"""
FAMILY = '[LLMFamily({name!r}, {types!r}, "m:A", (LLMCard({alias!r}, "x/y", 10, 8, 2, 2, 16, 100, "MIT"),))]'


def family(name: str, alias: str, model_type: str) -> str:
    answer = FAMILY.format(name=name, types=(model_type,), alias=alias)
    return HOOK + f"\n@hookimpl\ndef vpgt_llm_families():\n    return {answer}\n"


BROKEN = {
    "import_error": (
        "import no_such_library\n",
        "broken",
        "import",
        "ModuleNotFoundError: No module named 'no_such_library'",
    ),
    "syntax_error": ("def broken(:\n", "broken", "import", "SyntaxError"),
    "exits": ("raise SystemExit(7)\n", "broken", "import", "SystemExit: 7"),
    "old_api": ("VPGT_API = 0\n" + family("old", "old-1b", "old"), "incompatible", "version", "this vpgt has 1"),
    "hook_raises": (
        HOOK + "\n@hookimpl\ndef vpgt_llm_families():\n    raise RuntimeError('no luck')\n",
        "broken",
        "hooks",
        "vpgt_llm_families raised RuntimeError: no luck",
    ),
    "no_list": (
        HOOK + "\n@hookimpl\ndef vpgt_llm_families():\n    return 'opt'\n",
        "broken",
        "hooks",
        "must be a list of LLMFamily, not str",
    ),
    "wrong_item": (
        HOOK + "\n@hookimpl\ndef vpgt_vpg_families():\n    return [{'name': 'x'}]\n",
        "broken",
        "hooks",
        "holds a dict instead of VPGFamily",
    ),
    "wrong_card": (
        HOOK + "\n@hookimpl\ndef vpgt_llm_families():\n    return [LLMFamily('w', 'opt', 'no target', half='int3')]\n",
        "broken",
        "hooks",
        "model_types must be a tuple of str, not 'opt'",
    ),
    "unknown_hook": (
        HOOK + "\n@hookimpl\ndef vpgt_llm_famlies():\n    return []\n",
        "broken",
        "register",
        "unknown hook 'vpgt_llm_famlies'; did you mean 'vpgt_llm_families'",
    ),
    "unknown_argument": (
        HOOK + "\n@hookimpl\ndef vpgt_run_event(event, model):\n    pass\n",
        "broken",
        "register",
        "'model'",
    ),
    "hangs": ("import time\ntime.sleep(600)\n", "broken", "import", "not loaded after 1 s"),
    "stale": (None, "broken", "import", "ModuleNotFoundError: No module named 'stale'"),
    "stale_attribute": ("x = 1\n", "broken", "import", "AttributeError"),
}
WARNED = {
    "same_alias": (
        family("another", "opt-2.7b", "another"),
        "LLM alias 'opt-2.7b' is ambiguous, plugin 'llm_opt' (vpgt",
    ),
    "same_family": (family("t5", "their-t5", "t5"), "llm family 't5' is ambiguous, plugin 'llm_t5' (vpgt"),
    "heavy": ("import torch\n" + family("heavy", "heavy-1b", "heavy"), "imports torch when it is loaded"),
    "prints": (
        "print('hello, world')\n" + family("prints", "prints-1b", "prints"),
        "prints while it is loaded: 'hello",
    ),
    "unmarked": (
        family("unmarked", "unmarked-1b", "unmarked") + "\ndef vpgt_commands():\n    return []\n",
        "vpgt_commands is not marked with @hookimpl",
    ),
    "nothing": ("x = 1\n", "provides nothing"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An environment with everything that is wrong, and one good plugin."""
    root = tmp_path_factory.mktemp("broken")
    add_distribution(root, "good_plugin", GOOD)
    for name, (code, *_) in (BROKEN | WARNED).items():
        add_distribution(root, name, code, target="stale_attribute:gone" if name == "stale_attribute" else "")
    add_distribution(root, "thief", family("thief", "thief-1b", "thief"), entry="llm_opt")
    add_distribution(root, "damaged", "x = 1\n")
    (root / "damaged_dist-1.0.dist-info" / "entry_points.txt").write_text(
        "[vpgt.plugins]\nthis line is no entry point\n"
    )
    (root / "torch.py").write_text("")  # the real one takes seconds in each of these processes
    return root


@pytest.fixture(scope="module")
def found(root):
    return records(root, VPGT_PLUGIN_TIMEOUT="1")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_is_reported(found, name):
    _, status, phase, cause = BROKEN[name]
    record = found[f"{name} ({name}-dist)"]
    assert (record["status"], record["phase"], record["version"]) == (status, phase, "1.0")
    assert cause in record["cause"]
    assert record["provides"] == []


@pytest.mark.parametrize("name", WARNED)
def test_plugin_with_a_fault_works_and_is_warned_of(found, name):
    record = found[f"{name} ({name}-dist)"]
    assert record["status"] == "active"
    assert any(WARNED[name][1] in warning for warning in record["warnings"]), record["warnings"]


def test_wrong_card_names_all_that_is_wrong(found):
    cause = found["wrong_card (wrong_card-dist)"]["cause"]
    assert "adapter must be written as 'package.module:Object'" in cause
    assert "half must be one of float16, bfloat16" in cause


def test_name_of_a_built_in_cannot_be_taken(found):
    assert found["llm_opt (vpgt)"]["status"] == "active"
    thief = found["llm_opt (thief-dist)"]
    assert thief["status"] == "incompatible"
    assert "belongs to plugin 'llm_opt' (vpgt" in thief["cause"]


def test_damaged_metadata_is_reported(found):
    (record,) = [r for key, r in found.items() if key.startswith("damaged")]
    assert (record["status"], record["phase"]) == ("broken", "discover")


def test_the_hang_costs_its_limit_and_no_more(found):
    assert 0.9 < found["hangs (hangs-dist)"]["seconds"] < 5


def test_order_is_fixed(found):
    names = list(found)
    home = [n for n in names if n.endswith("(vpgt)")]
    assert names[: len(home)] == home == sorted(home)
    assert names[len(home) :] == sorted(names[len(home) :])


def test_every_other_command_works(root):
    variables = {"root": root, "VPGT_PLUGIN_TIMEOUT": "1"}
    models = vpgt("list-models", "--json", **variables)
    aliases = [m["alias"] for m in json.loads(models.stdout)["llms"]]
    assert models.returncode == 0
    assert {"good-1b", "opt-2.7b", "llama-7b"} <= set(aliases)
    helped = vpgt("--help", **variables)
    assert helped.returncode == 0
    assert "greet" in helped.stdout
    greeted = vpgt("greet", "--name", "them", **variables)
    assert (greeted.returncode, greeted.stdout) == (0, "hello them\n")
    assert "VPGT_DISABLE_PLUGINS=hangs" in greeted.stderr
    listed = vpgt("list-plugins", **variables)
    assert listed.returncode == 0
    assert "hook_raises: broken at hooks: vpgt_llm_families raised RuntimeError: no luck" in listed.stdout


@pytest.mark.parametrize(
    "target, said",
    [
        ("opt-2.7b", "is provided by plugin 'llm_opt' (vpgt 0.1.0) and plugin 'same_alias' (same_alias-dist 1.0)"),
        ("hook_raises-7b", "might have it"),
    ],
)
def test_a_look_up_names_who_is_to_blame(root, target, said):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from vpgtrans_core.registry import load_registry\n"
            "try: load_registry((), {'VPGT_PLUGIN_TIMEOUT': '1'}).llm_card(sys.argv[2])\n"
            "except Exception as error: print(error)",
            str(root),
            target,
        ],
        capture_output=True,
        text=True,
    )
    assert said in done.stdout


def test_disabled_plugins_are_no_problem_under_strict(root):
    wrong = ",".join([*BROKEN, *WARNED, "thief-dist"])
    done = vpgt("list-models", root=root, VPGT_STRICT="1", VPGT_DISABLE_PLUGINS=wrong)
    assert done.returncode == 3  # metadata that cannot be read names no plugin to disable
    assert "its distribution's metadata cannot be read" in done.stderr
    assert done.stderr.count("  - ") == 1
