"""Questions to find pages for."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.routes import AskedQuestions, RequestId, SearchView
from pageglass.wire import SearchRequest, SearchResponse

router = APIRouter(tags=["search"])


@router.post("/search")
async def search(
    asked: SearchRequest,
    view: SearchView,
    questions: AskedQuestions,
    request: Request,
    request_id: RequestId,
) -> SearchResponse:
    """Rank the indexed pages by how well they match, each with the reasons why."""

    return await questions.answer(
        request.receive,
        lambda: SearchResponse.of(view.search(asked), request_id),
        view.access.asker(asked.collection),
    )
