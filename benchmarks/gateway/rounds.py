"""Rounds: every server in turn under the same loads, again and again, so that what disturbs one disturbs all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measure import Run, load, pss_mib, tree
from servers import Server

CHUNKS = 100
PACE_US = 5000
STREAMS = 8
CONNECTIONS = 32


@dataclass(frozen=True)
class Sample:
    """What one server showed in one round."""

    plain: Run
    alone: Run
    paced: Run
    burst: Run
    pss: float
    """MiB of the whole process tree."""

    @property
    def errors(self) -> int:
        """Answers that were not 200 or not whole."""
        return self.plain.errors + self.alone.errors + self.paced.errors + self.burst.errors


def sizes(server: Server, folder: Path, seconds: float) -> int:
    """How many plain requests take about so long, by a first short run, which also warms the server up."""
    first = load(server.address, server.process.pid, _request(server, folder, "plain"), CONNECTIONS, 200)
    per_second = first.requests / first.seconds
    again = load(server.address, server.process.pid, _request(server, folder, "plain"), CONNECTIONS, 200)
    per_second = max(per_second, again.requests / again.seconds)
    return max(100, min(50_000, math.ceil(per_second * seconds)))


def sample(server: Server, folder: Path, requests: int) -> Sample:
    """One server's turn."""
    pid, slow = server.process.pid, requests < 1000
    plain = load(server.address, pid, _request(server, folder, "plain"), CONNECTIONS, requests)
    alone = load(server.address, pid, _request(server, folder, "plain"), 1, max(20, min(1000, requests // 10)))
    paced = load(server.address, pid, _request(server, folder, "paced"), STREAMS, STREAMS * (1 if slow else 3))
    burst = load(server.address, pid, _request(server, folder, "burst"), STREAMS, STREAMS * (1 if slow else 25))
    return Sample(plain, alone, paced, burst, sum(pss_mib(one) for one in tree(pid)))


def _request(server: Server, folder: Path, kind: str) -> Path:
    path = folder / f"{server.name}-{kind}".replace(" ", "-")
    if not path.exists():
        words = {"plain": "", "paced": f"chunks={CHUNKS} pace={PACE_US}", "burst": f"chunks={CHUNKS}"}[kind]
        path.write_bytes(server.request(words, stream=kind != "plain"))
    return path


@dataclass(frozen=True)
class Spread:
    """A median over rounds, with the least and the most."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


def ratios(these: list[float], to: list[float]) -> Spread:
    """These over those, round by round."""
    return Spread.of([one / other for one, other in zip(these, to, strict=True)])
