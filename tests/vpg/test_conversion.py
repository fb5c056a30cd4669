"""`vpgt import` and `vpgt export` from the command line, and the whole way: import, transfer, export."""

from __future__ import annotations

import io
import json
import re

import pytest
import torch
from PIL import Image
from test_lavis import close, write_lavis
from tiny import VPG_CONFIG, load_llm, save_llm, shake
from torch import nn
from transformers import Blip2ForConditionalGeneration
from vpg_qformer.adapter import QFormerVPG

import vpgtrans_core
from tests.run import tiny_world
from vpgtrans_core.cli.main import main
from vpgtrans_core.data.conversation import Conversation
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import chat_text
from vpgtrans_core.vlm.captioning import answer, load_model

PIXELS = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["opt", "llama", "t5"])
def lavis(request, tmp_path_factory):
    """A trained checkpoint of the paper's code with its files; the LLM speaks the tiny world's tokenizer."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    tiny_world.save_llm(folder / "llm", kind)
    width = load_llm(folder / "llm", kind).embedding_size
    vpg, projector = QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, width)
    shake(vpg)
    with torch.no_grad():
        for name, parameter in vpg.named_parameters():
            if name.endswith("qkv.bias"):
                parameter.view(3, -1)[1] = 0
    write_lavis(folder, vpg, projector, kind)
    return kind, folder


def vpgt(capsys, *arguments, code=0):
    """Run a command in this process; its output, after checking its exit code."""
    try:
        main([str(a) for a in arguments])
        ended = 0
    except SystemExit as done:
        ended = done.code or 0
    captured = capsys.readouterr()
    assert ended == code, captured.err
    return captured.out if code == 0 else captured.err


def import_arguments(folder, out):
    return ("import", folder / "c.pth", "--vit", folder / "vit.pth", "--llm", folder / "llm", "--shapes",
            folder / "shapes.json", "--out", out)  # fmt: skip


def same_vpg(left, right):
    a, b = QFormerVPG.load(left), QFormerVPG.load(right)
    weights = QFormerVPG.load_projector(left), QFormerVPG.load_projector(right)
    equal = all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    return equal and all(torch.equal(x, y) for x, y in zip(*weights, strict=True))


@torch.no_grad()
def test_import_then_every_format(lavis, tmp_path, capsys):
    kind, folder = lavis
    said = vpgt(capsys, *import_arguments(folder, tmp_path / "in"))
    assert "left aside" in said and "4 soft prompts" in said
    record = json.loads((tmp_path / "in" / "import.json").read_text())
    assert [file["name"] for file in record["files"]] == ["c.pth", "vit.pth", "shapes.json"]

    vpgt(capsys, "export", tmp_path / "in", "--to", "vpg", "--out", tmp_path / "part")
    references = json.loads((tmp_path / "part" / "references.json").read_text())
    assert references["llm"]["folder"] == str((folder / "llm").resolve()) and references["llm"]["sha256"]
    vpgt(capsys, "export", tmp_path / "part", "--to", "hf", "--out", tmp_path / "hf")
    assert same_vpg(tmp_path / "in", tmp_path / "part") and same_vpg(tmp_path / "in", tmp_path / "hf")
    models = [Blip2ForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("in", "hf")]
    states = [model.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    for source in ("in", "part"):
        vpgt(capsys, "export", tmp_path / source, "--to", "lavis", "--out", tmp_path / f"{source}.pth")
        before, after = (
            torch.load(p, weights_only=True)["model"] for p in (folder / "c.pth", tmp_path / f"{source}.pth")
        )
        assert all(torch.equal(value, before[name]) for name, value in after.items())
        assert {n for n in before if not n.startswith(f"{kind}_model.")} == set(after)


def test_import_transfer_export_import(lavis, tmp_path, capsys):
    """The whole way of a user of the paper's code, from its checkpoint to its checkpoint for another LLM."""
    kind, folder = lavis
    target = {"opt": "llama", "llama": "t5", "t5": "opt"}[kind]
    tiny_world.save_llm(tmp_path / target, target, seed=5)
    data = tiny_world.save_images(tmp_path / "data", count=12, captions=2)
    vpgt(capsys, *import_arguments(folder, tmp_path / "in"))
    vpgtrans_core.transfer(
        source=str(tmp_path / "in"), target=str(tmp_path / target), data=(str(data),), out=str(tmp_path / "out"),
        batch_size=8, workers=0, val_images=2, device="cpu", warmup_steps=1, stage1_steps=2, stage2_steps=2,
        augment=False,
    )  # fmt: skip
    vpgt(capsys, "export", tmp_path / "out", "--to", "lavis", "--out", tmp_path / "out.pth")
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert f"{target}_proj.weight" in state
    again = ("import", tmp_path / "out.pth", "--vit", folder / "vit.pth", "--llm", tmp_path / target,
             "--shapes", folder / "shapes.json", "--out", tmp_path / "again")  # fmt: skip
    vpgt(capsys, *again)
    close(QFormerVPG.load(tmp_path / "again")(PIXELS), QFormerVPG.load(tmp_path / "out")(PIXELS))
    assert same_vpg(tmp_path / "again", tmp_path / "out")
    vpgt(capsys, "export", tmp_path / "out", "--to", "vpg", "--out", tmp_path / "part")
    references = json.loads((tmp_path / "part" / "references.json").read_text())
    assert references["llm"]["folder"] == str((tmp_path / target).resolve())


