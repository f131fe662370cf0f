"""`pageglass doctor`: is everything there that Pageglass needs, and if not, what helps?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from api.backend import open_backend
from api.models import needed
from api.owner import owner_of
from api.printing import megabytes
from pageglass.errors import ModelError, PageglassError, UsageError
from pageglass.settings import Settings
from pageglass.types import Page, PageRef, Word
from retrieval.checkpoints import ModelName
from retrieval.costs import page_tokens, storage
from retrieval.encoders import PageInput, SparseVector, Vector
from retrieval.encoders.minilm import MiniLM
from retrieval.profiles import Checkpoints, Profile, chosen_models, load_profile
from retrieval.torch_runtime import INSTALL, library, runtime

_PACKAGES = (
    "fastapi",
    "httpx",
    "numpy",
    "onnxruntime",
    "openai",
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
_MODEL_PACKAGES = (
    "accelerate",
    "colpali-engine",
    "num2words",
    "open-clip-torch",
    "peft",
    "sentence-transformers",
    "torch",
    "transformers",
)
_FREE_BYTES = 2_000_000_000
_SERVER_SECONDS = 10.0
_A4_AT_150_DPI = (1240, 1754)
_SAMPLE_LINE = "The pump of line two ran for nine hours before its bearing failed again"
_SAMPLE_LINES = 40
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
        _model_packages,
        _device,
        _checkpoints,
        _models,
        _page_cost,
        _answering,
        _qdrant,
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
    missing = f"{sys.executable} -m pip install"
    return _installed("packages", _PACKAGES, lambda names: f"run: {missing} {' '.join(names)}")


def _model_packages(settings: Settings) -> Check:
    if not needed(chosen_models(settings)):
        return Check("model packages", True, f"the profile {settings.profile} needs none")
    return _installed("model packages", _MODEL_PACKAGES, lambda _: f"run: {INSTALL['models']}")


def _installed(check: str, packages: tuple[str, ...], advice: Callable[[list[str]], str]) -> Check:
    found: list[str] = []
    missing: list[str] = []
    for name in packages:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(check, False, f"missing: {', '.join(missing)}", advice(missing))
    return Check(check, True, ", ".join(found))


def _device(settings: Settings) -> Check:
    if not needed(chosen_models(settings)):
        return Check("device", True, f"the processor, {settings.threads} threads")
    place = runtime(settings.models)
    name = platform.processor() or platform.machine()
    if place.device.startswith("cuda"):
        name = library("torch").cuda.get_device_name(place.device)
    return Check("device", True, f"{place.device} ({name}), {place.dtype}")


def _checkpoints(settings: Settings) -> Check:
    checkpoints = Checkpoints(lock=_lock(settings), fetch="never")
    found: list[str] = []
    missing: list[str] = []
    for used_for, name in needed(chosen_models(settings)).items():
        try:
            found.append(f"{used_for} {checkpoints.find(name).label}")
        except ModelError as error:
            missing.append(f"{used_for}: {error}")
    if missing:
        advice = f"run: pageglass --profile {settings.profile} models pull"
        return Check("checkpoints", False, "; ".join(missing), advice)
    return Check("checkpoints", True, ", ".join(found) or "all come with Pageglass")


def _models(settings: Settings) -> Check:
    """The models load and encode: a file that is there but damaged is no use."""
    profile = _profile(settings)
    for space in profile.spaces:
        for encoder in space.encoders:
            encoder.encode_question("Do you read me?")
    names = ", ".join(profile.collections)
    return Check("models", True, f"profile {profile.name} encodes ({names})")


def _page_cost(settings: Settings) -> Check:
    """Time, disk and tokens of a page, by encoding one of middling size here and now."""
    profile, page = _profile(settings), _sample_page()
    costs: list[str] = []
    seconds = bytes_ = 0.0
    for space in profile.spaces:
        rows: dict[str, float] = {}
        began = 0.0
        for _ in range(2):  # The first one loads and warms up.
            began = time.perf_counter()
            for encoder in space.encoders:
                (vectors,) = encoder.encode_pages([page])
                rows |= {name: _rows(vector) for name, vector in vectors.items()}
        took, size = time.perf_counter() - began, storage(space.spec.vectors, rows)
        seconds, bytes_ = seconds + took, bytes_ + size
        costs.append(f"{space.spec.name} {took:.2f} s and {size / 1000:,.0f} KB")
    found = f"{seconds:.2f} s, {(bytes_ + len(page.image)) / 1000:,.0f} KB with its image"
    found += f" ({', '.join(costs)})"
    model = chosen_models(settings).answer
    if model is not None:
        width, height = _A4_AT_150_DPI
        try:
            tokens = page_tokens(ModelName.parse(model).name, width, height).image_tokens
            found += f"; {tokens:,} tokens to show it to {model}"
        except UsageError:
            found += f"; {model} is asked how many tokens it takes when it answers"
    return Check("page cost", True, found)


def _rows(vector: Vector) -> int:
    if isinstance(vector, SparseVector):
        return len(vector.indices)
    return len(vector) if vector.ndim > 1 else 1


def _sample_page() -> PageInput:
    """A page of forty lines, drawn at A4 and 150 DPI."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", _A4_AT_150_DPI, "white")
    draw = ImageDraw.Draw(image)
    words: list[Word] = []
    for line in range(_SAMPLE_LINES):
        top = 0.05 + 0.9 * line / _SAMPLE_LINES
        draw.text((90, top * image.height), _SAMPLE_LINE, fill="black", font_size=26)
        words += [
            Word(word, (0.08 + 0.055 * i, top, 0.12 + 0.055 * i, top + 0.015), line)
            for i, word in enumerate(_SAMPLE_LINE.split())
        ]
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    page = Page(PageRef("sample", 0), "1", 595, 842, tuple(words), "layer", "", "", "0")
    return PageInput(page, "Sample", data.getvalue())


