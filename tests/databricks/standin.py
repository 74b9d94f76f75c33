"""A stand-in at the HTTP border for Azure Resource Manager and a workspace: it records, keeps state, refuses.

It exists because neither can exist here. The vendor's own clients talk to it; it answers as their documentation says:
documented paths, states and errors (404 RESOURCE_DOES_NOT_EXIST, 409 RESOURCE_ALREADY_EXISTS, 403 for an expired token,
429 and 503 with Retry-After on demand). A body must survive the round trip through the SDK's dataclass, so that an
unknown field or a value outside an enumeration is refused with 400. What it cannot prove: that a workspace agrees.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from azure.mgmt.databricks.models import Workspace as ArmWorkspace
from databricks.sdk.service import compute, dataquality, jobs, serving, sql

from trimtab.databricks.wire import blotted

Json = dict[str, Any]
TOKEN = "standin-token"


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    status: int

    def __str__(self) -> str:
        query = "?" + "&".join(f"{k}={v}" for k, v in self.query.items()) if self.query else ""
        body = f" {json.dumps(self.body)}" if isinstance(self.body, dict | list) and self.body else ""
        body = f" {self.body}" if isinstance(self.body, str) and self.body else body
        return f"{self.method} {self.path}{query}{body} -> {self.status}"


@dataclass
class Fault:
    """Answers the next `times` requests that match with this status, body and headers."""

    method: str
    path: str
    status: int
    body: Json | bytes
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1


class Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error_code": code, "message": message}


@dataclass(frozen=True)
class Told:
    """An answer whose headers say something, or whose status is not 200."""

    status: int
    headers: dict[str, str]
    body: Json = field(default_factory=dict)


@dataclass
class Standin:
    """The state of the stand-in, by kind and name, and everything it was asked."""

    url: str = ""
    token: str = TOKEN
    things: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    polls: int = 0
    """How many polls an endpoint, a cluster or a workspace takes to be ready."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: int = 0

    def of(self, kind: str) -> dict[str, Any]:
        return self.things.setdefault(kind, {})

    def get(self, kind: str, name: str) -> Any:
        if name not in self.of(kind):
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"{kind} '{name}' does not exist.")
        return self.of(kind)[name]

    def add(self, kind: str, name: str, value: Any) -> Any:
        if name in self.of(kind):
            raise Refused(409, "RESOURCE_ALREADY_EXISTS", f"{kind} '{name}' already exists")
        self.of(kind)[name] = value
        return value

    def remove(self, kind: str, name: str) -> Json:
        self.get(kind, name)
        del self.of(kind)[name]
        return {}

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def writes(self) -> list[Seen]:
        """What asked for a change; a file is read by asking for its address with POST."""
        reads = "/api/2.0/fs/create-download-url"
        return [one for one in self.seen if one.method not in ("GET", "HEAD") and one.path != reads]

    def asked(self, method: str, path: str) -> list[Seen]:
        """The requests of a method whose path matches."""
        return [one for one in self.seen if one.method == method and re.fullmatch(path, one.path)]


def whole(kind: type[Any], body: Json) -> Json:
    """The body, when the vendor's dataclass keeps all of it. Refused otherwise, naming what it lost."""
    kept = kind.from_dict(body).as_dict()
    if kept != body:
        lost = [key for key in body if kept.get(key) != body[key]]
        raise Refused(400, "INVALID_PARAMETER_VALUE", f"{kind.__name__} does not know all of {lost}")
    return body


@dataclass
class Ask:
    """What a route gets."""

    s: Standin
    parts: tuple[str, ...]
    query: dict[str, str]
    body: Any


Route = Callable[[Ask], Any]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(method: str, path: str) -> Callable[[Route], Route]:
    """Register a route; `path` is a pattern whose groups become `Ask.parts`."""

    def add(answer: Route) -> Route:
        ROUTES.append((method, re.compile(path), answer))
        return answer

    return add


