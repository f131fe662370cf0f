"""How fast is it, and how much memory does it take? Prints JSON.

    make bench

Pages are the sample collection's; the searches at 1,000 and 5,000 pages run over its pages
indexed again and again as made-up documents, vectors and all. Every figure is of this machine;
compare ratios, not seconds.
"""

from __future__ import annotations

import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from api.services import Services
from ingest.pdf import PdfReader, RawPage
from pageglass.durable import sync_folder
from pageglass.settings import Settings, load_settings
from pageglass.types import Page, PageRef
from retrieval.encoders import PageInput
from retrieval.encoders.bm25 import Bm25Encoder
from retrieval.encoders.minilm import MiniLM
from retrieval.encoders.minilm_encoder import MiniLMEncoder
from retrieval.index import PagePoint

SAMPLES = Path(__file__).parents[1] / "samples"
SCANNED = "corvina_duo_2_manual_scan.pdf"
_QUERIES = 40
_ACCEPTED = 100


def main(
    sizes: Annotated[
        list[int] | None, typer.Option("--pages", help="Pages in the index when it is searched.")
    ] = None,
    accepting: Annotated[
        bool, typer.Option("--accepting", help="Only what it costs to accept a file for good.")
    ] = False,
    at: Annotated[
        Path | None, typer.Option(help="Where to measure: a folder on the disk in question.")
    ] = None,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=at) as folder:
        data = Path(folder)
        if accepting:
            print(json.dumps({"accept_file_ms": _accepting(data / "accept")}, indent=1))
            return
        result = {
            "cores": os.cpu_count(),
            "accept_file_ms": _accepting(data / "accept"),
            "ingest_pages_per_second": _ingest(data / "ingest"),
            "query_ms": _queries(data / "query", sizes or [1000, 5000]),
            "cold_start_of_ask_seconds": _cold_start(data / "ingest"),
            "serve_resident_mb": _serve(data / "query"),
        }
    print(json.dumps(result, indent=1))


