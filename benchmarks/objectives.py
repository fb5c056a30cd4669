"""Other ways to warm a projector up than by captions from words, each from every start.

``python benchmarks/objectives.py`` trains the projector of `opt-mini-s -> SmolLM2-135M` for 30 steps of 16
of the demo's pictures. All ways see the same pictures, use the same optimiser (Muon), and pass as often through the
LLM; each starts from words, from wrong pairs of words, and from a random projector.

- *captions*: the default. The cross-entropy of the picture's caption.
- *states while it speaks*: hidden-state distillation. The states with which the LLM predicts the caption after the
  picture are to be, at every layer, those with which it predicts it after having read it.
- *final states while it speaks*: the same of the last layer alone.
- *last state*: the state after the picture is to be, at every layer, that after the caption.
- *mixture of words*: captions, but what is trained is how much of each of the captions' tokens a soft prompt holds; it
  is folded into the projector in the end.
- *norms of words*: captions, from a start whose soft prompts are as long as words are.
- *three visits*: captions, in three runs of ten steps with an optimiser and a schedule of their own.

Printed are losses (nats a token) on pictures with unseen combinations and what exchanging these adds
("sees"): the mean over the seeds, half the range in brackets. ``--json FILE`` keeps the results.
"""

from __future__ import annotations

import argparse
import copy
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from advice import advising
from kept import Kept
from miniature import with_spread
from torch import Tensor, nn
from torch.nn import functional

from vpgtrans_core.data.conversation import Caption
from vpgtrans_core.data.images import pixels
from vpgtrans_core.llm.text import Text, Tokens
from vpgtrans_core.miniature.data import items
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings
from vpgtrans_core.sight.exchange import partners
from vpgtrans_core.train import optim
from vpgtrans_core.vlm.captioning import load_model
from vpgtrans_core.vlm.model import VLModel
from zoo import pictures as drawn

STARTS: dict[str, dict[str, Any]] = {
    "words": {},
    "pairs shuffled": {"shuffle_pairs": True},
    "random projector": {"start": "random"},
}
BIAS_LR = 5e-4


@dataclass(frozen=True)
class Part:
    """Pictures with one caption each: what the frozen VPG gives, ``[n, Q, D]``, and the captions' texts."""

    visual: Tensor
    texts: list[Text]

    def batch(self, rows: list[int]) -> Part:
        return Part(self.visual[rows], [self.texts[row] for row in rows])


Loss = Callable[[VLModel, Part], Tensor]


def part(model: VLModel, split: str, count: int, seed: int = 0) -> Part:
    """Pictures with one caption in plain words each."""
    found = drawn.in_plain_words(items(split, count, seed=seed))
    visual = torch.stack([pixels(item.image, model.vpg.preprocessing) for item in found])
    texts = [model.llm.text.encode(Caption(item.captions[0]), 64, random.Random(0)) for item in found]
    parts = [model.frozen(some, "pixels")[0] for some in visual.split(64)]
    return Part(torch.cat(parts), texts)


def prompts(model: VLModel, some: Part) -> Tensor:
    """Soft prompts ``[B, Q, D]``."""
    return model.soft_prompts(some.visual, "outputs")


# ------------------------------------------------------------------------------------------------------ objectives


def captions(model: VLModel, some: Part) -> Tensor:
    """Cross-entropy, nats a token."""
    rows = model.llm.layout([[text] for text in some.texts], model.vpg.num_prompts)
    return model.llm.loss(prompts(model, some), rows) / rows.labels


def distilled(model: VLModel, some: Part, *, speak: bool, layers: slice = slice(None)) -> Tensor:
    """How far the states after the picture are from those after the caption itself; `speak` as for
    `states`."""
    own = [embedded(model, text.target[:-1]) for text in some.texts]
    with torch.no_grad():
        wanted = states(model, some.texts, own, speak)
    return distance(states(model, some.texts, list(prompts(model, some)), speak)[layers], wanted[layers])


def embedded(model: VLModel, ids: tuple[int, ...]) -> Tensor:
    return model.llm.embed(torch.tensor(ids, dtype=torch.long))


