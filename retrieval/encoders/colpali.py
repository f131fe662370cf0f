"""Late interaction over page images by colpali-engine's models: ColPali, ColQwen, ColSmol and kin.

A page's image becomes a vector for each of its patches, a question one for each of its tokens;
MaxSim compares them (retrieval.similarity).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pageglass.errors import ModelError, PageglassError
from pageglass.settings import ModelSettings
from retrieval.checkpoints import Checkpoint
from retrieval.encoders import PageInput, Vectors
from retrieval.encoders.patches import (
    PageRows,
    Quantization,
    encode_images,
    lay_out,
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


@dataclass(frozen=True, slots=True)
class Family:
    """A family of colpali-engine: its two classes there, and what is particular about it.

    ``projection`` is the layer that makes the vectors, ``unused`` one whose output nobody reads,
    ``options`` go to ``from_pretrained``.
    """

    model: str
    processor: str
    projection: str = "custom_text_proj"
    unused: str | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str])


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        # SDPA lets padding into PaliGemma's attention. Its head would make half a gigabyte of
        # logits a page, and has no weights where the checkpoint ties it to the embeddings.
        "paligemma": Family(
            "ColPali",
            "ColPaliProcessor",
            unused="model.lm_head",
            options={"attn_implementation": "eager"},
        ),
        "qwen2_vl": Family("ColQwen2", "ColQwen2Processor"),
        "qwen2_5_vl": Family("ColQwen2_5", "ColQwen2_5_Processor"),
        "qwen3_vl": Family("ColQwen3", "ColQwen3Processor"),
        "qwen3_5": Family("ColQwen3_5", "ColQwen3_5Processor"),
        "idefics3": Family("ColIdefics3", "ColIdefics3Processor", projection="linear"),
        "modernvbert": Family("ColModernVBert", "ColModernVBertProcessor"),
    }
)
"""By ``model_type`` of the checkpoint's (for an adapter: its base's) config.json."""


class ColPaliEncoder:
    """Fills and asks the named vectors ``patches`` and ``pooled``.

    Safe to share between threads. Weights load at the first page or question, the processor where
    it is first needed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: ModelSettings,
        *,
        quantization: Quantization = "none",
        token_pooling: int = 1,
    ) -> None:
        """Encode with ``checkpoint``; ModelError where it is of no family in FAMILIES.

        ``token_pooling`` merges about so many patches of a page into one. A page so stored has no
        similarity maps.
        """
        self._checkpoint = checkpoint
        self._settings = settings
        self._quantization: Quantization = quantization
        self._token_pooling = token_pooling
        self._family = _family(checkpoint)
        self._batches = Batches(settings.batch_pages)
        self._loading = threading.Lock()
        # A fast tokenizer is not to be called from two threads at a time.
        self._processing = threading.Lock()
        self._loaded_model: Any = None
        self._loaded_processor: Any = None

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """The named vectors this encoder fills."""
        return visual_vectors(self._dimension, self._quantization)

    @property
    def model(self) -> dict[str, Any]:
        """What must agree for vectors to be comparable; the rest is in the checkpoint."""
        return {
            "name": self._checkpoint.label,
            "checkpoint": self._checkpoint.manifest(),
            "library": "colpali-engine",
            "family": self._family.model,
            "preprocessing": {"token_pooling": self._token_pooling},
        }

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``patches`` (rows, size), prompt tokens included, and ``pooled`` (grid rows, size)."""
        return encode_images(
            pages, self._batches, self._page_rows, token_pooling=self._token_pooling
        )

    def encode_question(self, text: str) -> Vectors:
        """``patches`` (tokens, size), and the same rows as ``pooled``; {} for an empty text."""
        if not text.strip():
            return {}
        inputs = self._question(text)
        (rows,) = self._rows(inputs)
        return {"patches": rows, "pooled": rows}

    def encode_image(self, image: Image.Image) -> Vectors:
        """A picture as a question: its pooled rows (grid rows, size), under both names."""
        (page,) = self._page_rows([image])
        return picture_question(page)

    def patch_grid(self, image: Image.Image) -> PatchGrid:
        """Where the rows of a page's ``patches`` lie on its image; no model runs."""
        with self._processing:
            return self._grids(self._processor.process_images([on_paper(image)]))[0]

    def question_tokens(self, text: str) -> list[str]:
        """What each row of the question's ``patches`` stands for; the model's own tokens too."""
        if not text.strip():
            return []
        inputs = self._question(text)
        with self._processing:
            return readable(self._processor.tokenizer, inputs["input_ids"][0].numpy())

    def _question(self, text: str) -> Any:
        with self._processing:
            return self._processor.process_queries([text])

    def _page_rows(self, images: Sequence[Image.Image]) -> list[PageRows]:
        with self._processing:
            inputs = self._processor.process_images([on_paper(image) for image in images])
            grids = self._grids(inputs)
        return [PageRows(*page) for page in zip(self._rows(inputs), grids, strict=True)]

    def _rows(self, inputs: Any) -> list[Any]:
        torch, model = library("torch"), self._model
        kept = inputs["attention_mask"].numpy().astype(bool)
        # PaliGemma's processor adds what only training needs.
        given = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.inference_mode():
            moved = {name: value.to(model.device) for name, value in given.items()}
            embeddings = model(**moved)
        return [unit_rows(rows, real) for rows, real in zip(embeddings, kept, strict=True)]

    def _grids(self, inputs: Any) -> list[PatchGrid]:
        ids, kept = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy().astype(bool)
        shapes = inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else None
        return [
            lay_out(self._processor, ids[page], kept[page], shapes[page] if shapes else None)
            for page in range(len(ids))
        ]

    @cached_property
    def _dimension(self) -> int:
        """Size of a vector: from the headers of the weights, or else from the model."""
        name = self._family.projection
        known = False
        for part in (self._checkpoint, self._checkpoint.base):
            shapes = part.tensor_shapes() if part is not None else {}
            known = known or bool(shapes)
            for tensor, shape in shapes.items():
                if f".{tensor}".endswith((f".{name}.weight", f".{name}.lora_B.weight")):
                    return shape[0]
        if known:
            raise ModelError(
                f"{self._checkpoint.name} has no layer {name}, which makes a"
                f" {self._family.model}'s vectors: name a checkpoint trained for retrieval"
            )
        return int(getattr(self._model, name).out_features)

    @property
    def _model(self) -> Any:
        with self._loading:
            if self._loaded_model is None:
                self._loaded_model = _load_model(self._checkpoint, self._family, self._settings)
            return self._loaded_model

    @property
    def _processor(self) -> Any:
        with self._loading:
            if self._loaded_processor is None:
                self._loaded_processor = _load_processor(self._checkpoint, self._family)
            return self._loaded_processor


