"""The request journal: append-only segments that hold what clients were answered until the drain has it in the lake.

The boundary: gateways write here and nowhere else; `drain` reads. Nothing heavier than msgspec is imported.

A segment is a file `<start, epoch ns>-<pid>.seg` of frames: little-endian u32 length of the body, u32 CRC-32 of the
body, body = one byte kind (1 opened, 2 closed, 3 feedback, 4 erased) and the MessagePack array of the struct's fields.
`write()` returns before the caller goes on, so a killed process loses nothing; a thread groups `fdatasync`, so a power
cut loses at most the last few milliseconds.

A writer holds an exclusive flock on every segment that still matters to it: the one it appends to, and older ones
with rows that are still open. A segment whose lock can be had will never be written by its writer again. A row opened
in one segment may be closed in a later one of the same writer, hence: never delete a segment while an older one of
the same pid is there, or recovery would take its closed rows for open ones.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import msgspec

from trimtab.errors import Corrupt

ABORTED_STATUS = 502
"""Status of a row whose gateway died: what a proxy in front reports then. Not 499: the client did not give up."""

_HEADER = struct.Struct("<II")
_pack_start = struct.Struct("<IIB").pack
_MAYBE_BODY = re.compile(rb"[\x01-\x04][\x90-\x9f\xdc]")
"""How a body begins: the kind, then MessagePack's marker of an array."""


class Attempt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One attempt at an upstream: the status it answered with, if it did, what was wrong, and how long it took."""

    upstream: str
    status: int | None
    reason: str
    ms: int


class GuardEvent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a guard did with a request: `found` are kinds joined by commas, `count` how many there were."""

    name: str
    direction: Literal["input", "output"]
    action: str
    found: str
    count: int


class _Request(msgspec.Struct, array_like=True, frozen=True, gc=False):
    request_id: str
    client_request_id: str | None
    caller: str
    requester: str
    model: str
    version: int
    route: Literal["champion", "canary", "fallback", "shadow"]
    path: str
    at_ms: int
    request: bytes


class Opened(_Request, array_like=True, frozen=True, gc=False):
    """A request that was accepted. `at_ms` is epoch ms, `request` the body as received, `caller` the canary key."""

    traceparent: str | None = None


class Closed(_Request, array_like=True, frozen=True, gc=False):
    """How a request ended; complete without its Opened frame. Durations in ms; `*_text` is what was said, if known.

    `traceparent` is the caller's, when it sent a valid one (W3C Trace Context). New fields come last and have defaults:
    frames of earlier releases are read as they are.
    """

    status_code: int
    duration_ms: int
    ttfb_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    outcome: Literal["ok", "error", "timeout", "cancelled", "aborted", "blocked"]
    input_text: str | None
    output_text: str | None
    response: bytes
    cost_nano_usd: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    attempts: tuple[Attempt, ...] = ()
    """Every attempt, in order, when the first one did not succeed."""
    shadow_of: str | None = None
    """The request whose copy this is."""
    traceparent: str | None = None
    guards: tuple[GuardEvent, ...] = ()
    """What guards found, in the order they looked."""
    guards_sha256: str | None = None
    """The set of guards that looked; None: none did."""


class FeedbackFrame(msgspec.Struct, array_like=True, frozen=True):
    """A label or other assessment of an answer, by either request id. `at_ms` is epoch ms."""

    feedback_id: str
    at_ms: int
    request_id: str | None
    client_request_id: str | None
    name: str
    value: dict[str, Any]
    source: str


class Erased(msgspec.Struct, array_like=True, frozen=True):
    """What an erased frame was overwritten with: as many bytes as it had."""

    filler: bytes


Frame = Opened | Closed | FeedbackFrame | Erased

