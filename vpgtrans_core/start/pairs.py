"""Word pairs: words of the source LLM's vocabulary with the same words of the target's.

Two tokenizers rarely write a word alike. The kinds of matches, from strict to generous:

- ``same``: one token on both sides, written alike in both vocabularies (all that one tokenizer needs);
- ``spelling``: one token on both sides that stands for the same text, however it is written (byte-level ``Ġ``,
  sentencepiece ``▁``, word-piece ``##``, bytes for letters): the tokenizers themselves are asked to decode it;
- ``case``: the same up to case;
- ``mean``: a word of the captions that is several tokens on either side, as the mean of its tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpgtrans_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
"""A word as one vocabulary writes it."""
Table = Tensor | Callable[[Tensor], Tensor]
"""Word embeddings: a table ``[V, D]``, or a function from ids ``[N]`` to rows ``[N, D]`` such as `LLM.embed` or
`vpgtrans_core.llm.embeddings.Embeddings`."""

KINDS = ("same", "spelling", "case", "mean")
_WORD = re.compile(r"[^\W_]+|[^\w\s]")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class WordPairs:
    """P words, each as token ids of the source's and of the target's vocabulary.

    Attributes:
        source, target: the words; a word's embedding is the mean of its tokens'.
        weights: how often the word occurs in the captions, ``[P]`` in fp64.
        kinds: how each was matched, one of `KINDS`.
        whole: whether it is a whole word rather than a piece of one, ``[P]``.
    """

    source: tuple[Ids, ...]
    target: tuple[Ids, ...]
    weights: Tensor
    kinds: tuple[str, ...]
    whole: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def shuffled(self, seed: int) -> WordPairs:
        """The control: the same words, each with a wrong partner. Only the pairing is destroyed."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        # Along one cycle, so that no word keeps its partner.
        target = list(self.target)
        for here, there in zip(order.tolist(), order.roll(1).tolist(), strict=True):
            target[here] = self.target[there]
        return WordPairs(self.source, tuple(target), self.weights, self.kinds, self.whole)

    def subset(self, index: Tensor | Sequence[int]) -> WordPairs:
        """The pairs at `index`, in that order."""
        i = torch.as_tensor(index, dtype=torch.long)
        picked = i.tolist()
        return WordPairs(
            tuple(self.source[k] for k in picked),
            tuple(self.target[k] for k in picked),
            self.weights[i],
            tuple(self.kinds[k] for k in picked),
            self.whole[i],
        )

    def of_kinds(self, kinds: Collection[str]) -> WordPairs:
        """The pairs matched in one of these ways."""
        return self.subset([i for i, kind in enumerate(self.kinds) if kind in kinds])

    def whole_words(self) -> WordPairs:
        """The pairs that are whole words of the captions: what a soft prompt can be read as."""
        return self.subset(self.whole.nonzero().flatten())

    def within(self, source_rows: int, target_rows: int) -> WordPairs:
        """The pairs whose token ids are rows of both embedding tables."""
        pairs = enumerate(zip(self.source, self.target, strict=True))
        return self.subset([i for i, (s, t) in pairs if max(s) < source_rows and max(t) < target_rows])

    def counts(self) -> dict[str, int]:
        """Numbers of pairs by kind."""
        numbers = Counter(self.kinds)
        return {kind: numbers[kind] for kind in KINDS}


def rows(table: Table, ids: Tensor) -> Tensor:
    """The table's rows ``[N, D]`` of ids ``[N]`` in fp32."""
    return (table(ids) if callable(table) else table[ids.to(table.device)]).float()


def word_vectors(table: Table, words: Sequence[Ids]) -> Tensor:
    """Embeddings ``[P, D]`` of words in fp32, each the mean of its tokens' rows."""
    lengths = torch.tensor([len(word) for word in words])
    ids = torch.tensor([i for word in words for i in word], dtype=torch.long)
    vectors = rows(table, ids)
    owner = torch.repeat_interleave(torch.arange(len(words)), lengths).to(vectors.device)
    sums = vectors.new_zeros(len(words), vectors.shape[1]).index_add_(0, owner, vectors)
    return sums / lengths.to(sums)[:, None]


