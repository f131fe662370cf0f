"""Spans of the work under way, for whoever watches. Needs no library, and costs next to nothing
until an entry point sets a tracer (api.traces has the one that speaks OpenTelemetry).

    with span("search.encode") as encoding:
        ...
        encoding.set("pageglass.spaces", 3)

Attribute names follow OpenTelemetry's semantic conventions where they have one. Values are counts,
names of models and retrievers, states: never a question, an answer or a document's text.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, Protocol

Attribute = str | int | float | bool
Kind = Literal["internal", "server", "client"]

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


class Span(Protocol):
    """A piece of work. What happened in it, by name of attribute, may be set until it ends."""

    def set(self, name: str, value: Attribute) -> None:
        """Note an attribute."""
        ...

    def rename(self, name: str) -> None:
        """Call the span something else."""
        ...


class Tracer(Protocol):
    """Where spans go. Spans opened while another is open in the same context are its children."""

    def span(
        self, name: str, attributes: Mapping[str, Attribute], kind: Kind, began: float | None
    ) -> AbstractContextManager[Span]:
        """A span until the context manager ends; ``began`` is when, in Unix seconds, if not now.

        Without a parent here it goes on with the trace of ``carried()``.
        """
        ...

    def headers(self) -> dict[str, str]:
        """The HTTP headers that let a server go on with the open span's trace."""
        ...


class _NoSpan:
    def set(self, name: str, value: Attribute) -> None:
        """Nobody watches."""

    def rename(self, name: str) -> None:
        """Nobody watches."""


_NOBODY = nullcontext(_NoSpan())
_tracer: Tracer | None = None
_carried: ContextVar[Mapping[str, str]] = ContextVar("carried", default={})  # noqa: B039


def use(tracer: Tracer | None) -> None:
    """Send the spans of this process to ``tracer``, or nowhere. For entry points."""
    global _tracer
    _tracer = tracer


def span(
    name: str,
    attributes: Mapping[str, Attribute] | None = None,
    *,
    kind: Kind = "internal",
    began: float | None = None,
) -> AbstractContextManager[Span]:
    """A span of the work in the ``with`` block; ``began`` is Unix seconds where it began before."""
    return _NOBODY if _tracer is None else _tracer.span(name, attributes or {}, kind, began)


def headers() -> dict[str, str]:
    """What a request to another server must say so that its spans join ours.

    Without a tracer, what our caller said is passed on as it is (W3C Trace Context, section 2).
    """
    return dict(_carried.get()) if _tracer is None else _tracer.headers()


@contextmanager
def carrying(traceparent: str, tracestate: str = "") -> Generator[None]:
    """Go on with the trace that a caller's headers name; what is no traceparent names none."""
    told: dict[str, str] = {}
    if _TRACEPARENT.fullmatch(traceparent):
        told["traceparent"] = traceparent
        if _TRACESTATE.fullmatch(tracestate):
            told["tracestate"] = tracestate
    token = _carried.set(told)
    try:
        yield
    finally:
        _carried.reset(token)


def carried() -> Mapping[str, str]:
    """The headers of the caller's trace, empty where it has none."""
    return _carried.get()


def trace_id() -> str | None:
    """The 32 hex digits of the trace under way, None where there is none."""
    told = _TRACEPARENT.fullmatch(headers().get("traceparent", ""))
    return told and told[1]
