"""A mitigation is what it says it is, and is accepted only where it is proved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import Fixable
from trimtab.responsible import mitigation, operating_points
from trimtab.responsible.mitigation import Disparity, Trial

Floats = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60)


@given(Floats, st.randoms(use_true_random=False))
def test_an_average_over_a_closed_set_is_the_same_bit_for_bit_for_every_member(scores: list[float], lot) -> None:
    """Every member of an orbit sees the same scores, in an order of its own."""
    turned = [*scores]
    lot.shuffle(turned)
    assert mitigation.average(turned) == mitigation.average(scores)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_rotation_takes_out_any_preference_for_a_place(preference: list[float]) -> None:
    orders = mitigation.rotations(["a", "b", "c"])
    worth = {"a": 0.5, "b": 0.1, "c": 0.4}
    scores = [[worth[option] + preference[place] for place, option in enumerate(order)] for order in orders]
    found = mitigation.average_rotated(orders, scores)
    assert found["a"] - found["b"] == pytest.approx(0.4, abs=1e-9)


def test_weights_make_label_and_group_independent() -> None:
    labels, groups = ["y"] * 30 + ["n"] * 70 + ["y"] * 80 + ["n"] * 20, ["a"] * 100 + ["b"] * 100
    weights = mitigation.reweigh(labels, groups)
    share = [
        sum(w for w, y, g in zip(weights, labels, groups, strict=True) if (y, g) == ("y", group))
        / sum(w for w, g in zip(weights, groups, strict=True) if g == group)
        for group in "ab"
    ]
    assert share == [pytest.approx(0.55), pytest.approx(0.55)]


def scored(n: int, seed: int) -> tuple[list[float], list[bool], list[str]]:
    """Group b's scores are shifted up by one."""
    rng = np.random.default_rng(seed)
    truth, group = rng.random(n) < 0.5, rng.random(n) < 0.4
    scores = rng.normal(size=n) + 2 * truth - 1 + group
    return scores.tolist(), truth.tolist(), ["b" if one else "a" for one in group]


def test_thresholds_by_group_close_the_gap_on_other_rows_and_a_replay_decides_alike() -> None:
    points = {group: point.model_dump() for group, point in mitigation.thresholds(*scored(1500, 1)).items()}
    told = {"groups": points, "key": "key", "favourable": "yes", "other": "no"}
    scores, truth, groups = scored(3000, 2)

    def decide() -> list[bool]:
        rows = enumerate(zip(scores, groups, strict=True))
        return [operating_points.decided(told, group, score, str(i)) == "yes" for i, (score, group) in rows]

    decided = decide()
    assert decided == decide()

    def gap(decisions: list[bool]) -> float:
        rates = {
            g: np.mean([d for d, t, o in zip(decisions, truth, groups, strict=True) if o == g and not t]) for g in "ab"
        }
        return float(abs(rates["a"] - rates["b"]))

    assert gap([score > 0 for score in scores]) > 0.2
    assert gap(decided) < 0.06


def test_thresholds_on_small_groups_are_refused_with_their_numbers() -> None:
    scores, truth, groups = scored(200, 3)
    with pytest.raises(Fixable, match=r"group b has \d+ positives and \d+ negatives") as refused:
        mitigation.thresholds(scores, truth, groups, of=2)
    rarer = min(sum(t == side and g == "b" for t, g in zip(truth, groups, strict=True)) for side in (True, False))
    more = int(refused.value.fix.split()[2])
    assert refused.value.fix.startswith("collect about")
    assert more / 2 * rarer / groups.count("b") == pytest.approx(50 - rarer, abs=1)
    with pytest.raises(Fixable, match="thresholds are of several groups"):
        mitigation.thresholds(scores, truth, ["a"] * len(groups))


def flips(k: int, n: int = 100) -> tuple[bool, ...]:
    return (True,) * k + (False,) * (n - k)


GOOD = Trial(
    name="mask",
    established="fail",
    seen=frozenset({"a"}),
    proved_on=frozenset({"b"}),
    before=(True,) * 270 + (False,) * 30,
    after=(True,) * 270 + (False,) * 30,
    groups=(("x", "all"),) * 150 + (("y",),) * 150,
    decisions={"high": 100, "low": 200},
    flips_before=flips(40),
    flips_after=flips(0),
)


def disparity(before: int, after: int, n: int = 200) -> Disparity:
    """So many of a group of n are hit before and after, and none of the rest."""
    hit = [(True,) * k + (False,) * (2 * n - k) for k in (before, after)]
    return Disparity("fnr/dialect/b", (True,) * n + (False,) * n, hit[0], hit[1], tuple(map(str, range(2 * n))))


