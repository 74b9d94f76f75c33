"""The implementations of the lake, each as a function that opens the tables of a project.

- `delta-rs`: the lake of a laptop.
- `sail`: Sail 0.7, a Spark Connect server in Rust that reads and writes Delta. Always.
- `apache`: Apache Spark 4.2 on Java, without the Delta JARs: it reads the files of a Delta snapshot. Marked slow, and
  only where `pyspark` is installed in place of `pyspark-client`.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.lakes import Open, on_apache, on_sail
from trimtab import settings as trimtab_settings
from trimtab.databricks.lake_spark import session
from trimtab.settings import Settings
from trimtab.store.lake import Lake


@pytest.fixture(scope="session")
def sail() -> Iterator[Any]:
    """A session of Sail."""
    pysail = pytest.importorskip("pysail.spark", reason="pysail is not installed here: pip install pysail")
    with pytest.MonkeyPatch.context() as environment:  # a catalog of the name that trimtab.yaml has in these tests
        environment.setenv("SAIL_CATALOG__LIST", '[{name="ml", type="memory", initial_database=["default"]}]')
        environment.setenv("SAIL_CATALOG__DEFAULT_CATALOG", "ml")
        server = pysail.SparkConnectServer("127.0.0.1", 0)
        server.start(background=True)
    spark = session(f"sc://127.0.0.1:{server.listening_address[1]}")
    yield spark
    spark.stop()
    server.stop()


@pytest.fixture(scope="session")
def apache() -> Iterator[Any]:
    """A session of Apache Spark, over Spark Connect."""
    if importlib.util.find_spec("pyspark.jars") is None or shutil.which("java") is None:
        pytest.skip("Apache Spark is not installed here: pip install pyspark, in place of pyspark-client, and Java 17")
    spark = session("local[2]")
    yield spark
    spark.stop()


@pytest.fixture(params=["delta-rs", "sail", pytest.param("apache", marks=pytest.mark.slow)])
def open_lake(request: pytest.FixtureRequest) -> Open:
    """One implementation of the lake."""
    if request.param == "delta-rs":
        return Lake
    spark = request.getfixturevalue(request.param)
    on = on_sail if request.param == "sail" else on_apache
    return lambda settings: on(spark, settings)


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    """An empty project."""
    return trimtab_settings.load(tmp_path)
