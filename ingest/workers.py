"""Workers as processes: started when there is work, ended when there is none, replaced when lost.

Each process claims jobs, reads, encodes, and hands over what comes of it through one pipe to a
thread of the owner, who alone writes; the pipe is also what keeps a worker at most a batch ahead.
A worker's death costs the batch it had in hand. With no processes, the same work is done on a
thread of the owner itself.

``python -m ingest.workers`` is such a process; it is of no use by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, cast

from ingest.failures import Failure, classify
from ingest.jobs import Jobs
from ingest.pipeline import Encoded, Order, Pipeline
from ingest.worker import Begun, Verdict, Worker
from ingest.writer import Writer
from pageglass.settings import Settings
from pageglass.types import Page

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_MOST_BY_DEFAULT = 4
_DESK = ("claim", "begin", "known", "alive", "store", "settle", "leave")
"""What a worker may ask of the writer: the methods of ingest.worker.Desk."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def worker_processes(settings: Settings) -> int:
    """How many worker processes these settings mean.

    By default one a core, a few at most since each holds the models; none where the models are
    large, so that they are in memory once.
    """
    if settings.ingest.workers is not None:
        return settings.ingest.workers
    return min(settings.threads, _MOST_BY_DEFAULT) if settings.profile == "lite" else 0


