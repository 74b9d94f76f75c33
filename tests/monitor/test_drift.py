"""Stationary traffic stays quiet at the stated rate; a new topic is found, named and dated."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from example_texts import PERIOD1, PHISHING, RECALL, START, rows, shuffled
from scipy.stats import binom

from trimtab.errors import Fixable
from trimtab.monitor import drift
from trimtab.monitor.drift import Row, compare

ALWAYS = 1.0
"""An alpha that lets every test breach, so that every window is searched for new clusters."""


@pytest.fixture(scope="module")
def known() -> list[Row]:
    return rows(PERIOD1)


def test_on_stationary_traffic_alarms_and_named_topics_keep_their_rates(known: list[Row]) -> None:
    windows, size = 200, 40
    found = []
    for seed, drawn in enumerate(np.random.default_rng(7).integers(len(known), size=(windows, 2, size))):
        reference, current = ([known[i] for i in side] for side in drawn)
        found.append(compare(reference, current, alpha=ALWAYS, seed=seed))
    p = np.array([result.p_value for result in found])
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert (p <= alpha).sum() <= binom.ppf(0.999, windows, alpha)
    for alpha in (0.2, 0.5, 0.8):
        assert (p <= alpha).sum() >= binom.ppf(0.001, windows, alpha)
    assert sum(bool(result.clusters) for result in found) <= binom.ppf(0.999, windows, 0.05)


def test_a_topic_in_a_fifth_of_the_requests_is_found_named_and_dated() -> None:
    things, faults = ("kettle", "lamp", "drone", "tablet", "speaker"), ("refused", "rejected", "ignored", "expired")
    for seed in range(6):
        new = [f"Voucher code SPRING26 was {fault} at checkout for my {thing}" for thing in things for fault in faults]
        old = shuffled(PERIOD1, seed)[:180]
        tail = shuffled([*old[149:], *new[1:]], seed)
        # From minute 50 on; one stray request at minute 5 is not the beginning.
        current = [*old[100:105], new[0], *old[105:149], *tail]
        result = compare(rows(old[:100]), rows(current), alpha=0.01, seed=seed)
        assert (result.verdict, result.n_reference, result.n_current) == ("breach", 100, 100)
        strongest = result.clusters[0]
        assert set(strongest.terms) & {"voucher", "code", "spring", "checkout"}
        assert sum(text in new for text in strongest.examples) >= 4
        assert strongest.share == pytest.approx(0.2, abs=0.05)
        assert strongest.difference.low > 0
        first = min(minute for minute, text in enumerate(current) if text in new and minute != 5)
        assert abs(strongest.began_at - START - timedelta(minutes=first)) <= timedelta(minutes=3)


def test_period_one_against_itself_is_quiet() -> None:
    texts = shuffled(PERIOD1, 1)[:700]
    verdicts = [
        compare(rows(texts[:100]), rows(texts[i : i + 100]), alpha=0.01, seed=i).verdict for i in range(100, 700, 100)
    ]
    assert verdicts.count("breach") <= 1


def test_the_recall_and_the_phishing_wave_of_period_two_are_found_and_named() -> None:
    named = []
    for seed in range(6):
        old, new = shuffled(PERIOD1, seed)[:148], [*shuffled(RECALL, seed)[:26], *shuffled(PHISHING, seed)[:26]]
        current = shuffled([*old[100:], *new], seed)
        result = compare(rows(old[:100]), rows(current), alpha=0.01, seed=seed)
        assert result.verdict == "breach"
        assert result.clusters
        for cluster in result.clusters:
            assert sum(text in new for text in cluster.examples) > len(cluster.examples) / 2
            named.append(set(cluster.terms))
    assert sum(bool(terms & {"lumo", "tern", "battery", "recall", "recalled"}) for terms in named) >= 4
    assert sum(bool(terms & {"harbor", "fake", "scam"}) for terms in named) >= 4


def test_the_writers_names_are_not_compared(known: list[Row]) -> None:
    one = [row._replace(text=f"{row.text}\nFrom: Emily Walsh") for row in known[:60]]
    other = [row._replace(text=f"{row.text}\nFrom: Jamal Robinson") for row in known[60:120]]
    bare = compare(known[:60], known[60:120], alpha=ALWAYS, seed=0)
    assert compare(one, other, alpha=ALWAYS, seed=0) == bare


def test_too_few_requests_are_not_judged(known: list[Row]) -> None:
    result = compare(known[: drift.MINIMUM - 1], known, alpha=0.01, seed=0)
    assert (result.verdict, result.clusters) == ("insufficient", ())


def test_large_windows_are_sampled_and_say_so(known: list[Row]) -> None:
    first, again = (compare(known, known[:600], alpha=0.01, seed=4) for _ in range(2))
    assert (first.n_reference, first.n_current) == (drift.MAXIMUM, drift.MAXIMUM)
    assert first == again


def test_requests_that_are_all_alike_have_not_changed(known: list[Row]) -> None:
    for text in ("hello", ""):
        same = [known[0]._replace(text=text)] * 50
        result = compare(same, same, alpha=0.05, seed=0)
        assert (result.verdict, result.p_value) == ("ok", 1.0)


def test_an_alpha_that_no_permutation_can_reach_is_refused(known: list[Row]) -> None:
    with pytest.raises(Fixable, match="alpha") as error:
        compare(known[:50], known[50:100], alpha=1e-5, seed=0)
    assert "input_drift.alpha" in error.value.fix
