"""Control facts are written once, aliases move by compare-and-set, and the audit log shows every later change."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from trimtab import settings as trimtab_settings
from trimtab.errors import Conflict
from trimtab.records.gateway import EngineState
from trimtab.records.record import Record, utc_now
from trimtab.records.registry import AliasMove, Traffic
from trimtab.settings import Settings
from trimtab.store import audit
from trimtab.store.control import Control

RIVAL = """
import sys
from trimtab import settings
from trimtab.errors import Conflict
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove
from trimtab.store.control import Control
name = int(sys.argv[2])
sys.stdin.readline()
control = Control(settings.load(sys.argv[1]))
for round in range(1, 6):
    before = control.alias("m", "champion")
    print("ready", flush=True)
    sys.stdin.readline()
    move = AliasMove(model="m", alias="champion", before=before, after=10 * round + name, at=utc_now(),
                     actor=str(name), reason="race")
    try:
        control.move([move])
        print("won", flush=True)
    except Conflict:
        print("lost", flush=True)
    sys.stdin.readline()
"""


class Note(Record):
    text: str


def move(before: int | None, after: int | None, alias: str = "champion") -> AliasMove:
    return AliasMove(model="m", alias=alias, before=before, after=after, at=utc_now(), actor="test", reason="because")


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    return trimtab_settings.load(tmp_path)


@pytest.fixture
def control(place: Settings) -> Control:
    return Control(place)


def faults(control: Control) -> list[str]:
    return control.audit_faults()


def test_a_fact_is_written_once_and_stays_what_it_was(control: Control) -> None:
    assert control.put("decision", "k", Note(text="first"))
    assert not control.put("decision", "k", Note(text="second"))
    assert control.get("decision", "k", Note) == Note(text="first")
    assert control.get("alert", "k", Note) is None
    assert len(control.audit_entries()) == 1


def test_facts_come_oldest_first_by_prefix_and_the_newest_by_limit(control: Control) -> None:
    for key in ("a/1", "a_/1", "a/2", "b/1", "a/3"):
        control.put("note", key, Note(text=key))
    assert [note.text for note in control.facts("note", Note, "a/")] == ["a/1", "a/2", "a/3"]
    assert [note.text for note in control.facts("note", Note, "a_")] == ["a_/1"]
    assert [note.text for note in control.facts("note", Note, "a/", limit=2)] == ["a/2", "a/3"]
    assert control.last("note", Note) == Note(text="a/3")
    assert control.audit_entries() == []


def test_moves_are_all_or_nothing(control: Control) -> None:
    control.move([move(None, 1)], Traffic(model="m", version=None, percent=0, at=utc_now(), reason="none"))
    wrong = [move(1, 2), move(7, 8, "challenger")]
    with pytest.raises(Conflict, match="challenger is unset, not version 7"):
        control.move(wrong, Traffic(model="m", version=2, percent=5, at=utc_now(), reason="canary"))
    assert (control.alias("m", "champion"), control.alias("m", "challenger")) == (1, None)
    traffic = control.traffic("m")
    assert traffic is not None
    assert traffic.percent == 0
    assert len(control.audit_entries()) == 2


def test_what_was_live_when_is_a_query(control: Control) -> None:
    before = utc_now()
    control.move([move(None, 1)])
    between = utc_now()
    control.move([move(1, 2)])
    assert control.alias_at("m", "champion", before) is None
    assert [control.alias_at("m", "champion", at).after for at in (between, utc_now())] == [1, 2]  # pyright: ignore[reportOptionalMemberAccess]
    control.move([move(2, None)])
    assert control.alias("m", "champion") is None


def test_who_reads_waits_for_no_writer_and_sees_nothing_half_done(control: Control, place: Settings) -> None:
    control.move([move(None, 1)])
    with closing(sqlite3.connect(place.home / "trimtab.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE aliases SET version = 2")
        assert Control(place).alias("m", "champion") == control.alias("m", "champion") == 1
        assert (faults(control), len(control.facts("alias_move", AliasMove))) == ([], 1)
        writer.execute("COMMIT")
    assert control.alias("m", "champion") == 2


def test_an_engines_state_is_rewritten(control: Control) -> None:
    for state in ("starting", "ready"):
        control.set_engine(EngineState(model="m", version=1, state=state, at=utc_now()))
    assert {version: engine.state for version, engine in control.engines("m").items()} == {1: "ready"}


def test_of_two_processes_that_saw_the_same_alias_one_moves_it(place: Settings) -> None:
    command = [sys.executable, "-c", RIVAL, str(place.root)]
    rivals = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in (1, 2)
    ]

    def tell_all() -> None:
        for rival in rivals:
            assert rival.stdin is not None
            rival.stdin.write("go\n")
            rival.stdin.flush()

    def hear_all() -> list[str]:
        return sorted(rival.stdout.readline().strip() for rival in rivals)  # pyright: ignore[reportOptionalMemberAccess]

    tell_all()  # they create the database at the same time, too
    for _ in range(5):
        assert hear_all() == ["ready", "ready"]
        tell_all()
        assert hear_all() == ["lost", "won"]
        tell_all()
    for rival in rivals:
        rival.communicate()
        assert rival.returncode == 0
    control = Control(place)
    moves = control.facts("alias_move", AliasMove)
    assert [m.before for m in moves] == [None, *(m.after for m in moves[:-1])]
    assert control.alias("m", "champion") == moves[-1].after
    assert faults(control) == []


def test_a_change_behind_its_back_is_reported(control: Control, place: Settings) -> None:
    control.put("decision", "d", Note(text="reject"))
    control.move([move(None, 1)])
    assert faults(control) == []
    with closing(sqlite3.connect(place.home / "trimtab.db")) as database:
        database.execute("update facts set body = replace(body, 'reject', 'promote') where kind = 'decision'")
        database.commit()
    assert faults(control) == ["decision d differs from its audit entry 1"]


ATTACKS = {
    "edited": ["UPDATE audit SET body = replace(body, '20', '90') WHERE seq = 2"],
    "deleted": ["DELETE FROM audit WHERE seq = 2", "DELETE FROM facts WHERE seq = 2"],
    "reordered": [
        "UPDATE audit SET seq = 9 WHERE seq = 2",
        "UPDATE audit SET seq = 2 WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 9",
    ],
    "truncated": [
        "DELETE FROM audit WHERE seq = 4",
        "DELETE FROM facts WHERE seq = 4",
        "DELETE FROM checkpoints WHERE size = 4",
    ],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_record_that_was_edited_deleted_reordered_or_cut_off_contradicts_a_checkpoint_kept_elsewhere(
    control: Control, place: Settings, attack: str
) -> None:
    for percent in (10, 20, 30, 40):
        control.put_traffic(Traffic(model="m", version=2, percent=percent, at=utc_now(), reason="r"))
    newest = control.newest_checkpoint()
    assert newest is not None
    kept, key = [newest[1]], control.signer.verifier_key
    assert audit.verify(control.audit_entries(), kept, key) == []
    with closing(sqlite3.connect(place.home / "trimtab.db")) as db, db:
        for statement in ATTACKS[attack]:
            db.execute(statement)
    found = audit.verify(control.audit_entries(), kept, key)
    assert found
    assert ("cut off" in " ".join(found)) == (attack in ("deleted", "truncated"))


def test_a_log_of_a_release_that_kept_no_tree_goes_on(control: Control, place: Settings) -> None:
    for percent in range(5):
        control.put_traffic(Traffic(model="m", version=2, percent=percent, at=utc_now(), reason="r"))
        with closing(sqlite3.connect(place.home / "trimtab.db")) as db, db:
            db.execute("DELETE FROM tree")
    assert (len(control.checkpoints()), faults(control)) == (5, [])
