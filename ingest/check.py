"""Does what the catalog says match what is there? Catalog, files and collections, compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingest.catalog import Catalog
from ingest.pipeline import OCR_STAGE, READ_STAGE
from pageglass.images import ImageStore
from pageglass.types import Document, PageRef
from retrieval.index import Index

_DELETED_AT_ONCE = 1000
_AGAIN = "the pages are queued: `pageglass ingest`, or the server, does them again"
_FILE_FIRST = "its file is gone, too: ingest the file again, then repair once more"
_NO_FILE = "its indexed pages can be used; to have the file back, ingest the file again"
_DAMAGED = "the catalog itself is damaged: go back to a backup"
_UNKNOWN = "the catalog knows no document: if it was lost, put its backup back before you repair"


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

    Nobody may write meanwhile, and a repair is done once the last finding was taken. Memory grows
    with the names of the page images, about 150 bytes a page. Hidden files are uploads and
    conversions on their way; vectors in collections that are not in use are not looked at.
    """
    wrong = catalog.integrity()
    if wrong and repair:
        catalog.repair_jobs()
    left = catalog.integrity() if wrong and repair else wrong
    for line in wrong:
        yield Finding(line, line not in left, _DAMAGED if repair and line in left else "")
    comparison = _Comparison(catalog, repair=repair, deep=deep)
    yield from comparison.files(originals, converted)
    yield from comparison.images(images)
    for name, index in indexes.items():
        yield from comparison.points(name, index)
    comparison.queue()


class _Comparison:
    """The catalog's documents against what is kept for them."""

    def __init__(self, catalog: Catalog, *, repair: bool, deep: bool) -> None:
        self._catalog = catalog
        self._repair = repair
        self._deep = deep
        self._documents = catalog.documents()
        # A catalog that was lost and made anew must not take everything else with it.
        self._forgetful = not self._documents and not catalog.removing()
        self._fileless: set[str] = set()
        """Documents whose pages cannot be done again."""
        self._undone: dict[str, dict[int, set[str]]] = {}
        """Stages to be done again, by document and page index."""

    def files(self, originals: Path, converted: Path) -> Iterator[Finding]:
        """Every document has its file, and every file its document."""
        names: set[str] = set()
        for document in self._documents:
            name = f"{document.sha256}{self._catalog.suffix(document.id)}"
            names.add(name)
            if not self._is_whole(originals / name, document.sha256):
                self._fileless.add(document.id)
                what = f"the file of {document.name} is missing or damaged"
                yield Finding(what, advice=_NO_FILE)
        ids = {document.id for document in self._documents}
        for path in _visible(originals):
            if path.name not in names:
                yield self._stray(f"the file originals/{path.name} belongs to no document", path)
        for path in _visible(converted):
            if path.stem not in ids:
                yield self._stray(f"the file converted/{path.name} belongs to no document", path)

    def images(self, images: ImageStore) -> Iterator[Finding]:
        """Every page has its image, and every image a page."""
        known: set[str] = set()
        for document in self._documents:
            for number, key in self._catalog.images(document.id):
                known.add(key)
                path = images.path(key)
                if self._is_whole(path, path.stem):
                    continue
                if self._again(document, [number], READ_STAGE, OCR_STAGE):
                    images.delete(key)
                yield self._lost(
                    f"the image of page {number + 1} of {document.name} is missing or damaged",
                    document,
                )
        for key in images.keys():  # noqa: SIM118 - a store, no dict
            if key not in known:
                yield self._stray(f"the image {key} belongs to no page", images.path(key))
        for path in images.unfinished():
            yield self._stray(f"the image {path.name} was never finished", path)

    def points(self, name: str, index: Index) -> Iterator[Finding]:
        """Every page that is done has its one point in a collection, and every point its page."""
        there: dict[str, set[int]] = {}
        twice: set[str] = set()
        orphans: list[PageRef] = []
        tenants = {document.id: document.collection for document in self._documents}
        for tenant, ref in index.refs():
            if tenants.get(ref.document_id) != tenant:
                orphans.append(ref)
                continue
            indices = there.setdefault(ref.document_id, set())
            if ref.index in indices:
                twice.add(ref.document_id)
            indices.add(ref.index)
        for document in self._documents:
            wanted = {
                stage.page_index
                for stage in self._catalog.stages(document.id)
                if stage.stage == name and stage.state == "done"
            }
            found = there.get(document.id, set())
            orphans += [PageRef(document.id, index) for index in found - wanted]
            if document.id in twice:
                # Points of one page differ in their ids only, so that all must go.
                if self._again(document, wanted, name):
                    index.delete_document(document.id)
                yield self._lost(f"{document.name} has pages twice in {name}", document)
            elif lost := wanted - found:
                self._again(document, lost, name)
                yield self._lost(
                    f"{len(lost)} of {len(wanted)} pages of {document.name} are missing from"
                    f" {name}",
                    document,
                )
        if not orphans:
            return
        repair = self._repair and not self._forgetful
        for at in range(0, len(orphans) if repair else 0, _DELETED_AT_ONCE):
            index.delete(orphans[at : at + _DELETED_AT_ONCE])
        yield Finding(
            f"points of {name} that belong to no page: {len(orphans)}",
            repair,
            _UNKNOWN if self._forgetful else "",
        )

    def queue(self) -> None:
        """Have what is missing done again."""
        for id, stages in self._undone.items():
            self._catalog.undo_stages(id, stages)

    def _again(self, document: Document, indices: Iterable[int], *stages: str) -> bool:
        """Have these stages done again where that is wanted and can be; whether they will be."""
        if not self._repair or document.id in self._fileless:
            return False
        undone = self._undone.setdefault(document.id, {})
        for index in indices:
            undone.setdefault(index, set()).update(stages)
        return True

    def _lost(self, what: str, document: Document) -> Finding:
        if document.id in self._fileless:
            return Finding(what, advice=_FILE_FIRST)
        return Finding(what, self._repair, _AGAIN if self._repair else "")

    def _stray(self, what: str, path: Path) -> Finding:
        if self._forgetful:
            return Finding(what, advice=_UNKNOWN)
        if self._repair:
            path.unlink(missing_ok=True)
        return Finding(what, self._repair)

    def _is_whole(self, path: Path, sha256: str) -> bool:
        """Whether the file is there; looked at deeply, with its content."""
        try:
            if not self._deep:
                # A power loss leaves empty files behind.
                return path.stat().st_size > 0
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False


def _visible(folder: Path) -> list[Path]:
    """The files in a folder, if there is one, that are not on their way."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
