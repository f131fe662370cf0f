"""Answers by quoting: picks the passages that answer best, word for word, and adds nothing.

Sentences, lines and table rows of the shown pages are ranked by the question's words (weighted by
how rare they are there); the best few are compared with the question by MiniLM. No word of an
answer is generated: quotes are joined by ``...``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from generate.citations import find_quote, misread
from generate.excerpts import MAX_WORDS, Excerpt, read_excerpts, text_of
from generate.models import Asked, Draft, OnText, ShownPage
from generate.question import Question, Term, has_number, read_question, stems
from pageglass.profiles import QUOTING
from pageglass.types import Page
from retrieval.encoders.minilm import MiniLM, Passage
from retrieval.expansion import expansions

JOINT = " ... "
"""Between quotes, and between a column header and its row."""

_SHORTLIST = 20
_SHORTLIST_WORDS = 260
"""Candidates MiniLM looks at, and their words in all: it is most of what an answer costs."""

_MAX_CITATIONS = 3
_CONTEXT_WORDS = 12
_IN_NAME = 0.3
"""What a term counts that is in the name of every shown document: all of it is about that."""
_MARGIN = 0.07
"""Share of a page's height, at either end, where running headers and footers stand."""
_CAPITALISED = re.compile(r"(?:[A-Z][\w'\u2019-]+|[A-Z]\.)(?: (?:[A-Z][\w'\u2019-]+|[A-Z]\.))+")
_TIME = re.compile(
    r"\b(?:1[5-9]|20)\d\d\b|\b\d{1,2}:\d\d\b|\b(?:january|february|march|april|june|july|august|"
    r"september|october|november|december|monday|tuesday|wednesday|thursday|friday)\b",
    re.IGNORECASE,
)
_LEANS_BACK = frozenset(
    ("it", "this", "these", "those", "they", "he", "she", "such", "its", "their", "his", "her")
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """How well the chosen passages fit the question; what ``support_of`` judges by.

    ``known`` is the share of the question's terms, by their own weight, that stand on any page
    shown or in a document's name: words that are nowhere speak against every answer. ``asked`` is
    the share of its ordinary words, names and numbers left out, that stand in the chosen passages
    or what these stand under: a page may well be about the right thing and not say what was asked.
    ``cosine`` is MiniLM's for the best passage. ``strangers`` counts the question's names, numbers
    and quoted words that are on no page shown, years twice: what it is about cannot be answered
    from pages that do not know it. ``of_looks`` is the question's: then less is to be expected.
    """

    known: float
    asked: float
    cosine: float
    strangers: int
    of_looks: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An excerpt of the page shown at ``rank`` (0-based); ``number`` is its place on that page."""

    rank: int
    number: int
    excerpt: Excerpt
    stems: frozenset[str]
    context: frozenset[str]


class ExtractiveModel:
    """Quotes the passages of the shown pages that answer. Safe to share between threads."""

    name = QUOTING
    extractive = True

    def __init__(self, encoder: MiniLM) -> None:
        self._encoder = encoder

    def generate(
        self,
        asked: Asked,
        pages: Sequence[ShownPage],
        *,
        seconds: float,
        objections: Sequence[str] = (),
        on_text: OnText | None = None,
    ) -> Draft:
        """Choose and quote one to three passages; ``support`` says how well they answer.

        A question or pages without words give an empty draft. Takes milliseconds, and the same
        question gets the same answer. Raises ModelError when MiniLM's files cannot be used.
        """
        # Nothing is heard before it was judged: it takes no time, and may well be declined.
        del seconds, objections, on_text
        return self.explain(asked.text, pages)[0]

    def explain(self, question: str, pages: Sequence[ShownPage]) -> tuple[Draft, Evidence | None]:
        """As ``generate``, with the evidence that ``support`` was made of (None: no passage)."""
        asked = read_question(question)
        reading = _Reading(asked, pages)
        if not asked.terms or not reading.candidates:
            return Draft("", (), 0.0), None
        shortlist = reading.shortlist()
        vectors = self._encoder.encode_passages([reading.text_for_model(c) for c in shortlist])
        query = self._encoder.encode_question(asked.text)
        cosines, maxsims = _similarities(query, vectors)
        scores = [
            reading.score(candidate, cosine, maxsim)
            for candidate, cosine, maxsim in zip(shortlist, cosines, maxsims, strict=True)
        ]
        order = sorted(range(len(shortlist)), key=lambda i: -scores[i])
        chosen = reading.choose([shortlist[i] for i in order], [scores[i] for i in order])
        quotes = [reading.quote(candidate) for candidate in chosen]
        evidence = reading.evidence(chosen, cosines[order[0]])
        refs = [pages[candidate.rank].page.ref for candidate in chosen]
        draft = Draft(
            JOINT.join(dict.fromkeys(quotes)),
            tuple(dict.fromkeys(zip(refs, quotes, strict=True))),
            support_of(evidence),
        )
        return draft, evidence


_SUPPORTED = 1.25
_ALLOWANCE = 0.5
"""For questions about pictures, layout and the document as such."""
_STEEPNESS = 3.0


def support_of(evidence: Evidence) -> float:
    """How well passages with this evidence support an answer, 0..1; one half is the boundary.

    The boundary is where about one answerable question in ten of MMLongBench-Doc is declined
    (docs/evaluation.md): pages there are varied and often pictures. `pageglass eval calibrate`
    finds the one that suits a collection, on cases of its own.
    """
    blend = evidence.known + evidence.asked + evidence.cosine - evidence.strangers
    if evidence.of_looks:
        blend += _ALLOWANCE
    # The logistic function, written so that no blend overflows: a question may hold hundreds of
    # names that no page knows.
    return (1 + math.tanh(_STEEPNESS * (blend - _SUPPORTED) / 2)) / 2


class _Reading:
    """The shown pages read with one question in mind."""

    def __init__(self, question: Question, pages: Sequence[ShownPage]) -> None:
        self.question = question
        self.pages = pages
        self.excerpts = [read_excerpts(shown.page) for shown in pages]
        self.candidates: list[_Candidate] = []
        for rank, excerpts in enumerate(self.excerpts):
            contexts: dict[str, frozenset[str]] = {}
            body = {i for i, e in enumerate(excerpts) if not _in_margin(pages[rank].page, e)}
            body = body or set(range(len(excerpts)))
            for number, excerpt in enumerate(excerpts):
                if number not in body:
                    continue  # A running header or footer.
                if excerpt.context not in contexts:
                    contexts[excerpt.context] = frozenset(stems(excerpt.context))
                own = frozenset(stems(excerpt.text))
                context = contexts[excerpt.context]
                self.candidates.append(_Candidate(rank, number, excerpt, own, context))
        self.names = [
            frozenset(stems(re.sub(r"[_\W]+|(?<=[a-z])(?=[A-Z])", " ", shown.document_name)))
            for shown in pages
        ]
        self.on_page: list[frozenset[str]] = []
        for rank in range(len(pages)):
            on = [c.stems for c in self.candidates if c.rank == rank]
            self.on_page.append(frozenset[str]().union(*on))
        self.terms = self._spelled()
        self.weights = self._weights()

    def _spelled(self) -> dict[str, Term]:
        """The question's terms by the stem the pages use: "Neflix" finds "Netflix"."""
        known = frozenset[str]().union(*self.on_page, *self.names)
        terms: dict[str, Term] = {}
        for term in self.question.terms:
            stem = term.stem
            if stem not in known and stem.isalpha() and len(stem) > 4:
                near = [other for other in known if _is_slip(other, stem)]
                stem = min(near, key=len) if near else stem
            terms.setdefault(stem, term)
        return terms

    def _weights(self) -> dict[str, float]:
        """Weight of each term: its own times how rare it is among the excerpts."""
        counts = Counter(stem for c in self.candidates for stem in c.stems if stem in self.terms)
        total = len(self.candidates)
        shared = frozenset.intersection(*self.names)
        return {
            stem: term.weight
            * (_IN_NAME if stem in shared else 1.0)
            * (math.log(1 + (total + 1) / (counts[stem] + 1)) / math.log(total + 2))
            for stem, term in self.terms.items()
        }

    def _covered(self, found: Callable[[str], float]) -> float:
        """Share of the terms' weight, each counted as far as ``found`` says."""
        total = sum(self.weights.values())
        return sum(w * found(stem) for stem, w in self.weights.items()) / total if total else 0.0

    def lexical(self, candidate: _Candidate) -> float:
        """Share of the question's weighted terms in the excerpt or what it stands under."""

        def found(stem: str) -> float:
            if stem in candidate.stems:
                return 1.0
            if stem in candidate.context:
                return 0.6
            return 0.4 if stem in self.names[candidate.rank] else 0.0

        return self._covered(found)

    def fit(self, candidate: _Candidate) -> float:
        """Bonuses and penalties: the kind of answer, new words, page rank, page number."""
        excerpt = candidate.excerpt
        new = candidate.stems - self.terms.keys()
        bonus = -0.03 * candidate.rank
        if excerpt.kind == "row":
            label = {stem for stem in candidate.stems if not stem[0].isdigit()}
            values = any(stem[0].isdigit() and not _is_year(stem) for stem in candidate.stems)
            if label and values:
                bonus += 0.15 * len(label & self.terms.keys()) / len(label)
            elif not values:
                bonus -= 0.4  # A column header, most likely.
        if not new:
            bonus -= 0.25  # The question's own words, such as a heading, are no answer.
        elif len(excerpt.words) < 4 and excerpt.kind == "line":
            bonus -= 0.1
        if self.question.kind == "number":
            valued = has_number(stem for stem in new if not _is_year(stem))
            bonus += 0.06 if valued else -0.12
        elif self.question.kind == "time":
            bonus += 0.08 if _TIME.search(excerpt.text) else -0.1
        elif self.question.kind == "person":
            bonus += 0.06 if _CAPITALISED.search(excerpt.text) else -0.06
        asked_years = {stem for stem in self.terms if _is_year(stem)}
        if asked_years:
            around = candidate.stems | candidate.context | self.names[candidate.rank]
            if around & asked_years:
                bonus += 0.1
            elif any(_is_year(stem) for stem in around):
                bonus -= 0.2  # It speaks of another year.
        page = self.pages[candidate.rank].page
        for first, last in self.question.pages:
            if first <= page.ref.number <= last or page.label == str(first):
                bonus += 0.2
        return bonus

    def shortlist(self) -> list[_Candidate]:
        """The candidates worth MiniLM's time."""
        ranked = sorted(self.candidates, key=lambda c: -(self.lexical(c) + self.fit(c)))
        kept: list[_Candidate] = []
        seen: set[tuple[int, str]] = set()
        words = 0
        for candidate in ranked:
            key = (candidate.rank, candidate.excerpt.text)
            words += min(len(candidate.excerpt.words), 40) + _CONTEXT_WORDS // 2
            if kept and (len(kept) >= _SHORTLIST or words > _SHORTLIST_WORDS):
                break
            if key not in seen:
                seen.add(key)
                kept.append(candidate)
        return kept

    def text_for_model(self, candidate: _Candidate) -> str:
        """The excerpt with the end of its context, short enough to be encoded quickly."""
        excerpt = candidate.excerpt
        context = excerpt.context.split()[-_CONTEXT_WORDS:]
        return " ".join([*context, *excerpt.text.split()[:40]])

    def score(self, candidate: _Candidate, cosine: float, maxsim: float) -> float:
        """The blend that ranks candidates."""
        return 0.45 * self.lexical(candidate) + 0.6 * cosine + 0.8 * maxsim + self.fit(candidate)

    def choose(self, ranked: Sequence[_Candidate], scores: Sequence[float]) -> list[_Candidate]:
        """The best candidate, and others nearly as good that cover what it does not."""
        chosen = [ranked[0]]
        for candidate, score in zip(ranked[1:], scores[1:], strict=True):
            if len(chosen) == _MAX_CITATIONS or score < 0.85 * scores[0]:
                break
            have = frozenset[str]().union(*(c.stems | c.context for c in chosen))
            gain = sum(
                weight
                for stem, weight in self.weights.items()
                if stem in candidate.stems and stem not in have
            )
            if gain >= 0.15 * sum(self.weights.values()):
                chosen.append(candidate)
        return chosen

    def quote(self, candidate: _Candidate) -> str:
        """The excerpt's words; with its column header, or widened to what it leans on."""
        page = self.pages[candidate.rank].page
        excerpt = candidate.excerpt
        if excerpt.header:
            quote = f"{text_of(page, excerpt.header)}{JOINT}{excerpt.text}"
            # Where header and row do not follow one another on the page, the row stands alone.
            return quote if find_quote(page, quote) is not None else excerpt.text
        words = list(excerpt.words)
        if excerpt.kind == "row":
            return text_of(page, words)
        excerpts = self.excerpts[candidate.rank]
        first = page.words[words[0]].text.lower()
        if first in _LEANS_BACK and candidate.number:
            before = excerpts[candidate.number - 1]
            if before.paragraph == excerpt.paragraph:
                words = _joined(before.words, words)
        bare = not candidate.stems - self.terms.keys()
        if excerpt.text.endswith(":") or bare or (excerpt.kind == "line" and len(words) < 9):
            for after in excerpts[candidate.number + 1 :]:
                wider = _joined(words, after.words)
                if len(wider) == len(words) or after.kind == "row":
                    break
                words = wider
                if not excerpt.text.endswith(":") and after.kind == "sentence":
                    break
        return text_of(page, words)

    def evidence(self, chosen: Sequence[_Candidate], cosine: float) -> Evidence:
        """Measure how well ``chosen`` fits."""
        names = frozenset[str]().union(*(self.names[c.rank] for c in chosen))
        near = names.union(*(c.stems | c.context for c in chosen))
        anywhere = frozenset[str]().union(*self.on_page, *self.names)
        return Evidence(
            known=_share({stem: term.weight for stem, term in self.terms.items()}, anywhere),
            asked=_share({s: t.weight for s, t in self.terms.items() if not t.named}, near),
            cosine=cosine,
            strangers=sum(
                2 if _is_year(stem) else 1
                for stem, term in self.terms.items()
                if _is_stranger(stem, term, anywhere)
            ),
            of_looks=self.question.of_looks,
        )


def _in_margin(page: Page, excerpt: Excerpt) -> bool:
    middle = page.words[excerpt.words[len(excerpt.words) // 2]].box
    return not _MARGIN < (middle[1] + middle[3]) / 2 < 1 - _MARGIN


def _share(weights: Mapping[str, float], found: Container[str]) -> float:
    """Share of the weight that is found; 1 where there is none."""
    total = sum(weights.values())
    return sum(w for stem, w in weights.items() if stem in found) / total if total else 1.0


def _joined(words: Sequence[int], more: Sequence[int]) -> list[int]:
    """``words`` with ``more`` after them, if they follow directly and both are short enough."""
    if words[-1] + 1 == more[0] and len(words) + len(more) <= MAX_WORDS:
        return [*words, *more]
    return list(words)


def _is_stranger(stem: str, term: Term, known: Container[str]) -> bool:
    """Whether the term is a name, a number or a quoted word that stands nowhere. Of one letter
    nothing can be said, and an abbreviation may well be spelled out."""
    strange = term.named and len(stem) > 1 and stem not in known
    return strange and not expansions(term.text)


def _is_year(stem: str) -> bool:
    return len(stem) == 4 and stem.isdecimal() and stem[:2] in ("19", "20")


def _is_slip(word: str, typed: str) -> bool:
    """Whether ``typed`` may be a slip of the pen for ``word``."""
    return (
        word[0] == typed[0] and abs(len(word) - len(typed)) < 3 and misread(word, typed) is not None
    )


def _similarities(query: Passage, passages: Sequence[Passage]) -> tuple[list[float], list[float]]:
    """The question's cosine with each passage, and its mean MaxSim over the question's pieces."""
    cosines: list[float] = []
    maxsims: list[float] = []
    for passage in passages:
        if len(query.tokens) and len(passage.tokens):
            cosines.append(float((passage.chunks @ query.chunks[0]).max()))
            maxsims.append(float((query.tokens @ passage.tokens.T).max(axis=1).mean()))
        else:
            cosines.append(0.0)
            maxsims.append(0.0)
    return cosines, maxsims
