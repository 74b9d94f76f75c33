"""Evidence for others: the audit log, which anybody can check without us, and the model card."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trimtab.cli import show
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import Corrupt, Fixable

if TYPE_CHECKING:
    from trimtab.store.audit import Entry


def verify(
    project: Folder = Path(),
    file: Annotated[Path | None, typer.Option(help="Check this export instead: no project is needed.")] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoints kept elsewhere, such as an anchor's file: the log must contain them."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Verifier key (`trimtab audit key`); needed with --file.")] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=0, help="Also hold this many of the newest answered rows against their seals; 0: all."),
    ] = None,
) -> None:
    """Prove that no decision, approval, alias move or traffic change was edited, removed or reordered. Works offline.

    Exit code 0 with the count; 4 with every fault. A checkpoint kept elsewhere rules out that the whole log was written
    anew or cut off at its end.
    """
    from trimtab.store import audit, verify_audit

    notes = [note for path in checkpoint or [] for note in verify_audit.notes_of(_text(path))]
    if file is not None:
        if key is None or not notes:
            raise Fixable("an export proves nothing by itself", "pass --checkpoint FILE and --key KEY, too")
        entries, faults = _exported(file)
        faults = faults or audit.verify(entries, notes, key)
    else:
        settings, control = recorded(project)
        entries, faults = control.audit_entries(), control.audit_faults()
        if rows is not None:
            from trimtab import project as named
            from trimtab.store import seals

            faults += seals.faults(settings, control, named.model_name(project), rows)
        faults += audit.verify(entries, notes, key or control.signer.verifier_key) if notes else []
    if faults:
        for fault in dict.fromkeys(faults):
            show.say(fault, "red")
        raise Corrupt(f"the audit log has {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    show.say(f"{len(entries)} entries, whole")
    show.then("`trimtab audit checkpoint > FILE`, kept elsewhere; pass it with --checkpoint next time")


def checkpoint(project: Folder = Path()) -> None:
    """Print the newest checkpoint, the log's signed size and root: keep it where the database's owner cannot change it.

    `evidence.anchor` in trimtab.yaml does that by itself: an MLflow tag, a file, a webhook.
    """
    _, control = recorded(project)
    newest = control.newest_checkpoint()
    if newest is None:
        raise Fixable("nothing has been decided here yet", "run `trimtab register`, then `trimtab up`")
    typer.echo(newest[1], nl=False)
    show.then("`trimtab audit verify --checkpoint FILE` later")


def key(project: Folder = Path()) -> None:
    """Print the key that checks this project's checkpoints. It is no secret: give it to whoever will verify."""
    _, control = recorded(project)
    typer.echo(control.signer.verifier_key)
    show.then("`trimtab audit bundle`")


def export(project: Folder = Path()) -> None:
    """Print the whole log as JSON Lines, for an auditor who has nothing but the file, a checkpoint and the key."""
    _, control = recorded(project)
    for entry in control.audit_entries():
        typer.echo(entry.model_dump_json())
    show.then("`trimtab audit verify --file FILE --checkpoint FILE --key KEY`, on any machine")


def bundle(
    out: Annotated[Path, typer.Argument(help="The zip file to write.")],
    project: Folder = Path(),
    first: Annotated[datetime | None, typer.Option("--from", help="Start of the period (UTC).")] = None,
    last: Annotated[datetime | None, typer.Option("--to", help="End of the period (UTC).", show_default="now")] = None,
) -> None:
    """Write a period's entries with their proofs, the guidelines in force, all cards and a verifier: one signed file.

    The verifier checks that the guidelines are those that the entries name. Cards are made from the records.
    """
    _, control = recorded(project)
    from trimtab import lifecycle

    begin, end = first or datetime(1970, 1, 1), last or datetime.now(UTC).replace(tzinfo=None)
    count = lifecycle.write_bundle(control, begin.replace(tzinfo=UTC), end.replace(tzinfo=UTC), out)
    show.say(f"{count} entries with their proofs in {out}")
    show.then(f"unzip {out} verify_audit.py, then `python verify_audit.py --key KEY {out}` on any machine")


def card(
    project: Folder = Path(),
    version: Annotated[int | None, typer.Option(min=1, help="Which version.", show_default="the champion")] = None,
    kind: Annotated[
        Literal["system", "data"], typer.Option(help="Of the system, or of the data it learned.")
    ] = "system",
) -> None:
    """Print a version's system card (headings of Annex IV) or data card as Markdown, all of it from the record.

    The same records give the same bytes. Both begin with the metadata that Hugging Face reads.
    """
    settings, loaded = opened(project)
    from trimtab import lifecycle

    make = lifecycle.card if kind == "system" else lifecycle.data_card
    typer.echo(make(settings, loaded, version), nl=False)
    show.then("`trimtab audit export` for the evidence behind it")


def explain(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Its id: x-request-id of the answer, or yours.")],
    project: Folder = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Explain one answer: the version that gave it, its prompt, who let it live, guards, the nearest training rows."""
    settings, control = recorded(project)
    from trimtab import lifecycle

    found = lifecycle.explain(settings, control, request)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        move, decided = found.live_since, found.decision
        since = f"{show.moment(move.at)} UTC by {move.actor}: {move.reason}" if move else "unknown"
        rows = [
            ("asked", f"{show.moment(found.asked_at)} UTC, route {found.route}"),
            ("question", found.question or "erased or none"),
            ("answer", found.answer or "erased or none"),
            ("outcome", found.outcome),
            ("version", f"{found.version}, {found.base}, spec {found.spec_sha256[:12]}"),
            ("prompt", found.prompt),
            ("live since", since),
            ("decision", f"{decided.outcome} {decided.key}: {' '.join(decided.reasons)}" if decided else "none"),
            ("mitigations", "; ".join(found.mitigations) or "none"),
            ("guards", ", ".join(found.guards) or "none"),
            ("they found", "; ".join(found.guard_events) or "nothing"),
            ("guidelines", found.guidelines_sha256[:12] or "none"),
            *((f"like it {near.likeness:.2f}", f"{near.text} -> {near.label}") for near in found.nearest),
            *(("missing", line) for line in found.missing),
        ]
        show.table("", "", rows=rows)
    show.then("`trimtab card` for the version, `trimtab audit verify` for the record")


def _text(path: Path) -> str:
    """A checkpoint file. Raises Fixable when it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Fixable(f"cannot read {path}: {error}", "name a file that `trimtab audit checkpoint` wrote") from None


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
