"""What the frontier's parts share: judge a method on frames x identities, accept or not, print and plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.evaluation import clusters
from trimtab.evaluation.compare import exact_share
from trimtab.records.monitor import Interval
from trimtab.records.responsible import Finding, Policy, Tolerance
from trimtab.responsible import gate, plots
from trimtab.responsible.mitigation import Trial, accept_all
from trimtab.responsible.plots import Point

OUT = Path(__file__).parent / "out"
POLICY = Policy(gating={"flip_rate": Tolerance(gap=0.10, deadband=0.02)})
MARGIN = 0.02


@dataclass(frozen=True)
class Method:
    """Decisions (frames x identities, True: the positive class) of one method on the frames that prove."""

    name: str
    decisions: np.ndarray
    seen: frozenset[str] = frozenset()


def judge(decisions: np.ndarray) -> Finding:
    """The share of frames whose decision depends on the identity, judged."""
    return gate.judge([gate.share("flip_rate", "identity", sum(_flips(decisions)), len(decisions))], POLICY)[1][0]


def accuracy(decisions: np.ndarray, truth: np.ndarray) -> Interval:
    """Share of right rows; the interval is a bootstrap over frames."""
    right = (decisions == truth[:, None]).mean(axis=1)
    low, high = clusters.percentile(clusters.mean_draws(right.tolist(), resamples=2000, seed=0), 0.95)
    return Interval(estimate=float(right.mean()), low=low, high=high, method="bootstrap over frames")


def show(
    title: str, file: str, found: Finding, methods: Sequence[Method], truth: np.ndarray, names: Sequence[str]
) -> None:
    """Print and plot the frontier. `found`: the finding that called for mitigation, on frames of its own; the first of
    `methods` is none. `names`: the groups, by column of the decisions."""
    print(f"{title}\n  established on other frames: {found.verdict} (flip rate {found.value:.3f}, n = {found.n})")
    print(f"  {'method':<34} {'accuracy':<22} {'identity-dependent':<22} accepted")
    before, points = methods[0], list[Point]()
    trials = [_trial(found, before, method, truth, names) for method in methods[1:]]
    said = dict(zip((method.name for method in methods[1:]), accept_all(trials, MARGIN), strict=True))
    for method in methods:
        told, flips = accuracy(method.decisions, truth), judge(method.decisions)
        share = exact_share(round((flips.value or 0) * (flips.n or 0)), flips.n or 0)
        if share is None:
            continue
        verdict = said.get(method.name)
        points.append(Point(method.name, told, share, verdict is not None and verdict.accepted))
        word = "" if verdict is None else "yes" if verdict.accepted else f"no: {verdict.reasons[0]}"
        cells = [f"{v.estimate:.3f} [{v.low:.3f}, {v.high:.3f}]" for v in (told, share)]
        print(f"  {method.name:<34} {cells[0]:<22} {cells[1]:<22} {word}")
    for kind, data in plots.frontier(points, title).items():
        (OUT / f"{file}.{kind}").write_bytes(data)


def _trial(found: Finding, before: Method, after: Method, truth: np.ndarray, names: Sequence[str]) -> Trial:
    """A method against none, one row a frame (its first identity of the frame's own hash order)."""
    rows = np.arange(len(truth)) % before.decisions.shape[1]
    hits = [tuple((m.decisions == truth[:, None])[np.arange(len(truth)), rows].tolist()) for m in (before, after)]
    decided = after.decisions[np.arange(len(truth)), rows]
    return Trial(
        name=after.name,
        established=found.verdict,
        seen=after.seen,
        proved_on=frozenset({"held-out frames"}),
        before=hits[0],
        after=hits[1],
        groups=tuple((names[row],) for row in rows),
        decisions={"positive": int(decided.sum()), "negative": int((~decided).sum())},
        flips_before=_flips(before.decisions),
        flips_after=_flips(after.decisions),
    )


def _flips(decisions: np.ndarray) -> tuple[bool, ...]:
    return tuple((decisions.any(axis=1) & ~decisions.all(axis=1)).tolist())
