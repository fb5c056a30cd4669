"""Runs with a cache: the same numbers, nothing computed twice, and nothing taken from a cache that does not belong."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.cache import store
from vpgtrans_core.cache.key import CacheKey
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.cache.shards import shard_names
from vpgtrans_core.cli.main import main
from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.images import Augmentation
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.loader import ReadOptions
from vpgtrans_core.errors import ModelError
from vpgtrans_core.run.pipeline import Silent, transfer
from vpgtrans_core.vpg.adapter import Preprocessing


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the ViT, one number a call; 0 where it was read from disk."""
    counts: list[int] = []
    features, read = QFormerVPG.features, QFormerVPG._read_vit

    def counted(self: QFormerVPG, pixels: torch.Tensor) -> torch.Tensor:
        counts.append(len(pixels))
        return features(self, pixels)

    def counted_reading(self: QFormerVPG) -> None:
        counts.append(0)
        read(self)

    monkeypatch.setattr(QFormerVPG, "features", counted)
    monkeypatch.setattr(QFormerVPG, "_read_vit", counted_reading)
    return counts


def run(world: Path, out: Path, cache: Path, target: str = "llama", **more: Any) -> list[tuple[Any, ...]]:
    """Transfer on a tiny world; return its losses."""
    values = {
        "source": str(world / "source"), "target": str(world / target), "data": [str(world / "data/captions.json")],
        "out": str(out), "cache": str(cache), "batch_size": 12, "workers": 0, "val_images": 4, "device": "cpu",
        "warmup_steps": 1, "stage1_steps": 6, "stage2_steps": 6, "augment": False, "save": "vpg", "early_stop": False,
        **more,
    }  # fmt: skip
    transfer(**values)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(m["stage"], m["step"], *(m.get(k, 0.0) for k in ("loss", "held_out_loss", "grad_norm"))) for m in lines]


