"""A small project on the echo engine: real processes, real MLflow, no language model."""

from __future__ import annotations

import socket
from pathlib import Path

from trimtab import project, settings
from trimtab.project import Loaded
from trimtab.settings import Settings

FILE = """\
name: desk
model: {base: echo, prompt: prompt.md}
task: {kind: classification, labels: labels.yaml}
monitor: {input_drift: {window: 50}}
retrain: {when: [input_drift]}
rollout: {canary: [50%, 100%], step_requests: 3}
"""
LABELS = "intent: [refund, login]\nurgency: [low, high]\n"


def make(folder: Path) -> tuple[Settings, Loaded]:
    """Write the project and load it, on free ports."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trimtab.yaml").write_text(FILE)
    (folder / "labels.yaml").write_text(LABELS)
    (folder / "prompt.md").write_text("Sort the message.\n")
    return settings.load(folder), project.load(folder)


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
