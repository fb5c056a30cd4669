"""Hostile files: what makes each, and how vpgt reads files of its kind."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Make = Callable[[Path], Path]


class Code:
    """An object whose pickle runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


# --- readers, as vpgt reads files of a kind ---


def weights(path: Path) -> None:
    from vpgtrans_core.weights import Weights, check_finite

    found = Weights(path)
    check_finite({name: found.read(name) for name in found}, path)
    raise AssertionError("read as if it were whole")


def picture(path: Path) -> None:
    from vpgtrans_core.data.images import open_image
    from vpgtrans_core.data.listing import FileImage

    open_image(FileImage(str(path.parent), path.name))


def data(path: Path) -> None:
    from vpgtrans_core.data.data import open_data

    opened = open_data([str(path)])
    assert opened.listings and not opened.listings[0].bad.total, "refused: counted as bad"


def settings(path: Path) -> None:
    from vpgtrans_core.cli.options import settings_from

    settings_from(path, {})


def plan(path: Path) -> None:
    from vpgtrans_core.planning.plan import plan as make
    from vpgtrans_core.registry import default_registry
    from vpgtrans_core.settings import Settings

    make(Settings(source="opt-mini-s", target=str(path), offline=True), registry=default_registry())


def run_folder(path: Path) -> None:
    from vpgtrans_core.run.pipeline import transfer

    transfer(out=str(path), resume=True, device="cpu")


def checkpoint(path: Path) -> None:
    from vpgtrans_core.train.checkpoint import newest_checkpoint

    newest_checkpoint(path, lambda text: None)


# --- files ---


def pickled(name: str, wrap: Callable[[Any], Any] = lambda code: code) -> Make:
    def make(root: Path) -> Path:
        (root / name).write_bytes(pickle.dumps(wrap(Code(root / "executed")), protocol=2))
        return root / name

    return make


def archived(name: str, members: Callable[[Path], dict[str, bytes]], method: int = zipfile.ZIP_STORED) -> Make:
    def make(root: Path) -> Path:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(root / name, "w", method) as archive:
            for member, content in members(root).items():
                archive.writestr(member, content)
        return root / name

    return make


def code_members(root: Path) -> dict[str, bytes]:
    return {"a/data.pkl": pickle.dumps({"model": Code(root / "executed")}, protocol=2), "a/version": b"3\n"}


def saved_by_torch(name: str, content: Callable[[], Any]) -> Make:
    def make(root: Path) -> Path:
        import torch

        torch.save(content(), root / name)
        return root / name

    return make


def stride_bomb() -> Any:
    import torch

    return {"model": {"w": torch.zeros(1).expand(1 << 20, 1 << 20)}}


def written(name: str, content: bytes | Callable[[], bytes], size: int | None = None) -> Make:
    """A file of some bytes, grown with zeros (sparse) to `size`."""

    def make(root: Path) -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content() if callable(content) else content)
            if size is not None:
                file.truncate(size)
        return path

    return make


def safetensors(header: Any, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def many_tensors() -> bytes:
    return safetensors({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(700_000)})


def png(width: int, height: int, body: bytes = b"\0" * 100, chunk: bytes = b"") -> bytes:
    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk + part(b"IDAT", zlib.compress(body)) + part(b"IEND", b"")


def png_text() -> bytes:
    content = b"k\0\0" + zlib.compress(bytes(300 << 20))
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    return png(4, 4, bytes(52), chunk)


def jpeg() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(content)


def webp() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (12000, 12000)).save(stream, "WEBP", lossless=True, quality=0, method=0)
    return stream.getvalue()


def tiff() -> bytes:
    tags = [(256, 4, 60000), (257, 4, 60000), (258, 3, 8), (259, 3, 5), (262, 3, 1), (273, 4, 8), (279, 4, 100)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def tar_header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def special(name: str, kind: str) -> Make:
    def make(root: Path) -> Path:
        path = root / name
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "loop":
            (root / "other").symlink_to(path)
            path.symlink_to(root / "other")
        else:
            path.symlink_to(kind)
        return path

    return make


def aliases() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines).encode()


def gzip_bomb() -> bytes:
    stream = io.BytesIO()
    with gzip.open(stream, "wb", compresslevel=9) as file:
        for _ in range(300):
            file.write(b" " * (1 << 20))
    return stream.getvalue()


