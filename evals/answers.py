"""Are the answers right, do their citations hold the evidence, and are the right ones declined?

Pure functions over runs. Two readings of "right" have names of their own and are never mixed:

``match``
    The rules of MMLongBench-Doc's published evaluation, by answer format (Ma et al. 2024,
    arXiv:2407.01523; https://github.com/mayubo2333/MMLongBench-Doc, eval/eval_score.py), see
    ``answer_matches``.
``contains``
    Of extractive answers only: does the gold value stand in the passages they quote? See
    ``answer_contained``. It is generous, above all to small numbers, and no accuracy.
"""

from __future__ import annotations

import ast
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals.cases import Case
from evals.intervals import by_document, wilson
from evals.runs import AnswerRecord, CitationRecord, Outcome, Run
from generate.answer import NOT_FOUND
from pageglass.types import Answer

AnswerFormat = Literal["Int", "Float", "Str", "List", "None"]

ANLS_THRESHOLD = 0.5
"""At or below this similarity two strings have nothing in common (Biten et al. 2019, ST-VQA)."""

RELATIVE_TOLERANCE = 0.01
"""How far apart two floats may be, as a share of the larger."""

_UNANSWERABLE = "Not answerable"
_BARE_WORDS = 3
"""So many words may stand beside a number for it to be the whole answer: "about 18 kg"."""

