"""Statistics of a comparison: proportions, their differences, latencies. Pure; the source stands at each function.

What cannot be measured is None, never 0 or NaN.
"""

# scipy carries no types:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy import optimize, stats

from trimtab.records.monitor import Interval

NORMAL = NormalDist()
RESAMPLES = 2000
SEED = 0
P95_MINIMUM = 20
"""Below this many answers the 95th percentile is just the slowest one, and says nothing of its own."""


def proportion(k: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Share k/n with Wilson's score interval (Wilson 1927). None when n is 0."""
    if n == 0:
        return None
    low, high = _wilson(k, n, confidence)
    return Interval(estimate=k / n, low=low, high=high, confidence=confidence, method="Wilson score")


def difference(k1: int, n1: int, k2: int, n2: int, confidence: float = 0.95) -> Interval | None:
    """k1/n1 - k2/n2 of independent samples: hybrid score interval, Newcombe 1998 (Stat. Med. 17:873), method 10.

    None when a sample is empty.
    """
    if n1 == 0 or n2 == 0:
        return None
    p1, p2 = k1 / n1, k2 / n2
    (low1, high1), (low2, high2) = _wilson(k1, n1, confidence), _wilson(k2, n2, confidence)
    low = p1 - p2 - sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2)
    high = p1 - p2 + sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2)
    return Interval(estimate=p1 - p2, low=low, high=high, confidence=confidence, method="Newcombe 1998, method 10")


