"""The journal keeps what it was given, in order, whatever happens to the process, the disk or the bytes."""

from __future__ import annotations

import fcntl
import resource
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_writer import closed, feedback, opened

from trimtab.errors import Corrupt
from trimtab.store.journal import (
    ABORTED_STATUS,
    Attempt,
    Closed,
    FeedbackFrame,
    Frame,
    GuardEvent,
    Journal,
    Opened,
    frames,
    recover,
    segments,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
whole = st.integers(-(2**63), 2**63 - 1)
by_type = {
    str: text,
    int: whole,
    bytes: st.binary(max_size=60),
    str | None: st.none() | text,
    int | None: st.none() | whole,
    dict[str, Any]: st.dictionaries(text, st.none() | st.booleans() | whole | text | st.lists(text, max_size=2)),
}

by_type[tuple[Attempt, ...]] = st.lists(
    st.builds(Attempt, by_type[str], by_type[int | None], by_type[str], by_type[int]), max_size=3
).map(tuple)
by_type[tuple[GuardEvent, ...]] = st.lists(
    st.builds(GuardEvent, text, st.sampled_from(["input", "output"]), text, text, whole), max_size=3
).map(tuple)


def some(frame_type: type[Frame]) -> st.SearchStrategy[Frame]:
    types = get_type_hints(frame_type).items()
    return st.builds(
        frame_type, **{name: by_type[t] if t in by_type else st.sampled_from(get_args(t)) for name, t in types}
    )


some_frame = some(Opened) | some(Closed) | some(FeedbackFrame)
some_frames = st.lists(some_frame, min_size=1, max_size=8)


def write(folder: Path, given_frames: list[Frame], segment_bytes: int = 2**20) -> None:
    journal = Journal(folder, segment_bytes, sync_interval=0)
    keep = {Opened: journal.opened, Closed: journal.closed, FeedbackFrame: journal.feedback}
    for frame in given_frames:
        keep[type(frame)](frame)
    journal.close()


def written(given_frames: list[Frame], folder: Path) -> tuple[Path, list[int]]:
    """A segment that holds these frames, and the offsets where they end."""
    write(folder, given_frames)
    (segment,) = segments(folder)
    return segment, [end for end, _ in frames(segment)]


@given(some_frames, st.integers(1, 2000))
@settings(max_examples=40)
def test_any_frames_read_back_in_order_across_segments(given_frames: list[Frame], segment_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given_frames, segment_bytes)
        assert [frame for path in segments(Path(folder)) for _, frame in frames(path)] == given_frames


@given(some_frames, st.data())
@settings(max_examples=40)
def test_reading_goes_on_from_any_end_offset(given_frames: list[Frame], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        segment, ends = written(given_frames, Path(folder))
        n = data.draw(st.integers(1, len(ends)))
        assert [frame for _, frame in frames(segment, ends[n - 1])] == given_frames[n:]


@given(some_frames, st.data())
@settings(max_examples=40)
def test_cut_anywhere_a_segment_yields_the_whole_frames_before_the_cut(
    given_frames: list[Frame], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        segment, ends = written(given_frames, Path(folder))
        cut = data.draw(st.integers(0, ends[-1]))
        segment.write_bytes(segment.read_bytes()[:cut])
        assert [frame for _, frame in frames(segment)] == given_frames[: sum(end <= cut for end in ends)]


@given(some_frames, st.data())
@settings(max_examples=80)
def test_one_flipped_bit_is_corrupt_in_the_middle_and_a_torn_tail_at_the_end(
    given_frames: list[Frame], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        segment, ends = written(given_frames, Path(folder))
        content = bytearray(segment.read_bytes())
        at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        content[at] ^= 1 << bit
        segment.write_bytes(content)
        hit = sum(end <= at for end in ends)
        found: list[Frame] = []
        if hit == len(ends) - 1:
            found.extend(frame for _, frame in frames(segment))
        else:
            with pytest.raises(Corrupt, match="whole frames follow"):
                found.extend(frame for _, frame in frames(segment))
        assert found == given_frames[:hit]


def test_zeros_after_a_power_cut_are_a_torn_tail(tmp_path: Path) -> None:
    segment, _ = written([opened("a"), closed("a")], tmp_path)
    with segment.open("ab") as file:
        file.write(bytes(4096))
    assert [frame for _, frame in frames(segment)] == [opened("a"), closed("a")]


def test_a_row_that_does_not_fit_on_the_disk_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.opened(opened("kept"))
    (segment,) = segments(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, hard))  # the kernel writes 100 bytes
    try:
        with pytest.raises(OSError, match="too large"):
            journal.opened(opened("refused", request=b"x" * 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.opened(opened("next"))
    journal.close()
    assert [frame for _, frame in frames(segment)] == [opened("kept"), opened("next")]


@pytest.mark.parametrize("value", [2**64, "\ud800", 1j])
def test_a_value_that_cannot_be_written_is_refused_before_anything_is(tmp_path: Path, value: object) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match="FeedbackFrame cannot be written"):
        journal.feedback(feedback("f", value={"label": value}))
    journal.close()
    assert segments(tmp_path)[0].stat().st_size == 0


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=40),
    st.integers(1, 3000),
    st.integers(0, 150),
)
@settings(max_examples=30)
def test_recovery_closes_exactly_the_rows_left_open_and_only_once(
    steps: list[tuple[bool, int]], segment_bytes: int, torn: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal, state = Journal(folder, segment_bytes, sync_interval=0), dict[str, bool]()
        for closing, number in steps:
            row = str(number)
            if closing and state.get(row):
                journal.closed(closed(row))
                state[row] = False
            elif row not in state:
                journal.opened(opened(row))
                state[row] = True
        journal.close()
        with segments(folder)[-1].open("ab") as file:
            file.write(b"\xff" * torn)
        left = {row for row, is_open in state.items() if is_open}
        assert recover(folder) == len(left)
        assert recover(folder) == 0
        ends = [frame for path in segments(folder) for _, frame in frames(path) if isinstance(frame, Closed)]
        assert sorted(frame.request_id for frame in ends) == sorted(state)
        aborted = [frame for frame in ends if frame.outcome == "aborted"]
        assert {frame.request_id for frame in aborted} == left
        assert all((frame.status_code, frame.response) == (ABORTED_STATUS, b"") for frame in aborted)


def test_recovery_leaves_the_rows_of_a_living_writer_alone_also_in_segments_it_rotated_away(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1)
    journal.opened(opened("long"))
    journal.opened(opened("short"))
    journal.closed(closed("short"))
    assert recover(tmp_path) == 0
    journal.closed(closed("long"))
    journal.close()
    assert recover(tmp_path) == 0


def test_recovery_of_a_damaged_segment_still_closes_the_others(tmp_path: Path) -> None:
    write(tmp_path, [opened("a"), opened("b"), opened("c")])
    (damaged,) = segments(tmp_path)
    damaged.write_bytes(damaged.read_bytes().replace(b"key-1", b"key-2", 1))
    write(tmp_path, [opened("sound")])
    for _ in range(2):
        with pytest.raises(Corrupt, match=damaged.name):
            recover(tmp_path)
    sound = segments(tmp_path)[1]
    assert [type(frame) for _, frame in frames(sound)] == [Opened, Closed]


def test_a_segment_is_locked_from_its_first_byte_until_its_writer_closes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (segment,) = segments(tmp_path)
    with segment.open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal.close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_frame_of_an_earlier_release_is_read_with_the_defaults_of_what_came_later(tmp_path: Path) -> None:
    now = closed("r", cost_nano_usd=5, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=2)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(now))
    body = b"\x02" + msgspec.msgpack.encode(fields[:19])
    path = tmp_path / "1-1.seg"
    path.write_bytes(struct.pack("<II", len(body), zlib.crc32(body)) + body)
    ((_, read),) = frames(path)
    assert read == closed("r")
    assert isinstance(read, Closed)
    assert read.cost_nano_usd is None


def test_a_frame_of_a_release_before_is_read_with_the_new_fields_at_their_defaults() -> None:
    for row in (opened("a"), closed("a")):
        first_release = msgspec.msgpack.decode(msgspec.msgpack.encode(row))[: -len(row.__struct_defaults__)]
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(first_release), type=type(row)) == row
