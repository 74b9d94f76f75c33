"""Versions in a real MLflow: one spec is one version, weights are not copied, aliases follow the control database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import place
import plain_http
import running
from trimtab import registry
from trimtab.errors import Fixable
from trimtab.promotion import apply
from trimtab.providers import weights
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, OperatingPoint, Prompt, Thresholds
from trimtab.store import blobs
from trimtab.store.control import Control

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory):
    where, loaded = place.make(tmp_path_factory.mktemp("registry"))
    return where, loaded, registry.register_base(where, loaded)


def test_the_same_content_is_the_same_version_and_other_content_is_another(desk):
    where, loaded, first = desk
    assert registry.register_base(where, loaded).version == first.version == 1
    control = Control(where)
    changed = first.spec.model_copy(update={"prompt": Prompt(system="Sort it, please.")})
    second = registry.register(where, control, changed, config_hash="x", note="", parent=1)
    assert second.version == 2
    assert control.alias("desk", "champion") == 1


def test_thresholds_are_of_the_scores_that_they_were_fitted_to(desk):
    where, _, first = desk
    point = OperatingPoint(steps=((0.5, 1.0),))
    told = {"attribute": "dialect", "constraint": "equalized_odds", "field": "urgency", "favourable": "high"}
    made = Thresholds(**told, other="low", groups={"a": point, "b": point}, scores_of=first.spec.scoring_hash, key="k")
    spec = first.spec.model_copy(update={"thresholds": made})
    assert spec.scoring_hash == first.spec.scoring_hash != first.spec.model_copy(update={"adapter_sha256": "a"}).hash
    assert registry.register(where, Control(where), spec, config_hash="x", note="").spec.thresholds == made
    other = spec.model_copy(update={"prompt": Prompt(system="Sort it otherwise.")})
    with pytest.raises(Fixable, match="fitted to the scores of another version"):
        registry.register(where, Control(where), other, config_hash="x", note="")


def test_a_crash_between_mlflow_and_our_record_finds_the_version_again(desk):
    where, _, first = desk
    control = Control(where)
    lost = first.spec.model_copy(update={"prompt": Prompt(system="registered, then killed")})
    made = registry.register(where, control, lost, config_hash="x", note="")
    again = Control(place.settings.load(where.root / "elsewhere"))  # a control database that never heard of it
    assert registry.register(where, again, lost, config_hash="x", note="").version == made.version


def test_mlflow_shows_lineage_and_the_aliases_that_were_moved_here(desk):
    import mlflow

    where, loaded, first = desk
    control = Control(where)
    client = mlflow.MlflowClient(where.mlflow_uri)
    tags = client.get_model_version("desk", "1").tags
    assert tags["trimtab.spec_hash"] == first.spec.hash
    assert tags["trimtab.config_hash"] == loaded.hash
    other = registry.register(
        where, control, first.spec.model_copy(update={"prompt": Prompt(system="b")}), config_hash="x", note=""
    )
    move = AliasMove(
        model="desk", alias="champion", before=1, after=other.version, at=utc_now(), actor="test", reason="try"
    )
    control.move([move])
    registry.show_aliases(where, control, "desk")
    assert client.get_model_version_by_alias("desk", "champion").version == other.version
    undone = apply.rollback(where, control, "desk", actor="test", reason="undo")
    assert (undone.before, undone.after) == (other.version, 1)
    assert client.get_model_version_by_alias("desk", "champion").version == 1
    assert [m.after for m in registry.history(control, "desk") if m.alias == "champion"] == [1, other.version, 1]
    assert control.audit_faults() == []


@pytest.fixture(scope="module")
def real_desk(tmp_path_factory: pytest.TempPathFactory):
    """A registered version of the real base."""
    folder = tmp_path_factory.mktemp("real")
    where, _ = place.make(folder)
    file = folder / "trimtab.yaml"
    file.write_text(file.read_text().replace("base: echo", "base: smollm2-135m-instruct"))
    loaded = place.project.load(folder)
    return where, loaded, registry.register_base(where, loaded)


def test_plain_mlflow_loads_and_answers_and_the_base_weights_are_stored_once(real_desk):
    where, loaded, version = real_desk
    assert blobs.path_of(where.blobs, version.spec.base.sha256) == weights.fetch(where.blobs, "smollm2-135m-instruct")
    assert sum(file.stat().st_size for file in where.mlflow_artifacts.rglob("*") if file.is_file()) < 1_000_000
    program = (
        "import mlflow, pandas\n"
        f"mlflow.set_tracking_uri({where.mlflow_uri!r})\n"
        "model = mlflow.pyfunc.load_model('models:/desk@champion')\n"
        "print(model.predict(pandas.DataFrame({'input': ['where is my money?', 'cannot sign in']})))\n"
    )
    # Named, or MLflow asks a Spark session for it, and Spark's client alone ends a process that has no main file.
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_REGISTRY_URI": where.mlflow_uri}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    answers = eval(done.stdout.strip().splitlines()[-1])  # noqa: S307 (our own print)
    assert [set(loaded.labels.parse(answer)) for answer in answers] == [{"intent", "urgency"}] * 2


def test_plain_mlflow_models_serve_serves_it(real_desk, tmp_path: Path):
    where, loaded, _ = real_desk
    port = place.free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", "models:/desk@champion", "--env-manager", "local"]
    venv = Path(sys.executable).parent  # `models serve` runs what it finds on the path
    env = {**os.environ, "MLFLOW_TRACKING_URI": where.mlflow_uri, "PATH": f"{venv}:{os.environ['PATH']}"}
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, *command, "-p", str(port)], stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        running.until(lambda: server.poll() is not None or _healthy(f"{url}/ping"))
        bodies = [{"dataframe_records": [{"input": "where is my money?"}]}, {"inputs": ["cannot sign in"]}]
        for body in bodies:
            response = plain_http.post(f"{url}/invocations", json=body, timeout=60)
            assert response.status_code == 200, (tmp_path / "serve.log").read_text()[-2000:]
            (answer,) = response.json()["predictions"]
            assert set(loaded.labels.parse(answer)) == {"intent", "urgency"}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _healthy(url: str) -> bool:
    try:
        return plain_http.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
