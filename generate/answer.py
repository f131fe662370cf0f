"""From ranked pages to an answer: generate, check every citation, or decline."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from generate.citations import verify
from generate.models import AnsweringModel, Draft, ShownPage
from pageglass.settings import AnswerSettings
from pageglass.types import Answer, Citation, Hit, Page, PageRef, PageStore

NOT_FOUND = "Nothing in the indexed pages answers this question."
"""The text of every declined answer."""


class Answerer:
    """Answers questions from hits. Holds no state of its own: as thread-safe as its parts."""

    def __init__(self, model: AnsweringModel, pages: PageStore, settings: AnswerSettings) -> None:
        self._model = model
        self._pages = pages
        self._settings = settings

    def answer(self, question: str, hits: Sequence[Hit]) -> Answer:
        """Answer ``question`` from the first ``settings.pages`` of ``hits``, or decline.

        ``hits`` are kept in the answer as they are: after a decline they are the nearest pages.
        ``timings_ms`` has ``load``, ``generate`` and ``check``. Blocks; raises ModelError when the
        model cannot be used.
        """
        began = perf_counter()
        top = {hit.ref: hit for hit in hits[: self._settings.pages]}
        found = self._pages.pages(list(top))
        shown = {ref: found[ref] for ref in top if ref in found}
        loaded = perf_counter()
        draft = Draft("", (), 0.0)
        if any(page.words or page.image for page in shown.values()):
            draft = self._model.generate(
                question,
                [
                    ShownPage(page, top[ref].document_name, top[ref].score)
                    for ref, page in shown.items()
                ],
            )
        generated = perf_counter()
        citations = _citations(draft, top, shown)
        declined = not draft.text or not citations or draft.support < self._settings.threshold
        checked = perf_counter()
        return Answer(
            text=NOT_FOUND if declined else draft.text,
            status="not_found" if declined else "answered",
            citations=() if declined else citations,
            hits=tuple(hits),
            model=self._model.name,
            extractive=self._model.extractive,
            timings_ms={
                "load": (loaded - began) * 1e3,
                "generate": (generated - loaded) * 1e3,
                "check": (checked - generated) * 1e3,
            },
        )


def _citations(
    draft: Draft, hits: dict[PageRef, Hit], shown: dict[PageRef, Page]
) -> tuple[Citation, ...]:
    """Checked citations of the draft's quotes; a quote from a page not shown is no citation."""
    citations: list[Citation] = []
    for ref, quote in dict.fromkeys(draft.quotes):
        if ref in shown:
            hit = hits[ref]
            claim = Citation(ref, hit.document_name, hit.page_label, quote, (), verified=False)
            citations.append(verify(claim, shown))
    return tuple(citations)