# ── Unity Catalog ─────────────────────────────────────────────────────────────────────────────────────────────────

UC = "/api/2.1/unity-catalog"


@route("POST", f"{UC}/(catalogs|schemas|volumes|models)")
def uc_create(a: Ask) -> Json:
    (kind,), b = a.parts, a.body
    parent = [b[key] for key in ("catalog_name", "schema_name") if key in b]
    if len(parent) == 1:
        a.s.get("catalogs", parent[0])
    if len(parent) == 2:
        a.s.get("schemas", ".".join(parent))
    full = ".".join([*parent, b["name"]])
    made = a.s.add(kind, full, {**b, "full_name": full, f"{kind[:-1]}_id": str(uuid.uuid4()), "owner": "me"})
    if kind == "catalogs":
        a.s.add("schemas", f"{full}.default", {"name": "default", "catalog_name": full, "schema_id": "d"})
    return made


@route("GET", f"{UC}/(catalogs|schemas|volumes|tables|models)/([^/]+)")
def uc_get(a: Ask) -> Json:
    there = a.s.get(*a.parts)
    if a.parts[0] == "models" and a.query.get("include_aliases") == "true":
        aliases = a.s.of("aliases").get(a.parts[1], {})
        return {**there, "aliases": [{"alias_name": k, "version_num": v} for k, v in aliases.items()]}
    return there


@route("GET", f"{UC}/(schemas|tables)")
def uc_list(a: Ask) -> Json:
    inside = [a.query["catalog_name"]] + ([a.query["schema_name"]] if "schema_name" in a.query else [])
    prefix = ".".join(inside) + "."
    return {a.parts[0]: [v for k, v in a.s.of(a.parts[0]).items() if k.startswith(prefix)]}


@route("GET", f"{UC}/tables/([^/]+)/exists")
def uc_exists(a: Ask) -> Json:
    return {"table_exists": a.parts[0] in a.s.of("tables")}


@route("DELETE", f"{UC}/(catalogs|schemas|volumes|models)/([^/]+)")
def uc_delete(a: Ask) -> Json:
    kind, name = a.parts
    inside = [k for k in ("schemas", "volumes", "tables", "models") for n in a.s.of(k) if n.startswith(f"{name}.")]
    if inside:
        raise Refused(400, "INVALID_STATE", f"{kind[:-1]} '{name}' is not empty")
    if kind == "models" and a.s.of("versions").get(name):
        raise Refused(400, "INVALID_STATE", f"model '{name}' has versions")
    return a.s.remove(kind, name)


@route("GET", f"{UC}/models/([^/]+)/versions")
def uc_versions(a: Ask) -> Json:
    return {"model_versions": [{"version": int(n)} for n in a.s.of("versions").get(a.parts[0], {})]}


@route("DELETE", f"{UC}/models/([^/]+)/versions/([^/]+)")
def uc_version_delete(a: Ask) -> Json:
    a.s.of("versions")[a.parts[0]].pop(a.parts[1])
    return {}


# ── MLflow's registry in Unity Catalog, and experiments ───────────────────────────────────────────────────────────

ML = "/api/2.0/mlflow/unity-catalog"


@route("GET", f"{ML}/registered-models:is-databricks-sdk-models-artifact-repository-enabled")
def ml_sdk(a: Ask) -> Json:
    return {"is_databricks_sdk_models_artifact_repository_enabled": True}


@route("GET", f"{ML}/registered-models/get")
def ml_model(a: Ask) -> Json:
    name = a.query["name"]
    a.s.get("models", name)
    aliases = [{"alias": k, "version": str(v)} for k, v in a.s.of("aliases").get(name, {}).items()]
    return {"registered_model": {"name": name, "aliases": aliases}}


@route("POST", f"{ML}/registered-models/create")
def ml_model_create(a: Ask) -> Json:
    a.s.add("models", a.body["name"], {"full_name": a.body["name"], "comment": a.body.get("description")})
    return {"registered_model": {"name": a.body["name"]}}


