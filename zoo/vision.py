"""The zoo's visual prompt generator: a ViT that knows the world's attributes, a Q-Former that knows its captions.

As in BLIP-2, the ViT is trained first and for good (here to tell, for every patch, what stands there), and the
Q-Former then learns which caption belongs to which picture. Its text encoder is thrown away.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

from vpgtrans_core.data.images import normalize
from vpgtrans_core.miniature.data import Item
from vpgtrans_core.miniature.language import caption, text
from vpgtrans_core.miniature.world import CENTRES, COLOURS, NOUNS, PLACES, SIDE, SIZES, Combos, Scene, draw, sample
from vpgtrans_core.vpg.adapter import Preprocessing

PREPROCESSING = Preprocessing(size=SIDE)
KINDS: dict[str, tuple[str, ...]] = {"colour": tuple(COLOURS), "noun": NOUNS, "size": tuple(SIZES)}
NOTHING = 0
"""The class of a patch where no thing stands; a thing's attribute is 1 + its place in `KINDS`."""
EMPTY_WEIGHT = 0.3
"""The weight of such patches in the loss: they are most of a picture."""


@dataclass(frozen=True)
class Pictures:
    """Drawn scenes: pixels ``[n, 3, S, S]`` as uint8, and the scenes."""

    pixels: Tensor
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.scenes)


def pictures(count: int, seed: int, combos: Combos = "seen") -> Pictures:
    """Draw `count` scenes, other ones than the miniature's training pictures; unless asked, no held-out combination."""
    rng = random.Random(f"vision-{seed}")
    scenes = [sample(rng, combos) for _ in range(count)]
    return Pictures(_stacked([draw(scene, rng) for scene in scenes]), scenes)


def drawn(items: Sequence[Item]) -> Pictures:
    """The pictures of items."""
    return Pictures(_stacked([item.image for item in items]), [item.scene for item in items])


def _stacked(images: Sequence[Image.Image]) -> Tensor:
    """Images as uint8 ``[n, 3, S, S]``."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def patch_labels(scenes: Sequence[Scene], patches: int) -> dict[str, Tensor]:
    """What stands in the cell of each patch: one class ``[n, patches * patches]`` a kind."""
    centres = (np.arange(patches) + 0.5) * SIDE / patches
    cell = np.abs(centres[:, None] - np.array(CENTRES)[None]).argmin(1)
    found = {kind: torch.zeros(len(scenes), 3, 3, dtype=torch.long) for kind in KINDS}
    for index, scene in enumerate(scenes):
        for thing in scene.things:
            for kind, values in KINDS.items():
                found[kind][index, thing.row, thing.col] = 1 + values.index(getattr(thing, kind))
    rows = torch.from_numpy(cell)
    return {kind: grid[:, rows][:, :, rows].flatten(1) for kind, grid in found.items()}


def kind_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits ``[B, N, classes]`` at one kind's labels ``[B, N]``; `NOTHING` counts less."""
    weight = torch.ones(logits.shape[-1])
    weight[NOTHING] = EMPTY_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight)


class Probe(nn.Module):
    """Linear read-outs of every patch's attributes and of the picture's place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict({kind: nn.Linear(width, 1 + len(values)) for kind, values in KINDS.items()})
        self.place = nn.Linear(width, len(PLACES))

    def forward(self, states: Tensor, labels: dict[str, Tensor], places: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and the accuracies on patches where something stands, from states ``[B, 1 + N, C]``."""
        loss = F.cross_entropy(self.place(states[:, 0]), places)
        right = {"place": float((self.place(states[:, 0]).argmax(-1) == places).float().mean())}
        for kind, head in self.kinds.items():
            logits = head(states[:, 1:])  # [B, N, classes]
            loss = loss + kind_loss(logits, labels[kind])
            there = labels[kind] != NOTHING
            right[kind] = float((logits.argmax(-1) == labels[kind])[there].float().mean())
        return loss, right


def encode(vit: Blip2VisionModel, pixels: Tensor) -> Tensor:
    """The ViT's output ``[B, 1 + N, C]`` of uint8 pixels ``[B, 3, S, S]``."""
    return vit(normalize(pixels, PREPROCESSING)).last_hidden_state


