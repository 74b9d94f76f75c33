"""Thresholds by group decide as Fairlearn's solution says, alike for the same question, and change nothing else."""

# fairlearn carries no types here:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest
from fairlearn.postprocessing import ThresholdOptimizer
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.responsible import mitigation, operating_points
from trimtab.responsible.mitigation import Parity

STEPS = st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 0.5)), max_size=2)
POINTS = st.builds(lambda start, steps: {"start": start, "steps": steps}, st.floats(0, 1), STEPS)
TEXTS = st.text(max_size=20)
SCORES = st.floats(-10, 10)


def told(**groups: Any) -> dict[str, Any]:
    return {"field": "urgency", "favourable": "high", "other": "low", "groups": groups, "key": "k"}


@pytest.mark.parametrize("constraint", get_args(Parity))
@pytest.mark.parametrize("seed", range(5))
def test_a_point_decides_with_the_probability_that_fairlearns_own_solution_has(constraint: Parity, seed: int) -> None:
    rng, n = np.random.default_rng(seed), 1500
    truth, group = rng.random(n) < rng.uniform(0.3, 0.7), np.where(rng.random(n) < 0.4, "b", "a")
    scores = rng.normal(size=n) + 2 * truth + rng.uniform(-2, 2) * (group == "b")
    points = mitigation.thresholds(scores.tolist(), truth.tolist(), group.tolist(), constraint)
    optimizer = ThresholdOptimizer(
        estimator=mitigation._Scores(), constraints=constraint, objective="balanced_accuracy_score", prefit=True,
        predict_method="decision_function",
    ).fit(scores[:, None], truth.astype(int), sensitive_features=group)  # fmt: skip
    fresh, sides = rng.normal(scale=3, size=300), rng.choice(["a", "b"], 300)
    wanted = optimizer._pmf_predict(fresh[:, None], sensitive_features=sides)[:, 1]
    got = [
        operating_points.probability(points[side].model_dump(), float(score))
        for side, score in zip(sides, fresh, strict=True)
    ]
    assert got == pytest.approx(wanted.tolist())


@given(POINTS, SCORES, SCORES, TEXTS)
def test_a_higher_score_is_never_decided_worse_and_a_question_always_alike(
    point: dict[str, Any], low: float, high: float, question: str
) -> None:
    low, high = sorted((low, high))
    decisions = [operating_points.decided(told(a=point), "a", score, question) for score in (low, high, low)]
    assert decisions[0] == decisions[2]
    assert decisions[:2] != ["high", "low"]


@given(POINTS, SCORES, TEXTS, st.none() | st.text().filter(lambda name: name != "a"))
def test_who_declares_no_group_that_is_known_keeps_the_models_own_answer(
    point: dict[str, Any], score: float, question: str, group: str | None
) -> None:
    assert operating_points.decided(told(a=point), group, score, question) is None
    assert operating_points.decided(told(a=point), "a", None, question) is None


@settings(max_examples=20)
@given(POINTS, SCORES)
def test_over_questions_the_share_is_the_probability(point: dict[str, Any], score: float) -> None:
    wanted, n = min(1.0, operating_points.probability(point, score)), 2000
    hits = sum(operating_points.decided(told(a=point), "a", score, f"question {i}") == "high" for i in range(n))
    assert abs(hits / n - wanted) <= 5 * (wanted * (1 - wanted) / n) ** 0.5 + 1e-9


@given(st.floats(-3, 3), st.sampled_from(["low", "high"]), st.sampled_from(["{}", "{} ", "{}\n"]), TEXTS)
def test_an_answer_keeps_every_byte_but_the_value_that_was_decided(
    odds: float, value: str, whole: str, note: str
) -> None:
    said = whole.format(json.dumps({"note": f"urgency: {value}", "urgency": value, "more": note}))
    if note == "urgency":
        return
    before, after = said.split(f'"urgency": "{value}"')
    chances = {b"high": -float(np.log1p(np.exp(-odds))), b"low": -float(np.log1p(np.exp(odds)))}
    start = f'{before}"urgency": "'
    tokens = ((start.encode(), {start.encode(): 0.0}), (value.encode(), chances), (f'"{after}'.encode(), {b"x": 0.0}))
    rules = told(a={"start": 0.0, "steps": [(1.0, 1.0)]})
    kept = operating_points.applied(rules, "a", "q", said, tokens)
    assert kept == f'{before}"urgency": "{"high" if odds > 1 else "low"}"{after}'
    assert operating_points.applied(rules, "b", "q", said, tokens) == said
