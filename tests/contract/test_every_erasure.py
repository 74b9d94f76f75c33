"""What an erasure asks of the tables, asked of both lakes: the same rows are emptied, and their files are gone. Rung 6.

Sail rewrites the tables. It knows neither REORG nor VACUUM: those two statements are checked, and delta-rs does the
second one, so that what is left on the disk is what Delta leaves.
"""

from __future__ import annotations

import polars as pl
import pytest

from contract.lakes import Vacuuming, on_sail
from contract.test_every_lake import keep
from store.journal_writer import closed, feedback
from trimtab.settings import Settings
from trimtab.store.erasing import Here, Tables


@pytest.mark.parametrize("where", ["delta-rs", "sail"])
def test_both_lakes_erase_the_same_and_leave_no_file_with_it(
    where: str, place: Settings, request: pytest.FixtureRequest
) -> None:
    asked = [closed(str(n), caller=("alice", "bob")[n % 2], input_text=f"SECRET-{n % 2} {n}") for n in range(6)]
    keep(place, *asked, feedback("f", request_id="2"), feedback("g", request_id="3"))
    spark = (
        Vacuuming(request.getfixturevalue("sail"), lambda table: place.lake / table.rpartition("_")[0])
        if where == "sail"
        else None
    )
    tables: Tables = Here(place) if spark is None else on_sail(spark, place)
    rows = tables.rows_of("caller", {"alice"})
    assert rows["row"].to_list() == [0, 2, 4]
    assert tables.row_of("4")["row"].to_list() == [4]
    assert not len(tables.row_of("nobody's"))
    said = tables.feedback_about(set(rows["databricks_request_id"]), set())
    assert said == ["f"]
    tables.delete_feedback(said)
    tables.erase_rows(rows)

    left = pl.scan_delta(str(place.lake / "inference")).sort("row").collect()
    stubs = left.filter(pl.col("row") % 2 == 0)
    assert len(left) == 6
    assert stubs.select("request", "response", "input_text", "output_text", "requester").null_count().row(0) == (3,) * 5
    assert stubs["databricks_request_id"].to_list() == ["0", "2", "4"]
    assert "alice" not in str([dict(tags) for tags in stubs["request_tags"]])
    assert left.filter(pl.col("row") % 2 == 1)["input_text"].to_list() == [f"SECRET-1 {n}" for n in (1, 3, 5)]
    files = pl.concat([pl.read_parquet(file) for file in sorted(place.lake.glob("inference/**/*.parquet"))])
    assert not files["input_text"].str.contains("SECRET-0").any(), "an older file still holds it"
    assert pl.scan_delta(str(place.lake / "feedback")).collect()["feedback_id"].to_list() == ["g"]
    assert not len(tables.rows_of("caller", {"alice"})), "a second run finds nothing"
    if spark is not None:
        verbs = [statement.split()[0] for statement in spark.purged]
        assert verbs == ["REORG", "VACUUM", "REORG", "VACUUM"], (
            "a deletion vector would leave what it hides in its file"
        )