def word_pairs(
    source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, captions: Iterable[str] | None = None
) -> WordPairs:
    """Match the words of two tokenizers.

    Args:
        source, target: the two LLMs' tokenizers.
        captions: the texts whose words count, cleaned as for training; None for the whole vocabularies, each token
            once and no word of several tokens.

    Raises:
        ModelError: the tokenizers have no word in common.
    """
    words = None if captions is None else count_words(captions)
    return pair_words(Vocabulary(source), Vocabulary(target), words)


def pair_words(source: Vocabulary, target: Vocabulary, words: Counter[tuple[str, bool]] | None) -> WordPairs:
    """`word_pairs` for words that were counted before (`count_words`)."""
    pairs: dict[tuple[Ids, Ids], _Pair] = {}
    pieces: Counter[int] = Counter()
    if words is None:
        pieces.update(source.texts.keys())
    else:
        _match_words(source, target, words, pairs, pieces)
    for token, count in pieces.items():
        if (match := _match_token(source, target, token)) is not None:
            other, kind = match
            pairs.setdefault(((token,), (other,)), _Pair(kind, whole=words is None)).weight += count
    if not pairs:
        raise ModelError(
            "the two tokenizers share no word of these captions",
            "use captions in a language that both LLMs know, or use --start random",
        )
    return WordPairs(
        tuple(s for s, _ in pairs),
        tuple(t for _, t in pairs),
        torch.tensor([p.weight for p in pairs.values()], dtype=torch.float64),
        tuple(p.kind for p in pairs.values()),
        torch.tensor([p.whole for p in pairs.values()]),
    )


@dataclass
class _Pair:
    kind: str
    whole: bool
    weight: float = 0.0


def _match_words(
    source: Vocabulary,
    target: Vocabulary,
    words: Counter[tuple[str, bool]],
    pairs: dict[tuple[Ids, Ids], _Pair],
    pieces: Counter[int],
) -> None:
    """Enter every whole word into `pairs`; count the source's tokens that are only pieces of words into `pieces`."""
    keys = list(words)
    for key, s, t in zip(keys, source.split(keys), target.split(keys), strict=True):
        if len(s) > 1:
            for token in s:
                pieces[token] += words[key]
        if s and t and not (source.special.intersection(s) or target.special.intersection(t)):
            kind = "mean" if len(s) > 1 or len(t) > 1 else source.kind(s[0], target, t[0])
            pairs.setdefault((s, t), _Pair(kind, whole=True)).weight += words[key]


def _match_token(source: Vocabulary, target: Vocabulary, token: int) -> tuple[int, str] | None:
    """The target's token with the same text, else with the same text up to case, and how it was matched."""
    text = source.texts.get(token)
    if text is None:
        return None
    other = target.by_text.get(text)
    if other is None:
        other = target.by_folded.get(text.casefold())
    return None if other is None else (other, source.kind(token, target, other))


def count_words(captions: Iterable[str]) -> Counter[tuple[str, bool]]:
    """Count the words of captions as ``(word, follows a space)``: tokenizers may write the two differently."""
    counts: Counter[tuple[str, bool]] = Counter()
    for caption in captions:
        for match in _WORD.finditer(caption):
            start = match.start()
            counts[match.group(), start > 0 and caption[start - 1].isspace()] += 1
    return counts


def words_said(
    pairs: WordPairs,
    source: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
    captions: Sequence[Sequence[str]],
) -> Tensor:
    """How often each word occurs in a caption of each image: ``[n, P]`` for the captions of n images."""
    counts = [count_words(texts) for texts in captions]
    words = list(dict.fromkeys(word for count in counts for word in count))
    splits = zip(Vocabulary(source).split(words), Vocabulary(target).split(words), strict=True)
    place = {pair: i for i, pair in enumerate(zip(pairs.source, pairs.target, strict=True))}
    index = {word: place[split] for word, split in zip(words, splits, strict=True) if split in place}
    frequencies = torch.zeros(len(captions), len(pairs))
    for row, (count, texts) in enumerate(zip(counts, captions, strict=True)):
        for word, number in count.items():
            if word in index:
                frequencies[row, index[word]] += number / len(texts)
    return frequencies


