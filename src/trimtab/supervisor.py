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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from trimtab import logs, processes, registry
from trimtab.errors import EngineError, Fixable, TrimtabError
from trimtab.project import Loaded
from trimtab.providers import ask, engine, openai, prices
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
GOLDEN_SECONDS = 120.0
"""Longest wait for an engine's answer to its golden prompt."""
HOSTED_SECONDS = 20.0
"""The same for a provider's: everything else waits with us, and it is asked again later."""
AGAIN, HOSTED_AGAIN = 10.0, 60.0
"""Seconds until a version that did not load is tried again, on an engine of ours and at a provider."""
SHOWING_SECONDS = 5.0
"""Longest wait, at the end, for MLflow to take the aliases; it may be away."""
DRAIN_SECONDS = 2.0
"""An engine that left the routes stops at the earliest after this, and not while it decodes."""


@dataclass
class _Engine:
    version: ModelVersion
    engine: engine.Engine
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
    fallback: tuple[int, ...] = ()
    """Versions to ask when the champion does not answer, in order."""
    shadow: int | None = None


def up(settings: Settings, loaded: Loaded, open_browser: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises EngineError when a process does not start at all, Fixable when the port is taken or half of TLS is missing.
    """
    _check_door(settings, loaded)
    logs.configure(level=logging.WARNING)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry.register_base(settings, loaded, show=False)
    control = Control(settings)
    fleet = _Fleet(settings, loaded, control, fallback=_fallback(settings, loaded, control))
    fleet.shadow = _shadow(settings, loaded, control)
    settings.runtime.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(settings.metrics, ignore_errors=True)  # the counts of a run; the books are in the lake
    keys_stop = _follow_keys(settings, loaded, control)
    _follow(fleet)
    children: dict[str, processes.Child] = {}
    keepers: list[threading.Thread] = []
    shown = (settings, control, loaded.project.name)  # nobody waits until MLflow is imported, or answers
    showing = threading.Thread(target=registry.show_aliases, args=shown, name="trimtab-aliases", daemon=True)
    showing.start()
    try:
        keepers += _open(settings, loaded, children, stopping, open_browser)
        while not stopping.wait(POLL_SECONDS):
            _follow_if_possible(fleet)
    finally:
        stopping.set()
        for keeper in keepers:
            keeper.join()
        gateways = [child for name, child in children.items() if name != "control"]
        for child in gateways:
            child.process.terminate()  # all at once: each finishes what it is answering
        for child in [*gateways, *filter(None, [children.get("control")])]:
            child.stop()
        for running in fleet.engines.values():
            _stop(fleet, running, "stopped")
        keys_stop()
        showing.join(SHOWING_SECONDS)
        for file in (settings.routes_file, settings.keys_file):
            file.unlink(missing_ok=True)
    return 0


def urls(settings: Settings) -> tuple[str, str]:
    """The gateway's and the dashboard's addresses."""
    return settings.gateway_url, f"http://{settings.host}:{settings.dashboard_port}"


def _fallback(settings: Settings, loaded: Loaded, control: Control) -> tuple[int, ...]:
    """The versions that `endpoint.fallback` names, registered: whatever answers a caller is a version."""
    bases = loaded.project.endpoint.fallback
    found = [registry.register_on(settings, loaded, control, base, "fallback of trimtab.yaml") for base in bases]
    return tuple(version.version for version in found)


def _shadow(settings: Settings, loaded: Loaded, control: Control) -> int | None:
    """The version that `endpoint.shadow` names. Raises Fixable when it is not registered, or has no price and a cap."""
    section = loaded.project.endpoint.shadow
    if section is None:
        return None
    if section.base is not None:
        version = registry.register_on(settings, loaded, control, section.base, "shadow of trimtab.yaml")
    else:
        version = registry.get(control, loaded.project.name, section.version or 0)
    base = version.spec.base.name
    if section.usd_per_day is not None and prices.of(base, loaded.project.model) is None:
        fix = "limit it by requests_per_day and tokens_per_day"
        raise Fixable(f"endpoint.shadow.usd_per_day: what {base} costs is not known", fix)
    return version.version


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


def _commands(settings: Settings, loaded: Loaded, open_browser: bool) -> dict[str, list[str]]:
    """Arguments of every process to keep; the first is the module."""
    workers = loaded.project.endpoint.workers
    gateway = [
        "trimtab.gateway",
        *("--routes", str(settings.routes_file), "--journal", str(settings.journal)),
        *("--host", settings.host, "--port", str(settings.port), "--dashboard", urls(settings)[1]),
        *("--metrics", str(settings.metrics)),
        *_key_args(settings, loaded),
        *(["--share-port"] if workers > 1 else []),
        *(["--tls-cert", str(settings.tls_cert), "--tls-key", str(settings.tls_key)] if settings.tls_cert else []),
    ]
    names = ["gateway", *(f"gateway-{number}" for number in range(1, workers))]
    wanted = {name: [*gateway, "--worker", str(number)] for number, name in enumerate(names)}
    wanted["control"] = ["trimtab.web", "--project", str(settings.root), *(["--open"] if open_browser else [])]
    return wanted


def _open(
    settings: Settings,
    loaded: Loaded,
    children: dict[str, processes.Child],
    stopping: threading.Event,
    open_browser: bool,
) -> list[threading.Thread]:
    """Start the gateway's workers and the control process, and a thread for each that keeps it running.

    A thread of its own: nothing else waits while one of them, or an engine, takes long to start. Raises EngineError
    when a gateway does not start at all; a control process that does not is tried again: callers are answered without.
    """
    commands = _commands(settings, loaded, open_browser)
    for name, command in commands.items():
        try:
            children[name] = _start_child(settings, name, command, stopping)
        except EngineError as error:
            if stopping.is_set():
                return []
            if name != "control":
                raise
            log.error("control is tried again: %s", error)
    keepers: list[threading.Thread] = []
    for name, command in commands.items():
        again = [word for word in command if word != "--open"]  # the browser is opened once
        arguments = (settings, name, again, children, stopping)
        keepers.append(threading.Thread(target=_keep, args=arguments, name=f"trimtab-{name}", daemon=True))
        keepers[-1].start()
    return keepers


def _keep(
    settings: Settings, name: str, command: list[str], children: dict[str, processes.Child], stopping: threading.Event
) -> None:
    """Start a process again whenever it has died, until `stopping`."""
    while not stopping.wait(POLL_SECONDS):
        child = children.get(name)
        if child is not None and child.alive():
            continue
        if child is not None:
            log.warning("%s ended with %s: starting it again", name, child.process.returncode)
            child.stop()
        if stopping.wait(RESTART_SECONDS):
            return
        try:
            children[name] = _start_child(settings, name, command, stopping)
        except EngineError as error:
            if stopping.is_set():
                return
            log.error("%s is tried again: %s", name, error)


def _start_child(settings: Settings, name: str, command: list[str], stopping: threading.Event) -> processes.Child:
    child = processes.start(*command, log=settings.logs / f"{name}.log", stopping=stopping)
    scheme = "https" if settings.tls_cert and name != "control" else "http"
    print(f"{name:9} {scheme}://{child.ready['address']}", flush=True)
    return child


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
    others = (*fleet.fallback, fleet.shadow)
    for version in dict.fromkeys(filter(None, (serving, champion, challenger, *others))):
        _ensure(fleet, version)
    share = traffic.percent if traffic and traffic.version == challenger and challenger in fleet.engines else 0.0
    _route(fleet, champion, challenger if share else None, share)
    _retire(fleet, {version for version in (champion, challenger, *others) if version is not None})


def _ensure(fleet: _Fleet, number: int) -> None:
    running = fleet.engines.get(number)
    if running is not None and running.engine.alive():
        _renew(fleet, running)
        return
    if running is not None:
        log.warning("the engine of version %s ended", number)
        fleet.engines.pop(number).engine.stop()
    if time.monotonic() < fleet.broken.get(number, 0.0):
        return
    model = fleet.loaded.project.name
    state = EngineState(model=model, version=number, state="starting", at=utc_now())
    fleet.control.set_engine(state)
    try:
        running = _start(fleet, registry.get(fleet.control, model, number))
    except TrimtabError as error:
        hosted = registry.get(fleet.control, model, number).spec.base.format == "hosted"
        fleet.broken[number] = time.monotonic() + (HOSTED_AGAIN if hosted else AGAIN)
        fleet.control.set_engine(state.model_copy(update={"state": "failed", "error": str(error), "at": utc_now()}))
        log.error("version %s does not serve: %s", number, error)
        return
    fleet.engines[number] = running
    child = running.engine.child
    pid = child.process.pid if child else None
    ready = {"state": "ready", "address": running.entity.address, "pid": pid, "at": utc_now()}
    fleet.control.set_engine(state.model_copy(update=ready))


def _start(fleet: _Fleet, version: ModelVersion) -> _Engine:
    settings, target = fleet.settings, fleet.loaded.project.target.local
    log_file = settings.logs / f"engine-{version.version}.log"
    opened = engine.start(settings, version.spec, log_file, target, fleet.loaded.project.providers)
    try:
        _prove(version, opened)
    except TrimtabError:
        opened.stop()
        raise
    names = {"model": version.spec.model, "version": version.version, "template": opened.template}
    price = prices.of(version.spec.base.name, fleet.loaded.project.model)
    guards = version.spec.guards
    names["guards"] = None if guards is None else guards.model_dump(mode="json") | {"sha256": guards.hash}
    names["price"] = None if price is None else msgspec.structs.asdict(price)
    return _Engine(version, opened, ServedEntity(**opened.upstream.model_dump(), **names))


def _renew(fleet: _Fleet, running: _Engine) -> None:
    """Put a provider's newest key or token into the routes. One that cannot be had leaves the last in place."""
    provider, upstream = running.engine.provider, running.engine.upstream
    if provider is None:
        return
    try:
        key = openai.key(upstream.name, provider, fleet.settings.root)
    except TrimtabError as error:
        if time.monotonic() > fleet.broken.get(running.entity.version, 0.0):
            log.warning("the last key stays in use: %s", error)
            fleet.broken[running.entity.version] = time.monotonic() + 60.0
        return
    if key != upstream.api_key:
        running.engine.upstream = upstream.model_copy(update={"api_key": key})
        running.entity = running.entity.model_copy(update={"api_key": key})


def _prove(version: ModelVersion, opened: engine.Engine) -> None:
    """Ask the golden prompt, or an MLflow model's own example. Raises EngineError when there is no answer."""
    if version.spec.base.format == "pyfunc" and opened.child is not None:
        if (example := opened.child.ready.get("golden")) is not None:
            ask.score(opened.upstream, example, GOLDEN_SECONDS)
        return
    wait = GOLDEN_SECONDS if opened.child else HOSTED_SECONDS
    ask.ask(opened.upstream, opened.template, [_golden(version)], parallel=1, timeout=wait, tries=1)


def _golden(version: ModelVersion) -> str:
    examples = version.spec.prompt.examples
    return examples[0].input if examples else "Hello, is anybody there?"


def _route(fleet: _Fleet, champion: int | None, canary: int | None, percent: float) -> None:
    """Write the routes file when it changes. A champion without an engine leaves the one before it in place."""
    before = fleet.routes.champion if fleet.routes else None
    running = fleet.engines.get(champion or 0) or fleet.engines.get(before.version if before else 0)
    entity = running.entity if running else before
    side = fleet.engines[canary].entity if canary is not None and canary != champion else None
    body = {
        "model": fleet.loaded.project.name,
        "champion": entity,
        "canary": side,
        "canary_percent": percent if side else 0.0,
        "endpoint": fleet.loaded.project.endpoint,
        "disclosure": fleet.loaded.project.endpoint.disclosure.by_path(fleet.loaded.project.name),
        "fallback": tuple(fleet.engines[n].entity for n in fleet.fallback if n in fleet.engines and n != champion),
        "shadow": fleet.engines[fleet.shadow].entity if fleet.shadow in fleet.engines else None,
    }
    routes = Routes(revision="", **body)
    revision = content_hash(routes)
    if fleet.routes is not None and fleet.routes.revision == revision:
        return
    fleet.routes = routes.model_copy(update={"revision": revision})
    _replace(fleet.settings.routes_file, fleet.routes.model_dump_json())


def _retire(fleet: _Fleet, wanted: set[int]) -> None:
    routed = {e.version for e in (fleet.routes.champion, fleet.routes.canary) if e} if fleet.routes else set[int]()
    for number, running in list(fleet.engines.items()):
        if number in wanted | routed:
            running.unrouted_since = None
        elif running.unrouted_since is None:
            running.unrouted_since = time.monotonic()
        elif time.monotonic() - running.unrouted_since > DRAIN_SECONDS and not _busy(running):
            del fleet.engines[number]
            _stop(fleet, running, "stopped")


def _busy(running: _Engine) -> bool:
    return running.engine.child is not None and ask.busy(running.entity.address, running.entity.api_key)


def _stop(fleet: _Fleet, running: _Engine, state: str) -> None:
    running.engine.stop()
    told = {"model": running.entity.model, "version": running.entity.version, "state": state, "at": utc_now()}
    try:
        fleet.control.set_engine(EngineState.model_validate(told))
    except Fixable as error:
        log.error("version %s has %s, unrecorded: %s", running.entity.version, state, error)


def _replace(path: Path, text: str) -> None:
    """Write a file that only its owner reads (it names engine keys), atomically."""
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(json.loads(text)))
    temporary.replace(path)
