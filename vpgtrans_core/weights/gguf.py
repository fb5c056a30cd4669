"""GGUF files: looked at before they are read, and written back as a folder of safetensors.

transformers reads them through the package ``gguf``, which believes every number in the file. So the file's own
description is walked first, without that package: each count, length and offset must fit what the file holds.
"""

from __future__ import annotations

import importlib.util
import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from vpgtrans_core.errors import ModelError, UnsafeInput
from vpgtrans_core.files import fsync, open_regular, put_in_place

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_TENSORS, MOST_FIELDS, MOST_ITEMS = 100_000, 10_000, 1 << 24
"""Most tensors, fields and items of one list that are read; the largest published have a tenth of it."""
MOST_DIMENSIONS = 4
ALIGNMENT = "general.alignment"
SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Plain types of fields, by their number, in the letters of `struct`."""
STRING, LIST = 8, 9
AGAIN = "download or copy the file again, and compare its SHA-256"


class _Walk:
    """A file that is read from its beginning, never beyond its end."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path, self.size = stream, path, path.stat().st_size

    def take(self, letters: str) -> Any:
        return struct.unpack(f"<{letters}", self.bytes(struct.calcsize(f"<{letters}")))[0]

    def bytes(self, count: int) -> bytes:
        if count > self.size - self.stream.tell():
            raise self.refusal(f"it ends before {count:,} bytes that it announces")
        return self.stream.read(count)

    def skip(self, count: int) -> None:
        if count > self.size - self.stream.tell():
            raise self.refusal(f"it ends before {count:,} bytes that it announces")
        self.stream.seek(count, os.SEEK_CUR)

    def count(self, most: int, what: str) -> int:
        if (count := self.take("Q")) > most:
            raise self.refusal(f"it announces {count:,} {what}, more than {most:,}")
        return int(count)

    def value(self, kind: int, depth: int = 0) -> Any:
        """A field's value; those of strings and lists are passed over."""
        if kind == STRING:
            return self.skip(self.take("Q"))
        if kind != LIST:
            if kind not in SIZES:
                raise self.refusal(f"it has a field of an unknown type, {kind}")
            return self.take(SIZES[kind])
        inner, count = self.take("I"), self.count(MOST_ITEMS, "items of a list")
        if inner in SIZES:
            return self.skip(count * struct.calcsize(f"<{SIZES[inner]}"))
        if depth or inner not in (STRING, LIST):
            raise self.refusal("it has lists in lists of lists, or of an unknown type")
        for _ in range(count):
            self.value(inner, depth + 1)
        return None

    def refusal(self, why: str) -> UnsafeInput:
        return UnsafeInput(f"{self.path} is damaged or is not a GGUF file: {why}", AGAIN)


def check_gguf(path: Path) -> None:
    """Walk a file's description and compare it with the file.

    Raises:
        ModelError: it cannot be read, or its version is not known. UnsafeInput: it is damaged, or its numbers lie.
    """
    try:
        stream, _ = open_regular(path)
        with stream:
            _check(_Walk(stream, path))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}") from error


def _check(walk: _Walk) -> None:
    if walk.bytes(4) != MAGIC:
        raise walk.refusal("it does not begin with GGUF")
    if (version := walk.take("I")) not in VERSIONS:
        raise ModelError(f"{walk.path} is a GGUF file of version {version}", "versions 2 and 3 can be read")
    tensors, fields = walk.count(MOST_TENSORS, "tensors"), walk.count(MOST_FIELDS, "fields")
    alignment = 32
    for _ in range(fields):
        name = walk.bytes(walk.take("Q"))
        value = walk.value(walk.take("I"))
        if name == ALIGNMENT.encode():
            alignment = value if isinstance(value, int) and 0 < value <= 1 << 16 else 0
    if not alignment:
        raise walk.refusal("it states an alignment that no file has")
    ends = [_end_of_tensor(walk) for _ in range(tensors)]
    start = -(-walk.stream.tell() // alignment) * alignment
    if (end := start + max(ends, default=0)) > walk.size:
        raise walk.refusal(f"its tensors end at byte {end:,}, and the file at {walk.size:,}")


def _end_of_tensor(walk: _Walk) -> int:
    """The byte of the data at which a tensor ends."""
    walk.skip(walk.take("Q"))
    if not 0 < (dimensions := walk.take("I")) <= MOST_DIMENSIONS:
        raise walk.refusal(f"it has a tensor of {dimensions} dimensions")
    items = math.prod(walk.take("Q") for _ in range(dimensions))
    kind, offset = walk.take("I"), walk.take("Q")
    from gguf import GGML_QUANT_SIZES

    sizes = {int(name): size for name, size in GGML_QUANT_SIZES.items()}
    if kind not in sizes:
        raise walk.refusal(f"it has a tensor of an unknown type, {kind}")
    block, each = sizes[kind]
    return int(offset + items // block * each)


def require_reader() -> None:
    """Raises:
    ModelError: the package that transformers reads GGUF with is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("reading a GGUF file needs the package gguf", "install it: pip install 'vpgt[gguf]'")


def join_parts(parts: Iterable[Path], out: Path) -> None:
    """Write the parts of one file one after the other."""
    with out.open("xb") as whole:
        for part in parts:
            with part.open("rb") as stream:
                while block := stream.read(1 << 22):
                    whole.write(block)


def gguf_config(path: Path) -> dict[str, Any]:
    """transformers' config of the model in a file."""
    from transformers import AutoConfig

    require_reader()
    check_gguf(path)
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name).to_dict()
    except Exception as error:  # transformers refuses files in as many ways as there are architectures
        raise _unreadable(path, error) from error
    return config


def convert_gguf(path: Path, out: Path) -> None:
    """Write a file's model as a transformers folder in float32: what is dequantised is exact, and nothing is packed.

    The folder is there whole or not at all. Its tokenizer may take minutes.

    Raises:
        ModelError: transformers cannot read the file, or a weight is not finite. UnsafeInput: see `check_gguf`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vpgtrans_core.weights.gate import check_finite

    require_reader()
    check_gguf(path)
    place = {"gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **place)
        model: Any = AutoModelForCausalLM.from_pretrained(str(path.parent), dtype=torch.float32, **place)
    except Exception as error:
        raise _unreadable(path, error) from error
    check_finite(dict(model.named_parameters()), path)
    # What marks the model as quantised: transformers does not save one that is, and this one no longer is.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer, model.is_quantized = None, False
    staging = out.with_name(f".{out.name}.{os.getpid()}.part")
    staging.mkdir(parents=True)
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    for file in staging.iterdir():
        fsync(file)
    put_in_place(staging, out)


def _unreadable(path: Path, error: Exception) -> ModelError:
    first = (str(error).splitlines() or [""])[0][:300]
    return ModelError(
        f"transformers cannot read {path}: {type(error).__name__}: {first}",
        "give the model's own folder of safetensors instead",
    )
