"""`/metrics`: the numbers of all workers of the port, in Prometheus' text format 0.0.4.

The boundary: reads what `meter` writes; counts nothing. Counters and histograms are the sum over all workers, dead ones
included, so that no series ever goes backwards; gauges are of the living. A worker's memory and CPU come from /proc.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from trimtab.gateway.meter import CELLS, FIXED, PID, Meter, files, read_names

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_HELP = {
    "trimtab_http_requests_total": "HTTP requests answered, by path and status; 0: the client was gone.",
    "trimtab_requests_total": "Questions with a row, by the row's path, status, version, route and outcome.",
    "trimtab_request_duration_seconds": "From the question received to its row closed.",
    "trimtab_time_to_first_token_seconds": "From the question received to the first byte of its streamed answer.",
    "trimtab_overhead_seconds": "What the gateway added to the engine's time, up to the first byte of the answer.",
    "trimtab_input_tokens_total": "Tokens of questions, as the engine counted them.",
    "trimtab_output_tokens_total": "Tokens of answers, as the engine counted them.",
    "trimtab_engine_attempts_total": "Attempts to get a question answered by an engine.",
    "trimtab_guard_seconds": "One guard's look at one text.",
    "trimtab_guard_events_total": "Texts in which a guard found something, or failed, by what it did.",
    "trimtab_requests_in_flight": "HTTP requests being answered now.",
    "trimtab_connections_open": "Connections of clients now.",
    "trimtab_journal_bytes_total": "Bytes written to the journal.",
    "trimtab_journal_errors_total": "Rows that the journal did not take.",
    "trimtab_fast_path_requests_total": "Of the questions, those that were answered on the fast path.",
    "trimtab_worker_up": "1 for a gateway process that runs, 0 for one that ended.",
    "trimtab_worker_resident_memory_bytes": "Resident memory of a gateway process.",
    "trimtab_worker_cpu_seconds_total": "User and system CPU time of a gateway process.",
}
_GAUGES = ("trimtab_requests_in_flight", "trimtab_connections_open")


def exposition(meter: Meter) -> bytes:
    """All numbers now. A worker that cannot be read is left out."""
    total: dict[str, float] = {}
    own: dict[str, list[str]] = {}
    for worker, numbers in sorted(_workers(meter)):
        alive = _add_process(own, worker, int(numbers.pop(FIXED[PID], 0)))
        for name, number in numbers.items():
            if alive or name not in _GAUGES:
                total[name] = total.get(name, 0.0) + number
    families: dict[str, list[str]] = {name: [] for name in _HELP} | own
    _add_plain(families, total)
    _add_histograms(families, total)
    lines = (line for name, lines in families.items() if lines for line in _family(name, lines))
    return ("\n".join(lines) + "\n").encode()


def _workers(meter: Meter) -> Iterator[tuple[int, dict[str, float]]]:
    yield meter.worker, meter.numbers()
    if meter.folder is None:
        return
    for path in meter.folder.glob("*.cells"):
        if path.stem.isdecimal() and int(path.stem) != meter.worker:
            yield int(path.stem), _read(meter.folder, path.stem)


def _read(folder: Path, worker: str) -> dict[str, float]:
    """Another worker's numbers: the names first, because every name has its cell but not the other way round."""
    named, celled = files(folder, worker)
    names = read_names(named)
    data = celled.read_bytes()
    if len(data) != CELLS * 8:  # it is about to be made
        return {}
    return dict(zip(names, memoryview(data).cast("d"), strict=False))


def _add_process(own: dict[str, list[str]], worker: int, pid: int) -> bool:
    """What the kernel says of a worker; whether it runs."""
    usage = _usage(pid)
    label = f'{{worker="{worker}"}}'
    own.setdefault("trimtab_worker_up", []).append(f"trimtab_worker_up{label} {int(usage is not None)}")
    if usage is None:
        return False
    for name, value in zip(
        ("trimtab_worker_resident_memory_bytes", "trimtab_worker_cpu_seconds_total"), usage, strict=True
    ):
        own.setdefault(name, []).append(f"{name}{label} {value:g}")
    return True


def _usage(pid: int) -> tuple[float, float] | None:
    """Resident bytes and CPU seconds of a process that runs a gateway (proc(5)), or None."""
    try:
        place = Path("/proc") / str(pid)
        if b"trimtab.gateway" not in (place / "cmdline").read_bytes():  # the number is somebody else's by now
            return None
        fields = (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")


def _add_plain(families: dict[str, list[str]], total: dict[str, float]) -> None:
    for name, number in total.items():
        family = name.partition("{")[0]
        if family in families:
            families[family].append(f"{name} {_number(number)}")


def _add_histograms(families: dict[str, list[str]], total: dict[str, float]) -> None:
    """Buckets become cumulative here; the count is the last of them."""
    cumulative = 0.0
    for name, number in total.items():
        family, found, labels = name.partition("_bucket{")
        if not found:
            if name.partition("{")[0].endswith("_sum"):
                cumulative = 0.0
            continue
        cumulative += number
        families[family].append(f"{name} {_number(cumulative)}")
        if labels.endswith('le="+Inf"}'):
            of = "{" + labels.rpartition(",le=")[0] + "}"
            families[family].append(f"{family}_sum{of} {_number(total[f'{family}_sum{of}'])}")
            families[family].append(f"{family}_count{of} {_number(cumulative)}")


def _family(name: str, lines: list[str]) -> list[str]:
    kind = "counter" if name.endswith("_total") else "histogram" if "_bucket{" in lines[0] else "gauge"
    return [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {kind}", *lines]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
