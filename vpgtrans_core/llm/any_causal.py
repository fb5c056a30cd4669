"""The adapter for causal LMs that no plugin knows: it asks the model itself, by a probe, what it allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.llm.rows import DecoderRows, decoder_rows
from vpgtrans_core.llm.shown import Images
from vpgtrans_core.llm.text import Text

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest relative difference between two ways to compute the same hidden states, by precision."""
HALF_TOLERANCE = 5e-2
PROBE_POSITIONS = 536
"""Length of the row that is probed, above that of the rows that are packed: attention may be local, and a tree's last
texts stand far from their soft prompts."""
ALIKE = 2
"""Labels at the beginning of the probed texts that are predicted from the same positions."""


class AnyCausalLM(DecoderOnlyLLM):
    """Any causal LM of transformers that takes `inputs_embeds`.

    Nothing is assumed of its positions and masks: when it is loaded, a few tokens are computed as a tree and as padded
    rows, and the tree is used only if both agree. A model that computes something else from word embeddings than from
    token ids is refused, because soft prompts would not reach it as words do, and so is one that cannot compute or
    generate from soft prompts at all.
    """

    @classmethod
    def prepare(cls, model: PreTrainedModel) -> PreTrainedModel:
        """Take the language model out of a multimodal wrapper, and run it on a kernel that knows what it needs."""
        text_config = model.config.get_text_config()
        if text_config is not model.config:
            model = cls._bare(model, text_config)
        if getattr(text_config, "attn_logit_softcapping", None) and text_config._attn_implementation == "sdpa":
            model.set_attn_implementation("eager")  # older transformers run it on sdpa, which leaves the softcap out
        return model

    @classmethod
    def _bare(cls, wrapper: PreTrainedModel, text_config: PreTrainedConfig) -> PreTrainedModel:
        with torch.device("meta"):
            bare = cls.auto_class().from_config(text_config, dtype=wrapper.dtype)
        setattr(bare, bare.base_model_prefix, wrapper.get_decoder())
        bare.set_output_embeddings(wrapper.get_output_embeddings())
        return bare

    def layout(self, texts: Sequence[Sequence[Text]], num_prompts: Images, images: Sequence[int] = ()) -> DecoderRows:
        rows = super().layout(texts, num_prompts, images)
        if rows.ends is None or rows.ids.shape[1] <= self._probed:
            return rows
        # What the model does in longer rows is unknown.
        return decoder_rows(texts, num_prompts, self.embedding_size, share=False, images=images)

    def may_share(self) -> bool:
        texts = self._probe_texts()
        tree = decoder_rows([texts], 3, self.embedding_size, share=True)
        self._probed = tree.ids.shape[1]
        expected = self._check_soft_prompts(decoder_rows([[texts[0], texts[-1]]], 3, self.embedding_size, share=False))
        self._check_word_embeddings(texts[0])
        self._check_generation()
        try:
            found = self._probe(tree)
        except Exception:  # a model that cannot take the tree's mask or positions says so in its own way
            return False
        first, last = expected.unflatten(0, (2, -1))
        own = last[ALIKE:]  # the tree has what all texts begin with once
        return self._near(torch.cat([found[: len(first)], found[-len(own) :]]), torch.cat([first, own]))

    def _probe_texts(self) -> list[Text]:
        """Texts that begin alike, in the order in which a tree holds them: as many as fill the probed row."""
        room = min(PROBE_POSITIONS, self._text_config("max_position_embeddings") or PROBE_POSITIONS)
        step = max(1, min(self.vocab_size, 1000) // 12)
        start, ids = (step,), [n * step for n in range(2, 11)]
        fillers = range(min(room // 4 - 4, self.vocab_size))  # each adds four positions
        between = [Text.of(start, (ids[0], ids[3], n, *ids[4:8])) for n in fillers]
        return [Text.of(start, tuple(ids[:5])), *between, Text.of(start, (ids[0], *ids[5:9]))]

    def _soft_prompts(self) -> Tensor:
        """Three soft prompts that lie between words: ``[1, 3, D]``."""
        ids = torch.tensor([[7, 5, 9], [8, 6, 11]], device=self.model.device) % self.vocab_size
        return self.embed(ids).mean(0, keepdim=True)

    @torch.no_grad()
    def _probe(self, rows: DecoderRows) -> Tensor:
        """Hidden states where labels are predicted, after some soft prompts."""
        rows = rows.to(self.model.device)
        return self.trunk(rows.inputs(self.embed(rows.ids), self._soft_prompts()), rows).flatten(0, 1)[rows.predictors]

    def _check_soft_prompts(self, rows: DecoderRows) -> Tensor:
        try:
            return self._probe(rows)
        except Exception as error:  # whatever stops a model here stops it in training
            raise self._refusal("cannot compute from soft prompts", error) from error

    def _check_generation(self) -> None:
        options = GenerateOptions(num_beams=2, max_new_tokens=2, min_new_tokens=1)
        try:
            self.generate(self._soft_prompts(), options=options)
        except Exception as error:  # better now than after the training
            raise self._refusal("cannot generate from soft prompts", error) from error

    def _refusal(self, what: str, error: Exception) -> ModelError:
        said = (str(error).splitlines() or [""])[0][:300]
        return ModelError(
            f"{type(self.model).__name__} {what}: {type(error).__name__}: {said}",
            "a plugin for its family may support it (docs/plugins.md)",
        )

    @torch.no_grad()
    def _check_word_embeddings(self, text: Text) -> None:
        rows = decoder_rows([[text]], 0, self.embedding_size, share=False).to(self.model.device)
        try:
            whole = self.model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False).logits[0]
            ours = self.head(self.trunk(self.embed(rows.ids), rows)[0])
        except Exception as error:
            raise self._refusal("cannot compute from word embeddings", error) from error
        if not self._near(ours, whole):
            raise ModelError(
                f"{type(self.model).__name__} computes different logits from word embeddings than from token ids",
                "it also uses the token ids elsewhere; a plugin for its family may support it (docs/plugins.md)",
            )

    def _near(self, a: Tensor, b: Tensor) -> bool:
        a, b = a.double().to(b.device), b.double()
        return bool((a - b).norm() <= TOLERANCE.get(self.model.dtype, HALF_TOLERANCE) * b.norm())
