"""Azure Monitor as a destination of telemetry: Microsoft's exporter, told to speak to nobody but the named endpoint.

On its own the exporter reports statistics about itself, asks Microsoft for settings, and keeps what it could not send
on disk. All of that is off: the rows wait in the lake, and `monitor.telemetry` sends them again.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import TYPE_CHECKING, Any

from trimtab.errors import Fixable

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

QUIET = {
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
}
"""Variables by which the exporter leaves Microsoft's own endpoints alone."""


def exporters(connection_string: str) -> tuple[SpanExporter, MetricExporter]:
    """Exporters of spans and metrics. One try for each request: who calls them tries again.

    Raises Fixable when the package is missing or the connection string is none.
    """
    if not _installed():
        raise Fixable(
            "telemetry to Azure Monitor needs its exporter, not installed here", "pip install 'trimtab[azure]'"
        )
    os.environ |= QUIET
    from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter, AzureMonitorTraceExporter

    logging.getLogger("azure").setLevel(logging.CRITICAL)  # it would log each request
    options: dict[str, Any] = {"disable_offline_storage": True, "retry_total": 0}
    try:
        return (
            AzureMonitorTraceExporter(connection_string=connection_string, **options),
            AzureMonitorMetricExporter(connection_string=connection_string, **options),
        )
    except ValueError:  # its message quotes the string
        message = "APPLICATIONINSIGHTS_CONNECTION_STRING is no connection string"
        raise Fixable(message, "copy it from the Application Insights component, InstrumentationKey=…") from None


def _installed() -> bool:
    try:
        return importlib.util.find_spec("azure.monitor.opentelemetry.exporter") is not None
    except ModuleNotFoundError:
        return False
