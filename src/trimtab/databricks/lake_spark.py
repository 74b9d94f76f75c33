"""The lake on Spark: what `store.lake.Lake` answers from delta-rs and Polars, answered from tables of a catalog.

`store.lake.AnyLake` says what each method promises; tests/contract asks both the same. Aggregates are computed where
the rows are; what comes back is a profile, a sample or the labelled rows, as Polars frames. Only here, and in the job
that scores a table (`batch`), is pyspark imported.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING, Any

import polars as pl

from trimtab.errors import Fixable
from trimtab.records.monitor import BOUNDS, PRIME, SAMPLE, Numbers, Profile, Window
from trimtab.store.envelope import MARK
from trimtab.store.erasing import AT_ONCE, IDENTITY, among
from trimtab.store.lake import (
    COUNTED,
    FEEDBACK,
    INFERENCE,
    LABELLED,
    MEASURED,
    PAYLOAD,
    PROFILED,
    beside,
    counted,
    draw,
    plain,
    profile_of,
)
from trimtab.store.subjects import Subjects

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TYPES = {
    pl.String: "STRING",
    pl.Date: "DATE",
    pl.Int32: "INT",
    pl.Int64: "BIGINT",
    pl.Float64: "DOUBLE",
    pl.Datetime: "TIMESTAMP",
    pl.Map: "MAP<STRING, STRING>",
}
_PRIORITY = (
    f"(mod(x * x, {PRIME}) * mod(x * x, {PRIME})) % {PRIME} * x % {PRIME}",
    f"mod(mod(row, {PRIME}) * 48271 + 11, {PRIME})",
)


def session(remote: str | None = None) -> SparkSession:
    """The session of this job or notebook; with `remote`, one of that Spark Connect server (sc://HOST:PORT).

    Python on the workers is the one that runs here, unless PYSPARK_PYTHON names another: Spark's own default is the
    first `python3` on the PATH, in which a virtual environment's packages are missing. Raises Fixable when pyspark is
    not installed.
    """
    with warnings.catch_warnings():
        # pyspark 4.2 says so of pandas 3 on import; what Trimtab asks of it goes through Arrow, not through pandas.
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        try:
            from pyspark.sql import SparkSession
        except ImportError:
            fix = "run it in a Databricks job or notebook, or pip install pyspark-client"
            raise Fixable("pyspark is not installed here", fix) from None
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder: Any = SparkSession.builder
        return (builder.remote(remote) if remote else builder).getOrCreate()


def ddl(schema: pl.Schema) -> str:
    """The columns of a table as Spark SQL: `row BIGINT, …`."""
    return ", ".join(f"{name} {sql_type(kind)}" for name, kind in schema.items())


def sql_type(kind: pl.DataType) -> str:
    """A column's type as Spark SQL writes it."""
    if isinstance(kind, pl.List):
        return f"ARRAY<{sql_type(kind.inner)}>"  # pyright: ignore[reportArgumentType] (an instance: the schema's are)
    if isinstance(kind, pl.Struct):
        return f"STRUCT<{', '.join(f'{part.name}: {sql_type(part.dtype)}' for part in kind.fields)}>"  # pyright: ignore[reportArgumentType]
    return _TYPES[kind.base_type()]


class SparkLake:
    """The lake of one project, read by Spark from the tables `<schema>.inference` and `<schema>.feedback`.

    Payloads that are encrypted are decrypted here, where the subjects' keys are, and never on Spark's workers.
    """

    def __init__(self, spark: SparkSession, inference: str, feedback: str, subjects: Subjects) -> None:
        self._spark, self._inference, self._feedback, self._subjects = spark, inference, feedback, subjects

    def count(self) -> int:
        """How many inference rows there are."""
        last = _one(self._read(self._inference, INFERENCE).selectExpr("max(row) AS last"))["last"]
        return 0 if last is None else int(last) + 1

    def rows(self, numbers: Iterable[int], columns: list[str] | None = None) -> pl.DataFrame:
        """The inference rows with these numbers."""
        from pyspark.sql import functions as f

        wanted = sorted(set(numbers))
        window = self._window(wanted[0], wanted[-1] + 1) if wanted else self._window(0, 0)
        return self._collected(window.filter(f.col("row").isin(wanted)), columns)

    def sample(
        self, first: int, last: int, columns: list[str] | None = None, n: int | None = None, seed: int = 0
    ) -> pl.DataFrame:
        """Inference rows with first <= row < last, or `n` of them."""
        drawn = None if n is None else draw(first, last, self.count(), n, seed)
        return self._collected(self._window(first, last), columns) if drawn is None else self.rows(drawn, columns)

    def between(self, start: datetime, end: datetime, columns: list[str]) -> pl.DataFrame:
        """Inference rows asked from `start` until before `end`."""
        from pyspark.sql import functions as f

        time = f.col("request_time")
        asked = self._read(self._inference, INFERENCE).filter((time >= f.lit(start)) & (time < f.lit(end)))
        return self._collected(asked, columns)

    def profile(self, first: int, last: int) -> Profile | None:
        """The rows with first <= row < last in numbers."""
        window = self._window(first, last).selectExpr("*", "char_length(input_text) AS input_chars")
        measures = [f"{what} AS {name}_{n}" for name in MEASURED for n, what in enumerate(_measures(name))]
        encrypted = f"count_if(startswith(input_text, '{MARK}')) AS encrypted"
        about = ("min(request_time) AS start", "max(request_time) AS end", encrypted)
        numbers = _one(window.selectExpr(*about, *measures))
        if numbers["start"] is None:
            return None
        if numbers["encrypted"]:  # how long such a text is, and whether there is any, only its key tells
            return profile_of(self._collected(self._window(first, last), list(PROFILED)), first, last)
        asked = window.filter("outcome = 'ok' AND input_text <> ''").selectExpr("row", f"{_PRIORITY[1]} AS x")
        sample = asked.selectExpr("row", f"{_PRIORITY[0]} AS priority").orderBy("priority").limit(SAMPLE)
        return Profile(
            window=Window(first=first, last=last, start=numbers["start"], end=numbers["end"]),
            numbers={name: found for name in MEASURED if (found := _numbers(numbers, name)) is not None},
            counts=_counts(window),
            sample=tuple(sorted(_frame(sample)["row"])),
        )

    def labelled(self, first: int = 0, last: int | None = None, until: datetime | None = None) -> pl.DataFrame:
        """Answered rows with first <= row < last and their labels."""
        from pyspark.sql import functions as f

        said = self._read(self._feedback, FEEDBACK).filter("name = 'label' AND source = 'human'")
        if until is not None:
            said = said.filter(f.col("at") <= f.lit(until))
        labels = said.selectExpr("request_id", "client_request_id", "at", "feedback_id", "value AS label")
        answered = self._read(self._inference, INFERENCE).filter("outcome = 'ok'")

        direct = labels.join(answered.selectExpr("row", "databricks_request_id AS request_id"), "request_id")
        newest = answered.groupBy("client_request_id").agg(f.max("row").alias("row"))
        by_client = labels.filter("request_id IS NULL").join(newest, "client_request_id")

        found = ["row", "at", "feedback_id", "label"]
        each = direct.select(*found).unionByName(by_client.select(*found))
        latest = each.groupBy("row").agg(f.expr("max_by(label, struct(at, feedback_id))").alias("label"))
        window = answered.filter(f.col("row") >= first)
        if last is not None:
            window = window.filter(f.col("row") < last)
        joined = window.join(latest, "row", "left").orderBy("row").select(*LABELLED)
        return plain(_frame(joined), self._subjects).cast({name: INFERENCE.get(name, pl.String()) for name in LABELLED})

    def append(self, arrived: str, versions: Mapping[str, str] | None = None) -> int:
        """Number the rows of the view `arrived` that are not here yet, and add them; how many there were.

        `versions`: what a model version of the view is called here, where that differs.

        A row is known by its databricks_request_id. Insertion is a MERGE, which two jobs cannot both commit over the
        same table version: the second one fails, and finds nothing left to do when it is run again.
        """
        for table, schema in ((self._inference, INFERENCE), (self._feedback, FEEDBACK)):
            self._spark.sql(f"CREATE TABLE IF NOT EXISTS {table} ({ddl(schema)}) USING DELTA").collect()
        before = self.count()
        renamed = "".join(f" WHEN '{int(there)}' THEN '{int(here)}'" for there, here in (versions or {}).items())
        version = f"CASE model_version{renamed} ELSE model_version END AS model_version" if renamed else "model_version"
        changed = {"model_version": version} | {name: _as_text(name) for name in PAYLOAD}
        columns = ", ".join(changed.get(name, name) for name in INFERENCE if name != "row")
        numbered = f"""
            SELECT {columns}, {before} - 1 + row_number() OVER (ORDER BY request_time, databricks_request_id) AS row
            FROM {arrived} AS new
            WHERE NOT EXISTS (SELECT 1 FROM {self._inference} AS old
                              WHERE old.databricks_request_id = new.databricks_request_id)"""
        names = ", ".join(INFERENCE)
        values = ", ".join("CAST(new.row AS BIGINT)" if name == "row" else f"new.{name}" for name in INFERENCE)
        self._spark.sql(f"""
            MERGE INTO {self._inference} AS known USING ({numbered}) AS new
            ON known.databricks_request_id = new.databricks_request_id
            WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})""").collect()
        return self.count() - before

    def rows_of(self, field: str, subjects: Collection[str]) -> pl.DataFrame:
        """The inference rows of some subjects, as they are stored."""
        from pyspark.sql import functions as f

        whose = f.col("request_tags")["caller"] if field == "caller" else f.col(field)
        found = self._read(self._inference, INFERENCE).filter(whose.isin([name for name in subjects if name]))
        return self._stored(found)

    def row_of(self, request: str) -> pl.DataFrame:
        """The inference row of a request, by its id or else by its client's own, as it is stored."""
        from pyspark.sql import functions as f

        ours, theirs = f.col("databricks_request_id") == request, f.col("client_request_id") == request
        found = self._stored(self._read(self._inference, INFERENCE).filter(ours | theirs))
        mine = found.filter(pl.col("databricks_request_id") == request)
        return (mine if len(mine) else found).tail(1)

    def feedback_about(self, request_ids: Collection[str], client_request_ids: Collection[str]) -> list[str]:
        """Ids of the feedback on these requests."""
        from pyspark.sql import functions as f

        ours = f.col("request_id").isin(list(request_ids))
        theirs = f.col("request_id").isNull() & f.col("client_request_id").isin(list(client_request_ids))
        return _frame(self._read(self._feedback, FEEDBACK).filter(ours | theirs))["feedback_id"].to_list()

    def erase_rows(self, rows: pl.DataFrame) -> None:
        """Erase the payload of these rows and who asked, and purge the table. Their metadata stays."""
        if not len(rows):
            return
        gone = ", ".join(f"{name} = NULL" for name in (*PAYLOAD, *IDENTITY))
        tags = "request_tags = map('path', coalesce(request_tags['path'], ''))"
        for start in range(0, len(rows), AT_ONCE):
            numbers = among(rows["row"].slice(start, AT_ONCE).to_list())
            self._spark.sql(f"UPDATE {self._inference} SET {gone}, {tags} WHERE {numbers}").collect()
        self._purge(self._inference)

    def delete_feedback(self, feedback_ids: Sequence[str]) -> None:
        """Delete pieces of feedback, and purge the table. The statement names none: it stays in the table's log."""
        if not feedback_ids:
            return
        gone = self._spark.createDataFrame([(name,) for name in feedback_ids], "feedback_id STRING")
        gone.createOrReplaceTempView("trimtab_gone")
        self._spark.sql(f"""
            MERGE INTO {self._feedback} AS known USING trimtab_gone AS gone ON known.feedback_id = gone.feedback_id
            WHEN MATCHED THEN DELETE""").collect()
        self._purge(self._feedback)

    def _purge(self, table: str) -> None:
        """Leave no file behind that holds what was erased: neither under a deletion vector nor for time travel.

        Source: docs.databricks.com, "Prepare your data for GDPR compliance": REORG … APPLY (PURGE), then VACUUM.
        """
        kept = "delta.deletedFileRetentionDuration"
        self._spark.sql(f"REORG TABLE {table} APPLY (PURGE)").collect()
        self._spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('{kept}' = 'interval 0 hours')").collect()
        try:
            self._spark.sql(f"VACUUM {table}").collect()
        finally:
            self._spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('{kept}' = 'interval 7 days')").collect()

    def _stored(self, frame: DataFrame) -> pl.DataFrame:
        return _frame(frame.orderBy("row").select(*INFERENCE)).cast(INFERENCE)

    def _collected(self, frame: DataFrame, columns: list[str] | None) -> pl.DataFrame:
        wanted = list(INFERENCE) if columns is None else columns
        more = beside(wanted)
        found = _frame(frame.orderBy("row").select(*wanted, *more))
        return plain(found, self._subjects).drop(more).cast({name: INFERENCE[name] for name in wanted})

    def _window(self, first: int, last: int) -> DataFrame:
        return self._read(self._inference, INFERENCE).filter(f"row >= {first} AND row < {last}")

    def _read(self, table: str, schema: pl.Schema) -> DataFrame:
        """The table with every column of the schema: what a table of an earlier release lacks is null."""
        if not self._spark.catalog.tableExists(table):
            return self._spark.createDataFrame([], ddl(schema))
        found = self._spark.read.table(table)
        return found.selectExpr(
            *(
                name if name in found.columns else f"CAST(NULL AS {sql_type(kind)}) AS {name}"
                for name, kind in schema.items()
            )
        )


def _as_text(name: str) -> str:
    """A payload of the endpoint's, where nothing is encrypted: what only looks so gets a space before it."""
    return f"CASE WHEN startswith({name}, '{MARK}') THEN concat(' ', {name}) ELSE {name} END AS {name}"


def _measures(name: str) -> list[str]:
    """The aggregates behind `Numbers` of a column, in the order that `_numbers` reads."""
    bounds = [f"count_if({name} <= {bound})" for bound in BOUNDS]
    return [f"count({name})", f"CAST(sum({name}) AS BIGINT)", f"min({name})", f"max({name})", *bounds]


def _numbers(row: dict[str, Any], name: str) -> Numbers | None:
    n, total, least, greatest, *at_most = (row[f"{name}_{place}"] for place in range(4 + len(BOUNDS)))
    return Numbers(n=n, total=total, least=least, greatest=greatest, at_most=tuple(at_most)) if n else None


def _counts(window: DataFrame) -> dict[str, dict[str, int]]:
    each = [
        window.groupBy(name).count().selectExpr(f"'{name}' AS name", f"CAST({name} AS STRING) AS value", "count")
        for name in COUNTED
    ]
    found = _frame(reduce(lambda some, more: some.unionByName(more), each))
    return {name: counted(found.filter(pl.col("name") == name).select("value", "count").rows()) for name in COUNTED}


def _frame(frame: DataFrame) -> pl.DataFrame:
    found = pl.from_arrow(frame.toArrow())
    assert isinstance(found, pl.DataFrame)  # noqa: S101 (a table becomes a frame)
    return found


def _one(frame: DataFrame) -> dict[str, Any]:
    return _frame(frame).row(0, named=True)
