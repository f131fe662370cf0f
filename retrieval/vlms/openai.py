"""Vision-language models behind an OpenAI-compatible server: vLLM, llama.cpp, a hosted one."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
import re
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from pageglass import prompts, tracing
from pageglass.cancellation import current
from pageglass.errors import ModelError, ModelServerError, ModelTimeout, PromptTooLong
from pageglass.replies import ReplyRefused
from retrieval.vlms import Message, Prompt, PromptImage, Reply, YesAnswers

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, AsyncOpenAI

Result = TypeVar("Result")
Read = TypeVar("Read", bound=BaseModel)

IMAGE_PIXELS = 1540
"""Longest side shown where the settings name none: the small print of an A4 page is legible, and a
model that spends a token on 28 x 28 pixels spends about 2,100 on the page."""

_AT_ONCE = 8
_CONNECT_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_RETRYABLE = frozenset({408, 409, 429})
# OpenAI, vLLM and llama.cpp each say it in their way, and only the first with a code.
_TOO_LONG = re.compile(r"context (?:length|size|window)|maximum model length", re.IGNORECASE)
# The most that OpenAI gives, and vLLM unless it is told otherwise.
_TOP_LOGPROBS = 20
# The longest tokens there are have 128 characters.
_TOKEN_CHARACTERS = 128
_NAME_CHARACTERS = 200
_MOST_TOKENS = 10**9


# What a server says, as far as it is read. Only what an answer cannot do without makes a reply
# useless; whatever else is not of its form is as if it were not there.


def _if_valid(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


def _text(content: Any) -> Any:
    """The text of content in parts, which some servers write in place of a string."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _name(value: Any) -> Any:
    return "".join(filter(str.isprintable, value))[:_NAME_CHARACTERS] if type(value) is str else ""


_Optional = WrapValidator(_if_valid)
_Content = Annotated[str | None, BeforeValidator(_text)]
_Name = Annotated[str, BeforeValidator(_name)]
_Count = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]


