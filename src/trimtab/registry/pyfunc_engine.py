"""The engine of an MLflow model: loaded once, in a process of its own, and asked over loopback.

Run: python -m trimtab.registry.pyfunc_engine --model FOLDER; prints {"address": …, "golden": …, "direct": […]}.

Two ways lead to an answer. MLflow's own (`mlflow.pyfunc.scoring_server.invocations`: a DataFrame, the schema enforced,
`predict`) takes everything: each format, each shape, `params`, every mistake. The direct one reads rows of numbers
into an array and calls the scikit-learn estimator on what several requests brought, at about a hundredth of the cost.
A shape takes it only if it gave MLflow's own answer for it when the engine started.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn import config_context

from trimtab import processes
from trimtab.errors import EngineError
from trimtab.providers import scoring
from trimtab.providers.scoring import Answer, Question
from trimtab.registry import batches, mlflow_model
from trimtab.registry.batches import Batches
from trimtab.registry.columns import Column, Reader, TensorReader

GOLDEN_BYTES = 16 * 1024
"""Longest example that is told to the supervisor, which asks it once more."""
FLOAT32 = float(np.finfo(np.float32).max)
_MEDIA = {"json": "application/json", "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}

log = logging.getLogger("trimtab.pyfunc")

Predict = Callable[[np.ndarray], np.ndarray]


class Model:
    """A loaded model. Raises EngineError when it cannot answer the example that it was saved with."""

    def __init__(self, folder: Path) -> None:
        from mlflow import pyfunc

        self._pyfunc = pyfunc.load_model(str(folder))
        self._schema = self._pyfunc.metadata.get_input_schema()
        self._reader: Reader | TensorReader | None = None
        self._predict: Predict | None = None
        self.direct: set[str] = set()
        """Shapes that are read without a DataFrame."""
        self.together = False
        """Whether rows of several requests may be in one call."""
        self._batches: Batches | None = None
        example = folder / "serving_input_example.json"
        self.golden = example.read_bytes() if example.is_file() else None
        self._prove()

    def score(self, questions: list[Question]) -> list[Answer]:
        """Answer everything that came together; `scoring.Score`."""
        answers: list[Answer | None] = [None] * len(questions)
        batch: list[tuple[int, np.ndarray]] = []
        for index, (format_, body) in enumerate(questions):
            rows = self._reader.read(body) if self._reader is not None and format_ == "json" else None
            if rows is not None and rows.shape in self.direct:
                batch.append((index, rows.array))
        for group in [batch] if self.together else [[one] for one in batch]:
            for index, answer in self._directly(group):
                answers[index] = answer
        return [answer or self.by_mlflow(question) for answer, question in zip(answers, questions, strict=True)]

    def score_batch(self, batch: bytes) -> bytes | None:
        """Answer several requests that came as one; `scoring.ScoreBatch`. None: they are to be answered one by one."""
        read = self._batches.read(batch, self.direct) if self._batches is not None and self.together else None
        if read is None or self._batches is None:
            return None
        rows, counts = read
        predicted = self._at_once(rows)
        if predicted is None or len(predicted) != len(rows):
            return None
        answer = self._batches.answer(predicted, counts)
        if answer is None:  # texts, or several numbers for each row
            parts = np.split(predicted, counts.cumsum()[:-1])
            answer = scoring.joined([Answer(200, _told(part.tolist())) for part in parts])
        return answer

    def by_mlflow(self, question: Question) -> Answer:
        """The answer of MLflow's scoring server, errors included, without its stack traces."""
        from mlflow.exceptions import MlflowException
        from mlflow.pyfunc import scoring_server

        try:
            said = scoring_server.invocations(question.body, _MEDIA[question.format], self._pyfunc, self._schema)
        except MlflowException as error:
            trace = str(error.json_kwargs.get("stack_trace") or "").strip()
            cause = f" {trace.splitlines()[-1]}" if trace and "unexpected error" in error.message else ""
            told = {"error_code": error.error_code, "message": error.message + cause}
            return Answer(error.get_http_status_code(), msgspec.json.encode(told))
        except Exception as error:  # the model's answer is no JSON, for example
            log.error("the model failed: %s", traceback.format_exc())
            told = {"error_code": "INTERNAL_ERROR", "message": f"the model failed: {type(error).__name__}: {error}"}
            return Answer(500, msgspec.json.encode(told))
        return Answer(said.status, said.response.encode())

    def _directly(self, batch: list[tuple[int, np.ndarray]]) -> list[tuple[int, Answer]]:
        """One call for all rows of a batch; nothing when it fails, so that MLflow says what is wrong."""
        if not batch:
            return []
        arrays = [array for _, array in batch]
        predicted = self._at_once(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        if predicted is None:
            return []
        listed = predicted.tolist()
        answers, at = [], 0
        for index, array in batch:
            answers.append((index, Answer(200, _told(listed[at : at + len(array)]))))
            at += len(array)
        return answers

    def _at_once(self, rows: np.ndarray) -> np.ndarray | None:
        """What the model says of all rows in one call; None when it fails."""
        if self._predict is None:
            return None
        try:
            # JSON has finite numbers only; what an estimator may round to 32 bits must be finite there, too.
            known = bool(np.abs(rows).max() < FLOAT32)
            with config_context(assume_finite=known, skip_parameter_validation=True):  # four tenths of a call
                return self._predict(rows)
        except Exception:
            return None

    def _prove(self) -> None:
        """Ask the model its own example, and find the shapes that may go the direct way."""
        if self.golden is not None:
            answer = self.by_mlflow(Question("json", self.golden))
            if answer.status != 200:
                raise EngineError(f"the model does not answer its own example: {answer.body.decode()[:500]}")
        found = _estimator(self._pyfunc)
        if found is None:
            return
        self._reader, self._predict = found
        if self._reader.dtype == np.float64 and self._reader.alike:
            self._batches = batches.load(self._reader.names, self._reader.width)
        rows = self._reader.read(self.golden) if self.golden is not None else None
        array = rows.array if rows is not None else _made_up(self._reader)
        for shape, body in self._reader.write(array).items():
            mine, its = self._alone(body), self.by_mlflow(Question("json", body))
            if mine is not None and its.status == 200 and _same(mine, its.body):
                self.direct.add(shape)
        single = [self._alone(self._reader.write(array[i : i + 1])["inputs"]) for i in range(len(array))]
        whole = self._alone(self._reader.write(array)["inputs"])
        parts = [json.loads(one)["predictions"] for one in single if one is not None]
        if whole is not None and len(parts) == len(array):
            self.together = _same(whole, _told([part for one in parts for part in one]))

    def _alone(self, body: bytes) -> bytes | None:
        """The direct answer to one body, if there is one."""
        rows = self._reader.read(body) if self._reader is not None else None
        answers = self._directly([(0, rows.array)]) if rows is not None else []
        return answers[0][1].body if answers else None


def _estimator(model: Any) -> tuple[Reader | TensorReader, Predict] | None:
    """How to read rows for the scikit-learn estimator inside, and how to ask it; None for any other model."""
    flavor = model.metadata.flavors.get("python_function", {})
    if flavor.get("loader_module") != "mlflow.sklearn" or model.metadata.get_input_schema() is None:
        return None
    estimator = model.get_raw_model()
    predict: Any = getattr(estimator, flavor.get("predict_fn", "predict"), None)
    schema = model.metadata.get_input_schema()
    try:
        if schema.is_tensor_spec():
            (tensor,) = schema.inputs
            if tensor.name is not None:
                return None
            return TensorReader(tensor.type, tuple(tensor.shape)), predict
        columns = [Column(str(column.name), column.type.name) for column in schema.inputs]
        fitted = getattr(estimator, "feature_names_in_", None)
        required = all(column.required for column in schema.inputs) and schema.has_input_names()
        if not required or (fitted is not None and list(fitted) != [column.name for column in columns]):
            return None
        return Reader(columns), predict
    except (ValueError, AttributeError):
        return None


def _made_up(reader: Reader | TensorReader) -> np.ndarray:
    """A few rows for a model that came without an example."""
    return (np.arange(3 * reader.width) % 7).reshape(3, reader.width)


def _told(predictions: list[Any]) -> bytes:
    return msgspec.json.encode({"predictions": predictions})


def _same(one: bytes, other: bytes) -> bool:
    """Whether two answers are equal, numbers up to what the order of additions changes."""
    mine, its = (json.loads(body)["predictions"] for body in (one, other))
    if mine == its:
        return True
    try:
        return np.allclose(np.asarray(mine, float), np.asarray(its, float), rtol=1e-9, atol=1e-12, equal_nan=True)
    except (ValueError, TypeError):
        return False


def main() -> None:
    """Entry point of the engine process."""
    processes.exit_with_parent()
    parser = argparse.ArgumentParser(prog="python -m trimtab.registry.pyfunc_engine", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of an MLflow model")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if mlflow_model.harmless(options.model):  # what we did not see, MLflow need not open either
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    warnings.filterwarnings("ignore")
    try:
        model = Model(options.model)
    except Exception as error:
        log.error("%s", traceback.format_exc())
        sys.exit(f"{type(error).__name__}: {error}")
    log.warning("direct: %s, in one call: %s", sorted(model.direct) or "nothing", model.together)
    golden = json.loads(model.golden) if model.golden and len(model.golden) <= GOLDEN_BYTES else None
    gc.collect()
    gc.freeze()
    scoring.serve(model.score, options.port, {"golden": golden, "direct": sorted(model.direct)}, model.score_batch)


if __name__ == "__main__":
    main()
