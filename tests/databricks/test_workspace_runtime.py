"""What a job finds in a workspace: dbutils, secrets, task values. Rung 3 of the ladder: databricks-sdk's own
`databricks.sdk.runtime`, against the recording stand-in; the runtime's namespace is what its own modules hand out.

Proves that a secret is read by REST where there is no notebook namespace, and that task values are never dropped in
silence. Not: how a runtime of Databricks is built.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from databricks_place import Desk
from standin import Fault, Standin

from trimtab.databricks import lake_spark, runtime
from trimtab.errors import Fixable

pytestmark = pytest.mark.filterwarnings("default")  # MLflow, by which the desk is registered, warns about itself

Told = dict[str, str]


class Dbutils:
    """The part of the real one that jobs use."""

    def __init__(self, told: Told) -> None:
        self.jobs = types.SimpleNamespace(taskValues=types.SimpleNamespace(set=told.__setitem__))


@pytest.fixture(autouse=True)
def fresh(workspace: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """databricks.sdk.runtime as a new process imports it: it looks for its namespace while it is imported."""
    import databricks.sdk

    monkeypatch.delitem(sys.modules, "databricks.sdk.runtime", raising=False)
    monkeypatch.delattr(databricks.sdk, "runtime", raising=False)


def namespace(monkeypatch: pytest.MonkeyPatch, globals_of: Callable[[], dict[str, Any]]) -> None:
    """The runtime's module that hands out the names of a notebook."""
    initializer = types.SimpleNamespace(get_namespace_globals=globals_of)
    module = types.ModuleType("dbruntime")
    module.UserNamespaceInitializer = types.SimpleNamespace(getOrCreate=lambda: initializer)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dbruntime", module)


def test_the_database_is_a_secret_read_by_rest(workspace: Standin, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "SUBJECTS_URL"):
        monkeypatch.delenv(f"TRIMTAB_{name}", raising=False)
    workspace.of("scopes")["trimtab"] = {"other": "x"}
    with pytest.raises(Fixable, match="none is named") as refused:
        runtime.settings_of(desk.settings, desk.loaded.project)
    assert "secret database-url of the scope trimtab" in refused.value.fix
    workspace.of("scopes")["trimtab"] = {"database-url": "postgresql://db/trimtab"}
    found = runtime.settings_of(desk.settings, desk.loaded.project)
    assert (found.database_url, found.subjects_url) == ("postgresql://db/trimtab", None)
    workspace.of("scopes")["trimtab"] |= {"subjects-url": "postgresql://db/keys"}
    assert runtime.settings_of(desk.settings, desk.loaded.project).subjects_url == "postgresql://db/keys"
    denied = {"error_code": "PERMISSION_DENIED", "message": "User does not have permission READ on scope trimtab"}
    workspace.faults.append(Fault("GET", "/api/2.0/secrets/get", 403, denied))
    with pytest.raises(Fixable, match="cannot be read: User does not have permission READ"):
        runtime.settings_of(desk.settings, desk.loaded.project)


def test_task_values_go_to_the_notebook_namespaces_dbutils(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = {}
    namespace(monkeypatch, lambda: {"dbutils": Dbutils(told)})
    runtime.set_task_values({"decision": "promote"})
    assert told == {"decision": "promote"}


def test_on_spark_connect_they_go_to_the_dbutils_of_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> dict[str, Any]:
        raise RuntimeError("[CONTEXT_UNAVAILABLE_FOR_REMOTE_CLIENT]")

    told: Told = {}
    namespace(monkeypatch, unavailable)
    own = types.ModuleType("pyspark.dbutils")
    own.DBUtils = lambda spark: Dbutils(told) if spark == "the session" else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyspark.dbutils", own)
    monkeypatch.setattr(lake_spark, "session", lambda: "the session")
    runtime.set_task_values({"drifted": "false"})
    assert told == {"drifted": "false"}


def test_where_the_sdk_would_drop_them_the_task_fails() -> None:
    with pytest.raises(Fixable, match="task values reach no job from here"):
        runtime.set_task_values({"decision": "promote"})
