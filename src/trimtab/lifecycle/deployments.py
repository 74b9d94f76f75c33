"""Deployments at a provider that are billed by the hour and that nobody needs any more."""

from __future__ import annotations

import logging

from trimtab import registry
from trimtab.errors import TrimtabError
from trimtab.records.lifecycle import Cycle, CycleEnd
from trimtab.records.promotion import Decision
from trimtab.records.record import utc_now
from trimtab.records.training import HostedDeployment, HostedRemoval
from trimtab.store.control import Control

log = logging.getLogger(__name__)


def remove(control: Control, model: str) -> list[str]:
    """Delete the deployments of candidates that were turned down; the names of those deleted.

    Turned down: rejected, rolled back by the canary, or in a cycle that ended before a decision. A candidate that is
    held keeps its deployment, to be looked at, say as a shadow; so does whatever an alias names, and a former champion,
    for a rollback. A removal is a fact, so it is made once. One that fails is logged and tried again with the next
    cycle: it is no reason to stop this one.
    """
    all_made = control.facts("hosted_deployment", HostedDeployment)
    if not all_made:
        return []
    cycles = {cycle.id for cycle in control.facts("cycle", Cycle) if cycle.model == model}
    ends = {end.cycle: end for end in control.facts("cycle_end", CycleEnd)}
    serving = _serving(control, model)
    removed = []
    for made in all_made:
        cycle = made.key.rpartition("/")[0]
        if cycle not in cycles or made.served in serving:
            continue
        reason = _reason(control.get("decision", made.key, Decision), ends.get(cycle))
        if not reason or control.get("hosted_removal", made.key, HostedRemoval) is not None:
            continue
        try:
            from trimtab.databricks import azure_deployments

            azure_deployments.delete(made.resource, made.name)
        except TrimtabError as error:
            log.warning("the deployment %s is not needed, and billed, and cannot be deleted: %s", made.name, error)
            continue
        control.put("hosted_removal", made.key, HostedRemoval(name=made.name, at=utc_now(), reason=reason))
        log.info("deleted the deployment %s: %s", made.name, reason)
        removed.append(made.name)
    return removed


def _reason(decision: Decision | None, end: CycleEnd | None) -> str:
    """Why nobody needs a candidate any more; empty while somebody may."""
    if decision is None:
        return "its cycle ended before a decision" if end is not None else ""
    if decision.outcome == "reject":
        return "its candidate was rejected"
    rolled_back = decision.outcome == "promote" and end is not None and end.outcome == "rolled_back"
    return "its candidate was rolled back by the canary" if rolled_back else ""


def _serving(control: Control, model: str) -> set[str]:
    """Bases of the versions that aliases name."""
    numbers = {control.alias(model, alias) for alias in registry.ALIASES} - {None}
    return {registry.get(control, model, number).spec.base.name for number in numbers if number is not None}