def paired_difference(first_only: int, second_only: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Difference of two proportions on the same n rows, first minus second: score interval of Tango 1998
    (Stat. Med. 17:891), which keeps its coverage, and its width, when no row is discordant.

    `first_only`: rows that count for the first but not the second. When only one side has such rows, the difference is
    a plain share of n, for which the score bound is up to 2 points too bold: there the outer bound is the exact one
    (Clopper and Pearson 1934) where that is wider. None when n is 0.
    """
    if n == 0:
        return None
    estimate, z = (first_only - second_only) / n, float(stats.norm.ppf(0.5 + confidence / 2))
    edge = 1 - 1e-12  # the score is 0/0 at -1 and 1

    def root(start: float, end: float, level: float) -> float:
        found: Any = optimize.brentq(lambda d: _tango(first_only, second_only, n, d) - level, start, end)
        return float(found)

    low = -1.0 if second_only == n else root(-edge, estimate, z)
    high = 1.0 if first_only == n else root(estimate, edge, -z)
    if second_only == 0:
        high = max(high, _exact_upper(first_only, n, confidence))
    if first_only == 0:
        low = min(low, -_exact_upper(second_only, n, confidence))
    return Interval(estimate=estimate, low=low, high=high, confidence=confidence, method="Tango 1998 score, paired")


def exact_share(k: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Share k/n with the exact interval (Clopper and Pearson 1934). None when n is 0."""
    if n == 0:
        return None
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k else 0.0
    high = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Interval(estimate=k / n, low=low, high=high, confidence=confidence, method="Clopper-Pearson")


def mcnemar_p(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar test that both proportions are equal (McNemar 1947; binomial on discordant rows).

    Without a discordant row there is no evidence against equality: 1.
    """
    discordant = first_only + second_only
    return float(stats.binomtest(first_only, discordant).pvalue) if discordant else 1.0


def stratified_p(strata: Sequence[tuple[bool, int, int]]) -> float:
    """Exact two-sided test that a group is no likelier to be hit than the others of its stratum (Cochran 1954, Mantel
    and Haenszel 1959, in its exact conditional form: the number of hits is Poisson binomial). For each stratum: whether
    the group was hit, how many units were, how many there are. With two units a stratum it is McNemar's test.

    Strata in which all or none were hit say nothing; without another one there is no evidence: 1.
    """
    told = [(hit, hits / units) for hit, hits, units in strata if 0 < hits < units]
    chances = np.ones(1)
    for _, share in told:
        chances = np.convolve(chances, [1 - share, share])
    seen = chances[sum(hit for hit, _ in told)]
    return min(1.0, float(chances[chances <= seen * (1 + 1e-7)].sum()))


def p95_ratio(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """95th percentile of the first's latencies over the second's on the same rows (seconds).

    Percentile bootstrap over rows (Efron 1979), 2,000 resamples, fixed seed. None below 20 rows or when a latency is
    not positive.
    """
    data = _latencies(first, second)
    if data is None:
        return None

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.quantile(a, 0.95, axis=axis) / np.quantile(b, 0.95, axis=axis)

    drawn: Any = stats.bootstrap(
        data, ratio, paired=True, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=SEED
    )
    bounds = drawn.confidence_interval
    return Interval(
        estimate=float(ratio(*data)),
        low=float(bounds.low),
        high=float(bounds.high),
        confidence=confidence,
        method="paired percentile bootstrap",
    )


def median_ratio(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Median over the rows of first/second (latencies in seconds), with the exact, distribution-free interval from
    order statistics (Conover 1999, 3.2). None below 20 rows or when a latency is not positive."""
    data = _latencies(first, second)
    if data is None:
        return None
    ratios = data[0] / data[1]
    bounds = stats.quantile_test(ratios, p=0.5).confidence_interval(confidence_level=confidence)
    estimate = float(np.median(ratios))
    return Interval(
        estimate=estimate, low=float(bounds[0]), high=float(bounds[1]), confidence=confidence, method="order statistics"
    )


def _latencies(first: Sequence[float], second: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
    a, b = np.asarray(first, float), np.asarray(second, float)
    usable = len(a) == len(b) >= P95_MINIMUM and bool(np.all(a > 0) and np.all(b > 0))
    return (a, b) if usable else None


def _wilson(k: int, n: int, confidence: float) -> tuple[float, float]:
    """In closed form: simulations of a gate ask for millions, and scipy's does a whole test for each."""
    z = NORMAL.inv_cdf(0.5 + confidence / 2)
    centre, spread = k + z * z / 2, z * sqrt(k * (n - k) / n + z * z / 4)
    low, high = (centre - spread) / (n + z * z), (centre + spread) / (n + z * z)
    return (0.0 if k == 0 else low), (1.0 if k == n else high)


def _exact_upper(k: int, n: int, confidence: float) -> float:
    interval = exact_share(k, n, confidence)
    assert interval is not None  # noqa: S101 (who asks has rows)
    return interval.high


def _tango(first_only: int, second_only: int, n: int, delta: float) -> float:
    """Score statistic of the hypothesis that the difference is `delta`; falls as `delta` grows."""
    b = -first_only - second_only + (2 * n - first_only + second_only) * delta
    c = -second_only * delta * (1 - delta)
    share = (sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    excess, variance = first_only - second_only - n * delta, n * (2 * share + delta * (1 - delta))
    return excess / sqrt(variance) if variance > 0 else 0.0  # both vanish at 0 when no row is discordant


def exceeds(k: int, n: int, share: float, alpha: float) -> bool:
    """Whether k of n shows a true share above `share`, with error probability at most `alpha` at every n.

    Chernoff's bound on a binomial tail (Chernoff 1952, Ann. Math. Stat. 23:493; Hoeffding 1963, JASA 58:13): the chance
    of k or more is at most exp(-n KL(k/n, share)). It is a little cautious, and it is a closed form that a database
    computes just as well.
    """
    if n == 0 or k <= n * share:
        return False
    rest = (n - k) * log((n - k) / (n * (1 - share))) if k < n else 0.0
    return k * log(k / (n * share)) + rest > log(1 / alpha)


def share_bounds(k: int, n: int, alpha: float) -> Interval | None:
    """Share k/n with the bounds that `exceeds` tests by, each wrong with probability `alpha`. None when n is 0."""
    if n == 0:
        return None
    p, most = k / n, log(1 / alpha) / n

    def excess(q: float) -> float:
        kept = p * log(p / q) if k else 0.0
        return kept + ((1 - p) * log((1 - p) / (1 - q)) if k < n else 0.0) - most

    edge = 1e-12
    low: Any = optimize.brentq(excess, edge * p, p) if k else 0.0
    high: Any = optimize.brentq(excess, p, 1 - edge * (1 - p)) if k < n else 1.0
    method = "Chernoff (KL) bounds"
    return Interval(estimate=p, low=float(low), high=float(high), confidence=1 - 2 * alpha, method=method)
