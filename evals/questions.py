"""Questions that a page's own words answer, made by rules. Pure functions.

No model is needed, and none of these questions is as good as a person's: they repeat the page's
words, so search finds their pages more easily than those of real questions. They are proposals.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from generate.excerpts import Excerpt, read_excerpts, text_of
from pageglass.types import Page, Word

PLAIN_TEXT = "Pure-text (Plain-text)"
TABLE = "Table"
"""Kinds of evidence, by the words of MMLongBench-Doc."""

GAP = "___"

_WORDS = range(6, 41)
_CONTEXT_WORDS = 9
_QUOTE_WORDS = 40
_POINTING = frozenset(
    "it its this that these those they their he his she her we our you your i my such here there"
    " however therefore thus also and but or so then if when while although because for as both"
    " either each see".split()
)
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(
    rf"\b(?:\d{{1,2}} (?:{_MONTHS})(?: \d{{4}})?|(?:{_MONTHS}) \d{{1,2}}, \d{{4}}"
    rf"|(?:{_MONTHS}) \d{{4}})\b"
)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_AMOUNT = re.compile(
    r"(?<![\w.,$€£])(?:[$€£]\s?\d[\d,.]*\d|[$€£]\s?\d|\d[\d,.]*\d|\d)(?:\s?%| per ?cent)?(?![\w,.]?\d)"
)
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*\b")
_DEFINITION = re.compile(
    r"(?P<thing>[A-Z][\w'’-]*(?: [\w'’-]+){0,4}) (?P<verb>is|are|was|were) "
    r"(?P<what>(?:an?|the|any|one) .+)"
)
_MEANING = re.compile(r"(?P<thing>[A-Z][\w'’-]*(?: [\w'’-]+){0,4}) means (?P<what>.+)")
_BE = re.compile(r"(?P<thing>[A-Z][\w'’ -]{2,60}?) (?P<verb>was|were|is|are) (?P<rest>.+)")
_WHEN = re.compile(rf" (?:on|in) (?P<when>{_DATE.pattern}|{_YEAR.pattern})")
_NUMBER = re.compile(r"[(\-]?[$€£]?\d[\d.,]*%?\)?")
_SMALL = frozenset("The A An This In On At Of For".split())


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and the words on the page that it rests on. ``named`` is the thing in
    the question without which nothing is left to find; ``source`` the kind of evidence."""

    text: str
    answer: str
    quote: str
    named: str
    source: str

    @property
    def answer_format(self) -> str:
        """Int, Float or Str, as MMLongBench-Doc has it."""
        plain = self.answer.strip("$€£%() ").replace(",", "")
        if re.fullmatch(r"-?\d+", plain):
            return "Float" if "%" in self.answer else "Int"
        return "Float" if re.fullmatch(r"-?\d+\.\d+", plain) else "Str"


def questions_of(page: Page, about: str, rng: random.Random) -> list[Question]:
    """Every question the rules make of a page, those of other kinds in turn; ``about`` is what the
    document is called."""
    kinds: dict[str, list[Question]] = {}
    for excerpt in read_excerpts(page):
        made = _of_row(page, excerpt, about, rng) if excerpt.kind == "row" else _of_text(excerpt)
        for kind, question in made:
            kinds.setdefault(kind, []).append(question)
    for made in kinds.values():
        rng.shuffle(made)
    order = sorted(kinds)
    rng.shuffle(order)
    # A natural question is worth more than a gap to fill.
    order.sort(key=lambda kind: kind == "gap")
    found: list[Question] = []
    while any(kinds.values()):
        found += [kinds[kind].pop() for kind in order if kinds[kind]]
    return found


def without_answer(question: Question, name: str) -> Question | None:
    """The question with what it names called ``name``, of which no page says anything; None where
    it names nothing that could be called so."""
    words = [
        word
        for word in re.findall(r"[^\W\d_]{3,}", question.named)
        if word.lower() not in _POINTING and word not in _SMALL and word.lower() not in ("the",)
    ]
    if not words or question.named not in question.text:
        return None
    called = re.sub(rf"\b{re.escape(words[0])}\b", name, question.named, count=1)
    return replace(
        question, text=question.text.replace(question.named, called, 1), answer="", quote=""
    )


def made_up_name(rng: random.Random, occurs: Callable[[str], bool]) -> str:
    """A name that sounds like one and does not occur."""
    while True:
        name = "".join(
            (rng.choice(("Vel", "Tar", "Quen", "Mor", "Sild", "Bran", "Osk", "Pell", "Drav", "Hul")),
             rng.choice(("a", "o", "e", "u")),
             rng.choice(("mar", "nick", "thorpe", "vane", "lund", "rell", "sted", "dor", "quist")))
        )  # fmt: skip
        if not occurs(name.lower()):
            return name


def named_in(text: str) -> str:
    """The first name in a question, "" where it has none."""
    found = _NAME.search(text)
    return found[0] if found else ""


# Sentences


