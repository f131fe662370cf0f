"""Replies of other servers: without end, odd, slow, compressed, from elsewhere."""

from __future__ import annotations

import asyncio
import json
import math
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.services import Services
from pageglass.client import AsyncClient, Client
from pageglass.errors import ModelServerError, ModelTimeout, ServerError
from pageglass.replies import Intake, ReplyRefused, bounded
from pageglass.settings import load_settings
from retrieval.vlms import Message
from retrieval.vlms.openai import OpenAIVlm
from tests.openai_server import Misbehaviour, OpenAIServer, openai_server
from tests.tiny import pdf

ASK = [Message("user", ("When does the ferry leave?",))]
QUESTION = "When does the ferry leave the pier?"
MOST = 40 << 20
"""More bytes than are read of a reply, and than fit into the buffers of sockets."""


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def vlm(server: OpenAIServer) -> Iterator[OpenAIVlm]:
    vlm = OpenAIVlm(server.url, server.model, retries=2)
    yield vlm
    vlm.close()


def listen(_: str) -> None:
    """Take a piece of a stream."""


# Intake


@given(
    st.binary(max_size=5000),
    st.sampled_from(["identity", "gzip", "deflate"]),
    st.integers(1, 6000),
    st.integers(1, 700),
)
def test_what_is_taken_in_is_what_was_sent_or_too_much(
    body: bytes, encoding: str, limit: int, size: int
) -> None:
    raw = body
    if encoding != "identity":
        bits = zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS
        zipper = zlib.compressobj(wbits=bits)
        raw = zipper.compress(body) + zipper.flush()
    headers = {"Content-Encoding": encoding}
    intake = Intake(headers, limit=limit)
    assert not headers
    taken = b""
    try:
        for start in range(0, len(raw), size):
            for piece in intake.decoded(raw[start : start + size]):
                taken += piece
        assert taken == body
        assert len(body) <= limit
    except ReplyRefused:
        assert len(body) > limit
        assert body.startswith(taken) and len(taken) <= limit


# A model's server


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("endless", "sent a reply of more than 16 MB"),
        ("endless_error", "sent a reply of more than 16 MB"),
        ("bomb", "sent a reply of more than 16 MB"),
        ("unasked_coding", "compresses its replies in a way that was not asked for"),
        ("broken_gzip", "sent a reply that cannot be decompressed"),
    ],
)
@pytest.mark.parametrize("call", ["reply", "stream", "yes", "models"])
def test_no_reply_is_read_without_end(
    server: OpenAIServer, vlm: OpenAIVlm, fault: Misbehaviour, said: str, call: str
) -> None:
    server.misbehave(fault)
    with pytest.raises(ModelServerError, match=said) as caught:
        if call == "yes":
            vlm.yes([ASK], seconds=60)
        elif call == "models":
            vlm.check(seconds=60)
        else:
            vlm.reply(ASK, tokens=9, seconds=60, on_text=listen if call == "stream" else None)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1  # it would be no better the next time
    assert server.sent < MOST


@pytest.mark.parametrize("streamed", [False, True])
def test_a_byte_now_and_then_does_not_hold_a_call(
    server: OpenAIServer, vlm: OpenAIVlm, streamed: bool
) -> None:
    server.misbehave("trickling")
    began = time.monotonic()
    with pytest.raises(ModelTimeout):
        vlm.reply(ASK, tokens=9, seconds=1, on_text=listen if streamed else None)
    assert time.monotonic() - began < 10


