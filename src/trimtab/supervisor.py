"""`trimtab up`: start the gateway, the control process and one engine per live version, and keep them running.

The supervisor follows the aliases: an engine starts beside the ones that serve, proves itself on a golden prompt, and
only then enters the routes file that gateways follow; an engine that no route names any more drains and stops.
Everything it starts ends with it, also when it is killed.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from trimtab import logs, processes, registry
from trimtab.errors import EngineError, Fixable, TrimtabError
from trimtab.project import Loaded
from trimtab.providers import ask, llama_cpp
from trimtab.records.gateway import EngineState, Routes, ServedEntity
from trimtab.records.record import content_hash, utc_now
from trimtab.records.registry import ModelVersion
from trimtab.settings import Settings
from trimtab.store.control import Control

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
RESTART_SECONDS = 1.0
DRAIN_SECONDS = 2.0
"""An engine that left the routes stops at the earliest after this, and not while it decodes."""


@dataclass
class _Engine:
    version: ModelVersion
    child: processes.Child
    key: str
    entity: ServedEntity
    unrouted_since: float | None = None


@dataclass
class _Fleet:
    settings: Settings
    loaded: Loaded
    control: Control
    engines: dict[int, _Engine] = field(default_factory=dict)
    broken: dict[int, float] = field(default_factory=dict)
    """Versions that failed to load, with the time from which to try again."""
    routes: Routes | None = None
    hindered: str = ""
    """Why the last pass could not be made."""


def up(settings: Settings, loaded: Loaded, open_browser: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises EngineError when a process does not start at all, Fixable when the port is taken or half of TLS is missing.
    """
    _check_door(settings, loaded)
    logs.configure(level=logging.WARNING)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry.register_base(settings, loaded)
    control = Control(settings)
    fleet = _Fleet(settings, loaded, control)
    settings.runtime.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(settings.metrics, ignore_errors=True)  # the counts of a run; the books are in the lake
    _follow(fleet)
    children: dict[str, processes.Child] = {}
    try:
        while not stopping.is_set():
            _keep(settings, loaded.project.endpoint.workers, children, open_browser)
            _follow_if_possible(fleet)
            stopping.wait(POLL_SECONDS)
    finally:
        gateways = [child for name, child in children.items() if name != "control"]
        for child in gateways:
            child.process.terminate()  # all at once: each finishes what it is answering
        for child in [*gateways, *filter(None, [children.get("control")])]:
            child.stop()
        for engine in fleet.engines.values():
            _stop(fleet, engine, "stopped")
        settings.routes_file.unlink(missing_ok=True)
    return 0


def urls(settings: Settings) -> tuple[str, str]:
    """The gateway's and the dashboard's addresses."""
    return settings.gateway_url, f"http://{settings.host}:{settings.dashboard_port}"


def _check_door(settings: Settings, loaded: Loaded) -> None:
    """What several workers and TLS need. A shared port does not say that it is taken: strangers would share it."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise Fixable("TLS needs a certificate and its key", "set TRIMTAB_TLS_CERT and TRIMTAB_TLS_KEY, or neither")
    if loaded.project.endpoint.workers == 1 or not settings.port:
        return
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as error:
        raise Fixable(
            f"port {settings.port} cannot be had: {error.strerror}", "stop what listens there or set TRIMTAB_PORT"
        ) from error


def _commands(settings: Settings, workers: int, open_browser: bool) -> dict[str, list[str]]:
    """Arguments of every process to keep; the first is the module."""
    gateway = [
        "trimtab.gateway",
        *("--routes", str(settings.routes_file), "--journal", str(settings.journal)),
        *("--host", settings.host, "--port", str(settings.port), "--dashboard", urls(settings)[1]),
        *("--metrics", str(settings.metrics)),
        *(["--share-port"] if workers > 1 else []),
        *(["--tls-cert", str(settings.tls_cert), "--tls-key", str(settings.tls_key)] if settings.tls_cert else []),
    ]
    names = ["gateway", *(f"gateway-{number}" for number in range(1, workers))]
    wanted = {name: [*gateway, "--worker", str(number)] for number, name in enumerate(names)}
    wanted["control"] = ["trimtab.web", "--project", str(settings.root), *(["--open"] if open_browser else [])]
    return wanted


def _keep(settings: Settings, workers: int, children: dict[str, processes.Child], open_browser: bool) -> None:
    """Start the gateway's workers and the control process, again when one has died."""
    for name, (module, *args) in _commands(settings, workers, open_browser and "control" not in children).items():
        child = children.get(name)
        if child is not None and child.alive():
            continue
        if child is not None:
            log.warning("%s ended with %s: starting it again", name, child.process.returncode)
            child.stop()
            time.sleep(RESTART_SECONDS)
        try:
            children[name] = processes.start(module, *args, log=settings.logs / f"{name}.log")
        except EngineError as error:
            if child is None:
                raise
            log.error("%s is tried again: %s", name, error)  # the others go on meanwhile
            continue
        if child is None:
            scheme = "https" if settings.tls_cert and name != "control" else "http"
            print(f"{name:9} {scheme}://{children[name].ready['address']}", flush=True)


