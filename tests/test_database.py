"""One SQLite file: made, brought from version to version, read beside a writer, copied."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import ingest.database
from ingest.catalog import Catalog
from ingest.database import SCHEMA_VERSION, Database
from ingest.jobs import Jobs
from ingest.thresholds import FittedThreshold, Thresholds
from pageglass.errors import StoreError
from pageglass.settings import IngestSettings

V1 = Path(__file__).parent / "data" / "catalog-v1.sql"


def version_1(path: Path) -> Path:
    """A catalog as the first version left it, with a document in every state."""
    with sqlite3.connect(path) as db:
        db.executescript(V1.read_text("utf-8"))
    db.close()
    return path


def tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as db:
        return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}


def test_a_catalog_of_version_1_becomes_the_present_one_and_loses_nothing(tmp_path: Path) -> None:
    path = version_1(tmp_path / "catalog.sqlite")
    database = Database(path)
    catalog, jobs = Catalog(database), Jobs(database, IngestSettings())
    states = {document.name: document.state for document in catalog.documents()}
    assert states == {
        "indexed.pdf": "indexed",
        "failed.pdf": "failed",
        "queued.pdf": "queued",
        "in work.pdf": "queued",
    }
    assert {job.name: job.state for job in jobs.list()} == {
        "indexed.pdf": "done",
        "failed.pdf": "dead",
        "queued.pdf": "queued",
        "in work.pdf": "queued",
    }
    (page,) = catalog.iter_pages("d-indexed")
    assert page.text == "the only page"
    assert catalog.suffix("d-indexed") == ".pdf"
    assert catalog.integrity() == []
    database.close()
    # What it was stays beside it.
    assert tables(tmp_path / "catalog.v1.sqlite") == {"documents", "sources", "pages", "stages"}
    Database(path).close()


def test_a_catalog_of_version_3_gets_a_place_for_thresholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite"
    monkeypatch.setattr("ingest.database._MIGRATIONS", ingest.database._MIGRATIONS[:3])
    monkeypatch.setattr("ingest.database.SCHEMA_VERSION", 3)
    old = Database(path)
    with old.transaction() as db:
        db.execute(
            "INSERT INTO documents (id, collection, sha256, state)"
            " VALUES ('d', 'c', 's1', 'queued')"
        )
        db.execute(
            "INSERT INTO sources (collection, source, name, document)"
            " VALUES ('c', '/a', 'a.pdf', 'd')"
        )
    old.close()
    monkeypatch.undo()
    assert "thresholds" not in tables(path)
    database = Database(path)
    [document] = Catalog(database).documents()
    thresholds = Thresholds(database)
    kept = FittedThreshold("c", "m", 0.25, 40, 10, 1, 6, "0" * 64, "2026-01-01T00:00:00+00:00")
    thresholds.put(kept)
    # A second one for the same model takes its place.
    thresholds.put(replace(kept, threshold=0.75))
    thresholds.put(replace(kept, model="other"))
    assert [one.threshold for one in thresholds.list(["c"])] == [0.75, 0.25]
    assert thresholds.list(["d"]) == []
    assert thresholds.of_document(document.id, "m") == 0.75
    assert thresholds.of_document(document.id, "unknown") is None
    assert thresholds.of_document("unknown", "m") is None
    assert (thresholds.forget("c"), thresholds.forget("c")) == (2, 0)
    assert database.integrity() == []
    database.close()


def test_a_migration_cut_short_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = version_1(tmp_path / "catalog.sqlite")
    broken = ("", "CREATE TABLE half (a);\nINSERT INTO nowhere VALUES (1);\n")
    monkeypatch.setattr("ingest.database._MIGRATIONS", broken)
    with pytest.raises(StoreError, match=r"cannot bring .*nowhere; it is left as it was"):
        Database(path)
    monkeypatch.undo()
    assert "half" not in tables(path)
    database = Database(path)
    assert len(Catalog(database).documents()) == 4
    database.close()


def test_a_process_killed_while_it_migrates_leaves_the_old_version(tmp_path: Path) -> None:
    path = version_1(tmp_path / "catalog.sqlite")
    # The kill falls between two statements of the migration.
    killed = (
        "import os, signal, sqlite3, sys\n"
        "from pathlib import Path\n"
        "from ingest.database import Database, _Connection\n"
        "class Killed(_Connection):\n"
        "    def execute(self, sql, *values):\n"
        "        if sql.lstrip().startswith('CREATE INDEX stages_failed'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().execute(sql, *values)\n"
        "connect = sqlite3.connect\n"
        "sqlite3.connect = lambda *a, **k: connect(*a, **(k | {'factory': Killed}))\n"
        "Database(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert tables(path) == {"documents", "sources", "pages", "stages"}
    database = Database(path)
    assert len(Catalog(database).documents()) == 4
    assert Catalog(database).integrity() == []
    database.close()


def test_a_catalog_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        Database(path)


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="is damaged"):
        Database(path)


def test_another_process_reads_while_this_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    database = Database(path)
    catalog = Catalog(database)
    catalog.enqueue(collection="c", sha256="s1", source="/a", name="a.pdf")
    look = (
        "import sys; from pathlib import Path; from ingest.catalog import Catalog;"
        "from ingest.database import Database;"
        "d = Database(Path(sys.argv[1]), read_only=True);"
        "print(len(Catalog(d).documents())); d.connection.execute('DELETE FROM documents')"
    )
    with database.transaction():
        catalog.enqueue(collection="c", sha256="s2", source="/b", name="b.pdf")
        seen = subprocess.run(
            [sys.executable, "-c", look, str(path)], capture_output=True, text=True, check=False
        )
    assert seen.stdout.split() == ["1"]
    assert "readonly" in seen.stderr
    database.close()


def test_a_catalog_that_must_be_migrated_first_is_not_looked_at(tmp_path: Path) -> None:
    path = version_1(tmp_path / "catalog.sqlite")
    with pytest.raises(StoreError, match=f"{SCHEMA_VERSION} is current"):
        Database(path, read_only=True)


def test_a_copy_made_while_others_write_is_whole(tmp_path: Path) -> None:
    database = Database(tmp_path / "catalog.sqlite")
    catalog, jobs = Catalog(database), Jobs(database, IngestSettings())
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            # Two rows that belong together.
            with database.transaction():
                new = catalog.enqueue(
                    collection="c", sha256=f"s{number}", source=f"/{number}", name="a.pdf"
                )
                jobs.add(new.document.id, 0)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            database.backup(tmp_path / f"copy{number}.sqlite")
    finally:
        stop.set()
        thread.join()
    database.close()
    for number in range(5):
        copy = Database(tmp_path / f"copy{number}.sqlite")
        assert Catalog(copy).integrity() == []
        copy.close()


def test_a_transaction_within_another_is_part_of_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "catalog.sqlite")
    catalog = Catalog(database)
    with pytest.raises(KeyError), database.transaction():
        catalog.enqueue(collection="c", sha256="s1", source="/a", name="a.pdf")
        raise KeyError
    assert catalog.documents() == []
    database.close()
