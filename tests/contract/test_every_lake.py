"""Every lake answers the same: one suite over all implementations (`conftest.py` says which). Rung 6 of
the ladder where it is Spark's: Sail always, Apache Spark in the slow job; not that a workspace grants the tables.
"""

from __future__ import annotations

import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from contract.lakes import Open
from store.journal_writer import closed, feedback
from trimtab import settings as trimtab_settings
from trimtab.errors import Fixable
from trimtab.records.monitor import SAMPLE, Profile, priority
from trimtab.settings import Settings
from trimtab.store.drain import drain
from trimtab.store.envelope import MARK
from trimtab.store.journal import Closed, FeedbackFrame, Journal
from trimtab.store.lake import INFERENCE, LABELLED, PAYLOAD, AnyLake, Lake
from trimtab.store.subjects import Subjects

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def keep(place: Settings, *rows: Closed | FeedbackFrame) -> None:
    journal = Journal(place.journal)
    for row in rows:
        journal.closed(row) if isinstance(row, Closed) else journal.feedback(row)
    journal.close()
    drain(place)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """1400 rows in several files, of every kind."""
    place, lot = trimtab_settings.load(tmp_path_factory.mktemp("traffic")), random.Random(5)  # noqa: S311
    for first in range(0, 1400, 350):
        keep(place, *(_row(number, lot) for number in range(first, first + 350)))
    return place


def _row(number: int, lot: random.Random) -> Closed:
    outcome = lot.choice(["ok"] * 8 + ["error", "cancelled"])
    return closed(
        str(number),
        at_ms=1_700_000_000_000 + number * 7,
        outcome=outcome,
        status_code=200 if outcome == "ok" else 502,
        version=lot.choice([1, 2, 11]),
        duration_ms=int(lot.lognormvariate(4, 2)),
        ttfb_ms=lot.choice([None, lot.randrange(50)]),
        input_tokens=None,
        input_text=lot.choice([None, "", "Where is my parcel?", "Grüße, 你好 🚢"]),
    )


def test_before_the_first_row_everything_is_empty_and_has_its_columns(open_lake: Open, place: Settings) -> None:
    lake = open_lake(place)
    assert lake.count() == 0
    assert lake.sample(0, 10).schema == lake.sample(0, 10, n=3).schema == lake.rows([]).schema == INFERENCE
    assert lake.profile(0, 10) is None
    empty = lake.labelled()
    assert empty.columns == list(LABELLED)
    keep(place, closed("a"), feedback("f", request_id="a"))
    assert open_lake(place).labelled().schema == empty.schema


def test_a_row_comes_out_as_it_went_in(open_lake: Open, place: Settings) -> None:
    keep(place, closed("a", client_request_id="T-1", input_text="Grüße", cost_nano_usd=17_000))
    (row,) = open_lake(place).sample(0, 9).to_dicts()
    assert row["request_time"] == datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)
    assert row["request_tags"] == {"path": "/v1/chat/completions", "caller": "caller"}
    assert (row["logging_error_codes"], row["input_text"], row["cost_nano_usd"]) == ([], "Grüße", 17_000)
    assert (row["model_version"], row["row"], row["time_to_first_byte_ms"]) == ("3", 0, 9)


def test_a_sample_is_in_order_within_bounds_and_drawn_by_its_seed(open_lake: Open, traffic: Settings) -> None:
    lake = open_lake(traffic)
    assert lake.count() == 1400
    for first, last, n in ((-5, 4, None), (0, 1400, 30), (1390, 9000, 3), (10, 20, 50), (20, 10, None)):
        drawn = lake.sample(first, last, ["row"], n, seed=3)["row"].to_list()
        there = range(max(first, 0), min(last, 1400))
        assert len(drawn) == (len(there) if n is None else min(n, len(there)))
        assert drawn == sorted(set(drawn) & set(there)) == lake.sample(first, last, ["row"], n, seed=3)["row"].to_list()
    assert len({tuple(lake.sample(0, 1400, ["row"], 30, seed)["row"]) for seed in range(3)}) == 3
    assert lake.rows([7, 3, 3, 9999], ["row", "databricks_request_id"]).rows() == [(3, "3"), (7, "7")]


