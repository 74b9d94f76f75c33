"""A place with real processes: echo engines, a routes file, a gateway, and its journal to read back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trimtab import processes
from trimtab.providers import llama_cpp
from trimtab.records.gateway import Upstream
from trimtab.records.registry import VersionSpec
from trimtab.store import journal
from trimtab.store.journal import Closed, FeedbackFrame, Opened


class Place:
    """Engines and one gateway in a folder. `closed` and `opened` read what the journal holds now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[processes.Child] = []

    def engine(self, *args: str, **env: str) -> processes.Child:
        log = self.folder / f"engine-{len(self.children)}.log"
        return self._start("trimtab.providers.echo", *args, log=log, env=env)

    def gateway(self, *args: str, **env: str) -> processes.Child:
        where = ["--routes", str(self.folder / "routes.json"), "--journal", str(self.journal), "--port", "0"]
        gateway = self._start("trimtab.gateway", *where, *args, log=self.folder / "gateway.log", env=env)
        self.url = f"http://{gateway.ready['address']}"
        return gateway

    def route(
        self, champion: dict[str, Any] | None, canary: dict[str, Any] | None = None, percent: float = 0, **more: Any
    ) -> None:
        """Replace the routes file, as the supervisor does."""
        routes = {"model": "m", "revision": str(time.time_ns()), "champion": champion, "canary": canary}
        new = self.folder / "routes.json.new"
        new.write_text(json.dumps(routes | {"canary_percent": percent} | more))
        new.replace(self.folder / "routes.json")

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def rows(self) -> list[Opened | Closed | FeedbackFrame]:
        return [frame for path in journal.segments(self.journal) for _, frame in journal.frames(path)]

    def opened(self) -> dict[str, Opened]:
        return {row.request_id: row for row in self.rows() if isinstance(row, Opened)}

    def closed(self) -> dict[str, Closed]:
        rows = [row for row in self.rows() if isinstance(row, Closed)]
        assert len({row.request_id for row in rows}) == len(rows), "a request has more than one row"
        return {row.request_id: row for row in rows}

    def stop(self) -> None:
        for child in reversed(self.children):
            child.stop()

    def _start(self, module: str, *args: str, log: Path, env: dict[str, str]) -> processes.Child:
        self.children.append(processes.start(module, *args, log=log, env=env))
        return self.children[-1]


def entity(engine: processes.Child, version: int = 1, **params: Any) -> dict[str, Any]:
    """A served entity as the supervisor writes it."""
    template = {"messages": [{"role": "system", "content": "Be brief."}], "params": {"lora": []} | params}
    return {"model": "m", "version": version, "address": engine.ready["address"], "template": template}


def serving(folder: Path, spec: VersionSpec) -> Iterator[tuple[Place, Upstream]]:
    """A gateway that serves a version as the supervisor routes it, on an engine without a model; for a fixture."""
    found = Place(folder)
    engine = found.engine()
    template = llama_cpp.request_template(spec)
    found.route({"model": "m", "version": 1, "address": engine.ready["address"], "template": template})
    found.gateway()
    yield found, Upstream(address=engine.ready["address"])
    found.stop()


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is true and return it; the test's timeout is the only limit."""
    while not (value := condition()):
        time.sleep(0.01)
    return value


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}
