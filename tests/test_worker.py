"""Worker, pipeline and writer together: what is shared, retried, given up, yielded."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from api.services import Services
from ingest.ocr import Ocr
from ingest.pipeline import Pipeline
from ingest.worker import Worker
from pageglass.errors import DiskFull, ModelError, StoreUnreachable
from pageglass.settings import IndexSettings, Settings, load_settings
from pageglass.types import Document
from retrieval.encoders import PageInput, Vectors
from retrieval.index import CollectionSpec, Index, PagePoint, VectorSpec, open_index
from retrieval.profiles import Profile, Space
from tests.tiny import pdf

Fault = Callable[[Sequence[PageInput]], None]


class Letters:
    """An encoder that means something: how often each of four letters stands on the page."""

    def __init__(self, name: str, fault: Fault = lambda pages: None) -> None:
        self.vectors = {"letters": VectorSpec("dense", 4)}
        self.model: dict[str, Any] = {"name": name}
        self.fault = fault
        self.batches: list[list[int]] = []

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        self.batches.append([page.page.ref.index for page in pages])
        self.fault(pages)
        return [
            {"letters": np.array([p.page.text.count(x) + 1 for x in "abcd"], np.float32)}
            for p in pages
        ]

    def encode_question(self, text: str) -> Vectors:
        return {"letters": np.array([text.count(x) for x in "abcd"], np.float32)}


class Bench:
    """A data folder with two spaces of such encoders, worked on by hand."""

    def __init__(self, services: Services, good: Letters, bad: Letters) -> None:
        self.services, self.good, self.bad = services, good, bad
        settings = services.settings
        spaces = [
            Space(CollectionSpec(f"text--{e.model['name']}", e.vectors, e.model), (e,), ())
            for e in (good, bad)
        ]
        self.indexes = {
            space.spec.name: open_index(settings.index, settings.data_dir / "own", space.spec)
            for space in spaces
        }
        services.writer._indexes = self.indexes
        self.pipeline = Pipeline(Profile("test", spaces), Ocr(), settings.ingest)

    def add(self, path: Path) -> Document:
        return self.services.add(io.BytesIO(path.read_bytes()), name=path.name)

    def drain(self, *, stopping: Callable[[], bool] = lambda: False, batch: int = 16) -> None:
        Worker(
            self.services.writer,
            self.pipeline,
            name="bench",
            batch_pages=batch,
            stopping=stopping,
        ).drain()

    def until_settled(self) -> None:
        deadline = time.monotonic() + 20
        while self.services.jobs.live():
            assert time.monotonic() < deadline
            self.drain()
            time.sleep(0.005)


@pytest.fixture
def quick(tmp_path: Path) -> Settings:
    """Settings whose waits are short."""
    ingest = {"backoff_seconds": 0.01, "attempts": 3, "dpi": 50, "ocr": False}
    return load_settings({"data_dir": tmp_path / "data", "ingest": ingest})


@pytest.fixture
def bench(quick: Settings) -> Iterator[Bench]:
    with Services(quick, command="test") as services:
        bench = Bench(services, Letters("good"), Letters("bad"))
        yield bench
        bench.pipeline.close()
        for index in bench.indexes.values():
            index.close()


def counts(bench: Bench) -> tuple[int, ...]:
    return tuple(index.count() for index in bench.indexes.values())


def test_small_documents_share_a_batch(bench: Bench, tmp_path: Path) -> None:
    for number in range(5):
        bench.add(pdf(tmp_path / f"{number}.pdf", [f"abc {number}"]))
    bench.drain()
    # One job is left to every other worker, here none but ourselves.
    assert sorted(map(len, bench.good.batches)) == [1, 4]
    assert counts(bench) == (5, 5)
    assert {document.state for document in bench.services.documents()} == {"indexed"}


def test_a_document_is_searchable_from_its_first_batch_on(bench: Bench, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    bench.services.writer.progress = lambda d: seen.append((d.pages_indexed, counts(bench)[0]))
    bench.add(pdf(tmp_path / "long.pdf", [f"abc {n}" for n in range(20)]))
    bench.drain(batch=8)
    assert [pages for pages, _ in seen] == [0, 8, 16, 20, 20]
    assert all(pages == points for pages, points in seen)


def test_a_stage_that_fails_for_one_page_leaves_all_else(bench: Bench, tmp_path: Path) -> None:
    def fault(pages: Sequence[PageInput]) -> None:
        if any("poison" in page.page.text for page in pages):
            raise ValueError("cannot swallow that")

    bench.bad.fault = fault
    document = bench.add(pdf(tmp_path / "log.pdf", ["abc", "poison", "bcd"]))
    bench.until_settled()
    assert counts(bench) == (3, 2)
    asked = [index for batch in bench.good.batches for index in batch]
    assert sorted(asked) == [0, 1, 2], "the encoder that did its part is not asked again"
    settled = bench.services.document(document.id)
    assert settled.state == "indexed"
    assert "page 2: text--bad failed: cannot swallow that" in (settled.reason or "")
    job = bench.services.job(document.id)
    assert (job.state, job.attempts) == ("dead", 3)
    # Once the cause is mended, a retry does what is missing and nothing else.
    bench.bad.fault = bench.good.fault
    bench.bad.batches.clear()
    bench.services.retry(document.id)
    bench.until_settled()
    assert bench.bad.batches == [[1]]
    assert counts(bench) == (3, 3)
    assert bench.services.document(document.id).reason is None
    assert bench.services.job(document.id).state == "done"


def test_a_stage_that_fails_at_first_is_made_up_for(bench: Bench, tmp_path: Path) -> None:
    failed: list[int] = []

    def fault(pages: Sequence[PageInput]) -> None:
        if not failed:
            failed.append(1)
            raise ModelError("the weights are still on their way")

    bench.bad.fault = fault
    document = bench.add(pdf(tmp_path / "log.pdf", ["abc", "bcd"]))
    bench.until_settled()
    assert counts(bench) == (2, 2)
    assert bench.services.document(document.id).reason is None


def test_a_document_no_model_can_take_fails_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    def fault(pages: Sequence[PageInput]) -> None:
        raise ModelError("no weights here: run `pageglass models pull`")

    bench.good.fault = bench.bad.fault = fault
    document = bench.add(pdf(tmp_path / "log.pdf", ["abc"]))
    bench.until_settled()
    settled = bench.services.document(document.id)
    assert settled.state == "failed"
    assert "models pull" in (settled.reason or "")
    assert "a retry" in (settled.reason or "")


def test_a_damaged_document_does_not_touch_those_beside_it(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 oh no")
    for path in (pdf(tmp_path / "a.pdf", ["abc"]), broken, pdf(tmp_path / "b.pdf", ["bcd"])):
        bench.add(path)
    bench.drain()
    states = {document.name: document.state for document in bench.services.documents()}
    assert states == {"a.pdf": "indexed", "broken.pdf": "failed", "b.pdf": "indexed"}
    assert bench.services.job_counts() == {"done": 2, "dead": 1}


def test_a_person_s_upload_goes_between_two_batches_of_a_backlog(
    bench: Bench, tmp_path: Path
) -> None:
    order: list[str] = []
    bench.services.writer.progress = lambda d: order.append(f"{d.name} {d.pages_indexed}")
    long, urgent = pdf(tmp_path / "long.pdf", ["abc"] * 12), pdf(tmp_path / "urgent.pdf", ["d"])
    with long.open("rb") as file:
        bench.services.writer._accept(
            file, "default", "/f/long.pdf", "long.pdf", 0, None, None, lambda: True
        )

    def fault(pages: Sequence[PageInput]) -> None:
        if len(bench.good.batches) == 1:
            bench.add(urgent)

    bench.good.fault = fault
    bench.drain(batch=4)
    stored = [line for line in dict.fromkeys(order) if not line.endswith(" 0")]
    assert stored == ["long.pdf 4", "urgent.pdf 1", "long.pdf 8", "long.pdf 12"]
    asked = [index for batch in bench.good.batches for index in batch]
    assert sorted(asked) == sorted([*range(12), 0]), "no page is encoded twice"


def test_stopping_after_a_page_loses_no_stored_page(bench: Bench, tmp_path: Path) -> None:
    document = bench.add(pdf(tmp_path / "long.pdf", ["abc"] * 12))
    bench.drain(batch=4, stopping=lambda: counts(bench)[0] >= 4)
    assert counts(bench) == (4, 4)
    assert bench.services.job(document.id).state == "queued"
    assert bench.services.job(document.id).attempts == 0
    bench.drain(batch=4)
    assert counts(bench) == (12, 12)


def test_what_is_cancelled_while_it_is_read_is_dropped(bench: Bench, tmp_path: Path) -> None:
    document = bench.add(pdf(tmp_path / "long.pdf", ["abc"] * 12))

    def fault(pages: Sequence[PageInput]) -> None:
        if len(bench.bad.batches) == 2:
            bench.services.cancel(document.id)

    bench.bad.fault = fault
    bench.drain(batch=4)
    assert counts(bench) == (4, 4)
    assert bench.services.job(document.id).state == "cancelled"


class Refusing:
    """An index that refuses writes while it is told to."""

    def __init__(self, index: Index) -> None:
        self.index, self.refuses, self.spec = index, False, index.spec

    def upsert(self, points: Sequence[PagePoint]) -> None:
        if self.refuses:
            raise StoreUnreachable("the store is having its lunch")
        self.index.upsert(points)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.index, name)


def test_a_store_that_refuses_costs_no_attempt_and_leaves_no_trace(
    quick: Settings, tmp_path: Path
) -> None:
    refusing: list[Refusing] = []

    def open_refusing(settings: IndexSettings, root: Path, spec: CollectionSpec) -> Index:
        refusing.append(Refusing(open_index(settings, root, spec)))
        return cast(Index, refusing[-1])

    with Services(quick, command="test", open_index=open_refusing) as services:
        refusing[0].refuses = True
        document = services.add(
            io.BytesIO(pdf(tmp_path / "a.pdf", ["abc"]).read_bytes()), name="a.pdf"
        )
        worker = Worker(services.writer, services._local(), name="w", batch_pages=4)
        for _ in range(6):
            worker.drain()
            time.sleep(0.05)
        assert services.job(document.id).attempts == 0
        assert services.status().outage == "the store is having its lunch"
        # The image was written before the points, and belongs to no page.
        services.remove(document.id)
        assert services.check() == []
        assert not any((quick.data_dir / "images").glob("??/*"))
        refusing[0].refuses = False
        again = services.add(
            io.BytesIO(pdf(tmp_path / "a.pdf", ["abc"]).read_bytes()), name="a.pdf"
        )
        worker.drain()
        assert services.document(again.id).state == "indexed"
        assert services.status().outage is None


def test_below_the_reserve_nothing_is_taken(tmp_path: Path) -> None:
    flags = {"data_dir": tmp_path / "data", "ingest": {"reserve_mb": 10**9}}
    with Services(load_settings(flags), command="test") as services:
        with pytest.raises(DiskFull, match=r"ingest\.reserve_mb"):
            services.add(io.BytesIO(b"%PDF"), name="a.pdf")
        assert not any((tmp_path / "data" / "originals").iterdir())


def test_the_same_bytes_in_another_collection_are_not_encoded_again(
    bench: Bench, tmp_path: Path
) -> None:
    path = pdf(tmp_path / "a.pdf", ["abc", "bcd"])
    bench.add(path)
    bench.drain()
    asked = len(bench.good.batches)
    other = bench.services.add(io.BytesIO(path.read_bytes()), name="a.pdf", collection="other")
    bench.drain()
    assert len(bench.good.batches) == asked
    assert bench.services.document(other.id).state == "indexed"
    first, second = (
        list(bench.services.catalog.iter_pages(d.id)) for d in bench.services.documents()
    )
    for one, two in zip(first, second, strict=True):
        assert replace(two, ref=one.ref) == one
        for index in bench.indexes.values():
            assert np.array_equal(
                cast(Any, index.vectors(one.ref))["letters"],
                cast(Any, index.vectors(two.ref))["letters"],
            )


def test_a_worker_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    ingest = {"workers": 2, "backoff_seconds": 0.1, "dpi": 50, "ocr": False}
    settings = load_settings({"data_dir": tmp_path / "data", "ingest": ingest})
    with Services(settings, command="test") as services:
        for number in range(6):
            path = pdf(tmp_path / f"{number}.pdf", [f"page {n} of {number}" for n in range(6)])
            services.add(io.BytesIO(path.read_bytes()), name=path.name)
        services.start_worker()
        deadline = time.monotonic() + 60
        while not (children := _children()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(children[0], signal.SIGKILL)
        while services.jobs.live():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert services.job_counts() == {"done": 6}
        assert services.check() == []
    assert not _children()


def test_a_catalog_that_cannot_be_written_for_a_while_costs_no_attempt(tmp_path: Path) -> None:
    ingest = {"workers": 1, "attempts": 1, "backoff_seconds": 0.05, "batch_pages": 4, "dpi": 50}
    settings = load_settings({"data_dir": tmp_path / "data", "ingest": ingest})
    with Services(settings, command="test") as services:
        services.database.connection.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(
            settings.data_dir / "catalog.sqlite", isolation_level=None, check_same_thread=False
        )

        def lock(document: Document) -> None:
            if document.pages_indexed and not locked.is_set():
                other.execute("BEGIN IMMEDIATE")
                locked.set()

        locked = threading.Event()
        sentence = "The heron waits for a fish in the shallow water beside the old mill."
        document = services.add(
            io.BytesIO(pdf(tmp_path / "a.pdf", [sentence] * 12).read_bytes()), name="a.pdf"
        )
        services.start_worker(progress=lock)
        assert locked.wait(60)
        deadline = time.monotonic() + 60
        while services.status().outage is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "locked" in (services.status().outage or "")
        other.execute("ROLLBACK")
        other.close()
        while services.jobs.live():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert services.document(document.id).pages_indexed == 12
        assert services.job(document.id).state == "done"
        assert services.check() == []


def _children() -> list[int]:
    """Our worker processes."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if b"ingest.workers" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found
