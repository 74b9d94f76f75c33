"""Evidence: guidelines held against the records, signed words of people, drills of oversight."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trimtab.cli import show
from trimtab.cli.loop import user
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import Fixable, Unproved

if TYPE_CHECKING:
    from trimtab.records.guidelines import SignedWord

Clause = Annotated[str, typer.Argument(metavar="CLAUSE", help="The clause, e.g. BIAS-01.")]
By = Annotated[str, typer.Option("--by", help="Who signs, as `people` in the guidelines names them.")]
Key = Annotated[Path, typer.Option("--key", help="That person's private key (`trimtab compliance key`).")]
Until = Annotated[str, typer.Option("--until", help="Last day on which it holds, e.g. 2026-12-31.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the record.")]


def report(
    context: typer.Context,
    project: Folder = Path(),
    version: Annotated[int | None, typer.Option(min=1, help="Which version.", show_default="the champion")] = None,
    clause: Annotated[list[str] | None, typer.Option(help="Only this clause; again for more.")] = None,
    form: Annotated[
        Literal["table", "json", "html", "markdown"], typer.Option("--format", help="How it is printed.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="Write it to this file instead.")] = None,
    keep: Annotated[bool, typer.Option("--record", help="Keep it as a fact, and in the audit log.")] = False,
) -> None:
    """Hold the guidelines against the records: PASS, FAIL, INSUFFICIENT, STALE, WAIVED or NOT_APPLICABLE, each why.

    Exit code 7 while a clause that blocks promotions is not proved. It says what was found and on what evidence; it
    never says that a law or a standard is met.
    """
    if context.invoked_subcommand is not None:
        return
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab import registry
    from trimtab.lifecycle import compliance
    from trimtab.records.record import utc_now
    from trimtab.responsible import compliance_report as written

    model = loaded.project.name
    which = registry.get(control, model, version) if version else registry.champion(control, model)
    with show.working("gathering evidence…"):
        found = compliance.evaluate(settings, loaded, control, which, utc_now(), only=clause or ())
    if keep:
        compliance.record(loaded, control, found)
    assert loaded.guidelines is not None  # noqa: S101 (evaluate has refused a project without)
    if form == "table" and out is None:
        rows = [(f.clause, f.status, "blocked" if f.blocks else "", f.check, f.reason) for f in found.findings]
        show.table("clause", "status", "promotion", "check", "found", rows=rows)
    else:
        make = {"html": written.page, "markdown": written.markdown, "table": written.markdown}
        text = found.model_dump_json(indent=2) + "\n" if form == "json" else make[form](found, loaded.guidelines)
        if out is None:
            typer.echo(text, nl=False)
        else:
            out.write_text(text, encoding="utf-8")
            show.say(f"{len(found.findings)} clauses in {out}")
    if found.open:
        names = ", ".join(finding.clause for finding in found.open)
        raise Unproved(f"{len(found.open)} of {len(found.findings)} clauses block promotions: {names}")
    show.then("`trimtab compliance --format html --out report.html`, `trimtab audit bundle` for an auditor")


def key(
    by: Annotated[str, typer.Argument(help="Whose key, e.g. dpo@example.org.")],
    out: Annotated[Path, typer.Option(help="File of the private key; made if it is not there.")],
) -> None:
    """Make a person's signing key (Ed25519), or show its public half: the line for `people` in the guidelines.

    The file is that person's alone: whoever has it can sign waivers in their name.
    """
    from trimtab.store import audit

    show.say(f"{by}: {audit.Signer(out, by).verifier_key}")
    show.then("write that line under `people:` in guidelines.yaml; keep the key file where only its owner reads it")


def waive(clause: Clause, by: By, key: Key, until: Until, reason: Reason, project: Folder = Path()) -> None:
    """Let promotions pass without a clause until a day, signed by a named person. The clause is shown as WAIVED.

    The waiver is bound to the clause as it stands: when its text, check or parameters change, it is void.
    """
    word = _signed("waiver", clause, by, key, until, reason, project)
    show.say(f"{clause} is waived by {by} until {word.until:%Y-%m-%d}")
    show.then("`trimtab compliance`")


def attest(clause: Clause, by: By, key: Key, until: Until, reason: Reason, project: Folder = Path()) -> None:
    """Give a named person's signed word for a clause that no machine can check. It is shown apart from the others.

    The word is bound to the clause as it stands, and ends on the day given.
    """
    word = _signed("attestation", clause, by, key, until, reason, project)
    show.say(f"{by} stands for {clause} until {word.until:%Y-%m-%d}")
    show.then("`trimtab compliance`")


def drill(
    kind: Annotated[Literal["rollback", "kill_switch"], typer.Argument(help="What was exercised.")],
    project: Folder = Path(),
    by: Annotated[str | None, typer.Option("--by", help="Who did it.", show_default="your user name")] = None,
) -> None:
    """Record that people just took the system back or stopped it. Trimtab looks first: nothing seen, nothing recorded.

    rollback: `trimtab rollback` ran in the last 24 hours. kill_switch: `trimtab up` was stopped and the gateway answers
    nobody right now.
    """
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.lifecycle import compliance
    from trimtab.records.record import utc_now

    held = compliance.drill(settings, control, loaded.project.name, kind, by or f"cli:{user()}", utc_now())
    show.say(f"{held.kind}: {held.seen}")
    show.then("`trimtab compliance`")


def _signed(
    kind: Literal["waiver", "attestation"], clause: str, by: str, key: Path, until: str, reason: str, project: Path
) -> SignedWord:
    _, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.lifecycle import compliance
    from trimtab.records.guidelines import SignedWord
    from trimtab.records.record import utc_now

    asked, now = compliance.clause_of(loaded, clause), utc_now()
    if (asked.check == "attest") != (kind == "attestation"):
        other = "attest" if asked.check == "attest" else "waive"
        if kind == "attestation":
            raise Fixable(f"{clause} is checked by a machine ({asked.check})", f"use `trimtab compliance {other}`")
    try:
        end = datetime.fromisoformat(until).replace(hour=23, minute=59, second=59, tzinfo=now.tzinfo)
    except ValueError:
        raise Fixable(f"--until {until!r} is not a day", "write it like 2026-12-31") from None
    if end <= now:
        raise Fixable(f"--until {until} is over", "name a day to come")
    word = SignedWord(kind=kind, clause=clause, clause_sha256=asked.sha256, by=by, at=now, until=end, reason=reason)
    return compliance.sign(control, loaded, word, key, now)
