"""The workspace as an Azure resource: resource group and workspace through azure-mgmt, and the same as an ARM template.

`az login` (or a managed identity, or AZURE_* variables) says who you are: azure-identity's DefaultAzureCredential.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.databricks import AzureDatabricksManagementClient
from azure.mgmt.databricks.models import Sku, Workspace, WorkspaceProperties
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.resource.resources.models import ResourceGroup

from trimtab.databricks import faults
from trimtab.databricks.jobs import target_of
from trimtab.databricks.plan import Call, Json, Kind, Resource, Tell
from trimtab.databricks.wire import Request, Wire, blotted
from trimtab.errors import Fixable
from trimtab.records.databricks import AzureSection
from trimtab.records.project import Project

API_VERSION = "2026-01-01"
"""Of Microsoft.Databricks/workspaces, as azure-mgmt-databricks 3.0 sends it."""

URL = "TRIMTAB_ARM_URL"
"""Environment variable: another Azure Resource Manager than the public cloud's, e.g. https://management.chinacloudapi.cn."""


def section_of(project: Project) -> AzureSection:
    """The file's target.databricks.azure. Raises Fixable when it has none."""
    section = target_of(project).azure
    if section is None:
        example = "azure: {subscription: …, resource_group: …, region: westeurope, workspace: …}"
        raise Fixable("trimtab.yaml names no Azure workspace", f"add `{example}` to target.databricks")
    return section


def workspace(section: AzureSection, mark: str) -> Workspace:
    """The workspace as Azure's own model: the body of the request, and of the template's resource."""
    group = f"/subscriptions/{section.subscription}/resourceGroups/databricks-rg-{section.workspace}"
    return Workspace(
        location=section.region,
        sku=Sku(name=section.pricing_tier),
        tags={**section.tags, "trimtab": mark},
        properties=WorkspaceProperties(compute_mode=section.compute_mode, managed_resource_group_id=group),
    )


def desired(project: Project) -> list[Resource]:
    """Resource group and workspace, as they should be."""
    section = section_of(project)
    given = {"mark": project.name, "section": section}
    body: Json = {
        "location": section.region,
        "sku": {"name": section.pricing_tier},
        "properties": {"computeMode": section.compute_mode},
    }
    if section.tags:
        body["tags"] = dict(section.tags)
    return [
        Resource("resource group", section.resource_group, {}, given),
        Resource("workspace", section.workspace, body, given),
    ]


def template(project: Project) -> Json:
    """The workspace as an ARM template for `az deployment group create`; the resource group must be there."""
    section = section_of(project)
    resource = {
        "type": "Microsoft.Databricks/workspaces",
        "apiVersion": API_VERSION,
        "name": section.workspace,
        **workspace(section, project.name).as_dict(),
    }
    reference = f"reference(resourceId('Microsoft.Databricks/workspaces', '{section.workspace}'), '{API_VERSION}')"
    return {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [resource],
        "outputs": {"workspaceUrl": {"type": "string", "value": f"[{reference}.workspaceUrl]"}},
    }


def workspace_url(project: Project, clients: Clients) -> str | None:
    """The address of the workspace that is there, or None."""
    section = section_of(project)
    there = _found(lambda: clients.databricks.workspaces.get(section.resource_group, section.workspace))
    host = (there or {}).get("properties", {}).get("workspaceUrl")
    return host and f"https://{host}"


class Clients:
    """Azure's own clients of one subscription, with every write on the wire."""

    def __init__(self, section: AzureSection, wire: Wire, credential: Any = None) -> None:
        logging.getLogger("azure").setLevel(logging.ERROR)  # what matters arrives as an error
        url = os.environ.get(URL)
        with faults.translated("logging in to Azure"):
            if credential is None:
                from azure.identity import DefaultAzureCredential

                credential = DefaultAzureCredential()
            more: dict[str, Any] = {"per_call_policies": [_OnWire(wire, local=_is_local(url))]}
            if url:
                more |= {"base_url": url, "credential_scopes": ["https://management.azure.com/.default"]}
            self.databricks = AzureDatabricksManagementClient(credential, section.subscription, **more)
            self.resources = ResourceManagementClient(credential, section.subscription, **more)
        self.pollers: dict[str, Any] = {}


