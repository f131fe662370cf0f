"""Documents into pages, words and vectors. Computes only: what comes of it is stored by the writer.

It runs in the process that owns the data folder or in a worker of its own, and holds a batch of
pages at a time, however long a document is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingest.catalog import StageResult
from ingest.failures import classify
from ingest.formats import kind_of
from ingest.ocr import Ocr
from ingest.office import convert
from ingest.pdf import PageFailure, PdfReader, RawPage
from pageglass.errors import ModelError
from pageglass.images import ImageStore
from pageglass.settings import IngestSettings
from pageglass.types import Page, PageRef
from retrieval.encoders import PageInput, Vectors
from retrieval.headings import document_title
from retrieval.profiles import Profile, Space

_log = logging.getLogger(__name__)

OCR_STAGE = "ocr"
READ_STAGE = "read"


@dataclass(frozen=True, slots=True)
class Order:
    """A claimed job with what its worker must know.

    ``original`` is the accepted file, ``converted`` where its PDF belongs if it is an office file.
    ``careful``: an earlier attempt was cut short, so page by page, and with nothing else.
    """

    worker: str
    document_id: str
    name: str
    original: Path
    converted: Path
    priority: int
    careful: bool


@dataclass(frozen=True, slots=True)
class PageTask:
    """One page on its way: the stages it lacks, and ``known``, the page as an earlier attempt read
    it, where only others are left."""

    order: Order
    stages: frozenset[str]
    raw: RawPage | PageFailure
    known: Page | None = None


@dataclass(slots=True)
class Encoded:
    """What came of some pages of one document. ``images`` are JPEGs by key; ``vectors`` are by
    collection of vectors, one page each."""

    title: str | None = None
    pages: list[Page] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    stages: list[StageResult] = field(default_factory=list)
    vectors: dict[str, list[tuple[PageRef, Vectors]]] = field(default_factory=dict)


class Pipeline:
    """Reads and encodes pages. For one thread at a time."""

    def __init__(self, profile: Profile, ocr: Ocr, settings: IngestSettings) -> None:
        """``ocr`` reads pages without a text layer."""
        self._profile = profile
        self._ocr = ocr
        self._settings = settings
        self._reader = PdfReader(settings)

    def close(self) -> None:
        """End the child process that opens files."""
        self._reader.close()

    def open(self, order: Order) -> int:
        """How many pages the document has; DocumentError where it cannot become pages.

        An office file is turned into a PDF first, which stays for later attempts.
        """
        if kind_of(order.original.suffix) == "office" and not order.converted.exists():
            order.converted.parent.mkdir(exist_ok=True)
            convert(order.original, order.converted, self._settings)
        return self._reader.open(self._file(order)).pages

    def read(self, order: Order, indices: Iterable[int]) -> Iterator[RawPage | PageFailure]:
        """Pages by 0-based index, in this order, as they come. DocumentError where the document
        cannot go on."""
        return self._reader.pages(self._file(order), indices)

    @staticmethod
    def _file(order: Order) -> Path:
        return order.converted if kind_of(order.original.suffix) == "office" else order.original

    def encode(
        self, tasks: Sequence[PageTask], titles: Mapping[str, str | None]
    ) -> dict[str, Encoded]:
        """Take pages, perhaps of several documents, through the stages they lack; results by
        document id.

        ``titles`` are those that earlier pages of the documents were encoded with. A stage that
        fails is noted with its reason and leaves the others alone.
        """
        results = {task.order.document_id: Encoded() for task in tasks}
        readable: list[tuple[PageTask, PageInput]] = []
        for task in tasks:
            result = results[task.order.document_id]
            if isinstance(task.raw, PageFailure):
                reason = task.raw.reason
                result.stages.append(StageResult(task.raw.index, READ_STAGE, "failed", reason))
                continue
            page = task.known
            if page is None or task.stages & {READ_STAGE, OCR_STAGE}:
                page, ocr = self._read(task.order.document_id, task.raw)
                result.stages += [StageResult(task.raw.index, READ_STAGE, "done"), ocr]
            result.pages.append(page)
            if page.image == ImageStore.key(task.raw.image, ".jpg"):
                result.images[page.image] = task.raw.image
            if result.title is None:
                # The title kept with the first pages that were encoded, whatever names come later.
                first = page if page.ref.index == 0 else None
                kept = titles.get(task.order.document_id)
                result.title = kept or document_title(task.order.name, first)
            readable.append((task, PageInput(page, result.title, task.raw.image)))
        for space in self._profile.spaces:
            name = space.spec.name
            lacking = [(task, of) for task, of in readable if name in task.stages]
            for (task, of), vectors in zip(
                lacking, _vectors(space, [of for _, of in lacking]), strict=True
            ):
                result, index = results[task.order.document_id], of.page.ref.index
                if isinstance(vectors, str):
                    result.stages.append(
                        StageResult(index, name, "failed", vectors, transient=True)
                    )
                else:
                    result.vectors.setdefault(name, []).append((of.page.ref, vectors))
                    result.stages.append(StageResult(index, name, "done"))
        return results

    def _read(self, id: str, raw: RawPage) -> tuple[Page, StageResult]:
        """The page with the words of its text layer or, where that is too short, of OCR."""
        words, source = raw.words, "layer" if raw.words else "none"
        result = StageResult(raw.index, OCR_STAGE, "done")
        characters = sum(len(word.text) for word in words)
        wanted = self._settings.ocr and not raw.blank
        if wanted and characters < self._settings.ocr_below_characters:
            try:
                seen = self._ocr.read(raw.image)
            except Exception as error:
                # Whatever an image does to the OCR engine, the page keeps its image and layer.
                # Models that do not load are another matter: the page is not to blame.
                _log.exception("OCR of page %d failed", raw.index + 1)
                reason = f"OCR failed: {classify(error).reason}"
                transient = isinstance(error, ModelError)
                result = StageResult(raw.index, OCR_STAGE, "failed", reason, transient)
            else:
                if sum(len(word.text) for word in seen) > characters:
                    words, source = seen, "ocr"
        page = Page(
            ref=PageRef(id, raw.index),
            label=raw.label,
            width=raw.width,
            height=raw.height,
            words=words,
            text_source=source,
            image=ImageStore.key(raw.image, ".jpg"),
            render_hash=raw.render_hash,
            perceptual_hash=raw.perceptual_hash,
        )
        return page, result


def _vectors(space: Space, pages: Sequence[PageInput]) -> list[Vectors | str]:
    """Every encoder's vectors of each page, together; in their place, the reason they failed."""
    try:
        parts = [encoder.encode_pages(pages) for encoder in space.encoders] if pages else []
        return [{k: v for part in parts for k, v in part[i].items()} for i in range(len(pages))]
    except Exception as error:
        _log.exception("encoding into %s failed", space.spec.name)
        if len(pages) == 1 or isinstance(error, ModelError):
            return [f"{space.spec.name} failed: {classify(error).reason}"] * len(pages)
        # One of them may be to blame.
        return [vectors for page in pages for vectors in _vectors(space, [page])]
