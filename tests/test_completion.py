"""Completion in a shell, by the protocol that its script speaks with the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.catalog import Catalog
from ingest.database import Database


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("completion") / "data"
    data.mkdir()
    database = Database(data / "catalog.sqlite")
    for collection, name in (("work", "lease.pdf"), ("work", "a ledger.pdf"), ("home", "le\n.pdf")):
        Catalog(database).enqueue(collection=collection, sha256=name, source=name, name=name)
    database.close()
    return data


def pageglass(folder: Path | None, **more: str) -> subprocess.CompletedProcess[str]:
    others = {name: v for name, v in os.environ.items() if not name.startswith("PAGEGLASS_")}
    data = {"PAGEGLASS_DATA_DIR": str(folder)} if folder is not None else {}
    return subprocess.run(
        [sys.executable, "-m", "api.cli"],
        env=others | data | more,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


def completed(folder: Path, line: str, shell: str = "bash") -> list[str]:
    """What is offered after a line whose last word is not finished."""
    if shell == "bash":
        words = line.split(" ")
        said = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    else:
        said = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = pageglass(folder, _PAGEGLASS_COMPLETE=f"complete_{shell}", **said)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_commands_and_options_are_completed(folder: Path) -> None:
    assert {"search", "serve", "status"} <= set(completed(folder, "pageglass s"))
    assert "eval" in completed(folder, "pageglass e")
    assert "--top-k" in completed(folder, "pageglass search --top")


def test_names_of_collections_and_documents_are_completed(folder: Path) -> None:
    assert completed(folder, "pageglass search --collection w") == ["work"]
    assert completed(folder, "pageglass ingest -c ") == ["home", "work"]
    assert completed(folder, "pageglass rm le") == ["lease.pdf"]
    assert completed(folder, "pageglass search q -d lea") == ["lease.pdf"]
    for shell in ("zsh", "fish"):
        assert any("lease.pdf" in line for line in completed(folder, "pageglass rm lea", shell))


def test_where_nothing_can_be_looked_up_nothing_is_said_or_made(tmp_path: Path) -> None:
    assert completed(tmp_path / "none", "pageglass rm le") == []
    assert completed(tmp_path / "none", "pageglass search -c w") == []
    assert not (tmp_path / "none").exists()
    line = f"pageglass --data-dir {tmp_path / 'other'} search -c w"
    assert completed(tmp_path / "none", line) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_each_shell_calls_the_command(shell: str) -> None:
    done = pageglass(None, _PAGEGLASS_COMPLETE=f"source_{shell}")
    assert done.returncode == 0, done.stderr
    assert "_PAGEGLASS_COMPLETE" in done.stdout
    assert f"complete_{shell}" in done.stdout
