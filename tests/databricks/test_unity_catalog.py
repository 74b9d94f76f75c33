"""Aliases and three-level names in Unity Catalog, through MLflow's `databricks-uc` scheme. Rung 3 of the ladder:
MLflow's own client against the recording stand-in.

Proves that an alias is set, moved, resolved and taken away by its own requests, and that a model is loaded by
`models:/catalog.schema.model@alias` from the files that `push` put there. Not: grants, or storage of a cloud.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import mlflow
import pytest
from databricks_place import Desk
from mlflow.exceptions import MlflowException
from standin import Standin

from trimtab import registry, settings
from trimtab.databricks import steps
from trimtab.errors import Fixable
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove
from trimtab.registry import unity_catalog

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]  # MLflow warns about itself

MODEL, ALIAS = "ml.support.day_desk", "/api/2.0/mlflow/unity-catalog/registered-models/alias"


@pytest.fixture
def in_catalog(workspace: Standin, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """The desk, whose registry is Unity Catalog."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    monkeypatch.setenv("TRIMTAB_UNITY_SCHEMA", "ml.support")
    return settings.load(desk.settings.root)


def move(desk: Desk, alias: str, before: int | None, after: int | None) -> AliasMove:
    return AliasMove(model="day-desk", alias=alias, before=before, after=after, at=utc_now(), actor="t", reason="t")


def test_an_alias_follows_the_control_database_from_first_to_last(
    in_catalog: settings.Settings, workspace: Standin, desk: Desk
) -> None:
    spec = registry.champion(desk.control, "desk").spec.model_copy(update={"model": "day-desk"})
    for prompt in ("Sort by day.\n", "Sort by day, with care.\n"):
        changed = spec.model_copy(update={"prompt": spec.prompt.model_copy(update={"system": prompt})})
        registry.register(in_catalog, desk.control, changed, config_hash="c", note="")
    client = registry.client_of(in_catalog)
    seen: list[tuple[str, dict[str, str]]] = []
    for moves in (
        [move(desk, "champion", None, 1), move(desk, "challenger", None, 2)],
        [move(desk, "champion", 1, 2), move(desk, "challenger", 2, None)],
        [],
    ):
        before = len(workspace.seen)
        desk.control.move(moves)
        registry.show_aliases(in_catalog, desk.control, "day-desk")
        sent = [one for one in workspace.seen[before:] if one.path == ALIAS]
        seen += [(one.method, one.body) for one in sent]
    assert seen == [
        ("POST", {"name": MODEL, "alias": "champion", "version": "1"}),
        ("POST", {"name": MODEL, "alias": "challenger", "version": "2"}),
        ("POST", {"name": MODEL, "alias": "champion", "version": "2"}),
        ("DELETE", {"name": MODEL, "alias": "challenger"}),
    ]
    found = client.get_model_version_by_alias(MODEL, "champion")
    assert (found.name, found.version, found.status) == (MODEL, "2", "READY")
    with pytest.raises(MlflowException, match="alias challenger not found"):
        client.get_model_version_by_alias(MODEL, "challenger")


def test_push_works_where_the_environment_names_unity_catalog_as_the_registry(
    workspace: Standin, desk: Desk, trimtab: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")  # the versions of the desk are registered here
    trimtab("databricks", "init", "--apply")
    trimtab("databricks", "push", "--apply")
    stored = workspace.of("versions")["ml.support.desk"]
    assert [one["status"] for one in stored.values()] == ["READY", "READY"]
    assert workspace.of("aliases")["ml.support.desk"] == {"champion": 1, "challenger": 2}
    assert "nothing to do" in trimtab("databricks", "push", "--apply")


def test_a_model_is_loaded_by_its_three_level_name_and_alias(
    workspace: Standin, trimtab: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trimtab("databricks", "init", "--apply")
    trimtab("databricks", "push", "--apply")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    rows = [{"input": text} for text in ("my money is not back", "I cannot log in")]
    answers = {}
    for alias in registry.ALIASES:
        before = len(workspace.seen)
        model = mlflow.pyfunc.load_model(f"models:/ml.support.desk@{alias}")
        answers[alias] = model.predict(rows)
        asked = [one for one in workspace.seen[before:] if one.path == ALIAS]
        assert [(one.method, one.query) for one in asked][:1] == [("GET", {"name": "ml.support.desk", "alias": alias})]
        del model
        gc.collect()  # the engine behind it ends here, not in another test
    assert all('"intent"' in answer for answer in answers["champion"])
    assert answers["champion"] == answers["challenger"]  # the echo engine answers by the text alone


def test_batch_scoring_names_the_version_that_the_alias_names_now(
    in_catalog: settings.Settings, workspace: Standin, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.apply(steps.prepare_init(desk.loaded.project), lambda _: None)
    monkeypatch.setattr(mlflow.pyfunc, "spark_udf", lambda _spark, uri, **_options: uri)  # contract/ runs the real one
    workspace.of("versions")["ml.support.desk"] = {n: {"name": "ml.support.desk", "version": n} for n in ("1", "2")}
    for number in (1, 2):
        workspace.of("aliases")["ml.support.desk"] = {"champion": number}
        assert registry.spark_function(None, "models:/ml.support.desk@champion") == f"models:/ml.support.desk/{number}"
    assert registry.spark_function(None, "models:/ml.support.desk/1") == "models:/ml.support.desk/1"


@pytest.mark.parametrize("name", ["desk", "support.desk", "ml.support.", "ml..desk", "ml.support.de/sk", "a.b.c.d"])
def test_a_name_of_another_form_is_refused_here_because_mlflow_does_not(name: str) -> None:
    with pytest.raises(Fixable, match="is no name for Unity Catalog"):
        unity_catalog.check_name(name)


def test_an_alias_moves_on_only_when_its_version_is_there_whole(
    workspace: Standin, desk: Desk, trimtab: Callable[..., str]
) -> None:
    trimtab("databricks", "init", "--apply")
    trimtab("databricks", "push", "--apply")
    workspace.of("versions")["ml.support.desk"]["2"]["status"] = "FAILED_REGISTRATION"
    versions = {alias: registry.get(desk.control, "desk", n) for alias, n in (("champion", 1), ("challenger", 2))}
    planned = steps.prepare_push(desk.settings, desk.loaded, versions).todo
    assert [(change.resource.kind, change.action) for change in planned] == [
        ("model version", "create"),
        ("alias", "change"),
    ]
    assert [str(one.have) for one in planned[1].differences] == ["FAILED_REGISTRATION"]
    trimtab("databricks", "push", "--apply")
    assert workspace.of("aliases")["ml.support.desk"] == {"champion": 1, "challenger": 3}
