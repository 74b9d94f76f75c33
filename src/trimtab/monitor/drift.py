"""Do two samples of requests come from the same traffic, and if not, what is new? Pure.

The test is a permutation test, so its false-alarm rate is at most alpha at any sample size if requests are
exchangeable (drawn independently from stationary traffic). Everything computed before the permutation (word weights,
centring, bandwidth, groups) looks at both samples together and never at which sample a row is from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.special import xlogy
from sklearn.feature_extraction.text import TfidfVectorizer

from trimtab.errors import Fixable
from trimtab.evaluation.compare import difference
from trimtab.monitor.texts import body, words
from trimtab.records.monitor import Cluster, Interval, Verdict

PERMUTATIONS = 999
MINIMUM = 30
"""Rows needed on each side; fewer is `insufficient`."""
MAXIMUM = 500
"""Rows used of each side; of more, a random sample of this size is tested."""
TEST = f"MMD of vectors and words, Gaussian kernel, {PERMUTATIONS} permutations"

_CUTS = (8, 16)
"""Numbers of groups the rows are split into, coarse and fine."""
_FAMILY = 0.05
"""Chance that any group of a report is called new although its share did not grow."""
_TEXTS, _SURE = 3, 1.5
"""A word names a cluster when so many of its texts have it, and its z-score is this high."""
_MOST = 5
"""Clusters in a report, terms and examples in a cluster, at most."""


class Row(NamedTuple):
    """One request: its text, the text's vector (see `embed`), when it was asked, its id."""

    text: str
    vector: np.ndarray
    time: datetime
    request: str


@dataclass(frozen=True)
class Comparison:
    """Outcome of one test. `statistic` is the squared MMD; `clusters` are given for a breach, strongest first."""

    statistic: float
    p_value: float
    alpha: float
    n_reference: int
    n_current: int
    verdict: Verdict
    clusters: tuple[Cluster, ...] = ()
    test: str = TEST


def compare(reference: Sequence[Row], current: Sequence[Row], *, alpha: float, seed: int) -> Comparison:
    """Test that `current` comes from the same distribution as `reference`; rows in order of arrival.

    Maximum mean discrepancy, biased estimate, with a permutation p-value (1 + #at least as large) / (1 + B): Gretton
    et al. 2012, JMLR 13:723. The kernel is Gaussian at the median heuristic, over the unit vector of a text beside its
    TF-IDF words: a topic shows in meaning and in words, and the two together find it more often than either.
    Found on the example's messages at alpha 0.01: one new topic in 30% of 100 requests 19 times of 20, in 20% one time
    of three (of 200 requests: 9 of 10); two at once need 50% of 100 requests, or 30% of 200, for the same.
    `alpha` holds for one window, over the draw of both samples: windows tested against one reference share its luck.
    Raises Fixable when `alpha` is finer than the permutations can resolve.
    """
    if alpha * (PERMUTATIONS + 1) < 1:
        finest = 1 / (PERMUTATIONS + 1)
        raise Fixable(f"alpha {alpha} is below {finest}", f"set monitor.input_drift.alpha to {finest} or more")
    rng = np.random.default_rng(seed)
    reference, current = _drawn(reference, rng), _drawn(current, rng)
    n, m = len(reference), len(current)
    if min(n, m) < MINIMUM:
        return Comparison(0.0, 1.0, alpha, n, m, "insufficient")
    squared = _squared_distances([*reference, *current])
    statistic, p_value = _mmd(squared, n, rng)
    if p_value > alpha:
        return Comparison(statistic, p_value, alpha, n, m, "ok")
    return Comparison(statistic, p_value, alpha, n, m, "breach", _new_clusters(reference, current, squared))


def _drawn(rows: Sequence[Row], rng: np.random.Generator) -> Sequence[Row]:
    if len(rows) <= MAXIMUM:
        return rows
    return [rows[i] for i in sorted(rng.choice(len(rows), MAXIMUM, replace=False))]


def _squared_distances(rows: Sequence[Row]) -> np.ndarray:
    """Squared distances between rows, each the centred unit vector beside the unit TF-IDF vector of its words."""
    vectors = np.stack([row.vector for row in rows]).astype(float)
    vectors -= vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    gram = vectors @ vectors.T
    texts = [row.text for row in rows]
    if any(words(text) for text in texts):
        vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)  # pyright: ignore[reportArgumentType] (may be a function)
        weights = vectorizer.fit_transform(texts)
        gram += (weights @ weights.T).toarray()
    own = np.diag(gram)
    squared = np.maximum(own[:, None] + own - 2 * gram, 0.0)
    np.fill_diagonal(squared, 0.0)
    return (squared + squared.T) / 2