class WorkerPool:
    """The workers of an open data folder."""

    def __init__(
        self,
        writer: Writer,
        jobs: Jobs,
        settings: Settings,
        *,
        processes: int,
        local: Callable[[], Pipeline],
    ) -> None:
        """``processes`` may be 0; then ``local`` makes the pipeline that works in this process."""
        self._writer = writer
        self._jobs = jobs
        self._settings = settings
        self._processes = processes
        self._local = local
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        writer.workers = max(1, processes)
        writer.queued = self.wake

    def start(self) -> None:
        """Begin; work that is queued, now or later, is done until ``stop``."""
        for number in range(max(1, self._processes)):
            run = self._run_process if self._processes else self._run_here
            thread = threading.Thread(
                target=self._slot, args=(number, run), name=f"worker-{number + 1}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End after the page in work; what was not stored is done next time."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def wake(self) -> None:
        """There may be new work."""
        with self._changed:
            self._changed.notify_all()

    def _slot(self, number: int, run: Callable[[str, int], Failure | None]) -> None:
        """One worker after the other, each for as long as there is work."""
        name = f"{os.getpid()}-{number + 1}"
        pause = _PAUSE_SECONDS
        while self._wait(number, None):
            try:
                failure = run(name, number)
            except Exception as error:
                failure = classify(error)
                _log.exception("the worker %s goes on after an error", name)
            if failure is not None and failure.kind == "outage":
                _log.error("%s", failure.reason)
                self._writer.outage = failure.reason
            self._release(name, failure)
            if failure is None:
                pause = _PAUSE_SECONDS
                continue
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _release(self, name: str, failure: Failure | None) -> None:
        """Give back what the worker had; where that cannot be written now, as soon as it can."""
        told = False
        while True:
            try:
                self._writer.release(name, failure)
                return
            except Exception as error:
                if not told:
                    _log.error(
                        "the work of %s is given back once that can be written: %s", name, error
                    )
                told = True
                if self._stopping.wait(_PAUSE_SECONDS):
                    return  # Whoever opens the folder next finds it running, and queues it.

    def _wait(self, number: int, seconds: float | None) -> bool:
        """Until there is work for worker ``number``; False once stopping, or after ``seconds``."""
        until = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not self._stopping.is_set():
                due = self._jobs.due()
                # One that is up takes what there is; another starts only if it has work, too.
                if due and (seconds is not None or due + self._jobs.running() > number):
                    return True
                if until is not None and time.monotonic() >= until:
                    return False
                # Jobs also become due by themselves.
                self._changed.wait(_LOOK_SECONDS)
        return False

    # On this process's own thread

    def _run_here(self, name: str, number: int) -> Failure | None:
        pipeline = self._local()
        try:
            worker = Worker(
                self._writer,
                pipeline,
                name=name,
                batch_pages=self._settings.ingest.batch_pages,
                stopping=self._stopping.is_set,
            )
            while self._wait(number, _IDLE_SECONDS):
                worker.drain()
        finally:
            pipeline.close()
        return None

    # In a process

    def _run_process(self, name: str, number: int) -> Failure | None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "ingest.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us; we end it.
            )
        pipe = Connection(ours.detach())
        served = False

        def note() -> None:
            nonlocal served
            served = True

        try:
            share = max(1, self._settings.threads // self._processes)
            pipe.send((os.getpid(), name, self._settings.model_copy(update={"threads": share})))
            return self._serve(pipe, number, note)
        except (EOFError, ConnectionError):
            code = process.wait()
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            if served:
                return Failure("transient", f"the worker process ended unexpectedly ({how})")
            return Failure(
                "outage",
                f"worker processes do not start ({how}): the log says why; with the setting"
                " ingest.workers=0 none are needed",
            )
        finally:
            process.kill()
            process.wait()
            pipe.close()

    def _serve(self, pipe: Connection, number: int, note: Callable[[], None]) -> Failure | None:
        """Answer a worker's requests, ``note`` each, until it has been idle for a while."""
        lease = self._settings.ingest.lease_seconds
        while True:
            waited = 0.0
            while not pipe.poll(_LOOK_SECONDS):
                waited += _LOOK_SECONDS
                if self._stopping.is_set():
                    return None
                if waited >= lease:
                    return Failure(
                        "transient",
                        f"gave no sign for {lease:g} seconds (setting ingest.lease_seconds)",
                    )
            name, arguments = cast(tuple[str, tuple[Any, ...]], pipe.recv())
            note()
            if self._stopping.is_set():
                return None
            if name == "wait":
                work = self._wait(number, _IDLE_SECONDS)
                pipe.send((True, work))
                if not work:
                    return None
                continue
            if name == "fail":
                return cast(Failure, arguments[0])
            try:
                reply = (True, self._answer(name, arguments))
            except Exception as error:
                reply = (False, _picklable(error))
            pipe.send(reply)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name not in _DESK:
            raise AssertionError(name)
        return getattr(self._writer, name)(*arguments)


def _picklable(error: Exception) -> Exception:
    """The error; where one of a library does not survive being sent, its words do."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return RuntimeError(str(error))
    return error


class _RemoteDesk:
    """The owner's desk, from inside a worker process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def wait(self) -> bool:
        """Until there is work; False where the process may end."""
        return self._ask("wait")

    def fail(self, failure: Failure) -> None:
        """Say why the process ends; there is no answer."""
        with contextlib.suppress(ConnectionError):
            self._pipe.send(("fail", (failure,)))

    def claim(self, worker: str, beside: bool = False) -> Order | None:
        return self._ask("claim", worker, beside)

    def begin(self, order: Order, pages: int) -> Begun | None:
        return self._ask("begin", order, pages)

    def known(self, order: Order, indices: Sequence[int]) -> dict[int, Page]:
        return self._ask("known", order, list(indices))

    def alive(self, order: Order) -> Verdict:
        return self._ask("alive", order)

    def store(self, order: Order, encoded: Encoded) -> Verdict:
        return self._ask("store", order, encoded)

    def settle(self, order: Order, failure: Failure | None) -> None:
        self._ask("settle", order, failure)

    def leave(self, order: Order) -> None:
        self._ask("leave", order)

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((name, arguments))
            ok, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            # The owner is gone, or stops: there is nobody to work for.
            raise SystemExit from None
        if not ok:
            raise value
        return value


def local_pipeline(settings: Settings) -> Pipeline:
    """A pipeline with models of its own, which load at first use."""
    from ingest.ocr import Ocr
    from retrieval.encoders.minilm import MiniLM
    from retrieval.profiles import Checkpoints, load_profile

    minilm, checkpoints = MiniLM(threads=settings.threads), Checkpoints.of(settings)
    profile = load_profile(settings, minilm, checkpoints)
    return Pipeline(profile, Ocr(threads=settings.threads), settings.ingest)


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent is gone, even in the middle of a page.

    As in ``_pdf_child.py``, which imports nothing of ours.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def main() -> None:
    """Work for the owner at the other end of the pipe whose descriptor is the argument."""
    from pageglass.logs import set_up_logging

    pipe = Connection(int(sys.argv[1]))
    parent, name, settings = cast(tuple[int, str, Settings], pipe.recv())
    _die_with(parent)
    set_up_logging(settings.log_level, settings.log_format)
    pipeline = local_pipeline(settings)
    desk = _RemoteDesk(pipe)
    worker = Worker(desk, pipeline, name=name, batch_pages=settings.ingest.batch_pages)
    try:
        while desk.wait():
            worker.drain()
    except Exception as error:
        _log.exception("the worker %s ends after an error", name)
        desk.fail(classify(error))
    finally:
        pipeline.close()


if __name__ == "__main__":
    main()