def kinds(clients: Clients) -> dict[str, Kind]:
    """How resource groups and workspaces are read, made, changed and deleted."""
    return {"resource group": _group(clients), "workspace": _workspace(clients)}


def _group(clients: Clients) -> Kind:
    groups = clients.resources.resource_groups

    def create(resource: Resource) -> Sequence[Call]:
        section: AzureSection = resource.given["section"]
        tags = {**section.tags, "trimtab": resource.given["mark"]}
        group = ResourceGroup(location=section.region, tags=tags)
        return [lambda: groups.create_or_update(resource.name, group)]

    def kept(resource: Resource, there: Json) -> str:
        inside = [str(item.name) for item in clients.resources.resources.list_by_resource_group(resource.name)]
        others = sorted(set(inside) - {resource.given["section"].workspace})
        return f"holds other resources: {', '.join(others)}" if others else ""

    return Kind(
        read=lambda r: _found(lambda: groups.get(r.name)),
        create=create,
        change=lambda r, there, paths: (),
        delete=lambda r, there: [lambda: _ended(groups.begin_delete(r.name))],
        mine=_mine,
        kept=kept,
        shares=True,
    )


def _workspace(clients: Clients) -> Kind:
    workspaces = clients.databricks.workspaces

    def put(resource: Resource, tags: dict[str, str]) -> Any:
        section: AzureSection = resource.given["section"]
        asked = workspace(section, resource.given["mark"])
        asked.tags = {**tags, **(asked.tags or {})}
        poller = workspaces.begin_create_or_update(section.resource_group, resource.name, asked)
        clients.pollers[resource.name] = poller

    def delete(resource: Resource, there: Json) -> Sequence[Call]:
        group = resource.given["section"].resource_group
        return [lambda: _ended(workspaces.begin_delete(group, resource.name))]

    def wait(resource: Resource, tell: Tell) -> None:
        poller = clients.pollers.pop(resource.name)
        while not poller.done():
            tell(f"{poller.status()} (a workspace takes about five minutes)")
            poller.wait(10)
        poller.result()

    return Kind(
        read=lambda r: _found(lambda: workspaces.get(r.given["section"].resource_group, r.name)),
        create=lambda r: [lambda: put(r, {})],
        change=lambda r, there, paths: [lambda: put(r, there.get("tags", {}))],
        delete=delete,
        mine=_mine,
        wait=wait,
        fixed=("location", "properties.computeMode"),
    )


class _OnWire(SansIOHTTPPolicy[Any, Any]):
    """Puts every write on the wire. To a stand-in on this machine, a token may travel without TLS."""

    def __init__(self, wire: Wire, *, local: bool) -> None:
        self.wire, self.local = wire, local

    def on_request(self, request: PipelineRequest[Any]) -> None:
        """Raises NotSent for a write that is rehearsed."""
        if self.local:
            request.context.options["enforce_https"] = False
        http = request.http_request
        if http.method not in ("GET", "HEAD"):
            path = http.url.split("://", 1)[-1].partition("/")[2]
            self.wire.write(Request(http.method, f"/{path}", blotted(_json(http))))


def _json(http: Any) -> Any:
    content = getattr(http, "content", None) or getattr(http, "data", None)
    return json.loads(content) if content else None


def _mine(resource: Resource, there: Json) -> bool:
    return (there.get("tags") or {}).get("trimtab") == resource.given["mark"]


def _found(read: Callable[[], Any]) -> Json | None:
    try:
        return read().as_dict()
    except ResourceNotFoundError:
        return None


def _ended(poller: Any) -> None:
    poller.result()


def _is_local(url: str | None) -> bool:
    return bool(url and url.startswith(("http://127.0.0.1:", "http://localhost:")))
