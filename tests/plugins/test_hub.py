"""The hub: its outages, gated models, adapters, and the cache that stands in for it."""

import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest

import vpgtrans_core.miniature
from vpgtrans_core.errors import ModelError
from vpgtrans_core.models.hub import Hub, HubUnreachable
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import load_registry
from vpgtrans_core.settings import Settings

ZOO = Path(vpgtrans_core.miniature.__file__).parent / "zoo"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def registry(tmp_path):
    registry = load_registry((), {"XDG_CONFIG_HOME": str(tmp_path / "none")})
    registry.warnings = []
    registry.on_warning = registry.warnings.append
    return registry


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine that gives `hub.answer`, a status with headers and a body, to every question."""
    from huggingface_hub import constants

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = server.answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.cache = tmp_path / "cache"
    yield server
    server.shutdown()
    server.server_close()


def put_in_cache(cache, hub_id="someone/llm"):
    base = cache / f"models--{hub_id.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(SHA)
    shutil.copytree(ZOO / "llama-mini", base / "snapshots" / SHA)
    return base / "snapshots" / SHA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_cache_stands_in_for_a_hub_that_cannot_serve(hub, registry, status):
    hub.answer = (status, {}, b"")
    put_in_cache(hub.cache)
    target = resolve_target("someone/llm", registry, Settings())
    assert (target.folder.name, target.revision, target.hub_id) == (SHA, SHA, "someone/llm")
    assert [str(status) in w and "from the cache" in w for w in registry.warnings] == [True]
    assert resolve_target("someone/llm", registry, Settings(), weights=False).embedding_size == 96
    assert len(registry.warnings) == 1  # the same is told once


@pytest.mark.parametrize("status", [429, 503])
def test_outage_without_the_model_in_the_cache_says_what_to_do(hub, registry, status):
    hub.answer = (status, {}, b"")
    with pytest.raises(HubUnreachable, match=f"the hub answers with HTTP status {status}") as caught:
        resolve_target("someone/llm", registry, Settings())
    assert "hf download" in caught.value.hint


def test_cut_download_in_the_cache_is_not_taken_for_the_model(hub, registry):
    hub.answer = (503, {}, b"")
    (put_in_cache(hub.cache) / "model.safetensors").unlink()
    with pytest.raises(HubUnreachable, match="503"):
        resolve_target("someone/llm", registry, Settings())
    with pytest.raises(HubUnreachable, match="incomplete"):
        resolve_target("someone/llm", registry, Settings(offline=True))


GATED = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}, b"")


def test_gated_model_of_a_known_card_is_planned_from_it_and_not_run(hub, registry):
    hub.answer = GATED
    target = resolve_target("llama-2-7b", registry, Settings(), weights=False)
    assert (target.from_card, target.embedding_size) == (True, 4096)
    assert "is gated" in registry.warnings[0]
    assert "hf auth login" in registry.warnings[0]
    with pytest.raises(ModelError, match="is gated"):
        resolve_target("llama-2-7b", registry, Settings())
    with pytest.raises(ModelError, match="is gated"):
        resolve_target("someone/unknown-llm", registry, Settings(), weights=False)


def test_plan_of_a_gated_model_says_where_its_sizes_are_from(hub, registry):
    from vpgtrans_core.planning.plan import plan

    hub.answer = GATED
    text = str(plan(Settings(source="opt-mini-s", target="llama-2-7b"), registry=registry))
    assert "sizes from vpgt's own table" in text


def test_other_refusals_of_the_hub_do_not_fall_back(hub, registry):
    hub.answer = (400, {}, b"")
    put_in_cache(hub.cache)
    with pytest.raises(ModelError, match="the hub refuses 'someone/llm'"):
        resolve_target("someone/llm", registry, Settings())


def test_adapter_on_the_hub_is_refused_before_its_weights_are_downloaded(hub):
    names = ["config.json", "model.safetensors", "adapter_config.json"]
    body = json.dumps({"id": "someone/lora", "sha": SHA, "siblings": [{"rfilename": name} for name in names]})
    hub.answer = (200, {"Content-Type": "application/json"}, body.encode())
    for ask in (Hub().folder, Hub().config):
        with pytest.raises(ModelError, match="holds a PEFT adapter") as caught:
            ask("someone/lora")
        assert "merge_and_unload" in caught.value.hint
    assert not list(hub.cache.rglob("*.safetensors"))
