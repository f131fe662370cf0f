"""How a data folder behaves as it grows: ``python -m evals.scale`` prints a table, by pages.

A simulation with made-up pages: the vectors of pages are random, everything else is real (PDFs,
the process that reads them, page images, catalog, jobs, Qdrant Edge with the vectors of the
profile ``lite``, and searches by real questions). Pages are short and images small, so that a
hundred thousand fit into an hour and a few tens of GB: see --words and --dpi.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pymupdf
import typer

from api.services import Services
from ingest.ocr import Ocr
from ingest.pipeline import Pipeline
from pageglass.settings import Settings, load_settings
from retrieval.encoders import Encoder, PageInput, Vectors
from retrieval.encoders.minilm_encoder import MiniLMEncoder
from retrieval.index import VectorSpec
from retrieval.profiles import Profile, Space

_QUESTIONS = 50
_DOCUMENT_PAGES = 100
_PIECES_PER_WORD = 1.3
"""Word pieces of English text by MiniLM's vocabulary, roughly."""


class RandomVectors:
    """An encoder with the named vectors of another; a page's are random, and always the same."""

    def __init__(self, like: Encoder) -> None:
        self.vectors: dict[str, VectorSpec] = like.vectors
        self.model: dict[str, Any] = like.model

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """Unit vectors whose coordinates sum to zero; a row of ``tokens`` a word piece."""
        return [self._encode(of) for of in pages]

    def _encode(self, of: PageInput) -> Vectors:
        chance = np.random.default_rng(int(of.page.render_hash[:12], 16))
        found: dict[str, Any] = {}
        for name, spec in self.vectors.items():
            rows = round(len(of.page.words) * _PIECES_PER_WORD) if spec.kind == "multi" else 1
            drawn = chance.standard_normal((rows, spec.size), dtype=np.float32)
            drawn -= drawn.mean(axis=1, keepdims=True)
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
            found[name] = drawn if spec.kind == "multi" else drawn[0]
        return found

    def encode_question(self, text: str) -> Vectors:
        """Not asked: questions are encoded by the real model."""
        raise NotImplementedError(text)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one size."""

    pages: int
    documents: int
    rate: float
    own_mb: float
    mapped_mb: float
    index_gb: float
    images_gb: float
    catalog_mb: float
    kb_a_page: float
    query_p50_ms: float
    query_p95_ms: float
    one_document_p50_ms: float
    open_s: float
    status_s: float
    check_s: float


HEADINGS = {
    "pages": "pages",
    "documents": "documents",
    "rate": "pages/s since the last row",
    "own_mb": "memory while indexing, MB",
    "mapped_mb": "files mapped into it, MB",
    "index_gb": "vectors, GB",
    "images_gb": "images, GB",
    "catalog_mb": "catalog, MB",
    "kb_a_page": "all, KB a page",
    "query_p50_ms": "query p50, ms",
    "query_p95_ms": "query p95, ms",
    "one_document_p50_ms": "in one document p50, ms",
    "open_s": "opening, s",
    "status_s": "status, s",
    "check_s": "check, s",
}


def _table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, one column a size."""
    lines = [f"| | {' | '.join(f'{row.pages:,}' for row in rows)} |", "|---|" + "---|" * len(rows)]
    for name, heading in list(HEADINGS.items())[1:]:
        cells = [f"{getattr(row, name):,g}" for row in rows]
        lines.append(f"| {heading} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _vocabulary(chance: random.Random) -> list[str]:
    consonants, vowels = "bcdfghjklmnprstvw", "aeiou"
    return [
        "".join(
            chance.choice(consonants) + chance.choice(vowels) for _ in range(chance.randint(2, 4))
        )
        for _ in range(20_000)
    ]


def _draw(path: Path, chance: random.Random, words: list[str], a_page: int, pages: int) -> Path:
    document = pymupdf.open()
    for number in range(pages):
        # A few words are frequent, most are rare, as in any language.
        text = " ".join(words[int(len(words) * chance.random() ** 3)] for _ in range(a_page))
        document.new_page().insert_textbox(pymupdf.Rect(72, 72, 523, 770), f"{number} {text}")
    document.save(path)
    document.close()
    return path


def _synthetic(services: Services) -> Callable[[], Pipeline]:
    """The pipeline of ``services``, with random vectors in place of MiniLM's."""
    spaces = [
        Space(
            space.spec,
            [
                RandomVectors(encoder) if isinstance(encoder, MiniLMEncoder) else encoder
                for encoder in space.encoders
            ],
            space.retrievers,
        )
        for space in services._profile.spaces
    ]
    profile = Profile("scale", spaces)
    return lambda: Pipeline(profile, Ocr(), services.settings.ingest)


def _measure(settings: Settings, size: int, scratch: Path, a_page: int, seed: int) -> Row:
    """Grow the folder to ``size`` pages, then measure."""
    chance = random.Random(seed)  # noqa: S311
    words = _vocabulary(random.Random(0))  # noqa: S311
    with Services(settings, command="scale") as services:
        before = services.status().pages
        made = before
        while made < size:
            pages = min(_DOCUMENT_PAGES, size - made)
            path = _draw(scratch / f"{made:08d}.pdf", chance, words, a_page, pages)
            with path.open("rb") as file:
                services.add(file, name=path.name)
            path.unlink()
            made += pages
        services._local = _synthetic(services)
        began = time.perf_counter()
        services.start_worker()
        own = mapped = 0.0
        while services.jobs.live():
            time.sleep(0.2)
            now = _memory_mb()
            own, mapped = max(own, now[0]), max(mapped, now[1])
        rate = (size - before) / (time.perf_counter() - began)
    began = time.perf_counter()
    with Services(settings, command="scale") as services:
        opening = time.perf_counter() - began
        documents = services.documents()
        questions = [" ".join(chance.choices(words[:2000], k=6)) for _ in range(_QUESTIONS)]
        services.search(questions[0])
        everywhere = [_timed(lambda q=q: services.search(q)) for q in questions]
        within = [
            _timed(lambda q=q: services.search(q, documents=[chance.choice(documents).id]))
            for q in questions
        ]
        status = _timed(services.status)
        check = _timed(services.check)
        if found := services.check():
            raise SystemExit(f"scale: check finds {found[:3]}")
    folder = settings.data_dir
    return Row(
        pages=size,
        documents=len(documents),
        rate=round(rate, 1),
        own_mb=round(own),
        mapped_mb=round(mapped),
        index_gb=round(_disk(folder / "index") / 1e9, 2),
        images_gb=round(_disk(folder / "images") / 1e9, 2),
        catalog_mb=round(sum(p.stat().st_size for p in folder.glob("catalog.sqlite*")) / 1e6, 1),
        kb_a_page=round(_disk(folder) / 1e3 / size, 1),
        query_p50_ms=round(1000 * statistics.median(everywhere), 1),
        query_p95_ms=round(1000 * statistics.quantiles(everywhere, n=20)[-1], 1),
        one_document_p50_ms=round(1000 * statistics.median(within), 1),
        open_s=round(opening, 2),
        status_s=round(status, 2),
        check_s=round(check, 1),
    )


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _memory_mb() -> tuple[float, float]:
    """Memory of this process's own, and of files mapped into it, which the system takes back when
    it needs the room."""
    status = Path("/proc/self/status").read_text()
    own, mapped = (
        int(status.partition(f"{field}:")[2].split()[0]) / 1e3 for field in ("RssAnon", "RssFile")
    )
    return own, mapped


def _disk(folder: Path) -> int:
    return sum(p.lstat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())


def main(
    sizes: Annotated[str, typer.Option(help="Pages at each row.")] = "1000,3000,10000,30000,100000",
    words: Annotated[int, typer.Option(help="Words a page.")] = 60,
    dpi: Annotated[int, typer.Option(help="Resolution of page images.")] = 50,
    folder: Annotated[Path | None, typer.Option(help="Where; default: a temporary folder.")] = None,
) -> None:
    """Grow, measure, print."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pageglass-scale-", dir=folder) as scratch:
        flags = {
            "data_dir": Path(scratch) / "data",
            "ingest": {"workers": 0, "dpi": dpi, "reserve_mb": 1024},
        }
        settings = load_settings(flags)
        for number, size in enumerate(int(size) for size in sizes.split(",")):
            rows.append(_measure(settings, size, Path(scratch), words, number))
            print(rows[-1], file=sys.stderr, flush=True)
    print(f"{words} words a page, images at {dpi} DPI, {os.cpu_count()} cores\n\n{_table(rows)}")


if __name__ == "__main__":
    typer.run(main)
