"""How the command line speaks: results on standard output, everything else (errors, next steps) on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimtab.errors import ConfigError, Fixable, TrimtabError

if TYPE_CHECKING:
    from rich.status import Status

FIRST_SECONDS = 5.0
"""Work that is done sooner says nothing to a log."""
EVERY_SECONDS = 15.0
"""Between two lines of progress in a log."""


def say(text: str, style: str = "") -> None:
    """A line of the result. Never wrapped, so that it can be searched and copied."""
    Console().print(Text(text, style=style), soft_wrap=True)


def then(text: str) -> None:
    """What to do next, after a success."""
    Console(stderr=True).print(Text.assemble(("Next: ", "bold green"), text), soft_wrap=True)


def table(*headers: str, rows: list[tuple[str, ...]]) -> None:
    """A table as wide as its content where nobody watches, as wide as the terminal where somebody does."""
    grid = Table(*headers, box=None, pad_edge=False, header_style="bold", show_header=any(headers))
    for row in rows:
        grid.add_row(*(Text(cell, overflow="fold") for cell in row))
    console = Console()
    if console.is_terminal:
        console.print(grid)
        return
    wide = Console(width=10_000)
    with wide.capture() as drawn:
        wide.print(grid)
    for line in drawn.get().splitlines():
        typer.echo(line.rstrip())  # Rich fills every line up to the longest


def fault(problem: ConfigError) -> None:
    """One fault of a file: its place, what is wrong, and the fix."""
    warning = ("warning: ", "yellow") if problem.severity == "warning" else ""
    place = Text.assemble((problem.where, "bold"), ": ", warning, str(problem))
    console = Console()
    console.print(place, soft_wrap=True)
    console.print(Text.assemble("    ", ("fix: ", "green"), problem.fix), soft_wrap=True)


def error(problem: TrimtabError) -> None:
    """The error that ended a command, and its fix."""
    place = f"{problem.where}: " if isinstance(problem, ConfigError) else ""
    console = Console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), place, str(problem)), soft_wrap=True)
    if isinstance(problem, Fixable):
        console.print(Text.assemble(("fix: ", "green"), problem.fix), soft_wrap=True)


def agreed(question: str, *, yes: bool = False, dry_run: bool = False) -> bool:
    """Whether what was just shown may be done: not in a dry run, else with `yes`, else when the person says so.

    Raises typer.Abort when they do not.
    """
    if dry_run:
        then("the same without --dry-run; nothing was changed")
        return False
    return yes or typer.confirm(question, abort=True)


class Lines:
    """Progress where nobody watches a terminal, such as a log: a plain line now and then, none of a quick command."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._next = time.monotonic() + FIRST_SECONDS

    def update(self, text: str) -> None:
        """Say where the work is, if it is time to."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_SECONDS
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def working(text: str) -> Iterator[Status | Lines]:
    """A line on standard error that shows that work goes on; its text can be updated. Where that is no terminal, a line
    after FIRST_SECONDS and then one every EVERY_SECONDS at most."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    with console.status(Text(text)) as status:
        yield status


def moment(at: datetime) -> str:
    """A time as people read it; all of ours are UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S")


def version(number: int | None) -> str:
    """A version as people read it."""
    return "none" if number is None else f"version {number}"
