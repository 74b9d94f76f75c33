"""The steps from an empty subscription to a scheduled loop, each prepared as a plan and then applied.

`prepare` functions read and send nothing else; `apply` makes the changes of a plan. Run again, each finds nothing to
do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.databricks import catalog, faults, plan, provision, push, resources, running, workspace
from trimtab.databricks.jobs import target_of
from trimtab.databricks.plan import Change, Kind, Resource, Tell
from trimtab.databricks.wire import Wire
from trimtab.project import Loaded
from trimtab.records.project import Project
from trimtab.records.registry import ModelVersion
from trimtab.registry import unity_catalog
from trimtab.settings import Settings


@dataclass(frozen=True)
class Prepared:
    """A plan, and what applies it. `where` is the workspace or the subscription, as people know it."""

    where: str
    changes: list[Change]
    kinds: Mapping[str, Kind]

    @property
    def todo(self) -> list[Change]:
        """The changes that would be made."""
        return [change for change in self.changes if change.action != "keep"]


def prepare_provision(project: Project) -> Prepared:
    """Resource group and workspace. Raises Fixable."""
    section, wire = provision.section_of(project), Wire()
    kinds = provision.kinds(provision.Clients(section, wire))
    with faults.translated("looking at the subscription"):
        changes = plan.plan(wire, kinds, provision.desired(project))
    return Prepared(f"subscription {section.subscription}", changes, kinds)


def workspace_url(project: Project) -> str | None:
    """The address of the provisioned workspace, or None. Raises Fixable."""
    clients = provision.Clients(provision.section_of(project), Wire())
    with faults.translated("asking for the workspace's address"):
        return provision.workspace_url(project, clients)


def prepare_cluster(project: Project) -> Prepared:
    """The cluster for notebooks, and its libraries. Raises Fixable."""
    client, wire = _client(project)
    with faults.translated("asking for the runtimes of the workspace"):
        runtime = running.runtime(client, target_of(project).cluster.runtime)
    return _prepared(client, wire, resources.cluster(project, runtime))


def prepare_init(project: Project) -> Prepared:
    """Catalog, schema, volume, registered model, experiment, secret scope. Raises Fixable."""
    return _prepared(*_client(project), resources.containers(project))


def prepare_push(settings: Settings, loaded: Loaded, versions: Mapping[str, ModelVersion]) -> Prepared:
    """The project's files, a hosted model's key, versions and aliases. `versions`: by alias. Raises Fixable."""
    client, wire = _client(loaded.project)
    profile = target_of(loaded.project).profile
    uri = f"{unity_catalog.URI}://{profile}" if profile else unity_catalog.URI
    registry = unity_catalog.client_of(settings, uri)
    wanted, gone = push.desired(settings, loaded, versions), push.dropped(loaded.project, versions)
    return _prepared(client, wire, wanted, push.kinds(settings, wire, registry, loaded.project), gone)


def prepare_deploy(project: Project, canary: float, versions: Mapping[str, ModelVersion] | None = None) -> Prepared:
    """The serving endpoint on what the aliases name in Unity Catalog. `canary`: per cent for the challenger.

    `versions`: by alias, as the control database has them; only a provider's models are told apart by them.
    """
    client, wire = _client(project)
    with faults.translated("reading the aliases in Unity Catalog"):
        there = client.registered_models.get(resources.model_name(project), include_aliases=True)
    aliases = {str(alias.alias_name): int(alias.version_num or 0) for alias in there.aliases or ()}
    if versions:  # an alias that only Unity Catalog has is one of a canary that was called back
        aliases = {alias: number for alias, number in aliases.items() if alias in versions}
    bases = {alias: version.spec.base.name for alias, version in (versions or {}).items()}
    return _prepared(client, wire, [resources.endpoint(project, aliases, canary, bases)])


def prepare_monitor(project: Project) -> Prepared:
    """Data profiling of the request log, and SQL alerts. Raises Fixable."""
    wanted = [resources.monitor(project), *resources.alerts(project)]
    return _prepared(*_client(project), wanted)


def prepare_schedule(project: Project) -> Prepared:
    """The jobs: retraining, and the drift monitor that starts it. Raises Fixable."""
    return _prepared(*_client(project), resources.scheduled(project))


def prepare_destroy(project: Project) -> Prepared:
    """The removal of everything that the steps made in the workspace, the last first. Raises Fixable."""
    client, wire = _client(project)
    kinds = _kinds(client)
    made = [
        *resources.containers(project),
        *resources.cluster(project, "any")[:1],
        Resource("endpoint", project.name, {}, {"project": project.name}),
        resources.monitor(project),
        *(resources.alerts(project) if target_of(project).warehouse else ()),
        *resources.scheduled(project),
    ]
    with faults.translated("looking at the workspace"):
        changes = plan.plan_removal(wire, kinds, made)
    return Prepared(client.config.host or "the workspace", changes, kinds)


def prepare_unprovision(project: Project) -> Prepared:
    """The removal of the workspace, and of its resource group when nothing else is in it. Raises Fixable."""
    section, wire = provision.section_of(project), Wire()
    kinds = provision.kinds(provision.Clients(section, wire))
    with faults.translated("looking at the subscription"):
        changes = plan.plan_removal(wire, kinds, provision.desired(project))
    return Prepared(f"subscription {section.subscription}", changes, kinds)


def apply(prepared: Prepared, tell: Tell) -> None:
    """Make the changes of a plan; `tell` hears what is being done. Raises Fixable; what was done before is kept."""
    doing = "changing the workspace"

    def told(text: str) -> None:
        nonlocal doing
        doing = text.rstrip("…")
        tell(text)

    with faults.translated(lambda: doing):
        plan.apply(prepared.kinds, prepared.changes, told)


def _client(project: Project) -> tuple[Any, Wire]:
    wire = Wire()
    return workspace.connect(target_of(project), wire), wire


def _kinds(client: Any) -> dict[str, Kind]:
    return catalog.kinds(client) | running.kinds(client)


def _prepared(
    client: Any,
    wire: Wire,
    wanted: list[Resource],
    more: Mapping[str, Kind] | None = None,
    gone: Sequence[Resource] = (),
) -> Prepared:
    kinds = {**_kinds(client), **(more or {})}
    with faults.translated("looking at the workspace"):
        changes = plan.plan(wire, kinds, wanted) + plan.plan_removal(wire, kinds, gone)
    return Prepared(client.config.host or "the workspace", changes, kinds)
