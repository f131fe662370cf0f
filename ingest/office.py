"""Office files into PDFs, by LibreOffice where it is installed."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ingest._confinement import supported
from ingest.formats import OLE2, open_zip
from ingest.pdf import child_environment
from pageglass.durable import put_in_place
from pageglass.errors import (
    DiskFull,
    EncryptedDocument,
    FormatUnsupported,
    LimitExceeded,
    NotADocument,
    PageglassError,
)
from pageglass.settings import IngestSettings

UNCONFINED = (
    "office files are refused, since nothing here can keep LibreOffice from other files: use Linux"
    " 5.13 or newer with Landlock, install bubblewrap, or save the file as PDF (setting"
    " ingest.confine_office opens them at your own risk)"
)
"""What is said where they are."""

Confinement = Literal["landlock", "bubblewrap"]

_CHILD = Path(__file__).with_name("_office_child.py")
_ELSEWHERE = (  # where LibreOffice's installers put it without touching PATH
    "/Applications/LibreOffice.app/Contents/MacOS/soffice",
    r"C:\Program Files\LibreOffice\program\soffice.com",
    r"C:\Program Files (x86)\LibreOffice\program\soffice.com",
)
_MISSING = (
    "office files need LibreOffice: install it (Debian: apt install libreoffice-writer"
    " libreoffice-calc libreoffice-impress), or save the file as PDF"
)
# LibreOffice's filters. Left to find one itself, it reads a damaged file as plain text.
_FILTERS = {
    ".docx": "MS Word 2007 XML",
    ".xlsx": "Calc MS Excel 2007 XML",
    ".pptx": "Impress MS PowerPoint 2007 XML",
    ".odt": "writer8",
    ".ods": "calc8",
    ".odp": "impress8",
    ".doc": "MS Word 97",
    ".xls": "MS Excel 97",
    ".ppt": "MS PowerPoint 97",
    ".rtf": "Rich Text Format",
}
# What a program needs of a system, by Linux's habits: libraries, fonts, data that everybody has.
# The program's own folder comes beside. No /proc, /sys, /home, /tmp, and of /etc these alone.
_SYSTEM = (
    *("/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/usr/bin", "/usr/lib", "/usr/lib32"),
    *(
        "/usr/lib64",
        "/usr/libexec",
        "/usr/share",
        "/usr/local/share/fonts",
        "/var/cache/fontconfig",
    ),
    *("/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache", "/etc/libreoffice", "/etc/localtime"),
    *("/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"),
)
_SOCKETS = "/tmp"  # noqa: S108  (where LibreOffice listens for others of its profile)
_MAPPED = 4 * 2**30  # address space that LibreOffice reserves beside the memory it uses
_MANIFEST = 2**20  # read this far: a line for each part of the file
# No macros, and nothing fetched from other files or servers: a document may link to any.
_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
{}
</oor:items>
"""
_SECURITY = "Common/Security/Scripting"
_OPTIONS = (
    (_SECURITY, "DisableMacrosExecution", "true"),
    (_SECURITY, "MacroSecurityLevel", "3"),
    (_SECURITY, "BlockUntrustedRefererLinks", "true"),
    ("Writer/Content/Update", "Link", "0"),
    ("Calc/Content/Update", "Link", "1"),
)
_OPTION = (
    '<item oor:path="/org.openoffice.Office.{}"><prop oor:name="{}" oor:op="fuse">'
    "<value>{}</value></prop></item>"
)
# [MS-CFB] 2.6.1: 64 bytes of name, its length in bytes, and the type of a stream.
_ENCRYPTED_PACKAGE = re.compile(
    re.escape("EncryptedPackage".encode("utf-16-le").ljust(64, b"\0") + b"\x22\0\2")
)


def find_libreoffice() -> str | None:
    """The path of LibreOffice's program, None where it is not installed."""
    for name in ("soffice", "libreoffice", *_ELSEWHERE):
        if found := shutil.which(name):
            return str(Path(found).absolute())
    return None


