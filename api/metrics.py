"""Counts and durations for Prometheus (extra ``observability``).

Everything is counted from the facts that make up a request's line in the log, so the two agree;
what the data folder holds is read when somebody asks. No label names a document, a collection or
anything else that a client could make up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from api.facts import Facts
from api.services import Services
from pageglass import __version__

UNMATCHED = "unmatched"
"""The route of requests that no route took: unknown paths, and what was refused before."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_MOST_MODELS = 20
"""Names of models told apart; model servers name themselves, and a strange one might never stop."""

Questions = Callable[[], tuple[int, int, int]]
"""How many questions are in work, how many wait for their turn, and of how many callers."""


class Metrics:
    """The metrics of one server. Thread-safe."""

    content_type = CONTENT_TYPE_PLAIN_1_0_0

    def __init__(self, services: Services, questions: Questions) -> None:
        self._services = services
        self._questions = questions
        self._models: set[str] = set()
        self._registry = registry = CollectorRegistry()
        self._requests = Histogram(
            "pageglass_request_seconds",
            "Time from a request to its last byte, by route template and class of status.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "pageglass_stage_seconds",
            "Time that a stage of a search or an answer took.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._model_seconds = Histogram(
            "pageglass_model_seconds",
            "Time that one use of a vision-language model took.",
            ("purpose", "model"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "pageglass_tokens",
            "Tokens by the models' own count.",
            ("purpose", "model", "direction"),
            registry=registry,
        )
        self._images = Counter(
            "pageglass_images",
            "Images shown to models.",
            ("purpose", "model"),
            registry=registry,
        )
        self._answers = Counter(
            "pageglass_answers", "Answers by their status.", ("status",), registry=registry
        )
        for status in ("answered", "unverified", "not_found"):
            self._answers.labels(status)
        Info("pageglass", "What runs.", registry=registry).info(
            {"version": __version__, "profile": services.settings.profile}
        )
        ProcessCollector(registry=registry)
        registry.register(self)

    def count(self, facts: Facts) -> None:
        """Add a request that is over."""
        method = facts.method if facts.method in _METHODS else "other"
        # 0: the client left before there was a status.
        status = f"{facts.status // 100}xx" if facts.status else "none"
        self._requests.labels(method, facts.route or UNMATCHED, status).observe(facts.seconds)
        for stage, milliseconds in facts.timings_ms.items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        if facts.answer_status is not None:
            self._answers.labels(facts.answer_status).inc()
        for used in facts.usage:
            model = self._model(used.model)
            self._model_seconds.labels(used.purpose, model).observe(used.seconds)
            self._images.labels(used.purpose, model).inc(len(used.images))
            for direction, tokens in (("in", used.input_tokens), ("out", used.output_tokens)):
                self._tokens.labels(used.purpose, model, direction).inc(tokens or 0)

    def text(self) -> bytes:
        """All of them in Prometheus' text format. Reads the catalog: for a worker thread."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What is read when somebody asks (prometheus_client's Collector)."""
        in_work, waiting, callers = self._questions()
        yield GaugeMetricFamily(
            "pageglass_questions_in_work", "Questions that are worked on.", in_work
        )
        yield GaugeMetricFamily(
            "pageglass_questions_waiting", "Questions that wait for their turn.", waiting
        )
        yield GaugeMetricFamily(
            "pageglass_callers_waiting", "Callers who have a question waiting.", callers
        )
        documents, pages = self._services.catalog.counts()
        yield _by_state("pageglass_documents", "Documents by state.", documents)
        yield _by_state("pageglass_jobs", "Jobs by state.", self._services.job_counts())
        yield GaugeMetricFamily(
            "pageglass_collections_waiting",
            "Collections with a job that waits.",
            self._services.jobs.collections_waiting(),
        )
        yield GaugeMetricFamily("pageglass_pages", "Pages that are kept.", sum(pages.values()))
        yield CounterMetricFamily(
            "pageglass_ingested_pages",
            "Pages read and encoded since the server began.",
            self._services.writer.pages_stored,
        )
        yield GaugeMetricFamily(
            "pageglass_outage",
            "1 while nothing can be stored.",
            self._services.writer.outage is not None,
        )

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: registering must not read the catalog."""
        yield from ()

    def _model(self, version: str) -> str:
        """The model's name without its version, which may change from one reply to the next."""
        name = version.partition("@")[0]
        if name not in self._models and len(self._models) >= _MOST_MODELS:
            return "other"
        self._models.add(name)
        return name


def _by_state(name: str, description: str, counts: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, description, labels=("state",))
    for state, count in counts.items():
        family.add_metric((state,), count)
    return family
