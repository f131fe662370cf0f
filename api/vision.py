"""Vision-language models and pictures in questions, as the settings ask for them."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from generate.models.vlm import transcribe
from ingest.ocr import Ocr
from pageglass.errors import ModelServerError, OutOfMemory, PromptTooLong, SettingsError
from pageglass.profiles import ProfileModels
from pageglass.settings import Settings
from pageglass.types import Usage
from retrieval.checkpoints import ModelName
from retrieval.profiles import Checkpoints
from retrieval.torch_runtime import require
from retrieval.vlms import PromptImage, Vlm
from retrieval.vlms.images import encode, question_picture

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VisionModels:
    """The models that look at pages: None where the settings ask for none."""

    answer: Vlm | None
    rerank: Vlm | None

    def close(self) -> None:
        """Let go of both."""
        for vlm in {id(vlm): vlm for vlm in (self.answer, self.rerank) if vlm is not None}.values():
            vlm.close()


def load_vision_models(
    settings: Settings, models: ProfileModels, checkpoints: Checkpoints
) -> VisionModels:
    """The models ``models`` names, on their servers or in this process; weights load when used.

    A reranking model without a server of its own is the answering one where their names agree; one
    with a server needs no name. SettingsError where a server's address is none.
    """
    answer = _load("answer", models.answer, models.answer_url, settings, checkpoints)
    if not settings.rerank.pages:
        return VisionModels(answer, None)
    url = settings.rerank.url or None
    if url is None and models.rerank is not None and models.rerank == models.answer:
        return VisionModels(answer, answer)
    rerank = _load("rerank", models.rerank, url, settings, checkpoints)
    return VisionModels(answer, rerank)


def _load(
    section: Literal["answer", "rerank"],
    name: str | None,
    url: str | None,
    settings: Settings,
    checkpoints: Checkpoints,
) -> Vlm | None:
    """The model ``name`` on the server at ``url``, or in this process where there is none.

    A folder is always run here. A server without a named model answers with the one it has.
    """
    here = name is not None and Path(ModelName.parse(name).name).expanduser().is_dir()
    if url is not None and not here:
        _check_address(url, section)
        from retrieval.vlms.openai import OpenAIVlm

        key = settings.answer.api_key if section == "answer" else settings.rerank.api_key
        return OpenAIVlm(
            url,
            name,
            api_key=key.get_secret_value() if key else None,
            retries=settings.answer.retries,
            image_pixels=settings.answer.image_pixels,
            section=section,
        )
    if name is None:
        return None
    require("torch")
    from retrieval.vlms.local import LocalVlm

    return LocalVlm(
        checkpoints.find(name), settings.models, image_pixels=settings.answer.image_pixels
    )


def _check_address(url: str, section: str) -> None:
    """SettingsError where ``url`` is none; it may hold a password, so it is not repeated."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not match, impossible ports
        good = False
    if not good or not url.isprintable():
        raise SettingsError(
            f"setting {section}.url: must be an address such as http://host:8000/v1"
        )


@dataclass(frozen=True, slots=True)
class Picture:
    """A question's picture: to search with, to show, and as text, with what reading it cost."""

    image: Image.Image
    shown: PromptImage
    text: str
    usage: tuple[Usage, ...]
    notes: tuple[str, ...]
    milliseconds: float


class PictureReader:
    """Reads pictures that come with questions: by the answering model, or by OCR."""

    def __init__(self, vlm: Vlm | None, ocr: Ocr, settings: Settings) -> None:
        self._vlm = vlm
        self._ocr = ocr
        self._settings = settings

    def read(self, data: bytes) -> Picture:
        """Validate and transcribe; ImageError says what is wrong with it."""
        began = time.perf_counter()
        image = question_picture(data, max_bytes=self._settings.search.picture_mb << 20)
        shown = encode(image, longest_side=self._vlm.image_pixels if self._vlm else max(image.size))
        text, usage, notes = "", (), ()
        if self._vlm is not None:
            try:
                text, used = transcribe(self._vlm, shown, seconds=self._settings.answer.seconds)
                usage = (used,)
            except (ModelServerError, OutOfMemory, PromptTooLong) as error:
                notes = (f"{error}; the picture is read by OCR instead",)
        if self._vlm is None or notes:
            text = " ".join(word.text for word in self._ocr.read(shown.data))
        return Picture(image, shown, text, usage, notes, 1e3 * (time.perf_counter() - began))
