"""Questions that tempt to make something up: how often does an answer fall for it?

Three kinds, all made by code, the same for the same seed:

``absent``
    "Is X mentioned on this page?" of something that is on other pages of the collection and not on
    this one, chosen as POPE chooses objects (Li et al. 2023, arXiv:2305.10355): at ``random``, the
    most ``popular`` ones of the collection, or ``adversarial`` ones, which most often stand beside
    what this page does mention. As many questions on what is ``present`` are the control.
``negative_pages``
    A case's question, answered from what search finds when the pages with the evidence, and those
    that look the same, are taken away.
``trap``
    "Where does it say that ...?" of a sentence of the page with one number or name replaced by
    another that does not stand there.

Extractive answers cannot say yes or no. There, quoting a passage is a yes and declining is a no:
whoever reads a quote takes it for an answer. What a page shows but has no text of counts as absent,
so pages without text are not asked about.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal, TypeVar

from api.services import Services
from evals.answers import answer_contained, answer_matches, answer_record
from evals.cases import Case
from evals.intervals import wilson
from evals.partial import Partial, Resumed, fingerprint, say_nothing
from evals.runs import AnswerRecord, ProbeOutcome, Run, RunError, ScopeName
from generate.excerpts import read_excerpts
from generate.question import stem_of, stems
from pageglass.types import Page, PageRef

Chosen = TypeVar("Chosen")
Kind = Literal["absent", "present", "negative_pages", "trap"]
Sampling = Literal["random", "popular", "adversarial"]

SAMPLINGS: tuple[Sampling, ...] = ("random", "popular", "adversarial")
"""The ways to choose what is absent, from the easiest to the hardest."""

GAVE_GOLD = "it gives the gold answer, with a verified citation of another page"
"""Why a ``negative_pages`` answer fell for it, at its worst. Or the other page says so, too."""

_NEAREST = 20
"""Further pages to look for, beside those that are taken away and those that are shown."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question on ``pages``, best first. ``truth`` is what stands on the page and ``falsehood``
    what the question claims (of traps); ``case`` is the one whose pages were taken away."""

    kind: Kind
    id: str
    question: str
    pages: tuple[PageRef, ...]
    truth: str = ""
    falsehood: str = ""
    case: Case | None = None


# What is on a page, and what is not

_WORD = re.compile(r"[^\W\d_](?:[\w'\u2019-]*\w)?")
_NUMBER = re.compile(r"(?<![\w.,-])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?!\w|[.,-]\d)")
_MOST_WORDS = 4
_SHORTEST_NAME, _SHORTEST_WORD = 4, 6
_TRIES = 50


def things(page: Page) -> dict[str, str]:
    """What ``page`` mentions, as it is written, by its stems: names (two to four words with
    capitals in a row, or one that begins no sentence), or, where it has none, its long words."""
    names: dict[str, str] = {}
    words: dict[str, str] = {}
    for excerpt in read_excerpts(page):
        for name, _ in _names(excerpt.text):
            names.setdefault(" ".join(stems(name)), name)
        for found in _WORD.finditer(excerpt.text):
            if len(found[0]) >= _SHORTEST_WORD and stems(found[0]):
                words.setdefault(stem_of(found[0]), found[0].lower())
    return names or words


def _names(text: str) -> Iterator[tuple[str, bool]]:
    """The names in a text, and whether each begins a sentence."""
    run: list[str] = []
    begins = False
    end = 0
    for found in [*_WORD.finditer(text), None]:
        capital = found is not None and found[0][0].isupper()
        gap = text[end : found.start()] if found is not None else ""
        if run and (not capital or gap != " "):
            if 1 < len(run) <= _MOST_WORDS or (
                len(run) == 1 and not begins and len(run[0]) >= _SHORTEST_NAME
            ):
                yield " ".join(run), begins
            run = []
        if found is None:
            return
        if capital and (run or stems(found[0])):  # "The" begins no name.
            if not run:
                begins = not end or any(mark in gap for mark in ".!?:\u2022")
            run.append(found[0])
        end = found.end()


def _squashed(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def _is_absent(thing: str, squashed: str, on_page: frozenset[str]) -> bool:
    """Whether nothing on the page could be read as ``thing``, even within longer words."""
    return _squashed(thing) not in squashed and not set(stems(thing)) <= on_page


@dataclass(frozen=True, slots=True)
class Mentions:
    """The things of every page of a collection by their stems, the number of pages that mention
    each, and how each is written."""

    things: Mapping[PageRef, Mapping[str, str]]
    pages_with: Mapping[str, int]
    written: Mapping[str, str]

    @classmethod
    def of(cls, pages: Iterable[Page]) -> Mentions:
        """Those of ``pages``, of which none is kept."""
        found = {page.ref: things(page) for page in pages}
        counts = Counter(stem for one in found.values() for stem in one)
        written: dict[str, str] = {}
        for one in found.values():
            for stem, text in one.items():
                written.setdefault(stem, text)
        return cls(found, counts, written)

    def absent(self, page: Page, sampling: Sampling, count: int, seed: str) -> list[str]:
        """So many things that ``page`` does not mention and others do, or fewer: names for a page
        that has some, else words."""
        named = any(text[0].isupper() for text in self.things[page.ref].values())
        squashed = _squashed(page.text)
        on_page = frozenset(stems(page.text))
        mine = self.things[page.ref].keys()
        order = sorted(self.written)
        if sampling == "random":
            random.Random(seed).shuffle(order)  # noqa: S311
        else:
            beside: Counter[str] = Counter()
            if sampling == "adversarial":
                # A thing counts once for each thing of this page that stands beside it elsewhere.
                for ref, other in self.things.items():
                    if ref != page.ref and (shared := len(mine & other.keys())):
                        beside.update(dict.fromkeys(other, shared))
            order.sort(key=lambda stem: (beside[stem], self.pages_with[stem]), reverse=True)
        candidates = (
            self.written[stem]
            for stem in order
            if stem not in mine
            and self.written[stem][0].isupper() == named
            and _is_absent(self.written[stem], squashed, on_page)
        )
        return [thing for thing, _ in zip(candidates, range(count), strict=False)]

    def present(self, page: Page, count: int, seed: str) -> list[str]:
        """So many things that ``page`` mentions, or fewer."""
        mine = self.things[page.ref]
        chosen = random.Random(seed).sample(sorted(mine), min(count, len(mine)))  # noqa: S311
        return [mine[stem] for stem in chosen]


def absence_probes(
    pages: Sequence[Page], known: Mentions, *, each: int = 1, seed: int = 0
) -> list[Probe]:
    """For each of ``pages``, ``each`` questions on things ``known`` in the collection that it
    lacks, by each of SAMPLINGS, and as many on things it mentions. Fewer where there are not so
    many; always as many of each sampling as of the control."""
    probes: list[Probe] = []
    for page in pages:
        if page.ref not in known.things or not known.things[page.ref]:
            continue
        where = _name_of(page.ref)
        here: dict[str, list[str]] = {
            sampling: known.absent(page, sampling, each, f"{seed}/{where}/{sampling}")
            for sampling in SAMPLINGS
        }
        here["present"] = known.present(page, each, f"{seed}/{where}/present")
        most = min(len(found) for found in here.values())
        for name, found in here.items():
            for number, thing in enumerate(found[:most], start=1):
                kind: Kind = "present" if name == "present" else "absent"
                id = f"{where}:{number}"
                id = f"present:{id}" if kind == "present" else f"absent:{name}:{id}"
                question = f"Is {thing} mentioned on this page?"
                probes.append(Probe(kind, id, question, (page.ref,), truth=thing))
    return probes


def _name_of(ref: PageRef) -> str:
    return f"{ref.document_id[:12]}/{ref.number}"


# Traps


def trap_probes(
    pages: Sequence[Page], known: Mentions, *, each: int = 1, seed: int = 0
) -> list[Probe]:
    """For each of ``pages``, ``each`` questions that presuppose a false variant of one of its
    sentences: a number is replaced, or a name by another one ``known`` in the collection."""
    probes: list[Probe] = []
    for page in pages:
        random_ = random.Random(f"{seed}/{_name_of(page.ref)}/trap")  # noqa: S311
        sentences = [
            excerpt.text
            for excerpt in read_excerpts(page)
            if excerpt.kind == "sentence" and 5 <= len(excerpt.words) <= 40
        ]
        random_.shuffle(sentences)
        found = 0
        for sentence in sentences:
            swapped = _swap_number(sentence, page, random_) or _swap_name(
                sentence, page, known, random_
            )
            if swapped is None:
                continue
            truth, falsehood = swapped
            found += 1
            claim = _inside(sentence.replace(truth, falsehood, 1))
            probes.append(
                Probe(
                    "trap",
                    f"trap:{_name_of(page.ref)}:{found}",
                    f"Where does it say that {claim}?",
                    (page.ref,),
                    truth=truth,
                    falsehood=falsehood,
                )
            )
            if found == each:
                break
    return probes


def _swap_number(sentence: str, page: Page, random_: random.Random) -> tuple[str, str] | None:
    """A number of the sentence, and one of the same look that does not stand on the page."""
    on_page = page.text
    # A short number stands in an answer by chance.
    for found in sorted(_NUMBER.finditer(sentence), key=lambda found: -len(found[0])):
        number = found[0]
        if sentence.find(number) != found.start() or number == "0":
            continue  # Replacing the first one would replace another.
        for _ in range(_TRIES):
            other = _other_number(number, random_)
            if other != number and not re.search(rf"(?<!\d){re.escape(other)}(?!\d)", on_page):
                return number, other
    return None


def _other_number(number: str, random_: random.Random) -> str:
    if re.fullmatch(r"(?:19|20)\d\d", number):
        return str(int(number) + random_.choice([-1, 1]) * random_.randint(1, 15))
    first = True
    digits: list[str] = []
    for letter in number:
        if letter.isdigit():
            digits.append(str(random_.randint(1 if first else 0, 9)))
            first = False
        else:
            digits.append(letter)
    return "".join(digits)


def _swap_name(
    sentence: str, page: Page, known: Mentions, random_: random.Random
) -> tuple[str, str] | None:
    # What begins a sentence may be a verb.
    names = [name for name, begins in _names(sentence) if not begins and sentence.count(name) == 1]
    others = known.absent(page, "random", _TRIES, str(random_.random()))
    if not names or not others:
        return None
    return random_.choice(names), random_.choice(others)


_OPENERS = frozenset(
    "a all an after at before both by during each every for from he her his if in it its most no on"
    " one our she since some that the their there these they this those to under we when while with"
    " you your".split()
)


def _inside(sentence: str) -> str:
    """``sentence`` as it goes on after "that"."""
    first, _, rest = sentence.strip().rstrip(".!?\u2026").partition(" ")
    return f"{first.lower() if first.lower() in _OPENERS else first} {rest}".strip()


# Negative pages


def negative_probes(
    services: Services,
    cases: Sequence[Case],
    ids: Mapping[str, str],
    *,
    scope: ScopeName,
    collection: str | None = None,
) -> tuple[list[Probe], list[str]]:
    """The question of each answerable case with gold pages, with the pages that search finds best
    when those with the evidence, and the near-duplicates of these, are taken away; and a line on
    each case of which no page is left. ``ids`` is each document's id by file name."""
    shown = services.settings.answer.pages
    probes: list[Probe] = []
    excluded: list[str] = []
    for case in cases:
        if not case.answerable or not case.pages:
            continue
        document = ids[case.document]
        gold = {PageRef(document, number - 1) for number in case.pages}
        found = services.search(
            case.question,
            collection=collection,
            documents=(document,) if scope == "document" else (),
            top_k=min(100, shown + len(gold) + _NEAREST),
        )
        left = [hit.ref for hit in found.hits if not gold & {hit.ref, *hit.why.duplicates}]
        if not left:
            excluded.append(f"{case.id}: no page is left to ask")
            continue
        probe = Probe(
            "negative_pages",
            f"negative_pages:{case.id}",
            case.question,
            tuple(left[:shown]),
            case=case,
        )
        probes.append(probe)
    return probes, excluded


