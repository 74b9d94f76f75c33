"""A scikit-learn model of the project's MLflow registry, served: its own answers, hot swaps, and who is not let in."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import place
import plain_http
from running import MODEL, Desk, desk, kill, until
from trimtab import registry
from trimtab.cli import app
from trimtab.errors import Fixable, Unproved
from trimtab.gateway import fast_path
from trimtab.project import load
from trimtab.promotion import apply
from trimtab.records.registry import AliasMove, VersionSpec
from trimtab.registry import mlflow_model
from trimtab.store.control import Control

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves
FILE = f"name: {MODEL}\nmodel: {{base: 'pyfunc:models:/iris@best'}}\ntask: {{kind: scoring}}\n"
COLUMNS = ["length", "width"]
X = pd.DataFrame(np.random.default_rng(7).normal(size=(60, 2)), columns=COLUMNS)
SPECIES = np.where(X["length"] + X["width"] > 0, "setosa", "virginica")
CLASSIFIER = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, SPECIES)
REGRESSOR = LinearRegression().fit(X, 2 * X["length"] - X["width"])


def log_model(settings: Any, model: Any, alias: str) -> None:
    """Register a model as a data scientist does."""
    mlflow.set_tracking_uri(settings.mlflow_uri)
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name("research")
    where = (settings.home / "research").as_uri()
    research = found.experiment_id if found else client.create_experiment("research", artifact_location=where)
    with mlflow.start_run(experiment_id=research):
        signature = infer_signature(X, model.predict(X))
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature,
            input_example=X.head(2),
            registered_model_name="iris",
            pip_requirements=["scikit-learn"],  # or MLflow finds them out by loading the model once more
        )
    client.set_registered_model_alias("iris", alias, str(info.registered_model_version))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("rows")
    settings = place.settings.load(folder)
    settings.home.mkdir(parents=True)
    with patch.dict(os.environ):  # MLflow writes the address it is told there, for every later test
        log_model(settings, CLASSIFIER, "best")
        with desk(folder, FILE, ask={"input": {"length": 0.0, "width": 0.0}}) as running:
            yield running


def post(served: Desk, body: Any = None, path: str = "/invocations", **more: Any) -> httpx.Response:
    more = {"json": body} if body is not None else more
    return plain_http.post(f"{served.url}{path}", timeout=60, **more)


def test_every_shape_and_format_gets_the_models_own_answers(served: Desk) -> None:
    rows = X.head(5)
    expected = list(CLASSIFIER.predict(rows))
    data, records = rows.to_numpy().tolist(), rows.to_dict(orient="records")
    for body in (
        {"dataframe_split": {"columns": COLUMNS, "data": data}},
        {"dataframe_split": {"columns": COLUMNS[::-1], "data": [row[::-1] for row in data]}},
        {"dataframe_records": records, "params": {"unknown": 1}},
        {"dataframe_records": [row | {"more": "ignored"} for row in records]},
        {"inputs": records},
        {"inputs": rows.to_dict(orient="list")},
        {"instances": records},
    ):
        assert post(served, body).json() == {"predictions": expected}, body
    csv = post(served, content=rows.to_csv(index=False).encode(), headers={"content-type": "text/csv"})
    file = io.BytesIO()
    rows.to_parquet(file)
    parquet = post(served, content=file.getvalue(), headers={"content-type": "application/vnd.apache.parquet"})
    assert csv.json() == parquet.json() == {"predictions": expected}
    one = post(served, {"input": records[0]}, "/predict").json()
    assert (one["output"], one["version"]) == (expected[0], 1)


@pytest.mark.parametrize(
    "body", [{"inputs": [["x", 1]]}, {"dataframe_records": [{"length": 1.0}]}, {}, {"dataframe_records": 3}]
)
def test_what_does_not_fit_the_signature_is_mlflows_400(served: Desk, body: Any) -> None:
    answer = post(served, body)
    assert answer.status_code == 400
    assert answer.json().keys() >= {"error_code", "message"}
    assert "Traceback" not in answer.text


def test_the_version_has_lineage_and_any_mlflow_tool_loads_it(served: Desk) -> None:
    (version,) = [v for v in served.control.facts("version", registry.ModelVersion, f"{MODEL}/") if v.version == 1]
    assert (version.spec.base.name, version.spec.base.format) == ("pyfunc:models:/iris/1", "pyfunc")
    mlflow.set_tracking_uri(served.settings.mlflow_uri)
    tags = mlflow.MlflowClient().get_model_version(MODEL, "1").tags
    assert tags["trimtab.base"] == "pyfunc:models:/iris/1"
    assert tags["trimtab.base_sha256"] == version.spec.base.sha256
    again = mlflow.pyfunc.load_model(f"models:/{MODEL}/1").predict(X.head(3))
    assert list(again) == list(CLASSIFIER.predict(X.head(3)))
    assert registry.register_base(served.settings, served.loaded).version == 1


def test_no_promotion_by_hand_passes_a_clause_that_blocks(served: Desk, tmp_path: Path) -> None:
    (tmp_path / "trimtab.yaml").write_text(FILE + "guidelines: guidelines.yaml\n")
    (tmp_path / "guidelines.yaml").write_text(
        "system: rows\nowner: o@example.org\nintended_use: {purpose: Sorts.}\nclauses:\n"
        "- {id: LAT-01, text: Quick enough., check: latency}\n"
    )
    control, first = Control(place.settings.load(tmp_path)), registry.get(served.control, MODEL, 1)
    for number in (1, 2):
        control.put("version", f"{MODEL}/{number}", first.model_copy(update={"version": number}))
    control.move([served.control.facts("alias_move", AliasMove)[0]])
    refused = CliRunner().invoke(app, ["promote", "2", "--project", str(tmp_path)])
    assert isinstance(refused.exception, Unproved), refused.output
    assert "Promote?" not in refused.output  # nobody is asked what cannot be done
    serving = CliRunner().invoke(app, ["promote", "1", "--project", str(tmp_path)])
    assert "the champion of" in str(serving.exception)
    assert "Promote?" not in serving.output
    assert "LAT-01 is INSUFFICIENT" in str(refused.exception)
    assert (control.alias(MODEL, "champion"), control.audit_entries()[-1].kind) == (1, "compliance")


def test_flips_and_a_killed_engine_under_load_fail_nobody_and_a_broken_model_never_serves(served: Desk) -> None:
    log_model(served.settings, REGRESSOR, "better")
    base = registry.base_weights(served.settings, served.loaded.project, "pyfunc:models:/iris@better")
    first = registry.get(served.control, MODEL, 1)
    second = served.register(first.spec.model_copy(update={"base": base})).version
    broken = served.register(broken_spec(served, first.spec)).version
    told: list[tuple[int, str, Any]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            while not stop.wait(0.02):
                answer = client.post("/invocations", json={"inputs": [{"length": 1.0, "width": 1.0}]})
                told.append((answer.status_code, answer.headers.get("x-trimtab-version", ""), answer.json()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        promoted = CliRunner().invoke(app, ["promote", str(second), "--project", str(served.settings.root), "--yes"])
        assert promoted.exit_code == 0, promoted.output
        until(lambda: told and told[-1][1] == f"{MODEL}/{second}")
        served.move(second, broken)
        until(lambda: served.state(broken) == "failed")
        served.move(broken, second)
        until(lambda: len(engines(served)) == 1)  # the first version's is drained and stopped
        (victim,) = map(psutil.Process, engines(served))
        kill(victim)
        until(lambda: engines(served) - {victim.pid})
        served.move(second, 1)
        until(lambda: told[-1][1] == f"{MODEL}/1")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    counted = served.http.get(f"{served.url}/metrics").text
    assert "trimtab_fast_path_requests_total" in counted or not fast_path.LIBRARY.exists()
    right = {f"{MODEL}/1": ["setosa"], f"{MODEL}/{second}": [pytest.approx(1.0)]}
    assert [one for one in told if one[0] != 200 or one[2] != {"predictions": right.get(one[1])}] == []


def broken_spec(served: Desk, spec: VersionSpec) -> VersionSpec:
    """A version whose model is damaged: it has a file of another model."""
    folder = served.settings.root / "broken"
    signature = infer_signature(X, REGRESSOR.predict(X))
    mlflow.sklearn.save_model(REGRESSOR, str(folder), signature=signature, pip_requirements=["scikit-learn"])
    (folder / "model.skops").write_bytes(b"not a model")
    client: Any = None
    base = mlflow_model.take_in(client, served.settings.blobs, served.settings.root, "pyfunc:broken", False)
    return spec.model_copy(update={"base": base})


def engines(served: Desk) -> set[int]:
    children = psutil.Process(served.up.pid).children()
    found: set[int] = set()
    for one in children:
        with suppress(psutil.Error):  # it may end at any moment
            if "trimtab.registry.pyfunc_engine" in one.cmdline():
                found.add(one.pid)
    return found


def test_a_language_model_is_not_promoted_past_its_gates(tmp_path: Path) -> None:
    settings, loaded = place.make(tmp_path)
    version = registry.register_base(settings, loaded).version
    with pytest.raises(Fixable, match="gates decide"):
        apply.appointment(Control(settings), MODEL, version, actor="test", reason="in a hurry")


def test_a_pickle_from_outside_the_registry_is_refused_unless_the_file_allows_it(tmp_path: Path) -> None:
    settings, _ = place.make(tmp_path)
    signature = infer_signature(X, REGRESSOR.predict(X))
    mlflow.sklearn.save_model(
        REGRESSOR,
        str(tmp_path / "pickled"),
        signature=signature,
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )
    (tmp_path / "trimtab.yaml").write_text(
        f"name: {MODEL}\nmodel: {{base: 'pyfunc:pickled'}}\ntask: {{kind: scoring}}\n"
    )
    with pytest.raises(Fixable, match="holds a pickle") as refused:
        registry.base_weights(settings, load(tmp_path).project, "pyfunc:pickled")
    assert "allow_pickle" in refused.value.fix
    text = (tmp_path / "trimtab.yaml").read_text().replace("'pyfunc:pickled'", "'pyfunc:pickled', allow_pickle: true")
    (tmp_path / "trimtab.yaml").write_text(text)
    weights = registry.base_weights(settings, load(tmp_path).project, "pyfunc:pickled")
    assert weights == registry.base_weights(settings, load(tmp_path).project, "pyfunc:pickled")


def test_a_pickle_is_found_by_its_name_its_bytes_or_what_mlmodel_says(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {}}")
    assert mlflow_model.pickles(tmp_path) == []
    (tmp_path / "data.bin").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "model.joblib").write_bytes(b"x")
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {pickled_model: m.skops, skops_trusted_types: [os.system]}}")
    assert mlflow_model.pickles(tmp_path) == ["data.bin", "m.skops", "model.joblib"]
