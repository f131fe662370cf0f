"""Is all there that the catalog counts on? What is lost is said, and not passed over in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.catalog import Catalog
from ingest.known_backups import newest_backup
from pageglass.durable import put_in_place

if TYPE_CHECKING:
    from retrieval.index import Index

MENDED_BY = "`pageglass check --repair`, then `pageglass ingest`, makes them again"


def lacking(catalog: Catalog, indexes: Mapping[str, Index]) -> int:
    """Pages whose vectors the catalog counts on, and which a collection does not hold; of several
    collections, the most. StoreError where one does not answer."""
    before = catalog.encoded(indexes)
    there = {name: index.count() for name, index in indexes.items()}
    # A document that was removed meanwhile is not lost.
    after = catalog.encoded(indexes)
    return max((min(before[name], after[name]) - there[name] for name in indexes), default=0)


def describe(data_dir: Path, catalog: Catalog, lost: int) -> str | None:
    """What a data folder lacks, and what mends it; None where it lacks nothing."""
    if lost > 0:
        return f"the vectors of {lost:,} pages are lost: {MENDED_BY}; {newest_backup(data_dir)}"
    originals = data_dir / "originals"
    if catalog.knows_nothing() and originals.is_dir():
        count = sum(not path.name.startswith(".") for path in originals.iterdir())
        if count:
            return (
                f"the catalog knows no document, and there are {count:,} files in originals/: if it"
                f" was lost, put catalog.sqlite back from a backup; {newest_backup(data_dir)}"
            )
    return None


def note(data_dir: Path, what: str | None) -> None:
    """Keep it for those who look without opening the vectors; OSError."""
    path = _path(data_dir)
    if what is None:
        path.unlink(missing_ok=True)
        return
    written = path.with_suffix(".new")
    written.write_text(what, "utf-8")
    put_in_place(written, path)


def noted(data_dir: Path, catalog: Catalog, *, embedded: bool) -> str | None:
    """What the last owner noted, or what can be seen without opening the vectors."""
    try:
        return _path(data_dir).read_text("utf-8").strip() or None
    except (OSError, ValueError):
        pass
    done = catalog.encoded(catalog.stage_names()) if embedded else {}
    index = data_dir / "index"
    # Collections of a kind stand in for each other: an old model's may have been given up.
    kinds = {name.partition("--")[0] for name in done if "--" in name}
    gone = {kind for kind in kinds if not any(index.glob(f"{kind}--*/manifest.json"))}
    lost = max((n for name, n in done.items() if name.partition("--")[0] in gone), default=0)
    return describe(data_dir, catalog, lost)


def _path(data_dir: Path) -> Path:
    return data_dir / "degraded.txt"
