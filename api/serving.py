"""`pageglass serve`: one process that owns the data folder, indexes and answers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn

from api.app import create_app
from api.connections import Connection, Limits
from api.services import Services
from ingest.watch import PlannedAction
from pageglass.errors import MissingExtra, SettingsError
from pageglass.settings import Settings
from pageglass.types import Document
from retrieval.torch_runtime import INSTALL


class _Server(uvicorn.Server):
    """Says when it listens, and when it begins to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        limits: Limits,
        listening: Callable[[], None],
        stopping: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._listening = listening
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # ten ticks a second
            self._limits.check(time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)


def serve(
    settings: Settings,
    *,
    folders: Sequence[Path] = (),
    listening: Callable[[str], None],
    progress: Callable[[Document], None],
    told: Callable[[PlannedAction], None],
) -> None:
    """Answer until a signal ends it; ``folders`` are kept indexed meanwhile.

    ``listening`` is called with the address once requests are answered, ``progress`` whenever a
    document moved on, ``told`` with what was done about watched files. Raises SettingsError where
    the port cannot be had, FolderInUse where another process owns the data folder.
    """
    with (
        _listen(settings.server.host, settings.server.port) as listener,
        _tracing(settings.server.traces),
    ):
        address = _address(listener)
        # The socket comes first: the data folder's owner file must name the real address.
        with Services(settings, command="serve", address=address) as services:
            app = create_app(services)
            services.start_worker(progress=progress)
            if folders:
                services.watch(folders, told=told)
            limits = Limits(settings.server)
            config = uvicorn.Config(
                app,
                http=cast(type[asyncio.Protocol], partial(Connection, limits)),
                backlog=limits.backlog,
                log_config=None,
                access_log=False,
                server_header=False,
                # Longer than clients and proxies keep a connection (nginx: 60 seconds): else one
                # may be closed while the next request is on its way.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=settings.server.stop_seconds,
            )
            server = _Server(config, limits, lambda: listening(address), app.state.stopping.set)
            server.run(sockets=[listener])
            # Those that outlived the grace: their threads would keep the folder.
            app.state.questions.cancel_all()


@contextmanager
def _tracing(endpoint: str | None) -> Generator[None]:
    """Send traces to ``endpoint`` meanwhile, if there is one; MissingExtra."""
    if endpoint is None:
        yield
        return
    try:
        from api.traces import exporting
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{error.name} is not installed: run {INSTALL['observability']} in Pageglass's folder"
            " (setting server.traces needs it)"
        ) from None
    with exporting(endpoint):
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server((str(target[0]), port), family=family, backlog=128)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}"
            " (settings server.host and server.port; port 0 picks a free one)"
        ) from None
    # Connections inherit it. Without, the second part of an answer waits 40 ms for the client's
    # word that it has the first: asyncio sees to that only for sockets it opened itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _address(listener: socket.socket) -> str:
    """Where programs on this machine reach the server."""
    name: tuple[str, int] = listener.getsockname()[:2]
    # "Every address" is no address to connect to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])  # noqa: S104
    port = name[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
