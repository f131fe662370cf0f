"""Questions that a page's own words answer, made by rules. Pure functions.

No model is needed, and none of these questions is as good as a person's: they repeat the page's
words, so search finds their pages more easily than those of real questions. They are proposals.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
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
    r"(?<![\w.,$€£-])(?:[$€£]\s?\d[\d,.]*\d|[$€£]\s?\d|\d[\d,.]*\d|\d)(?:\s?%| per ?cent)?"
    r"(?![\w,.-]?\d)(?![\w-]\w)"
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
_VALUE = re.compile(r"[(\-–—]*\s?[$€£]?\s?\d[\d.,]*\s?%?\)?(?: .*)?|[-–—]+")
# Columns are named by these.
_WHEN_NUMBER = re.compile(
    rf"(?:{_YEAR.pattern}|\d{{1,2}}[./-]\d{{1,2}}[./-]\d{{2,4}}|{_DATE.pattern}"
    r"|\d+ (?:day|week|month|quarter|year)s?)\b.*"
)
_FRAGMENT = re.compile(r"[^(]*\).*|.*\([^)]*|\(\S*\)")
_TIME = re.compile(rf"{_MONTHS}|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day")
_VAGUE = frozenset(
    "all any few half many more most much no none one other several some two".split()
)
_LOOSE_ENDS = (".", ",", ";", ":", " and", " or", " of", " the", " to", " in", " for")
# Words of a line further apart than this many line heights are different cells (generate.layout).
_CELL_GAP = 1.2
_HEADER_GAP = 0.6
_CELL_WORDS = 4
_SMALL = frozenset("The A An This In On At Of For".split())


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and the words on the page that it rests on. ``named`` is the thing in
    the question without which nothing is left to find; ``source`` the kind of evidence. ``column``
    are the words over a table's cell: a page without them does not answer it."""

    text: str
    answer: str
    quote: str
    named: str
    source: str
    column: str = ""

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
    common = {word.text.strip(".,;:!?()") for word in page.words if word.text.islower()}
    for excerpt in read_excerpts(page):
        if excerpt.kind == "row":
            made = _of_row(page, excerpt, about, rng)
        else:
            made = _of_text(excerpt, common, about)
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
        if word.lower() not in _POINTING and word.title() not in _SMALL
    ]
    if not words or question.named not in question.text:
        return None
    called = re.sub(rf"\b{re.escape(words[0])}\b", name, question.named, count=1)
    return replace(
        question, text=question.text.replace(question.named, called, 1), answer="", quote=""
    )


def made_up_name(rng: random.Random, occurs: Callable[[str], bool]) -> str:
    """A name that sounds like one and does not occur (asked in lower case)."""
    name = rng.choice("Vel Tar Quen Mor Sild Bran Osk Pell Drav Hul".split())
    while True:
        name += rng.choice("aeou")
        name += rng.choice("mar nick thorpe vane lund rell sted dor quist".split())
        if not occurs(name.lower()):
            return name


def named_in(text: str) -> str:
    """The first name in a question, "" where it has none."""
    names = [found[0] for found in _NAME.finditer(text) if not _TIME.search(found[0])]
    return names[0] if names else ""


# Sentences


def _of_text(excerpt: Excerpt, common: Set[str], about: str) -> Iterator[tuple[str, Question]]:
    """What a sentence says; ``common`` are words that the page writes small."""
    text = re.sub(r"^\W+\s", "", excerpt.text)
    words = text.split()
    if len(words) not in _WORDS or not text[0].isupper() or text[-1] not in ".!":
        return
    if words[0].lower().strip(",") in _POINTING | _VAGUE or sum(
        c.isalpha() for c in text
    ) < 0.6 * len(text):
        return
    sentence = text[:-1]

    def question(asked: str, answer: str, named: str) -> Question:
        if GAP not in asked and not named_in(asked):
            # "The largest item" is one of many, unless it is said where.
            asked = f"{asked[:-1]}, according to {about}?"
        return Question(asked, answer, excerpt.text, named, PLAIN_TEXT)

    if found := _DEFINITION.fullmatch(sentence):
        thing = _within(found["thing"], common)
        if not _points(thing):
            asked = f"What {found['verb']} {thing}?"
            yield "definition", question(asked, found["what"], thing)
    if found := _MEANING.fullmatch(sentence):
        thing = _within(found["thing"], common)
        if not _points(thing):
            yield "definition", question(f"What does {thing} mean?", found["what"], thing)
    be = _BE.fullmatch(sentence)
    when = _WHEN.search(be["rest"]) if be else None
    if be and when and not _points(be["thing"]):
        rest = f"{be['rest'][: when.start()]}{be['rest'][when.end() :]}".strip(" ,")
        thing = _within(be["thing"], common)
        if 2 <= len(rest.split()) <= 12:
            yield "when", question(f"When {be['verb']} {thing} {rest}?", when["when"], thing)
    elif be and not _points(be["thing"]) and _AMOUNT.match(be["rest"]):
        thing = _within(be["thing"], common)
        if len(be["rest"].split()) <= 6:
            yield "amount", question(f"What {be['verb']} {thing}?", be["rest"], thing)
    if gap := _gap(sentence):
        what, start, end = gap
        shown = _around(sentence, start, end)
        yield (
            "gap",
            question(f'Which {what} is left out: "{shown}"?', sentence[start:end], named_in(shown)),
        )


