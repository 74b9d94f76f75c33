"""An independent emulator of OpenAI and Azure OpenAI: aimock, from npm, kept in the user's cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import npm

PACKAGE = "@copilotkit/aimock@1.43.0"
KEY = "sk-of-the-emulator"
FIXTURES = {
    "fixtures": [
        {
            "match": {"userMessage": "refund"},
            "response": {
                "content": '{"intent":"refund","urgency":"low"}',
                "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
            },
        },
        {"match": {}, "response": {"content": '{"intent":"login","urgency":"high"}'}},
    ]
}


class Emulator:
    """A running emulator that wants KEY."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/__aimock", headers={"api-key": KEY})

    def heard(self) -> list[dict[str, Any]]:
        """What it was asked: path, headers (keys removed), body, response."""
        return self._http.get("/journal").json()

    def misbehave(self, **rates: float) -> None:
        """Do this to every request from now on, e.g. rateLimitRate=1; nothing: behave again."""
        self._http.post("/chaos", json=rates).raise_for_status()

    def close(self) -> None:
        self._http.close()


@contextmanager
def emulator(folder: Path, fixtures: list[dict[str, Any]] | None = None) -> Iterator[Emulator]:
    """Start one that answers as `fixtures` (else FIXTURES) say. Skips when node, npm or network are missing."""
    program = npm.package(PACKAGE, "the emulator of OpenAI and Azure") / "dist" / "cli.js"
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": fixtures} if fixtures else FIXTURES))
    process = subprocess.Popen(
        ["node", str(program), "-p", "0", "-f", str(folder / "fixtures.json")],
        env={**os.environ, "AIMOCK_API_KEYS": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        url = next(found.group() for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        running = Emulator(url)
        yield running
        running.close()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