@route("POST", f"{ML}/registered-models/alias")
def ml_alias(a: Ask) -> Json:
    ml_version_of(a.s, a.body["name"], a.body["version"])
    a.s.of("aliases").setdefault(a.body["name"], {})[a.body["alias"]] = int(a.body["version"])
    return {}


@route("GET", f"{ML}/registered-models/alias")
def ml_by_alias(a: Ask) -> Json:
    aliases = a.s.of("aliases").get(a.query["name"], {})
    if a.query["alias"] not in aliases:
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Registered model alias {a.query['alias']} not found.")
    return {"model_version": ml_version_of(a.s, a.query["name"], str(aliases[a.query["alias"]]))}


@route("DELETE", f"{ML}/registered-models/alias")
def ml_alias_delete(a: Ask) -> Json:
    a.s.of("aliases").get(a.body["name"], {}).pop(a.body["alias"], None)
    return {}


@route("GET", f"{ML}/model-versions/search")
def ml_search(a: Ask) -> Json:
    name = re.fullmatch(r"name ?= ?'([^']+)'", a.query["filter"])
    assert name is not None, a.query
    a.s.get("models", name[1])
    versions = a.s.of("versions").get(name[1], {}).values()
    return {"model_versions": [{k: v for k, v in version.items() if k != "tags"} for version in versions]}


@route("GET", f"{ML}/model-versions/get")
def ml_version(a: Ask) -> Json:
    return {"model_version": ml_version_of(a.s, a.query["name"], a.query["version"])}


def ml_version_of(s: Standin, name: str, number: str) -> Json:
    there = s.of("versions").get(name, {}).get(number)
    if there is None:
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Model Version {name} {number} does not exist")
    return there


@route("POST", f"{ML}/model-versions/create")
def ml_create(a: Ask) -> Json:
    a.s.get("models", a.body["name"])
    versions = a.s.of("versions").setdefault(a.body["name"], {})
    number = str(len(versions) + 1)
    versions[number] = {**a.body, "version": number, "status": "PENDING_REGISTRATION"}
    return {"model_version": versions[number]}


@route("POST", f"{ML}/model-versions/generate-temporary-credentials")
def ml_credentials(a: Ask) -> Json:
    return {"credentials": {"storage_mode": "DEFAULT_STORAGE"}}


@route("POST", f"{ML}/model-versions/finalize")
def ml_finalize(a: Ask) -> Json:
    there = ml_version_of(a.s, a.body["name"], a.body["version"])
    there["status"] = "READY"
    return {"model_version": there}


@route("POST", f"{ML}/model-versions/set-tag")
def ml_tag(a: Ask) -> Json:
    there = ml_version_of(a.s, a.body["name"], a.body["version"])
    there["tags"] = [*(t for t in there["tags"] if t["key"] != a.body["key"]), {k: a.body[k] for k in ("key", "value")}]
    return {}


@route("GET", "/api/2.0/mlflow/experiments/get-by-name")
def ml_experiment(a: Ask) -> Json:
    return {"experiment": a.s.get("experiments", a.query["experiment_name"])}


@route("POST", "/api/2.0/mlflow/experiments/create")
def ml_experiment_create(a: Ask) -> Json:
    number = str(a.s.number())
    a.s.add("experiments", a.body["name"], {**a.body, "experiment_id": number, "lifecycle_stage": "active"})
    return {"experiment_id": number}


@route("POST", "/api/2.0/mlflow/experiments/delete")
def ml_experiment_delete(a: Ask) -> Json:
    name = next(k for k, v in a.s.of("experiments").items() if v["experiment_id"] == a.body["experiment_id"])
    return a.s.remove("experiments", name)


# ── secrets, files ────────────────────────────────────────────────────────────────────────────────────────────────


@route("GET", "/api/2.0/secrets/scopes/list")
def scopes(a: Ask) -> Json:
    return {"scopes": [{"name": name, "backend_type": "DATABRICKS"} for name in a.s.of("scopes")]}


