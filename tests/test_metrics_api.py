"""What Prometheus reads, over a real socket, and what docs/grafana-dashboard.json asks of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.services import Services
from pageglass.settings import load_settings
from tests.openai_server import OpenAIServer, openai_server
from tests.served import ROOT, served
from tests.test_app import assert_problem, serving
from tests.tiny import pdf

PAGES = (
    "The ferry leaves the northern pier at six, unless fog closes the harbour first.",
    "Tickets cost twelve euros for adults and seven euros for children under fourteen.",
)
QUESTION = "When does the ferry leave the northern pier?"

WITHOUT_THE_EXTRA = """
import sys

def without_the_extra(finder):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            # FastAPI itself brings opentelemetry's api along.
            if not name.startswith(("prometheus_client", "opentelemetry.sdk", "opentelemetry.exp")):
                return finder.find_spec(name, path, target)
    return Finder()

sys.meta_path[:] = map(without_the_extra, sys.meta_path)
"""
"""Makes a process one in which the extra is not installed."""

Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with openai_server() as model:
        yield model


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, model: OpenAIServer) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("metrics")
    urls = {"answer": {"url": model.url}, "rerank": {"url": model.url}}
    settings = load_settings({"data_dir": folder / "data", **urls})
    with Services(settings, command="test") as services:
        (report,) = services.ingest([pdf(folder / "ferry.pdf", PAGES)], collection="my-secret")
        assert report.outcome == "indexed", report.reason
        yield services


@pytest.fixture
def http(services: Services) -> Iterator[httpx.Client]:
    """A server that has counted nothing yet."""
    with (
        serving(services) as address,
        httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
    ):
        yield client


def scraped(http: httpx.Client) -> dict[Sample, float]:
    """Every sample by its name and labels."""
    response = http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: dict[Sample, float], name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels, and perhaps others."""
    return sum(v for (n, has), v in samples.items() if n == name and labels.items() <= has)


