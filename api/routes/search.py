"""Questions to find pages for."""

from __future__ import annotations

from fastapi import APIRouter

from api.routes import OpenServices, RequestId
from api.schemas import HitModel, SearchRequest, SearchResponse

router = APIRouter(tags=["search"])


@router.post("/search")
def search(asked: SearchRequest, services: OpenServices, request_id: RequestId) -> SearchResponse:
    """Rank the indexed pages by how well they match, each with the reasons why."""
    found = services.search(
        asked.question,
        collection=asked.collection,
        documents=asked.documents,
        top_k=asked.top_k,
    )
    return SearchResponse(
        pages=[HitModel.of(hit) for hit in found.hits],
        timings_ms=found.timings_ms,
        request_id=request_id,
    )
