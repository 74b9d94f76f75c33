"""What should be in the workspace, as values: one list for each command, from the project file alone.

Names and fields are those of the vendor's APIs. Nothing here sends anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trimtab.databricks import alert_rules, jobs
from trimtab.databricks.jobs import target_of
from trimtab.databricks.plan import Json, Resource
from trimtab.errors import Fixable
from trimtab.records.project import Project

GRANULARITIES = {
    "5 minutes": "AGGREGATION_GRANULARITY_5_MINUTES",
    "1 hour": "AGGREGATION_GRANULARITY_1_HOUR",
    "1 day": "AGGREGATION_GRANULARITY_1_DAY",
    "1 week": "AGGREGATION_GRANULARITY_1_WEEK",
    "1 month": "AGGREGATION_GRANULARITY_1_MONTH",
}
"""Widths of profile windows, as the data quality API calls them."""


def mark(project: Project) -> str:
    """The comment that tells what Trimtab made from what was there."""
    return f"Made by Trimtab for {project.name}"


def model_name(project: Project) -> str:
    """The registered model's three-level name."""
    return target_of(project).in_catalog(project.name)


def experiment_name(project: Project) -> str:
    """The MLflow experiment's path."""
    return target_of(project).experiment or f"/Shared/{project.name}"


def secret_of(project: Project) -> tuple[str, str] | None:
    """A hosted model's secret: its key in the scope (azure-api-key, azure-client-secret), the variable it is from."""
    name = project.model.base.partition(":")[0]
    provider, entra = project.provider(project.model.base), target_of(project).serving.entra
    if provider and provider.key_env:
        return f"{name}-api-key", provider.key_env
    if provider and entra and provider.credential == "entra":
        return f"{name}-client-secret", entra.secret_env
    return None


def containers(project: Project) -> list[Resource]:
    """What `init` makes: catalog, schema, volume, registered model, experiment, secret scope."""
    target, given = target_of(project), {"mark": mark(project), "project": project.name}
    catalog, schema = target.catalog, target.schema
    at = {"catalog_name": catalog, "schema_name": schema}
    secret = secret_of(project)
    return [
        Resource("catalog", catalog, {"name": catalog}, {**given, "schema": schema}),
        Resource("schema", f"{catalog}.{schema}", {"name": schema, "catalog_name": catalog}, given),
        Resource("volume", f"{catalog}.{schema}.{target.volume}", {**at, "name": target.volume}, given),
        Resource("registered model", model_name(project), {**at, "name": model_name(project).split(".")[2]}, given),
        Resource("experiment", experiment_name(project), {}, given),
        Resource("secret scope", target.secret_scope, {}, {**given, "keys": [secret[0]] if secret else []}),
    ]


def cluster(project: Project, runtime: str) -> list[Resource]:
    """The cluster for notebooks and its libraries. `runtime` is a version key of the workspace."""
    target = target_of(project)
    spec = jobs.cluster_spec(target)
    body = spec | {
        "cluster_name": f"{project.name}-trimtab",
        "spark_version": runtime,
        "autotermination_minutes": target.cluster.autotermination_minutes,
        "custom_tags": {**spec.get("custom_tags", {}), "trimtab": project.name},
    }
    name = str(body["cluster_name"])
    return [Resource("cluster", name, body), Resource("libraries", name, {"libraries": jobs.libraries(target)})]


