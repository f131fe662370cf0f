"""A data folder filled without a model: real catalog, files and vectors, letters for pages."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from ingest.catalog import Catalog, StageResult
from ingest.check import Finding, check
from ingest.database import Database
from ingest.jobs import Jobs
from ingest.pipeline import OCR_STAGE, READ_STAGE
from pageglass.images import ImageStore
from pageglass.settings import IngestSettings
from pageglass.types import Document, Page
from retrieval.index import CollectionSpec, Index, PagePoint, VectorSpec
from retrieval.index.edge import EdgeIndex
from tests.tiny import page

SPEC = CollectionSpec("text--letters", {"letters": VectorSpec("dense", 4)}, {"name": "letters"})


class DataFolder:
    """Written to in the order that ingest.writer keeps to: files, images, points, catalog."""

    def __init__(self, path: Path, index: Index | None = None) -> None:
        self.path = path
        self.originals, self.converted = path / "originals", path / "converted"
        for folder in (self.originals, self.converted):
            folder.mkdir(parents=True, exist_ok=True)
        self.database = Database(path / "catalog.sqlite")
        self.catalog = Catalog(self.database)
        self.jobs = Jobs(self.database, IngestSettings())
        self.images = ImageStore(path / "images")
        self.index = index or EdgeIndex(path / "index", SPEC)
        self.writing = threading.RLock()

    def close(self) -> None:
        self.index.close()
        self.database.close()

    def add(self, name: str, texts: list[str], collection: str = "default") -> Document:
        """Accept a document and index it."""
        data = f"{name}: {texts}".encode()
        sha256 = hashlib.sha256(data).hexdigest()
        with self.writing:
            (self.originals / f"{sha256}.pdf").write_bytes(data)
            with self.database.transaction():
                document = self.catalog.enqueue(
                    collection=collection, sha256=sha256, source=f"/in/{name}", name=name
                ).document
                self.jobs.add(document.id, 0)
            self.jobs.claim("test")
            self.catalog.begin(document.id, len(texts))
        for index, text in enumerate(texts):
            with self.writing:
                self._store(replace(page(text, document=document.id, index=index)), collection)
        with self.writing, self.database.transaction():
            self.catalog.settle(document.id, "indexed", None)
            self.jobs.finish(document.id)
        return self.catalog.document(document.id)

    def _store(self, page: Page, collection: str) -> None:
        page = replace(page, image=self.images.put(b"a picture of " + page.text.encode(), ".jpg"))
        letters = np.array([page.text.count(letter) for letter in "abcd"], np.float32)
        self.index.upsert([PagePoint(page.ref, collection, {"letters": letters})])
        stages = (READ_STAGE, OCR_STAGE, SPEC.name)
        done = [StageResult(page.ref.index, stage, "done") for stage in stages]
        self.catalog.record(page.ref.document_id, [page], done)

    def remove(self, document: Document) -> None:
        """Remove every trace of a document."""
        with self.writing:
            self.catalog.mark_removed(document.id)
            self.index.delete_document(document.id)
            for key in self.catalog.unshared_images(document.id):
                self.images.delete(key)
            (self.originals / f"{document.sha256}.pdf").unlink()
            self.catalog.delete(document.id)

    def check(self, *, repair: bool = False, deep: bool = False) -> list[Finding]:
        with self.writing:
            return list(
                check(
                    self.catalog,
                    originals=self.originals,
                    converted=self.converted,
                    images=self.images,
                    indexes={SPEC.name: self.index},
                    repair=repair,
                    deep=deep,
                )
            )
