"""`vpgt push` through the hub's own client to a stand-in of the hub: what arrives, and what is said when it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.sharing.hub import LARGE, TOKEN, Hub
from vpgtrans_core.cli.main import main
from vpgtrans_core.weights import Weights


def vpgt(capsys, *arguments, code=0) -> str:
    ended = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as done:
        ended = int(done.code or 0)
    said = capsys.readouterr()
    assert ended == code, said.err
    return said.err if code else said.out


def test_every_byte_arrives(finished: Path, hub: Hub, capsys) -> None:
    said = vpgt(capsys, "push", finished, "me/sees", "--private", "--message", "first")
    assert said.splitlines()[-1] == f"{hub.url}/me/sees/commit/{'0' * 40}"
    assert hub.repos == {"me/sees": True} and hub.messages == ["first"]
    arrived = hub.files["me/sees", "main"]
    assert arrived.keys() == {path.name for path in finished.iterdir()} - {"samples.html"}
    same = {name for name, content in arrived.items() if content == (finished / name).read_bytes()}
    assert arrived.keys() - same == {"README.md", "run.json"}
    by_lfs = {name for name, content in arrived.items() if content in hub.large.values()}
    assert "model.safetensors" in by_lfs and "config.json" not in by_lfs
    assert all(len(arrived[name]) >= LARGE for name in by_lfs)


def test_it_comes_back_and_works(finished: Path, hub: Hub, capsys, tmp_path: Path) -> None:
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    vpgt(capsys, "push", finished, "me/sees")
    for name, content in hub.files["me/sees", "main"].items():
        (tmp_path / name).write_bytes(content)
    Blip2Processor.from_pretrained(tmp_path)
    _, report = Blip2ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())


def test_the_card_is_one_that_the_hub_reads(finished: Path, hub: Hub, capsys) -> None:
    vpgt(capsys, "push", finished, "me/sees")
    assert "POST /api/validate-yaml" in hub.asked
    card = ModelCard(hub.files["me/sees", "main"]["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-text-to-text"
    assert "vpgt caption me/sees picture.png" in card.text and 'from_pretrained("me/sees")' in card.text


def test_no_place_on_this_machine_leaves_it(finished: Path, hub: Hub, capsys) -> None:
    places = [str(finished.parent), str(Path(__file__).parents[2]), str(Path.home())]
    assert any(place in (finished / "run.json").read_text() for place in places)
    vpgt(capsys, "push", finished, "me/sees")
    for name, content in hub.files["me/sees", "main"].items():
        assert not [place for place in places if place.encode() in content], name
    record = json.loads(hub.files["me/sees", "main"]["run.json"])
    assert record["settings"]["out"] == "sees" and record["target"]["folder"] == "llama-mini"


def test_a_branch_and_a_second_time(finished: Path, hub: Hub, capsys) -> None:
    for _ in range(2):
        vpgt(capsys, "push", finished, "me/sees", "--revision", "try")
    assert hub.files["me/sees", "main"] == {} and "config.json" in hub.files["me/sees", "try"]
    puts = [asked for asked in hub.asked if asked.startswith("PUT")]
    assert len(puts) == len(set(puts)) == len(hub.large)  # the weights are not sent twice
    assert hub.messages == ["Upload sees with vpgt"] * 2


@pytest.mark.parametrize("single_first", [True, False])
def test_nothing_of_an_earlier_model_stays(single_first: bool, finished: Path, hub: Hub, capsys, tmp_path) -> None:
    """A single weight file beside shards, or the reverse, would be loaded in their place."""
    sharded = shutil.copytree(finished, tmp_path / "sharded")
    shard, index = "model-00001-of-00001.safetensors", "model.safetensors.index.json"
    (sharded / "model.safetensors").rename(sharded / shard)
    (sharded / index).write_text(json.dumps({"weight_map": dict.fromkeys(Weights(finished), shard)}))
    first, second = (finished, sharded) if single_first else (sharded, finished)
    vpgt(capsys, "push", first, "me/sees")
    others = {"mine.txt": b"1", "gguf/model.safetensors": b"2"}
    hub.files["me/sees", "main"].update(others)
    vpgt(capsys, "push", second, "me/sees")
    assert (
        hub.files["me/sees", "main"].keys()
        == {path.name for path in second.iterdir()} - {"samples.html"} | others.keys()
    )


def test_private_is_not_asked_in_vain(finished: Path, hub: Hub, capsys) -> None:
    hub.repos["me/sees"], hub.files["me/sees", "main"] = False, {}
    error = vpgt(capsys, "push", finished, "me/sees", "--private", code=2)
    assert "already and public" in error and "--private" in error
    assert not hub.large and not hub.files["me/sees", "main"]


@pytest.mark.parametrize("status", [400, 409, 501])
def test_a_refusal_is_told_from_a_hub_in_trouble(status: int, finished: Path, hub: Hub, capsys) -> None:
    hub.refuse["/commit/"] = status
    error = vpgt(capsys, "push", finished, "me/sees", code=2)
    assert ("broke off" in error and "run it again" in error) == (status >= 500)
    assert ("refuses" in error) == (status < 500) and "still empty" in error


def test_a_name_alone_is_the_users_own(finished: Path, hub: Hub, capsys) -> None:
    vpgt(capsys, "push", finished, "sees")
    assert "vpgt caption me/sees" in hub.files["me/sees", "main"]["README.md"].decode()


def test_dry_run_asks_nobody(finished: Path, hub: Hub, capsys) -> None:
    said = vpgt(capsys, "push", finished, "me/sees", "--dry-run")
    assert not hub.asked
    assert all(path.name in said for path in finished.iterdir()) and "MB" in said


def test_not_logged_in(finished: Path, hub: Hub, capsys, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    error = vpgt(capsys, "push", finished, "me/sees", code=2)
    assert "does not know who you are" in error and "hf auth login" in error
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not know who you are" in vpgt(capsys, "push", finished, "me/sees", code=2)
    assert not hub.repos


@pytest.mark.parametrize("where", ["repos/create", "preupload", "lfs/[0-9a-f]+", "/commit/"])
def test_no_permission(where: str, finished: Path, hub: Hub, capsys) -> None:
    hub.refuse[where] = 403
    error = vpgt(capsys, "push", finished, "acme/sees", code=2)
    assert "you may not write to acme/sees" in error and "token may write" in error
    assert not any(hub.files.values())


@pytest.mark.parametrize("where", ["repos/create", "preupload", "lfs/[0-9a-f]+", "/commit/"])
def test_the_connection_breaks(where: str, finished: Path, hub: Hub, capsys) -> None:
    hub.hang_up = where
    error = vpgt(capsys, "push", finished, "me/sees", code=2)
    assert "broke off" in error and "run it again" in error
    assert not any(hub.files.values())
    hub.hang_up = None
    vpgt(capsys, "push", finished, "me/sees")
    assert "config.json" in hub.files["me/sees", "main"]


def test_the_hub_dies_while_weights_are_sent(finished: Path, hub: Hub, capsys, monkeypatch) -> None:
    answer = hub.answer

    def die(path: str, body: bytes):
        result = answer(path, body)
        if path.endswith("objects/batch"):
            hub.server.socket.close()
        return result

    monkeypatch.setattr(hub, "answer", die)
    hub.hang_up = "^/lfs/"
    error = vpgt(capsys, "push", finished, "me/sees", code=2)
    assert "broke off" in error and not any(hub.files.values())


def test_no_network(finished: Path, hub: Hub, capsys, monkeypatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = vpgt(capsys, "push", finished, "me/sees", code=2)
    assert "broke off" in error and "check the network" in error
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in vpgt(capsys, "push", finished, "me/sees", code=2)


def test_a_card_that_the_hub_refuses(finished: Path, hub: Hub, capsys, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "model")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    error = vpgt(capsys, "push", folder, "me/sees", code=2)
    assert "the hub refuses me/sees" in error and "license is missing" in error


@pytest.mark.parametrize("name", ["a/b/c", "me/a b", "me/--x", "me/model@main", "", "me/x.git"])
def test_names_that_are_none(name: str, finished: Path, hub: Hub, capsys) -> None:
    error = vpgt(capsys, "push", finished, name, code=2)
    assert "is not a valid name on the hub" in error and "organisation/model" in error
    assert not hub.asked


def test_as_a_process_of_its_own(finished: Path, hub: Hub) -> None:
    """HF_ENDPOINT and HF_TOKEN are the hub's client's own, and enough."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "vpgtrans_core.cli.main", "push", str(finished), "me/sees"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert hub.files["me/sees", "main"]["model.safetensors"] == (finished / "model.safetensors").read_bytes()


def test_a_vpg_alone_goes_and_finds_its_llm_again(hub: Hub, capsys, tmp_path: Path) -> None:
    """Its references are by alias here, by id elsewhere; what comes back speaks as what was sent."""
    from vpgtrans_core import Settings, caption, transfer
    from vpgtrans_core.miniature.data import items

    sent = tmp_path / "sent"
    transfer(
        source="opt-mini-s", target="opt-mini-s", out=str(sent), limit=24, val_images=4, device="cpu", workers=0,
        stage1_steps=0, stage2_steps=0, start="converter", save="vpg",
    )  # fmt: skip
    vpgt(capsys, "push", sent, "me/vpg")
    arrived = hub.files["me/vpg", "main"]
    assert not [name for name, content in arrived.items() if str(tmp_path).encode() in content]
    back = tmp_path / "back"
    back.mkdir()
    for name, content in arrived.items():
        (back / name).write_bytes(content)
    picture = items("val", 1)[0].image
    said = [caption(str(folder), [picture], settings=Settings(device="cpu"))[0].text for folder in (sent, back)]
    assert said[0] and said[0] == said[1]
