"""OpenTelemetry: rows leave as spans and metrics. The one module that knows the `gen_ai.*` names.

The boundary: reads closed rows, sends; nothing on the way of a request waits for it. It runs only where the environment
names a destination: an OTLP/HTTP collector (OTEL_EXPORTER_OTLP_ENDPOINT), Azure Monitor
(APPLICATIONINSIGHTS_CONNECTION_STRING), or both; and begins with the rows that come after that was first the case.

Each row is sent once: how far we are is on disk. When the collector is away the rows wait in the lake. When its answer
was lost they are sent again as exactly the same: a span's ids follow from the row, and metrics are cumulative, their
totals kept on disk beside the position. Texts of questions and answers are never exported.

Names: https://github.com/open-telemetry/semantic-conventions-genai (status: development), as of September 2026.
"""

from __future__ import annotations

import json
import logging
import os
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from trimtab import trace_context
from trimtab.records.registry import ModelVersion, Weights
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import Lake

log = logging.getLogger(__name__)

BATCH_ROWS = 500
"""Rows of one request to the collector, at most."""
_NAMES = {"azure": "azure.ai.openai", "pyfunc": "mlflow"}
"""What the conventions call a provider, by what a version's base begins with; other names stand as they are."""
_OPERATIONS = {"/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}
_COLUMNS = [
    *("row", "databricks_request_id", "request_time", "execution_duration_ms", "time_to_first_byte_ms"),
    *("input_tokens", "output_tokens", "status_code", "outcome", "route", "model_name", "model_version"),
    *("trace_id", "request_tags", "cost_nano_usd"),
]
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(14))
METRICS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "gen_ai.server.request.duration": ("s", "From the question received to its row closed.", _SECONDS),
    "gen_ai.server.time_to_first_token": ("s", "To the first byte of an answer.", _FIRST_TOKEN),
    "gen_ai.server.time_per_output_token": ("s", "Of a streamed answer, behind its first token.", _PER_TOKEN),
    "gen_ai.client.token.usage": ("{token}", "Input and output tokens used.", _TOKENS),
}
"""Every metric: unit, description, bounds of its buckets (those that the conventions advise)."""

Row = dict[str, Any]


@dataclass
class _Totals:
    """One series of a histogram since the export began."""

    counts: list[int]
    sum: float = 0.0
    min: float = float("inf")
    max: float = float("-inf")

    def add(self, bounds: tuple[float, ...], value: float) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.sum, self.min, self.max = self.sum + value, min(self.min, value), max(self.max, value)


@dataclass
class _Position:
    """What was sent: rows before `spans` as spans, rows before `metrics` in the totals. `since` is epoch ns."""

    spans: int
    metrics: int
    since: int
    totals: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Destination:
    """Who is told, and the file that says how far. `delta`: metrics since the last ones, not since the beginning."""

    name: str
    file: Path
    spans: SpanExporter | None
    metrics: MetricExporter | None
    delta: bool = False


def destinations(settings: Settings) -> list[Destination]:
    """Those that the environment names. Raises Fixable when one of them cannot be spoken to."""
    found: list[Destination] = []
    if trace_context.over_otlp("TRACES") or trace_context.over_otlp("METRICS"):
        spans = OTLPSpanExporter() if trace_context.over_otlp("TRACES") else None
        metrics = OTLPMetricExporter() if trace_context.over_otlp("METRICS") else None
        found.append(Destination("the OTLP collector", settings.telemetry_file, spans, metrics))
    if trace_context.to_azure_monitor("TRACES") or trace_context.to_azure_monitor("METRICS"):
        from trimtab.databricks import azure_monitor

        spans, metrics = azure_monitor.exporters(os.environ[trace_context.AZURE_MONITOR])
        spans = spans if trace_context.to_azure_monitor("TRACES") else None
        metrics = metrics if trace_context.to_azure_monitor("METRICS") else None
        file = settings.telemetry_file.with_stem("telemetry-azure-monitor")
        found.append(Destination("Azure Monitor", file, spans, metrics, delta=True))
    return found


