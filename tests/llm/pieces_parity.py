"""Texts with images anywhere, several images and several answers: loss and gradient against transformers' own.

    python tests/llm/pieces_parity.py      # the table of docs/data.md

The reference shares no code with vpgt's rows. Each text is one row by itself, unpadded: its soft prompts and word
embeddings one after the other as `inputs_embeds`, and the cross-entropy of all logits that transformers gives, with
-100 where there is no label. (Its own `loss` is the same in fp32; it rounds fp64 logits to that.)
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from conftest import family, llama_config, loss_and_gradient, opt_config, random_model
from llm_opt.adapter import OPT
from llm_t5.adapter import T5
from model_classes import EVERY
from model_classes import load as fallback
from tiny_tokenizers import byte_level, unigram
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.llm.encoder_decoder import EncoderDecoderLLM
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens

PROMPTS = 3
END = 9


def text(*parts: Any) -> Text:
    """An image for a number, words for a list, an answer for a tuple."""
    pieces = [
        ImagePlace(part) if isinstance(part, int) else Tokens(tuple(part), isinstance(part, tuple)) for part in parts
    ]
    return Text(tuple(pieces))


HUMAN, ASSISTANT, CLOSE = [2, 40, 41, 42], [43, 44], [45]


class Case(NamedTuple):
    """Samples, and how many images each has."""

    name: str
    texts: list[list[Text]]
    images: list[int]


CASES = [
    Case("image first", [[Text.of((), (2, 20, 21, END)), Text.of((), (2, 20, 22, END))], [Text.of((5,), (30, END))]],
         [1, 1]),
    Case("image inside", [[text(HUMAN, 0, [*CLOSE, 50, *ASSISTANT], (60, 61, END)),
                           text(HUMAN, 0, [*CLOSE, 50, *ASSISTANT], (60, 62, END)),
                           text(HUMAN, 0, [*CLOSE, 51, 52, *ASSISTANT], (63, END))],
                          [text(HUMAN, 0, [*CLOSE, 50, *ASSISTANT], (64, END))]], [1, 1]),
    Case("two images", [[text(HUMAN, 0, [46], 1, [50, *ASSISTANT], (60, END)),
                         text(HUMAN, 1, [46], 0, [50, *ASSISTANT], (61, END))],
                        [text([2], 0, 1, [51, *ASSISTANT], (62, 63, END))]], [2, 2]),
    Case("three turns", [[text(HUMAN, 0, [50, *ASSISTANT], (60, 61, END), [40, 52, *ASSISTANT], (62, END),
                               [40, 53, 54, *ASSISTANT], (63, 64, 65, END))],
                         [text(HUMAN, 0, [50, *ASSISTANT], (60, END), [40, 55, *ASSISTANT], (66, END),
                               [40, 56, *ASSISTANT], (67, END), [40, 57])]], [1, 1]),
    Case("system prompt", [[text([2, 70, 71, 72, 73], HUMAN, 0, [50, *ASSISTANT], (60, END)),
                            text([2, 70, 71, 74], HUMAN, 0, [50, *ASSISTANT], (60, 61, END))]], [1]),
    Case("mixed", [[Text.of((), (2, 20, 21, END)), Text.of((), (2, 20, END))],
                   [text(HUMAN, 1, [46], 0, [50, *ASSISTANT], (60, END), [40, 52, *ASSISTANT], (62, END))],
                   [text([2, 80, 81], (82, END)), text(HUMAN, 0, CLOSE, (83, END))],
                   [Text.of((), (2, 23, END))]], [1, 3, 1, 1]),
]  # fmt: skip


def reference_loss(model: Any, soft_prompts: torch.Tensor, texts: list[list[Text]], images: list[int]) -> torch.Tensor:
    """The sum of the labels' losses by transformers' own forward, each text a row of its own."""
    seq2seq = model.config.is_encoder_decoder
    table = model.get_input_embeddings()
    total = soft_prompts.new_zeros(())
    first = 0
    for sample, count in zip(texts, images, strict=True):
        for one in sample:
            embeds, labels, said = [], [], []
            answering = False
            for piece in one.pieces:
                answering = answering or getattr(piece, "labelled", False)
                if isinstance(piece, ImagePlace):
                    embeds.append(soft_prompts[first + piece.index])
                    labels += [-100] * soft_prompts.shape[1]
                elif seq2seq and answering:
                    said += piece.ids
                    labels += piece.ids if piece.labelled else [-100] * len(piece.ids)
                else:
                    embeds.append(table(torch.tensor(piece.ids)))
                    labels += piece.ids if piece.labelled else [-100] * len(piece.ids)
            row, more = torch.cat(embeds)[None], {}
            if seq2seq:
                labels = labels[-len(said) :]
                more["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id, *said[:-1]]])
            logits = model(inputs_embeds=row, use_cache=False, **more).logits[0]
            if not seq2seq:  # a position predicts the one after it
                logits, labels = logits[:-1], labels[1:]
            total = total + cross_entropy(logits, torch.tensor(labels), reduction="sum")
        first += count
    return total


class Family(NamedTuple):
    """How a family's adapter and an untouched copy of its model are made, and how near they must be."""

    name: str
    make: Callable[[], tuple[Any, Any]]
    tolerance: float


