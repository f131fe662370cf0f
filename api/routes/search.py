"""Questions to find pages for."""

from __future__ import annotations

from fastapi import APIRouter

from api.routes import OpenServices, RequestId
from pageglass.wire import SearchRequest, SearchResponse

router = APIRouter(tags=["search"])


@router.post("/search")
def search(asked: SearchRequest, services: OpenServices, request_id: RequestId) -> SearchResponse:
    """Rank the indexed pages by how well they match, each with the reasons why."""
    found = services.search(
        asked.question,
        image=asked.image,
        collection=asked.collection,
        documents=asked.documents,
        top_k=asked.top_k,
    )
    return SearchResponse.of(found, request_id)
