"""Retrain and roll out: start a cycle by hand, let one pass, take one back."""

from __future__ import annotations

import getpass
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli import live, show
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import Fixable

if TYPE_CHECKING:
    from rich.status import Status

    from trimtab.project import Loaded
    from trimtab.records.training import DatasetVersion
    from trimtab.settings import Settings
    from trimtab.training.hosted import Plan

_NEXT = {
    "promoted": "`trimtab card` for what became champion, `trimtab rollback` if you regret it",
    "held": "`trimtab status` for what is missing; `trimtab approve` if it waits for you",
}


def run(
    project: Folder = Path(),
    reason: Annotated[str, typer.Option(help="Why now; it stands in the record.")] = "asked on the command line",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the data, and what a provider would be asked and paid.")
    ] = False,
    candidate: Annotated[
        int | None, typer.Option(min=1, help="Judge and roll out this registered version instead of training one.")
    ] = None,
) -> None:
    """Run one retraining cycle now: curate, train, judge, roll out. An interrupted cycle resumes where it stopped.

    The gates of trimtab.yaml apply; its brakes are for cycles that start by themselves. With --candidate nothing is
    trained: a version that was registered by hand or by `trimtab fairness mitigate` meets the same gates and canary.
    """
    settings, loaded = opened(project)
    from trimtab import lifecycle

    if dry_run:
        if candidate is not None:
            raise Fixable("--candidate trains nothing, so there is nothing to preview", "leave out one of the two")
        _preview(*lifecycle.dry_run(settings, loaded))
        return
    cycled(settings, loaded, reason, candidate)


def cycled(settings: Settings, loaded: Loaded, reason: str, candidate: int | None) -> None:
    """Run a cycle to its end, show its steps meanwhile, and say how it ended."""
    from trimtab import lifecycle

    with _watching(settings):
        end = lifecycle.run_now(settings, loaded, reason, candidate)
    show.say(f"cycle {end.cycle} {end.outcome}: {end.summary}")
    show.then(_NEXT.get(end.outcome, "`trimtab history`, and the dashboard for the evidence"))


def _preview(dataset: DatasetVersion, plan: Plan | None) -> None:
    left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(dataset.excluded.items())) or "none"
    show.say(f"data: {dataset.n_train} rows to train on, {dataset.n_holdout} held out; left out: {left_out}")
    if plan is not None:
        cost = "no price in retrain.hosted.price" if plan.usd is None else f"about {plan.usd:.2f} USD"
        show.say(f"upload to {plan.provider}: {plan.rows} rows, {plan.bytes} bytes, SHA-256 {plan.sha256}")
        show.say(f"job: {json.dumps(plan.request)}")
        show.say(f"cost: about {plan.tokens} tokens in {plan.epochs} epochs, {cost}")
        if plan.deployment is not None:
            show.say(f"deployment, billed by the hour until it is deleted: {json.dumps(plan.deployment)}")
    show.then("the same without --dry-run; nothing was sent or started")


def approve(
    cycle: Annotated[
        str | None, typer.Argument(help="The cycle that waits.", show_default="the one that waits")
    ] = None,
    project: Folder = Path(),
    actor: Annotated[str | None, typer.Option("--by", help="Who approves.", show_default="your user name")] = None,
) -> None:
    """Let a candidate that passed its gates go to its callers, where trimtab.yaml asks for a person's approval."""
    settings, loaded = opened(project)
    from trimtab import lifecycle

    who = actor or user()
    lifecycle.approve(settings, loaded, cycle, who)
    show.say(f"approved by {who}")
    show.then("`trimtab status` shows the canary's steps")


def promote(
    version: Annotated[int, typer.Argument(min=1, help="A registered version of an MLflow model.")],
    project: Folder = Path(),
    reason: Annotated[str, typer.Option(help="Why; it stands in the record.")] = "asked on the command line",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make a version of an MLflow model the champion. It shows what will happen, and asks.

    For models of rows (pyfunc) only: language models go through the gates of a cycle. It is refused, before anything is
    asked, while a blocking clause of the guidelines is not proved for the version (exit code 7). The engine starts
    beside the one that serves, answers its own example, and only then gets the requests; `trimtab rollback` takes it
    back.
    """
    settings, loaded = opened(project)
    _, control = recorded(project)
    from trimtab import registry
    from trimtab.lifecycle import compliance
    from trimtab.promotion import apply
    from trimtab.records.record import utc_now

    model = loaded.project.name
    move = apply.appointment(control, model, version, actor=f"cli:{user()}", reason=reason)
    found = registry.get(control, model, version)
    compliance.admit(loaded, control, compliance.asked(settings, loaded, control, found, utc_now()))
    show.say(f"{model} champion: {show.version(move.before)} -> {show.version(version)}")
    show.agreed("Promote?", yes=yes)
    apply.appoint(settings, control, move)
    show.say(f"{model} champion is {show.version(version)}")
    show.then("`trimtab status` says when its engine is ready; `trimtab rollback` takes it back")


def rollback(
    project: Folder = Path(),
    reason: Annotated[str, typer.Option(help="Why; it stands in the record.")] = "asked on the command line",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
) -> None:
    """Put the champion before this one back. It shows what will happen, and asks.

    New requests go to the earlier version at once; requests in flight finish on the one they began with. Works with a
    faulty trimtab.yaml too.
    """
    from trimtab import project as file

    model = file.model_name(project)
    settings, control = recorded(project)
    from trimtab.promotion import apply

    undone = apply.previous_champion(control, model)
    show.say(f"{model} champion: version {undone.after} -> version {undone.before}")
    show.say(f"takes back the move of {show.moment(undone.at)} UTC by {undone.actor}: {undone.reason}")
    challenger = control.alias(model, "challenger")
    if challenger is not None:
        show.say(f"ends the canary of version {challenger}")
    if not show.agreed("Roll back?", yes=yes, dry_run=dry_run):
        return
    move = apply.rollback(settings, control, model, actor=f"cli:{user()}", reason=reason)
    show.say(f"{model} champion is {show.version(move.after)}")
    show.then("`trimtab status`")


def user() -> str:
    """Who runs this command, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"


@contextmanager
def _watching(settings: Settings) -> Iterator[None]:
    """Show the running step while the body runs."""
    done = threading.Event()

    def follow(status: Status | show.Lines) -> None:
        while not done.wait(0.5):
            progress = live.running(settings)
            if progress is not None:
                status.update(live.progress_line(progress))

    with show.working("cycle starts…") as status:
        thread = threading.Thread(target=follow, args=(status,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
