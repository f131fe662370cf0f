"""Claims jobs, takes their pages through the pipeline, hands over what comes of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ingest.failures import Failure, classify
from ingest.pipeline import OCR_STAGE, READ_STAGE, Encoded, Order, PageTask, Pipeline
from pageglass.types import Page

_log = logging.getLogger(__name__)

_SIGN_SECONDS = 5.0

Verdict = Literal["go on", "yield", "lost"]
"""What to do after a batch: go on with the document, leave it to a later attempt, or drop it, for
it is this worker's no longer."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What is left of a document: stages by page index, and the title its first pages had."""

    stages: dict[int, frozenset[str]]
    title: str | None


class Desk(Protocol):
    """The owner of the data folder as a worker sees it: in this process, or over a pipe."""

    def claim(self, worker: str, beside: bool = False) -> Order | None:
        """The next job that is due. ``beside``: only if there is enough for every worker, to fill
        up a batch."""
        ...

    def begin(self, order: Order, pages: int) -> Begun | None:
        """The document has so many pages; None where the order is lost."""
        ...

    def known(self, order: Order, indices: Sequence[int]) -> dict[int, Page]:
        """Pages as an earlier attempt read them, by index."""
        ...

    def alive(self, order: Order) -> Verdict:
        """Renew the lease."""
        ...

    def store(self, order: Order, encoded: Encoded) -> Verdict:
        """Keep what came of some pages. StoreError, OSError where that cannot be now."""
        ...

    def settle(self, order: Order, failure: Failure | None) -> None:
        """The attempt ended; without a failure, with everything done."""
        ...

    def leave(self, order: Order) -> None:
        """The attempt ended early, and does not count."""
        ...


@dataclass(slots=True)
class _Open:
    """A document in work. ``failure`` is why its reading ended early."""

    order: Order
    begun: Begun
    title: str | None
    ended: bool = False
    failure: Failure | None = None


class Worker:
    """Works through the queue.

    Small documents share batches; a document is searchable from its first stored batch on.
    """

    def __init__(
        self,
        desk: Desk,
        pipeline: Pipeline,
        *,
        name: str,
        batch_pages: int,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """``stopping`` is asked after each page."""
        self._desk = desk
        self._pipeline = pipeline
        self._name = name
        self._batch_pages = batch_pages
        self._stopping = stopping
        self._open: dict[str, _Open] = {}
        self._tasks: list[PageTask] = []
        self._signed = time.monotonic()

    def drain(self) -> None:
        """Work until nothing is due, or until ``stopping``."""
        while not self._stopping():
            order = self._desk.claim(self._name, beside=bool(self._tasks))
            if order is not None:
                if order.careful:
                    self._flush()
                self._work(order)
            elif self._tasks:
                self._flush()
            else:
                return
        for one in list(self._open.values()):
            self._drop(one)
            self._desk.leave(one.order)

    def _work(self, order: Order) -> None:
        """Read a document's pages into batches; what is left over waits for the next document."""
        try:
            count = self._pipeline.open(order)
            begun = self._desk.begin(order, count)
        except Exception as error:
            self._settle(order, error)
            return
        if begun is None:
            return
        one = self._open[order.document_id] = _Open(order, begun, begun.title)
        size = 1 if order.careful else self._batch_pages
        pages = self._pipeline.read(order, list(begun.stages))
        while True:
            try:
                raw = next(pages, None)
            except Exception as error:
                one.failure = self._failure(order, error)
                break
            if self._stopping():
                return
            if raw is None:
                break
            self._tasks.append(PageTask(order, begun.stages[raw.index], raw))
            if len(self._tasks) >= size:
                self._flush()
            elif time.monotonic() - self._signed > _SIGN_SECONDS:
                self._signed = time.monotonic()
                self._obey(one, self._desk.alive(order))
            if order.document_id not in self._open:
                return
        one.ended = True
        if not any(task.order is order for task in self._tasks):
            self._close(one)

    def _flush(self) -> None:
        """Encode and hand over the batch, and settle the documents that end with it."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        orders = list({task.order.document_id: task.order for task in tasks}.values())
        try:
            tasks = [known for order in orders for known in self._with_known(order, tasks)]
            titles = {id: one.title for id, one in self._open.items()}
            encoded = self._pipeline.encode(tasks, titles)
        except Exception as error:
            for order in orders:
                self._fail(self._open[order.document_id], error)
            return
        for order in orders:
            one = self._open[order.document_id]
            try:
                one.title = encoded[order.document_id].title or one.title
                verdict = self._desk.store(order, encoded[order.document_id])
            except Exception as error:
                self._fail(one, error)
                continue
            self._signed = time.monotonic()
            self._obey(one, verdict)
            if one.ended and order.document_id in self._open:
                self._close(one)

    def _with_known(self, order: Order, tasks: Sequence[PageTask]) -> list[PageTask]:
        """The order's tasks; those that were read before with their pages."""
        own = [task for task in tasks if task.order is order]
        read = [t.raw.index for t in own if not t.stages & {READ_STAGE, OCR_STAGE}]
        if not read:
            return own
        known = self._desk.known(order, read)
        return [PageTask(order, t.stages, t.raw, known.get(t.raw.index)) for t in own]

    def _obey(self, one: _Open, verdict: Verdict) -> None:
        if verdict != "go on":
            self._drop(one)
        if verdict == "yield" and not one.ended:
            self._desk.leave(one.order)
        elif verdict == "yield":
            self._desk.settle(one.order, one.failure)

    def _close(self, one: _Open) -> None:
        self._drop(one)
        self._desk.settle(one.order, one.failure)

    def _fail(self, one: _Open, error: Exception) -> None:
        self._drop(one)
        self._settle(one.order, error)

    def _drop(self, one: _Open) -> None:
        self._open.pop(one.order.document_id, None)
        self._tasks = [task for task in self._tasks if task.order is not one.order]

    def _settle(self, order: Order, error: Exception) -> None:
        self._desk.settle(order, self._failure(order, error))

    @staticmethod
    def _failure(order: Order, error: Exception) -> Failure:
        failure = classify(error)
        if failure.kind == "transient":
            _log.error("indexing document %s failed", order.document_id, exc_info=error)
        return failure
