"""How often guards stop harmless texts that nobody looked at while they were tuned. Nothing is written.

holdout.txt holds our own messages of customers, on purpose with the words that attacks use; they were written after the
rules and the weights, without looking at either's mistakes, and must not be used to mend them (then write others).
banking77/train.csv is real questions to a bank, of which no card uses a line, but for the topics.
"""

from __future__ import annotations

import csv
from pathlib import Path

from trimtab.evaluation.compare import proportion
from trimtab.responsible import pii
from trimtab.responsible.guards import guard_set
from trimtab.responsible.guards.guard_set import Guard, GuardSet

GUARDS = {
    "injection": {},
    "injection (rules)": {"model": False},
    "profanity": {},
    "pii": {"find": sorted(pii.PERSONAL)},
    "secrets": {},
}


def report(data: Path | None) -> None:
    """Print each guard's rate, with Wilson's 95% interval, and what it stopped."""
    own = Path(__file__).with_name("holdout.txt").read_text(encoding="utf-8").splitlines()
    sets = {"our hold-out": own}
    if data is not None:
        with (data / "banking77/train.csv").open(encoding="utf-8") as rows:
            sets["banking77 train"] = [row["text"] for row in csv.DictReader(rows)]
    for name, params in GUARDS.items():
        kind = name.partition(" ")[0]
        made = GuardSet([Guard(name, kind, "both", "block", params=params)])
        checks = guard_set.checks(made, "input", "/", "champion")
        for where, texts in sets.items():
            stopped = [text for text in texts if guard_set.judge(checks, "input", text).blocked is not None]
            rate = proportion(len(stopped), len(texts))
            assert rate is not None  # noqa: S101 (no set is empty)
            print(f"{name:<18} {where:<16} {len(stopped):>3} of {len(texts):<6} [{rate.low:.4f}, {rate.high:.4f}]")
            for text in stopped[:8]:
                print(f"    {text[:110]}")
