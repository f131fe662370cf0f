"""The log of a real server, and how records are written."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.services import Services
from pageglass.logs import Repeated, _Json, _Text, set_up_logging
from tests.openai_server import OpenAIServer, openai_server
from tests.served import Served, served
from tests.tiny import pdf

PAGE = "The quokka ledger of Rottnest lists forty-one animals, counted by the warden in spring."
OTHER = "The lighthouse on the cape was painted white again after the storms of last winter."
QUESTION = "How many animals does the quokka ledger list?"
SECRETS = ("quokka", "Rottnest", "forty-one", "warden")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with openai_server() as model:
        yield model


def asked(server: Served, *, request_id: str, question: str = QUESTION, **more: Any) -> Any:
    body = {"question": question, **more}
    headers = {"X-Request-Id": request_id, "Accept-Encoding": "identity"}
    response = server.http.post("/ask", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def records(server: Served) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines() if line.startswith("{")]


def record_of(server: Served, request_id: str) -> dict[str, Any]:
    """The one line of a request; it is written when the last byte is out."""
    for _ in range(200):
        found = [r for r in records(server) if r.get("request_id") == request_id]
        if found:
            (record,) = found
            return record
        time.sleep(0.02)
    raise AssertionError(f"no line of {request_id}: {server.lines()[-5:]}")


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory, model: OpenAIServer) -> Iterator[Served]:
    """A server that logs all it would ever log, with a model that looks at pages."""
    folder = tmp_path_factory.mktemp("log")
    options: dict[str, Any] = {"log_level": "DEBUG", "log_format": "json"}
    with served(folder, answer__url=model.url, rerank__url=model.url, **options) as server:
        server.indexed(pdf(folder / "warden.pdf", [PAGE, OTHER]), collection="quokkas")
        yield server


def test_a_line_tells_what_an_answer_was_made_of(talkative: Served, model: OpenAIServer) -> None:
    answer = asked(talkative, request_id="whole", collection="quokkas")
    assert answer["answer_status"] == "answered"
    record = record_of(talkative, "whole")
    assert (record["level"], record["message"]) == ("INFO", "request")
    assert (record["method"], record["path"], record["route"]) == ("POST", "/ask", "/ask")
    assert (record["status"], record["hits"]) == (200, 2)
    assert record["ms"] >= sum(record["timings_ms"].values()) > 0
    assert record["bytes"] == len(json.dumps(answer, separators=(",", ":"), ensure_ascii=False))
    assert record["question_characters"] == len(QUESTION)
    assert record["in_collections"] is True
    assert (record["answer_status"], record["verified_citations"]) == ("answered", 1)
    assert record["model"] == answer["model"]
    stages = {"encode", "retrieve", "fuse", "rerank", "load", "generate", "check"}
    assert record["timings_ms"].keys() == stages
    assert set(record["retrievers"]) == {"dense", "sparse", "tokens"}
    told = {use["purpose"]: use for use in record["usage"]}
    assert told.keys() == {"rerank", "answer"}
    for use in answer["usage"]:
        line = told[use["purpose"]]
        assert line["model"] == use["model"] == f"{model.model}@fp_test"
        assert line["images"] == [f"{width}x{height}" for width, height in use["images"]] != []
        assert line["input_tokens"] == use["input_tokens"] > 0
        assert line["output_tokens"] == use["output_tokens"] > 0
        assert line["seconds"] == pytest.approx(use["seconds"], abs=0.001)


def test_a_streams_line_comes_at_its_end_and_tells_as_much(talkative: Served) -> None:
    headers = {"X-Request-Id": "streamed", "Accept-Encoding": "identity"}
    headers |= {"Accept": "text/event-stream"}
    response = talkative.http.post("/ask", json={"question": QUESTION}, headers=headers)
    record = record_of(talkative, "streamed")
    assert (record["status"], record["bytes"]) == (200, len(response.content))
    assert (record["answer_status"], record["hits"]) == ("answered", 2)
    assert {use["purpose"] for use in record["usage"]} == {"rerank", "answer"}


def test_routes_are_templates_and_paths_as_they_were_sent(talkative: Served) -> None:
    http = talkative.http
    http.get("/documents/ab%0Acd?x=y", headers={"X-Request-Id": "one"})
    http.get("/nowhere/at/all", headers={"X-Request-Id": "two"})
    record = record_of(talkative, "one")
    assert (record["path"], record["route"]) == ("/documents/ab%0Acd", "/documents/{document_id}")
    assert record["status"] == 404
    assert "route" not in record_of(talkative, "two")
    assert "hits" not in record_of(talkative, "two")


def test_a_callers_trace_is_named_and_handed_to_the_model(
    talkative: Served, model: OpenAIServer
) -> None:
    """Also where nothing traces here."""
    told = {"traceparent": PARENT, "tracestate": "a=1", "X-Request-Id": "traced"}
    before = len(model.completions)
    talkative.http.post("/ask", json={"question": QUESTION}, headers=told)
    assert record_of(talkative, "traced")["trace_id"] == PARENT.split("-")[1]
    requests = model.completions[before:]
    assert len(requests) == 3  # two pages to rerank, and the answer
    assert {request.headers["traceparent"] for request in requests} == {PARENT}
    assert {request.headers["tracestate"] for request in requests} == {"a=1"}
    forged = {"traceparent": f"{PARENT}\tx", "X-Request-Id": "forged"}
    talkative.http.post("/ask", json={"question": QUESTION}, headers=forged)
    assert "traceparent" not in model.completions[-1].headers
    assert "trace_id" not in record_of(talkative, "forged")


def test_what_a_request_costs_is_in_its_line_even_where_it_fails(
    talkative: Served, model: OpenAIServer
) -> None:
    model.misbehave("broken_json")
    try:
        answer = asked(talkative, request_id="failing")
    finally:
        model.behave()
    assert answer["extractive"]
    record = record_of(talkative, "failing")
    assert [use["purpose"] for use in record["usage"]].count("answer") == 2
    refused = talkative.http.post("/ask", json={"question": " "}, headers={"X-Request-Id": "empty"})
    assert refused.status_code == 422
    assert record_of(talkative, "empty")["question_characters"] == 1


def test_nothing_that_was_asked_answered_or_read_is_in_the_log(
    talkative: Served, model: OpenAIServer
) -> None:
    """At the most talkative level, whatever goes wrong; libraries would log whole prompts."""
    http = talkative.http
    id = http.get("/documents").json()["documents"][0]["id"]
    assert http.post("/search", json={"question": QUESTION}).status_code == 200
    assert http.get(f"/documents/{id}/pages/1").status_code == 200
    http.get(f"/documents/{id}/pages/1/image?heatmap=quokka")
    assert http.post("/ask", json={"question": "quokka " * 1000}).status_code == 422
    for fault in ("echo", "invented_quote", "wrong_page", "failing", "broken_body", "no_choices"):
        model.misbehave(fault)
        asked(talkative, request_id=f"fault-{fault}", collection="quokkas")
        model.behave()
        record_of(talkative, f"fault-{fault}")
    for line in talkative.lines():
        assert not {"question", "answer", "found", "citations"} & json.loads(line).keys()
        for secret in SECRETS:
            assert secret.lower() not in line.lower()


def test_the_log_has_questions_and_answers_where_somebody_wants_that(
    tmp_path: Path, model: OpenAIServer
) -> None:
    options: dict[str, Any] = {"log_level": "INFO", "log_format": "text", "server__log_text": True}
    with served(tmp_path, answer__url=model.url, rerank__pages=0, **options) as server:
        id = server.indexed(pdf(tmp_path / "warden.pdf", [PAGE]))
        question = f"{QUESTION}\n2026-01-01 INFO api.facts request status=500"
        answer = asked(server, request_id="told", question=question, collection="default")
        asked(server, request_id="cited")
        server.stop()
        (line,) = [line for line in server.lines() if "request_id=told" in line]
    assert f"question={json.dumps(question)}" in line
    assert f"answer={json.dumps(answer['answer'])}" in line
    assert 'collections=["default"]' in line
    place = {"document_id": id, "document": "warden.pdf", "page": 1}
    assert f"found={json.dumps([place], separators=(',', ':'))}" in line
    (line,) = [line for line in server.lines() if "request_id=cited" in line]
    cited = place | {"quote": PAGE, "verified": True}
    assert f"citations={json.dumps([cited], separators=(',', ':'))}" in line
    assert "status=200" in line


def test_the_command_line_logs_what_models_cost(
    tmp_path: Path, model: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    from pageglass.settings import load_settings

    flags = {"data_dir": tmp_path / "data", "answer": {"url": model.url}, "rerank": {"pages": 0}}
    caplog.set_level(logging.INFO, logger="api.facts")
    with Services(load_settings(flags), command="test") as services:
        list(services.ingest([pdf(tmp_path / "warden.pdf", [PAGE])]))
        services.ask(QUESTION)
    (record,) = caplog.records
    assert record.getMessage() == f"answer by {model.model}@fp_test"
    assert vars(record)["fields"]["output_tokens"] > 0
    assert "quokka" not in str(vars(record)["fields"])


# How records are written


def a_record(message: str, fields: dict[str, Any] | None = None, *, fail: bool = False) -> str:
    """One record, in both formats joined by a mark."""
    record = logging.LogRecord("api.test", logging.ERROR, __file__, 1, message, (), None)
    if fields is not None:
        record.fields = fields
    if fail:
        try:
            raise ValueError("first\nsecond \x1b[31m\u2028third")
        except ValueError:
            record.exc_info = sys.exc_info()
    return "\n".join(format.format(record) for format in (_Text(), _Json()))


HOSTILE = [
    "a\nb",
    "a\r\nb",
    "tab\tbell\x07",
    "\x1b[2J",
    "\x85",
    "\u2028\u2029",
    "\ud800",
    "é 中 😀",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_record_is_one_line_whatever_it_says(hostile: str) -> None:
    text, line = a_record(hostile, {"said": hostile, "list": [hostile]}, fail=True).split("\n")
    assert text.isprintable() or "\ud800" in text
    read = json.loads(line)
    assert read["message"] == read["said"] == hostile
    assert "ValueError" in read["traceback"]
    assert "ValueError" in text


def test_a_value_cannot_pass_for_another_field() -> None:
    text = a_record("request", {"path": "/x", "said": "x status=200", "n": None, "ok": True})
    assert text.split("\n")[0].endswith('request path=/x said="x status=200" n=null ok=true')


@pytest.fixture
def logging_as_it_was() -> Iterator[Callable[[str], None]]:
    root = logging.getLogger()
    names = ("", "pageglass", "retrieval", "ingest", "generate", "api", "evals", "__main__")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = root.handlers[:]
    root.handlers = []
    yield set_up_logging
    root.handlers = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_libraries_say_no_more_than_warnings(
    logging_as_it_was: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    logging_as_it_was("DEBUG")
    logging.getLogger("openai._base_client").debug("Request options: the whole prompt")
    logging.getLogger("openai._base_client").warning("something to know")
    logging.getLogger("api.routes").debug("ours")
    said = capsys.readouterr().err
    assert "whole prompt" not in said
    assert said.count("\n") == 2


def test_a_library_says_the_same_thing_five_times_a_minute() -> None:
    now = 0.0
    repeated = Repeated(clock=lambda: now)

    def written(name: str, text: str) -> str | None:
        record = logging.LogRecord(name, logging.ERROR, __file__, 1, text, (), None)
        return record.getMessage() if repeated.filter(record) else None

    assert [written("asyncio", "out of files") for _ in range(8)] == ["out of files"] * 5 + [
        None
    ] * 3
    assert written("asyncio", "something else") == "something else"
    assert [written("api.app", "ours") for _ in range(8)] == ["ours"] * 8
    now = 61.0
    assert written("asyncio", "out of files") == "out of files (3 more in the last minute)"
    assert written("asyncio", "out of files") == "out of files"
