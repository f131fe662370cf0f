"""How a data folder behaves as it grows to 100,000 pages on one machine.

    python -m evals.scale --folder FOLDER_WITH_ROOM

Indexes made-up documents and measures at several sizes: pages/s, memory, disk, and how long
searches, `status`, `check` and opening the folder take. Prints a table in Markdown, a column a
size. docs/scale.md holds one, and says what it means for real pages.

The dense and token vectors of pages are random, one row a chunk and one a word; all else is real:
PDFs and the process that reads them, acceptance, catalog, jobs, page images, BM25, Qdrant Edge with
the vectors of the profile `lite`, and searches by questions that MiniLM encodes. The one worker is
a thread of this process, for worker processes load models of their own.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pymupdf
import typer

from api.services import Services
from ingest.ocr import Ocr
from ingest.pipeline import Pipeline
from ingest.workers import WorkerPool
from pageglass.settings import Settings, load_settings
from pageglass.types import DEFAULT_COLLECTION, Document
from retrieval.encoders import Encoder, PageInput, Vectors
from retrieval.encoders.bm25 import Bm25Encoder
from retrieval.encoders.minilm import MiniLM
from retrieval.index import VectorSpec
from retrieval.profiles import Checkpoints, Profile, load_profile

DOCUMENT_PAGES = 100
_QUESTIONS = 50
_SAMPLE_SECONDS = 0.2
# A chunk has at most 256 word pieces: those of the title and the heading, and 1.3 an English word.
_CHUNK_WORDS = 180


class RandomVectors:
    """Stands in for MiniLM's encoder: a page's vectors are random, and always the same."""

    def __init__(self, like: Encoder) -> None:
        """Fill the named vectors of ``like``, in the same shapes; questions are left to it."""
        self._like = like

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """The named vectors this encoder fills."""
        return self._like.vectors

    @property
    def model(self) -> dict[str, Any]:
        """The model whose place it takes."""
        return self._like.model

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``dense`` (chunks, size) and ``tokens`` (words, size) a page: rows of length 1 whose
        coordinates sum to zero."""
        return [self._encode(of) for of in pages]

    def _encode(self, of: PageInput) -> Vectors:
        words = len(of.page.words)
        rows = {"dense": math.ceil(words / _CHUNK_WORDS), "tokens": words}
        chance = np.random.default_rng(int(of.page.render_hash, 16))
        found: dict[str, Any] = {}
        for name, spec in self.vectors.items():
            drawn = chance.standard_normal((rows[name], spec.size), dtype=np.float32)
            drawn -= drawn.mean(axis=1, keepdims=True)
            found[name] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return found

    def encode_question(self, text: str) -> Vectors:
        """As the real encoder's."""
        return self._like.encode_question(text)


