"""From an empty subscription to a scheduled loop and back. Rung 3 of the ladder: the vendors' own clients
(databricks-sdk, azure-mgmt, MLflow) against a recording stand-in.

Proves paths, bodies and order of the requests, that what is planned is what is sent, and that a second run sends
nothing. Not: that a workspace answers as the stand-in does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from databricks.sdk.service import serving
from databricks_place import Desk
from standin import Fault, Standin, whole

from trimtab import registry, settings
from trimtab.databricks import resources, steps
from trimtab.errors import Fixable
from trimtab.records.project import Project
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove
from trimtab.registry import unity_catalog

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]  # MLflow warns about itself

STEPS = (
    ("azure", "provision"),
    ("databricks", "cluster"),
    ("databricks", "init"),
    ("databricks", "push"),
    ("databricks", "deploy"),
    ("databricks", "monitor"),
    ("databricks", "schedule"),
)
LOG = "ml.support.desk_request_log"

Run = Callable[..., str]


def apply(trimtab: Run, workspace: Standin, steps: tuple[tuple[str, str], ...]) -> None:
    for step in steps:
        if step[1] == "monitor":  # what the endpoint's first requests bring about
            workspace.of("tables")[LOG] = {"name": "desk_request_log", "table_id": "t-1"}
        trimtab(*step, "--apply")


def test_each_step_plans_what_it_sends_and_a_second_run_sends_nothing(trimtab: Run, workspace: Standin) -> None:
    for step in STEPS:
        if step[1] == "monitor":
            workspace.of("tables")[LOG] = {"name": "desk_request_log", "table_id": "t-1"}
        before = len(workspace.writes())
        planned = [one for change in json.loads(trimtab(*step, "--json")) for one in change["requests"]]
        assert workspace.writes()[before:] == [], f"{step}: a dry run changed something"
        assert planned, f"{step}: plans nothing"
        said = trimtab(*step, "--apply")
        assert "Next: " in said, said
        sent = [(one.method, one.path) for one in workspace.writes()[before:]]
        for request in planned:
            if request["method"] != "MLFLOW":
                assert (request["method"], request["path"].partition("?")[0]) in sent, f"{step}: planned, not sent"
        if step[1] != "push":  # what MLflow sends is pinned below
            assert len(sent) == len(planned)
        after = len(workspace.writes())
        assert "nothing to do" in trimtab(*step, "--apply")
        assert workspace.writes()[after:] == [], f"{step}: the second apply changed something"

    assert "11 deleted" in trimtab("databricks", "destroy", "--apply", "--confirm", "desk")
    workspace.of("tables").clear()
    assert "2 deleted" in trimtab("databricks", "destroy", "--apply", "--confirm", "desk")
    assert "2 deleted" in trimtab("databricks", "destroy", "--workspace", "--apply", "--confirm", "desk")
    left = {kind: things for kind, things in workspace.things.items() if any(things.values())}
    assert set(left) <= {"files", "aliases"}


def test_push_registers_by_mlflow_in_the_recorded_sequence(trimtab: Run, workspace: Standin, desk: Desk) -> None:
    apply(trimtab, workspace, STEPS[2:3])
    before = len(workspace.seen)
    trimtab("databricks", "push", "--apply")
    sent = [one for one in workspace.seen[before:] if one.method != "GET" or "artifact" in one.path]
    mlflow = [one.path.rpartition("unity-catalog/")[2] for one in sent if "unity-catalog/" in one.path]
    one_version = [
        "model-versions/create",
        "registered-models:is-databricks-sdk-models-artifact-repository-enabled",
        "model-versions/finalize",
    ]
    assert mlflow == [*one_version, *one_version, "registered-models/alias", "registered-models/alias"]
    assert [one.path for one in sent if one.path.endswith("/1/MLmodel")] == [
        "/api/2.0/fs/files/Models/ml/support/desk/1/MLmodel"
    ]

    (first, second) = workspace.of("versions")["ml.support.desk"].values()
    tags = {tag["key"]: tag["value"] for tag in second["tags"]}
    version = desk.control.alias("desk", "challenger")
    assert tags["trimtab.version"] == str(version)
    assert {"trimtab.spec_hash", "trimtab.config_hash", "trimtab.run_id"} <= set(tags)
    assert first["status"] == second["status"] == "READY"
    assert workspace.of("aliases")["ml.support.desk"] == {"champion": 1, "challenger": 2}
    assert b"signature:" in workspace.of("files")["/Models/ml/support/desk/1/MLmodel"]
    assert workspace.of("files")["/Volumes/ml/support/trimtab/projects/desk/prompt.md"].startswith(b"Sort")


def test_the_endpoint_splits_traffic_as_the_canary_does_and_is_updated_in_place(
    trimtab: Run, workspace: Standin
) -> None:
    apply(trimtab, workspace, STEPS[2:5])
    (created,) = [one for one in workspace.writes() if one.path == "/api/2.0/serving-endpoints"]
    routes = created.body["config"]["traffic_config"]["routes"]
    assert {one["served_entity_name"]: one["traffic_percentage"] for one in routes} == {"desk-1": 90, "desk-2": 10}
    assert created.body["ai_gateway"]["inference_table_config"]["table_name_prefix"] == "desk"
    assert created.body["ai_gateway"]["usage_tracking_config"] == {"enabled": True}

    assert "traffic_percentage: 10 -> 50" in trimtab("databricks", "deploy", "--canary", "50")
    trimtab("databricks", "deploy", "--canary", "50", "--apply")
    last = workspace.writes()[-1]
    assert (last.method, last.path) == ("PUT", "/api/2.0/serving-endpoints/desk/config")

    workspace.of("aliases")["ml.support.desk"] = {"champion": 2}  # promoted
    trimtab("databricks", "deploy", "--apply")
    config = workspace.of("endpoints")["desk"]["config"]
    assert [one["entity_version"] for one in config["served_entities"]] == ["2"]
    assert config["traffic_config"]["routes"] == [{"served_entity_name": "desk-2", "traffic_percentage": 100}]


def test_a_providers_fine_tune_is_served_beside_the_model_that_it_is_to_replace() -> None:
    cloud = {"base_url": "https://here.openai.azure.com/openai/v1"}
    file = {
        "name": "desk",
        "model": {"base": "azure:triage", "prompt": "p.md"},
        "providers": {"azure": cloud | {"key_env": "AZURE_OPENAI_API_KEY"}},
        "target": {"databricks": {"catalog": "ml", "schema": "support"}},
    }
    tuned = {"champion": "azure:triage", "challenger": "azure:desk-1f2e3d4c"}
    config = resources.endpoint(Project.model_validate(file), {}, 10, tuned).body["config"]
    models = [
        entity["external_model"]["openai_config"]["openai_deployment_name"] for entity in config["served_entities"]
    ]
    assert models == ["triage", "desk-1f2e3d4c"]
    assert {one["served_entity_name"]: one["traffic_percentage"] for one in config["traffic_config"]["routes"]} == {
        "desk-triage": 90,
        "desk-desk-1f2e3d4c": 10,
    }
    whole(serving.EndpointCoreConfigInput, {"name": "desk", **config})
    entra = file | {"providers": {"azure": cloud | {"credential": "entra"}}}
    with pytest.raises(Fixable, match="wants a key or a service principal") as refused:
        resources.endpoint(Project.model_validate(entra), {}, 0)
    assert "providers.azure.key_env" in refused.value.fix


def test_azure_openai_without_a_key_is_asked_as_a_service_principal(
    workspace: Standin, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"{digit * 8}-0000-0000-0000-000000000000" for digit in "12"]
    serving_section = {"entra": {"tenant_id": ids[0], "client_id": ids[1]}}
    file = {
        "name": "desk",
        "model": {"base": "azure:triage", "prompt": "p.md"},
        "providers": {"azure": {"base_url": "https://here.openai.azure.com/openai/v1", "credential": "entra"}},
        "target": {"databricks": {"catalog": "ml", "schema": "support", "serving": serving_section}},
    }
    project = Project.model_validate(file)
    config = resources.endpoint(project, {}, 0).body["config"]
    assert config["served_entities"][0]["external_model"]["openai_config"] == {
        "openai_api_type": "azuread",
        "microsoft_entra_tenant_id": ids[0],
        "microsoft_entra_client_id": ids[1],
        "microsoft_entra_client_secret": "{{secrets/trimtab/azure-client-secret}}",
        "openai_deployment_name": "triage",
        "openai_api_base": "https://here.openai.azure.com",
        "openai_api_version": "2024-10-21",
    }
    whole(serving.EndpointCoreConfigInput, {"name": "desk", **config})
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "s3cret")
    steps.apply(steps.prepare_init(project), lambda _: None)
    loaded = replace(desk.loaded, project=project, files=())
    for _ in range(2):
        steps.apply(steps.prepare_push(desk.settings, loaded, {}), lambda _: None)
    assert workspace.of("scopes")["trimtab"]["azure-client-secret"] == "s3cret"
    sent = [one for one in workspace.writes() if one.path.endswith("/secrets/put") and "azure" in str(one.body)]
    assert len(sent) == 1


def test_the_drift_job_runs_the_retrain_job_by_its_id(trimtab: Run, workspace: Standin) -> None:
    apply(trimtab, workspace, STEPS[6:])
    by_name = {job["settings"]["name"]: job for job in workspace.of("jobs").values()}
    last = by_name["desk-drift-monitor"]["settings"]["tasks"][-1]
    assert last["run_job_task"]["job_id"] == by_name["desk-retrain"]["job_id"]


def test_removal_keeps_requests_that_were_answered_and_needs_the_name(trimtab: Run, workspace: Standin) -> None:
    apply(trimtab, workspace, STEPS[2:])
    with pytest.raises(Fixable, match="needs the project's name"):
        trimtab("databricks", "destroy", "--apply", "--confirm", "des")
    said = trimtab("databricks", "destroy", "--apply", "--confirm", "desk")
    assert "schema ml.support  (holds tables: desk_request_log" in said
    assert "ml.support" in workspace.of("schemas")
    assert workspace.of("endpoints") == workspace.of("jobs") == {}


def test_what_was_there_before_is_used_and_stays(trimtab: Run, workspace: Standin) -> None:
    workspace.of("catalogs")["ml"] = {"name": "ml", "comment": "the data team's"}
    workspace.of("scopes")["trimtab"] = {"other": "x"}
    trimtab("databricks", "init", "--apply")
    trimtab("databricks", "destroy", "--apply", "--confirm", "desk")
    assert workspace.of("catalogs")["ml"]["comment"] == "the data team's"
    assert workspace.of("scopes")["trimtab"] == {"other": "x"}
    workspace.of("endpoints")["desk"] = {"name": "desk", "config": {}, "tags": []}
    apply(trimtab, workspace, STEPS[2:4])
    with pytest.raises(Fixable, match="endpoint desk that Trimtab did not make"):
        trimtab("databricks", "deploy")


def test_a_name_with_two_levels_is_refused_here_because_mlflow_does_not() -> None:
    with pytest.raises(Fixable, match=r"support\.desk is no name for Unity Catalog"):
        unity_catalog.check_name("support.desk")


def test_a_project_may_register_in_unity_catalog_itself(
    workspace: Standin, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    where = settings.load(desk.settings.root)
    with pytest.raises(Fixable, match="no schema is named"):
        registry.registered_name(where, "desk")
    monkeypatch.setenv("TRIMTAB_UNITY_SCHEMA", "ml.support")
    where = settings.load(desk.settings.root)
    version = registry.champion(desk.control, "desk")
    spec = version.spec.model_copy(update={"model": "night-desk"})
    made = registry.register(where, desk.control, spec, config_hash=version.config_hash, note="for the night")
    stored = workspace.of("versions")["ml.support.night_desk"]["1"]
    assert {"key": "trimtab.spec_hash", "value": made.spec.hash} in stored["tags"]
    assert stored["status"] == "READY"
    move = AliasMove(
        model="night-desk", alias="champion", before=None, after=1, at=utc_now(), actor="t", reason="t", decision=None
    )
    desk.control.move([move])
    registry.show_aliases(where, desk.control, "night-desk")
    assert workspace.of("aliases")["ml.support.night_desk"] == {"champion": 1}


def test_a_step_that_failed_half_way_goes_on_where_it_stands(trimtab: Run, workspace: Standin) -> None:
    denied = {"error_code": "PERMISSION_DENIED", "message": "User does not have CREATE VOLUME on Schema 'ml.support'."}
    workspace.faults.append(Fault("POST", ".*/volumes", 403, denied))
    with pytest.raises(
        Fixable, match=r"volume ml\.support\.trimtab: create: User does not have CREATE VOLUME"
    ) as refused:
        trimtab("databricks", "init", "--apply")
    assert "ask an owner" in refused.value.fix
    done = len(workspace.writes())
    trimtab("databricks", "init", "--apply")
    again = [one.path for one in workspace.writes()[done:]]
    assert again[0].endswith("/volumes")
    assert "/api/2.1/unity-catalog/catalogs" not in again


def test_waiting_shows_progress(trimtab: Run, workspace: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    workspace.polls = 2
    apply(trimtab, workspace, STEPS[:1])
    assert workspace.of("workspaces")["rg-llmops/llmops"]["properties"]["provisioningState"] == "Succeeded"
    apply(trimtab, workspace, STEPS[2:5])
    polls = [one for one in workspace.seen if one.method == "GET" and one.path == "/api/2.0/serving-endpoints/desk"]
    assert len(polls) >= 4  # looked for it, and waited until it was ready
