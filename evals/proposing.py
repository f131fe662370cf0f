"""Cases proposed from an index, for a person to accept or edit: `pageglass eval new`.

Pages are taken in turn from all documents and kinds of pages. Where the profile has a model that
looks at pages it writes the questions, else rules do (evals.questions). Every quote is looked for
on its page by code, and what is not there is dropped and counted. The same seed, pages and cases
make the same proposals.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evals.cases import Case, Shelf
from evals.partial import Partial
from evals.questions import (
    Question,
    made_up_name,
    named_in,
    questions_of,
    without_answer,
)
from generate.citations import find_quote
from generate.containment import plain_text
from generate.json_objects import json_objects
from pageglass import prompts
from pageglass.errors import ModelError, PageglassError
from pageglass.types import Document, Page, PageRef
from retrieval.headings import document_title
from retrieval.vlms import Message, Vlm
from retrieval.vlms.images import prompt_image

_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("question", "answer", "quote")},
    "required": ["question", "answer", "quote"],
    "additionalProperties": False,
}
_FEW_LETTERS = 120
_MANY_NUMBERS = 0.2
_TOKENS = 400
_QUESTION_CHARACTERS = 300
_GIVE_UP_AFTER = 3
_ABOUT_THE_PAGE = re.compile(
    r"\b(?:this|the|following|above|below) (?:page|document|image|picture|table|figure|excerpt)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sketch:
    """A page as far as choosing needs it: ``kind`` is text, numbers or scan, ``letters`` are all
    its letters and digits in lower case, without anything between them."""

    ref: PageRef
    kind: str
    letters: str


@dataclass(frozen=True, slots=True)
class Proposals:
    """The cases, and how many questions were dropped for each reason. ``model`` wrote them; None
    where rules did."""

    cases: tuple[Case, ...]
    dropped: Mapping[str, int]
    model: str | None


@dataclass(frozen=True, slots=True)
class _Books:
    """What the proposals come from and must not repeat."""

    sketches: Sequence[Sketch]
    documents: Mapping[str, Document]
    names: Mapping[str, str]
    asked: set[str]
    dropped: Counter[str] = field(default_factory=Counter[str])

    def drop(self, reason: str) -> None:
        self.dropped[reason] += 1


def sketch(page: Page) -> Sketch:
    """What choosing needs to know of a page."""
    words = [word.text for word in page.words]
    numbers = sum(any(char.isdigit() for char in word) for word in words)
    kind = "numbers" if words and numbers >= _MANY_NUMBERS * len(words) else "text"
    return Sketch(page.ref, "scan" if page.text_source == "ocr" else kind, _letters(page.text))


def in_turn(sketches: Iterable[Sketch], rng: random.Random) -> list[Sketch]:
    """All pages in an order that goes round the documents, and in each round its kinds of pages."""
    documents: dict[str, dict[str, list[Sketch]]] = {}
    for one in sketches:
        documents.setdefault(one.ref.document_id, {}).setdefault(one.kind, []).append(one)
    for kinds in documents.values():
        for pages in kinds.values():
            rng.shuffle(pages)
    queues = [_by_kind(kinds, rng) for kinds in documents.values()]
    rng.shuffle(queues)
    found: list[Sketch] = []
    while queues:
        taken = [next(queue, None) for queue in queues]
        queues = [queue for queue, one in zip(queues, taken, strict=True) if one is not None]
        found += [one for one in taken if one is not None]
    return found


def _by_kind(kinds: Mapping[str, list[Sketch]], rng: random.Random) -> Iterator[Sketch]:
    order = sorted(kinds)
    rng.shuffle(order)
    while any(kinds.values()):
        for kind in order:
            if kinds[kind]:
                yield kinds[kind].pop()


def propose(
    documents: Sequence[Document],
    page_of: Callable[[PageRef], Page],
    *,
    count: int,
    seed: int,
    unanswerable: float,
    known: Sequence[Case] = (),
    rejected: Sequence[Case] = (),
    write: Callable[[Page, Document], Question] | None = None,
    model: str | None = None,
    looked: Callable[[int], None] = lambda pages: None,
) -> Proposals:
    """At most ``count`` cases on pages that no ``known`` case has for gold, none of them asking
    what a known or ``rejected`` case asks.

    ``unanswerable`` is the share, 0..1, of questions about what no page names among all that are
    made. ``write`` asks a model (``model``) for a page's question; it raises BadQuestion where that
    is none. ``looked`` is called with the number of pages read so far. Raises ModelError where the
    model fails on several pages in a row before it wrote anything.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    shelf = Shelf.of(documents)
    covered = _covered(known, shelf)
    sketches: list[Sketch] = []
    # By name: ids and dates of another index of the same files are others.
    for document in sorted(documents, key=lambda d: (d.name, d.id)):
        for index in range(document.pages):
            try:
                page = page_of(PageRef(document.id, index))
            except PageglassError:
                continue  # It could not be read, or not yet.
            sketches.append(sketch(page))
            looked(len(sketches))
    books = _Books(
        sketches,
        {document.id: document for document in documents},
        {d.id: d.name if shelf.ids.get(d.name) == d.id else d.id for d in documents},
        {_letters(case.question) for case in (*known, *rejected)},
    )
    useful = [one for one in sketches if len(one.letters) >= _FEW_LETTERS]
    order = in_turn((one for one in useful if one.ref not in covered), rng)
    without = round(count * unanswerable)
    pages = iter(order)
    cases = list(_answerable(pages, count - without, books, page_of, write, rng))
    # Questions without an answer may be about any page: their words are only a mould.
    moulds = iter([*pages, *in_turn(useful, rng)])
    if len(cases) < count - without:
        without = round(len(cases) * unanswerable / (1 - unanswerable))
    if without:
        cases += _unanswerable(moulds, without, books, page_of, rng)
    return Proposals(tuple(cases), books.dropped, model)


