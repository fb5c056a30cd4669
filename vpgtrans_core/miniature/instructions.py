"""Conversations about the miniature's pictures: questions, several turns, and follow-ups that need the earlier turn."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpgtrans_core.miniature.data import Item
from vpgtrans_core.miniature.language import KINDS, questions, say, text
from vpgtrans_core.miniature.world import Scene

ASKED = 3
"""Plain questions in a conversation."""


@dataclass(frozen=True)
class Exchange:
    """A question of one kind and its answer; `follows` says whether it can be answered only with the turn before."""

    kind: str
    question: str
    answer: str
    follows: bool = False


def dialogue(scene: Scene, rng: random.Random) -> list[Exchange]:
    """A conversation about a scene: some plain questions, the first about a thing with follow-ups about the same."""
    plain = [Exchange(q.kind, f"{text(q.words)} ?", q.answer.text) for q in questions(scene, rng)[:ASKED]]
    place = rng.randrange(len(plain) + 1)
    return [*plain[:place], *_about_one(scene, rng), *plain[place:]]


def _about_one(scene: Scene, rng: random.Random) -> list[Exchange]:
    """A question that picks one of the things, then questions that call it "it"."""
    thing = rng.choice(scene.things)
    begin = rng.choice(
        [
            Exchange("noun", f"what is the {say(thing.colour, rng)} thing ?", thing.noun),
            Exchange("colour", f"what color is the {say(thing.noun, rng)} ?", thing.colour),
        ]
    )
    more = [
        Exchange("size", "what size is it ?", thing.size, follows=True),
        Exchange("knowledge", "what kind of thing is it ?", KINDS[thing.noun], follows=True),
    ]
    if begin.kind == "noun":
        more.append(Exchange("colour", "what color is it ?", thing.colour, follows=True))
    else:
        more.append(Exchange("noun", "what is it ?", thing.noun, follows=True))
    return [begin, *rng.sample(more, 2)]


def dialogues(items: Sequence[Item], seed: int = 0) -> list[list[Exchange]]:
    """A conversation about each picture. The same arguments give the same ones."""
    return [dialogue(item.scene, random.Random(f"talk-{seed}-{item.key}")) for item in items]


def save(items: Sequence[Item], folder: Path, *, seed: int = 0, shuffled: bool = False) -> Path:
    """Write pictures and a conversation about each as ``llava.json``, in LLaVA's form; return that file.

    Args:
        shuffled: the control: every answer is that of another picture to a question of the same kind, so that answers
            are of the right form and say nothing of the picture.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    talks = dialogues(items, seed)
    if shuffled:
        talks = _shuffled(talks, random.Random(seed))
    rows = []
    for item, talk in zip(items, talks, strict=True):
        name = f"images/{item.key}.png"
        item.image.save(folder / name)
        rows.append({"image": name, "conversations": _turns(talk)})
    (folder / "llava.json").write_text(json.dumps(rows, indent=0), encoding="utf-8")
    return folder / "llava.json"


def _turns(talk: Sequence[Exchange]) -> list[dict[str, str]]:
    turns = []
    for number, exchange in enumerate(talk):
        mark = "" if number else "<image>\n"
        turns += [
            {"from": "human", "value": mark + exchange.question},
            {"from": "gpt", "value": exchange.answer},
        ]
    return turns


def _shuffled(talks: list[list[Exchange]], rng: random.Random) -> list[list[Exchange]]:
    """The conversations with the answers of each kind permuted among all."""
    kinds = {exchange.kind for talk in talks for exchange in talk}
    answers = {kind: [e.answer for talk in talks for e in talk if e.kind == kind] for kind in sorted(kinds)}
    for given in answers.values():
        rng.shuffle(given)
    return [[Exchange(e.kind, e.question, answers[e.kind].pop(), e.follows) for e in talk] for talk in talks]