_SCALES = {
    "thousand": 1e3,
    "k": 1e3,
    "million": 1e6,
    "millions": 1e6,
    "mn": 1e6,
    "m": 1e6,
    "billion": 1e9,
    "billions": 1e9,
    "bn": 1e9,
    "b": 1e9,
    "trillion": 1e12,
    "tn": 1e12,
}
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>(?<![\w)])[-+\u2212])?(?:[A-Z]{0,3}[$€£¥₹])?[ ]?"
    r"(?P<digits>\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?![.,]?\d)(?:[ ]?(?P<scale>thousand|millions?|billions?|trillion|mn|bn|tn|[kmb])\b)?",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"\(\s*[$€£¥₹]?\s*(?P<number>\d[\d.,]*)\s*%?\s*\)")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_BULLET = re.compile(r"^\s*(?:[-*\u2022\u2023\u25aa\u25cf]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
_EXACT = (
    re.compile(r".*\.(?:py|ipynb)"),  # a file of code
    re.compile(r"page.*"),
    re.compile(r"\d+(?:[-\s]\d+)?"),  # a number, or two: of a telephone, of a range
    re.compile(r"\d{4}[-\s]\d{2}(?:[-\s]\d{2})?"),  # a date
    re.compile(r"[\w.%+-]+@[\w.-]+\.[a-z]{2,}"),  # an e-mail address
)


# One answer


def answer_format(case: Case) -> AnswerFormat:
    """The format its gold answer is compared in. Where the case names none it is what the answer
    looks like; formats of other names are strings."""
    if not case.answerable:
        return "None"
    if isinstance(case.answer, tuple) and len(case.answer) > 1:
        return "List"
    named = case.answer_format.strip().lower()
    number = _bare_number(case.gold)
    if named == "str" and case.scale.strip() and number is not None:
        named = ""  # What has a scale is a number, whatever it was copied from.
    for known in ("Int", "Float", "Str", "List"):
        if named == known.lower():
            return known
    if named:
        return "Str"
    gold = case.gold
    if gold.startswith("["):
        return "List"
    if number is None:
        return "Str"
    return "Int" if number.value.is_integer() and not re.search(r"[.%]", gold) else "Float"


def answer_matches(case: Case, text: str) -> float | None:
    """How well ``text``, a bare value, matches the gold answer, 0..1; None where there is none.

    By format, as MMLongBench-Doc's published evaluation has it (source: see the module):

    - Int: the integer parts are equal. Float: equal within 1 %, or when both are rounded to the
      shorter one's decimals (two at least), also as a percentage of one another (0.21, 21 %, 21).
      What rounds to 0 is equal to nothing so; there 0 would match 0.4, as 0.4 %.
    - Str: ANLS, 1 - edit distance / longer length, 0 at .5 and below. Addresses, file names,
      "page ...", times, dates and telephone numbers must be equal.
    - List: as many elements; sorted, the worst pair's ANLS; lists of numbers must be equal.
    - None (unanswerable): ANLS with "Not answerable". An empty text and Pageglass' own words for a
      declined answer count as that.

    Case, parts in brackets, quotes, "$" and "%" make no difference. The published evaluation has a
    language model reduce an answer to its value first; here ``text`` is compared as it stands, but
    for what code can read: marks between thousands and a few words beside a number (its unit)
    are dropped; "2 million" is 2,000,000 as well as 2 (there the unit is meant to be dropped); a
    list without brackets is read by lines, or else semicolons, or else commas and "and".
    """
    if not case.answerable:
        if text.strip() in ("", NOT_FOUND):
            return 1.0
        return similarity(_clean(_UNANSWERABLE), _clean(text))
    if not (gold := case.gold):
        return None
    match answer_format(case):
        case "Int" | "Float" as kind:
            if (wanted := _bare_number(gold)) is not None:
                said = _bare_number(text)
                equal = _same_integer if kind == "Int" else _same_float
                return float(said is not None and _any_reading(wanted, said, equal))
            return _match_strings(gold, text)
        case "List":
            return _match_lists(gold, text)
        case _:
            return _match_strings(gold, text)


def answer_contained(case: Case, text: str) -> float | None:
    """1 where the gold value stands in ``text``, a quoted passage, else 0; None where there is no
    gold value.

    A number must be there with its very value (percent signs and marks between thousands make no
    difference), a string with its words in order and together, a list with every element. Case,
    punctuation and articles make no difference.
    """
    if not case.answerable or not (gold := case.gold):
        return None
    kind = answer_format(case)
    if kind == "List" and (elements := _list_of(gold)):
        return float(all(_stands(element, text) for element in elements))
    return float(_stands(gold, text, as_number=kind in ("Int", "Float")))


def token_f1(gold: str, text: str) -> float:
    """Harmonic mean of token precision and recall, 0..1, after SQuAD's normalisation: lower case,
    without punctuation and articles (Rajpurkar et al. 2016). Two empty texts agree."""
    wanted, said = Counter(_tokens(gold)), Counter(_tokens(text))
    if not wanted or not said:
        return float(wanted == said)
    shared = (wanted & said).total()
    return 2 * shared / (wanted.total() + said.total())


def similarity(one: str, other: str) -> float:
    """ANLS of two strings: 1 - edit distance / longer length, 0 at ANLS_THRESHOLD and below."""
    longer = max(len(one), len(other))
    if not longer:
        return 1.0
    if abs(len(one) - len(other)) >= ANLS_THRESHOLD * longer:
        return 0.0  # Their distance is no smaller.
    alike = 1 - _edit_distance(one, other) / longer
    return alike if alike > ANLS_THRESHOLD else 0.0


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as written, and what it is multiplied by: ``value`` 2 and ``scale`` a million."""

    value: float
    scale: float = 1.0

    @property
    def readings(self) -> tuple[float, float]:
        return self.value, self.value * self.scale


def _numbers(text: str) -> list[_Number]:
    return [_read_number(found) for found in _NUMBER.finditer(unicodedata.normalize("NFKC", text))]


def _read_number(found: re.Match[str]) -> _Number:
    value = float(re.sub(r"[,\s]", "", found["digits"]))
    value = -value if found["sign"] in ("-", "\u2212") else value
    return _Number(value, _SCALES.get((found["scale"] or "").lower(), 1.0))


def _bare_number(text: str) -> _Number | None:
    """The number that ``text`` is, with its unit at most."""
    plain = unicodedata.normalize("NFKC", text).strip()
    if negative := _IN_BRACKETS.fullmatch(plain):
        plain = f"-{negative['number']}"
    plain = re.sub(r"\s*\([^)]*\)", "", plain)
    found = list(_NUMBER.finditer(plain))
    if len(found) != 1:
        return None
    beside = f"{plain[: found[0].start()]} {plain[found[0].end() :]}"
    if re.search(r"\d", beside) or len(re.findall(r"[^\W\d_]+", beside)) > _BARE_WORDS:
        return None
    return _read_number(found[0])


def _any_reading(wanted: _Number, said: _Number, equal: Callable[[float, float], bool]) -> bool:
    if wanted.scale != 1 and said.scale != 1:
        return equal(wanted.value * wanted.scale, said.value * said.scale)
    return any(equal(one, other) for one in wanted.readings for other in said.readings)


def _same_integer(gold: float, said: float) -> bool:
    if not (math.isfinite(gold) and math.isfinite(said)):
        return gold == said
    return int(gold) == int(said)


def _same_float(gold: float, said: float) -> bool:
    for reading in (gold, gold / 100, gold * 100):
        if math.isclose(reading, said, rel_tol=RELATIVE_TOLERANCE):
            return True
        decimals = max(2, min(_decimals(reading), _decimals(said)))
        if round(reading, decimals) == round(said, decimals) != 0:
            return True
    return False


def _decimals(value: float) -> int:
    return len(repr(value).partition("e")[0].partition(".")[2])


def _match_strings(gold: str, text: str) -> float:
    wanted, said = _clean(gold), _clean(text)
    if _must_be_equal(wanted):
        return float(wanted.rstrip(".") == said.rstrip("."))
    return similarity(wanted, said)


def _match_lists(gold: str, text: str) -> float:
    wanted = sorted(map(_clean, _list_of(gold)))
    said = sorted(map(_clean, _items(text, len(wanted))))
    if len(wanted) != len(said):
        return 0.0
    if not wanted:
        return 1.0
    if _must_be_equal(wanted[0]) or _is_float(wanted[0]):
        return float(wanted == said)
    return min(similarity(one, other) for one, other in zip(wanted, said, strict=True))


def _list_of(text: str) -> list[str]:
    """The elements of a list in brackets; any other text is the only element."""
    if text.strip().startswith("["):
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if isinstance(value, list):
            return [str(element) for element in value]
    return [text.strip()]


def _items(text: str, count: int) -> list[str]:
    """The items of an answer that should have ``count``: by the first reading that has so many."""
    bracketed = _list_of(text)
    if count == 1 or bracketed != [text.strip()]:
        return bracketed
    lines = [_BULLET.sub("", line) for line in text.splitlines()]
    commas = re.sub(r",?\s+and\s+", ",", text.rstrip().rstrip("."))
    for parts in (lines, text.split(";"), commas.split(",")):
        if len(items := [part.strip(" \t.;,") for part in parts if part.strip()]) == count:
            return items
    return bracketed if text.strip() else []


def _clean(text: str) -> str:
    plain = re.sub(r"\s*\([^)]*\)", "", text.strip().lower()) or text.strip().lower()
    plain = re.sub(r"^['\"]|['\"]$", "", plain.strip()).strip()
    return plain.lstrip("$").strip().rstrip("%").strip()


def _must_be_equal(text: str) -> bool:
    return (
        "https://" in text
        or "a.m." in text
        or "p.m." in text
        or any(kind.fullmatch(text) for kind in _EXACT)
    )


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _stands(gold: str, text: str, *, as_number: bool = False) -> bool:
    """Whether ``gold`` stands in ``text``: by value ``as_number`` or where it has no letters."""
    wanted = _bare_number(gold)
    if wanted is not None and (as_number or not re.search(r"[^\W\d_]", gold)):
        return any(_any_reading(wanted, one, math.isclose) for one in _numbers(text))
    needle, tokens = _tokens(gold), _tokens(text)
    if not needle:
        return gold.strip().lower() in text.lower()
    starts = range(len(tokens) - len(needle) + 1)
    return any(tokens[i : i + len(needle)] == needle for i in starts)


_PUNCTUATION = str.maketrans(
    "", "", string.punctuation + "\u2018\u2019\u201c\u201d\u2013\u2014\u2026"
)


def _tokens(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).lower().translate(_PUNCTUATION)
    return _ARTICLES.sub(" ", plain).split()


def _edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and replacements between two strings (Levenshtein 1966)."""
    before = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        now = [i]
        for j, another in enumerate(other, start=1):
            kept = before[j - 1] + (letter != another)
            now.append(min(kept, before[j] + 1, now[j - 1] + 1))
        before = now
    return before[-1]


def answer_record(answer: Answer, seconds: float) -> AnswerRecord:
    """What a run keeps of an answer; ``seconds`` are those of all of it."""
    return AnswerRecord(
        text=answer.text,
        status=answer.status,
        citations=tuple(
            CitationRecord(
                page=(citation.ref.document_id, citation.ref.number),
                quote=citation.quote,
                verified=citation.verified,
            )
            for citation in answer.citations
        ),
        support=answer.support,
        draft=answer.draft,
        model=answer.model,
        extractive=answer.extractive,
        seconds=seconds,
        input_tokens=sum(used.input_tokens or 0 for used in answer.usage),
        output_tokens=sum(used.output_tokens or 0 for used in answer.usage),
        notes=answer.notes,
    )


# One outcome: a value, or None where the figure says nothing of it


def match(outcome: Outcome) -> float | None:
    """``answer_matches``; a declined answer is right where there is none, and else wrong."""
    answer = outcome.answer
    if answer is None:
        return None
    if not answer.declined:
        return answer_matches(outcome.case, answer.text)
    right = answer_matches(outcome.case, "")
    return None if right is None else float(not outcome.case.answerable)


def contains(outcome: Outcome) -> float | None:
    """``answer_contained`` of an extractive answer; a declined one contains nothing."""
    answer = outcome.answer
    if answer is None or not answer.extractive:
        return None
    return answer_contained(outcome.case, "" if answer.declined else answer.text)


def f1(outcome: Outcome) -> float | None:
    """``token_f1`` with the gold answer, where there is one; 0 for a declined answer."""
    answer, gold = outcome.answer, outcome.case.gold
    if answer is None or not outcome.case.answerable or not gold:
        return None
    return token_f1(gold, "" if answer.declined else answer.text)


def citation_precision(outcome: Outcome) -> float | None:
    """The share of the cited pages that hold the evidence; None where no page is cited."""
    cited = _cited(outcome)
    return len(cited & outcome.gold_pages) / len(cited) if cited and outcome.scored else None


def citation_recall(outcome: Outcome) -> float | None:
    """The share of the pages with the evidence that are cited; None of declined answers, which
    cite nothing."""
    if outcome.answer is None or outcome.answer.declined or not outcome.scored:
        return None
    return len(_cited(outcome) & outcome.gold_pages) / len(outcome.gold_pages)


def _cited(outcome: Outcome) -> frozenset[tuple[str, int]]:
    citations = outcome.answer.citations if outcome.answer is not None else ()
    return frozenset(citation.page for citation in citations)


def declined_rightly(outcome: Outcome) -> float | None:
    """1 where an unanswerable question was declined, else 0; None of answerable ones."""
    if outcome.answer is None or outcome.case.answerable:
        return None
    return float(outcome.answer.declined)


def declined_falsely(outcome: Outcome) -> float | None:
    """1 where an answerable question was declined, else 0; None of unanswerable ones."""
    if outcome.answer is None or not outcome.case.answerable:
        return None
    return float(outcome.answer.declined)


def judged(outcome: Outcome) -> float | None:
    """1 where the judge found the answer correct, else 0; None where it did not judge it."""
    judgement = outcome.judgement
    return None if judgement is None or judgement.correct is None else float(judgement.correct)


def _verified(outcome: Outcome) -> list[float]:
    citations = outcome.answer.citations if outcome.answer is not None else ()
    return [float(citation.verified) for citation in citations]


def _one(figure: Callable[[Outcome], float | None]) -> Callable[[Outcome], list[float]]:
    def values(outcome: Outcome) -> list[float]:
        value = figure(outcome)
        return [] if value is None else [value]

    return values


FIGURES: Mapping[str, Callable[[Outcome], Sequence[float]]] = {
    "match": _one(match),
    "contains": _one(contains),
    "f1": _one(f1),
    "judged": _one(judged),
    "citation_precision": _one(citation_precision),
    "citation_recall": _one(citation_recall),
    "verified_quotes": _verified,
    "declined_unanswerable": _one(declined_rightly),
    "declined_answerable": _one(declined_falsely),
}
"""Every figure of answers: what it counts of an outcome. ``verified_quotes`` counts citations, the
others cases."""


# A run


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of ``n`` values and its 95 % interval; all None where there are none."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


Row = Mapping[str, Mean]
"""A mean for each name of FIGURES."""


@dataclass(frozen=True, slots=True)
class AnswerTables:
    """``overall`` has ``all``, ``answerable`` and ``unanswerable`` cases; the others have their
    cases by answer format and by kind of evidence. ``excluded`` has a line on each case of which a
    figure could not be had, and why."""

    overall: Mapping[str, Row]
    by_format: Mapping[str, Row]
    by_source: Mapping[str, Row]
    excluded: Sequence[str]


def answer_tables(run: Run) -> AnswerTables:
    """Every figure of a run's answers."""
    outcomes = run.outcomes
    formats: dict[str, list[Outcome]] = {}
    sources: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        formats.setdefault(answer_format(outcome.case), []).append(outcome)
        for source in dict.fromkeys(outcome.case.sources):
            sources.setdefault(source, []).append(outcome)
    return AnswerTables(
        overall={
            "all": _row(outcomes),
            "answerable": _row(o for o in outcomes if o.case.answerable),
            "unanswerable": _row(o for o in outcomes if not o.case.answerable),
        },
        by_format={name: _row(formats[name]) for name in sorted(formats)},
        by_source={name: _row(sources[name]) for name in sorted(sources)},
        excluded=[*run.excluded, *(line for o in outcomes for line in _missing(o))],
    )


def _row(outcomes: Iterable[Outcome]) -> Row:
    chosen = list(outcomes)
    return {name: figure(name, chosen) for name in FIGURES}


def figure(name: str, outcomes: Iterable[Outcome]) -> Mean:
    """The mean of one of FIGURES."""
    values: dict[str, list[float]] = {}
    for outcome in outcomes:
        values.setdefault(outcome.case.document, []).extend(FIGURES[name](outcome))
    return mean_of({document: found for document, found in values.items() if found})


def _missing(outcome: Outcome) -> list[str]:
    if outcome.answer is None:
        return [f"{outcome.case.id}: no answer is recorded"]
    lines: list[str] = []
    if match(outcome) is None:
        lines.append(f"{outcome.case.id}: it has no gold answer to match")
    if outcome.judgement is not None and outcome.judgement.correct is None:
        lines.append(f"{outcome.case.id}: not judged: {outcome.judgement.reason}")
    return lines


def mean_of(values: Mapping[str, Sequence[float]]) -> Mean:
    """Mean and interval of values by document, of which each has some. Where all are 0 or all are 1
    the interval is Wilson's, of as many trials as there are documents (cases, of the only one)."""
    flat = [value for document in values.values() for value in document]
    if not flat:
        return Mean(0, None, None, None)
    if set(flat) in ({0.0}, {1.0}):
        # Nothing varies, so nothing can be drawn; that is not certainty.
        units = len(values) if len(values) > 1 else len(flat)
        low, high = wilson(int(flat[0]) * units, units)
    else:
        low, high = by_document(values.values())
    return Mean(len(flat), sum(flat) / len(flat), low, high)
