"""A clause is PASS on evidence alone: take any piece away, or let it grow old, and it is PASS no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trimtab.records.guidelines import CHECKS, Clause, ComplianceReport, Drill, Guidelines, SignedWord
from trimtab.records.promotion import GateResult
from trimtab.responsible import checks, compliance_report
from trimtab.responsible.checks import Evidence, GroupGap, Guard, Measured
from trimtab.responsible.guards import cards
from trimtab.responsible.guards.cards import Recall

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PARAMETERS: dict[str, dict[str, Any]] = {
    "fairness.group": {"attribute": "dialect", "metric": "fpr"},
    "guard.active": {"guard": "pii", "action": "redact", "min_recall": 0.9},
    "quality": {"min": 0.8},
    "attest": {"by": ["dpo@example.org"]},
}


def clause(check: str, **changes: Any) -> Clause:
    body = {"id": "C-1", "text": "It is so.", "check": check, "with": PARAMETERS.get(check, {}), "maps": ["AIA-12"]}
    return Clause.model_validate(body | changes)


def gate(name: Any, **numbers: float) -> Measured:
    result = GateResult(
        gate=name, verdict="pass", test="t", n=200, value=None, limit="l", detail="It holds.", numbers=numbers
    )
    return Measured(result, NOW - DAY, "ab" * 32, "run1")


def word(kind: Any, about: Clause, **changes: Any) -> SignedWord:
    said = SignedWord(
        kind=kind, clause=about.id, clause_sha256=about.sha256, by="dpo@example.org", at=NOW - DAY, until=NOW + DAY,
        reason="seen",
    )  # fmt: skip
    return said.model_copy(update=changes)


WHOLE = Evidence(
    now=NOW,
    gates={
        "fairness": gate("fairness", gap_upper=0.05, flip_rate_upper=0.02),
        "quality": gate("quality", accuracy_candidate=0.9),
        "latency": gate("latency"),
    },
    groups=[GroupGap("dialect", "fpr", "pass", 400, 0.04, "Small.", NOW - DAY, "run2")],
    guards=[Guard("pii", "both", "redact", {}, "cd" * 32, recall=Recall(970, 1000, "card 97 of 100"))],
    answered=1000,
    sealed=1000,
    log_faults=[],
    log_size=40,
    lake_exists=True,
    drills=[Drill(kind=kind, at=NOW - DAY, by="ana", seen="it stopped") for kind in ("rollback", "kill_switch")],
    disclosure='AI-Disclosure: mode=machine-generated, model="desk"',
    card_gaps=[],
    card_sha256="ef" * 32,
    erasure_requests=3,
    erasures_open=[NOW - DAY],
    words=[word("attestation", clause("attest"))],
)
TAKEN_AWAY: dict[str, dict[str, Any]] = {
    "fairness.counterfactual": {"gates": {}},
    "fairness.group": {"groups": ()},
    "guard.active": {"guards": ()},
    "log.coverage": {"answered": 0},
    "log.integrity": {"log_faults": None},
    "log.retention": {"lake_exists": False},
    "oversight.drill": {"drills": [WHOLE.drills[0]]},
    "disclosure.header": {"disclosure": None},
    "card.complete": {"card_gaps": None},
    "quality": {"gates": {}},
    "latency": {"gates": {}},
    "attest": {"words": ()},
}
BROKEN: dict[str, dict[str, Any]] = {
    "fairness.group": {"groups": [replace(WHOLE.groups[0], verdict="fail")]},
    "guard.active": {"guards": [replace(WHOLE.guards[0], parameters={"at": {"champion": "shadow"}})]},
    "log.coverage": {"sealed": 990},
    "log.integrity": {"log_faults": ["entry 3 is missing"]},
    "log.retention": {"metadata_days": 90},
    "disclosure.header": {"disclosure": ""},
    "quality": {"gates": {"quality": gate("quality", accuracy_candidate=0.7)}},
    "erasure.backlog": {"erasures_open": [NOW - 31 * DAY]},
}


def test_every_check_has_parameters_and_a_function() -> None:
    assert checks.TABLE.keys() == CHECKS.keys() == TAKEN_AWAY.keys() | {"erasure.backlog"}


@pytest.mark.parametrize("check", CHECKS)
def test_pass_needs_evidence_that_is_there_and_holds(check: str) -> None:
    whole = checks.judge(clause(check), WHOLE)
    assert (whole.status, whole.blocks) == ("PASS", False), whole.reason
    assert whole.evidence
    assert all(proof.command for proof in whole.evidence)
    if check in TAKEN_AWAY:
        without = checks.judge(clause(check), replace(WHOLE, **TAKEN_AWAY[check]))
        assert (without.status, without.blocks) == ("INSUFFICIENT", True)
    if check in BROKEN:
        broken = checks.judge(clause(check), replace(WHOLE, **BROKEN[check]))
        assert (broken.status, broken.blocks) == ("FAIL", True)
        assert not checks.judge(clause(check, on_fail="warn"), replace(WHOLE, **BROKEN[check])).blocks


@pytest.mark.parametrize(
    ("recall", "status"),
    [
        (Recall(970, 1000, ""), "PASS"),
        (Recall(97, 100, "", ("de_tax_id",)), "INSUFFICIENT"),
        (Recall(29, 30, ""), "INSUFFICIENT"),
        (Recall(700, 1000, "", ("de_tax_id",)), "FAIL"),
        (None, "INSUFFICIENT"),
    ],
)
def test_a_guards_recall_is_judged_by_its_cards_interval(recall: Recall | None, status: str) -> None:
    known = replace(WHOLE, guards=[replace(WHOLE.guards[0], recall=recall)])
    found = checks.judge(clause("guard.active"), known)
    assert found.status == status
    assert recall is None or f"{recall.found} of {recall.of}" in found.reason


def test_a_card_speaks_of_a_guard_only_as_it_was_measured() -> None:
    emails = cards.recall("pii", {"find": ["email"]})
    assert emails is not None
    assert (emails.unmeasured, emails.found <= emails.of) == ((), True)
    unknown = cards.recall("pii", {"find": ["email", "spaceship"]})
    assert unknown is not None
    assert unknown.unmeasured == ("spaceship",)
    assert cards.recall("injection", {"model": False}) != cards.recall("injection", {"model": True, "threshold": 0.0})
    assert cards.recall("injection", {"threshold": 1.0}) is None
    assert cards.recall("topics", {"threshold": -1.0}) is None
    assert cards.recall("profanity", {}) is not None
    assert cards.recall("profanity", {"words": ["gizmo"]}) is None


def test_every_guard_has_a_whole_card() -> None:
    for name, card in cards.every().items():
        assert card["recall"], name
        assert card["false_blocks"], name
        assert card["by_identity"]["verdict"], name
        assert card["by_variety"]["verdict"], name
        assert card["milliseconds_1kb"].keys() >= {"p50", "p99"}, name


@pytest.mark.parametrize("check", ["fairness.counterfactual", "fairness.group", "quality", "latency"])
def test_old_evidence_goes_stale_and_an_old_failure_stays_one(check: str) -> None:
    aging = clause(check, evidence_max_age="12h")
    stale = checks.judge(aging, WHOLE)
    assert (stale.status, stale.blocks, stale.proved_at) == ("STALE", True, NOW - DAY)
    if check in BROKEN:
        assert checks.judge(aging, replace(WHOLE, **BROKEN[check])).status == "FAIL"


def test_a_drill_ages_and_nothing_to_erase_is_not_applicable() -> None:
    later = replace(WHOLE, now=NOW + 91 * DAY)
    assert checks.judge(clause("oversight.drill"), later).status == "STALE"
    nobody = replace(WHOLE, erasure_requests=0, erasures_open=())
    assert checks.judge(clause("erasure.backlog"), nobody).status == "NOT_APPLICABLE"
    chat = replace(WHOLE, labelled_task=False)
    assert checks.judge(clause("quality"), chat).status == "NOT_APPLICABLE"


def test_a_waiver_holds_for_this_very_clause_until_its_day_and_hides_nothing() -> None:
    broken, asked = replace(WHOLE, sealed=1), clause("log.coverage")
    waived = checks.judge(asked, replace(broken, words=[word("waiver", asked)]))
    assert (waived.status, waived.blocks, waived.until) == ("WAIVED", False, NOW + DAY)
    assert "1 of 1000" in waived.reason
    assert "dpo@example.org" in waived.reason
    for void in (
        word("waiver", asked, until=NOW),
        word("waiver", asked, clause_sha256=clause("log.coverage", text="It was so.").sha256),
        word("attestation", asked),
    ):
        assert checks.judge(asked, replace(broken, words=[void])).status == "FAIL"
    assert checks.judge(asked, replace(WHOLE, words=[word("waiver", asked)])).status == "PASS"


def test_only_the_named_person_may_attest() -> None:
    said = word("attestation", clause("attest"), by="intern@example.org")
    assert checks.judge(clause("attest"), replace(WHOLE, words=[said])).status == "INSUFFICIENT"


def test_a_periodic_clause_counts_at_a_promotion_while_its_period_lasts() -> None:
    weekly = clause("log.integrity", on=["weekly"])
    before = checks.judge(weekly, WHOLE)
    assert checks.kept(weekly, before, NOW, NOW + 6 * DAY) == before
    assert checks.kept(weekly, before, NOW, NOW + 8 * DAY) is None
    assert checks.kept(clause("log.integrity", on=["promote", "weekly"]), before, NOW, NOW + DAY) is None


def test_the_report_shows_words_apart_maps_places_and_judges_no_law() -> None:
    book = Guidelines.model_validate(
        {
            "system": "desk <1>",
            "owner": "o@example.org",
            "intended_use": {"purpose": "Sorts."},
            "clauses": [clause("attest").model_dump(by_alias=True)],
        }
    )
    findings = tuple(checks.judge(clause(check), WHOLE) for check in ("log.integrity", "attest"))
    report = ComplianceReport(
        model="desk", version=3, guidelines_sha256="aa", system="desk <1>", occasion="asked", at=NOW,
        findings=findings, log_size=40, log_root="cm9vdA==",
    )  # fmt: skip
    text, page = compliance_report.markdown(report, book), compliance_report.page(report, book)
    apart = text.index("Attested by people")
    assert text.index("40 entries, every checkpoint") < apart < text.index("Attested by dpo@example.org")
    assert "| EU AI Act, Regulation (EU) 2024/1689 | AIA-12 | C-1 PASS, C-1 PASS |" in text
    assert "compliant" not in (text + page).lower()
    assert "desk &lt;1&gt;" in page
    assert "<script" not in page
    assert ComplianceReport.model_validate_json(report.model_dump_json()) == report
