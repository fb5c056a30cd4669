"""LLaVA-NeXT and LLaVA-OneVision, whose pictures have tiles: transformers' own classes judge every step."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPVisionConfig, SiglipVisionConfig
from typer.testing import CliRunner
from vpg_llava.anyres import AnyRes
from vpg_llava.cards import NEXT_SOURCES, ONEVISION_SOURCES
from vpg_llava.classes import CLASSES, image_processor
from vpg_llava.tiled import LlavaNextVPG, LlavaOnevisionVPG

from tests.vpg.judging import TEXT, agree, draw, judge_all, odd_pictures, run, write_all
from tests.vpg.without_videos import OnevisionProcessor
from vpgtrans_core import Settings
from vpgtrans_core.cli.main import app
from vpgtrans_core.data.conversation import Caption
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.data.tiles import Tiles, joined, stacked
from vpgtrans_core.registry import default_registry
from vpgtrans_core.testing.tiny_models import tiny_config, tiny_tokenizer
from vpgtrans_core.vlm.captioning import load_model
from vpgtrans_core.vpg.image_token import with_image_token
from vpgtrans_core.vpg.separators import outputs_for
from vpgtrans_core.weights import Weights

pytest_plugins = ["tests.vpg.shared"]
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
RESOLUTIONS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84], [84, 84]]
KINDS = {"llava_next": LlavaNextVPG, "llava_onevision": LlavaOnevisionVPG}


def save_source(folder: Path, kind: str) -> Path:
    """A model of this kind that transformers itself made and wrote; OneVision's pictures have two tiles' worth."""
    torch.manual_seed(0)
    words = tiny_tokenizer(False)
    text = tiny_config("llama", words, {"tie_word_embeddings": False})
    token = with_image_token(words, text.vocab_size, {1, 2})
    vision = CLIPVisionConfig(**VISION) if kind == "llava_next" else SiglipVisionConfig(**VISION)
    own = {} if kind == "llava_next" else {"vision_aspect_ratio": "anyres_max_2"}
    config = CLASSES[kind].config(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_index=token.id,
        image_grid_pinpoints=RESOLUTIONS, **own,
    )  # fmt: skip
    model = CLASSES[kind].model(config)
    draw(model)
    model.save_pretrained(folder)
    vpg = KINDS[kind].from_config(json.loads((folder / "config.json").read_text()))
    vpg.save_processor(folder, token.tokenizer, None)
    vpg.image_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    return {kind: save_source(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> list[Path]:
    """Pictures of several shapes: of one, two, three and nine tiles besides the whole."""
    folder, paths = tmp_path_factory.mktemp("shapes"), []
    for width, height in ((20, 20), (60, 30), (27, 90), (90, 80)):
        values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(width))
        paths.append(folder / f"{width}.png")
        Image.fromarray(values.to(torch.uint8).numpy()).save(paths[-1])
    return paths


RUNS = {
    "narrower": ("llama", {}),
    "wider": ("qwen2", {"bos": "first"}),
    "tied": ("smollm", {"method": "inherit", "cache_features": True}),
}


@pytest.fixture(scope="module")
def written(sources, data, targets, tmp_path_factory) -> dict[str, dict[str, Path]]:
    home = tmp_path_factory.mktemp("written")
    return {kind: write_all(RUNS, sources[kind], targets, data, home / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_alone_gives_our_loss_and_our_captions(kind, written, shapes):
    every = judge_all(CLASSES[kind].model.__name__, written[kind], shapes)
    for picture, judged in zip(shapes, every, strict=True):
        for name, folder in written[kind].items():
            agree(folder, picture, judged[name])


@pytest.mark.parametrize("kind", KINDS)
def test_soft_prompts_are_transformers_image_features(kind, sources, shapes):
    model = CLASSES[kind].model.from_pretrained(sources[kind]).eval()
    vpg = KINDS[kind].load(sources[kind])
    weight, bias = KINDS[kind].load_projector(sources[kind])
    for path in shapes:
        given = image_processor(vpg.preprocessing)(Image.open(path), return_tensors="pt")
        shown = pixels(Image.open(path), vpg.preprocessing).change(lambda v: normalize(v, vpg.preprocessing))
        with torch.no_grad():
            theirs = model.model.get_image_features(given["pixel_values"], given["image_sizes"]).pooler_output[0]
            (ours,) = vpg.arrange(shown.change(vpg))
        assert vpg.preprocessing.runs(*Image.open(path).size) == (len(theirs),)
        assert torch.allclose(ours @ weight.T + bias, theirs, atol=3e-5)


def test_pictures_of_several_shapes_share_a_batch(sources, shapes):
    """Each picture's loss is what it has alone, however many tokens the others have; captions, too."""
    model = load_model(str(sources["llava_next"]), Settings(device="cpu"), default_registry())
    shown = [stacked([pixels(Image.open(path), model.vpg.preprocessing)]) for path in shapes]
    texts = [[model.llm.text.encode(Caption(text), 32, Random(0)) for text in (TEXT, TEXT + " on")] for _ in shapes]

    def loss(part, said):
        with torch.no_grad():
            rows = model.llm.layout(said, model.shown(part))
            return float(model.llm.loss(model.soft_prompts(part, "pixels"), rows)), rows

    alone = [loss(part, [said])[0] for part, said in zip(shown, texts, strict=True)]
    together, rows = loss(joined(shown), texts)
    assert together == pytest.approx(sum(alone), rel=1e-5)
    lengths = [sum(model.vpg.preprocessing.runs(*part.sizes[0])) for part in shown]
    assert len(set(lengths)) == len(shapes) and rows.positions < 2 * sum(lengths)  # captions share their picture
    said = model.generate(joined(shown))
    assert said == [text for part in shown for text in model.generate(part)]


