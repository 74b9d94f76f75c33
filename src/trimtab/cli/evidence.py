"""Evidence for others: the audit chain, which anybody can check without us, and the model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli import show
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import Corrupt, Fixable

if TYPE_CHECKING:
    from trimtab.store.audit import Entry


def verify(
    project: Folder = Path(),
    file: Annotated[Path | None, typer.Option(help="Check this export instead: no project is needed.")] = None,
    pinned: Annotated[
        str | None,
        typer.Option("--head", help="A hash kept elsewhere (`trimtab audit head`): it must be in the chain."),
    ] = None,
) -> None:
    """Prove that no decision, approval, alias move or traffic change was edited, removed or reordered. Works offline.

    Exit code 0 with the count and the head's hash; 4 with every fault. Compare with a head kept elsewhere to rule out
    that the whole chain was written anew.
    """
    from trimtab.store import audit

    if file is not None:
        entries, faults = _exported(file)
        faults = faults or audit.verify(entries)
    else:
        _, control = recorded(project)
        entries = control.audit_entries()
        faults = audit.verify(entries, control.audited_facts())
    if pinned is not None and pinned not in {entry.hash for entry in entries}:
        faults.append(f"no entry has the hash {pinned}: the chain was cut or written anew")
    if faults:
        for fault in faults:
            show.say(fault, "red")
        raise Corrupt(f"the audit chain has {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    show.say(f"{len(entries)} entries, whole; head {_head(entries)}")
    show.then("keep the head's hash somewhere else, and pass it with --head next time")


def head(project: Folder = Path()) -> None:
    """Print the number and the hash of the newest entry: keep it where the database's owner cannot change it."""
    _, control = recorded(project)
    entries = control.audit_entries()
    show.say(f"{len(entries)} {_head(entries)}")
    show.then("`trimtab audit verify --head HASH` later")


def export(project: Folder = Path()) -> None:
    """Print the whole chain as JSON Lines, for an auditor who has nothing but the file."""
    _, control = recorded(project)
    for entry in control.audit_entries():
        typer.echo(entry.model_dump_json())
    show.then("`trimtab audit verify --file FILE`, on any machine")


def card(
    project: Folder = Path(),
    version: Annotated[int | None, typer.Option(min=1, help="Which version.", show_default="the champion")] = None,
) -> None:
    """Print the model card of a version, as Markdown: data, training, gates, fairness, limits, all from the record."""
    settings, loaded = opened(project)
    from trimtab import lifecycle

    typer.echo(lifecycle.card(settings, loaded, version))
    show.then("`trimtab audit export` for the evidence behind it")


def _head(entries: Sequence[Entry]) -> str:
    from trimtab.store.audit import GENESIS

    return entries[-1].hash if entries else GENESIS


def _exported(path: Path) -> tuple[list[Entry], list[str]]:
    """The entries of an export, and the lines that are none. Raises Fixable when it cannot be read."""
    from trimtab.store.audit import Entry

    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise Fixable(
            f"cannot read {path}: {error.strerror}", "name a file that `trimtab audit export` wrote"
        ) from None
    entries, faults = list[Entry](), list[str]()
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(Entry.model_validate(json.loads(line)))
        except (ValueError, RecursionError):
            faults.append(f"line {number} is not an audit entry")
    if not lines:
        faults.append("the file is empty")
    return entries, faults
