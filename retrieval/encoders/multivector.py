"""Late interaction by sentence-transformers' MultiVectorEncoder, of page images or of page text.

It loads what says of itself that it is one: checkpoints saved by MultiVectorEncoder or PyLate,
Stanford's ColBERT, and transformers' own retrievers (ColPaliForRetrieval and kin). Those saved by
colpali-engine are for retrieval.encoders.colpali.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pageglass.errors import ModelError, PageglassError
from pageglass.settings import ModelSettings
from retrieval.checkpoints import Checkpoint
from retrieval.encoders import PageInput, Vectors
from retrieval.encoders.patches import (
    FloatRows,
    PageRows,
    Quantization,
    encode_images,
    lay_out,
    merge_tokens,
    picture_question,
    readable,
    unit_rows,
    unusable,
    visual_vectors,
)
from retrieval.index import VectorSpec
from retrieval.page_shapes import on_paper
from retrieval.similarity import PatchGrid
from retrieval.torch_runtime import Batches, library, runtime

if TYPE_CHECKING:
    from PIL import Image

_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
# Types of model whose attention must be eager, or padding gets into it.
_EAGER = {"paligemma", "colpali"}
# Tokens left free in a window: its text may split differently than within the page.
_SPARE = 2
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


def is_multivector(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's own files say that MultiVectorEncoder loads it as it was trained."""
    if checkpoint.has(_SENTENCE_TRANSFORMERS):
        kind = checkpoint.config(_SENTENCE_TRANSFORMERS).get("model_type")
        # PyLate's name for the same.
        if kind in ("MultiVectorEncoder", "ColBERT"):
            return True
    return _is_stanford(checkpoint) or _is_native(checkpoint)