@pytest.mark.parametrize("kind", KINDS)
def test_stage_two_moves_the_mlp_and_the_row_end(kind, sources, data, targets, tmp_path):
    run(sources[kind], targets["qwen2"], data, tmp_path / "out", save="vpg")
    old, new = KINDS[kind].load(sources[kind]).state_dict(), KINDS[kind].load(tmp_path / "out").state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"image_newline", *(f"multi_modal_projector.linear_1.{part}" for part in ("weight", "bias"))}


def test_with_a_cache_the_run_is_the_same(sources, data, targets, tmp_path):
    cache = str(tmp_path / "cache")
    folders = {name: tmp_path / name for name in ("none", "fills", "reads")}
    for name, out in folders.items():
        run(sources["llava_next"], targets["qwen2"], data, out, cache_features=name != "none", cache=cache)
    weights = [Weights(out) for out in folders.values()]
    for name in ("image_newline", "multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_2.weight"):
        first, *others = (each.read(name) for each in weights)
        assert all(torch.equal(first, other) for other in others)
    kept = [path for path in (tmp_path / "cache").rglob("*.json") if path.name != "key.json"]
    assert {path.parent.name.partition("-")[0] for path in kept} == {"features", "outputs"}


def test_a_wide_folder_is_a_source_again_through_the_command_line(written, targets, data, tmp_path):
    source = written["llava_onevision"]["wider"]
    assert Weights(source).shape("image_newline") == (48,)
    assert LlavaOnevisionVPG.load(source).image_newline.shape == (32,)
    command = ["transfer", "--from", str(source), "--to", str(targets["smollm"]), "--data", str(data)]
    short = ["--stage1-steps", "1", "--stage2-steps", "1", "--batch-size", "6", "--val-images", "2", "--workers", "0"]
    result = CliRunner().invoke(app, [*command, *short, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output


def test_the_row_end_is_found_where_the_projector_reaches():
    torch.manual_seed(0)
    weight, bias, wanted = torch.randn(24, 32), torch.randn(24), torch.randn(24)
    (output,) = outputs_for(wanted[None], weight, bias)
    assert torch.allclose(weight @ output + bias, wanted, atol=1e-4)
    shortest = torch.linalg.lstsq(weight, (wanted - bias)[:, None], driver="gelsd").solution
    assert output.norm() <= shortest.norm() * 1.001


@pytest.mark.parametrize("most", [None, 1, 2, 9])
def test_twenty_odd_pictures_are_read_as_by_the_familys_own_processor(most):
    """Pixels and the number of tokens, of each picture and each of several sets of resolutions."""
    sets = (tuple(map(tuple, RESOLUTIONS)), ((28, 28), (56, 112), (112, 56), (112, 112)))
    for resolutions in sets:
        preprocessing = AnyRes(size=28, side=2, resolutions=resolutions, most=most)
        own = image_processor(preprocessing)
        for picture in odd_pictures():
            shown = pixels(picture, preprocessing)
            assert isinstance(shown, Tiles) and len(shown.values) == preprocessing.count(*picture.size)
            theirs = own(picture, return_tensors="pt")["pixel_values"][0]
            assert (normalize(shown.values, preprocessing) - theirs).abs().max() < 1e-5, picture.size


def test_onevisions_rows_have_as_many_tokens_as_its_processor_says(sources):
    source = sources["llava_onevision"]
    own, vpg = OnevisionProcessor(source), LlavaOnevisionVPG.load(source)
    for picture in odd_pictures():
        assert vpg.preprocessing.runs(*picture.size) == (own.tokens(picture),), picture.size


def test_rows_have_as_many_tokens_as_the_familys_own_processor_says(sources):
    own, vpg = AutoProcessor.from_pretrained(sources["llava_next"]), LlavaNextVPG.load(sources["llava_next"])
    for picture in odd_pictures():
        ids = own(images=picture, text="<image>", return_tensors="pt")["input_ids"][0]
        said = int((ids == own.image_token_id).sum())
        assert vpg.preprocessing.runs(*picture.size) == (said,), picture.size


def test_the_plan_counts_a_usual_picture(sources, targets):
    source = sources["llava_next"]
    result = CliRunner().invoke(app, ["plan", "--from", str(source), "--to", str(targets["llama"]), "--json"])
    assert result.exit_code == 0, result.output
    vpg = json.loads(result.output)["plan"]["vpg"]
    preprocessing = LlavaNextVPG.load(source).preprocessing  # 640 x 480 takes 84 x 84 px: a grid of 3 x 3 tiles
    assert (vpg["tiles"], vpg["feature_shape"]) == (10, [40, 16])
    assert [vpg["num_prompts"]] == list(preprocessing.runs(640, 480))


def test_the_published_sizes():
    """OneVision's 640 x 480: 2 x 2 tiles of 27 x 27 without the padding, and the end of each row."""
    sizes = LlavaOnevisionVPG.describe(ONEVISION_SOURCES[0].config)
    assert (sizes["tiles"], sizes["num_prompts"], sizes["picture_prompts"]) == (5, 729, 729 + 40 * 55)
    assert 390e6 < sizes["frozen"] < 402e6
    assert LlavaNextVPG.describe(NEXT_SOURCES[0].config)["picture_prompts"] == 576 + 36 * 49
