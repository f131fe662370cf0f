"""Profiles: which collections there are, what encodes into them, and how much each counts.

Nothing else in the code asks which profile it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retrieval.encoders import Encoder
from retrieval.encoders.bm25 import Bm25Encoder
from retrieval.encoders.minilm import MiniLM
from retrieval.encoders.minilm_encoder import MiniLMEncoder
from retrieval.index import CollectionSpec

PAGE_NUMBER = "page-number"
"""The retriever of pages that the question names; it needs no vectors."""

# A page named in the question is a strong sign, worth two retrievers that agree.
_PAGE_NUMBER_WEIGHT = 2.0


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
    """A set of spaces; the answering model is chosen beside it, in ``generate``."""

    name: str
    spaces: Sequence[Space]

    def weights(self, overrides: Mapping[str, float]) -> dict[str, float]:
        """Fusion weight by retriever, the profile's own under ``overrides``."""
        own = {
            retriever.name: retriever.weight
            for space in self.spaces
            for retriever in space.retrievers
        }
        return {PAGE_NUMBER: _PAGE_NUMBER_WEIGHT} | own | dict(overrides)


def lite(model: MiniLM) -> Profile:
    """The profile `lite`: text only, on any CPU. ``model`` loads when it is first used."""
    minilm, bm25 = MiniLMEncoder(model), Bm25Encoder()
    text = Space(
        spec=CollectionSpec(
            name=f"text--{minilm.model['name']}",
            vectors=minilm.vectors | bm25.vectors,
            model=minilm.model | bm25.model,
        ),
        encoders=(minilm, bm25),
        retrievers=(
            Retriever("sparse"),
            Retriever("dense"),
            Retriever("tokens", prefetch=("sparse", "dense")),
        ),
    )
    return Profile("lite", (text,))