def _accepting(folder: Path) -> dict[str, Any]:
    """Milliseconds to accept a file of 100 KB, and what they were when only its bytes were synced:
    without the sync of the rows, less that of the folder. Medians of files taken in turns."""
    times: dict[str, list[float]] = {"synced": [], "rows_not_synced": [], "folder": []}

    def timed(what: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        times[what].append(1000 * (time.perf_counter() - began))

    settings = load_settings({"data_dir": folder})
    with Services(settings, command="bench") as services:
        database = services.database

        def accept() -> None:
            services.add(io.BytesIO(b"%PDF-1.7 " + os.urandom(100_000)), name="a.pdf")

        def accept_unsynced() -> None:
            with database.transaction(redone=True):
                accept()

        for _ in range(_ACCEPTED):
            timed("synced", accept)
            timed("rows_not_synced", accept_unsynced)
            timed("folder", lambda: sync_folder(folder / "originals"))
    medians = {what: statistics.median(of) for what, of in times.items()}
    before = medians["rows_not_synced"] - medians["folder"]
    return {
        "now": round(medians["synced"], 2),
        "before": round(before, 2),
        "ratio": round(medians["synced"] / before, 2),
    }


def _ingest(folder: Path) -> dict[str, Any]:
    """Pages/s of each stage on one core, of the whole on all of them, and memory at its peak."""
    settings = load_settings({"data_dir": folder, "threads": 1})
    docs = sorted((SAMPLES / "docs").glob("*.pdf"))
    text = [path for path in docs if path.name != SCANNED]
    with _one_core(), PdfReader(settings.ingest) as reader:
        began = time.perf_counter()
        raw = {path.name: [*_pages(reader, path)] for path in text}
        read = sum(map(len, raw.values())) / (time.perf_counter() - began)
        pages = [PageInput(_page(page, name), name) for name, all_ in raw.items() for page in all_]
        minilm, bm25 = MiniLMEncoder(MiniLM(threads=1)), Bm25Encoder()
        minilm.encode_question("warm up")
        rates = {
            "render_and_text": read,
            "minilm": _rate(len(pages), lambda: minilm.encode_pages(pages)),
            "bm25": _rate(len(pages), lambda: bm25.encode_pages(pages)),
            "ocr": _ocr_rate(reader, docs),
        }
    # Stages run one after the other for each page on a single core.
    rates["text_pdf_one_core"] = 1 / sum(
        1 / rates[s] for s in ("render_and_text", "minilm", "bm25")
    )
    return {
        "one_core": {name: round(rate, 2) for name, rate in rates.items()},
        **_whole(folder),
    }


def _ocr_rate(reader: PdfReader, docs: list[Path]) -> float:
    from ingest.ocr import Ocr

    scans = [*_pages(reader, next(path for path in docs if path.name == SCANNED))][:4]
    ocr = Ocr(threads=1)
    ocr.read(scans[0].image)
    return _rate(len(scans), lambda: [ocr.read(scan.image) for scan in scans])


def _whole(folder: Path) -> dict[str, Any]:
    """`pageglass ingest` of the text documents and of the scan, each as a process of its own."""
    figures: dict[str, Any] = {}
    for kind in ("text", "scan"):
        files = [
            str(path)
            for path in sorted((SAMPLES / "docs").glob("*.pdf"))
            if (path.name == SCANNED) == (kind == "scan")
        ]
        began = time.perf_counter()
        peak = _run_measured(["--data-dir", str(folder), "ingest", *files])
        seconds = time.perf_counter() - began
        with Services(load_settings({"data_dir": folder}), command="bench") as services:
            pages = sum(
                d.pages for d in services.documents() if (d.name == SCANNED) == (kind == "scan")
            )
            stored = sum(index.count() for index in services.searcher.indexes.values())
        figures[f"{kind}_pdfs_all_cores"] = round(pages / seconds, 2)
        figures[f"{kind}_peak_mb"] = peak
        figures["index_kb_per_page"] = round(_disk(folder / "index") / 1000 / stored, 1)
    return figures


def _queries(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """p50 and p95 of a search on all cores, by pages in the index, and disk use."""
    settings = load_settings({"data_dir": folder})
    questions = [
        json.loads(line)["question"]
        for line in (SAMPLES / "questions.jsonl").read_text("utf-8").splitlines()
    ]
    figures: dict[str, Any] = {}
    before = 0
    with Services(settings, command="bench") as services:
        list(services.ingest([SAMPLES / "docs"]))
    sampled = _sampled_points(settings)
    for size in sizes:
        with Services(settings, command="bench") as services:
            _grow(services, sampled, size)
        disk = _disk(folder / "index")
        with Services(settings, command="bench") as services:
            services.search(questions[0])
            times: list[float] = []
            for question in (questions * 2)[:_QUERIES]:
                began = time.perf_counter()
                services.search(question)
                times.append(1000 * (time.perf_counter() - began))
        cuts = statistics.quantiles(times, n=20)
        figures[str(size)] = {
            "p50": round(statistics.median(times), 1),
            "p95": round(cuts[-1], 1),
            "disk_kb_per_page": round(disk / 1000 / size, 1),
            "disk_kb_per_added_page": round(
                (disk - before) / 1000 / max(1, size - _last(figures)), 1
            ),
        }
        before = disk
    return figures


def _last(figures: dict[str, Any]) -> int:
    return max((int(size) for size in figures), default=0)


def _sampled_points(settings: Settings) -> list[tuple[Page, PagePoint]]:
    """Every sample page with its point, encoded once."""
    minilm, bm25 = MiniLMEncoder(MiniLM(threads=settings.threads)), Bm25Encoder()
    found: list[tuple[Page, PagePoint]] = []
    with Services(settings, command="bench") as services:
        for document in services.documents():
            pages = list(services.catalog.iter_pages(document.id))
            inputs = [PageInput(page, document.name) for page in pages]
            for page, dense, sparse in zip(
                pages, minilm.encode_pages(inputs), bm25.encode_pages(inputs), strict=True
            ):
                found.append((page, PagePoint(page.ref, "default", {**dense, **sparse})))
    return found


def _grow(services: Services, sampled: list[tuple[Page, PagePoint]], size: int) -> None:
    """Add copies of the sample pages as documents of their own until the index has ``size``."""
    (index,) = services.searcher.indexes.values()
    catalog = services.catalog
    while (have := index.count()) < size:
        sha256 = f"copy{have:08d}"
        copy = catalog.enqueue(
            collection="default", sha256=sha256, source=sha256, name=sha256
        ).document.id
        chosen = sampled[: size - have]
        catalog.begin(copy, len(chosen))
        pages = [replace(p, ref=PageRef(copy, i)) for i, (p, _) in enumerate(chosen)]
        catalog.record(copy, pages, [])
        for at in range(0, len(chosen), 16):
            index.upsert(
                [
                    replace(point, ref=PageRef(copy, at + i))
                    for i, (_, point) in enumerate(chosen[at : at + 16])
                ]
            )
        catalog.settle(copy, "indexed", None)


def _cold_start(folder: Path) -> float:
    """Median seconds of `pageglass ask`, from the shell back to the shell."""
    question = "How many thousand passengers did Skerrin Line carry in 2019?"
    times: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        _run_measured(["--data-dir", str(folder), "ask", question])
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 2)


def _serve(folder: Path) -> float:
    """Resident memory of `pageglass serve` after forty questions, in MB."""
    import httpx

    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "--data-dir", str(folder), "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = None
        for line in process.stdout:
            if found := re.search(r"http://[\w.:\[\]]+", line):
                address = found[0]
                break
        assert address, "the server did not say where it listens"
        for line in ((SAMPLES / "questions.jsonl").read_text("utf-8").splitlines() * 2)[:40]:
            question = {"question": json.loads(line)["question"]}
            httpx.post(f"{address}/ask", json=question, timeout=60).raise_for_status()
        return _resident_mb(process.pid)
    finally:
        process.terminate()
        process.wait()


def _run_measured(arguments: list[str]) -> float:
    """Run a command to its end; the largest resident memory of its processes together, in MB."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _resident_mb(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"bench: `pageglass {' '.join(arguments)}` failed")
    return peak


def _resident_mb(pid: int) -> float:
    """Resident memory of a process and its children, from /proc."""
    total = 0.0
    try:
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += _resident_mb(int(child)) * 1e6
    except (OSError, IndexError):
        pass
    return round(total / 1e6, 1)


def _disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _pages(reader: PdfReader, path: Path) -> Iterator[RawPage]:
    count = reader.open(path).pages
    for page in reader.pages(path, range(count)):
        if isinstance(page, RawPage):
            yield page


def _page(raw: RawPage, name: str) -> Page:
    return Page(
        ref=PageRef(name, raw.index),
        label=raw.label,
        width=raw.width,
        height=raw.height,
        words=raw.words,
        text_source="layer",
        image="",
        render_hash=raw.render_hash,
        perceptual_hash=raw.perceptual_hash,
    )


def _rate(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


@contextmanager
def _one_core() -> Generator[None]:
    """Keep this process, and those it starts, on a single core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    typer.run(main)
