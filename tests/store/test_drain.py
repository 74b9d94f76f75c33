"""Every row and every piece of feedback reaches the lake exactly once, whoever is killed and when."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from journal_writer import closed, feedback, opened

from trimtab import settings as trimtab_settings
from trimtab.errors import Corrupt, Fixable
from trimtab.settings import Settings
from trimtab.store import drain as draining
from trimtab.store.drain import drain
from trimtab.store.journal import Journal, recover, segments, take
from trimtab.store.lake import Lake, open_table

WRITER = Path(__file__).with_name("journal_writer.py")
DRAIN = """
import sys
from trimtab import settings
from trimtab.store.drain import drain
print("ready", flush=True)
while True:
    drain(settings.load(sys.argv[1]))
"""
NEVER = -1
MORTAL_DRAIN = """
import os, signal, sys
from trimtab import settings
from trimtab.store import drain as draining

def drain_and_die(at_line):
    lines = 0
    def trace(frame, event, _):
        nonlocal lines
        if "trimtab/store/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        if lines == at_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    draining.drain(settings.load(sys.argv[1]))
    os._exit(0)

draining.BATCH_ROWS = 2
for line in sys.stdin:
    child = os.fork()  # Delta and Polars are imported here and used in the children only
    if child == 0:
        drain_and_die(int(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Reads numbers; for each, a drain that is killed before it begins the so-manieth line of the store's code."""


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    return trimtab_settings.load(tmp_path)


def outcomes(place: Settings) -> dict[str, str]:
    """Outcome by request id; asserts that no id is there twice and rows are numbered without gaps."""
    rows = Lake(place).sample(0, 10**9, ["row", "databricks_request_id", "outcome"])
    assert rows["row"].to_list() == list(range(len(rows))) == list(range(Lake(place).count()))
    assert rows["databricks_request_id"].is_unique().all()
    return dict(zip(rows["databricks_request_id"], rows["outcome"], strict=True))


def feedback_ids(place: Settings) -> list[str]:
    return sorted(pl.scan_delta(place.lake / "feedback").collect()["feedback_id"])


def test_killed_writers_and_killed_drains_lose_nothing_and_repeat_nothing(place: Settings) -> None:
    place.journal.mkdir(parents=True)
    lot = random.Random(11)  # noqa: S311
    said: list[str] = []
    for life in range(7):
        log = place.home / f"writer-{life}"
        with log.open("w") as out:
            writer = subprocess.Popen([sys.executable, WRITER, place.journal, f"w{life}", "20000"], stdout=out)
        drainer = subprocess.Popen([sys.executable, "-c", DRAIN, place.root], stdout=subprocess.PIPE)
        assert drainer.stdout is not None
        with drainer.stdout:
            assert drainer.stdout.readline() == b"ready\n"
        victims = [writer, drainer] if lot.random() < 0.5 else [drainer, writer]
        for victim in victims:
            time.sleep(lot.uniform(0.01, 0.25))
            victim.kill()
            victim.wait()
        said += log.read_text().splitlines()

    drain(place)
    heard = {kind: {line[2:] for line in said if line[0] == kind} for kind in "ocf"}
    found = outcomes(place)
    assert len(heard["c"]) > 50
    assert all(found[request_id] == "ok" for request_id in heard["c"])
    assert all(found[request_id] in ("ok", "aborted") for request_id in heard["o"])
    assert sum(outcome == "aborted" for outcome in found.values()) >= 5
    assert len(found) - len(heard["o"]) <= 7, "each kill may cut off one word of thanks, not more"
    told = feedback_ids(place)
    assert len(told) == len(set(told))
    assert heard["f"] <= set(told)
    assert segments(place.journal) == []


def test_a_drain_may_die_at_any_line(place: Settings) -> None:
    command = [sys.executable, "-c", MORTAL_DRAIN, place.root]
    expected: dict[str, str] = {}
    life, killed = 0, True
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mortal:

        def drain_until(line: int) -> bool:
            """True when the drain was killed, False when it was done before that line."""
            assert mortal.stdin is not None
            assert mortal.stdout is not None
            mortal.stdin.write(f"{line}\n")
            mortal.stdin.flush()
            return {"-9": True, "0": False}[mortal.stdout.readline().strip()]

        while killed:
            row = f"{life}-"
            journal = Journal(place.journal, segment_bytes=600)
            journal.opened(opened(row + "left"))
            for number in "012":
                journal.opened(opened(row + number))
                journal.feedback(feedback(row + number))
                journal.closed(closed(row + number))
            journal.close()
            expected |= {row + number: "ok" for number in "012"} | {row + "left": "aborted"}
            killed = drain_until(1 + 89 * life)
            assert not drain_until(NEVER)
            life += 1
    assert life > 10
    assert outcomes(place) == expected
    assert feedback_ids(place) == sorted(row for row, outcome in expected.items() if outcome == "ok")
    assert segments(place.journal) == []


def test_a_living_gateways_rows_come_as_they_close_and_its_segments_stay(place: Settings) -> None:
    journal = Journal(place.journal, segment_bytes=1)  # a segment for each frame
    journal.opened(opened("long"))
    journal.opened(opened("short"))
    journal.closed(closed("short"))
    assert drain(place) == 1
    assert outcomes(place) == {"short": "ok"}
    journal.closed(closed("long"))
    assert drain(place) == 1
    assert drain(place) == 0
    journal.opened(opened("cut"))
    journal.close()
    assert drain(place) == 1
    assert outcomes(place) == {"short": "ok", "long": "ok", "cut": "aborted"}
    assert segments(place.journal) == []


def test_a_segment_outlives_older_ones_whose_open_rows_it_may_have_closed(place: Settings) -> None:
    journal = Journal(place.journal, segment_bytes=700)
    journal.opened(opened("long"))
    journal.opened(opened("crosses", request=b"x" * 700))  # fills the first segment
    journal.closed(closed("crosses", response=b"x" * 700))  # fills the second
    journal.feedback(feedback("third"))
    before = segments(place.journal)
    assert len(before) == 3
    while (lock := take(before[1])) is None:  # until the writer has let go of it
        time.sleep(0.001)
    os.close(lock)
    drain(place)
    assert segments(place.journal) == before
    journal.close()
    drain(place)
    assert outcomes(place) == {"crosses": "ok", "long": "aborted"}
    assert segments(place.journal) == []


def test_a_gateway_that_dies_between_recovery_and_reading_keeps_its_open_row(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(place.journal)
    journal.opened(opened("cut"))

    def recover_then_die(folder: Path) -> int:
        closed_rows = recover(folder)
        journal.close()
        return closed_rows

    monkeypatch.setattr(draining.journal, "recover", recover_then_die)
    assert drain(place) == 0
    monkeypatch.undo()
    assert drain(place) == 1
    assert outcomes(place) == {"cut": "aborted"}


def test_a_damaged_segment_stops_only_itself_and_is_kept(place: Settings) -> None:
    damaged_writer = Journal(place.journal)
    for row in ("before", "damaged", "behind"):
        damaged_writer.closed(closed(row))
    damaged_writer.close()
    (damaged,) = segments(place.journal)
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(b"\xa7damaged", b"\xa7dAmaged"))
    sound = Journal(place.journal)
    sound.closed(closed("sound"))
    sound.close()

    with pytest.raises(Corrupt, match=rf"{damaged.name}.*move that file out of"):
        drain(place)
    assert outcomes(place) == {"before": "ok", "sound": "ok"}
    damaged.write_bytes(content)  # restored: nothing of it was given up
    drain(place)
    assert outcomes(place) == {"before": "ok", "sound": "ok", "damaged": "ok", "behind": "ok"}


def test_a_full_disk_costs_no_row(place: Settings) -> None:
    journal = Journal(place.journal)
    journal.feedback(feedback("f"))
    journal.closed(closed("kept", response=random.Random(1).randbytes(200_000)))  # noqa: S311
    journal.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # feedback fits, the row does not
    try:
        with pytest.raises(Fixable, match="inference cannot be written") as caught:
            drain(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the journal keeps the rows" in caught.value.fix
    assert drain(place) == 1
    assert outcomes(place) == {"kept": "ok"}
    assert feedback_ids(place) == ["f"]


def test_small_files_are_merged_and_the_numbering_goes_on(place: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "MAINTAIN_EVERY", 4)
    journal = Journal(place.journal)
    for row in range(9):
        journal.closed(closed(str(row)))
        assert drain(place) == 1
    journal.close()
    table = open_table(place.lake / "inference")
    assert table is not None
    assert len(table.file_uris()) < 6
    assert (place.lake / "inference" / "_delta_log" / "_last_checkpoint").exists()
    assert outcomes(place) == {str(row): "ok" for row in range(9)}
