"""Evidence: forget somebody, hold what must be kept, apply the schedule, keep protected attributes apart."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli import show
from trimtab.cli.loop import user
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import Fixable

if TYPE_CHECKING:
    from trimtab.lifecycle.erasure import Plan

Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="Whose requests, as `evidence.subject` tells them.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")]


def erase(
    subject: Annotated[
        str | None, typer.Argument(metavar="[SUBJECT]", help="Whose requests, as `evidence.subject` tells them.")
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", help="Instead: an x-request-id, or a client_request_id, of theirs.")
    ] = None,
    project: Folder = Path(),
    yes: Yes = False,
    dry_run: DryRun = False,
    later: Annotated[bool, typer.Option("--later", help="Only record that it was asked for.")] = False,
) -> None:
    """Forget one subject: their key, texts, identity, feedback, rows in datasets. It shows what it reaches, and asks.

    The rows' metadata stays until `trimtab retention` deletes it, and the audit log keeps its proofs and a signed
    tombstone. Versions trained on the rows are named: a model cannot unlearn, only be replaced. A request that does not
    say whose it was is erased alone.
    """
    if (subject is None) == (request is None):
        raise Fixable("whom to forget is not said, or said twice", "give a subject, or --request ID")
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.lifecycle import erasure, rows
    from trimtab.records.record import utc_now

    where = rows.here(settings)
    with show.working("looking…"):
        if request is not None:
            planned = erasure.plan_request(settings, loaded, control, request, where)
        else:
            planned = erasure.plan(settings, loaded, control, subject or "", where)
    if request is not None:
        show.say(f"request {request} is of {planned.subject}" if planned.subject else "nobody is named: the row alone")
    if later:
        erasure.ask(settings, loaded, control, planned.name, f"cli:{user()}", utc_now())
        show.say("the request is on record")
        show.then("the same with --dry-run instead of --later")
        return
    _tell(planned)
    if loaded.project.target.databricks is not None:
        from trimtab.databricks import erasing as workspace

        tables = " and ".join(workspace.reached(loaded.project))
        how = "run the job `erase` of `trimtab databricks schedule` with the same subject or request"
        show.say(f"not from here: the workspace's tables {tables}; {how}")
    if planned.held:
        fix = f"lift it with `trimtab hold {quote(planned.subject)} --lift`"
        raise Fixable(f"a legal hold stands: {planned.held}", fix)
    if not show.agreed("Erase this for good?", yes=yes, dry_run=dry_run):
        return
    with show.working("erasing…"):
        stone = erasure.erase(settings, loaded, control, planned, f"cli:{user()}", utc_now())
    show.say(f"erased {stone.rows} rows, {stone.feedback} pieces of feedback, {stone.journal_frames} journal frames")
    key = "the key is destroyed; " if stone.key_destroyed else ""
    show.say(f"{key}tombstone {stone.subject[:16]} is in the audit log")
    show.then("`trimtab audit verify`" + ("; retrain: versions above learned from the rows" if stone.versions else ""))


def _tell(planned: Plan) -> None:
    from trimtab.store import erasing

    versions = ", ".join(f"version {number}" for number in planned.versions) or "none"
    datasets = ", ".join(f"{count} in {name[:12]}" for name, count in planned.datasets.items()) or "none"
    rows = [
        ("rows", f"{len(planned.rows)}, {erasing.said(planned.rows)} with texts"),
        ("feedback", str(len(planned.feedback))),
        ("dataset rows", datasets),
        ("protected attributes", str(planned.attributes)),
        ("versions trained on the rows", versions),
    ]
    show.table("", "", rows=rows)


def hold(
    subject: Subject,
    project: Folder = Path(),
    reason: Annotated[str, typer.Option(help="Why; it stands in the record.")] = "not given",
    lift: Annotated[bool, typer.Option("--lift", help="End the hold.")] = False,
) -> None:
    """Set a legal hold on a subject: until it is lifted, neither `trimtab erase` nor `retention` touches their rows."""
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.lifecycle import erasure
    from trimtab.records.record import utc_now

    erasure.hold(settings, loaded, control, subject, lift=lift, reason=reason, by=f"cli:{user()}", now=utc_now())
    show.say(f"the hold on {subject} is {'lifted' if lift else 'set'}")
    show.then(f"`trimtab erase {quote(subject)} --dry-run`")


def retention(project: Folder = Path(), yes: Yes = False, dry_run: DryRun = False) -> None:
    """Apply evidence.retention: erase the content of old rows, delete rows that are older still. It shows, and asks.

    Run it from a timer with --yes. Rows under a legal hold stay, and so do rows that a clause of the guidelines
    (log.retention) asks to be kept longer.
    """
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.lifecycle import erasure
    from trimtab.records.record import utc_now

    now, (content_days, metadata_days) = utc_now(), erasure.kept_days(loaded)
    old = erasure.due(settings, loaded, control, now)
    kept = {days: "for good" if days is None else f"{days} days" for days in (content_days, metadata_days)}
    show.say(f"content is kept {kept[content_days]}: {len(old.content)} rows to empty")
    show.say(f"metadata is kept {kept[metadata_days]}: {len(old.metadata)} rows to delete")
    show.say(f"{old.held} rows stay because of a legal hold")
    if not (len(old.content) or len(old.metadata)):
        show.then("nothing is due")
        return
    if not show.agreed("Apply the schedule?", yes=yes, dry_run=dry_run):
        return
    erasure.retain(settings, loaded, control, old, f"cli:{user()}", now)
    show.then("`trimtab audit verify`")


def add(
    file: Annotated[Path, typer.Argument(help="CSV with a header: subject,attribute,value.")], project: Folder = Path()
) -> None:
    """Keep protected attributes from a CSV file, apart from everything else, for audits of fairness. They expire.

    No prompt and no training row can see them; who reads them, and what for, is in the audit log.
    """
    settings, _ = opened(project)
    from trimtab.records.record import utc_now
    from trimtab.store import attributes

    try:
        with file.open(newline="", encoding="utf-8") as opened_:
            rows = [(row["subject"], row["attribute"], row["value"]) for row in csv.DictReader(opened_)]
    except (OSError, UnicodeDecodeError, KeyError) as error:
        fix = "give a CSV file with the columns subject, attribute, value"
        raise Fixable(f"cannot read {file}: {error}", fix) from None
    count = attributes.write(settings, rows, utc_now())
    show.say(f"{count} values kept for {attributes.KEPT.days} days")
    show.then(f"delete {file}; `trimtab keys create NAME --scope attributes` for who may read them")


def read(
    attribute: Annotated[list[str], typer.Argument(help="Which attributes.")],
    purpose: Annotated[
        str, typer.Option(help="What for: needed, and stands in the audit log.", show_default=False)
    ] = "",
    project: Folder = Path(),
    requests: Annotated[
        bool, typer.Option("--requests", help="As CSV by request, for `trimtab fairness measure --groups`.")
    ] = False,
) -> None:
    """Print protected attributes as JSON Lines, by pseudonym.

    The read is in the audit log before the first line, and so is one that was refused.
    TRIMTAB_ATTRIBUTES_KEY holds the secret of an API key with the scope attributes. An audit needs no file of them:
    trimtab attributes read gender --purpose audit --requests | trimtab fairness measure --groups /dev/stdin
    """
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.records.record import utc_now
    from trimtab.store import attributes
    from trimtab.store.drain import drain

    if requests:
        drain(settings)
    secret, model = os.environ.get("TRIMTAB_ATTRIBUTES_KEY", ""), loaded.project.name
    found = attributes.read(settings, control, model, secret, tuple(attribute), purpose, f"cli:{user()}", utc_now())
    if requests:
        out = csv.DictWriter(sys.stdout, ["id", *attribute], restval="", lineterminator="\n")
        out.writeheader()
        out.writerows({"id": request, **values} for request, values in attributes.by_request(settings, found).items())
    else:
        for subject, values in found.items():
            typer.echo(json.dumps({"subject": subject, **values}, ensure_ascii=False))
    show.then("`trimtab audit export` shows this read")
