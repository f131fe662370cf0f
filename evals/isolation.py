"""What does it cost to open PDFs in a process of their own? Prints JSON.

    python -m evals.isolation --docs samples/docs

The same pages are read through the child process and, by the child's own code, in this one, in
turns, so that whatever else the machine does falls on both. The medians are compared.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ingest import _pdf_child
from ingest.pdf import PdfReader, RawPage, child_settings
from pageglass.settings import IngestSettings

SAMPLES = Path(__file__).parents[1] / "samples" / "docs"
TARGET_PERCENT = 15.0


def main(
    docs: Annotated[Path, typer.Option(help="Folder of PDFs to read.")] = SAMPLES,
    rounds: Annotated[int, typer.Option(min=1, help="Times that all of them are read.")] = 5,
) -> None:
    """Measure and print."""
    print(json.dumps(measure(sorted(docs.glob("*.pdf")), IngestSettings(), rounds), indent=1))


def measure(paths: Sequence[Path], settings: IngestSettings, rounds: int) -> dict[str, float]:
    """Pages/s of ``paths`` in a child process and in this one, and by how many percent the child
    takes longer. The first round warms up and does not count."""
    child: list[float] = []
    here: list[float] = []
    pages = 0
    own = _pdf_child.Reader(child_settings(settings))
    with PdfReader(settings) as reader:
        for _ in range(1 + rounds):
            began = time.perf_counter()
            pages = sum(_through_child(reader, path) for path in paths)
            between = time.perf_counter()
            if sum(_in_process(own, path) for path in paths) != pages:
                raise AssertionError("the child and its code read different pages")
            child.append(between - began)
            here.append(time.perf_counter() - between)
    in_child, in_process = statistics.median(child[1:]), statistics.median(here[1:])
    return {
        "pages": pages,
        "rounds": rounds,
        "child_pages_per_second": round(pages / in_child, 2),
        "in_process_pages_per_second": round(pages / in_process, 2),
        "overhead_percent": round(100 * (in_child / in_process - 1), 1),
        "target_percent": TARGET_PERCENT,
    }


def _through_child(reader: PdfReader, path: Path) -> int:
    pages = reader.pages(path, range(reader.open(path).pages))
    return sum(isinstance(page, RawPage) for page in pages)


def _in_process(reader: _pdf_child.Reader, path: Path) -> int:
    count = reader.open(os.open(path, os.O_RDONLY), "PDF")["pages"]
    for index in range(count):
        reader.page(index)
    return count


if __name__ == "__main__":
    typer.run(main)