def endpoint(
    project: Project, aliases: Mapping[str, int], canary: float, bases: Mapping[str, str] | None = None
) -> Resource:
    """The serving endpoint: the champion, and a challenger with its share of the requests.

    `aliases`: versions in Unity Catalog by alias. `canary`: per cent of the requests for the challenger. `bases`: what
    the versions run on, by alias, where that is no longer the file's base: a provider's fine-tune, say. Raises Fixable
    without a champion, and for a share that is no whole number: a route of Databricks takes no other.
    """
    target = target_of(project)
    given = {"project": project.name}
    bases = {"champion": project.model.base, **(bases or {})}
    served = _hosted(project, bases) or _versions(project, aliases)
    names = [entity["name"] for entity in served]
    routes = [
        {"served_entity_name": name, "traffic_percentage": share}
        for name, share in zip(names, _shares(len(names), canary), strict=True)
    ]
    gateway = {
        "inference_table_config": {
            "enabled": True,
            "catalog_name": target.catalog,
            "schema_name": target.schema,
            "table_name_prefix": project.name.replace("-", "_"),
        },
        "usage_tracking_config": {"enabled": True},
    }
    config = {"served_entities": served, "traffic_config": {"routes": routes}}
    return Resource("endpoint", project.name, {"config": config, "ai_gateway": gateway}, given)


def monitor(project: Project) -> Resource:
    """Data profiling of the request log: one profile per window and version of the model."""
    section = target_of(project).monitor
    inference = {
        "problem_type": "INFERENCE_PROBLEM_TYPE_CLASSIFICATION",
        "timestamp_column": "request_time",
        "granularities": [GRANULARITIES[section.granularity]],
        "prediction_column": "output_text",
        "model_id_column": "model_version",
    }
    folder = f"/Workspace/Shared/trimtab/{project.name}"
    return Resource("monitor", jobs.request_log(project), {"inference_log": inference, "assets_dir": folder})


def alerts(project: Project) -> list[Resource]:
    """SQL alerts on the request log. Raises Fixable without a warehouse to run them on."""
    target = target_of(project)
    if target.warehouse is None:
        fix = "write the id of a SQL warehouse at target.databricks.warehouse (its page shows it after the name)"
        raise Fixable("alerts need a SQL warehouse", fix)
    query = (
        "SELECT count_if(status_code >= 400) / greatest(count(*), 1) AS error_rate "
        f"FROM {jobs.request_log(project)} WHERE request_time > current_timestamp() - INTERVAL 1 HOUR"
    )
    of_file = alert_rules.databricks_alerts(
        project,
        table=jobs.request_log(project),
        warehouse=target.warehouse,
        emails=target.alerts.emails,
        paused=target.paused,
        description=mark(project),
    )
    return [
        _alert(project, target.warehouse, "error rate", query, "error_rate", target.monitor.error_rate_max),
        *(Resource("alert", body["display_name"], body) for body in of_file),
    ]


def scheduled(project: Project) -> list[Resource]:
    """The jobs; the drift monitor names the retrain job that it runs."""
    made = jobs.jobs(project, retrain_id=jobs.retrain(project)["name"])
    return [Resource("job", job["name"], job) for job in made.values()]


def _shares(versions: int, canary: float) -> tuple[int, ...]:
    if canary != int(canary):
        fix = "write whole numbers in rollout.canary, or choose one with --canary"
        raise Fixable(f"a canary of {canary:g}%: Databricks routes whole per cents", fix)
    return (100,) if versions == 1 else (100 - int(canary), int(canary))


def _versions(project: Project, aliases: Mapping[str, int]) -> list[Json]:
    """Champion and challenger, as versions in Unity Catalog."""
    champion, challenger = aliases.get("champion"), aliases.get("challenger")
    if champion is None:
        fix = "run `trimtab databricks push --apply` first"
        raise Fixable(f"{model_name(project)} has no alias champion in Unity Catalog", fix)
    numbers = [champion, *([challenger] if challenger not in (None, champion) else [])]
    return [_served(project, f"{project.name}-{number}", number) for number in numbers]


def _served(project: Project, name: str, version: int) -> Json:
    serving = target_of(project).serving
    served: Json = {
        "name": name,
        "entity_name": model_name(project),
        "entity_version": str(version),
        "workload_size": serving.workload_size,
        "workload_type": serving.workload_type,
        "scale_to_zero_enabled": serving.scale_to_zero,
    }
    if environment := _environment(project):
        served["environment_vars"] = environment
    return served


