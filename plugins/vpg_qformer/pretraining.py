"""BLIP-2's first stage, without its matching loss: a Q-Former learns which text belongs to an image, and to write it.

Queries and text share the Q-Former's self-attention. For the contrast each is read alone; for writing, the text also
sees the queries (BLIP-2, section 3.2). The queries never see the text, so one pass gives both what they made of the
image and the text's next tokens. Everything that only texts pass through is dropped in the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.config import PART, preprocessing_of, sizes_of
from vpg_qformer.initial import configured
from vpg_qformer.reading import TEXT_BRANCH, VISION, read_frozen
from vpg_qformer.tower import TOWER_PART, TowerVPG, read_tower
from vpgtrans_core.cards import VPGSizes
from vpgtrans_core.vpg.pretraining import PAD, READ, WRITE, Embedded, Pretraining
from vpgtrans_core.weights import check_shapes

COMPARED = 256
"""The most dimensions in which images and texts are compared, as in BLIP-2."""
ADAPTERS = {PART: QFormerVPG, TOWER_PART: TowerVPG}


class QFormerPretraining(Pretraining):
    """A ViT + Q-Former and the Q-Former's text side: word embeddings, feed-forward layers for texts, three heads."""

    vpg: QFormerVPG

    def __init__(self, config: dict[str, Any], words: int, longest: int, *, trains_vision: bool) -> None:
        super().__init__(config, words, longest, trains_vision=trains_vision)
        sizes = sizes_of(config)
        self.vpg = ADAPTERS[config["model_type"]](sizes)
        own = sizes.qformer.to_dict() | {
            "use_qformer_text_input": True,
            "vocab_size": words,
            "max_position_embeddings": longest + 1,
            "pad_token_id": PAD,
        }
        both = Blip2QFormerConfig.from_dict(own)
        width, spread = both.hidden_size, both.initializer_range
        self.vpg.qformer = Blip2QFormerModel(both)
        self.embeddings = Blip2TextEmbeddings(both)
        for table in (self.embeddings.word_embeddings, self.embeddings.position_embeddings):
            nn.init.normal_(table.weight, std=spread)
        self.image_head, self.text_head = (nn.Linear(width, min(width, COMPARED)) for _ in range(2))
        self.before_words = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.word_bias = nn.Parameter(torch.zeros(words))

    @classmethod
    def configure(
        cls, sizes: VPGSizes, vision: dict[str, Any] | None = None, like: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return configured(sizes, vision, like)

    def read_vision(self, folder: Path) -> None:
        vpg = self.vpg
        tensors = read_tower(folder, vpg.sizes.vision) if isinstance(vpg, TowerVPG) else read_frozen(folder)
        wanted = {n: tuple(v.shape) for n, v in vpg.state_dict().items() if n in vpg.frozen_names()}
        check_shapes(wanted, {name: tuple(value.shape) for name, value in tensors.items()}, folder)
        vpg.vision_model.load_state_dict({n.removeprefix(VISION): v.float() for n, v in tensors.items()}, strict=False)
        vpg.preprocessing = preprocessing_of(folder, vpg.sizes)

    def features(self, pixels: Tensor) -> Tensor:
        vit = self.vpg.vision_model
        return vit.encoder(inputs_embeds=vit.embeddings(pixels)).last_hidden_state

    def embed(self, features: Tensor, ids: Tensor) -> Embedded:
        norm = self.vpg.vision_model.post_layernorm
        asked, written = self._ask(norm(features.to(norm.weight.dtype)), ids)
        logits = F.linear(self.before_words(written), self.embeddings.word_embeddings.weight, self.word_bias)
        return Embedded(
            images=F.normalize(self.image_head(asked).float(), dim=-1),
            texts=F.normalize(self.text_head(self._read(ids)).float(), dim=-1),
            text_loss=F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten(), ignore_index=PAD),
        )

    def finished(self) -> QFormerVPG:
        plain = type(self.vpg)(self.vpg.sizes, self.vpg.preprocessing)
        state = {name: value for name, value in self.vpg.state_dict().items() if not TEXT_BRANCH.match(name)}
        plain.load_state_dict(state)
        return plain.to(self.device)

    def _ask(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What the queries make of normalised features ``[B, N, C]``, ``[B, Q, D]``, and the states ``[B, T, D]`` from
        which each token is told, given the image and the tokens before it."""
        count = self.vpg.num_prompts
        queries = self.vpg.query_tokens.expand(len(ids), -1, -1)
        read = self.embeddings(input_ids=_after(WRITE, ids)[:, :-1], query_embeds=queries)
        positions = torch.arange(read.shape[1], device=ids.device)
        sees = (positions < count) | ((positions[:, None] >= count) & (positions <= positions[:, None]))
        states = self.vpg.qformer(
            query_embeds=read,
            query_length=count,
            attention_mask=sees.expand(len(ids), 1, -1, -1),
            encoder_hidden_states=images,
        ).last_hidden_state
        return states[:, :count], states[:, count:]

    def _read(self, ids: Tensor) -> Tensor:
        """The state ``[B, D]`` of the first token of each text, which is read without its image."""
        whole = _after(READ, ids)
        sees = (whole != PAD)[:, None, None].expand(-1, -1, whole.shape[1], -1)
        states = self.vpg.qformer(
            query_embeds=self.embeddings(input_ids=whole), query_length=0, attention_mask=sees
        ).last_hidden_state
        return states[:, 0]


def _after(first: int, ids: Tensor) -> Tensor:
    """Tokens ``[B, T]`` after one that begins each text, ``[B, 1 + T]``."""
    return F.pad(ids, (1, 0), value=first)
