"""The gate's error rates, simulated: audits of a population with no gap, and with a planted one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trimtab.evaluation.compare import proportion
from trimtab.records.responsible import Policy, Tolerance
from trimtab.responsible import gate

AUDITS = 1000
RATE = 0.3
PLANTED = 0.15
POLICY = Policy(gating={"error rate": Tolerance(gap=0.10, deadband=0.02)})


def verdicts(groups: int, n: int, planted: float, audits: int = AUDITS, seed: int = 0, rate: float = RATE) -> list[str]:
    """Verdicts of `audits` audits of `groups` groups with n rows each; the first's true rate is `planted` more."""
    rng = np.random.default_rng(seed)
    rates = np.array([rate + planted, *[rate] * (groups - 1)])
    found: list[str] = []
    for row in rng.binomial(n, rates, size=(audits, groups)).tolist():
        counts = {f"g{index}": (k, n) for index, k in enumerate(row)}
        found.append(gate.judge(gate.against_rest("error rate", "group", counts), POLICY)[0])
    return found


def naive(groups: int, n: int, audits: int = AUDITS, seed: int = 0) -> float:
    """How often "largest rate less smallest rate > 0.10" calls a gap where there is none."""
    drawn = np.random.default_rng(seed).binomial(n, RATE, size=(audits, groups)) / n
    return float((np.ptp(drawn, axis=1) > 0.10).mean())


def _told(k: int) -> str:
    interval = proportion(k, AUDITS)
    return f"{interval.estimate:6.1%} [{interval.low:.1%}, {interval.high:.1%}]" if interval else ""


def report(data: Path | None) -> None:
    """Print both tables."""
    print(f"{AUDITS} audits each, true rate {RATE}, tolerance 0.10, deadband 0.02, alpha 0.05; Wilson 95% intervals")
    print(f"no gap:      {'groups':>6} {'n each':>6}  {'false FAIL':<24} {'PASS':<24} naive max-min > 0.10")
    for groups in (2, 5, 10):
        for n in (100, 400, 800):
            found = verdicts(groups, n, 0.0)
            fails, passes = found.count("fail"), found.count("pass")
            print(f"             {groups:6} {n:6}  {_told(fails):<24} {_told(passes):<24} {naive(groups, n):.0%}")
    print(f"planted gap of {PLANTED} in one group: {'':>0}")
    print(f"             {'groups':>6} {'n each':>6}  {'found (FAIL)':<24} {'wrongly PASS':<24}")
    for groups in (2, 5, 10):
        for n in (100, 200, 400, 800):
            found = verdicts(groups, n, PLANTED)
            print(f"             {groups:6} {n:6}  {_told(found.count('fail')):<24} {_told(found.count('pass')):<24}")
