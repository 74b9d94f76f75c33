"""The canary: growing shares of callers, judged by a test that may be looked at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from trimtab import registry
from trimtab.errors import Conflict, EngineError, Unproved
from trimtab.evaluation.scorers import label_of
from trimtab.project import Loaded
from trimtab.promotion import apply, sequential
from trimtab.promotion.gather import Say
from trimtab.records.promotion import Decision, RolloutLook
from trimtab.records.record import utc_now
from trimtab.records.registry import LabelSet, Traffic
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.lake import AnyLake, Lake

LOOK_SECONDS = 2.0
"""Between two looks: each reads the lake, on the processors that answer."""


@dataclass(frozen=True)
class Endpoint:
    """What serves the versions, and where its answers are seen.

    `serve` makes it serve what the control database says, and returns when it does; `arrive` brings in the answers it
    gave since. Gateways follow by themselves, and `trimtab up` drains their journals.
    """

    lake: AnyLake
    serve: Callable[[], object] = lambda: None
    arrive: Callable[[], object] = lambda: None
    look_seconds: float = LOOK_SECONDS


def roll_out(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    decision: Decision,
    actor: str,
    say: Say,
    *,
    endpoint: Endpoint | None = None,
    admit: Callable[[], object] = lambda: None,
) -> bool:
    """Load the candidate beside the champion, give it growing shares, then promote it. False: rolled back.

    Interrupted, it goes on at the share that was set last. Raises EngineError when the candidate does not load,
    Conflict when the champion moved or a person ended the rollout meanwhile; then the candidate gets no traffic.
    `endpoint`: what serves the versions; by default this project's gateways. `admit` is asked before callers meet the
    candidate and before it becomes champion, and raises Unproved to end the rollout.
    """
    apply.expect_champion(control, decision)
    if control.alias(decision.model, "champion") == decision.candidate:
        return True
    looks = control.facts("rollout_look", RolloutLook, f"{decision.key}/")
    if harm := next((look for look in looks if look.verdict == "roll_back"), None):  # seen, and then interrupted
        apply.withdraw(settings, control, decision, actor, harm.reason)
        return False
    endpoint = endpoint or Endpoint(Lake(settings))
    try:
        admit()
        apply.challenge(settings, control, decision, actor)
        endpoint.serve()
        if not _passed(settings, loaded, control, decision, actor, say, endpoint):
            return False
        admit()
        apply.promote(settings, control, decision, actor, "passed every gate and every canary step")
        return True
    except (Conflict, Unproved) as stopped:
        apply.withdraw(settings, control, decision, actor, str(stopped))
        raise
    finally:
        endpoint.serve()


def _passed(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    decision: Decision,
    actor: str,
    say: Say,
    endpoint: Endpoint,
) -> bool:
    """Every step of the canary; False when a look called it back."""
    _wait_until_loaded(settings, control, decision, say)
    shares = [float(step.removesuffix("%")) for step in loaded.project.rollout.canary]
    set_already = control.traffic(decision.model)
    reached = set_already.percent if set_already and set_already.version == decision.candidate else 0.0
    for number, percent in enumerate(shares[:-1]):
        if percent < reached:
            continue
        apply.canary(control, decision, percent)
        endpoint.serve()
        look = _step(loaded, control, endpoint, decision, percent, _part(say, number, len(shares) - 1))
        if look.verdict == "roll_back":
            apply.withdraw(settings, control, decision, actor, look.reason)
            return False
    return True


def _wait_until_loaded(settings: Settings, control: Control, decision: Decision, say: Say) -> None:
    while True:
        apply.expect_challenger(control, decision)
        state = control.engines(decision.model).get(decision.candidate)
        if state and state.state == "ready":
            return
        if state and state.state == "failed":
            reason = f"version {decision.candidate} does not load: {state.error}"
            apply.withdraw(settings, control, decision, "rollout", reason)
            raise EngineError(reason)
        say(0.0, None, f"version {decision.candidate} is loading beside the champion (needs `trimtab up`)")
        time.sleep(LOOK_SECONDS / 4)


def _step(
    loaded: Loaded, control: Control, endpoint: Endpoint, decision: Decision, percent: float, say: Say
) -> RolloutLook:
    """Look until the step is decided. The counts run over all steps of this rollout; the step's own over this share."""
    section = loaded.project.rollout
    begun = _began(control, decision, None)
    step_begun = _began(control, decision, percent)
    labels = registry.get(control, decision.model, decision.candidate).spec.labels
    while True:
        apply.expect_challenger(control, decision)
        endpoint.arrive()
        rows = _judged(loaded, endpoint.lake, labels)
        canary = rows.filter(pl.col("model_version") == str(decision.candidate), pl.col("request_time") >= begun)
        champion = rows.filter(pl.col("model_version") == str(decision.champion), pl.col("request_time") >= begun)
        look = sequential.look(
            model=decision.model,
            candidate=decision.candidate,
            percent=percent,
            n_canary=canary.height,
            n_champion=champion.height,
            failures_canary=int(canary["failed"].sum()),
            failures_champion=int(champion["failed"].sum()),
            answered_in_step=canary.filter(pl.col("request_time") >= step_begun).height,
            step_requests=section.step_requests,
            alpha=section.alpha,
            now=utc_now(),
        )
        key = f"{decision.key}/{percent:g}/{look.n_canary}/{look.n_champion}/{look.failures_canary}"
        control.put("rollout_look", key, look)
        if look.verdict != "continue":
            return look
        done = canary.filter(pl.col("request_time") >= step_begun).height / section.step_requests
        say(min(1.0, done), None, f"{percent:g}% of callers: {look.reason}")
        time.sleep(endpoint.look_seconds)


def _began(control: Control, decision: Decision, percent: float | None) -> datetime:
    """When this candidate first got traffic, at any share or at `percent`."""
    mine = [t for t in control.facts("traffic", Traffic, f"{decision.model}/") if t.version == decision.candidate]
    return next(t.at for t in mine if percent is None or t.percent == percent)


def _judged(loaded: Loaded, lake: AnyLake, labels: LabelSet | None) -> pl.DataFrame:
    """Recent requests with `failed`: an error, an invalid answer, or one that a label has shown to be wrong.

    What a guard stopped is neither: it was meant to be stopped.
    """
    count = lake.count()
    quality = loaded.project.monitor.quality
    columns = ["row", "request_time", "model_version", "outcome", "output_text", "route"]
    rows = lake.sample(max(0, count - 5000), count, columns).filter(pl.col("route") != "shadow")
    known = lake.labelled(max(0, count - 5000)).select("row", "label")
    rows = rows.join(known, on="row", how="left").filter(~pl.col("outcome").is_in(["cancelled", "blocked"]))

    def failed(row: dict[str, str | None]) -> bool:
        if row["outcome"] != "ok" or labels is None:
            return row["outcome"] != "ok"
        answer = labels.parse(row["output_text"] or "")
        if answer is None:
            return True
        wanted = label_of(row["label"]) if row["label"] else {}
        fields = list(labels.fields) if quality is None or quality.field == "*" else [quality.field]
        return any(name in wanted and wanted[name] != answer[name] for name in fields)

    flags = [failed(row) for row in rows.select("outcome", "output_text", "label").to_dicts()]
    return rows.with_columns(pl.Series("failed", flags, dtype=pl.Boolean))


def _part(say: Say, number: int, of: int) -> Say:
    return lambda fraction, eta, text: say((number + fraction) / of, eta, text)
