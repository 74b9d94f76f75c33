"""Measure every guard and write its card: recall, false blocks, by identity term and variety of English, p50 and p99.

Run: python benchmarks/responsible/guard_cards.py --data FOLDER [--attacks FILE …]
FOLDER holds presidio_pii, xstest, madlibs_identity, dialect_pairs and banking77; FILE is a JSON list of attacks written
by others (or a folder of YAML templates with a `value`), which no weight was learned from. Writes GUARD_CARDS.md beside
this file and cards.json into the package, for `trimtab guards card`.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import drawn

from trimtab.evaluation.compare import proportion
from trimtab.responsible import pii
from trimtab.responsible.fairness import counterfactual_gate
from trimtab.responsible.guards import guard_set, topics
from trimtab.responsible.guards.folding import fold
from trimtab.responsible.guards.guard_set import Guard, GuardSet

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CARDS = ROOT / "src/trimtab/responsible/guards/cards.json"
IDENTITIES = (
    *("lesbian", "gay", "bisexual", "transgender", "trans", "queer", "lgbt", "lgbtq", "homosexual", "straight"),
    *("heterosexual", "male", "female", "nonbinary", "african", "black", "white", "european", "hispanic", "latino"),
    *("latina", "latinx", "mexican", "canadian", "american", "asian", "indian", "chinese", "japanese", "christian"),
    *("muslim", "jewish", "buddhist", "catholic", "protestant", "sikh", "taoist", "old", "older", "young", "younger"),
    *("teenage", "millenial", "elderly", "blind", "deaf", "paralyzed"),
)
KINDS = {
    "CREDIT_CARD": "card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "PHONE_NUMBER": "phone",
    "US_SSN": "us_ssn",
    "IP_ADDRESS": "ip",
    "DOMAIN_NAME": "url",
}
DEADBAND, TOLERANCE = 0.02, 0.05
LENGTH = 1000
Blocks = Callable[[str], bool]


def main() -> None:
    """Measure, write, say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--attacks", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    cards = measured(args.data, args.attacks)
    told = {"measured_on": platform.machine(), "python": platform.python_version(), "guards": cards}
    CARDS.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (HERE / "GUARD_CARDS.md").write_text(_markdown(cards), encoding="utf-8")
    print(f"written: {CARDS.relative_to(ROOT)}, benchmarks/responsible/GUARD_CARDS.md")


def report(data: Path | None) -> None:
    """Print the cards, measured now; nothing is written. Attacks by others come from data/attacks, where it is."""
    if data is None:
        print("skipped: pass --data FOLDER (make bench-responsible DATA=FOLDER)")
        return
    for name, card in measured(data, sorted((data / "attacks").glob("*"))).items():
        speed = card["milliseconds_1kb"]
        print(f"{name}: p50 {speed['p50']:.3f} ms, p99 {speed['p99']:.3f} ms on 1,000 characters")
        for what in ("recall", "false_blocks"):
            for one, row in (card.get(what) or {}).items():
                interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if "low" in row else ""
                print(f"  {what.replace('_', ' '):<13} {one:<42} {row['k']:>5} of {row['n']:<5} {interval}")
        for what in ("by_identity", "by_variety"):
            if what in card:
                print(f"  {what.replace('_', ' '):<13} {card[what]['verdict'].upper()}{_blocked(card[what])}")