def _decoder(adapter: type[DecoderOnlyLLM], config: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    model = random_model(config, dtype)
    return adapter(copy.deepcopy(model), byte_level(), family()), model


def _seq2seq(adapter: type[EncoderDecoderLLM], config: Any) -> tuple[Any, Any]:
    model = random_model(config, torch.float64, AutoModelForSeq2SeqLM)
    return adapter(copy.deepcopy(model), unigram(), family()), model


def _t5() -> T5Config:
    sizes = dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=328, decoder_start_token_id=0)
    return T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def _bart() -> BartConfig:
    sizes = dict(d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_layers=2, decoder_layers=2, vocab_size=328)
    sizes |= dict(encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64)
    return BartConfig(**sizes, pad_token_id=0, bos_token_id=3, eos_token_id=1, decoder_start_token_id=1)


FALLBACK = ("Qwen2", "Gemma", "GPT-NeoX (Pythia)", "GPT-2", "Falcon", "BLOOM", "Mistral, sliding window", "Mamba")
TRIED = {tried.name: tried for tried in EVERY}
FAMILIES = [
    Family("OPT, fp64", lambda: _decoder(OPT, opt_config(), torch.float64), 1e-8),
    Family("OPT", lambda: _decoder(OPT, opt_config(), torch.float32), 1e-5),
    Family("LLaMA", lambda: _decoder(DecoderOnlyLLM, llama_config(), torch.float32), 1e-5),
    Family("T5", lambda: _seq2seq(T5, _t5()), 1e-7),  # its norms square in fp32 whatever the precision
    Family("BART", lambda: _seq2seq(EncoderDecoderLLM, _bart()), 1e-8),
    *(Family(name, lambda name=name: fallback(TRIED[name]), 2e-5) for name in FALLBACK),
]


def apart(llm: Any, model: Any, case: Case) -> tuple[float, float]:
    """Relative differences of loss and gradient."""
    torch.manual_seed(1)
    size = (sum(case.images), PROMPTS, model.config.hidden_size)
    prompts = (torch.randn(size, dtype=model.dtype) * 0.3).requires_grad_()
    rows = llm.layout(case.texts, PROMPTS, case.images).to("cpu")
    loss, gradient = loss_and_gradient(lambda p: llm.loss(p, rows), prompts)
    right, slope = loss_and_gradient(lambda p: reference_loss(model, p, case.texts, case.images), prompts)
    return float(abs(loss - right) / right), float((gradient - slope).norm() / slope.norm())


def main() -> None:
    torch.set_num_threads(1)
    print("| model | " + " | ".join(case.name for case in CASES) + " |")
    print("|---|" + "---|" * len(CASES))
    for one in FAMILIES:
        llm, model = one.make()
        for share in sorted({llm.shares_prefix, False}, reverse=True):
            llm.shares_prefix = share
            worst = [max(apart(llm, model, case)) for case in CASES]
            name = f"{one.name}, {'shared' if share else 'a row each'}"
            print(f"| {name} | " + " | ".join(f"{value:.0e}" for value in worst) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