# Asking, and what it means to fall for it


def ask_probes(
    services: Services,
    probes: Sequence[Probe],
    *,
    told: Callable[[ProbeOutcome], None] = lambda outcome: None,
    keep: Path | None = None,
    resumed: Resumed = say_nothing,
) -> list[ProbeOutcome]:
    """Have every probe answered from its pages. ModelError where nothing can answer. Outcomes are
    kept in ``keep`` (evals.partial)."""
    settings = services.settings.model_dump(
        mode="json", include={"models", "answer", "profile"}, exclude={"answer": {"api_key"}}
    )
    asked = [[one.kind, one.id, one.question, str(one.pages)] for one in probes]
    work = fingerprint(command="probes", probes=asked, settings=settings)
    outcomes: list[ProbeOutcome] = []

    def ask(probe: Probe) -> ProbeOutcome:
        began = perf_counter()
        answer = services.answer_from(probe.question, probe.pages)
        record = answer_record(answer, perf_counter() - began)
        fell, reason = fell_for_it(probe, record)
        if record.extractive and services.vlm is not None:
            fell, reason = None, _AWAY
        return ProbeOutcome(
            kind=probe.kind,
            id=probe.id,
            question=probe.question,
            document=probe.pages[0].document_id,
            answer=record,
            fell_for_it=fell,
            reason=reason,
        )

    with Partial(keep, ProbeOutcome, work, resumed) as kept:
        for number, probe in enumerate(probes):
            name = f"{number} {probe.kind} {probe.id}"
            outcome = kept.once(name, partial(ask, probe), keep=lambda one: one.reason != _AWAY)
            outcomes.append(outcome)
            told(outcome)
    return outcomes


