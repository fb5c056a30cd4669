"""How the miniature world is spoken of: a lexicon with synonyms, captions, questions and what language models read.

Every word carries the thing it speaks of, if any: `llms` uses that to show small models where to look, and the gates
use it to ask. Texts are lower-case without full stops, as captions are after the paper's cleaning.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from vpgtrans_core.miniature.world import COLOURS, NOUNS, SIZES, Relation, Scene, Thing, sample

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet", "ruby", "cherry"),
    "blue": ("azure", "navy", "cobalt", "sapphire"),
    "green": ("emerald", "jade", "lime", "olive"),
    "yellow": ("golden", "lemon", "amber"),
    "purple": ("violet", "lilac", "plum", "lavender"),
    "orange": ("tangerine", "apricot", "copper"),
    "pink": ("rose", "magenta", "fuchsia"),
    "teal": ("turquoise", "aqua", "cyan"),
    "ball": ("sphere", "orb", "globe"),
    "box": ("cube", "crate", "block"),
    "ring": ("hoop", "doughnut", "circle"),
    "star": ("starfish", "asterisk", "pentagram"),
    "heart": ("valentine", "sweetheart"),
    "moon": ("crescent", "half moon", "sickle"),
    "cross": ("plus", "crucifix", "crosspiece"),
    "tree": ("fir", "pine", "spruce"),
    "house": ("hut", "cottage", "cabin"),
    "fish": ("trout", "carp", "salmon"),
    "flower": ("daisy", "blossom", "buttercup"),
    "cup": ("mug", "beaker", "teacup"),
    "small": ("tiny", "little", "mini", "miniature"),
    "large": ("big", "huge", "giant", "enormous"),
}
PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "grass": ("on the grass", "on a lawn", "in a meadow", "in the garden"),
    "sand": ("on the sand", "on a beach", "in the desert", "on a dune"),
    "snow": ("in the snow", "on the ice", "in winter", "on a glacier"),
    "night": ("at night", "in the dark", "at midnight", "in outer space"),
    "wood": ("on wood", "on a wooden floor", "on a table", "on planks"),
}

BETWEEN: dict[Relation, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "lower than"),
}
AFTER: dict[Relation, tuple[str, ...]] = {
    "left": ("to its left", "on its left side", "at its left hand"),
    "right": ("to its right", "on its right side", "at its right hand"),
    "above": ("above it", "over it"),
    "below": ("below it", "beneath it", "underneath"),
}
OPPOSITE: dict[Relation, Relation] = {"left": "right", "right": "left", "above": "below", "below": "above"}
ROWS = (("top", "upper"), ("middle",), ("bottom", "lower"))
COLUMNS = ("left", "middle", "right")
KINDS = {
    "ball": "toy", "box": "container", "ring": "jewel", "star": "light", "heart": "symbol", "moon": "light",
    "cross": "symbol", "tree": "plant", "house": "building", "fish": "animal", "flower": "plant", "cup": "container",
}  # fmt: skip
OPENINGS = (
    "there is",
    "we see",
    "a picture of",
    "this image shows",
    "a photo of",
    "here is",
    "a drawing of",
    "you can find",
)
VERBS = ("sits", "lies", "stands", "is", "floats", "rests")
PLAIN = 0.6
"""How often a thing is called by its plain word; otherwise by a synonym."""

Role = Literal["size", "colour", "noun", "asked", "answer", "other"]


@dataclass(frozen=True)
class Word:
    """One word. `thing` is the index of the scene's thing it speaks of; `role` says how."""

    text: str
    thing: int | None = None
    role: Role | None = None


Words = list[Word]


def text(words: Words) -> str:
    """The words as one string."""
    return " ".join(w.text for w in words)


def plain(phrase: str) -> Words:
    """A phrase that speaks of no thing."""
    return [Word(w) for w in phrase.split()]


def say(concept: str, rng: random.Random) -> str:
    """The concept's plain word or a synonym."""
    others = SYNONYMS.get(concept, ())
    return concept if not others or rng.random() < PLAIN else rng.choice(others)


