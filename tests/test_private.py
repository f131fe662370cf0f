"""Other users of the machine read nothing of what Pageglass keeps, whatever the umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.services import Services
from pageglass.private import private_folder
from pageglass.settings import Settings
from tests.test_cli import environment
from tests.tiny import pdf

PUMP = "The feed pump of line two failed since its bearing ran dry in March."


@pytest.fixture
def lax() -> Iterator[None]:
    """A umask that closes nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    return [
        f"{stat.filemode(path.lstat().st_mode)} {path.relative_to(folder.parent)}"
        for path in (folder, *folder.rglob("*"))
        if path.lstat().st_mode & 0o077
    ]


def test_commands_close_all_that_they_write(lax: None, tmp_path: Path) -> None:
    def run(*args: str | Path) -> None:
        command = [sys.executable, "-m", "api.cli", *map(str, args)]
        subprocess.run(command, env=environment(data), cwd=tmp_path, check=True)

    data, backups, cited = tmp_path / "data", tmp_path / "backups", tmp_path / "cited"
    run("ingest", pdf(tmp_path / "log.pdf", [PUMP]))
    run("keys", "add", "web", "--scope", "ask")
    run("ask", "Why did the feed pump fail?", "--save-pages", cited)
    run("backup", backups / "monday")
    for folder in (data, backups, cited):
        assert any(path.is_file() for path in folder.rglob("*"))
        assert open_to_others(folder) == []


def test_an_open_folder_is_closed_when_it_is_used_again(
    lax: None, settings: Settings, tmp_path: Path
) -> None:
    folder = settings.data_dir
    folder.mkdir(mode=0o755)
    with Services(settings, command="test") as services:
        list(services.ingest([pdf(tmp_path / "log.pdf", [PUMP])]))
        # Nothing below can be reached by others, whatever its own mode is.
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        services.backup(tmp_path / "backup")
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700


def test_a_folder_is_made_closed_with_its_parents(lax: None, tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        private_folder(pdf(tmp_path / "a.pdf", [PUMP]))
