"""Small tokenizers that write words in the three common ways."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CAPTIONS = [
    "a red circle and a blue square",
    "the crimson doughnut is left of a turquoise triangle",
    "two giraffes, one café",
    "a blue circle above the red square",
    "there is a turquoise doughnut",
] * 4


def byte_level(captions: list[str], size: int = 340) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2 and OPT: ``Ġ`` marks a space, bytes are written as letters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def sentence_pieces(captions: list[str], size: int = 400) -> PreTrainedTokenizerFast:
    """BPE with ``▁`` for spaces and byte fallback, as LLaMA."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_pieces(captions: list[str], size: int = 80) -> PreTrainedTokenizerFast:
    """WordPiece, as BERT: ``##`` marks what continues a word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.fixture(scope="session")
def captions() -> list[str]:
    return CAPTIONS


@pytest.fixture(scope="session")
def opt_like(captions: list[str]) -> PreTrainedTokenizerFast:
    return byte_level(captions)


@pytest.fixture(scope="session")
def llama_like(captions: list[str]) -> PreTrainedTokenizerFast:
    return sentence_pieces(captions)


@pytest.fixture(scope="session")
def bert_like(captions: list[str]) -> PreTrainedTokenizerFast:
    return word_pieces(captions)
