"""Does what the catalog says match what is there? Catalog, files and collections, compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingest.catalog import Catalog
from ingest.pipeline import OCR_STAGE, READ_STAGE
from pageglass.images import ImageStore
from pageglass.types import Document, PageRef
from retrieval.index import Index

_DELETED_AT_ONCE = 1000
_AGAIN = "the pages are queued: `pageglass ingest`, or the server, does them again"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not match, in plain words; ``advice`` says what is left to do."""

    what: str
    repaired: bool = False
    advice: str = ""


def check(
    catalog: Catalog,
    *,
    originals: Path,
    converted: Path,
    images: ImageStore,
    indexes: Mapping[str, Index],
    repair: bool = False,
    deep: bool = False,
) -> Iterator[Finding]:
    """Compare, and with ``repair`` set right what can be; ``deep`` reads every file.

    Nobody may write meanwhile. It takes memory for one document and one set of page numbers at a
    time. Vectors in collections that are not in use are not looked at.
    """
    for line in catalog.integrity():
        yield Finding(line, repaired=repair)
    if repair:
        catalog.repair_jobs()
    documents = catalog.documents()
    yield from _check_files(catalog, documents, originals, converted, repair=repair, deep=deep)
    kept: set[str] = set()
    missing: dict[str, dict[int, set[str]]] = {}
    for document in documents:
        for page in catalog.iter_pages(document.id):
            kept.add(page.image)
            path = images.path(page.image)
            wrong = not path.is_file()
            if deep and not wrong:
                wrong = page.image != images.key(path.read_bytes(), path.suffix)
            if wrong:
                missing.setdefault(document.id, {})[page.ref.index] = {READ_STAGE, OCR_STAGE}
                yield Finding(
                    f"the image of page {page.ref.number} of {document.name} is missing or damaged",
                    repair,
                    _AGAIN,
                )
                if repair:
                    images.delete(page.image)
    for key in images.keys():  # noqa: SIM118 - a store, no dict
        if key not in kept:
            yield Finding(f"the image {key} belongs to no page", repair)
            if repair:
                images.delete(key)
    for path in images.unfinished():
        yield Finding(f"the image {path.name} was never finished", repair)
        if repair:
            path.unlink(missing_ok=True)
    for name, index in indexes.items():
        yield from _check_points(catalog, documents, name, index, missing, repair=repair)
    if repair:
        for id, stages in missing.items():
            catalog.undo_stages(id, stages)


def _check_files(
    catalog: Catalog,
    documents: list[Document],
    originals: Path,
    converted: Path,
    *,
    repair: bool,
    deep: bool,
) -> Iterator[Finding]:
    """Every document has its file, and every file its document."""
    names = {f"{d.sha256}{catalog.suffix(d.id)}": d for d in documents}
    there = {path.name for path in originals.iterdir()}
    for name, document in names.items():
        wrong = name not in there
        if deep and not wrong:
            with (originals / name).open("rb") as file:
                wrong = hashlib.file_digest(file, "sha256").hexdigest() != document.sha256
        if wrong:
            yield Finding(
                f"the file of {document.name} is missing or damaged",
                advice="its indexed pages can be used; to have it back, ingest the file again",
            )
    for name in there - names.keys():
        yield Finding(f"the file originals/{name} belongs to no document", repair)
        if repair:
            (originals / name).unlink(missing_ok=True)
    if not converted.is_dir():
        return
    hashes = {document.sha256 for document in documents}
    for path in converted.iterdir():
        if path.stem not in hashes:
            yield Finding(f"the file converted/{path.name} belongs to no document", repair)
            if repair:
                path.unlink(missing_ok=True)


def _check_points(
    catalog: Catalog,
    documents: list[Document],
    name: str,
    index: Index,
    missing: dict[str, dict[int, set[str]]],
    *,
    repair: bool,
) -> Iterator[Finding]:
    """Every page that is done has its point in a collection, and every point its page."""
    pages: dict[str, set[int]] = {}
    orphans: list[PageRef] = []
    tenants = {document.id: document.collection for document in documents}
    for tenant, ref in index.refs():
        if tenants.get(ref.document_id) == tenant:
            pages.setdefault(ref.document_id, set()).add(ref.index)
        else:
            orphans.append(ref)
    for document in documents:
        wanted = {
            stage.page_index
            for stage in catalog.stages(document.id)
            if stage.stage == name and stage.state == "done"
        }
        there = pages.get(document.id, set())
        orphans += [PageRef(document.id, index) for index in there - wanted]
        if lost := wanted - there:
            yield Finding(
                f"{len(lost)} pages of {document.name} are missing from {name}", repair, _AGAIN
            )
            for number in lost:
                missing.setdefault(document.id, {}).setdefault(number, set()).add(name)
    if orphans:
        yield Finding(f"{len(orphans)} points of {name} belong to no page", repair)
        if repair:
            for at in range(0, len(orphans), _DELETED_AT_ONCE):
                index.delete(orphans[at : at + _DELETED_AT_ONCE])
