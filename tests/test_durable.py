"""What is accepted outlasts a power cut: the order of system calls, as the kernel saw them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pageglass.durable import make_folder, put_in_place
from tests.tiny import pdf

ROOT = Path(__file__).parents[1]
PUMP = "The feed pump of line two failed since its bearing ran dry in March."
CALLS = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,sendto,write"
# Everything that a person is told, one after the other; a line of "MARK" begins each.
CHILD = """
import os, sys, time
from pathlib import Path
import httpx
from api.services import Services
from pageglass.settings import load_settings
from tests.serving import serving

folder = Path(sys.argv[1])
settings = load_settings({
    "data_dir": folder / "new" / "data",
    "ingest": {"workers": 0},
    "watch": {"settle_seconds": 0.1},
})

def mark(name):
    os.write(2, b"MARK " + name)

mark(b"open")
with Services(settings, command="test") as services, serving(services) as address:
    http = httpx.Client(base_url=address, trust_env=False, timeout=60)
    mark(b"upload")
    upload = {"file": ("one.pdf", (folder / "one.pdf").read_bytes())}
    taken = http.post("/documents", files=upload, headers={"Idempotency-Key": "a"})
    taken.raise_for_status()
    mark(b"change")
    id = taken.json()["documents"][0]["id"]
    http.patch(f"/documents/{id}", json={"tags": ["a"]}).raise_for_status()
    mark(b"key")
    key, _ = services.keys.add("a", ["ask"])
    mark(b"revoke")
    services.keys.revoke(key.id)
    mark(b"ingest")
    for report in services.ingest([folder / "two.pdf"]):
        pass
    mark(b"watch")
    services.watch([folder / "watched"])
    while not services.catalog.watched():
        time.sleep(0.05)
    mark(b"remove")
    http.delete(f"/documents/{id}").raise_for_status()
    mark(b"end")
"""


def _trace(folder: Path) -> dict[str, list[str]]:
    """The calls of the child by what it did, each where it ended; one that tells others something,
    where it began."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    log = folder / "trace"
    ran = subprocess.run(
        [
            *(strace, "-f", "-y", "-s", "200", "-e", f"trace={CALLS}", "-e", "signal=none"),
            *("-o", str(log), sys.executable, "-c", CHILD, str(folder)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "PTRACE" in ran.stderr or "ptrace" in ran.stderr:
        pytest.skip("strace may not trace here")
    assert not ran.returncode, ran.stderr[-2000:]
    parts: dict[str, list[str]] = {}
    begun: dict[str, str] = {}
    part = parts.setdefault("start", [])
    for line in log.read_text("utf-8", "replace").splitlines():
        process, _, call = line.partition(" ")
        call = call.strip()
        if found := re.match(r'write\(2.*"MARK (\w+)"', call):
            part = parts.setdefault(found[1], [])
            continue
        if call.endswith("<unfinished ...>"):
            begun[process] = call.removesuffix("<unfinished ...>")
            if not call.startswith(("sendto", "write")):
                continue
        elif call.startswith("<..."):
            call = begun.pop(process, "") + call.partition("resumed>")[2]
            if call.startswith(("sendto", "write")):
                continue
        part.append(call)
    return parts


def _are_in_order(calls: Sequence[str], patterns: Sequence[str]) -> None:
    """Each pattern fits a call after that of the one before."""
    rest = iter(calls)
    for pattern in patterns:
        assert any(re.search(pattern, call) for call in rest), (pattern, "\n".join(calls))


ORIGINAL = r"fsync\(\d+<[^>]*/originals/\.[^>]*>\) += 0"
RENAMED = r"rename.*/originals/[0-9a-f]{64}\.pdf"
NAMED = r"fsync\(\d+<[^>]*/originals>\) += 0"
ROWS = r"f(data)?sync\(\d+<[^>]*/catalog\.sqlite-wal>\) += 0"
REPLY = r"(sendto|write)\(.*HTTP/1\.1 2"


def test_what_is_said_to_be_done_is_on_disk_before(tmp_path: Path) -> None:
    for name in ("one", "two", "watched/three"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pdf(tmp_path / f"{name}.pdf", [f"{PUMP} {name}"])
    parts = _trace(tmp_path)
    folder = re.escape(str(tmp_path))
    # The folders that are new are there after the cut, as well as what is in them.
    _are_in_order(parts["open"], [rf"fsync\(\d+<{folder}>\)", rf"fsync\(\d+<{folder}/new>\)"])
    _are_in_order(parts["open"], [rf"fsync\(\d+<{folder}/new/data>\)"])
    answer = r"sync\(\d+<[^>]*/idempotency\.sqlite-wal>\) += 0"
    _are_in_order(parts["upload"], [ORIGINAL, RENAMED, NAMED, ROWS, answer, REPLY])
    _are_in_order(parts["change"], [ROWS, REPLY])
    key = r"sync\(\d+<[^>]*/keys\.sqlite-wal>\) += 0"
    _are_in_order(parts["key"], [key])
    _are_in_order(parts["revoke"], [key])
    _are_in_order(parts["ingest"], [ORIGINAL, RENAMED, NAMED, ROWS])
    _are_in_order(parts["watch"], [ORIGINAL, RENAMED, NAMED, ROWS])
    # That it must go is known before anything of it goes; the reply comes when all has gone.
    gone = r"unlink.*/originals/[0-9a-f]{64}\.pdf"
    _are_in_order(parts["remove"], [ROWS, gone, NAMED, REPLY])


def test_a_new_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_file_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "written").write_text("new")
    put_in_place(tmp_path / "written", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target").read_text() == "new"