def _of_text(excerpt: Excerpt) -> Iterator[tuple[str, Question]]:
    text = re.sub(r"^\W+\s", "", excerpt.text)
    words = text.split()
    if len(words) not in _WORDS or not text[0].isupper() or text[-1] not in ".!":
        return
    if words[0].lower().strip(",") in _POINTING or sum(c.isalpha() for c in text) < 0.6 * len(text):
        return
    sentence = text[:-1]

    def question(asked: str, answer: str, named: str) -> Question:
        return Question(asked, answer, excerpt.text, named, PLAIN_TEXT)

    if found := _DEFINITION.fullmatch(sentence):
        thing = _within(found["thing"])
        if not _points(thing):
            asked = f"What {found['verb']} {thing}?"
            yield "definition", question(asked, found["what"], thing)
    if found := _MEANING.fullmatch(sentence):
        thing = _within(found["thing"])
        if not _points(thing):
            yield "definition", question(f"What does {thing} mean?", found["what"], thing)
    be = _BE.fullmatch(sentence)
    when = _WHEN.search(be["rest"]) if be else None
    if be and when and not _points(be["thing"]):
        rest = f"{be['rest'][: when.start()]}{be['rest'][when.end() :]}".strip(" ,")
        thing = _within(be["thing"])
        if 2 <= len(rest.split()) <= 20:
            yield "when", question(f"When {be['verb']} {thing} {rest}?", when["when"], thing)
    elif be and not _points(be["thing"]) and _AMOUNT.match(be["rest"]):
        thing = _within(be["thing"])
        if len(be["rest"].split()) <= 6:
            yield "amount", question(f"What {be['verb']} {thing}?", be["rest"], thing)
    if gap := _gap(sentence):
        what, start, end = gap
        shown = _around(sentence, start, end)
        yield (
            "gap",
            question(f'Which {what} is left out: "{shown}"?', sentence[start:end], _named(shown)),
        )


def _gap(sentence: str) -> tuple[str, int, int] | None:
    """What is left out of a sentence, and where it stands."""
    if date := _DATE.search(sentence):
        return "date", *date.span()
    for amount in _AMOUNT.finditer(sentence):
        if not _YEAR.fullmatch(amount[0]):
            money = amount[0][0] in "$€£"
            share = amount[0].endswith(("%", "cent"))
            return "amount" if money else "share" if share else "number", *amount.span()
    if name := _NAME.search(sentence):
        return "name", *name.span()
    if year := _YEAR.search(sentence):
        return "year", *year.span()
    return None


def _around(sentence: str, start: int, end: int) -> str:
    """The sentence with the gap, cut on both sides."""
    before, after = sentence[:start].split(), sentence[end:].split(" ")
    left = ["…", *before[-_CONTEXT_WORDS:]] if len(before) > _CONTEXT_WORDS else before
    cut = len(after) > _CONTEXT_WORDS + 1
    right = " ".join([*after[: _CONTEXT_WORDS + 1], "…"] if cut else after)
    return f"{' '.join(left)} {GAP}{right}".strip()


def _named(shown: str) -> str:
    """What the words around a gap are about: a name in them, or their longest word."""
    words = re.findall(r"[^\W\d_]{5,}", shown)
    return named_in(shown) or max(words, key=len, default="")


def _within(thing: str) -> str:
    """What begins a sentence, as it is written within one."""
    first, _, rest = thing.partition(" ")
    return f"{first.lower()} {rest}" if first in _SMALL and rest else thing


def _points(thing: str) -> bool:
    """Whether the words only point at what was said before."""
    return any(word.lower() in _POINTING for word in thing.split())


# Table rows


def _of_row(
    page: Page, row: Excerpt, about: str, rng: random.Random
) -> Iterator[tuple[str, Question]]:
    """What a cell says of its row under its column."""
    words = [page.words[i] for i in row.words]
    values = [n for n, word in enumerate(words) if _NUMBER.fullmatch(word.text)]
    if not row.header or not values or len(words) > _QUOTE_WORDS:
        return
    label = " ".join(word.text for word in words[: values[0]]).strip(" .:|")
    if len(re.findall(r"[^\W\d_]", label)) < 4 or len(label) > 60:
        return
    at = rng.choice(values)
    column = _column(page, row, words[at])
    if not column or column == label:
        return
    if at + 1 < len(words) and words[at + 1].text == "%":
        answer = f"{words[at].text}%"
    elif words[at - 1].text in ("$", "€", "£"):
        answer = words[at - 1].text + words[at].text
    else:
        answer = words[at].text
    asked = f'What is the figure for "{label}" under "{column}" in {about}?'
    yield "row", Question(asked, answer, text_of(page, row.words), label, TABLE)


def _column(page: Page, row: Excerpt, cell: Word) -> str:
    """The words of the header that stand over a cell."""
    x0, _, x1, _ = cell.box
    slack = 0.5 * (x1 - x0)
    over = [
        page.words[i].text
        for i in row.header
        if page.words[i].box[0] < x1 + slack and page.words[i].box[2] > x0 - slack
    ]
    return " ".join(over) if len(over) <= 6 else ""
