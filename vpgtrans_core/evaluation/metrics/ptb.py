"""The Penn Treebank tokenizer of caption evaluation, without Java.

Every published CIDEr, BLEU and ROUGE of captions rests on pycocoevalcap's tokens: those of Stanford's PTBTokenizer
(CoreNLP 3.4.1, ``-preserveLines -lowerCase``) with punctuation removed. The rules here were written from what that
program prints, and the tests compare the two. Known differences: a line break inside a caption is a space here, while
it shifts all later captions there; the end of a caption is never read together with the beginning of the next one, as
"No." and "5" are there; SGML tags with attributes, exotic emoticons and some words that are written together with
punctuation are cut in other places.
"""

from __future__ import annotations

import re
from functools import lru_cache

DROPPED = frozenset("\" '' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())  # noqa: SIM905
"""Tokens that pycocoevalcap removes. It compares them with lower-cased tokens, so ``-lrb-`` stays: so it does here. The
double quote is `` or '' there."""

_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES))
_CHARACTERS = str.maketrans(
    {
        "’": "'", "‘": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
        "‐": "-", "‑": "-", "–": "--", "—": "--", "―": "--", "…": "...", "½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ",
        "£": " # ", "€": " $ ", "¢": " cents ", "\u00ad": "", "\u200b": " ", "\ufeff": " ",
    }
)  # fmt: skip
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

_ABBREVIATIONS = """
    al cf co ct dr ft ga jr ky lt md mo mr ms mt ph rd rt sq sr st va vs vt wm adj adm adv ala apr aug ave bhd cie
    col cos cpl dak dec det drs ens esq est etc ext feb fla fri gen gov hon inc ind jan jos jul jun kan ltd maj mar
    mfg mme mon mrs mtg neb nev nov oct pfc plc pte pty pvt rep rev sen sep seq sfc sgt spc ste sys tel thu tue wed
    wis wyo alex ariz assn asst atty bldg blvd brig bros capt cmdr colo conn corp dept elec govs insp intl invt kans
    mich minn mlle mont msgr natl okla penn pres prof reps sens sept supt tenn tues univ wisc attys bancorp calif
    comdr lieut messrs profs supts thurs
""".split()  # noqa: SIM905
"""Words that keep their period wherever they stand."""
_CAPITALISED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash".split()  # noqa: SIM905
"""Those that keep it only with a capital: names of states that are words too."""
_NUMBERED = "art ca fig figs no nos op pp prop".split()  # noqa: SIM905
"""Those that keep it before a number."""

_any = "|".join
_A = r"(?:[^\W_]|(?!\w)[\u0300-\u036f\u0900-\u0e7f])+"
"""Letters and digits, with the accents and vowel signs that follow them."""
_TOKEN = re.compile(
    rf"""
    # The first rule that fits wins: what looks like a word to a later rule may be more than one, or part of one.
      </?[A-Za-z][A-Za-z0-9]*>                                             # a tag
    | https?://[^\s"<>|()]+ | www\.[^\s"<>|()]+\w                          # addresses
    | [A-Za-z0-9][\w.+-]*@[\w-]+(?:\.[\w-]+)+ | @\w*[A-Za-z_]\w* | \#[A-Za-z_]\w*
    | '' | ``?                                                             # quotes
    | (?<!\w)[:;=]['-]?[()](?!\w) | :-?[DP](?!\w) | \^_\^ | -_-            # emoticons
    # Words that are cut in two.
    | [A-Za-z]+?(?=n['`]t(?!\w)) | n['`]t(?!\w)                            # do n't
    | (?:can(?=not)|gon(?=na)|wan(?=na)|got(?=ta)|gim(?=me)|lem(?=me))(?=(?:not|na|ta|me)(?!\w|[-/]\w))
    | 't(?=(?:is|was)(?!\w)) | [yj]'(?=\w)                                 # 't was, y' all
    # Words with an apostrophe in them or before them.
    | (?:ma'am|c'mon|ne'er|e'er|o'clock|d'ye|ol')(?!\w)
    | (?<!\w)[dlno]'{_A} | (?<!\w)(?-i:[A-HK-XZ])'{_A}                     # d'or, O'Neil
    | 'n' | '(?:n|em|til|cause)(?!\w) | '(?:s|m|d|re|ve|ll)(?!\w) | '\d\ds(?!\w)
    # Words that keep their period.
    | (?:{_any(_ABBREVIATIONS)})\.(?!\w) | (?-i:{_any(f"{w}|{w.upper()}" for w in _CAPITALISED)})\.(?!\w)
    | (?:{_any(_NUMBERED)})\.(?=\s*\d)
    | (?<!\w)[A-Za-z](?:\.[A-Za-z])++\.?+(?:-{_A})*(?!\w)                  # U.S.
    | (?<![\w'])[A-Za-z]\.(?!\w\w) | ph\.d\.?(?!\w)
    | {_A}\.(?=\s*[,;:])                                                   # before other punctuation: any word
    # Numbers.
    | (?<!\w)(?-i:US|[ACR])\$ | \d+[-\s]\d+/\d+                            # US$, 3 1/2
    | -[lr][rsc]b- | c\+\+ | c\#
    | {_A}(?:-[A-Za-z]+){{0,2}}(?:/{_A}(?:-[A-Za-z]+){{0,2}}){{1,2}}       # black/white, 1/2
    | [+-]?\d*(?:[.,:]\d+)+ | (?<![\w.])[+-]\d+(?!\w) | \+\d+              # 1,000.5
    # Other words: AT&T, node.js (and a space forgotten after a period), t-shirt.
    | (?-i:[A-Z]+(?:&[A-Z]+)+)
    | (?=[^\W\d]){_A}(?:[.!?](?=[^\W\d_]){_A})+(?!-)
    | {_A}(?:[-_](?:[dlo]')?{_A})*
    # Punctuation: marks that stay together, or one character.
    | \.\.\. | -{{2,}} | [!?]+ | \*+ | \#+ | _+ | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


@lru_cache(maxsize=1 << 18)
def tokens(caption: str) -> str:
    """The tokens of a caption, separated by spaces, in lower case and without punctuation."""
    text = _ENTITY.sub(lambda match: _ENTITIES[match[0]], caption).translate(_CHARACTERS)
    text = "".join(character if character < "\U00010000" else " " for character in text)
    words = (_written(match[0]) for match in _TOKEN.finditer(text))
    return " ".join(word for word in words if word not in DROPPED)


def _written(token: str) -> str:
    """A token as the Treebank writes it."""
    if len(token) > 1 and not token.strip("-"):
        return "--"
    written = "".join(_BRACKETS.get(character, character) for character in token.lower())
    return re.sub(r"\s", "\u00a0", written)  # 3 1/2 is one token
