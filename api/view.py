"""What one caller sees of the services: of other collections not even that they exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO, TypedDict

from api.access import Access
from api.services import Replaced, Services
from generate.models import OnText
from ingest.catalog import Holding, StageResult
from pageglass.types import (
    DEFAULT_COLLECTION,
    Answer,
    Document,
    DocumentState,
    Extraction,
    IfExists,
    Job,
    JobState,
    Page,
    SearchResult,
)
from pageglass.wire import AskRequest, ExtractRequest, SearchRequest


class _Asked(TypedDict):
    image: bytes | None
    collection: str | None
    documents: Sequence[str]
    tags: Sequence[str]
    top_k: int | None
    within: Sequence[str] | None


class View:
    """The services as far as an ``Access`` reaches.

    What belongs to another collection is DocumentNotFound or JobNotFound, as if it were not there;
    naming another collection is KeyForbidden, whether it is there or not.
    """

    def __init__(self, services: Services, access: Access) -> None:
        self.services = services
        self.access = access
        self._within = access.collections

    def holds(self) -> bool:
        """Whether the caller's key is still good: a stream may outlive it."""
        return self.access.key_id is None or self.services.keys.holds(self.access.key_id)

    # Asking

    def search(self, asked: SearchRequest) -> SearchResult:
        """See Services.search."""
        return self.services.search(asked.question, **self._asked(asked))

    def ask(
        self,
        asked: AskRequest,
        *,
        on_found: Callable[[SearchResult], None] | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """See Services.ask."""
        return self.services.ask(
            asked.question, **self._asked(asked), on_found=on_found, on_text=on_text
        )

    def extract(self, wanted: ExtractRequest) -> Extraction:
        """See Services.extract."""
        return self.services.extract(
            wanted.json_schema,
            documents=wanted.documents,
            pages=[ref.plain() for ref in wanted.pages],
            instructions=wanted.instructions,
            within=self._within,
        )

    # Documents

    def documents(
        self,
        *,
        collection: str | None,
        tags: Sequence[str],
        state: DocumentState | None,
        after: tuple[str, str] | None,
        limit: int,
    ) -> list[Document]:
        """See Services.document_list."""
        if collection is not None:
            self.access.require_collection(collection)
        return self.services.document_list(
            collection=collection,
            tags=tags,
            state=state,
            after=after,
            limit=limit,
            within=self._within,
        )

    def add(
        self, data: BinaryIO, *, name: str, collection: str | None, source: str | None
    ) -> Document:
        """See Services.add. Without a collection it goes to the caller's only one, or to the
        default one."""
        return self.services.add(
            data,
            name=name,
            collection=self.home(collection),
            source=source,
            uploader=self.access.key_id,
        )

    def replaced(self, name: str, collection: str | None, if_exists: IfExists) -> Replaced | None:
        """See Services.replaced."""
        return self.services.replaced(name, self.home(collection), if_exists)

    def home(self, collection: str | None) -> str:
        """The collection that documents are added to; KeyForbidden."""
        if collection is None:
            only = self._within if self._within is not None and len(self._within) == 1 else None
            collection = only[0] if only else DEFAULT_COLLECTION
        self.access.require_collection(collection)
        return collection

    def document(self, document_id: str) -> Document:
        """See Services.document."""
        return self.services.document(document_id, self._within)

    def change(self, document_id: str, *, name: str | None, tags: Sequence[str] | None) -> Document:
        """See Services.change."""
        self.document(document_id)
        return self.services.change(document_id, name=name, tags=tags)

    def remove(self, document_id: str) -> None:
        """See Services.remove."""
        self.document(document_id)
        self.services.remove(document_id)

    def collections(self) -> list[Holding]:
        """See Services.collections."""
        return self.services.collections(self._within)

    # Pages

    def page(self, document_id: str, number: int) -> Page:
        """See Services.page."""
        self.document(document_id)
        return self.services.page(document_id, number)

    def page_stages(self, document_id: str, number: int) -> list[StageResult]:
        """See Services.page_stages."""
        self.document(document_id)
        return self.services.page_stages(document_id, number)

    def page_image(self, page: Page) -> bytes:
        """See Services.page_image."""
        self.document(page.ref.document_id)
        return self.services.page_image(page)

    def heat_map(self, document_id: str, number: int, question: str, *, word: str) -> bytes:
        """See Services.heat_map."""
        self.document(document_id)
        return self.services.heat_map(document_id, number, question, word=word)

    # Jobs

    def jobs(self, states: Sequence[JobState] = (), *, limit: int) -> list[Job]:
        """See Services.job_list."""
        return self.services.job_list(states, limit=limit, within=self._within)

    def job_counts(self) -> dict[str, int]:
        """See Services.job_counts."""
        return self.services.job_counts(self._within)

    def seconds_left(self) -> float | None:
        """See Services.seconds_left."""
        return self.services.seconds_left(self._within)

    def job(self, document_id: str) -> Job:
        """See Services.job."""
        return self.services.job(document_id, self._within)

    def retry(self, document_id: str) -> Job:
        """See Services.retry."""
        self.job(document_id)
        return self.services.retry(document_id)

    def retry_dead(self) -> int:
        """See Services.retry_dead."""
        return self.services.retry_dead(self._within)

    def cancel(self, document_id: str) -> Job:
        """See Services.cancel."""
        self.job(document_id)
        return self.services.cancel(document_id)

    def _asked(self, asked: SearchRequest) -> _Asked:
        if asked.collection is not None:
            self.access.require_collection(asked.collection)
        return _Asked(
            image=asked.image,
            collection=asked.collection,
            documents=asked.documents,
            tags=asked.tags,
            top_k=asked.top_k,
            within=self._within,
        )
