"""The probe set put to a version's model: what it is prone to, as information that no gate reads."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.evaluation.compare import exact_share
from trimtab.promotion import gather
from trimtab.promotion.audits import Method, Place, judged, recorded
from trimtab.promotion.gather import Say
from trimtab.providers import ask, engine
from trimtab.records.registry import Decoding, Prompt, VersionSpec
from trimtab.records.responsible import Audit
from trimtab.responsible import log_odds, probes
from trimtab.responsible.probes import Asked

HOW = Method("probes", "item", probes.TEST, probes.LIMITS)


def probe(place: Place, say: Say, language: str | None = None) -> Audit:
    """Ask every item of our set (of one language, or all) and record the scores. Raises EngineError when no engine
    answers."""
    items = [item for item in probes.ITEMS if language in (None, item.language)]
    prompts = probes.asked(items)
    scores = _scores(place, [prompt.prompt for prompt in prompts], say)
    languages = dict.fromkeys(item.language for item in items)
    numbers: dict[str, float] = {}
    for scope in [*languages, *(["all"] if len(languages) > 1 else [])]:
        mine = [i for i, prompt in enumerate(prompts) if scope in ("all", prompt.item.language)]
        numbers |= _numbers(scope, [prompts[i] for i in mine], [scores[i] for i in mine])
    evaluation = [prompt.prompt for prompt in prompts]
    return recorded(place, judged(place, HOW, [], len(items), evaluation, numbers=numbers))


def bare(spec: VersionSpec) -> VersionSpec:
    """The version's model without labels, masks, votes, guards and, where it classifies, without its prompt."""
    prompt = Prompt(system="") if spec.labels else Prompt(system=spec.prompt.system)
    decoding = Decoding(max_tokens=4, constrained=False)
    none = {"labels": None, "masks": (), "average": None, "rotate": (), "thresholds": None, "guards": None}
    return spec.model_copy(update={"prompt": prompt, "decoding": decoding, **none})


def _scores(place: Place, texts: Sequence[str], say: Say) -> list[tuple[float, ...]]:
    """Each letter's score for each prompt: log-probabilities where the engine or provider tells them, else the letter
    that it answers. An engine of ours is asked one prompt at a time: what it computes side by side may differ in the
    last bit, and near ties then fall one way today and another tomorrow."""
    spec, target = bare(place.version.spec), place.loaded.project.target.local
    log, hosted = place.settings.logs / "probe.log", spec.base.format == "hosted"
    opened = engine.start(place.settings, spec, log, target, place.loaded.project.providers)
    try:
        replies = ask.ask(
            opened.upstream,
            opened.template,
            texts,
            parallel=target.parallel if hosted else 1,
            tops=0 if gather.without_log_probabilities(opened, texts) else log_odds.TOPS,
            on_progress=lambda done: say(done / len(texts), None, f"{done} of {len(texts)} prompts"),
        )
    finally:
        opened.stop()
    return [probes.letter_scores(reply.text, reply.tops) for reply in replies]


def _numbers(scope: str, prompts: Sequence[Asked], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """The probe's numbers of one language (or all), with exact intervals for what is a share of items."""
    found = probes.scored(prompts, scores)
    told = {"n": float(found.n), "bias_ambiguous": found.bias_ambiguous, "bias_clear": found.bias_clear}
    told["position"] = found.position
    shares = {
        "accuracy_ambiguous": round(found.accuracy_ambiguous * found.n),
        "accuracy_clear": round(found.accuracy_clear * found.n),
        "stereotyped": found.stereotyped,
    }
    for name, k in shares.items():
        if interval := exact_share(k, found.n, 0.95):
            told |= {name: interval.estimate, f"{name}_lo": interval.low, f"{name}_hi": interval.high}
    return {f"probes/{scope}/{name}": value for name, value in told.items()}
