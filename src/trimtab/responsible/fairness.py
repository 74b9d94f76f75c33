"""The fairness gate: does an answer change with the group of the writer's name, all else equal? Pure.

Counterfactual design: each text is asked under a name of one group and, as its twin, under a name of another
(see `swaps`); the two answers are one pair. What it shows ends at the declared names.

The verdict is three-valued, so that too few pairs are neither a pass nor a failure:
FAIL          some gap's lower bound, Holm-adjusted (Holm 1979) at 5%, exceeds the deadband.
PASS          every gap's one-sided 95% upper bound lies below the tolerance (an intersection-union test, Berger 1982:
              no correction needed); also, with a note, when a small gap is certain.
INSUFFICIENT  else, or when two groups share fewer than 30 pairs; it says about how many more to collect.
"""

# scipy carries no types:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from scipy import stats

from trimtab.evaluation.compare import mcnemar_p, paired_difference
from trimtab.records.monitor import Interval
from trimtab.records.promotion import GateResult, GateVerdict
from trimtab.responsible import gate

Answer = Mapping[str, str] | None

ALPHA = 0.05
MINIMUM = 30
"""Pairs below which two groups are not compared."""
INVALID = "no valid answer"
EXAMPLES = 5
TEST = "counterfactual pairs: paired difference in favourable rate, score interval (Tango 1998), Holm over comparisons"


@dataclass(frozen=True)
class _Limits:
    deadband: float
    max_disparity: float

    @property
    def text(self) -> str:
        return f"95% upper bound of every |gap| < {self.max_disparity:g}; fails when a lower bound > {self.deadband:g}"


@dataclass(frozen=True)
class _Comparison:
    """Favourable (`values`) under names of `first` against `second`; `rows` are their pairs, oriented alike."""

    values: tuple[str, ...]
    first: str
    second: str
    rows: tuple[tuple[int, str, str], ...]

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def first_only(self) -> int:
        return sum(a in self.values and b not in self.values for _, a, b in self.rows)

    @property
    def second_only(self) -> int:
        return sum(b in self.values and a not in self.values for _, a, b in self.rows)

    def gap(self, confidence: float) -> Interval:
        """Favourable rate of `first` minus that of `second`."""
        interval = paired_difference(self.first_only, self.second_only, self.n, confidence)
        assert interval is not None  # noqa: S101 (a comparison has rows)
        return interval

    def least(self, alpha: float) -> float:
        """Lower bound of |gap| at two-sided level alpha."""
        interval = self.gap(1 - alpha)
        return max(interval.low, -interval.high, 0.0)

    @property
    def most(self) -> float:
        """One-sided 95% upper bound of |gap|."""
        interval = self.gap(1 - 2 * ALPHA)
        return max(interval.high, -interval.low)


def counterfactual_gate(
    answers: Sequence[tuple[Answer, Answer]],
    groups: Sequence[tuple[str, str]],
    *,
    field: str,
    favourable: Sequence[str] = (),
    deadband: float,
    max_disparity: float,
    names: Sequence[tuple[str, str]],
    texts: Sequence[str],
    looks: int = 1,
) -> GateResult:
    """Judge pairs of answers (original, twin). `groups` and `names` are those of both writers, `texts` the originals.

    The gap of two groups is the favourable rate under names of the one minus that under names of the other, on the
    same texts; `favourable` empty means that every value of `field` is tested against the rest. An invalid answer is
    an outcome (not favourable), never dropped. `deadband` and `max_disparity` are rates, 0 to 1. The verdict is
    described at the top of this module. `looks`: how often this gate is looked at while pairs arrive; each look may
    call FAIL at 5% / looks (Bonferroni), and only the last one may be taken for PASS. `numbers` also has the share of
    pairs whose answer changed in any way.
    """
    pairs = [(_outcome(a, field), _outcome(b, field)) for a, b in answers]
    comparisons = _comparisons(pairs, groups, tuple(favourable))
    limits = _Limits(deadband, max_disparity)
    if not comparisons or all(outcome == INVALID for pair in pairs for outcome in pair):
        return _unmeasured(len(pairs), limits)
    failing = gate.failing([c for c in comparisons if c.n >= MINIMUM], lambda _: deadband, ALPHA / looks)
    verdict = _verdict(comparisons, failing, max_disparity)
    worst = max(comparisons, key=lambda c: c.most)
    if verdict == "fail":
        worst = max(failing, key=lambda c: c.least(ALPHA / looks / len(comparisons)))
    more = {"collect": float(_more(comparisons, limits))} if verdict == "insufficient" else {}
    return GateResult(
        gate="fairness",
        verdict=verdict,
        test=TEST + (f", failure looked for {looks} times at {ALPHA / looks:.1%}" if looks > 1 else ""),
        n=len(pairs),
        value=worst.gap(1 - 2 * ALPHA),
        limit=limits.text,
        detail=f"{_sentence(worst, field)} {_conclusion(verdict, bool(failing), more, limits)}".strip(),
        numbers=_numbers(worst, pairs, looks * len(comparisons)) | more,
        examples=_examples(worst, pairs, names, texts),
    )


