"""The gate for weights: whatever tensors come from outside come through here, and whatever is written leaves here.

Reading is by name and lazy: a `Weights` opens a model folder (sharded or not) or a file and gives single tensors, or
rows of one, without touching the rest. safetensors is the format; ``.bin``/``.pth``/``.pt`` files are read through the
stricter `vpgtrans_core.weights.pickles`. Only safetensors is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError, UnsafeInput, did_you_mean
from vpgtrans_core.files import filling, fsync, open_regular, read_json, write_json
from vpgtrans_core.weights.pickles import read_pickle, tensors_in

INDEX = "model.safetensors.index.json"
SINGLE = ("model.safetensors", "vpg.safetensors")
PICKLES = ("pytorch_model.bin",)
PICKLE_SUFFIXES = (".bin", ".pth", ".pt")

HEADER_LIMIT = 32 << 20
"""Largest safetensors header that is read, in bytes: that of a sharded 70 B model is below 1 MB."""
SHARD_SIZE = 5_000_000_000
"""Largest safetensors file that is written, in bytes."""
SHOWN = 12
"""Names shown of each kind of mismatch; the count says how many more there are."""


class Weights:
    """The tensors of a model folder or of one file, by name.

    Args:
        path: a folder with safetensors (single or with an index) or a ``pytorch_model.bin``, or one such file.

    Raises:
        ModelError: nothing there, or files that are damaged.
        UnsafeInput: an index that points out of its folder, a lying header, code in a pickle.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = _tensor_files(self.path)
        self._handles: dict[Path, Any] = {}
        self._pickles: dict[Path, dict[str, Tensor]] = {}
        self._where = {name: file for file in self._files for name in self._names_in(file)}

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        file = self._file(name)
        if file in self._pickles:
            return tuple(self._pickles[file][name].shape)
        return tuple(self._handles[file].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, in the file's precision."""
        file = self._file(name)
        if file in self._pickles:
            return self._pickles[file][name]
        with _readable(file):
            return self._handles[file].get_tensor(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of a tensor, without reading the others."""
        file = self._file(name)
        if file in self._pickles:
            return self._pickles[file][name][start:stop]
        with _readable(file):
            return self._handles[file].get_slice(name)[start:stop]

    def _file(self, name: str) -> Path:
        try:
            return self._where[name]
        except KeyError:
            raise ModelError(f"{self.path} has no tensor {name!r}", did_you_mean(name, self._where)) from None

    def _names_in(self, file: Path) -> Iterable[str]:
        if file.suffix in PICKLE_SUFFIXES:
            self._pickles[file] = tensors_in(read_pickle(file), file)
            return self._pickles[file]
        self._handles[file] = open_safetensors(file)
        return self._handles[file].keys()


def open_safetensors(file: Path) -> Any:
    """Open a safetensors file by name, its header checked before it is parsed.

    The library itself refuses offsets that overlap, leave holes or end elsewhere than the file, shapes that do not
    fit their bytes, and unknown dtypes.

    Raises:
        ModelError: the file is missing or truncated.
        UnsafeInput: the header lies.
    """
    try:
        stream, size = open_regular(file)
        with stream:
            header = int.from_bytes(stream.read(8), "little")
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error}") from error
    if size < 8 or header > min(size - 8, HEADER_LIMIT):
        raise UnsafeInput(
            f"{file} is not a safetensors file or is truncated: its header claims {header} bytes in a file of {size}",
            "download or copy the file again",
        )
    with _readable(file):
        return safe_open(file, framework="pt", device="cpu")


def read_tensors(folder: str | Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Read the named tensors of a folder or file, and nothing else. Missing ones are listed in one ModelError."""
    weights, names = Weights(folder), list(names)
    if missing := [name for name in names if name not in weights]:
        raise ModelError(mismatch(str(folder), missing=missing), "the folder may hold another kind of model")
    return {name: weights.read(name) for name in names}


def tensor_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a folder or file, without reading them."""
    weights = Weights(folder)
    return {name: weights.shape(name) for name in weights}


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str | Path,
    *,
    dtype: Callable[[str], torch.dtype] | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Give `module` (which may be on the meta device) exactly these tensors; every disagreement is listed at once.

    Args:
        module: its parameters and buffers are replaced, not copied into.
        tensors: by the names of ``module.state_dict()``.
        where: the file or folder, for the error.
        dtype: the precision of a tensor by its name; default the file's.

    Raises:
        ModelError: tensors are missing, unexpected or of the wrong shape, or hold NaN or infinity.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    check_shapes(wanted, {name: tuple(value.shape) for name, value in tensors.items()}, where)
    check_finite(tensors, where)
    ready = {
        name: value.to(device=device, dtype=dtype(name) if dtype else value.dtype).contiguous()
        for name, value in tensors.items()
    }
    grads = {name: p.requires_grad for name, p in module.named_parameters()}
    module.load_state_dict(ready, strict=True, assign=True)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(grads[name])


def check_shapes(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str | Path
) -> None:
    """Compare shapes by name before anything is read or copied.

    Raises:
        ModelError: listing what is missing, unexpected and of the wrong shape.
    """
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    misshapen = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in sorted(wanted.items())
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if missing or unexpected or misshapen:
        raise ModelError(
            mismatch(str(where), missing=missing, unexpected=unexpected, misshapen=misshapen),
            "the weights belong to another model or another version of it",
        )


def mismatch(where: str, **kinds: list[str]) -> str:
    """One message that lists names by kind, at most `SHOWN` of each."""
    lines = [f"the weights of {where} do not fit:"]
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {kind} ({len(names)}): {', '.join(names[:SHOWN])}{more}")
    return "\n".join(lines)


def check_finite(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Refuse NaN and infinity in weights.

    Raises:
        ModelError: naming the tensors.
    """
    bad = [name for name, value in tensors.items() if not is_finite(value)]
    if bad:
        raise ModelError(
            mismatch(str(where), **{"NaN or infinity in": bad}),
            "the training run that wrote the checkpoint diverged, or the file is damaged",
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, without a copy of it."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # 8-bit floats have no reductions
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors: the same however they are spread over files."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file that is there whole or not at all.

    Written under a temporary name, fsynced, given the mode that the umask says, renamed, and the folder fsynced.

    Raises:
        NoRoom: the disk is full. OSError: the folder cannot be written. An older file of that name is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # The file that the library writes has mode 0600: the mode of a plainly made file is the one to give.
        with temporary.open("xb") as stream:
            mode = os.fstat(stream.fileno()).st_mode & 0o777
        with filling(path, sum(tensor.nbytes for tensor in tensors.values())):
            save_file(_separate(tensors), temporary, metadata={"format": "pt", **(metadata or {})})
        temporary.chmod(mode)
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def save_model_tensors(folder: Path, tensors: Mapping[str, Tensor], *, shard_size: int = SHARD_SIZE) -> None:
    """Write ``model.safetensors``, or shards of at most `shard_size` bytes with their index, into a folder."""
    plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=shard_size)
    for name, members in plan.filename_to_tensors.items():
        save_tensors(folder / name, {member: tensors[member] for member in members})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / INDEX, index)


def _tensor_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ModelError(f"{path} does not exist", "give a model folder or a weights file")
    for index in (INDEX, *(f"{name}.index.json" for name in PICKLES)):
        if (path / index).is_file():
            return _indexed_files(path / index)
    for name in (*SINGLE, *PICKLES):
        if (path / name).is_file():
            return [path / name]
    raise ModelError(
        f"{path} holds no weights (none of {', '.join((*SINGLE, INDEX, *PICKLES))})",
        "give a folder that transformers' save_pretrained or vpgt wrote",
    )


def _indexed_files(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index} holds no weight_map")
    files = sorted({str(name) for name in names.values()})
    # Names only: the file itself may be a link, as in the hub's cache.
    if bad := [name for name in files if Path(name).name != name or name in (".", "..")]:
        raise UnsafeInput(
            f"{index} points out of its folder: {', '.join(bad[:SHOWN])}",
            "an index may only name files in its own folder: download the model again",
        )
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise ModelError(f"{index} names files that do not exist: {', '.join(missing[:SHOWN])}", "download them again")
    return [index.parent / name for name in files]


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise UnsafeInput(
            f"{file} is damaged or has a wrong header: {error}", "download or copy the file again, or check its SHA-256"
        ) from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as the format wants them."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        result[name] = value.clone() if pointer in seen or value.untyped_storage().nbytes() > value.nbytes else value
        seen.add(pointer)
    return result
