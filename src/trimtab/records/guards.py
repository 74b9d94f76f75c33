"""Guards: the section of trimtab.yaml, and the plain definitions that become part of a version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from trimtab.records.file_model import FileModel
from trimtab.records.record import Record, content_hash

Action = Literal["allow", "redact", "block", "flag", "shadow"]
Direction = Literal["input", "output", "both"]
GuardKind = Literal["pii", "secrets", "injection", "profanity", "topics", "format", "length", "names"]
OnError = Literal["open", "closed"]


class GuardSection(FileModel):
    """One guard: what it looks for, where, and what it does."""

    kind: GuardKind
    """pii: personal data with a form. secrets: keys and passwords. injection: attempts to take over the model.
    profanity: swear words. topics: questions unlike your examples. format: answers without the right form. length: too
    many characters. names: people's names (needs the extra pii-names)."""
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_-]{0,40}$", examples=["pii"])
    """What rows, metrics and errors call it; null: its kind."""
    direction: Direction = "both"
    """Whether it reads questions (input), answers (output) or both."""
    action: Action = "shadow"
    """shadow: only the row says what was found; begin with it. flag: the caller is told too. redact: it is taken out.
    block: the request is refused, or the answer cut. allow: it does not look."""
    at: dict[str, Action] = Field(default={}, examples=[{"/v1/embeddings": "allow", "canary": "shadow"}])
    """Other actions, by path of the API or by route (champion, canary, fallback, shadow)."""
    on_error: OnError = "open"
    """open: a guard that fails or takes too long lets pass, and the row says so. closed: the request is refused."""
    time_limit_ms: float = Field(default=50.0, gt=0, le=60_000)
    """Longest time for one text; of names 1000 where it is not said."""
    find: tuple[str, ...] = ()
    """pii, secrets, names: the kinds to look for, e.g. [email, card]; empty: every personal one."""
    words: tuple[str, ...] = ()
    """profanity: more words."""
    allow_words: tuple[str, ...] = ()
    """profanity: words that may be said."""
    model: bool = True
    """injection: whether the learned model looks too, besides the rules."""
    threshold: float = Field(default=0.0, ge=-10, le=10)
    """injection: how much surer (above 0) or bolder (below) the learned model is to be, in log-odds."""
    examples: str | None = None
    """topics: JSON Lines file of texts that belong here, each {"input": …} or {"message": …}; at least 60."""
    refuse: str | None = None
    """topics: the same of texts that do not belong here."""
    max_false_blocks: float = Field(default=0.05, gt=0, lt=0.5)
    """topics: share of texts like your examples that may be stopped."""
    json_schema: str | None = None
    """format: file with a JSON schema; null: the task's labels, or any JSON."""
    max_chars: int | None = Field(default=None, ge=1)
    """length: characters of all texts of a request, or of one answer."""


class GuardsSection(FileModel):
    """What looks at questions and answers. Part of the version: changed guards are a new version."""

    checks: tuple[GuardSection, ...] = ()
    """The guards, in the order they look."""
    keep: Literal["raw", "redacted"] = "redacted"
    """What rows hold of a question, and of an answer's text, where a guard redacts or blocks."""
    refusal: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    """What a caller gets instead of a blocked question or answer; null: an error 400 with the code content_filter for a
    question, and an empty answer with the finish reason content_filter for an answer."""


class Guard(Record):
    """A guard's definition. `params` is what its kind needs: kinds to find, words, weights, a schema, a limit."""

    name: str
    kind: GuardKind
    direction: Direction = "both"
    action: Action = "shadow"
    at: dict[str, Action] = Field(default_factory=dict)
    on_error: OnError = "open"
    time_limit_ms: float = 50.0
    params: dict[str, Any] = Field(default_factory=dict)


class GuardSet(Record):
    """The guards of a version. The gateway and the guidelines read the same definitions."""

    checks: tuple[Guard, ...] = ()
    keep: Literal["raw", "redacted"] = "redacted"
    refusal: str | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, stamped on every row that these guards looked at."""
        return content_hash(self)
