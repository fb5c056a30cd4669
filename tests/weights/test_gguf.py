"""GGUF files: what lies about itself is refused before anything is read, and a small model comes back as a folder."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("gguf")

from vpgtrans_core.errors import ModelError, UnsafeInput
from vpgtrans_core.models.gguf_files import gguf_of, installed_files
from vpgtrans_core.weights.gguf import check_gguf


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_file(path, *, fields=b"", count=0, tensors=1, shape=(4, 2), kind=0, offset=0, data=32, version=3):
    """A file with one tensor; float32 is kind 0."""
    content = b"GGUF" + struct.pack("<IQQ", version, tensors, count) + fields
    content += text("w") + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    content += struct.pack("<IQ", kind, offset)
    content += b"\0" * (-len(content) % 32 + data)
    path.write_bytes(content)
    return path


def test_a_whole_file_passes(tmp_path):
    words = text("words") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    numbers = text("numbers") + struct.pack("<IIQ", 9, 5, 3) + b"\0" * 12
    alignment = text("general.alignment") + struct.pack("<II", 4, 32)
    check_gguf(gguf_file(tmp_path / "a.gguf", fields=words + numbers + alignment, count=3))


LIES = {
    "a tensor beyond the end": {"shape": (400, 200)},
    "an offset beyond the end": {"offset": 1 << 40},
    "sizes whose product is huge": {"shape": (1 << 40, 1 << 40)},
    "too many dimensions": {"shape": (1,) * 9},
    "an unknown type": {"kind": 77},
    "too many tensors": {"tensors": 1 << 40},
    "more tensors than there are": {"tensors": 50},
    "more fields than there are": {"count": 40},
    "a string that is too long": {"count": 1, "fields": text("a") + struct.pack("<IQ", 8, 1 << 60)},
    "a list that is too long": {"count": 1, "fields": text("a") + struct.pack("<IIQ", 9, 5, 1 << 60)},
    "lists in lists in lists": {"count": 1, "fields": text("a") + struct.pack("<IIQIQIQ", 9, 9, 1, 9, 1, 9, 1)},
    "no alignment": {"count": 1, "fields": text("general.alignment") + struct.pack("<II", 4, 0)},
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name: str, tmp_path):
    with pytest.raises(UnsafeInput, match=r"a\.gguf"):
        check_gguf(gguf_file(tmp_path / "a.gguf", **LIES[name]))


def test_every_cut_is_refused(tmp_path):
    whole = gguf_file(tmp_path / "a.gguf").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "b.gguf").write_bytes(whole[:length])
        with pytest.raises(UnsafeInput):
            check_gguf(tmp_path / "b.gguf")


def test_other_files_and_versions_are_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"PK\3\4" + b"\0" * 100)
    with pytest.raises(UnsafeInput, match="begin with GGUF"):
        check_gguf(tmp_path / "a.gguf")
    with pytest.raises(ModelError, match="version 1"):
        check_gguf(gguf_file(tmp_path / "b.gguf", version=1))
    with pytest.raises(ModelError, match="cannot read"):
        check_gguf(tmp_path / "c.gguf")


def test_what_a_path_means(tmp_path):
    assert gguf_of(tmp_path) is None and gguf_of(tmp_path / "none") is None
    file = gguf_file(tmp_path / "a.gguf")
    assert gguf_of(file) == gguf_of(tmp_path) == file
    gguf_file(tmp_path / "b.gguf")
    with pytest.raises(ModelError, match="2 GGUF files"):
        gguf_of(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert gguf_of(tmp_path) is None


def test_packages_are_found_without_being_imported(tmp_path, monkeypatch):
    package = tmp_path / "weights_of_somebody"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "a.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_files(["weights_of_somebody:a.gguf"]) == [package / "a.gguf"]
    assert installed_files(["weights_of_somebody:b.gguf"]) is None
    assert installed_files(["weights_of_nobody:a.gguf"]) is None