def config(**values: Any) -> Make:
    sizes = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    whole = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 2, **sizes, **values}

    def make(root: Path) -> Path:
        (root / "llm").mkdir()
        (root / "llm/config.json").write_text(json.dumps(whole))
        tensor = {"lm_head.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        (root / "llm/model.safetensors").write_bytes(safetensors(tensor, bytes(4)))
        return root / "llm"

    return make


def record(content: bytes) -> Make:
    def make(root: Path) -> Path:
        return written("run.json", content)(root).parent

    return make


def saved_state(change: Callable[[Path], None]) -> Make:
    """A whole checkpoint, and what a stranger made of it."""

    def make(root: Path) -> Path:
        import torch

        from vpgtrans_core.train.checkpoint import Checkpoint, save_checkpoint

        whole = Checkpoint({"w": torch.ones(8)}, {"w/exp_avg": torch.ones(8)}, {"stage": 1, "step": 1})
        change(save_checkpoint(root / "checkpoints", whole))
        return root / "checkpoints"

    return make


def tampered(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


CASES: dict[str, tuple[Make, Callable[[Path], None]]] = {
    # pickles
    "bare pickle .pth": (pickled("a.pth"), weights),
    "bare pickle .bin": (pickled("a.bin", lambda code: {"w": code}), weights),
    "zip with code .pth": (archived("a.pth", code_members), weights),
    "zip with code .pt": (archived("a.pt", code_members), weights),
    "LLM folder with code": (archived("llm/pytorch_model.bin", code_members), weights),
    "compressed zip bomb": (
        archived("a.pth", lambda _: {"a/data.pkl": bytes(400 << 20)}, zipfile.ZIP_DEFLATED),
        weights,
    ),
    "tensor of 4 TB by strides": (saved_by_torch("a.pth", stride_bomb), weights),
    "NaN in .pth": (saved_by_torch("a.pth", lambda: {"w": __import__("torch").full((4,), float("nan"))}), weights),
    # safetensors and others
    "safetensors: header of 2^60": (written("a.safetensors", struct.pack("<Q", 1 << 60) + b"{}"), weights),
    "safetensors: header of 8 GB, sparse": (written("a.safetensors", struct.pack("<Q", 8 << 30), 9 << 30), weights),
    "safetensors: 700,000 tensors": (written("a.safetensors", many_tensors), weights),
    "safetensors: shape of 2^62": (
        written(
            "a.safetensors",
            safetensors({"w": {"dtype": "F32", "shape": [1 << 31, 1 << 31], "data_offsets": [0, 4]}}, bytes(4)),
        ),
        weights,
    ),
    "safetensors: NaN": (
        written(
            "a.safetensors",
            safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\xc0\x7f"),
        ),
        weights,
    ),
    "index that leaves its folder": (
        written("m/model.safetensors.index.json", b'{"weight_map": {"w": "../../etc/passwd"}}'),
        lambda path: weights(path.parent),
    ),
    "GGUF garbage": (written("a.gguf", b"GGUF" + os.urandom(5000)), weights),
    # pictures
    "png of 60,000 x 60,000": (written("a.png", lambda: png(60000, 60000)), picture),
    "png with 300 MB of text": (written("a.png", png_text), picture),
    "jpeg of 65,500 x 65,500": (written("a.jpg", jpeg), picture),
    "webp of 144 million pixels": (written("a.webp", webp), picture),
    "tiff of 60,000 x 60,000": (written("a.tif", tiff), picture),
    "eps": (written("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"), picture),
    "picture of 8 GB, sparse": (written("a.jpg", b"\xff\xd8\xff", 8 << 30), picture),
    "picture that is a pipe": (special("a.jpg", "fifo"), picture),
    "picture that is a loop of links": (special("a.jpg", "loop"), picture),
    "picture that is /dev/zero": (special("a.jpg", "/dev/zero"), picture),
    # data
    "tar: pax header of 3 GB": (written("a.tar", tar_header(tarfile.XHDTYPE, 3 << 30), 4 << 30), data),
    "tar: long name of 3 GB": (written("a.tar", tar_header(tarfile.GNUTYPE_LONGNAME, 3 << 30), 4 << 30), data),
    "tar: 20,000 headers of headers": (written("a.tar", tar_header(tarfile.XHDTYPE, 0) * 20000), data),
    "json of 8 GB, sparse": (written("a.json", b"[", 8 << 30), data),
    "json.gz of 300 MB of blanks": (written("a.json.gz", gzip_bomb), data),
    "json, 1,000,000 deep": (written("a.json", b"[" * 1_000_000), data),
    "json with a number of 5,000,000 digits": (written("a.json", b"[" + b"9" * 5_000_000 + b"]"), data),
    "data that is a pipe": (special("a.json", "fifo"), data),
    # pipes and devices where a model or settings should be
    "weights that are a pipe": (special("a.safetensors", "fifo"), weights),
    ".pth that is a pipe": (special("a.pth", "fifo"), weights),
    ".gguf that is a pipe": (special("a.gguf", "fifo"), plan),
    "config.json that is a pipe": (special("config.json", "fifo"), lambda path: plan(path.parent)),
    "config.json that is /dev/zero": (special("config.json", "/dev/zero"), lambda path: plan(path.parent)),
    "run.json that is a pipe": (special("run.json", "fifo"), lambda path: run_folder(path.parent)),
    "yaml: /dev/zero": (special("a.yaml", "/dev/zero"), settings),
    # settings and configs
    "yaml: aliases": (written("a.yaml", aliases()), settings),
    "yaml: python object": (written("a.yaml", b"data: !!python/object/apply:os.mkdir [executed]"), settings),
    "yaml: 100,000 deep": (written("a.yaml", b"[" * 100_000), settings),
    "config.json: 10^7 layers": (config(num_hidden_layers=10**7), plan),
    "config.json: vocabulary of 10^12": (config(vocab_size=10**12), plan),
    "config.json: negative width": (config(hidden_size=-16), plan),
    "config.json: code of its own": (config(auto_map={"AutoModelForCausalLM": "x.Y"}, model_type="mine"), plan),
    # records
    "run.json: no object": (record(b"[1, 2]"), run_folder),
    "run.json: deep": (record(b'{"settings": ' + b"[" * 500_000), run_folder),
    "run.json: settings of other types": (record(b'{"settings": {"source": 3, "seed": "x"}}'), run_folder),
    "checkpoint: manifest cut": (saved_state(tampered("manifest.json", lambda content: content[:20])), checkpoint),
    "checkpoint: manifest of other types": (
        saved_state(tampered("manifest.json", lambda _: b'{"files": 3}')),
        checkpoint,
    ),
    "checkpoint: weights cut": (saved_state(tampered("weights.safetensors", lambda content: content[:-9])), checkpoint),
    "checkpoint: other weights": (saved_state(tampered("weights.safetensors", lambda _: many_tensors())), checkpoint),
}
"""Each kind: what makes the file, and what reads it."""