_AWAY = "the model was away, and pages were quoted instead"


def fell_for_it(probe: Probe, answer: AnswerRecord) -> tuple[bool | None, str]:
    """Whether ``answer`` fell for ``probe``, and why that is said; None where it cannot be told.

    Declining never is falling for it, but for a ``present`` thing, which it denies. Else, of

    - ``absent``, ``present``: what it says, yes or no; a quote is a yes.
    - ``negative_pages``: any answer. GAVE_GOLD is the reason of the worst.
    - ``trap``: an answer that has neither the true number or name nor any word of denial.
    """
    if answer.declined:
        return probe.kind == "present", "it is declined"
    match probe.kind:
        case "absent" | "present":
            yes = True if answer.extractive else yes_or_no(answer.text)
            if yes is None:
                return None, "it says neither yes nor no"
            said = "a passage is quoted" if answer.extractive else "yes" if yes else "no"
            return yes == (probe.kind == "absent"), said
        case "negative_pages":
            if probe.case is not None and _gives_gold(probe.case, answer):
                return True, GAVE_GOLD
            return True, "it answers without the evidence"
        case "trap":
            if _says(answer.text, probe.truth):
                return False, "what the page says is in it"
            if not answer.extractive and _DENIAL.search(answer.text):
                return False, "it denies it"
            return True, "it takes what is false for granted"


