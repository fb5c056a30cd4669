"""Idefics3's and InternVL's tiles, with tokens of the family's own around them: pictures, texts, rows of the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Idefics3ForConditionalGeneration, Idefics3Processor, InternVLForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from vpg_idefics3.adapter import Idefics3VPG
from vpg_idefics3.cards import SOURCES
from vpg_idefics3.classes import image_processor, tiles_processor
from vpg_idefics3.tiled import Split, TiledIdefics3VPG
from vpg_internvl.classes import tiles_image_processor
from vpg_internvl.tiled import Dynamic, TiledInternVLVPG

from tests.vpg.families import save_idefics3, save_internvl
from tests.vpg.judging import odd_pictures, run
from tests.vpg.without_videos import TiledInternVLProcessor
from vpgtrans_core import Settings
from vpgtrans_core.data.bad import TOO_MANY_TILES
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.llm.text import words_after_token
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import build
from vpgtrans_core.testing.tiny_models import save_tiny_llm, tiny_tokenizer
from vpgtrans_core.vlm.captioning import load_model
from vpgtrans_core.vpg.image_token import with_image_token
from vpgtrans_core.vpg.separators import outputs_for
from vpgtrans_core.weights import Weights

pytest_plugins = ["tests.vpg.shared"]
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SETS = [
    *(Split(size=32, longest=longest, prompts=4) for longest in (32, 64, 128)),
    Split(size=33, longest=97, prompts=4),
    Dynamic(size=28, prompts=4),
    Dynamic(size=28, prompts=4, fewest=2, most=5),
    Dynamic(size=33, prompts=4, most=1),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sources")
    save_idefics3(home / "idefics3", TiledIdefics3VPG)
    save_internvl(home / "internvl", TiledInternVLVPG)
    return {name: home / name for name in ("idefics3", "internvl")}


@pytest.mark.parametrize("preprocessing", SETS, ids=str)
def test_twenty_odd_pictures_are_read_as_by_the_familys_own_processors(preprocessing):
    """transformers' processors on PIL; those of the same name on torchvision resize in another way."""
    values = {"size": {"longest_edge": getattr(preprocessing, "longest", 0)}, "do_image_splitting": True}
    values |= {"max_image_size": {"longest_edge": preprocessing.size}}
    if isinstance(preprocessing, Split):
        own = [image_processor(preprocessing), SmolVLMImageProcessorPil(**values, **HALVES)]
    else:
        own = [tiles_image_processor(preprocessing)]
    for picture in odd_pictures():
        shown = pixels(picture, preprocessing)
        assert len(shown.values) == preprocessing.count(*picture.size)
        for processor in own:
            theirs = processor(picture, return_tensors="pt")["pixel_values"]
            theirs = theirs[0] if theirs.ndim == 5 else theirs
            assert (normalize(shown.values, preprocessing) - theirs).abs().max() < 1e-5, picture.size
        said = sum(run for run in preprocessing.runs(*picture.size) if isinstance(run, int))
        assert said <= preprocessing.most_prompts


