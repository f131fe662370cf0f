"""A data folder that has lost something says so, says what mends it, and that does mend it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from api.cli import app
from api.idempotency import Answers
from api.services import Services
from pageglass.errors import StoreError
from pageglass.settings import Settings, load_settings
from tests.serving import serving
from tests.tiny import pdf

PUMP = "The feed pump of line two failed since its bearing ran dry in March."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one document of two pages, and a backup of it."""
    data = tmp_path / "data"
    path = pdf(tmp_path / "log.pdf", [PUMP, "The mooring line was renewed."])
    with Services(_settings(data), command="test") as services:
        assert [report.outcome for report in services.ingest([path])] == ["indexed"]
        services.backup(tmp_path / "monday")
    return data


def _settings(data: Path) -> Settings:
    return load_settings({"data_dir": data, "ingest": {"workers": 0}})


def _run(data: Path, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["--data-dir", str(data), *arguments])
    # An exit of the command's own is SystemExit; anything else would be a traceback.
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def _remove_index(data: Path) -> None:
    shutil.rmtree(data / "index")


def _empty_index(data: Path) -> None:
    shutil.rmtree(data / "index")
    Services(_settings(data), command="test").close()


@pytest.mark.parametrize("lose", [_remove_index, _empty_index])
def test_a_lost_index_is_said_and_the_command_that_is_named_mends_it(
    folder: Path, lose: Callable[[Path], None]
) -> None:
    lose(folder)
    code, told, _ = _run(folder, "status")
    assert code == 0
    line = next(line for line in told.splitlines() if line.startswith("DEGRADED"))
    assert "vectors of 2 pages are lost" in line
    assert "`pageglass check --repair`, then `pageglass ingest`" in line
    assert str(folder.parent / "monday") in line
    told = _run(folder, "status", "--json")[1]
    assert "2 pages" in json.loads(told)["status"]["degraded"]
    code, _, errors = _run(folder, "search", "feed pump")
    assert "cannot be found" in errors
    with Services(_settings(folder), command="test") as services, serving(services) as address:
        ready = httpx.get(f"{address}/readyz").json()
        assert ready["degraded"] is True
        assert "pageglass check --repair" in ready["store"]["detail"]
        assert "2 pages" in httpx.get(f"{address}/status").json()["degraded"]
        answer = httpx.post(f"{address}/search", json={"question": "feed pump"}, timeout=60)
        assert any("cannot be found" in note for note in answer.json()["notes"])
    assert _run(folder, "check")[0] == 1
    assert _run(folder, "check", "--repair")[0] == 0
    assert _run(folder, "ingest")[0] == 0
    with Services(_settings(folder), command="test") as services:
        assert services.degraded is None
        assert services.readiness().degraded is False
        found = services.search("feed pump")
        assert [hit.ref.number for hit in found.hits][:1] == [1]
        assert found.notes == ()
        assert services.check(deep=True) == []
    assert "DEGRADED" not in _run(folder, "status")[1]


def test_what_is_emptied_while_it_serves_is_noticed(folder: Path) -> None:
    with Services(_settings(folder), command="test") as services:
        assert services.degraded is None
        (index,) = services.searcher.indexes.values()
        (document,) = services.documents()
        index.delete_document(document.id)
        services._counted_at = float("-inf")  # pyright: ignore[reportPrivateUsage] - a minute later
        assert services.readiness().degraded is True


def test_a_catalog_that_is_gone_is_said(folder: Path) -> None:
    (folder / "catalog.sqlite").unlink()
    told = _run(folder, "status")[1]
    assert "knows no document" in told
    assert "1 files in originals/" in told
    assert str(folder.parent / "monday") in told


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _garble(path: Path) -> None:
    """Keep the head, so that it shows only once rows are read."""
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x5a" * (len(data) - 4096)
    path.write_bytes(data)


def _replace_all(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _garble, _replace_all, _empty])
def test_a_damaged_catalog_is_one_line_with_the_newest_backup(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder / "catalog.sqlite")
    before = (folder / "catalog.sqlite").read_bytes()
    for command in (["status"], ["check"], ["check", "--repair"], ["search", "pump"], ["ingest"]):
        code, _, errors = _run(folder, *command)
        assert code == 1, command
        lines = [line for line in errors.splitlines() if line]
        assert len(lines) == 1, errors
        assert "is damaged" in lines[0]
        assert f"the newest backup known is {folder.parent / 'monday'}, of 20" in lines[0]
    told = _run(folder, "doctor")[1]
    assert "is damaged" in told
    assert "Traceback" not in told
    # Nothing was made of it, and what the catalog stands for is all there.
    assert (folder / "catalog.sqlite").read_bytes()[:4096] == before[:4096]
    assert len(list((folder / "originals").iterdir())) == 1
    # What the line says helps.
    for path in folder.glob("catalog.sqlite*"):
        path.unlink()
    shutil.copy(folder.parent / "monday" / "catalog.sqlite", folder)
    assert _run(folder, "check", "--deep")[0] == 0


def test_damage_that_shows_while_it_serves_is_a_problem_document(folder: Path) -> None:
    with Services(_settings(folder), command="test") as services, serving(services) as address:
        services.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        services.database.connection.execute("PRAGMA cache_size = 0")
        _garble(folder / "catalog.sqlite")
        services.database.connection.execute("PRAGMA shrink_memory")
        answer = httpx.get(f"{address}/documents")
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "store-damaged"
        shutil.copy(folder.parent / "monday" / "catalog.sqlite", folder)


@pytest.mark.parametrize(
    "what", ["manifest gone", "manifest damaged", "shard gone", "shard damaged"]
)
def test_a_damaged_index_is_one_line_and_nothing_is_removed(folder: Path, what: str) -> None:
    (index,) = (folder / "index").iterdir()
    if what == "manifest gone":
        (index / "manifest.json").unlink()
    elif what == "manifest damaged":
        (index / "manifest.json").write_bytes(b"\0" * 100)
    elif what == "shard gone":
        shutil.rmtree(index / "shard")
    else:
        for path in (index / "shard").rglob("*.json"):
            path.write_text("{")
    before = sorted(str(path) for path in index.rglob("*"))
    for command in (["check", "--repair"], ["search", "pump"]):
        code, _, errors = _run(folder, *command)
        assert code == 1
        lines = [line for line in errors.splitlines() if line]
        assert len(lines) == 1, errors
        assert "move it away and run `pageglass check --repair`" in lines[0]
        assert str(folder.parent / "monday") in lines[0]
    assert "move it away" in _run(folder, "doctor")[1]
    assert sorted(str(path) for path in index.rglob("*")) == before
    # What the line says helps.
    index.rename(folder.parent / "away")
    assert _run(folder, "check", "--repair")[0] == 0
    assert _run(folder, "ingest")[0] == 0
    with Services(_settings(folder), command="test") as services:
        assert services.degraded is None
        assert services.check(deep=True) == []
        assert services.search("feed pump").hits


def test_other_stores_that_are_damaged_say_what_to_do(folder: Path) -> None:
    (folder / "keys.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"keys\.sqlite.*backup.*keys add"):
        Services(_settings(folder), command="test")
    (folder / "idempotency.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"idempotency\.sqlite.*Remove the file"):
        Answers(folder / "idempotency.sqlite")
