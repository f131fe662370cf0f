"""Claims queued documents and settles them: indexed, failed, or back into the queue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ingest.catalog import Catalog
from ingest.pipeline import Pipeline, Stopped
from pageglass.errors import DocumentError, PageglassError
from pageglass.types import Document

_log = logging.getLogger(__name__)

# Attempts in a row without a new page: so often may a document bring the process down.
MAX_ATTEMPTS = 3


class Worker:
    """Works through the queue of a data folder, one document at a time."""

    def __init__(
        self,
        catalog: Catalog,
        pipeline: Pipeline,
        *,
        progress: Callable[[Document], None] | None = None,
    ) -> None:
        """``progress`` is called whenever a document moved on."""
        self._catalog = catalog
        self._pipeline = pipeline
        self._report = progress
        self._stopping = threading.Event()
        self._waiting = threading.Event()

    def stop(self) -> None:
        """End ``forever`` and ``drain`` after the batch of pages in work."""
        self._stopping.set()
        self._waiting.set()

    def wake(self) -> None:
        """There may be new work."""
        self._waiting.set()

    def forever(self) -> None:
        """Work until ``stop``; for a thread of its own."""
        while not self._stopping.is_set():
            self._waiting.clear()
            try:
                if self.step():
                    continue
            except Exception:
                # The queue must outlive whatever one document or the disk does to us.
                _log.exception("the worker goes on after an error")
            self._waiting.wait(timeout=60)

    def drain(self) -> None:
        """Work until the queue is empty or ``stop``."""
        while not self._stopping.is_set() and self.step():
            pass

    def step(self) -> bool:
        """Claim and settle one document; false where none is queued."""
        document = self._catalog.claim()
        if document is None:
            return False
        self._progress(document)
        try:
            self._settle(document)
        except BaseException:
            # Not the document's fault: the models, the store or the whole process.
            self._catalog.requeue(document.id)
            raise
        if self._catalog.exists(document.id):
            self._progress(self._catalog.document(document.id))
        return True

    def _progress(self, document: Document) -> None:
        if self._report is not None:
            self._report(document)

    def _settle(self, document: Document) -> None:
        attempts = self._catalog.attempts(document.id)
        if attempts > MAX_ATTEMPTS:
            reason = (
                f"gave up after {MAX_ATTEMPTS} attempts without a single new page: ingest the file"
                " again to try once more"
            )
            self._catalog.settle(document.id, "failed", reason)
            return
        try:
            remark = self._pipeline.run(
                document, stopping=self._stopping.is_set, progress=self._progress
            )
        except Stopped:
            self._catalog.requeue(document.id)
        except DocumentError as error:
            self._catalog.settle(document.id, "failed", str(error))
        except PageglassError:
            raise
        except Exception as error:
            _log.exception("indexing %s failed", document.name)
            if attempts < MAX_ATTEMPTS:
                self._catalog.requeue(document.id)
            else:
                reason = f"gave up after {attempts} attempts: {type(error).__name__}: {error}"
                self._catalog.settle(document.id, "failed", reason)
        else:
            self._catalog.settle(document.id, "indexed", remark)
            self._pipeline.finish_removals()