class MadeUpDocuments:
    """PDFs of made-up words, the same ones every time."""

    def __init__(self, folder: Path, *, words: int) -> None:
        """Draw into ``folder``, with so many ``words`` a page."""
        self._folder = folder
        self._words = words
        self._drawn = 0
        self._chance = random.Random(1)  # noqa: S311 - no secrets here
        self._vocabulary = [self._word() for _ in range(20_000)]

    def draw(self, pages: int) -> Path:
        """One more document, of this many pages."""
        document = pymupdf.open()
        for _ in range(pages):
            # A few words are frequent, most are rare, as in any language.
            places = [self._chance.random() ** 3 for _ in range(self._words)]
            text = " ".join(self._vocabulary[int(len(self._vocabulary) * at)] for at in places)
            document.new_page().insert_textbox(pymupdf.Rect(50, 50, 545, 792), text, fontsize=10)
        self._drawn += 1
        path = self._folder / f"{self._drawn:06d}.pdf"
        document.save(path)
        document.close()
        return path

    def questions(self, count: int) -> list[str]:
        """Six of the more frequent words each, of which pages have one or two."""
        chance = random.Random(2)  # noqa: S311
        frequent = self._vocabulary[: len(self._vocabulary) // 10]
        return [" ".join(chance.choices(frequent, k=6)) for _ in range(count)]

    def _word(self) -> str:
        syllables = self._chance.randint(2, 4)
        return "".join(
            self._chance.choice("bcdfghjklmnprstvw") + self._chance.choice("aeiou")
            for _ in range(syllables)
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MB: this process's own, files mapped into it (which the system takes back
    when it needs the room), and all of its child processes."""

    own: float = 0.0
    mapped: float = 0.0
    children: float = 0.0

    @classmethod
    def now(cls) -> Memory:
        """As /proc has it."""
        return cls(
            _proc_mb("self", "RssAnon"),
            _proc_mb("self", "RssFile"),
            sum(_proc_mb(pid, "VmRSS") for pid in _children()),
        )

    def peak(self, other: Memory) -> Memory:
        """The larger of each."""
        return Memory(
            max(self.own, other.own),
            max(self.mapped, other.mapped),
            max(self.children, other.children),
        )


def _proc_mb(pid: str, field: str) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # It has ended.
        return 0.0
    found = status.partition(f"\n{field}:")[2].split()
    return int(found[0]) / 1e3 if found else 0.0


def _children() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            yield from (task / "children").read_text().split()


def random_profile(settings: Settings) -> Profile:
    """The profile of ``settings`` with random vectors of pages, but its own of BM25."""
    checkpoints = Checkpoints(lock=None, fetch="never")
    own = load_profile(settings, MiniLM(threads=settings.threads), checkpoints)
    spaces = [
        replace(
            space,
            encoders=[
                encoder if isinstance(encoder, Bm25Encoder) else RandomVectors(encoder)
                for encoder in space.encoders
            ],
        )
        for space in own.spaces
    ]
    return Profile(own.name, spaces)


def grow(services: Services, documents: MadeUpDocuments, pages: int) -> tuple[float, float, Memory]:
    """Accept and index ``pages`` more pages: median seconds to accept a document, seconds to index
    them all, and memory at its peak. SystemExit where that cannot be done."""
    accepting: list[float] = []
    for first in range(0, pages, DOCUMENT_PAGES):
        path = documents.draw(min(DOCUMENT_PAGES, pages - first))
        with path.open("rb") as file:
            accepting.append(
                _seconds(lambda file=file, name=path.name: services.add(file, name=name))
            )
        path.unlink()
    profile, settings, jobs = random_profile(services.settings), services.settings, services.jobs
    pool = WorkerPool(
        services.writer,
        jobs,
        settings,
        processes=0,
        local=lambda: Pipeline(profile, Ocr(threads=settings.threads), settings.ingest),
    )
    done = threading.Event()

    def moved(document: Document) -> None:
        if document.state in ("indexed", "failed") and not jobs.live():
            done.set()

    services.writer.progress = moved
    memory = Memory.now()
    began = time.perf_counter()
    pool.start()
    try:
        while not done.wait(_SAMPLE_SECONDS):
            memory = memory.peak(Memory.now())
            if services.writer.outage is not None:
                raise SystemExit(f"scale: {services.writer.outage}")
        took = time.perf_counter() - began
    finally:
        pool.stop()
    return statistics.median(accepting), took, memory


def look(settings: Settings, questions: Sequence[str], pages: int) -> dict[str, str]:
    """What a folder of so many pages is like to use, by heading. SystemExit where it is not whole.

    What was written lately is in the system's memory; opening is cold in no other sense.
    """
    began = time.perf_counter()
    with Services(settings, command="scale") as services:
        opening = time.perf_counter() - began
        status = services.status()
        if status.pages != pages or set(status.documents) != {"indexed"}:
            raise SystemExit(f"scale: {status.pages} of {pages} pages, {status.documents}")
        services.search(questions[0])  # The model loads.
        everywhere = [
            _seconds(lambda q=q: services.search(q, collection=DEFAULT_COLLECTION))
            for q in questions
        ]
        ids = [document.id for document in services.documents()]
        within = [
            _seconds(lambda q=q, id=id: services.search(q, documents=[id]))
            for q, id in zip(questions, cycle(ids))
        ]
        looking = _seconds(services.status)
        began = time.perf_counter()
        if found := services.check():
            raise SystemExit(f"scale: {len(found)} findings, such as: {found[0].what}")
        checking = time.perf_counter() - began
    return {
        "search the collection, p50 ms": f"{1000 * statistics.median(everywhere):.0f}",
        "search the collection, p95 ms": f"{1000 * _p95(everywhere):.0f}",
        "search one document, p50 ms": f"{1000 * statistics.median(within):.0f}",
        "search one document, p95 ms": f"{1000 * _p95(within):.0f}",
        "open the folder, s": f"{opening:.2f}",
        "`status`, s": f"{looking:.2f}",
        "`check`, s": f"{checking:.1f}",
    }


def disk(folder: Path, pages: int) -> dict[str, str]:
    """What the data folder takes on disk, by heading."""
    parts = {
        "catalog": sum(_bytes(path) for path in folder.glob("catalog.sqlite*")),
        "originals": _bytes(folder / "originals"),
        "page images": _bytes(folder / "images"),
        "index": _bytes(folder / "index"),
    }
    return {f"{name}, MB": f"{size / 1e6:,.1f}" for name, size in parts.items()} | {
        "all of it, KB a page": f"{sum(parts.values()) / 1e3 / pages:.1f}"
    }


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def _table(columns: Mapping[int, Mapping[str, str]]) -> str:
    """In Markdown, a column a size."""
    headings = next(iter(columns.values()))
    lines = [["pages", *(f"{size:,}" for size in columns)], ["---", *("---:" for _ in columns)]]
    lines += [[heading, *(column[heading] for column in columns.values())] for heading in headings]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(
    pages: Annotated[int, typer.Option(min=1, help="Pages at the end.")] = 100_000,
    checkpoints: Annotated[
        str, typer.Option(help="Pages at which to measure on the way.")
    ] = "1000,3000,10000,30000",
    folder: Annotated[
        Path | None, typer.Option(help="Where, and it stays; default: a temporary folder.")
    ] = None,
    words: Annotated[int, typer.Option(min=20, max=500, help="Words a page.")] = 60,
    dpi: Annotated[int, typer.Option(min=36, help="Resolution of page images.")] = 50,
) -> None:
    """Grow, measure, print."""
    sizes = sorted({size for size in map(int, checkpoints.split(",")) if size < pages} | {pages})
    columns: dict[int, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="pageglass-scale-") as temporary:
        data = (folder or Path(temporary)) / "data"
        if data.exists():
            raise SystemExit(f"scale: {data} is there already: remove it, or take another folder")
        settings = load_settings(
            {"data_dir": data, "profile": "lite", "ingest": {"workers": 0, "dpi": dpi}}
        )
        documents = MadeUpDocuments(Path(temporary), words=words)
        questions = documents.questions(_QUESTIONS)
        have, seconds = 0, 0.0
        for size in sizes:
            with Services(settings, command="scale") as services:
                accepting, took, memory = grow(services, documents, size - have)
                count = len(services.documents())
            seconds += took
            columns[size] = {
                "documents": f"{count:,}",
                "indexed since the last column, pages/s": f"{(size - have) / took:.0f}",
                "indexed from the start, pages/s": f"{size / seconds:.0f}",
                "accept a document, ms": f"{1000 * accepting:.1f}",
                "memory while indexing: the process's own, MB": f"{memory.own:,.0f}",
                "files mapped into it, MB": f"{memory.mapped:,.0f}",
                "its child, MB": f"{memory.children:,.0f}",
                **disk(data, size),
                **look(settings, questions, size),
            }
            have = size
            print(f"{size} pages: {columns[size]}", file=sys.stderr, flush=True)
    print(f"{words} words a page, {DOCUMENT_PAGES} pages a document, images at {dpi} DPI,", end=" ")
    print(f"{os.cpu_count()} cores\n\n{_table(columns)}")


if __name__ == "__main__":
    typer.run(main)
