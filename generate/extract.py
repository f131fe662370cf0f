"""From a schema and pages to values: ask of each page, check every value, merge."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from time import perf_counter

from generate.citations import boxes_of, find_quote
from generate.containment import plain_text
from generate.json_objects import json_objects
from generate.schemas import (
    Fields,
    Leaf,
    Tree,
    merge,
    model_schema,
    read_reply,
    shortfalls,
)
from generate.values import is_said
from pageglass import prompts
from pageglass.cancellation import current
from pageglass.errors import (
    ModelServerError,
    ModelTimeout,
    OutOfMemory,
    PageglassError,
    PromptTooLong,
    StoreError,
)
from pageglass.settings import ExtractSettings
from pageglass.types import (
    ExtractedDocument,
    ExtractedValue,
    Extraction,
    Page,
    PageProblem,
    PageRef,
    PageStore,
    Scalar,
    Usage,
)
from retrieval.vlms import Message, PromptImage, Vlm
from retrieval.vlms.images import PromptImages

_WORTH_ASKING_AGAIN = 0.2
"""Share of the time for a page that must be left for a second try to begin."""
_MOST_OBJECTIONS = 8
"""Of what is wrong with a reply, as much as the model is told: it is often the same all over."""
_EMPTY_CONTRAST = 24
"""Of 255 shades of grey, how far apart those of a page may be on which nothing stands."""

# What goes wrong with one page; what is wrong with the installation is not glossed over.
_PAGE_ERRORS = (ModelServerError, OutOfMemory, PromptTooLong, StoreError)

LookUp = Callable[[str], tuple[int, ...] | None]
"""Positions of quoted words on a page."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a page says, and what of the model's reply is not as it must be."""

    tree: Tree
    objections: tuple[str, ...]


class Extractor:
    """Reads values off pages by a vision-language model. As thread-safe as its parts."""

    def __init__(
        self, vlm: Vlm, images: PromptImages, pages: PageStore, settings: ExtractSettings
    ) -> None:
        self._vlm = vlm
        self._images = images
        self._pages = pages
        self._settings = settings

    def extract(
        self, fields: Fields, documents: Mapping[str, Sequence[PageRef]], *, instructions: str = ""
    ) -> Extraction:
        """What ``documents`` (ids, and of each the pages to look at) say to ``fields``.

        A reply that is not as it must be is asked for once again, and the better of the two is
        kept. What goes wrong with a page is a problem of that page; ModelError and StoreError are
        raised where nothing at all could be read. Pages on which nothing stands, and those that
        repeat one of their document, are passed over. Blocks.
        """
        began = perf_counter()
        names = self._pages.document_names(list(documents))
        work = _Work(self._vlm, self._images, self._pages, self._settings, fields, instructions)
        found = [work.document(id, names.get(id, id), refs) for id, refs in documents.items()]
        if work.failure is not None and not work.read:
            raise work.failure
        notes: list[str] = []
        if work.passed_over:
            are = "1 page is" if work.passed_over == 1 else f"{work.passed_over} pages are"
            notes.append(f"{are} empty or repeat another page: the model was not shown them")
        return Extraction(
            documents=tuple(found),
            model=self._vlm.name,
            timings_ms={"extract": (perf_counter() - began) * 1e3},
            usage=tuple(work.usage),
            notes=tuple(notes),
        )


