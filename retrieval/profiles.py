"""Profiles: which collections there are, what encodes into them, and how much each counts.

``load_profile`` makes encoders of a profile's data (pageglass.profiles), with the checkpoints that
the settings name in place of its own. Nothing else in the code asks which profile it runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pageglass.durable import make_folder, put_in_place
from pageglass.errors import ModelError
from pageglass.profiles import BUNDLED, PROFILES, ProfileModels, RetrieverName
from pageglass.settings import IndexSettings, ModelSettings, Settings
from retrieval.checkpoints import Checkpoint, Fetch, find
from retrieval.encoders import Encoder
from retrieval.encoders.bm25 import Bm25Encoder
from retrieval.encoders.minilm import MiniLM
from retrieval.encoders.minilm_encoder import MiniLMEncoder
from retrieval.index import CollectionSpec
from retrieval.torch_runtime import require

PAGE_NUMBER = "page-number"
"""The retriever of pages that the question names; it needs no vectors."""
BY_PICTURE = ":picture"
"""What is added to a retriever's name where it searched by the question's picture."""

# A page named in the question is a strong sign, worth two retrievers that agree.
_PAGE_NUMBER_WEIGHT = 2.0
# On ViDoRe late interaction over page images is well ahead of text from OCR (nDCG@5 of 81.3 against
# 66.1 for BGE-M3), and models in CLIP's manner, not trained on documents, are far behind (17.7 and
# 12.9; Faysse et al., 2024, table 2). Here three lists of text stand against one of each, and CLIP
# is there for questions that are pictures.
_PATCHES_WEIGHT = 2.0
_CLIP_WEIGHT = 0.25

CollectionName = Literal["visual", "image", "text"]


@dataclass(frozen=True, slots=True)
class Retriever:
    """One ranked list into the fusion: a named vector of a collection.

    ``prefetch`` names the vectors whose best pages are its candidates; empty means it looks at
    every page. ``weight`` is its default weight in the fusion.
    """

    name: str
    weight: float = 1.0
    prefetch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """A collection with the encoders that fill it and the retrievers that search it."""

    spec: CollectionSpec
    encoders: Sequence[Encoder]
    retrievers: Sequence[Retriever]


@dataclass(frozen=True, slots=True)
class Profile:
    """A set of spaces; the answering model is chosen beside it, in ``api.services``."""

    name: str
    spaces: Sequence[Space]

    @property
    def collections(self) -> tuple[str, ...]:
        """The names of its collections; each is a stage every page goes through."""
        return tuple(space.spec.name for space in self.spaces)

    def weights(self, overrides: Mapping[RetrieverName, float]) -> dict[str, float]:
        """Fusion weight by retriever, the profile's own under ``overrides``.

        A list found by picture weighs 1, or 0 where the retriever is switched off.
        """
        own = {
            retriever.name: retriever.weight
            for space in self.spaces
            for retriever in space.retrievers
        }
        chosen: dict[str, float] = {PAGE_NUMBER: _PAGE_NUMBER_WEIGHT, **own, **overrides}
        return {name + BY_PICTURE: float(chosen[name] > 0) for name in own} | chosen


def chosen_models(settings: Settings) -> ProfileModels:
    """The profile's models with those that the settings name in their place."""
    own, named = PROFILES[settings.profile].models, settings.models
    rerank = named.rerank or own.rerank
    if named.answer and not named.rerank and own.rerank == own.answer:
        rerank = own.rerank and named.answer
    return ProfileModels(
        text=named.text or own.text,
        visual=named.visual or own.visual,
        image=named.image or own.image,
        rerank=rerank,
        answer=named.answer or own.answer,
        answer_url=settings.answer.url or own.answer_url,
    )


