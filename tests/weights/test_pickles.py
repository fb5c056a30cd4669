"""Old checkpoints: what is opened, and what is refused before it can do harm."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from broken_checkpoints import lying_pth, with_pickle

from vpgtrans_core.errors import ModelError, UnsafeInput
from vpgtrans_core.weights.pickles import read_pickle, tensors_in


def test_reads_a_trainers_checkpoint(tmp_path):
    model = {"w": torch.randn(3, 4), "half": torch.randn(2).half(), "t": torch.randn(4, 3).t()}
    content = {
        "model": model,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "config": {"a": [1]},
        "epoch": 0,
    }
    torch.save(content, tmp_path / "c.pth")
    tensors = tensors_in(read_pickle(tmp_path / "c.pth"), "c.pth")
    assert tensors.keys() == model.keys()
    assert all(torch.equal(tensors[k], model[k]) for k in model)


def test_reads_tied_and_sliced_tensors_and_a_plain_state_dict(tmp_path):
    base = torch.randn(6, 2)
    torch.save(collections.OrderedDict(a=base, b=base, c=base[2:4]), tmp_path / "c.bin")
    tensors = tensors_in(read_pickle(tmp_path / "c.bin"), "c.bin")
    assert torch.equal(tensors["c"], base[2:4])


def test_code_is_refused_by_name_and_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"model": {"x": Evil()}}, tmp_path / "evil.pth")
    with pytest.raises(UnsafeInput, match=r"(posix|nt)\.system") as caught:
        read_pickle(tmp_path / "evil.pth")
    assert "weights_only=False" in caught.value.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "name"), [(argparse.Namespace(a=1), "argparse.Namespace"), (np.float32(1.5), "numpy")]
)
def test_classes_of_trainers_are_named(tmp_path, value, name):
    torch.save({"model": {"x": torch.zeros(1)}, "config": value}, tmp_path / "c.pth")
    with pytest.raises(UnsafeInput, match=name):
        read_pickle(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("size", "stride", "numel"),
    [
        ((1 << 40,), (0,), 1),  # 4 TB out of one number
        ((1 << 20, 1 << 20), (0, 0), 2),
        ((1 << 40,), (1,), 1 << 40),  # a storage of 4 TB
        ((16,), (1,), 16),  # a storage that runs into what follows in the file
        ((4, 4), (1, 0), 2),
    ],
)
def test_lying_tensors_are_refused(tmp_path, size, stride, numel):
    lying_pth(tmp_path / "lie.pth", size=size, stride=stride, numel=numel)
    with pytest.raises(UnsafeInput):
        read_pickle(tmp_path / "lie.pth")


def test_refusing_four_terabytes_takes_little_memory(tmp_path):
    lying_pth(tmp_path / "lie.pth", size=(1 << 40,), stride=(0,), numel=1)
    script = (
        "import sys\n"
        "from vpgtrans_core.errors import UnsafeInput\n"
        "from vpgtrans_core.weights.pickles import read_pickle\n"
        "try:\n    read_pickle(sys.argv[1])\nexcept UnsafeInput:\n    pass\nelse:\n    sys.exit('accepted')\n"
        # VmHWM and not ru_maxrss, which begins with the size of the process that forked this one
        "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print(peak)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "lie.pth")], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 500_000


def test_self_containing_and_exponential_containers_end(tmp_path):
    nested: list = [torch.zeros(1)]
    for _ in range(60):
        nested = [nested, nested]
    nested.append(nested)
    torch.save({"model": {"x": torch.zeros(1)}, "more": nested}, tmp_path / "c.pth")
    assert tensors_in(read_pickle(tmp_path / "c.pth"), "c.pth").keys() == {"x"}


@pytest.mark.parametrize("keep", [0, 10, 400, -20])
def test_truncated_archives(tmp_path, keep):
    torch.save({"model": {"x": torch.zeros(1000)}}, tmp_path / "c.pth")
    data = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "c.pth").write_bytes(data[:keep])
    with pytest.raises(ModelError, match="truncated"):
        read_pickle(tmp_path / "c.pth")


def test_old_format_and_missing_file(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"before torch 1\.6"):
        read_pickle(tmp_path / "old.pth")
    with pytest.raises(ModelError, match="does not exist"):
        read_pickle(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="not a regular file but a folder"):
        read_pickle(tmp_path)


def test_bombs_and_damage_in_the_pickle(tmp_path):
    with_pickle(tmp_path / "bomb.pth", pickle.dumps({"a": bytes(1 << 20)}, 2), zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeInput, match="compressed"):
        read_pickle(tmp_path / "bomb.pth")

    class Bytes:
        def __reduce__(self):
            return bytearray, (1 << 42,)

    with_pickle(tmp_path / "bytes.pth", pickle.dumps({"a": Bytes()}, 2))
    with pytest.raises(UnsafeInput, match="bytearray"):
        read_pickle(tmp_path / "bytes.pth")
    with_pickle(tmp_path / "noise.pth", b"\x80\x02\xff\xff")
    with pytest.raises(UnsafeInput):
        read_pickle(tmp_path / "noise.pth")


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({"x": torch.eye(3).to_sparse()}, tmp_path / "c.pth")
    with pytest.raises(UnsafeInput):
        read_pickle(tmp_path / "c.pth")


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {"a": torch.zeros(1), "b": 2}, {}])
def test_no_state_dict(content):
    with pytest.raises(ModelError, match="no state dict"):
        tensors_in(content, "c.pth")
