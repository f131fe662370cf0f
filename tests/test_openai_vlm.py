from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from pageglass import prompts
from pageglass.errors import ModelServerError, ModelTimeout, PromptTooLong
from retrieval.vlms import Message, PromptImage, Vlm
from retrieval.vlms.images import prompt_image
from retrieval.vlms.openai import OpenAIVlm
from tests.openai_server import Misbehaviour, OpenAIServer, openai_server

SCHEMA = {
    "type": "object",
    "properties": {
        "found": {"type": "boolean"},
        "citations": {"type": "array", "items": {"type": "object"}},
        "answer": {"type": "string"},
    },
    "required": ["found", "citations", "answer"],
}
PAGES = (
    prompts.page_text(1, "The ferry leaves the pier at nine.\nDogs travel free."),
    prompts.page_text(2, "The turbine was built in 1911."),
)


def ask(question: str = "When does the ferry leave?") -> list[Message]:
    return [
        Message("system", ("You answer questions.",)),
        Message("user", (*PAGES, prompts.question(question))),
    ]


def shade(grey: int) -> PromptImage:
    data = io.BytesIO()
    Image.new("L", (60, 80), grey).save(data, "PNG")
    return prompt_image(data.getvalue(), longest_side=100)


def does_it(grey: int) -> list[Message]:
    return [Message("user", (shade(grey), prompts.answers_question("Is it dark?")))]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def vlm(server: OpenAIServer) -> Iterator[OpenAIVlm]:
    vlm = OpenAIVlm(server.url, server.model, api_key="sk-mine", retries=2)
    yield vlm
    vlm.close()


def test_it_answers_from_what_it_is_shown(server: OpenAIServer, vlm: Vlm) -> None:
    reply = vlm.reply(ask(), tokens=100, seconds=10, schema=SCHEMA)
    assert json.loads(reply.text) == {
        "found": True,
        "citations": [{"page": 1, "quote": "The ferry leaves the pier at nine."}],
        "answer": "The ferry leaves the pier at nine.",
    }
    assert not reply.cut
    assert reply.model == f"{server.model}@fp_test"
    assert reply.input_tokens and reply.output_tokens
    [request] = server.requests
    assert request.headers["authorization"] == "Bearer sk-mine"
    assert request.body["temperature"] == 0
    assert request.body["response_format"]["json_schema"]["strict"] is True
    assert request.body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert request.body["messages"][0] == {"role": "system", "content": "You answer questions."}


