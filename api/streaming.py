"""Questions at work: so many at a time, called off when their client goes, streamed as events.

Answering blocks, so it runs on worker threads; what it tells on the way comes back to the event
loop and goes out as server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, EndOfStream, from_thread, get_cancelled_exc_class, to_thread
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.problems import internal_problem, pageglass_problem, request_id_of
from api.turns import Turns
from pageglass.cancellation import Cancellation, Cancelled
from pageglass.errors import Busy, PageglassError
from pageglass.wire import Problem

HEARTBEAT_SECONDS = 15.0
"""Proxies and browsers give up on connections that are silent for a minute."""

_COME_BACK_SECONDS = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, for whose turn it is: ``id`` tells callers apart, ``name`` is the key's name, for
    its weight. ``collection`` is what the question is about, "" for all of them."""

    id: str = ""
    name: str | None = None
    collection: str = ""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A question that waits; ``woken`` is set once it is its turn, or it is not to be."""

    cancellation: Cancellation
    woken: anyio.Event
    served: bool = False
    refused: Busy | None = None


class Questions:
    """Lets so many questions be worked on at a time and so many wait, in fair turns (api.turns);
    more are Busy, which is said to the caller who has most waiting. Used on the event loop."""

    def __init__(
        self, *, at_once: int, waiting: int, weights: Mapping[str, float] | None = None
    ) -> None:
        """``weights`` are shares by the name of a key, 1 for all others."""
        # One thread each: whoever has its turn never waits for another's.
        self._limiter = CapacityLimiter(at_once)
        self._at_once = at_once
        self._weights = weights or {}
        self._names: dict[str, str] = {}
        self._turns: Turns[_Waiting] = Turns(
            waiting, lambda id: self._weights.get(self._names.get(id, ""), 1.0)
        )
        self._in_work = 0
        self._under_way: set[Cancellation] = set()
        self._mean_seconds = 1.0

    @property
    def in_work(self) -> int:
        """Questions that are worked on."""
        return self._in_work

    @property
    def waiting(self) -> int:
        """Questions that wait for their turn."""
        return len(self._turns)

    @property
    def callers_waiting(self) -> int:
        """Callers who have a question waiting."""
        return self._turns.flows

    def cancel_all(self) -> None:
        """Call off whatever is under way."""
        for cancellation in list(self._under_way):
            cancellation.cancel()

    async def answer(self, receive: Receive, work: Callable[[], T], asker: Asker = Asker()) -> T:
        """``work`` on a thread of its own, called off when the client goes.

        The request's body must have been read. Raises what ``work`` raises, Cancelled, Busy.
        """
        async with self.watched(receive) as cancellation:
            return await self.run(work, cancellation, asker)

    async def run(
        self, work: Callable[[], T], cancellation: Cancellation, asker: Asker = Asker()
    ) -> T:
        """``work`` on a thread of its own, once it is its turn; ``cancellation`` calls it off."""

        def called_off_with_its_client() -> T:
            cancellation.check()
            with cancellation.applied():
                return work()

        self._under_way.add(cancellation)
        try:
            await self._turn(cancellation, asker)
            began = time.monotonic()
            try:
                return await to_thread.run_sync(called_off_with_its_client, limiter=self._limiter)
            finally:
                self._mean_seconds += (time.monotonic() - began - self._mean_seconds) / 16
                self._next()
        finally:
            self._under_way.discard(cancellation)

    async def _turn(self, cancellation: Cancellation, asker: Asker) -> None:
        """Wait until it is this question's turn, and count it as worked on. Busy, Cancelled."""
        if self._in_work < self._at_once:
            self._in_work += 1
            return
        one = _Waiting(cancellation, anyio.Event())
        if asker.name in self._weights:
            self._names[asker.id] = asker.name or ""
        place, gone = self._turns.put((asker.id, asker.collection), one)
        if gone is not None:
            gone.item.refused = self._busy(gone.path[0])
            gone.item.woken.set()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # From whichever thread calls it off, maybe after the loop has ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(one.woken.set)

        try:
            with cancellation.stopping(wake):
                await one.woken.wait()
            if one.refused is not None:
                raise one.refused
            if not one.served:
                cancellation.check()
        except BaseException:
            if one.served:
                self._next()
            self._turns.remove(place)
            raise

    def _next(self) -> None:
        """A question is over: whose turn it is goes on."""
        self._in_work -= 1
        if self._turns:
            one = self._turns.pop().item
            one.served = True
            one.woken.set()
            self._in_work += 1

    def _busy(self, id: str) -> Busy:
        own = self._turns.waiting(id)
        return Busy(
            f"{self.waiting:,} questions wait already, {own:,} of them yours: ask again in some"
            " seconds",
            # By then those that wait now have had their turns.
            min(60.0, max(_COME_BACK_SECONDS, self.waiting * self._mean_seconds / self._at_once)),
            hint="setting server.waiting",
        )

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncGenerator[Cancellation]:
        """A cancellation that is used once the client goes, or the server must stop."""
        cancellation = Cancellation()

        async def watch() -> None:
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                cancellation.cancel()

        failure: BaseException | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                yield cancellation
            except (Exception, get_cancelled_exc_class()) as error:
                cancellation.cancel()
                failure = error
            group.cancel_scope.cancel()
        # Raised out here: a task group would put it into an exception group.
        if failure is not None:
            raise failure