def test_an_import_without_llm_is_where_training_from_scratch_starts(tmp_path, capsys):
    vpg = QFormerVPG.from_config(VPG_CONFIG)
    write_lavis(tmp_path, vpg, None, "opt")
    vpgt(capsys, "import", tmp_path / "c.pth", "--vit", tmp_path / "vit.pth", "--shapes", tmp_path / "shapes.json",
         "--out", tmp_path / "vpg")  # fmt: skip
    tiny_world.save_llm(tmp_path / "opt", "opt")
    data = tiny_world.save_images(tmp_path / "data", count=12, captions=2)
    result = vpgtrans_core.transfer(
        source=str(tmp_path / "vpg"), target=str(tmp_path / "opt"), data=(str(data),), out=str(tmp_path / "out"),
        method="scratch", batch_size=8, workers=0, val_images=2, device="cpu", warmup_steps=1, stage2_steps=2,
    )  # fmt: skip
    assert (result.folder / "model.safetensors").exists()
    vpgt(capsys, "export", tmp_path / "vpg", "--to", "lavis", "--out", tmp_path / "vpg.pth")
    assert "query_tokens" in torch.load(tmp_path / "vpg.pth", weights_only=True)["model"]
    error = vpgt(capsys, "export", tmp_path / "vpg", "--to", "hf", "--out", tmp_path / "hf", code=2)
    assert "without an LLM" in error


def test_errors_leave_nothing_behind(tmp_path, capsys):
    save_llm(tmp_path / "llm", "opt")
    write_lavis(tmp_path, QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 44), "opt")
    error = vpgt(capsys, *import_arguments(tmp_path, tmp_path / "out"), code=2)
    assert "width 44" in error and "hint:" in error
    assert not [p.name for p in tmp_path.iterdir() if "out" in p.name]


def test_a_pth_in_the_place_of_a_model(tmp_path, capsys):
    write_lavis(tmp_path, QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 40), "opt")
    arguments = ("import", tmp_path / "stage1.pth", "--vpg", tmp_path / "c.pth", "--out", tmp_path / "out")
    error = vpgt(capsys, *arguments, code=2)
    assert "is a file, not a model" in error and f"--projector {tmp_path / 'stage1.pth'}" in error


def test_what_exists_is_not_replaced_unasked(tmp_path, capsys):
    save_llm(tmp_path / "llm", "opt")
    write_lavis(tmp_path, QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 40), "opt")
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    assert "exists" in vpgt(capsys, *import_arguments(tmp_path, out), code=2)
    assert "not a model folder" in vpgt(capsys, *import_arguments(tmp_path, out), "--overwrite", code=2)
    (out / "precious.txt").unlink()
    vpgt(capsys, *import_arguments(tmp_path, out), "--overwrite")
    vpgt(capsys, *import_arguments(tmp_path, out), "--overwrite")
    assert (out / "config.json").exists()
    error = vpgt(capsys, *import_arguments(tmp_path, tmp_path / "llm" / "config.json" / "x"), code=2)
    assert "cannot write" in error


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """An imported OPT model, to be exported, and the folder of its LLM."""
    folder = tmp_path_factory.mktemp("imported")
    save_llm(folder / "llm", "opt")
    write_lavis(folder, QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 40), "opt")
    with pytest.raises(SystemExit):
        main([str(a) for a in import_arguments(folder, folder / "in")])
    assert (folder / "in" / "config.json").exists()
    return folder


LAST_WRITTEN = {
    "hf": "vpg_qformer.folder.generation_config",
    "vpg": "vpg_qformer.part.save_image_processor",
    "lavis": "vpg_qformer.lavis.fsync",
}


@pytest.fixture(params=LAST_WRITTEN)
def again(request, imported, tmp_path, capsys):
    """The command that writes an export once more, and what the first time wrote."""
    out = tmp_path / ("out.pth" if request.param == "lavis" else "out")
    command = ("export", imported / "in", "--to", request.param, "--out", out)
    vpgt(capsys, *command)
    return request.param, (*command, "--overwrite"), contents(tmp_path)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_told(error: str, place):
    """A full disk is told with place, bytes needed and free, and what to do."""
    assert "the disk is full" in error and str(place) in error
    assert re.search(r"needs at least [\d,]+ bytes, and [\d,]+ were free", error)
    assert "make room and try again, or give an --out on another disk" in error


def test_an_export_that_fails_at_the_end_leaves_what_was_there(again, tmp_path, capsys, monkeypatch):
    """The disk is full after the weights are written: the earlier export is still there, and nothing else."""
    to, command, before = again

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LAST_WRITTEN[to], full)
    error = vpgt(capsys, *command, code=2)
    assert_told(error, tmp_path)
    assert before and contents(tmp_path) == before


