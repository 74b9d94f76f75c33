"""Batch scoring: a registered version answers a column of a table, on Spark, through `mlflow.pyfunc.spark_udf`.

Every Spark worker loads the model as `mlflow.pyfunc.load_model` does, engine included, so the answers are those of the
served version; a language model is bound by the engine, not by Spark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab import registry
from trimtab.errors import Fixable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def score(
    spark: SparkSession, model_uri: str, texts: DataFrame, column: str = "input", into: str = "output"
) -> DataFrame:
    """The rows of `texts` with the version's answers to `column` in a new column `into`.

    `model_uri`: e.g. models:/catalog.schema.model@champion, or models:/model/3 of the registry that MLflow is set to.
    The model runs in the environment of the workers: Trimtab must be installed there. Raises Fixable for a column that
    is not there.
    """
    if column not in texts.columns:
        raise Fixable(f"there is no column {column}", f"choose one of {', '.join(texts.columns)}")
    return texts.withColumn(into, registry.spark_function(spark, model_uri)(texts[column]))
