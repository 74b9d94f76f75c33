"""The Undo dialog: says exactly what will happen, asks, does it, and says how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nicegui import run, ui

from trimtab.errors import Fixable, TrimtabError
from trimtab.records.registry import AliasMove
from trimtab.web import words
from trimtab.web.api import undo
from trimtab.web.pieces import box, named, text
from trimtab.web.place import Place
from trimtab.web.view import View

DEFAULT_REASON = "undone on the dashboard"


def undo_dialog(place: Place, latest: Sequence[View]) -> Callable[[], None]:
    """Build the dialog, closed. What is returned opens it for the move that `latest` (the view on show) would undo."""
    with ui.dialog() as dialog, named(box("card dialog"), "undo-dialog").props("role=document"):
        pass

    def ask() -> None:
        if not latest or latest[0].undo is None:
            return
        content.clear()
        with content:
            _question(place, latest[0], latest[0].undo, dialog)
        dialog.open()

    content = dialog.default_slot.children[0]
    return ask


def _question(place: Place, view: View, move: AliasMove, dialog: ui.dialog) -> None:
    before, after = words.version(move.before), words.version(move.after)
    text(f"Put {before} back?", "", "h2")
    text(f"{before.capitalize()} answers again instead of {after}.", "dialog-what")
    with box("", "ul"):
        text(f"New requests go to {before} as soon as its engine is loaded, within seconds.", "", "li")
        text(f"Requests in flight finish on {after}.", "", "li")
        if view.challenger is not None:
            text(f"The canary of version {view.challenger} ends.", "", "li")
        text(
            f"It takes back the move of {words.moment(move.at, view.at)} UTC by {move.actor}: {move.reason}.", "", "li"
        )
    why = ui.input("Why? It stands in the history.", placeholder=DEFAULT_REASON).classes("reason").props("outlined")
    problem = text("", "problem").props("role=alert")
    problem.set_visibility(False)
    with box("inline end"):
        cancel = text("Cancel", "button quiet", "button").on("click", lambda _: dialog.close())
        cancel.props("type=button")
        confirm = text(f"Put {before} back", "button danger", "button")
        named(confirm, "undo-confirm").props("type=button")

    async def act() -> None:
        confirm.props("disabled").set_text("Moving…")
        reason = (why.value or "").strip() or DEFAULT_REASON
        try:
            made = await run.io_bound(undo, place, move, actor="dashboard", reason=reason)
        except TrimtabError as error:
            fix = f" {error.fix.capitalize()}." if isinstance(error, Fixable) else " Look again, and decide anew."
            problem.set_text(f"{error}.{fix}")
            problem.set_visibility(True)
            confirm.set_visibility(False)
            return
        dialog.close()
        if made is not None:  # None: the server is stopping
            ui.notify(f"{words.version(made.after).capitalize()} is champion again.", type="positive", position="top")

    confirm.on("click", act)
