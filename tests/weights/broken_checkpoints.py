"""Makers of broken and malicious checkpoints."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path

import torch


def lying_pth(path: Path, *, size: tuple[int, ...], stride: tuple[int, ...], numel: int) -> None:
    """A ``.pth`` of two floats whose pickle claims a tensor of any size, stride and storage length."""

    class Storage:
        pass

    class Claim:
        def __reduce__(self):
            args = (Storage(), 0, size, stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, args

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(obj, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"model": {"x": Claim()}})
    with_pickle(path, stream.getvalue())


def with_pickle(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """An archive of torch.save in which ``data.pkl`` is replaced."""
    original = io.BytesIO()
    torch.save({"model": {"x": torch.zeros(2)}}, original)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, data if name.endswith("data.pkl") else source.read(name))
