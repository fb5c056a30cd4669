"""Wrong input, wherever a person can give it: the command line, the terminal, the page."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from pathlib import Path

import pytest

from tests.chat.test_terminal import ASK, run
from vpgtrans_core.chat.chat import MOST_PICTURES, Chat
from vpgtrans_core.cli.main import main
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings

WAYS = pytest.mark.parametrize("way", [[], ["--web", "--port", "0"]], ids=["terminal", "page"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says, which must be an error of the user's."""
    with pytest.raises(SystemExit) as stopped:
        main(["chat", *arguments])
    told = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2 and "error:" in told and "Traceback" not in told, told
    return told


@pytest.fixture(scope="module")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model that records no template, and whose tokenizer has none."""
    from vpgtrans_core.run.export import export_model

    folder = tmp_path_factory.mktemp("plain") / "model"
    settings = Settings(device="cpu")
    export_model("opt-mini-s", str(folder), to="hf", registry=default_registry(), settings=settings, overwrite=False)
    for path in [*folder.rglob("chat_template*")]:
        path.unlink() if path.is_file() else shutil.rmtree(path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@WAYS
def test_a_model_without_template(way: list[str], without_template: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, str(without_template), *way, "--device", "cpu")
    assert "the model has no chat template" in told and "--template: alpaca, minigpt4, plain, vicuna" in told


@WAYS
@pytest.mark.parametrize(("name", "cause"), [("own", "has no chat template"), ("nonsense", "unknown template")])
def test_a_template_that_is_none(
    way: list[str], name: str, cause: str, without_template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cause in refused(capsys, str(without_template), "--template", name, *way, "--device", "cpu")


@WAYS
def test_a_model_without_projector(way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "vpg-mini", "--template", "plain", *way, "--device", "cpu")
    assert "vpg-mini is a VPG without a language model" in told and "transfer it to an LLM first" in told


def test_a_page_on_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        told = refused(capsys, "opt-mini-s", "--template", "plain", "--web", "--port", port)
    assert f"port {port} of 127.0.0.1 cannot be used" in told and "--port 0" in told


def test_pictures_on_the_command_line(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"GIF89a")
    plain = ("--template", "plain", "--device", "cpu")
    assert "bad.png cannot be used: no image" in refused(capsys, "opt-mini-s", str(tmp_path / "bad.png"), *plain)
    assert "40 images are too many" in refused(capsys, "opt-mini-s", *[str(picture)] * 40, *plain)
    assert "dropped on the page itself" in refused(capsys, "opt-mini-s", str(picture), "--web", *plain)


def test_in_the_terminal_the_conversation_goes_on(chat: Chat, capsys, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    said = run(
        chat, capsys,
        f"/image {tmp_path / 'bad.png'}", f"/image {' '.join([str(picture)] * 40)}", "", "   ", "what " * 200,
        f"/image {' '.join([str(picture)] * MOST_PICTURES)}", ASK, "/reset", ASK,
    )  # fmt: skip
    for wrong in (
        "bad.png cannot be used: no image",
        "40 images are too many for one question, which may show 16",
        "the language model has 128",
        "(128 for 16 images)",
    ):
        assert wrong in said, said
    assert said.count("error:") == said.count("hint:") == 4
    assert len(chat.past) == 1 and chat.past[0].answer


def test_without_gradio_the_page_names_the_command(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else found(name, *a))
    told = refused(capsys, "opt-mini-s", "--template", "plain", "--web")
    assert "needs Gradio, which is not installed" in told and 'pip install -e ".[web]"' in told


def test_without_its_extra_the_server_names_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is transformers' own, and so is the error."""
    from transformers.cli import serve

    monkeypatch.setattr(serve, "is_serve_available", lambda: False)
    with pytest.raises(ImportError, match="pip install"):
        serve.Serve()
