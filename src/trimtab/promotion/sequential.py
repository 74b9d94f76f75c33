"""Anytime-valid judgement of a canary: does it fail more often than the champion? Pure, from four counts.

The evidence is an e-process, so it may be looked at after every request and the rollout stopped at any look: while the
canary fails no more often than the champion, the chance that it ever reaches 1/alpha is at most alpha.

Construction: universal inference (Wasserman, Ramdas, Balakrishnan 2020, PNAS 117:16880) for the 2x2 problem of Turner,
Ly and Grünwald (2024, Stat. Neerl.; arXiv:2106.02693). The numerator is a Beta mixture of both failure rates, which
depends on the counts alone; the denominator is the largest likelihood under "canary rate <= champion rate". It is
valid for arms that arrive in any order and any share, also when the share follows what was seen, as long as each
arm's failure rate stays the same during the rollout.
"""

from __future__ import annotations

from datetime import datetime
from math import exp, inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar
from scipy.special import betaln, xlog1py, xlogy

from trimtab.records.monitor import Interval
from trimtab.records.promotion import RolloutLook

CANARY_PRIOR = (1.0, 2.0)
"""Beta mixture over the canary's failure rate: anything may have gone wrong."""
CHAMPION_PRIOR = (0.5, 9.5)
"""Beta mixture over the champion's failure rate: about 5%. A bad guess costs power, never validity."""
_LARGEST = 690.0  # exp() of more is not a float


def look(
    *,
    model: str,
    candidate: int,
    percent: float,
    n_canary: int,
    n_champion: int,
    failures_canary: int,
    failures_champion: int,
    answered_in_step: int,
    step_requests: int,
    alpha: float,
    now: datetime,
) -> RolloutLook:
    """One look at a canary step.

    The four counts run over the whole rollout, all steps together, so that alpha is spent once. `answered_in_step`
    counts the canary's requests since `percent` was set. roll_back when the e-value reaches 1/alpha, else advance when
    the step has its requests, else continue.
    """
    counts = (failures_canary, n_canary, failures_champion, n_champion)
    evidence = exp(min(float(log_e_value(*counts)), _LARGEST))
    told = (
        f"{failures_canary} of {n_canary} canary requests failed, {failures_champion} of {n_champion} of the champion's"
    )
    verdict, reason = "continue", f"{answered_in_step} of {step_requests} requests of this step are answered: {told}."
    if evidence >= 1 / alpha:
        verdict, reason = "roll_back", f"The canary fails more often: {told} (e-value {evidence:.3g} >= {1 / alpha:g})."
    elif answered_in_step >= step_requests:
        verdict, reason = "advance", f"The step has its {step_requests} requests, and no evidence of harm: {told}."
    return RolloutLook(
        model=model,
        candidate=candidate,
        percent=percent,
        at=now,
        n_canary=n_canary,
        n_champion=n_champion,
        failures_canary=failures_canary,
        failures_champion=failures_champion,
        e_value=evidence,
        alpha=alpha,
        difference=difference(*counts, alpha=alpha),
        verdict=verdict,
        reason=reason,
    )


def log_e_value(k1: ArrayLike, n1: ArrayLike, k2: ArrayLike, n2: ArrayLike) -> np.ndarray:
    """Natural log of the evidence that arm 1 fails more often than arm 2: k failures of n requests each.

    Works element-wise on arrays. At any stopping time its exponential has expectation at most 1 when arm 1 does not.
    """
    k1, n1, k2, n2 = (np.asarray(count, float) for count in (k1, n1, k2, n2))
    rate1, rate2 = k1 / np.maximum(n1, 1), k2 / np.maximum(n2, 1)
    pooled = (k1 + k2) / np.maximum(n1 + n2, 1)
    # An arm without requests has any rate at all; then, and when arm 1 fails less often, each arm has its own rate.
    apart = (rate1 <= rate2) | (n1 == 0) | (n2 == 0)
    own = _log_likelihood(k1, n1, rate1) + _log_likelihood(k2, n2, rate2)
    null = np.where(apart, own, _log_likelihood(k1 + k2, n1 + n2, pooled))
    return _log_mixture(k1, n1, k2, n2) - null


def difference(k1: int, n1: int, k2: int, n2: int, *, alpha: float) -> Interval | None:
    """Time-uniform (1 - alpha) confidence interval for failure rate 1 minus failure rate 2.

    All differences that the same e-process does not exclude, so it covers the true one at all looks together with
    probability 1 - alpha. None when an arm has no requests.
    """
    if n1 == 0 or n2 == 0:
        return None
    bar = float(_log_mixture(k1, n1, k2, n2)) + np.log(alpha)
    estimate = k1 / n1 - k2 / n2

    def above(delta: float) -> float:
        return _log_profile(k1, n1, k2, n2, delta) - bar

    low: Any = -1.0 if above(-1.0) > 0 else brentq(above, -1.0, estimate)
    high: Any = 1.0 if above(1.0) > 0 else brentq(above, estimate, 1.0)
    method = "universal inference, time-uniform"
    return Interval(estimate=estimate, low=float(low), high=float(high), confidence=1 - alpha, method=method)


def _log_profile(k1: int, n1: int, k2: int, n2: int, delta: float) -> float:
    """Largest log likelihood among rates that differ by `delta`."""
    ends = max(0.0, -delta), min(1.0, 1.0 - delta)

    def loss(rate2: float) -> float:
        rate1 = min(max(rate2 + delta, 0.0), 1.0)
        return -float(_log_likelihood(k1, n1, rate1) + _log_likelihood(k2, n2, rate2))

    inner = (
        minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-9}).fun if ends[0] < ends[1] else inf
    )
    return max(-min(inner, loss(ends[0]), loss(ends[1])), -1e300)


def _log_mixture(k1: ArrayLike, n1: ArrayLike, k2: ArrayLike, n2: ArrayLike) -> np.ndarray:
    return _log_marginal(k1, n1, CANARY_PRIOR) + _log_marginal(k2, n2, CHAMPION_PRIOR)


def _log_marginal(k: ArrayLike, n: ArrayLike, prior: tuple[float, float]) -> np.ndarray:
    k, n = np.asarray(k, float), np.asarray(n, float)
    return betaln(prior[0] + k, prior[1] + n - k) - betaln(*prior)


def _log_likelihood(k: ArrayLike, n: ArrayLike, rate: ArrayLike) -> np.ndarray:
    k, n = np.asarray(k, float), np.asarray(n, float)
    return xlogy(k, rate) + xlog1py(n - k, -np.asarray(rate))
