"""Adapters of language models, each broken in one way that the kit looks for."""

from __future__ import annotations

import dataclasses
import os

import torch
from torch import nn

from vpgtrans_core.llm.decoder import CausalText, DecoderOnlyLLM
from vpgtrans_core.llm.embeddings import EmbeddingReader
from vpgtrans_core.llm.text import Text


class Plain(DecoderOnlyLLM):
    """Not broken."""


class NoLLM:
    """Not a subclass of LLM."""


class CannotLoad(DecoderOnlyLLM):
    @classmethod
    def prepare(cls, model):
        raise RuntimeError("this adapter never loads")


class DoubledReader(EmbeddingReader):
    def vectors(self, rows, extra):
        return 2 * rows


class DoubledEverywhere(DecoderOnlyLLM):
    """Agrees with `DoubledReader`, not with what the first block sees."""

    def embed(self, ids):
        return 2 * super().embed(ids)


class ForgetsTheScale(DecoderOnlyLLM):
    def embed(self, ids):
        return super().embed(ids) * 0.9


class PaddingIsSeen(DecoderOnlyLLM):
    """Rows are padded on the left, and the padding is attended to."""

    def layout(self, texts, num_prompts, images=()):
        rows = super().layout(texts, num_prompts, images)
        if rows.attention is None:
            return rows
        length = rows.ids.shape[1]
        shift = length - rows.attention.sum(1)
        order = (torch.arange(length) - shift[:, None]) % length
        place = (torch.arange(length) + shift[:, None]) % length + torch.arange(len(shift))[:, None] * length
        moved = {name: place.flatten()[getattr(rows, name)] for name in ("prompt_slots", "predictors")}
        seen = torch.ones_like(rows.attention)
        return dataclasses.replace(rows, ids=rows.ids.gather(1, order), attention=seen, **moved)


class ImagesMix(DecoderOnlyLLM):
    """The average of the batch's soft prompts leaks into each image's."""

    def loss(self, soft_prompts, rows):
        return super().loss(soft_prompts + 0.1 * soft_prompts.mean(0, keepdim=True), rows)


class TreeWithoutMask(DecoderOnlyLLM):
    """Packed rows whose positions see everything before them, other captions too."""

    def layout(self, texts, num_prompts, images=()):
        rows = super().layout(texts, num_prompts, images)
        return rows if rows.ends is None else dataclasses.replace(rows, ends=torch.full_like(rows.ends, 10**6))


class NeverPacks(DecoderOnlyLLM):
    def may_share(self):
        return False


class LabelsThePrompt(DecoderOnlyLLM):
    def text_encoder(self):
        plain = super().text_encoder()
        return PromptIsLabelled(plain.tokenizer, plain.start, plain.end)


class PromptIsLabelled(CausalText):
    def encode(self, caption, max_tokens, rng):
        text = super().encode(caption, max_tokens, rng)
        return Text.of((), text.context + text.target)


class ForgetsTheOrder(DecoderOnlyLLM):
    """BOS always stands after the image."""

    def text_encoder(self):
        return dataclasses.replace(super().text_encoder(), start_first=False)


class LossOfMean(DecoderOnlyLLM):
    """A mean over labels instead of the sum."""

    def loss(self, soft_prompts, rows):
        return super().loss(soft_prompts, rows) / rows.labels


class HalfTheGradient(DecoderOnlyLLM):
    def loss(self, soft_prompts, rows):
        return super().loss(0.5 * soft_prompts + 0.5 * soft_prompts.detach(), rows)


class WritesToItsWeights(DecoderOnlyLLM):
    @torch.no_grad()
    def _decay(self):
        next(iter(self.model.parameters())).mul_(0.999)

    def loss(self, soft_prompts, rows):
        self._decay()
        return super().loss(soft_prompts, rows)


class NotFrozen(DecoderOnlyLLM):
    def freeze(self):
        super().freeze()
        self.model.get_output_embeddings().requires_grad_(True)


class NeverEnds(DecoderOnlyLLM):
    def generation_settings(self):
        return {**super().generation_settings(), "eos_token_id": [5]}


class GrowsWhenLoaded(DecoderOnlyLLM):
    @classmethod
    def prepare(cls, model):
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.LayerNorm):
                    module.weight.mul_(1.01)
        return model


class WrongWidth(DecoderOnlyLLM):
    """Says that its soft prompts are wider than they are."""

    @property
    def embedding_size(self):
        return 33


class SaysItsProcess(DecoderOnlyLLM):
    """What it says does not come from its folder alone."""

    def generate(self, soft_prompts, prompt="", options=None, images=()):
        return [f"process {os.getpid()}"] * len(soft_prompts)