class Checkpoints:
    """Finds checkpoints for one data folder, always the same commit of each.

    What a hub name meant when the folder first used it is kept in ``lock``: the hub may move on,
    the folder's vectors do not. To take a newer commit, name it (``name@revision``).
    """

    def __init__(self, *, lock: Path | None, fetch: Fetch) -> None:
        """``lock`` is a JSON file, made when needed; None: nothing is kept."""
        self._lock = lock
        self._fetch: Fetch = fetch

    @classmethod
    def of(cls, settings: Settings) -> Checkpoints:
        """Those of the settings' data folder, fetched where that is allowed."""
        fetch: Fetch = "never" if settings.models.offline else "missing"
        return cls(lock=settings.data_dir / "models.json", fetch=fetch)

    def find(self, name: str) -> Checkpoint:
        """The checkpoint of a hub name, name@revision or folder; ModelError."""
        locked = self._locked()
        found = find(name, fetch=self._fetch, locked=locked)
        if self._lock is not None:
            settled = dict(locked)
            for checkpoint in (found, found.base):
                if checkpoint is not None and not Path(checkpoint.name).expanduser().is_dir():
                    settled[checkpoint.name] = checkpoint.revision
            if settled != locked:
                make_folder(self._lock.parent)
                # Written beside and renamed: a crash leaves the old one or the new one.
                written = self._lock.with_suffix(".new")
                written.write_text(json.dumps(settled, indent=1, sort_keys=True))
                put_in_place(written, self._lock)
        return found

    def _locked(self) -> dict[str, str]:
        if self._lock is None or not self._lock.exists():
            return {}
        try:
            kept: Any = json.loads(self._lock.read_text("utf-8"))
            return {str(name): str(revision) for name, revision in kept.items()}
        except (OSError, ValueError, AttributeError):
            raise ModelError(
                f"{self._lock} is damaged: remove it to take the models' newest versions"
            ) from None


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an encoder may need to be built."""

    checkpoints: Checkpoints
    models: ModelSettings
    index: IndexSettings
    minilm: MiniLM


@dataclass(frozen=True, slots=True)
class _Built:
    label: str
    encoders: tuple[Encoder, ...]
    retrievers: tuple[Retriever, ...] = field(default=())


def load_profile(settings: Settings, minilm: MiniLM, checkpoints: Checkpoints) -> Profile:
    """The spaces of ``settings.profile``, with encoders whose weights load when first used.

    ModelError where a checkpoint is missing or of a family that its collection cannot use.
    """
    models = chosen_models(settings)
    parts = _Parts(checkpoints, settings.models, settings.index, minilm)
    wanted: tuple[tuple[CollectionName, str | None, Callable[[str, _Parts], _Built]], ...] = (
        ("visual", models.visual, _visual),
        ("image", models.image, _image),
        ("text", models.text, _text),
    )
    spaces: list[Space] = []
    for collection, model, build in wanted:
        if model is None:
            continue
        if model != BUNDLED:
            require("torch")
        built = build(model, parts)
        vectors = {name: spec for e in built.encoders for name, spec in e.vectors.items()}
        described = {key: value for e in built.encoders for key, value in e.model.items()}
        spec = CollectionSpec(f"{collection}--{built.label}", vectors, described)
        spaces.append(Space(spec, built.encoders, built.retrievers))
    return Profile(settings.profile, tuple(spaces))


# Each imports its encoder late: `lite` starts sooner without.


def _visual(name: str, parts: _Parts) -> _Built:
    from retrieval.encoders.colpali import ColPaliEncoder
    from retrieval.encoders.multivector import MultiVectorPageEncoder, is_multivector

    checkpoint = parts.checkpoints.find(name)
    kind = MultiVectorPageEncoder if is_multivector(checkpoint) else ColPaliEncoder
    encoder = kind(
        checkpoint,
        parts.models,
        quantization=parts.index.quantization,
        token_pooling=parts.index.token_pooling,
    )
    if "patches" not in encoder.vectors:
        raise ModelError(f"{name} encodes text, not page images: name it as models.text")
    # Compressed patches are searched whole, then rescored; without them the rows' means come first.
    first = ("pooled",) if parts.index.quantization == "none" else ()
    return _Built(checkpoint.label, (encoder,), (Retriever("patches", _PATCHES_WEIGHT, first),))


def _image(name: str, parts: _Parts) -> _Built:
    from retrieval.encoders.clip import ClipEncoder

    checkpoint = parts.checkpoints.find(name)
    return _Built(
        checkpoint.label,
        (ClipEncoder(checkpoint, parts.models),),
        (Retriever("clip", _CLIP_WEIGHT),),
    )


def _text(name: str, parts: _Parts) -> _Built:
    if name == BUNDLED:
        minilm = MiniLMEncoder(parts.minilm)
        return _Built(minilm.model["name"], (minilm, Bm25Encoder()), _TEXT)
    from retrieval.encoders.bge_m3 import BgeM3Encoder
    from retrieval.encoders.multivector import MultiVectorPageEncoder, is_multivector

    checkpoint = parts.checkpoints.find(name)
    if is_multivector(checkpoint):
        tokens = MultiVectorPageEncoder(checkpoint, parts.models)
        if "tokens" not in tokens.vectors:
            raise ModelError(f"{name} encodes page images, not text: name it as models.visual")
        found = (Retriever("sparse"), Retriever("tokens", prefetch=("sparse",)))
        return _Built(checkpoint.label, (tokens, Bm25Encoder()), found)
    return _Built(checkpoint.label, (BgeM3Encoder(checkpoint, parts.models),), _TEXT)


_TEXT = (
    Retriever("sparse"),
    Retriever("dense"),
    Retriever("tokens", prefetch=("sparse", "dense")),
)
