"""A collector on loopback: OTLP over HTTP, decoded by OpenTelemetry's own protobuf classes."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """An OTLP/HTTP receiver that can be told to fail, or to take what comes and lose its answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.mood = "well"
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
                assert self.headers["content-type"] == "application/x-protobuf"
                if collector.mood != "broken":
                    collector.requests.append((self.path, body))
                self.send_response(200 if collector.mood == "well" else 400)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.thread = Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = "http://{}:{}".format(*self.server.server_address[:2])

    def spans(self) -> list[Span]:
        seen = [ExportTraceServiceRequest.FromString(body) for path, body in self.requests if path == "/v1/traces"]
        return [span for one in seen for r in one.resource_spans for scope in r.scope_spans for span in scope.spans]

    def points(self) -> dict[str, list[HistogramDataPoint]]:
        """The points of the latest request of metrics, by name: they are cumulative."""
        body = [body for path, body in self.requests if path == "/v1/metrics"][-1]
        (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
        metrics = [metric for scope in resource.scope_metrics for metric in scope.metrics]
        assert all(m.histogram.aggregation_temporality == 2 for m in metrics)  # cumulative
        return {metric.name: list(metric.histogram.data_points) for metric in metrics}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def named(attributes: Any) -> dict[str, Any]:
    """Attributes as a dict."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
