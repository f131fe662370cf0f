"""Who may not do a thing is told so before what they send is read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.app import _routes
from api.routes import Needs
from api.services import Services
from pageglass.settings import load_settings
from tests.serving import serving

WRITES = sorted(
    (method, route.path, tuple(dependency.call.scopes))
    for route in _routes()
    for dependency in route.dependant.dependencies
    if isinstance(dependency.call, Needs)
    for method in (route.methods or set()) & {"POST", "PATCH", "DELETE"}
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """An address, and a key of each scope."""
    folder: Path = tmp_path_factory.mktemp("access")
    settings = load_settings({"data_dir": folder / "data", "server": {"keys": "on"}})
    with Services(settings, command="test") as services, serving(services) as address:
        keys = {scope: services.keys.add(scope, [scope])[1] for scope in ("search", "ingest")}
        yield address, keys


@pytest.mark.parametrize(("method", "path", "scopes"), WRITES)
@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json"])
def test_a_key_that_may_not_is_refused_without_its_body(
    server: tuple[str, dict[str, str]], method: str, path: str, scopes: tuple[str, ...], kind: str
) -> None:
    address, keys = server
    key = next((text for scope, text in keys.items() if scope not in scopes), None)
    if key is None:
        pytest.skip("either may")
    target = urlsplit(address)
    head = (
        f"{method} {path.replace('{', '').replace('}', '')} HTTP/1.1\r\nHost: {target.netloc}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: {kind}\r\nContent-Length: 900000\r\n"
        "Idempotency-Key: abc\r\n\r\n"
    )
    with socket.create_connection((target.hostname or "", target.port or 0), timeout=10) as client:
        client.sendall(head.encode())
        # Nothing of the body is on its way, and yet there is an answer.
        assert client.recv(65536).startswith(b"HTTP/1.1 403")
