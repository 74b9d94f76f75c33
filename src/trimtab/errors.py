"""The exception tree. Foreign errors are translated into these at the border where they arise.

TrimtabError
├── Fixable          the reader can mend it; carries the fix
│   └── ConfigError  a fault in trimtab.yaml or a file it names, with line and value
├── Conflict         a compare-and-set found another value: somebody moved first
├── Corrupt          stored bytes do not match their checksum or hash
├── EngineError      the language model's process failed to start or to answer
├── StepFailed       a step of a cycle failed; running the cycle again resumes it
└── Unproved         a clause of the guidelines that must be proved is not
"""

from __future__ import annotations

from typing import Literal


class TrimtabError(Exception):
    """Root of every error Trimtab raises on purpose. `code` is stable; `exit_code` is what the CLI returns."""

    code = "error"
    exit_code = 1


class Fixable(TrimtabError):
    """Something the reader can mend. `fix` is one imperative sentence."""

    code = "fixable"
    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class ConfigError(Fixable):
    """A fault in a file the user wrote.

    `file` as the reader calls it; `line` is 1-based, or None when the fault is a missing line; `field` is dotted, e.g.
    gates.fairness.field; `value` is what stands there, as text. A `severity` of warning does not stop anything.
    """

    code = "config"

    def __init__(
        self,
        message: str,
        fix: str,
        *,
        file: str,
        line: int | None = None,
        field: str = "",
        value: str = "",
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        super().__init__(message, fix)
        self.file, self.line, self.field, self.value, self.severity = file, line, field, value, severity

    @property
    def where(self) -> str:
        """The place, as editors and people find it: `trimtab.yaml:12 gates.fairness.field`."""
        line = f":{self.line}" if self.line else ""
        return f"{self.file}{line} {self.field}".strip()


class DatabaseAway(Fixable):
    """The control database cannot be reached, written or locked right now. What waits for it is tried again."""

    code = "database_away"


class Conflict(TrimtabError):
    """A compare-and-set lost: the value is no longer the one the caller saw."""

    code = "conflict"
    exit_code = 3


class Corrupt(TrimtabError):
    """Stored bytes do not match their checksum, hash or signature."""

    code = "corrupt"
    exit_code = 4


class EngineError(TrimtabError):
    """The language model's process did not start, died, or answered with an error."""

    code = "engine"
    exit_code = 5


class StepFailed(TrimtabError):
    """A step of a cycle failed; what was done before it is kept."""

    code = "step_failed"
    exit_code = 6


class Unproved(TrimtabError):
    """A blocking clause of the guidelines is not proved: nothing may be promoted until it is."""

    code = "unproved"
    exit_code = 7
