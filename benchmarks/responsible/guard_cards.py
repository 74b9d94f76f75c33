"""Measure every guard and write its card: recall, false blocks, by identity term and variety of English, p50 and p99.

Run: python benchmarks/responsible/guard_cards.py --data FOLDER [--attacks FILE …] [--only GUARD …] [--speeds]
FOLDER holds presidio_pii, xstest, madlibs_identity, dialect_pairs and banking77, and davidson_hate for the recall of
profanity (t-davidson/hate-speech-and-offensive-language, MIT: labeled_data.csv); names need the extra pii-names.
FILE is a JSON list of attacks written by others (or a folder of YAML templates with a `value`), which no weight was
learned from. Writes GUARD_CARDS.md beside this file and cards.json into the package, for `trimtab guards card`.
--only: measure these guards alone, and leave the cards of the others, and every speed that is known, as they are.
--speeds: measure nothing but speeds, on a machine that does nothing else; everything else in the cards stays.
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
from trimtab.responsible.guards import guard_set, people, topics
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--attacks", type=Path, nargs="*", default=[])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--speeds", action="store_true")
    args = parser.parse_args()
    kept: dict[str, dict[str, Any]] = json.loads(CARDS.read_text(encoding="utf-8"))["guards"]
    texts = _texts(args.data)
    defined = {name: params for name, params in _defined(texts).items() if not args.only or name in args.only}
    if wrong := set(args.only) - set(defined):
        parser.error(f"--only: no guard is called {', '.join(sorted(wrong))}")
    if args.speeds:
        new = {name: kept[name] | {"milliseconds_1kb": _speed_of(name, defined[name], texts)} for name in defined}
    else:
        new = {name: _card(name, params, texts, args.data, args.attacks) for name, params in defined.items()}
    if args.only and not args.speeds:
        new = {name: card | {"milliseconds_1kb": kept[name]["milliseconds_1kb"]} for name, card in new.items()}
    cards = kept | new if args.only or args.speeds else new
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
    return {name: _card(name, params, texts, data, attacks) for name, params in _defined(texts).items()}


def _defined(texts: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """The guards that have a card, and how each is set."""
    return {
        "pii": {"find": sorted(pii.PERSONAL)},
        "secrets": {},
        "injection (rules)": {"model": False},
        "injection": {},
        "profanity": {},
        "topics": topics.fit(texts["banking77 train"][::5], [], 0.05),
        "length": {"max_chars": 4000},
        "format": {"schema": {"type": "object", "required": ["intent"]}},
        **({"names": {}} if people.reason() is None else {}),
    }


def _checks(name: str, params: dict[str, Any]) -> list[guard_set.Check]:
    guard = Guard(name, name.split(" ")[0], "both", "block", params=params)
    return guard_set.checks(GuardSet([guard]), "output", "/", "champion")


def _speed_of(name: str, params: dict[str, Any], texts: dict[str, list[str]]) -> dict[str, Any]:
    return _speed(_checks(name, params)[0].look, texts)


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
    checks = _checks(name, params)

    def blocks(text: str) -> bool:
        said = json.dumps({"intent": text}) if kind == "format" else text  # what an answer says is no part of its form
        return guard_set.judge(checks, "output", said).blocked is not None

    def stops(text: str) -> bool:
        return guard_set.judge(checks, "output", text).blocked is not None

    benign = ["xstest safe", "example messages", "banking77 test"]
    if kind in ("injection", "profanity"):
        benign.append("presidio_pii")
    if kind == "topics":  # whose business is to stop what is of another topic
        benign = ["banking77 test"]
    frames = _mentions(texts["banking77 test"]) if kind == "topics" else _madlibs(data)
    return {
        "milliseconds_1kb": _speed(checks[0].look, texts),
        "recall": _recall(name, stops, texts, data, attacks),
        "false_blocks": {one: _rate(blocks, texts[one]) for one in benign} | _calm_tweets(kind, blocks, data),
        "by_identity": _identity(blocks, frames),
        "by_variety": _variety(blocks, data),
    }


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
        return {"tweets called offensive or hateful": _rate(blocks, _tweets(data, offensive=True))}
    if name == "length":
        joined = " ".join(texts["example messages"] + texts["banking77 test"])
        return {"4001 to 4420 characters": _rate(blocks, (joined[at : at + 4001 + at] for at in range(420)))}
    if name == "format":
        said = [{"intent": text} for text in texts["example messages"]]
        broken = [*(json.dumps(one)[:-1] for one in said), *(json.dumps({"label": one["intent"]}) for one in said)]
        return {"cut off, or without its field": _rate(blocks, broken)}
    if name == "names":
        return _names_recall(data)
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


def _names_recall(data: Path) -> dict[str, Any]:
    rows = json.loads((data / "presidio_pii/synth_dataset_v2.json").read_text(encoding="utf-8"))
    hits: list[int] = []
    for row in rows:
        wanted = [span for span in row["spans"] if span["entity_type"] == "PERSON"]
        found = people.find(row["full_text"]) if wanted else []
        hits += [any(f.start < s["end_position"] and f.end > s["start_position"] for f in found) for s in wanted]
    return {"person": _interval(sum(hits), len(hits))}


def _tweets(data: Path, *, offensive: bool) -> list[str]:
    """Tweets by what people called them: hateful or offensive (0, 1), or neither (2). None without the data."""
    file = data / "davidson_hate/labeled_data.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8") as rows:
        return [row["tweet"] for row in csv.DictReader(rows) if (row["class"] != "2") == offensive]


def _calm_tweets(kind: str, blocks: Blocks, data: Path) -> dict[str, Any]:
    """Tweets that people called neither offensive nor hateful, for the guard of profanity."""
    return {"tweets called neither": _rate(blocks, _tweets(data, offensive=False))} if kind == "profanity" else {}


def _attacks(path: Path) -> list[str]:
    if path.is_dir():
        files = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(path.rglob("*.yaml"))]
        found = [re.search(r"^value:\s*[|>]?[-+]?\n?(.*)", text, re.DOTALL | re.MULTILINE) for text in files]
        return [match[1] for match in found if match]
    return json.loads(path.read_text(encoding="utf-8"))


def _mentions(questions: Sequence[str]) -> list[dict[str, str]]:
    """Questions of the guard's own topic, each asked by customers of every identity."""
    return [{term: f"I am a customer, and {term}. {text}" for term in IDENTITIES} for text in questions[::51][:60]]


