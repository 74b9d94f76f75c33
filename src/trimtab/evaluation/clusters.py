"""Resampling of whole clusters (prompt frames, callers), vectorised. Pure; the source stands at each function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CHUNK = 500


def difference_draws(
    values: Sequence[float], inside: Sequence[bool], clusters: Sequence[str], *, resamples: int, seed: int
) -> Floats:
    """Bootstrap draws of mean(values inside) - mean(values outside), whole clusters resampled (Davison and Hinkley
    1997, 3.8). Draws that miss a side altogether are left out."""
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    value, member = np.asarray(values, float), np.asarray(inside, bool)
    count = int(codes.max(initial=-1)) + 1
    sums = np.array([_by(codes, value * side, count) for side in (member, ~member)])
    sizes = np.array([_by(codes, side.astype(float), count) for side in (member, ~member)])
    return _ratio_draws(sums, sizes, resamples, seed)


def mean_draws(values: Sequence[float], *, resamples: int, seed: int) -> Floats:
    """Bootstrap draws of the mean of one value per cluster, e.g. of paired differences per prompt frame."""
    value = np.asarray(values, float)
    sums = np.array([value, np.zeros_like(value)])
    return _ratio_draws(sums, np.ones_like(sums), resamples, seed)


def percentile(draws: Floats, confidence: float) -> tuple[float, float]:
    """The percentile interval of bootstrap draws (Efron 1979)."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def max_t(scores: Floats, *, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """For each column of `scores` (frames x identities): its mean deviation from its frame's mean, and the p-value of
    the max-T permutation test, which holds the family-wise error over all columns (Westfall and Young 1993). Identities
    are exchanged within frames."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    seen = np.abs(_t(centred))
    drawn = np.array([np.abs(_t(rng.permuted(centred, axis=1))).max() for _ in range(resamples)])
    exceeding = (drawn[:, None] >= seen[None, :] - 1e-12).sum(axis=0)
    return centred.mean(axis=0), (exceeding + 1) / (resamples + 1)


def _by(codes: NDArray[Any], value: Floats, count: int) -> Floats:
    return np.bincount(codes, weights=value, minlength=count).astype(float)


def _t(centred: Floats) -> Floats:
    spread = centred.std(axis=0, ddof=1) / np.sqrt(len(centred))
    return centred.mean(axis=0) / np.where(spread > 0, spread, np.inf)


def _ratio_draws(sums: Floats, sizes: Floats, resamples: int, seed: int) -> Floats:
    rng, count = np.random.default_rng(seed), sums.shape[1]
    found: list[Floats] = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=rows).astype(float)
        top, bottom = weights @ sums.T, weights @ sizes.T
        whole = (bottom > 0).all(axis=1)
        means = top[whole] / bottom[whole]
        found.append(means[:, 0] - means[:, 1])
    return np.concatenate(found)
