"""Old checkpoints: ``.pth``, ``.bin`` and ``.pt`` files are pickles, and a pickle can carry code.

They are opened with ``torch.load(weights_only=True)`` and nothing else, after a look at the archive that refuses what
that call would stumble over: compressed or truncated archives, classes other than tensors and plain values, and
tensors that claim more memory than the file holds.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpgtrans_core.errors import ModelError, UnsafeInput
from vpgtrans_core.files import NotRegularError, open_regular

PICKLE_LIMIT = 64 << 20
"""Largest pickle inside an archive, in bytes; that of a 7 B model with its optimiser is below 2 MB."""

ALLOWED = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch(\.storage)? \w*Storage"
    r"|torch (float|bfloat|int|uint|bool|complex|float8_)\w*"
    r"|torch Size"
    r"|torch\.nn\.parameter Parameter"
)
"""What a pickle may name: ``module name``. All of it is also in torch's own list of safe globals."""

UNKNOWN = "no checkpoint that training wrote looks so: get the file from its owner again, and compare its SHA-256"
CONVERT = (
    "where you trust the file, convert it: python -c \"import torch; c = torch.load('{name}', weights_only=False, "
    "map_location='cpu'); torch.save({{'model': dict(c.get('model', c))}}, 'clean.pth')\""
)


def read_pickle(path: str | Path) -> Any:
    """Open a checkpoint made by ``torch.save``; its tensors stay in the file until they are used.

    Returns:
        what was saved: containers, plain values and tensors whose strides and sizes have been checked.

    Raises:
        ModelError: the file is missing, truncated, or of the format before torch 1.6.
        UnsafeInput: it asks for a class or function, or a tensor claims more than the file holds.
    """
    path = Path(path)
    sizes = _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise UnsafeInput(
            f"{path} cannot be opened safely: {_first_line(error)}", CONVERT.format(name=path.name)
        ) from error
    for name, tensor in _walk(content):
        _check_tensor(tensor, name, path, sizes)
    return content


def tensors_in(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: itself, or its ``"model"`` or ``"state_dict"`` entry.

    Raises:
        ModelError: there is none.
    """
    for candidate in (content, *(content.get(k) for k in ("model", "state_dict") if isinstance(content, Mapping))):
        if isinstance(candidate, Mapping):
            tensors = {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if tensors and len(tensors) == len(candidate):
                return tensors
    raise ModelError(
        f"{path} holds no state dict", "give a checkpoint with tensors by name, or with them under 'model'"
    )


def _check_archive(path: Path) -> set[int]:
    """Check the zip archive and the names in its pickle; return the sizes of the stored tensors in bytes."""
    try:
        stream, _ = open_regular(path)
        with stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise UnsafeInput(f"{path} is a compressed archive, which torch.save never writes", UNKNOWN)
            pickles = [member for member in members if member.filename.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > PICKLE_LIMIT:
                raise UnsafeInput(f"{path} is not a checkpoint of torch.save", UNKNOWN)
            _check_names(archive.read(pickles[0]), path)
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", "give a checkpoint's path") from error
    except NotRegularError as error:
        raise ModelError(f"{path} is no checkpoint: {error}", "give a .pth file") from error
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"{path} is truncated, is not a checkpoint, or has the format before torch 1.6: {error}",
            "copy it again; or, for an old file, " + CONVERT.format(name=path.name),
        ) from error
    return {member.file_size for member in members}


def _check_names(pickle: bytes, path: Path) -> None:
    """Refuse a pickle that names anything beyond tensors and plain values, naming what it wants."""
    strings: list[str] = []
    wanted: set[str] = set()
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name in ("GLOBAL", "INST"):
                wanted.add(str(argument))
            elif opcode.name == "STACK_GLOBAL":
                wanted.add(" ".join(strings[-2:]))
            elif "UNICODE" in opcode.name:
                strings = [*strings[-1:], str(argument)]
    except Exception as error:  # pickletools raises many kinds for a damaged stream
        raise UnsafeInput(f"{path} holds a damaged pickle: {_first_line(error)}", UNKNOWN) from error
    if refused := sorted(name.replace(" ", ".") for name in wanted if not ALLOWED.fullmatch(name)):
        raise UnsafeInput(
            f"{path} asks for {', '.join(refused[:5])}: only tensors and plain values are loaded, "
            "because anything else can run code",
            CONVERT.format(name=path.name),
        )


def _check_tensor(tensor: Tensor, name: str, path: Path, sizes: set[int]) -> None:
    """Refuse a tensor that covers more than its storage or repeats parts of it, before anything is copied."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise UnsafeInput(
            f"{path}: tensor {name} is sparse, quantised or without data; plain tensors are loaded",
            "save the checkpoint anew with dense tensors",
        )
    stored = tensor.untyped_storage().nbytes()
    repeated = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    if repeated or tensor.numel() * tensor.element_size() > stored or (stored and stored not in sizes):
        raise UnsafeInput(
            f"{path}: tensor {name} claims shape {list(tensor.shape)} with strides {list(tensor.stride())}, "
            f"more than the {stored} bytes behind it",
            UNKNOWN,
        )


def _walk(content: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested containers; a container that occurs often, or in itself, is looked at once."""
    stack: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            stack += [(f"{name}.{key}".lstrip("."), item) for key, item in items]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
