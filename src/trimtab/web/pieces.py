"""The small parts that sections are made of: text, badges, tables, and a region that redraws only when it must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from trimtab.web import charts, words

T = TypeVar("T")
Cell = str | Callable[[], object]
"""A table cell: its text, or what draws it."""

TONES = {
    "pass": "good",
    "promote": "good",
    "promoted": "good",
    "advance": "good",
    "ready": "good",
    "cleared": "good",
    "fail": "bad",
    "reject": "bad",
    "rejected": "bad",
    "failed": "bad",
    "roll_back": "bad",
    "rolled_back": "bad",
    "open": "bad",
    "insufficient": "open",
    "stale": "open",
    "waived": "live",
    "hold": "open",
    "held": "open",
    "starting": "open",
    "running": "live",
    "champion": "live",
    "continue": "live",
    "challenger": "live",
}
"""How a verdict is coloured. Its word always stands there too."""
_SIGNS = {"good": "✓", "bad": "✕", "open": "?", "live": "●", "plain": ""}


def box(classes: str = "", tag: str = "div") -> Element:
    """An empty element."""
    return ui.element(tag).classes(classes)


def text(value: str, classes: str = "", tag: str = "div") -> TextElement:
    """Text, as text: markup in it is shown, not followed."""
    return TextElement(tag=tag, text=value).classes(classes)


def named(element: Element, name: str, label: str | None = None) -> Element:
    """Give an element the name that tests find it by, and the label that screen readers say."""
    element.mark(name)
    element.props["data-testid"] = name
    if label is not None:
        element.props["aria-label"] = label
    return element


def badge(word: str) -> TextElement:
    """A verdict: its word and sign, in its colour."""
    tone = TONES.get(word, "plain")
    return text(f"{_SIGNS[tone]} {word.replace('_', ' ')}".strip(), f"badge {tone}", "span")


def version(number: int | None) -> None:
    """A version with its dot of colour."""
    with box("version", "span"):
        if number is not None:
            box("dot", "span").style(f"background: {charts.colour(number)}").props("aria-hidden=true")
        text(words.version(number), "", "span")


def table(name: str, label: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table; on a narrow screen each row becomes a card with the columns' names in it."""
    with box("scroll"), named(box("grid-table", "table"), name, label):
        with box("", "thead"), box("", "tr"):
            for column in columns:
                text(column, "", "th").props("scope=col")
        with box("", "tbody"):
            for row in rows:
                with box("", "tr"):
                    for column, cell in zip(columns, row, strict=True):
                        _cell(column, cell)


def _cell(column: str, cell: Cell) -> None:
    with box("", "td") as element:
        element.props["data-label"] = column
        if isinstance(cell, str):
            text(cell, "", "span")
        else:
            cell()


def panel(title: str, note: str = "") -> Element:
    """A card with a heading; use it as a context."""
    card = box("card", "section")
    card.props["aria-label"] = title
    with card, box("card-head"):
        text(title, "", "h2")
        if note:
            text(note, "muted")
    return card


def more(summary: str) -> Element:
    """Something that opens on a click; use it as a context."""
    details = box("more", "details")
    with details:
        text(summary, "", "summary")
    return details


def region(draw: Callable[[T], object], classes: str = "") -> Callable[[T], None]:
    """A place that shows a value; it is drawn anew only when the value is another one."""
    place, shown = box(classes), list[T]()

    def show(value: T) -> None:
        if shown and shown[0] == value:
            return
        shown[:] = [value]
        place.clear()
        with place:
            draw(value)

    return show


def chart(title: str, note: str, name: str) -> Callable[[charts.Options, str], None]:
    """A picture with a heading; what is returned changes its options, and says in words why it is empty (or "")."""
    with panel(title, note), box("chart-place"):
        picture = ui.echart({"series": []}, renderer="svg").classes("chart")
        named(picture, name, title).props("role=img")
        empty = text("", "chart-empty")

    def show(options: charts.Options, why_empty: str) -> None:
        empty.set_text(why_empty)
        empty.set_visibility(bool(why_empty))
        if picture.options != options:
            picture.options.clear()
            picture.options.update(options)
            picture.update()

    return show
