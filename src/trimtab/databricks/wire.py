"""Every request to a vendor, as its own client makes it: recorded, and while rehearsing not sent.

A plan names the requests it would make by calling the vendor's client with writes held back at the last step, so plan
and deed cannot differ. Reads are always sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

SECRETS = ("string_value", "bytes_value", "openai_api_key_plaintext", "token_value")
"""Fields whose value is never shown."""


@dataclass(frozen=True)
class Request:
    """One request. `body` is its JSON, or a note on what it carries; secrets are blotted out."""

    method: str
    path: str
    body: Any = None

    def __str__(self) -> str:
        body = "" if self.body is None else f" {json.dumps(self.body, ensure_ascii=False)}"
        return f"{self.method} {self.path}{body}"


class NotSent(Exception):
    """A write that was rehearsed."""


@dataclass
class Wire:
    """What went over it, or would have. `rehearsing`: writes are recorded and held back."""

    requests: list[Request] = field(default_factory=list)
    rehearsing: bool = False

    def write(self, request: Request) -> None:
        """Record a write that is about to be made. Raises NotSent while rehearsing."""
        self.requests.append(request)
        if self.rehearsing:
            raise NotSent

    def rehearse(self, calls: Sequence[Callable[[], object]]) -> tuple[Request, ...]:
        """The writes that these calls would make; nothing is sent."""
        with self._held():
            for call in calls:
                try:
                    call()
                except NotSent:
                    continue
            return tuple(self.requests)

    @contextmanager
    def _held(self) -> Iterator[None]:
        before, self.requests, self.rehearsing = self.requests, [], True
        try:
            yield
        finally:
            self.requests, self.rehearsing = before, False


def blotted(value: Any) -> Any:
    """A JSON value with its secrets blotted out."""
    if isinstance(value, Mapping):
        return {key: "***" if key in SECRETS else blotted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [blotted(item) for item in value]
    return value
