"""The source describes images: in whole runs, on one and two processes, stopped and resumed, and with wrong input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vpg_qformer.adapter import QFormerVPG

from tests.run import tiny_world
from vpgtrans_core.cache.opening import Caches
from vpgtrans_core.cli.main import main
from vpgtrans_core.cli.plan import cost_text
from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.pictures import Wanted
from vpgtrans_core.errors import ConfigError, DataError, VpgtError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.sampling import GivenDraws
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.miniature.data import items, save
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.planning.cost.assumptions import assumptions_for
from vpgtrans_core.planning.cost.chips import chip, chips
from vpgtrans_core.planning.cost.estimate import Cost, Estimator
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.feed import open_training_data
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings, build
from vpgtrans_core.teaching import sampler, teacher
from vpgtrans_core.teaching.sampler import Sampler
from vpgtrans_core.vlm.assemble import load_whole
from vpgtrans_core.vlm.model import VLModel
from vpgtrans_core.vpg.adapter import VPG

PICTURES = 40
SHORT: dict[str, Any] = {
    "source": "opt-mini-s", "target": "llama-mini", "device": "cpu", "captions": "source:2", "val_images": 4,
    "stage1_steps": 1, "stage2_steps": 1, "batch_size": 16, "save": "vpg",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of miniature pictures without captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for item in items("train", PICTURES):
        item.image.save(folder / f"{item.key}.png")
    return folder


@pytest.fixture(scope="module")
def human(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of other miniature pictures with captions."""
    folder = tmp_path_factory.mktemp("human")
    save(items("val", 20), folder)
    return folder


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("made")
    transfer(**SHORT, data=(str(pictures),), out=str(out / "run"), cache=str(out / "cache"))
    return out / "run"


@pytest.fixture(scope="module")
def source() -> VLModel:
    settings = Settings(device="cpu")
    found = resolve_source("opt-mini-s", default_registry(), settings)
    return load_whole(found, choose_machine(settings, "float32"), settings)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "source_captions/1.jsonl").read_text().splitlines()]


def test_a_run_on_pictures_alone_tells_where_its_captions_came_from(made: Path, pictures: Path) -> None:
    record, told = json.loads((made / "run.json").read_text()), lines(made)
    assert [one["image"] for one in told] == sorted(path.name for path in pictures.iterdir())
    captions = record["captions"]
    assert captions["sampled"] == 2 * PICTURES == captions["kept"] + sum(captions["dropped"].values())
    assert captions["kept"] == sum(len(one["captions"]) for one in told)
    assert (captions["by"], captions["temperature"]) == ("opt-mini-s", 0.7)
    assert record["data"]["sources"][0]["captions_by"] == "source opt-mini-s"
    card = (made / "README.md").read_text()
    assert f"written by opt-mini-s itself for {captions['described']} images without captions" in card
    assert f"{sum(captions['dropped'].values())} of {2 * PICTURES} dropped" in card


def test_captions_speak_of_their_pictures(made: Path) -> None:
    """The source is right about most of its own training pictures; captions in another order would not be."""
    by_key = {f"{item.key}.png": item for item in items("train", PICTURES)}
    right = wrong = 0
    for one, other in zip(told := lines(made), [*told[7:], *told[:7]], strict=True):
        there = {thing.noun for thing in by_key[one["image"]].scene.things}
        right += sum(any(noun in text for noun in there) for text in one["captions"])
        wrong += sum(any(noun in text for noun in there) for text in other["captions"])
    assert right > 1.5 * wrong


def test_the_listing_is_data_for_another_run(made: Path, pictures: Path) -> None:
    (listing,) = open_data([f"{made / 'source_captions/1.jsonl'}:{pictures}"]).listings
    told = [one for one in lines(made) if one["captions"]]
    assert [(s.key, [c.text for c in s.captions]) for s in listing] == [(o["image"], o["captions"]) for o in told]


def test_two_processes_write_what_one_writes(made: Path, pictures: Path, source: VLModel, tmp_path: Path) -> None:
    settings = build(SHORT | {"cache": str(tmp_path)})
    wanted: list[Any] = []
    open_data([str(pictures)], wanted=Wanted(2, lambda listing: wanted.append(listing) or listing))
    machine, caches = choose_machine(settings, "float32"), Caches()
    each = [list(Sampler(source, machine, settings, 2, caches).batches(wanted[0], 0, rank, 2)) for rank in (0, 1)]
    assert [len(batches) for batches in each] == [1, 1]  # 32 pictures and 8
    said = {name: {text for text, _ in texts} for batches in each for batch in batches for name, _, texts, _ in batch}
    for one in lines(made):
        assert set(one["captions"]) <= said[one["image"]]
        assert len(one["captions"]) == len(said[one["image"]]) - sum(
            v for k, v in one["dropped"].items() if k != "duplicate"
        )


