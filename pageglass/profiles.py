"""Profiles as data: the models of each, and the settings that suit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

ProfileName = Literal["lite", "cpu", "gpu"]

RetrieverName = Literal["sparse", "dense", "tokens", "patches", "clip", "page-number"]
"""Every ranked list that a profile may have."""

BUNDLED = "minilm-l6-v2"
"""The text model that comes with Pageglass and needs no checkpoint."""

QUOTING = "extractive-minilm"
"""What answers by quotes say answered."""


@dataclass(frozen=True, slots=True)
class ProfileModels:
    """The model of each collection, and those that look at pages.

    Models are hub names; ``text`` may be BUNDLED. ``rerank`` and ``answer`` are vision-language
    models, None for none (answers are then quotes); a reranking model of the same name as the
    answering one is that one. ``answer_url`` is where the answering model's server is expected,
    None for one in this process.
    """

    text: str
    visual: str | None = None
    image: str | None = None
    rerank: str | None = None
    answer: str | None = None
    answer_url: str | None = None


@dataclass(frozen=True, slots=True)
class ProfileData:
    """``models``, and ``settings`` by section that stand in for the defaults; whatever a person
    sets goes before them."""

    models: ProfileModels
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


PROFILES: Mapping[ProfileName, ProfileData] = MappingProxyType(
    {
        "lite": ProfileData(ProfileModels(text=BUNDLED)),
        "cpu": ProfileData(
            ProfileModels(
                visual="vidore/colSmol-256M",
                image="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
                text="BAAI/bge-m3",
                rerank="HuggingFaceTB/SmolVLM-500M-Instruct",
                answer="HuggingFaceTB/SmolVLM-500M-Instruct",
            ),
            # A page takes a processor of few cores tens of seconds to encode, and about as long to
            # be looked at by SmolVLM (`pageglass doctor` measures it): small batches lose little
            # when they are cut short, eight pages to rerank would take minutes, and five to answer
            # from are more than SmolVLM can read at once.
            {
                "ingest": {"batch_pages": 2},
                "rerank": {"pages": 0},
                "answer": {"pages": 3, "image_pixels": 1024},
            },
        ),
        "gpu": ProfileData(
            ProfileModels(
                visual="vidore/colqwen2.5-v0.2",
                image="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
                text="BAAI/bge-m3",
                rerank="Qwen/Qwen2.5-VL-7B-Instruct",
                answer="Qwen/Qwen2.5-VL-7B-Instruct",
                answer_url="http://127.0.0.1:8000/v1",
            )
        ),
    }
)
