"""The best pages in a better order: a vision-language model is asked of each if it answers.

Its word alone is not trusted (small models asked without training can halve recall); it is blended
with the order the retrievers agreed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from pageglass import prompts
from pageglass.errors import ModelError, StoreError
from pageglass.settings import RerankSettings
from pageglass.types import Page, PageRef, Usage
from retrieval.vlms import Message, Vlm
from retrieval.vlms.images import PromptImages


@dataclass(frozen=True, slots=True)
class Reranked:
    """``order`` holds positions in the list of pages that was given, best first, each once.

    ``yes`` is the probability, 0..1, that a page answers the question, for the pages looked at.
    ``note`` says in plain words why the order is the one given, where the model failed.
    """

    order: tuple[int, ...]
    yes: Mapping[PageRef, float] = field(default_factory=dict[PageRef, float])
    usage: Usage | None = None
    note: str | None = None


class Reranker:
    """Looks at the first pages of a ranking. Holds no state: as thread-safe as ``vlm``."""

    def __init__(self, vlm: Vlm, images: PromptImages, settings: RerankSettings) -> None:
        self._vlm = vlm
        self._images = images
        self._settings = settings

    @property
    def pages(self) -> int:
        """How many pages it looks at."""
        return self._settings.pages

    def rerank(self, question: str, pages: Sequence[Page], fused: Sequence[float]) -> Reranked:
        """Order ``pages``, given best first with their ``fused`` scores.

        The model sees a page's image and the question, nothing else: text beside the image would
        say what the text retrievers already said. Pages it does not look at stay where they are,
        and so do all where it fails or takes too long.
        """
        as_given = tuple(range(len(pages)))
        window = pages[: self.pages]
        if len(window) < 2:
            return Reranked(as_given)
        began = perf_counter()
        asked = prompts.answers_question(question)
        try:
            images = [self._images.of(page) for page in window]
            answers = self._vlm.yes(
                [[Message("user", (image, asked))] for image in images],
                seconds=self._settings.seconds - (perf_counter() - began),
            )
        except (ModelError, StoreError) as error:
            return Reranked(as_given, note=f"the pages were not looked at again: {error}")
        usage = Usage(
            purpose="rerank",
            model=answers.model,
            images=tuple((image.width, image.height) for image in images),
            input_tokens=answers.input_tokens,
            output_tokens=answers.output_tokens,
            seconds=perf_counter() - began,
        )
        order = blend(fused[: len(window)], answers.probabilities, self._settings.weight)
        yes = {page.ref: p for page, p in zip(window, answers.probabilities, strict=True)}
        return Reranked((*order, *as_given[len(window) :]), yes, usage)


def blend(fused: Sequence[float], yes: Sequence[float], weight: float) -> list[int]:
    """Positions, best first, by (1 - ``weight``) * scaled ``fused`` + ``weight`` * ``yes``.

    Fused scores are scaled so that the least is 0 and the greatest 1; ``yes`` are probabilities,
    0..1, and so is ``weight``. Pages that tie stay in the order given.
    """
    least, spread = min(fused, default=0.0), max(fused, default=0.0) - min(fused, default=0.0)
    scaled = [(score - least) / spread if spread else 0.0 for score in fused]
    blended = [(1 - weight) * s + weight * p for s, p in zip(scaled, yes, strict=True)]
    return sorted(range(len(blended)), key=lambda i: -blended[i])
