"""How processes log: one line a record, as text or as a JSON object, on standard error. No secret gets through.

The boundary: only how a line looks. Requests' contents are never given to a log; what looks like a credential is
struck out all the same, because messages of libraries and tracebacks pass through here too.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

LogFormat = Literal["text", "json"]

VARIABLE = "TRIMTAB_LOG_FORMAT"
"""Environment variable that children inherit: json or text."""

_SECRETS = re.compile(
    r"""(?ix)
    (?P<lead> \b(?:bearer|basic)\s+
            | \b(?:[\w-]*(?:api[_-]?key|token|secret|password|authorization|signature))["']?\s*[=:]\s*["']?
              (?:bearer\s+|basic\s+)?
            | [?&]sig=
            | ://(?=[^\s@]+@) )
    (?P<value> [^\s"',;@]{4,} )
    | \b(?:sk|pk|dapi|ghp|hf|xox[a-z])[-_][\w-]{8,}
    """
)
_ORDINARY = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def configure(log_format: str | None = None, level: int = logging.INFO) -> None:
    """Log to standard error from here on, in the format given or in that of the environment; unknown ones are text."""
    chosen = log_format or os.environ.get(VARIABLE, "text")
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonLines() if chosen == "json" else TextLines())
    logging.basicConfig(handlers=[output], level=level, force=True)


class JsonLines(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, what was given as `extra`, an error's place."""

    def format(self, record: logging.LogRecord) -> str:
        """logging: the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        line |= {name: _plain(value) for name, value in _extras(record).items()}
        if record.exc_info and record.exc_info[1]:
            line |= {"error": record.exc_info[1].__class__.__name__, "at": where(record.exc_info[2])}
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Time (UTC), logger, message and what was given as `extra`; tracebacks are without the errors' own messages."""

    def format(self, record: logging.LogRecord) -> str:
        """logging: the line, and the lines of a traceback."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%S")
        extras = "".join(f" {name}={_plain(value)}" for name, value in _extras(record).items())
        line = f"{when} {record.name}: {redacted(record.getMessage())}{extras}".replace("\n", " | ")
        if record.exc_info and record.exc_info[1]:
            line += f" error={record.exc_info[1].__class__.__name__} at={' < '.join(where(record.exc_info[2]))}"
        return line


def redacted(text: str) -> str:
    """A text without what looks like a credential."""
    return _SECRETS.sub(lambda found: (found["lead"] or "") + "[secret]", text)


def where(trace: TracebackType | None) -> list[str]:
    """The places of a traceback, innermost first. An error's own message may quote a request: it is left out."""
    frames = traceback.extract_tb(trace)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames)]


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _ORDINARY}


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | None) else redacted(str(value))
