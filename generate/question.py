"""What a question asks for: its terms with weights, names and numbers, and the kind of answer.

Pure functions; English question words only. Questions in other languages lose the hints, no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from retrieval.expansion import without_orders

AnswerKind = Literal["number", "time", "person", "list", "any"]

_WORD = re.compile(r"(?!FY|fy)[^\W\d_]{1,2}\d+\b|[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\d+(?:[.,]\d+)*")
_PLACE = re.compile(
    r"\b(?:on|in|at|of|from|the|to|see)?\s*\b(?P<what>pages?|slides?)\s*\(?\s*"
    r"(?P<first>\d{1,4})(?:\s*(?:-|\u2013|to|and)\s*(?P<last>\d{1,4}))?\)?",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"\u201c`]([^\"\u201c\u201d`]+)[\"\u201d`]")
_AS_NUMBER = re.compile(
    r"\b(?:answer|anwser|give|round|express)\b.{0,40}"
    r"\b(?:millions?|billions?|thousands?|percent\w*|decimals?|integer|usd|dollars)\b",
    re.IGNORECASE | re.DOTALL,
)
_LOOKS = re.compile(
    r"\b(?:figure|picture|photo\w*|image|cartoon|diagram|map|logo|illustration|screenshot|icon|"
    r"colou?r\w*|shape|symbol|cover|chart|graph|plot|axis|table|row|column|slide|page|list(?:ed)?|"
    r"title|section|chapter|appendix|document|report|paper|present(?:ed|ation))s?\b"
)
_KINDS: tuple[tuple[AnswerKind, re.Pattern[str]], ...] = (
    (
        "time",
        re.compile(r"\b(?:when|what (?:year|date|time|month|day)|which (?:year|date|month))\b"),
    ),
    (
        "number",
        re.compile(
            r"\bhow (?:many|much|long|old|far|large|big|high|tall|often|fast|deep|wide|heavy)\b"
            r"|\b(?:percent|percentage|ratio|amount|rate|cost|price|total|average|share|sum|size|"
            r"value|weight|temperature|margin|revenue|income|number of)\b|%|\bgrow(?:n|th)?\b"
        ),
    ),
    ("person", re.compile(r"\b(?:who|whom|whose)\b")),
    ("list", re.compile(r"\b(?:list|enumerate|what are|which are|name the|names of)\b")),
)

_STOP_WORDS = """
a about above after again all also although am among an and any are as at be because been before
being below between both but by can could did do does doing down during each every few for from
further had has have having he her here hers him his how i if in into is it its itself just me more
most much many must my no nor not now of off on once one only or other our out over own per please
same she should so some such than that the their them then there these they this those through to
too under until up upon us very via was we were what when where whether which while who whom whose
why will with within without would you your s t according tell kind sort type besides respectively
"""
_STOP = frozenset(_STOP_WORDS.split())

_META_WORDS = """
document report page slide presentation paper article text figure chart table diagram image picture
illustration mention describe show state give list name provide present include base use number
answer question following title section file pdf handbook manual brochure introduce find
define definition explain mean fy value amount level specific information way item main reason
account get come take happen contain
"""
"""Words that say where to look or how to answer: they count little."""


@dataclass(frozen=True, slots=True)
class Term:
    """A word or number to look for.

    ``stem`` as ``stem_of`` gives it, ``text`` as the question has it. ``weight`` is before IDF.
    ``named`` is true for names, numbers and quoted words: what the answer must be about.
    """

    stem: str
    text: str
    weight: float
    named: bool


@dataclass(frozen=True, slots=True)
class Question:
    """A question taken apart. ``pages`` are page numbers it names, first to last. ``of_looks`` is
    true where it asks about pictures, layout, or the document as such: pages need not have its
    words."""

    text: str
    terms: tuple[Term, ...]
    names: tuple[tuple[str, ...], ...]
    kind: AnswerKind
    pages: tuple[tuple[int, int], ...]
    of_looks: bool


def read_question(text: str) -> Question:
    """Take ``text`` apart; a question of stop words only has no terms."""
    asked = without_orders(text)
    pages = tuple(
        (int(place["first"]), int(place["last"] or place["first"]))
        for place in _PLACE.finditer(asked)
    )
    bare = _PLACE.sub(" ", asked)
    quoted = {stem for part in _QUOTED.findall(bare) for stem in stems(part)}
    shouting = bare.upper() == bare
    title = sum(w[0].isupper() for w in bare.split()) > 0.6 * len(bare.split())
    terms: dict[str, Term] = {}
    names: list[tuple[str, ...]] = []
    name: list[str] = []
    previous_end = 0
    for position, match in enumerate(_WORD.finditer(bare)):
        word = match[0]
        stem = stem_of(word)
        number = word[0].isdigit()
        gap = bare[previous_end : match.start()]
        begins = position == 0 or bool(re.search(r"[.?!:;]\s", gap))
        capital = (
            word[0].isupper()
            and not shouting
            and not title
            and (not begins or (len(word) > 1 and word.isupper()))
        )
        previous_end = match.end()
        if (not capital and not (word.lower() in {"of", "and", "the", "&"} and name)) or (
            gap.strip() and name
        ):
            if len(name) > 1:
                names.append(tuple(name))
            name = []
        plain = word.lower()
        if plain in _STOP or (len(plain) == 1 and not number and not capital):
            continue
        if capital:
            name.append(stem)
        meta = stem in _META and stem not in quoted
        small = number and len(stem) < 3
        named = (number and not small) or (capital and not meta) or stem in quoted
        weight = 0.2 if meta else 1.3 if named else 1.0
        old = terms.get(stem)
        if old is None or old.weight < weight:
            terms[stem] = Term(stem, word, weight, named)
    if len(name) > 1:
        names.append(tuple(name))
    lower = asked.lower()
    kind: AnswerKind = "number" if _AS_NUMBER.search(text) else "any"
    for answer, signs in _KINDS:
        if signs.search(lower):
            kind = answer
            break
    looks = bool(_LOOKS.search(lower))
    return Question(asked, tuple(terms.values()), tuple(names), kind, pages, looks)


def stems(text: str) -> list[str]:
    """The stems of all words and numbers of ``text``, stop words left out."""
    return [stem_of(word) for word in _WORD.findall(text) if word.lower() not in _STOP]


@lru_cache(maxsize=65_536)
def stem_of(word: str) -> str:
    """A number without its grouping, or a word in lower case without its commonest endings.

    Only endings that English adds to most words are cut; the stem need not be a word.
    """
    if word[0].isdigit():
        return word.replace(",", "").rstrip(".")
    word = word.lower().replace("\u2019", "'").removesuffix("'s").removesuffix("'")
    for ending, stand_in in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word.removesuffix(ending) + stand_in
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed", "ion", "ment", "er", "ly", "al"):
        if word.endswith(ending) and len(word) >= len(ending) + 4:
            word = word.removesuffix(ending)
            if word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word.removesuffix("e") if len(word) > 4 else word


def has_number(stemmed: Iterable[str]) -> bool:
    """Whether a number is among the stems."""
    return any(stem[0].isdigit() for stem in stemmed)


_META = frozenset(stem_of(word) for word in _META_WORDS.split())