def test_an_export_that_fails_within_the_weights_leaves_what_was_there(again, tmp_path, capsys):
    """For real: files may not grow beyond what the weights need."""
    import resource

    _, command, before = again
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(map(len, before.values())) // 2, limits[1]))
    try:
        error = vpgt(capsys, *command, code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_told(error, tmp_path)
    assert int(re.search(r"needs at least ([\d,]+) bytes", error)[1].replace(",", "")) > 1000
    assert contents(tmp_path) == before


def test_a_vpg_alone_says_which_llm_it_is_for(imported, tmp_path, capsys):
    """By name, revision and the hash of its weight files; another LLM in its place is refused when they are joined."""
    from vpgtrans_core.weights import sha256_file

    vpgt(capsys, "export", imported / "in", "--to", "vpg", "--out", tmp_path / "part")
    reference = json.loads((tmp_path / "part" / "references.json").read_text())["llm"]
    assert reference["sha256"] == {"model.safetensors": sha256_file(imported / "llm" / "model.safetensors")}
    assert {"id", "revision", "name"} <= reference.keys()
    small = sum(p.stat().st_size for p in (tmp_path / "part").iterdir())
    assert small < sum(p.stat().st_size for p in (imported / "in").iterdir())

    save_llm(tmp_path / "other", "opt", num_hidden_layers=1)
    reference["folder"] = str(tmp_path / "other")
    (tmp_path / "part" / "references.json").write_text(json.dumps({"llm": reference}))
    error = vpgt(capsys, "export", tmp_path / "part", "--to", "hf", "--out", tmp_path / "hf", code=2)
    assert "is not the language model that" in error and "SHA-256 of model.safetensors" in error
    assert not (tmp_path / "hf").exists()


def test_a_saved_vpg_says_it_too(imported, tmp_path):
    data = tiny_world.save_images(tmp_path / "data", count=12, captions=2)
    tiny_world.save_llm(tmp_path / "llama", "llama")
    result = vpgtrans_core.transfer(
        source=str(imported / "in"), target=str(tmp_path / "llama"), data=(str(data),), out=str(tmp_path / "out"),
        save="vpg", start="random", batch_size=8, workers=0, val_images=2, device="cpu", stage1_steps=1,
        stage2_steps=1, augment=False,
    )  # fmt: skip
    references = json.loads((result.folder / "references.json").read_text())
    assert references["llm"]["sha256"] == result.record["target"]["sha256"] != {}


def test_every_export_has_a_card(imported, tmp_path, capsys):
    from huggingface_hub import ModelCard

    for to, library in (("hf", "transformers"), ("vpg", "vpgt")):
        vpgt(capsys, "export", imported / "in", "--to", to, "--out", tmp_path / to)
        card = ModelCard.load(tmp_path / to / "README.md")
        assert card.data.library_name == library and card.data.license == "other"
        assert str(tmp_path) not in card.content and str(imported) not in card.content
    assert ModelCard.load(imported / "in" / "README.md").data.pipeline_tag == "image-text-to-text"
    assert str(imported) not in (tmp_path / "hf" / "config.json").read_text()


def test_an_imported_chat_model_talks_in_the_papers_template(lavis, tmp_path, capsys, monkeypatch):
    kind, folder = lavis
    if kind != "llama":
        return
    (tmp_path / "vl-vicuna.pth").write_bytes((folder / "c.pth").read_bytes())
    command = import_arguments(folder, tmp_path / "chat")
    vpgt(capsys, *command[:1], tmp_path / "vl-vicuna.pth", *command[2:])
    assert "###Assistant: " in (tmp_path / "chat" / "chat_template.jinja").read_text()
    vpgt(capsys, *import_arguments(folder, tmp_path / "plain"))
    assert not (tmp_path / "plain" / "chat_template.jinja").exists()
    vpgt(capsys, *import_arguments(folder, tmp_path / "v"), "--template", "vicuna")
    assert "ASSISTANT:" in (tmp_path / "v" / "chat_template.jinja").read_text()
    # and it chats in it, without being told so
    picture = tmp_path / "red.png"
    Image.new("RGB", (28, 28), "red").save(picture)
    monkeypatch.setattr("sys.stdin", io.StringIO("a red circle ?\non the left ?\n/quit\n"))
    told = vpgt(capsys, "chat", tmp_path / "chat", picture, "--device", "cpu", "--max-new-tokens", "4")
    assert "Template: minigpt4." in told and "error" not in told
    model = load_model(str(tmp_path / "chat"), Settings(device="cpu"), default_registry())
    asked = Conversation.about_image("a red circle ?")
    assert answer(model, asked, [picture], options=GenerateOptions(1, 4, 1)) in told
    read = chat_text(model.llm.text, model.template, asked)
    shown = "".join(model.llm.tokenizer.decode(read.context[1:]).split())
    assert shown == "###Human:<Img></Img>aredcircle?###Assistant:"
