"""Keys of subjects: one each, whoever asks first; gone for all once destroyed; and never under two master keys."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from journal_writer import closed

from trimtab import settings as environment
from trimtab.errors import DatabaseAway, Fixable
from trimtab.records.record import utc_now
from trimtab.settings import Settings
from trimtab.store import seals
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.envelope import MARK
from trimtab.store.journal import Journal
from trimtab.store.lake import PAYLOAD, Lake
from trimtab.store.subjects import Subjects, keyed_hash

MACHINE = """
import sys, json
from datetime import datetime, UTC
from pathlib import Path
from trimtab import settings
from trimtab.store.subjects import Subjects
from trimtab.store.drain import drain
from trimtab.store.journal import Journal
from trimtab.store.lake import Lake
sys.path.insert(0, sys.argv[2])
from journal_writer import closed

where = settings.load(sys.argv[1])
for line in sys.stdin:
    verb, *names = line.split()
    if verb == "keys":
        print(json.dumps({name: key.id for name, key in Subjects(where).keys(names, datetime.now(UTC)).items()}))
    elif verb == "write":
        Subjects(where).choose(encrypt=True, field="caller")
        journal = Journal(where.journal)
        for who in names:
            journal.closed(closed(f"{where.root.name} {who}", caller=who, input_text=f"{who} of {where.root.name}"))
        journal.close()
        print(drain(where))
    elif verb == "read":
        lake = lake if "lake" in globals() else Lake(where)
        print(json.dumps(sorted(lake.sample(0, 99, ["input_text"])["input_text"].fill_null("").to_list())))
    sys.stdout.flush()
"""
"""A machine that does what it is told, a line each, and lives on in between."""


class Machine:
    """Another process on the same key store and lake."""

    def __init__(self, place: Settings, root: Path, master: Path) -> None:
        words = {"TRIMTAB_SUBJECTS_URL": place.subjects_database, "TRIMTAB_MASTER_KEY_FILE": str(master)}
        lake = {"TRIMTAB_LAKE": f"file://{place.lake}"}
        command = [sys.executable, "-c", MACHINE, str(root), str(Path(__file__).parent)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes, env={**os.environ, **words, **lake})

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def told(self):
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A project whose keys lie in a file, and one whose keys lie on a server."""
    here = environment.load(tmp_path / "here")
    if request.param == "sqlite":
        yield here
        return
    with postgres.running() as url:
        yield dataclasses.replace(here, subjects_url=url)


def rows(place: Settings, first: int = 0) -> None:
    journal = Journal(place.journal)
    for number in range(first, first + 4):
        who = ("alice", "bob")[number % 2]
        journal.closed(closed(str(number), caller=who, input_text=f"I am {who}", request=f"I am {who}".encode()))
    journal.close()
    assert drain(place) == 4


def test_a_key_is_one_subjects_until_it_is_destroyed_and_whoever_comes_back_is_somebody_new(place: Settings) -> None:
    now, subjects = utc_now(), Subjects(place)
    first = subjects.keys(["alice", "bob"], now)
    assert Subjects(place).keys(["bob", "alice"], now) == first
    assert len({key.id for key in first.values()}) == 2
    assert keyed_hash(first["alice"], b"x") != keyed_hash(first["bob"], b"x")
    assert (place.home / "master.key").stat().st_mode & 0o777 == 0o600
    assert subjects.named([first["alice"].id]) == {first["alice"].id: first["alice"].secret}
    assert subjects.destroy("alice", now)
    assert not subjects.destroy("alice", now)
    assert Subjects(place).named([key.id for key in first.values()]) == {
        first["alice"].id: None,
        first["bob"].id: first["bob"].secret,
    }
    assert subjects.keys(["alice"], now)["alice"] != first["alice"]
    with pytest.raises(Fixable, match="the keys are not here"):
        subjects.named(["0" * 16])


