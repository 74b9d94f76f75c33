"""Rows leave as spans and metrics: to a real OTLP/HTTP receiver, each once, whoever is away or killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otlp_collector import Collector, named
from trimtab import settings as trimtab_settings
from trimtab.monitor import telemetry
from trimtab.monitor.telemetry import Export, destinations
from trimtab.records.record import utc_now
from trimtab.records.registry import Decoding, ModelVersion, Prompt, VersionSpec, Weights
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, Journal
from trimtab.store.lake import Lake
from trimtab.trace_context import span_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.close()


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    return trimtab_settings.load(tmp_path)


def register(place: Settings, base: Weights) -> None:
    """Version 3 of desk, as the registry knows it."""
    spec = VersionSpec(model="desk", base=base, prompt=Prompt(system=""), decoding=Decoding())
    version = ModelVersion(spec=spec, version=3, run_id="r", config_hash="c", created_at=utc_now())
    Control(place).put("version", "desk/3", version)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (Weights(name="openai:gpt-5-mini", sha256="", format="hosted"), "openai"),
        (Weights(name="databricks:endpoint", sha256="", format="hosted"), "databricks"),
        (Weights(name="smollm2-135m-instruct", sha256="0"), "llama_cpp"),
        (Weights(name="pyfunc:models:/iris/3", sha256="0", format="pyfunc"), "mlflow"),
        (Weights(name="echo", sha256="", format="echo"), "echo"),
    ],
)
def test_a_provider_is_called_as_the_conventions_call_it(base: Weights, name: str) -> None:
    assert telemetry.provider_name(base) == name


def ask(place: Settings, *numbers: int, **more: Any) -> None:
    """Rows in the lake, as the gateway and the drain leave them."""
    journal = Journal(place.journal)
    for number in numbers:
        row = Closed(
            request_id=ident(number), client_request_id=None, caller="c", requester="k", model="desk", version=3,
            route="champion", path="/predict", at_ms=1_790_000_000_000 + number, request=b"Ferdinand",
            status_code=200, duration_ms=250, ttfb_ms=50, input_tokens=7, output_tokens=5, outcome="ok",
            input_text="Ferdinand", output_text="Ferdinand", response=b"Ferdinand",
        )  # fmt: skip
        journal.closed(msgspec.structs.replace(row, **more))
    journal.close()
    drain(place)


def export_of(place: Settings) -> Export:
    (to,) = destinations(place)
    return Export(place, to)


def ident(number: int) -> str:
    return f"{number + 1:032x}"


def count(points: list[HistogramDataPoint]) -> int:
    return sum(point.count for point in points)


def test_a_row_is_a_span_with_the_names_of_the_conventions_and_none_of_its_words(
    place: Settings, collector: Collector
) -> None:
    export = export_of(place)
    register(place, Weights(name="azure:triage", sha256="", format="hosted"))
    ask(place, 0, traceparent=f"00-{TRACE}-{PARENT}-01")
    ask(place, 1, outcome="error", status_code=502, ttfb_ms=None, output_tokens=None)
    assert Lake(place).sample(0, 2, ["trace_id"])["trace_id"].to_list() == [TRACE, None]
    export.send()
    one, failed = collector.spans()
    assert (one.trace_id.hex(), one.parent_span_id.hex(), one.span_id.hex()) == (TRACE, PARENT, span_of(ident(0)))
    assert (failed.trace_id.hex(), failed.parent_span_id.hex()) == (ident(1), "")
    assert (one.name, one.kind) == ("chat desk", Span.SPAN_KIND_SERVER)
    assert one.end_time_unix_nano - one.start_time_unix_nano == 250_000_000
    assert one.start_time_unix_nano == 1_790_000_000_000 * 1_000_000
    assert named(one.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": "desk",
        "gen_ai.response.model": "desk/3",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.time_to_first_chunk": 0.05,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "trimtab.request_id": ident(0),
        "trimtab.route": "champion",
        "trimtab.outcome": "ok",
    }
    assert named(failed.attributes)["error.type"] == "502"
    assert (one.status.code, failed.status.code) == (0, 2)
    points = collector.points()
    assert points.keys() == telemetry.METRICS.keys()
    assert count(points["gen_ai.server.request.duration"]) == 2
    (first,) = points["gen_ai.server.time_to_first_token"]
    assert (first.count, first.sum) == (1, 0.05)
    (each,) = points["gen_ai.server.time_per_output_token"]
    assert (each.count, each.sum) == (1, 0.05)
    usage = {named(p.attributes)["gen_ai.token.type"]: 0.0 for p in points["gen_ai.client.token.usage"]}
    for point in points["gen_ai.client.token.usage"]:
        usage[named(point.attributes)["gen_ai.token.type"]] += point.sum
    assert usage == {"input": 14, "output": 5}
    assert not any(b"Ferdinand" in body for _, body in collector.requests)


def test_each_row_is_sent_once_however_often_the_process_starts_anew(
    place: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "BATCH_ROWS", 4)
    ask(place, 0)  # before there was an export: not sent
    export_of(place).send()
    for start in (1, 12, 13):
        ask(place, *range(start, min(start + 11, 20)))
        export_of(place).send()
    export_of(place).send()
    assert [span.span_id.hex() for span in collector.spans()] == [span_of(ident(n)) for n in sent(1, 12, 13)]
    assert count(collector.points()["gen_ai.server.request.duration"]) == len(sent(1, 12, 13))


def sent(*starts: int) -> list[int]:
    return [n for start in starts for n in range(start, min(start + 11, 20))]


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("mood", ["broken", "deaf"])
def test_a_collector_that_is_away_gets_everything_when_it_is_back(
    place: Settings, collector: Collector, mood: str, anew: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """`deaf` takes what comes and does not say so: what it gets twice is the same twice."""
    export = export_of(place)
    ask(place, 0)
    export.send()
    collector.mood = mood
    for n in range(1, 4):
        ask(place, n)
        export.send()
    assert len([record for record in caplog.records if "does not take" in record.message]) == 2  # spans, metrics
    collector.mood = "well"
    (export_of(place) if anew else export).send()
    ids = {span.span_id.hex() for span in collector.spans()}
    assert ids == {span_of(ident(n)) for n in range(4)}
    by_id = {(span.trace_id, span.span_id): span for span in collector.spans()}
    assert all(by_id[(span.trace_id, span.span_id)] == span for span in collector.spans())
    assert count(collector.points()["gen_ai.server.request.duration"]) == 4
    if mood == "broken":
        assert len(collector.spans()) == 4


def test_a_caller_who_does_not_sample_gets_no_span_but_is_measured(place: Settings, collector: Collector) -> None:
    export = export_of(place)
    ask(place, 0, traceparent=f"00-{TRACE}-{PARENT}-00")
    export.send()
    assert collector.spans() == []
    assert count(collector.points()["gen_ai.server.request.duration"]) == 1


def test_only_what_was_asked_for_is_sent(
    place: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-desk")
    export = export_of(place)
    ask(place, 0)
    export.send()
    ((path, body),) = collector.requests
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert named(resource.resource.attributes)["service.name"] == "our-desk"