@dataclass(slots=True)
class _Work:
    """One extraction under way, and what became of it so far."""

    vlm: Vlm
    images: PromptImages
    pages: PageStore
    settings: ExtractSettings
    fields: Fields
    instructions: str
    usage: list[Usage] = field(default_factory=list[Usage])
    read: int = 0
    passed_over: int = 0
    failure: PageglassError | None = None
    is_gone: bool = False

    def document(self, id: str, name: str, refs: Sequence[PageRef]) -> ExtractedDocument:
        """What one document says."""
        trees: list[Tree] = []
        looked_at: list[PageRef] = []
        problems: list[PageProblem] = []
        seen: set[tuple[str, str]] = set()
        for ref in refs:
            try:
                reading = self._page(ref, name, seen)
            except _PAGE_ERRORS as error:
                self.failure = self.failure or error
                if isinstance(error, ModelServerError) and not isinstance(error, ModelTimeout):
                    # What keeps it from one page keeps it from all; waiting for each takes long.
                    self.is_gone = True
                reading = _Reading(None, (str(error),))
            if reading is None:
                continue
            looked_at.append(ref)
            trees.append(reading.tree)
            problems += [PageProblem(ref, plain_text(one)) for one in reading.objections]
        data, values = merge(self.fields, trees)
        notes = tuple(shortfalls(self.fields, data)) if looked_at else ("it has no pages to read",)
        return ExtractedDocument(id, name, data, values, tuple(looked_at), tuple(problems), notes)

    def _page(self, ref: PageRef, name: str, seen: set[tuple[str, str]]) -> _Reading | None:
        """What a page says, in the better of two tries; None where there is nothing to show."""
        page = self.pages.pages([ref]).get(ref)
        if page is None:
            return _Reading(None, ("could not be read, or is not read yet",))
        alike = (page.render_hash, page.text)
        if alike in seen or (not page.words and _is_one_shade(self.images.of(page))):
            self.passed_over += 1
            return None
        if self.is_gone:
            return _Reading(None, ("the model was not asked: it did not answer before",))
        reading = self._read(page, name)
        seen.add(alike)
        self.read += 1
        return reading

    def _read(self, page: Page, name: str) -> _Reading:
        deadline = perf_counter() + self.settings.seconds
        first = self._ask(page, name, (), deadline)
        time_left = deadline - perf_counter()
        if not first.objections or time_left < _WORTH_ASKING_AGAIN * self.settings.seconds:
            return first
        try:
            second = self._ask(page, name, first.objections, deadline)
        except _PAGE_ERRORS:
            return first
        if first.tree is not None and second.tree is None:
            return first
        return second if len(second.objections) <= len(first.objections) else first

    def _ask(self, page: Page, name: str, objections: Sequence[str], deadline: float) -> _Reading:
        current().check()
        began = perf_counter()
        schema = model_schema(self.fields)
        image = self.images.of(page)
        parts = (
            prompts.page_heading(1, name, page.label),
            image,
            prompts.page_text(1, page.text),
            prompts.values(json.dumps(schema, ensure_ascii=False), self.instructions, objections),
        )
        try:
            reply = self.vlm.reply(
                [Message("system", (prompts.EXTRACTING,)), Message("user", parts)],
                tokens=self.settings.tokens,
                seconds=deadline - began,
                schema=schema,
            )
        except ModelTimeout:
            # Its own words name the setting that holds for answers.
            raise ModelTimeout(
                f"{self.vlm.name} did not read the page in {self.settings.seconds:g} s: allow it"
                " more (setting extract.seconds)"
            ) from None
        self.usage.append(
            Usage(
                purpose="extract",
                model=reply.model,
                images=((image.width, image.height),),
                input_tokens=reply.input_tokens,
                output_tokens=reply.output_tokens,
                seconds=perf_counter() - began,
            )
        )
        names = self.fields.fields.keys()
        said = next(
            (
                one
                for one in json_objects(reply.text)
                # Where the reply breaks off, a part of it must not pass for the whole.
                if (names <= one.keys() if reply.cut else names & one.keys())
            ),
            None,
        )
        if said is None:
            wrong = "the reply is not the JSON object that was asked for"
            if reply.cut:
                wrong = (
                    f"the reply did not fit into {self.settings.tokens:,} tokens (setting"
                    " extract.tokens): it must be shorter"
                )
            return _Reading(None, (wrong,))
        # The values of a table row share its quote.
        look_up = cache(partial(find_quote, page))
        tree, objections = read_reply(self.fields, said, partial(_check, page, look_up))
        return _Reading(tree, tuple(dict.fromkeys(objections))[:_MOST_OBJECTIONS])


def _check(page: Page, look_up: LookUp, leaf: Leaf, value: Scalar, quote: str) -> ExtractedValue:
    """The value with its quote looked up on the page, and itself in its quote."""
    words = look_up(quote)
    return ExtractedValue(
        path="",
        value=value,
        ref=page.ref,
        page_label=page.label,
        # It is compared as it was given, and goes out harmless.
        quote=plain_text(quote) or None,
        boxes=boxes_of(page.words[i] for i in words or ()),
        verified=words is not None and (not leaf.verbatim or is_said(value, quote)),
    )


def _is_one_shade(shown: PromptImage) -> bool:
    from PIL import Image

    with Image.open(io.BytesIO(shown.data)) as image:
        darkest, lightest = image.convert("L").getextrema()
    return lightest - darkest < _EMPTY_CONTRAST  # pyright: ignore[reportOperatorIssue]
