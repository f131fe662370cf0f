"""What chat clients send and get: OpenAI's chat completions, as far as they fit one question.

Answers have OpenAI's fields, ``annotations`` among them, and two of ours: ``citations`` beside the
text, and ``pageglass``, the whole answer as POST /ask gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pageglass.wire import AnswerModel, CitationEvent, Problem, Text, check_unicode, from_base64


class ChatImage(BaseModel):
    """A picture in a message."""

    url: str = Field(description="The picture as a data: URL. Others are refused, never fetched.")


class ChatPart(BaseModel):
    """A part of a message."""

    type: str = Field(description="'text' or 'image_url' in the message that asks.")
    text: str | None = None
    image_url: ChatImage | str | None = None


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    role: str
    content: str | list[ChatPart] | None = None


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """What the last message of the user asks."""

    text: str
    image: bytes | None
    follows: bool
    """Whether the user said something before it."""


def read_question(messages: Sequence[ChatMessage]) -> ChatQuestion:
    """The question of a conversation; ValueError says what is wrong with it."""
    said = [message for message in messages if message.role == "user"]
    if not said:
        raise ValueError("no message is of the role 'user', so nothing is asked")
    content = said[-1].content
    parts = content if isinstance(content, list) else [ChatPart(type="text", text=content)]
    texts: list[str] = []
    images: list[bytes] = []
    for part in parts:
        if part.type == "text":
            texts.append(part.text or "")
        elif part.type == "image_url" and part.image_url is not None:
            url = part.image_url
            images.append(_picture(url if isinstance(url, str) else url.url))
        else:
            raise ValueError(
                f"a question is made of 'text' and 'image_url' parts, not of {part.type[:40]!r}"
            )
    if len(images) > 1:
        raise ValueError("a question may have one picture")
    return ChatQuestion(
        check_unicode("\n".join(texts)), images[0] if images else None, follows=len(said) > 1
    )


def _picture(url: str) -> bytes:
    head, _, _ = url[:200].partition(",")
    if not (head.startswith("data:") and head.endswith(";base64")):
        raise ValueError(
            "a picture must come as a data: URL in base64: pictures elsewhere are never fetched"
        )
    return from_base64(url)


def _asks(messages: list[ChatMessage]) -> list[ChatMessage]:
    read_question(messages)
    return messages


def _one(n: int | None) -> int | None:
    if n not in (None, 1):
        raise ValueError("there is one answer to a question: leave n out")
    return n


class StreamOptions(BaseModel):
    """How to stream."""

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """A conversation whose last message of the user is a question.

    Of OpenAI's other fields (temperature, tools, max_tokens ...) nothing is used.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "pageglass",
                    "messages": [{"role": "user", "content": "What did the auditor cost in 2024?"}],
                }
            ]
        }
    )

    model: Text = Field(description="'pageglass', or 'pageglass/COLLECTION': see GET /v1/models.")
    messages: Annotated[list[ChatMessage], Field(min_length=1), AfterValidator(_asks)] = Field(
        description="The last one of the role 'user' is answered, by itself; the others are not"
        " read."
    )
    n: Annotated[int | None, AfterValidator(_one)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def question(self) -> ChatQuestion:
        """What is asked."""
        return read_question(self.messages)


class ChatUrlCitation(BaseModel):
    """A page that the message cites."""

    url: str = Field(description="Opens the page in the search page, the quoted words marked.")
    title: str
    start_index: int = Field(
        description="Where in the content its number stands, in Unicode characters from 0."
    )
    end_index: int = Field(description="The character after it.")


class ChatAnnotation(BaseModel):
    """A citation, as OpenAI's clients show it."""

    type: Literal["url_citation"]
    url_citation: ChatUrlCitation


class ChatAnswer(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[ChatAnnotation]
    citations: list[CitationEvent]


class ChatChoice(BaseModel):
    """The only choice."""

    index: Literal[0] = 0
    message: ChatAnswer
    finish_reason: Literal["stop"] = "stop"
    logprobs: None = None


class ChatUsage(BaseModel):
    """Tokens of the models that read and wrote; 0 where none did, or none says."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answer: AnswerModel) -> ChatUsage:
        """What an answer took."""
        read = sum(usage.input_tokens or 0 for usage in answer.usage)
        written = sum(usage.output_tokens or 0 for usage in answer.usage)
        return cls(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class ChatCompletion(BaseModel):
    """An answer, for chat clients."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: ChatUsage
    pageglass: AnswerModel


class ChatDelta(BaseModel):
    """What a chunk adds to the message; what it says nothing of is left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    annotations: list[ChatAnnotation] | None = None
    citations: list[CitationEvent] | None = None


class ChatChunkChoice(BaseModel):
    """The only choice of a chunk."""

    index: Literal[0]
    delta: ChatDelta
    finish_reason: Literal["stop"] | None


class ChatChunk(BaseModel):
    """A piece of an answer; what it says nothing of is left out."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: ChatUsage | None = None
    pageglass: AnswerModel | None = None


class ChatModel(BaseModel):
    """A collection, or all of them, as a model."""

    id: str
    object: Literal["model"] = "model"
    created: Literal[0] = 0
    owned_by: Literal["pageglass"] = "pageglass"


class ChatModelList(BaseModel):
    """The models there are for the caller."""

    object: Literal["list"] = "list"
    data: list[ChatModel]


class ChatErrorBody(BaseModel):
    """What went wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str


class ChatError(BaseModel):
    """A problem, as OpenAI's clients understand it."""

    error: ChatErrorBody

    @classmethod
    def of(cls, problem: Problem) -> ChatError:
        """The same as the problem says."""
        kind = _KINDS.get(
            problem.status, "server_error" if problem.status >= 500 else "invalid_request_error"
        )
        return cls(
            error=ChatErrorBody(
                message=problem.detail,
                type=kind,
                param=problem.errors[0].field if problem.errors else None,
                code=problem.code,
            )
        )


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