def train_vit(
    config: dict[str, Any], plan: dict[str, Any], log: Any = print
) -> tuple[Blip2VisionModel, dict[str, float]]:
    """Train a ViT on the attributes of every patch; return it frozen, and its read-outs' accuracies on new pictures."""
    torch.manual_seed(plan["seed"])
    vit = Blip2VisionModel(Blip2VisionConfig(**config))
    probe = Probe(config["hidden_size"])
    seen, fresh = pictures(plan["images"], plan["seed"]), pictures(500, plan["seed"] + 1)
    patches = config["image_size"] // config["patch_size"]
    labels, places = patch_labels(seen.scenes, patches), place_labels(seen.scenes)
    optimizer = torch.optim.AdamW([*vit.parameters(), *probe.parameters()], plan["lr"], weight_decay=0.02)
    vit.train()
    for step in range(plan["steps"]):
        set_rate(optimizer, plan["lr"], step, plan["steps"])
        index = torch.randint(len(seen), (plan["batch"],))
        loss, right = probe(encode(vit, seen.pixels[index]), {k: v[index] for k, v in labels.items()}, places[index])
        take_step(optimizer, loss, [*vit.parameters(), *probe.parameters()])
        if step % 250 == 0:
            log(f"vit step {step} loss {loss.item():.3f} {rounded(right)}")
    vit.eval().requires_grad_(False)
    with torch.no_grad():
        _, right = probe(encode(vit, fresh.pixels), patch_labels(fresh.scenes, patches), place_labels(fresh.scenes))
    return vit, rounded(right)


class TextSide(nn.Module):
    """A small text encoder over words, for the contrast only: words ``[B, T]`` to unit vectors ``[B, C]``."""

    def __init__(self, words: int, width: int, longest: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(longest, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.encoder(self.words(ids) + self.positions[: ids.shape[1]], src_key_padding_mask=ids == 0)
        there = (ids != 0).unsqueeze(-1)
        return F.normalize((states * there).sum(1) / there.sum(1), dim=-1)


def train_qformer(
    vit: Blip2VisionModel, config: dict[str, Any], queries: int, plan: dict[str, Any], log: Any = print
) -> tuple[Blip2QFormerModel, Tensor, dict[str, float]]:
    """Train a Q-Former by image-text contrast (BLIP-2's ITC: a text meets the query that fits it best).

    Returns:
        the Q-Former, its query tokens ``[1, Q, D]``, and how often the right caption of 64 is found on new pictures.
    """
    torch.manual_seed(plan["seed"])
    qformer = Blip2QFormerModel(Blip2QFormerConfig(**config))
    width = config["hidden_size"]
    tokens = nn.Parameter(torch.randn(1, queries, width) * 0.5)
    project = nn.Linear(width, width)
    rng = random.Random(plan["seed"])
    seen, fresh = pictures(plan["images"], plan["seed"] + 2), pictures(512, plan["seed"] + 3)
    words = _word_ids(rng)
    side = TextSide(len(words) + 1, width, 40)
    temperature = nn.Parameter(torch.tensor(math.log(1 / 0.1)))
    trained = [*qformer.parameters(), tokens, *project.parameters(), *side.parameters(), temperature]
    optimizer = torch.optim.AdamW(trained, plan["lr"], weight_decay=0.02)
    features = torch.cat([encode(vit, part) for part in seen.pixels.split(256)])

    def similarity(states: Tensor, scenes: Sequence[Scene]) -> Tensor:
        images = qformer(query_embeds=tokens.expand(len(states), -1, -1), encoder_hidden_states=states)
        images = F.normalize(project(images.last_hidden_state), dim=-1)  # [B, Q, D]
        texts = side(_ids([text(caption(scene, rng)) for scene in scenes], words))  # [B, D]
        return torch.einsum("iqd,td->itq", images, texts).max(-1).values * temperature.exp()

    qformer.train()
    for step in range(plan["steps"]):
        set_rate(optimizer, plan["lr"], step, plan["steps"])
        index = torch.randint(len(seen), (plan["batch"],))
        logits = similarity(features[index], [seen.scenes[i] for i in index.tolist()])
        target = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        take_step(optimizer, loss, trained)
        if step % 250 == 0:
            log(f"qformer step {step} loss {loss.item():.3f}")
    qformer.eval()
    with torch.no_grad():
        found = [
            similarity(encode(vit, fresh.pixels[i : i + 64]), fresh.scenes[i : i + 64]).argmax(-1) == torch.arange(64)
            for i in range(0, len(fresh), 64)
        ]
    return qformer, tokens.detach(), {"caption_of_64": round(float(torch.cat(found).float().mean()), 4)}


def _word_ids(rng: random.Random) -> dict[str, int]:
    found = {word for _ in range(4000) for word in text(caption(sample(rng), rng)).split()}
    return {word: 1 + i for i, word in enumerate(sorted(found))}


def _ids(captions: Sequence[str], words: dict[str, int]) -> Tensor:
    rows = [[words[w] for w in c.split() if w in words] for c in captions]
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def place_labels(scenes: Sequence[Scene]) -> Tensor:
    return torch.tensor([list(PLACES).index(scene.place) for scene in scenes])


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Linear rise over 100 steps, then a cosine to nothing."""
    rate = peak * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