@route("POST", "/api/2.0/secrets/scopes/create")
def scope_create(a: Ask) -> Json:
    a.s.add("scopes", a.body["scope"], {})
    return {}


@route("POST", "/api/2.0/secrets/scopes/delete")
def scope_delete(a: Ask) -> Json:
    return a.s.remove("scopes", a.body["scope"])


@route("GET", "/api/2.0/secrets/list")
def secrets(a: Ask) -> Json:
    return {"secrets": [{"key": key} for key in a.s.get("scopes", a.query["scope"])]}


@route("GET", "/api/2.0/secrets/get")
def secret_get(a: Ask) -> Json:
    scope, key = a.query["scope"], a.query["key"]
    if key not in a.s.get("scopes", scope):
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Secret does not exist with scope: {scope} and key: {key}")
    return {"key": key, "value": base64.b64encode(a.s.get("scopes", scope)[key].encode()).decode()}


@route("POST", "/api/2.0/secrets/put")
def secret_put(a: Ask) -> Json:
    a.s.get("scopes", a.body["scope"])[a.body["key"]] = a.body["string_value"]
    return {}


@route("POST", "/api/2.0/fs/create-upload-url")
def upload_url(a: Ask) -> Json:
    return {"url": f"{a.s.url}/upload{a.body['path']}", "headers": []}


@route("PUT", "(?:/api/2.0/fs/files|/upload)(/.+)")
def file_put(a: Ask) -> Json:
    a.s.of("files")[a.parts[0]] = a.body
    return {}


@route("(?:GET|HEAD)", "(?:/api/2.0/fs/files|/cloud/file)(/.+)")
def file_get(a: Ask) -> bytes:
    return a.s.get("files", a.parts[0])


@route("POST", "/api/2.0/fs/create-download-url")
def download_url(a: Ask) -> Json:
    a.s.get("files", a.query["path"])
    return {"url": f"{a.s.url}/cloud/file{a.query['path']}", "headers": []}


@route("(?:GET|HEAD)", "/api/2.0/fs/directories(/.+)")
def directory(a: Ask) -> Json:
    prefix = f"{a.parts[0].rstrip('/')}/"
    inside = {path.removeprefix(prefix).partition("/")[0] for path in a.s.of("files") if path.startswith(prefix)}
    if not inside:
        raise Refused(404, "NOT_FOUND", f"The directory {a.parts[0]} is not there.")
    files = a.s.of("files")
    entries = [
        {"path": prefix + name, "name": name, "is_directory": prefix + name not in files}
        | ({"file_size": len(files[prefix + name])} if prefix + name in files else {})
        for name in sorted(inside)
    ]
    return {"contents": entries}


# A file from 50 MiB on is sent in parts, straight to the storage of the cloud: /cloud. Source: mixins/files.py
# of databricks-sdk 0.156; the answers of storage: Azure, "Put Block", and its error for a signature out of its time.


@route("POST", "/api/2.0/fs/files(/.+)")
def upload_start_or_end(a: Ask) -> Json:
    uploads = a.s.of("uploads")
    if a.query["action"] == "initiate-upload":
        token = f"session-{a.s.number()}"
        uploads[token] = {"path": a.parts[0], "parts": {}}
        return {"multipart_upload": {"session_token": token}}
    assert (a.query["action"], a.query["upload_type"]) == ("complete-upload", "multipart")
    upload = a.s.get("uploads", a.query["session_token"])
    named = {part["part_number"]: part["etag"] for part in a.body["parts"]}
    if named != {number: etag for number, (etag, _) in upload["parts"].items()} or upload["path"] != a.parts[0]:
        raise Refused(400, "INVALID_PARAMETER_VALUE", "these are not the parts that were uploaded")
    a.s.of("files")[a.parts[0]] = b"".join(content for _, (_, content) in sorted(upload["parts"].items()))
    return a.s.remove("uploads", a.query["session_token"])


