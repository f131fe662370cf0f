"""Where the backups of a data folder went, so that whoever needs one is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pageglass.durable import put_in_place

_KEPT = 20


def note_backup(data_dir: Path, target: Path) -> None:
    """Remember that there is a backup of ``data_dir`` at ``target`` now; OSError."""
    made = {"folder": str(target), "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
    others = [one for one in _noted(data_dir) if one["folder"] != made["folder"]]
    written = _path(data_dir).with_suffix(".new")
    written.write_text(json.dumps([made, *others][:_KEPT], indent=1), "utf-8")
    put_in_place(written, _path(data_dir))


def newest_backup(data_dir: Path) -> str:
    """The newest backup that is still where it was put, in words; or that none is known."""
    for one in _noted(data_dir):
        if (Path(one["folder"]) / "catalog.sqlite").exists():
            return f"the newest backup known is {one['folder']}, of {one['made_at'][:16]} UTC"
    return "no backup is known"


def _noted(data_dir: Path) -> Iterator[dict[str, str]]:
    """The backups, newest first; a note that is damaged is none."""
    try:
        noted: Any = json.loads(_path(data_dir).read_text("utf-8"))
        for one in noted:
            yield {"folder": str(one["folder"]), "made_at": str(one["made_at"])}
    except (OSError, ValueError, LookupError, TypeError):
        return


def _path(data_dir: Path) -> Path:
    return data_dir / "backups.json"
