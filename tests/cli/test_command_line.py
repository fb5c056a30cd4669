"""The command line from outside: start-up, help, errors and exit codes."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "accelerate", "huggingface_hub", "matplotlib", "PIL")
WITHOUT_HEAVY = """
import sys
from vpgtrans_core.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    print("exit", done.code, [m for m in {heavy} if m in sys.modules], file=sys.stderr)
"""
COUNTED = """
import cProfile, pstats, sys
profile = cProfile.Profile()
profile.enable()
from vpgtrans_core.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    profile.disable()
print(pstats.Stats(profile).total_calls, len(sys.modules), file=sys.stderr)
"""


def run(*arguments, code=None, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VPGT_")}
    environment |= {
        "XDG_CONFIG_HOME": "/nonexistent",
        "COLUMNS": "160",
        "NO_COLOR": "1",
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    program = ["-c", code] if code else ["-m", "vpgtrans_core.cli.main"]
    return subprocess.run(
        [sys.executable, *program, *arguments], capture_output=True, text=True, timeout=120, env=environment | variables
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("transfer", "--help"),
        ("list-plugins",),
        ("list-plugins", "--json"),
        ("list-models",),
        ("list-models", "--json"),
        ("new-plugin", "--help"),
    ],
)
def test_no_heavy_library_is_loaded(arguments):
    done = run(*arguments, code=WITHOUT_HEAVY.format(heavy=HEAVY))
    assert done.stderr.splitlines()[-1] == "exit 0 []", done.stderr


@pytest.mark.parametrize("command", ["--help", "list-plugins", "list-models"])
def test_start_up_takes_little_work(command):
    """Counted in modules and in calls of functions: seconds would say how fast this machine is."""
    done = run(command, code=COUNTED)
    calls, modules = map(int, done.stderr.splitlines()[-1].split())
    assert 10_000 < calls < 900_000
    assert 100 < modules < 600


def test_version():
    from vpgtrans_core import __version__

    assert run("--version").stdout == f"vpgt {__version__}\n"


def test_every_setting_has_a_flag():
    import dataclasses

    from vpgtrans_core.settings import Settings

    shown = run("transfer", "--help").stdout
    names = {"source": "from", "target": "to"}
    flags = ["--" + names.get(f.name, f.name).replace("_", "-") for f in dataclasses.fields(Settings)]
    assert [f for f in flags if f"{f} " not in shown and f"{f}," not in shown] == []


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("transfer",), ["--from is missing", "--to is missing", "hint: "]),
        (("transfer", "--from", "opt-2.7", "--to", "opt-6.7b"), ["unknown model 'opt-2.7'", "did you mean 'opt-2.7b'"]),
        (("transfer", "--from", "opt-2.7", "--to", "vicunna-7b"), ["models 'opt-2.7', 'vicunna-7b'", "'vicuna-7b'"]),
        (("transfer", "--from", "opt-2.7b", "--to", "vicunna-7b"), ["error: unknown model 'vicunna-7b'"]),
        (("plan", "--from", "opt-2.7b", "--to", "vicunna-7b"), ["error: unknown model 'vicunna-7b'"]),
        (("transfer", "--from", "a/b", "--to", "opt-2.7b"), ["cannot get a/b from the hub", "hf download"]),
        (("transfer", "--config", "/no/such.yaml"), ["cannot read /no/such.yaml"]),
        (("transfer", "--method", "vpgtran", "--views", "0"), ["did you mean 'vpgtrans'"]),
        (("transfer", "--from", "blip2-opt-2.7b", "--to", "blip2-opt-6.7b", "--dry-run"), ["an alias of a VL-LLM"]),
        (("list-models", "--family", "optt"), ["did you mean 'opt'?"]),
        (("transfr",), ["Did you mean 'transfer'?"]),
    ],
)
def test_wrong_input_is_said_with_exit_code_2(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for text in said:
        assert text in done.stderr


def test_yaml_and_flags_are_merged_and_all_problems_come_at_once(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("from: opt-2.7b\nstage1-lr: fast\nbathc_size: 3\n")
    done = run("transfer", "--config", str(file), "--to", "llama-7b", "--ratios", "0.1,x", "--method", "vpgtran")
    assert done.returncode == 2
    for said in (
        "stage1_lr: must be a number",
        "did you mean 'batch_size'",
        "ratios: must be a number",
        "method: must be",
    ):
        assert said in done.stderr


def test_traceback_only_with_debug():
    wrong = ("transfer", "--from", "opt-2.7", "--to", "x")
    assert "Traceback" not in run(*wrong).stderr
    done = run("--debug", *wrong)
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("hint: ")


def test_plan_without_weights_or_network():
    done = run("transfer", "--from", "opt-2.7b", "--to", "llama-7b", "--start", "converter", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["projector"], plan["converter"]) == ([4096, 768], [4096, 2560])


def test_models_as_json_are_whole_cards():
    listed = json.loads(run("list-models", "--json", "--family", "qformer").stdout)
    assert listed["llms"] == []
    card = next(s for s in listed["sources"] if s["alias"] == "blip2-opt-2.7b")
    assert (card["llm"], card["hub_id"], card["plugin"]) == ("opt-2.7b", "Salesforce/blip2-opt-2.7b", "vpg_qformer")


def test_ctrl_c_ends_with_130():
    code = (
        "import vpgtrans_core.cli.options as o, vpgtrans_core.cli.transfer as t\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "t.settings_from = stop\n"
        "from vpgtrans_core.cli.main import main\nmain(['transfer'])"
    )
    done = run(code=code)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_bug_keeps_its_traceback():
    code = (
        "import vpgtrans_core.cli.transfer as t\n"
        "def fail(*_): raise RuntimeError('bug')\n"
        "t.settings_from = fail\n"
        "from vpgtrans_core.cli.main import main\nmain(['transfer'])"
    )
    done = run(code=code)
    assert done.returncode == 1
    assert "RuntimeError: bug" in done.stderr
