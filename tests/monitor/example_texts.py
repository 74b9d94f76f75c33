"""The example's hand-written messages as traffic: period 1, and the two topics that appear in period 2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from trimtab import settings
from trimtab.monitor import embed
from trimtab.monitor.drift import Row

START = datetime(2026, 3, 2, 14, 0, tzinfo=UTC)


def messages(pattern: str) -> list[str]:
    folder = Path(__file__).parents[2] / "examples" / "support-triage" / "messages"
    lines = [line for file in sorted(folder.glob(pattern)) for line in file.read_text("utf-8").splitlines()]
    return [json.loads(line)["message"] for line in lines if line.strip()]


PERIOD1, RECALL, PHISHING = (messages(f"{name}*.jsonl") for name in ("period1-", "period2-recall", "period2-phishing"))


def shuffled(texts: Sequence[str], seed: int) -> list[str]:
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def vectors(texts: Sequence[str]) -> np.ndarray:
    return embed.vectors(embed.load(settings.load().blobs), texts)


def rows(texts: Sequence[str], start: datetime = START) -> list[Row]:
    """The texts as requests, one a minute."""
    each = zip(texts, vectors(texts), strict=True)
    return [Row(text, vector, start + timedelta(minutes=i), text) for i, (text, vector) in enumerate(each)]
