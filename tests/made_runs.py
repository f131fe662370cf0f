"""Runs of evaluations made on the spot, without asking anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.cases import Case
from evals.runs import (
    AnswerRecord,
    CitationRecord,
    DocumentFacts,
    GoldPage,
    Judgement,
    Outcome,
    PageKey,
    Run,
)


@dataclass(frozen=True)
class Asked:
    """What became of a case: the pages found, the pages cited, and how surely it was answered.

    ``found`` and ``cited`` are pages of the case's document. ``support`` None: not answered.
    """

    document: str
    gold: tuple[int, ...] = (1,)
    found: tuple[int, ...] = (1, 2, 3)
    cited: tuple[int, ...] = (1,)
    support: float | None = 0.8
    answerable: bool = True
    text: str = "In hall 7."
    answer: str | None = "hall 7"
    quote: str = "pump"
    evidence: str = ""
    question: str = "In which hall does the pump stand?"
    sources: tuple[str, ...] = ("Text",)
    declined: bool = False
    correct: bool | None = None
    seconds: float = 0.2


def outcome(id: str, asked: Asked, ids: Mapping[str, str]) -> Outcome:
    """The outcome of a case that went so; ``ids`` are documents' by name."""

    def pages(numbers: Sequence[int]) -> tuple[PageKey, ...]:
        return tuple((ids[asked.document], number) for number in numbers)

    gold = asked.gold if asked.answerable else ()
    record = None
    if asked.support is not None:
        record = AnswerRecord(
            text="Nothing in the indexed pages answers this question."
            if asked.declined
            else asked.text,
            status="not_found" if asked.declined else "answered",
            citations=tuple(
                CitationRecord(page=page, quote=asked.quote, verified=True)
                for page in (() if asked.declined else pages(asked.cited))
            ),
            support=asked.support,
            draft=asked.text,
            model="tests/little-reader",
            extractive=False,
            seconds=asked.seconds,
            input_tokens=1200,
            output_tokens=40,
        )
    return Outcome(
        case=Case(
            id=id,
            question=asked.question,
            document=asked.document,
            pages=gold,
            answer=asked.answer if asked.answerable else None,
            answerable=asked.answerable,
            sources=asked.sources,
            quote=asked.evidence,
        ),
        gold=tuple(GoldPage(page=page, characters=90, text_source="layer") for page in pages(gold)),
        rankings={
            "search": pages(asked.found),
            "fusion:rrf": pages(asked.found),
            "retriever:sparse": pages(asked.found[::-1]),
            "retriever:dense": pages(asked.found),
        },
        seconds=asked.seconds / 2,
        answer=record,
        judgement=None
        if record is None
        else Judgement(
            model="tests/judge",
            prompt="judge/1",
            correct=asked.correct,
            reason="" if asked.correct is not None else "the judge was down",
        ),
    )


def run(cases: Mapping[str, Asked], ids: Mapping[str, str] | None = None, **more: object) -> Run:
    """A run of these cases by id; ``ids`` are documents' by name, if they must be real."""
    names = dict.fromkeys(asked.document for asked in cases.values())
    ids = ids or {name: f"id-{name}" for name in names}
    made = Run(
        version="0.1",
        made_at="2026-01-02T03:04:05+00:00",
        cases_file="cases.jsonl",
        cases_sha256="0" * 64,
        scope="collection",
        k=5,
        profile="lite",
        settings={"answer.threshold": 0.5},
        documents={
            ids[name]: DocumentFacts(name=name, pages=12 + n, scanned=12 * (n % 2))
            for n, name in enumerate(names)
        },
        outcomes=tuple(outcome(id, asked, ids) for id, asked in cases.items()),
    )
    return made.model_copy(update=more)