def _family(checkpoint: Checkpoint) -> Family:
    kind: Any = (checkpoint.base or checkpoint).config().get("model_type")
    if kind not in FAMILIES:
        known = ", ".join(f"{family.model} ({name})" for name, family in FAMILIES.items())
        raise ModelError(
            f"{checkpoint.name} is of type {kind}, no page-image model of colpali-engine:"
            f" name a checkpoint of {known}"
        )
    return FAMILIES[kind]


def _load_processor(checkpoint: Checkpoint, family: Family) -> Any:
    engine = library("colpali_engine.models")
    files = ("processor_config.json", "preprocessor_config.json")
    for part in (checkpoint, checkpoint.base):
        if part is not None and any(part.has(file) for file in files):
            try:
                return getattr(engine, family.processor).from_pretrained(
                    str(part.folder), local_files_only=True
                )
            except Exception as error:  # from missing files to a tokenizer's own kinds
                raise unusable(checkpoint, "processor", error) from error
    raise ModelError(
        f"the checkpoint {checkpoint.name} has no {' or '.join(files)}: is it complete?"
    )


def _load_model(checkpoint: Checkpoint, family: Family, settings: ModelSettings) -> Any:
    """The model on its device; ModelError unless every weight comes from the checkpoint."""
    place = runtime(settings)
    kind = getattr(library("colpali_engine.models"), family.model)
    try:
        model, info = kind.from_pretrained(
            str((checkpoint.base or checkpoint).folder),
            dtype=place.torch_dtype,
            local_files_only=True,
            output_loading_info=True,
            **family.options,
        )
        missing = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        if checkpoint.base is not None:
            missing = _load_adapter(model, checkpoint, missing)
        if family.unused is not None:
            model.set_submodule(family.unused, library("torch").nn.Identity())
        model = model.to(place.device).eval()
    except PageglassError:
        raise
    except Exception as error:  # safetensors, pickle, shapes, memory: kinds of several libraries
        raise unusable(checkpoint, "model", error) from error
    if missing:
        raise ModelError(
            f"{checkpoint.name} lacks {len(missing)} of a {family.model}'s weights, such as"
            f" {min(missing)}: is it complete, and trained for retrieval?"
        )
    return model


def _load_adapter(model: Any, checkpoint: Checkpoint, missing: set[str]) -> set[str]:
    """Put an adapter on its base; what of the weights is ``missing`` then."""
    library("peft")
    conversion = library("transformers.conversion_mapping")
    whole = checkpoint.config("adapter_config.json").get("modules_to_save") or []
    # Adapters made by earlier versions of transformers name the layers otherwise, as bases do.
    names = conversion.get_model_conversion_mapping(
        model, dict(getattr(type(model), "_checkpoint_conversion_mapping", {}))
    )
    info = model.load_adapter(
        str(checkpoint.folder), weight_mapping=names, adapter_kwargs={"local_files_only": True}
    )
    replaced = {name for name in missing if name.rpartition(".")[0].endswith(tuple(whole))}
    return (missing - replaced) | info.missing_and_mismatched()