def test_machines_of_one_store_make_one_key_read_each_others_rows_and_lose_them_at_once(
    place: Settings, tmp_path: Path
) -> None:
    Subjects(place).keys(["somebody"], utc_now())  # the master key is there, and handed to the others
    machines = [Machine(place, tmp_path / name, place.home / "master.key") for name in ("one", "two", "three")]
    names = [f"person {n}".replace(" ", "-") for n in range(40)]
    for machine in machines:
        machine.ask(f"keys {' '.join(names)}")
    made = [machine.told() for machine in machines]
    assert made[0] == made[1] == made[2]
    assert len(set(made[0].values())) == 40

    for machine in machines:
        machine.ask("write alice bob")
    assert [machine.told() for machine in machines] == [2, 2, 2]
    lake = dataclasses.replace(place, lake_url=f"file://{place.lake}")
    assert Lake(place).stored(0, 9)["input_text"].str.starts_with(MARK).all()
    said = [f"{who} of {name}" for who in ("alice", "bob") for name in ("one", "three", "two")]
    for machine in machines:
        machine.ask("read")
        assert machine.told() == said
    assert Subjects(lake).destroy("alice", utc_now())
    for machine in machines:  # they live on, and none of them has kept the key
        machine.ask("read")
        assert machine.told() == ["", "", "", *said[3:]]
        machine.end()


def test_seals_of_an_encrypted_lake_hold_on_every_machine(place: Settings, tmp_path: Path) -> None:
    Subjects(place).choose(encrypt=True, field="caller")
    rows(place)
    assert seals.seal(place, Control(place), "desk", utc_now()) == 4
    assert seals.faults(place, Control(place), "desk", 0) == []
    assert Lake(place).stored(0, 1)["request"].str.starts_with(MARK).all()


def test_a_second_master_key_is_refused_before_anything_is_kept_under_it(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Subjects(place).keys(["alice"], utc_now())["alice"]
    (place.home / "master.key").rename(tmp_path / "moved.key")
    with pytest.raises(Fixable, match="the master key is not here") as missing:
        Subjects(place).keys(["alice"], utc_now())
    assert "TRIMTAB_MASTER_KEY_FILE" in missing.value.fix
    assert not (place.home / "master.key").exists()
    other = base64.b64encode(bytes(32)).decode()
    monkeypatch.setenv("TRIMTAB_MASTER_KEY_COMMAND", f"echo {other}")
    for refused in (lambda: Subjects(place).keys(["bob"], utc_now()), lambda: Subjects(place).named([key.id])):
        with pytest.raises(Fixable, match="do not belong to this master key"):
            refused()
    monkeypatch.delenv("TRIMTAB_MASTER_KEY_COMMAND")
    monkeypatch.setenv("TRIMTAB_MASTER_KEY_FILE", str(tmp_path / "moved.key"))
    assert Subjects(place).keys(["alice"], utc_now())["alice"] == key


def test_a_text_that_looks_encrypted_is_read_as_it_came_in_a_plain_lake_too(place: Settings) -> None:
    journal = Journal(place.journal)
    for number, text in enumerate((f"{MARK}2:0123456789abcdef:AAAA", "plain")):
        journal.closed(closed(str(number), caller="mallory", input_text=text))
    journal.close()
    drain(place)
    assert Lake(place).sample(0, 2, ["input_text"])["input_text"].to_list() == [
        f"{MARK}2:0123456789abcdef:AAAA",
        "plain",
    ]
    stored = Lake(place).stored(1, 2).select(PAYLOAD).row(0)
    assert not any(cell.startswith(MARK) for cell in stored if cell is not None)


def test_a_store_that_is_away_keeps_the_rows_in_the_journal(tmp_path: Path) -> None:
    here = environment.load(tmp_path / "here")
    Subjects(here).choose(encrypt=True, field="caller")
    away = dataclasses.replace(here, subjects_url="postgresql://trimtab@127.0.0.1:1/postgres")
    (here.home / "master.key").write_bytes(base64.b64encode(bytes(32)))
    with pytest.raises(DatabaseAway, match="store of subjects' keys"):
        rows(away)
    assert drain(here) == 4


@pytest.mark.parametrize("url", ["mysql://x@y/z", "nonsense", "oracle+none://x"])
def test_another_kind_of_store_is_refused_with_what_to_write(url: str, tmp_path: Path) -> None:
    where = dataclasses.replace(environment.load(tmp_path), subjects_url=url)
    with pytest.raises(Fixable, match="TRIMTAB_SUBJECTS_URL"):
        Subjects(where).keys(["alice"], utc_now())
