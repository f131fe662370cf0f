"""The queue: one job a document, claimed under a lease, tried again later, given up with a reason.

States: ``queued`` (perhaps waiting for its next attempt), ``running``, and the ends ``done``,
``dead`` (the dead letters) and ``cancelled``. A person's upload goes before a folder's backlog.

Among jobs of a priority, collections take fair turns by pages, and uploaders within a collection:
start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng, SIGCOMM 1996), hierarchical. A flow's start
tag is ``max(clock, tag)``; the least one is served and becomes the clock; serving ``n`` pages adds
``n / weight`` to the tag. A document costs one page to open, and its pages as they are stored, so
that the tags are right whatever is cut short. Within a flow the first come is first served.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ingest.database import Database
from ingest.failures import Failure
from pageglass.errors import JobConflict, JobNotFound
from pageglass.settings import IngestSettings
from pageglass.types import Job, JobState

PERSON = 10
"""The priority of what somebody waits for."""
FOLDER = 0
"""The priority of what a watched folder brings."""

_LONGEST_BACKOFF = 3600.0
_IN_STATES = "(:states = '[]' OR j.state IN (SELECT value FROM json_each(:states)))"
_WITHIN = (
    "(:collections IS NULL OR EXISTS (SELECT 1 FROM documents w WHERE w.id = j.document"
    " AND w.collection IN (SELECT value FROM json_each(:collections))))"
)
_DUE = "state = 'queued' AND (run_after <= :now OR run_after > :now + :far)"
_CANCELLED = "cancelled: a retry goes on with it"


class Jobs:
    """The jobs of a data folder. Thread-safe."""

    def __init__(
        self,
        database: Database,
        settings: IngestSettings,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """``clock`` gives Unix seconds; ``jitter`` 0..1, so that retries do not come together."""
        self._db = database
        self._settings = settings
        self._clock = clock
        self._jitter = jitter

    # Into the queue

    def add(self, document_id: str, priority: int, uploader: str | None = None) -> None:
        """Queue work on a document at once; a live job keeps its place or gains priority.

        ``uploader`` is the id of the key that added it; None leaves the one known before.
        """
        with self._db.transaction() as db:
            db.execute(
                "INSERT INTO jobs (document, collection, uploader, state, priority, queued_at)"
                " SELECT id, collection, COALESCE(?4, ''), 'queued', ?2, ?3 FROM documents"
                " WHERE id = ?1 ON CONFLICT (document) DO UPDATE SET"
                " uploader = CASE WHEN state IN ('queued', 'running')"
                "  THEN uploader ELSE COALESCE(?4, uploader) END,"
                " priority = CASE WHEN state IN ('queued', 'running')"
                "  THEN MAX(priority, ?2) ELSE ?2 END,"
                " queued_at = CASE WHEN state IN ('queued', 'running') THEN queued_at ELSE ?3 END,"
                " attempts = CASE WHEN state IN ('queued', 'running') THEN attempts ELSE 0 END,"
                " reason = CASE WHEN state IN ('queued', 'running') THEN reason END,"
                " run_after = 0,"
                " state = CASE state WHEN 'running' THEN 'running' ELSE 'queued' END,"
                " started_at = CASE state WHEN 'running' THEN started_at END, ended_at = NULL",
                (document_id, priority, self._clock(), uploader),
            )

    def add_lacking(self, stages: Sequence[str]) -> int:
        """Queue indexed documents with a page that lacks one of ``stages``; how many there were.

        So it is when a profile or a model was changed: what is indexed goes on being found by the
        stages it has. Those that were queued for another profile's sake, and lack nothing in this
        one, are let off.
        """
        lacking = (
            "EXISTS (SELECT 1 FROM pages p, json_each(?1) wanted WHERE p.document = d.id"
            " AND NOT EXISTS (SELECT 1 FROM stages s WHERE s.document = p.document"
            "  AND s.page_index = p.page_index AND s.stage = wanted.value))"
        )
        wanted = json.dumps(list(stages))
        with self._db.transaction() as db:
            db.execute(
                "UPDATE jobs SET state = 'done', ended_at = ?2"  # noqa: S608 - constants
                " WHERE state = 'queued' AND attempts = 0 AND priority = ?3"
                " AND EXISTS (SELECT 1 FROM documents d WHERE d.id = jobs.document"
                "  AND d.state = 'indexed' AND d.pages = (SELECT COUNT(*) FROM stages r"
                "   WHERE r.document = d.id AND r.stage = 'read')"
                f"  AND NOT {lacking}"
                "  AND NOT EXISTS"
                "   (SELECT 1 FROM stages f WHERE f.document = d.id AND f.transient))",
                (wanted, self._clock(), FOLDER),
            )
            rows = db.execute(
                "SELECT id FROM documents d WHERE state = 'indexed'"  # noqa: S608 - constants
                " AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.document = d.id"
                f"  AND j.state IN ('queued', 'running')) AND {lacking}",
                (wanted,),
            ).fetchall()
            for row in rows:
                self.add(row["id"], FOLDER)
        return len(rows)

    def recover(self) -> int:
        """Queue again what a dead process left running; how many there were."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE documents SET state = 'queued' WHERE state = 'indexing' AND id IN"
                " (SELECT document FROM jobs WHERE state = 'running')"
            )
            return db.execute(
                "UPDATE jobs SET state = 'queued', worker = NULL, lease_until = NULL,"
                " run_after = 0 WHERE state = 'running'"
            ).rowcount

    # Claiming and keeping

    def claim(self, worker: str, *, leave: int = 0) -> str | None:
        """Take the next due job's document into work; None where fewer than ``leave`` + 1 are due.

        A running job whose lease is over counts as due: its worker has lost it. A time further off
        than any wait can be means that the clock was set back.
        """
        now, lease = self._clock(), self._settings.lease_seconds
        with self._db.transaction(redone=True) as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', worker = NULL, run_after = 0 WHERE"
                " state = 'running' AND (lease_until < ?1 OR lease_until > ?1 + ?2)",
                (now, lease + 60),
            )
            due = {"now": now, "far": 2 * _LONGEST_BACKOFF}
            rows = db.execute(
                f"SELECT priority FROM jobs WHERE {_DUE}"  # noqa: S608 - constants
                " ORDER BY priority DESC LIMIT :most",
                {**due, "most": leave + 1},
            ).fetchall()
            if len(rows) <= leave:
                return None
            due["priority"] = rows[0]["priority"]
            collection = self._take_turn(db, "", self._flows(due))
            uploader = self._take_turn(db, collection, self._flows(due, collection))
            id: str = db.execute(
                f"SELECT document FROM jobs WHERE {_DUE} AND priority = :priority"  # noqa: S608
                " AND collection = :collection AND uploader = :uploader"
                " ORDER BY queued_at, rowid LIMIT 1",
                {**due, "collection": collection, "uploader": uploader},
            ).fetchone()["document"]
            self._charge(db, id, 1)
            db.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, worker = ?2,"
                " lease_until = ?3, started_at = ?4,"
                " pages_at_start = (SELECT COUNT(*) FROM pages WHERE document = ?1)"
                " WHERE document = ?1",
                (id, worker, now + lease, now),
            )
            db.execute(
                "UPDATE documents SET state = 'indexing' WHERE id = ? AND state = 'queued'", (id,)
            )
        return id

    def keep(self, document_id: str, worker: str) -> bool:
        """Renew the lease; false where the job is the worker's no longer."""
        with self._db.transaction(redone=True) as db:
            return (
                db.execute(
                    "UPDATE jobs SET lease_until = ? WHERE document = ? AND state = 'running'"
                    " AND worker = ?",
                    (self._clock() + self._settings.lease_seconds, document_id, worker),
                ).rowcount
                > 0
            )

    def progressed(self, document_id: str, pages: int = 0) -> None:
        """So many ``pages`` more were stored, which count in the turns.

        Attempts count those without progress, however often a long run is cut short.
        """
        with self._db.transaction(redone=True) as db:
            db.execute("UPDATE jobs SET attempts = 1 WHERE document = ?", (document_id,))
            self._charge(db, document_id, pages)

    def turn_is_over(self, document_id: str, pages: int) -> bool:
        """Whether a document in work has had ``pages`` more, by its weight, than another flow whose
        job of the same priority is due."""
        with self._db.lock:
            db, job = self._db.connection, self._row(document_id)
            due = {
                "now": self._clock(),
                "far": 2 * _LONGEST_BACKOFF,
                "priority": job["priority"],
            }
            for within, own, flows in (
                ("", job["collection"], self._flows(due)),
                (job["collection"], job["uploader"], self._flows(due, job["collection"])),
            ):
                clock, tags = _turns(db, within)
                ahead = pages / self._weight(within, own)
                if any(
                    tags.get(own, clock) - max(clock, tags.get(flow, clock)) >= ahead
                    for flow in flows
                    if flow != own
                ):
                    return True
        return False

    def attempts(self, document_id: str) -> int:
        """How often work was begun since it last made progress."""
        return self._row(document_id)["attempts"]

    def priority_waiting(self, above: int) -> bool:
        """Whether a job of a higher priority than ``above`` is due."""
        with self._db.lock:
            return (
                self._db.connection.execute(
                    "SELECT 1 FROM jobs WHERE state = 'queued' AND priority > ? AND run_after <= ?",
                    (above, self._clock()),
                ).fetchone()
                is not None
            )

    # Out of the queue

    def finish(self, document_id: str) -> None:
        """The work is done."""
        self._end(document_id, "done", None)

    def bury(self, document_id: str, reason: str) -> None:
        """Give up: a dead letter, until somebody says ``retry``."""
        self._end(document_id, "dead", reason)

    def put_back(self, document_id: str, failure: Failure | None) -> bool:
        """End this attempt; false where it was the last one and the job is to be buried.

        Without a failure, or with an outage, the attempt does not count.
        """
        attempts = self.attempts(document_id)
        counts = failure is not None and failure.kind == "transient"
        if counts and attempts >= self._settings.attempts:
            return False
        wait = 0.0
        if failure is not None:
            wait = self._settings.backoff_seconds * 2 ** min(attempts - 1, 20)
            wait = min(wait, _LONGEST_BACKOFF) * (0.75 + 0.5 * self._jitter())
        with self._db.transaction() as db:
            db.execute(
                "UPDATE documents SET state = 'queued' WHERE id = ? AND state = 'indexing'",
                (document_id,),
            )
            db.execute(
                "UPDATE jobs SET state = 'queued', worker = NULL, lease_until = NULL,"
                " run_after = ?, reason = ?, attempts = attempts - ? WHERE document = ?",
                (
                    self._clock() + wait if wait else 0,
                    failure.reason if failure else None,
                    0 if counts else 1,
                    document_id,
                ),
            )
        return True

    def cancel(self, document_id: str) -> None:
        """Stop work on a document: at once, or after the batch in work. JobNotFound, JobConflict.

        Pages that are indexed stay.
        """
        with self._db.transaction() as db:
            if self._row(document_id)["state"] not in ("queued", "running"):
                raise JobConflict("there is no work on this document that could be cancelled")
            self._end(document_id, "cancelled", _CANCELLED)
            db.execute(
                "UPDATE documents SET state = 'failed', reason = ?"
                " WHERE id = ? AND state IN ('queued', 'indexing')",
                (_CANCELLED, document_id),
            )

    def retry(self, document_id: str) -> None:
        """Try again, at once, what failed, was cancelled or waits. JobNotFound, JobConflict."""
        with self._db.transaction() as db:
            row = self._row(document_id)
            # A page whose words were not read in full is read and encoded anew.
            failed = db.execute(
                "DELETE FROM stages WHERE document = ?1 AND (page_index IN (SELECT page_index FROM"
                "  stages WHERE document = ?1 AND state = 'failed' AND stage IN ('read', 'ocr'))"
                " OR state = 'failed')",
                (document_id,),
            ).rowcount
            if row["state"] == "running" or (row["state"] == "done" and not failed):
                what = "is in work already" if row["state"] == "running" else "lacks nothing"
                raise JobConflict(f"the document {what}")
            db.execute(
                "UPDATE documents SET state = 'queued', reason = NULL"
                " WHERE id = ? AND state = 'failed'",
                (document_id,),
            )
            db.execute("UPDATE jobs SET attempts = 0 WHERE document = ?", (document_id,))
            self.add(document_id, PERSON)

    # Looking

    def now(self) -> float:
        """The time of the queue's clock, in Unix seconds."""
        return self._clock()

    def live(self, collections: Sequence[str] | None = None) -> int:
        """Jobs that are queued or running, in these collections (None: all)."""
        counts = self.counts(collections)
        return counts.get("queued", 0) + counts.get("running", 0)

    def running(self) -> int:
        """Jobs in work."""
        return self._count("state = 'running'")

    def collections_waiting(self) -> int:
        """Collections that have a job waiting."""
        with self._db.lock:
            return self._db.connection.execute(
                "SELECT COUNT(DISTINCT collection) FROM jobs WHERE state = 'queued'"
            ).fetchone()[0]

    def due(self) -> int:
        """Jobs that a worker could claim now."""
        now = self._clock()
        with self._db.lock:
            return self._db.connection.execute(
                "SELECT COUNT(*) FROM jobs WHERE state = 'queued'"
                " AND (run_after <= ?1 OR run_after > ?1 + ?2)",
                (now, 2 * _LONGEST_BACKOFF),
            ).fetchone()[0]

    def counts(self, collections: Sequence[str] | None = None) -> dict[str, int]:
        """Jobs by state, in these collections (None: all)."""
        with self._db.lock:
            rows = self._db.connection.execute(
                f"SELECT state, COUNT(*) FROM jobs j WHERE {_WITHIN} GROUP BY state",  # noqa: S608
                {"collections": _json(collections)},
            )
            return dict(tuple(row) for row in rows)

    def pages_left(self, collections: Sequence[str] | None = None) -> float:
        """Pages of live jobs that are not stored yet; a document that was not opened yet counts as
        the mean of the others, or as one page. In these collections (None: all)."""
        within = {"collections": _json(collections)}
        with self._db.lock:
            known, unknown = self._db.connection.execute(
                "SELECT COALESCE(SUM(CASE WHEN d.pages > 0 THEN d.pages -"  # noqa: S608
                "  (SELECT COUNT(*) FROM pages p WHERE p.document = d.id) END), 0),"
                " COUNT(*) FILTER (WHERE d.pages = 0)"
                " FROM jobs j JOIN documents d ON d.id = j.document"
                f" WHERE j.state IN ('queued', 'running') AND {_WITHIN}",
                within,
            ).fetchone()
            if not unknown:
                return known
            mean = self._db.connection.execute(
                "SELECT COALESCE(AVG(pages), 1) FROM documents d WHERE pages > 0"
                " AND (:collections IS NULL"
                "  OR d.collection IN (SELECT value FROM json_each(:collections)))",
                within,
            ).fetchone()[0]
        return known + unknown * mean

    def held_by(self, worker: str) -> list[str]:
        """The documents a worker has in work."""
        with self._db.lock:
            rows = self._db.connection.execute(
                "SELECT document FROM jobs WHERE state = 'running' AND worker = ?", (worker,)
            ).fetchall()
        return [row["document"] for row in rows]

    def get(self, document_id: str) -> Job:
        """One job; JobNotFound."""
        found = self._select("j.document = :id", {"id": document_id}, "1")
        if not found:
            raise JobNotFound.of(document_id)
        return found[0]

    def list(
        self,
        states: Iterable[JobState] = (),
        *,
        limit: int = 1000,
        collections: Sequence[str] | None = None,
    ) -> list[Job]:
        """Jobs in these states (none: all) and collections (None: all): running ones first, then as
        they come, then the ended, newest first."""
        return self._select(
            f"{_IN_STATES} AND {_WITHIN}",
            {"states": json.dumps(list(states)), "collections": _json(collections)},
            "j.state != 'running', j.state != 'queued', j.ended_at DESC, j.priority DESC,"
            f" j.queued_at, j.document LIMIT {int(limit)}",
        )

    # Inside

    def _flows(self, due: Mapping[str, float], collection: str | None = None) -> list[str]:
        """The collections, or the uploaders within one, that have a job of a priority due."""
        column = "collection" if collection is None else "uploader"
        within = "" if collection is None else " AND collection = :collection"
        flows: list[str] = []
        while True:
            # One step in the index a flow: the queue may be long, and its flows few.
            row = self._db.connection.execute(
                f"SELECT {column} FROM jobs WHERE {_DUE} AND priority = :priority{within}"  # noqa: S608
                f" AND {column} {'>' if flows else '>='} :last ORDER BY {column} LIMIT 1",
                {**due, "collection": collection, "last": flows[-1] if flows else ""},
            ).fetchone()
            if row is None:
                return flows
            flows.append(row[0])

    def _take_turn(self, db: sqlite3.Connection, within: str, flows: Sequence[str]) -> str:
        """The flow whose turn it is; its start tag becomes the clock."""
        clock, tags = _turns(db, within)
        start, flow = min((max(clock, tags.get(flow, clock)), flow) for flow in flows)
        db.execute("INSERT OR REPLACE INTO turn_clocks VALUES (?, ?)", (within, start))
        column = "uploader" if within else "collection"
        # A tag that the clock has passed says nothing any more, unless pages are still to come.
        db.execute(
            "DELETE FROM turns WHERE within = ?1 AND start <= ?2 AND NOT EXISTS"  # noqa: S608
            f" (SELECT 1 FROM jobs WHERE state = 'running' AND {column} = flow"
            "   AND (?1 = '' OR collection = ?1))",
            (within, start),
        )
        return flow

    def _charge(self, db: sqlite3.Connection, document_id: str, pages: int) -> None:
        job = self._row(document_id)
        collection, uploader = job["collection"], job["uploader"]
        for within, flow in (("", collection), (collection, uploader)):
            clock, _ = _turns(db, within)
            db.execute(
                "INSERT INTO turns VALUES (?1, ?2, ?3 + ?4)"
                " ON CONFLICT (within, flow) DO UPDATE SET start = start + ?4",
                (within, flow, clock, pages / self._weight(within, flow)),
            )

    def _weight(self, within: str, flow: str) -> float:
        return 1.0 if within else self._settings.weights.get(flow, 1.0)

    def _select(self, where: str, values: dict[str, str | None], order: str) -> list[Job]:
        now = self._clock()
        with self._db.lock:
            rows = self._db.connection.execute(
                # The few are chosen first, and only for them is counted.
                "SELECT j.*, d.collection, d.pages,"  # noqa: S608 - put together of constants
                " (SELECT COUNT(*) FROM pages p WHERE p.document = j.document) AS pages_done,"
                " COALESCE(d.name, (SELECT name FROM sources s WHERE s.document = j.document"
                "  OR s.next_document = j.document ORDER BY s.rowid DESC LIMIT 1)) AS name"
                f" FROM (SELECT * FROM jobs j WHERE {where} ORDER BY {order}) j"
                f" JOIN documents d ON d.id = j.document ORDER BY {order}",
                values,
            ).fetchall()
        return [_job(row, now) for row in rows]

    def _row(self, document_id: str) -> sqlite3.Row:
        with self._db.lock:
            row = self._db.connection.execute(
                "SELECT * FROM jobs WHERE document = ?", (document_id,)
            ).fetchone()
        if row is None:
            raise JobNotFound.of(document_id)
        return row

    def _count(self, condition: str) -> int:
        with self._db.lock:
            return self._db.connection.execute(
                f"SELECT COUNT(*) FROM jobs WHERE {condition}"  # noqa: S608 - constants
            ).fetchone()[0]

    def _end(self, document_id: str, state: JobState, reason: str | None) -> None:
        with self._db.transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, reason = ?, worker = NULL, lease_until = NULL,"
                " ended_at = ? WHERE document = ?",
                (state, reason, self._clock(), document_id),
            )


