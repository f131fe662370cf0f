"""The decline thresholds that were fitted to collections, in the catalog's database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from ingest.database import Database
from pageglass.errors import StoreError


@dataclass(frozen=True, slots=True)
class FittedThreshold:
    """Below which support answers of ``model`` in ``collection`` are declined, and on what that
    rests.

    Of ``answerable`` cases ``false_declines`` are declined, of ``unanswerable`` ones ``declined``.
    ``cases_sha256`` is the file they were in; ``fitted_at`` is UTC, ISO 8601.
    """

    collection: str
    model: str
    threshold: float
    answerable: int
    unanswerable: int
    false_declines: int
    declined: int
    cases_sha256: str
    fitted_at: str


_COLUMNS = ", ".join(field.name for field in fields(FittedThreshold))


class Thresholds:
    """What was fitted, one threshold a collection and answering model. Thread-safe.

    It stays when a collection's last document goes: documents are replaced, and the questions that
    are asked of a collection stay.
    """

    def __init__(self, database: Database) -> None:
        self._lock = database.lock
        self._db = database.connection
        self._transaction = database.transaction

    def put(self, fitted: FittedThreshold) -> None:
        """Keep it, in place of an earlier one for the same collection and model. StoreError where
        the catalog cannot hold it."""
        if not 0 <= fitted.threshold <= 1:
            raise StoreError(f"a threshold is from 0 to 1, not {fitted.threshold}")
        marks = ", ".join("?" for _ in fields(FittedThreshold))
        with self._transaction() as db:
            db.execute(
                f"INSERT OR REPLACE INTO thresholds ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 - our own columns
                astuple(fitted),
            )

    def list(self, collections: Sequence[str] | None = None) -> list[FittedThreshold]:
        """Those of these collections (None: all), by collection and model."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM thresholds ORDER BY collection, model"  # noqa: S608
            ).fetchall()
        found = [FittedThreshold(*row) for row in rows]
        return [f for f in found if collections is None or f.collection in collections]

    def of_document(self, document_id: str, model: str) -> float | None:
        """The threshold for ``model`` in the collection of a document; None where none was
        fitted."""
        with self._lock:
            row = self._db.execute(
                "SELECT threshold FROM thresholds JOIN documents USING (collection)"
                " WHERE documents.id = ? AND model = ?",
                (document_id, model),
            ).fetchone()
        return None if row is None else float(row[0])

    def forget(self, collection: str) -> int:
        """Forget what was fitted to a collection, whatever the model; how many there were."""
        with self._transaction() as db:
            return db.execute("DELETE FROM thresholds WHERE collection = ?", (collection,)).rowcount
