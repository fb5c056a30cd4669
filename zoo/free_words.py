"""Whether a sentence in free words is true of a drawn picture: its nouns, colours, places, sizes and how many things.

A real language model names things in its own words, so a word may stand for several of the world's concepts: "circle"
is a ball or a ring. A thing that the world does not have ("a blue hat") counts as a wrong noun.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vpgtrans_core.miniature.language import PLACE_PHRASES, SYNONYMS
from vpgtrans_core.miniature.world import COLOURS, NOUNS, PLACES, SIZES, Scene, Thing

KINDS = ("colour", "noun", "count", "place")
"""What a picture's sentence is scored on."""

_FREE = {
    "teal": "blue-green", "purple": "magenta", "yellow": "gold", "ball": "circle bead balloon round",
    "box": "square brick", "ring": "donut wheel", "star": "sun", "cross": "x", "tree": "christmas bush",
    "house": "home building", "cup": "glass bucket pot", "grass": "field lawn garden meadow park",
    "sand": "sandy beach desert dune dunes", "snow": "snowy ice icy winter glacier iceberg",
    "night": "dark midnight space sky", "wood": "wooden table floor plank planks board desk",
    "small": "tiny", "large": "big",
}  # fmt: skip
"""Further words than those of the world's own lexicon."""
_CONCEPTS: dict[str, frozenset[str]] = {}
for _concept in (*COLOURS, *NOUNS, *SIZES, *PLACES):
    _phrases = (*SYNONYMS.get(_concept, ()), *(PLACE_PHRASES.get(_concept, ())))
    for _word in (_concept, *(p.split()[-1] for p in _phrases), *_FREE.get(_concept, "").split()):
        _CONCEPTS[_word] = _CONCEPTS.get(_word, frozenset()) | {_concept}
_PLAIN_WORDS = (
    "a an the one two three some and or with of in on at to by near from for as is are was it its that this there here "
    "has have which can be see we you find shows sits lies stands floats rests side corner left right top bottom upper "
    "lower middle center centre above below over under beneath underneath higher than outer front behind next picture "
    "image photo drawing end"
)
_PLAIN = frozenset(_PLAIN_WORDS.split())
"""Words that name nothing that a picture has."""
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Claim:
    """One thing that a sentence says: a word's index, what it may mean, and for a colour or size of which noun."""

    index: int
    kind: str
    means: frozenset[str]
    of: frozenset[str] | None = None


def words(sentence: str) -> list[str]:
    """The words that claims point to."""
    return re.sub(r"[-_/]", " ", sentence.lower()).replace(".", " ").replace(",", " ").split()


def meaning(word: str) -> frozenset[str]:
    """The concepts that a word may stand for; a plural stands for what its singular does."""
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in _CONCEPTS:
            return _CONCEPTS[form]
    return frozenset()


def claims(sentence: str) -> list[Claim]:
    """What a sentence says. A colour or size belongs to the noun behind it, else it is said of any thing."""
    said, found, open_ = words(sentence), list[Claim](), list[Claim]()
    for index, word in enumerate(said):
        means = meaning(word)
        kind = _kind(means)
        if kind in ("colour", "size"):
            open_.append(Claim(index, kind, means))
        elif kind == "noun" or (open_ and _unknown_noun(said, index)):
            found += [Claim(c.index, c.kind, c.means, means) for c in open_]
            found.append(Claim(index, "noun", means))
            open_ = []
        elif kind == "place":
            found += [] if open_ and open_[-1].index == index - 1 else open_
            found.append(Claim(index, "place", means))
            open_ = []
        elif word in _PLAIN and open_:
            found, open_ = found + open_, []
    return found + open_


def _kind(means: frozenset[str]) -> str | None:
    kinds: dict[str, Iterable[str]] = {"colour": COLOURS, "size": SIZES, "noun": NOUNS, "place": PLACES}
    return next((kind for kind, all_ in kinds.items() if means & set(all_)), None)


def _unknown_noun(said: list[str], index: int) -> bool:
    """Whether the word is the last of a phrase and none that the world knows ("a small blue *hat* on ...")."""
    last = index + 1 == len(said) or said[index + 1] in _PLAIN
    return last and said[index] not in _PLAIN


def true_of(claim: Claim, scene: Scene) -> bool:
    """Whether a claim is true of a scene. A colour of a noun that is not in the picture may be any thing's."""
    if claim.kind == "place":
        return scene.place in claim.means
    if claim.kind == "noun":
        return any(t.noun in claim.means for t in scene.things)
    owners = [t for t in scene.things if claim.of and t.noun in claim.of] or list(scene.things)
    return any(_trait(t, claim.kind) in claim.means for t in owners)


def _trait(thing: Thing, kind: str) -> str:
    return thing.colour if kind == "colour" else thing.size


def wrong(sentence: str, scene: Scene) -> set[int]:
    """The indices of the wrong words in `words(sentence)`."""
    return {claim.index for claim in claims(sentence) if not true_of(claim, scene)}


def right(sentence: str, scene: Scene) -> dict[str, bool]:
    """Whether a sentence is right on each of `KINDS`: it tells all of it, and nothing else.

    A sentence has the count right if it names as many things as the picture has; the same thing said twice is one.
    """
    said = claims(sentence)
    of = {kind: [c for c in said if c.kind == kind] for kind in ("colour", "noun", "place")}
    scored = {kind: bool(told) and all(true_of(c, scene) for c in told) for kind, told in of.items()}
    things = scene.things
    scored["noun"] &= all(any(t.noun in c.means for c in of["noun"]) for t in things)
    scored["colour"] &= all(any(t.colour in c.means for c in of["colour"]) for t in things)
    scored["count"] = _count(sentence, said) == len(things)
    return {kind: scored[kind] for kind in KINDS}


def _count(sentence: str, told: list[Claim]) -> int:
    """How many things a sentence names. What it says again in the same words is the same thing."""
    said, named, before = words(sentence), dict[object, int](), -1
    for noun in sorted((c for c in told if c.kind == "noun"), key=lambda c: c.index):
        traits = frozenset(c.means for c in told if c.kind in ("colour", "size") and before < c.index < noun.index)
        number = next((_NUMBERS[w] for w in said[max(0, noun.index - 3) : noun.index] if w in _NUMBERS), 1)
        thing = (noun.means or said[noun.index], traits)
        named[thing] = max(named.get(thing, 0), number)
        before = noun.index
    return sum(named.values())