def _covered(known: Iterable[Case], shelf: Shelf) -> set[PageRef]:
    covered: set[PageRef] = set()
    for case in known:
        try:
            id = shelf.id_of(case.document)
        except KeyError:
            continue
        covered |= {PageRef(id, page - 1) for page in case.pages}
    return covered


def _answerable(
    order: Iterator[Sketch],
    count: int,
    books: _Books,
    page_of: Callable[[PageRef], Page],
    write: Callable[[Page, Document], Question] | None,
    rng: random.Random,
) -> Iterator[Case]:
    made = failed = 0
    while made < count and (one := next(order, None)) is not None:
        page = page_of(one.ref)
        document = books.documents[one.ref.document_id]
        if write is None:
            drafts = questions_of(page, _about(document), rng)
        else:
            try:
                drafts = [write(page, document)]
            except BadQuestion as error:
                books.drop(str(error))
                continue
            except ModelError as error:
                failed += 1
                books.drop(f"the model failed: {error}")
                if failed >= _GIVE_UP_AFTER:
                    if not made:
                        raise
                    return
                continue
            failed = 0
        for draft in drafts:
            if case := _case(draft, page, books):
                made += 1
                yield case
                break


def _case(draft: Question, page: Page, books: _Books) -> Case | None:
    """The case of a draft; None, and counted, where its quote does not stand there or stands in
    another document as well, or it was asked before."""
    if find_quote(page, draft.quote) is None:
        books.drop("its quote does not stand on the page")
        return None
    if _letters(draft.text) in books.asked:
        books.drop("it was asked or rejected before")
        return None
    quote = _letters(draft.quote)
    over = [_letters(word) for word in draft.column.split()]
    same = {page.ref} | {
        one.ref
        for one in books.sketches
        if quote in one.letters and all(word in one.letters for word in over)
    }
    if {ref.document_id for ref in same} != {page.ref.document_id}:
        books.drop("another document says the same")
        return None
    books.asked.add(_letters(draft.text))
    return Case(
        id=_id(page.ref.document_id, draft.text),
        question=draft.text,
        document=books.names[page.ref.document_id],
        pages=tuple(sorted(ref.number for ref in same)),
        answer=draft.answer,
        sources=(draft.source,) if draft.source else (),
        answer_format=draft.answer_format,
        quote=draft.quote,
        origin="proposed",
    )


