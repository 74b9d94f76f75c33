"""The table of ratios, and which of the goals it meets; for the terminal and, the same text, for RESULTS.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rounds import CHUNKS, CONNECTIONS, PACE_US, STREAMS, Sample, Spread, ratios
from servers import Server

Rounds = dict[str, list[Sample]]
FULL, RELAY, YARDSTICK = "trimtab full", "trimtab relay", "nginx"
TIMES_LESS = {"vllm-router": 1.0, "TensorZero": 1.0, "Portkey": 15.0, "LiteLLM": 250.0, "MLflow AI Gateway": 500.0}
"""How many times the CPU of the full product a peer must cost at least."""


def _plain(one: Sample) -> float:
    return one.plain.cpu_us


def _paced(one: Sample) -> float:
    return one.paced.cpu_us / CHUNKS


def _burst(one: Sample) -> float:
    return one.burst.cpu_us / CHUNKS


def _added_ms(rounds: Rounds, name: str) -> Spread:
    pairs = zip(rounds[name], rounds["direct"], strict=True)
    return Spread.of([(one.paced.first_us - bare.paced.first_us) / 1000 for one, bare in pairs])


def _ratio(rounds: Rounds, name: str, to: str, what: Callable[[Sample], float]) -> Spread:
    return ratios([what(one) for one in rounds[name]], [what(one) for one in rounds[to]])


def table(rounds: Rounds) -> list[str]:
    """One line for each server, as Markdown."""
    lines = [
        "| server | CPU µs/request | × nginx (least–most) | CPU µs/paced chunk | × nginx (least–most) |"
        " CPU µs/burst chunk | added TTFT ms | p50 µs alone | requests/s | p99 ms | PSS MiB | errors |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, samples in rounds.items():

        def middle(what: Callable[[Sample], float], samples: list[Sample] = samples) -> float:
            return Spread.of([what(one) for one in samples]).middle

        to_nginx = [
            _spread(_ratio(rounds, name, YARDSTICK, what)) if YARDSTICK in rounds else "–" for what in (_plain, _paced)
        ]
        cells = [
            name,
            f"{middle(_plain):.1f}",
            to_nginx[0],
            f"{middle(_paced):.1f}",
            to_nginx[1],
            f"{middle(_burst):.2f}",
            f"{_added_ms(rounds, name).middle:.3f}",
            f"{middle(lambda one: one.alone.whole_us):.0f}",
            f"{middle(lambda one: one.plain.requests / one.plain.seconds):.0f}",
            f"{middle(lambda one: one.plain.whole_p99_us / 1000):.1f}",
            f"{middle(lambda one: one.pss):.0f}",
            str(sum(one.errors for one in samples)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(one: Spread) -> str:
    return f"{one.middle:.2f} ({one.least:.2f}–{one.most:.2f})"


def goals(rounds: Rounds) -> list[str]:
    """One line for each goal that these servers can tell of."""
    lines = []

    def say(what: str, value: float, limit: float, at_least: bool = False) -> None:
        good = value >= limit if at_least else value <= limit
        bound = "at least" if at_least else "at most"
        lines.append(f"- {'met' if good else '**missed**'}: {what}: {value:.2f} ({bound} {limit:g})")

    if YARDSTICK in rounds:
        for name, limit in ((FULL, 2.5), (RELAY, 1.75)):
            if name in rounds:
                say(f"{name}, CPU per request over nginx's", _ratio(rounds, name, YARDSTICK, _plain).middle, limit)
        if FULL in rounds:
            say(f"{FULL}, CPU per paced chunk over nginx's", _ratio(rounds, FULL, YARDSTICK, _paced).middle, 1.3)
    if FULL in rounds:
        say(f"{FULL}, median time to first token added, ms", _added_ms(rounds, FULL).middle, 0.3)
        for peer, times in TIMES_LESS.items():
            if peer in rounds:
                say(f"{peer}, CPU per request over {FULL}'s", _ratio(rounds, peer, FULL, _plain).middle, times, True)
    return lines


def text(rounds: Rounds, servers: list[Server], absent: dict[str, str]) -> str:
    """The whole report."""
    count = len(next(iter(rounds.values())))
    asked = {name: samples[0].plain.requests for name, samples in rounds.items()}
    versions = [f"{one.name} {one.version}" for one in servers if one.version]
    ours = [f"{name} {version(name)}" for name in ("uvloop", "httptools", "msgspec")]
    lines = [
        *table(rounds),
        "",
        *goals(rounds),
        "",
        f"{count} rounds, every server in turn in each; medians over the rounds, ratios taken within a round. A plain "
        f"request is half a kilobyte of chat, kept alive; {CONNECTIONS} connections, except for `alone` (1). Streams: "
        f"{STREAMS} at once, {CHUNKS} events each, {PACE_US / 1000:g} ms apart (`paced`) or all at once (`burst`). "
        "CPU is user and system time of the server's whole process tree. `direct` is the upstream itself.",
        "",
        f"Requests a round: {', '.join(f'{name} {n}' for name, n in asked.items())}.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {_machine()}; Python {platform.python_version()}, {', '.join(ours)}; "
        f"{', '.join(versions)}. Server on one core, load and upstream on the other.",
    ]
    lines += [f"\nNot here: {name}: {why}" for name, why in absent.items()]
    return "\n".join(lines)


def _machine() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "unknown CPU")
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}, load average {os.getloadavg()[0]:.1f}"
