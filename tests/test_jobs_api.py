"""Jobs, held removals, check and backup over HTTP, and watched files from another process."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.looking import Looking
from api.owner import owner_of
from api.remote import RemoteServices
from api.remote_registry import RemoteRegistry
from api.services import Services
from ingest.watch import Watcher
from pageglass.errors import JobConflict, JobNotFound, ServerError, UsageError
from pageglass.settings import Settings, load_settings
from tests.tiny import pdf

# With less text a page goes to OCR.
LONG = "The feed pump of line two failed since its bearing ran dry in March."


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), base_url="http://127.0.0.1") as client:
        yield client


def add(services: Services, path: Path) -> str:
    return services.add(io.BytesIO(path.read_bytes()), name=path.name).id


def until(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_jobs_are_listed_cancelled_and_retried(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    id = add(services, pdf(tmp_path / "a.pdf", ["abc"]))
    listed = client.get("/jobs", params={"state": ["queued", "running"]}).json()
    assert [(job["document_id"], job["state"]) for job in listed["jobs"]] == [(id, "queued")]
    assert listed["counts"] == {"queued": 1}
    assert client.post(f"/jobs/{id}/cancel").json()["state"] == "cancelled"
    refused = client.post(f"/jobs/{id}/cancel")
    assert refused.status_code == 409
    assert refused.json()["code"] == "job-conflict"
    assert client.get("/jobs/nobody").json()["code"] == "job-not-found"
    assert client.post(f"/jobs/{id}/retry").json()["state"] == "queued"
    services.start_worker()
    until(lambda: client.get(f"/jobs/{id}").json()["state"] == "done")
    assert client.get(f"/jobs/{id}").json()["pages_done"] == 1
    assert client.get("/jobs", params={"state": "resting"}).status_code == 422


def test_all_that_was_given_up_is_tried_again(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 oh no")
    services.start_worker()
    id = add(services, broken)
    until(lambda: services.job(id).state == "dead")
    assert "damaged" in client.get(f"/jobs/{id}").json()["reason"]
    assert client.post("/jobs/retry").json() == {"retried": 1}
    until(lambda: services.job(id).state == "dead")


def test_check_backup_and_status_over_http(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    list(services.ingest([pdf(tmp_path / "a.pdf", ["abc"])]))
    assert client.post("/check", json={"deep": True}).json() == {"findings": []}
    made = client.post("/backups")
    assert made.status_code == 201
    folder = Path(made.json()["folder"])
    assert folder.parent == services.settings.data_dir / "backups"
    status = client.get("/status").json()
    assert status["jobs"] == {"done": 1}
    assert status["held"] == 0
    assert status["outage"] is None
    assert status["documents"] == {"indexed": 1}


def test_a_state_that_is_none_is_the_caller_s_mistake(client: TestClient) -> None:
    form = {"collection": "c", "path": "/a.pdf", "folder": "/", "state": '{"size": "big"}'}
    refused = client.post("/sources", data=form, files={"file": ("a.pdf", b"x")})
    assert refused.status_code == 422
    assert refused.json()["code"] == "request-invalid"


class Server:
    """`pageglass serve` in a process of its own."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "api.cli", "--data-dir", str(data), "serve"),
                *("--port", "0", *arguments),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found
        self.address = found[0]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_the_work_can_be_followed_and_a_stop_ends_the_stream(data: Path, tmp_path: Path) -> None:
    server = Server(data)
    events: list[dict[str, object]] = []
    opened, ended = threading.Event(), threading.Event()

    def follow() -> None:
        with httpx.stream("GET", f"{server.address}/jobs/events", timeout=60) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            for line in stream.iter_lines():
                opened.set()
                if line.startswith("data: "):
                    events.append(json.loads(line[6:]))
        ended.set()

    threads = [threading.Thread(target=follow) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert opened.wait(20)
    # More onlookers than there are worker threads; answers go on.
    assert httpx.get(f"{server.address}/livez", timeout=5).json()["alive"]
    with RemoteServices(server.address) as remote:
        path = pdf(tmp_path / "a.pdf", [f"page {n} {LONG}" for n in range(20)])
        (report,) = remote.ingest([path])
        assert report.outcome == "indexed"
        until(lambda: any(event["counts"] == {"done": 1} for event in events))
    states = {job["state"] for event in events for job in event["jobs"]}  # type: ignore[attr-defined]
    assert "done" in states
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 8
    assert server.process.returncode == 0
    for thread in threads:
        thread.join(10)
    assert ended.is_set()


def test_everything_about_jobs_works_from_afar(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 oh no")
    server = Server(data)
    try:
        with RemoteServices(server.address) as remote:
            (report,) = remote.ingest([broken])
            assert report.document is not None
            id = report.document.id
            assert [job.state for job in remote.job_list(("dead",))] == ["dead"]
            assert remote.retry(id).document_id == id
            until(lambda: remote.job_counts() == {"dead": 1})
            assert remote.retry_dead() == 1
            until(lambda: remote.job_counts() == {"dead": 1})
            with pytest.raises(JobConflict):
                remote.cancel(id)
            with pytest.raises(JobNotFound):
                remote.retry("0" * 32)
            assert remote.held() == []
            assert remote.settle_held(remove=True) == 0
            assert remote.check(repair=True) == []
            assert remote.seconds_left() is None
            report = remote.backup(tmp_path / "copy")
            assert Path(report.folder, "catalog.sqlite").is_file()
            with pytest.raises(UsageError, match="already"):
                remote.backup(tmp_path / "copy")
    finally:
        server.stop()


def test_a_folder_is_watched_for_a_server_that_comes_and_goes(data: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    flags = {"settle_seconds": 0.1, "grace_seconds": 0.3, "poll_seconds": 0.2}
    settings = load_settings({"data_dir": data, "watch": flags})
    registry = RemoteRegistry(data)
    with pytest.raises(ServerError, match="no server owns"):
        registry.sources(str(inbox))
    watcher = Watcher([inbox], registry=registry, collection="c", settings=settings.watch)
    thread = threading.Thread(target=watcher.forever)
    thread.start()
    server: Server | None = None

    def names() -> set[str]:
        with Looking(settings) as looking:
            return {d.name for d in looking.documents() if d.state == "indexed"}

    try:
        pdf(inbox / "a.pdf", ["abc"])
        time.sleep(0.5)
        server = Server(data)
        until(lambda: names() == {"a.pdf"})
        server.stop(signal.SIGKILL)
        (inbox / "a.pdf").rename(inbox / "ä b.pdf")
        pdf(inbox / "c.pdf", ["cde"])
        server = Server(data, "--watch", str(inbox))
        until(lambda: names() == {"ä b.pdf", "c.pdf"})
        (inbox / "c.pdf").unlink()
        until(lambda: names() == {"ä b.pdf"})
        with RemoteServices(server.address) as remote:
            assert remote.check(deep=True) == []
            # The rename cost nothing.
            assert len(remote.job_list()) == 1
    finally:
        watcher.stop()
        if server is not None:
            server.stop()
        thread.join(20)
    assert owner_of(data) is None


def test_looking_disturbs_nobody_and_needs_nothing(settings: Settings, tmp_path: Path) -> None:
    with Looking(settings, may_be_new=True) as looking:
        assert looking.status().documents == {}
        assert looking.job_list() == []
    assert not settings.data_dir.exists()
    with Services(settings, command="ingest") as services:
        id = add(services, pdf(tmp_path / "a.pdf", ["abc"]))
        with Looking(settings) as looking:
            assert looking.status().jobs == {"queued": 1}
            assert [job.document_id for job in looking.job_list(("queued",))] == [id]
            assert looking.held() == []
            assert looking.seconds_left() is None
        list(services.ingest([]))
    with Looking(settings) as looking:
        assert [document.state for document in looking.documents()] == ["indexed"]
