"""`trimtab up`: start the gateway, the control process and one engine per live version, and keep them running.

The supervisor follows the aliases: an engine starts beside the ones that serve, proves itself on a golden prompt, and
only then enters the routes file that gateways follow; an engine that no route names any more drains and stops.
Everything it starts ends with it, also when it is killed.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from trimtab import processes, registry
from trimtab.errors import EngineError, TrimtabError
from trimtab.project import Loaded
from trimtab.providers import ask, llama_cpp, prices
from trimtab.records.gateway import EngineState, Routes, ServedEntity
from trimtab.records.record import content_hash, utc_now
from trimtab.records.registry import ModelVersion
from trimtab.settings import Settings
from trimtab.store import keys
from trimtab.store.control import Control

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
KEYS_SECONDS = 0.25
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


def up(settings: Settings, loaded: Loaded, open_browser: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises EngineError when a process does not start at all."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry.register_base(settings, loaded)
    control = Control(settings)
    fleet = _Fleet(settings, loaded, control)
    settings.runtime.mkdir(parents=True, exist_ok=True)
    keys_stop = _follow_keys(settings, loaded, control)
    _follow(fleet)
    children: dict[str, processes.Child] = {}
    try:
        while not stopping.is_set():
            _keep(settings, children, open_browser, _key_args(settings, loaded))
            _follow(fleet)
            stopping.wait(POLL_SECONDS)
    finally:
        for name in ("gateway", "control"):
            if name in children:
                children[name].stop()
        for engine in fleet.engines.values():
            _stop(fleet, engine, "stopped")
        keys_stop()
        for file in (settings.routes_file, settings.keys_file):
            file.unlink(missing_ok=True)
    return 0


def urls(settings: Settings) -> tuple[str, str]:
    """The gateway's and the dashboard's addresses."""
    return f"http://{settings.host}:{settings.port}", f"http://{settings.host}:{settings.dashboard_port}"


def _key_args(settings: Settings, loaded: Loaded) -> list[str]:
    """What the gateway is told about keys; nothing when nobody is asked for one."""
    if loaded.project.endpoint.auth == "none":
        return []
    return ["--keys", str(settings.keys_file), "--ledger", str(settings.ledger_file)]


def _follow_keys(settings: Settings, loaded: Loaded, control: Control) -> Callable[[], None]:
    """Keep the file of live keys as the records say; returns how to stop. A thread of its own: a revoked key must be
    out within a second, also while an engine takes long to load."""
    project, stopping = loaded.project, threading.Event()
    before = ""

    def write() -> None:
        nonlocal before
        now = keys.live(control, project.name, project.endpoint, utc_now()).model_dump_json()
        if now != before:
            _replace(settings.keys_file, now)
            before = now

    def follow() -> None:
        while not stopping.wait(KEYS_SECONDS):
            try:
                write()
            except Exception as error:  # the database may be away for a while; the gateway keeps the keys it has
                log.warning("the keys cannot be followed: %s", error)

    thread = threading.Thread(target=follow, name="trimtab-keys", daemon=True)

    def stop() -> None:
        stopping.set()
        if thread.is_alive():
            thread.join()

    if project.endpoint.auth == "keys":
        write()
        thread.start()
    return stop


def _keep(settings: Settings, children: dict[str, processes.Child], open_browser: bool, key_args: list[str]) -> None:
    """Start the gateway and the control process, again when one has died."""
    host, dashboard = settings.host, urls(settings)[1]
    wanted = {
        "gateway": [
            *("--routes", str(settings.routes_file), "--journal", str(settings.journal)),
            *("--host", host, "--port", str(settings.port), "--dashboard", dashboard),
            *key_args,
        ],
        "control": ["--project", str(settings.root), *(["--open"] if open_browser and not children else [])],
    }
    modules = {"gateway": "trimtab.gateway", "control": "trimtab.web"}
    for name, args in wanted.items():
        child = children.get(name)
        if child is not None and child.alive():
            continue
        if child is not None:
            log.warning("%s ended with %s: starting it again", name, child.process.returncode)
            child.stop()
            time.sleep(RESTART_SECONDS)
        try:
            children[name] = processes.start(modules[name], *args, log=settings.logs / f"{name}.log")
        except EngineError as error:
            if child is None:
                raise
            log.error("%s is tried again: %s", name, error)  # the others go on meanwhile
            continue
        if child is None:
            print(f"{name:8} {'http://' + children[name].ready['address']}", flush=True)


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
    price = prices.of(version.spec.base.name, fleet.loaded.project.model)
    entity = ServedEntity(
        model=version.spec.model,
        version=version.version,
        address=address,
        template=template,
        api_key=key,
        price=None if price is None else msgspec.structs.asdict(price),
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
    fleet.control.set_engine(
        EngineState.model_validate(
            {"model": engine.entity.model, "version": engine.entity.version, "state": state, "at": utc_now()}
        )
    )


def _replace(path: Path, text: str) -> None:
    """Write a file that only its owner reads (it names engine keys), atomically."""
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(json.loads(text)))
    temporary.replace(path)