def _unanswerable(
    moulds: Iterator[Sketch],
    count: int,
    books: _Books,
    page_of: Callable[[PageRef], Page],
    rng: random.Random,
) -> Iterator[Case]:
    def occurs(name: str) -> bool:
        return any(name in one.letters for one in books.sketches)

    made = 0
    while made < count and (one := next(moulds, None)) is not None:
        document = books.documents[one.ref.document_id]
        for draft in questions_of(page_of(one.ref), _about(document), rng):
            asked = without_answer(draft, made_up_name(rng, occurs))
            if asked is None or _letters(asked.text) in books.asked:
                continue
            books.asked.add(_letters(asked.text))
            made += 1
            yield Case(
                id=_id(document.id, asked.text),
                question=asked.text,
                document=books.names[document.id],
                answerable=False,
                answer_format="None",
                origin="proposed",
            )
            break


def _about(document: Document) -> str:
    return document_title(document.name, None) or document.name


def _id(document_id: str, question: str) -> str:
    digest = hashlib.sha256(f"{document_id}\n{question}".encode("utf-8", "replace")).hexdigest()
    return f"proposed-{digest[:12]}"


def _letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())


# By a model


class BadQuestion(ValueError):
    """What a model wrote is no question that can be used; the message is the reason."""


def writer(
    vlm: Vlm, image_of: Callable[[Page], bytes], *, seconds: float
) -> Callable[[Page, Document], Question]:
    """Asks ``vlm`` for a question on a page, in at most ``seconds``: BadQuestion where what it
    writes cannot be used, ModelError where it cannot be asked."""

    def write(page: Page, document: Document) -> Question:
        image = prompt_image(image_of(page), longest_side=vlm.image_pixels)
        shown = (
            prompts.page_heading(1, document.name, page.label),
            image,
            prompts.page_text(1, page.text),
        )
        reply = vlm.reply(
            [Message("system", (prompts.PROPOSING,)), Message("user", shown)],
            tokens=_TOKENS,
            seconds=seconds,
            schema=_SCHEMA,
        )
        return read_question(reply.text)

    return write


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote on a page: a question, or why it is none."""

    question: Question | None
    problem: str = ""


def remembering(
    write: Callable[[Page, Document], Question], kept: Partial[Written]
) -> Callable[[Page, Document], Question]:
    """``write``, that asks the model once for each page: what it wrote an earlier time is kept."""

    def again(page: Page, document: Document) -> Question:
        def ask() -> Written:
            try:
                return Written(write(page, document))
            except BadQuestion as error:
                return Written(None, str(error))

        written = kept.once(f"{document.id} {page.ref.number}", ask)
        if written.question is None:
            raise BadQuestion(written.problem)
        return written.question

    return again


def read_question(text: str) -> Question:
    """The question that a model's reply holds; BadQuestion."""
    fields = next((one for one in json_objects(text) if "question" in one), None)
    if fields is None:
        raise BadQuestion("the model's reply is not the JSON object that was asked for")
    values: Collection[object] = [fields.get(name) for name in _SCHEMA["required"]]
    question, answer, quote = (value if isinstance(value, str) else "" for value in values)
    question, answer = plain_text(question).strip(), plain_text(answer).strip()
    if not question and not quote.strip():
        raise BadQuestion("the model found nothing worth asking on the page")
    if not question or not answer or not quote.strip():
        raise BadQuestion("the model left the question, its answer or its quote out")
    if len(question) > _QUESTION_CHARACTERS:
        raise BadQuestion(f"the question has more than {_QUESTION_CHARACTERS} characters")
    if _ABOUT_THE_PAGE.search(question):
        raise BadQuestion("the question is about the page instead of what it says")
    return Question(question, answer, quote.strip(), named_in(question), "")
