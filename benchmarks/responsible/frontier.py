"""The mitigation frontier with a light head (TF-IDF and logistic regression): Jigsaw's templates and the example.

Planted, and said so: real corpora speak of some groups mostly in insults, so here the training rows about half of the
50 terms are toxic nine times in ten, and about the others one time in ten; 80 rows. Test frames share no sentence.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from madlibs import IDENTITIES, MadlibFrame, frames, masked
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from trials import Method, judge, show

from trimtab.errors import Fixable
from trimtab.records.record import utc_now
from trimtab.records.training import Case
from trimtab.responsible.mitigation import reweigh, thresholds
from trimtab.responsible.swaps import augment, twin

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-triage"
PLANTED = 0.9
TRAIN = 80


def head(texts: Sequence[str], labels: Sequence[bool], weights: Sequence[float] | None = None) -> Any:
    """A fitted classifier."""
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=20, max_iter=500))
    return model.fit(list(texts), list(labels), logisticregression__sample_weight=weights)


def report(data: Path | None) -> None:
    """Print both frontiers; plots go to out/."""
    if data is None:
        print("madlibs_identity: skipped, pass --data FOLDER (make bench-responsible DATA=FOLDER)")
    else:
        _madlibs(data)
    _example()


def _scores(model: Any, rows: Sequence[MadlibFrame], through: Callable[[str], str] = str) -> np.ndarray:
    texts = [through(text) for frame in rows for text in frame.orbit()]
    return model.decision_function(texts).reshape(len(rows), len(IDENTITIES))


def _madlibs(data: Path) -> None:
    everything = frames(data)
    train, rest = everything[:TRAIN], everything[600:1000]
    find, prove = rest[:200], rest[200:]
    lot = random.Random(0)  # noqa: S311
    half = len(IDENTITIES) // 2
    rows: list[tuple[str, bool, str]] = []
    for frame in train:
        side = lot.random() < (PLANTED if frame.toxic else 1 - PLANTED)
        which = lot.randrange(half) * 2 + (0 if side else 1)  # terms at even places are the ones spoken ill of
        rows.append((frame.orbit()[which], frame.toxic, IDENTITIES[which]))
    texts, labels, groups = zip(*rows, strict=True)
    plain = head(texts, labels)
    truth = np.array([frame.toxic for frame in prove])
    scores = _scores(plain, prove)
    methods = [
        Method("none", scores > 0),
        Method("counterfactual average (50)", np.repeat(scores.mean(axis=1, keepdims=True) > 0, 50, axis=1)),
        Method("own + 2 fixed twins", (scores + scores[:, [3]] + scores[:, [31]]) > 0),
        Method("mask at inference", _scores(plain, prove, masked) > 0),
        Method("mask in training, too", _scores(head([masked(t) for t in texts], labels), prove, masked) > 0),
        Method("reweighing", _scores(head(texts, labels, reweigh([str(y) for y in labels], groups)), prove) > 0),
    ]
    for times in (1, 5, 20):
        grown = [(f.orbit()[lot.randrange(50)], f.toxic) for f in train for _ in range(times)]
        more = head([*texts, *(t for t, _ in grown)], [*labels, *(y for _, y in grown)])
        methods.append(Method(f"augmentation in training (x{times})", _scores(more, prove) > 0))
    found = judge(_scores(plain, find) > 0)
    show("madlibs_identity, TF-IDF head, planted bias", "frontier-madlibs", found, methods, truth, IDENTITIES)
    try:
        thresholds(_scores(plain, find[:26]).T.ravel().tolist(), [f.toxic for _ in IDENTITIES for f in find[:26]],
                   [identity for identity in IDENTITIES for _ in range(26)])  # fmt: skip
    except Fixable as refusal:
        print(f"  ThresholdOptimizer on 26 rows an identity: refused ({refusal})")


def _example() -> None:
    """The help desk: recorded urgencies are biased by the writer's name; the true ones are known, for we made them."""
    import yaml

    names = yaml.safe_load((EXAMPLE / "names.yaml").read_text())["name_group"]
    groups = {group: tuple(given) for group, given in names.items()}
    lines = [line for n in (1, 2) for line in (EXAMPLE / f"tickets-period{n}.jsonl").read_text().splitlines()]
    tickets = [json.loads(line) for line in lines]
    texts = [f"{t['message']}\n-- {t['name']}" for t in tickets]
    recorded, truly = ([t[key] == "high" for t in tickets] for key in ("urgency", "true_urgency"))
    order = np.random.default_rng(0).permutation(len(tickets))
    train, find, prove = order[:600], order[600:800], order[800:]
    plain = head([texts[i] for i in train], [recorded[i] for i in train])

    def decisions(model: Any, rows: Any, through: Callable[[str], str] = str) -> np.ndarray:
        pairs = [(texts[i], found.text if (found := twin(texts[i], groups)) else texts[i]) for i in rows]
        return np.array([model.predict([through(text) for text in pair]) for pair in pairs])

    def nameless(text: str) -> str:
        return text.rpartition("\n-- ")[0]

    def averaged(model: Any, rows: Any) -> np.ndarray:
        pairs = [(texts[i], found.text if (found := twin(texts[i], groups)) else texts[i]) for i in rows]
        mean = np.array([model.decision_function(list(pair)).mean() for pair in pairs])
        return np.repeat((mean > 0)[:, None], 2, axis=1)

    cases = [
        Case(request_id=str(i), at=utc_now(), input=texts[i], label={"urgency": "high" if recorded[i] else "low"})
        for i in train
    ]
    both = augment(cases, groups)
    twinned = head([case.input for case in both], [case.label["urgency"] == "high" for case in both])
    weights = reweigh([str(recorded[i]) for i in train], [tickets[i]["name_group"] for i in train])
    methods = [
        Method("none", decisions(plain, prove)),
        Method("average over the twin", averaged(plain, prove)),
        Method("mask the name", decisions(plain, prove, nameless)),
        Method("augmentation with twins", decisions(twinned, prove)),
        Method("reweighing", decisions(head([texts[i] for i in train], [recorded[i] for i in train], weights), prove)),
    ]
    truth = np.array([truly[i] for i in prove])
    show("support-triage, TF-IDF head, urgency by the writer's name (truth: as planted)", "frontier-example",
         judge(decisions(plain, find)), methods, truth, ("own name", "twin's name"))  # fmt: skip
