"""`pageglass doctor`: is everything there that Pageglass needs, and if not, what helps?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from api.backend import open_backend
from api.owner import owner_of
from api.printing import megabytes
from pageglass.errors import PageglassError
from pageglass.settings import Settings

_PACKAGES = (
    "fastapi",
    "httpx",
    "numpy",
    "onnxruntime",
    "pillow",
    "pydantic-settings",
    "pymupdf",
    "python-multipart",
    "qdrant-edge-py",
    "rapidocr",
    "rich",
    "tokenizers",
    "typer",
    "uvicorn",
    "watchfiles",
)
_FREE_BYTES = 2_000_000_000
_OCR_WEIGHTS = ("*det*.onnx", "*rec*.onnx")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``advice`` says what to do where it is not ``ok``."""

    name: str
    ok: bool
    found: str
    advice: str | None = None


def check_all(settings: Settings) -> Iterator[Check]:
    """Look at everything in turn; a check that fails does not stop the others."""
    checks: tuple[Callable[[Settings], Check], ...] = (
        _python,
        _packages,
        _models,
        _ocr,
        _data_folder,
        _free_disk,
        _owner,
        _index,
    )
    for check in checks:
        try:
            yield check(settings)
        except PageglassError as error:
            yield Check(_name(check), False, str(error), "do what the message says")
        except Exception as error:  # A doctor reports what it did not expect, too.
            yield Check(
                _name(check),
                False,
                f"{type(error).__name__}: {error}",
                "reinstall Pageglass; if that does not help, report this as a bug",
            )


def _name(check: Callable[[Settings], Check]) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _python(settings: Settings) -> Check:
    del settings
    ok = sys.version_info >= (3, 11)
    advice = None if ok else "install Python 3.11 or newer and Pageglass into it"
    return Check("python", ok, f"{platform.python_version()} on {platform.machine()}", advice)


def _packages(settings: Settings) -> Check:
    del settings
    found: list[str] = []
    missing: list[str] = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(
            "packages",
            False,
            f"missing: {', '.join(missing)}",
            f"run: {sys.executable} -m pip install {' '.join(missing)}",
        )
    return Check("packages", True, ", ".join(found))


def _models(settings: Settings) -> Check:
    """The models load and encode: a file that is there but damaged is no use."""
    from retrieval.encoders.minilm import MiniLM
    from retrieval.profiles import lite

    profile = lite(MiniLM(threads=settings.threads))
    names: list[str] = []
    for space in profile.spaces:
        names.append(space.spec.name)
        for encoder in space.encoders:
            encoder.encode_question("Do you read me?")
    return Check("models", True, f"profile {profile.name} encodes ({', '.join(names)})")


def _ocr(settings: Settings) -> Check:
    if not settings.ingest.ocr:
        return Check("ocr", True, "switched off (setting ingest.ocr)")
    spec = importlib.util.find_spec("rapidocr")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    if folder is None or not all(any(folder.glob(weights)) for weights in _OCR_WEIGHTS):
        return Check(
            "ocr",
            False,
            "the weights are not there: pages without a text layer will stay without text",
            "reinstall rapidocr, or switch OCR off (setting ingest.ocr)",
        )
    return Check("ocr", True, f"rapidocr {importlib.metadata.version('rapidocr')} with weights")


def _data_folder(settings: Settings) -> Check:
    folder = settings.data_dir
    place = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check(
            "data folder",
            False,
            f"cannot write in {place}: {(error.strerror or str(error)).lower()}",
            "make it writable, or choose another with --data-dir",
        )
    note = "" if folder.is_dir() else " (not there yet; the first ingest makes it)"
    return Check("data folder", True, f"{folder}{note}")


def _free_disk(settings: Settings) -> Check:
    place = _nearest(settings.data_dir)
    free = shutil.disk_usage(place).free
    ok = free >= _FREE_BYTES
    advice = None if ok else "make room: a page takes about half a megabyte"
    return Check("free disk", ok, f"{megabytes(free)} free at {place}", advice)


def _owner(settings: Settings) -> Check:
    owner = owner_of(settings.data_dir)
    if owner is None:
        return Check("owner", True, "no process owns the data folder")
    who = f"`pageglass {owner.command}` (process {owner.pid})"
    if owner.address is None:
        return Check("owner", True, f"{who} owns the data folder; other commands must wait")
    from api.remote import RemoteServices

    with RemoteServices(owner.address) as server:
        server.status()
    return Check("owner", True, f"{who} owns the data folder and answers at {owner.address}")


def _index(settings: Settings) -> Check:
    owner = owner_of(settings.data_dir)
    if owner is not None and owner.address is None:
        return Check("index", True, "not looked at while another command owns the data folder")
    if not settings.data_dir.is_dir() or not any(settings.data_dir.iterdir()):
        return Check("index", True, "nothing indexed yet")
    with open_backend(settings, command="doctor") as backend:
        status = backend.status()
        backend.search("Do you read me?")
    failed = status.documents.get("failed", 0)
    note = f"; {failed} failed, `pageglass status` says why" if failed else ""
    total = sum(status.documents.values())
    return Check("index", True, f"{total} documents, {status.pages} pages readable{note}")


def _nearest(folder: Path) -> Path:
    """The folder, or the part of its path that exists."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - links must stay as the person wrote them
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
