"""What is erased is in no file any more, beside a living writer too; what the log committed to still proves itself."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from journal_writer import closed, feedback, opened

from trimtab import settings as trimtab_settings
from trimtab.errors import Fixable
from trimtab.records.erasure import ErasureRequest, RetentionRun
from trimtab.records.record import utc_now
from trimtab.settings import Settings
from trimtab.store import attributes, erasing, journal, keys, seals
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.envelope import MARK
from trimtab.store.journal import Erased, Journal, frames, segments
from trimtab.store.lake import Lake
from trimtab.store.subjects import Subjects

SECRET = "the lamp of Erin Delacroix"
MODEL = "desk"


def asked(settings: Settings, count: int = 6) -> Journal:
    """Requests of alice (odd) and bob (even), answered and drained, by a gateway that goes on living."""
    writer = Journal(settings.journal)
    for number in range(count):
        who = "alice" if number % 2 else "bob"
        said = {
            "caller": who,
            "requester": f"{who}'s key",
            "client_request_id": f"{who}-{number}",
            "request": f"{SECRET} {who}".encode(),
        }
        writer.opened(opened(str(number), **said))
        text = {"input_text": f"{SECRET} {who}", "output_text": f"answer to {who}", "response": f"to {who}".encode()}
        writer.closed(closed(str(number), **said, **text))
    writer.feedback(feedback("f-alice", request_id="1", value={"note": "alice was right"}))
    writer.feedback(feedback("f-bob", request_id="2", value={"note": "bob was right"}))
    assert drain(settings) == count
    return writer


def files_with(settings: Settings, text: str) -> list[str]:
    found = (path for path in settings.home.rglob("*") if path.is_file())
    return [path.name for path in found if text.encode() in path.read_bytes()]


@pytest.mark.parametrize("encrypt", [False, True])
def test_one_subject_is_gone_from_every_file_and_the_others_and_the_proofs_stay(tmp_path: Path, encrypt: bool) -> None:
    place = trimtab_settings.load(tmp_path)
    Subjects(place).choose(encrypt=encrypt, field="caller")
    writer, control = asked(place), Control(place)
    assert Lake(place).sample(1, 2)["input_text"].to_list() == [f"{SECRET} alice"]
    assert (MARK in str(Lake(place).stored(1, 2)["input_text"][0])) == encrypt
    assert seals.seal(place, control, MODEL, utc_now()) == 6
    rows = erasing.rows_of(place, "caller", {"alice"})
    control.put("erase_request", "r", ErasureRequest(subject="a", at=utc_now(), by="test", rows=len(rows)))
    ids, clients = set(rows["databricks_request_id"]), set(rows["client_request_id"])
    assert ids == {"1", "3", "5"}
    erasing.delete_feedback(place, erasing.feedback_about(place, ids, clients))
    erasing.erase_rows(place, rows)
    assert erasing.erase_journal(place, ids, clients) == 7
    assert Subjects(place).destroy("alice", utc_now())

    assert files_with(place, "alice") == []
    lake = Lake(place)
    assert lake.sample(0, 6)["input_text"].to_list() == [f"{SECRET} bob", None] * 3
    assert lake.sample(1, 2, ["outcome", "status_code"]).rows() == [("ok", 200)]
    assert (lake.count(), lake.texts(["1", "2"])) == (6, {"2": f"{SECRET} bob"})
    assert seals.faults(place, control, MODEL, 0) == []
    assert control.audit_faults() == []
    writer.closed(closed("6", caller="carol"))  # the gateway noticed nothing
    writer.close()
    assert drain(place) == 1
    assert list(segments(place.journal)) == []
    assert seals.seal(place, control, MODEL, utc_now()) == 1
    assert seals.faults(place, control, MODEL, 0) == []


def test_a_changed_answer_a_changed_row_and_a_missing_row_contradict_their_seal(tmp_path: Path) -> None:
    place = trimtab_settings.load(tmp_path)
    asked(place).close()
    control = Control(place)
    seals.seal(place, control, MODEL, utc_now())
    table = place.lake / "inference"

    def changed(**values: str) -> list[str]:
        version = DeltaTable(table).version()
        DeltaTable(table).update(predicate="row = 2", updates=values)
        found = seals.faults(place, control, MODEL, 0)
        DeltaTable(table).restore(version)
        return found

    Subjects(place).choose(encrypt=False, field="requester")  # a seal remembers what told whose a row was
    assert seals.faults(place, control, MODEL, 0) == []
    assert changed(output_text="'another answer'") == ["the payload of row 2 is not the one that was sealed"]
    nothing = dict.fromkeys(seals.PAYLOAD, "NULL")
    assert changed(**nothing) == ["1 rows have no payload any more, and the log explains 0"]
    assert changed(status_code="500") == ["rows 0 to 5 are not those that were sealed"]
    assert seals.faults(place, control, MODEL, 0) == []
    DeltaTable(table).delete("row = 2")
    assert "5 of them are there" in seals.faults(place, control, MODEL, 0)[0]
    control.put("retention", "r", RetentionRun(at=utc_now(), by="test", metadata_rows=1, metadata_last=2))
    assert seals.faults(place, control, MODEL, 0) == []


def test_a_seal_that_was_killed_half_way_is_finished_as_it_was_begun(tmp_path: Path, monkeypatch) -> None:
    place = trimtab_settings.load(tmp_path)
    writer, control = asked(place), Control(place)
    put = Control.put
    monkeypatch.setattr(Control, "put", lambda self, kind, *rest: kind != "seal" and put(self, kind, *rest))
    monkeypatch.setattr(seals, "sealed_to", lambda *_: 6 if control.facts("seal_macs", seals.Macs) else 0)
    seals.seal(place, control, MODEL, utc_now())
    monkeypatch.undo()
    writer.closed(closed("6"))
    writer.close()
    drain(place)
    assert seals.seal(place, control, MODEL, utc_now()) == 7
    assert [seal.last for seal in control.facts("seal", seals.Seal)] == [6, 7]
    assert seals.faults(place, control, MODEL, 0) == []


@given(st.integers(0, 300), st.integers(0, 3))
@examples(max_examples=60)
def test_an_erased_frame_has_the_size_of_the_one_before_and_is_understood(tmp_path_factory, size: int, at: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    writer = Journal(folder)
    for number in range(4):
        writer.closed(closed(str(number), request=bytes(size)))
    writer.close()
    (path,) = segments(folder)
    before = path.stat().st_size
    assert erasing.erase_frames(folder, {str(at)}, set()) == 1
    found = [frame for _, frame in frames(path)]
    assert path.stat().st_size == before
    assert [type(frame) is Erased for frame in found] == [number == at for number in range(4)]
    assert journal.recover(folder) == 0


@given(st.integers(5 + 8, 70_000))
@examples(max_examples=100)
def test_a_frame_of_any_size_can_be_erased(size: int) -> None:
    data = journal.erased_frame(size)
    assert len(data) == size
    assert isinstance(msgspec.msgpack.decode(data[9:], type=Erased), Erased)


def test_reading_attributes_needs_the_scope_and_a_purpose_and_is_in_the_log_first(tmp_path: Path) -> None:
    place = trimtab_settings.load(tmp_path)
    control, now = Control(place), utc_now()
    attributes.write(place, [("alice", "gender", "f"), ("bob", "gender", "m"), ("bob", "age", "over sixty")], now)
    _, admin = keys.create(control, MODEL, name="ops", scopes=("admin",), by="test", now=now)
    key, secret = keys.create(control, MODEL, name="audit", scopes=("attributes",), by="test", now=now)
    for wrong, purpose in (("", "audit"), (admin, "audit"), (secret, " ")):
        with pytest.raises(Fixable):
            attributes.read(place, control, MODEL, wrong, ("gender",), purpose, "test", now)
    found = attributes.read(place, control, MODEL, secret, ("gender",), "audit", "test", now)
    assert sorted(next(iter(values.items())) for values in found.values()) == [("gender", "f"), ("gender", "m")]
    assert "alice" not in str(found)
    (seen,) = control.facts("attribute_read", attributes.AttributeRead)
    assert (seen.key, seen.purpose, seen.subjects) == (key, "audit", 2)
    assert control.audit_entries()[-1].kind == "attribute_read"
    asked(place, 4).close()
    assert attributes.by_request(place, found) == {
        "0": {"gender": "m"}, "1": {"gender": "f"}, "2": {"gender": "m"}, "3": {"gender": "f"}
    }  # fmt: skip
    name = Subjects(place).pseudonym("bob")
    assert (attributes.count(place, name), attributes.erase(place, name), attributes.count(place, name)) == (2, 2, 0)
    assert files_with(place, "over sixty") == []
    assert attributes.read(place, control, MODEL, secret, ("gender",), "audit", "test", now + attributes.KEPT) == {}


def test_a_refused_read_is_in_the_log_without_the_secret_and_cannot_flood_it(tmp_path: Path) -> None:
    place = trimtab_settings.load(tmp_path)
    control, now = Control(place), utc_now()
    attributes.write(place, [("alice", "gender", "f")], now)
    admin, broad = keys.create(control, MODEL, name="ops", scopes=("admin",), by="test", now=now)
    old, former = keys.create(control, MODEL, name="old", scopes=("attributes",), by="test", now=now)
    keys.rotate(control, MODEL, old, "test", now, timedelta(minutes=1))
    key, secret = keys.create(control, MODEL, name="audit", scopes=("attributes",), by="test", now=now)
    later = now + timedelta(minutes=2)
    secrets = {"": "nobody", broad: admin, former: old, secret: key, "tt-guessed": "nobody"}
    for tried in (*secrets, *["tt-guessed"] * 120):
        with pytest.raises(Fixable):
            attributes.read(place, control, MODEL, tried, ("gender", tried), "", "mallory", later)
    seen = control.facts("attribute_refused", attributes.AttributeRefused)
    assert [(one.key, one.reason, one.count) for one in seen] == [
        (None, "unknown key", 1),
        (admin, "no scope", 1),
        (old, "key has ended", 1),
        (key, "no purpose", 1),
        (None, "unknown key", 10),
        (None, "unknown key", 100),
    ]
    assert {(one.by, one.attributes) for one in seen} == {("mallory", ("gender",))}
    with pytest.raises(Fixable):
        attributes.read(place, control, MODEL, "", ("gender",), "audit", "mallory", later + timedelta(hours=1))
    assert control.facts("attribute_refused", attributes.AttributeRefused)[-1].count == 1  # another hour
    bodies = "".join(entry.body for entry in control.audit_entries() if entry.kind == "attribute_refused")
    assert not [tried for tried in secrets if tried and tried in bodies]
    assert control.audit_faults() == []


def test_the_lake_without_payloads_is_still_a_table_for_others(tmp_path: Path) -> None:
    place = trimtab_settings.load(tmp_path)
    asked(place).close()
    rows = erasing.rows_of(place, "caller", {"alice"})
    erasing.erase_rows(place, rows)
    table = pl.scan_delta(str(place.lake / "inference")).sort("row").collect()
    assert table["row"].to_list() == list(range(6))
    assert table["client_request_id"].to_list() == ["bob-0", None, "bob-2", None, "bob-4", None]


def test_a_set_of_texts_is_named_by_a_hash_that_only_this_project_can_make(tmp_path: Path) -> None:
    here, there = (Subjects(trimtab_settings.load(tmp_path / name)) for name in ("here", "there"))
    assert here.fingerprint(SECRET) == here.fingerprint(SECRET) != there.fingerprint(SECRET)
    assert here.fingerprint(SECRET) != here.pseudonym(SECRET)
