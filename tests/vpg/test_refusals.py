"""Malicious and broken files at the front door: each is refused with its error in under 500 MB.

`pytest -s` prints the table of what each refusal took.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forked_commands
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_lavis import write_lavis
from tiny import VPG_CONFIG, blip2, save_llm, tokenizer
from torch import nn
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.cli.main import main

KILOBYTES = 500_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Files that all commands take: a checkpoint with its ViT, sizes and LLM, a source, a target and data."""
    folder = tmp_path_factory.mktemp("sound")
    write_lavis(folder, QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 40), "opt")
    save_llm(folder / "llm", "opt")
    save_llm(folder / "target", "llama")
    blip2().save_pretrained(folder / "source")
    tokenizer().save_pretrained(folder / "source")
    for n in range(6):
        Image.new("RGB", (30, 30), (40 * n, 0, 0)).save(folder / f"{n}.png")
    lines = [{"image": f"{n}.png", "caption": f"w{n + 9} w20", "image_id": n} for n in range(6)]
    (folder / "data.json").write_text(json.dumps(lines))
    return folder


def importing(folder: Path, *more: str) -> list[str]:
    return [
        "import", str(folder / "c.pth"), "--vit", str(folder / "vit.pth"), "--shapes", str(folder / "shapes.json"),
        "--llm", str(folder / "llm"), "--out", str(folder / "out"), *more,
    ]  # fmt: skip


def transferring(folder: Path, *more: str) -> list[str]:
    return [
        "transfer", "--from", str(folder / "source"), "--to", str(folder / "target"), "--data",
        str(folder / "data.json"), "--out", str(folder / "out"), "--stage1-steps", "1", "--stage2-steps", "1",
        "--batch-size", "2", "--workers", "0", "--val-images", "1", "--device", "cpu", *more,
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- harm that is done


class Evil:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return os.system, (f"touch {self.ran}",)


def with_code(file: Path) -> None:
    torch.save({"model": {"x": Evil(file.parent / "ran")}}, file)


def four_terabytes(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    tensors = content.get("model", content)
    name = next(name for name in tensors if tensors[name].is_floating_point())
    tensors[name] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(content, file)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def nan(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    for tensor in content.get("model", content).values():
        if tensor.is_floating_point():
            tensor.view(-1)[0] = float("nan")
    torch.save(content, file)


def lying_header(file: Path) -> None:
    file.write_bytes((1 << 40).to_bytes(8, "little") + b"{}" + bytes(100))


def lying_shape(file: Path) -> None:
    """A tensor of 4 TB by its shape, in a header that is otherwise sound."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    next(value for name, value in header.items() if name != "__metadata__")["shape"] = [1 << 20, 1 << 20]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def nan_in(name: str) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        tensors = load_file(file)
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})

    return spoil


def pickled(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
    """Spoil an LLM's folder whose weights are a pickle."""

    def change(folder: Path) -> None:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        spoil(folder / "pytorch_model.bin")

    return change


def shards_with_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with_code(folder / "pytorch_model-1.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "pytorch_model-1.bin"}}))


def leaving_index(folder: Path) -> None:
    index = {"weight_map": {"x": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def vocabulary(rows: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.get("text_config", config)["vocab_size"] = rows
        (folder / "config.json").write_text(json.dumps(config))

    return change


def own_code(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}})
    )
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


def own_tokenizer_code(folder: Path) -> None:
    """A known model whose tokenizer wants code."""
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["evil.T", None]}})
    )
    (folder / "tokenizer.json").unlink()
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


PTH = {
    "pickle with code": (with_code, "posix.system"),
    "4 TB of stride 0": (four_terabytes, "claims shape [1048576, 1048576]"),
    "truncated zip": (cut, "truncated"),
    "safetensors header": (lying_header, "truncated, is not a checkpoint"),
    "NaN": (nan, "NaN or infinity in"),
}
FOLDERS = {
    "pickle with code": (pickled(with_code), "posix.system"),
    "code in a shard": (shards_with_code, "posix.system"),
    "4 TB of stride 0": (pickled(four_terabytes), "claims shape [1048576, 1048576]"),
    "truncated zip": (pickled(cut), "truncated"),
    "lying header": (lambda folder: lying_header(folder / "model.safetensors"), "its header claims"),
    "lying shape": (lambda folder: lying_shape(folder / "model.safetensors"), "damaged or has a wrong header"),
    "truncated": (lambda folder: cut(folder / "model.safetensors"), "damaged or has a wrong header"),
    "index that leaves": (leaving_index, "points out of its folder"),
    "auto_map": (own_code, "--trust-remote-code"),
}
LLM = {
    "NaN": (lambda folder: nan_in("model.norm.weight")(folder / "model.safetensors"), "model.norm.weight"),
    "wrong vocabulary": (vocabulary(99), "embed_tokens"),
    "tokenizer with code": (own_tokenizer_code, "cannot load a tokenizer"),
}
OPT = {
    **LLM,
    "NaN": (lambda f: nan_in("model.decoder.layers.0.fc1.bias")(f / "model.safetensors"), "layers.0.fc1.bias"),
}
SOURCE = {
    "NaN in the Q-Former": (lambda f: nan_in("qformer.layernorm.weight")(f / "model.safetensors"), "qformer.layernorm"),
    "NaN in the ViT": (
        lambda f: nan_in("vision_model.encoder.layers.0.mlp.fc1.bias")(f / "model.safetensors"),
        "encoder.layers.0.mlp.fc1.bias",
    ),
    "NaN in the projector": (
        lambda f: nan_in("language_projection.bias")(f / "model.safetensors"),
        "language_projection",
    ),
    "NaN in the words": (
        lambda f: nan_in("language_model.model.decoder.embed_tokens.weight")(f / "model.safetensors"),
        "embed_tokens.weight",
    ),
    "wrong vocabulary": (vocabulary(99), "embed_tokens"),
}
# the option, the file or folder behind it, the command, and what is done to it
PLACES = {
    "import CHECKPOINT": ("c.pth", importing, PTH),
    "import --vit": ("vit.pth", importing, PTH),
    "import --projector": ("stage1.pth", lambda f: importing(f, "--projector", str(f / "stage1.pth")), PTH),
    "import --llm": ("llm", importing, FOLDERS | OPT),
    "transfer --from": ("source", transferring, FOLDERS | SOURCE),
    "transfer --to": ("target", transferring, FOLDERS | LLM),
}
CASES = [(place, harm) for place, (_, _, harms) in PLACES.items() for harm in harms]


