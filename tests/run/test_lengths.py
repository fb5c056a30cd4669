"""Labels that the limit of length cuts off are counted and told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import vpgtrans_core
from vpgtrans_core.data.limit import Limit
from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.run.lengths import EARLY, Lengths
from vpgtrans_core.settings import build


def cut_text(whole: int, limit: int) -> Text:
    ids = tuple(range(whole))
    return Text.of((), ids[:limit], cut=max(0, whole - limit), whole=whole)


def test_counts_and_message() -> None:
    lengths = Lengths()
    lengths.count(cut_text(whole, 8) for whole in range(1, 21))
    assert (lengths.labels, lengths.cut, lengths.texts) == (36 + 12 * 8, sum(range(1, 13)), 20)
    assert lengths.length_for(0.9) == 18 and lengths.length_for(1.0) == 20
    message = lengths.message(Limit(8))
    assert message is not None and "cuts off 78 of 210 labels, 37.1%" in message and "--max-tokens 18" in message
    again = Lengths()
    again.load_state_dict(json.loads(json.dumps(lengths.state_dict())))
    assert again == lengths
    again.add(lengths)
    assert again.cut == 2 * lengths.cut and again.length_for(0.9) == 18 and again.share == lengths.share


def test_nothing_is_said_where_nothing_is_cut() -> None:
    lengths = Lengths()
    lengths.count([cut_text(5, 8)] * EARLY)
    assert lengths.message(Limit(8)) is None and not lengths.alarming
    lengths.count([cut_text(9, 8)] * 200)
    assert lengths.message(Limit(8)) is not None and lengths.alarming


def test_the_advised_limit_is_longer() -> None:
    """Where the limit holds 90 % already, the one for nearly all is told, or for all."""
    lengths = Lengths()
    lengths.count([cut_text(5, 8)] * 95 + [cut_text(12, 8)] * 5)
    assert "--max-tokens 12 leaves 99% of the texts whole" in str(lengths.message(Limit(8)))
    lengths = Lengths()
    lengths.count([cut_text(5, 8)] * 999 + [cut_text(40, 8)])
    assert "--max-tokens 40 leaves 100% of the texts whole" in str(lengths.message(Limit(8)))


def test_a_text_without_any_label_is_named() -> None:
    lengths = Lengths()
    lengths.count([Text((), cut=4, whole=40)])
    assert (
        "1 texts have no label left" in str(lengths.message(Limit(8)))
        and lengths.describe()["texts_without_label"] == 1
    )


class Listener:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def __getattr__(self, name: str):
        return lambda *args, **values: None


def of_positions(world: Path, folder: Path, positions: int) -> Path:
    """The world's OPT, made for so many positions."""
    shutil.copytree(world / "opt", folder)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    table = next(name for name in weights if "embed_positions" in name)
    weights[table] = weights[table][: positions + 2].clone()  # OPT's table begins two rows earlier
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def short_run(world: Path, target: Path, out: Path, **more: object) -> dict:
    steps = {"stages": [1], "stage1_steps": 1, "batch_size": 12, "val_images": 4, "workers": 0, "device": "cpu"}
    places = {"source": str(world / "source"), "target": str(target), "data": (str(world / "data/captions.json"),)}
    return {**places, **steps, "out": str(out), "save": "vpg", **more}


@pytest.mark.parametrize("limit", [6, 32])
def test_a_run_records_and_tells_what_it_cuts(limit: int, tmp_path: Path) -> None:
    listener = Listener()
    settings = {"limit": 60, "val_images": 10, "stage1_steps": 2, "stage2_steps": 2, "batch_size": 40}
    result = vpgtrans_core.transfer(
        source="opt-mini-s",
        target="llama-mini",
        out=str(tmp_path / "out"),
        device="cpu",
        max_tokens=limit,
        reporter=listener,
        **settings,
    )
    told = [text for text in listener.warnings if "cuts off" in text]
    stages = result.record["stages"]
    assert len(told) == (2 if limit == 6 else 0)
    for stage in stages.values():
        assert (stage["labels_cut"] > 0) == (limit == 6) and stage["labels"] > 0
        assert limit == 32 or stage["tokens_of_90_percent"] > limit


def test_more_soft_prompts_than_positions_are_refused_at_the_plan_and_before_training(
    world: Path, tmp_path: Path
) -> None:
    values = short_run(world, of_positions(world, tmp_path / "few", 5), tmp_path / "out")
    with pytest.raises(ConfigError, match="has 5 positions; an image of 4 soft prompts and a text"):
        vpgtrans_core.plan(build({**values, "data": ()}))
    with pytest.raises(ConfigError, match="has 5 positions"):
        vpgtrans_core.transfer(**values)
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_a_vpg_that_gives_other_prompts_than_it_states_trains_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vpg_qformer.adapter import QFormerVPG

    prompts = QFormerVPG.prompts
    monkeypatch.setattr(QFormerVPG, "prompts", lambda self, features: prompts(self, features)[:, 1:])
    with pytest.raises(ModelError, match="gives 3 soft prompts of size 16, but states 4"):
        vpgtrans_core.transfer(**short_run(world, world / "opt", tmp_path / "out", val_images=0))
    metrics = tmp_path / "out/metrics.jsonl"
    assert not metrics.exists() or '"lr"' not in metrics.read_text()


