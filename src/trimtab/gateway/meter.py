"""What a gateway counts: plain numbers in a file that every worker of the port can read.

The boundary: `answer`, `app` and `__main__` say what happened; `exposition` reads the files for Prometheus. A worker
owns `<worker>.cells`, an array of doubles that it maps into its memory, and `<worker>.names`, one line for each cell.
Counting is an addition in that memory: no lock, because only one process writes a file, and no flush, because the
kernel keeps the pages: the counts of a worker that was killed are there for its successor, which goes on from them.

Cardinality is bounded: paths and versions beyond a fixed number are counted under `other`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path

CELLS = 16_384
"""Numbers a worker has room for (128 KiB of address space; only pages in use are in memory)."""
SCRATCH = CELLS - 64
"""Where counting goes on, unseen, should names ever fill the file: it must not fail a request."""
MOST_PATHS, MOST_VERSIONS = 48, 48
"""Paths and versions that are told apart; the ones that come later are `other`."""
OTHER = "other"

PID, IN_FLIGHT, CONNECTIONS, JOURNAL_BYTES, JOURNAL_ERRORS = range(5)
FIXED = (
    "trimtab_worker_pid",
    "trimtab_requests_in_flight",
    "trimtab_connections_open",
    "trimtab_journal_bytes_total",
    "trimtab_journal_errors_total",
)
"""Names of the first cells."""

FAST_PATH = "trimtab_fast_path_requests_total"
"""What the fast path has answered."""
SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of whole answers and first tokens."""
OVERHEAD_SECONDS = (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 1.0)
"""Upper bounds of the buckets of what the gateway itself adds."""
GUARD_SECONDS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02, 0.1, 1.0)
"""Upper bounds of the buckets of one guard's look at one text."""
MOST_GUARDS = 64
"""Guards that are told apart, by name and direction."""


class _Version:
    """Where the numbers of one version begin."""

    __slots__ = ("attempts", "duration", "first_token", "input_tokens", "output_tokens", "overhead")

    def __init__(self, meter: Meter, labels: str) -> None:
        self.duration = meter.histogram("trimtab_request_duration_seconds", labels, SECONDS)
        self.first_token = meter.histogram("trimtab_time_to_first_token_seconds", labels, SECONDS)
        self.overhead = meter.histogram("trimtab_overhead_seconds", labels, OVERHEAD_SECONDS)
        self.input_tokens = meter.cell(f"trimtab_input_tokens_total{{{labels}}}")
        self.output_tokens = meter.cell(f"trimtab_output_tokens_total{{{labels}}}")
        self.attempts = meter.cell(f"trimtab_engine_attempts_total{{{labels}}}")