class Export:
    """The export of one project to one destination. Call `send` from one thread; `close` may come from another."""

    def __init__(self, settings: Settings, to: Destination) -> None:
        self._lake, self._control, self._to, self._file = Lake(settings), Control(settings), to, to.file
        self._providers: dict[str, str] = {}
        self._position = self._read()
        self._resource = _resource()
        self._spans, self._metrics = to.spans, to.metrics
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler  # what OTEL_TRACES_SAMPLER says
        self._scope = InstrumentationScope("trimtab", version("trimtab"))
        self._away: set[str] = set()
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would repeat itself every few seconds

    def send(self) -> None:
        """Send every row that was not yet. A signal whose collector is away is tried again at the next call."""
        position, end = self._position, self._lake.count()
        position.spans = end if self._spans is None else position.spans if position.spans <= end else 0
        position.metrics = end if self._metrics is None else position.metrics if position.metrics <= end else 0
        for first, last in _batches(self._position.spans, end):
            if not self._send_spans(first, last):
                break
        for first, last in _batches(self._position.metrics, end):
            if not self._send_metrics(first, last):
                break

    def _rows(self, first: int, last: int) -> list[Row]:
        """Rows, each with the name of the provider that answered; a version nobody registered has none of its own."""
        rows = self._lake.sample(first, last, _COLUMNS).to_dicts()
        for row in rows:
            key = f"{row['model_name']}/{row['model_version']}"
            if key not in self._providers:
                version = self._control.get("version", key, ModelVersion)
                self._providers[key] = provider_name(version.spec.base) if version else "trimtab"
            row["provider"] = self._providers[key]
        return rows

    def close(self) -> None:
        """Give up what is being sent; it is sent at the next start."""
        for exporter in (self._spans, self._metrics):
            if exporter is not None:
                exporter.shutdown()

    def _send_spans(self, first: int, last: int) -> bool:
        assert self._spans is not None  # noqa: S101 (there are no batches without it)
        rows = self._rows(first, last)
        spans = [span(row, self._resource, self._scope) for row in rows if sampled(row, self._sampler)]
        if spans and not self._said("spans", self._spans.export(spans) is SpanExportResult.SUCCESS, first):
            return False
        self._position.spans = last
        self._write()
        return True

    def _send_metrics(self, first: int, last: int) -> bool:
        assert self._metrics is not None  # noqa: S101 (there are no batches without it)
        rows = self._rows(first, last)
        totals, now = folded({} if self._to.delta else self._position.totals, rows), time.time_ns()
        data = _metrics_data(totals, self._position.since, now, self._resource, self._scope)
        if not self._said("metrics", self._metrics.export(data) is MetricExportResult.SUCCESS, first):
            return False
        self._position.metrics, self._position.totals = last, {} if self._to.delta else totals
        if self._to.delta:
            self._position.since = now
        self._write()
        return True

    def _said(self, signal: str, accepted: bool, row: int) -> bool:
        """Log when a collector goes away and when it is back, not each time it is asked."""
        if not accepted and signal not in self._away:
            self._away.add(signal)
            log.warning("%s does not take %s: rows from %d on wait in the lake", self._to.name, signal, row)
        elif accepted and signal in self._away:
            self._away.discard(signal)
            log.info("%s takes %s again, from row %d", self._to.name, signal, row)
        return accepted

    def _read(self) -> _Position:
        """The position on disk; at the very first start, the end of the lake."""
        try:
            return _Position(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            end = self._lake.count()
            self._position = _Position(end, end, time.time_ns())
            self._write()
            return self._position

    def _write(self) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w") as file:
            json.dump(vars(self._position), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._file)


def provider_name(base: Weights) -> str:
    """`gen_ai.provider.name` of a version's base: openai, azure.ai.openai, llama_cpp, mlflow, echo, or as its section
    of trimtab.yaml is called."""
    if base.format == "gguf":
        return "llama_cpp"
    name = base.name.partition(":")[0]
    return _NAMES.get(name, name)


def span(row: Row, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """A row as a span: the caller's child, or a trace of its own with the request's id."""
    parent, model = _parent(row), row["model_name"]
    trace_id = parent.trace_id if parent else int(row["databricks_request_id"], 16)
    own = int(trace_context.span_of(row["databricks_request_id"]), 16)
    failed = row["status_code"] >= 500
    return ReadableSpan(
        name=f"{_operation(row)} {model}",
        context=SpanContext(trace_id, own, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)),
        parent=parent,
        kind=SpanKind.SERVER,
        resource=resource,
        instrumentation_scope=scope,
        attributes=_attributes(row),
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
        start_time=_begins(row),
        end_time=_ends(row),
    )


def sampled(row: Row, sampler: Sampler) -> bool:
    """Whether a row's span is wanted, by the sampler and what the caller decided."""
    parent = _parent(row)
    context = trace.set_span_in_context(NonRecordingSpan(parent)) if parent else None
    trace_id = parent.trace_id if parent else int(row["databricks_request_id"], 16)
    return sampler.should_sample(context, trace_id, "").decision is Decision.RECORD_AND_SAMPLE


def folded(totals: dict[str, dict[str, Any]], rows: list[Row]) -> dict[str, dict[str, Any]]:
    """The totals with these rows added; what was given is left as it was."""
    series = {key: _Totals(**{**value, "counts": [*value["counts"]]}) for key, value in totals.items()}
    for row in rows:
        for name, attributes, value in _measured(row):
            bounds, key = METRICS[name][2], json.dumps([name, attributes], sort_keys=True)
            found = series.get(key)
            if found is None:
                found = series[key] = _Totals([0] * (len(bounds) + 1))
            found.add(bounds, value)
    return {key: vars(one) for key, one in series.items()}


def _attributes(row: Row) -> dict[str, Any]:
    first, tags = row["time_to_first_byte_ms"], _tags(row)
    attributes = {
        **_identity(row),
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        "gen_ai.response.time_to_first_chunk": None if first is None else first / 1000,
        "http.request.method": "POST",
        "url.path": tags.get("path"),
        "http.response.status_code": row["status_code"],
        "trimtab.request_id": row["databricks_request_id"],
        "trimtab.route": row["route"],
        "trimtab.outcome": row["outcome"],
        "trimtab.cost_usd": None if row["cost_nano_usd"] is None else row["cost_nano_usd"] / 1e9,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _identity(row: Row) -> dict[str, Any]:
    """What spans and metrics have in common; few values, whatever callers send."""
    identity = {
        "gen_ai.operation.name": _operation(row),
        "gen_ai.provider.name": row["provider"],
        "gen_ai.request.model": row["model_name"],
        "gen_ai.response.model": f"{row['model_name']}/{row['model_version']}",
    }
    if row["outcome"] == "ok":
        return identity
    return identity | {"error.type": str(row["status_code"]) if row["outcome"] == "error" else row["outcome"]}


def _measured(row: Row) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Every measurement that a row holds: metric, attributes, value."""
    identity, first, whole = _identity(row), row["time_to_first_byte_ms"], row["execution_duration_ms"]
    yield "gen_ai.server.request.duration", identity, whole / 1000
    if first is not None and row["outcome"] == "ok":
        yield "gen_ai.server.time_to_first_token", identity, first / 1000
        if first < whole and (row["output_tokens"] or 0) > 1:
            per_token = (whole - first) / 1000 / (row["output_tokens"] - 1)
            yield "gen_ai.server.time_per_output_token", identity, per_token
    for kind in ("input", "output"):
        if row[f"{kind}_tokens"] is not None:
            yield "gen_ai.client.token.usage", identity | {"gen_ai.token.type": kind}, row[f"{kind}_tokens"]


def _metrics_data(
    totals: dict[str, dict[str, Any]], since: int, now: int, resource: Resource, scope: InstrumentationScope
) -> MetricsData:
    points: dict[str, list[HistogramDataPoint]] = {name: [] for name in METRICS}
    for key, one in totals.items():
        name, attributes = json.loads(key)
        points[name].append(
            HistogramDataPoint(
                attributes=attributes,
                start_time_unix_nano=since,
                time_unix_nano=now,
                count=sum(one["counts"]),
                sum=one["sum"],
                bucket_counts=one["counts"],
                explicit_bounds=METRICS[name][2],
                min=one["min"],
                max=one["max"],
            )
        )
    metrics = [
        Metric(name, METRICS[name][1], METRICS[name][0], Histogram(found, AggregationTemporality.CUMULATIVE))
        for name, found in points.items()
        if found
    ]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], "")])


def _operation(row: Row) -> str:
    return _OPERATIONS.get(_tags(row).get("path", ""), "chat")


def _parent(row: Row) -> SpanContext | None:
    """The caller's span, from its traceparent."""
    given = _tags(row).get("traceparent")
    if given is None:
        return None
    trace_id, parent, flags = int(given[3:35], 16), int(given[36:52], 16), int(given[53:55], 16)
    return SpanContext(trace_id, parent, is_remote=True, trace_flags=TraceFlags(flags))


def _tags(row: Row) -> dict[str, str]:
    return row["request_tags"] or {}


def _begins(row: Row) -> int:
    """Epoch ns."""
    return round(row["request_time"].timestamp() * 1000) * 1_000_000


def _ends(row: Row) -> int:
    return _begins(row) + row["execution_duration_ms"] * 1_000_000


def _batches(first: int, end: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each small enough for one request."""
    return pairwise([*range(first, end, BATCH_ROWS), end])


def _resource() -> Resource:
    """Who we are: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, else trimtab and its version."""
    found = Resource.create()
    if not str(found.attributes["service.name"]).startswith("unknown_service"):
        return found
    return found.merge(Resource({"service.name": "trimtab", "service.version": version("trimtab")}))
