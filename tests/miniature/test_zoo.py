"""The zoo: the shipped one is what its record says, and a smaller one can be built from nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from vpgtrans_core.miniature import ZOO
from zoo import build, tokenizers

RECORD = json.loads((ZOO / build.RECORD).read_text())
LLMS = sorted(build.read_recipe()["llms"])
MOST_BYTES = 8 << 20


def test_the_zoo_is_small():
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) <= MOST_BYTES


def test_the_record_names_all_that_is_shipped():
    shipped = {path.name for path in ZOO.iterdir() if path.is_dir()}
    assert shipped == set(RECORD["models"]) == {*LLMS, build.VPG, build.SOURCE}


@pytest.mark.parametrize("name", sorted(RECORD["models"]))
def test_shipped_files_are_those_of_the_record(name: str):
    assert build.hashes(ZOO / name) == RECORD["models"][name]["sha256"]


def test_the_record_is_of_the_recipe_in_the_repository():
    assert RECORD["recipe"] == json.loads(json.dumps(build.read_recipe()))


@pytest.mark.parametrize("name", LLMS)
def test_llms_load_as_any_other_and_leave_a_spare_row(name: str):
    config, tokenizer = AutoConfig.from_pretrained(ZOO / name), AutoTokenizer.from_pretrained(ZOO / name)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    rows = auto.from_pretrained(ZOO / name).get_input_embeddings().weight.shape[0]
    assert rows > len(tokenizer)
    assert tokenizer.decode(tokenizer("a small red ball").input_ids, skip_special_tokens=True) == "a small red ball"


def test_families_split_words_in_their_own_way_but_share_most_whole_words():
    recipe = build.read_recipe()
    words = list(tokenizers.word_counts(recipe["documents"], recipe["seed"]))
    names = {plan["tokenizer"]: name for name, plan in recipe["llms"].items()}
    loaded = {family: AutoTokenizer.from_pretrained(ZOO / name) for family, name in names.items()}
    whole = {family: tokenizers.whole_words(tokenizer, words) for family, tokenizer in loaded.items()}
    for one, two in itertools.combinations(loaded, 2):
        assert len(whole[one] & whole[two]) >= 140
        assert whole[one] != whole[two]
        assert set(loaded[one].get_vocab()) != set(loaded[two].get_vocab())


@pytest.mark.slow
def test_a_smaller_zoo_is_built_from_nothing(tmp_path: Path):
    record = build.build(tmp_path, build.read_recipe("small"), log=lambda line: None)
    assert set(record["models"]) == {*LLMS, build.VPG, build.SOURCE}
    for name, entry in record["models"].items():
        assert build.hashes(tmp_path / name) == entry["sha256"]
        assert sorted(entry["sha256"]) == sorted(RECORD["models"][name]["sha256"])


@pytest.mark.slow
def test_building_again_gives_the_same_weights(tmp_path: Path):
    entries = [
        build.build(tmp_path / str(i), build.read_recipe("small"), only=("opt-mini-s",), log=lambda line: None)
        for i in range(2)
    ]
    first, again = (entry["models"]["opt-mini-s"]["sha256"] for entry in entries)
    assert first == again
