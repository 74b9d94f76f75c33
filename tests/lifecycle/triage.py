"""A project with labelled traffic, written through the journal and the drain as a gateway and its clients do."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trimtab import project
from trimtab import settings as environment
from trimtab.project import Loaded
from trimtab.settings import Settings
from trimtab.store.drain import drain
from trimtab.store.journal import Closed, FeedbackFrame, Journal

MODEL = "desk"
FILE = """\
name: desk
model: {{base: {base}, prompt: prompt.md}}
task: {{kind: classification, labels: labels.yaml}}
retrain: {{holdout: 0.2, lora: {{epochs: 1.5}}}}
gates: {gates}
target: {{local: {{engine_threads: 1}}}}
rollout: {{canary: [50%, 100%], step_requests: 3}}
"""
LABELS = "intent: [refund, login]\nurgency: [low, high]\n"
NAMES = """\
name_group:
  a: [Emily Walsh, Anne Baker, Greg Sullivan, Brad Murphy, Claire Hartman]
  b: [Lakisha Washington, Jamal Robinson, Keisha Jackson, Tyrone Banks, Ebony Coleman]
"""
SENDERS = ("Emily Walsh", "Greg Sullivan", "Keisha Jackson", "Jamal Robinson", "Claire Hartman", "Tyrone Banks")
ABOUT = {
    "refund": ("please refund the {}", "I want my money back for the {}", "the {} went back, where is my money"),
    "login": ("the page for my {} rejects my password", "cannot sign in to the {}", "locked out of my {} account"),
}
THINGS = ("lamp", "desk", "kettle", "phone", "router", "jacket", "bicycle", "pillow", "camera", "printer", "sofa")
WHERE = ("garden", "kitchen", "office", "harbour", "station", "museum", "village", "airport", "theatre", "library")
WHEN = ("yesterday", "on Monday", "in spring", "last week", "at noon", "before lunch", "this morning", "tonight")


def write(folder: Path, base: str, gates: str) -> tuple[Settings, Loaded]:
    """The project's files. `base` and `gates` stand in trimtab.yaml as given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trimtab.yaml").write_text(FILE.format(base=base, gates=gates))
    (folder / "labels.yaml").write_text(LABELS)
    (folder / "names.yaml").write_text(NAMES)
    (folder / "prompt.md").write_text("Sort the message.\n")
    return environment.load(folder), project.load(folder)


def answer(settings: Settings, count: int) -> None:
    """`count` requests that version 1 answered over the last hour, each labelled by a person."""
    lot, begin = random.Random(3), datetime.now(UTC) - timedelta(hours=1)  # noqa: S311
    journal = Journal(settings.journal)
    for number in range(count):
        at_ms = int((begin + timedelta(seconds=number)).timestamp() * 1000)
        label = {"intent": lot.choice(list(ABOUT)), "urgency": lot.choice(["low", "high"])}
        journal.closed(_closed(number, at_ms, _text(label, lot)))
        journal.feedback(FeedbackFrame(f"f{number}", at_ms, str(number), None, "label", dict(label), "human"))
    journal.close()
    assert drain(settings) == count


def _text(label: dict[str, str], lot: random.Random) -> str:
    about = lot.choice(ABOUT[label["intent"]]).format(lot.choice(THINGS))
    hurry = "I need it today" if label["urgency"] == "high" else "there is no hurry"
    return f"{about}, from the {lot.choice(WHERE)} {lot.choice(WHEN)}, {hurry}\nFrom: {lot.choice(SENDERS)}"


def _closed(number: int, at_ms: int, text: str) -> Closed:
    return Closed(
        request_id=str(number),
        client_request_id=None,
        caller=f"caller {number}",
        requester="local",
        model=MODEL,
        version=1,
        route="champion",
        path="/predict",
        at_ms=at_ms,
        request=b"{}",
        status_code=200,
        duration_ms=20,
        ttfb_ms=None,
        input_tokens=None,
        output_tokens=None,
        outcome="ok",
        input_text=text,
        output_text='{"intent":"refund","urgency":"low"}',
        response=b"{}",
    )
