"""Start a child process that says when it is ready and never outlives its parent.

The child's standard input is a pipe held by the parent: when the parent ends, however it ends, the pipe closes and the
child leaves (`exit_with_parent`). Its first line on standard output is one JSON object: it is ready.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.errors import EngineError


@dataclass
class Child:
    """A running child. `ready` is what it announced, e.g. {"address": "127.0.0.1:8080"}."""

    module: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def stop(self, grace: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds."""
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def start(
    module: str,
    *args: str,
    log: Path,
    env: dict[str, str] | None = None,
    timeout: float = 60.0,
    stopping: threading.Event | None = None,
) -> Child:
    """Run `python -m module args…` and wait for its ready line, `timeout` seconds or until `stopping` is set.

    Raises EngineError with the log's end when it does not come.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(env or {})},
            process_group=0,  # Ctrl-C reaches the parent alone, which stops its children in order
        )
    child = Child(module, process, log)
    line = _first_line(process, time.monotonic() + timeout, stopping or threading.Event())
    try:
        child.ready = json.loads(line)
    except ValueError:
        child.stop(grace=1.0)
        raise EngineError(f"{module} did not start: {tail(log) or 'no output'} (log: {log})") from None
    return child


def tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log, on one line."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])


def exit_with_parent() -> None:
    """In a child: leave at once when the parent is gone. Call it first thing in main."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _first_line(process: subprocess.Popen[bytes], deadline: float, stopping: threading.Event) -> bytes:
    assert process.stdout is not None  # noqa: S101 (Popen was given PIPE)
    line = b""
    with selectors.DefaultSelector() as ready:  # select() itself refuses file descriptors from 1024 on
        ready.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n") and (left := deadline - time.monotonic()) > 0 and not stopping.is_set():
            if ready.select(min(left, 0.2)):
                byte = os.read(process.stdout.fileno(), 1)
                if not byte:
                    break
                line += byte
    return line