def test_a_gap_between_declared_groups_must_fall_beyond_doubt_and_no_other_may_open() -> None:
    good = replace(GOOD, flips_before=(), flips_after=(), disparity=disparity(60, 10))
    found = mitigation.accept(good, 0.02)
    assert found.accepted, found.reasons
    assert "the gap fnr/dialect/b changes by -0.250" in found.reasons[0]
    assert "1 tried on these rows" in found.reasons[-1]
    for change, why in (
        ({"disparity": disparity(60, 55)}, "no fall must be excluded"),
        ({"disparity": disparity(10, 60)}, "no fall must be excluded"),
        ({"new_gaps": ("fpr/dialect/a",)}, "makes gaps that were not there: fpr/dialect/a"),
    ):
        refused = mitigation.accept(replace(good, **change), 0.02)
        assert not refused.accepted
        assert any(why in reason for reason in refused.reasons)


@pytest.mark.parametrize("rates", [(0.45, 0.3), (0.1, 0.3), (0.3, 0.3)])
def test_a_gap_that_falls_by_chance_alone_is_said_to_fall_in_one_of_twenty_at_most(rates: tuple[float, float]) -> None:
    """One row in five is drawn anew, at the same rate: nothing has changed but chance."""
    rng, n, trials = np.random.default_rng(5), 100, 120
    inside, texts = (True,) * n + (False,) * n, tuple(map(str, range(2 * n)))
    chances, fell = np.repeat(rates, n), 0
    for _ in range(trials):
        before, again = rng.random((2, 2 * n)) < chances
        after = np.where(rng.random(2 * n) < 0.2, again, before)
        gap = Disparity("fpr/dialect/b", inside, tuple(before.tolist()), tuple(after.tolist()), texts)
        fall = gap.fall(0.95)
        fell += fall is not None and fall.low > 0 and gap.p() <= 0.05
    assert fell <= 0.05 * trials


def test_a_good_trial_is_accepted() -> None:
    found = mitigation.accept(GOOD, 0.02)
    assert found.accepted, found.reasons


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"established": "insufficient"}, "a failure must be established"),
        ({"proved_on": frozenset({"a", "b"})}, "frames that the audit before it did not use"),
        ({"flips_after": flips(36)}, "no fall must be excluded"),  # lower, as chance has it half of the time
        ({"after": (False,) * 40 + (True,) * 230 + (False,) * 30}, "a loss of 0.02 must be excluded"),
        ({"before": (), "after": (), "groups": ()}, "no labelled row"),
        ({"decisions": {"high": 300, "low": 0}}, "answers must still differ"),
        (  # parity by making one group worse, paid for by the other
            {"after": (False,) * 10 + (True,) * 260 + (True,) * 10 + (False,) * 20},
            "group x changes by -0.067",
        ),
        (  # the same where a row counts in several groups
            {"after": (False,) * 10 + (True,) * 260 + (True,) * 10 + (False,) * 20},
            "group all changes by -0.067",
        ),
    ],
)
def test_each_rule_alone_refuses(change: dict[str, object], why: str) -> None:
    found = mitigation.accept(replace(GOOD, **change), 0.02)
    assert not found.accepted
    assert any(why in reason for reason in found.reasons), found.reasons


def test_everything_tried_on_the_same_frames_shares_the_five_percent() -> None:
    """A mitigation that just passes alone does not where others were tried, then or before; what passes leaves the
    rest a smaller number (Holm)."""
    alone = replace(GOOD, flips_before=flips(6), flips_after=flips(0))
    assert mitigation.accept_all([alone], 0.02)[0].accepted
    hopeless = replace(GOOD, flips_after=flips(40))
    three = mitigation.accept_all([alone, hopeless, hopeless], 0.02)
    assert [one.accepted for one in three] == [False, False, False]
    assert three[0].confidence == pytest.approx(1 - 0.05 / 3)
    assert any("3 tried on these frames" in reason for reason in three[0].reasons)
    assert not mitigation.accept_all([alone], 0.02, earlier=2)[0].accepted
    stepped = mitigation.accept_all([alone, GOOD, GOOD], 0.02)
    assert [one.accepted for one in stepped] == [True, True, True]
    assert [one.confidence for one in stepped] == pytest.approx([0.95, 1 - 0.05 / 3, 1 - 0.05 / 3])


def test_of_mitigations_without_effect_hardly_one_in_twenty_runs_accepts_any() -> None:
    lot, wrong, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        before = tuple((lot.random(80) < 0.4).tolist())
        tried = [replace(GOOD, flips_before=before, flips_after=tuple((lot.random(80) < 0.4).tolist())) for _ in "abc"]
        wrong += any(one.accepted for one in mitigation.accept_all(tried, 0.02))
    assert wrong / runs < 0.05
