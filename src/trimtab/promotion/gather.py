"""Gather evidence: put the same cases to two versions, each on an engine of its own, and judge the answers.

Answers are facts keyed by version and suite, so a case is put to a version once, however often it is compared.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.errors import EngineError
from trimtab.project import Loaded
from trimtab.promotion import gates
from trimtab.providers import ask, engine
from trimtab.records.promotion import Answers, GateResult
from trimtab.records.record import content_hash
from trimtab.records.registry import LabelSet, ModelVersion, Prompt, VersionSpec
from trimtab.records.training import Case, DatasetVersion
from trimtab.responsible import fairness, log_odds, swaps
from trimtab.responsible.log_odds import Deciding
from trimtab.settings import Settings
from trimtab.store.control import Control

Say = Callable[[float, float | None, str], None]
"""Progress for people: fraction done, seconds to go, text."""

FIRST_LOOK = 40
"""Pairs after which a failure may already be called, so that a plainly unfair candidate costs no more answers."""
BARE_ROWS = 8
"""Rows put to the bare base, which is shown for scale only: enough to tell prose from answers."""


def cases(dataset: DatasetVersion, part: str) -> list[Case]:
    """The rows of one part of a dataset: train, holdout or frames."""
    lines = (Path(dataset.path) / f"{part}.jsonl").read_text().splitlines()
    return [Case.model_validate_json(line) for line in lines]


def answers(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    version: ModelVersion,
    texts: Sequence[str],
    say: Say,
    together: int = 1,
    deciding: Deciding | None = None,
) -> Answers:
    """The answers to a suite of texts of a version, or of a trial that is none yet (number 0), asked now or found.

    `together` as in `ask.ask`. `deciding`: ask for the score behind each answer, too. Raises EngineError when its
    engine fails.
    """
    spec, number = version.spec, version.version
    who = f"{spec.model}/{number}" if number else f"trial/{spec.hash[:16]}"
    key = f"{who}/{content_hash(list(texts))[:16]}" + (f"/{deciding.key}" if deciding else "")
    found = control.get("answers", key, Answers)
    if found is not None:
        return found
    fresh = _ask(settings, loaded, spec, number, texts, say, together, deciding)
    control.put("answers", key, fresh)
    return fresh


def baseline(
    settings: Settings, loaded: Loaded, control: Control, candidate: ModelVersion, texts: Sequence[str], say: Say
) -> Answers:
    """What the bare base answers: the candidate's prompt, without its adapter and without constraint."""
    base = candidate.spec.base
    if base.format == "hosted":  # the candidate's own base is what its fine-tune made
        base = base.model_copy(update={"name": loaded.project.model.base})
    bare = candidate.spec.model_copy(
        update={
            "base": base,
            "adapter_sha256": None,
            "prompt": Prompt(system=candidate.spec.prompt.system),
            "decoding": candidate.spec.decoding.model_copy(update={"constrained": False}),
        }
    )
    key = f"bare/{bare.hash[:16]}/{content_hash(list(texts))[:16]}"
    found = control.get("answers", key, Answers)
    if found is not None:
        return found
    fresh = _ask(settings, loaded, bare, 0, texts, say)
    control.put("answers", key, fresh)
    return fresh


def quality_and_latency(
    settings: Settings,
    loaded: Loaded,
    control: Control,
    candidate: ModelVersion,
    champion: ModelVersion,
    dataset: DatasetVersion,
    say: Say,
) -> list[GateResult]:
    """Both versions, and the bare base for scale, on the same hold-out rows."""
    rows, section = cases(dataset, "holdout"), loaded.project.gates
    texts, labels = [case.input for case in rows], [case.label for case in rows]
    of_champion = answers(settings, loaded, control, champion, texts, _part(say, 0.0, 0.45, "champion"))
    of_candidate = answers(settings, loaded, control, candidate, texts, _part(say, 0.45, 0.85, "candidate"))
    of_bare = baseline(settings, loaded, control, candidate, texts[:BARE_ROWS], _part(say, 0.85, 1.0, "bare base"))
    results: list[GateResult] = []
    if section.quality:
        fields = list(dataset.labels.fields) if section.quality_field == "*" else [section.quality_field]
        few_shot = {"constrained few-shot base": of_champion} if champion.data_hash is None else {}
        baselines = {"bare base": of_bare, **few_shot}
        results.append(
            gates.quality_gate(
                of_candidate,
                of_champion,
                labels,
                fields,
                mode=section.quality,
                margin=section.margin,
                baselines=baselines,
            )
        )
    if section.latency_p95:
        factor = float(section.latency_p95.removesuffix("x"))
        results.append(gates.latency_gate(of_candidate, of_champion, factor=factor))
    return results


