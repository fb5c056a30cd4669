"""``vpgt doctor``: what it looks at, what it says of plugins that are slow, heavy or hang."""

import json
import os
import subprocess
import sys

import pytest

from vpgtrans_core.cli.plugin_probe import probe_plugin
from vpgtrans_core.plugin_loading import PluginRecord


def doctor(tmp_path, *arguments, **variables):
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)} | variables
    return subprocess.run(
        [sys.executable, "-m", "vpgtrans_core.cli.main", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )


def add(tmp_path, name, code):
    (tmp_path / f"{name}.py").write_text(code)
    info = tmp_path / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[vpgt.plugins]\n{name} = {name}\n")


def test_doctor_looks_at_everything_and_shows_bad_plugins(tmp_path):
    add(tmp_path, "hanging", "import time; time.sleep(600)")
    add(tmp_path, "crashing", "1 / 0")
    done = doctor(tmp_path, "--json", VPGT_PLUGIN_TIMEOUT="1")
    findings = {f["topic"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {"python", "torch", "transformers", "cores", "here", "plugin llm_opt", "adapters"} <= set(findings)
    assert findings["plugin llm_opt"]["verdict"] == "ok"
    assert "loads in" in findings["plugin llm_opt"]["text"]
    assert "not loaded after 1 s" in findings["plugin hanging"]["text"]
    assert "ZeroDivisionError" in findings["plugin crashing"]["text"]
    assert findings["plugin crashing"]["verdict"] == "note"
    assert "hub" not in findings


def test_doctor_works_when_the_users_config_does_not(tmp_path):
    (tmp_path / "vpgt").mkdir()
    (tmp_path / "vpgt" / "config.yaml").write_text("strict: [")
    done = doctor(tmp_path)
    assert done.returncode == 1
    assert "BAD  plugins: the user's config stops all of them" in done.stdout


@pytest.mark.parametrize(
    "code, limit, expected",
    [
        ("import time; time.sleep(60)", 0.5, {"timed_out": True}),
        ("while True: pass", 0.5, {"timed_out": True}),
        ("raise SystemExit(3)", 20, {"error": "SystemExit: 3"}),
        ("import os; os._exit(9)", 20, {"error": "the process ended with code 9"}),
        ("import torch", 20, {"heavy": ("torch",)}),
        ("print('noise')", 20, {"error": "", "heavy": ()}),
    ],
)
def test_probe(tmp_path, monkeypatch, code, limit, expected):
    (tmp_path / "probed.py").write_text(code)
    (tmp_path / "torch.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    probe = probe_plugin(PluginRecord("probed", "d", "1", "probed"), limit)
    for name, value in expected.items():
        assert getattr(probe, name) == value
    assert probe.seconds < 10