class _Said(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class _Usage(_Said):
    prompt_tokens: _Count
    completion_tokens: _Count


class _TopWord(_Said):
    token: str
    logprob: float


class _Word(_Said):
    top_logprobs: list[_TopWord] = []


class _Logprobs(_Said):
    content: list[_Word] = []


class _Message(_Said):
    content: _Content = None


class _Choice(_Said):
    message: _Message
    finish_reason: Annotated[str | None, _Optional] = None
    logprobs: Annotated[_Logprobs | None, _Optional] = None


class _Origin(_Said):
    model: _Name = ""
    system_fingerprint: _Name = ""
    usage: Annotated[_Usage | None, _Optional] = None


class _Completion(_Origin):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class _PieceOfChoice(_Said):
    delta: _Message | None = None
    finish_reason: Annotated[str | None, _Optional] = None


class _Piece(_Origin):
    # The last one tells the usage and has no choice.
    choices: list[_PieceOfChoice] | None = None


class _Model(_Said):
    id: str


class _Models(_Said):
    data: list[Annotated[_Model | None, _Optional]] | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of ours under way; ``ends`` is when its time is over, on the monotonic clock."""

    client: AsyncOpenAI
    ends: float


class OpenAIVlm:
    """Asks a server with an OpenAI-compatible API. Safe to share between threads.

    What may pass is tried again, ever later: lost connections, 408, 409, 429 and 5xx, the latter
    not before the time that a Retry-After names. All tries of a request bear the same
    Idempotency-Key. A stream that breaks is begun again only while none of its text was handed
    out; after that it is a ModelServerError, since a second stream need not say the same.

    Requests run on an event loop in a thread of its own, so that the end of ``seconds`` ends them
    wherever they are, and the server sees the connection close and stops computing.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        *,
        api_key: str | None = None,
        retries: int = 3,
        image_pixels: int | None = None,
        section: str = "answer",
    ) -> None:
        """``url`` ends in /v1; ``section`` is the section of the settings it is from, named in
        error messages. ``model`` None takes the first that the server lists."""
        self._url = url
        self._model = model
        self._api_key = api_key
        self._retries = retries
        self._image_pixels = image_pixels or IMAGE_PIXELS
        self._section = section
        self._takes_schema = True
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, AsyncOpenAI] | None = None

    @property
    def name(self) -> str:
        """The model asked for; the server's address until it was asked which model it has."""
        return self._model or _without_credentials(self._url)

    @property
    def image_pixels(self) -> int:
        """The longest side of images, in pixels."""
        return self._image_pixels

    def reply(
        self,
        prompt: Prompt,
        *,
        tokens: int,
        seconds: float,
        schema: Mapping[str, Any] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """See Vlm. A server that refuses ``schema`` is told it in words, now and from then on.

        ``on_text`` runs on the caller's thread; where it raises, the request ends.
        """
        pieces: SimpleQueue[str | None] = SimpleQueue()
        hand_out = pieces.put if on_text is not None else None

        async def ask(call: _Call) -> Reply:
            import openai

            if schema is None:
                return await self._reply(call, prompt, tokens, None, hand_out)
            refused = None
            if self._takes_schema:
                try:
                    return await self._reply(call, prompt, tokens, schema, hand_out)
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    refused = error
            told = [*prompt, Message("user", (prompts.in_schema(json.dumps(schema)),))]
            reply = await self._reply(call, told, tokens, None, hand_out)
            # Without the schema it went well: so it was the schema, not the prompt, it refused.
            self._takes_schema = refused is None and self._takes_schema
            return reply

        return self._run(ask, seconds, pieces, on_text)

    def yes(self, prompts: Sequence[Prompt], *, seconds: float) -> YesAnswers:
        """See Vlm. Sums over the 20 most probable first words; where neither yes nor no is among
        them the model does not say, and P(yes) is 0.5."""

        async def ask(call: _Call) -> YesAnswers:
            slots = asyncio.Semaphore(_AT_ONCE)

            async def one(prompt: Prompt) -> _Completion:
                async with slots:
                    return await self._next_word(call, prompt)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(prompt)) for prompt in prompts]
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
            words = [task.result() for task in tasks]
            input_tokens, output_tokens = _tokens(word.usage for word in words)
            return YesAnswers(
                probabilities=tuple(self._yes(word) for word in words),
                model=_version(words[0], self.name) if words else self.name,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
            )

        return self._run(ask, seconds)

    def check(self, *, seconds: float) -> None:
        """See Vlm: its server lists its models."""

        async def ask(call: _Call) -> None:
            await self._listed(call)

        self._run(ask, seconds)

    def served(self, *, seconds: float) -> list[str]:
        """The names of the models that the server lists; errors as of ``check``."""
        return self._run(self._listed, seconds)

    def close(self) -> None:
        """Close the connections; calls under way end with ModelServerError."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            loop, client = running
            asyncio.run_coroutine_threadsafe(_end(client), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    async def _reply(
        self,
        call: _Call,
        prompt: Prompt,
        tokens: int,
        schema: Mapping[str, Any] | None,
        hand_out: Callable[[str], None] | None,
    ) -> Reply:
        request = await self._request(call, prompt, tokens)
        if schema is not None:
            form = {"name": "reply", "schema": dict(schema), "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": form}
        if hand_out is None:
            return await self._trying(call, lambda: self._whole(call, request))
        handed_out = False

        def hand(piece: str) -> None:
            nonlocal handed_out
            handed_out = True
            hand_out(piece)

        return await self._trying(
            call, lambda: self._streamed(call, request, hand), may_again=lambda: not handed_out
        )

    async def _whole(self, call: _Call, request: dict[str, Any]) -> Reply:
        completion = await self._complete(call, request)
        choice = completion.choices[0]
        text = choice.message.content or ""
        self._check_length(text, request)
        return Reply(
            text,
            choice.finish_reason == "length",
            _version(completion, self.name),
            *_tokens([completion.usage]),
        )

    async def _streamed(
        self, call: _Call, request: dict[str, Any], hand: Callable[[str], None]
    ) -> Reply:
        text, finish, usage, model = "", None, None, self.name
        with self._calling(request) as span:
            stream: Any = await call.client.chat.completions.create(
                **_joined(request), stream=True, stream_options={"include_usage": True}
            )
            async with stream:
                async for came in stream:
                    said = self._read(_Piece, came)
                    model, usage = _version(said, model), said.usage or usage
                    for choice in (said.choices or [])[:1]:
                        finish = choice.finish_reason or finish
                        if piece := choice.delta.content if choice.delta else None:
                            text += piece
                            self._check_length(text, request)
                            hand(piece)
            _note(span, model, usage)
        if finish is None:
            raise self._error("ended its answer in the middle: ask again")
        return Reply(text, finish == "length", model, *_tokens([usage]))

    async def _next_word(self, call: _Call, prompt: Prompt) -> _Completion:
        request = await self._request(call, prompt, tokens=1)
        request |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        return await self._trying(call, lambda: self._complete(call, request))

    async def _request(self, call: _Call, prompt: Prompt, tokens: int) -> dict[str, Any]:
        if self._model is None:
            listed = await self._trying(call, lambda: self._listed(call))
            if not listed:
                raise self._error("serves no model: start it with one")
            self._model = listed[0]
        return {
            "model": self._model,
            "messages": [_message(message) for message in prompt],
            "max_tokens": tokens,
            "temperature": 0,
            "extra_headers": {"Idempotency-Key": str(uuid.uuid4())},
        }

    async def _complete(self, call: _Call, request: dict[str, Any]) -> _Completion:
        with self._calling(request) as span:
            # As it came: the library hands on whatever stands there, whether of its form or not.
            raw: Any = await call.client.chat.completions.with_raw_response.create(
                **_joined(request)
            )
            completion = self._read(_Completion, raw.http_response.content)
            _note(span, _version(completion, self.name), completion.usage)
        return completion

    async def _listed(self, call: _Call) -> list[str]:
        raw = await call.client.models.with_raw_response.list()
        listed = self._read(_Models, raw.http_response.content)
        return [model.id for model in listed.data or () if model is not None]

    def _read(self, form: type[Read], said: Any) -> Read:
        """``said``, JSON or what the library made of it; ModelServerError where it is useless."""
        try:
            if isinstance(said, bytes):
                return form.model_validate_json(said)
            return form.model_validate(said)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                raise self._error(f"answers no JSON: {self._check_url}") from None
            raise self._error(f"answers without an answer: {self._check_url}") from None

    def _check_length(self, text: str, request: Mapping[str, Any]) -> None:
        if len(text) > _TOKEN_CHARACTERS * request["max_tokens"]:
            raise self._error(f"says more than the {request['max_tokens']:,} tokens it was allowed")

    def _calling(self, request: Mapping[str, Any]) -> AbstractContextManager[tracing.Span]:
        """The span of one call, by the names that OpenTelemetry has for them."""
        server = urlsplit(self._url)
        attributes: dict[str, tracing.Attribute] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": request["model"],
            "gen_ai.request.max_tokens": request["max_tokens"],
            "server.address": server.hostname or "",
            "server.port": server.port or (443 if server.scheme == "https" else 80),
        }
        return tracing.span(f"chat {request['model']}", attributes, kind="client")

    async def _trying(
        self,
        call: _Call,
        once: Callable[[], Awaitable[Result]],
        *,
        may_again: Callable[[], bool] = lambda: True,
    ) -> Result:
        """``once``, again after a pause while what it raises may pass and ``may_again``.

        Raises the last error at once where the next try would begin after the call's end.
        """
        import openai

        for tried in count():
            try:
                return await once()
            except openai.APIError as error:
                pause = _pause(error, tried)
                late = pause is None or time.monotonic() + pause >= call.ends
                if pause is None or late or tried >= self._retries or not may_again():
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _run(
        self,
        ask: Callable[[_Call], Awaitable[Result]],
        seconds: float,
        pieces: SimpleQueue[str | None] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Result:
        """``ask`` on the event loop, for at most ``seconds``; ``pieces`` go to ``on_text`` here."""
        import openai

        loop, client = self._start()

        async def within() -> Result:
            async with asyncio.timeout(seconds):
                return await ask(_Call(client, time.monotonic() + seconds))

        calling_off = current()
        future = asyncio.run_coroutine_threadsafe(within(), loop)
        try:
            with calling_off.stopping(future.cancel):
                if pieces is not None and on_text is not None:
                    future.add_done_callback(lambda _: pieces.put(None))
                    for piece in iter(pieces.get, None):
                        on_text(piece)
                error = future.exception()
        except CancelledError:
            calling_off.check()
            raise self._error("was let go of while it was asked") from None
        finally:
            future.cancel()
        if error is None:
            return future.result()
        if isinstance(error, TimeoutError):
            raise ModelTimeout(
                f"the model server {_without_credentials(self._url)} did not answer in"
                f" {max(seconds, 0):.3g} s: allow it more ({self._section}.seconds)"
            ) from None
        if isinstance(error, openai.APIError):
            raise self._explained(error) from error
        if isinstance(error, ReplyRefused):
            raise self._error(f"{error}: {self._check_url}") from None
        # Numbers of thousands of digits and brackets in thousands of brackets, too.
        if isinstance(error, (ValueError, RecursionError)):
            raise self._error(f"answers no JSON: {self._check_url}") from None
        raise error

    def _start(self) -> tuple[asyncio.AbstractEventLoop, AsyncOpenAI]:
        import openai

        from retrieval.vlms.http import http_client

        with self._lock:
            if self._running is None:
                client = openai.AsyncOpenAI(
                    base_url=self._url,
                    # Without one the library would send the key it finds in the environment.
                    api_key=self._api_key or "none",
                    timeout=openai.Timeout(None, connect=_CONNECT_SECONDS),
                    max_retries=0,
                    http_client=http_client(),
                )
                loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(loop,), name="vlm", daemon=True).start()
                self._running = loop, client
            return self._running

    def _yes(self, word: _Completion) -> float:
        logprobs = word.choices[0].logprobs
        first = logprobs.content[0] if logprobs and logprobs.content else None
        if first is None or not first.top_logprobs:
            raise self._error(
                "gives no logprobs, by which pages are reranked: use one that does, or set"
                " rerank.pages to 0"
            )
        shares = {"yes": 0.0, "no": 0.0}
        for top in first.top_logprobs:
            written = top.token.strip(" \n\t▁").lower()
            if written in shares and not math.isnan(top.logprob):
                # Some servers write 0 and above for what is certain.
                shares[written] += math.exp(min(0.0, top.logprob))
        both = sum(shares.values())
        return shares["yes"] / both if both else 0.5

    def _explained(self, error: APIError) -> ModelError:
        import openai

        said = "".join(filter(str.isprintable, " ".join(error.message.split())))[:300]
        if isinstance(error, openai.BadRequestError) and _TOO_LONG.search(said):
            return PromptTooLong(
                f"the pages are more than {self._model} can read ({said}): lower answer.pages or"
                " answer.image_pixels, or start its server with a longer context"
            )
        if isinstance(error, openai.APIConnectionError):
            cause = str(error.__cause__ or "")[:200] or "connection lost"
            return self._error(f"does not answer ({cause}): start it, or {self._check_url}")
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return self._error(f"refuses the key: set {self._section}.api_key")
        if isinstance(error, openai.NotFoundError):
            return self._error(
                f"has no model {self._model} ({said}): set models.{self._section} to one that it"
                f" serves, or {self._check_url}"
            )
        if isinstance(error, openai.APIStatusError):
            again = ": ask again later" if _may_pass(error) else ""
            return self._error(f"answers {error.status_code} ({said}){again}")
        return self._error(f"reports an error ({said})")

    def _error(self, what: str) -> ModelServerError:
        return ModelServerError(f"the model server {_without_credentials(self._url)} {what}")

    @property
    def _check_url(self) -> str:
        return f"correct {self._section}.url (it ends in /v1)"


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _end(client: AsyncOpenAI) -> None:
    under_way = asyncio.all_tasks() - {asyncio.current_task()}
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    await client.close()


def _joined(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with what lets the server's spans join the one that is open."""
    return {**request, "extra_headers": request["extra_headers"] | tracing.headers()}


