"""Chat clients: the openai library, as people use it, against a real server."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pymupdf
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.chat.chat_completion_message import Annotation

from api.cited_text import cited_sources, whole_text
from api.routes.chat import ANEW
from api.services import Services
from generate.answer import NOT_FOUND
from pageglass.boxes import parse_boxes
from pageglass.errors import StoreError
from pageglass.settings import Settings, load_settings
from pageglass.types import Answer, Citation, PageRef
from pageglass.wire import AnswerModel
from tests.openai_server import OpenAIServer, openai_server
from tests.test_app import FERRY, TURBINE, serving
from tests.test_containment import ALIVE
from tests.tiny import pdf

QUESTION = "When does the ferry leave the northern pier?"
HOSTILE = "](http://evil.example)![x](http://evil.example/y)<img src=//evil.example>`.pdf"
BAIT = (
    "The lighthouse was painted in 1911. See ![plan](http://evil.example/?q=1) and"
    ' <img src="http://evil.example/x.png"> for how the lighthouse was painted in 1911.'
)


def ingest(services: Services, path: Path, name: str, collection: str = "default") -> None:
    with path.open("rb") as file:
        services.writer.enqueue(file, collection=collection, source=name, name=name)
    assert [report.outcome for report in services.ingest([])] == ["indexed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """A server whose answers are quotes, of three collections."""
    settings = load_settings({"data_dir": folder / "data"})
    with Services(settings, command="test") as services:
        ingest(services, pdf(folder / "ferry.pdf", FERRY, labels="r"), "ferry.pdf")
        ingest(services, pdf(folder / "turbine.pdf", TURBINE), "turbine.pdf", "plant")
        ingest(services, pdf(folder / "tower.pdf", [BAIT]), HOSTILE, "tower")
        with serving(services) as address:
            yield address


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{address}/v1",
        api_key=key,
        max_retries=0,
        timeout=60,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with client_of(address) as client:
        yield client


def user(content: Any) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": content}]


def extra(of: Any, name: str) -> Any:
    """A field that the library has no name for."""
    return (of.model_extra or {})[name]


def streamed(
    client: openai.OpenAI, question: str, model: str = "pageglass", **more: Any
) -> list[ChatCompletionChunk]:
    return list(
        client.chat.completions.create(model=model, messages=user(question), stream=True, **more)
    )


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


# Models


def test_collections_are_models(client: openai.OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed == ["pageglass", "pageglass/default", "pageglass/plant", "pageglass/tower"]
    assert client.models.retrieve("pageglass/plant").owned_by == "pageglass"
    for unknown in ("gpt-4o", "pageglass/nope", "pageglass/../etc", "pageglass/"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(unknown)
        assert caught.value.code == "model-not-found"


# Answers


def test_an_answer_names_its_sources_and_carries_its_citations(
    client: openai.OpenAI, address: str
) -> None:
    reply = client.chat.completions.create(model="pageglass", messages=user(QUESTION))
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "pageglass"
    (choice,) = reply.choices
    assert choice.finish_reason == "stop"
    content = choice.message.content or ""
    said, _, sources = content.partition("\n\nSources:\n\n")
    assert said.startswith("The ferry leaves the northern pier at six")
    assert said.endswith(" [1]")
    answer = AnswerModel.model_validate(extra(reply, "pageglass"))
    assert answer.answer_status == "answered"
    (citation,) = extra(choice.message, "citations")
    assert citation["number"] == 1
    assert citation["verified"]
    page = f"{address}/#document={citation['document_id']}&page=1&highlight="
    assert sources.startswith(f"- [1] ferry.pdf, page 1 (printed: i): {page}")
    assert citation["image_url"].endswith(sources.partition("highlight=")[2])
    assert reply.usage is not None
    assert reply.usage.total_tokens == 0


def test_sources_are_annotations_as_clients_of_openai_read_them(
    client: openai.OpenAI, address: str
) -> None:
    message = client.chat.completions.create(model="pageglass", messages=user(QUESTION)).choices[0]
    content = message.message.content or ""
    annotations = message.message.annotations or []
    assert annotations
    for number, annotation in enumerate(annotations, start=1):
        source = annotation.url_citation
        assert annotation.type == "url_citation"
        assert content[source.start_index : source.end_index] == f"[{number}]"
        assert source.title == "ferry.pdf, page 1 (printed: i)"
        assert source.url.startswith(f"{address}/#document=")
        assert f"{source.url}" in content
    chunks = streamed(client, QUESTION)
    deltas = extra(chunks[-1].choices[0].delta, "annotations")
    assert [Annotation.model_validate(one) for one in deltas] == annotations
    assert text_of(chunks) == content


def test_what_cites_nothing_has_no_annotations(client: openai.OpenAI) -> None:
    question = "Who composed the hymn of Moravia?"
    reply = client.chat.completions.create(model="pageglass", messages=user(question))
    assert reply.choices[0].message.annotations == []


def test_the_address_of_a_long_quote_is_short() -> None:
    lines = tuple((0.1, 0.02 * line, 0.9, 0.02 * line + 0.01) for line in range(1, 45))
    citation = Citation(PageRef("d" * 32, 7), "a.pdf", "8", "many words", lines, verified=True)
    answer = Answer("Yes.", "answered", (citation,), (), "m", extractive=False, timings_ms={})
    [source] = cited_sources(answer, page_at="http://h/", said=4)
    assert len(source.url) < 150
    assert source.url in whole_text(answer, page_at="http://h/")
    marked = parse_boxes(source.url.partition("highlight=")[2])
    for x0, y0, x1, y1 in lines:
        assert any(a0 <= x0 and b0 <= y0 and x1 <= a1 and y1 <= b1 for a0, b0, a1, b1 in marked)


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="pageglass", messages=user(QUESTION))
    chunks = streamed(client, QUESTION, stream_options={"include_usage": True})
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    *_, last, usage = chunks
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [
        *[None] * (len(chunks) - 2),
        "stop",
    ]
    assert extra(last.choices[0].delta, "citations") == extra(whole.choices[0].message, "citations")
    assert extra(last, "pageglass")["answer_status"] == "answered"
    assert usage.choices == []
    assert usage.usage is not None
    assert all(chunk.usage is None for chunk in streamed(client, QUESTION))


def test_the_bytes_of_a_stream_are_as_openai_sends_them(address: str) -> None:
    asked = {"model": "pageglass", "messages": user(QUESTION), "stream": True}
    with httpx.stream(
        "POST", f"{address}/v1/chat/completions", json=asked, timeout=60, trust_env=False
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: {") for line in lines[:-1])
    assert lines[-1] == "data: [DONE]"
    assert '"finish_reason":null' in lines[0]
    assert '"usage"' not in lines[0]


def test_what_no_page_says_is_declined(client: openai.OpenAI) -> None:
    question = "Who composed the hymn of Moravia?"
    reply = client.chat.completions.create(model="pageglass", messages=user(question))
    assert reply.choices[0].message.content == NOT_FOUND
    assert extra(reply, "pageglass")["answer_status"] == "not_found"
    assert extra(reply, "pageglass")["pages"]
    assert text_of(streamed(client, question)) == NOT_FOUND


def test_a_model_answers_from_its_collection_alone(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="pageglass/plant", messages=user(QUESTION))
    assert {page["document_name"] for page in extra(reply, "pageglass")["pages"]} == {"turbine.pdf"}


def test_names_and_pages_bring_no_links_and_no_pictures(
    client: openai.OpenAI, address: str
) -> None:
    question = "When was the lighthouse painted?"
    reply = client.chat.completions.create(model="pageglass/tower", messages=user(question))
    assert extra(reply, "pageglass")["citations"][0]["document_name"] == HOSTILE
    for said in (
        reply.choices[0].message.content or "",
        text_of(streamed(client, question, "pageglass/tower")),
    ):
        assert "1911" in said
        assert f"{address}/#document=" in said
        assert not ALIVE.search(said.replace(f"{address}/#", ""))


def test_the_last_message_is_answered_by_itself(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "Who composed the hymn of Moravia?"},
        {"role": "assistant", "content": NOT_FOUND},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    reply = client.chat.completions.create(
        model="pageglass",
        messages=messages,
        temperature=0.3,
        max_completion_tokens=5,
        seed=1,
        user="me",
        extra_body={"tools": [], "response_format": {"type": "text"}, "unheard": {"of": 1}},
    )
    assert "at six" in (reply.choices[0].message.content or "")
    assert "only the last message was read" in extra(reply, "pageglass")["notes"][-1]
    alone = client.chat.completions.create(model="pageglass", messages=user(QUESTION))
    assert extra(alone, "pageglass")["notes"] == []


def picture_of(text: str) -> str:
    """A screenshot, as clients send it."""
    with pymupdf.open() as drawn:
        sheet = drawn.new_page(width=500, height=120)
        sheet.insert_text((20, 60), text, fontsize=18)
        data = sheet.get_pixmap(dpi=150).tobytes("png")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def test_a_picture_may_ask(client: openai.OpenAI) -> None:
    content = [
        {"type": "text", "text": "What of this?"},
        {
            "type": "image_url",
            "image_url": {"url": picture_of("When does the ferry leave?"), "detail": "low"},
        },
    ]
    reply = client.chat.completions.create(model="pageglass", messages=user(content))
    assert "ferry" in extra(reply, "pageglass")["transcription"]
    assert "at six" in (reply.choices[0].message.content or "")


# What goes wrong


@pytest.mark.parametrize(
    ("messages", "says", "param"),
    [
        ([], "at least 1 item", "messages"),
        ([{"role": "system", "content": "hi"}], "nothing is asked", "messages"),
        (user(""), "question", None),
        (user([]), "question", None),
        (user("x" * 100_000), "question", None),
        (user([{"type": "input_audio", "input_audio": {}}]), "'input_audio'", "messages"),
        (user([{"type": "image_url"}]), "'image_url'", "messages"),
        (
            user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}]),
            "no base64",
            "messages",
        ),
        (
            user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}]),
            "no image that can be read",
            None,
        ),
        (
            user([{"type": "image_url", "image_url": picture_of("a")}] * 2),
            "one picture",
            "messages",
        ),
        ("hi", "valid list", "messages"),
        ([{"content": "hi"}], "required", "messages.0.role"),
        (user({"a": 1}), "valid", "messages.0.content.str"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_question_is_refused_as_openai_would(
    client: openai.OpenAI, messages: Any, says: str, param: str | None, stream: bool
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model="pageglass", messages=messages, stream=stream)
    assert says in caught.value.message
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", param)
    body = cast("dict[str, Any]", caught.value.response.json())
    assert body.keys() == {"error"}
    assert "\n" not in body["error"]["message"]


def test_pictures_elsewhere_are_refused_and_not_fetched(client: openai.OpenAI) -> None:
    with openai_server() as elsewhere:
        for url in (f"{elsewhere.url}/x.png", "file:///etc/passwd", f"data:,{elsewhere.url}"):
            content = [
                {"type": "text", "text": QUESTION},
                {"type": "image_url", "image_url": {"url": url}},
            ]
            with pytest.raises(openai.UnprocessableEntityError, match="never fetched"):
                client.chat.completions.create(model="pageglass", messages=user(content))
        assert elsewhere.requests == []


def test_several_answers_and_unknown_models_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="one answer") as caught:
        client.chat.completions.create(model="pageglass", messages=user(QUESTION), n=2)
    assert caught.value.param == "n"
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError, match="GET /v1/models") as missing:
            client.chat.completions.create(model="gpt-4o", messages=user(QUESTION), stream=stream)
        assert missing.value.code == "model-not-found"


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status"),
    [
        ("POST", "/v1/embeddings", {}, b"{}", 404),
        ("GET", "/v1/chat/completions", {}, b"", 405),
        ("POST", "/v1/chat/completions", {"Origin": "http://evil.example"}, b"{}", 403),
        ("POST", "/v1/chat/completions", {}, b"x" * 16_000_000, 413),
        ("POST", "/v1/chat/completions", {}, b"{", 422),
        (
            "POST",
            "/v1/chat/completions",
            {"Content-Type": "application/json"},
            b'{"model": "pageglass", "messages": [{"role": "user", "content": "\\ud800"}]}',
            422,
        ),
    ],
)
def test_whatever_refuses_speaks_as_openai_does(
    address: str, method: str, path: str, headers: dict[str, str], content: bytes, status: int
) -> None:
    response = httpx.request(
        method, f"{address}{path}", headers=headers, content=content, trust_env=False
    )
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("permission_error" if status == 403 else "invalid_request_error")
    assert error["message"]
    elsewhere = httpx.get(f"{address}/nowhere", trust_env=False)
    assert elsewhere.headers["content-type"] == "application/problem+json"


def test_a_fault_says_nothing_of_the_inside(settings: Settings) -> None:
    class Faulty(Services):
        def ask(self, question: str, *, on_text: Any = None, **more: Any) -> Answer:
            if on_text is not None and "begin" in question:
                more["on_found"](None)
                on_text("The first ")
            if "store" in question:
                raise StoreError("the store is away: start it")
            raise RuntimeError("the password is swordfish")

    with (
        Faulty(settings, command="test") as services,
        serving(services) as address,
        client_of(address) as client,
    ):
        for question, says in (("x", "unexpected error"), ("store", "the store is away")):
            with pytest.raises(openai.InternalServerError, match=says) as caught:
                client.chat.completions.create(model="pageglass", messages=user(question))
            assert caught.value.type == "server_error"
            assert "swordfish" not in caught.value.response.text
            # Before anything is said, a stream fails as everything else does.
            with pytest.raises(openai.InternalServerError, match=says):
                streamed(client, question)
        # Afterwards it says so in its last chunk.
        heard: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIError, match="the store is away") as late:
            heard.extend(
                iter(
                    client.chat.completions.create(
                        model="pageglass", messages=user("begin, then store"), stream=True
                    )
                )
            )
        assert late.value.code == "store-unusable"
        with pytest.raises(openai.APIError) as late:
            streamed(client, "begin, then fail")
        assert "swordfish" not in str(late.value.body)


def test_a_key_reaches_its_own_collections_alone(folder: Path) -> None:
    settings = load_settings({"data_dir": folder / "keys", "server": {"keys": "on"}})
    with Services(settings, command="test") as services:
        ingest(services, pdf(folder / "ferry.pdf", FERRY), "ferry.pdf")
        ingest(services, pdf(folder / "turbine.pdf", TURBINE), "turbine.pdf", "plant")
        _, asking = services.keys.add("chat", ["ask"], collections=["plant"])
        _, searching = services.keys.add("page", ["search"])
        with serving(services) as address:
            with client_of(address, key=asking) as client:
                assert [model.id for model in client.models.list()] == [
                    "pageglass",
                    "pageglass/plant",
                ]
                for question in (QUESTION, "When was turbine 7 stopped?"):
                    reply = client.chat.completions.create(
                        model="pageglass", messages=user(question)
                    )
                    found = extra(reply, "pageglass")["pages"]
                    assert {page["document_name"] for page in found} == {"turbine.pdf"}
                # Be it there or not, it looks the same.
                for other in ("pageglass/default", "pageglass/nope"):
                    with pytest.raises(openai.NotFoundError, match="no model"):
                        client.chat.completions.create(model=other, messages=user(QUESTION))
            with client_of(address, key=searching) as client:
                assert len(list(client.models.list())) == 3
                with pytest.raises(openai.PermissionDeniedError) as forbidden:
                    client.chat.completions.create(model="pageglass", messages=user(QUESTION))
                assert forbidden.value.type == "permission_error"
            with client_of(address, key="none") as client:
                with pytest.raises(openai.AuthenticationError) as unknown:
                    client.models.list()
                assert unknown.value.code == "key-invalid"
                assert unknown.value.type == "authentication_error"


# A model that writes


@pytest.fixture(scope="module")
def vlm() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture(scope="module")
def writing(folder: Path, vlm: OpenAIServer) -> Iterator[openai.OpenAI]:
    """A server whose answers a vision-language model writes."""
    settings = load_settings(
        {
            "data_dir": folder / "writing",
            "answer": {"url": vlm.url, "retries": 0},
            "models": {"answer": vlm.model},
        }
    )
    with Services(settings, command="test") as services:
        ingest(services, pdf(folder / "ferry.pdf", FERRY), "ferry.pdf")
        with serving(services) as address, client_of(address) as client:
            yield client


@pytest.fixture
def reset(vlm: OpenAIServer) -> Iterator[Callable[..., None]]:
    pause = vlm.pause
    yield vlm.misbehave
    vlm.behave()
    vlm.pause = pause


def test_the_answer_comes_while_it_is_written(writing: openai.OpenAI) -> None:
    chunks = streamed(writing, QUESTION, stream_options={"include_usage": True})
    assert len(chunks) > 8
    assert ANEW not in text_of(chunks)
    assert text_of(chunks).startswith(FERRY[0])
    assert "- [1] ferry.pdf, page 1: http" in text_of(chunks)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens > 10
    assert usage.completion_tokens > 5
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_draft_that_did_not_hold_is_followed_by_one_that_does(
    writing: openai.OpenAI, reset: Callable[..., None]
) -> None:
    reset("invented_quote", times=1)
    chunks = streamed(writing, QUESTION)
    said = text_of(chunks)
    [source] = extra(chunks[-1].choices[0].delta, "annotations")
    place = Annotation.model_validate(source).url_citation
    assert said[place.start_index : place.end_index] == "[1]"
    first, second = said.split(ANEW)
    assert first == FERRY[0]
    assert second.startswith(f"{FERRY[0]} [1]\n\nSources:")
    reset("invented_quote", times=1)
    whole = writing.chat.completions.create(model="pageglass", messages=user(QUESTION))
    assert whole.choices[0].message.content == second


def test_what_cannot_be_verified_says_so(
    writing: openai.OpenAI, reset: Callable[..., None]
) -> None:
    reset("invented_quote")
    whole = writing.chat.completions.create(model="pageglass", messages=user(QUESTION))
    assert extra(whole, "pageglass")["answer_status"] == "unverified"
    assert "; the quoted words were not found there: http" in (
        whole.choices[0].message.content or ""
    )
    reset("wrong_page")
    whole = writing.chat.completions.create(model="pageglass", messages=user(QUESTION))
    assert (whole.choices[0].message.content or "").endswith("not verified: no page bears it out.)")


def test_who_hangs_up_calls_the_model_off(
    writing: openai.OpenAI, vlm: OpenAIServer, reset: Callable[..., None]
) -> None:
    # Longer than it takes a busy machine to see that the client has gone.
    vlm.pause = 2.0
    reset("slow")
    before, asked = vlm.hung_up, len(vlm.completions)
    stream = writing.chat.completions.create(
        model="pageglass", messages=user(QUESTION), stream=True
    )
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    until = time.monotonic() + 20
    # Who leaves before the model is asked does not have it called off.
    while len(vlm.completions) == asked and time.monotonic() < until:
        time.sleep(0.01)
    stream.close()
    while vlm.hung_up == before and time.monotonic() < until:
        time.sleep(0.05)
    assert vlm.hung_up == before + 1
