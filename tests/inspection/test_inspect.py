"""`vpgt inspect` on the miniature: words, norms and places against what the models themselves compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from vpgtrans_core.cli.main import main
from vpgtrans_core.inspection.drawing import draw
from vpgtrans_core.inspection.inspect import inspect
from vpgtrans_core.miniature.data import items
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.testing.patch_vpg import PatchVPG
from vpgtrans_core.vlm.captioning import load_model

MODEL = "opt-mini-s"


@pytest.fixture(scope="module")
def model():
    return load_model(MODEL, Settings(device="cpu"), default_registry())


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return items("held", 1)[0].image


def test_the_soft_prompts_are_those_that_the_llm_reads(model, picture) -> None:
    report = inspect(model, [picture])
    from vpgtrans_core.data.images import normalize, pixels

    shown = normalize(pixels(picture, model.vpg.preprocessing)[None], model.vpg.preprocessing)
    with torch.no_grad():
        prompts = model.projector(model.vpg(shown))[0]
    assert [p.norm for p in report.images[0].prompts] == pytest.approx(prompts.norm(dim=-1).tolist(), rel=1e-5)
    table = model.llm.model.get_input_embeddings().weight
    assert (
        report.word_norms[0] <= report.word_norms[1] <= report.word_norms[2] <= float(table.norm(dim=-1).max()) + 1e-4
    )


def test_a_word_as_soft_prompt_is_read_as_that_word(model, picture) -> None:
    """With a projector that always gives the embedding of one word, every soft prompt is nearest to it."""
    word = model.llm.tokenizer(" tree", add_special_tokens=False).input_ids[-1]
    changed = load_model(MODEL, Settings(device="cpu"), default_registry())
    with torch.no_grad():
        changed.projector.weight.zero_()
        changed.projector.bias.copy_(changed.llm.embed(torch.tensor(word)))
    prompts = inspect(changed, [picture], words=2).images[0].prompts
    assert {p.words[0][0] for p in prompts} == {"tree"}
    assert all(p.words[0][1] == pytest.approx(1.0, abs=1e-3) and len(p.words) == 2 for p in prompts)


def test_where_the_queries_look(model, picture) -> None:
    """Shares of attention: they sum to at most one, and some queries' follow what is in the picture."""
    one = inspect(model, [picture]).images[0]
    looks = one.attention
    assert looks is not None and looks.shape[0] == model.vpg.num_prompts and looks.shape[1] == looks.shape[2]
    assert bool((looks >= 0).all()) and bool((looks.sum((1, 2)) <= 1 + 1e-5).all())
    mirrored = inspect(model, [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]).images[0].attention
    assert mirrored is not None
    straight, flipped = looks.flatten(1), mirrored.flip(2).flatten(1)
    agree = torch.cosine_similarity(straight - straight.mean(1, keepdim=True), flipped - flipped.mean(1, keepdim=True))
    same = torch.cosine_similarity(
        straight - straight.mean(1, keepdim=True), mirrored.flatten(1) - mirrored.flatten(1).mean(1, keepdim=True)
    )
    # Queries that ask what stands in one place stay there; the others follow the things in the picture.
    assert float((agree - same).max()) > 0.2, (agree, same)


def test_attention_does_not_change_what_the_vpg_computes(model, picture) -> None:
    features = torch.randn(2, *model.vpg.feature_shape)
    before = model.vpg.prompts(features)
    kernel = model.vpg.qformer.config._attn_implementation
    assert model.vpg.attention_maps(features) is not None
    assert model.vpg.qformer.config._attn_implementation == kernel
    assert torch.equal(model.vpg.prompts(features), before)


def test_a_family_without_queries_says_so(model, picture) -> None:
    assert PatchVPG().attention_maps(torch.zeros(1, 4, 12)) is None
    from dataclasses import replace

    from vpgtrans_core.cli.inspecting import table

    report = inspect(model, [picture])
    blind = replace(report, images=(replace(report.images[0], attention=None),))
    assert "no queries that tell where they look" in table(blind) and blind.as_dict()["images"][0]["attention"] is None
    assert draw(blind).size == draw(report).size


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture, picture: Image.Image) -> None:
    file, out = tmp_path / "one.png", tmp_path / "inspect.png"
    picture.save(file)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["inspect", MODEL, str(file), str(file), "--picture", str(out), *arguments])
        assert end.value.code in (0, None)
        return capsys.readouterr().out

    shown = run()
    assert shown.count("nearest words") == 2 and str(out) in shown
    made = json.loads(run("--json", "--words", "3"))
    assert len(made["images"]) == 2 and len(made["images"][0]["prompts"]) == 8
    assert len(made["images"][0]["prompts"][0]["words"]) == 3
    one, two = Image.open(out).size
    assert one > 8 * 150 and two > 2 * 200


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture, picture: Image.Image) -> None:
    picture.save(tmp_path / "one.png")
    for arguments, words in (
        ([str(tmp_path / "none.png")], "cannot read the image"),
        ([str(tmp_path / "one.png"), "--picture", str(tmp_path / "nowhere" / "x.png")], "cannot write the picture"),
        ([str(tmp_path / "one.png"), "--picture", str(tmp_path / "x.strange")], "cannot write the picture"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["inspect", MODEL, *arguments])
        assert end.value.code == 2 and words in capsys.readouterr().err