def _note(span: tracing.Span, model: str, usage: _Usage | None) -> None:
    span.set("gen_ai.response.model", model)
    if usage is not None:
        span.set("gen_ai.usage.input_tokens", usage.prompt_tokens)
        span.set("gen_ai.usage.output_tokens", usage.completion_tokens)


def _message(message: Message) -> dict[str, Any]:
    # Some servers' templates take nothing but a string where there is no image.
    if all(isinstance(part, str) for part in message.parts):
        return {"role": message.role, "content": "\n".join(map(str, message.parts))}
    return {"role": message.role, "content": [_part(part) for part in message.parts]}


def _part(part: str | PromptImage) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _version(said: _Origin, asked: str) -> str:
    """The name and version the server gives itself; ``asked`` where it gives no name."""
    if not said.model:
        return asked
    return f"{said.model}@{said.system_fingerprint}" if said.system_fingerprint else said.model


def _tokens(usages: Iterable[_Usage | None]) -> tuple[int | None, int | None]:
    """Input and output tokens in all; None where a usage is missing."""
    counted = list(usages)
    known = [usage for usage in counted if usage is not None]
    if len(known) < len(counted):
        return None, None
    return sum(u.prompt_tokens for u in known), sum(u.completion_tokens for u in known)


def _pause(error: APIError, tried: int) -> float | None:
    """Seconds until ``error`` is worth another try after ``tried`` retries; None if it is not."""
    import openai

    # A little apart, lest all that failed together come back together.
    backoff = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tried) * random.uniform(0.75, 1)  # noqa: S311
    if isinstance(error, openai.APIConnectionError):
        return backoff
    if isinstance(error, openai.APIStatusError) and _may_pass(error):
        named = _retry_after(error.response.headers.get("retry-after", ""))
        return backoff if named is None else named
    return None


def _may_pass(error: APIStatusError) -> bool:
    return error.status_code in _RETRYABLE or error.status_code >= 500


def _retry_after(header: str) -> float | None:
    """The seconds a Retry-After names, as a number or a date; None where it names none."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
