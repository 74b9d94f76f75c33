"""A version with thresholds by a declared group, on the real small model: the score that llama.cpp tells is what
decides, and who declares no group has the model's own answer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from gateway_place import Place

import plain_http
from trimtab import settings as environment
from trimtab.providers import ask, engine, weights
from trimtab.records.project import LocalTarget
from trimtab.records.registry import (
    Decoding,
    Example,
    LabelSet,
    OperatingPoint,
    Prompt,
    Thresholds,
    VersionSpec,
    Weights,
)
from trimtab.responsible import log_odds, operating_points
from trimtab.store import blobs

SMALL = "smollm2-135m-instruct"
LABELS = LabelSet(fields={"intent": ("refund", "login"), "urgency": ("low", "high")})
SHOTS = (("I lost my card!", "refund", "high"), ("Where do I log in?", "login", "low"))
QUESTIONS = ("My card was stolen, help!", "How do I change my name?", "Money is missing.", "The page is slow.")


def spec_of(base: Weights, groups: dict[str, OperatingPoint]) -> VersionSpec:
    examples = tuple(
        Example(input=text, output=LABELS.dump({"intent": intent, "urgency": urgency}))
        for text, intent, urgency in SHOTS
    )
    told = Thresholds(
        attribute="dialect", constraint="equalized_odds", field="urgency", favourable="high", other="low",
        groups=groups, scores_of="", key="k",
    )  # fmt: skip
    prompt = Prompt(system="Sort the message.", examples=examples)
    return VersionSpec(model="m", base=base, prompt=prompt, decoding=Decoding(), labels=LABELS, thresholds=told)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, list[float]]]:
    """The gateway, and the engine's scores of the questions; one group's threshold lies in their middle."""
    settings = environment.load(tmp_path_factory.mktemp("thresholds"))
    base = Weights(name=SMALL, sha256=blobs.sha256_of(weights.fetch(settings.blobs, SMALL)))
    always, never = OperatingPoint(start=1.0), OperatingPoint(start=0.0)
    spec = spec_of(base, {"up": always, "down": never})
    opened = engine.start(settings, spec, settings.root / "engine.log", LocalTarget(parallel=1))
    place = Place(settings.root)
    try:
        replies = ask.ask(opened.upstream, opened.template, QUESTIONS, parallel=1, tops=log_odds.TOPS)
        assert spec.thresholds is not None
        about = operating_points.deciding(spec.thresholds.model_dump())
        scores = [log_odds.score(reply.text, reply.tokens, about) or 0.0 for reply in replies]
        middle = OperatingPoint(steps=((sum(sorted(scores)[1:3]) / 2, 1.0),))
        told = spec_of(base, {"up": always, "down": never, "middle": middle}).thresholds
        assert told is not None
        template = opened.template | {"thresholds": told.model_dump(mode="json")}
        place.route({"model": "m", "version": 1, "template": template, **opened.upstream.model_dump(mode="json")})
        place.gateway()
        yield place, scores
    finally:
        place.stop()
        opened.stop()


def answer(place: Place, text: str, group: str | None) -> httpx.Response:
    headers = {} if group is None else {"x-trimtab-group": group}
    body = {"messages": [{"role": "user", "content": text}]}
    reply = plain_http.post(f"{place.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply


def test_the_small_models_own_score_decides_for_a_declared_group(served: tuple[Place, list[float]]) -> None:
    place, scores = served
    bound = sum(sorted(scores)[1:3]) / 2
    for text, score in zip(QUESTIONS, scores, strict=True):
        said: dict[str | None, dict[str, str]] = {}
        for group in (None, "up", "down", "middle", "nobody's"):
            reply = answer(place, text, group)
            assert "logprobs" not in reply.json()["choices"][0]
            said[group] = json.loads(reply.json()["choices"][0]["message"]["content"])
        assert said[None] == said["nobody's"]
        assert said[None]["urgency"] == ("high" if score > 0 else "low")
        assert {said[group]["intent"] for group in said} == {said[None]["intent"]}
        decided = [said[group]["urgency"] for group in ("up", "down", "middle")]
        assert decided == ["high", "low", "high" if score > bound else "low"]
    rows = [row for row in place.closed().values() if row.input_text == QUESTIONS[0]]
    assert {json.loads(row.output_text or "")["urgency"] for row in rows} == {"high", "low"}
    held = b"".join(path.read_bytes() for path in place.journal.rglob("*") if path.is_file())
    assert b"middle" not in held
    assert b"nobody's" not in held
