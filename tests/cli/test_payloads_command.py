"""What the default does for payloads, at the command line: encrypted, readable on record, backed up, refused apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import place
from store.journal_writer import closed
from trimtab import settings as environment
from trimtab.lifecycle import erasure
from trimtab.project import Loaded
from trimtab.records.erasure import KeysMoved, RowsExported
from trimtab.settings import Settings
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.envelope import MARK
from trimtab.store.journal import Journal
from trimtab.store.lake import PAYLOAD, Lake
from trimtab.store.subjects import Subjects

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Loaded]:
    """A project that says nothing of erasure, with twenty answered requests of two people."""
    for name in ("DATABASE_URL", "SUBJECTS_URL", "LAKE", "MASTER_KEY_FILE", "MASTER_KEY_COMMAND"):
        monkeypatch.delenv(f"TRIMTAB_{name}", raising=False)
    settings, loaded = place.make(tmp_path / "desk")
    monkeypatch.chdir(settings.root)
    Control(settings)
    erasure.choose(settings, loaded.project)
    journal = Journal(settings.journal)
    for number in range(20):
        who = ("alice", "bob")[number % 2]
        said = {"request": f"ask {who}".encode(), "response": f"tell {who}".encode()}
        journal.closed(closed(str(number), caller=who, input_text=f"I am {who}", output_text=who, **said))
    journal.close()
    assert drain(settings) == 20
    return settings, loaded


def texts(settings: Settings) -> list[str | None]:
    return Lake(settings).sample(0, 20, ["input_text"])["input_text"].to_list()


def test_by_default_no_file_of_the_lake_holds_a_word_and_everything_here_reads_it(desk) -> None:
    settings, _ = desk
    stored = Lake(settings).stored(0, 20)
    assert all(stored[name].str.starts_with(MARK).all() for name in PAYLOAD)
    files = b"".join(file.read_bytes() for file in settings.lake.rglob("*") if file.is_file())
    assert b"I am" not in files
    assert texts(settings) == ["I am alice", "I am bob"] * 10
    assert Lake(settings).find("3").select("request", "response").row(0) == ("ask bob", "tell bob")
    assert Lake(settings).texts(["2"]) == {"2": "I am alice"}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_rows_go_out_readable_with_a_purpose_that_is_in_the_log(desk, run, tmp_path: Path, kind: str) -> None:
    settings, _ = desk
    out = tmp_path / f"rows.{kind}"
    code, _, err = run("requests", "export", str(out))
    assert (code, out.exists()) == (2, False)
    assert "--purpose" in err
    code, said, _ = run("requests", "export", str(out), "--purpose", "error review")
    assert (code, said) == (0, f"20 rows in {out}\n")
    read = pl.read_parquet(out) if kind == "parquet" else pl.read_ndjson(out)
    assert read["input_text"].to_list() == ["I am alice", "I am bob"] * 10
    assert read["request"].to_list() == ["ask alice", "ask bob"] * 10
    assert out.stat().st_mode & 0o777 == 0o600
    control = Control(settings)
    (taken,) = control.facts("rows_exported", RowsExported)
    assert (taken.rows, taken.purpose) == (20, "error review")
    assert control.audit_entries()[-1].kind == "rows_exported"
    assert run("requests", "export", str(out), "--purpose", "again")[0] == 2, "a file is not written over"
    later = tmp_path / f"later.{kind}"
    code, said, _ = run("requests", "export", str(later), "--purpose", "none", "--from", "2100-01-01")
    assert (code, said) == (0, f"0 rows in {later}\n")
    assert run("requests", "export", str(tmp_path / "x.csv"), "--purpose", "x")[0] == 2


def test_keys_come_back_from_a_backup_and_those_of_the_erased_do_not(
    desk, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = desk
    backup = tmp_path / "keys.json"
    monkeypatch.setenv("TRIMTAB_BACKUP_PASSPHRASE", "short")
    assert "12 or more" in run("subjects", "backup", str(backup))[2]
    monkeypatch.setenv("TRIMTAB_BACKUP_PASSPHRASE", PASSPHRASE)
    code, said, err = run("subjects", "backup", str(backup))
    assert (code, said) == (0, f"2 keys and the master key in {backup}\n"), err
    assert backup.stat().st_mode & 0o777 == 0o600
    whole = tmp_path / "whole"
    shutil.copytree(settings.lake, whole)  # a backup of the lake, which no erasure here reaches
    assert run("erase", "alice", "--yes")[0] == 0

    shutil.rmtree(settings.lake)
    shutil.copytree(whole, settings.lake)
    assert texts(settings) == [None, "I am bob"] * 10
    (settings.home / "subjects.db").unlink()
    (settings.home / "master.key").unlink()
    monkeypatch.setenv("TRIMTAB_BACKUP_PASSPHRASE", "another passphrase")
    code, _, err = run("subjects", "restore", str(backup))
    assert code == 2
    assert "another passphrase" in err
    monkeypatch.setenv("TRIMTAB_BACKUP_PASSPHRASE", PASSPHRASE)
    code, said, err = run("subjects", "restore", str(backup))
    assert code == 0, err
    assert said == "2 keys are back; of subjects erased since, and destroyed: 1\n"
    assert texts(settings) == [None, "I am bob"] * 10
    assert run("subjects", "restore", str(backup))[1].startswith("0 keys")
    assert [moved.action for moved in Control(settings).facts("keys_moved", KeysMoved)] == [
        "backed up",
        "restored",
        "restored",
    ]
    assert run("audit", "verify")[0] == 0
    (settings.home / "master.key").write_bytes(b"A" * 43 + b"=")
    assert "another master key" in run("subjects", "restore", str(backup))[2]
    assert "no backup of keys" in run("subjects", "restore", "trimtab.yaml")[2]


def test_keys_move_into_a_store_that_machines_share(desk, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = desk
    monkeypatch.setenv("TRIMTAB_BACKUP_PASSPHRASE", PASSPHRASE)
    assert run("subjects", "backup", str(tmp_path / "keys.json"))[0] == 0
    monkeypatch.setenv("TRIMTAB_SUBJECTS_URL", f"sqlite:///{tmp_path / 'shared.db'}")
    assert run("subjects", "restore", str(tmp_path / "keys.json"))[0] == 0
    (settings.home / "subjects.db").unlink()
    assert texts(environment.load(settings.root)) == ["I am alice", "I am bob"] * 10


def test_keys_that_others_cannot_reach_or_that_lie_beside_the_lake_are_told(
    desk, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, loaded = desk
    code, said, _ = run("check")
    assert code == 0
    assert "the master key lies beside the rows" in said
    assert "0 errors, 1 warning" in said
    assert "the master key lies beside the rows" in run("status")[1]
    (settings.home / "master.key").rename(tmp_path / "kept.key")
    monkeypatch.setenv("TRIMTAB_MASTER_KEY_FILE", str(tmp_path / "kept.key"))
    assert run("check")[:2] == (0, "0 errors, 0 warnings\n")
    assert "master key" not in run("status")[1]
    assert texts(settings) == ["I am alice", "I am bob"] * 10

    monkeypatch.setenv("TRIMTAB_LAKE", f"file://{tmp_path}/shared")
    code, said, _ = run("check", "--json")
    (fault,) = json.loads(said)["faults"]
    assert (code, fault["severity"], fault["field"]) == (2, "error", "evidence.erasure")
    assert "TRIMTAB_SUBJECTS_URL" in fault["fix"]
    with pytest.raises(Exception, match="others could not read its rows"):
        erasure.choose(environment.load(settings.root), loaded.project)
    code, _, err = run("up")
    assert (code, "TRIMTAB_SUBJECTS_URL" in err) == (2, True)
    monkeypatch.setenv("TRIMTAB_SUBJECTS_URL", f"sqlite:///{tmp_path / 'shared.db'}")
    assert run("check")[:2] == (0, "0 errors, 0 warnings\n")
    erasure.choose(environment.load(settings.root), loaded.project)


def test_plain_rows_of_before_and_encrypted_ones_of_now_are_read_side_by_side(desk, tmp_path: Path) -> None:
    settings, _ = desk
    Subjects(settings).choose(encrypt=False, field="caller")
    journal = Journal(settings.journal)
    journal.closed(closed("plain", caller="carol", input_text="I am carol"))
    journal.close()
    drain(settings)
    assert Lake(settings).stored(20, 21)["input_text"].to_list() == ["I am carol"]
    assert Lake(settings).sample(18, 21, ["input_text"])["input_text"].to_list() == [
        "I am alice",
        "I am bob",
        "I am carol",
    ]