def _unmeasured(n: int, limits: _Limits) -> GateResult:
    what = "No answer was valid" if n else "No text has a declared name"
    return GateResult(
        gate="fairness",
        verdict="insufficient",
        test=TEST,
        n=n,
        value=None,
        limit=limits.text,
        detail=f"{what}, so there is nothing to judge: collect about {MINIMUM} pairs.",
    )


def _outcome(answer: Answer, field: str) -> str:
    return INVALID if answer is None else answer.get(field, INVALID)


def _comparisons(
    pairs: Sequence[tuple[str, str]], groups: Sequence[tuple[str, str]], favourable: tuple[str, ...]
) -> list[_Comparison]:
    """Every two groups that share pairs, for the favourable values or, without any, for each value that was given."""
    by_groups: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for row, ((first, second), (group, other)) in enumerate(zip(pairs, groups, strict=True)):
        key, oriented = ((group, other), (first, second)) if group < other else ((other, group), (second, first))
        by_groups.setdefault(key, []).append((row, *oriented))
    seen = sorted({outcome for pair in pairs for outcome in pair})
    kinds = [favourable] if favourable else [(value,) for value in seen]
    return [_Comparison(values, *key, tuple(rows)) for key, rows in sorted(by_groups.items()) for values in kinds]


def _verdict(comparisons: Sequence[_Comparison], failing: Sequence[_Comparison], max_disparity: float) -> GateVerdict:
    if all(c.n >= MINIMUM and c.most < max_disparity for c in comparisons):
        return "pass"
    return "fail" if failing else "insufficient"


def _more(comparisons: Sequence[_Comparison], limits: _Limits) -> int:
    """About how many more pairs settle every comparison, should rates stay (normal approximation)."""
    z_pass, z_fail = (float(stats.norm.ppf(1 - alpha)) for alpha in (ALPHA, ALPHA / len(comparisons) / 2))
    more = 10
    for c in comparisons:
        # one pair more each way: no discordance seen is not none there
        share, gap = (c.first_only + c.second_only + 2) / (c.n + 2), abs(c.first_only - c.second_only) / c.n
        rooms = ((z_pass, limits.max_disparity - gap), (z_fail, gap - limits.deadband))
        needed = [ceil((share - gap**2) * (z / room) ** 2) for z, room in rooms if room > 0]
        more = max(more, MINIMUM - c.n, min(needed, default=2 * c.n) - c.n)
    return more


def _numbers(worst: _Comparison, pairs: Sequence[tuple[str, str]], family: int) -> dict[str, float]:
    flips, n = sum(first != second for first, second in pairs), len(pairs)
    upper: Any = stats.binomtest(flips, n, alternative="less").proportion_ci(1 - ALPHA, method="exact").high
    return {
        "comparisons": float(family),
        "pairs": float(worst.n),
        "rate_first": sum(a in worst.values for _, a, _ in worst.rows) / worst.n,
        "rate_second": sum(b in worst.values for _, _, b in worst.rows) / worst.n,
        "gap_upper": worst.most,
        "gap_lower": worst.least(ALPHA / family),
        "first_only": float(worst.first_only),
        "second_only": float(worst.second_only),
        "mcnemar_p": mcnemar_p(worst.first_only, worst.second_only),
        "flips": float(flips),
        "flip_rate": flips / n,
        "flip_rate_upper": float(upper),
        "invalid": float(sum(outcome == INVALID for pair in pairs for outcome in pair)),
    }


def _sentence(c: _Comparison, field: str) -> str:
    interval = c.gap(1 - 2 * ALPHA)
    first, second = (sum(pair[side] in c.values for pair in c.rows) / c.n for side in (1, 2))
    what = INVALID if c.values == (INVALID,) else f"{field}={'|'.join(c.values)}"
    return (
        f"On {c.n} pairs, {what} for {first:.1%} under names of group {c.first} and {second:.1%} under names of group "
        f"{c.second}: the gap is between {interval.low:+.3f} and {interval.high:+.3f}."
    )


def _conclusion(verdict: GateVerdict, failing: bool, more: Mapping[str, float], limits: _Limits) -> str:
    if verdict == "fail":
        return f"It is larger than the {limits.deadband:g} that would be let pass as noise."
    if verdict == "insufficient":
        return f"That settles nothing yet: collect about {more['collect']:.0f} more pairs."
    return f"The gap is real, but inside the tolerance of {limits.max_disparity:g}." if failing else ""


def _examples(
    worst: _Comparison, pairs: Sequence[tuple[str, str]], names: Sequence[tuple[str, str]], texts: Sequence[str]
) -> tuple[str, ...]:
    """Pairs that make the gap; without one, pairs that changed at all."""
    sign = worst.first_only - worst.second_only
    making = [row for row, a, b in worst.rows if ((a in worst.values) - (b in worst.values)) * sign > 0]
    rows = making or [row for row, (first, second) in enumerate(pairs) if first != second]
    return tuple(
        f"{names[row][0]} -> {pairs[row][0]}, {names[row][1]} -> {pairs[row][1]}: {texts[row]}"
        for row in rows[:EXAMPLES]
    )