def test_a_stopped_run_goes_on_where_it_stopped(
    made: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = SHORT | {"data": (str(pictures),), "out": str(tmp_path / "run"), "cache": str(tmp_path / "cache")}
    monkeypatch.setattr(sampler.Sampler, "_batch", _failing(sampler.Sampler._batch, after=1))
    with pytest.raises(KeyboardInterrupt):
        transfer(**values)
    monkeypatch.undo()
    assert len(lines(tmp_path / "run")) == sampler.BATCH
    batches = []
    real = sampler.Sampler._batch
    monkeypatch.setattr(sampler.Sampler, "_batch", lambda self, *a: batches.append(1) or real(self, *a))
    with pytest.raises(ConfigError, match="not empty"):  # hours of captions are not thrown away
        transfer(**values)
    transfer(**values, resume=True)
    assert len(batches) == 1
    assert lines(tmp_path / "run") == lines(made)
    written = [sorted(folder.glob("*.safetensors")) for folder in (made, tmp_path / "run")]
    assert written[0]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


def _failing(real: Any, after: int) -> Any:
    calls = []

    def batch(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(self, *arguments)

    return batch


def test_a_resumed_run_does_not_describe_again_unless_an_image_changed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "pictures"
    copy.mkdir()
    for path in sorted(pictures.iterdir())[:10]:
        (copy / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "run"
    values = SHORT | {"data": (str(copy),), "out": str(out), "cache": str(tmp_path / "cache"), "val_images": 0}
    monkeypatch.setattr("vpgtrans_core.run.run.Run._load_vpg", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        transfer(**values)
    monkeypatch.undo()
    monkeypatch.setattr(teacher, "load_whole", lambda *_: pytest.fail("the source is loaded again"))
    changed = copy / sorted(path.name for path in copy.iterdir())[3]
    before = changed.read_bytes()
    Image.new("RGB", (48, 48), "red").save(changed)
    with pytest.raises(ConfigError, match=rf"{changed.name} has changed since the source described it"):
        transfer(resume=True, out=str(out))
    changed.write_bytes(before)
    assert transfer(resume=True, out=str(out)).record["captions"]["images"] == 10


def _interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_the_vpg_computes_each_picture_once_for_captions_and_training(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    real = QFormerVPG.features
    monkeypatch.setattr(QFormerVPG, "features", lambda self, x: computed.append(len(x)) or real(self, x))
    assert issubclass(QFormerVPG, VPG)
    transfer(**SHORT, data=(str(pictures),), out=str(tmp_path / "run"), cache=str(tmp_path / "cache"))
    assert sum(computed) == PICTURES


def test_human_captions_are_mixed_in_by_share_and_held_out(pictures: Path, human: Path, tmp_path: Path) -> None:
    settings = build(SHORT | {"data": (str(human), str(pictures)), "caption_share": 0.25})
    made = plan(settings, downloads=False)
    assert made.data is not None
    assert made.data.described_images == PICTURES
    assert "the source describes 40 images, with up to 2 captions each, sampled at temperature 0.7" in str(made)
    data = open_training_data(made.settings).train
    assert data.ratios == (0.75, 0.25)
    assert [len(rows) for rows in data.held_out] == [4, 0]
    draws = [draw.source for step in range(100) for draw in data.order(0, 100).step(step)]
    assert np.mean(draws) == pytest.approx(0.25)


def test_a_folder_in_which_some_pictures_have_captions_has_two_parts(pictures: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(pictures.iterdir())[:6]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        if number % 2:
            (tmp_path / path.with_suffix(".txt").name).write_text("a caption")
    whole = open_data([str(tmp_path)], wanted=Wanted(3))
    assert [(len(part), part.awaits, part.captions_by) for part in whole.listings] == [(3, 0, ""), (3, 3, "")]
    names = [sample.image.name for part in whole.listings for sample in part]
    assert sorted(names) == sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == [sample.key for part in whole.listings for sample in part]


def test_greedy_captions_are_those_of_generate(source: VLModel) -> None:
    pixels = torch.stack(
        [torch.from_numpy(np.array(item.image.convert("RGB"))).permute(2, 0, 1) for item in items("train", 6)]
    )
    prompts = source.soft_prompts(pixels, "pixels")
    sampled = source.llm.sample(prompts, torch.zeros(6, 30), 0.0)
    options = GenerateOptions(num_beams=1, min_new_tokens=1)
    assert [one.text for one in sampled] == source.llm.generate(prompts, "", options)
    assert all(one.ended for one in sampled)
    short = source.llm.sample(prompts, torch.zeros(6, 3), 0.0)
    assert not any(one.ended for one in short)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_choose_tokens_as_often_as_they_are_likely(temperature: float) -> None:
    scores = torch.randn(1, 12).expand(10_000, 12)
    draws = (torch.arange(10_000, dtype=torch.float64) / 10_000)[:, None]
    chosen = GivenDraws(temperature, draws)(torch.zeros(10_000, 0, dtype=torch.long), scores).argmax(-1)
    share = torch.bincount(chosen, minlength=12) / 10_000
    torch.testing.assert_close(share, (scores[0] / temperature).softmax(-1), atol=2e-4, rtol=0)


@pytest.fixture(scope="module")
def babbling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of random weights."""
    root = tmp_path_factory.mktemp("babbling")
    tiny_world.save_source(root / "source", tiny_world.save_llm(root / "opt", "opt"))
    return root


def test_a_source_that_babbles_is_refused(babbling: Path, pictures: Path, tmp_path: Path) -> None:
    values = SHORT | {"source": str(babbling / "source"), "target": str(babbling / "opt"), "augment": False}
    values |= {"caption_temperature": 5.0, "cache": str(tmp_path / "cache"), "workers": 0}
    with pytest.raises(DataError, match="wrote 80 captions of 40 images; 0 are kept, dropped: ") as error:
        transfer(**values, data=(str(pictures),), out=str(tmp_path / "run"))
    assert "For instance:" in error.value.message
    assert "vpgt caption" in (error.value.hint or "")


def test_a_source_without_a_language_model_is_refused_before_anything_is_loaded(
    babbling: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--from", "vpg-mini", "--to", "llama-mini", "--start", "random", "--captions", "source"]
    with pytest.raises(SystemExit, match="2"):
        main(["transfer", *arguments, "--data", str(pictures), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert "is a VPG without a language model: it cannot describe images" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"captions": "me"}, "captions: must be source or source:N"),
        ({"captions": "source:0"}, "captions: must be source or source:N"),
        ({"captions": None, "caption_share": 0.5}, "caption_share: there are no captions by the source"),
        ({"caption_share": 1.0}, "caption_share: must be below 1"),
        ({"caption_temperature": -1}, "caption_temperature: must not be negative"),
    ],
)
def test_wrong_settings_are_told(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(SHORT | values)


def test_empty_folders_and_pictures_without_the_setting_are_refused_with_advice(
    pictures: Path, human: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        transfer(**SHORT, data=(str(tmp_path / "empty"),), out=str(tmp_path / "run"))
    with pytest.raises(DataError) as error:
        open_data([str(pictures)])
    assert "--captions source" in (error.value.hint or "")
    with pytest.raises(VpgtError, match="there are no images with captions of their own"):
        plan(build(SHORT | {"data": (str(pictures),), "caption_share": 0.5}), downloads=False)


def test_the_plan_counts_what_the_captions_cost(pictures: Path) -> None:
    two, four = (cost(pictures, captions) for captions in ("source:2", "source:4"))
    assert two.describing is not None
    assert four.describing is not None
    assert two.describing.captions == 2 * PICTURES
    assert two.parts == (two.describing, *two.looks, *two.stages)
    once, twice = two.describing.flops, four.describing.flops
    assert twice.llm_forward == pytest.approx(2 * once.llm_forward)
    assert twice.features == once.features  # the VPG runs once an image


def cost(pictures: Path, captions: str) -> Cost:
    settings = build(SHORT | {"data": (str(pictures),), "captions": captions})
    registry, gpu = default_registry(), chip("a100", chips())
    made = plan(settings, registry=registry, downloads=False)
    found = Estimator(made, registry, gpu, assumptions_for(made, gpu)).cost()
    text = "\n".join(line for block in cost_text(made, found, chips()) for line in block)
    assert "captions by the source" in text
    assert "sampling captions reaches 1/10 of that share" in text
    return found