def test_a_run_with_a_cache_gives_the_losses_of_one_without(cache_world: Path, tmp_path: Path) -> None:
    plain = run(cache_world, tmp_path / "plain", tmp_path / "unused", cache_features=False)
    kept = run(cache_world, tmp_path / "kept", tmp_path / "cache")
    again = run(cache_world, tmp_path / "again", tmp_path / "cache")
    assert again == kept
    for ours, theirs in zip(kept, plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert not (tmp_path / "unused").exists()


def test_each_image_is_computed_once_and_a_second_target_needs_no_vit(
    cache_world: Path, tmp_path: Path, seen: list[int]
) -> None:
    """Six steps of four images of twenty: the second epoch begins in a step that mixes new and known images."""
    run(cache_world, tmp_path / "llama", tmp_path / "cache", stage1_steps=20, stage2_steps=20)
    assert 24 <= sum(seen) <= 60  # outputs and features, once each, and what shared a step with them
    seen.clear()
    run(cache_world, tmp_path / "t5", tmp_path / "cache", target="t5", stage1_steps=20, stage2_steps=20)
    assert seen == []


def test_workers_read_the_cache_too(cache_world: Path, tmp_path: Path, seen: list[int]) -> None:
    first = run(cache_world, tmp_path / "one", tmp_path / "cache")
    seen.clear()
    assert run(cache_world, tmp_path / "two", tmp_path / "cache", workers=2) == first
    assert seen == []


def test_views_are_fixed_in_number_and_found_again(cache_world: Path, tmp_path: Path, seen: list[int]) -> None:
    more = {"augment": True, "views": 2, "stage1_steps": 15, "stages": [1]}
    first = run(cache_world, tmp_path / "one", tmp_path / "cache", **more)
    seen.clear()
    assert run(cache_world, tmp_path / "two", tmp_path / "cache", **more) == first
    assert seen == []
    run(cache_world, tmp_path / "three", tmp_path / "cache", **{**more, "seed": 1})
    assert sum(seen) > 0  # other crops


def test_augmentation_without_a_number_of_views_keeps_nothing(cache_world: Path, tmp_path: Path) -> None:
    run(cache_world, tmp_path / "out", tmp_path / "cache", augment=True, stages=[1])
    assert not (tmp_path / "cache").exists()


def test_another_vpg_never_uses_it(cache_world: Path, tmp_path: Path, seen: list[int]) -> None:
    from tests.run import tiny_world

    run(cache_world, tmp_path / "one", tmp_path / "cache", stages=[1])
    tiny_world.save_source(tmp_path / "other", cache_world / "opt", seed=5)
    seen.clear()
    run(cache_world, tmp_path / "two", tmp_path / "cache", stages=[1], source=str(tmp_path / "other"))
    assert sum(seen) >= 20


def test_a_damaged_shard_is_computed_again(cache_world: Path, tmp_path: Path, seen: list[int]) -> None:
    first = run(cache_world, tmp_path / "one", tmp_path / "cache", stages=[1])
    (folder,) = (tmp_path / "cache").iterdir()
    for name in shard_names(folder):
        file = folder / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    seen.clear()
    assert run(cache_world, tmp_path / "two", tmp_path / "cache", stages=[1]) == first
    assert sum(seen) >= 20
    seen.clear()
    run(cache_world, tmp_path / "three", tmp_path / "cache", stages=[1])
    assert seen == []


def test_more_than_the_budget_is_not_begun(cache_world: Path, tmp_path: Path) -> None:
    said: list[str] = []
    reporter = Silent()
    reporter.message = said.append  # type: ignore[method-assign]
    run(cache_world, tmp_path / "out", tmp_path / "cache", stages=[1], cache_gb=1e-9, reporter=reporter)
    assert any("outputs of 24 images" in text and "more than --cache-gb" in text for text in said)
    assert not (tmp_path / "cache").exists()


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    options = ReadOptions(Preprocessing(size=28))
    one = EntryNames(open_data([Listing.from_pairs([(picture("red"), ["a"]), (picture("blue"), ["b"])])]), options)
    two = EntryNames(open_data([Listing.from_pairs([(picture("blue"), ["c"]), (picture("green"), ["b"])])]), options)
    assert one.name(0, 1, 0) == two.name(0, 0, 0) != two.name(0, 1, 0)
    assert one.name(0, 0, 0) == one.name(0, 0, 1)  # without augmentation there is one view


def test_a_view_has_a_name_of_its_own() -> None:
    data = open_data([Listing.from_pairs([(picture("red"), ["a"])])])

    def name(view: int, **options: Any) -> bytes | None:
        values = {"augmentation": Augmentation(), "views": 4, **options}
        return EntryNames(data, ReadOptions(Preprocessing(size=28), **values)).name(0, 0, view)

    names = [
        name(0), name(1), name(0, seed=1), name(0, augmentation=Augmentation(crop_min=0.3)), name(0, augmentation=None)
    ]  # fmt: skip
    assert len(set(names)) == 5 and name(0) == names[0]


def test_a_changed_file_is_another_picture(tmp_path: Path) -> None:
    picture("red").save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a square"}\n')
    names = EntryNames(open_data([tmp_path]), ReadOptions(Preprocessing(size=28)))
    before = names.name(0, 0, 0)
    stamp = (tmp_path / "a.png").stat()
    picture("tan").save(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert before is not None and names.name(0, 0, 0) != before
    (tmp_path / "a.png").unlink()
    assert names.name(0, 0, 0) is None


def test_outputs_belong_to_all_weights_features_to_the_frozen_ones(cache_world: Path) -> None:
    vpg = QFormerVPG.load(cache_world / "source")
    outputs, features = (CacheKey.of(vpg, kind, torch.float32) for kind in ("outputs", "features"))
    assert outputs.shape == (4, 16) and features.shape == tuple(vpg.feature_shape)
    with torch.no_grad():
        next(p for _, p in vpg.trained()).add_(1)
    assert CacheKey.of(vpg, "features", torch.float32) == features
    assert CacheKey.of(vpg, "outputs", torch.float32) != outputs


def test_a_vit_that_is_read_late_is_the_same(cache_world: Path, tmp_path: Path) -> None:
    whole, late = (f(cache_world / "source") for f in (QFormerVPG.load, QFormerVPG.load_lazily))
    assert not any("encoder.layers" in name and "vision" in name for name, _ in late.named_parameters())
    assert all(late.fingerprint(trained=t) == whole.fingerprint(trained=t) for t in (True, False))
    late.to("cpu")
    pixels = torch.randn(2, 3, 28, 28)
    assert torch.equal(late(pixels), whole(pixels))
    assert late.state_dict().keys() == whole.state_dict().keys()
    assert not any(p.requires_grad for p in late.parameters())


def test_a_late_vit_is_checked_at_once(cache_world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cache_world / "source", tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("vision_model.encoder.layers.1.mlp.fc1.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.fc1\.weight"):
        QFormerVPG.load_lazily(folder)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def vpgt(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``vpgt cache ...`` in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code: Any = 0
        try:
            main(["cache", *arguments])
        except SystemExit as error:
            code = error.code or 0
        said = capsys.readouterr()
        return Done(int(code), said.out, said.err)

    return run


def test_the_commands(cache_world: Path, tmp_path: Path, seen: list[int], vpgt: Callable[..., Done]) -> None:
    where = ("--cache", str(tmp_path / "cache"))
    data = ("--from", str(cache_world / "source"), "--data", str(cache_world / "data/captions.json"), *where)
    for kind in ("outputs", "features"):
        done = vpgt("build", *data, "--kind", kind, "--workers", "0", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["entries"] > 0
    seen.clear()
    run(cache_world, tmp_path / "out", tmp_path / "cache")
    assert seen == []  # neither stage needed the ViT
    again = vpgt("build", *data, "--workers", "0", "--json")
    assert json.loads(again.out)["computed"] == 0
    caches = json.loads(vpgt("info", "--check", "--json", *where).out)["caches"]
    assert [c["damaged"] for c in caches] == [0, 0]
    assert "2 caches" in vpgt("info", *where).out
    wrong = vpgt("clear", Path(caches[0]["folder"]).name[:-1], *where)
    assert wrong.code == 2 and "did you mean" in wrong.err
    assert vpgt("clear", "--days", "1", "--yes", *where).out.startswith("0 caches")
    assert vpgt("clear", "--yes", *where).out.startswith("2 caches")
    assert "0 caches" in vpgt("info", *where).out


def test_build_takes_no_more_images_than_it_is_told(
    cache_world: Path, tmp_path: Path, seen: list[int], vpgt: Callable[..., Done]
) -> None:
    where = ("--cache", str(tmp_path / "cache"), "--workers", "0", "--json")
    data = ("--from", str(cache_world / "source"), "--data", str(cache_world / "data/captions.json"))
    done = vpgt("build", *data, *where, "--limit", "5")
    assert done.code == 0, done.err
    assert json.loads(done.out)["computed"] == sum(seen) == 5 and json.loads(done.out)["skipped"] == {}
    assert json.loads(vpgt("build", *data, *where, "--limit", "5").out)["computed"] == 0
    more = json.loads(vpgt("build", *data, *where, "--limit", "5", "--val-images", "2").out)
    assert 0 < more["computed"] <= 7


def test_build_fails_when_the_disk_fills(
    cache_world: Path, tmp_path: Path, vpgt: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_shard", full)
    done = vpgt(
        "build", "--from", str(cache_world / "source"), "--data", str(cache_world / "data/captions.json"),
        "--cache", str(tmp_path / "cache"), "--workers", "0",
    )  # fmt: skip
    assert done.code == 2
    assert "the disk is full" in done.err and str(tmp_path / "cache") in done.err and "--cache" in done.err
    assert re.search(r"all of it needs [\d,]+ bytes, [\d,]+ are free", done.err)


def test_build_says_what_it_would_take_when_that_is_too_much(
    cache_world: Path, tmp_path: Path, vpgt: Callable[..., Done]
) -> None:
    done = vpgt(
        "build", "--from", str(cache_world / "source"), "--data", str(cache_world / "data/captions.json"),
        "--cache", str(tmp_path), "--cache-gb", "0.0000001",
    )  # fmt: skip
    assert done.code == 2 and "GB" in done.err and not list(tmp_path.iterdir())