def states(model: VLModel, texts: list[Text], read: list[Tensor], speak: bool) -> Tensor:
    """The states ``[layers, N, D]`` that predict the captions' tokens, or the first of each alone (`speak` is False),
    when the LLM has read `read`, embeddings ``[L, D]`` of each picture, in the picture's place."""
    rows, ends, counts = [], [], []
    for text, what in zip(texts, read, strict=True):
        said = text.target[:-1] if speak else ()
        around = [piece.ids if isinstance(piece, Tokens) else None for piece in text.split()[0]]
        before = [what if ids is None else embedded(model, ids) for ids in around]
        rows.append(torch.cat([*before, embedded(model, said)]))
        ends.append(len(rows[-1]))
        counts.append(1 + len(said))
    inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(inputs.shape[1]) < torch.tensor(ends)[:, None]
    out = model.llm.model.model(inputs_embeds=inputs, attention_mask=mask.long(), output_hidden_states=True)
    hidden = torch.stack(out.hidden_states[1:]).float()
    return torch.cat(
        [hidden[:, n, end - count : end] for n, (end, count) in enumerate(zip(ends, counts, strict=True))], 1
    )


def distance(got: Tensor, wanted: Tensor) -> Tensor:
    """The mean over the layers of the squared distance, relative to the wanted states' own spread."""
    spread = (wanted - wanted.mean(1, keepdim=True)).square().mean((1, 2))
    return ((got - wanted).square().mean((1, 2)) / spread).mean()


class Mixture(nn.Module):
    """A projector whose soft prompts are sums of word embeddings: trained is how much there is of each.

    Args:
        projector: where it begins; what of it no sum of the words gives stays as it is.
        words: embeddings ``[K, D_t]``.
    """

    def __init__(self, projector: nn.Linear, words: Tensor) -> None:
        super().__init__()
        self.words = words
        whole = torch.cat([projector.weight, projector.bias[:, None]], dim=1).detach()
        shares = torch.linalg.lstsq(words.T, whole, driver="gelsd").solution
        self.shares = nn.Linear(projector.in_features, len(words))
        with torch.no_grad():
            self.shares.weight.copy_(shares[:, :-1])
            self.shares.bias.copy_(shares[:, -1])
        self.rest = whole - words.T @ shares

    @property
    def weight(self) -> Tensor:
        return self.words.T @ self.shares.weight + self.rest[:, :-1]

    def forward(self, outputs: Tensor) -> Tensor:
        return functional.linear(outputs, self.weight, self.words.T @ self.shares.bias + self.rest[:, -1])


# ------------------------------------------------------------------------------------------------------------ ways


@dataclass(frozen=True)
class Way:
    """How a projector is warmed up: by what, in how many runs, and what is changed before."""

    loss: Loss = captions
    visits: int = 1
    mixture: bool = False
    norms: bool = False


WAYS = {
    "captions": Way(),
    "states while it speaks": Way(partial(distilled, speak=True)),
    "final states while it speaks": Way(partial(distilled, speak=True, layers=slice(-1, None))),
    "last state": Way(partial(distilled, speak=False)),
    "mixture of words": Way(mixture=True),
    "norms of words": Way(norms=True),
    "three visits": Way(visits=3),
}


@dataclass(frozen=True)
class Lesson:
    """A model at a start, the pictures it learns from and those on which it is measured, and how long it learns."""

    model: VLModel
    training: Part
    unseen: Part
    seed: int
    steps: int
    batch: int

    def batches(self) -> Iterator[Part]:
        """The training pictures in a random order, again and again."""
        rng = random.Random(self.seed)
        order: list[int] = []
        while True:
            if len(order) < self.batch:
                order = rng.sample(range(len(self.training.texts)), len(self.training.texts))
            yield self.training.batch([order.pop() for _ in range(self.batch)])

    @torch.no_grad()
    def look(self) -> tuple[float, float]:
        """The held-out loss, and what exchanging the pictures adds."""
        own = float(captions(self.model, self.unseen))
        others = partners([repr(text) for text in self.unseen.texts])
        rows = [n if other is None else other for n, other in enumerate(others)]
        exchanged = replace(self.unseen, visual=self.unseen.visual[rows])
        return own, float(captions(self.model, exchanged)) - own

    def train(self, way: Way) -> None:
        """Warm the projector up, in place."""
        batches = self.batches()
        for _ in range(way.visits):
            trained = self.model.projector
            optimizer = optim.muon(trained.shares if isinstance(trained, Mixture) else trained, BIAS_LR)
            steps = self.steps // way.visits
            self.run(way.loss, optimizer, batches, steps, lambda step, steps=steps: optim.muon_schedule(step, steps))

    def run(
        self,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        batches: Iterator[Part],
        steps: int,
        factor: Callable[[int], float],
    ) -> None:
        for step in range(steps):
            optim.set_rates(optimizer, factor(step))
            optimizer.zero_grad()
            loss(self.model, next(batches)).backward()
            optimizer.step()