def test_what_stands_in_the_place_of_a_picture_is_what_the_familys_processor_writes(sources):
    model = load_model(str(sources["idefics3"]), Settings(device="cpu", tiles=True), default_registry())
    vpg = TiledIdefics3VPG.load(sources["idefics3"])
    tokenizer = model.llm.tokenizer
    own = tiles_processor(vpg, tokenizer, "")
    special = torch.tensor([own.image_token_id, *tokenizer.convert_tokens_to_ids(vpg.tokens)])
    for picture in odd_pictures():
        ids = own(images=picture, text="<image>", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        runs = []
        for i, soft in zip(ids.tolist(), torch.isin(ids, special).tolist(), strict=True):
            if soft and runs and isinstance(runs[-1], int):
                runs[-1] += 1
            elif soft:
                runs.append(1)
            elif isinstance(runs[-1], tuple):
                runs[-1] += (i,)
            else:
                runs.append((i,))
        assert list(model.shown_of(*picture.size)) == runs, picture.size


def test_internvls_picture_has_as_many_tokens_as_its_processor_says(sources):
    own, vpg = TiledInternVLProcessor(sources_with_processor(sources)), TiledInternVLVPG.load(sources["internvl"])
    for picture in odd_pictures():
        said = len(own.tokenizer(own.replacement(picture), add_special_tokens=False).input_ids)
        assert vpg.preprocessing.runs(*picture.size) == (said,), picture.size


def sources_with_processor(sources: dict[str, Path]) -> Path:
    folder = sources["internvl"]
    vpg = TiledInternVLVPG.load(folder)
    vpg.save_processor(folder, load_model(str(folder), Settings(device="cpu"), default_registry()).llm.tokenizer, "")
    return folder


@pytest.mark.parametrize("name", ["idefics3", "internvl"])
def test_tokens_are_read_from_the_sources_table(name, sources):
    kind = {"idefics3": Idefics3ForConditionalGeneration, "internvl": InternVLForConditionalGeneration}[name]
    adapter = {"idefics3": TiledIdefics3VPG, "internvl": TiledInternVLVPG}[name]
    vpg, table = adapter.load(sources[name]), kind.from_pretrained(sources[name]).get_input_embeddings().weight
    weight, bias = adapter.load_projector(sources[name])
    tokenizer = load_model(str(sources[name]), Settings(device="cpu"), default_registry()).llm.tokenizer
    rows = table[tokenizer.convert_tokens_to_ids(list(vpg.tokens))]
    assert torch.allclose(vpg.separators @ weight.T + bias, rows, atol=1e-4)


def test_a_picture_is_one_tile_unless_tiles_are_wanted(sources):
    for folder in sources.values():
        for tiles in (False, True):
            source = resolve_source(str(folder), default_registry(), Settings(tiles=tiles))
            assert source.vpg_family.adapter.rpartition(".")[2].startswith("tiled:") is tiles
    assert not Idefics3VPG.load(sources["idefics3"]).preprocessing.tiled


def test_a_family_with_one_way_refuses_the_choice(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llava_next", "text_config": {"model_type": "llama"}})
    )
    with pytest.raises(ModelError, match="one way"):
        resolve_source(str(tmp_path), default_registry(), Settings(tiles=True), weights=False)


def test_a_source_without_the_tokens_or_saved_with_one_tile_is_refused(sources, data, targets, tmp_path):
    save_idefics3(tmp_path / "plain")
    with pytest.raises(ModelError, match=r"lacks 11 of the tokens around tiles: <fake_token_around_image>"):
        TiledIdefics3VPG.load(tmp_path / "plain")
    run(sources["internvl"], targets["qwen2"], data, tmp_path / "part", save="vpg", stage1_steps=1, stage2_steps=1)
    with pytest.raises(ModelError, match="lacks the tensor separators"):
        TiledInternVLVPG.load(tmp_path / "part")


def test_the_published_sizes():
    sizes = TiledIdefics3VPG.describe(SOURCES[0].config)
    assert (sizes["num_prompts"], sizes["tiles"], sizes["picture_prompts"]) == (64, 13, 13 * 66 + 1)
    assert sizes["most_prompts"] == 17 * 66 + 6 and sizes["trained"] == 2 * 768 + 18 * 12288


@pytest.mark.parametrize(("spare", "added"), [(0, 4), (1, 3), (3, 1), (4, 0)])
def test_each_token_has_a_row(spare, added):
    """Spare rows first, new ones last; the tokenizer spells each in one token."""
    words = tiny_tokenizer(False)
    rows, others = len(words) + spare, ("<x>", "<y>", "<z>")
    token = with_image_token(words, rows, {0, 1, 2, 3}, others)
    assert len(token.added) == added and len({token.id, *token.others}) == 4
    assert token.tokenizer("<x>a<z>", add_special_tokens=False).input_ids[::2] == [token.others[0], token.others[2]]
    assert min(token.others) >= len(words) and token.grows is (spare == 0)


def test_unused_special_tokens_give_their_rows_but_not_those_of_a_chat_template():
    words = tiny_tokenizer(False)
    words.add_special_tokens({"additional_special_tokens": ["<|r0|>", "<|r1|>", "<|user|>", "<|r2|>"]})
    words.chat_template = "<|user|>{{ messages }}"
    before = words.get_vocab()
    token = with_image_token(words, len(words), {0, 1, 2, 3}, ("<x>", "<y>"))
    assert (token.id, *token.others) == tuple(before[f"<|r{n}|>"] for n in range(3)) and not token.added
    assert token.tokenizer("<|user|>", add_special_tokens=False).input_ids == [before["<|user|>"]]


def test_several_outputs_are_found_as_each_alone():
    torch.manual_seed(0)
    weight, bias, wanted = torch.randn(24, 64), torch.randn(24), torch.randn(5, 24)
    found = outputs_for(wanted, weight, bias)
    assert torch.allclose(found @ weight.T + bias, wanted, atol=1e-4)
    for one, output in zip(wanted, found, strict=True):
        assert torch.allclose(outputs_for(one[None], weight, bias)[0], output, atol=1e-5)


def test_words_behind_a_token_have_no_beginning_of_a_text():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE({"▁": 0, "\n": 1, "</s>": 2}, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert words("\n", add_special_tokens=False).input_ids == [0, 1]
    assert words_after_token(words, "\n") == (1,)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Captioned pictures, of which two need more tiles than the others."""
    home = tmp_path_factory.mktemp("shapes")
    images, annotations = [], []
    for number, size in enumerate([(20, 20)] * 4 + [(90, 30)] * 2):
        Image.new("RGB", size, (number * 40, 80, 120)).save(home / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        annotations.append({"id": number, "image_id": number, "caption": "a red square"})
    (home / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return home / "captions.json"


def test_pictures_that_the_llm_has_no_positions_for_are_left_out_and_counted(sources, shapes, tmp_path):
    """InternVL's square picture is one tile of four soft prompts, the wide ones three and the whole."""
    llm = save_tiny_llm(tmp_path / "llm", "gpt2", changes={"n_embd": 48, "n_positions": 12})
    asked = {"source": str(sources["internvl"]), "target": str(llm), "data": [str(shapes)], "tiles": True}
    planned = plan(build(asked), downloads=False)
    assert planned.too_large and "12: larger pictures are left out" in str(planned)
    more = {"tiles": True, "max_bad_ratio": 0.5, "val_images": 0, "save": "vpg"}
    record = run(sources["internvl"], llm, shapes, tmp_path / "out", **more)
    assert record["status"] == "done"
    assert record["data"]["bad"][0]["counts"] == {TOO_MANY_TILES: 2}, record["data"]
    with pytest.raises(DataError, match=TOO_MANY_TILES):
        run(sources["internvl"], llm, shapes, tmp_path / "strict", **{**more, "max_bad_ratio": 0.01})
    wide = json.loads(shapes.read_text())
    wide["annotations"] = [a for a in wide["annotations"] if a["image_id"] > 3]
    (shapes.parent / "wide.json").write_text(json.dumps(wide))
    with pytest.raises(DataError, match=r"none of the first 2 images can be used; .* 18 of the 12 positions"):
        run(sources["internvl"], llm, shapes.parent / "wide.json", tmp_path / "none", **more)


def test_an_llm_without_positions_for_one_tile_is_refused(sources, shapes, tmp_path):
    llm = save_tiny_llm(tmp_path / "llm", "gpt2", changes={"n_embd": 48, "n_positions": 5})
    with pytest.raises(ConfigError, match="has 5 positions"):
        run(sources["internvl"], llm, shapes, tmp_path / "out", tiles=True, save="vpg")


def test_rows_of_the_table_are_written_and_the_head_is_not(sources, data, targets, tmp_path):
    run(sources["idefics3"], targets["llama"], data, tmp_path / "out", tiles=True, stage1_steps=1, stage2_steps=1)
    vpg, written = TiledIdefics3VPG.load(tmp_path / "out"), Weights(tmp_path / "out")
    own, words = Weights(targets["llama"]), len(tiny_tokenizer(False))
    for name, theirs in (
        ("model.text_model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ):
        given, before = written.read(name), own.read(theirs)
        assert len(given) > len(before) and torch.equal(given[:words], before[:words])
        assert torch.equal(given[words : len(before)], before[words:]) is (theirs == "lm_head.weight")
    assert vpg.image_processor().do_image_splitting
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["suppress_tokens"]
    assert Idefics3Processor.from_pretrained(tmp_path / "out").image_seq_len == vpg.num_prompts
