"""``vpgt doctor``: what it looks at, what it says of plugins that are slow, heavy or hang."""

import json
import os

import pytest

from tests import warm
from vpgtrans_core.cli.plugin_probe import probe_plugin
from vpgtrans_core.registry.loading import PluginRecord


def doctor(tmp_path, *arguments, **variables):
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)} | variables
    return warm.vpgt("doctor", *arguments, environment=environment)


def test_doctor_looks_at_everything(tmp_path):
    """What it says of broken plugins is in tests/plugins/test_broken_plugins.py."""
    done = doctor(tmp_path, "--json")
    findings = {f["topic"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {"python", "torch", "transformers", "cores", "here", "plugin llm_opt", "adapters"} <= set(findings)
    assert findings["plugin llm_opt"]["verdict"] == "ok"
    assert "loads in" in findings["plugin llm_opt"]["text"]
    assert "hub" not in findings


def test_doctor_works_when_the_users_config_does_not(tmp_path):
    (tmp_path / "vpgt").mkdir()
    (tmp_path / "vpgt" / "config.yaml").write_text("strict: [")
    done = doctor(tmp_path)
    assert done.returncode == 1
    assert "BAD  plugins: an error in the user's config disables all plugins" in done.stdout


@pytest.mark.parametrize(
    "code, limit, expected",
    [
        ("import time; time.sleep(60)", 0.5, {"timed_out": True}),
        ("while True: pass", 0.5, {"timed_out": True}),
        ("raise SystemExit(3)", 200, {"error": "SystemExit: 3"}),
        ("import os; os._exit(9)", 200, {"error": "the process ended with code 9"}),
        ("import torch", 200, {"heavy": ("torch",)}),
        ("print('noise')", 200, {"error": "", "heavy": ()}),
    ],
)
def test_probe(tmp_path, monkeypatch, code, limit, expected):
    (tmp_path / "probed.py").write_text(code)
    (tmp_path / "torch.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    probe = probe_plugin(PluginRecord("probed", "d", "1", "probed"), limit)
    for name, value in expected.items():
        assert getattr(probe, name) == value
    assert probe.seconds >= (limit if probe.timed_out else 0)