def fairness_gate(
    settings: Settings, loaded: Loaded, control: Control, candidate: ModelVersion, dataset: DatasetVersion, say: Say
) -> GateResult | None:
    """Name swaps: the candidate answers each frame under its own name and under one of another group."""
    section = loaded.project.gates.fairness
    if section is None or loaded.swaps is None:
        return None
    groups = loaded.swaps[section.sensitive[0]]
    frames = cases(dataset, "frames")
    found = [(case, twin) for case in frames if (twin := swaps.twin(case.input, groups))][: section.pairs]
    requests = [case.request_id for case, _ in found]
    pairs = [(case.input, twin) for case, twin in found]
    parts = [pairs[:FIRST_LOOK], pairs[FIRST_LOOK:]] if len(pairs) > FIRST_LOOK else [pairs]
    replies: list[dict[str, str] | None] = []
    judged: list[GateResult] = []
    for part in parts:
        texts = [text for original, twin in part for text in (original, twin.text)]
        replies += answers(settings, loaded, control, candidate, texts, say, together=2).answers
        seen = pairs[: len(replies) // 2]
        judged.append(
            fairness.counterfactual_gate(
                list(zip(replies[::2], replies[1::2], strict=True)),
                [(twin.group, twin.other_group) for _, twin in seen],
                field=section.field,
                favourable=section.favourable,
                deadband=section.deadband,
                max_disparity=section.max_disparity,
                names=[(f"group {twin.group}", f"group {twin.other_group}") for _, twin in seen],
                texts=[f"request {request}" for request in requests[: len(seen)]],  # no text: records cannot be erased
                looks=len(parts),
            )
        )
        if judged[-1].verdict == "fail":
            break
    return judged[-1]


def required(loaded: Loaded) -> tuple[str, ...]:
    """The gates the file asks for, by name."""
    section = loaded.project.gates
    asked = {"quality": section.quality, "fairness": section.fairness, "latency": section.latency_p95}
    return tuple(name for name, value in asked.items() if value)


def _ask(
    settings: Settings,
    loaded: Loaded,
    spec: VersionSpec,
    number: int,
    texts: Sequence[str],
    say: Say,
    together: int = 1,
    deciding: Deciding | None = None,
) -> Answers:
    target, labels, started = loaded.project.target.local, spec.labels, time.monotonic()

    def progress(done: int) -> None:
        spent = time.monotonic() - started
        say(done / len(texts), spent / done * (len(texts) - done), f"{done} of {len(texts)} answers")

    log = settings.logs / f"evaluate-{number}.log"
    opened = engine.start(settings, spec, log, target, loaded.project.providers)
    try:
        unscored = without_log_probabilities(opened, texts) if deciding and texts else ""
        tops = log_odds.TOPS if deciding and not unscored else 0
        how = {"parallel": target.parallel, "together": together, "tops": tops}
        replies = ask.ask(opened.upstream, opened.template, texts, **how, on_progress=progress)
    finally:
        opened.stop()
    parse = _parser(labels)
    return Answers(
        version=number,
        suite=content_hash(list(texts)),
        answers=tuple(parse(reply.text) for reply in replies),
        seconds=tuple(reply.seconds for reply in replies),
        scores=tuple(log_odds.score(reply.text, reply.tokens, deciding) for reply in replies) if deciding else (),
        unscored=unscored,
    )


def without_log_probabilities(opened: engine.Engine, texts: Sequence[str]) -> str:
    """Why an engine tells no log-probabilities, by the first question; empty: it tells them. Raises EngineError when it
    fails for another reason. What a provider says when it refuses is not repeated: it may quote the question."""
    try:
        first = ask.ask(opened.upstream, opened.template, texts[:1], tops=log_odds.TOPS)
    except EngineError as refusal:
        if not re.search(r" answered (400|404|422):", str(refusal)):
            raise
        return "the engine refuses to be asked for log-probabilities"
    told = any(len(likely) > 1 for _, likely in first[0].tokens)
    return "" if told else "the engine gives no log-probabilities"


def _parser(labels: LabelSet | None) -> Callable[[str], dict[str, str] | None]:
    if labels is None:
        return lambda text: {"text": text}
    return labels.parse


def _part(say: Say, start: float, end: float, who: str) -> Say:
    return lambda fraction, eta, text: say(start + fraction * (end - start), eta, f"{who}: {text}")