class MultiVectorPageEncoder:
    """Fills and asks ``patches`` and ``pooled`` of page images, or ``tokens`` of page text.

    Which of the two follows from the checkpoint. Safe to share between threads; everything loads at
    the first page or question.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: ModelSettings,
        *,
        quantization: Quantization = "none",
        token_pooling: int = 1,
    ) -> None:
        """Encode with ``checkpoint``; ModelError where it is not one that ``is_multivector``.

        ``token_pooling`` merges about so many of a page's vectors into one. A page image so stored
        has no similarity maps.
        """
        if not is_multivector(checkpoint):
            raise ModelError(
                f"{checkpoint.name} is no checkpoint of sentence-transformers' MultiVectorEncoder,"
                " PyLate or ColBERT, nor one of transformers' retrievers"
            )
        self._checkpoint = checkpoint
        self._settings = settings
        self._quantization: Quantization = quantization
        self._token_pooling = token_pooling
        self._visual = _sees_images(checkpoint)
        self._batches = Batches(settings.batch_pages)
        self._loading = threading.Lock()
        # A fast tokenizer is not to be called from two threads at a time.
        self._processing = threading.Lock()
        self._loaded: Any = None

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """The named vectors this encoder fills."""
        if self._visual:
            return visual_vectors(self._dimension, self._quantization)
        return {
            "tokens": VectorSpec(
                "multi", self._dimension, "float16", quantization=self._quantization
            )
        }

    @property
    def model(self) -> dict[str, Any]:
        """What must agree for vectors to be comparable; the rest is in the checkpoint's files."""
        preprocessing: dict[str, Any] = {"token_pooling": self._token_pooling}
        if not self._visual:
            preprocessing["text"] = "title, page; windows"
        return {
            "name": self._checkpoint.label,
            "checkpoint": self._checkpoint.manifest(),
            "library": "sentence-transformers",
            "family": "MultiVectorEncoder",
            "preprocessing": preprocessing,
        }

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``patches`` (rows, size) and ``pooled`` (grid rows, size) of images, or ``tokens``
        (rows, size) of text; nothing for a page without."""
        if self._visual:
            return encode_images(
                pages, self._batches, self._page_rows, token_pooling=self._token_pooling
            )
        return self._text_rows(pages)

    def encode_question(self, text: str) -> Vectors:
        """``patches`` (tokens, size) and the same as ``pooled``, or ``tokens``; {} for no text."""
        if not text.strip():
            return {}
        (rows,) = self._rows(self._inputs([text], "query"), "query")
        return {"patches": rows, "pooled": rows} if self._visual else {"tokens": rows}

    def encode_image(self, image: Image.Image) -> Vectors:
        """A picture as a question: its pooled rows, under both names; {} where text is encoded."""
        if not self._visual:
            return {}
        (page,) = self._page_rows([image])
        return picture_question(page)

    def patch_grid(self, image: Image.Image) -> PatchGrid:
        """Where the rows of a page's ``patches`` lie on its image; weights load, no model runs.

        ModelError where the checkpoint encodes text.
        """
        if not self._visual:
            raise ModelError(f"{self._checkpoint.name} encodes text: its vectors have no patches")
        inputs = self._inputs([on_paper(image.convert("RGB"))], "document")
        with self._processing:
            # The mask alone, not the model, decides which rows are a page's.
            return self._grids(self._mask(inputs, "document"))[0]

    def question_tokens(self, text: str) -> list[str]:
        """What each row of the question's vectors stands for; the model's own tokens too."""
        if not text.strip():
            return []
        inputs = self._mask(self._inputs([text], "query"), "query")
        ids, kept = inputs["input_ids"][0].numpy(), inputs["attention_mask"][0].numpy()
        with self._processing:
            return readable(self._model.tokenizer, ids[kept.astype(bool)])

    def _page_rows(self, images: Sequence[Image.Image]) -> list[PageRows]:
        inputs = self._inputs([on_paper(image) for image in images], "document")
        with self._processing:
            grids = self._grids(self._mask(inputs, "document"))
        rows = self._rows(inputs, "document")
        return [PageRows(*page) for page in zip(rows, grids, strict=True)]

    def _text_rows(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """MaxSim over all windows of a page is MaxSim over the page: no text is cut off."""
        windows = [self._windows(of) for of in pages]
        encoded = iter(
            self._batches.run(
                [window for of in windows for window in of],
                lambda batch: self._rows(self._inputs(batch, "document"), "document"),
            )
        )
        found: list[Vectors] = []
        for of in windows:
            rows = [next(encoded) for _ in of]
            # A window of nothing but what the model leaves out has no rows.
            kept = np.concatenate(rows) if rows else np.empty((0, self._dimension), np.float32)
            found.append({"tokens": merge_tokens(kept, self._token_pooling)} if len(kept) else {})
        return found

    def _windows(self, of: PageInput) -> list[str]:
        """Title and text in pieces of whole words that each fit the model."""
        if not of.page.text.strip():
            return []
        text = f"{of.title}\n{of.page.text}"
        tokenizer = self._model.tokenizer
        longest = min(self._model[0].document_length or math.inf, tokenizer.model_max_length)
        around = int(self._inputs([""], "document")["input_ids"].shape[1])
        with self._processing:
            encoded = tokenizer(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                truncation=False,
                verbose=False,
            )
        starts = [start for start, _ in encoded["offset_mapping"]]
        room = max(1, int(min(longest - around - _SPARE, len(starts))))
        return word_windows(text, starts, room)

    def _inputs(self, inputs: Sequence[Any], task: str) -> Any:
        model = self._model
        prompt = next((model.prompts[name] for name in _PROMPTS[task] if name in model.prompts), "")
        with self._processing:
            made = model.preprocess(list(inputs), prompt=prompt or None, task=task)
        if "input_ids" not in made:
            # transformers' ColModernVBertProcessor, of an image alone.
            raise ModelError(
                f"the processor of {self._checkpoint.name} puts no prompt around a page image: name"
                " the checkpoint that colpali-engine saved of this model"
            )
        return made

    def _rows(self, inputs: Any, task: str) -> list[FloatRows]:
        torch, model = library("torch"), self._model
        with torch.inference_mode():
            moved = library("sentence_transformers.util").batch_to_device(
                dict(inputs), model.device
            )
            made = model(moved, task=task)
        embeddings, kept = made["token_embeddings"], made["attention_mask"].bool().cpu().numpy()
        if embeddings.shape[:2] != kept.shape or kept.shape != inputs["input_ids"].shape:
            raise ModelError(
                f"{self._checkpoint.name} merges its vectors itself, so that they cannot be told"
                " apart: take its token pooling off and set index.token_pooling"
            )
        return [unit_rows(rows, real) for rows, real in zip(embeddings, kept, strict=True)]

    def _mask(self, inputs: Any, task: str) -> Any:
        """The inputs with the mask of rows that count, as the checkpoint's own module makes it."""
        kinds = library("sentence_transformers.multi_vector_encoder.modules")
        masked = dict(inputs)
        for module in self._model:
            if isinstance(module, kinds.MultiVectorMask):
                masked = module(masked, task=task)
        return masked

    def _grids(self, inputs: Any) -> list[PatchGrid]:
        ids: npt.NDArray[np.int64] = inputs["input_ids"].numpy()
        kept = inputs["attention_mask"].numpy().astype(bool)
        shapes = inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else None
        processor = self._model.processor
        return [
            lay_out(processor, ids[page], kept[page], shapes[page] if shapes else None)
            for page in range(len(ids))
        ]

    @cached_property
    def _dimension(self) -> int:
        """Size of a vector: from the small files, or from the model where they do not say."""
        checkpoint = self._checkpoint
        if _is_native(checkpoint):
            size = checkpoint.config().get("embedding_dim")
        elif checkpoint.has("modules.json"):
            dense = [path for path, kind in _modules(checkpoint) if kind == "Dense"]
            size = _part(checkpoint, dense[-1]).config().get("out_features") if dense else None
        else:
            shape = checkpoint.tensor_shapes().get("linear.weight")
            size = shape[0] if shape else None
        return int(size or self._model.get_embedding_dimension())

    @property
    def _model(self) -> Any:
        with self._loading:
            if self._loaded is None:
                self._loaded = _load(self._checkpoint, self._settings)
            return self._loaded


