"""A project that `trimtab up` serves: real supervisor, gateway, control process and engines, on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

import place
from trimtab import registry
from trimtab.project import Loaded
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, ModelVersion, VersionSpec
from trimtab.settings import Settings
from trimtab.store.control import Control

MODEL = "desk"


class Desk:
    """The echo project of `place`, served."""

    def __init__(self, settings: Settings, loaded: Loaded, ask: dict[str, Any] | None = None) -> None:
        self.question = ask or {"input": "are you there?"}
        self.settings, self.loaded, self.control = settings, loaded, Control(settings)
        self.url = settings.gateway_url
        # A new connection for each request. One client: to make one takes 30 ms, for the certificates.
        self.http = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
        self.up: subprocess.Popen[bytes]

    def start(self) -> None:
        """`trimtab up`, until it answers."""
        with (self.settings.root / "up.log").open("ab") as log:
            command = [sys.executable, "-m", "trimtab", "up", "--project", str(self.settings.root)]
            self.up = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: self.up.poll() is not None or self.answers())
        assert self.up.poll() is None, (self.settings.root / "up.log").read_text()

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.up.terminate()
        return self.up.wait()

    @property
    def headers(self) -> dict[str, str]:
        """What every request of ours carries."""
        return {}

    def ask(self, text: str, caller: str) -> httpx.Response:
        headers = {"x-trimtab-caller": caller} | self.headers
        return self.http.post(f"{self.url}/predict", json={"input": text}, headers=headers)

    def answers(self) -> bool:
        """Whether a question is answered right now."""
        try:
            return self.http.post(f"{self.url}/predict", json=self.question, headers=self.headers).is_success
        except httpx.HTTPError:
            return False

    def state(self, version: int) -> str | None:
        """What the supervisor says of a version's engine."""
        engine = self.control.engines(MODEL).get(version)
        return engine.state if engine else None

    def child(self, module: str) -> psutil.Process:
        """The supervisor's child that runs `python -m module`."""
        (found,) = [child for child in psutil.Process(self.up.pid).children() if module in child.cmdline()]
        return found

    def register(self, spec: VersionSpec) -> ModelVersion:
        return registry.register(self.settings, self.control, spec, config_hash="x", note="test", parent=1)

    def move(self, before: int | None, after: int | None, alias: str = "champion") -> None:
        move = AliasMove(
            model=MODEL, alias=alias, before=before, after=after, at=utc_now(), actor="test", reason="the test says so"
        )
        self.control.move([move])


@contextmanager
def desk(folder: Path, file: str = place.FILE, ask: dict[str, Any] | None = None) -> Iterator[Desk]:
    """A desk that runs; at the end it is stopped and must have ended well."""
    ports = {"TRIMTAB_PORT": str(place.free_port()), "TRIMTAB_DASHBOARD_PORT": str(place.free_port())}
    os.environ |= ports
    try:
        place.make(folder)
        (folder / "trimtab.yaml").write_text(file)
        served = Desk(place.settings.load(folder), place.project.load(folder), ask)
        served.start()
        try:
            yield served
        finally:
            code = served.stop()
        assert code == 0, (folder / "up.log").read_text()
    finally:
        for name in ports:
            del os.environ[name]


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is true and return it; the test's timeout is the only limit."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


def kill(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    """kill -9, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    process.wait()