_LENT = ""  # stands among the open rows of a segment for those of the fast path
_KINDS: dict[type, int] = {Opened: 1, Closed: 2, FeedbackFrame: 3, Erased: 4}
_DECODERS = {kind: msgspec.msgpack.Decoder(type_) for type_, kind in _KINDS.items()}
_KIND_CRC = [crc32(bytes([kind])) for kind in range(len(_KINDS) + 1)]
_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """One writer's journal. Call it from one thread.

    `opened`, `closed` and `feedback` raise OSError when the disk did not take the row, and ValueError when MessagePack
    cannot hold a value in it (a lone surrogate, an integer beyond 64 bits). Then nothing of it was kept.
    """

    def __init__(self, folder: Path, segment_bytes: int = 64 * 2**20, sync_interval: float = 0.005) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._segment_bytes, self._sync_interval = folder, segment_bytes, sync_interval
        self._held: dict[int, set[str]] = {}  # descriptor of a held segment -> ids of its open rows
        self._done: deque[int] = deque()  # descriptors that the thread may sync and close
        self._fault: OSError | None = None
        self._dirty = self._stopped = False  # whether there is something to sync; whether to end behind it
        self._idle, self._wake = False, threading.Event()  # whether the thread has to be woken for it
        self._started = self._number = 0
        self._lent: dict[int, int] = {}  # segments rotated away with rows of the fast path open: number -> descriptor
        self.lent_open: Callable[[int], int] = lambda number: 0
        """How many rows of a segment, by its number, are open on the fast path."""
        self._fd, self._size, self._written = -1, 0, 0
        self.refused = 0
        """Frames that the kernel did not take, since this process began."""
        self._new_segment()
        self._thread = threading.Thread(target=self._sync, name="trimtab-journal", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Bytes that the kernel took, since this process began."""
        return self._written + self._size

    def opened(self, frame: Opened) -> None:
        """Keep an accepted request, before anything is done for it."""
        self._append(1, frame)
        self._rows.add(frame.request_id)

    def closed(self, frame: Closed) -> None:
        """Keep how a request ended, before the last byte of its answer leaves."""
        self._append(2, frame)
        if len(self._held) == 1:
            self._rows.discard(frame.request_id)
            return
        for fd, rows in self._held.items():
            if frame.request_id in rows:
                rows.remove(frame.request_id)
                self._let_go(fd)
                return

    def feedback(self, frame: FeedbackFrame) -> None:
        """Keep a piece of feedback."""
        self._append(3, frame)

    # The fast path writes frames of its own

    def lend(self) -> tuple[int, int, int]:
        """Descriptor, size in bytes and number of the segment that a frame may be appended to. Raises OSError."""
        if self._fault is not None:
            raise self._fault  # for the next request here to say so
        if self._size >= self._limit:
            self._new_segment()
        return self._fd, self._size, self._number

    def appended(self, size: int) -> None:
        """So many bytes of whole frames were appended."""
        self._size += size
        self._written_to()

    def spoiled(self) -> None:
        """Half a frame was appended, and could not be cut off again."""
        self._limit = 0

    def hand_back(self, number: int, request_id: str) -> None:
        """A row of a segment that was open on the fast path is open here from now on."""
        self._held[self._lent.get(number, self._fd)].add(request_id)

    def settle_lent(self) -> None:
        """Let go of segments whose rows on the fast path are closed."""
        for number, fd in [*self._lent.items()] if self._lent else ():
            if not self.lent_open(number):
                del self._lent[number]
                self._held[fd].discard(_LENT)
                self._let_go(fd)

    def close(self) -> None:
        """Sync and release. Rows still open are closed as aborted by the next `recover`."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def _append(self, kind: int, frame: Frame) -> None:
        if self._fault is not None:
            fault, self._fault = self._fault, None
            self.refused += 1
            self._limit = 0  # what the kernel failed to sync stays behind in its own segment
            raise fault
        data = _frame_bytes(kind, frame)
        if self._size >= self._limit:
            self._new_segment()
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                _write_all(self._fd, data[written:])
        except OSError:
            self.refused += 1
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self._limit = 0  # half a frame is a good end of a segment, not a good middle
            raise
        self._size += len(data)
        self._written_to()

    def _written_to(self) -> None:
        self._dirty = True
        if self._idle:
            self._idle = False
            self._wake.set()

    def _new_segment(self) -> None:
        previous = self._fd
        if previous >= 0 and self.lent_open(self._number):
            self._lent[self._number] = previous
            self._rows.add(_LENT)
        self._number += 1
        self._started = max(time.time_ns(), self._started + 1)
        self._fd = _create(self._folder, self._started)
        self._rows: set[str] = set()
        self._held[self._fd] = self._rows
        self._written, self._size, self._limit = self._written + self._size, 0, self._segment_bytes
        if previous >= 0:
            self._let_go(previous)

    def _let_go(self, fd: int) -> None:
        """Hand a segment to the thread for closing, once it is rotated away and none of its rows is open."""
        if fd != self._fd and not self._held[fd]:
            del self._held[fd]
            self._done.append(fd)
            self._dirty = True
            self._wake.set()

    def _sync(self) -> None:
        """Only this thread closes descriptors: none can vanish under its fdatasync.

        While rows come it only sleeps and syncs; waiting to be woken each time would cost the other thread more.
        """
        while True:
            if not self._stopped:
                time.sleep(self._sync_interval)
            if not self._dirty and not self._stopped:
                self._idle = True
                if not self._dirty and not self._stopped:  # still: whoever writes from here on sees that it is idle
                    self._wake.wait()
                self._idle = False
                self._wake.clear()
                continue
            closing = self._stopped  # asked before the look at what there is: what comes later has another turn
            self._dirty = False
            for fd in [*self._held]:
                self._sync_one(fd)
            if closing:
                self._done.extend(self._held)
            while self._done:
                fd = self._done.popleft()
                self._sync_one(fd)
                os.close(fd)
            if closing:
                return

    def _sync_one(self, fd: int) -> None:
        try:
            os.fdatasync(fd)
        except OSError as fault:
            self._fault = fault


def segments(folder: Path) -> list[Path]:
    """Segments in name order, that is by start."""
    return sorted(folder.glob("*.seg"))


def writer_of(segment: Path) -> str:
    """The pid in a segment's name."""
    return segment.stem.rpartition("-")[2]


def frames(path: Path, offset: int = 0) -> Iterator[tuple[int, Frame]]:
    """Frames from a byte offset (the start of a frame), each with the offset behind it.

    Stops at a torn tail: a last frame that is cut short or fails its checksum. Raises Corrupt when such a frame has
    whole ones behind it, or when a whole frame cannot be understood.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()  # one snapshot: a live writer's next frames must not look like frames behind a torn one
    view, position = memoryview(data), 0
    while position < len(data):
        body = _body_at(view, position)
        if body is None:
            if any(_body_at(view, found.start() - 8) for found in _MAYBE_BODY.finditer(data, position + 9)):
                raise Corrupt(
                    f"{path}: the frame at byte {offset + position} fails its checksum; whole frames follow it"
                )
            return
        try:
            frame = _DECODERS[body[0]].decode(body[1:])
        except (KeyError, msgspec.MsgspecError) as error:
            raise Corrupt(
                f"{path}: the frame at byte {offset + position} is not one that this version knows"
            ) from error
        position += _HEADER.size + len(body)
        yield offset + position, frame


def erased_frame(size: int) -> bytes:
    """A whole frame of `size` bytes: header, kind, an array of one, and a MessagePack bin of zeros (32 or 8 bit)."""
    room = size - _HEADER.size - 2
    value = b"\xc6" + (room - 5).to_bytes(4, "big") if room >= 5 else b"\xc4" + bytes([room - 2])
    body = b"\x04\x91" + value.ljust(room, b"\x00")
    return _HEADER.pack(len(body), crc32(body)) + body


def recover(folder: Path) -> int:
    """Close rows left open by writers that are gone, as aborted; cut torn tails. Returns how many rows were closed.

    Idempotent, and safe beside living writers. Raises Corrupt, after the other segments are done, for a damaged one.
    """
    if not folder.exists():
        return 0
    closed, fault = 0, None
    with _locked(folder / "recover.lock"):
        for path in segments(folder):
            fd = take(path)
            if fd is None:
                continue
            try:
                closed += _close_open_rows(path, fd)
            except Corrupt as error:
                fault = fault or error
            finally:
                os.close(fd)
    if fault is not None:
        raise fault
    return closed


def take(segment: Path) -> int | None:
    """A descriptor that holds a segment's lock, or None while its writer holds it or when it is gone. Close it."""
    try:
        fd = os.open(segment, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _close_open_rows(path: Path, fd: int) -> int:
    """The caller holds the segment's lock, so every Closed frame of its rows is on disk, here or in a later segment."""
    end, still_open = 0, dict[str, Opened]()
    for end, frame in frames(path):  # noqa: B007 (the last end is where the torn tail begins)
        if isinstance(frame, Opened):
            still_open[frame.request_id] = frame
        elif isinstance(frame, Closed):
            still_open.pop(frame.request_id, None)
    if still_open:
        for later in segments(path.parent):
            if later > path and writer_of(later) == writer_of(path):
                for _, frame in frames(later):
                    if isinstance(frame, Closed):
                        still_open.pop(frame.request_id, None)
    status = os.fstat(fd)
    if status.st_size > end:
        os.ftruncate(fd, end)
    for row in still_open.values():
        closed = _aborted(row, last_sign_of_life_ms=status.st_mtime_ns // 1_000_000)
        _write_all(fd, _frame_bytes(2, closed))
    os.fdatasync(fd)
    return len(still_open)


def _aborted(row: Opened, last_sign_of_life_ms: int) -> Closed:
    return Closed(
        **msgspec.structs.asdict(row),
        status_code=ABORTED_STATUS,
        duration_ms=max(0, last_sign_of_life_ms - row.at_ms),
        ttfb_ms=None,
        input_tokens=None,
        output_tokens=None,
        outcome="aborted",
        input_text=None,
        output_text=None,
        response=b"",
    )


def _frame_bytes(kind: int, frame: Frame) -> bytes:
    try:
        fields = _encode(frame)
    except (OverflowError, TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"a {type(frame).__name__} cannot be written: {error}") from error
    return _pack_start(len(fields) + 1, crc32(fields, _KIND_CRC[kind]), kind) + fields


def _body_at(view: memoryview, position: int) -> memoryview | None:
    """The body of the whole, checked frame at a position, if there is one. No body is shorter than two bytes."""
    if position + _HEADER.size > len(view):
        return None
    length, crc = _HEADER.unpack_from(view, position)
    body = view[position + 8 : position + 8 + length]
    return body if len(body) == length >= 2 and crc32(body) == crc else None


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):  # a full disk or a signal: go on, and let the next write name the reason
        more = os.write(fd, memoryview(data)[written:])
        if more == 0:
            raise OSError(errno.EIO, "the journal accepts no more bytes")
        written += more


def _create(folder: Path, started: int) -> int:
    """A new segment with its lock held. The drain may delete it between open and lock: then try again."""
    while True:
        path = folder / f"{started}-{os.getpid()}.seg"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            started += 1
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            break
        os.close(fd)
    try:
        sync_folder(folder)
    except OSError:
        os.close(fd)
        raise
    return fd


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
