"""Base weights over 50 MiB go up in parts, past the workspace, straight to the cloud's storage. Rung 3 of the ladder:
databricks-sdk's own multipart upload, as MLflow calls it, against the recording stand-in.

Proves that a part is tried again after 429 and 503, that what breaks off is aborted, also at an address that expired,
and registered anew, and that the workspace's token stays away from storage. Not: that a cloud agrees.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from databricks_place import Desk
from standin import Fault, Standin

from trimtab import registry
from trimtab.databricks import catalog, faults, plan, steps, workspace
from trimtab.databricks.plan import Resource
from trimtab.databricks.wire import Wire
from trimtab.errors import Fixable
from trimtab.records.databricks import DatabricksTarget
from trimtab.records.registry import ModelVersion, Weights
from trimtab.store import blobs

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]  # MLflow warns about itself

SIZE = 52 * 1024 * 1024
"""Just over databricks-sdk's bound for one request, 50 MiB; its parts have 10 MiB."""
PARTS = 6
MODEL = "ml.support.desk"
EXPIRED = b"""<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to
authenticate the request.</Message><AuthenticationErrorDetail>Signature not valid in the specified time frame: Start
[Wed, 25 Nov 2026 01:00:00 GMT] - Expiry [Wed, 25 Nov 2026 02:00:00 GMT]</AuthenticationErrorDetail></Error>"""
BUSY = b"<Error><Code>ServerBusy</Code></Error>"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "base.gguf"
    with file.open("wb") as out:
        for part in range(SIZE // (1024 * 1024)):
            out.write(bytes([part]) * 1024 * 1024)
    return file


@pytest.fixture
def version(desk: Desk, weights: Path, monkeypatch: pytest.MonkeyPatch) -> ModelVersion:
    """The champion, on weights that are a large file."""
    monkeypatch.setattr("databricks.sdk.clock.RealClock.sleep", lambda _self, _seconds: None)
    champion = registry.champion(desk.control, "desk")
    base = Weights(name="large", sha256=blobs.put(desk.settings.blobs, weights))
    return champion.model_copy(update={"spec": champion.spec.model_copy(update={"base": base})})


def push(desk: Desk, version: ModelVersion) -> None:
    steps.apply(steps.prepare_push(desk.settings, desk.loaded, {"champion": version}), lambda _: None)


def uploaded(workspace: Standin, number: int) -> str:
    content = workspace.of("files")[f"/Models/ml/support/desk/{number}/artifacts/base.gguf"]
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault("PUT", "/cloud/part/[^/]+/3", 503, BUSY, times=2),
        Fault("PUT", "/cloud/part/[^/]+/1", 429, BUSY, {"retry-after": "1"}),
    ],
    ids=["no fault", "503 in a part", "429 in the first part"],
)
def test_weights_go_up_in_parts_whatever_storage_says_meanwhile(
    desk: Desk, workspace: Standin, version: ModelVersion, fault: Fault | None
) -> None:
    steps.apply(steps.prepare_init(desk.loaded.project), lambda _: None)
    workspace.faults = [fault] if fault else []
    push(desk, version)
    assert uploaded(workspace, 1) == version.spec.base.sha256
    asked = workspace.asked("POST", "/api/2.0/fs/create-upload-part-urls")
    assert sorted(one.body["start_part_number"] for one in asked) == [1, 2, 3, 4, 5, 6]
    puts = workspace.asked("PUT", "/cloud/part/.*")
    assert len(puts) == PARTS + (2 if fault and fault.status != 429 else 1 if fault else 0)
    starts = workspace.asked("POST", "/api/2.0/fs/files/Models/.*/base.gguf")
    assert [one.query["action"] for one in starts] == ["initiate-upload", "complete-upload"]
    assert not workspace.of("uploads")
    assert workspace.of("aliases")[MODEL] == {"champion": 1}


@pytest.mark.parametrize(
    ("status", "body", "times"), [(503, BUSY, 99), (403, EXPIRED, 1)], ids=["storage is away", "an address expired"]
)
def test_an_upload_that_breaks_off_is_aborted_and_the_next_push_registers_anew(
    desk: Desk, workspace: Standin, version: ModelVersion, status: int, body: bytes, times: int
) -> None:
    """databricks-sdk would send a part whose address expired again, empty: the file would be there, and be wrong."""
    steps.apply(steps.prepare_init(desk.loaded.project), lambda _: None)
    workspace.faults = [Fault("PUT", "/cloud/part/[^/]+/5", status, body, times=times)]
    with pytest.raises(Fixable, match=r"registering ml\.support\.desk: .*base\.gguf") as refused:
        push(desk, version)
    assert "run the command again" in refused.value.fix
    assert "SIGNATURE" not in str(refused.value)
    assert len(workspace.asked("DELETE", "/cloud/abort/.*")) == 1
    assert not workspace.of("uploads")
    assert workspace.of("versions")[MODEL]["1"]["status"] == "PENDING_REGISTRATION"
    assert MODEL not in workspace.of("aliases")
    workspace.faults = []
    push(desk, version)
    assert uploaded(workspace, 2) == version.spec.base.sha256
    assert workspace.of("versions")[MODEL]["2"]["status"] == "READY"
    assert workspace.of("aliases")[MODEL] == {"champion": 2}
    assert steps.prepare_push(desk.settings, desk.loaded, {"champion": version}).todo == []


def test_behind_a_firewall_of_storage_it_goes_through_the_workspace(
    desk: Desk, workspace: Standin, version: ModelVersion
) -> None:
    steps.apply(steps.prepare_init(desk.loaded.project), lambda _: None)
    forbidden = b"<Error><Code>AuthorizationFailure</Code></Error>"
    workspace.faults = [Fault("PUT", "/cloud/part/.*", 403, forbidden, times=99)]
    push(desk, version)
    assert uploaded(workspace, 1) == version.spec.base.sha256
    assert len(workspace.asked("PUT", "/api/2.0/fs/files/Models/.*/base.gguf")) == 1
    assert len(workspace.asked("DELETE", "/cloud/abort/.*")) == 1


def test_a_large_file_of_the_project_is_planned_by_its_first_request_and_its_fault_is_one_line(
    workspace: Standin, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("databricks.sdk.clock.RealClock.sleep", lambda _self, _seconds: None)
    wire, name = Wire(), "/Volumes/ml/support/trimtab/projects/desk/groups.parquet"
    w = connect(wire)
    content = weights.read_bytes()
    body = {"bytes": SIZE, "sha256": hashlib.sha256(content).hexdigest()}
    wanted = [Resource("file", name, body, {"path": str(weights)})]
    (change,) = plan.plan(wire, catalog.kinds(w), wanted)
    start = {"action": "initiate-upload", "overwrite": True}
    assert [(one.method, one.path, one.body) for one in change.requests] == [
        ("POST", f"/api/2.0/fs/files{name}", start)
    ]
    assert workspace.writes() == []
    workspace.faults = [Fault("PUT", "/cloud/part/[^/]+/2", 429, BUSY, times=99)]
    says = pytest.raises(faults.WorkspaceError, match="while uploading: Exceeded max retry")
    with says as refused, faults.translated("uploading"):
        plan.apply(catalog.kinds(w), [change], lambda _: None)
    assert "run the command again" in refused.value.fix
    assert not workspace.of("uploads")
    workspace.faults = []
    plan.apply(catalog.kinds(w), [change], lambda _: None)
    assert workspace.of("files")[name] == content
    assert plan.plan(wire, catalog.kinds(w), wanted)[0].action == "keep"


def connect(wire: Wire):
    return workspace.connect(DatabricksTarget(catalog="ml", schema="support"), wire)
