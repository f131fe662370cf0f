"""Does anything get lost or doubled when indexing is killed again and again?

``python -m evals.crash`` keeps a folder of made-up documents watched by a process that it kills
with SIGKILL, at random moments and right between the store's write and the catalog's, changing the
folder between kills. Then it lets a last process finish and compares what is there (documents,
pages, points with their vectors and payloads, images, files, jobs) with an undisturbed run over
the folder's last state. Further rounds do the same on a disk that fills up, and with a store that
refuses writes for a while. It prints JSON and exits with 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pymupdf
import typer

from api.services import Services
from pageglass.errors import StoreError, StoreUnreachable
from pageglass.settings import IndexSettings, Settings, load_settings
from retrieval.encoders import SparseVector
from retrieval.index import CollectionSpec, Index, PagePoint, open_index

_WORDS = (
    "anchor basin cable depot engine ferry gauge harbour ingot jetty keel lantern mooring nozzle"
    " orbit piston quarry rudder signal timber uplift valve winch yard zinc"
).split()
_NOT_STARTED = 75
"""The exit status of a process that could not open its data folder."""
_CLOSE = 2e-2
"""Vectors are kept as float16 and uint8; a last bit may differ with the batch they came in."""


class _Frail:
    """An index that may end the process right after a write, or refuse writes for a while."""

    def __init__(self, index: Index, *, kill_share: float, refuse_until: float) -> None:
        self._index = index
        self._kill_share = kill_share
        self._refuse_until = refuse_until
        self.spec = index.spec

    def upsert(self, points: Sequence[PagePoint]) -> None:
        if time.time() < self._refuse_until:
            raise StoreUnreachable("the store refuses writes, as the harness told it to")
        self._index.upsert(points)
        if random.random() < self._kill_share:  # noqa: S311
            _note_kill()
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)


def _note_kill() -> None:
    """One more process ended between the store's write and the catalog's."""
    with Path(os.environ["CRASH_NOTES"]).open("a") as notes:
        notes.write("x")


@dataclass(frozen=True, slots=True)
class _Round:
    """One folder, one data folder, and what is done to the process between them."""

    folder: Path
    data: Path
    workers: int

    def settings(self) -> Settings:
        return load_settings(
            {
                "data_dir": self.data,
                "log_level": "ERROR",
                "ingest": {
                    "workers": self.workers,
                    "batch_pages": 4,
                    "backoff_seconds": 0.2,
                    "reserve_mb": 0,
                    "dpi": 50,
                },
                "watch": {"settle_seconds": 0.1, "grace_seconds": 0.2},
            }
        )


def _victim(round_: _Round, kill_share: float, refuse_seconds: float) -> None:
    """Watch and index until nothing is left to do."""
    refuse_until = time.time() + refuse_seconds

    def open_frail(settings: IndexSettings, root: Path, spec: CollectionSpec) -> Index:
        index = open_index(settings, root, spec)
        frail = _Frail(index, kill_share=kill_share, refuse_until=refuse_until)
        return cast(Index, frail)

    try:
        opened = Services(round_.settings(), command="crash", open_index=open_frail)
    except StoreError as error:
        print(f"not started: {error}", file=sys.stderr)
        raise SystemExit(_NOT_STARTED) from None
    with opened as services:
        services.start_worker()
        services.watch([round_.folder])
        quiet = 0
        while quiet < 8:
            time.sleep(0.1)
            quiet = quiet + 1 if _is_done(services, round_.folder) else 0


def _is_done(services: Services, folder: Path) -> bool:
    """Whether the catalog knows the folder as it is now, and no work is left."""
    there = {
        str(path): path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".pdf"
    }
    known = {source.path: source.state.mtime_ns for source in services.catalog.watched()}
    return there == known and not services.jobs.live()


def _draw(path: Path, chance: random.Random) -> None:
    """Write a made-up PDF beside ``path``, then move it there."""
    document = pymupdf.open()
    for _ in range(chance.randint(1, 9)):
        words = " ".join(chance.choice(_WORDS) for _ in range(chance.randint(5, 120)))
        document.new_page().insert_textbox(pymupdf.Rect(72, 72, 523, 770), words)
    part = path.with_suffix(".part")
    document.save(part)
    document.close()
    part.replace(path)


def _change(folder: Path, chance: random.Random) -> None:
    """Add, change or delete a file."""
    files = sorted(folder.glob("*.pdf"))
    kind = chance.choice(["add", "add", "change", "delete", "nothing"])
    if kind == "add" or not files:
        _draw(folder / f"doc{chance.randint(0, 10**6)}.pdf", chance)
    elif kind == "change":
        _draw(chance.choice(files), chance)
    elif kind == "delete" and len(files) > 3:
        chance.choice(files).unlink()


def _start(round_: _Round, notes: Path, kill_share: float = 0, refuse_seconds: float = 0) -> Any:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "evals.crash", "--victim", str(round_.data)),
            *("--folder", str(round_.folder), "--workers", str(round_.workers)),
            *("--kill-share", str(kill_share), "--refuse-seconds", str(refuse_seconds)),
        ],
        env=os.environ | {"CRASH_NOTES": str(notes)},
        start_new_session=True,
    )


def _finish(round_: _Round, notes: Path) -> None:
    """Let a process do the rest in peace."""
    process = _start(round_, notes)
    if process.wait(timeout=300):
        raise SystemExit("crash: the last process did not finish; its error is above")


Snapshot = dict[str, Any]


def _snapshot(round_: _Round) -> Snapshot:
    """Everything a data folder holds, in a form that can be compared."""
    with Services(round_.settings(), command="crash") as services:
        documents = services.documents()
        points: dict[str, Any] = {}
        for name, index in services.searcher.indexes.items():
            for batch in index.points():
                for point in batch:
                    key = f"{name} {point.collection} {point.ref}"
                    if key in points:
                        raise SystemExit(f"crash: two points for {key}")
                    points[key] = point.vectors
        return {
            "documents": {d.id: (d.sha256, d.names, d.pages, d.state, d.reason) for d in documents},
            "pages": {
                page.ref: page for d in documents for page in services.catalog.iter_pages(d.id)
            },
            "stages": {
                d.id: sorted(
                    (s.page_index, s.stage, s.state) for s in services.catalog.stages(d.id)
                )
                for d in documents
            },
            "sources": sorted((s.path, s.sha256) for s in services.catalog.watched()),
            "points": points,
            "images": sorted(p.name for p in (round_.data / "images").rglob("*") if p.is_file()),
            "originals": sorted(p.name for p in (round_.data / "originals").iterdir()),
            "jobs": {job.document_id: job.state for job in services.job_list()},
            "found": [str(finding) for finding in services.check(deep=True)],
            "removing": services.catalog.removing(),
            "strays": services.catalog.stray_images(),
        }


def _differences(seen: Snapshot, wanted: Snapshot) -> list[str]:
    """What differs, in words; nothing is the aim."""
    found = [f"check finds: {line}" for line in seen["found"]]
    for part in wanted:
        if part == "points":
            continue
        if seen[part] != wanted[part]:
            found.append(f"{part} differ: {_first_difference(seen[part], wanted[part])}")
    if seen["points"].keys() != wanted["points"].keys():
        odd = seen["points"].keys() ^ wanted["points"].keys()
        found.append(f"{len(odd)} points are lost or left over, such as {min(odd)}")
    for key in seen["points"].keys() & wanted["points"].keys():
        if not _alike(seen["points"][key], wanted["points"][key]):
            found.append(f"the vectors of {key} differ")
    return found


def _first_difference(seen: Any, wanted: Any) -> str:
    if isinstance(seen, dict):
        both = cast(dict[Any, Any], seen), cast(dict[Any, Any], wanted)
        for key in sorted(both[0].keys() | both[1].keys(), key=str):
            if both[0].get(key) != both[1].get(key):
                return f"{key}: {str(both[0].get(key))[:300]} for {str(both[1].get(key))[:300]}"
    return f"{str(seen)[:300]} for {str(wanted)[:300]}"


def _alike(seen: Any, wanted: Any) -> bool:
    if seen.keys() != wanted.keys():
        return False
    for name, vector in seen.items():
        other = wanted[name]
        if isinstance(vector, SparseVector):
            ours = dict(zip(vector.indices, vector.values, strict=True))
            theirs = dict(zip(other.indices, other.values, strict=True))
            if ours.keys() != theirs.keys() or any(abs(ours[k] - theirs[k]) > _CLOSE for k in ours):
                return False
        elif vector.shape != other.shape or not np.allclose(vector, other, atol=_CLOSE):
            return False
    return True


def _compare(round_: _Round, scratch: Path, notes: Path) -> list[str]:
    """What differs from an undisturbed run over the same folder."""
    seen = _snapshot(round_)
    peace = _Round(round_.folder, scratch / "peace", round_.workers)
    shutil.rmtree(peace.data, ignore_errors=True)
    _finish(peace, notes)
    return _differences(seen, _snapshot(peace))


def _kill_round(scratch: Path, chance: random.Random, kills: int, workers: int) -> Snapshot:
    """One data folder, killed ``kills`` times."""
    round_ = _Round(scratch / "folder", scratch / "data", workers)
    notes = scratch / "notes"
    round_.folder.mkdir(parents=True)
    notes.touch()
    for number in range(8):
        _draw(round_.folder / f"doc{number}.pdf", chance)
    done: Counter[str] = Counter()
    while done.total() < kills:
        before = len(notes.read_text())
        # Every other time it ends itself, after one of its first writes to the store.
        share = chance.choice([0.0, chance.choice([0.2, 1.0])])
        process = _start(round_, notes, kill_share=share)
        try:
            process.wait(timeout=10 if share else chance.uniform(0.3, 4.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done["at a random moment"] += 1
        else:
            done["between store and catalog"] += len(notes.read_text()) - before
            if process.returncode not in (0, -signal.SIGKILL):
                return {"kills": done, "differences": [f"exit status {process.returncode}"]}
        _change(round_.folder, chance)
    _finish(round_, notes)
    return {"kills": done, "differences": _compare(round_, scratch, notes)}


def _refusing_round(scratch: Path, chance: random.Random) -> Snapshot:
    """The store refuses every write for some seconds, twice; once the process is killed then."""
    round_ = _Round(scratch / "folder", scratch / "data", 1)
    notes = scratch / "notes"
    round_.folder.mkdir(parents=True)
    notes.touch()
    for number in range(6):
        _draw(round_.folder / f"doc{number}.pdf", chance)
    process = _start(round_, notes, refuse_seconds=60)
    time.sleep(4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process = _start(round_, notes, refuse_seconds=5)
    code = process.wait(timeout=120)
    differences = _compare(round_, scratch, notes)
    return {"differences": differences + ([f"exit status {code}"] if code else [])}


def _full_disk_round(scratch: Path, chance: random.Random) -> Snapshot:
    """A small disk that fills up to its last byte, and is emptied again, while files come."""
    round_ = _Round(scratch / "folder", scratch / "disk" / "data", 1)
    notes = scratch / "notes"
    ended_by: Counter[str] = Counter()
    round_.folder.mkdir(parents=True)
    notes.touch()
    with _small_disk(scratch / "disk", megabytes=160) as mounted:
        if not mounted:
            return {"skipped": "a small disk can be mounted by root only", "differences": []}
        for number in range(4):
            _draw(round_.folder / f"doc{number}.pdf", chance)
        _finish(round_, notes)
        filler = scratch / "disk" / "filler"
        for attempt in range(3):
            for number in range(4):
                _draw(round_.folder / f"more{attempt}-{number}.pdf", chance)
            # Full from the start, or from some moment while it works.
            process = _start(round_, notes)
            time.sleep(chance.uniform(0.0, 2.5))
            _fill(filler)
            time.sleep(3)
            if attempt == 1:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            filler.unlink()
            if attempt == 1:
                continue
            # It may also have found the disk full at its start, and have said so. And where the
            # disk is full when the engine first writes to a part of a file that it has mapped, the
            # system ends the process at once: that is as good as a kill, and as bad.
            code = process.wait(timeout=120)
            ended_by[_name_of(code)] += 1
            if code not in (0, _NOT_STARTED, -signal.SIGBUS):
                return {"differences": [f"exit status {code} with a full disk"]}
        _finish(round_, notes)
        return {"ended by": ended_by, "differences": _compare(round_, scratch, notes)}


def _name_of(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


@contextmanager
def _small_disk(at: Path, *, megabytes: int) -> Generator[bool]:
    at.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "pageglass-crash", str(at)]
    mounted = not subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(at)], check=False)  # noqa: S607


def main(
    kills: Annotated[int, typer.Option(help="Kills in all.")] = 100,
    rounds: Annotated[int, typer.Option(help="Data folders they are spread over.")] = 5,
    seed: Annotated[int, typer.Option(help="What is drawn and when is killed.")] = 1,
    victim: Annotated[Path | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path, typer.Option(hidden=True)] = Path(),
    workers: Annotated[int, typer.Option(hidden=True)] = 1,
    kill_share: Annotated[float, typer.Option(hidden=True)] = 0,
    refuse_seconds: Annotated[float, typer.Option(hidden=True)] = 0,
) -> None:
    """Kill, restart, compare."""
    if victim is not None:
        _victim(_Round(folder, victim, workers), kill_share, refuse_seconds)
        return
    began = time.monotonic()
    chance = random.Random(seed)  # noqa: S311
    results: dict[str, Snapshot] = {}
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="pageglass-crash-") as scratch:
        for number in range(rounds):
            # In this process alone, and with workers of its own.
            result = _kill_round(
                Path(scratch) / f"kills-{number}", chance, -(-kills // rounds), number % 3
            )
            total += result["kills"]
            results[f"kills {number + 1}, {number % 3} workers"] = result
            print(f"round {number + 1}: {json.dumps(result)}", file=sys.stderr, flush=True)
        results["store refuses"] = _refusing_round(Path(scratch) / "refuses", chance)
        results["disk full"] = _full_disk_round(Path(scratch) / "full", chance)
    differences = sum(len(result["differences"]) for result in results.values())
    report = {
        "kills": total,
        "rounds": results,
        "differences": differences,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(report, indent=1))
    if differences:
        raise SystemExit(1)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
