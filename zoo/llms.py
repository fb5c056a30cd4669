"""The zoo's language models: built from ordinary transformers configs, trained on documents, judged by text gates.

Small transformers do not find out by themselves, in minutes, which colour belongs to which thing. So while training is
young some attention heads are shown where to look (`hints`); later they are left alone.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vpgtrans_core.miniature.language import document
from zoo.reading import DecoderReader, EncoderDecoderReader, Pair, Reader, Row, pad

SPARE_ROWS = 8
"""The table is filled up to a multiple of this, with at least one row that no token uses (the ``<image>`` row)."""


def build(recipe: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Build an untrained LLM: ``recipe["model_type"]`` and ``recipe["config"]`` are transformers' own names."""
    rows = (len(tokenizer) // SPARE_ROWS + 1) * SPARE_ROWS
    config = AutoConfig.for_model(recipe["model_type"], vocab_size=rows, **recipe["config"])
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(recipe["train"]["seed"])
    model: PreTrainedModel = auto.from_config(config, attn_implementation="eager")
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id if tokenizer.bos_token else None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
    )
    return model


def reader(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, weights: dict[str, float]) -> Reader:
    """The reader that writes documents in this kind of model's form."""
    kind = EncoderDecoderReader if model.config.is_encoder_decoder else DecoderReader
    return kind(tokenizer, weights)


@dataclass
class Batch:
    """A padded batch. `targets` and `weights` ``[B, T]`` belong to the logits ``[B, T, V]`` of `inputs`.

    `links` holds, by kind, the rows, query positions and key positions ``[3, N]`` of attention to be hinted at.
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    weights: Tensor
    links: dict[str, Tensor]


def collate(found: Sequence[Row | Pair], start: int | None) -> Batch:
    """Pad rows (decoder-only) or pairs (encoder-decoder, whose decoder begins with token `start`)."""
    if isinstance(found[0], Row):
        rows = [row for row in found if isinstance(row, Row)]
        ids = pad([row.ids for row in rows], 0, torch.long)
        weights = pad([row.weights for row in rows], 0.0, torch.float)
        return Batch({"input_ids": ids[:, :-1]}, ids[:, 1:], weights[:, 1:], _links(rows))
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    targets = pad([pair.decoder.ids for pair in pairs], 0, torch.long)
    inputs = encoder_inputs([pair.encoder.ids for pair in pairs])
    inputs["decoder_input_ids"] = F.pad(targets[:, :-1], (1, 0), value=start)
    weights = pad([pair.decoder.weights for pair in pairs], 0.0, torch.float)
    links = _links([pair.encoder for pair in pairs]) | _links([pair.decoder for pair in pairs])
    return Batch(inputs, targets, weights, links)


def encoder_inputs(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Ids and mask ``[B, T]`` of the encoder."""
    return {
        "input_ids": pad(rows, 0, torch.long),
        "attention_mask": pad([[1] * len(row) for row in rows], 0, torch.long),
    }


def _links(rows: Sequence[Row]) -> dict[str, Tensor]:
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for index, row in enumerate(rows):
        last = len(row.ids) - 1
        for kind, query, key in row.links:
            if query < last or kind in ("colour", "size", "asked"):
                found[kind].append((index, query, key))
    return {kind: torch.tensor(places).T for kind, places in found.items()}


def batches(reader: Reader, size: int, start: int | None, rng: random.Random) -> Iterator[Batch]:
    """Batches without end, rows of like length together."""
    while True:
        pool = [reader.read(document(rng), rng) for _ in range(size * 16)]
        pool.sort(key=_length)
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(groups)
        yield from (collate(group, start) for group in groups)


def _length(item: Row | Pair) -> int:
    return len(item.ids) if isinstance(item, Row) else len(item.encoder.ids)


def token_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy weighted by the parts of the documents."""
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


ATTENTIONS = {"self": "attentions", "encoder": "encoder_attentions", "cross": "cross_attentions"}
"""transformers' names of the attention probabilities, ``[B, H, T, S]`` a layer."""


def hint_loss(outputs: Any, links: dict[str, Tensor], hints: dict[str, tuple[str, int, int]]) -> Tensor:
    """Mean ``-log`` of the attention that the hinted heads pay to the places they should look at."""
    losses = []
    for kind, (name, layer, head) in hints.items():
        if kind in links:
            row, query, key = links[kind]
            attention = getattr(outputs, ATTENTIONS[name])[layer]
            losses.append(-torch.log(attention[row, head, query, key] + 1e-4).mean())
    return torch.stack(losses).sum() if losses else torch.zeros(())  # a batch of facts alone has no links


def _hint_weight(share: float, hinting: dict[str, float]) -> float:
    """Full at first, then falling in a line to nothing; `share` is the share of training done."""
    fall = (hinting["gone_at"] - share) / (hinting["gone_at"] - hinting["full_until"])
    return hinting["weight"] * min(1.0, max(0.0, fall))


def _rate(step: int, steps: int) -> float:
    """Linear rise over 60 steps, constant to 40 %, cosine to 3 %."""
    rise = min(1.0, (step + 1) / 60)
    fall = max(0.0, (step / steps - 0.4) / 0.6)
    return rise * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * fall)))


def train(
    model: PreTrainedModel, reader: Reader, recipe: dict[str, Any], hinting: dict[str, float], log: Any = print
) -> None:
    """Train on documents sampled without end; ends in evaluation mode."""
    plan, hints = recipe["train"], recipe["hints"]
    steps = plan["steps"]
    optimizer = torch.optim.AdamW(model.parameters(), plan["lr"], betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    stream = batches(
        reader, plan["batch"], getattr(model.config, "decoder_start_token_id", None), random.Random(plan["seed"])
    )
    model.train()
    for step, batch in zip(range(steps), stream, strict=False):
        weight = _hint_weight(step / steps, hinting)
        outputs = model(**batch.inputs, use_cache=False, output_attentions=weight > 0)
        loss = tokens = token_loss(outputs.logits, batch)
        if weight > 0:
            hint = hint_loss(outputs, batch.links, hints)
            loss = tokens + weight * hint
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            log(f"step {step} loss {tokens.item():.3f}" + (f" hint {hint.item():.3f}" if weight > 0 else ""))
    model.eval()
