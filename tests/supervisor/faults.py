"""Inject faults into the processes of `trimtab up` under load, then count: `python tests/supervisor/faults.py`.

Disk full is a small tmpfs that is filled up, where we may mount one, else a limit on the gateway's file size: the same
failing write. The database is away when its file is elsewhere and cannot be made anew.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from callers import BROKEN, Books, Callers, books

import plain_http
from running import Desk, desk, kill, until

NO_RECORD = "journal_unavailable"
REFUSALS = 5
"""The disk is full, and the database away, until so many requests met it."""


def disk_full(served: Desk, callers: Callers) -> None:
    """No byte more for the journal, until some callers were told so; then there is room again."""
    before = callers.said(NO_RECORD)
    with _filled(served) if os.path.ismount(served.settings.journal) else _limited(served):
        until(lambda: callers.said(NO_RECORD) >= before + REFUSALS)


@contextmanager
def _limited(served: Desk) -> Iterator[None]:
    pid = served.child("trimtab.gateway").pid
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def _filled(served: Desk) -> Iterator[None]:
    filler = served.settings.journal / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


def database_away(served: Desk, callers: Callers) -> None:
    """The file of the control database is elsewhere, and a folder has its name."""
    file = Path(served.settings.database_url.removeprefix("sqlite:///"))
    away = file.with_suffix(".away")
    file.rename(away)
    file.mkdir()
    before = callers.said("200")
    time.sleep(1.0)  # several rounds of whoever reads it
    until(lambda: callers.said("200") >= before + REFUSALS)
    file.rmdir()
    away.rename(file)


def control_killed(served: Desk, callers: Callers) -> None:
    """kill -9 of the process that drains, watches and shows."""
    _replaced(served, "trimtab.web")


def gateway_killed(served: Desk, callers: Callers) -> None:
    """kill -9 of the gateway."""
    _replaced(served, "trimtab.gateway")


def engine_killed(served: Desk, callers: Callers) -> None:
    """kill -9 of the engine that serves."""
    _replaced(served, "trimtab.providers.echo")


def _replaced(served: Desk, module: str) -> None:
    victim = served.child(module)
    kill(victim)

    def another() -> bool:
        children = psutil.Process(served.up.pid).children()
        return any(
            child.pid != victim.pid and module in child.cmdline()
            for child in children
            if child.status() != psutil.STATUS_ZOMBIE
        )

    until(another)


def supervisor_killed(served: Desk, callers: Callers) -> None:
    """kill -9 of `trimtab up` itself, which takes everything with it; somebody starts it again."""
    family = psutil.Process(served.up.pid).children(recursive=True)
    kill(served.up)
    psutil.wait_procs(family)
    served.start()


Fault = Callable[[Desk, Callers], None]
FAULTS: dict[str, Fault] = {
    "disk full": disk_full,
    "database away": database_away,
    "control process killed": control_killed,
    "gateway killed": gateway_killed,
    "engine killed": engine_killed,
    "supervisor killed": supervisor_killed,
}


@dataclass(frozen=True)
class Injected:
    """One fault, from its start until questions are answered again. Times in seconds since the callers began."""

    name: str
    begun: float
    ended: float


def run(served: Desk, callers: Callers, names: list[str], quiet: float = 0.3) -> tuple[list[Injected], Books]:
    """Inject faults one after the other, `quiet` seconds apart, and close the books."""
    injected = []
    until(lambda: _whole(served))
    with callers:
        start = time.monotonic()
        for name in names:
            time.sleep(quiet)
            begun = time.monotonic() - start
            FAULTS[name](served, callers)
            until(served.answers)
            injected.append(Injected(name, begun, time.monotonic() - start))
            until(lambda: _whole(served))
        time.sleep(quiet)
    return injected, books(served, callers.told)


def _whole(served: Desk) -> bool:
    """Whether every process has started: a desk that never came up whole gives up when one of them dies."""
    try:
        dashboard = plain_http.get(f"http://127.0.0.1:{served.settings.dashboard_port}/healthz").status_code
    except httpx.HTTPError:
        return False
    return dashboard < 500 and served.answers()


def main(times: int = 3) -> int:
    """Every fault so many times, and the counts; the exit code says whether the books are in order."""
    with tempfile.TemporaryDirectory() as folder, _own_disk(Path(folder)) as disk, desk(Path(folder)) as served:
        callers = Callers(served, threads=8, per_second=100)
        injected, found = run(served, callers, [*FAULTS] * times, quiet=1.0)
    print(f"{'fault':24} {'seconds':>7} {'asked':>6} {'answered':>8}  refused or broken")
    for one in injected:
        met = [told for told in callers.told if one.begun <= told.at <= one.ended]
        codes = {code: sum(told.said == code for told in met) for code in sorted({told.said for told in met})}
        good = codes.pop("200", 0)
        others = ", ".join(f"{n} {code}" for code, n in codes.items()) or "none"
        print(f"{one.name:24} {one.ended - one.begun:7.1f} {len(met):6} {good:8}  {others}")
    totals = callers.codes()
    refused = len(callers.told) - totals["200"] - totals[BROKEN]
    print(
        f"\n{len(injected)} faults injected ({disk}); {len(callers.told)} requests, {totals['200']} answered, "
        f"{refused} refused, {totals[BROKEN]} connections broken; {found.rows} rows found, "
        f"{found.duplicates} duplicates, {len(found.lost)} losses, {len(found.untrue)} untrue rows"
    )
    return int(bool(found.duplicates or found.lost or found.untrue))


@contextmanager
def _own_disk(folder: Path) -> Iterator[str]:
    """A disk of 4 MiB for the journal, if we may mount one."""
    place = folder / ".trimtab" / "journal"
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield "disk full by a limit on file size"
        return
    try:
        yield "disk full on a tmpfs of 4 MiB"
    finally:
        subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