@route("POST", "/api/2.0/fs/create-upload-part-urls")
def upload_part_urls(a: Ask) -> Json:
    token, first = a.body["session_token"], a.body["start_part_number"]
    a.s.get("uploads", token)
    urls = [
        {
            "url": f"{a.s.url}/cloud/part/{token}/{number}?sig=SIGNATURE",
            "part_number": number,
            "headers": [{"name": "x-ms-version", "value": "2021-08-06"}],
        }
        for number in range(first, first + a.body["count"])
    ]
    return {"upload_part_urls": urls}


@route("PUT", "/cloud/part/([^/]+)/([0-9]+)")
def upload_part(a: Ask) -> Told:
    token, number = a.parts
    etag = f'"{token}-{number}"'
    a.s.get("uploads", token)["parts"][int(number)] = (etag, a.body)
    return Told(201, {"etag": etag})


@route("POST", "/api/2.0/fs/create-abort-upload-url")
def abort_url(a: Ask) -> Json:
    a.s.get("uploads", a.body["session_token"])
    return {"abort_upload_url": {"url": f"{a.s.url}/cloud/abort/{a.body['session_token']}?sig=SIGNATURE"}}


@route("DELETE", "/cloud/abort/([^/]+)")
def upload_abort(a: Ask) -> Json:
    return a.s.remove("uploads", a.parts[0])


# ── clusters ──────────────────────────────────────────────────────────────────────────────────────────────────────


@route("GET", "/api/2.1/clusters/spark-versions")
def runtimes(a: Ask) -> Json:
    keys = {
        "15.4.x-scala2.12": "15.4 LTS (includes Apache Spark 3.5.0, Scala 2.12)",
        "17.3.x-scala2.13": "17.3 LTS (includes Apache Spark 4.0.0, Scala 2.13)",
        "17.3.x-cpu-ml-scala2.13": "17.3 LTS ML (includes Apache Spark 4.0.0, Scala 2.13)",
    }
    return {"versions": [{"key": key, "name": name} for key, name in keys.items()]}


@route("GET", "/api/2.1/clusters/list")
def clusters(a: Ask) -> Json:
    return {"clusters": list(a.s.of("clusters").values())}


@route("GET", "/api/2.1/clusters/get")
def cluster_get(a: Ask) -> Json:
    there = a.s.get("clusters", a.query["cluster_id"])
    return ready(there, "state", "PENDING", "RUNNING")


def ready(there: Json, name: str, now: str, then: str) -> Json:
    """What is there, one poll nearer to being ready."""
    there["polls"] = there.get("polls", 0) - 1
    there[name] = now if there["polls"] >= 0 else then
    return {key: value for key, value in there.items() if key != "polls"}


@route("POST", "/api/2.1/clusters/create")
def cluster_create(a: Ask) -> Json:
    cluster = f"0000-{a.s.number():06}"
    spec = whole(compute.ClusterSpec, a.body)
    a.s.add("clusters", cluster, {**spec, "cluster_id": cluster, "state": "PENDING", "polls": a.s.polls})
    return {"cluster_id": cluster}


@route("POST", "/api/2.1/clusters/edit")
def cluster_edit(a: Ask) -> Json:
    spec = {key: value for key, value in a.body.items() if key != "cluster_id"}
    a.s.get("clusters", a.body["cluster_id"]).update(whole(compute.ClusterSpec, spec))
    return {}


@route("POST", "/api/2.1/clusters/permanent-delete")
def cluster_delete(a: Ask) -> Json:
    return a.s.remove("clusters", a.body["cluster_id"])


@route("GET", "/api/2.0/libraries/cluster-status")
def library_status(a: Ask) -> Json:
    there = a.s.get("clusters", a.query["cluster_id"]).get("installed", [])
    return {"library_statuses": [{"library": library, "status": "INSTALLED"} for library in there]}