def _turns(db: sqlite3.Connection, within: str) -> tuple[float, dict[str, float]]:
    """The clock of the flows ``within``, and the tags of those that have one."""
    row = db.execute("SELECT clock FROM turn_clocks WHERE within = ?", (within,)).fetchone()
    tags = db.execute("SELECT flow, start FROM turns WHERE within = ?", (within,))
    return row["clock"] if row else 0.0, dict(tuple(tag) for tag in tags)


def _json(values: Sequence[str] | None) -> str | None:
    return None if values is None else json.dumps([*values])


def _job(row: sqlite3.Row, now: float) -> Job:
    begun, done = row["started_at"], row["pages_done"] - row["pages_at_start"]
    elapsed = now - begun if begun is not None and row["state"] == "running" else 0.0
    return Job(
        document_id=row["document"],
        collection=row["collection"],
        name=row["name"] or row["document"],
        state=row["state"],
        priority=row["priority"],
        attempts=row["attempts"],
        pages=row["pages"],
        pages_done=row["pages_done"],
        reason=row["reason"],
        run_after=row["run_after"],
        queued_at=row["queued_at"],
        started_at=begun,
        ended_at=row["ended_at"],
        worker=row["worker"],
        pages_per_second=done / elapsed if elapsed > 0 and done > 0 else None,
    )
