"""Serve and watch: register the file's model, start everything, see what is live and what was."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trimtab.cli import show
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import ConfigError, Fixable

if TYPE_CHECKING:
    from trimtab.records.lifecycle import Progress
    from trimtab.records.monitor import DriftReport, Interval, QualityReport
    from trimtab.settings import Settings
    from trimtab.store.control import Control


def register(project: Folder = Path()) -> None:
    """Register what trimtab.yaml describes as a model version; the first one becomes champion.

    A version is everything that decides an answer: weights, adapter, prompt, examples, decoding, labels.
    """
    settings, loaded = opened(project)
    from trimtab import registry

    version = registry.register_base(settings, loaded)
    show.say(f"{version.spec.model} version {version.version}: {version.spec.base.name}, spec {version.spec.hash[:12]}")
    show.then("`trimtab up`")


def up(
    project: Folder = Path(),
    open_browser: Annotated[bool, typer.Option("--open", help="Open the dashboard in a browser.")] = False,
    anybody: Annotated[bool, typer.Option("--anybody", help="Serve other machines although no key is asked.")] = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(envvar="TRIMTAB_LOG_FORMAT", help="json: one object a line.")
    ] = "text",
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="TRIMTAB_TLS_CERT", help="PEM certificate chain: the gateway speaks TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="TRIMTAB_TLS_KEY", help="PEM key of the certificate.")] = None,
) -> None:
    """Start everything and keep it running: engine, gateway, monitors, schedule, dashboard. Ctrl-C stops it.

    Addresses come from TRIMTAB_HOST (127.0.0.1), TRIMTAB_PORT (8080) and TRIMTAB_DASHBOARD_PORT (8081).
    """
    given = {"TRIMTAB_LOG_FORMAT": log_format, "TRIMTAB_TLS_CERT": tls_cert, "TRIMTAB_TLS_KEY": tls_key}
    os.environ |= {name: str(value) for name, value in given.items() if value}  # for the processes it starts, too
    settings, loaded = opened(project)
    if loaded.project.endpoint.auth == "none" and not anybody and not _is_this_machine(settings.host):
        message = f"TRIMTAB_HOST {settings.host} is open to other machines, and endpoint.auth is none"
        raise Fixable(message, "write `endpoint: {auth: keys}` in trimtab.yaml, or say --anybody")
    if loaded.project.evidence.erasure == "subject_keys":
        from trimtab.store import key_places

        key_places.refuse_keys_apart(settings)
    from trimtab import supervisor

    show.then(f"send OpenAI requests to {_gateway(settings)}, and watch {_dashboard(settings)} or `trimtab status`")
    raise typer.Exit(supervisor.up(settings, loaded, open_browser=open_browser))


def _is_this_machine(host: str) -> bool:
    """Whether an address is heard on this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def status(project: Folder = Path()) -> None:
    """Show on one screen what is live, how it does, and what is going on."""
    from trimtab import project as file

    model = file.model_name(project)
    settings, control = recorded(project)
    rows = [
        ("model", model),
        ("champion", _champion(control, model)),
        ("canary", _canary(control, model)),
        *(("engine", line) for line in _engines(control, model)),
        ("drift", _drift(control, model)),
        ("quality", _quality(control, model)),
        *(("threshold", line) for line in _thresholds(control, model)),
        ("cycle", _cycle(settings, control)),
        ("gateway", _gateway(settings)),
        ("dashboard", _dashboard(settings)),
        *(("keys", f"{fault}; {fault.fix}") for fault in _keys(settings, project)),
    ]
    show.table("", "", rows=rows)
    show.then("`trimtab history` for what was live before")


def history(
    project: Folder = Path(),
    at: Annotated[
        str | None, typer.Option(help='A moment, e.g. "2026-10-03 14:05"; UTC unless it carries an offset.')
    ] = None,
) -> None:
    """Answer what was live when, and why: every move of an alias, who made it and for what reason. Times are UTC."""
    from trimtab import project as file

    model = file.model_name(project)
    moment = None if at is None else _moment(at)
    _, control = recorded(project)
    if moment is not None:
        show.say(_live_at(control, model, moment))
    else:
        from trimtab import registry

        moves = registry.history(control, model)
        rows = [
            (show.moment(m.at), m.alias, show.version(m.before), show.version(m.after), m.actor, m.reason)
            for m in moves
        ]
        show.table("time (UTC)", "alias", "from", "to", "by", "reason", rows=rows)
    show.then("`trimtab audit verify` to prove that this was not edited")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Fixable(f"--at {text!r} is not a time", 'write it as "2026-10-03 14:05"') from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _live_at(control: Control, model: str, at: datetime) -> str:
    move = control.alias_at(model, "champion", at)
    when = f"at {show.moment(at)} UTC"
    if move is None or move.after is None:
        return f"{when} no version of {model} was champion"
    decision = f"; decision {move.decision}" if move.decision else ""
    since = f"since {show.moment(move.at)} UTC, by {move.actor}: {move.reason}{decision}"
    return f"{when} {model} version {move.after} was champion, {since}"


