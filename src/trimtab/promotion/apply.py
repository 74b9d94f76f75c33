"""Move aliases and traffic: by compare-and-set, with a reason, into the audit log. Rollback takes the same path."""

from __future__ import annotations

from trimtab import registry
from trimtab.errors import Conflict, Fixable
from trimtab.records.promotion import Decision
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, ModelVersion, Traffic
from trimtab.settings import Settings
from trimtab.store.control import Control


def challenge(settings: Settings, control: Control, decision: Decision, actor: str) -> None:
    """Put a candidate beside the champion: alias `challenger`, no traffic yet. Done already: nothing happens."""
    before = control.alias(decision.model, "challenger")
    if before == decision.candidate:
        return
    move = _move(
        decision, "challenger", before, decision.candidate, actor, "passed every gate; loaded beside the champion"
    )
    control.move([move], _traffic(decision.model, None, 0.0, "before the first canary step"))
    registry.show_aliases(settings, control, decision.model)


def canary(control: Control, decision: Decision, percent: float) -> None:
    """Give the challenger its share of callers."""
    current = control.traffic(decision.model)
    if current and (current.version, current.percent) == (decision.candidate, percent):
        return
    control.put_traffic(
        _traffic(decision.model, decision.candidate, percent, f"canary step of decision {decision.key}")
    )


def promote(settings: Settings, control: Control, decision: Decision, actor: str, reason: str) -> None:
    """Make the candidate champion. Raises Conflict when the champion is not the one it was compared with."""
    if control.alias(decision.model, "champion") == decision.candidate:
        return
    moves = [
        _move(decision, "champion", decision.champion, decision.candidate, actor, reason),
        _move(decision, "challenger", decision.candidate, None, actor, "promoted"),
    ]
    control.move(moves, _traffic(decision.model, None, 0.0, "promoted"))
    registry.show_aliases(settings, control, decision.model)


def withdraw(settings: Settings, control: Control, decision: Decision, actor: str, reason: str) -> None:
    """Take the challenger out of traffic and drop its alias."""
    if control.alias(decision.model, "challenger") != decision.candidate:
        return
    move = _move(decision, "challenger", decision.candidate, None, actor, reason)
    control.move([move], _traffic(decision.model, None, 0.0, reason))
    registry.show_aliases(settings, control, decision.model)


def appointment(control: Control, model: str, version: int, *, actor: str, reason: str) -> AliasMove:
    """The move that would make a version of an MLflow model champion because somebody says so: no gate judges rows.

    Raises Fixable for a version that is not there, serves already, or is a language model's.
    """
    found, before = registry.get(control, model, version), control.alias(model, "champion")
    if found.spec.base.format != "pyfunc":
        raise Fixable(f"version {version} is a language model's: gates decide about it", "run `trimtab cycle run`")
    if before == version:
        raise Fixable(f"version {version} is the champion of {model} already", "see `trimtab history`")
    return AliasMove(
        model=model, alias="champion", before=before, after=version, at=utc_now(), actor=actor, reason=reason
    )


def appoint(settings: Settings, control: Control, move: AliasMove) -> None:
    """Make an `appointment`, now. Raises Conflict when the champion moved since it was drawn up."""
    control.move([move.model_copy(update={"at": utc_now()})])
    registry.show_aliases(settings, control, move.model)


def previous_champion(control: Control, model: str) -> AliasMove:
    """The move that a rollback would undo. Raises Fixable when there is no earlier champion."""
    current = control.alias(model, "champion")
    moves = [m for m in control.facts("alias_move", AliasMove, f"{model}/champion/") if m.after == current]
    if not moves or moves[-1].before is None:
        raise Fixable(f"{model} has no earlier champion to go back to", "see `trimtab history`")
    return moves[-1]


def rollback(
    settings: Settings, control: Control, model: str, *, actor: str, reason: str, shown: AliasMove | None = None
) -> AliasMove:
    """Make the champion before this one champion again. Raises Fixable or Conflict; returns the move it made.

    With `shown`, the move that a person was told would be taken back: Conflict when it is another one by now.
    """
    undone = previous_champion(control, model)
    if shown is not None and undone != shown:
        raise Conflict(f"the champion of {model} was moved meanwhile: nothing was changed")
    move = AliasMove(
        model=model,
        alias="champion",
        before=undone.after,
        after=undone.before,
        at=utc_now(),
        actor=actor,
        reason=reason,
        decision=undone.decision,
    )
    moves = [move]
    if (challenger := control.alias(model, "challenger")) is not None:
        moves.append(move.model_copy(update={"alias": "challenger", "before": challenger, "after": None}))
    control.move(moves, _traffic(model, None, 0.0, reason))
    registry.show_aliases(settings, control, model)
    return move


def guard(settings: Settings, control: Control, version: ModelVersion, *, actor: str, reason: str) -> None:
    """Make a version champion that differs from the champion by its guards alone. Raises Conflict when the champion
    moved meanwhile. A canary ends: it was compared with the champion before."""
    model = version.spec.model
    move = AliasMove(
        model=model,
        alias="champion",
        before=version.parent,
        after=version.version,
        at=utc_now(),
        actor=actor,
        reason=reason,
    )
    moves = [move]
    if (challenger := control.alias(model, "challenger")) is not None:
        moves.append(move.model_copy(update={"alias": "challenger", "before": challenger, "after": None}))
    control.move(moves, _traffic(model, None, 0.0, reason))
    registry.show_aliases(settings, control, model)


def expect_champion(control: Control, decision: Decision) -> None:
    """Raises Conflict when the champion moved since the decision compared against it."""
    now = control.alias(decision.model, "champion")
    if now not in (decision.champion, decision.candidate):
        raise Conflict(f"the champion is version {now} by now, not {decision.champion}: compare again")


def expect_challenger(control: Control, decision: Decision) -> None:
    """Raises Conflict when the champion moved, or when the candidate is not the challenger any more."""
    expect_champion(control, decision)
    if control.alias(decision.model, "challenger") != decision.candidate:
        raise Conflict(f"version {decision.candidate} was taken out of its rollout meanwhile")


def _move(d: Decision, alias: str, before: int | None, after: int | None, actor: str, reason: str) -> AliasMove:
    return AliasMove(
        model=d.model, alias=alias, before=before, after=after, at=utc_now(), actor=actor, reason=reason, decision=d.key
    )


def _traffic(model: str, version: int | None, percent: float, reason: str) -> Traffic:
    return Traffic(model=model, version=version, percent=percent, at=utc_now(), reason=reason)