def _tagged(concept: str, thing: int, role: Role, rng: random.Random) -> Words:
    """The concept's word or words; only the last of several carries the role."""
    *before, last = say(concept, rng).split()
    return [*(Word(w) for w in before), Word(last, thing, role)]


def _noun_phrase(scene: Scene, thing: int, rng: random.Random) -> Words:
    t = scene.things[thing]
    article = rng.choice(("a", "a", "a", "one"))
    return [
        Word(article),
        *_tagged(t.size, thing, "size", rng),
        *_tagged(t.colour, thing, "colour", rng),
        *_tagged(t.noun, thing, "noun", rng),
    ]


def cell_phrase(thing: Thing, rng: random.Random) -> str:
    """Where a lone thing is."""
    row, column = rng.choice(ROWS[thing.row]), COLUMNS[thing.col]
    if thing.row == 1:
        return rng.choice(("in the middle", "in the center")) if thing.col == 1 else f"on the {column}"
    edge = "top" if thing.row == 0 else "bottom"
    return rng.choice((f"at the {edge}", f"near the {edge}")) if thing.col == 1 else f"in the {row} {column} corner"


def caption(scene: Scene, rng: random.Random) -> Words:
    """One caption that tells everything there is to tell."""
    body = _pair(scene, rng) if len(scene.things) == 2 else _lone(scene, rng)
    place = plain(rng.choice(PLACE_PHRASES[scene.place]))
    return place + body if rng.random() < 0.25 else body + place


def _lone(scene: Scene, rng: random.Random) -> Words:
    opening = plain(rng.choice(OPENINGS)) if rng.random() < 0.4 else []
    return [*opening, *_noun_phrase(scene, 0, rng), *plain(cell_phrase(scene.things[0], rng))]


def _pair(scene: Scene, rng: random.Random) -> Words:
    first = rng.randrange(2)
    relation = scene.relation
    assert relation is not None
    if first == 1:
        relation = OPPOSITE[relation]
    one, two = _noun_phrase(scene, first, rng), _noun_phrase(scene, 1 - first, rng)
    opening = plain(rng.choice(OPENINGS)) if rng.random() < 0.3 else []
    if rng.random() < 0.3:
        return [
            *opening,
            *one,
            *plain(rng.choice(("with", "and"))),
            *two,
            *plain(rng.choice(AFTER[OPPOSITE[relation]])),
        ]
    verb = [] if opening or rng.random() < 0.6 else plain(rng.choice(VERBS))
    return [*opening, *one, *verb, *plain(rng.choice(BETWEEN[relation])), *two]


def captions(scene: Scene, rng: random.Random, count: int = 5) -> list[str]:
    """`count` captions of one scene, no two alike."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[text(caption(scene, rng))] = None
    return list(found)


def plain_caption(scene: Scene) -> str:
    """The one caption that tells everything in the plainest words: always the same for the same scene."""
    named = [f"a {thing.size} {thing.colour} {thing.noun}" for thing in scene.things]
    place = PLACE_PHRASES[scene.place][0]
    if scene.relation is None:
        return f"{named[0]} {_plain_cell(scene.things[0])} {place}"
    return f"{named[0]} {BETWEEN[scene.relation][0]} {named[1]} {place}"


def _plain_cell(thing: Thing) -> str:
    row, column = ROWS[thing.row][0], COLUMNS[thing.col]
    if thing.row == 1:
        return "in the middle" if thing.col == 1 else f"on the {column}"
    return f"at the {row}" if thing.col == 1 else f"in the {row} {column} corner"


def notes(scene: Scene, rng: random.Random) -> Words:
    """The scene as a bare list of words, about as many as there are soft prompts."""
    words: Words = []
    for index, thing in enumerate(scene.things):
        words += [w for role in ("size", "colour", "noun") for w in _tagged(getattr(thing, role), index, role, rng)]
        if index == 0:
            words += plain(scene.relation or cell_phrase(thing, rng))
    return [*words, Word(rng.choice(PLACE_PHRASES[scene.place]).split()[-1])]


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the kind under which the gates count it."""

    kind: str
    words: Words
    answer: Word


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """One question of every kind that the scene allows, in random order."""
    found = [_exists(scene, rng), _count(scene), _place(scene), *_about(scene, rng.randrange(len(scene.things)), rng)]
    if scene.relation:
        found += _relational(scene, rng.randrange(2), rng)
    rng.shuffle(found)
    return found