class Meter:
    """One worker's numbers. Call it from one thread.

    Without a folder they live in this process's memory only. Raises OSError when the folder cannot be written.
    """

    def __init__(self, folder: Path | None = None, worker: int = 0) -> None:
        self.folder, self.worker = folder, worker
        self._names: dict[str, int] = {}
        self._names_fd, self._unsaved = -1, bytearray()
        self._map = self._open() if folder is not None else mmap.mmap(-1, CELLS * 8)
        self._cells = memoryview(self._map).cast("d")
        for name in FIXED:
            self.cell(name)
        self._cells[PID] = os.getpid()
        self._cells[IN_FLIGHT] = self._cells[CONNECTIONS] = 0
        self._in_flight = 0
        self.lent = 0
        self._journal = (0, 0)  # what of the journal's own counts is in the cells already
        self._http: dict[tuple[str, int], int] = {}
        self._requests: dict[tuple[str, int, str, int, str, str], tuple[int, _Version]] = {}
        self._versions: dict[tuple[str, int], _Version] = {}
        self._paths: set[str] = set()
        self._guards: dict[tuple[str, str], int] = {}
        self._guard_events: dict[tuple[str, str, str], int] = {}

    # What happened

    def arrived(self) -> None:
        """A request is whole and will be answered."""
        self._in_flight += 1

    def left(self, path: str, status: int) -> None:
        """It was answered: `status` is the one sent, 0 when the client was gone. `path` is one that the gateway has."""
        self._in_flight -= 1
        key = (path, status)
        self._cells[self._http.get(key) or self._new_http(key)] += 1

    def closed(
        self,
        key: tuple[str, int, str, int, str, str],
        seconds: float,
        overhead: float,
        first_token: float | None,
        input_tokens: int | None,
        output_tokens: int | None,
        attempts: int,
    ) -> None:
        """A row was closed; `key` is path, status, model, version, route and outcome. Durations are in seconds;
        `overhead` is what the gateway added, `first_token` is a stream's."""
        cells = self._cells
        requests, at = self._requests.get(key) or self._new_requests(key)
        cells[requests] += 1
        cells[at.duration] += seconds
        cells[at.duration + 1 + bisect_left(SECONDS, seconds)] += 1
        cells[at.overhead] += overhead
        cells[at.overhead + 1 + bisect_left(OVERHEAD_SECONDS, overhead)] += 1
        if first_token is not None:
            cells[at.first_token] += first_token
            cells[at.first_token + 1 + bisect_left(SECONDS, first_token)] += 1
        if input_tokens:
            cells[at.input_tokens] += input_tokens
        if output_tokens:
            cells[at.output_tokens] += output_tokens
        cells[at.attempts] += attempts

    def guarded(self, name: str, direction: str, action: str, seconds: float) -> None:
        """A guard looked at a text; `action` is what it did, empty when it found nothing."""
        at = self._guards.get((name, direction)) or self._new_guard(name, direction)
        cells = self._cells
        cells[at] += seconds
        cells[at + 1 + bisect_left(GUARD_SECONDS, seconds)] += 1
        if action:
            key = (name, direction, action)
            event = self._guard_events.get(key)
            if event is None:
                labels = f'guard="{escaped(name)}",direction="{direction}",action="{action}"'
                event = self.cell(f"trimtab_guard_events_total{{{labels}}}")
                if (name, direction) in self._guards:
                    self._guard_events[key] = event
            cells[event] += 1

    def sync(self, connections: int, journal_bytes: int, journal_errors: int) -> None:
        """Take over what others count: open connections now, the journal's totals since this process began."""
        cells, (seen_bytes, seen_errors) = self._cells, self._journal
        cells[IN_FLIGHT] = self._in_flight + self.lent
        cells[CONNECTIONS] = connections
        cells[JOURNAL_BYTES] += journal_bytes - seen_bytes
        cells[JOURNAL_ERRORS] += journal_errors - seen_errors
        self._journal = (journal_bytes, journal_errors)
        self._save()

    # The fast path

    @property
    def busy(self) -> bool:
        """Whether requests are in progress that are not on the fast path."""
        return self._in_flight > 0

    @property
    def address(self) -> int:
        """Where the cells are in memory."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def cells_of(self, key: tuple[str, int, str, int, str, str]) -> tuple[int, _Version]:
        """Where rows like this are counted: see `closed`."""
        return self._requests.get(key) or self._new_requests(key)

    def http_cell(self, path: str, status: int) -> int:
        """Where answers like this are counted: see `left`."""
        return self._http.get((path, status)) or self._new_http((path, status))

    # Reading

    def numbers(self) -> dict[str, float]:
        """Every name with its number now, in the order of first use."""
        self._cells[IN_FLIGHT] = self._in_flight + self.lent
        return {name: self._cells[index] for name, index in self._names.items()}

    # Cells

    def cell(self, name: str) -> int:
        """The cell of a name; a new one the first time."""
        return self._block([name])

    def histogram(self, family: str, labels: str, bounds: tuple[float, ...]) -> int:
        """The first of a histogram's cells: its sum, then one for each bucket, not cumulative."""
        buckets = [f'{family}_bucket{{{labels},le="{bound}"}}' for bound in (*bounds, "+Inf")]
        return self._block([f"{family}_sum{{{labels}}}", *buckets])

    def _block(self, names: list[str]) -> int:
        """The first of the cells of these names, which stand one behind the other and are all new or all known."""
        first = self._names.get(names[0])
        if first is not None:
            return first
        first = len(self._names)
        if first + len(names) > SCRATCH:
            return SCRATCH
        self._names.update(zip(names, range(first, first + len(names)), strict=True))
        self._unsaved += "".join(f"{name}\n" for name in names).encode()
        self._save()
        return first

    def _save(self) -> None:
        """Write new names. A full disk must not fail a request: then they are written later."""
        if self._unsaved and self._names_fd >= 0:
            with suppress(OSError):
                del self._unsaved[: os.write(self._names_fd, self._unsaved)]

    def _open(self) -> mmap.mmap:
        assert self.folder is not None  # noqa: S101 (the caller asked)
        self.folder.mkdir(parents=True, exist_ok=True)
        names, cells = files(self.folder, self.worker)
        self._names = {name: index for index, name in enumerate(read_names(names))}
        self._names_fd = os.open(names, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._names_fd, sum(len(name.encode()) + 1 for name in self._names))  # half a last line
        fd = os.open(cells, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, CELLS * 8)  # with room on the disk: without it a later addition would be a SIGBUS
            return mmap.mmap(fd, CELLS * 8)
        finally:
            os.close(fd)

    def _new_http(self, key: tuple[str, int]) -> int:
        path, status = key
        index = self.cell(f'trimtab_http_requests_total{{path="{self._path(path)}",status="{status}"}}')
        if path in self._paths:
            self._http[key] = index
        return index

    def _new_requests(self, key: tuple[str, int, str, int, str, str]) -> tuple[int, _Version]:
        path, status, model, version, route, outcome = key
        at = self._versions.get((model, version)) or self._new_version(model, version)
        labels = (
            f'path="{self._path(path)}",status="{status}",{self._labels(model, version)},'
            f'route="{escaped(route)}",outcome="{escaped(outcome)}"'
        )
        index = self.cell(f"trimtab_requests_total{{{labels}}}")
        if path in self._paths and (model, version) in self._versions:
            self._requests[key] = index, at
        return index, at

    def _new_version(self, model: str, version: int) -> _Version:
        found = _Version(self, self._labels(model, version))
        if len(self._versions) < MOST_VERSIONS:
            self._versions[(model, version)] = found
        return found

    def _new_guard(self, name: str, direction: str) -> int:
        known = len(self._guards) < MOST_GUARDS
        labels = f'guard="{escaped(name) if known else OTHER}",direction="{direction}"'
        at = self.histogram("trimtab_guard_seconds", labels, GUARD_SECONDS)
        if known:
            self._guards[(name, direction)] = at
        return at

    def _labels(self, model: str, version: int) -> str:
        if (model, version) not in self._versions and len(self._versions) >= MOST_VERSIONS:
            return f'model="{OTHER}",version="{OTHER}"'
        return f'model="{escaped(model)}",version="{version}"'

    def _path(self, path: str) -> str:
        if path not in self._paths and len(self._paths) >= MOST_PATHS:
            return OTHER
        self._paths.add(path)
        return escaped(path)


def files(folder: Path, worker: int | str) -> tuple[Path, Path]:
    """A worker's files: names, cells."""
    return folder / f"{worker}.names", folder / f"{worker}.cells"


def read_names(path: Path) -> list[str]:
    """The names in a file, in the order of their cells; a last line that is not whole does not count."""
    try:
        return path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []


def escaped(value: str) -> str:
    """A label's value as the text format wants it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