@route("POST", "/api/2.0/libraries/(install|uninstall)")
def library_change(a: Ask) -> Json:
    cluster = a.s.get("clusters", a.body["cluster_id"])
    there = cluster.setdefault("installed", [])
    for library in a.body["libraries"]:
        whole(compute.Library, library)
    keep = [library for library in there if library not in a.body["libraries"]]
    cluster["installed"] = keep + (a.body["libraries"] if a.parts[0] == "install" else [])
    return {}


# ── serving, quality, alerts, jobs ────────────────────────────────────────────────────────────────────────────────

SERVING = "/api/2.0/serving-endpoints"


@route("POST", SERVING)
def endpoint_create(a: Ask) -> Json:
    whole(serving.EndpointCoreConfigInput, {"name": a.body["name"], **a.body["config"]})
    whole(serving.AiGatewayConfig, a.body["ai_gateway"])
    entities_exist(a.s, a.body["config"])
    made = {**a.body, "state": {"ready": "NOT_READY"}, "polls": a.s.polls}
    return {k: v for k, v in a.s.add("endpoints", a.body["name"], made).items() if k != "polls"}


def entities_exist(s: Standin, config: Json) -> None:
    shares = sum(one["traffic_percentage"] for one in config["traffic_config"]["routes"])
    if shares != 100:
        raise Refused(400, "INVALID_PARAMETER_VALUE", f"traffic percentages add up to {shares}, not 100")
    for entity in config["served_entities"]:
        if "entity_name" in entity:
            ml_version_of(s, entity["entity_name"], entity["entity_version"])


@route("GET", f"{SERVING}/([^/]+)")
def endpoint_get(a: Ask) -> Json:
    there = a.s.get("endpoints", a.parts[0])
    there["polls"] = there.get("polls", 0) - 1
    moving = there["polls"] >= 0
    state = {"ready": "NOT_READY" if moving else "READY", "config_update": "IN_PROGRESS" if moving else "NOT_UPDATING"}
    return {**{k: v for k, v in there.items() if k != "polls"}, "state": state}


@route("PUT", f"{SERVING}/([^/]+)/config")
def endpoint_update(a: Ask) -> Json:
    there = a.s.get("endpoints", a.parts[0])
    if there.get("polls", 0) > 0:
        raise Refused(409, "RESOURCE_CONFLICT", f"Endpoint '{a.parts[0]}' is being updated")
    whole(serving.EndpointCoreConfigInput, {"name": a.parts[0], **a.body})
    entities_exist(a.s, a.body)
    there |= {"config": a.body, "polls": a.s.polls}
    return {k: v for k, v in there.items() if k != "polls"}


@route("PUT", f"{SERVING}/([^/]+)/ai-gateway")
def endpoint_gateway(a: Ask) -> Json:
    a.s.get("endpoints", a.parts[0])["ai_gateway"] = whole(serving.AiGatewayConfig, a.body)
    return a.body


@route("DELETE", f"{SERVING}/([^/]+)")
def endpoint_delete(a: Ask) -> Json:
    return a.s.remove("endpoints", a.parts[0])


QUALITY = "/api/data-quality/v1/monitors"


@route("POST", QUALITY)
def monitor_create(a: Ask) -> Json:
    whole(dataquality.Monitor, a.body)
    if a.body["object_id"] not in [table.get("table_id") for table in a.s.of("tables").values()]:
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"no table {a.body['object_id']}")
    return a.s.add("monitors", a.body["object_id"], a.body)


@route("GET", f"{QUALITY}/table/([^/]+)")
def monitor_get(a: Ask) -> Json:
    return a.s.get("monitors", a.parts[0])


@route("PATCH", f"{QUALITY}/table/([^/]+)")
def monitor_update(a: Ask) -> Json:
    a.s.get("monitors", a.parts[0]).update(whole(dataquality.Monitor, a.body))
    return a.body


@route("DELETE", f"{QUALITY}/table/([^/]+)")
def monitor_delete(a: Ask) -> Json:
    return a.s.remove("monitors", a.parts[0])


