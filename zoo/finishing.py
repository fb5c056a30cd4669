"""What makes the VPG general: its ViT knows a shape in any colour, its Q-Former keeps what stands where.

A ViT that never sees some combinations of noun and colour may tell nouns by their colours: before this training it
named .70 of the things in pictures with such combinations, and .97 in others. As image encoders usually do, it
therefore also learns from pictures whose colours are changed. A Q-Former that has only told captions of unlike pictures
apart needs to know little of a picture, so it learns to tell what stands in each cell of the grid. Both begin with the
weights of the earlier training in half precision, as a folder holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerModel, Blip2VisionModel

from vpgtrans_core.miniature import data
from vpgtrans_core.miniature.world import PLACES, Scene
from zoo.vision import (
    KINDS,
    Pictures,
    Probe,
    drawn,
    encode,
    kind_loss,
    patch_labels,
    pictures,
    place_labels,
    rounded,
    set_rate,
    take_step,
)

CELLS = 3
"""Things stand in the cells of a grid with so many rows and columns."""
COLOURLESS = ("noun", "size")
"""What a change of colours leaves as it was."""
GREY = 0.3
"""The share of the changed pictures that turn grey; the channels of the others change places."""


def change_colours(pixels: Tensor) -> Tensor:
    """Pixels ``[B, 3, S, S]`` with the channels of each picture in random order; some pictures all grey."""
    order = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    order = order[torch.randint(len(order), (len(pixels),))]
    changed = torch.gather(pixels, 1, order[:, :, None, None].expand(pixels.shape))
    grey = torch.rand(len(pixels)) < GREY
    mean = changed.float().mean(1, keepdim=True).to(pixels.dtype)
    return torch.where(grey[:, None, None, None], mean, changed)


def finish_vit(vit: Blip2VisionModel, plan: dict[str, Any], log: Any = print) -> dict[str, float]:
    """Train a ViT further; half of each batch has its colours changed. Returns what it knows of unseen combinations."""
    torch.manual_seed(plan["seed"])
    vit.half().float().requires_grad_(True).train()
    probe = Probe(vit.config.hidden_size)
    seen = pictures(plan["images"], plan["pictures"])
    patches = vit.config.image_size // vit.config.patch_size
    labels, places = patch_labels(seen.scenes, patches), place_labels(seen.scenes)
    trained = [*vit.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(trained, plan["lr"], weight_decay=0.02)
    plain = plan["batch"] // 2
    for step in range(plan["steps"]):
        set_rate(optimizer, plan["lr"], step, plan["steps"])
        index = torch.randint(len(seen), (plan["batch"],))
        pixels, told = seen.pixels[index], {kind: label[index] for kind, label in labels.items()}
        whole = {kind: label[:plain] for kind, label in told.items()}
        states = encode(vit, torch.cat([pixels[:plain], change_colours(pixels[plain:])]))
        loss, right = probe(states[:plain], whole, places[index[:plain]])
        for kind in COLOURLESS:
            loss = loss + kind_loss(probe.kinds[kind](states[plain:, 1:]), told[kind][plain:])
        take_step(optimizer, loss, trained)
        if step % 150 == 0:
            log(f"vit, colours changed, step {step} loss {loss.item():.3f} {rounded(right)}")
    vit.eval().requires_grad_(False)
    fresh = drawn(data.items("held", 500))
    with torch.no_grad():
        _, right = probe(encode(vit, fresh.pixels), patch_labels(fresh.scenes, patches), place_labels(fresh.scenes))
    return rounded({f"unseen_{kind}": share for kind, share in right.items()})


class Grid(nn.Module):
    """Linear read-outs, from all queries together, of what stands in each cell and of the picture's place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        classes = {kind: CELLS * CELLS * (1 + len(values)) for kind, values in KINDS.items()}
        self.kinds = nn.ModuleDict({kind: nn.Linear(width, count) for kind, count in classes.items()})
        self.place = nn.Linear(width, len(PLACES))

    def forward(self, prompts: Tensor, scenes: Sequence[Scene], *, changed: bool = False) -> tuple[Tensor, float]:
        """Loss, and the share of pictures of which everything is right, from the queries' outputs ``[B, Q, C]``; of
        pictures in changed colours only what the change leaves as it was."""
        flat = prompts.flatten(1)
        loss, right = torch.zeros(()), torch.ones(len(flat), dtype=torch.bool)
        for kind, labels in patch_labels(scenes, CELLS).items():
            if not changed or kind in COLOURLESS:
                logits = self.kinds[kind](flat).unflatten(1, (CELLS * CELLS, -1))  # [B, 9, classes]
                loss = loss + kind_loss(logits, labels)
                right &= (logits.argmax(-1) == labels).all(-1)
        if not changed:
            loss = loss + F.cross_entropy(self.place(flat), place_labels(scenes))
        return loss, float(right.float().mean())


def finish_qformer(
    vit: Blip2VisionModel, qformer: Blip2QFormerModel, tokens: Tensor, plan: dict[str, Any], log: Any = print
) -> tuple[Tensor, dict[str, float]]:
    """Train a Q-Former further, on the grids of pictures, half of each batch with changed colours; returns its query
    tokens ``[1, Q, D]`` and its measures."""
    torch.manual_seed(plan["seed"])
    qformer.half().float().train()
    queries = nn.Parameter(tokens.half().float())
    grid = Grid(queries.shape[1] * queries.shape[2])
    seen = pictures(plan["images"], plan["pictures"])
    with torch.no_grad():
        features = torch.cat([encode(vit, part) for part in seen.pixels.split(256)])
        changed = torch.cat([encode(vit, change_colours(part)) for part in seen.pixels.split(256)])
    trained = [*qformer.parameters(), queries, *grid.parameters()]
    optimizer = torch.optim.AdamW(trained, plan["lr"], weight_decay=0.02)
    plain = plan["batch"] // 2

    def prompts(states: Tensor) -> Tensor:
        asked = qformer(query_embeds=queries.expand(len(states), -1, -1), encoder_hidden_states=states)
        return asked.last_hidden_state

    def share_right(fresh: Pictures) -> float:
        with torch.no_grad():
            return grid(prompts(encode(vit, fresh.pixels)), fresh.scenes)[1]

    for step in range(plan["steps"]):
        set_rate(optimizer, plan["lr"], step, plan["steps"])
        index = torch.randint(len(seen), (plan["batch"],))
        scenes = [seen.scenes[i] for i in index.tolist()]
        asked = prompts(torch.cat([features[index[:plain]], changed[index[plain:]]]))
        loss, right = grid(asked[:plain], scenes[:plain])
        loss = loss + grid(asked[plain:], scenes[plain:], changed=True)[0]
        take_step(optimizer, loss, trained)
        if step % 150 == 0:
            log(f"qformer, grids, step {step} loss {loss.item():.3f} whole {right:.3f}")
    qformer.eval()
    whole = {
        "whole": share_right(pictures(500, plan["seed"] + 1)),
        "unseen_whole": share_right(pictures(500, 0, "held")),
    }
    return queries.detach(), rounded(whole)
