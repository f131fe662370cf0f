"""`pageglass serve` in a process of its own, to be read afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Served:
    """A running server. ``stop`` ends it as a person would; then ``log`` is complete."""

    http: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """Send SIGTERM and wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def lines(self) -> list[str]:
        """What went to standard error so far."""
        return self.log.read_text("utf-8").splitlines()

    def indexed(self, path: Path, **form: str) -> str:
        """Upload a file and wait until it is indexed; its document's id."""
        with path.open("rb") as file:
            taken = self.http.post("/documents", files={"file": (path.name, file)}, data=form)
        id = taken.json()["documents"][0]["id"]
        for _ in range(600):
            document = self.http.get(f"/documents/{id}").json()
            if document["state"] == "indexed":
                return id
            assert document["state"] != "failed", document
            time.sleep(0.1)
        raise AssertionError("it was not indexed in a minute")


@contextmanager
def served(folder: Path, *, before: str = "", **settings: Any) -> Generator[Served]:
    """A server on ``folder / "data"`` with ``settings`` as in pageglass.toml; the code ``before``
    runs first in its process. The models load in that process, too: no workers but one thread."""
    variables = {f"PAGEGLASS_{name.upper()}": _written(value) for name, value in settings.items()}
    others = {name: v for name, v in os.environ.items() if not name.startswith("PAGEGLASS_")}
    log = folder / "stderr.txt"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", f"{before}\nfrom api.cli import main\nmain()"),
                *("--data-dir", str(folder / "data"), "serve", "--port", "0"),
            ],
            cwd=ROOT,
            env={**others, "PAGEGLASS_INGEST__WORKERS": "0", **variables},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(rb"http://\S+:\d+", line):
                break
        else:
            raise AssertionError(log.read_text("utf-8"))
        address = found[0].decode()
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as http:
            yield Served(http, process, log)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
