"""What a key for each subject costs: draining, reading a window, and disk, with payloads in the clear and encrypted.

    python benchmarks/responsible/payload_keys.py

Requests are the example's messages, made long by others of them; a tenth as many subjects as rows. Both modes are run
in turn on the same rows, and medians are shown.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trimtab import settings as environment
from trimtab.settings import Settings
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, Journal
from trimtab.store.lake import Lake
from trimtab.store.subjects import Subjects

MESSAGES = Path(__file__).parents[2] / "examples" / "support-triage" / "tickets-period1.jsonl"
WINDOW = 200
"""Rows of the window that is read, as the drift monitor reads it."""
RUNS = 5


def rows(count: int, texts: list[str], chars: int) -> list[Closed]:
    """Answered requests of about so many characters."""
    lot, made = random.Random(7), list[Closed]()  # noqa: S311 (no secret)
    for number in range(count):
        text = f"{number} "
        while len(text) < chars:
            text += f"{lot.choice(texts)} "
        said = json.dumps({"intent": lot.choice(["refund", "login"]), "title": text[: chars // 10]})
        asked = {"model": "desk", "messages": [{"role": "user", "content": text}]}
        answer = {"id": f"{number:032x}", "choices": [{"message": {"role": "assistant", "content": said}}]}
        made.append(
            Closed(
                request_id=f"{number:032x}", client_request_id=None, caller=f"person {lot.randrange(count // 10)}",
                requester="key-1", model="desk", version=1, route="champion", path="/v1/chat/completions",
                at_ms=1_790_000_000_000 + number, request=json.dumps(asked).encode(),
                response=json.dumps(answer).encode(), status_code=200, outcome="ok", duration_ms=20, ttfb_ms=3,
                input_tokens=100, output_tokens=20, input_text=text, output_text=said,
            )
        )  # fmt: skip
    return made


def spent(do: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def measured(asked: list[Closed], *, encrypt: bool) -> list[float]:
    """Rows drained a second, ms to read a window of texts, ms for its profile, ms to drain 20 rows, MB on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        settings: Settings = environment.load(Path(folder))
        if encrypt:
            Subjects(settings).choose(encrypt=True, field="caller")
        late, most = asked[-20:], asked[:-20]
        _journalled(settings, most)
        seconds = spent(lambda: drain(settings))
        last = len(most)
        window = spent(lambda: Lake(settings).sample(last - WINDOW, last, ["row", "input_text"]))
        profile = spent(lambda: Lake(settings).profile(last - WINDOW, last))
        size = sum(file.stat().st_size for file in settings.lake.rglob("*.parquet"))
        _journalled(settings, late)
        few = spent(lambda: drain(settings))
        return [last / seconds, window * 1e3, profile * 1e3, few * 1e3, size / 1e6]


def _journalled(settings: Settings, asked: list[Closed]) -> None:
    journal = Journal(settings.journal)
    for row in asked:
        journal.closed(row)
    journal.close()


def report(_data: Path | None, count: int = 10_000) -> None:
    """Print what the two modes cost, for short and for long requests."""
    texts = [json.loads(line)["message"] for line in MESSAGES.read_text().splitlines()]
    print(f"{count:,} rows, {count // 10:,} subjects, medians of {RUNS}\n")
    heads = ("rows/s", "window ms", "profile ms", "20 rows ms", "MB")
    print(f"{'evidence.erasure':<18} {'chars':>6} " + " ".join(f"{head:>10}" for head in heads))
    for chars in (200, 2000):
        asked = rows(count, texts, chars)
        found: dict[bool, list[list[float]]] = {False: [], True: []}
        for _ in range(RUNS):
            for encrypt, each in found.items():
                each.append(measured(asked, encrypt=encrypt))
        for encrypt, each in found.items():
            middle = [statistics.median(values) for values in zip(*each, strict=True)]
            name = "subject_keys" if encrypt else "rewrite"
            print(f"{name:<18} {chars:>6} " + " ".join(f"{value:>10,.0f}" for value in middle), flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="rows in the lake")
    report(None, parser.parse_args().rows)


if __name__ == "__main__":
    main()
