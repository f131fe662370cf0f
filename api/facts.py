"""What is known of a request once it is over: for its line in the log and for the metrics.

The middleware opens a request's facts, services add to them from whichever thread they work on
(worker threads take the context along), and the middleware hands them on when the last byte is
out. Outside a request, as on the command line, only what models cost is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pageglass.types import Answer, PageRef, SearchResult, Usage

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Facts:
    """One request. What it never came to is None or empty.

    ``path`` is as it was sent, cut; ``route`` the template that took it. ``status`` is 0 where the
    client left before there was one. ``bytes_sent`` counts bodies. ``texts`` are what was asked
    and answered, which pages were found and cited, and the collections' names: logged only where
    the settings ask for it.
    """

    request_id: str
    method: str
    path: str
    route: str | None = None
    status: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    trace_id: str | None = None
    key_id: str | None = None
    question_characters: int | None = None
    in_collections: bool | None = None
    hits: int | None = None
    answer_status: str | None = None
    verified_citations: int | None = None
    model: str | None = None
    retrievers: tuple[str, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict[str, float])
    usage: list[Usage] = field(default_factory=list[Usage])
    texts: dict[str, Any] = field(default_factory=dict[str, Any])

    def fields(self, *, texts: bool) -> dict[str, Any]:
        """The facts that there are, under plain names; with ``texts`` if they may be logged."""
        plain: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "route": self.route,
            "status": self.status,
            "ms": round(1000 * self.seconds, 1),
            "bytes": self.bytes_sent,
            "trace_id": self.trace_id,
            "key_id": self.key_id,
            "question_characters": self.question_characters,
            "in_collections": self.in_collections,
            "hits": self.hits,
            "answer_status": self.answer_status,
            "verified_citations": self.verified_citations,
            "model": self.model,
            "retrievers": list(self.retrievers) or None,
            "timings_ms": {name: round(ms, 1) for name, ms in self.timings_ms.items()} or None,
            "usage": [_plain(used) for used in self.usage] or None,
        }
        plain |= self.texts if texts else {}
        return {name: value for name, value in plain.items() if value is not None}


def _plain(used: Usage) -> dict[str, Any]:
    return {
        "purpose": used.purpose,
        "model": used.model,
        "images": [f"{width}x{height}" for width, height in used.images],
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "seconds": round(used.seconds, 3),
    }


def log(facts: Facts, *, texts: bool) -> None:
    """Write a request's line; with ``texts`` what was asked and answered, too."""
    if _log.isEnabledFor(logging.INFO):
        _log.info("request", extra={"fields": facts.fields(texts=texts)})


_current: ContextVar[Facts | None] = ContextVar("facts", default=None)


@contextmanager
def noting(facts: Facts) -> Generator[None]:
    """What is noted meanwhile, in this context and those made from it, belongs to ``facts``."""
    token = _current.set(facts)
    try:
        yield
    finally:
        _current.reset(token)


def asked(question: str, collections: Sequence[str]) -> None:
    """Note a question, and the collections it is limited to if any."""
    if (facts := _current.get()) is not None:
        facts.question_characters = len(question)
        facts.in_collections = bool(collections)
        facts.texts |= {"question": question, "collections": list(collections)}


def found(result: SearchResult) -> None:
    """Note what a search came to, without its usage."""
    if (facts := _current.get()) is not None:
        facts.hits = len(result.hits)
        seen = [seen.retriever for hit in result.hits for seen in hit.why.retrievers]
        facts.retrievers = tuple(dict.fromkeys(seen))
        facts.timings_ms |= result.timings_ms
        facts.texts["found"] = [_place(hit.ref, hit.document_name) for hit in result.hits]


def answered(answer: Answer) -> None:
    """Note an answer, without its usage."""
    if (facts := _current.get()) is not None:
        facts.answer_status = answer.status
        facts.verified_citations = sum(citation.verified for citation in answer.citations)
        facts.model = answer.model
        facts.timings_ms |= answer.timings_ms
        facts.texts["answer"] = answer.text
        facts.texts["citations"] = [
            _place(citation.ref, citation.document_name)
            | {"quote": citation.quote, "verified": citation.verified}
            for citation in answer.citations
        ]


def _place(ref: PageRef, document: str) -> dict[str, Any]:
    return {"document_id": ref.document_id, "document": document, "page": ref.number}


def used(usage: Sequence[Usage]) -> None:
    """Note what models cost, as soon as it is paid; outside a request it is logged at once."""
    facts = _current.get()
    if facts is not None:
        facts.usage += usage
        return
    for one in usage:
        _log.info("%s by %s", one.purpose, one.model, extra={"fields": _plain(one)})
