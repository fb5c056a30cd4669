"""Entries come back as they were written; what is damaged, foreign or half written never does."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vpgtrans_core.cache import shards, store
from vpgtrans_core.cache.budget import plan_cache
from vpgtrans_core.cache.key import CacheKey
from vpgtrans_core.cache.listing import cache_folders, remove
from vpgtrans_core.cache.store import FeatureCache
from vpgtrans_core.data.tiles import Tiles, joined
from vpgtrans_core.files import cache_root

KEY = CacheKey("outputs", "a" * 64, "float32", {"size": 28}, (4, 6))
NAMES = [bytes([i]) * 16 for i in range(20)]
VALUES = torch.randn(20, 4, 6, generator=torch.Generator().manual_seed(0))


def filled(root: Path, key: CacheKey = KEY) -> FeatureCache:
    """A cache of twenty entries in two shards."""
    cache = FeatureCache.open(root, key)
    for part in (slice(0, 12), slice(12, 20)):
        cache.add(NAMES[part], VALUES[part])
        cache.flush()
    return cache


def found(cache: FeatureCache) -> list[int]:
    """The numbers of the entries that are there; each must be what was written."""
    numbers = []
    for number, name in enumerate(NAMES):
        if (entry := cache.get(name)) is not None:
            assert torch.equal(entry, VALUES[number].to(entry.dtype))
            numbers.append(number)
    return numbers


def test_entries_come_back_before_and_after_the_flush_and_in_the_next_run(tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path, KEY)
    cache.add(NAMES[:5], VALUES[:5])
    assert found(cache) == [0, 1, 2, 3, 4] and not shards.shard_names(cache.folder)
    cache.flush()
    assert found(cache) == found(FeatureCache.open(tmp_path, KEY)) == [0, 1, 2, 3, 4]
    assert len(cache) == 5 and cache.info()["bytes"] > 5 * KEY.entry_bytes


def test_an_entry_is_a_copy(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    entry = cache.get(NAMES[0])
    assert entry is not None
    entry.zero_()
    assert found(cache) == list(range(20))


def test_features_keep_their_precision(tmp_path: Path) -> None:
    key = replace(KEY, kind="features", dtype="bfloat16")
    entry = filled(tmp_path, key).get(NAMES[3])
    assert entry is not None and entry.dtype == torch.bfloat16 and torch.equal(entry, VALUES[3].bfloat16())


def test_shards_are_written_while_entries_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 4 * KEY.entry_bytes)
    cache = FeatureCache.open(tmp_path, KEY)
    for start in range(0, 10, 2):
        cache.add(NAMES[start : start + 2], VALUES[start : start + 2])
    assert found(FeatureCache.open(tmp_path, KEY)) == list(range(8))  # two entries are still pending


def test_the_first_value_wins(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.add([b"p" * 16], VALUES[:1])
    used = cache.add([NAMES[2], b"n" * 16, b"p" * 16], torch.ones(3, 4, 6))
    assert torch.equal(used, torch.stack([VALUES[2], torch.ones(4, 6), VALUES[0]]))
    cache.flush()
    assert found(FeatureCache.open(tmp_path, KEY)) == list(range(20))


def test_values_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path, KEY)
    values = VALUES[:3].clone()
    values[1, 0, 0] = float("nan")
    cache.add(NAMES[:3], values)
    assert found(cache) == [0, 2]


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, vpg="b" * 64),
        replace(KEY, kind="features"),
        replace(KEY, dtype="bfloat16"),
        replace(KEY, preprocessing={"size": 30}),
        replace(KEY, shape=(6, 4)),
    ],
)
def test_another_key_finds_nothing(tmp_path: Path, other: CacheKey) -> None:
    filled(tmp_path)
    assert found(FeatureCache.open(tmp_path, other)) == []
    assert found(FeatureCache.open(tmp_path, KEY)) == list(range(20))


def test_a_folder_whose_key_file_disagrees_is_emptied(tmp_path: Path) -> None:
    """Shards that were copied into the folder of another cache."""
    cache = filled(tmp_path)
    (cache.folder / "key.json").write_text('{"kind": "outputs", "vpg": "c"}')
    assert found(FeatureCache.open(tmp_path, KEY)) == []


def damage_at(file: Path, how: str) -> None:
    size = file.stat().st_size
    if how == "cut":
        os.truncate(file, size // 2)
    elif how == "gone":
        file.unlink()
    else:
        with file.open("r+b") as stream:
            stream.seek({"head": 20, "middle": size // 2, "end": size - 1}[how])
            byte = stream.read(1)[0]
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("how", ["cut", "gone", "head", "middle", "end"])
def test_a_damaged_shard_is_found_and_its_entries_are_written_anew(tmp_path: Path, how: str) -> None:
    first = shards.shard_names(filled(tmp_path).folder)[0]
    damage_at(tmp_path / KEY.folder / f"{first}.safetensors", how)
    cache = FeatureCache.open(tmp_path, KEY)
    assert cache.damaged == [first] and found(cache) == list(range(12, 20))
    cache.add(NAMES, VALUES)
    cache.flush()
    assert found(FeatureCache.open(tmp_path, KEY)) == list(range(20))


def test_a_damaged_manifest_costs_its_shard_only(tmp_path: Path) -> None:
    first = shards.shard_names(filled(tmp_path).folder)[0]
    (tmp_path / KEY.folder / f"{first}.json").write_text("{")
    assert found(FeatureCache.open(tmp_path, KEY)) == list(range(12, 20))


def test_a_flipped_bit_without_the_check_would_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: it is the SHA-256 that finds it."""
    first = shards.shard_names(filled(tmp_path).folder)[0]
    damage_at(tmp_path / KEY.folder / f"{first}.safetensors", "middle")
    monkeypatch.setattr(store, "damage", lambda folder, name: None)
    cache = FeatureCache.open(tmp_path, KEY)
    entries = [cache.get(name) for name in NAMES]
    assert not all(torch.equal(entry, value) for entry, value in zip(entries, VALUES, strict=True) if entry is not None)


