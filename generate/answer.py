"""From ranked pages to an answer: generate, check every citation, ask once again, or decline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from generate.citations import verify
from generate.containment import plain_text
from generate.models import AnsweringModel, Asked, BrokenReply, Draft, OnText, ShownPage
from pageglass.cancellation import current
from pageglass.errors import ModelServerError, OutOfMemory, PromptTooLong, StoreError
from pageglass.settings import AnswerSettings
from pageglass.tracing import span
from pageglass.types import Answer, AnswerStatus, Citation, Hit, Page, PageRef, PageStore, Usage

NOT_FOUND = "Nothing in the indexed pages answers this question."
"""The text of every declined answer."""

_WORTH_ASKING_AGAIN = 0.2
"""Share of the time for an answer that must be left for a second try to begin."""

FittedFor = Callable[[str, str], float | None]
"""The threshold fitted to a document's collection (by document id) for an answering model (by
name); None where there is none."""

# What goes wrong with one question; what is wrong with the installation is not glossed over.
_NO_ANSWER = (ModelServerError, OutOfMemory, PromptTooLong, StoreError)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A draft with its citations as code found them."""

    draft: Draft
    citations: tuple[Citation, ...]
    objections: tuple[str, ...]

    @property
    def verified(self) -> int:
        return sum(citation.verified for citation in self.citations)

    @property
    def holds(self) -> float:
        """How much of it holds, to compare two drafts by: all, some or none of its citations."""
        cited = len(self.citations) + len(self.objections)
        return self.verified / cited if cited else 0.0


