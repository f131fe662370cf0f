"""Moving an index to another store, vectors and all: nothing is embedded again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pageglass.errors import IndexMismatch, StoreError
from retrieval.index import Index, Scope

_BATCH = 16
"""Pages read at a time: ColPali's are 8 MB as arrays and 70 MB as the lists that stores take."""


def copy(source: Index, target: Index, *, progress: Callable[[int, int], None]) -> int:
    """Write every point of ``source`` to ``target``, to the bit; how many there were.

    ``progress`` is called after every batch with the points written and those there are. Points
    that are there already are replaced, so what was cut short is simply done again; points of
    other documents are left alone. IndexMismatch where the two hold other models' vectors,
    StoreError where pages are missing, or too many, in the end.
    """
    if source.spec.manifest() != target.spec.manifest():
        raise IndexMismatch(
            f"{source.spec.name} cannot be copied to {target.spec.name}: other models or settings"
            " made it; use the same profile and models on both sides"
        )
    total, written = source.count(), 0
    pages: Counter[str] = Counter()
    for batch in source.points(_BATCH):
        target.upsert(batch)
        pages.update(point.ref.document_id for point in batch)
        written += len(batch)
        progress(written, total)
    for document, expected in pages.items():
        found = target.count(Scope(documents=(document,)))
        if found != expected:
            raise StoreError(
                f"of document {document} {found} pages arrived and {expected} were sent: copy"
                " again while nothing is being ingested, after removing it from the target where"
                " there are too many"
            )
    return written