def counted(http: httpx.Client, requests: int) -> dict[Sample, float]:
    """The samples once this many requests are in; a request is counted after its last byte."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        samples = scraped(http)
        others = value(samples, "pageglass_request_seconds_count") - value(
            samples, "pageglass_request_seconds_count", route="/metrics"
        )
        if others >= requests:
            assert others == requests
            return samples
    raise AssertionError("the requests were not counted")


def test_what_is_counted_adds_up(http: httpx.Client, model: OpenAIServer) -> None:
    answers = [http.post("/ask", json={"question": QUESTION}).json() for _ in range(2)]
    declined = http.post("/ask", json={"question": "Who composed the hymn of Moravia?"}).json()
    http.post("/search", json={"question": QUESTION})
    http.post("/search", json={"question": ""})
    samples = counted(http, 5)

    def requests(**labels: str) -> float:
        return value(samples, "pageglass_request_seconds_count", **labels)

    assert requests(method="POST", route="/ask", status="2xx") == 3
    assert requests(method="POST", route="/search", status="2xx") == 1
    assert requests(method="POST", route="/search", status="4xx") == 1
    statuses = [answer["answer_status"] for answer in (*answers, declined)]
    assert statuses == ["answered", "answered", "not_found"]
    assert value(samples, "pageglass_answers_total", status="answered") == 2
    assert value(samples, "pageglass_answers_total", status="not_found") == 1
    assert value(samples, "pageglass_answers_total", status="unverified") == 0

    for stage in ("encode", "retrieve", "fuse", "rerank"):
        assert value(samples, "pageglass_stage_seconds_count", stage=stage) == 4
    for stage in ("load", "generate", "check"):
        spent = sum(answer["timings_ms"][stage] for answer in (*answers, declined)) / 1000
        assert value(samples, "pageglass_stage_seconds_count", stage=stage) == 3
        assert value(samples, "pageglass_stage_seconds_sum", stage=stage) == pytest.approx(spent)
    usage = [use for answer in (*answers, declined) for use in answer["usage"]]
    answering = [use for use in usage if use["purpose"] == "answer"]
    labels = {"purpose": "answer", "model": model.model}
    for direction, tokens in (("in", "input_tokens"), ("out", "output_tokens")):
        paid = sum(use[tokens] for use in answering)
        assert value(samples, "pageglass_tokens_total", direction=direction, **labels) == paid > 0
    shown = sum(len(use["images"]) for use in answering)
    assert value(samples, "pageglass_images_total", **labels) == shown > 0
    assert value(samples, "pageglass_model_seconds_count", **labels) == len(answering)


def test_what_there_is_is_told_without_names(http: httpx.Client) -> None:
    http.get("/documents?collection=my-secret")
    text = http.get("/metrics").text
    samples = scraped(http)
    assert value(samples, "pageglass_documents", state="indexed") == 1
    assert value(samples, "pageglass_jobs", state="done") == 1
    assert value(samples, "pageglass_pages") == 2
    assert value(samples, "pageglass_ingested_pages_total") == 2
    assert value(samples, "pageglass_questions_in_work") == 0
    assert value(samples, "pageglass_questions_waiting") == 0
    assert value(samples, "pageglass_outage") == 0
    assert value(samples, "pageglass_info", profile="lite") == 1
    assert value(samples, "process_resident_memory_bytes") > 1e7
    assert "my-secret" not in text
    assert "ferry" not in text


def test_nobody_can_make_labels_up(http: httpx.Client) -> None:
    series = len(scraped(http))
    for number in range(30):
        http.get(f"/made/up/{number}")
        http.get(f"/documents/{number}")
        http.request(f"BREW{number}", "/ask")
        http.get(f"/readyz?x={number}", headers={"X-Request-Id": f"made-up-{number}"})
    samples = counted(http, 120)
    assert value(samples, "pageglass_request_seconds_count", route="unmatched") >= 30
    document = "/documents/{document_id}"
    assert value(samples, "pageglass_request_seconds_count", route=document, status="4xx") == 30
    assert value(samples, "pageglass_request_seconds_count", method="other") == 30
    # One histogram for each of four kinds of request, and the scrapes' own.
    buckets = 14 + 1 + 3
    assert len(samples) - series <= 5 * buckets


def test_model_servers_cannot_make_labels_up(http: httpx.Client, model: OpenAIServer) -> None:
    kept, model.fingerprint = model.fingerprint, None
    try:
        for number in range(3):
            model.fingerprint = f"fp_{number}"
            http.post("/ask", json={"question": QUESTION})
    finally:
        model.fingerprint = kept
    samples = counted(http, 3)
    models = {dict(labels)["model"] for name, labels in samples if name == "pageglass_tokens_total"}
    assert models == {model.model}


def test_the_dashboard_asks_for_what_there_is(http: httpx.Client) -> None:
    http.post("/ask", json={"question": QUESTION})
    there = {name for name, _ in counted(http, 1)}
    dashboard: dict[str, Any] = json.loads(
        (ROOT / "docs" / "grafana-dashboard.json").read_text("utf-8")
    )
    assert {"title", "uid", "schemaVersion", "templating", "time"} <= dashboard.keys()
    panels = dashboard["panels"]
    assert len(panels) >= 8
    assert len({panel["id"] for panel in panels}) == len(panels)
    labels = {label for _, has in counted(http, 1) for label, _ in has} | {"le"}
    for panel in panels:
        assert panel["title"] and panel["targets"]
        for target in panel["targets"]:
            named = set(re.findall(r"\b(?:pageglass|process)_\w+", target["expr"]))
            assert named and named <= there, (panel["title"], named - there)
            for by in re.findall(r"by \(([^)]*)\)", target["expr"]):
                assert {name.strip() for name in by.split(",")} <= labels
            assert target["expr"].count("(") == target["expr"].count(")")


def test_the_documented_metrics_are_those_there_are(http: httpx.Client) -> None:
    http.post("/ask", json={"question": QUESTION})
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name, _ in counted(http, 1)
        if name.startswith("pageglass_") and not name.endswith("_created")
    }
    documented = (ROOT / "docs" / "observability.md").read_text("utf-8")
    assert ours == set(re.findall(r"^\| `(pageglass_\w+)`", documented, re.MULTILINE))


def test_without_the_extra_the_server_works_and_says_what_to_install(tmp_path: Path) -> None:
    with served(tmp_path, before=WITHOUT_THE_EXTRA, log_level="INFO") as server:
        server.indexed(pdf(tmp_path / "ferry.pdf", PAGES))
        answer = server.http.post("/ask", json={"question": QUESTION}).json()
        assert answer["answer_status"] == "answered"
        problem = assert_problem(server.http.get("/metrics"), 501, "extra-missing")
        assert "pip install -e '.[observability]'" in problem["detail"]
        server.stop()
        assert "Traceback" not in "\n".join(server.lines())
        assert sum("path=/ask" in line for line in server.lines()) == 1