@route("POST", "/api/2.0/alerts")
def alert_create(a: Ask) -> Json:
    number = str(a.s.number())
    return a.s.add("alerts", number, {**whole(sql.AlertV2, a.body), "id": number, "lifecycle_state": "ACTIVE"})


@route("GET", "/api/2.0/alerts")
def alerts(a: Ask) -> Json:
    return {"alerts": list(a.s.of("alerts").values())}


@route("GET", "/api/2.0/alerts/([^/]+)")
def alert_get(a: Ask) -> Json:
    return a.s.get("alerts", a.parts[0])


@route("PATCH", "/api/2.0/alerts/([^/]+)")
def alert_update(a: Ask) -> Json:
    changed = {key: a.body[key] for key in a.query["update_mask"].split(",")}
    a.s.get("alerts", a.parts[0]).update(changed)
    return a.s.get("alerts", a.parts[0])


@route("DELETE", "/api/2.0/alerts/([^/]+)")
def alert_delete(a: Ask) -> Json:
    return a.s.remove("alerts", a.parts[0])


@route("POST", "/api/2.2/jobs/create")
def job_create(a: Ask) -> Json:
    number = a.s.number()
    jobs_exist(a.s, a.body)
    a.s.add("jobs", str(number), {"job_id": number, "settings": whole(jobs.JobSettings, a.body)})
    return {"job_id": number}


def jobs_exist(s: Standin, settings: Json) -> None:
    for task in settings["tasks"]:
        if run := task.get("run_job_task"):
            s.get("jobs", str(run["job_id"]))


@route("GET", "/api/2.2/jobs/list")
def job_list(a: Ask) -> Json:
    there = a.s.of("jobs").values()
    return {"jobs": [job for job in there if a.query.get("name") in (None, job["settings"]["name"])]}


@route("GET", "/api/2.2/jobs/get")
def job_get(a: Ask) -> Json:
    return a.s.get("jobs", a.query["job_id"])


@route("POST", "/api/2.2/jobs/reset")
def job_reset(a: Ask) -> Json:
    jobs_exist(a.s, a.body["new_settings"])
    a.s.get("jobs", str(a.body["job_id"]))["settings"] = whole(jobs.JobSettings, a.body["new_settings"])
    return {}


@route("POST", "/api/2.2/jobs/delete")
def job_delete(a: Ask) -> Json:
    return a.s.remove("jobs", str(a.body["job_id"]))


# ── Azure Resource Manager ────────────────────────────────────────────────────────────────────────────────────────

GROUP = "/subscriptions/[^/]+/resource[gG]roups/([^/]+)"
ARM = f"{GROUP}/providers/Microsoft.Databricks/workspaces/([^/]+)"


@route("GET", f"{GROUP}/resources")
def arm_inside(a: Ask) -> Json:
    return {"value": [{"name": n.split("/")[1]} for n in a.s.of("workspaces") if n.startswith(f"{a.parts[0]}/")]}


@route("GET", GROUP)
def arm_group(a: Ask) -> Json:
    return arm_there(a.s, "groups", a.parts[0], "ResourceGroupNotFound")


@route("PUT", GROUP)
def arm_group_put(a: Ask) -> Json:
    a.s.of("groups")[a.parts[0]] = {"name": a.parts[0], **a.body}
    return a.s.of("groups")[a.parts[0]]


@route("DELETE", GROUP)
def arm_group_delete(a: Ask) -> Json:
    return a.s.remove("groups", a.parts[0])


@route("GET", ARM)
def arm_workspace(a: Ask) -> Json:
    there = arm_there(a.s, "workspaces", "/".join(a.parts), "ResourceNotFound")
    there["polls"] = there.get("polls", 0) - 1
    state = "Creating" if there["polls"] >= 0 else "Succeeded"
    there["properties"]["provisioningState"] = state
    return {key: value for key, value in there.items() if key != "polls"}


