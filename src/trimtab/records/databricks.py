"""The section target.databricks of trimtab.yaml: which workspace, and what Trimtab keeps and runs there.

It names a profile of the Databricks configuration file, never a secret.
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trimtab.records.file_model import FileModel, refused

UNITY_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,254}$"
"""A part of a three-level name that SQL needs no quotes for."""

_DEPENDENCY = r"^\S.*$"


def _pricing_tier(value: str) -> str:
    if value in ("premium", "trial"):
        return value
    if value == "standard":
        problem = "Azure creates no new standard workspaces since 2026-04-01, and upgraded all others on 2026-10-01"
        raise refused(problem, "write premium (Unity Catalog needs it)")
    raise refused("is no pricing tier", "write premium or trial")


def _email(value: str) -> str:
    if re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value):
        return value
    raise refused("is no e-mail address", "write name@example.com")


def _drift_when(value: str) -> str:
    if value == "table_update" or value.startswith("cron:"):
        return value
    raise refused("starts nothing", "write table_update or 'cron: 0 * * * *'")


class AzureSection(FileModel):
    """The workspace as an Azure resource: what `trimtab azure provision` creates."""

    subscription: str = Field(
        pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        examples=["00000000-0000-0000-0000-000000000000"],
    )
    """Azure subscription (a GUID)."""
    resource_group: str = Field(pattern=r"^[-\w.()]{0,89}[-\w()]$", examples=["rg-llmops"])
    """Resource group; created when it is not there."""
    region: str = Field(pattern=r"^[a-z0-9]+$", examples=["westeurope"])
    """Azure region, as `az account list-locations` names it."""
    workspace: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{2,63}$", examples=["llmops"])
    """Name of the workspace, 3 to 64 characters."""
    pricing_tier: Annotated[
        str, AfterValidator(_pricing_tier), Field(json_schema_extra={"enum": ["premium", "trial"]})
    ] = "premium"
    """premium, or trial (premium for 14 days). Azure no longer offers standard."""
    compute_mode: Literal["Hybrid", "Serverless"] = "Hybrid"
    """Hybrid: clusters in your subscription, and serverless compute. Serverless: no clusters of your own."""
    tags: dict[str, str] = Field(default={})
    """Tags of the group and the workspace, e.g. a cost centre."""


class ClusterSection(FileModel):
    """A cluster for notebooks, and for the jobs when `compute` is cluster."""

    runtime: str = Field(
        default="lts", pattern=r"^(lts|lts-ml|\d+\.[x\d][\w.-]*)$", examples=["lts", "17.3.x-scala2.13"]
    )
    """Databricks Runtime: a version key, or lts / lts-ml for the newest with long-term support."""
    node_type: str = Field(default="Standard_D4ds_v5", pattern=r"^\S+$")
    """Azure virtual machine size of every node."""
    workers: int = Field(default=0, ge=0, le=1000)
    """Worker nodes; 0 is a single node."""
    autotermination_minutes: int = Field(default=30, ge=10, le=10_000)
    """Idle minutes after which it stops (and stops costing)."""
    libraries: tuple[Annotated[str, Field(pattern=_DEPENDENCY)], ...] = ()
    """Python packages beside Trimtab: requirements such as fairlearn==0.13.0, or .whl files in a volume."""


class ServicePrincipal(FileModel):
    """An application of Microsoft Entra ID as which the endpoint asks Azure OpenAI, in place of a key."""

    tenant_id: str = Field(pattern=r"^[0-9a-fA-F-]{36}$", examples=["00000000-0000-0000-0000-000000000000"])
    """Directory (tenant) id."""
    client_id: str = Field(pattern=r"^[0-9a-fA-F-]{36}$", examples=["00000000-0000-0000-0000-000000000000"])
    """Application (client) id; it needs the role Cognitive Services OpenAI User on the resource."""
    secret_env: str = Field(default="AZURE_CLIENT_SECRET", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable of the client secret; `push` puts it into the secret scope, the file never holds it."""