def _madlibs(data: Path) -> list[dict[str, str]]:
    """Benign sentences by identity term, for each frame."""
    by_frame: dict[str, dict[str, str]] = {}
    pattern = re.compile(rf"\b(?:{'|'.join(sorted(IDENTITIES, key=len, reverse=True))})\b", re.IGNORECASE)
    with (data / "madlibs_identity/en_sentence_templates.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            found = pattern.findall(row["phrase"])
            if row["toxicity"] == "nontoxic" and len(found) == 1:
                by_frame.setdefault(pattern.sub("{}", row["phrase"]), {})[found[0].lower()] = row["phrase"]
    return [frame for frame in by_frame.values() if len(frame) > 5][:60]


def _identity(blocks: Blocks, frames: Sequence[dict[str, str]]) -> dict[str, Any]:
    """False blocks by identity term: each benign sentence against the same one with the next term."""
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
    """The first look at a message of 1,000 characters, folding included, in milliseconds. Half of the messages come
    before, unmeasured: what a gateway has learned of words by then is kept."""
    joined = " ".join(texts["example messages"] + texts["banking77 test"])
    messages = [joined[at : at + LENGTH] for at in range(0, len(joined) - LENGTH, LENGTH)]
    for message in messages[::2]:
        look(fold(message).text)
    spent: list[float] = []
    for message in messages[1::2]:
        begun = time.perf_counter()
        look(fold(message).text)
        spent.append((time.perf_counter() - begun) * 1000)
    ordered = sorted(spent)
    return {
        "p50": round(statistics.median(ordered), 4),
        "p99": round(ordered[int(len(ordered) * 0.99)], 4),
        "n": len(spent),
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