def _mmd(squared: np.ndarray, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Squared MMD between the first `n` rows and the rest, and its permutation p-value."""
    rows = len(squared)
    median = float(np.median(squared[np.triu_indices(rows, 1)]))
    kernel = np.exp(-squared / (median or 1.0))
    signs = np.where(np.arange(rows) < n, 1 / n, -1 / (rows - n))
    shuffled = rng.permuted(np.tile(signs, (PERMUTATIONS, 1)), axis=1)
    observed = float(signs @ kernel @ signs)
    permuted = np.einsum("bi,bi->b", shuffled @ kernel, shuffled)
    as_large = int(np.sum(permuted >= observed - 1e-12))  # rounding must not turn a tie into a win
    return max(observed, 0.0), (1 + as_large) / (1 + PERMUTATIONS)


def _new_clusters(reference: Sequence[Row], current: Sequence[Row], squared: np.ndarray) -> tuple[Cluster, ...]:
    """Groups of similar rows whose share grew, none overlapping another, the surest growth first.

    Groups are cut from one Ward tree over both samples together. Clustering the current rows alone would draw each
    group tightly around current rows and find it "new" even on stationary traffic.
    """
    n, m = len(reference), len(current)
    is_current = np.arange(n + m) >= n
    candidates, confidence = _testable(_groups(squared), n, m)
    grown: list[tuple[Interval, np.ndarray]] = []
    for group in candidates:
        in_current = int((group & is_current).sum())
        interval = difference(in_current, m, int(group.sum()) - in_current, n, confidence)
        if interval is not None and interval.low > 0:
            method = f"{interval.method}, one-sided level {_FAMILY:.2g} shared by {len(candidates)} groups"
            grown.append((interval.model_copy(update={"method": method}), group))
    grown.sort(key=lambda found: -found[0].low)
    taken, clusters = np.zeros(n + m, bool), list[Cluster]()
    for interval, group in grown:
        if len(clusters) < _MOST and not (taken & group).any():
            taken |= group
            clusters.append(_cluster(reference, current, squared, group, interval))
    return tuple(clusters)


def _groups(squared: np.ndarray) -> list[np.ndarray]:
    """Distinct groups of rows, as masks: the Ward tree (Ward 1963) cut coarsely and finely."""
    tree = linkage(squareform(np.sqrt(squared), checks=False), "ward")
    groups: dict[bytes, np.ndarray] = {}
    for cut in _CUTS:
        labels = fcluster(tree, cut, "maxclust")
        for label in np.unique(labels):
            groups.setdefault((labels == label).tobytes(), labels == label)
    return list(groups.values())


def _testable(groups: list[np.ndarray], n: int, m: int) -> tuple[list[np.ndarray], float]:
    """Groups large enough that their growth could be shown at all, and the confidence level for each.

    Bonferroni over those alone: a group too small to be significant even if every row were current cannot raise a
    false alarm, so it costs no level (Tarone 1990, Biometrics 46:515). Size does not depend on the samples' labels.
    """
    sizes = sorted(int(group.sum()) for group in groups)

    def confidence(least: int) -> float:
        return 1 - 2 * _FAMILY / sum(size >= least for size in sizes)

    def can_show(least: int) -> bool:
        best = difference(min(least, m), m, 0, n, confidence(least))
        return best is not None and best.low > 0

    position = bisect_left(sizes, True, key=can_show)  # larger groups show more, and fewer share the level
    if position == len(sizes):
        return [], 1 - 2 * _FAMILY
    return [group for group in groups if group.sum() >= sizes[position]], confidence(sizes[position])


def _cluster(
    reference: Sequence[Row], current: Sequence[Row], squared: np.ndarray, group: np.ndarray, interval: Interval
) -> Cluster:
    n, m = len(reference), len(current)
    mine = group[n:]
    rows = n + np.flatnonzero(mine)
    central = rows[np.argsort(squared[np.ix_(rows, group)].mean(axis=1), kind="stable")]
    nearest: dict[str, str] = {}
    for i in central:
        nearest.setdefault(body(current[i - n].text), current[i - n].request)
    share_reference = float(group[:n].mean())
    texts = [row.text for row in (*reference, *current)]
    known = np.flatnonzero(~group[:n])
    return Cluster(
        terms=_terms([texts[i] for i in np.flatnonzero(group)], [texts[i] for i in known]),
        examples=tuple(nearest.values())[:_MOST],
        n=int(mine.sum()),
        share=int(mine.sum()) / m,
        share_reference=share_reference,
        difference=interval,
        began_at=current[_began(mine, int(group[:n].sum()), n)].time,
    )


def _terms(inside: Iterable[str], outside: Iterable[str]) -> tuple[str, ...]:
    """Words that set the texts inside (a cluster) apart from those outside (the rest of the reference), best first.

    Log-odds ratio with an informative Dirichlet prior, as a z-score (Monroe, Colaresi and Quinn 2008, Political
    Analysis 16:372), over the number of texts that have the word; the prior is the word's frequency in all texts.
    """
    here = Counter(word for text in inside for word in set(words(text)))
    there = Counter(word for text in outside for word in set(words(text)))
    n_here, n_there = here.total(), there.total()
    scored: list[tuple[float, str]] = []
    for word, a in here.items():
        b, prior, rest = there[word], a + there[word], n_here + n_there
        odds_here = (a + prior) / (n_here + rest - a - prior)
        odds_there = (b + prior) / (n_there + rest - b - prior)
        scored.append((float(np.log(odds_here / odds_there)) / (1 / (a + prior) + 1 / (b + prior)) ** 0.5, word))
    known = sorted((-z, word) for z, word in scored if z >= _SURE and here[word] >= _TEXTS)
    return tuple(word for _, word in known[:_MOST])


def _began(mine: np.ndarray, n_hits: int, n_reference: int) -> int:
    """Index of the current row from which the group's share is the grown one.

    The most likely change point of a Bernoulli sequence (Hinkley 1970, Biometrika 57:1), the reference taken as rows
    before it: a stray early row makes the rate after it too low and stays on the "before" side. Only rows of the
    group can be the first.
    """
    m, total = len(mine), int(mine.sum())
    starts = np.flatnonzero(mine)
    before = n_hits + np.arange(total)  # hits ahead of each start
    seen = n_reference + starts
    after, left = total - np.arange(total), m - starts
    gain = _log_likelihood(before, seen) + _log_likelihood(after, left)
    return int(starts[np.argmax(np.where(after / left > before / seen, gain, -np.inf))])


def _log_likelihood(hits: np.ndarray, n: np.ndarray) -> np.ndarray:
    return xlogy(hits, hits / n) + xlogy(n - hits, 1 - hits / n)
