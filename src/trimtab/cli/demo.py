"""`trimtab demo`: the whole loop on this machine, with a real model and nothing scripted but the callers.

The tour starts `trimtab up` as any user would, sends the example's tickets, and then only watches the records. If the
numbers fall otherwise than usual, it says what happened.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from trimtab import project, settings
from trimtab.cli import show
from trimtab.cli.demo_summary import summary
from trimtab.cli.demo_traffic import Traffic, tickets
from trimtab.cli.demo_view import View
from trimtab.errors import EngineError, Fixable
from trimtab.processes import tail
from trimtab.promotion import apply
from trimtab.providers import weights
from trimtab.records.lifecycle import Cycle, CycleEnd
from trimtab.records.promotion import Decision
from trimtab.records.training import TrainingRun
from trimtab.store.control import Control
from trimtab.store.lake import Lake

REFERENCE_TICKETS = 105
"""Tickets of the first period: a little more than one drift window."""
PATIENCE_SECONDS = 1500.0
"""The tour gives up when a part takes longer than this (a very busy machine)."""


def run(folder: Path, keep: bool, speed: float, undo: bool = True) -> None:
    """Write the example into `folder`, run the loop there, undo it, and sum up. Raises Fixable or EngineError."""
    folder = _fresh(folder)
    for name in weights.SOURCES:
        with show.working(f"weights: {name}"):
            weights.fetch(settings.load(folder).blobs, name)
    gateway, dashboard = _free_port(8080), _free_port(8081)
    os.environ |= {"TRIMTAB_PORT": str(gateway), "TRIMTAB_DASHBOARD_PORT": str(dashboard)}
    for name in ("TRIMTAB_TLS_CERT", "TRIMTAB_TLS_KEY"):
        os.environ.pop(name, None)  # its own traffic, on loopback, speaks plain HTTP
    where, loaded = settings.load(folder), project.load(folder)
    control = Control(where)
    view = View(where, control, loaded.project.name, f"http://127.0.0.1:{dashboard}")
    log = where.logs / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        command = [sys.executable, "-m", "trimtab", "up", "--project", str(folder)]
        up = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    traffic = Traffic(f"127.0.0.1:{gateway}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, too
    try:
        with Live(view.render(), console=Console(), refresh_per_second=2, get_renderable=view.render) as live:
            watch = _Watch(view, control, traffic, up, log, live)
            _tour(watch, folder, speed, undo)
            traffic.stop()
            watch.until(lambda: Lake(where).count() >= traffic.answered)
            view.finished = True
        for line in summary(where, control, loaded, traffic, view.seconds, time.monotonic() - view.started):
            show.say(line)
        if keep:
            show.say(f"still serving: {view.dashboard} (Ctrl-C ends it)")
            up.wait()
    finally:
        traffic.stop()
        up.terminate()
        up.wait(60)


class _Watch:
    """Waiting for the records to say something, while the picture moves on."""

    def __init__(
        self, view: View, control: Control, traffic: Traffic, up: subprocess.Popen[bytes], log: Path, live: Live
    ) -> None:
        self.view, self.control, self.traffic, self.up, self.log, self.live = view, control, traffic, up, log, live
        self._plain_at = 0.0

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for `done`. Raises EngineError when `trimtab up` ends, or when patience does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            if self.up.poll() is not None:
                raise EngineError(f"`trimtab up` ended with {self.up.returncode}: {tail(self.log)} (log: {self.log})")
            if time.monotonic() > deadline:
                raise EngineError(
                    f"nothing moved for {PATIENCE_SECONDS:.0f} s at '{self.view.stage}' (log: {self.log})"
                )
            self._tell()
            time.sleep(0.5)

    def _tell(self) -> None:
        shares = ", ".join(f"{name} {count}" for name, count in sorted(self.traffic.sent.items()))
        times = sorted(self.traffic.milliseconds)
        middle = f", median {times[len(times) // 2]:.0f} ms" if times else ""
        self.view.traffic_line = f"{self.traffic.answered} answered ({shares}){middle}" if shares else ""
        console = self.live.console
        if not console.is_terminal and time.monotonic() - self._plain_at > 15:
            self._plain_at = time.monotonic()
            spent = time.monotonic() - self.view.started
            print(f"{spent:4.0f} s  {self.view.stage}: {self.view.now()}", flush=True)


def _tour(watch: _Watch, folder: Path, speed: float, undo: bool) -> None:
    view, control, traffic, model = watch.view, watch.control, watch.traffic, watch.view.model
    where, busy = view.settings, 0.0 if speed >= 1 else (1 / speed - 1) / 4
    watch.until(lambda: control.alias(model, "champion") is not None)
    watch.until(lambda: _listening(traffic.address))
    view.enter("serve")
    traffic.start()
    traffic.serve(iter(tickets(folder, 1)[:REFERENCE_TICKETS]))
    traffic.pace = busy
    watch.until(traffic.exhausted.is_set)
    view.enter("watch")
    later = _again(tickets(folder, 2))
    traffic.serve(later)
    watch.until(lambda: bool(control.facts("cycle", Cycle)))
    view.enter("retrain")
    traffic.pace = 8.0
    watch.until(lambda: bool(control.facts("training_run", TrainingRun)))
    view.enter("judge")
    watch.until(lambda: bool(control.facts("decision", Decision)))
    watch.until(lambda: _rolling(control, model) or bool(control.facts("cycle_end", CycleEnd)))
    view.enter("roll out")
    traffic.pace = busy
    watch.until(lambda: bool(control.facts("cycle_end", CycleEnd)))
    end = control.facts("cycle_end", CycleEnd)[-1]
    if end.outcome != "promoted":
        return
    promoted = f"{model}/{end.version}"
    before = traffic.sent[promoted]
    watch.until(lambda: traffic.sent[promoted] >= before + 10)
    if undo:
        move = apply.rollback(where, control, model, actor="demo", reason="the tour's last step: Undo")
        earlier = f"{model}/{move.after}"
        before = traffic.sent[earlier]
        watch.until(lambda: traffic.sent[earlier] >= before + 5)
    traffic.pace = None


def _rolling(control: Control, model: str) -> bool:
    return any(decision.outcome == "promote" for decision in control.facts("decision", Decision))


def _again(queue: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The tickets, then the same people writing again under new numbers, so that callers never run dry."""
    for round_ in itertools.count():
        for ticket in queue:
            yield ticket if round_ == 0 else ticket | {"ticket_id": f"R{round_}-{ticket['ticket_id']}"}


def _fresh(folder: Path) -> Path:
    """The folder with the example in it and nothing recorded. Raises Fixable when it is somebody else's folder."""
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "tickets-period1.jsonl").exists():
        raise Fixable(f"{folder} is not empty and no demo of ours", "name another folder: `trimtab demo FOLDER`")
    if (folder / ".trimtab").exists():
        shutil.rmtree(folder / ".trimtab")
    shutil.copytree(_example(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".trimtab"))
    return folder


def _example() -> Path:
    """The example, in the installed package or in a checkout."""
    package = Path(project.__file__).parent.parent
    for place in (package / "examples" / "support-triage", package.parent.parent / "examples" / "support-triage"):
        if (place / "trimtab.yaml").exists():
            return place
    raise Fixable("the example is not installed", "reinstall trimtab, or run from a checkout")


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise Fixable("no free port on 127.0.0.1", "end a program that listens")


def _listening(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0