class ServingSection(FileModel):
    """The serving endpoint."""

    workload_size: Literal["Small", "Medium", "Large"] = "Small"
    """Concurrency of each served version: Small 4, Medium 8 to 16, Large 16 to 64 requests."""
    workload_type: Literal["CPU", "GPU_SMALL", "GPU_MEDIUM", "GPU_LARGE"] = "CPU"
    """Machines it runs on."""
    scale_to_zero: bool = True
    """Stop when nobody asks; the next caller waits for the start."""
    environment: dict[str, str] = Field(default={})
    """Environment of the served model. A secret is written {{secrets/SCOPE/KEY}}, never as its value."""
    entra: ServicePrincipal | None = None
    """Who an external model of Azure OpenAI is asked as, when its provider has `credential: entra` and no key."""


class DatabricksMonitorSection(FileModel):
    """What `trimtab databricks monitor` and `schedule` watch."""

    granularity: Literal["5 minutes", "1 hour", "1 day", "1 week", "1 month"] = "1 hour"
    """Width of the windows of the data profile."""
    when: Annotated[str, AfterValidator(_drift_when)] = "table_update"
    """When the drift job runs: table_update (new rows of the inference table), or 'cron: 0 * * * *'."""
    error_rate_max: float = Field(default=0.05, gt=0, lt=1)
    """Share of failed requests in the last hour above which the alert fires."""


class DatabricksAlerts(FileModel):
    """Who hears of it."""

    emails: tuple[Annotated[str, AfterValidator(_email)], ...] = ()
    """Addresses for alerts and failed jobs."""


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", 'Field name "schema"')  # hides a deprecated method of pydantic, as intended

    class DatabricksTarget(FileModel):
        """A workspace of Azure Databricks."""

        profile: str | None = Field(default=None, pattern=r"^\S+$", examples=["prod"])
        """Profile of ~/.databrickscfg that says who you are; null: the variables DATABRICKS_*."""
        host: str | None = Field(
            default=None, pattern=r"^https?://[^\s/]+$", examples=["https://adb-1234567890123456.7.azuredatabricks.net"]
        )
        """The workspace's address, when neither the profile nor DATABRICKS_HOST has it."""
        catalog: str = Field(pattern=UNITY_NAME, examples=["ml"])
        """Unity Catalog catalog."""
        schema: str = Field(pattern=UNITY_NAME, examples=["support"])  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        """Schema in the catalog: registered model, tables and volume live in it."""
        volume: str = Field(default="trimtab", pattern=UNITY_NAME)
        """Volume for files: the project, weights, adapters."""
        experiment: str | None = Field(default=None, pattern=r"^/\S.*$", examples=["/Shared/support-triage"])
        """MLflow experiment; null: /Shared/ and the project's name."""
        secret_scope: str = Field(default="trimtab", pattern=r"^[\w.@-]{1,128}$")
        """Secret scope for the keys of hosted models."""
        package: str | None = Field(
            default=None,
            pattern=r"^\S.*$",
            examples=["trimtab==0.1.0", "/Volumes/ml/support/trimtab/trimtab-0.1.0-py3-none-any.whl"],
        )
        """What jobs and endpoint install: a requirement, or a wheel in a volume; null: this version from PyPI."""
        warehouse: str | None = Field(default=None, pattern=r"^[0-9a-f]+$", examples=["a1b2c3d4e5f60718"])
        """SQL warehouse that alerts run on, by its id."""
        compute: Literal["serverless", "cluster"] = "serverless"
        """What jobs run on: serverless, or a new cluster as `cluster` says for each run."""
        cluster: ClusterSection = ClusterSection()
        azure: AzureSection | None = None
        """For `trimtab azure provision`; leave it out when the workspace is there."""
        serving: ServingSection = ServingSection()
        monitor: DatabricksMonitorSection = DatabricksMonitorSection()
        alerts: DatabricksAlerts = DatabricksAlerts()
        paused: bool = False
        """Jobs are created, and start only by hand."""

        def in_catalog(self, name: str) -> str:
            """A name of ours as the three-level name of Unity Catalog: catalog.schema.name, `-` written `_`."""
            return f"{self.catalog}.{self.schema}.{name.replace('-', '_')}"

        @property
        def volume_path(self) -> str:
            """Where the volume is mounted."""
            return f"/Volumes/{self.catalog}/{self.schema}/{self.volume}"