def _gap(sentence: str) -> tuple[str, int, int] | None:
    """What is left out of a sentence, and where it stands."""
    if date := _DATE.search(sentence):
        return "date", *date.span()
    for amount in _AMOUNT.finditer(sentence):
        before = sentence[: amount.start()].split()
        # "Bay 3" is a name.
        numbered = len(before) > 1 and before[-1][0].isupper()
        if not numbered and not _YEAR.fullmatch(amount[0]):
            money = amount[0][0] in "$€£"
            share = amount[0].endswith(("%", "cent"))
            return "amount" if money else "share" if share else "number", *amount.span()
    for name in _NAME.finditer(sentence):
        if not _TIME.search(name[0]):
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


def _within(thing: str, common: Set[str]) -> str:
    """What begins a sentence, as it is written within one."""
    first = thing.partition(" ")[0]
    small = first in _SMALL or first.lower() in common
    return first.lower() + thing[len(first) :] if small else thing


def _points(thing: str) -> bool:
    """Whether the words only point at what was said before."""
    return any(word.lower() in _POINTING for word in thing.split())


# Table rows


def _of_row(
    page: Page, row: Excerpt, about: str, rng: random.Random
) -> Iterator[tuple[str, Question]]:
    """What a cell says of its row under its column."""
    cells = _cells(page, row.words)
    values = [
        n
        for n, cell in enumerate(cells)
        if n and len(cell) <= _CELL_WORDS and any(_NUMBER.fullmatch(word.text) for word in cell)
    ]
    if not row.header or not values or len(row.words) > _QUOTE_WORDS:
        return
    label = " ".join(word.text for word in cells[0]).strip(" .:|")
    if len(re.findall(r"[^\W\d_]", label)) < 4 or len(label) > 60:
        return
    cell = cells[rng.choice(values)]
    column = _column(page, row, cell)
    if _FRAGMENT.fullmatch(column) or any(map(_is_value, _cells(page, row.header))):
        return
    if not any(map(str.isalnum, column)) or column == label or column.endswith(_LOOSE_ENDS):
        return
    answer = " ".join(word.text for word in cell).strip(" ,;")
    asked = f'What is the figure for "{label}" under "{column}" in {about}?'
    yield "row", Question(asked, answer, text_of(page, row.words), label, TABLE, column)


def _cells(page: Page, indices: Iterable[int]) -> list[list[Word]]:
    """The words by cell, line by line and left to right."""
    cells: list[list[Word]] = []
    for i in indices:
        word = page.words[i]
        tall = (word.box[3] - word.box[1]) * page.height
        before = cells[-1][-1].box if cells else word.box
        below = (word.box[1] + word.box[3]) / 2 > before[3]
        if cells and not below and (word.box[0] - before[2]) * page.width < _CELL_GAP * tall:
            cells[-1].append(word)
        else:
            cells.append([word])
    return cells


def _is_value(cell: Sequence[Word]) -> bool:
    """Whether a cell holds what stands in a table, not what names a column of it."""
    text = " ".join(word.text for word in cell)
    return bool(_VALUE.fullmatch(text)) and not _WHEN_NUMBER.fullmatch(text)


def _column(page: Page, row: Excerpt, cell: list[Word]) -> str:
    """The words of the header right over a cell: its lowest line, and those that stand close."""
    x0, x1 = cell[0].box[0], cell[-1].box[2]
    slack = 0.2 * (x1 - x0)
    over = [
        word
        for word in (page.words[i] for i in row.header)
        if word.box[0] < x1 + slack and word.box[2] > x0 - slack
    ]
    top = max((word.box[3] for word in over), default=0.0)
    kept: list[Word] = []
    for word in sorted(over, key=lambda word: -word.box[3]):
        if word.box[3] < top - _HEADER_GAP * (word.box[3] - word.box[1]):
            break
        top = min(top, word.box[1])
        kept.append(word)
    return " ".join(word.text for word in over if word in kept) if len(kept) <= 6 else ""