def test_a_copy_in_another_process_reads_what_is_there_and_what_comes(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.add([b"x" * 16], VALUES[:1])
    copy = pickle.loads(pickle.dumps(cache))
    assert found(copy) == list(range(20)) and copy.get(b"x" * 16) is None
    cache.flush()
    assert torch.equal(copy.get(b"x" * 16), VALUES[0])
    copy.add([b"y" * 16], VALUES[:1])  # a reader writes nothing
    assert copy.get(b"y" * 16) is None


def test_a_full_disk_is_said_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache.open(tmp_path, KEY)

    def full(*args: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_shard", full)
    cache.add(NAMES, VALUES)
    cache.flush()
    assert torch.equal(cache.add(NAMES, VALUES), VALUES)
    cache.flush()
    assert sum("No space left" in r.getMessage() for r in caplog.records) == 1


def test_leftovers_of_a_kill_never_count_and_are_swept_when_old(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    first = shards.shard_names(cache.folder)[0]
    (cache.folder / f"{first}.json").unlink()
    temporary = cache.folder / ".1.safetensors.99.tmp"
    temporary.write_bytes(b"half")
    assert found(FeatureCache.open(tmp_path, KEY)) == list(range(12, 20))
    assert temporary.exists()  # another process may be writing it now
    for path in cache.folder.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    FeatureCache.open(tmp_path, KEY)
    assert not temporary.exists() and not (cache.folder / f"{first}.safetensors").exists()
    assert found(FeatureCache.open(tmp_path, KEY)) == list(range(12, 20))


WRITER = """
import sys, torch
from pathlib import Path
from tests.cache.test_store import KEY
from vpgtrans_core.cache.store import FeatureCache
from vpgtrans_core.data.tiles import Tiles, joined
cache = FeatureCache.open(Path(sys.argv[1]), KEY)
for number in range(10_000):
    value = torch.full((4, 4, 6), float(number))
    cache.add([number.to_bytes(8, "little") + bytes([i]) * 8 for i in range(4)], value)
    cache.flush()
    print(number, flush=True)
"""


@pytest.mark.parametrize("wait", [0.0, 0.003, 0.011, 0.023])
def test_a_kill_loses_nothing_that_was_saved(tmp_path: Path, wait: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    last = 4 + len(process.stdout.read().split())
    process.wait()
    cache = FeatureCache.open(tmp_path, KEY)
    assert not cache.damaged
    for number in range(last + 1):
        for i in range(4):
            entry = cache.get(number.to_bytes(8, "little") + bytes([i]) * 8)
            assert entry is not None and bool((entry == number).all())


def test_two_writers_share_a_cache(tmp_path: Path) -> None:
    one, two = FeatureCache.open(tmp_path, KEY), FeatureCache.open(tmp_path, KEY)
    one.add(NAMES[:10], VALUES[:10])
    two.add(NAMES[10:], VALUES[10:])
    one.flush()
    two.flush()
    assert found(one) == found(two) == list(range(20))


def test_the_plan_says_what_it_takes_and_refuses_what_is_too_much(tmp_path: Path) -> None:
    plan = plan_cache(tmp_path, KEY, images=1000, views=2, budget_gb=1)
    assert plan.bytes == 1000 * 2 * 4 * 6 * 4 and not plan.refusal and "1000 images x 2 views" in str(plan)
    assert "--cache-gb" in plan_cache(tmp_path, KEY, images=10**8, views=1, budget_gb=1).refusal
    assert "to spare" in plan_cache(tmp_path, KEY, images=10**12, views=1, budget_gb=1e9).refusal


def test_caches_are_listed_and_removed_and_nothing_else(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "key.json").write_text("{}")
    (cache,) = cache_folders(tmp_path, check=True)
    assert cache.entries == 20 and cache.damaged == 0 and cache.key["vpg"] == KEY.vpg
    remove(cache)
    assert cache_folders(tmp_path) == [] and (tmp_path / "photos").is_dir()


def test_the_root_is_given_or_the_environments_or_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VPGT_CACHE", raising=False)
    assert cache_root() == tmp_path / "vpgt"
    monkeypatch.setenv("VPGT_CACHE", "/elsewhere")
    assert cache_root() == Path("/elsewhere") and cache_root("/given") == Path("/given")


def test_pictures_in_tiles_come_back_with_their_sizes(tmp_path: Path) -> None:
    key = replace(KEY, tiles=3)
    counts = (1, 4, 2, 3)
    entries = Tiles(VALUES[:10], counts, tuple((10 * n, 10) for n in counts))
    cache = FeatureCache.open(tmp_path, key)
    cache.add(NAMES[:2], entries[:2])
    cache.flush()
    broken = entries[2:].change(lambda values: torch.where(values == values[0, 0, 0], torch.inf, values))
    changed = cache.add(NAMES[1:4], joined([entries[:1], broken]))  # the first value of a name wins
    assert changed.counts == (4, 2, 3) and torch.equal(changed.each[0], entries.each[1])
    cache.flush()
    for again in (cache, FeatureCache.open(tmp_path, key)):
        assert len(again) == 3 and again.get(NAMES[2]) is None  # what is not finite is not kept
        for number in (0, 1, 3):
            entry = again.get(NAMES[number])
            assert isinstance(entry, Tiles) and entry.sizes == (entries.sizes[number],)
            assert torch.equal(entry.values, entries.each[number])
    assert key.folder == KEY.folder and key.entry_bytes == 3 * KEY.entry_bytes  # the preprocessing tells them apart
