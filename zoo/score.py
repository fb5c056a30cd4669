"""Captions read back into scenes and compared with the truth; synonyms count as the word that they stand for.

``python -m zoo.score MODEL ...`` prints how well models caption new pictures: with combinations of colour and noun that
training pictures show, too (``val``), and with combinations that none of them shows (``held``).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vpgtrans_core.miniature.language import OPPOSITE, PLACE_PHRASES, SYNONYMS
from vpgtrans_core.miniature.world import COLOURS, NOUNS, SIZES, Relation, Scene

Attribute = tuple[str, ...]
"""One statement of a caption: ``("colour", "ball", "red")``, ``("relation", "ball", "left", "cup")``, ..."""

_CONCEPT = {name.split()[-1]: concept for concept, names in SYNONYMS.items() for name in (concept, *names)}
_PLACE = {phrase.split()[-1]: place for place, phrases in PLACE_PHRASES.items() for phrase in phrases}
_PLACE["wooden"] = "wood"
_RELATION: dict[str, Relation] = {
    "left": "left", "right": "right", "above": "above", "over": "above", "higher": "above", "below": "below",
    "under": "below", "beneath": "below", "lower": "below", "underneath": "below",
}  # fmt: skip
_ROW = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}


@dataclass(frozen=True)
class Score:
    """How well captions told their scenes. `parts` holds recall by kind of attribute."""

    exact: float
    precision: float
    recall: float
    f1: float
    parts: dict[str, float]


def read(caption: str) -> frozenset[Attribute]:
    """The statements that a caption makes."""
    words = caption.lower().split()
    nouns: list[str] = []
    found: set[Attribute] = set()
    pending: dict[str, str] = {}
    for word in words:
        concept = _CONCEPT.get(word)
        if concept in SIZES:
            pending["size"] = concept
        elif concept in COLOURS:
            pending["colour"] = concept
        elif concept in NOUNS:
            nouns.append(concept)
            found |= {("noun", concept), *((kind, concept, value) for kind, value in pending.items())}
            pending = {}
        elif word in _PLACE:
            found.add(("place", _PLACE[word]))
    return frozenset(found | _where(words, nouns))


def _where(words: list[str], nouns: list[str]) -> set[Attribute]:
    if len(nouns) == 2:
        return _relation(words, *nouns)
    if len(nouns) == 1:
        return {("cell", nouns[0], *_cell(words))}
    return set()


def _relation(words: list[str], first: str, second: str) -> set[Attribute]:
    """A relation word between the two nouns places the first, one after them places the second ("above it")."""
    places = [i for i, word in enumerate(words) if _CONCEPT.get(word) in NOUNS]
    for i, word in enumerate(words):
        if word in _RELATION and i > places[0]:
            where = _RELATION[word] if i < places[1] else OPPOSITE[_RELATION[word]]
            return {_ordered(first, where, second)}
    return set()


def _ordered(first: str, where: Relation, second: str) -> Attribute:
    """The same statement in one form: left or above."""
    return ("relation", first, where, second) if where in ("left", "above") else (
        "relation", second, OPPOSITE[where], first)  # fmt: skip


def _cell(words: list[str]) -> tuple[str, str]:
    row = next((_ROW[w] for w in words if w in _ROW), "middle")
    return row, next((w for w in words if w in ("left", "right")), "middle")


def truth(scene: Scene) -> frozenset[Attribute]:
    """All statements that are true of a scene and that a full caption makes."""
    found: set[Attribute] = {("place", scene.place)}
    for t in scene.things:
        found |= {("noun", t.noun), ("colour", t.noun, t.colour), ("size", t.noun, t.size)}
    if scene.relation:
        found.add(_ordered(scene.things[0].noun, scene.relation, scene.things[1].noun))
    else:
        t = scene.things[0]
        found.add(("cell", t.noun, ("top", "middle", "bottom")[t.row], ("left", "middle", "right")[t.col]))
    return frozenset(found)


def score(captions: Sequence[str], scenes: Iterable[Scene]) -> Score:
    """Score generated captions, one a scene. An exact caption tells everything and nothing false."""
    exact, said, right, true = 0, 0, 0, 0
    kinds, kinds_right = Counter[str](), Counter[str]()
    for caption, scene in zip(captions, scenes, strict=True):
        claims, facts = read(caption), truth(scene)
        exact += claims == facts
        said, right, true = said + len(claims), right + len(claims & facts), true + len(facts)
        kinds.update(fact[0] for fact in facts)
        kinds_right.update(fact[0] for fact in claims & facts)
    precision, recall = right / max(said, 1), right / max(true, 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    parts = {kind: kinds_right[kind] / kinds[kind] for kind in sorted(kinds)}
    return Score(exact / max(len(captions), 1), precision, recall, f1, parts)


def main() -> None:
    from vpgtrans_core.llm.adapter import GenerateOptions
    from vpgtrans_core.miniature.data import items
    from vpgtrans_core.registry import default_registry
    from vpgtrans_core.settings import Settings
    from vpgtrans_core.vlm.captioning import load_model, say

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="aliases or folders of models of the miniature")
    parser.add_argument("--pictures", type=int, default=200)
    arguments = parser.parse_args()
    for name in arguments.models:
        model = load_model(name, Settings(device="cpu"), default_registry())
        for split in ("val", "held"):
            shown = items(split, arguments.pictures)
            greedy = GenerateOptions(num_beams=1, min_new_tokens=1)
            found = score(
                [s.text for s in say(model, [i.image for i in shown], options=greedy)], [i.scene for i in shown]
            )
            parts = "  ".join(f"{kind} {share:.2f}" for kind, share in found.parts.items())
            print(f"{name:20} {split:5} exact {found.exact:.3f}  F1 {found.f1:.3f}  {parts}")


if __name__ == "__main__":
    main()