class Vocabulary:
    """A tokenizer's vocabulary by the texts that its tokens stand for.

    Attributes:
        texts: token id to text; a token that starts a word starts with a space. Special tokens, byte tokens and
            pieces of letters are left out.
        by_text, by_folded: the way back, exactly and regardless of case.
        special: ids of the special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.raw: dict[int, str] = {index: token for token, index in tokenizer.get_vocab().items()}
        self.special = set(tokenizer.all_special_ids)
        anchor = tokenizer.tokenize("a")[0]
        skip = len(tokenizer.convert_tokens_to_string([anchor]))
        self.texts: dict[int, str] = {}
        self.by_text: dict[str, int] = {}
        self.by_folded: dict[str, int] = {}
        for index in sorted(self.raw):
            token = self.raw[index]
            if index in self.special or _BYTE.fullmatch(token):
                continue
            text = tokenizer.convert_tokens_to_string([anchor, token])[skip:]
            if not text.strip() or "\ufffd" in text:
                continue
            self.texts[index] = text
            self.by_text.setdefault(text, index)
            self.by_folded.setdefault(text.casefold(), index)
        self._anchor: Ids = tuple(tokenizer("a", add_special_tokens=False)["input_ids"])

    def split(self, words: Sequence[tuple[str, bool]]) -> list[Ids]:
        """Token ids of each ``(word, follows a space)``; empty where the word's own ids cannot be told."""
        texts = [f"a {word}" if spaced else word for word, spaced in words]
        if not texts:
            return []
        skip = len(self._anchor)
        result = []
        for (_, spaced), ids in zip(words, self.tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
            if not spaced:
                result.append(tuple(ids))
            elif tuple(ids[:skip]) == self._anchor:
                result.append(tuple(ids[skip:]))
            else:
                result.append(())
        return result

    def kind(self, token: int, other: Vocabulary, partner: int) -> str:
        """How `token` here and `partner` there are the same word."""
        if self.raw.get(token) == other.raw.get(partner):
            return "same"
        mine, theirs = self.texts.get(token), other.texts.get(partner)
        if mine is not None and theirs is not None and mine.strip() != theirs.strip():
            return "case"
        return "spelling"


@dataclass(frozen=True)
class CaptionTokens:
    """The paper's own training data for the word converter: tokens of captions, paired by position.

    Attributes:
        source, target: token ids ``[N]``.
        lengths: tokens of each kept caption ``[C]``.
        dropped: captions whose two token sequences differ in length, which the paper's code leaves out, or that have
            a token without an embedding.
    """

    source: Tensor
    target: Tensor
    lengths: Tensor
    dropped: int


def caption_tokens(
    source: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
    captions: Sequence[str],
    table_sizes: tuple[int, int] | None = None,
) -> CaptionTokens:
    """Tokenise captions with both tokenizers and keep those of equal length, as the paper's code does.

    Args:
        table_sizes: rows of the two embedding tables, where a tokenizer may have more tokens than its LLM embeds.
    """
    s = source(list(captions), add_special_tokens=False)["input_ids"]
    t = target(list(captions), add_special_tokens=False)["input_ids"]
    kept = [(a, b) for a, b in zip(s, t, strict=True) if len(a) == len(b) and a]
    if table_sizes is not None:
        kept = [(a, b) for a, b in kept if max(a) < table_sizes[0] and max(b) < table_sizes[1]]
    return CaptionTokens(
        torch.tensor([i for a, _ in kept for i in a], dtype=torch.long),
        torch.tensor([i for _, b in kept for i in b], dtype=torch.long),
        torch.tensor([len(a) for a, _ in kept], dtype=torch.long),
        len(captions) - len(kept),
    )
