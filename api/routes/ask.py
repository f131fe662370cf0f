"""Questions to answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from api import problems
from api.routes import AskedQuestions, AskView, RequestId
from api.streaming import Emit, Event, EventStream
from pageglass.types import SearchResult
from pageglass.wire import (
    AnswerModel,
    AskRequest,
    CitationEvent,
    SearchResponse,
    TokenEvent,
)

router = APIRouter(tags=["ask"])

EVENT_STREAM = "text/event-stream"


@router.post(
    "/ask",
    response_model=AnswerModel,
    responses={
        200: {
            "description": "The answer; with `Accept: text/event-stream`, how it comes about:"
            " `search` (SearchResponse) at once, `token`s (TokenEvent) as they are written,"
            " `citation`s (CitationEvent) as they were checked, `answer` (AnswerModel) in the end,"
            " or `error` (Problem).",
            "content": problems.contents(EVENT_STREAM),
        }
    },
)
async def ask(
    asked: AskRequest,
    view: AskView,
    questions: AskedQuestions,
    request: Request,
    request_id: RequestId,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> AnswerModel | Response:
    """Answer from the indexed pages, citing them, or decline and show the nearest.

    Closing the connection calls the work off, down to the model.
    """

    def answer(emit: Emit | None = None) -> AnswerModel:
        def found(result: SearchResult) -> None:
            if emit is not None:
                emit(Event("search", SearchResponse.of(result, request_id)))

        def text(piece: str | None) -> None:
            if emit is not None:
                emit(Event("token", TokenEvent(text=piece or "", restart=piece is None)))

        answer = view.ask(
            asked,
            on_found=found,
            on_text=text if emit is not None else None,
        )
        return AnswerModel.of(answer, request_id)

    def told(emit: Emit) -> None:
        final = answer(emit)
        for number, citation in enumerate(final.citations, start=1):
            emit(Event("citation", CitationEvent(number=number, **dict(citation))))
        emit(Event("answer", final))

    asker = view.access.asker(asked.collection)
    if EVENT_STREAM in accept:
        return EventStream(questions, told, asker)
    return await questions.answer(request.receive, answer, asker)
