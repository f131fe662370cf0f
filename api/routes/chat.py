"""Questions from chat clients: OpenAI's chat completions, with collections as models."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from starlette.types import Scope

from api import problems
from api.chat_models import (
    ChatAnnotation,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatError,
    ChatModel,
    ChatModelList,
    ChatQuestion,
    ChatRequest,
    ChatUrlCitation,
    ChatUsage,
)
from api.cited_text import after_text, cited_sources, whole_text
from api.problems import request_id_of
from api.routes import AskedQuestions, AskView, RequestId, SearchView
from api.streaming import Emit, Event, EventStream, problem_of
from api.view import View
from generate.containment import plain_text
from generate.models import OnText
from pageglass import __version__
from pageglass.errors import ChatModelNotFound
from pageglass.types import Answer, SearchResult
from pageglass.wire import AnswerModel, AskRequest, CitationEvent

MODEL = "pageglass"
"""The model that answers from every collection the caller may see."""

ANEW = "\n\n(This draft did not hold when it was checked. Corrected:)\n\n"
"""A chat cannot unsay what was said: this stands between it and what is said instead."""

_ALONE = "only the last message was read: a question must say by itself what it is about"

router = APIRouter(
    prefix="/v1",
    tags=["chat"],
    # Instead of the problem documents of the other routes.
    responses={
        status: {"model": ChatError, "description": "What went wrong."}
        for status in (400, 401, 403, 404, 413, 422, 429, 503, "default")
    },
)


@router.get("/models")
def list_models(view: SearchView) -> ChatModelList:
    """List what can be asked as a model: every collection, and all of them together."""
    return ChatModelList(data=[ChatModel(id=id) for id in _models(view)])


@router.get("/models/{model:path}")
def get_model(model: Annotated[str, Path(max_length=200)], view: SearchView) -> ChatModel:
    """Show one of the models."""
    _collection_of(model, view)
    return ChatModel(id=model)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {
            "description": "The answer, its sources listed below it; with `stream`, chunks of it"
            " (ChatChunk), ended by `[DONE]`.",
            "content": problems.contents("text/event-stream"),
        }
    },
)
async def chat_completions(
    chat: ChatRequest,
    view: AskView,
    questions: AskedQuestions,
    request: Request,
    request_id: RequestId,
) -> ChatCompletion | Response:
    """Answer the last message of a conversation from the pages of a collection.

    Closing the connection calls the work off, down to the model.
    """
    reply = _Reply(chat, view, request_id, page_at=str(request.base_url))
    # Whether there is such a model is the reply's to say.
    asker = view.access.asker(chat.model.partition("/")[2])
    if chat.stream:
        return _ChatStream(questions, reply.stream, asker)
    return await questions.answer(request.receive, reply.whole, asker)


class _Reply:
    """The reply to one request. Its methods block."""

    def __init__(self, chat: ChatRequest, view: View, request_id: str, *, page_at: str) -> None:
        self._chat = chat
        self._view = view
        self._request_id = request_id
        self._page_at = page_at
        self._question: ChatQuestion = chat.question
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def whole(self) -> ChatCompletion:
        """The answer, all at once."""
        answer = self._answer()
        said = AnswerModel.of(answer, self._request_id)
        message = ChatAnswer(
            content=whole_text(answer, page_at=self._page_at),
            annotations=self._annotations(answer, len(plain_text(answer.text))),
            citations=_numbered(said),
        )
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._chat.model,
            system_fingerprint=_FINGERPRINT,
            choices=[ChatChoice(message=message)],
            usage=ChatUsage.of(said),
            pageglass=said,
        )

    def stream(self, emit: Emit) -> None:
        """The answer in chunks, as it is written."""

        def chunk(delta: ChatDelta, finish: Literal["stop"] | None = None) -> ChatChunk:
            choice = ChatChunkChoice(index=0, delta=delta, finish_reason=finish)
            return self._chunk([choice])

        characters = 0

        def say(text: str) -> None:
            nonlocal characters
            characters += len(text)
            emit(Event("chunk", chunk(ChatDelta(content=text))))

        def begin(found: SearchResult) -> None:
            # Not sooner: until then, what goes wrong has a status of its own.
            del found
            emit(Event("chunk", chunk(ChatDelta(role="assistant", content=""))))

        answer = self._answer(begin, _Plain(say))
        annotations = self._annotations(answer, characters)
        if sources := after_text(answer, page_at=self._page_at):
            say(sources)
        said = AnswerModel.of(answer, self._request_id)
        last = chunk(ChatDelta(annotations=annotations, citations=_numbered(said)), "stop")
        last.pageglass = said
        emit(Event("chunk", last))
        options = self._chat.stream_options
        if options is not None and options.include_usage:
            usage = self._chunk([])
            usage.usage = ChatUsage.of(said)
            emit(Event("chunk", usage))

    def _annotations(self, answer: Answer, said: int) -> list[ChatAnnotation]:
        sources = cited_sources(answer, page_at=self._page_at, said=said)
        return [
            ChatAnnotation(
                type="url_citation",
                url_citation=ChatUrlCitation(
                    url=source.url,
                    title=source.title,
                    start_index=source.start,
                    end_index=source.end,
                ),
            )
            for source in sources
        ]

    def _answer(
        self,
        on_found: Callable[[SearchResult], None] | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        asked = AskRequest(
            question=self._question.text,
            image=self._question.image,
            collection=_collection_of(self._chat.model, self._view),
            top_k=None,
        )
        answer = self._view.ask(asked, on_found=on_found, on_text=on_text)
        if self._question.follows:
            return replace(answer, notes=(*answer.notes, _ALONE))
        return answer

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        return ChatChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._chat.model,
            system_fingerprint=_FINGERPRINT,
            choices=choices,
        )


_FINGERPRINT = f"pageglass-{__version__}"


class _ChatStream(EventStream):
    """Chunks as OpenAI's clients read them: without names and numbers, ended by a word."""

    def encode(self, event: Event, number: int) -> bytes:
        del number
        return f"data: {event.data.model_dump_json(exclude_unset=True)}\n\n".encode()

    def ending(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error(self, scope: Scope, failure: Exception) -> Event:
        return Event("error", ChatError.of(problem_of(request_id_of(scope), failure)))


class _Plain:
    """Hands an answer's text on piece by piece as a chat may show it: without links and markup."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._heard = ""
        self._said = ""

    def __call__(self, piece: str | None) -> None:
        self._heard = "" if piece is None else self._heard + piece
        plain = plain_text(self._heard)
        if self._said and (piece is None or not plain.startswith(self._said)):
            self._say(ANEW)
            self._said = ""
        if more := plain[len(self._said) :]:
            self._say(more)
            self._said = plain


def _models(view: View) -> list[str]:
    return [MODEL, *(f"{MODEL}/{one.name}" for one in view.collections())]


def _collection_of(model: str, view: View) -> str | None:
    """The collection a model answers from, None for all; ChatModelNotFound."""
    if model not in _models(view):
        raise ChatModelNotFound(f"no model {model[:100]!r}: GET /v1/models lists them")
    return model.partition("/")[2] or None


def _numbered(answer: AnswerModel) -> list[CitationEvent]:
    return [
        CitationEvent(number=number, **dict(citation))
        for number, citation in enumerate(answer.citations, start=1)
    ]