def test_pages_are_sent_to_no_other_origin(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    with openai_server() as elsewhere:
        server.redirect_to = elsewhere.url.removesuffix("/v1")
        server.misbehave("redirecting")
        for on_text in (None, listen):
            with pytest.raises(ModelServerError, match="redirects to another origin"):
                vlm.reply(ASK, tokens=9, seconds=20, on_text=on_text)
        with pytest.raises(ModelServerError, match="redirects to another origin"):
            vlm.check(seconds=20)
        assert not elsewhere.requests


def test_a_redirect_to_the_same_origin_is_followed(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.redirect_to = server.url.removesuffix("/v1")
    server.misbehave("redirecting", times=1)
    assert vlm.reply(ASK, tokens=9, seconds=20).text
    assert len(server.completions) == 2


def completion(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": "At nine."}, "finish_reason": "stop"}
    return {"model": "m", "choices": [choice]} | fields


def says(content: Any) -> list[Any]:
    return [{"index": 0, "message": {"content": content}, "finish_reason": "stop"}]


def in_brackets(depth: int) -> bytes:
    return b'{"choices": ' + b"[" * depth + b"]" * depth + b"}"


ODD: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b'"words"',
    b"7",
    b"{}",
    b"\xff\xfe",
    b'{"choices": null}',
    b'{"choices": {}}',
    b'{"choices": [null]}',
    b'{"choices": [[]]}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": null, "delta": null}]}',
    b'{"choices": [{"message": "words", "delta": "words"}]}',
    b'{"choices": [{"message": {"content": 7}, "delta": {"content": 7}}]}',
    b'{"choices": [{"message": {"content": "\\ud83d"}, "delta": {"content": "\\ud83d"}}]}',
    b'{"choices": [{"message": {"content": {"a": 1}}, "delta": {"content": {"a": 1}}}]}',
    b'{"choices": ' + b"9" * 5000 + b"}",
    b'{"error": "words"}',
    b'{"error": {"message": 7}}',
    in_brackets(300),
    in_brackets(200_000),
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("call", ["reply", "stream", "yes"])
def test_a_reply_without_an_answer_is_an_error_of_its_server(
    server: OpenAIServer, vlm: OpenAIVlm, body: bytes, call: str
) -> None:
    server.body = body
    with pytest.raises(ModelServerError) as caught:
        if call == "yes":
            vlm.yes([ASK], seconds=20)
        else:
            vlm.reply(ASK, tokens=9, seconds=20, on_text=listen if call == "stream" else None)
    assert "\n" not in str(caught.value) and not isinstance(caught.value, ModelTimeout)


@pytest.mark.parametrize(
    "odd",
    [
        {"usage": "12 tokens"},
        {"usage": {"prompt_tokens": "many", "completion_tokens": 1}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": 10**400}},
        {"usage": {"prompt_tokens": math.nan, "completion_tokens": 1}},
        {"usage": [1, 2]},
        {"model": None},
        {"model": {"name": "m"}},
        {"model": "\x1b[31mred" + "e" * 9_000},
        {"system_fingerprint": 7},
        {"choices": says([{"type": "text", "text": "At "}, {"type": "text", "text": "nine."}])},
        {"choices": [{"message": {"content": "At nine."}, "finish_reason": 3}]},
        {"choices": [{"message": {"content": "At nine."}, "logprobs": "none"}]},
    ],
)
def test_what_an_answer_can_do_without_does_not_cost_it(
    server: OpenAIServer, vlm: OpenAIVlm, odd: dict[str, Any]
) -> None:
    whole = completion(**odd)
    server.body = json.dumps(whole).encode()
    reply = vlm.reply(ASK, tokens=9, seconds=20)
    assert reply.text == "At nine."
    assert reply.model and reply.model.isprintable() and len(reply.model) <= 200
    if "usage" in odd:
        assert (reply.input_tokens, reply.output_tokens) == (None, None)
    for choice in whole["choices"]:
        choice["delta"] = choice.pop("message")
        choice["finish_reason"] = "stop"
    server.body = json.dumps(whole).encode()
    assert vlm.reply(ASK, tokens=9, seconds=20, on_text=listen) == reply


def test_numbers_that_are_written_as_words_are_numbers(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    usage = {"prompt_tokens": "12", "completion_tokens": 3.0}
    server.body = json.dumps(completion(usage=usage)).encode()
    reply = vlm.reply(ASK, tokens=9, seconds=20)
    assert (reply.input_tokens, reply.output_tokens) == (12, 3)


@pytest.mark.parametrize("logprob", ["-0.1", -0.1, 0, math.inf])
def test_odd_probabilities_of_words_stay_probabilities(
    server: OpenAIServer, vlm: OpenAIVlm, logprob: Any
) -> None:
    tops = [
        {"token": "Yes", "logprob": logprob},
        {"token": "No", "logprob": math.nan},
        {"token": "no", "logprob": -math.inf},
    ]
    words = {"content": [{"top_logprobs": tops}]}
    choice = {"message": {"content": "Yes"}, "logprobs": words}
    server.body = json.dumps(completion(choices=[choice])).encode()
    assert vlm.yes([ASK], seconds=20).probabilities == (1.0,)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_model_says_no_more_than_it_may(
    server: OpenAIServer, vlm: OpenAIVlm, streamed: bool
) -> None:
    words = {"content": "word " * 1000}
    choice = {"message": words, "delta": words, "finish_reason": "stop"}
    server.body = json.dumps(completion(choices=[choice])).encode()
    with pytest.raises(ModelServerError, match="more than the 9 tokens it was allowed"):
        vlm.reply(ASK, tokens=9, seconds=20, on_text=listen if streamed else None)


def test_models_without_a_name_are_passed_over(server: OpenAIServer) -> None:
    vlm = OpenAIVlm(server.url, None, retries=0)
    assert vlm.served(seconds=20) == [server.model]
    vlm.close()


# Whoever asks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replies")
    pages = ["The ferry leaves the pier at nine.", "The turbine was built in 1911."]
    file = pdf(folder / "ferry.pdf", pages)
    with Services(load_settings({"data_dir": folder / "data"}), command="test") as services:
        assert [report.outcome for report in services.ingest([file])] == ["indexed"]
    return folder


def content_of(said: dict[str, Any]) -> bytes:
    return json.dumps(completion(choices=says(json.dumps(said)))).encode()


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        ("endless", None),
        ("bomb", None),
        ("redirecting", None),
        (None, b'{"choices": [{"message": null}]}'),
        (None, in_brackets(200_000)),
        (None, content_of({"found": True, "citations": [], "answer": {"text": "odd"}})),
        (None, content_of({"found": True, "citations": "none", "answer": "\ud83d"})),
        (None, json.dumps(completion(choices=says('{"answer": ' + "9" * 5000 + "}"))).encode()),
    ],
)
def test_questions_are_answered_by_quotes_where_the_model_s_server_is_odd(
    server: OpenAIServer, folder: Path, fault: Misbehaviour | None, body: bytes | None
) -> None:
    server.redirect_to = "http://127.0.0.1:9"
    server.body = body
    if fault is not None:
        server.misbehave(fault)
    settings = load_settings(
        {
            "data_dir": folder / "data",
            "answer": {"url": server.url, "retries": 0, "seconds": 30},
            "rerank": {"url": server.url, "pages": 2, "seconds": 30},
            "models": {"answer": server.model, "rerank": server.model},
        }
    )
    with Services(settings, command="test") as services:
        answer = services.ask(QUESTION)
        assert answer.extractive
        assert "leaves the pier at nine" in answer.text
        assert any("quote" in note for note in answer.notes)
        assert any("not looked at again" in note for note in answer.notes)
        assert all("\n" not in note for note in answer.notes)


# Our own clients


class _Zeros(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self) -> None:
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.sent += 1 << 20
            yield bytes(1 << 20)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_client_reads_no_reply_without_end(kind: str) -> None:
    zeros = _Zeros()

    def reply(_: httpx.Request) -> httpx.Response:
        zeros.sent = 0
        return httpx.Response(200, headers={"Content-Type": kind}, stream=zeros)

    transport = httpx.MockTransport(reply)

    def ask() -> None:
        with Client("http://127.0.0.1:9", transport=transport) as client:
            list(client.ask_events("Which?")) if "event" in kind else client.ask("Which?")

    async def ask_on_a_loop() -> None:
        async with AsyncClient("http://127.0.0.1:9", transport=transport) as client:
            if "event" in kind:
                async for _ in client.ask_events("Which?"):
                    pass
            else:
                await client.ask("Which?")

    for asking in (ask, lambda: asyncio.run(ask_on_a_loop())):
        with pytest.raises(ServerError, match="a reply of more than 256 MB"):
            asking()
        assert zeros.sent < 300 << 20


def test_a_reply_that_trickles_ends() -> None:
    response = httpx.Response(200, stream=_Slow())
    bounded(9999, 0.2)(response)
    with pytest.raises(ReplyRefused, match=r"one reply for more than 0\.2 s"):
        response.read()


class _Slow(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield b" "