def _answering(settings: Settings) -> Check:
    models = chosen_models(settings)
    if models.answer is None and models.answer_url is None:
        return Check("answering", True, "quotes the pages; no model is asked")
    local = needed(models).get("answer")
    if local is not None or models.answer_url is None:
        return Check("answering", True, f"{local} in this process")
    key = settings.answer.api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    url = f"{models.answer_url.rstrip('/')}/models"
    advice = "start it, or correct answer.url and answer.api_key; until then the pages are quoted"
    try:
        response = httpx.get(url, headers=headers, timeout=_SERVER_SECONDS)
        served = [model["id"] for model in response.raise_for_status().json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        return Check("answering", False, f"no answer from {url}: {error}", advice)
    if models.answer is not None and models.answer not in served:
        found = f"the server has {', '.join(served)}, not {models.answer}"
        return Check("answering", False, found, "set models.answer to a model it serves")
    return Check("answering", True, f"{models.answer or served[0]} at {models.answer_url}")


def _qdrant(settings: Settings) -> Check:
    if settings.index.url is None:
        return Check("vectors", True, "in the data folder")
    from retrieval.index.server import connect

    client = connect(settings.index)
    try:
        version = client.info().version
    except Exception as error:  # the client's and two transports' own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Check(
            "vectors",
            False,
            f"no answer from the Qdrant server: {reason}",
            "start it, or correct index.url and index.api_key",
        )
    finally:
        client.close()
    return Check("vectors", True, f"on a Qdrant server, version {version}")


def _profile(settings: Settings) -> Profile:
    checkpoints = Checkpoints(lock=_lock(settings), fetch="never")
    return load_profile(settings, MiniLM(threads=settings.threads), checkpoints)


def _lock(settings: Settings) -> Path | None:
    """A doctor reads what was settled on, and settles nothing itself."""
    lock = settings.data_dir / "models.json"
    return lock if lock.exists() else None


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