@dataclass(frozen=True, slots=True)
class Event:
    """A named event of a stream; ``data`` is sent as JSON."""

    name: str
    data: BaseModel


Emit = Callable[[Event], None]
"""Hands an event on, from the thread that does the work."""


class EventStream(Response):
    """The events of a piece of blocking work, numbered, with heartbeats while nothing happens.

    What goes wrong before the first event is an ordinary problem response; later it is the last
    event, ``error``. The work is called off when the client goes.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        questions: Questions,
        work: Callable[[Emit], None],
        asker: Asker = Asker(),
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """``work`` gets a function to emit events by."""
        self.status_code = 200
        self.background = None
        self._questions = questions
        self._work = work
        self._asker = asker
        self._heartbeat_seconds = heartbeat_seconds
        # Proxies that gather responses would hold the events back.
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    def encode(self, event: Event, number: int) -> bytes:
        """The event as it is sent."""
        data = event.data.model_dump_json()
        return f"id: {number}\nevent: {event.name}\ndata: {data}\n\n".encode()

    def ending(self) -> bytes:
        """What is sent after the last event."""
        return b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work and send its events."""
        begun = False
        number = 0

        async def out(data: bytes) -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
            await send({"type": "http.response.body", "body": data, "more_body": True})

        sender, events = anyio.create_memory_object_stream[Event](math.inf)
        failures: list[Exception] = []

        async def work() -> None:
            try:
                await self._questions.run(
                    lambda: self._work(lambda one: from_thread.run_sync(sender.send_nowait, one)),
                    cancellation,
                    self._asker,
                )
            except Exception as error:
                failures.append(error)
            finally:
                sender.close()

        async with (
            self._questions.watched(receive) as cancellation,
            anyio.create_task_group() as group,
        ):
            group.start_soon(work)
            while True:
                try:
                    with anyio.fail_after(self._heartbeat_seconds):
                        event = await events.receive()
                except TimeoutError:
                    await out(b": still here\n\n")
                except EndOfStream:
                    break
                except get_cancelled_exc_class():
                    # The group waits for the work, which must know that it is over.
                    cancellation.cancel()
                    raise
                else:
                    number += 1
                    await out(self.encode(event, number))
        for failure in failures:
            if not begun:
                raise failure
            if isinstance(failure, Cancelled):
                # Its status is out and nobody is there to be told; no fault, so no word in the log.
                return
            await out(self.encode(self.error(scope, failure), number + 1))
            if not isinstance(failure, PageglassError):
                raise failure
        await out(self.ending())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def error(self, scope: Scope, failure: Exception) -> Event:
        """The event that tells of a failure."""
        return Event("error", problem_of(request_id_of(scope), failure))


def problem_of(request_id: str, failure: Exception) -> Problem:
    """The problem document of a failure."""
    response = (
        pageglass_problem(request_id, failure)
        if isinstance(failure, PageglassError)
        else internal_problem(request_id)
    )
    return Problem.model_validate_json(bytes(response.body))