def confinement() -> Confinement | None:
    """What can keep LibreOffice to the file it opens on this system: Landlock (Linux 5.13), else
    bubblewrap where it is installed and works; None where nothing can. Takes milliseconds."""
    if supported():
        return "landlock"
    if bubblewrap := shutil.which("bwrap"):
        probe = [*_bubble(bubblewrap, ["/"], None), "true"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:  # noqa: S603
            return "bubblewrap"
    return None


def convert(path: Path, target: Path, settings: IngestSettings) -> None:
    """Turn the office file at ``path`` into a PDF at ``target``, which appears whole or not at all.

    ``path`` has the suffix that ``ingest.formats.sniff`` gave it, which says how to read it.
    LibreOffice gets a copy, a profile of its own, limits (``ingest.limits``) and nothing else: no
    other file (``confinement``) and, where the system allows it, no network. Raises
    FormatUnsupported, EncryptedDocument, NotADocument or LimitExceeded where the file cannot be
    had, DiskFull where there was no room for the PDF, and PageglassError where LibreOffice itself
    does not run.
    """
    if not settings.office:
        raise FormatUnsupported(
            "office files are not taken (setting ingest.office): save the file as PDF"
        )
    program = find_libreoffice()
    if program is None:
        raise FormatUnsupported(_MISSING)
    if settings.confine_office and confinement() is None:
        raise FormatUnsupported(UNCONFINED)
    if _needs_password(path):
        raise EncryptedDocument("needs a password: save a copy without one and add that")
    with tempfile.TemporaryDirectory(
        prefix=".", dir=target.parent, ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        # LibreOffice writes a lock file beside what it opens.
        copy = folder / f"document{path.suffix}"
        shutil.copyfile(path, copy)
        made = folder / "made" / "document.pdf"
        _run(program, copy, made.parent, folder, settings)
        if not _is_whole(made):
            if shutil.disk_usage(folder).free < settings.reserve_mb * 2**20:
                raise DiskFull("no room for the PDF of an office file: free some disk space")
            raise NotADocument("LibreOffice makes no pages of it: damaged, or of another kind")
        put_in_place(made, target)


def _run(program: str, copy: Path, made: Path, folder: Path, settings: IngestSettings) -> None:
    """Have LibreOffice write the PDF of ``copy`` into ``made``; whether it did is not said."""
    profile = folder / "profile"
    (profile / "user").mkdir(parents=True)
    # The installation's own cache of extensions is not there to be written.
    cache = (folder / "extensions").as_uri()
    options = "\n".join(_OPTION.format(*option) for option in _OPTIONS)
    (profile / "user" / "registrymodifications.xcu").write_text(_PROFILE.format(options))
    limits = settings.limits
    command = [
        program,
        f"-env:UserInstallation={profile.as_uri()}",
        f"-env:UNO_SHARED_PACKAGES_CACHE={cache}",
        "--headless",
        "--norestore",
        "--nologo",
        "--nodefault",
        "--nolockcheck",
        f"--infilter={_FILTERS[copy.suffix]}",
        "--convert-to",
        "pdf",
        "--outdir",
        str(made),
        str(copy),
    ]
    kept = confinement() if settings.confine_office else None
    needed = _needed_by(program)
    if kept == "bubblewrap":
        command = [*_bubble("bwrap", needed, folder), *command]
    order = {
        "command": command,
        "folder": str(folder),
        "read": needed if kept == "landlock" else None,
        "sockets": _sockets(profile.as_uri()),
        "cpu_seconds": math.ceil(limits.convert_seconds) * (os.cpu_count() or 1),
        "memory_bytes": limits.memory_mb * 2**20 + _MAPPED,
        "file_bytes": limits.file_mb * 2**20,  # a larger PDF would not be opened
    }
    # Leaving the block closes its input, which is what makes the child kill LibreOffice.
    with subprocess.Popen(  # noqa: S603  (our own interpreter and our own file)
        [sys.executable, "-I", "-S", "-B", str(_CHILD), json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=child_environment() | {"HOME": str(folder), "TMPDIR": str(folder)},
        start_new_session=True,
    ) as child:
        try:
            child.wait(limits.convert_seconds)
        except subprocess.TimeoutExpired:
            raise LimitExceeded(
                f"LibreOffice took more than {limits.convert_seconds:g} seconds"
                " (setting ingest.limits.convert_seconds)"
            ) from None
    if child.returncode == 126:
        raise FormatUnsupported(UNCONFINED)
    if child.returncode == 127 or child.returncode < 0:  # the file is not to blame
        raise PageglassError(f"LibreOffice does not start, or was killed: try {program} by hand")


def _bubble(program: str, read: Iterable[str], folder: Path | None) -> list[str]:
    """The beginning of a command that sees ``read``, and may write in ``folder``."""
    own = ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")  # noqa: S108
    command = [program, "--unshare-all", "--die-with-parent", *own]
    for path in read:
        if not path.startswith("/dev/"):
            command += ["--ro-bind-try", path, path]
    if folder is not None:
        command += ["--bind", str(folder), str(folder), "--chdir", str(folder)]
    return [*command, "--"]


def _needed_by(program: str) -> list[str]:
    """What LibreOffice may read: what is installed on the system, and its installation."""
    real = Path(program).resolve()
    own = real.parent.parent  # .../libreoffice/program/soffice
    # A script that starts it may be in anybody's folder, which must not be opened for that.
    installed = real.parent.name == "program" and (real.parent / "soffice.bin").is_file()
    return [*_SYSTEM, program, str(real), *([str(own)] if installed else [])]


def _sockets(profile: str) -> list[str]:
    """Where LibreOffice may listen for others of the same profile, whatever TMPDIR says; it is left
    there by a killed one (desktop/source/app/officeipcthread.cxx, sal/osl/unx/pipe.cxx). The user
    is missing in it where the list of users cannot be read."""
    digest = hashlib.md5(profile.encode("utf-16-le"), usedforsecurity=False).digest()
    user = os.getuid() if sys.platform != "win32" else 0
    name = f"SingleOfficeIPC_{''.join(f'{byte:x}' for byte in digest)}"
    return [f"{_SOCKETS}/OSL_PIPE_{name}", f"{_SOCKETS}/OSL_PIPE_{user}_{name}"]


def _is_whole(pdf: Path) -> bool:
    """Whether ``pdf`` was written to its end. LibreOffice's exit status does not tell: it may
    crash on leaving, and leaves happily when it could not read a file."""
    try:
        with pdf.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1024))
            return b"%%EOF" in file.read()
    except FileNotFoundError:
        return False


def _needs_password(path: Path) -> bool:
    """Whether the file is encrypted, as far as its container tells: Office since 2007 puts such a
    file into a compound file, OpenDocument says so in its manifest."""
    with path.open("rb") as file:
        if file.read(len(OLE2)) == OLE2:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _ENCRYPTED_PACKAGE.search(content) is not None
        try:
            with open_zip(file) as archive, archive.open("META-INF/manifest.xml") as manifest:
                return b"encryption-data" in manifest.read(_MANIFEST)
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError, EOFError):
            return False  # damaged, or no OpenDocument: LibreOffice will tell