def test_pictures_arrive_as_they_were_prepared_between_their_texts(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    image = shade(90)
    vlm.reply([Message("user", ("one", image, "two"))], tokens=5, seconds=10)
    [request] = server.requests
    kinds = [part["type"] for part in request.body["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "text"]
    [arrived] = request.images
    assert arrived.tobytes() == Image.open(io.BytesIO(image.data)).tobytes()


def test_a_model_without_a_fingerprint_is_its_name(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.fingerprint = None
    assert vlm.reply(ask(), tokens=9, seconds=10).model == server.model


def test_running_out_of_tokens_is_told(vlm: OpenAIVlm) -> None:
    reply = vlm.reply(ask(), tokens=2, seconds=10)
    assert reply.cut and reply.text == "The ferry" and reply.output_tokens == 2


def test_a_stream_hands_out_exactly_the_reply(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    pieces: list[str] = []
    threads: set[int] = set()

    def on_text(piece: str) -> None:
        pieces.append(piece)
        threads.add(threading.get_ident())

    reply = vlm.reply(ask(), tokens=100, seconds=10, schema=SCHEMA, on_text=on_text)
    assert "".join(pieces) == reply.text and len(pieces) > 5
    assert threads == {threading.get_ident()}
    assert reply == vlm.reply(ask(), tokens=100, seconds=10, schema=SCHEMA)
    assert server.requests[0].body["stream_options"] == {"include_usage": True}


def test_a_stream_is_handed_out_as_it_comes(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.misbehave("slow")
    server.pause = 0.05
    times: list[float] = []
    vlm.reply(ask(), tokens=100, seconds=10, on_text=lambda _: times.append(time.monotonic()))
    assert times[-1] - times[0] > 0.05 * (len(times) - 2) > 0.1


def test_what_the_listener_raises_ends_the_request(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.misbehave("slow", times=1)

    def leave(_: str) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        vlm.reply(ask(), tokens=100, seconds=30, on_text=leave)
    assert left(server)
    assert vlm.reply(ask(), tokens=100, seconds=10).text
    assert len(server.completions) == 2


def left(server: OpenAIServer) -> bool:
    """Whether the client goes away before it has its whole answer."""
    for _ in range(100):
        if server.hung_up:
            break
        time.sleep(0.05)
    return bool(server.hung_up)


def test_a_refused_schema_is_told_in_words_from_then_on(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    server.misbehave("no_json_schema")
    for _ in range(2):
        reply = vlm.reply(ask(), tokens=100, seconds=10, schema=SCHEMA)
        assert json.loads(reply.text)["found"] is True
    assert ["response_format" in r.body for r in server.completions] == [True, False, False]
    for request in server.completions[1:]:
        assert json.dumps(SCHEMA) in request.text
    keys = [request.headers["idempotency-key"] for request in server.completions]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("fault", ["rate_limited", "failing", "dropping"])
def test_what_may_pass_is_tried_again_under_the_same_key(
    server: OpenAIServer, vlm: OpenAIVlm, fault: Misbehaviour
) -> None:
    server.misbehave(fault, times=2)
    assert vlm.reply(ask(), tokens=100, seconds=20).text == "The ferry leaves the pier at nine."
    tries = [request.headers["idempotency-key"] for request in server.completions]
    assert len(tries) == 3 and len(set(tries)) == 1
    vlm.reply(ask(), tokens=100, seconds=10)
    assert server.completions[-1].headers["idempotency-key"] != tries[0]


def test_pauses_between_tries_grow(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.misbehave("failing", times=2)
    began = time.monotonic()
    vlm.reply(ask(), tokens=9, seconds=20)
    # 0.5 and 1 second, each up to a quarter less.
    assert 1.1 < time.monotonic() - began < 4


def test_tries_end(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.misbehave("rate_limited")
    with pytest.raises(ModelServerError, match=r"answers 429 .*ask again later"):
        vlm.reply(ask(), tokens=9, seconds=20)
    assert len(server.completions) == 3


def test_a_server_s_retry_after_is_waited_for(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    for named, least in (
        ("1", 1.0),
        (format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True), 0.9),
    ):
        server.misbehave("rate_limited", times=1)
        server.retry_after = named
        began = time.monotonic()
        vlm.reply(ask(), tokens=9, seconds=20)
        assert least <= time.monotonic() - began < 5


def test_a_retry_after_past_the_time_allowed_is_not_waited_for(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    server.misbehave("rate_limited")
    server.retry_after = "60"
    began = time.monotonic()
    with pytest.raises(ModelServerError, match="answers 429"):
        vlm.reply(ask(), tokens=9, seconds=10)
    assert time.monotonic() - began < 2
    assert len(server.completions) == 1


def test_a_stream_that_breaks_after_text_is_an_error_and_not_begun_again(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    server.misbehave("cut_stream")
    pieces: list[str] = []
    with pytest.raises(ModelServerError, match="does not answer"):
        vlm.reply(ask(), tokens=100, seconds=10, on_text=pieces.append)
    assert 0 < len(pieces) < 7
    assert len(server.completions) == 1


def test_a_stream_that_ends_without_saying_so_is_an_error(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    server.misbehave("unfinished_stream")
    with pytest.raises(ModelServerError, match="ended its answer in the middle"):
        vlm.reply(ask(), tokens=100, seconds=10, on_text=lambda _: None)


def test_a_stream_that_breaks_before_any_text_is_begun_again(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    server.misbehave("cut_stream", times=1)
    server.transcription = "word"
    pieces: list[str] = []
    prompt = [Message("user", (shade(0), prompts.TRANSCRIBING))]
    reply = vlm.reply(prompt, tokens=100, seconds=10, on_text=pieces.append)
    assert pieces == ["word"] and reply.text == "word"
    assert len(server.completions) == 2


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", ["hanging", "slow"])
def test_time_is_kept_wherever_the_server_dawdles(
    server: OpenAIServer, vlm: OpenAIVlm, fault: Misbehaviour, streamed: bool
) -> None:
    server.misbehave(fault)
    server.pause = 0.3
    pieces: list[str] = []
    seconds = 0.7 if streamed else 0.2
    began = time.monotonic()
    with pytest.raises(ModelTimeout, match=rf"did not answer in {seconds} s.*answer\.seconds"):
        on_text = pieces.append if streamed else None
        vlm.reply(ask(), tokens=100, seconds=seconds, on_text=on_text)
    assert time.monotonic() - began < seconds + 0.5
    assert bool(pieces) == (streamed and fault == "slow")


def test_no_time_is_a_timeout(vlm: OpenAIVlm) -> None:
    with pytest.raises(ModelTimeout):
        vlm.reply(ask(), tokens=9, seconds=-1)
    with pytest.raises(ModelTimeout):
        vlm.yes([does_it(0)], seconds=0)


def test_yes_is_as_probable_as_the_model_says_each_time_it_is_asked(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    greys = [255, 0, 200, 60, 128, 30, 90, 10, 250, 140]
    answers = vlm.yes([does_it(grey) for grey in greys], seconds=20)
    assert answers.probabilities == pytest.approx([1 - g / 255 for g in greys], abs=0.01)
    assert answers.model == f"{server.model}@fp_test"
    assert answers.output_tokens == len(greys)
    assert answers.input_tokens and answers.input_tokens > 64 * len(greys)
    for request in server.completions:
        assert (request.body["max_tokens"], request.body["top_logprobs"]) == (1, 20)
    keys = {request.headers["idempotency-key"] for request in server.completions}
    assert len(keys) == len(greys)


def test_prompts_are_asked_several_at_a_time(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.misbehave("slow")
    server.pause = 0.3
    began = time.monotonic()
    vlm.yes([does_it(0)] * 8, seconds=20)
    assert 0.3 <= time.monotonic() - began < 8 * 0.3


def test_no_prompts_have_no_answers(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    assert vlm.yes([], seconds=5).probabilities == ()
    assert not server.requests


def test_one_failure_fails_all_prompts(server: OpenAIServer) -> None:
    vlm = OpenAIVlm(server.url, server.model, api_key=None, retries=0)
    server.misbehave("failing", times=1)
    with pytest.raises(ModelServerError, match="answers 500"):
        vlm.yes([does_it(0)] * 3, seconds=10)
    vlm.close()


def test_a_server_without_logprobs_is_told_of(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    server.misbehave("no_logprobs")
    with pytest.raises(ModelServerError, match=r"gives no logprobs.*rerank\.pages to 0"):
        vlm.yes([does_it(0)], seconds=10)


def test_without_a_name_the_first_model_served_is_asked(server: OpenAIServer) -> None:
    vlm = OpenAIVlm(server.url, None, api_key=None, retries=0)
    assert vlm.name == server.url
    assert vlm.reply(ask(), tokens=50, seconds=10).text
    assert vlm.name == server.model
    vlm.reply(ask(), tokens=50, seconds=10)
    assert [r.path.rpartition("/")[2] for r in server.requests] == ["models"] + 2 * ["completions"]
    vlm.close()


def test_a_server_without_a_key_is_sent_none_of_ours(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-somebody-else")
    vlm = OpenAIVlm(server.url, server.model, api_key=None, retries=0)
    vlm.reply(ask(), tokens=50, seconds=10)
    assert "sk-for-somebody-else" not in str(server.requests[0].headers)
    vlm.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("broken_body", "answers no JSON: correct rerank.url"),
        ("no_choices", "answers without an answer: correct rerank.url"),
        ("failing", r"answers 500 \(.*out of order.*\): ask again later"),
        ("dropping", r"does not answer \(.*\): start it, or correct rerank.url"),
    ],
)
def test_a_server_in_disorder_is_named_in_one_line_that_says_what_to_do(
    server: OpenAIServer, fault: Misbehaviour, said: str
) -> None:
    url = server.url.replace("//", "//user:secret@")
    vlm = OpenAIVlm(url, server.model, api_key="sk-mine", retries=0, section="rerank")
    server.misbehave(fault)
    with pytest.raises(ModelServerError, match=said) as caught:
        vlm.reply(ask(), tokens=50, seconds=10)
    message = str(caught.value)
    assert server.url in message and "\n" not in message
    assert "secret" not in message and "sk-mine" not in message
    vlm.close()


def test_a_wrong_key_a_wrong_name_and_a_wrong_address_are_told_apart() -> None:
    with openai_server(api_key="sk-right") as server, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        for url, model, key, said in (
            (server.url, server.model, "sk-wrong", "refuses the key: set answer.api_key"),
            (server.url, server.model, None, "refuses the key: set answer.api_key"),
            (server.url, "other", "sk-right", "has no model other .*: set models.answer"),
            (server.url + "/v9", server.model, "sk-right", "correct answer.url"),
            (nowhere, server.model, "sk-right", "does not answer .*: start it"),
            ("localhost", server.model, "sk-right", "does not answer .*: start it"),
        ):
            vlm = OpenAIVlm(url, model, api_key=key, retries=1)
            with pytest.raises(ModelServerError, match=said) as caught:
                vlm.reply(ask(), tokens=50, seconds=10)
            assert not isinstance(caught.value, ModelTimeout)
            vlm.close()
        assert len(server.requests) == 4  # nothing of that is tried again


class _WebPage(BaseHTTPRequestHandler):
    """What the address of a server's web page gives, where that of its API is asked for."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>Models</title><p>Welcome.</p>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_the_address_of_a_web_page_is_a_wrong_one() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _WebPage) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        vlm = OpenAIVlm(f"http://127.0.0.1:{web.server_address[1]}", None, retries=1)
        for call in (
            lambda: vlm.check(seconds=10),
            lambda: vlm.reply(ask(), tokens=50, seconds=10),
        ):
            with pytest.raises(ModelServerError, match=r"answer\.url \(it ends in /v1\)"):
                call()
        vlm.close()
        web.shutdown()


def test_pages_beyond_the_context_are_told_apart_from_other_refusals(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    server.misbehave("short_context")
    long = [Message("user", ("word " * 400,))]
    for schema in (None, SCHEMA):
        with pytest.raises(PromptTooLong, match=r"lower answer\.pages"):
            vlm.reply(long, tokens=9, seconds=10, schema=schema)
    # That the prompt was too long says nothing about schemas.
    server.behave()
    vlm.reply(long, tokens=9, seconds=10, schema=SCHEMA)
    assert "response_format" in server.completions[-1].body


def test_threads_share_one_model(server: OpenAIServer, vlm: OpenAIVlm) -> None:
    questions = ["When does the ferry leave?", "When was the turbine built?"] * 4

    def answer(question: str) -> str:
        return vlm.reply(ask(question), tokens=50, seconds=20).text

    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(answer, questions)
    ferry, turbine = "The ferry leaves the pier at nine.", "The turbine was built in 1911."
    assert list(replies) == [ferry, turbine] * 4


def test_closing_ends_calls_under_way_and_a_later_call_begins_anew(
    server: OpenAIServer, vlm: OpenAIVlm
) -> None:
    server.misbehave("hanging", times=1)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(vlm.reply, ask(), tokens=50, seconds=60)
        while not server.completions:
            time.sleep(0.01)
        vlm.close()
        with pytest.raises(ModelServerError, match="was let go of"):
            under_way.result(timeout=10)
    assert vlm.reply(ask(), tokens=50, seconds=10).text
