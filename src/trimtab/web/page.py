"""The page: sections in the order of the lifecycle, kept up to date in place, and the one thing it can do: Undo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from nicegui import run, ui

from trimtab.errors import TrimtabError
from trimtab.web import charts, evidence, guidelines, sections
from trimtab.web.pieces import box, chart, named, region, text
from trimtab.web.place import Place
from trimtab.web.undo import undo_dialog
from trimtab.web.view import View

LOOK_SECONDS = 1.0
_STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
_ICON = (Path(__file__).parent / "icon.svg").read_text(encoding="utf-8")

_THEMES = {None: ("Theme: auto", True), True: ("Theme: dark", False), False: ("Theme: light", None)}
"""Dark or not (None: as the system has it): what the button says, and what comes next."""

Show = Callable[[View], None]


def mount(app: FastAPI, place: Place) -> None:
    """Put the page at / of an app."""
    title = f"{place.loaded.project.name} · Trimtab"

    @ui.page("/", title=title, dark=None)
    def dashboard() -> None:
        _build(place)

    ui.run_with(app, title=title, favicon=_ICON, language="en-US", tailwind=False, show_welcome_message=False)


def _build(place: Place) -> None:
    ui.add_head_html(f"<style>{_STYLE}</style>")
    says = _header(place)
    latest: list[View] = []
    ask_undo = undo_dialog(place, latest)
    with box("page", "main"):
        problem = region(_problem)
        shows = [*_present(ask_undo), *_pictures(), *_past()]

    async def look() -> None:
        try:
            view = await run.io_bound(place.look)
        except TrimtabError as error:
            problem(f"The records cannot be read: {error}")
            return
        if view is None:  # the server is stopping
            return
        problem("")
        latest[:] = [view]
        says(f"{view.at:%H:%M:%S} UTC")
        for show in shows:
            show(view)

    ui.timer(LOOK_SECONDS, look)


def _problem(said: str) -> None:
    if said:
        text(said, "problem").props("role=alert")


def _header(place: Place) -> Callable[[str], object]:
    dark = ui.dark_mode(None)
    with box("top", "header"), box("top-line"):
        ui.html(_ICON, sanitize=False).classes("logo").props("aria-hidden=true")
        text("Trimtab", "brand")
        text(place.loaded.project.name, "model", "h1")
        box("space")
        with box("clock").props('title="updated every second"'):
            box("pulse", "span").props("aria-hidden=true")
            clock = text("connecting", "", "span")
        theme = text(_THEMES[None][0], "button quiet", "button").props('type=button title="change the colours"')

    def change() -> None:
        dark.value = _THEMES[dark.value][1]
        theme.set_text(_THEMES[dark.value][0])

    theme.on("click", change)
    return clock.set_text


def _present(ask_undo: Callable[[], object]) -> list[Show]:
    """The champion, the figures, the loop and the alerts."""

    def draw_champion(live: sections.Live) -> None:
        sections.champion(live, ask_undo)

    start = region(_getting_started)
    with box("now"):
        champion = region(draw_champion, "card champion")
        line = _figures()
    with box("card", "section").props('aria-label="the loop"'):
        loop = region(sections.loop)
        progress = _progress()
    alerts = region(sections.alerts, "alerts")
    return [
        lambda view: start(view.gateway if view.champion is not None and not view.figures.requests else ""),
        lambda view: champion(sections.live_of(view)),
        lambda view: sections.figures(line, view),
        lambda view: loop(view.stages),
        progress,
        lambda view: alerts(view.alerts),
    ]


def _getting_started(gateway: str) -> None:
    if not gateway:
        return
    body = json.dumps({"input": "I was charged twice. Can I have my money back?"})
    with named(box("card start"), "getting-started"):
        text("No request yet. Send one:", "", "h2")
        text(f"curl {gateway}/predict -H 'content-type: application/json' -d '{body}'", "", "pre")
        text(f"OpenAI clients: base_url = {gateway}/v1", "muted")


def _figures() -> Callable[[str, str], object]:
    labels = {}
    with box("figures"):
        for name, heading in sections.FIGURES:
            with box("card figure"):
                text(heading, "figure-name", "h2")
                labels[name] = named(text("–", "figure-value"), name.replace(" ", "-"))
                labels[f"{name} note"] = text("", "muted")
    return lambda name, value: labels[name].set_text(value)


def _progress() -> Show:
    with named(box("progress"), "progress", "the running step") as place:
        said = text("", "progress-text")
        with box("track"):
            bar = box("track-fill")
    place.props("role=progressbar aria-valuemin=0 aria-valuemax=100")

    def show(view: View) -> None:
        progress = view.cycle.progress if view.cycle else None
        place.set_visibility(progress is not None)
        if progress is not None and said.text != sections.progress_text(progress):
            said.set_text(sections.progress_text(progress))
            bar.style(f"width: {progress.fraction:.1%}")
            place.props(f"aria-valuenow={progress.fraction * 100:.0f}")

    return show


def _pictures() -> list[Show]:
    traffic = chart("Traffic", "requests by version", "traffic-chart")
    with box("pair"):
        drift = chart("Input drift", "p-value of each window; below alpha, the texts have changed", "drift-chart")
        quality = chart("Quality", "share of right answers, by labels that came later", "quality-chart")
    return [
        lambda view: traffic(
            charts.traffic(view.traffic, view.history),
            "" if view.traffic.starts else "No request yet.",
        ),
        lambda view: drift(
            charts.drift(view.drift, view.monitor.input_drift.alpha if view.monitor.input_drift else 0.01),
            _no_drift(view),
        ),
        lambda view: quality(
            charts.quality(view.quality, view.monitor.quality.min if view.monitor.quality else 0.0), _no_quality(view)
        ),
    ]


def _no_drift(view: View) -> str:
    if view.drift:
        return ""
    section = view.monitor.input_drift
    if section is None:
        return "Not watched: trimtab.yaml has no monitor.input_drift."
    return (
        f"{view.figures.requests} of {2 * section.window} requests: the first {section.window} are the reference, "
        "the next are tested against it."
    )


def _no_quality(view: View) -> str:
    if view.quality:
        return ""
    if view.monitor.quality is None:
        return "Not watched: trimtab.yaml has no monitor.quality."
    return f"No label yet. Send what was right: POST {view.gateway}/feedback"


def _past() -> list[Show]:
    """The cycle with its evidence, the cycles before it, the guidelines, the history and the versions."""
    cycle = region(evidence.cycle)
    earlier = region(evidence.earlier)
    clauses = region(guidelines.clauses)
    history = region(sections.history)
    versions = region(sections.versions)
    text("Times are UTC. The same as JSON: /api/status. Nothing on this page comes from elsewhere.", "footer", "footer")
    return [
        lambda view: cycle(view.cycle.model_copy(update={"progress": None}) if view.cycle else None),
        lambda view: earlier(view.earlier),
        lambda view: clauses(guidelines.clauses_of(view)),
        lambda view: history(view.history),
        lambda view: versions(sections.Registered(view.versions, view.champion, view.challenger, view.engines)),
    ]