class _Listener:
    """Hands an answer's pieces on, and knows what whoever listens has heard."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._heard = ""

    def __call__(self, piece: str | None) -> None:
        self._heard = "" if piece is None else self._heard + piece
        self._on_text(piece)

    def begin(self) -> None:
        """Take back what was heard, if anything was."""
        if self._heard:
            self(None)

    def settle(self, text: str) -> None:
        """See to it that ``text`` is what was heard."""
        if self._heard != text:
            self.begin()
            self(text)


class Answerer:
    """Answers questions from hits. Holds no state of its own: as thread-safe as its parts."""

    def __init__(
        self,
        model: AnsweringModel,
        pages: PageStore,
        settings: AnswerSettings,
        *,
        fallback: AnsweringModel | None = None,
        fitted: FittedFor = lambda document_id, model: None,
    ) -> None:
        """``fallback`` answers, and the answer says so, where ``model`` cannot be reached or says
        nothing that can be read. ``fitted`` goes before ``settings.threshold``."""
        self._model = model
        self._pages = pages
        self._settings = settings
        self._fallback = fallback
        self._fitted = fitted

    @property
    def model(self) -> str:
        """The name of the model that answers, where it can be reached."""
        return self._model.name

    def answer(
        self, asked: Asked | str, hits: Sequence[Hit], *, on_text: OnText | None = None
    ) -> Answer:
        """Answer from the first ``settings.pages`` of ``hits``, or decline.

        ``hits`` are kept in the answer as they are: after a decline they are the nearest pages.
        The threshold is the one fitted, for the model that answered, to the collection of the page
        that the answer quotes first, or of the first page shown where it quotes none.
        An answer with a citation that does not hold is asked for once again, and the better of the
        two is kept. ``on_text`` gets the text as it comes: its pieces since the last None are the
        answer's. ``timings_ms`` has ``load``, ``generate`` and ``check``. Blocks; raises ModelError
        when no model can be used.
        """
        asked = Asked(asked) if isinstance(asked, str) else asked
        began = perf_counter()
        top = {hit.ref: hit for hit in hits[: self._settings.pages]}
        with span("answer.load"):
            found = self._pages.pages(list(top))
            shown = {ref: found[ref] for ref in top if ref in found}
        loaded = perf_counter()
        notes: list[str] = []
        usage: list[Usage] = []
        model = self._model
        hear = _Listener(on_text) if on_text is not None else None
        best = _Checked(Draft("", (), 0.0), (), ())
        if any(page.words or page.image for page in shown.values()):
            pages = [
                ShownPage(p, top[ref].document_name, top[ref].score) for ref, p in shown.items()
            ]
            with span("answer.generate", {"pageglass.pages": len(pages)}) as generating:
                try:
                    best = self._ask(asked, pages, top, usage, hear)
                except _NO_ANSWER as error:
                    if self._fallback is None:
                        raise
                    generating.set("error.type", type(error).__qualname__)
                    notes.append(f"{self._model.name}: {error}; the pages are quoted instead")
                    model = self._fallback
                    if hear is not None:
                        hear.begin()
                    seconds = self._settings.seconds
                    draft = model.generate(asked, pages, seconds=seconds, on_text=hear)
                    best = _check(draft, top, shown)
        generated = perf_counter()
        status = self._status(best, model, list(shown))
        notes += best.draft.notes
        if best.objections and status != "not_found":
            notes += [
                f"the model's answer was doubted: {objection}" for objection in best.objections
            ]
        text, citations = best.draft.text, best.citations
        if status == "not_found":
            text, citations = NOT_FOUND, ()
        elif not model.extractive:
            # A quote is compared as it was given, and goes out as harmless as the answer.
            citations = tuple(replace(c, quote=plain_text(c.quote)) for c in citations)
        if hear is not None:
            hear.settle(text)
        checked = perf_counter()
        return Answer(
            text=text,
            status=status,
            citations=citations,
            hits=tuple(hits),
            model=model.name,
            extractive=model.extractive,
            timings_ms={
                "load": (loaded - began) * 1e3,
                "generate": (generated - loaded) * 1e3,
                "check": (checked - generated) * 1e3,
            },
            usage=tuple(usage),
            notes=tuple(notes),
            support=best.draft.support if shown else None,
            draft=best.draft.text,
        )

    def _ask(
        self,
        asked: Asked,
        pages: Sequence[ShownPage],
        hits: dict[PageRef, Hit],
        usage: list[Usage],
        hear: _Listener | None,
    ) -> _Checked:
        """The model's answer; where it does not hold or cannot be read, the better of two."""
        shown = {page.page.ref: page.page for page in pages}
        deadline = perf_counter() + self._settings.seconds

        def once(objections: Sequence[str]) -> _Checked:
            current().check()
            if hear is not None:
                hear.begin()
            try:
                draft = self._model.generate(
                    asked,
                    pages,
                    seconds=deadline - perf_counter(),
                    objections=objections,
                    on_text=hear,
                )
            except BrokenReply as error:
                usage.extend([error.usage] if error.usage else [])
                raise
            usage.extend(draft.usage)
            return _check(draft, hits, shown)

        def time_is_left() -> bool:
            return deadline - perf_counter() > _WORTH_ASKING_AGAIN * self._settings.seconds

        try:
            first = once(())
        except BrokenReply as error:
            if not time_is_left():
                raise
            return once((str(error),))
        if self._model.extractive or not first.objections or not time_is_left():
            return first
        try:
            second = once(first.objections)
        except _NO_ANSWER:
            return first
        if not second.draft.support:
            # Told that its words are not there, it takes them back.
            return first if first.verified else second
        return second if second.holds > first.holds else first

    def _status(
        self, checked: _Checked, model: AnsweringModel, shown: Sequence[PageRef]
    ) -> AnswerStatus:
        draft = checked.draft
        if not draft.text or draft.support < self._threshold(checked, model, shown):
            return "not_found"
        if model.extractive:
            return "answered" if checked.citations else "not_found"
        return "answered" if checked.verified else "unverified"

    def _threshold(
        self, checked: _Checked, model: AnsweringModel, shown: Sequence[PageRef]
    ) -> float:
        cited = [citation.ref for citation in checked.citations]
        fitted = self._fitted((cited or shown)[0].document_id, model.name)
        return self._settings.threshold if fitted is None else fitted


def _check(draft: Draft, hits: dict[PageRef, Hit], shown: dict[PageRef, Page]) -> _Checked:
    """Check the draft's quotes; one from a page that was not shown is no citation."""
    citations: list[Citation] = []
    objections: list[str] = []
    with span("answer.check", {"pageglass.quotes": len(draft.quotes)}) as checking:
        for ref, quote in dict.fromkeys(draft.quotes):
            if ref is None or ref not in shown:
                objections.append("it cites a page that was not shown")
                continue
            hit = hits[ref]
            claim = Citation(ref, hit.document_name, hit.page_label, quote, (), verified=False)
            citations.append(verify(claim, shown))
            if not citations[-1].verified:
                number = list(shown).index(ref) + 1
                said = plain_text(quote)[:200]
                objections.append(f"these words do not stand on page {number}: {said!r}")
        checking.set("pageglass.verified", sum(citation.verified for citation in citations))
    if draft.text and draft.support and not draft.quotes:
        objections.append("it cites nothing")
    return _Checked(draft, tuple(citations), tuple(dict.fromkeys(objections)))
