"""Weights of a linear guard from examples. For training scripts and registration: numpy and scikit-learn live here,
away from the gateway. The same examples give the same weights.
"""

# scikit-learn carries no types:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from typing import Any

from trimtab.responsible.guards import linear


def features(text: str) -> dict[str, float]:
    """What a text is to `linear.Linear`: its features, divided by the root of its number of words."""
    found = linear.words(text)
    counts: Counter[str] = Counter(linear.pairs(found))
    for word in found:
        counts.update(linear.letters(word))
    size = sqrt(max(len(found), linear.SHORT))
    return {name: count / size for name, count in counts.items()}


def fit(
    texts: Sequence[str], positive: Sequence[bool], *, strength: float, most: int, digits: int = 3, least: int = 2
) -> tuple[dict[str, float], float]:
    """Weights and bias by logistic regression (L2, balanced classes), of the `most` heaviest features, fitted again.

    `strength` is scikit-learn's C, `least` the texts that a feature must be in. Weights are rounded to `digits`.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = [features(text) for text in texts]
    seen: Counter[str] = Counter(name for row in rows for name in row)
    rows = [{name: value for name, value in row.items() if seen[name] >= least} for row in rows]
    target = [int(value) for value in positive]

    def fitted(kept: list[dict[str, float]]) -> tuple[list[str], Any]:
        table = DictVectorizer(sparse=True)
        model = LogisticRegression(C=strength, class_weight="balanced", solver="liblinear", random_state=0)
        matrix: Any = table.fit_transform(kept)
        matrix.indices, matrix.indptr = matrix.indices.astype("int32"), matrix.indptr.astype("int32")  # liblinear's
        model.fit(matrix, target)
        return list(table.feature_names_), model

    names, model = fitted(rows)
    heaviest = sorted(zip(names, model.coef_[0], strict=True), key=lambda pair: -abs(pair[1]))[:most]
    kept_names = {name for name, _ in heaviest}
    names, model = fitted([{n: v for n, v in row.items() if n in kept_names} for row in rows])
    weights = {name: round(float(value), digits) for name, value in zip(names, model.coef_[0], strict=True)}
    return {name: value for name, value in weights.items() if value}, round(float(model.intercept_[0]), digits)