def measure(lesson: Lesson, way: Way) -> dict[str, Any]:
    """Warm up from the lesson's start, which is put back afterwards."""
    start = lesson.model.projector
    projector: Any = copy.deepcopy(start)
    if way.norms:
        lengthen(projector, lesson)
    if way.mixture:
        tokens = sorted({token for text in lesson.training.texts for token in text.target})
        projector = Mixture(projector, embedded(lesson.model, tuple(tokens)).float())
    lesson.model.projector = projector
    before, _ = lesson.look()
    lesson.train(way)
    end, sees = lesson.look()
    lesson.model.projector = start
    return {"start": before, "end": end, "sees": sees}


@torch.no_grad()
def lengthen(projector: nn.Linear, lesson: Lesson) -> None:
    """Let the soft prompts have the mean length of the captions' words."""
    words = embedded(lesson.model, tuple(token for text in lesson.training.texts for token in text.target)).float()
    given = projector(lesson.training.visual[:256])
    factor = words.norm(dim=-1).mean() / given.norm(dim=-1).mean()
    projector.weight *= factor
    projector.bias *= factor


def at_start(start: str, seed: int, given: argparse.Namespace) -> Lesson:
    """The model as the toolkit starts it, before any step."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "pictures"
        drawn.write(place, given.images)
        transfer(
            source=given.source, target=given.target, data=(str(place / "train/captions.json"),),
            val_data=str(place / "unseen/captions.json"), val_images=drawn.UNSEEN, out=str(Path(folder) / "run"),
            seed=seed, stages=(1,), stage1_steps=0, save="vpg", source_loss=False, workers=0, augment=False,
            captions_per_image=1, batch_size=given.batch, device="cpu", dtype=given.dtype, **STARTS[start],
        )  # fmt: skip
        settings = Settings(device="cpu", dtype=given.dtype)
        model = load_model(str(Path(folder) / "run"), settings, default_registry())
    model.train_only(("projector",))
    training, unseen = part(model, "train", given.images), part(model, "held", drawn.UNSEEN, drawn.UNSEEN_SEED)
    return Lesson(model, training, unseen, seed, given.steps, given.batch)


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each way from each start."""
    lines = ["| way | before | after | sees |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == name]
        cells = (with_spread([row[column] for row in mine], 2) for column in ("start", "end", "sees"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="opt-mini-s")
    parser.add_argument("--target", default="smollm2-135m", help="a decoder-only LLM")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16, help="captions of a step, each of another picture")
    parser.add_argument("--images", type=int, default=1500, help="training pictures")
    parser.add_argument("--dtype", default="auto", help="bfloat16 is faster where the CPU computes in it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = {f"{way}, {start}": (way, start) for start in given.starts for way in given.ways}
    kept = Kept(given.json, "way", given, ("ways", "starts"))
    lessons: dict[tuple[str, int], Lesson] = {}
    for name, seed in kept.missing(list(names), given.seeds):
        way, start = names[name]
        if (start, seed) not in lessons:
            lessons = {(start, seed): at_start(start, seed, given)}
        kept.add({"way": name, "seed": seed, **measure(lessons[start, seed], WAYS[way])})
    print(f"\n{given.source} -> {given.target}\n\n{table(kept.rows)}")


if __name__ == "__main__":
    with advising():
        main()