def word_windows(text: str, starts: Sequence[int], room: int) -> list[str]:
    """``text`` in pieces of at most ``room`` tokens, cut where a word begins.

    ``starts`` is where each token begins in the text. A word longer than a piece is cut.
    """
    pieces: list[str] = []
    first = 0
    while first < len(starts):
        last = min(first + room, len(starts))
        if last < len(starts):
            # Some tokenizers count the space before a word to it.
            words = (
                n
                for n in range(last, first, -1)
                if text[starts[n]].isspace() or text[starts[n] - 1].isspace()
            )
            last = next(words, last)
        end = starts[last] if last < len(starts) else len(text)
        pieces.append(text[starts[first] : end])
        first = last
    return pieces


def _load(checkpoint: Checkpoint, settings: ModelSettings) -> Any:
    """The model on its device; ModelError unless its weights come from the checkpoint."""
    place = runtime(settings)
    sentence_transformers = library("sentence_transformers")
    options: dict[str, Any] = {"dtype": place.torch_dtype}
    if _transformer(checkpoint, base=True).config().get("model_type") in _EAGER:
        options["attn_implementation"] = "eager"
    try:
        model = sentence_transformers.MultiVectorEncoder(
            str(checkpoint.folder),
            device=place.device,
            local_files_only=True,
            model_kwargs=options,
        )
    except PageglassError:
        raise
    except Exception as error:  # safetensors, shapes, processors: kinds of several libraries
        raise unusable(checkpoint, "model", error) from error
    _check_weights(checkpoint, model[0])
    return model.eval()


def _check_weights(checkpoint: Checkpoint, transformer: Any) -> None:
    """ModelError where the files hold fewer numbers than the model.

    The library fills what is missing with random numbers and only logs it. Names differ between
    files and models, so numbers are counted. Poolers are often not saved, and not used here.
    """
    files = [_transformer(checkpoint)]
    if checkpoint.base is not None:
        files.append(checkpoint.base)
    stored = sum(math.prod(shape) for part in files for shape in part.tensor_shapes().values())
    wanted = sum(
        weights.numel()
        for name, weights in transformer.named_parameters()
        if ".pooler." not in f".{name}"
    )
    if 0 < stored < wanted:
        raise ModelError(
            f"{checkpoint.name} lacks {wanted - stored:,} of the model's {wanted:,} weights: is it"
            " complete?"
        )


def _sees_images(checkpoint: Checkpoint) -> bool:
    if _is_native(checkpoint) or not checkpoint.has("modules.json"):
        return _is_native(checkpoint)
    transformer = _transformer(checkpoint)
    if not transformer.has("sentence_bert_config.json"):
        return False
    modalities = transformer.config("sentence_bert_config.json").get("modality_config") or {}
    return any("image" in name for name in modalities)


def _is_native(checkpoint: Checkpoint) -> bool:
    """Whether this is one of transformers' own late-interaction retrievers."""
    return any(name.endswith("ForRetrieval") for name in _architectures(checkpoint))


def _is_stanford(checkpoint: Checkpoint) -> bool:
    return "HF_ColBERT" in _architectures(checkpoint)


def _architectures(checkpoint: Checkpoint) -> list[str]:
    if not checkpoint.has("config.json"):
        return []
    return checkpoint.config().get("architectures") or []


def _modules(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """(folder, class name) of each module of the checkpoint, in order."""
    try:
        listed: Any = json.loads((checkpoint.folder / "modules.json").read_text("utf-8"))
        modules = [(str(m["path"]), str(m["type"]).rpartition(".")[2]) for m in listed]
    except (OSError, ValueError, KeyError, TypeError):
        modules = []
    if not modules:
        raise ModelError(f"modules.json of the checkpoint {checkpoint.name} is damaged")
    return modules


def _transformer(checkpoint: Checkpoint, *, base: bool = False) -> Checkpoint:
    """Where the backbone's files are."""
    if base and checkpoint.base is not None:
        return checkpoint.base
    if not checkpoint.has("modules.json"):
        return checkpoint
    return _part(checkpoint, _modules(checkpoint)[0][0])


def _part(checkpoint: Checkpoint, folder: str) -> Checkpoint:
    return replace(checkpoint, folder=checkpoint.folder / folder)
