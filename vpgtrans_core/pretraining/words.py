"""The vocabulary of a pre-training, made of its captions, and rows of tokens.

The text side is dropped in the end, so that it needs no tokenizer of anybody else; bytes are its alphabet, so that no
text is unknown to it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from vpgtrans_core.data.bad import EMPTY_CAPTION, BadSampleError
from vpgtrans_core.data.conversation import Caption, ImageMark, Span
from vpgtrans_core.vpg.pretraining import END, PAD, SPECIAL


class Words:
    """A byte-level BPE without capitals, and the loader's `Encoder`. Picklable: it travels to data workers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, captions: Iterable[str], most: int) -> Words:
        """The vocabulary of `captions`, at most `most` tokens; the same captions give the same one."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=most,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> list[int]:
        """The tokens of a caption, at most `max_tokens`, and `END`.

        Raises:
            BadSampleError: there are none.
        """
        ids: list[int] = self.tokenizer.encode(caption.text).ids[:max_tokens]
        if not ids:
            raise BadSampleError(EMPTY_CAPTION)
        return [*ids, END]

    def encode_spans(self, spans: Sequence[Span | ImageMark], max_tokens: int | None = None) -> list[int]:
        raise NotImplementedError("conversations are not read here")

    def words(self, text: str) -> tuple[int, ...]:
        """None: only an LLM reads words between tiles."""
        return ()


def rows(texts: Sequence[Sequence[int]]) -> Tensor:
    """Texts as rows ``[B, T]``, filled up with `PAD`."""
    if not texts:
        return torch.zeros(0, 1, dtype=torch.long)
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in texts], batch_first=True, padding_value=PAD)
