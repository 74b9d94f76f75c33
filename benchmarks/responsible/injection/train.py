"""Train the injection guard's linear model from the data beside this file, and write its weights into the package.

The data is our own: `attacks.txt` and `benign.txt` are sentences with choices, drawn here with a fixed seed;
`prose.txt` (pages about this project) and the messages of the example's first period are benign as well. One line in
five is held out, as a line: no wording of it is trained on; the threshold comes from there.
Run: python benchmarks/responsible/injection/train.py [--write]
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

from trimtab.responsible.guards import fitting, injection, linear

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WEIGHTS = ROOT / "src/trimtab/responsible/guards/injection.json"
EVERYDAY = WEIGHTS.with_name("everyday.json")
"""What topic guards are told apart from: benign lines, a few drawings of each."""
EACH_ATTACK, EACH_BENIGN = 36, 22
"""Drawings of each line."""
FEATURES, STRENGTH = 9000, 3.0
PER_STRETCH = 0.03
"""Held-out benign stretches that may be taken for an attack: of our lines, most of which were written to be near it."""
PER_SENTENCE = 0.005
"""The same of sentences alone: a text has several for each stretch, so one must be beyond doubt."""
_CHOICE = re.compile(r"\(([^()]*)\)")


def drawn(line: str, times: int, chance: random.Random) -> list[str]:
    """Distinct texts of a line, at most `times`."""

    def one(text: str) -> str:
        while match := _CHOICE.search(text):
            text = text[: match.start()] + chance.choice(match[1].split("|")) + text[match.end() :]
        return re.sub(r"\s+", " ", text.replace("\\", "")).strip()

    return sorted({one(line) for _ in range(times)})


def lines(name: str) -> list[str]:
    """The lines of a data file."""
    every = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line for line in every if line and not line.startswith("#")]


def prose() -> list[str]:
    """Benign stretches of our own: pages about this project as they once were, and messages of the example."""
    pages = (HERE / "prose.txt").read_text(encoding="utf-8").splitlines()
    messages = (ROOT / "examples/support-triage/tickets-period1.jsonl").read_text(encoding="utf-8")
    return pages + [json.loads(line)["message"] for line in messages.splitlines()]


def data(seed: int = 0) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Texts with whether they attack: to train on, and of held-out lines."""
    chance = random.Random(seed)  # noqa: S311 (data, not a secret)
    parts: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for name, attack, times in (("attacks.txt", True, EACH_ATTACK), ("benign.txt", False, EACH_BENIGN)):
        pools: tuple[list[str], list[str]] = ([], [])
        for number, line in enumerate(lines(name)):
            pools[number % 5 == 4].extend(drawn(line, times, chance))
        for part, pool in zip(parts, pools, strict=True):
            # Two or three sentences together are one stretch, as they are when a message is scanned.
            together = [" ".join(chance.sample(pool, chance.choice((2, 2, 3)))) for _ in range(len(pool) // 2)]
            if attack:  # an attack hides among ordinary words
                calm = [text for text, bad in part if not bad] or pool
                together += [f"{a} {b}" for a, b in zip(chance.sample(pool, len(pool) // 6), calm, strict=False)]
            part.extend((text, attack) for text in [*pool, *together])
    calm = prose()
    chance.shuffle(calm)
    edge = len(calm) * 4 // 5
    parts[0].extend((text, False) for text in calm[:edge])
    parts[1].extend((text, False) for text in calm[edge:])
    return parts


def main() -> None:
    """Fit, calibrate, say what the held-out lines say, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    train, held = data()
    model = linear.Linear(*_fit(train))
    calm = sorted(model.score(text) for text, bad in held if not bad)
    one = round(calm[-max(1, int(len(calm) * PER_STRETCH))], 2)
    each = sorted(model.score(sentence) for text, bad in held if not bad for sentence in injection.sentences(text))
    sentence = max(one, round(each[-max(1, int(len(each) * PER_SENTENCE))], 2))
    bad = [text for text, attack in held if attack]
    caught = sum(model.score(text) > one for text in bad)
    either = sum(model.score(text) > one or injection.rule(text) for text in bad)
    print(f"{len(train)} stretches to train, {len(held)} of other lines held out; thresholds {one}, {sentence}")
    print(f"held-out attacks caught: {caught}/{len(bad)} by the model, {either}/{len(bad)} with the rules")
    if write:  # the threshold stands; the weights learn from every line
        weights, bias = _fit([*train, *held])
        told = {"bias": bias, "thresholds": {"one": one, "sentence": sentence, "sum": round(one * 1.6, 2)}}
        told["weights"] = dict(sorted(weights.items()))
        chance = random.Random(1)  # noqa: S311 (data, not a secret)
        calm_lines = [text for line in lines("benign.txt") for text in drawn(line, 6, chance)]
        EVERYDAY.write_text(json.dumps(calm_lines, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        WEIGHTS.write_text(json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"written: {WEIGHTS.relative_to(ROOT)}, {len(weights)} weights, {WEIGHTS.stat().st_size} bytes")


def _fit(rows: list[tuple[str, bool]]) -> tuple[dict[str, float], float]:
    texts, attacks = [text for text, _ in rows], [attack for _, attack in rows]
    return fitting.fit(texts, attacks, strength=STRENGTH, most=FEATURES, digits=2)


if __name__ == "__main__":
    main()
