"""Only complete, fresh, passing evidence promotes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trimtab.promotion.decide import decide
from trimtab.records.promotion import Decision, GateResult

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NAMES = ("quality", "fairness", "latency")


def gate(name: Any, verdict: Any) -> GateResult:
    return GateResult(gate=name, verdict=verdict, test="t", n=9, value=None, limit="l", detail=f"It is {verdict}.")


def decided(gates: list[GateResult], required: list[str], compared: int | None = 1, now: int | None = 1) -> Decision:
    return decide(
        key="k",
        model="m",
        candidate=2,
        champion_compared=compared,
        champion_now=now,
        gates=gates,
        required=required,
        now=NOW,
    )


def test_each_outcome_says_why() -> None:
    passed = [gate(name, "pass") for name in NAMES]
    assert decided(passed, list(NAMES)).outcome == "promote"
    assert decided(passed[:2], list(NAMES)).reasons == ("The latency gate has no result.",)
    weak = decided([*passed[:2], gate("latency", "insufficient")], list(NAMES))
    assert (weak.outcome, weak.reasons) == ("hold", ("The latency gate has too little evidence: It is insufficient.",))
    failed = decided([*passed[:1], gate("fairness", "fail")], list(NAMES))
    assert (failed.outcome, failed.reasons) == ("reject", ("The fairness gate failed: It is fail.",))
    moved = decided([*passed[:1], gate("fairness", "fail")], ["quality"], compared=1, now=None)
    assert moved.outcome == "hold"
    assert moved.reasons == ("The champion is unset now, but the comparison was with version 1.",)
    assert decided(passed, []).outcome == "hold"


def test_an_unproved_clause_holds_what_every_gate_let_pass_and_hides_no_failure() -> None:
    passed, failed = [gate("quality", "pass")], [gate("quality", "fail")]
    asked: dict[str, Any] = {
        "key": "k", "model": "m", "candidate": 2, "champion_compared": 1, "champion_now": 1, "required": ["quality"],
        "now": NOW, "unproved": ["Clause LOG-01 is FAIL."], "guidelines": "ab",
    }  # fmt: skip
    held = decide(gates=passed, **asked)
    assert (held.outcome, held.reasons, held.guidelines) == ("hold", ("Clause LOG-01 is FAIL.",), "ab")
    assert decide(gates=failed, **asked).outcome == "reject"
    assert decide(gates=passed, **asked | {"unproved": ()}).outcome == "promote"


GATES = st.lists(st.builds(gate, st.sampled_from(NAMES), st.sampled_from(["pass", "fail", "insufficient"])), max_size=5)
CHAMPIONS = st.none() | st.integers(1, 2)


@given(GATES, st.lists(st.sampled_from(NAMES), unique=True), CHAMPIONS, CHAMPIONS)
def test_promotion_needs_every_required_gate_and_the_champion_it_was_compared_with(
    gates: list[GateResult], required: list[str], compared: int | None, now: int | None
) -> None:
    decision = decided(gates, required, compared, now)
    verdicts = {name: {g.verdict for g in gates if g.gate == name} for name in NAMES}
    clean = all(verdicts[name] == {"pass"} for name in required) and not any(
        "fail" in seen for seen in verdicts.values()
    )
    assert (decision.outcome == "promote") == (clean and bool(required) and compared == now)
    assert (decision.outcome == "reject") == (compared == now and any("fail" in seen for seen in verdicts.values()))
    assert decision.reasons
    assert decision.gates == tuple(gates)