def _gives_gold(case: Case, answer: AnswerRecord) -> bool:
    right = answer_contained if answer.extractive else answer_matches
    return any(citation.verified for citation in answer.citations) and bool(
        right(case, answer.text)
    )


def _says(text: str, value: str) -> bool:
    return bool(re.search(rf"(?<![\w.,])(?<!\d){re.escape(value)}(?!\w|[.,]\d)", text))


_DENIAL = re.compile(
    r"\b(?:no|not|never|nowhere|neither|none|instead|incorrect|false|wrong|contradict\w*|rather)\b"
    r"|n['\u2019]t\b",
    re.IGNORECASE,
)
_FIRST_WORD = re.compile(r"\W*(?P<said>yes|no|true|false)\b", re.IGNORECASE)
_MENTION = re.compile(r"\bmention(?:s|ed)?\b", re.IGNORECASE)


def yes_or_no(text: str) -> bool | None:
    """What an answer says to a question of yes or no; None where it is neither."""
    if first := _FIRST_WORD.match(text):
        return first["said"].lower() in ("yes", "true")
    return not _DENIAL.search(text) if _MENTION.search(text) else None


# Rates


@dataclass(frozen=True, slots=True)
class Rate:
    """``fell`` of ``n`` fell for it; ``low`` and ``high`` are the 95 % interval (Wilson).
    ``unclear`` more could not be told. All but the counts are None where ``n`` is 0."""

    fell: int
    n: int
    unclear: int
    rate: float | None
    low: float | None
    high: float | None


def rates(outcomes: Sequence[ProbeOutcome]) -> dict[str, Rate]:
    """How many fell for it, by kind; of ``absent`` also by sampling, and of ``negative_pages`` also
    those that gave the gold answer with a verified citation (``negative_pages: gold``)."""
    groups: dict[str, list[bool | None]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.kind, []).append(outcome.fell_for_it)
        if outcome.kind == "absent":
            sampling = outcome.id.split(":")[1]
            groups.setdefault(f"absent: {sampling}", []).append(outcome.fell_for_it)
        if outcome.kind == "negative_pages":
            gold = outcome.reason == GAVE_GOLD
            groups.setdefault("negative_pages: gold", []).append(gold)
    return {name: _rate(groups[name]) for name in sorted(groups)}


