"""What the vendors refuse, and what people read then. Rung 3 of the ladder: the vendors' own clients and their own
retries against a stand-in that answers as documented: 429 and 503 with Retry-After, 403 for an expired token, 404, 409.

Proves that Retry-After is waited for by the SDK, and that each refusal ends in one line with a fix. Not: when a
workspace refuses.
"""

from __future__ import annotations

from typing import Any

import pytest
from databricks.sdk.clock import Clock
from standin import Fault, Standin

from trimtab.databricks import faults, provision, workspace
from trimtab.databricks.wire import Wire
from trimtab.records.databricks import AzureSection, DatabricksTarget

TARGET = DatabricksTarget(catalog="ml", schema="support")
SECTION = AzureSection(
    subscription="00000000-0000-0000-0000-000000000000", resource_group="rg", region="westeurope", workspace="llmops"
)


class Stopped(Clock):
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def at(workspace: Standin) -> Standin:
    return workspace


def catalogs(at: Standin, clock: Clock | None = None, **config: Any) -> Any:
    client = workspace.connect(TARGET, Wire(), clock=clock, **config)
    with faults.translated("asking for the catalog"):
        return client.catalogs.get("ml")


@pytest.mark.parametrize(("status", "code"), [(429, "REQUEST_LIMIT_EXCEEDED"), (503, "TEMPORARILY_UNAVAILABLE")])
def test_retry_after_is_waited_for(at: Standin, status: int, code: str) -> None:
    at.of("catalogs")["ml"] = {"name": "ml"}
    body = {"error_code": code, "message": "slow down"}
    at.faults.append(Fault("GET", ".*/catalogs/ml", status, body, {"Retry-After": "7"}, times=2))
    clock = Stopped()
    assert catalogs(at, clock).name == "ml"
    assert [int(seconds) for seconds in clock.slept] == [7, 7]


def test_a_workspace_that_stays_busy_is_given_up_with_its_own_words(at: Standin) -> None:
    body = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "too many requests to UC"}
    at.faults.append(Fault("GET", ".*/catalogs/ml", 429, body, {"Retry-After": "60"}, times=99))
    with pytest.raises(faults.WorkspaceError, match="too many requests to UC") as refused:
        catalogs(at, Stopped())
    assert "run the command again" in refused.value.fix


@pytest.mark.parametrize(
    ("status", "body", "says", "fix"),
    [
        (403, {"error_code": "403", "message": "Invalid access token."}, "does not accept the token", "log in again"),
        (401, {"error_code": "UNAUTHENTICATED", "message": "expired"}, "does not accept the token", "log in again"),
        (403, {"error_code": "PERMISSION_DENIED", "message": "no USE CATALOG"}, "no USE CATALOG", "ask an owner"),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Catalog 'ml'"}, "Catalog 'ml'", "init --apply"),
        (409, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "exists"}, "exists", "plan anew"),
        (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "bad name"}, "bad name", "trimtab.yaml"),
    ],
)
def test_each_refusal_says_what_to_do(at: Standin, status: int, body: dict[str, str], says: str, fix: str) -> None:
    at.faults.append(Fault("GET", ".*/catalogs/ml", status, body))
    with pytest.raises(faults.WorkspaceError, match=says) as refused:
        catalogs(at)
    assert fix in refused.value.fix
    assert "standin-token" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_a_login_the_variables_are_named(at: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(faults.WorkspaceError, match="does not know who you are") as refused:
        catalogs(at)
    assert "DATABRICKS_TOKEN" in refused.value.fix
    with pytest.raises(faults.WorkspaceError, match="does not know who you are"):
        workspace.connect(TARGET.model_copy(update={"profile": "nowhere"}), Wire())


def test_an_address_without_a_workspace_is_told(at: Standin) -> None:
    with pytest.raises(faults.WorkspaceError, match=r"does not answer|cannot connect|no end") as refused:
        catalogs(at, Stopped(), host="http://127.0.0.1:9")
    assert refused.value.fix


def arm(at: Standin) -> Any:
    clients = provision.Clients(SECTION, Wire())
    with faults.translated("asking for the group"):
        return clients.resources.resource_groups.get("rg")


def test_azure_waits_too_and_its_expired_login_is_told(at: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    at.of("groups")["rg"] = {"name": "rg", "location": "westeurope"}
    busy = {"error": {"code": "TooManyRequests", "message": "slow down"}}
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    at.faults.append(Fault("GET", "/subscriptions/.*", 429, busy, {"Retry-After": "3"}, times=2))
    assert arm(at).location == "westeurope"
    assert slept.count(3.0) == 2
    at.token = "another"
    with pytest.raises(faults.WorkspaceError, match="Azure does not accept the login") as refused:
        arm(at)
    assert "az login" in refused.value.fix


def test_azure_names_the_provider_to_register(at: Standin) -> None:
    unregistered = {"error": {"code": "MissingSubscriptionRegistration", "message": "not registered"}}
    at.faults.append(Fault("GET", "/subscriptions/.*", 409, unregistered))
    with pytest.raises(faults.WorkspaceError, match="not registered") as refused:
        arm(at)
    assert "az provider register --namespace Microsoft.Databricks" in refused.value.fix
    assert refused.value.error_code == "MissingSubscriptionRegistration"


def test_the_stand_in_refuses_what_the_sdk_does_not_know(at: Standin) -> None:
    """So that a test cannot pass on a field that we invented."""
    client = workspace.connect(TARGET, Wire())
    body = {"name": "x", "tasks": [], "retries_forever": 1}
    with pytest.raises(faults.WorkspaceError, match="retries_forever"), faults.translated("making a job"):
        client.api_client.do("POST", "/api/2.2/jobs/create", body=body)
