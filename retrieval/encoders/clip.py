"""CLIP and SigLIP through open_clip: one vector a page image, asked by words or by a picture."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from pageglass.errors import ModelError
from pageglass.settings import ModelSettings
from retrieval.checkpoints import Checkpoint
from retrieval.encoders import FloatArray, PageInput, Vectors
from retrieval.index import VectorSpec
from retrieval.page_shapes import on_paper
from retrieval.torch_runtime import Batches, Runtime, library, runtime

if TYPE_CHECKING:
    from PIL import Image

_CONFIG = "open_clip_config.json"
_PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# What the CLIP paper's models were trained on; a checkpoint that says nothing means these.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_WHITE = 255


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    tokenizer: Any
    preprocess: Callable[[Image.Image], Any]
    runtime: Runtime


class ClipEncoder:
    """Fills and asks the named vector ``clip``.

    The checkpoint is a folder as open_clip writes it and the hub keeps it (``laion/...``,
    ``timm/...``): open_clip_config.json, weights, and a tokenizer where it is not CLIP's own. Its
    weights load at the first page or question. Safe to share between threads.
    """

    def __init__(self, checkpoint: Checkpoint, settings: ModelSettings) -> None:
        """ModelError where the checkpoint is no open_clip model or its config is damaged."""
        self._checkpoint = checkpoint
        self._settings = settings
        self._batches = Batches(settings.batch_pages)
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        if not checkpoint.has(_CONFIG):
            raise ModelError(
                f"{checkpoint.name} is no open_clip model (it has no {_CONFIG}): set models.image"
                " to a CLIP or SigLIP checkpoint made for open_clip"
            )
        config = checkpoint.config(_CONFIG)
        self._text = _section(config, "model_cfg", "text_cfg", checkpoint.name)
        self._size = _size(config, checkpoint.name)
        self._preprocess = _preprocess(config, checkpoint.name)
        if "hf_model_name" in self._text:
            # open_clip fetches the structure of such text towers from the hub, past any setting.
            raise ModelError(
                f"the text model of {checkpoint.name} is not part of it: set models.image to a"
                " CLIP or SigLIP checkpoint that holds both its towers"
            )

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """``clip``: one vector of length 1."""
        return {"clip": VectorSpec("dense", self._size)}

    @property
    def model(self) -> dict[str, Any]:
        """The checkpoint, and how images are made ready for it."""
        return {**self._checkpoint.manifest(), "preprocess": self._preprocess}

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``clip`` (size,) a page, nothing for a page without an image."""
        images = [page.image for page in pages if page.image]
        encoded = iter(self._batches.run(images, self._encode_files))
        return [{"clip": next(encoded)} if page.image else {} for page in pages]

    def encode_image(self, image: Image.Image) -> Vectors:
        """``clip`` (size,) of a picture."""
        return {"clip": self._encode([image])[0]}

    def encode_question(self, text: str) -> Vectors:
        """``clip`` (size,); words past the model's context length are not read."""
        if not text.strip():
            return {}
        torch = library("torch")
        loaded = self._load()
        with self._lock:  # fast tokenizers keep truncation as state
            tokens = loaded.tokenizer([text])
        with torch.inference_mode():
            encoded = loaded.model.encode_text(tokens.to(loaded.runtime.device), normalize=True)
        return {"clip": _unit_rows(encoded)[0]}

    def _encode_files(self, files: Sequence[bytes]) -> list[FloatArray]:
        from PIL import Image

        # Decoded a batch at a time: a page takes about 6 MB as pixels.
        return self._encode([Image.open(BytesIO(file)) for file in files])

    def _encode(self, images: Sequence[Image.Image]) -> list[FloatArray]:
        torch = library("torch")
        loaded = self._load()
        pixels = torch.stack(
            [loaded.preprocess(on_paper(image.convert("RGB"))) for image in images]
        )
        with torch.inference_mode():
            encoded = loaded.model.encode_image(
                pixels.to(loaded.runtime.device, loaded.runtime.torch_dtype), normalize=True
            )
        return list(_unit_rows(encoded))

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> _Loaded:
        open_clip, transform = library("open_clip"), library("open_clip.transform")
        where = runtime(self._settings)
        source = f"local-dir:{self._checkpoint.folder}"
        own_tokenizer = bool(self._text.get("hf_tokenizer_name"))
        try:
            # Unlike create_model this refuses to go on with random weights.
            model = open_clip.create_model_from_pretrained(
                source,
                precision=_PRECISION[where.dtype],
                device=where.device,
                return_transform=False,
            )
            tokenizer = open_clip.get_tokenizer(
                source, **({"local_files_only": True} if own_tokenizer else {})
            )
            preprocess = transform.image_transform_v2(
                transform.PreprocessCfg(**self._preprocess), is_train=False
            )
        except Exception as error:  # of open_clip, torch, safetensors, transformers
            raise ModelError(
                f"cannot load {self._checkpoint.name}: {' '.join(str(error).split())[:300]}:"
                " fetch it again, with its weights"
            ) from error
        if not own_tokenizer and self._text.get("vocab_size", 49408) != tokenizer.vocab_size:
            raise ModelError(
                f"{self._checkpoint.name} does not name its tokenizer (hf_tokenizer_name), and its"
                " vocabulary is not CLIP's: choose another models.image"
            )
        return _Loaded(model.eval(), tokenizer, preprocess, where)


def _section(config: dict[str, Any], outer: str, inner: str, name: str) -> dict[str, Any]:
    found = config.get(outer)
    section = found.get(inner) if isinstance(found, dict) else None
    if not isinstance(section, dict):
        raise ModelError(f"{_CONFIG} of the checkpoint {name} is damaged: no {outer}.{inner}")
    return section


def _size(config: dict[str, Any], name: str) -> int:
    size = config["model_cfg"].get("embed_dim")
    if not isinstance(size, int) or size < 1:
        raise ModelError(f"{_CONFIG} of the checkpoint {name} is damaged: no model_cfg.embed_dim")
    return size


def _preprocess(config: dict[str, Any], name: str) -> dict[str, Any]:
    """open_clip's PreprocessCfg for whole pages, as JSON."""
    vision = _section(config, "model_cfg", "vision_cfg", name)
    own = config.get("preprocess_cfg") or {}
    if not isinstance(own, dict):
        raise ModelError(f"{_CONFIG} of the checkpoint {name} is damaged: preprocess_cfg")
    # open_clip's usual "shortest" fills the square and crops: a page would lose its top and bottom,
    # where titles and totals stand. Models trained on squashed images (SigLIP) go on squashing;
    # for the others the page is fitted in whole ("longest") on white. On paper that is a wider
    # margin, figures keep their proportions, and the same figure on a slide or alone in a picture
    # stays alike, which squashing by different shares would undo.
    resize_mode = own.get("resize_mode")
    return {
        "size": vision.get("image_size", 224),
        "mean": own.get("mean") or list(_MEAN),
        "std": own.get("std") or list(_STD),
        "interpolation": own.get("interpolation") or "bicubic",
        "resize_mode": "longest" if resize_mode in (None, "shortest") else resize_mode,
        "fill_color": _WHITE,
    }


def _unit_rows(encoded: Any) -> FloatArray:
    # Unit length is restored after the conversion: bfloat16 rounds it to two digits.
    rows = encoded.float().cpu().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
