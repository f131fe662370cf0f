"""Calling off what nobody waits for any more, down to the model.

Whoever begins a piece of work makes a ``Cancellation`` and applies it around the work; whatever
takes long looks at ``current()``. It travels by context rather than by argument: between a closed
connection and a model lie layers that have nothing to do with either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar


class Cancelled(Exception):
    """The work was called off; nobody waits for its result."""


class Cancellation:
    """Calls one piece of work off. Thread-safe.

    >>> calling_off = Cancellation()
    >>> with calling_off.applied():
    ...     current() is calling_off
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._stops: dict[object, Callable[[], object]] = {}

    @property
    def cancelled(self) -> bool:
        """Whether the work was called off."""
        return self._cancelled

    def cancel(self) -> None:
        """Call the work off; calling it off again changes nothing."""
        with self._lock:
            self._cancelled = True
            stops, self._stops = list(self._stops.values()), {}
        for stop in stops:
            stop()

    def check(self) -> None:
        """Raise Cancelled where the work was called off."""
        if self._cancelled:
            raise Cancelled

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Generator[None]:
        """Have ``stop`` called, on any thread, should the work be called off meanwhile."""
        key = object()
        with self._lock:
            if not self._cancelled:
                self._stops[key] = stop
        if self._cancelled:
            stop()
        try:
            yield
        finally:
            with self._lock:
                self._stops.pop(key, None)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Make it the ``current()`` one of this thread meanwhile."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


def current() -> Cancellation:
    """The one that is applied here; one that nobody will use where there is none."""
    return _current.get() or Cancellation()