def _asked(template: str, word: str, thing: int) -> Words:
    """Fill the template's ``*`` with the word that names the thing."""
    words: Words = []
    for part in template.split():
        words += [Word(part)] if part != "*" else [*plain(word)[:-1], Word(word.split()[-1], thing, "asked")]
    return words


def _about(scene: Scene, i: int, rng: random.Random) -> list[Question]:
    t = scene.things[i]
    noun, colour = say(t.noun, rng), say(t.colour, rng)
    return [
        Question("colour", _asked("what color is the *", noun, i), Word(t.colour, i, "answer")),
        Question("noun", _asked("what is the * thing", colour, i), Word(t.noun, i, "answer")),
        Question("size", _asked("what size is the *", noun, i), Word(t.size, i, "answer")),
        Question("knowledge", _asked("what kind of thing is the * thing", colour, i), Word(KINDS[t.noun], i, "answer")),
    ]


def _exists(scene: Scene, rng: random.Random) -> Question:
    """Half of the answers are no; half of those, where there are two things, mix up whose colour is whose."""
    i = rng.randrange(len(scene.things))
    colour, noun, answer = scene.things[i].colour, scene.things[i].noun, "yes"
    if rng.random() < 0.5:
        answer = "no"
        others = [t.colour for t in scene.things if t.colour != colour]
        if not others or rng.random() < 0.5:
            others = [c for c in COLOURS if c != colour]
        colour = rng.choice(others)
    words = plain("is there a " + say(colour, rng)) + _asked("*", say(noun, rng), i)
    return Question("exists", words, Word(answer, i, "answer"))


def _count(scene: Scene) -> Question:
    return Question("count", plain("how many things are there"), Word(("one", "two")[len(scene.things) - 1]))


def _place(scene: Scene) -> Question:
    return Question("place", plain("where is this"), Word(scene.place))


def _relational(scene: Scene, i: int, rng: random.Random) -> list[Question]:
    """Questions whose answer is the thing that stands in a relation to thing `i`."""
    relation = scene.relation
    assert relation is not None
    where = BETWEEN[relation if i == 1 else OPPOSITE[relation]][0]
    noun, other = say(scene.things[i].noun, rng), scene.things[1 - i]
    return [
        Question("relation", _asked(f"what is {where} the *", noun, i), Word(other.noun, 1 - i, "other")),
        Question(
            "steps", _asked(f"what color is the thing {where} the *", noun, i), Word(other.colour, 1 - i, "other")
        ),
    ]


QUESTION_KINDS = ("colour", "noun", "size", "exists", "count", "place", "knowledge", "relation", "steps")


@dataclass(frozen=True)
class Document:
    """What a language model reads: a context that stands for the picture, then what is said of it.

    Either `second`, another text of the same scene, or `asked`, questions with answers.
    """

    context: Words
    second: Words = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)


def document(rng: random.Random) -> Document:
    """Sample a document: facts without a scene, captions after notes or other captions, questions."""
    scene = sample(rng)
    kind = rng.random()
    if kind < 0.06:
        return fact(rng)
    context = notes(scene, rng) if rng.random() < 0.3 else caption(scene, rng)
    if kind < 0.10:
        return Document(context, second=list(context))
    if kind < 0.5:
        return Document(context, second=caption(scene, rng))
    return Document(context, asked=questions(scene, rng)[:5])


def fact(rng: random.Random) -> Document:
    """A synonym explained, or a question about what kind of thing something is."""
    concept = rng.choice([*COLOURS, *NOUNS, *SIZES])
    word = rng.choice(SYNONYMS[concept])
    if concept in KINDS and rng.random() < 0.5:
        asked = Question("fact", plain(f"what kind of thing is a {rng.choice((word, concept))}"), Word(KINDS[concept]))
        return Document([], asked=[asked])
    return Document([], second=plain(f"{word} is {'a kind of ' if concept in NOUNS else ''}{concept}"))
