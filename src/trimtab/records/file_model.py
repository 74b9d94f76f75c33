"""What every section of trimtab.yaml is made of, and how it refuses a value: with the problem and the fix."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic_core import PydanticCustomError

from trimtab.records.record import Record


class FileModel(Record):
    """A section of trimtab.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def refused(problem: str, fix: str) -> PydanticCustomError:
    """The error by which a validator refuses a value; `project` adds the place and the value."""
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "fix": fix})
