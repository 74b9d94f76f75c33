"""What is measured of a process tree and of one run of the load generator. Linux only: it reads /proc."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE / "build"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]


def compile_programs() -> None:
    """Build `mock` and `load` from the sources beside this file, when those are newer. Raises when there is no cc."""
    BUILD.mkdir(exist_ok=True)
    for name in ("mock", "load"):
        source, program = HERE / f"{name}.c", BUILD / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """What is started inside runs on these cores alone, with all its children and threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process tree, user and system, to the nanosecond; threads that ended are in it.

    The clock of another process is a documented clock id: ~pid in the upper bits, 2 (scheduler time) in the lower.
    """
    total = 0.0
    for one in tree(pid):
        try:
            total += time.clock_gettime((~one << 3) | 2)
        except OSError:
            continue
    return total


def pss_mib(pid: int) -> float:
    """Memory of one process: its own pages, and its share of those it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss line")


@dataclass(frozen=True)
class Run:
    """One run of the load against one server. CPU is the server's process tree's."""

    requests: int
    errors: int
    seconds: float
    cpu_us: float
    """Per request, in microseconds."""
    first_us: float
    """Median time to the first byte of the body, in microseconds."""
    whole_us: float
    whole_p99_us: float


def load(address: str, pid: int, request: Path, connections: int, requests: int) -> Run:
    """Send requests and see what they cost. Raises CalledProcessError when the server stops answering."""
    before = cpu_seconds(pid)
    command = [str(BUILD / "load"), address, str(connections), str(requests), str(request)]
    with pinned(LOAD_CORE):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    spent = cpu_seconds(pid) - before
    told: dict[str, Any] = json.loads(done.stdout)
    first, whole = told.get("first", {}), told.get("whole", {})
    return Run(
        requests=told["requests"],
        errors=told["errors"],
        seconds=told["seconds"],
        cpu_us=spent / requests * 1e6,
        first_us=first.get("p50", float("nan")),
        whole_us=whole.get("p50", float("nan")),
        whole_p99_us=whole.get("p99", float("nan")),
    )