@route("PUT", ARM)
def arm_workspace_put(a: Ask) -> Json:
    arm_there(a.s, "groups", a.parts[0], "ResourceGroupNotFound")
    if ArmWorkspace(a.body).as_dict() != a.body:
        raise Refused(400, "InvalidRequestContent", "unknown fields")
    properties = {
        **a.body["properties"],
        "workspaceUrl": "adb-1.2.azuredatabricks.net",
        "provisioningState": "Creating",
    }
    name = "/".join(a.parts)
    a.s.of("workspaces")[name] = {**a.body, "name": a.parts[1], "properties": properties, "polls": a.s.polls}
    return {key: value for key, value in a.s.of("workspaces")[name].items() if key != "polls"}


@route("DELETE", ARM)
def arm_workspace_delete(a: Ask) -> Json:
    return a.s.remove("workspaces", "/".join(a.parts))


def arm_there(s: Standin, kind: str, name: str, code: str) -> Json:
    if name not in s.of(kind):
        refused = Refused(404, code, f"{name} could not be found.")
        refused.body = {"error": {"code": code, "message": f"{name} could not be found."}}
        raise refused
    return s.of(kind)[name]


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────────────


@route("GET", "/.well-known/databricks-config")
def well_known(a: Ask) -> Json:
    return {}


def environment(standin: Standin, folder: Path) -> dict[str, str]:
    """The variables by which the vendors' clients find the stand-in and log in to it; `az` is a script in `folder`."""
    az = folder / "az"
    answer = {"accessToken": standin.token, "expires_on": 4102444800, "subscription": "s", "tenant": "t"}
    az.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    az.chmod(0o755)
    return {
        "DATABRICKS_HOST": standin.url,
        "DATABRICKS_TOKEN": standin.token,
        "DATABRICKS_CONFIG_FILE": str(folder / "databrickscfg"),
        "TRIMTAB_ARM_URL": standin.url,
        "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }


@contextmanager
def running(polls: int = 0) -> Iterator[Standin]:
    """A stand-in on a free port of this machine, until the block ends."""
    standin = Standin(polls=polls)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(standin))
    server.daemon_threads = True
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()


def _handler(standin: Standin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            url = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            is_json = "json" in (self.headers.get("content-type") or "")
            body = json.loads(content) if content and is_json else content
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            with standin.lock:
                status, answer, headers = _answer(standin, self.command, unquote(url.path), query, body, self.headers)
                shown = f"<{len(body)} bytes>" if isinstance(body, bytes) and body else blotted(body) or None
                standin.seen.append(Seen(self.command, unquote(url.path), query, shown, status))
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
            for name, value in {"content-type": kind, "content-length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            """Be quiet: `seen` has it."""

    return Handler


def _answer(
    s: Standin, method: str, path: str, query: dict[str, str], body: Any, headers: Any
) -> tuple[int, Any, dict[str, str]]:
    for fault in s.faults:
        if fault.times > 0 and re.fullmatch(fault.method, method) and re.fullmatch(fault.path, path):
            fault.times -= 1
            return fault.status, fault.body, fault.headers
    if path.startswith("/cloud/"):
        assert "authorization" not in headers, "the workspace's token went to the cloud's storage"
    elif headers.get("authorization") != f"Bearer {s.token}" and not path.startswith(("/.well-known", "/upload")):
        if path.startswith("/subscriptions"):
            error = {
                "code": "ExpiredAuthenticationToken",
                "message": "The access token expiry UTC time is in the past.",
            }
            return 401, {"error": error}, {}
        return 403, {"error_code": "403", "message": "Invalid access token. [ReqId: 1]"}, {}
    for verb, pattern, answer in ROUTES:
        match = pattern.fullmatch(path)
        if match and re.fullmatch(verb, method):
            try:
                told = answer(Ask(s, match.groups(), query, body))
                return (told.status, told.body, told.headers) if isinstance(told, Told) else (200, told, {})
            except Refused as refused:
                return refused.status, refused.body, {}
    return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": f"the stand-in has no {method} {path}"}, {}