@pytest.fixture(scope="module")
def refusals(sound, tmp_path_factory) -> dict[tuple[str, str], dict]:
    """What each case ended with, said and used; and, under ("", ""), what importing the libraries took."""
    commands, folders = [], []
    for place, harm in CASES:
        name, command, harms = PLACES[place]
        folder = tmp_path_factory.mktemp("case") / "files"
        shutil.copytree(sound, folder)
        shutil.copyfile(folder / "c.pth", folder / "stage1.pth")
        harms[harm][0](folder / name)
        commands.append(command(folder))
        folders.append(folder)
    done = subprocess.run(
        [sys.executable, forked_commands.__file__, json.dumps(commands)], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=280,
    )  # fmt: skip
    libraries, *found = map(json.loads, done.stdout.splitlines())
    print(f"\n{'AT':<20}{'WHAT':<22}{'EXIT':>5}{'CPU SECONDS':>13}{'MB':>6}")
    print(f"{'importing libraries':<42}{libraries['seconds']:>18.2f}{libraries['kilobytes'] / 1000:>6.0f}")
    for (place, harm), each, folder in zip(CASES, found, folders, strict=True):
        print(f"{place:<20}{harm:<22}{each['code']:>5}{each['seconds']:>13.2f}{each['kilobytes'] / 1000:>6.0f}")
        each["folder"] = folder
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize(("place", "harm"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_what_could_harm_is_refused(refusals, place, harm):
    found, says = refusals[place, harm], PLACES[place][2][harm][1]
    assert found["code"] == 2, found["said"]
    assert "error:" in found["said"] and "hint:" in found["said"] and "Traceback" not in found["said"], found["said"]
    assert says in found["said"], found["said"]
    assert found["kilobytes"] < KILOBYTES
    assert not list(found["folder"].rglob("ran"))
    assert not (found["folder"] / "out" / "config.json").exists()


def test_sound_files_pass(sound, tmp_path):
    """None of the refusals is a refusal of everything."""
    shutil.copytree(sound, tmp_path / "files")
    commands = [importing(tmp_path / "files"), [*transferring(tmp_path / "files"), "--out", str(tmp_path / "other")]]
    done = subprocess.run(
        [sys.executable, forked_commands.__file__, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines()[1:]:
        assert json.loads(line)["code"] == 0, json.loads(line)["said"]


def test_a_whole_process_of_a_bad_pth_imports_no_transformers(sound, tmp_path):
    """A bad file is refused before the library is imported that would use it."""
    shutil.copytree(sound, tmp_path / "files")
    four_terabytes(tmp_path / "files" / "c.pth")
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vpgtrans_core.cli.main", *importing(tmp_path / "files")],
        capture_output=True,
        text=True,
    )
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", process.stderr, re.MULTILINE))
    assert process.returncode == 2 and "claims shape" in process.stderr
    assert "torch" in imported and "transformers" not in imported


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
open({marker!r}, "a").write("ran ")

class MyConfig(LlamaConfig):
    model_type = "mine"

class MyModel(LlamaForCausalLM):
    config_class = MyConfig
"""


def test_code_of_an_llm_runs_when_it_is_trusted_and_not_before(sound, tmp_path, capsys):
    """From the transfer to captions with what it made."""
    folder = tmp_path / "files"
    shutil.copytree(sound, folder)
    config = json.loads((folder / "target" / "config.json").read_text())
    auto_map = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    config |= {"model_type": "mine", "architectures": ["MyModel"], "auto_map": auto_map}
    (folder / "target" / "config.json").write_text(json.dumps(config))
    (folder / "target" / "mine.py").write_text(CODE.format(marker=str(folder / "ran")))

    def vpgt(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capsys.readouterr()
        return ended.value.code or 0, said.out + said.err

    code, said = vpgt(*transferring(folder, "--save", "vpg"))
    assert code == 2 and "give --trust-remote-code" in said
    code, said = vpgt(*transferring(folder, "--trust-remote-code"))
    assert code == 2 and "code in its own folder" in said and "--save vpg" in said
    assert not (folder / "ran").exists()
    code, said = vpgt(*transferring(folder, "--save", "vpg", "--trust-remote-code"))
    assert code == 0 and (folder / "ran").read_text()
    (folder / "ran").unlink()
    code, said = vpgt("caption", str(folder / "out"), str(folder / "1.png"))
    assert code == 2 and "give --trust-remote-code" in said and not (folder / "ran").exists()
    code, said = vpgt("caption", str(folder / "out"), str(folder / "1.png"), "--trust-remote-code")
    assert code == 0
