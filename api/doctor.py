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
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import httpx
from pydantic import SecretStr

from api.backend import look, open_backend, server_of
from api.models import needed
from api.owner import owner_of
from api.printing import calibration, megabytes
from api.vision import VisionModels, load_vision_models
from pageglass.errors import ModelError, NoDataFolder, PageglassError, UsageError
from pageglass.replies import ACCEPT_ENCODING, ReplyRefused, bounded
from pageglass.settings import Settings
from pageglass.types import Page, PageRef, Word
from retrieval.checkpoints import ModelName
from retrieval.costs import page_tokens, storage
from retrieval.encoders import PageInput, SparseVector, Vector
from retrieval.encoders.minilm import MiniLM
from retrieval.profiles import Checkpoints, Profile, chosen_models, load_profile
from retrieval.torch_runtime import INSTALL, library, runtime
from retrieval.vlms import Message, Vlm

_PACKAGES = (
    "fastapi",
    "fastapi-offline",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "imagehash",
    "ir-measures",
    "jsonschema",
    "numpy",
    "onnxruntime",
    "openai",
    "pathspec",
    "pillow",
    "pydantic-settings",
    "pymupdf",
    "python-multipart",
    "qdrant-client",
    "qdrant-edge-py",
    "rapidocr",
    "rich",
    "scipy",
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
_LIST_BYTES = 16 << 20
_SLOW_SECONDS = 5.0
_SHOWN_MODELS = 10
_HELLO = "Do you read me?"
_A4_AT_150_DPI = (1240, 1754)
_SAMPLE_LINE = "The pump of line two ran for nine hours before its bearing failed again"
_SAMPLE_LINES = 40
_OCR_WEIGHTS = ("*det*.onnx", "*rec*.onnx")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``advice`` says what to do where it is not ``ok``.

    ``ok`` is None where it could not be looked at, because of something else that is not ok.
    """

    name: str
    ok: bool | None
    found: str
    advice: str | None = None


def check_all(settings: Settings) -> Iterator[Check]:
    """Look at everything in turn; a check that fails stops those only that need what it found."""
    failed: set[str] = set()
    for one in _Examination(settings).looks():
        check = _check(one, failed)
        if not check.ok:
            failed.add(one.name)
        yield check


@dataclass(frozen=True, slots=True)
class _Wrong:
    """What is not as it should be, and what helps."""

    found: str
    advice: str


@dataclass(frozen=True, slots=True)
class _Look:
    """Something to look at: ``make`` says what was found. ``needs`` are names of earlier ones."""

    name: str
    make: Callable[[], str | _Wrong]
    needs: tuple[str, ...] = ()


def _check(look: _Look, failed: Set[str]) -> Check:
    if because := [name for name in look.needs if name in failed]:
        return Check(look.name, None, f"not looked at, because of: {', '.join(because)}")
    try:
        found = look.make()
    except PageglassError as error:
        return Check(look.name, False, error.for_operator, "do what the message says")
    except Exception as error:  # A doctor reports what it did not expect, too.
        return Check(
            look.name,
            False,
            f"{type(error).__name__}: {error}",
            "reinstall Pageglass; if that does not help, report this as a bug",
        )
    if isinstance(found, _Wrong):
        return Check(look.name, False, found.found, found.advice)
    return Check(look.name, True, found)


class _Examination:
    """All there is to look at for these settings. Nothing is fetched; models are loaded once."""

    def __init__(self, settings: Settings) -> None:
        offline = settings.models.model_copy(update={"offline": True})
        self._settings = settings.model_copy(update={"models": offline})
        self._models = chosen_models(settings)
        self._needed = needed(settings)
        # A doctor reads what was settled on, and settles nothing itself.
        lock = settings.data_dir / "models.json"
        self._checkpoints = Checkpoints(lock=lock if lock.exists() else None, fetch="never")

    def looks(self) -> Iterator[_Look]:
        """Each thing to look at, after those it needs."""
        yield _Look("python", _python)
        yield _Look("packages", _packages)
        running = ("model packages", "device") if self._needed else ()
        if self._needed:
            yield _Look("model packages", _model_packages)
            yield _Look("device", self._device, ("model packages",))
        for used_for, name in self._needed.items():
            yield _Look(f"{used_for} checkpoint", partial(self._checkpoint, name))
        indexing = (*running, *self._checkpoints_of("visual", "image", "text"))
        looking = (*running, *self._checkpoints_of("answer", "rerank"))
        if self._needed and owner_of(self._settings.data_dir) is not None:
            # A second copy of large models may not fit beside the owner's.
            yield _Look("models", lambda: "held by the process that owns the data folder")
        else:
            yield _Look("models", self._encoders, indexing)
            yield _Look("answering", self._answering, looking)
            if self._reranks:
                yield _Look("reranking", self._reranking, looking)
            yield _Look("page cost", self._page_cost, ("models", *looking))
        yield _Look("vectors", self._vectors)
        yield _Look("ocr", self._ocr)
        yield _Look("confinement", self._confinement)
        yield _Look("data folder", self._data_folder)
        yield _Look("free disk", self._free_disk)
        yield _Look("owner", self._owner)
        yield _Look("index", self._index, ("data folder", "vectors", "owner", "models", *looking))
        yield _Look("calibration", self._calibration, ("data folder",))

    def _checkpoints_of(self, *uses: str) -> tuple[str, ...]:
        return tuple(f"{used_for} checkpoint" for used_for in uses if used_for in self._needed)

    def _device(self) -> str:
        place = runtime(self._settings.models)
        name = platform.processor() or platform.machine()
        if place.device.startswith("cuda"):
            name = library("torch").cuda.get_device_name(place.device)
        return f"{place.device} ({name}), {place.dtype}"

    def _checkpoint(self, name: str) -> str | _Wrong:
        try:
            return self._checkpoints.find(name).label
        except ModelError as error:
            return _Wrong(
                str(error), f"run: pageglass --profile {self._settings.profile} models pull"
            )

    @cached_property
    def _profile(self) -> Profile:
        return load_profile(
            self._settings, MiniLM(threads=self._settings.threads), self._checkpoints
        )

    def _encoders(self) -> str:
        """They load and encode: a file that is there but damaged is no use."""
        for space in self._profile.spaces:
            for encoder in space.encoders:
                encoder.encode_question(_HELLO)
        names = ", ".join(self._profile.collections)
        return f"profile {self._profile.name} encodes ({names})"

    @cached_property
    def _vision(self) -> VisionModels:
        return load_vision_models(self._settings, self._models, self._checkpoints)

    @property
    def _reranks(self) -> bool:
        """Whether pages are reranked by another model than the one that answers."""
        rerank = self._settings.rerank
        same = rerank.url is None and self._models.rerank == self._models.answer
        return self._models.rerank is not None and rerank.pages > 0 and not same

    def _answering(self) -> str | _Wrong:
        url = self._models.answer_url
        if url is not None and "answer" not in self._needed:
            return _served("answer", url, self._settings.answer.api_key, self._models.answer)
        return self._spoken_to(self._vision.answer)

    def _reranking(self) -> str | _Wrong:
        url = self._settings.rerank.url
        if url is not None and "rerank" not in self._needed:
            return _served("rerank", url, self._settings.rerank.api_key, self._models.rerank)
        return self._spoken_to(self._vision.rerank)

    def _spoken_to(self, vlm: Vlm | None) -> str:
        """The model loads and says a word. Its weights are let go of: others need the memory."""
        if vlm is None:
            return "quotes the pages; no model is asked"
        seconds = self._settings.answer.seconds
        try:
            reply = vlm.reply([Message("user", (_HELLO,))], tokens=1, seconds=seconds)
        finally:
            vlm.close()
        return f"{reply.model} in this process"

    def _page_cost(self) -> str:
        """Time, disk and tokens of a page, by encoding one of middling size here and now."""
        page, costs = _sample_page(), list[str]()
        seconds = bytes_ = 0.0
        for space in self._profile.spaces:
            rows: dict[str, float] = {}
            took = 0.0
            for _ in range(2):  # The first time warms up, unless it is too slow for that to matter.
                began = time.perf_counter()
                for encoder in space.encoders:
                    (vectors,) = encoder.encode_pages([page])
                    rows |= {name: _rows(vector) for name, vector in vectors.items()}
                took = time.perf_counter() - began
                if took > _SLOW_SECONDS:
                    break
            size = storage(space.spec.vectors, rows)
            seconds, bytes_ = seconds + took, bytes_ + size
            costs.append(f"{space.spec.name} {took:.2f} s and {size / 1000:,.0f} KB")
        found = f"{seconds:.2f} s, {(bytes_ + len(page.image)) / 1000:,.0f} KB with its image"
        found += f" ({', '.join(costs)})"
        vlm = self._vision.answer
        if vlm is None:
            return found
        shrink = min(1.0, vlm.image_pixels / max(_A4_AT_150_DPI))
        width, height = (round(side * shrink) for side in _A4_AT_150_DPI)
        try:
            tokens = page_tokens(ModelName.parse(vlm.name).name, width, height).image_tokens
        except UsageError:
            return f"{found}; {vlm.name} is asked how many tokens it takes when it answers"
        return f"{found}; {tokens:,} tokens to show it to {vlm.name}"

    def _vectors(self) -> str | _Wrong:
        if self._settings.index.url is None:
            return "in the data folder"
        from retrieval.index.server import connect

        client = connect(self._settings.index)
        try:
            return f"on a Qdrant server, version {client.info().version}"
        except Exception as error:  # the client's and two transports' own kinds
            return _Wrong(
                f"no answer from the Qdrant server: {_first_line(error)}",
                "start it, or correct index.url and index.api_key",
            )
        finally:
            client.close()

    def _ocr(self) -> str | _Wrong:
        if not self._settings.ingest.ocr:
            return "switched off (setting ingest.ocr)"
        spec = importlib.util.find_spec("rapidocr")
        folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
        if folder is None or not all(any(folder.glob(weights)) for weights in _OCR_WEIGHTS):
            return _Wrong(
                "the weights are not there: pages without a text layer will stay without text",
                "reinstall rapidocr, or switch OCR off (setting ingest.ocr)",
            )
        return f"rapidocr {importlib.metadata.version('rapidocr')} with weights"

    def _confinement(self) -> str | _Wrong:
        """What keeps hostile files to themselves."""
        from ingest._confinement import supported
        from ingest.office import confinement, find_libreoffice

        version = supported()
        files = f"Landlock {version}" if version else "limits of memory and time only"
        found = f"PDFs and pictures are opened under {files}"
        if not self._settings.ingest.office:
            return f"{found}; office files are switched off (setting ingest.office)"
        if find_libreoffice() is None:
            return f"{found}; LibreOffice is not installed"
        if not self._settings.ingest.confine_office:
            return f"{found}; office files unconfined (setting ingest.confine_office)"
        if (kept := confinement()) is None:
            return _Wrong(
                f"{found}; office files are refused: nothing here keeps LibreOffice to its file",
                "use Linux 5.13 or newer with Landlock, or install bubblewrap",
            )
        return f"{found}, office files under {kept.capitalize()}"

    def _data_folder(self) -> str | _Wrong:
        folder = self._settings.data_dir
        place = _nearest(folder)
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            return _Wrong(
                f"cannot write in {place}: {(error.strerror or str(error)).lower()}",
                "make it writable, or choose another with --data-dir",
            )
        note = "" if folder.is_dir() else " (not there yet; the first ingest makes it)"
        return f"{folder}{note}"

    def _free_disk(self) -> str | _Wrong:
        place = _nearest(self._settings.data_dir)
        free = shutil.disk_usage(place).free
        found = f"{megabytes(free)} free at {place}"
        if free < _FREE_BYTES:
            return _Wrong(found, "make room: a page takes about half a megabyte")
        return found

    def _owner(self) -> str:
        owner = owner_of(self._settings.data_dir)
        if owner is None:
            return "no process owns the data folder"
        who = f"`pageglass {owner.command}` (process {owner.pid})"
        if owner.address is None:
            return f"{who} owns the data folder; other commands must wait"
        if (server := server_of(self._settings.data_dir)) is not None:
            with server.connect() as services:
                services.status()
        return f"{who} owns the data folder and answers at {owner.address}"

    def _index(self) -> str:
        owner = owner_of(self._settings.data_dir)
        if owner is not None and owner.address is None:
            return "not looked at while another command owns the data folder"
        # Whoever searches loads the models itself, and memory may not hold them twice.
        del self._profile
        try:
            opened = open_backend(self._settings, command="doctor")
        except NoDataFolder:
            return "nothing indexed yet"
        with opened as backend:
            status = backend.status()
            backend.search(_HELLO)
        failed = status.documents.get("failed", 0)
        note = f"; {failed} failed, `pageglass status` says why" if failed else ""
        total = sum(status.documents.values())
        return f"{total} documents, {status.pages} pages readable{note}"

    def _calibration(self) -> str:
        """What was fitted to collections, and whether the model that answers now uses it."""
        try:
            with look(self._settings) as onlooker:
                status = onlooker.status()
        except NoDataFolder:
            return "nothing indexed yet"
        fitted = [calibration(one, status.answering_model) for one in status.thresholds]
        default = f"answers with a support below {self._settings.answer.threshold:.3g} are declined"
        return "; ".join(fitted) or f"none: {default}"


def _python() -> str:
    return f"{platform.python_version()} on {platform.machine()}"


def _packages() -> str | _Wrong:
    missing = f"{sys.executable} -m pip install"
    return _installed(_PACKAGES, lambda names: f"run: {missing} {' '.join(names)}")


def _model_packages() -> str | _Wrong:
    return _installed(_MODEL_PACKAGES, lambda _: f"run: {INSTALL['models']}")


def _installed(packages: tuple[str, ...], advice: Callable[[list[str]], str]) -> str | _Wrong:
    found: list[str] = []
    missing: list[str] = []
    for name in packages:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return _Wrong(f"missing: {', '.join(missing)}", advice(missing))
    return ", ".join(found)


def _served(section: str, url: str, api_key: SecretStr | None, model: str | None) -> str | _Wrong:
    """Whether the server at ``url`` has ``model``; None for whichever it has."""
    headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
    list_url = f"{url.rstrip('/')}/models"
    until_then = "; until then the pages are quoted" if section == "answer" else ""
    try:
        with httpx.Client(
            headers=headers | {"Accept-Encoding": ACCEPT_ENCODING},
            timeout=_SERVER_SECONDS,
            event_hooks={"response": [bounded(_LIST_BYTES, _SERVER_SECONDS)]},
        ) as http:
            response = http.get(list_url)
        if response.status_code in (401, 403):
            return _Wrong(f"{list_url} refuses the key", f"set {section}.api_key{until_then}")
        served = [str(one["id"]) for one in response.raise_for_status().json()["data"]]
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        ReplyRefused,
        RecursionError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        return _Wrong(
            f"no answer from {list_url}: {_first_line(error)}",
            f"start the model's server, or correct {section}.url{until_then}",
        )
    if not served or model not in (None, *served):
        others = ", ".join(served[:_SHOWN_MODELS]) or "no model"
        more = f" and {len(served) - _SHOWN_MODELS} more" if len(served) > _SHOWN_MODELS else ""
        return _Wrong(
            f"{url} has {others}{more}" + (f", not {model}" if model else ""),
            f"set models.{section} to a model it serves, or let it serve this one{until_then}",
        )
    return f"{model or served[0]} at {url}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


def _nearest(folder: Path) -> Path:
    """The folder, or the part of its path that exists."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - links must stay as the person wrote them
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
