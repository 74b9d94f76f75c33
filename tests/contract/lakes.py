"""Opens the tables of a project in Spark, for the contract."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from trimtab.databricks.lake_spark import SparkLake, ddl
from trimtab.settings import Settings
from trimtab.store.lake import FEEDBACK, INFERENCE, AnyLake, open_table
from trimtab.store.subjects import Subjects

Open = Callable[[Settings], AnyLake]

_numbers = itertools.count()


def number() -> int:
    """A number for a name in a catalog that tests share."""
    return next(_numbers)


def on_sail(spark: Any, settings: Settings) -> SparkLake:
    """The project's Delta tables in Sail's catalog."""
    unique, tables = number(), {}
    for name in ("inference", "feedback"):
        tables[name] = f"{name}_{unique}"
        if open_table(settings.lake / name) is not None:
            spark.sql(f"CREATE TABLE {tables[name]} USING delta LOCATION '{settings.lake / name}'").collect()
    return SparkLake(spark, **tables, subjects=Subjects(settings))


def on_apache(spark: Any, settings: Settings) -> SparkLake:
    """The files of the project's Delta tables, of this snapshot."""
    unique, tables = number(), {}
    for name, schema in (("inference", INFERENCE), ("feedback", FEEDBACK)):
        tables[name] = f"{name}_{unique}"
        table = open_table(settings.lake / name)
        if table is not None:
            files(spark, table, ddl(schema)).createOrReplaceTempView(tables[name])
    return SparkLake(spark, **tables, subjects=Subjects(settings))


def files(spark: Any, table: DeltaTable, schema: str) -> Any:
    """The rows of a snapshot, as Parquet: right only for a table that asks nothing more of its readers.

    Deletion vectors would be overlooked, and a folder read whole has the files that were removed.
    """
    assert not table.protocol().reader_features, "Apache Spark without Delta would read this table wrongly"
    return spark.read.schema(schema).parquet(*table.file_uris())


class Vacuuming:
    """A session of Sail that has VACUUM, by delta-rs. `purged`: the statements that Sail was not asked."""

    def __init__(self, spark: Any, folder_of: Callable[[str], Path]) -> None:
        self._spark, self._folder_of, self.purged = spark, folder_of, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spark, name)

    def sql(self, query: str) -> Any:
        verb, *rest = query.split()
        if verb not in ("REORG", "VACUUM"):
            return self._spark.sql(query)
        self.purged.append(query)
        if verb == "VACUUM":
            DeltaTable(self._folder_of(rest[0])).vacuum(0, enforce_retention_duration=False, dry_run=False, full=True)
        return self._spark.sql("SELECT 1")