def test_a_profile_counts_measures_and_samples(open_lake: Open, traffic: Settings) -> None:
    profile = open_lake(traffic).profile(100, 1300)
    assert profile is not None
    rows = [row for row in _rows(traffic) if 100 <= row["row"] < 1300]
    assert profile.window.n == sum(profile.counts["outcome"].values()) == 1200
    assert (profile.window.start, profile.window.end) == (rows[0]["request_time"], rows[-1]["request_time"])
    assert profile.counts["model_version"] == {v: sum(r["model_version"] == v for r in rows) for v in ("1", "11", "2")}
    assert "input_tokens" not in profile.numbers, "a column without a value was not measured"
    for name in ("execution_duration_ms", "time_to_first_byte_ms"):
        values = sorted(row[name] for row in rows if row[name] is not None)
        found = profile.numbers[name]
        assert (found.n, found.total, found.least, found.greatest) == (
            len(values),
            sum(values),
            values[0],
            values[-1],
        )
        assert found.at_most[4] == sum(value <= 20 for value in values)
        assert found.quantile(0.5) >= values[len(values) // 2] > found.quantile(0.5) / 3
    assert profile.numbers["input_chars"].greatest == len("Where is my parcel?")
    asked = [row["row"] for row in rows if row["outcome"] == "ok" and row["input_text"]]
    assert len(asked) > SAMPLE - 100
    assert list(profile.sample) == sorted(sorted(asked, key=priority)[:SAMPLE])


def test_profiles_of_two_windows_add_up_to_that_of_both(open_lake: Open, traffic: Settings) -> None:
    lake = open_lake(traffic)
    assert _there(lake, 0, 900) + _there(lake, 900, 1400) == _there(lake, 0, 1400)
    with pytest.raises(ValueError, match="do not follow"):
        _there(lake, 0, 10) + _there(lake, 11, 20)


def test_all_lakes_say_the_same(open_lake: Open, traffic: Settings) -> None:
    lake, known = open_lake(traffic), Lake(traffic)
    assert lake.profile(3, 1250) == known.profile(3, 1250)
    assert lake.labelled(5, 900).equals(known.labelled(5, 900))
    times = [datetime.fromtimestamp(1_700_000_000 + 0.007 * number, UTC) for number in (100, 300)]
    assert lake.between(*times, ["row", "outcome"]).equals(known.between(*times, ["row", "outcome"]))
    assert known.between(*times, ["row"])["row"].to_list() == list(range(100, 300))
    assert lake.sample(0, 1400, [name for name in INFERENCE if name != "request_tags"], 40).equals(
        known.sample(0, 1400, [name for name in INFERENCE if name != "request_tags"], 40)
    )


def test_labels_find_their_rows_by_request_id_else_by_the_newest_with_the_clients_id(
    open_lake: Open, place: Settings
) -> None:
    keep(
        place,
        closed("older", client_request_id="T-1"),
        closed("newer", client_request_id="T-1"),
        closed("direct", client_request_id="T-2"),
        closed("failed", client_request_id="T-1", outcome="error"),
        closed("silent"),
        feedback("f1", client_request_id="T-1", value={"intent": "a"}),
        feedback("f2", request_id="direct", client_request_id="T-1", value={"intent": "b"}),
        feedback("f3", request_id="unknown", client_request_id="T-2", value={"intent": "x"}),
        feedback("f4", client_request_id="T-9", value={"intent": "x"}),
    )
    lake = open_lake(place)
    assert labels(lake) == {"older": None, "newer": '{"intent":"a"}', "direct": '{"intent":"b"}', "silent": None}
    assert labels(lake, 0, 1) == {"older": None}, "a window must not give an older row the label of a newer one"
    assert labels(lake, 2) == {"direct": '{"intent":"b"}', "silent": None}


def test_the_latest_human_label_counts(open_lake: Open, place: Settings) -> None:
    keep(
        place,
        closed("a", client_request_id="T"),
        feedback("f2", request_id="a", at_ms=3000, value={"v": "latest"}),
        feedback("f1", client_request_id="T", at_ms=2000, value={"v": "earlier"}),
        feedback("f3", request_id="a", at_ms=9000, value={"v": "judge"}, source="llm_judge"),
        feedback("f4", request_id="a", at_ms=9000, value={"v": 5}, name="rating"),
    )
    assert labels(open_lake(place)) == {"a": '{"v":"latest"}'}
    keep(place, feedback("f5", client_request_id="T", at_ms=4000, value={"v": "corrected"}))
    lake = open_lake(place)
    assert labels(lake) == {"a": '{"v":"corrected"}'}
    until = datetime.fromtimestamp(3.5, UTC)
    assert lake.labelled(until=until)["label"].to_list() == ['{"v":"latest"}'], "what is said later is not seen"


def test_a_lake_of_an_earlier_release_is_read(open_lake: Open, place: Settings) -> None:
    """Its table ends with output_text: what came later is null in its rows."""
    later = ["cost_nano_usd", "cached_tokens", "cache_write_tokens", "reasoning_tokens"]
    keep(place, closed("old"))
    rows = pl.scan_delta(place.lake / "inference").collect().drop(later)
    shutil.rmtree(place.lake / "inference")
    write_deltalake(place.lake / "inference", rows)
    lake = open_lake(place)
    assert lake.sample(0, 9).select("databricks_request_id", *later).rows() == [("old", None, None, None, None)]
    assert lake.sample(0, 9).schema == INFERENCE


def test_an_encrypted_lake_reads_as_a_plain_one_does_until_a_subject_is_erased(open_lake: Open, tmp_path: Path) -> None:
    places = {name: trimtab_settings.load(tmp_path / name) for name in ("plain", "encrypted")}
    texts = [None, "", "Grüße, 你好 🚢", "Where is my parcel?"]
    rows = [closed(str(n), at_ms=1_700_000_000_000 + n, caller=f"c{n % 3}", input_text=texts[n % 4]) for n in range(24)]
    Subjects(places["encrypted"]).choose(encrypt=True, field="caller")
    for place in places.values():
        keep(place, *rows, feedback("f", request_id="7"))
    stored = pl.scan_delta(places["encrypted"].lake / "inference").collect()["input_text"].drop_nulls()
    assert stored.str.starts_with(MARK).all(), "nothing was encrypted, and nothing is tested"
    known, lake = Lake(places["plain"]), open_lake(places["encrypted"])
    assert lake.profile(0, 24) == known.profile(0, 24)
    assert lake.labelled().equals(known.labelled())
    for columns in (["row", *PAYLOAD], ["output_text"], ["response", "request"]):
        assert lake.sample(0, 24, columns).equals(known.sample(0, 24, columns))
    Subjects(places["encrypted"]).destroy("c1", NOW)
    after = open_lake(places["encrypted"]).sample(0, 24, ["input_text"])["input_text"].to_list()
    assert after == [None if n % 3 == 1 else texts[n % 4] for n in range(24)]


def test_an_encrypted_lake_whose_keys_are_not_here_is_not_shown_as_erased(open_lake: Open, place: Settings) -> None:
    Subjects(place).choose(encrypt=True, field="caller")
    keep(place, closed("a"))
    (place.home / "subjects.db").unlink()
    lake = open_lake(place)
    for made in (False, True):  # no key store at all; one that was made anew and does not know the key
        if made:
            Subjects(place).keys(["somebody else"], NOW)
        for read in (lambda: lake.profile(0, 1), lambda: lake.sample(0, 1), lake.labelled):
            with pytest.raises(Fixable, match="encrypted by subject, and the keys are not here") as refused:
                read()
        assert "subjects.db" in refused.value.fix
    assert lake.count() == 1


def labels(lake: AnyLake, first: int = 0, last: int | None = None) -> dict[str, str | None]:
    found = lake.labelled(first, last)
    assert found["row"].is_sorted()
    return dict(zip(found["databricks_request_id"], found["label"], strict=True))


def _there(lake: AnyLake, first: int, last: int) -> Profile:
    profile = lake.profile(first, last)
    assert profile is not None
    return profile


def _rows(place: Settings) -> list[dict]:
    return pl.scan_delta(Path(place.lake / "inference")).sort("row").collect().to_dicts()
