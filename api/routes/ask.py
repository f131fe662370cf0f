"""Questions to answer."""

from __future__ import annotations

from fastapi import APIRouter

from api.routes import OpenServices, RequestId
from pageglass.wire import AnswerModel, AskRequest

router = APIRouter(tags=["ask"])


@router.post("/ask")
def ask(asked: AskRequest, services: OpenServices, request_id: RequestId) -> AnswerModel:
    """Answer from the indexed pages, citing them, or decline and show the nearest."""
    answer = services.ask(
        asked.question,
        image=asked.image,
        collection=asked.collection,
        documents=asked.documents,
        top_k=asked.top_k,
    )
    return AnswerModel.of(answer, request_id)