def _environment(project: Project) -> dict[str, str]:
    environment = dict(target_of(project).serving.environment)
    secret, provider = secret_of(project), project.provider(project.model.base)
    if secret and provider and provider.key_env:
        environment.setdefault(provider.key_env, _reference(project, secret[0]))
    return environment


def _hosted(project: Project, bases: Mapping[str, str]) -> list[Json]:
    """Champion and challenger as external models, where a provider has them; empty for weights."""
    champion, challenger = bases["champion"], bases.get("challenger")
    if not _is_hosted(project, champion):
        return []
    if challenger in (None, champion):
        return [_external(project, champion)]
    if not _is_hosted(project, challenger):
        message = f"{champion} is a provider's and {challenger} is not: no endpoint of Databricks serves both"
        raise Fixable(message, "make an endpoint of each, by a project of its own")
    return [_external(project, champion), _external(project, challenger)]


def _is_hosted(project: Project, base: str) -> bool:
    return project.provider(base) is not None and bool(base.partition(":")[2])


def _external(project: Project, base: str) -> Json:
    """An external model: OpenAI's, or Azure OpenAI's by its deployment."""
    provider, secret = project.provider(base), secret_of(project)
    name, _, model = base.partition(":")
    assert provider is not None  # noqa: S101 (asked before)
    azure = (provider.kind or name) == "azure"
    if azure and secret is None:
        fix = f"write providers.{name}.key_env, or with `credential: entra` target.databricks.serving.entra"
        raise Fixable(f"{base}: an external model wants a key or a service principal, and the file has none", fix)
    openai: dict[str, Any] = {"openai_api_type": "azure" if azure else "openai"}
    entra = target_of(project).serving.entra
    if secret and entra and provider.credential == "entra":
        openai["openai_api_type"] = "azuread"
        openai["microsoft_entra_tenant_id"], openai["microsoft_entra_client_id"] = entra.tenant_id, entra.client_id
        openai["microsoft_entra_client_secret"] = _reference(project, secret[0])
    elif secret:
        openai["openai_api_key"] = _reference(project, secret[0])
    if azure:
        openai["openai_deployment_name"] = model
        openai["openai_api_base"] = provider.base_url.removesuffix("/").removesuffix("/openai/v1")
        openai["openai_api_version"] = provider.api_version or "2024-10-21"
    elif name != "openai":
        openai["openai_api_base"] = provider.base_url
    external = {"provider": "openai", "name": model, "task": "llm/v1/chat", "openai_config": openai}
    own = re.sub(r"[^A-Za-z0-9_-]+", "-", model)
    return {"name": f"{project.name}-{own}"[-63:].lstrip("-"), "external_model": external}


def _reference(project: Project, key: str) -> str:
    """A secret as configurations of endpoints name it."""
    return f"{{{{secrets/{target_of(project).secret_scope}/{key}}}}}"


def _alert(project: Project, warehouse: str, name: str, query: str, column: str, above: float) -> Resource:
    target = target_of(project)
    body: Json = {
        "display_name": f"{project.name}: {name}",
        "custom_description": f"{mark(project)}. It fires when the {name} of the last hour is above {above:g}.",
        "query_text": query,
        "warehouse_id": warehouse,
        "schedule": {
            "quartz_cron_schedule": "0 0/15 * * * ?",
            "timezone_id": "UTC",
            "pause_status": "PAUSED" if target.paused else "UNPAUSED",
        },
        "evaluation": {
            "source": {"name": column},
            "comparison_operator": "GREATER_THAN",
            "threshold": {"value": {"double_value": above}},
            "empty_result_state": "UNKNOWN",
            "notification": {"notify_on_ok": True},
        },
    }
    if target.alerts.emails:
        emails = [{"user_email": email} for email in target.alerts.emails]
        body["evaluation"]["notification"]["subscriptions"] = emails
    return Resource("alert", str(body["display_name"]), body)