def _champion(control: Control, model: str) -> str:
    move = control.alias_at(model, "champion", datetime.now(UTC))
    if move is None or move.after is None:
        return "none: run `trimtab register`"
    return f"version {move.after}, since {show.moment(move.at)} UTC ({move.reason})"


def _canary(control: Control, model: str) -> str:
    traffic = control.traffic(model)
    if traffic is None or traffic.version is None:
        return "none"
    return f"version {traffic.version} answers {traffic.percent:g}% of callers ({traffic.reason})"


def _engines(control: Control, model: str) -> list[str]:
    states = control.engines(model).values()
    lines = [f"version {e.version} {e.state} {e.address or ''} {e.error or ''}".strip() for e in states]
    return lines or ["none is running: `trimtab up`"]


def _drift(control: Control, model: str) -> str:
    from trimtab.records.monitor import DriftReport

    report: DriftReport | None = control.last("drift_report", DriftReport, f"{model}/")
    if report is None:
        return "not measured yet"
    new = "; ".join(", ".join(cluster.terms[:3]) for cluster in report.clusters)
    named = f"; new: {new}" if new else ""
    return f"{report.verdict}, p = {report.p_value:.2g}, n = {report.n_current}, {show.moment(report.at)} UTC{named}"


def _quality(control: Control, model: str) -> str:
    from trimtab.records.monitor import QualityReport

    report: QualityReport | None = control.last("quality_report", QualityReport, f"{model}/")
    if report is None:
        return "not measured yet"
    value = "too few labels" if report.value is None else _interval(report.value)
    return f"{report.verdict}, {report.metric} {value}, n = {report.n}, {show.moment(report.at)} UTC"


def _thresholds(control: Control, model: str) -> list[str]:
    """The newest window of each threshold that was judged, in the order they were first."""
    from trimtab.monitor.alerts import amount
    from trimtab.records.threshold import ThresholdReport

    champion = control.alias(model, "champion")
    reports = control.facts("threshold_report", ThresholdReport, f"{model}/{champion}/", limit=200)
    newest = {report.threshold.text: report for report in reports}
    said = {"breach": "breach", "ok": "ok", "insufficient": "not enough evidence"}
    lines: list[str] = []
    for text, report in newest.items():
        share = f", {report.value.low:.2%} to {report.value.high:.2%} exceed" if report.value else ""
        lines.append(
            f"{text}: {said[report.verdict]}, {amount(report)}{share}, n = {report.n}, {show.moment(report.end)} UTC"
        )
    return lines


def _interval(value: Interval) -> str:
    return f"{value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _cycle(settings: Settings, control: Control) -> str:
    from trimtab.records.lifecycle import CycleEnd

    progress = running(settings)
    if progress is not None:
        return progress_line(progress)
    ends = control.facts("cycle_end", CycleEnd, limit=1)
    return f"none is running; the last one: {ends[0].outcome}, {ends[0].summary}" if ends else "none has run"


def running(settings: Settings) -> Progress | None:
    """What the running cycle does right now, or None."""
    from trimtab.records.lifecycle import Progress

    try:
        return Progress.model_validate_json(settings.progress_file.read_bytes())
    except (OSError, ValueError):  # absent, or written by another release
        return None


def progress_line(progress: Progress) -> str:
    """The running step as people read it."""
    left = "" if progress.eta_seconds is None else f", about {progress.eta_seconds:.0f} s left"
    text = f": {progress.text}" if progress.text else ""
    return f"{progress.cycle} attempt {progress.attempt}, {progress.step} {progress.fraction:.0%}{left}{text}"


def _keys(settings: Settings, folder: Path) -> list[ConfigError]:
    """What is wrong with where the keys to payloads lie. A faulty file says nothing of it."""
    from trimtab import project as file
    from trimtab.store import key_places

    try:
        return key_places.faults(settings, file.load(folder).project)
    except ConfigError:
        return []


def _gateway(settings: Settings) -> str:
    return f"{settings.gateway_url}/v1"


def _dashboard(settings: Settings) -> str:
    return f"http://{settings.host}:{settings.dashboard_port}"
