"""A registered version answers a table's column on Spark as it does when it is loaded directly. Rung 6 of the ladder:
Sail, and Apache Spark in the slow job; not that a cluster has the libraries.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import mlflow
import pytest

from place import make
from trimtab import registry
from trimtab.databricks import batch
from trimtab.errors import Fixable

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves


@pytest.fixture(params=["sail", pytest.param("apache", marks=pytest.mark.slow)])
def spark(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_a_registered_version_answers_a_column(spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, loaded = make(tmp_path)
    version = registry.register_base(settings, loaded)
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    mlflow.set_tracking_uri(settings.mlflow_uri)
    uri = f"models:/desk/{version.version}"
    rows = [(number, f"message {number}") for number in range(20)]
    table = spark.createDataFrame(rows, "id BIGINT, message STRING")
    answered = batch.score(spark, uri, table, column="message", into="answer").orderBy("id").toArrow().to_pylist()
    direct = mlflow.pyfunc.load_model(uri).predict([{"input": text} for _, text in rows])
    gc.collect()  # the engine behind it ends here, not in another test
    assert [row["id"] for row in answered] == list(range(20))
    assert [row["answer"] for row in answered] == list(direct)
    assert all('"intent"' in row["answer"] for row in answered)
    with pytest.raises(Fixable, match="there is no column text"):
        batch.score(spark, uri, table, column="text")
