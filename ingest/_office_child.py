"""The program that runs LibreOffice for ``ingest.office``, under limits, and leaves none of it.

Its one argument is a JSON object: ``command``, the ``folder`` that all of it happens in, the
``sockets`` that may be outside, what else the command may ``read`` (null: everything), and the
limits ``cpu_seconds``, ``memory_bytes`` and ``file_bytes``. It stays until the command and all that
the command started are gone. When its standard input ends, because the parent has waited long
enough or is no more, it kills them and removes the folder. Its exit status is the command's, 127
where that does not start, 126 where it cannot be kept from reading more.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows has no limits for a process; the parent's clock is all there is.
    resource = None

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h


def _limit(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Hard limits for this process and, by inheritance, for each that it starts."""
    if resource is None:
        return
    for what, most in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        # macOS knows RLIMIT_AS and refuses to set it.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def _leave_network() -> None:
    """Have no network from here on, where the system lets a process ask for that."""
    if sys.platform != "linux":
        return
    unshare = ctypes.CDLL(None).unshare
    user, group = os.getuid(), os.getgid()
    if unshare(_CLONE_NEWNET) == 0 or unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return
    # In a name space for users of its own: the same user as before.
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with contextlib.suppress(OSError):
            Path("/proc/self", name).write_text(content)


def _confine(order: dict[str, Any]) -> None:
    """In the command's process, before it starts: no file from here on but the folder's and those
    that it may read."""
    if order["read"] is None:
        return
    confine = runpy.run_path(str(Path(__file__).with_name("_confinement.py")))["confine"]
    sockets = {os.path.dirname(path) for path in order["sockets"]}  # noqa: PTH120
    if not confine(read=order["read"], write=[order["folder"], "/dev/null"], sockets=sockets):
        os._exit(126)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the command with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    """Run the command to its end, or that of standard input."""
    order = json.loads(sys.argv[1])
    _limit(order["cpu_seconds"], order["memory_bytes"], order["file_bytes"])
    _leave_network()
    try:
        process = subprocess.Popen(  # noqa: S603  (composed by ingest.office)
            order["command"],
            stdin=subprocess.DEVNULL,
            process_group=None if sys.platform == "win32" else 0,
            preexec_fn=None if sys.platform == "win32" else lambda: _confine(order),
        )
    except OSError:
        return 127
    unwanted = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        unwanted.set()
        _kill(process)

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    _kill(process)  # what it left behind
    for path in order["sockets"]:
        Path(path).unlink(missing_ok=True)
    if unwanted.is_set():
        shutil.rmtree(order["folder"], ignore_errors=True)
    return code


if __name__ == "__main__":
    # Not by sys.exit, which would wait for the lock of the input that the thread is reading.
    os._exit(main() & 0xFF)
