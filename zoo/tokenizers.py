"""A tokenizer for each family, with the conventions of the real one: special tokens, spaces, end of line.

The kinds are those of the real families: byte-level BPE (OPT), BPE over '▁' words with bytes to fall back on (LLaMA)
and a sentencepiece Unigram (T5). They differ in size and in how much they flatten word frequencies, so that they keep
different words whole.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vpgtrans_core.miniature.language import document, text

CHAT = Path(__file__).with_name("chat.jinja")
"""The chat template of the LLMs that read a document as one row."""
ASKS = {"byte_bpe": "question: ", "word_bpe": " question: "}
"""What begins a question in it: the first word of a text as the kind of tokenizer writes it."""


def word_counts(documents: int, seed: int) -> Counter[str]:
    """How often each word occurs in a sample of what the LLMs will read."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(documents):
        d = document(rng)
        parts = [d.context, d.second, *(q.words for q in d.asked), *([q.answer] for q in d.asked)]
        counts.update(word for part in parts for word in text(part).split())
    return counts + Counter({"question:": 20000, "answer:": 20000, "short": 2000, "?": 2000})


def build(recipe: dict[str, Any], counts: Counter[str]) -> PreTrainedTokenizerFast:
    """Build one family's tokenizer: `recipe` names its kind, size, flattening and special tokens."""
    corpus = _own_corpus(counts, recipe["flatten"], recipe["seed"])
    tokenizer = _KINDS[recipe["kind"]](corpus, recipe["size"])
    special = {name: recipe[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if recipe.get(name)}
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in dict.fromkeys(special.values())]
    )
    ids = {token: tokenizer.token_to_id(token) for token in special.values()}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=recipe["template"], special_tokens=[(t, i) for t, i in ids.items() if t in recipe["template"]]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=recipe["max_length"], **special)
    if recipe["kind"] in ASKS:
        made.chat_template = chat_template(ASKS[recipe["kind"]])
    return made


def chat_template(asks: str) -> str:
    """The form of the documents with questions as a chat template; `asks` begins a question."""
    return CHAT.read_text(encoding="utf-8").strip().replace("ASKS", asks)


def _own_corpus(counts: Counter[str], power: float, seed: int) -> Counter[str]:
    """The family's own corpus: word counts flattened by a power below one, and more or less of each by chance."""
    rng = random.Random(seed)
    return Counter({word: max(1, round(5 * n**power * 2 ** rng.uniform(-1, 1))) for word, n in sorted(counts.items())})


def _stream(corpus: Counter[str]) -> list[str]:
    """The corpus as lines, each word repeated as often as it counts, with the space that words have inside texts.

    Lines stay short: sentencepiece drops long ones.
    """
    return [" " + " ".join([word] * min(50, n - i)) for word, n in corpus.items() for i in range(0, n, 50)]


def _byte_bpe(corpus: Counter[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_stream(corpus), trainer)
    return tokenizer


def _word_bpe(corpus: Counter[str], size: int) -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(_stream(corpus), trainers.BpeTrainer(vocab_size=size, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *learned["vocab"]]
    merges = [tuple(pair) for pair in learned["merges"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _unigram(corpus: Counter[str], size: int) -> Tokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_stream(corpus)),
        model_writer=model,
        vocab_size=size,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


_KINDS = {"byte_bpe": _byte_bpe, "word_bpe": _word_bpe, "unigram": _unigram}


def whole_words(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> set[str]:
    """The words that are one token inside a text."""
    before = len(tokenizer.encode("a", add_special_tokens=False))
    return {w for w in words if len(tokenizer.encode(f"a {w}", add_special_tokens=False)) == before + 1}
