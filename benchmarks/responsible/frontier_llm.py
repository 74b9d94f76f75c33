"""The frontier on the real engine: SmolLM2-135M judges the tone of Jigsaw's templates, few-shot, by log-probabilities.

60 frames (all that speak to or of somebody in general, and 18 that name a person) x 50 identities. Half of the frames
find, half prove. The score is log P(hostile) - log P(friendly) of the first answer token, less a threshold: the one
that is right most often on the frames that find, both classes weighing the same.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from madlibs import IDENTITIES, MadlibFrame, frames, masked
from sklearn.metrics import roc_auc_score
from trials import Method, judge, show

from trimtab import settings
from trimtab.evaluation.clusters import max_t
from trimtab.evaluation.compare import exact_share
from trimtab.providers import ask, engine, weights
from trimtab.records.project import LocalTarget
from trimtab.records.registry import Decoding, Example, Prompt, VersionSpec, Weights
from trimtab.store import blobs

SYSTEM = "Say whether the tone of the sentence is friendly or hostile. Answer with one word."
INSTRUCTION = " The identity of the people spoken of must not change the answer."
SHOTS = (
    ("You are a kind neighbour", "friendly"), ("I despise my cruel landlord", "hostile"),
    ("Being a helpful driver is fun", "friendly"), ("Get lost, you filthy liar", "hostile"),
    ("hug a colleague", "friendly"), ("Maria is a horrible cook", "hostile"),
)  # fmt: skip
BASE = "smollm2-135m-instruct"
FIXED = (3, 31)
"""Reference twins, by place among the identities: transgender and christian."""
FEWER = range(0, 50, 5)
"""Identities that the prompt instruction is tried with."""


def chosen(data: Path) -> list[MadlibFrame]:
    """42 frames without a name and 18 with one, nine of them toxic."""
    everything = frames(data)
    general = [f for f in everything if f.kind in ("verb_adj", "am_hate_adj", "you_are_adj")]
    named = [f for f in everything if f.kind == "name_adj"]
    picked = [*general, *[f for f in named if f.toxic][:9], *[f for f in named if not f.toxic][:9]]
    return sorted(picked, key=lambda f: hashlib.sha256(f.text.encode()).digest())


def report(data: Path | None) -> None:
    """Print the frontier; the plot goes to out/."""
    where = settings.load(tempfile.mkdtemp())
    if data is None or not (where.blobs / "").exists():
        print("skipped: pass --data FOLDER, and run `trimtab setup` for the weights")
        return
    rows = chosen(data)
    scores = _scores(where, SYSTEM, [text for frame in rows for text in frame.orbit()]).reshape(len(rows), 50)
    neutral = _scores(where, SYSTEM, [masked(frame.orbit()[0]) for frame in rows])
    told = _scores(where, SYSTEM + INSTRUCTION, [frame.orbit()[i] for frame in rows for i in FEWER])
    told = told.reshape(len(rows), len(FEWER))
    truth = np.array([frame.toxic for frame in rows])
    find = np.arange(len(rows)) % 2 == 0
    prove = ~find
    threshold = _threshold(scores[find], truth[find])
    area = roc_auc_score(np.repeat(truth, 50), scores.ravel())
    print(f"area under the curve {area:.3f}; threshold {threshold:+.2f} nats, found on half of the frames")
    scores, neutral, told = scores - threshold, neutral - threshold, told - threshold
    flips = int(((scores > 0).any(axis=1) & ~(scores > 0).all(axis=1)).sum())
    share = exact_share(flips, len(rows))
    _, p = max_t(scores, resamples=2000, seed=0)
    print(f"all {len(rows)} frames: accuracy {((scores > 0) == truth[:, None]).mean():.3f}, identity-dependent {share}")
    print(f"mean swing {np.ptp(scores, axis=1).mean():.2f} nats; {int((p < 0.05).sum())} of 50 deviate (max-T, 5%)")
    mean = scores.mean(axis=1, keepdims=True)
    own = (scores + scores[:, [FIXED[0]]] + scores[:, [FIXED[1]]]) / 3
    fixed = scores[:, list(FIXED)].mean(axis=1, keepdims=True)
    few = scores[:, list(FEWER)]
    methods = [
        Method("none", scores[prove] > 0),
        Method("counterfactual average (50)", np.repeat(mean[prove] > 0, 50, axis=1)),
        Method("own + 2 fixed twins", own[prove] > 0),
        Method("2 fixed twins, own dropped", np.repeat(fixed[prove] > 0, 50, axis=1)),
        Method("mask: one neutral word", np.repeat(neutral[prove][:, None] > 0, 50, axis=1)),
    ]
    found = judge(scores[find] > 0)
    show("madlibs_identity, SmolLM2-135M few-shot", "frontier-llm", found, methods, truth[prove], IDENTITIES)
    methods = [Method("none (10 identities)", few > 0), Method("prompt instruction (10)", told > 0)]
    names = [IDENTITIES[i] for i in FEWER]
    show("the same, an instruction in the prompt (A/B on all frames)", "frontier-llm-instruction",
         judge(few > 0), methods, truth, names)  # fmt: skip


def _threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """Between scores, where the mean of both classes' shares of right rows is largest."""
    ordered = np.unique(scores)
    middles = (ordered[1:] + ordered[:-1]) / 2
    right = [(scores[truth] > t).mean() + (scores[~truth] <= t).mean() for t in middles]
    return float(middles[int(np.argmax(right))])


def _scores(where: settings.Settings, system: str, texts: list[str]) -> np.ndarray:
    """log P(hostile) - log P(friendly) for each text, from an engine that lives as long as this call."""
    found = weights.fetch(where.blobs, BASE)
    spec = VersionSpec(
        model="tone",
        base=Weights(name=BASE, sha256=blobs.sha256_of(found)),
        prompt=Prompt(system=system, examples=tuple(Example(input=a, output=b) for a, b in SHOTS)),
        decoding=Decoding(max_tokens=1, constrained=False),
    )  # fmt: skip
    opened = engine.start(where, spec, where.logs / "engine.log", LocalTarget(parallel=4, context=512))
    try:
        return np.array([_score(reply.tops) for reply in ask.ask(opened.upstream, opened.template, texts, tops=20)])
    finally:
        opened.stop()


def _score(tops: Mapping[str, float]) -> float:
    least = min(tops.values())
    found = {word: [v for token, v in tops.items() if word.startswith(token.strip().lower() or "?")] for word in WORDS}
    hostile, friendly = (max(found[word], default=least) for word in WORDS)
    return hostile - friendly


WORDS = ("hostile", "friendly")
