"""Spans, as a collector gets them from a real server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pageglass import __version__, tracing
from tests.openai_server import OpenAIServer, openai_server
from tests.served import ROOT, served
from tests.test_metrics_api import WITHOUT_THE_EXTRA
from tests.tiny import pdf

PAGES = (
    "The quokka ledger of Rottnest lists forty-one animals, counted by the warden in spring.",
    "The lighthouse on the cape was painted white again after the storms of last winter.",
)
QUESTION = "How many animals does the quokka ledger list?"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ("search.encode", "search.retrieve", "search.fuse", "search.rerank")
SERVER, CLIENT = 2, 3


@dataclass(frozen=True)
class Seen:
    """A span as it was exported; ids are hex, "" for no parent."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    began: int
    ended: int
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """An OTLP/HTTP collector on loopback."""

    url: str
    paths: list[str] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Seen] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        sent = ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            self.spans += [
                Seen(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == 2,
                    _values(span.attributes),
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]


def _values(attributes: Any) -> dict[str, Any]:
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value")
        for one in attributes
    }


@contextmanager
def collector() -> Generator[Collector]:
    collected = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            collected.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collected.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield collected
    finally:
        http.shutdown()
        http.server_close()


@dataclass(frozen=True)
class Watched:
    """All that a server did: the spans it sent, and the requests its model got."""

    collector: Collector
    model: OpenAIServer

    def of(self, trace: str) -> list[Seen]:
        return sorted((s for s in self.collector.spans if s.trace == trace), key=lambda s: s.began)

    def request(self, name: str, id: str | None = None) -> Seen:
        """The one request of this name, and of this id if given."""
        (found,) = [
            span
            for span in self.collector.spans
            if span.kind == SERVER
            and span.name == name
            and id in (None, span.attributes["pageglass.request_id"])
        ]
        return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A server that was asked a few things and stopped: by then it has sent everything."""
    folder = tmp_path_factory.mktemp("traces")
    with openai_server() as model, collector() as collected:
        urls = {"answer__url": model.url, "rerank__url": model.url}
        with served(folder, server__traces=collected.url, **urls) as server:
            document = server.indexed(pdf(folder / "warden.pdf", PAGES))
            told = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-Id": "joined"}
            server.http.post("/ask", json={"question": QUESTION}, headers=told)
            model.misbehave("failing", times=1)
            server.http.post("/ask", json={"question": QUESTION}, headers={"X-Request-Id": "own"})
            server.http.get("/nowhere/quokka?question=quokka")
            server.http.post("/search", json={"question": ""})
            server.http.get(f"/documents/{document}/pages/1")
            for path in ("/livez", "/readyz", "/metrics"):
                server.http.get(path)
            server.stop()
        yield Watched(collected, model)


def test_a_request_goes_on_with_its_callers_trace(watched: Watched) -> None:
    spans = watched.of(TRACE)
    request = spans[0]
    assert (request.name, request.kind, request.parent) == ("POST /ask", SERVER, CALLER)
    assert request.attributes["http.request.method"] == "POST"
    assert request.attributes["http.route"] == "/ask"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["url.path"] == "/ask"
    assert request.attributes["pageglass.request_id"] == "joined"
    own = watched.request("POST /ask", "own")
    assert own.parent == ""
    assert own.trace != TRACE


def test_every_step_hangs_where_it_belongs_though_others_threads_do_it(watched: Watched) -> None:
    spans = watched.of(TRACE)
    ids = {span.id: span for span in spans}
    tree = {(ids[s.parent].name if s.parent in ids else "", s.name) for s in spans}
    chat = f"chat {watched.model.model}"
    steps = {("POST /ask", name) for name in (*STAGES, "answer.load", "answer.generate")}
    retrievers = {f"search.retrieve {name}" for name in ("dense", "sparse", "tokens")}
    assert tree == {
        ("", "POST /ask"),
        *steps,
        *(("search.retrieve", name) for name in retrievers),
        ("search.rerank", chat),
        ("answer.generate", chat),
        ("answer.generate", "answer.check"),
    }
    for span in spans:
        assert span.began <= span.ended
        assert not span.failed
        if span.parent in ids:
            assert ids[span.parent].began <= span.began <= span.ended <= ids[span.parent].ended


def test_calls_of_models_are_told_by_their_usual_names_and_joined(watched: Watched) -> None:
    calls = [span for span in watched.of(TRACE) if span.kind == CLIENT]
    assert len(calls) == 3  # two pages to rerank, and the answer
    for call in calls:
        told = call.attributes
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.request.model"] == watched.model.model
        assert told["gen_ai.response.model"] == f"{watched.model.model}@fp_test"
        assert told["gen_ai.usage.input_tokens"] > 0
        assert told["gen_ai.usage.output_tokens"] > 0
        assert f"http://{told['server.address']}:{told['server.port']}/v1" == watched.model.url
    headers = [request.headers.get("traceparent", "") for request in watched.model.completions]
    assert {f"00-{TRACE}-{call.id}-01" for call in calls} == {h for h in headers if TRACE in h}


def test_a_try_that_fails_is_told_by_its_class_alone(watched: Watched) -> None:
    own = watched.request("POST /ask", "own")
    calls = [span for span in watched.of(own.trace) if span.kind == CLIENT]
    (failed,) = [call for call in calls if call.failed]
    assert len(calls) == 4
    assert failed.attributes["error.type"] == "InternalServerError"
    assert not own.failed


def test_a_document_that_was_indexed_is_a_trace_of_its_own(watched: Watched) -> None:
    (ingested,) = [span for span in watched.collector.spans if span.name == "ingest document"]
    assert ingested.parent == ""
    assert ingested.attributes["pageglass.pages"] == len(PAGES)
    assert ingested.attributes["pageglass.attempt"] == 1
    assert ingested.ended - ingested.began > 1e6
    assert not ingested.failed


def test_routes_name_spans_and_looking_makes_none(watched: Watched) -> None:
    page = watched.request("GET /documents/{document_id}/pages/{number}")
    assert page.attributes["http.route"] == "/documents/{document_id}/pages/{number}"
    unmatched = watched.request("GET")
    assert unmatched.attributes["http.response.status_code"] == 404
    names = {span.name for span in watched.collector.spans}
    assert not {f"GET {path}" for path in ("/livez", "/readyz", "/metrics")} & names


def test_no_text_of_people_or_documents_is_sent(watched: Watched) -> None:
    told = [watched.request("GET")]
    sent = str([span for span in watched.collector.spans if span not in told]).lower()
    for secret in ("quokka", "rottnest", "forty-one", "lighthouse", "warden"):
        assert secret not in sent
    assert "question" not in str(told[0].attributes)  # the path is sent, its query is not


def test_a_collector_learns_who_sends(watched: Watched) -> None:
    assert set(watched.collector.paths) == {"/v1/traces"}
    for resource in watched.collector.resources:
        assert resource["service.name"] == "pageglass"
        assert resource["service.version"] == __version__


def test_a_collector_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    with served(tmp_path, server__traces="http://127.0.0.1:9") as server:
        server.indexed(pdf(tmp_path / "warden.pdf", PAGES))
        answer = server.http.post("/ask", json={"question": QUESTION}).json()
        assert answer["answer_status"] == "answered"
        server.stop()
        assert server.process.returncode in (0, 130, -15)
        assert not [line for line in server.lines() if "quokka" in line]


def test_without_the_extra_a_server_that_should_trace_says_what_to_install(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-c", f"{WITHOUT_THE_EXTRA}\nfrom api.cli import main\nmain()"),
            *("--data-dir", str(tmp_path / "data"), "serve", "--port", "0"),
        ],
        cwd=ROOT,
        env={"PAGEGLASS_SERVER__TRACES": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode != 0
    assert "pip install -e '.[observability]'" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        f"00-{TRACE}-{CALLER}",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}-01\r\nx-evil: 1",
        f"00-{TRACE}-{CALLER}-01\n",
    ],
)
def test_what_is_no_traceparent_is_not_passed_on(wrong: str) -> None:
    with tracing.carrying(wrong, "a=1"):
        assert tracing.headers() == {}
        assert tracing.trace_id() is None
    with tracing.carrying(f"00-{TRACE}-{CALLER}-00", "a=1\r\nx: y"):
        assert tracing.headers() == {"traceparent": f"00-{TRACE}-{CALLER}-00"}
        assert tracing.trace_id() == TRACE
    assert tracing.headers() == {}


def test_without_a_tracer_nothing_is_imported() -> None:
    program = """
import sys
from api.serving import serve
from pageglass.tracing import span
with span("search.encode", {"n": 1}) as encoding:
    encoding.set("m", 2)
    encoding.rename("other")
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exp"))])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "[]\n", ran.stderr
