"""Landlock: what a process and all that it starts may still do with files, network and others.

For the programs that open other people's files (``_pdf_child.py``, ``_office_child.py``). They run
where nothing of ours can be imported, so this imports nothing of ours. Linux has Landlock since
5.13 (docs.kernel.org/userspace-api/landlock.html), for every user and in containers; whether it
may be used is for ``supported`` to say. Constants are those of linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # alike on every architecture
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SOCKETS = 1 << 5 | 1 << 9  # LANDLOCK_ACCESS_FS_REMOVE_FILE, LANDLOCK_ACCESS_FS_MAKE_SOCK
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
"""What can be allowed of a file; the rest is of folders."""
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many file rights a version knows; since 5: 16
_NETWORK = 0b11  # bind and connect by TCP, since version 4
_OTHERS = 0b11  # abstract Unix sockets of, and signals to, processes outside, since version 6


def supported() -> int:
    """The version of Landlock that this system lets a process use; 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION))


def confine(
    *, read: Iterable[str] = (), write: Iterable[str] = (), sockets: Iterable[str] = ()
) -> bool:
    """From here on read and execute only what is below ``read``, and change files only below
    ``write``, which may be read, too; neither network nor other processes can be reached, as far
    as the system's version knows of them.

    Holds for this thread, threads and processes that it starts, for good. Descriptors that are open
    stay usable. What is not there is passed over. False where the system does not let it: then
    nothing has changed.
    """
    version = supported()
    if not version:
        return False
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    attributes = struct.pack(
        "=QQQ", rights, _NETWORK if version >= 4 else 0, _OTHERS if version >= 6 else 0
    )
    # Older versions refuse a longer structure than they know.
    attributes = attributes[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for paths, allowed in ((read, _READ), (write, rights), (sockets, _SOCKETS)):
            for path in paths:
                _allow(ruleset, path, allowed)
        no_new_privileges = ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return no_new_privileges == 0 and _syscall(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(path):  # noqa: PTH112  (no Path in a program that starts often)
                rights &= _OF_FILES
            rule = struct.pack("=Qi", rights, descriptor)
            _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(descriptor)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    """What the system call returns; -1 where it fails."""
    call = ctypes.CDLL(None).syscall
    call.restype = ctypes.c_long
    return call(ctypes.c_long(number), *map(_argument, arguments))


def _argument(value: int | bytes | None) -> ctypes.c_long | ctypes.c_char_p:
    return ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value)