def measured(data: Path, attacks: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The card of every guard."""
    texts = _texts(data)
    trained = topics.fit(texts["banking77 train"][::5], [], 0.05)
    defined = {
        "pii": {"find": sorted(pii.PERSONAL)},
        "secrets": {},
        "injection (rules)": {"model": False},
        "injection": {},
        "profanity": {},
        "topics": trained,
        "length": {"max_chars": 4000},
        "format": {"schema": {"type": "object", "required": ["intent"]}},
    }
    return {name: _card(name, params, texts, data, attacks) for name, params in defined.items()}


def _texts(data: Path) -> dict[str, list[str]]:
    """Benign texts by where they come from."""

    def column(file: Path, name: str) -> list[str]:
        with file.open(encoding="utf-8") as rows:
            return [row[name] for row in csv.DictReader(rows)]

    prompts = data / "xstest/xstest_prompts.csv"
    with prompts.open(encoding="utf-8") as rows:
        safe = [row["prompt"] for row in csv.DictReader(rows) if row["label"] == "safe"]
    spans = json.loads((data / "presidio_pii/synth_dataset_v2.json").read_text(encoding="utf-8"))
    messages = (ROOT / "examples/support-triage/tickets-period2.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "banking77 test": column(data / "banking77/test.csv", "text"),
        "banking77 train": column(data / "banking77/train.csv", "text"),
        "xstest safe": safe,
        "presidio_pii": [row["full_text"] for row in spans],
        "example messages": [json.loads(line)["message"] for line in messages],
    }


def _card(
    name: str, params: dict[str, Any], texts: dict[str, list[str]], data: Path, attacks: Sequence[Path]
) -> dict[str, Any]:
    kind = name.split(" ")[0]
    checks = guard_set.checks(GuardSet([Guard(name, kind, "both", "block", params=params)]), "output", "/", "champion")

    def blocks(text: str) -> bool:
        return guard_set.judge(checks, "output", text).blocked is not None

    card: dict[str, Any] = {"milliseconds_1kb": _speed(checks[0].look, texts)}
    if kind in ("length", "format"):
        return card | {"note": "deterministic: a limit or a schema, nothing to recall"}
    card["recall"] = _recall(name, blocks, texts, data, attacks)
    benign = ["xstest safe", "example messages", *([] if kind == "topics" else ["banking77 test"])]
    if kind in ("injection", "profanity"):
        benign.append("presidio_pii")
    if kind != "topics":  # whose business is to stop what is of another topic
        card["false_blocks"] = {one: _rate(blocks, texts[one]) for one in benign}
        card["by_identity"] = _identity(blocks, data)
        card["by_variety"] = _variety(blocks, data)
    else:
        card["false_blocks"] = {"banking77 test": _rate(blocks, texts["banking77 test"])}
    return card


def _recall(
    name: str, blocks: Blocks, texts: dict[str, list[str]], data: Path, attacks: Sequence[Path]
) -> dict[str, Any]:
    if name == "pii":
        numbers = {
            kind: _rate(lambda text, k=kind: bool(pii.find(text, {k})), samples)
            for kind, samples in drawn.numbers_of_people().items()
        }
        return numbers | _pii_recall(data)
    if name == "secrets":
        return {kind: _rate(blocks, samples) for kind, samples in drawn.secrets().items()}
    if name == "topics":
        return {one: _rate(blocks, texts[one]) for one in ("xstest safe", "example messages")}
    if name == "profanity":
        return {}
    return {path.stem: _rate(blocks, _attacks(path)) for path in attacks}


def _pii_recall(data: Path) -> dict[str, Any]:
    rows = json.loads((data / "presidio_pii/synth_dataset_v2.json").read_text(encoding="utf-8"))
    counts: dict[str, list[int]] = {}
    outside = 0
    for row in rows:
        found = pii.find(row["full_text"], pii.KINDS)
        for span in row["spans"]:
            kind = KINDS.get(span["entity_type"])
            if kind:
                hit = any(f.start <= span["start_position"] + 1 and f.end >= span["end_position"] - 1 for f in found)
                counts.setdefault(kind, []).append(int(hit))
        outside += sum(
            not any(f.start < s["end_position"] and f.end > s["start_position"] for s in row["spans"]) for f in found
        )
    told: dict[str, Any] = {kind: _interval(sum(hits), len(hits)) for kind, hits in sorted(counts.items())}
    return told | {"found outside every annotated span": {"k": outside, "n": len(rows)}}


def _attacks(path: Path) -> list[str]:
    if path.is_dir():
        files = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(path.rglob("*.yaml"))]
        found = [re.search(r"^value:\s*[|>]?[-+]?\n?(.*)", text, re.DOTALL | re.MULTILINE) for text in files]
        return [match[1] for match in found if match]
    return json.loads(path.read_text(encoding="utf-8"))


def _identity(blocks: Blocks, data: Path) -> dict[str, Any]:
    """False blocks by identity term: each benign sentence against the same one with the next term."""
    by_frame: dict[str, dict[str, str]] = {}
    pattern = re.compile(rf"\b(?:{'|'.join(sorted(IDENTITIES, key=len, reverse=True))})\b", re.IGNORECASE)
    with (data / "madlibs_identity/en_sentence_templates.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            found = pattern.findall(row["phrase"])
            if row["toxicity"] == "nontoxic" and len(found) == 1:
                by_frame.setdefault(pattern.sub("{}", row["phrase"]), {})[found[0].lower()] = row["phrase"]
    frames = [frame for frame in by_frame.values() if len(frame) > 5][:60]
    answers, groups, names, said = [], [], [], []
    worst: dict[str, list[int]] = {}
    for frame in frames:
        told = {term: blocks(text) for term, text in frame.items()}
        terms = sorted(told)
        for place, term in enumerate(terms):
            other = terms[(place + 1 + len(answers) % (len(terms) - 1)) % len(terms)]
            answers.append(tuple({"blocked": "yes" if told[one] else "no"} for one in (term, other)))
            groups.append((term, "rest"))
            names.append((term, other))
            said.append(frame[term])
            worst.setdefault(term, []).append(int(told[term]))
    gate = counterfactual_gate(
        answers, groups, field="blocked", favourable=("no",), deadband=DEADBAND, max_disparity=TOLERANCE, names=names,
        texts=said,
    )  # fmt: skip
    rates = {term: sum(hits) / len(hits) for term, hits in worst.items()}
    top = max(rates, key=lambda term: rates[term])
    return {
        "verdict": gate.verdict,
        "n": gate.n,
        "terms": len(worst),
        "worst": [top, round(rates[top], 4)],
        "detail": gate.detail,
    }


def _variety(blocks: Blocks, data: Path) -> dict[str, Any]:
    """False blocks by variety: the same content in African American and in mainstream American English."""
    lines = (data / "dialect_pairs/habitual.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if "\t" in line]
    answers = [tuple({"blocked": "yes" if blocks(text) else "no"} for text in pair[:2]) for pair in pairs]
    gate = counterfactual_gate(
        answers, [("aae", "sae")] * len(pairs), field="blocked", favourable=("no",), deadband=DEADBAND,
        max_disparity=TOLERANCE, names=[("aae", "sae")] * len(pairs), texts=[pair[0] for pair in pairs],
    )  # fmt: skip
    blocked = [sum(pair[side]["blocked"] == "yes" for pair in answers) for side in (0, 1)]
    return {"verdict": gate.verdict, "n": gate.n, "aae": blocked[0], "sae": blocked[1], "detail": gate.detail}


def _rate(blocks: Blocks, texts: Iterable[str]) -> dict[str, Any]:
    told = [blocks(text) for text in texts]
    return _interval(sum(told), len(told))


def _interval(k: int, n: int) -> dict[str, Any]:
    interval = proportion(k, n)
    return {"k": k, "n": n} | ({"low": round(interval.low, 4), "high": round(interval.high, 4)} if interval else {})


def _speed(look: Callable[[str], Any], texts: dict[str, list[str]]) -> dict[str, Any]:
    """One look at a message of 1,000 characters, folding included: the best of five for each, in milliseconds."""
    joined = " ".join(texts["example messages"] + texts["banking77 test"])
    messages = [joined[at : at + LENGTH] for at in range(0, len(joined) - LENGTH, LENGTH)]
    best: list[float] = []
    for message in messages:
        look(fold(message).text)  # what is learned of words is kept
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            look(fold(message).text)
            times.append(time.perf_counter() - begun)
        best.append(min(times) * 1000)
    ordered = sorted(best)
    return {
        "p50": round(statistics.median(ordered), 4),
        "p99": round(ordered[int(len(ordered) * 0.99)], 4),
        "n": len(best),
    }


def _blocked(told: dict[str, Any]) -> str:
    return f" ({told['aae']} and {told['sae']} of {told['n']} stopped)" if "aae" in told else ""


def _markdown(cards: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Guard cards",
        "",
        "Written by `benchmarks/responsible/guard_cards.py`; shares with Wilson's 95% interval.",
        "",
    ]
    for name, card in cards.items():
        speed = card["milliseconds_1kb"]
        lines += [
            f"## {name}",
            "",
            f"p50 {speed['p50']} ms, p99 {speed['p99']} ms on {speed['n']} messages of 1,000 characters.",
            "",
        ]
        for what in ("recall", "false_blocks"):
            rows = card.get(what) or {}
            if rows:
                lines += [f"| {what.replace('_', ' ')} | found | of | 95% interval |", "|---|---|---|---|"]
                lines += [
                    f"| {one} | {r['k']} | {r['n']} | {r.get('low', '')} to {r.get('high', '')} |"
                    for one, r in rows.items()
                ]
                lines.append("")
        for what in ("by_identity", "by_variety"):
            if what in card:
                told, title = card[what], what.replace("_", " ").capitalize()
                lines += [f"{title}: **{told['verdict']}**{_blocked(told)}. {told['detail']}", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
