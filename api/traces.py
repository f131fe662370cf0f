"""Spans sent to an OpenTelemetry collector (extra ``observability``). See pageglass.tracing."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from pageglass import __version__, tracing
from pageglass.tracing import Attribute, Kind

_EXPORT_SECONDS = 5.0
"""How long one sending may take: a collector that is away must not hold up a stop."""

_KINDS = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
}


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, name: str, value: Attribute) -> None:
        self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)


class OpenTelemetryTracer:
    """A pageglass.tracing.Tracer over OpenTelemetry's SDK."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("pageglass", __version__)

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Attribute], kind: Kind, began: float | None
    ) -> Generator[_Span]:
        """See Tracer. An error that ends the span is noted by its class alone: messages may quote
        what people asked."""
        here = trace.get_current_span().get_span_context()
        parent = None if here.is_valid else propagate.extract(tracing.carried())
        with self._tracer.start_as_current_span(
            name,
            parent,
            _KINDS[kind],
            dict(attributes),
            start_time=None if began is None else int(began * 1e9),
            record_exception=False,
            set_status_on_exception=False,
        ) as opened:
            try:
                yield _Span(opened)
            except BaseException as error:
                opened.set_attribute("error.type", type(error).__qualname__)
                opened.set_status(trace.StatusCode.ERROR)
                raise

    def headers(self) -> dict[str, str]:
        """See Tracer."""
        told: dict[str, str] = {}
        propagate.inject(told)
        return told


@contextmanager
def exporting(endpoint: str) -> Generator[None]:
    """Send this process's spans to the OTLP/HTTP ``endpoint`` meanwhile; the last on the way out.

    OpenTelemetry's own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER,
    OTEL_EXPORTER_OTLP_HEADERS ...) hold.
    """
    if urlsplit(endpoint).path in ("", "/"):
        endpoint = f"{endpoint.rstrip('/')}/v1/traces"
    ours = Resource({"service.name": "pageglass", "service.version": __version__})
    provider = TracerProvider(
        resource=Resource.create().merge(ours).merge(OTELResourceDetector().detect()),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint, timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracing.use(OpenTelemetryTracer(provider))
    try:
        yield
    finally:
        tracing.use(None)
        provider.shutdown()
