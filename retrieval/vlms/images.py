"""Images made ready for a model: decoded within limits, upright, small enough, without metadata."""

from __future__ import annotations

import io
import struct
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING

from pageglass.errors import ImageError, StoreError
from pageglass.images import ImageStore
from pageglass.types import Page
from retrieval.page_shapes import on_paper
from retrieval.vlms import PromptImage

if TYPE_CHECKING:
    from PIL import Image

# What browsers and scanners make; Pillow's other readers need not face strangers' bytes.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Larger than any model looks at, so nothing is lost.
_LONGEST_SIDE = 4096
# Of a question's picture; pages are as they are.
_LONGEST_SHAPE = 100
_JPEG_QUALITY = 85
# Drawings and screenshots have no more colours; their edges suffer from JPEG.
_FEW_COLOURS = 256
_SAMPLE = 128
_WORTH_PNG = 1.25
_CACHE_BYTES = 64 << 20


def question_picture(
    data: bytes, *, max_bytes: int = 20 << 20, max_pixels: int = 40_000_000
) -> Image.Image:
    """The picture that came with a question: RGB, upright, its longest side at most 4096 pixels.

    ImageError where ``data`` is larger than ``max_bytes``, has more than ``max_pixels`` (nothing
    is decoded then), is a strip of over 100 to 1, moves, is damaged, or is no JPEG, PNG, WebP, GIF,
    BMP or TIFF.
    """
    if len(data) > max_bytes:
        raise ImageError(
            f"the picture has more than {max_bytes >> 20} MB (setting search.picture_mb)"
        )
    return _decode(data, max_pixels=max_pixels, longest_side=_LONGEST_SIDE)


def prompt_image(data: bytes, *, longest_side: int) -> PromptImage:
    """An image file as a model is shown it: RGB, upright, no side longer than ``longest_side``
    pixels, never enlarged. ImageError where it cannot be decoded."""
    return encode(_decode(data, longest_side=longest_side), longest_side=longest_side)


def encode(image: Image.Image, *, longest_side: int) -> PromptImage:
    """The same of a decoded RGB image: JPEG, or PNG where it has few colours and is hardly larger
    so."""
    from PIL import Image

    shown = on_paper(image).copy()
    shown.info.clear()  # Pillow would write on an EXIF block or a comment it finds there.
    shown.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    data = _written(shown, "JPEG")
    sample = shown.resize((_SAMPLE, _SAMPLE), Image.Resampling.NEAREST)
    if sample.getcolors(_FEW_COLOURS) is not None:
        exact = _written(shown, "PNG")
        if len(exact) <= _WORTH_PNG * len(data):
            return PromptImage(exact, "image/png", *shown.size)
    return PromptImage(data, "image/jpeg", *shown.size)


def _written(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format, quality=_JPEG_QUALITY)
    return file.getvalue()


def _decode(data: bytes, *, longest_side: int, max_pixels: int | None = None) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise ImageError(
                    f"the picture has {width} x {height} pixels and may have {max_pixels:,} in all"
                )
            if max_pixels is not None and max(width, height) > _LONGEST_SHAPE * min(width, height):
                raise ImageError(
                    f"the picture is a strip of {width} x {height} pixels: cut out what matters"
                )
            # A phone's JPEG (MPO) may hold further pictures, such as a preview; the first counts.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise ImageError("the picture moves or has several pages: send one still image")
            if image.mode == "RGB":
                # Lets a JPEG be decoded at a fraction of its size.
                image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
            upright = _as_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise ImageError("the picture has far too many pixels: send a smaller one") from None
    except UnidentifiedImageError:
        raise ImageError(
            "the picture is no image that can be read: send a JPEG, PNG, WebP, GIF, BMP or TIFF"
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError) as error:
        # Pillow's readers raise any of these for damaged files.
        raise ImageError(f"the picture is damaged: {str(error)[:200]}: send it again") from None
    upright.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return upright


def _as_rgb(image: Image.Image) -> Image.Image:
    """The same in RGB: what is transparent becomes white, 16 bits of grey become 8."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda grey: grey / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")


class PromptImages:
    """Page images as a model is shown them, each encoded once while there is room for it.

    Safe to share between threads: those that want the same page at once wait for one encoding.
    """

    def __init__(
        self, store: ImageStore, longest_side: int, *, cache_bytes: int = _CACHE_BYTES
    ) -> None:
        """From ``store``, no side longer than ``longest_side`` pixels; the least recently used are
        forgotten where all together take more than ``cache_bytes``."""
        self._store = store
        self._longest_side = longest_side
        self._room = cache_bytes
        self._encoded: OrderedDict[str, Future[PromptImage]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, page: Page) -> PromptImage:
        """The page's image; StoreError where it is missing or damaged."""
        key = page.image
        with self._lock:
            future = self._encoded.get(key)
            if mine := future is None:
                future = self._encoded[key] = Future()
            self._encoded.move_to_end(key)
        if mine:
            self._encode(page, future)
        return future.result()

    def _encode(self, page: Page, future: Future[PromptImage]) -> None:
        try:
            data = self._store.get(page.image)
            image = prompt_image(data, longest_side=self._longest_side)
        except BaseException as error:
            with self._lock:
                del self._encoded[page.image]
            if isinstance(error, (KeyError, ImageError)):
                error = StoreError(
                    f"the image of page {page.ref.number} of document {page.ref.document_id} is"
                    " missing or damaged: remove the document and ingest it again"
                )
            future.set_exception(error)
            return
        with self._lock:
            future.set_result(image)
            self._forget()

    def _forget(self) -> None:
        done = [(key, future) for key, future in self._encoded.items() if future.done()]
        held = sum(len(future.result().data) for _, future in done)
        for key, future in done:
            if held <= self._room:
                return
            del self._encoded[key]
            held -= len(future.result().data)
