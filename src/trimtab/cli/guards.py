"""Evidence: the guards of the file, what they would do with a text, and how well they have been measured to do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli import show
from trimtab.cli.fairness import place_of, told
from trimtab.cli.loop import user
from trimtab.cli.opening import Folder, opened, recorded, settings_of
from trimtab.errors import Fixable

if TYPE_CHECKING:
    from trimtab.records.guards import GuardSet

_NONE = ("no guards are declared", "add `guards: {checks: [{kind: pii}]}` to trimtab.yaml; see docs/guardrails.md")
_CLAUSES = ("guard.active",)
"""The checks that speak of guards."""


def list_(project: Folder = Path()) -> None:
    """List the guards of trimtab.yaml and the guidelines: what each looks for, where, and what it does."""
    _, loaded = opened(project)
    guards = loaded.guards
    if guards is None:
        show.say(_NONE[0])
        show.then(_NONE[1])
        return
    from trimtab.project import guarding
    from trimtab.responsible.guards import people

    rows: list[tuple[str, ...]] = []
    for guard in guards.checks:
        elsewhere = ", ".join(f"{place}: {action}" for place, action in guard.at.items())
        away = people.reason() if guard.kind == "names" else None
        given = ", ".join(f"{name}: {_short(value)}" for name, value in guard.params.items())
        rows.append(
            (
                guard.name,
                guard.kind,
                guard.direction,
                guard.action + (f" ({elsewhere})" if elsewhere else ""),
                f"{guard.on_error}, {guard.time_limit_ms:g} ms",
                away or given,
            )
        )
    show.table("guard", "kind", "looks at", "action", "when it fails", "settings", rows=rows)
    show.say(f"rows keep what is {guards.keep}; set {guards.hash[:12]}")
    for clause, guard in guarding.asked(loaded.project, loaded.guidelines).items():
        show.say(f"{guard.name}: from clause {clause} of the guidelines")
    show.then("`trimtab guards test TEXT` tries them; `trimtab guards apply` puts them live")


def test(
    text: Annotated[str, typer.Argument(help="What is said.")],
    project: Folder = Path(),
    output: Annotated[bool, typer.Option("--output", help="Judge it as an answer, not as a question.")] = False,
    route: Annotated[str, typer.Option(help="Path or route whose actions count.")] = "/v1/chat/completions",
) -> None:
    """Show what each guard of the file finds in a text, and what would go on. Nothing is asked and nothing is recorded.

    Without a project every kind of guard that needs no settings looks, in the shadow.
    """
    import msgspec

    from trimtab.responsible.guards import guard_set, topics

    declared = topics.fitted(_declared(project)) if (project / "trimtab.yaml").exists() else None
    if declared is None:
        kinds = ("pii", "secrets", "injection", "profanity")
        looking = guard_set.GuardSet([guard_set.Guard(kind, kind) for kind in kinds])
    else:
        looking = msgspec.convert(declared.model_dump(mode="json"), guard_set.GuardSet)
    direction: Any = "output" if output else "input"
    checks = guard_set.checks(looking, direction, route, route)
    judged = guard_set.judge(checks, direction, text)
    actions = {check.guard.name: check.action for check in checks}
    rows = [
        (event.name, actions[event.name], event.found or "nothing", f"{event.seconds * 1000:.3f} ms")
        for event in judged.events
    ]
    show.table("guard", "action", "found", "took", rows=rows)
    if judged.failed:
        show.say(f"{judged.failed} could not decide, and fails closed: the request ends with 503")
    elif judged.blocked:
        show.say(f"blocked by {judged.blocked.name}", style="red")
    else:
        show.say(f"goes on: {judged.text}")
    show.then("`trimtab guards card` says how often each guard is right; begin with action: shadow")


def apply(
    project: Folder = Path(),
    reason: Annotated[str, typer.Option(help="Why; it stands in the record.")] = "guards changed in trimtab.yaml",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
) -> None:
    """Put the guards of the file live: the champion with these guards is registered as a version and becomes champion.

    Nothing else about it changes, so no gate is asked, only the guidelines' clauses on guards: while one that blocks is
    not proved, it is refused before anything is asked (exit code 7). The move stands in the audit log, and `trimtab
    rollback` takes it back. A canary that runs meanwhile ends. Retraining takes the guards of the file along by itself.
    """
    _, loaded = opened(project)
    settings, control = recorded(project)
    from trimtab import registry
    from trimtab.lifecycle import compliance
    from trimtab.promotion import apply as moving
    from trimtab.records.record import utc_now
    from trimtab.responsible.guards import topics

    now = registry.champion(control, loaded.project.name)
    wanted = topics.fitted(loaded.guards, now.spec.labels)
    if wanted == now.spec.guards:
        show.say(f"version {now.version} has these guards already")
        return
    before, after = (_names(guards) for guards in (now.spec.guards, wanted))
    show.say(f"guards of {now.spec.model}, version {now.version}: {before}")
    show.say(f"would become: {after}")
    proposed = now.model_copy(update={"spec": now.spec.model_copy(update={"guards": wanted})})
    report = compliance.asked(settings, loaded, control, proposed, utc_now(), _CLAUSES)
    if dry_run:
        compliance.refuse(report)
    if not (report and report.open) and not show.agreed("Put them live?", yes=yes, dry_run=dry_run):
        return
    version = registry.register_guards(settings, loaded, control)
    if version.parent != now.version:  # registered before, on an earlier champion
        version = version.model_copy(update={"parent": now.version})
    compliance.admit(loaded, control, compliance.asked(settings, loaded, control, version, utc_now(), _CLAUSES))
    moving.guard(settings, control, version, actor=f"cli:{user()}", reason=reason)
    show.say(f"{now.spec.model} champion is version {version.version}")
    show.then("`trimtab status`; `trimtab rollback` takes it back")


def _names(guards: GuardSet | None) -> str:
    told = [f"{guard.name} ({guard.action})" for guard in guards.checks] if guards else []
    return ", ".join(told) or "none"


def audit(
    project: Folder = Path(),
    version: Annotated[int | None, typer.Option(min=1, help="Which version.", show_default="the champion")] = None,
) -> None:
    """Audit the guards of the file, and the judges of answers, as models are: PASS, FAIL or INSUFFICIENT for each.

    Each is put to 64 harmless sentences a language (English, Chinese) about every group of every axis; being stopped is
    the outcome, judged by the policy under `fairness` (exact intervals, McNemar's design, Holm). All of it goes to
    MLflow. Exit code 1 on FAIL. What they do to live traffic by group: `trimtab fairness measure`.
    """
    declared = _declared(project)
    if declared is None:
        raise Fixable(*_NONE)
    place = place_of(project, version)
    from trimtab.promotion import guard_audits
    from trimtab.responsible.guards import topics

    guards = topics.fitted(declared, place.version.spec.labels)
    assert guards is not None  # noqa: S101 (of a set a set is made)
    with show.working("asking every guard about everybody"):
        found = list(guard_audits.audit_all(place, guards))
    for one in found:
        told(one)
    for reason in guard_audits.left_out(guards):
        show.say(f"not audited: {reason}", "yellow")
    if any(one.verdict == "fail" for one in found):
        show.then(
            "change the guard (words, allow_words, threshold, find), or keep it in the shadow; pairs are in MLflow"
        )
        raise typer.Exit(1)
    show.then("the forest plots stand in MLflow, in the runs tagged rai.kind = guard")


def card(
    name: Annotated[str | None, typer.Argument(help="A kind of guard.", show_default="all")] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show how each guard was measured: recall, false blocks, by identity and variety of English, p50 and p99.

    The figures are written by benchmarks/responsible/guard_cards.py on public data; measure on your own before you
    block.
    """
    import json

    from trimtab.responsible.guards import cards

    every = cards.every()
    known = {key: value for key, value in every.items() if name is None or key.split(" ")[0] == name}
    if not known:
        raise Fixable(f"there is no card of {name}", f"use {', '.join(dict.fromkeys(k.split(' ')[0] for k in every))}")
    if json_:
        show.say(json.dumps(known, indent=1, ensure_ascii=False))
        return
    rows = [
        (
            key,
            _shares(one.get("recall")),
            _shares(one.get("false_blocks")),
            one.get("by_identity", {}).get("verdict", "not measured"),
            one.get("by_variety", {}).get("verdict", "not measured"),
            f"{one['milliseconds_1kb']['p50']:.3f} / {one['milliseconds_1kb']['p99']:.3f}",
        )
        for key, one in known.items()
    ]
    show.table("guard", "found", "false blocks", "by identity", "by variety", "ms p50 / p99 (1 kB)", rows=rows)
    show.then("`trimtab guards card pii --json` has every interval")


def _declared(project: Path) -> GuardSet | None:
    settings_of(project)
    return opened(project)[1].guards


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{len(value)} of them" if len(value) > 6 else ", ".join(map(str, value))
    return str(value)


def _shares(rows: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {row['k']}/{row['n']}" for name, row in (rows or {}).items()) or "not measured"