def _rate(fell: Sequence[bool | None]) -> Rate:
    told = [one for one in fell if one is not None]
    unclear = len(fell) - len(told)
    if not told:
        return Rate(0, 0, unclear, None, None, None)
    low, high = wilson(sum(told), len(told))
    return Rate(sum(told), len(told), unclear, sum(told) / len(told), low, high)


@dataclass(frozen=True, slots=True)
class Polling:
    """POPE's figures, 0..1: ``yes`` is the share of questions answered with yes, half at best.
    ``precision`` is None where nothing was said yes to, ``f1`` where it or recall is 0 or None."""

    n: int
    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    yes: float


def polling(outcomes: Sequence[ProbeOutcome]) -> dict[str, Polling]:
    """POPE's figures by sampling, each with the same questions on what is present."""
    present = [o.fell_for_it for o in outcomes if o.kind == "present"]
    found: dict[str, Polling] = {}
    for sampling in SAMPLINGS:
        absent = [o.fell_for_it for o in outcomes if o.id.startswith(f"absent:{sampling}:")]
        hits, misses = present.count(False), present.count(True)
        false, right = absent.count(True), absent.count(False)
        n = hits + misses + false + right
        if not n:
            continue
        precision = hits / (hits + false) if hits + false else None
        recall = hits / (hits + misses) if hits + misses else None
        f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
        found[sampling] = Polling(n, (hits + right) / n, precision, recall, f1, (hits + false) / n)
    return found


# All of it


def join(earlier: Run, fresh: Run) -> Run:
    """``earlier``, to which probes made for ``fresh`` may be added; RunError where it is of other
    cases, another scope or another profile."""
    for name in ("cases_sha256", "scope", "profile"):
        if getattr(earlier, name) != getattr(fresh, name):
            what = "other cases" if name == "cases_sha256" else f"another {name}"
            raise RunError(f"the run is of {what}: name a new file")
    return earlier


@dataclass(frozen=True, slots=True)
class Made:
    """Probes ready to be asked, and a line on each case that gave none."""

    probes: Sequence[Probe]
    excluded: Sequence[str]


def make_probes(
    services: Services,
    cases: Sequence[Case],
    ids: Mapping[str, str],
    *,
    scope: ScopeName,
    collection: str | None = None,
    seed: int = 0,
    limit: int = 50,
) -> Made:
    """Probes of every kind on at most ``limit`` pages with evidence, and as many cases, chosen by
    ``seed``. Things and names come from all pages of the cases' documents."""
    gold = dict.fromkeys(
        PageRef(ids[case.document], number - 1) for case in cases for number in case.pages
    )
    with_text = {
        ref: page for ref, page in services.catalog.pages(list(gold)).items() if page.words
    }
    pages = [with_text[ref] for ref in _chosen(list(with_text), limit, seed, _name_of)]
    known = Mentions.of(
        page
        for id in dict.fromkeys(ids[case.document] for case in cases)
        for index in range(services.document(id).pages)
        for page in services.catalog.pages([PageRef(id, index)]).values()
    )
    asked = _chosen([c for c in cases if c.answerable and c.pages], limit, seed, lambda c: c.id)
    negative, excluded = negative_probes(services, asked, ids, scope=scope, collection=collection)
    names = {id: name for name, id in ids.items()}
    excluded += [
        f"page {ref.number} of {names[ref.document_id]}: it has no text"
        for ref in gold
        if ref not in with_text
    ]
    return Made(
        [
            *absence_probes(pages, known, seed=seed),
            *trap_probes(pages, known, seed=seed),
            *negative,
        ],
        excluded,
    )


def _chosen(
    items: Sequence[Chosen], limit: int, seed: int, name: Callable[[Chosen], str]
) -> list[Chosen]:
    """At most ``limit`` of ``items``, in their order; the same whatever else there is to choose."""

    def lot(item: Chosen) -> bytes:
        return hashlib.sha256(f"{seed}/{name(item)}".encode()).digest()

    drawn = set(sorted(range(len(items)), key=lambda i: lot(items[i]))[:limit])
    return [item for i, item in enumerate(items) if i in drawn]
