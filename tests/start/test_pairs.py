"""Word pairs between tokenizers that write words alike, differently, and in several pieces."""

from __future__ import annotations

import pytest
import torch

from vpgtrans_core.errors import ModelError
from vpgtrans_core.start.pairs import (
    Vocabulary,
    WordPairs,
    caption_tokens,
    count_words,
    word_pairs,
    word_vectors,
    words_said,
)


def text(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids)).strip().lower()


def test_same_tokenizer_gives_identity(opt_like, captions) -> None:
    pairs = word_pairs(opt_like, opt_like, captions)
    assert len(pairs) > 10
    assert pairs.source == pairs.target
    assert set(pairs.kinds) <= {"same", "mean"}


@pytest.mark.parametrize("kinds", [("opt", "llama"), ("llama", "bert"), ("bert", "opt")])
def test_every_pair_is_the_same_text(kinds, captions, request) -> None:
    source, target = (request.getfixturevalue(f"{kind}_like") for kind in kinds)
    pairs = word_pairs(source, target, captions)
    for s, t in zip(pairs.source, pairs.target, strict=True):
        mine = text(source, s).removeprefix("##")
        assert mine == text(target, t).removeprefix("##")
    special = set(source.all_special_ids)
    assert not special.intersection(i for word in pairs.source for i in word)


def test_every_word_of_the_captions_is_paired(opt_like, llama_like, captions) -> None:
    pairs = word_pairs(opt_like, llama_like, captions).whole_words()
    words = {text(opt_like, s) for s in pairs.source}
    assert {"red", "circle", "doughnut", "turquoise", "giraffes", ","} <= words
    assert "café" in words  # bytes as letters on one side, byte tokens on the other


def test_weights_are_frequencies(opt_like, llama_like) -> None:
    pairs = word_pairs(opt_like, llama_like, ["the red circle", "the blue red square"])
    whole = pairs.whole_words()
    weights = {text(opt_like, s): w for s, w in zip(whole.source, whole.weights, strict=True)}
    assert weights["red"] == 2
    assert weights["circle"] == 1


def test_word_starts_match_where_strings_do_not(opt_like, llama_like, captions) -> None:
    pairs = word_pairs(opt_like, llama_like, captions)
    (here,) = [i for i, s in enumerate(pairs.source) if opt_like.convert_ids_to_tokens(list(s)) == ["Ġred"]]
    assert llama_like.convert_ids_to_tokens(list(pairs.target[here])) == ["▁red"]
    assert pairs.kinds[here] == "spelling"


def test_case_is_the_last_resort(opt_like) -> None:
    from tests.start.conftest import sentence_pieces

    shouting = sentence_pieces(["A RED CIRCLE", "A BLUE SQUARE"] * 5)
    pairs = word_pairs(opt_like, shouting)
    by_case = pairs.of_kinds(["case"])
    assert "red" in {text(opt_like, s) for s in by_case.source}
    assert all(text(opt_like, s) == text(shouting, t) for s, t in zip(by_case.source, by_case.target, strict=True))


def test_several_pieces_by_their_mean(opt_like, llama_like) -> None:
    pairs = word_pairs(opt_like, llama_like, ["a zebra"]).of_kinds(["mean"])
    (word,) = [s for s in pairs.source if text(opt_like, s) == "zebra"]
    assert len(word) > 1
    table = torch.randn(len(opt_like), 5)
    torch.testing.assert_close(word_vectors(table, [word])[0], table[list(word)].mean(0))


def test_tables_may_be_functions() -> None:
    table = torch.randn(9, 3)
    words = [(1,), (2, 3, 4), (8, 1)]
    assert torch.equal(word_vectors(table, words), word_vectors(lambda ids: table[ids], words))


def test_without_captions_the_whole_vocabularies(opt_like, llama_like) -> None:
    pairs = word_pairs(opt_like, llama_like)
    assert set(pairs.weights.tolist()) == {1.0}
    assert "mean" not in pairs.kinds
    assert pairs.counts()["spelling"] > 10


def test_nothing_in_common_is_an_error(opt_like, llama_like) -> None:
    with pytest.raises(ModelError, match="share no word"):
        word_pairs(opt_like, llama_like, [" "])


def test_shuffled_destroys_the_pairing_alone(opt_like, llama_like, captions) -> None:
    pairs = word_pairs(opt_like, llama_like, captions)
    wrong = pairs.shuffled(0)
    assert wrong.source == pairs.source
    assert sorted(wrong.target) == sorted(pairs.target)
    assert torch.equal(wrong.weights, pairs.weights)
    assert wrong.shuffled(0).target != wrong.target
    assert pairs.shuffled(0).target == wrong.target
    ids = tuple((i,) for i in range(7))
    small = WordPairs(ids, ids, torch.ones(7), ("same",) * 7, torch.ones(7) > 0)
    assert all(a != b for seed in range(20) for a, b in zip(small.source, small.shuffled(seed).target, strict=True))


def test_words_are_counted_by_what_precedes_them() -> None:
    assert count_words(["red red, a-b"]) == {
        ("red", False): 1,
        ("red", True): 1,
        (",", False): 1,
        ("a", True): 1,
        ("-", False): 1,
        ("b", False): 1,
    }


def test_special_and_broken_tokens_have_no_text(opt_like, llama_like) -> None:
    assert not set(opt_like.all_special_ids) & set(Vocabulary(opt_like).texts)
    assert not any("\ufffd" in t for t in Vocabulary(opt_like).texts.values())
    assert "A" not in Vocabulary(llama_like).by_text  # only as the byte token <0x41>


def test_the_papers_pairs_need_equal_lengths(opt_like, llama_like, captions) -> None:
    tokens = caption_tokens(opt_like, llama_like, captions)
    assert tokens.dropped + len(tokens.lengths) == len(captions)
    assert len(tokens.source) == len(tokens.target) == int(tokens.lengths.sum())
    same = caption_tokens(opt_like, opt_like, captions)
    assert same.dropped == 0
    assert torch.equal(same.source, same.target)


def test_words_of_each_image(opt_like, llama_like) -> None:
    captions = [["a red circle", "the red red square"], ["a blue circle", "a zebra, dotted"]]
    pairs = word_pairs(opt_like, llama_like, [c for image in captions for c in image])
    said = words_said(pairs, opt_like, llama_like, captions)
    at = {text(opt_like, s): i for i, s in enumerate(pairs.source) if pairs.whole[i]}
    assert said.shape == (2, len(pairs))
    assert said[:, at["red"]].tolist() == [1.5, 0.0]
    assert said[:, at["blue"]].tolist() == [0.0, 0.5]
    assert said[1, at["zebra"]] == 0.5
    assert words_said(pairs, opt_like, llama_like, [["nothing known"]]).sum() == 0
