"""Broken plugins, each installed by pip beside a good one: every command works and each is reported rightly."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributions import Distribution, install, records, vpgt

HOOK = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import *
"""
ADAPTER = "vpgtrans_core.llm.decoder:DecoderOnlyLLM"
CARD = 'LLMCard({alias!r}, "x/y", 10, 8, 2, 2, 16, 100, "MIT")'
FAMILY = f"[LLMFamily({{name!r}}, {{types!r}}, {ADAPTER!r}, ({CARD},))]"


LIMIT = "200"
"""Seconds that a plugin may take here: so many that a slow machine makes no plugin slow."""
HANG = """
import signal
assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 200  # the limit is set
signal.raise_signal(signal.SIGALRM)  # and is over
while True:
    pass
"""
"""Code that never ends, whose time is up at once."""


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
        "model_types: must be a tuple, not 'opt'",
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
    "hook_exits": (
        HOOK + "\n@hookimpl\ndef vpgt_commands():\n    raise SystemExit(7)\n",
        "broken",
        "hooks",
        "vpgt_commands raised SystemExit: 7",
    ),
    "hangs": (HANG, "broken", "import", "not loaded after 200 s"),
    "hook_hangs": (
        HOOK + "\n@hookimpl\ndef vpgt_llm_families():" + HANG.replace("\n", "\n    ") + "\n",
        "broken",
        "hooks",
        "vpgt_llm_families gave no answer after 200 s",
    ),
    "stale": ("x = 1\n", "broken", "import", "ModuleNotFoundError: No module named 'stale'"),
    "stale_attribute": ("x = 1\n", "broken", "import", "AttributeError"),
}
ODD = {"stale": {"module": "what_stale_was"}, "stale_attribute": {"target": "stale_attribute:gone"}}
"""Entry points that name what their distribution has no more."""
WARNED = {
    "bad_adapter": (
        family("lost", "lost-1b", "lost").replace(
            "vpgtrans_core.llm.decoder:DecoderOnlyLLM", "bad_adapter.gone:Adapter"
        ),
        "the adapter of lost cannot be loaded: there is no module 'bad_adapter.gone'",
    ),
    "same_alias": (
        family("another", "opt-2.7b", "another"),
        "LLM alias 'opt-2.7b' is ambiguous, because plugin 'llm_opt' (vpgt",
    ),
    "same_family": (family("t5", "their-t5", "t5"), "llm family 't5' is ambiguous, because plugin 'llm_t5' (vpgt"),
    "heavy": ("import torch\n" + family("heavy", "heavy-1b", "heavy"), "imports torch when it is loaded"),
    "heavy_hook": (
        family("heavy_hook", "heavy-2b", "heavy_hook").replace("    return", "    import transformers\n\n    return"),
        "imports transformers when it is asked",
    ),
    "prints": (
        "print('hello, world')\n" + family("prints", "prints-1b", "prints"),
        "prints while it is loaded: 'hello",
    ),
    "unmarked": (
        family("unmarked", "unmarked-1b", "unmarked") + "\ndef vpgt_commands():\n    return []\n",
        "vpgt_commands is not marked with @hookimpl",
    ),
    "prints_in_a_hook": (
        family("chatty", "chatty-1b", "chatty").replace("    return", "    print('thinking')\n    return"),
        "prints while it is asked: 'thinking",
    ),
    "nothing": ("x = 1\n", "provides nothing"),
}
AT_WORK = {
    "bad_observer": HOOK + "\n@hookimpl\ndef vpgt_run_event(event):\n    raise RuntimeError('no disk')\n",
    "bad_command": HOOK + "\n@hookimpl\ndef vpgt_commands():\n    return [Command('break-it', 'bad_command:gone')]\n",
    "slow": "import time\n\ntime.sleep(0.6)\n" + family("slow", "slow-1b", "slow"),
}
"""Nothing is wrong with these until they are used."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory, good):
    """An environment with everything that is wrong, beside one good plugin."""
    wrong = {name: case[0] for name, case in (BROKEN | WARNED).items()} | AT_WORK
    distributions = [Distribution(name, code, **ODD.get(name, {})) for name, code in wrong.items()]
    distributions.append(Distribution("thief", family("thief", "thief-1b", "thief"), entry="llm_opt"))
    return [install(tmp_path_factory.mktemp("broken"), distributions), good]


@pytest.fixture(scope="module")
def light(tmp_path_factory, broken):
    """The same, where heavy libraries are files without contents: the real ones take seconds in each process."""
    folder = tmp_path_factory.mktemp("light")
    for name in ("torch", "transformers"):
        (folder / f"{name}.py").write_text("")
    return [folder, *broken]


@pytest.fixture(scope="module")
def found(light):
    return records(light, VPGT_PLUGIN_TIMEOUT=LIMIT)


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


@pytest.mark.parametrize("name", AT_WORK)
def test_what_is_wrong_only_when_used_is_active(found, name):
    record = found[f"{name} ({name}-dist)"]
    assert (record["status"], record["cause"], record["warnings"]) == ("active", "", [])


def test_wrong_card_names_all_that_is_wrong(found):
    cause = found["wrong_card (wrong_card-dist)"]["cause"]
    assert "adapter: must be written as 'package.module:Object'" in cause
    assert "half: must be one of float16, bfloat16" in cause


def test_name_of_a_built_in_cannot_be_taken(found):
    assert found["llm_opt (vpgt)"]["status"] == "active"
    thief = found["llm_opt (thief-dist)"]
    assert thief["status"] == "incompatible"
    assert "belongs to plugin 'llm_opt' (vpgt" in thief["cause"]


def test_what_hangs_is_stopped_by_the_clock(tmp_path, good):
    """By a real limit, which may be too short for the other plugins on a slow machine."""
    code = HOOK + "\n@hookimpl\ndef vpgt_llm_families():\n    while True:\n        pass\n"
    hanging = [Distribution("sleeps", "import time\ntime.sleep(600)\n"), Distribution("loops", code)]
    found = records([install(tmp_path, hanging), good], VPGT_PLUGIN_TIMEOUT="0.5")
    for name in ("sleeps", "loops"):
        record = found[f"{name} ({name}-dist)"]
        assert record["status"] == "broken" and "after 0.5 s" in record["cause"]
        assert record["seconds"] >= 0.4


def test_order_is_fixed(found):
    names = list(found)
    home = [n for n in names if n.endswith("(vpgt)")]
    assert names[: len(home)] == home == sorted(home)
    assert names[len(home) :] == sorted(names[len(home) :])


@pytest.mark.slow
def test_every_command_shows_its_help(light):
    """Those of vpgt, and those of the good plugins."""
    helped = vpgt("--help", path=light, VPGT_PLUGIN_TIMEOUT=LIMIT)
    assert helped.returncode == 0 and "greet" in helped.stdout
    names = ["transfer", "plan", "caption", "list-models", "list-plugins", "doctor", "cache", "import", "export"]
    names += ["new-plugin", "check-plugin", "greet"]

    def ask(name):
        return name, vpgt(name, "--help", path=light, VPGT_PLUGIN_TIMEOUT=LIMIT).returncode

    with ThreadPoolExecutor(2) as pool:
        assert dict(pool.map(ask, names)) == dict.fromkeys(names, 0)


def test_listings_and_commands_work(light):
    options = {"path": light, "VPGT_PLUGIN_TIMEOUT": LIMIT}
    models = vpgt("list-models", "--json", **options)
    aliases = [m["alias"] for m in json.loads(models.stdout)["llms"]]
    assert models.returncode == 0
    assert {"good-1b", "opt-2.7b", "llama-7b"} <= set(aliases)
    greeted = vpgt("greet", "--name", "them", **options)
    assert (greeted.returncode, greeted.stdout) == (0, "hello them\n")
    assert "VPGT_DISABLE_PLUGINS=hangs" in greeted.stderr and "VPGT_DISABLE_PLUGINS=hook_hangs" in greeted.stderr
    listed = vpgt("list-plugins", **options)
    assert listed.returncode == 0
    assert "hook_raises: broken at hooks: vpgt_llm_families raised RuntimeError: no luck" in listed.stdout
    assert re.search(r"slow: .*\d+\.\d s", listed.stdout)
    lost = vpgt("break-it", **options)
    assert lost.returncode == 2 and "of plugin 'bad_command' cannot be loaded" in lost.stderr


@pytest.mark.slow
def test_doctor_says_what_ails_each(broken):
    """And the time: of a plugin that is slow, and of one that was stopped."""
    done = vpgt("doctor", "--json", path=broken, VPGT_PLUGIN_TIMEOUT=LIMIT)
    assert done.returncode == 0, done.stdout
    said = {f["topic"]: f for f in json.loads(done.stdout)}
    for name, (_, status, _, cause) in BROKEN.items():
        finding = said[f"plugin {name}"]
        assert finding["verdict"] == "note" and status in finding["text"] and cause in finding["text"]
    assert re.search(r"takes \d+\.\d", said["plugin slow"]["text"])
    heavy = said["plugin heavy"]
    assert heavy["verdict"] == "note" and "imports torch" in heavy["text"]
    assert said["adapter bad_adapter.gone:Adapter"]["verdict"] == "note"
    assert said["plugin good_plugin"]["verdict"] == said["plugin llm_llama"]["verdict"] == "ok"


@pytest.mark.slow
def test_a_transfer_runs_and_records_what_ran(broken, tmp_path):
    options = {"path": broken, "VPGT_PLUGIN_TIMEOUT": LIMIT, "VPGT_CACHE": str(tmp_path / "cache")}
    models = ("--from", "opt-mini-s", "--to", "llama-mini")
    planned = vpgt("plan", *models, **options)
    assert planned.returncode == 0, planned.stderr
    short = ("--limit", "60", "--stage1-steps", "1", "--stage2-steps", "1", "--batch-size", "24", "--device", "cpu")
    done = vpgt("transfer", *models, *short, "--out", str(tmp_path / "out"), **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("raised RuntimeError: no disk at 'run_start'; the run goes on") == 1
    ran = json.loads((tmp_path / "out" / "run.json").read_text())["plugins"]
    statuses = {f"{p['name']} ({p['distribution']} {p['version']})": p["status"] for p in ran}
    assert statuses["llm_opt (vpgt 0.1.0)"] == statuses["good_plugin (good_plugin-dist 1.0)"] == "active"
    assert {name: statuses[f"{name} ({name}-dist 1.0)"] for name in BROKEN} == {n: c[1] for n, c in BROKEN.items()}


@pytest.mark.parametrize(
    "target, said",
    [
        ("opt-2.7b", "plugin 'llm_opt' (vpgt 0.1.0) and plugin 'same_alias' (same_alias-dist 1.0) provide it"),
        ("hook_raises-7b", "might provide it"),
    ],
)
def test_a_look_up_names_who_is_to_blame(broken, target, said):
    done = vpgt("plan", "--from", "opt-mini-s", "--to", target, path=broken, VPGT_PLUGIN_TIMEOUT=LIMIT)
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize("name", [*BROKEN, *WARNED])
def test_each_has_the_strict_switchs_exit_code(light, name):
    """With all other broken plugins disabled; and with this one, too, nothing is wrong."""
    others = ",".join({*BROKEN, *WARNED, "thief-dist"} - {name})
    done = vpgt("list-models", path=light, VPGT_STRICT="1", VPGT_DISABLE_PLUGINS=others, VPGT_PLUGIN_TIMEOUT=LIMIT)
    assert done.returncode == 3
    assert done.stderr.startswith(("error: VPGT_STRICT is on", "warning:"))
    blamed = [line for line in done.stderr.splitlines() if line.startswith("  - ")]
    assert any(f"plugin {name!r} ({name}-dist 1.0)" in line for line in blamed), done.stderr


def test_disabled_plugins_are_no_problem_under_strict(light):
    wrong = ",".join([*BROKEN, *WARNED, "thief-dist"])
    assert vpgt("list-models", path=light, VPGT_STRICT="1", VPGT_DISABLE_PLUGINS=wrong).returncode == 0


def test_damaged_metadata_is_reported(good, tmp_path):
    """pip installs no such thing; a crash or an editor leaves it behind."""
    info = tmp_path / "damaged_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vpgt.plugins]\nthis line is no entry point\n")
    path = [tmp_path, good]
    (record,) = [r for key, r in records(path).items() if key.startswith("damaged")]
    assert (record["status"], record["phase"]) == ("broken", "discover")
    done = vpgt("list-models", path=path, VPGT_STRICT="1")
    assert done.returncode == 3 and "the metadata of its distribution cannot be read" in done.stderr
    assert vpgt("greet", path=path).stdout == "hello you\n"