def _follow_if_possible(fleet: _Fleet) -> None:
    """One pass; without the control database what serves goes on serving, and the next pass tries again."""
    try:
        _follow(fleet)
    except Fixable as error:
        if str(error) != fleet.hindered:
            log.error("versions stay as they are for now: %s", error)
        fleet.hindered = str(error)
    else:
        fleet.hindered = ""


def _follow(fleet: _Fleet) -> None:
    """One pass: engines for the versions that aliases and traffic name, routes to those that are ready."""
    model = fleet.loaded.project.name
    champion, challenger = fleet.control.alias(model, "champion"), fleet.control.alias(model, "challenger")
    traffic = fleet.control.traffic(model)
    serving = fleet.routes.champion.version if fleet.routes and fleet.routes.champion else None
    # The version that serves comes first; it is not the champion while that one does not load.
    for version in dict.fromkeys(filter(None, (serving, champion, challenger))):
        _ensure(fleet, version)
    share = traffic.percent if traffic and traffic.version == challenger and challenger in fleet.engines else 0.0
    _route(fleet, champion, challenger if share else None, share)
    _retire(fleet, {version for version in (champion, challenger) if version is not None})


def _ensure(fleet: _Fleet, number: int) -> None:
    engine = fleet.engines.get(number)
    if engine is not None and engine.child.alive():
        return
    if engine is not None:
        log.warning("the engine of version %s ended with %s", number, engine.child.process.returncode)
        fleet.engines.pop(number).child.stop()
    if time.monotonic() < fleet.broken.get(number, 0.0):
        return
    model = fleet.loaded.project.name
    state = EngineState(model=model, version=number, state="starting", at=utc_now())
    fleet.control.set_engine(state)
    try:
        engine = _start(fleet, registry.get(fleet.control, model, number))
    except TrimtabError as error:
        fleet.broken[number] = time.monotonic() + 10 * RESTART_SECONDS
        fleet.control.set_engine(state.model_copy(update={"state": "failed", "error": str(error), "at": utc_now()}))
        log.error("version %s does not serve: %s", number, error)
        return
    fleet.engines[number] = engine
    ready = {"state": "ready", "address": engine.entity.address, "pid": engine.child.process.pid, "at": utc_now()}
    fleet.control.set_engine(state.model_copy(update=ready))


def _start(fleet: _Fleet, version: ModelVersion) -> _Engine:
    settings, target = fleet.settings, fleet.loaded.project.target.local
    child, key = llama_cpp.start(settings, version.spec, target, settings.logs / f"engine-{version.version}.log")
    template, address = llama_cpp.request_template(version.spec), child.ready["address"]
    try:
        ask.ask(address, key, template, [_golden(version)], parallel=1)
    except TrimtabError:
        child.stop()
        raise
    entity = ServedEntity(
        model=version.spec.model, version=version.version, address=address, template=template, api_key=key
    )
    return _Engine(version, child, key, entity)


def _golden(version: ModelVersion) -> str:
    examples = version.spec.prompt.examples
    return examples[0].input if examples else "Hello, is anybody there?"


def _route(fleet: _Fleet, champion: int | None, canary: int | None, percent: float) -> None:
    """Write the routes file when it changes. A champion without an engine leaves the one before it in place."""
    before = fleet.routes.champion if fleet.routes else None
    engine = fleet.engines.get(champion or 0) or fleet.engines.get(before.version if before else 0)
    entity = engine.entity if engine else before
    side = fleet.engines[canary].entity if canary is not None and canary != champion else None
    body = {
        "model": fleet.loaded.project.name,
        "champion": entity,
        "canary": side,
        "canary_percent": percent if side else 0.0,
    }
    revision = content_hash(
        {name: v.model_dump(mode="json") if isinstance(v, ServedEntity) else v for name, v in body.items()}
    )
    if fleet.routes is not None and fleet.routes.revision == revision:
        return
    fleet.routes = Routes(revision=revision, **body)
    _replace(fleet.settings.routes_file, fleet.routes.model_dump_json())


def _retire(fleet: _Fleet, wanted: set[int]) -> None:
    routed = {e.version for e in (fleet.routes.champion, fleet.routes.canary) if e} if fleet.routes else set[int]()
    for number, engine in list(fleet.engines.items()):
        if number in wanted | routed:
            engine.unrouted_since = None
        elif engine.unrouted_since is None:
            engine.unrouted_since = time.monotonic()
        elif time.monotonic() - engine.unrouted_since > DRAIN_SECONDS and not ask.busy(
            engine.entity.address, engine.key
        ):
            del fleet.engines[number]
            _stop(fleet, engine, "stopped")


def _stop(fleet: _Fleet, engine: _Engine, state: str) -> None:
    engine.child.stop()
    told = {"model": engine.entity.model, "version": engine.entity.version, "state": state, "at": utc_now()}
    try:
        fleet.control.set_engine(EngineState.model_validate(told))
    except Fixable as error:
        log.error("version %s has %s, unrecorded: %s", engine.entity.version, state, error)


def _replace(path: Path, text: str) -> None:
    """Write a file that only its owner reads (it names engine keys), atomically."""
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(json.loads(text)))
    temporary.replace(path)
