"""The MLflow model, as models-from-code: loaded by plain `mlflow.pyfunc.load_model`, served by `mlflow models serve`.

One string column `input` in, one string per row out. The version's specification is the model's configuration; the
adapter is an artifact; the base weights are found by SHA-256 in the blob store (TRIMTAB_BLOBS), or are an artifact too
where the model must stand alone (Unity Catalog).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from trimtab import settings
from trimtab.providers import ask, engine
from trimtab.records.project import LocalTarget
from trimtab.records.registry import VersionSpec
from trimtab.store import blobs


class ServedVersion(PythonModel):
    """One version on an engine of its own, which ends with this process."""

    def load_context(self, context: Any) -> None:
        """Check the weights and start the engine. Raises EngineError, Fixable or Corrupt.

        A hosted version is asked at its provider; openai is known, the address of another stands in no model: Fixable.
        """
        self.spec = VersionSpec.model_validate_json(context.model_config["spec"])
        where = settings.load()
        if adapter := context.artifacts.get("adapter"):
            blobs.put(where.blobs, Path(adapter), self.spec.adapter_sha256)
        if base := context.artifacts.get("base"):
            blobs.put(where.blobs, Path(base), self.spec.base.sha256)
        self.target = LocalTarget()
        log = Path(tempfile.mkdtemp(prefix="trimtab-engine-")) / "engine.log"
        self.engine = engine.start(where, self.spec, log, self.target)

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """The answers, one per row of column `input`. `params` may override decoding, e.g. {"max_tokens": 8}."""
        template = {**self.engine.template, "params": self.engine.template["params"] | (params or {})}
        texts = [str(text) for text in model_input["input"]]
        replies = ask.ask(self.engine.upstream, template, texts, parallel=self.target.parallel)
        return [reply.text for reply in replies]


set_model(ServedVersion())