@pytest.mark.parametrize("place", [0, -1])
def test_a_caption_with_a_token_beyond_the_table_is_seen_before_training(
    place: int, world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "opt", tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "more")
    rows = json.loads((tmp_path / "more/config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<extra {number}>" for number in range(rows - len(tokenizer))] + ["<beyond>"])
    tokenizer.save_pretrained(tmp_path / "more")
    shutil.copytree(world / "data", tmp_path / "data")
    content = json.loads((tmp_path / "data/captions.json").read_text())
    content["annotations"][place]["caption"] = "a red <beyond> circle"
    (tmp_path / "data/captions.json").write_text(json.dumps(content))
    values = short_run(world, tmp_path / "more", tmp_path / "out", data=(str(tmp_path / "data/captions.json"),))
    with pytest.raises(ModelError, match=f"contains the token '<beyond>' .id {rows}."):
        vpgtrans_core.transfer(**values)
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_a_limit_that_leaves_nothing_to_learn_is_refused() -> None:
    lengths = Lengths()
    lengths.count([Text((ImagePlace(), Tokens((2, 3, 4)), Tokens((9,), labelled=True)), cut=3, whole=7)] * 3)
    lengths.count([Text.of((), (5, 6))])
    with pytest.raises(DataError, match="leaves at most one label in 3 of 4 texts") as caught:
        lengths.check(Limit(4))
    assert "--max-tokens 7" in caught.value.hint
    lengths.count([Text.of((), (5, 6))] * 9)
    lengths.check(Limit(4))


def texts_of(tokens: int, images: int = 1) -> list[dict]:
    turns = [{"from": "human", "value": "<image>\n" * images + "what ?"}, {"from": "gpt", "value": "a red " * tokens}]
    return turns


@pytest.fixture
def long_talk(tmp_path: Path) -> Path:
    """Conversations of which some are longer than the miniature's 128 positions, and one shows 16 images, which take
    all of them."""
    from vpgtrans_core.miniature.data import items

    pictures = items("train", 24)
    for item in pictures:
        item.image.save(tmp_path / f"{item.key}.png")
    names = [f"{item.key}.png" for item in pictures]
    rows = [
        {"image": name, "conversations": texts_of(90 if number % 3 == 0 else 4)} for number, name in enumerate(names)
    ]
    rows.append({"image": names[:16], "conversations": texts_of(2, images=16)})
    (tmp_path / "talk.json").write_text(json.dumps(rows))
    return tmp_path / "talk.json"


TUNED = {"steps": 3, "batch_size": 12, "val_images": 0, "device": "cpu", "template": "vicuna", "max_bad_ratio": 0.5}


def test_texts_longer_than_the_positions_are_cut_and_told(long_talk: Path, tmp_path: Path) -> None:
    """OPT has an embedding for each of its positions, and no more; the run says so before its first step."""
    listener = Listener()
    result = vpgtrans_core.tune(
        "opt-mini-s", data=(str(long_talk),), out=str(tmp_path / "out"), max_tokens=400, reporter=listener, **TUNED
    )
    first, *more = [text for text in listener.warnings if "tokens" in text]
    assert first == (
        "stage 3: --max-tokens 400 is more than the language model can read: of its 128 positions 8 hold an image, and "
        "texts are cut after 120 tokens"
    )
    assert [text for text in more if "the limit of 120 tokens" in text and "part longer ones" in text]
    stage = result.record["stages"]["3"]
    assert stage["labels_cut"] > 0 and stage["tokens_of_90_percent"] > 120
    (bad,) = result.record["data"]["bad"]
    assert "16 images take 128 of the 128 positions" in json.dumps(bad)


def test_positions_that_suffice_are_not_spoken_of() -> None:
    limit = Limit(160, positions=128, num_prompts=8)
    assert limit.beyond(120) is None and "texts are cut after 120 tokens" in str(limit.beyond(121))
    assert Limit(100, 128, 8).beyond(500) is None and Limit(10**6).beyond(10**5) is None
    assert (limit.tokens(1), limit.tokens(2), limit.tokens(16), Limit(7).tokens(99)) == (120, 112, 0, 7)


def test_where_nothing_would_be_left_the_run_does_not_begin(long_talk: Path, tmp_path: Path) -> None:
    rows = json.loads(long_talk.read_text())[:-1]
    for row in rows:
        row["conversations"][0]["value"] = "<image>\n" + "what is it ? " * 60
    long_talk.write_text(json.dumps(rows))
    with pytest.raises(DataError, match="the limit of 120 tokens leaves at most one label") as error:
        vpgtrans_core.tune("opt-mini-s", data=(str(long_talk),), out=str(tmp_path / "out"), max_tokens=400, **TUNED)
    assert "the language model has room for 120 beside an image" in error.value.hint


def test_a_prompt_that_leaves_little_room_gets_a_short_answer() -> None:
    import torch

    from vpgtrans_core.errors import ModelError
    from vpgtrans_core.llm.adapter import GenerateOptions
    from vpgtrans_core.registry import default_registry
    from vpgtrans_core.settings import Settings
    from vpgtrans_core.vlm.captioning import load_model

    llm = load_model("opt-mini-s", Settings(device="cpu"), default_registry()).llm
    options = GenerateOptions(num_beams=1, max_new_tokens=30, min_new_tokens=30)
    soft = torch.zeros(1, 8, llm.embedding_size)
    for room, tokens in ((5, 5), (30, 30)):
        prompt = Text((ImagePlace(), Tokens((9,) * (128 - 8 - room))))
        ids: list[torch.Tensor] = []
        llm.decode = lambda made, ids=ids, **_: ids.append(made) or [""]
        llm.generate(soft, [prompt], options)
        assert ids[0].shape[1] == tokens
    with pytest.raises(ModelError, match="a prompt takes 128 positions with its images"):
        llm.generate(soft, [Text((ImagePlace(), Tokens((9,) * 120)))], options)
