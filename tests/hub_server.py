"""A model hub for tests, on loopback: as much of the Hugging Face hub's protocol as downloading
whole models takes.

    with hub_server() as hub:
        commit = hub.add("owner/model", folder)
        hub.cut("model.safetensors", after=100)
        subprocess.run([...], env={**os.environ, **hub.environment(home)})
        assert hub.fetched("owner/model") == [...]

Its client reads the environment once, at import: tests use it from processes of their own.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_LARGE = (".safetensors", ".bin", ".onnx", ".h5", ".msgpack", ".gguf", ".pt")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; ``begin`` is the first byte it asks for."""

    method: str
    path: str
    begin: int = 0


@dataclass
class _Repository:
    commits: dict[str, Path] = field(default_factory=dict[str, Path])
    refs: dict[str, str] = field(default_factory=dict[str, str])
    token: str | None = None


@dataclass
class HubServer:
    """What a test sees of the hub, and what it may change while the hub runs."""

    url: str
    requests: list[Request] = field(default_factory=list[Request])
    _repositories: dict[str, _Repository] = field(default_factory=dict[str, _Repository])
    _cuts: dict[str, int] = field(default_factory=dict[str, int])
    _down: set[str] = field(default_factory=set[str])
    _stays_down: bool = False

    def add(self, name: str, folder: Path, *, ref: str = "main", token: str | None = None) -> str:
        """Serve a folder as the commit that the branch or tag ``ref`` names; returns the commit.

        Whoever wants a file of it must show ``token``, where there is one. Commits do not change,
        so the folder must not either.
        """
        digest = hashlib.sha1()
        for path in _files(folder):
            digest.update(f"{path.relative_to(folder)}\0{_oid(path.read_bytes())}\n".encode())
        repository = self._repositories.setdefault(name, _Repository())
        repository.commits[digest.hexdigest()] = folder
        repository.refs[ref] = digest.hexdigest()
        repository.token = token
        return digest.hexdigest()

    def cut(self, file: str, *, after: int, for_good: bool = True) -> None:
        """Break off the next download of ``file`` after so many bytes; ``for_good`` leaves it out
        of order until ``mend``."""
        self._cuts[file] = after
        self._stays_down = for_good

    def mend(self) -> None:
        """Serve everything again."""
        self._cuts.clear()
        self._down.clear()

    def fetched(self, name: str) -> list[str]:
        """The files of a repository whose content was asked for, in order of their names."""
        marks = [(r, r.path.partition("/resolve/")) for r in self.requests if r.method == "GET"]
        return sorted(
            {rest.partition("/")[2] for _, (of, mark, rest) in marks if mark and of == f"/{name}"}
        )

    def environment(self, home: Path) -> dict[str, str]:
        """What makes a process use this hub, and ``home`` as its cache."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home)}

    def _takes_cut(self, file: str) -> int | None:
        """Where to break off this download; counts."""
        after = self._cuts.pop(file, None)
        if after is not None and self._stays_down:
            self._down.add(file)
        return after


@contextmanager
def hub_server() -> Generator[HubServer]:
    """A running hub, without any models."""
    http = _Http(("127.0.0.1", 0), _Handler)
    hub = HubServer(f"http://127.0.0.1:{http.server_address[1]}")
    http.hub = hub
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are what some tests are about."""


class _Refused(Exception):
    """``code`` is what the hub's client goes by."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # One packet a small answer: delayed acknowledgements would cost 40 ms each.
    server: _Http  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.server.hub.requests.append(Request(self.command, path, begin))
        try:
            match path.strip("/").split("/"):
                case ["api", "models", owner, name]:
                    self._describe(f"{owner}/{name}", "main")
                case ["api", "models", owner, name, "revision", *revision]:
                    self._describe(f"{owner}/{name}", "/".join(revision))
                case ["api", "models", owner, name, "tree", revision]:
                    self._list(f"{owner}/{name}", revision)
                case [owner, name, "resolve", revision, *file]:
                    self._file(f"{owner}/{name}", revision, "/".join(file), begin)
                case _:
                    raise _Refused(HTTPStatus.NOT_FOUND, "NotFound", "no such path")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
            self._json({"error": str(refused)}, refused.status, headers)

    def _commit(self, name: str, revision: str) -> tuple[str, Path]:
        repository = self.server.hub._repositories.get(name)
        if repository is None:
            # To those who are not logged in, what is not there might be private.
            raise _Refused(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Repository not found")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise _Refused(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _describe(self, name: str, revision: str) -> None:
        commit, folder = self._commit(name, revision)
        siblings = [{"rfilename": path} for path, _ in _listed(folder)]
        self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    def _list(self, name: str, revision: str) -> None:
        _, folder = self._commit(name, revision)
        entries: list[dict[str, Any]] = []
        for path, content in _listed(folder):
            entry: dict[str, Any] = {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": _oid(content),
            }
            if path.endswith(_LARGE):
                entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 1}
            entries.append(entry)
        self._json(entries)

    def _file(self, name: str, revision: str, file: str, begin: int) -> None:
        hub = self.server.hub
        commit, folder = self._commit(name, revision)
        token = hub._repositories[name].token
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            raise _Refused(
                HTTPStatus.UNAUTHORIZED, "GatedRepo", f"Access to model {name} is restricted."
            )
        if file in hub._down:
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Unavailable", "out of order")
        if file not in dict(_listed(folder)):
            raise _Refused(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        content = (folder / file).read_bytes()
        headers = {"ETag": f'"{_etag(file, content)}"', "X-Repo-Commit": commit}
        status = HTTPStatus.OK
        if begin:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        cut = hub._takes_cut(file) if self.command == "GET" else None
        self._send(content[begin:], status, headers, cut=cut)

    def _json(
        self,
        value: Any,
        status: HTTPStatus = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._send(
            json.dumps(value).encode(),
            status,
            {"Content-Type": "application/json", **(headers or {})},
        )

    def _send(
        self, body: bytes, status: HTTPStatus, headers: Mapping[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        self.close_connection = self.close_connection or cut is not None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _listed(folder: Path) -> list[tuple[str, bytes]]:
    """Path and content of every file."""
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in _files(folder)]


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _etag(file: str, content: bytes) -> str:
    """Large files are known by their SHA-256, others as git knows them."""
    return hashlib.sha256(content).hexdigest() if file.endswith(_LARGE) else _oid(content)
