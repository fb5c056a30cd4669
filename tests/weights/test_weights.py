"""The gate for safetensors: lazy reading by name, strict loading, writing that is whole or not at all."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vpgtrans_core.errors import ModelError, UnsafeInput
from vpgtrans_core.weights import (
    INDEX,
    Weights,
    check_finite,
    is_finite,
    load_strict,
    read_json,
    read_tensors,
    save_model_tensors,
    save_tensors,
    sha256_file,
    sha256_tensors,
    tensor_shapes,
)


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {"a.weight": torch.randn(5, 3), "a.bias": torch.randn(5).half(), "b": torch.randn(7, 2).bfloat16()}


@pytest.mark.parametrize("shard_size", [10_000, 40])
def test_folder_round_trip(tmp_path, tensors, shard_size):
    save_model_tensors(tmp_path, tensors, shard_size=shard_size)
    assert (tmp_path / INDEX).exists() == (shard_size == 40)
    weights = Weights(tmp_path)
    assert set(weights) == set(tensors) and len(weights) == 3 and "b" in weights
    assert weights.shape("b") == (7, 2)
    assert torch.equal(weights.rows("b", 2, 5), tensors["b"][2:5])
    assert tensor_shapes(tmp_path) == {k: tuple(v.shape) for k, v in tensors.items()}
    read = read_tensors(tmp_path, ["a.bias", "b"])
    assert all(torch.equal(read[k], tensors[k]) and read[k].dtype == tensors[k].dtype for k in ("a.bias", "b"))


def test_pickled_folder_reads_the_same(tmp_path, tensors):
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    weights = Weights(tmp_path)
    assert weights.shape("b") == (7, 2)
    assert torch.equal(weights.read("a.weight"), tensors["a.weight"])
    assert torch.equal(weights.rows("b", 2, 5), tensors["b"][2:5])


def test_missing_names_are_all_listed(tmp_path, tensors):
    save_model_tensors(tmp_path, tensors)
    with pytest.raises(ModelError, match=r"missing \(2\): x, y"):
        read_tensors(tmp_path, ["a.bias", "x", "y"])
    with pytest.raises(ModelError, match="did you mean"):
        Weights(tmp_path).read("a.weigth")


def test_folders_that_hold_no_weights(tmp_path):
    with pytest.raises(ModelError, match="holds no weights"):
        Weights(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        Weights(tmp_path / "nothing")


def test_index_may_not_leave_its_folder_or_name_what_is_missing(tmp_path, tensors):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors, tmp_path / "secret.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"b": "../secret.safetensors"}}))
    with pytest.raises(UnsafeInput, match="points out of its folder"):
        Weights(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"b": "gone.safetensors"}}))
    with pytest.raises(ModelError, match="do not exist"):
        Weights(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": []}))
    with pytest.raises(ModelError, match="no weight_map"):
        Weights(folder)
    (folder / INDEX).write_text("[" * 100_000)
    with pytest.raises(ModelError, match="cannot read"):
        Weights(folder)


def _raw(header: dict | bytes, data: bytes = b"", claim: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claim is None else claim) + text + data


FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        _raw({"x": FLOATS}, b"\0" * 8, claim=1 << 62),  # a header longer than the file
        _raw({"x": FLOATS}, b"\0" * 4),  # cut short
        _raw({"x": FLOATS}, b"\0" * 80),  # bytes that no tensor owns
        _raw({"x": {**FLOATS, "shape": [1 << 40]}}, b"\0" * 8),  # 4 TB
        _raw({"x": {**FLOATS, "data_offsets": [0, 1 << 42]}}, b"\0" * 8),
        _raw({"x": {**FLOATS, "data_offsets": [8, 0]}}, b"\0" * 8),
        _raw({"x": FLOATS, "y": FLOATS}, b"\0" * 8),  # overlapping
        _raw({"x": {**FLOATS, "dtype": "F31"}}, b"\0" * 8),
        _raw(b"{broken", b"\0" * 8),
    ],
    ids=["empty", "short", "header", "cut", "surplus", "shape", "offset", "backwards", "overlap", "dtype", "json"],
)
def test_lying_headers(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UnsafeInput):
        Weights(tmp_path).read("x")


def test_load_strict_lists_everything_at_once():
    module = nn.Linear(3, 2)
    with pytest.raises(ModelError) as caught:
        load_strict(module, {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}, "there")
    text = str(caught.value)
    assert "missing (1): bias" in text and "unexpected (1): extra" in text and "weight [2, 4] instead of [2, 3]" in text


def test_load_strict_on_the_meta_device_with_dtypes():
    with torch.device("meta"):
        module = nn.Linear(3, 2).requires_grad_(False)
    state = {"weight": torch.randn(2, 3).half(), "bias": torch.randn(2)}
    load_strict(module, state, "there", dtype=lambda name: torch.float32)
    assert torch.equal(module.weight, state["weight"].float()) and not module.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(dtype, value):
    if dtype is torch.float8_e4m3fn:
        value = float("nan")  # this format has no infinity
    bad = torch.zeros(10).to(dtype)
    assert is_finite(bad) and is_finite(torch.zeros(0)) and is_finite(torch.ones(3, dtype=torch.int64))
    bad = bad.float().index_fill(0, torch.tensor([7]), value).to(dtype)
    with pytest.raises(ModelError, match=r"q\.bad"):
        check_finite({"good": torch.zeros(2), "q.bad": bad}, "there")


def test_sha256_of_tensors_does_not_depend_on_the_files(tmp_path, tensors):
    save_model_tensors(tmp_path, tensors, shard_size=40)
    assert sha256_tensors(read_tensors(tmp_path, tensors)) == sha256_tensors(tensors)
    changed = {**tensors, "b": tensors["b"] + 1}
    assert sha256_tensors(changed) != sha256_tensors(tensors)
    renamed = {("c" if k == "b" else k): v for k, v in tensors.items()}
    assert sha256_tensors(renamed) != sha256_tensors(tensors)


def test_saving_obeys_the_umask_and_leaves_nothing_behind(tmp_path, tensors):
    old = os.umask(0o027)
    try:
        save_tensors(tmp_path / "x.safetensors", tensors, {"note": "hello"})
    finally:
        os.umask(old)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert len(sha256_file(tmp_path / "x.safetensors")) == 64


def test_a_save_that_fails_keeps_the_old_file(tmp_path, tensors, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_tensors(path, tensors)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vpgtrans_core.weights.gate.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_tensors(path, {"b": torch.zeros(1)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_shared_and_strided_tensors_are_written_apart(tmp_path):
    base = torch.randn(4, 4)
    save_tensors(tmp_path / "x.safetensors", {"a": base, "b": base, "c": base.t(), "d": base[:2]})
    read = read_tensors(tmp_path / "x.safetensors", "abcd")
    assert torch.equal(read["b"], base) and torch.equal(read["c"], base.t()) and torch.equal(read["d"], base[:2])


def test_json_from_outside(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ModelError, match="does not hold a json object"):
        read_json(tmp_path / "list.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot read"):
        read_json(tmp_path / "bytes.json")
