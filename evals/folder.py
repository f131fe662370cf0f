"""Figures of ingestion and of a watched folder, as JSON: ``python -m evals.folder``.

``workers``: pages/s of text PDFs and of scans, by workers and threads. ``drop``: a thousand
one-page PDFs dropped at once. ``rename``: a document of 500 pages renamed. ``long``: memory while
a PDF of 3,000 pages is indexed. ``--only`` runs some of them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pymupdf
import typer

from api.services import Services
from pageglass.settings import load_settings

SAMPLES = Path("samples/docs")
SCANNED = "corvina_duo_2_manual_scan.pdf"
_COPIES = 2
_ROUNDS = 3
# Pages with less text go to OCR, which is another matter.
_TEXT = "The pallets were counted at the gate and signed for by the keeper of the yard."


def workers(scratch: Path) -> dict[str, Any]:
    """Median pages/s of each way to share two cores, interleaved, and how they compare."""
    ways = {"1 worker, 1 thread": (1, 1), "1 worker, 2 threads": (1, 2), "2 workers": (2, 2)}
    figures: dict[str, Any] = {}
    for kind in ("text", "scans"):
        files = scratch / kind
        files.mkdir()
        for path in sorted(SAMPLES.glob("*.pdf")):
            if (path.name == SCANNED) == (kind == "scans"):
                # Bytes after the end make another document of it.
                for copy in range(_COPIES if kind == "text" else 2):
                    data = path.read_bytes() + b"\n%% copy %d\n" % copy
                    (files / f"{path.stem}-{copy}.pdf").write_bytes(data)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(_ROUNDS if kind == "text" else 1):
            for way, (processes, threads) in ways.items():
                folder = scratch / f"data-{kind}-{number}-{processes}-{threads}"
                rates[way].append(_rate(folder, files, processes, threads))
        medians = {way: round(statistics.median(of), 2) for way, of in rates.items()}
        one, _, two = medians.values()
        figures[kind] = {"pages_per_second": medians, "2 workers to 1": round(two / one, 2)}
    return figures


def _rate(folder: Path, files: Path, processes: int, threads: int) -> float:
    flags = {"data_dir": folder, "threads": threads, "ingest": {"workers": processes}}
    with Services(load_settings(flags), command="folder") as services:
        for path in sorted(files.iterdir()):
            with path.open("rb") as file:
                services.add(file, name=path.name)
        began = time.perf_counter()
        services.start_worker()
        _wait(lambda: not services.jobs.live())
        return services.status().pages / (time.perf_counter() - began)


def drop(scratch: Path) -> dict[str, Any]:
    """A thousand one-page PDFs, moved into a watched folder at once."""
    inbox, elsewhere = scratch / "inbox", scratch / "elsewhere"
    inbox.mkdir()
    elsewhere.mkdir()
    for number in range(1000):
        _draw(elsewhere / f"{number}.pdf", [f"Delivery note {number} of 1000. {_TEXT}"])
    with _watching(scratch / "drop", inbox) as services:
        before = _resident_mb(os.getpid())
        peak = before
        began = time.perf_counter()
        for path in elsewhere.iterdir():
            path.rename(inbox / path.name)

        def done() -> bool:
            nonlocal peak
            peak = max(peak, _resident_mb(os.getpid()))
            return services.catalog.counts()[0].get("indexed", 0) == 1000

        _wait(done)
        return {
            "indexed": services.catalog.counts()[0],
            "seconds": round(time.perf_counter() - began, 1),
            "owner_mb_before": before,
            "owner_mb_peak": peak,
        }


def rename(scratch: Path) -> dict[str, Any]:
    """A document of 500 pages gets another name; from the rename until the catalog has it."""
    inbox = scratch / "shelf"
    inbox.mkdir()
    long = _draw(inbox / "before.pdf", [f"Page {n} of 500. {_TEXT}" for n in range(500)])
    with _watching(scratch / "rename", inbox) as services:
        _wait(lambda: services.catalog.counts()[0].get("indexed", 0) == 1)
        began_jobs = [job.started_at for job in services.job_list()]
        began = time.perf_counter()
        long.rename(inbox / "after.pdf")
        _wait(lambda: services.documents()[0].names == ("after.pdf",), pause=0.005)
        seconds = time.perf_counter() - began
        _wait(lambda: not services.jobs.live())
        again = [job.started_at for job in services.job_list()] != began_jobs
        return {"seconds": round(seconds, 2), "encoded_again": again}


def long(scratch: Path) -> dict[str, Any]:
    """Resident memory while 3,000 pages are indexed: of the owner and of its worker's processes,
    when half a percent is done and at most."""
    path = _draw(scratch / "long.pdf", [f"Page {n}. " + "lorem ipsum " * 40 for n in range(3000)])
    flags = {"data_dir": scratch / "long", "ingest": {"workers": 1}}
    with Services(load_settings(flags), command="folder") as services:
        with path.open("rb") as file:
            services.add(file, name=path.name)
        services.start_worker()
        _wait(lambda: services.status().pages >= 16)
        first = _resident_mb(os.getpid()), _children_mb(os.getpid())
        peak = first

        def done() -> bool:
            nonlocal peak
            peak = (
                max(peak[0], _resident_mb(os.getpid())),
                max(peak[1], _children_mb(os.getpid())),
            )
            return not services.jobs.live()

        _wait(done, pause=0.5)
        return {
            "pages": services.status().pages,
            "owner_mb": {"first": first[0], "peak": peak[0]},
            "worker_mb": {"first": first[1], "peak": peak[1]},
        }


@contextmanager
def _watching(data: Path, inbox: Path) -> Generator[Services]:
    with Services(load_settings({"data_dir": data}), command="folder") as services:
        services.start_worker()
        services.watch([inbox])
        yield services


def _draw(path: Path, pages: list[str]) -> Path:
    document = pymupdf.open()
    for text in pages:
        document.new_page().insert_textbox(pymupdf.Rect(72, 72, 523, 770), text)
    document.save(path)
    document.close()
    return path


def _wait(done: Callable[[], bool], *, pause: float = 0.05, seconds: float = 900) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"folder: not done after {seconds:g} seconds")
        threading.Event().wait(pause)


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGESIZE") / 1e6, 1)


def _children_mb(pid: int) -> float:
    """Resident memory of the processes below this one."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            for child in map(int, (task / "children").read_text().split()):
                total += _resident_mb(child) + _children_mb(child)
        except OSError:  # gone meanwhile
            continue
    return round(total, 1)


FIGURES = {"workers": workers, "drop": drop, "rename": rename, "long": long}


def main(
    only: Annotated[list[str] | None, typer.Option(help="One of the figures; may repeat.")] = None,
) -> None:
    """Print the figures as JSON."""
    found: dict[str, Any] = {}
    for name, figure in FIGURES.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory(prefix="pageglass-folder-") as scratch:
            found[name] = figure(Path(scratch))
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
