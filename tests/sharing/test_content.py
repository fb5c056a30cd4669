"""What goes to others and what stays, what is refused, and that no place on this machine goes along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from vpgtrans_core.errors import ModelError, UnsafeInput
from vpgtrans_core.run.card import plain_model_card, write_model_card
from vpgtrans_core.sharing.content import model_content
from vpgtrans_core.sharing.places import Places
from vpgtrans_core.weights import save_tensors

ID = {"id": "facebook/opt-125m", "revision": "27dcfa74d334bc871f3234de431e71c6eeba5dd6", "sha256": {"a": "b"}}


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "sees")


def part(folder: Path, **references) -> Path:
    """A VPG's folder that refers to its LLM and ViT."""
    folder.mkdir()
    save_tensors(folder / "vpg.safetensors", {"query_tokens": torch.zeros(1, 2, 3)})
    (folder / "config.json").write_text(json.dumps({"model_type": "vpgt-vpg"}))
    (folder / "references.json").write_text(json.dumps(references))
    return folder


def test_what_is_not_the_models_stays(folder: Path) -> None:
    for name in ("checkpoints/step-1/model.safetensors", ".hidden.json", "c.pth", "notes.txt", "pytorch_model.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "LICENSE").write_text("mine")
    content = model_content(folder, "me/sees")
    assert content.aside == [".hidden.json", "c.pth", "checkpoints", "notes.txt", "pytorch_model.bin", "samples.html"]
    assert {"LICENSE", "metrics.jsonl", "run.json", "loss.png"} <= content.files.keys()
    assert content.total == sum(content.size(name) for name in content.files)
    assert (folder / "run.json").read_text() != content.files["run.json"]  # ours is left as it was


def test_folders_that_are_not_whole(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        model_content(tmp_path / "gone", "me/x")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(UnsafeInput, match=r"model\.safetensors"):
        model_content(folder, "me/x")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        model_content(folder, "me/x")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="is not whole") as caught:
        model_content(folder, "me/x")
    assert "--resume" in caught.value.hint


def test_pickles_are_not_passed_on(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles") as caught:
        model_content(folder, "me/x")
    assert "vpgt export" in caught.value.hint


def test_references_go_by_id(tmp_path: Path) -> None:
    bundled = {"alias": "llama-mini", "folder": "/x/llama-mini", "name": "/x/y"}
    made = part(tmp_path / "vpg", llm=ID | {"folder": "/home/someone/opt"}, vit=bundled, pretrained="vpg-mini")
    sent = json.loads(model_content(made, "me/vpg").files["references.json"])
    assert sent["llm"] == ID | {"folder": None} and sent["pretrained"] == "vpg-mini"
    assert sent["vit"] == {"alias": "llama-mini", "folder": None, "name": "y"}


def test_references_that_nobody_else_can_follow(tmp_path: Path) -> None:
    made = part(tmp_path / "vpg", llm={"folder": "/models/opt", "id": None}, vit={"folder": "../vit"})
    with pytest.raises(ModelError) as caught:
        model_content(made, "me/vpg")
    assert "the language model in /models/opt and the ViT in ../vit" in caught.value.message
    assert "--to hf" in caught.value.hint


def test_a_model_without_card_gets_one(tmp_path: Path) -> None:
    content = model_content(part(tmp_path / "vpg", llm=ID), "me/vpg")
    card = ModelCard(content.files["README.md"].decode())
    assert card.data.base_model == ["facebook/opt-125m"] and card.data.library_name == "vpgt"
    assert card.data.license == "other" and "vpgt caption me/vpg" in card.text


def test_a_front_matter_that_is_no_yaml(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: MIT (hub card); the OPT inside: research\n---\n")
    with pytest.raises(ModelError, match="front matter") as caught:
        model_content(folder, "me/x")
    assert "mend the lines" in caught.value.hint


@pytest.mark.parametrize(
    ("licences", "known"),
    [
        (("Apache-2.0", "Apache-2.0"), "apache-2.0"),
        (("Apache-2.0", "MIT (hub card); the OPT inside: Meta's"), "other"),
        ((None, "x: [y"), "other"),
    ],
)
def test_every_cards_front_matter_can_be_read(licences, known: str, finished: Path, tmp_path: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    for model, licence in zip(("target", "source"), licences, strict=True):
        record[model] |= {"licence": licence, "hub_id": f"org/{model}", "name": f"/home/someone/{model}"}
    write_model_card(tmp_path / "README.md", "sees", record)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == known and card.data.base_model == ["org/target", "org/source"]
    assert "/home" not in card.content and "# target + source" in card.text
    assert "loss.png" not in card.text  # not beside this one


def test_the_plain_card_of_a_whole_model() -> None:
    config = {"architectures": ["X"], "text_config": {"_name_or_path": "/home/me/opt", "model_type": "opt"}}
    card = ModelCard(plain_model_card("me/it", config, {}))
    assert card.data.library_name == "transformers" and "language model opt" in card.text


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("/home/me/my pictures/coco.json", "coco.json"),
        ("/data/coco.json:train2017", "coco.json:train2017"),
        ("coco.json:/data/images", "coco.json:images"),
        ("~/runs/one", "one"),
        ("/", "/"),
        ("C:\\Users\\me\\model", "model"),
        ("cannot read /home/me/a.json: gone", "cannot read a.json: gone"),
        ("facebook/opt-125m", "facebook/opt-125m"),
        ("runs/a--b", "runs/a--b"),
        ("https://arxiv.org/abs/2305.01278", "https://arxiv.org/abs/2305.01278"),
        ("a red and/or blue star", "a red and/or blue star"),
        ("Linux-6.18-x86_64", "Linux-6.18-x86_64"),
    ],
)
def test_places(said: str, left: str) -> None:
    assert Places().shortened({"a": [said]}) == {"a": [left]}


def test_running_text_loses_the_places_that_were_met() -> None:
    places = Places()
    places.shortened(["/data/runs/one", "/data/runs"])
    text = "see /data/runs/one and /etc/hosts, /data/runs2"
    assert places.shortened_in(text) == "see one and /etc/hosts, /data/runs2"


def test_a_config_keeps_all_but_where_it_came_from() -> None:
    config = {"text_config": {"_name_or_path": "/models/opt", "pad": "/"}, "tokenizer_file": "/x/t.json", "sep": "/a/b"}
    kept = Places().without_origin(config)
    assert kept == {"text_config": {"_name_or_path": "opt", "pad": "/"}, "tokenizer_file": "t.json", "sep": "/a/b"}


@pytest.mark.parametrize(
    ("written", "short"),
    [
        ("file:///home/me/x", "x"),
        ("read @/home/me/a", "read @a"),
        ("</home/me/x>", "<x>"),
        ("</s>", "</s>"),
        (r"\\srv\share\x", "x"),
        ("../../alice/x", "x"),
        ("/home/me/my pictures/x y", "x y"),
        ("no file '/home/me/my pictures/x y' there", "no file 'x y' there"),
        ("https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
    ],
)
def test_places_however_written(written: str, short: str) -> None:
    assert Places().shortened(written) == short


def test_keys_are_shortened_and_none_is_lost() -> None:
    assert Places().shortened({"/a/x": 1, "/b/x": 2}) == {"x": 1, "x (2)": 2}


def test_a_met_place_is_no_part_of_an_address(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/")
    places = Places()
    assert places.shortened("/data/x") == "x"
    assert places.shortened_in("https://arxiv.org https://host/data/x") == "https://arxiv.org https://host/data/x"
    assert places.shortened_in("(/data/x), file:///data/x and /data/x.") == "(x), x and x."


def test_nothing_of_the_training_data_goes(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    skipped = {"counts": {"broken": 1}, "named": ["secret.png: broken"]}
    source = {"sha256": "abc", "files": [{"name": "secret.json"}], "files_total": 1, "skipped": skipped}
    record |= {"self_check": {"examples": [{"text": "secret"}], "silent": 0}, "data": {"sources": [source]}}
    (folder / "run.json").write_text(json.dumps(record))
    sent = model_content(folder, "me/sees").files["run.json"]
    assert b"secret" not in sent
    kept = {"sha256": "abc", "files_total": 1, "skipped": {"counts": {"broken": 1}}}
    assert json.loads(sent)["data"]["sources"] == [kept]
