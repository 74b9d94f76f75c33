"""Azure Databricks, step by step. Each command shows its plan and every request it would make; --apply does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli import show
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import Fixable

if TYPE_CHECKING:
    from trimtab.databricks.plan import Change
    from trimtab.databricks.steps import Prepared
    from trimtab.records.project import Project
    from trimtab.records.registry import ModelVersion

Apply = Annotated[bool, typer.Option("--apply", help="Do it. Without, only the plan is shown.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the plan as JSON, with every request in full.")]

_SIGNS = {"create": "+", "change": "~", "delete": "-", "keep": "="}
_SHOWN = 160  # characters of a request; --json has them all


def provision(
    project: Folder = Path(),
    template: Annotated[
        Path | None, typer.Option(help="Write the workspace as an ARM template to this file, and stop.")
    ] = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Create the resource group and the Azure Databricks workspace of target.databricks.azure.

    Name, subscription, resource group, region and pricing tier come from trimtab.yaml; `az login` says who you are.
    """
    _, loaded = opened(project)
    steps = _room()
    if template is not None:
        from trimtab.databricks import provision as azure

        template.write_text(json.dumps(azure.template(loaded.project), indent=2) + "\n", "utf-8")
        show.say(f"wrote {template}")
        show.then(f"`az deployment group create --resource-group … --template-file {template}`")
        return
    _carry_out(lambda: steps.prepare_provision(loaded.project), apply, as_json, lambda: _address(loaded.project))


def cluster(project: Folder = Path(), apply: Apply = False, as_json: AsJson = False) -> None:
    """Create a cluster for notebooks, with runtime, node type, autotermination and libraries of trimtab.yaml.

    Jobs need it only where `compute: cluster` asks for clusters of their own; the default is serverless.
    """
    _, loaded = opened(project)
    steps = _room()
    _carry_out(lambda: steps.prepare_cluster(loaded.project), apply, as_json, "`trimtab databricks init`")


def init(project: Folder = Path(), apply: Apply = False, as_json: AsJson = False) -> None:
    """Make the places: catalog, schema, volume, registered model, experiment and secret scope.

    What is there already is used, and never removed by `destroy`.
    """
    _, loaded = opened(project)
    steps = _room()
    _carry_out(lambda: steps.prepare_init(loaded.project), apply, as_json, "`trimtab databricks push`")


def push(project: Folder = Path(), apply: Apply = False, as_json: AsJson = False) -> None:
    """Bring the project in: its files into the volume, champion and challenger into Unity Catalog's registry.

    Versions are registered by MLflow's client, with their base weights, signature, lineage tags and aliases. The key of
    a hosted model goes into the secret scope, from the environment variable that its provider names.
    """
    settings, loaded = opened(project)
    steps = _room()
    _, versions = _recorded(project, loaded.project.name)
    if not versions:
        raise Fixable(f"{loaded.project.name} has no champion", "run `trimtab register` first")
    _carry_out(lambda: steps.prepare_push(settings, loaded, versions), apply, as_json, "`trimtab databricks deploy`")


def deploy(
    project: Folder = Path(),
    canary: Annotated[
        int | None,
        typer.Option(min=0, max=100, help="Per cent of requests for the challenger.", show_default="as it is here"),
    ] = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Serve champion and challenger behind one endpoint, with traffic split, inference table and usage tracking.

    A hosted base (azure:DEPLOYMENT, openai:MODEL) becomes an external model. An endpoint that is there is updated in
    place: requests go on being answered.
    """
    _, loaded = opened(project)
    recorded_share, versions = _recorded(project, loaded.project.name)
    share = float(canary) if canary is not None else recorded_share
    steps = _room()
    _carry_out(
        lambda: steps.prepare_deploy(loaded.project, share, versions), apply, as_json, "`trimtab databricks monitor`"
    )


def monitor(project: Folder = Path(), apply: Apply = False, as_json: AsJson = False) -> None:
    """Watch it: data profiling of the requests (Data Quality Monitoring), and a SQL alert on the error rate.

    Needs the request log: a view of the endpoint's inference table (which appears up to an hour after the first
    request) that the drift job of `schedule` makes when it runs first.
    """
    _, loaded = opened(project)
    steps = _room()
    _carry_out(lambda: steps.prepare_monitor(loaded.project), apply, as_json, "`trimtab databricks schedule`")


def schedule(project: Folder = Path(), apply: Apply = False, as_json: AsJson = False) -> None:
    """Schedule the loop: a drift job on new requests or a cron, and the retrain job that goes through the gate.

    train → evaluate → decide → gate → deploy, each task the wheel's entry point `trimtab job NAME`.
    """
    _, loaded = opened(project)
    steps = _room()
    then = "watch the jobs in the workspace; `trimtab databricks destroy` removes everything again"
    _carry_out(lambda: steps.prepare_schedule(loaded.project), apply, as_json, then)


def destroy(
    project: Folder = Path(),
    confirm: Annotated[str, typer.Option(metavar="NAME", help="The project's name, typed: with --apply.")] = "",
    with_workspace: Annotated[
        bool, typer.Option("--workspace", help="The Azure workspace and its resource group, not what is in it.")
    ] = False,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Remove what these commands made, the last first. Cannot be undone: --apply needs --confirm with the name.

    Kept is what Trimtab did not make, and a schema with tables in it: requests that were answered are evidence.
    """
    _, loaded = opened(project)
    name = loaded.project.name
    if apply and confirm != name:
        raise Fixable("nothing was removed: --apply needs the project's name", f"add `--confirm {name}`")
    steps = _room()
    if with_workspace:
        _carry_out(lambda: steps.prepare_unprovision(loaded.project), apply, as_json, "nothing of it is left in Azure")
        return
    then = "`trimtab databricks destroy --workspace` for the Azure workspace itself"
    _carry_out(lambda: steps.prepare_destroy(loaded.project), apply, as_json, then)


def _address(project: Project) -> str:
    """What to do once the workspace is there."""
    target = project.target.databricks
    url = _room().workspace_url(project)
    if target is None or target.host or target.profile or url is None:
        return "`trimtab databricks cluster`"
    return f"`databricks auth login --host {url}`, and `host: {url}` or the profile in target.databricks"


def _recorded(folder: Path, model: str) -> tuple[float, dict[str, ModelVersion]]:
    """The canary's share and the versions by alias, as the control database has them; 0 and none without one."""
    try:
        _, control = recorded(folder)
    except Fixable:
        return 0.0, {}
    from trimtab import registry

    numbers = {alias: control.alias(model, alias) for alias in registry.ALIASES}
    versions = {alias: registry.get(control, model, number) for alias, number in numbers.items() if number is not None}
    traffic = control.traffic(model)
    return traffic.percent if traffic and traffic.version is not None else 0.0, versions


def _room() -> Any:
    try:
        from trimtab.databricks import steps
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("azure", "databricks", "trimtab"):
            raise
        raise Fixable(
            "the clients of Azure and Databricks are not installed", "pip install 'trimtab[databricks]'"
        ) from None
    return steps


def _carry_out(prepare: Callable[[], Prepared], apply: bool, as_json: bool, then: str | Callable[[], str]) -> None:
    """Show the plan; with `apply`, do it. Next steps go to standard error."""
    with show.working("looking at what is there…"):
        prepared = prepare()
    if as_json:
        typer.echo(json.dumps([_as_json(change) for change in prepared.changes], indent=2, ensure_ascii=False))
    else:
        show.say(f"PLAN for {prepared.where}", style="bold")
        for change in prepared.changes:
            _show(change)
        show.say(_summary(prepared.changes))
    if prepared.todo and not apply:
        show.then("the same with --apply; nothing was changed")
        return
    if prepared.todo:
        _apply(prepared)
    else:
        show.say("nothing to do")
    show.then(then if isinstance(then, str) else then())


def _apply(prepared: Prepared) -> None:
    steps = _room()
    with show.working("applying…") as status:

        def tell(text: str) -> None:
            if text.endswith("…"):
                status.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                status.update(text)

        steps.apply(prepared, tell)
    done = {"create": "created", "change": "changed", "delete": "deleted"}
    counted = {word: sum(change.action == action for change in prepared.todo) for action, word in done.items()}
    show.say("done: " + ", ".join(f"{number} {word}" for word, number in counted.items() if number))


def _show(change: Change) -> None:
    note = f"  ({change.note})" if change.note else ""
    show.say(f"  {_SIGNS[change.action]} {change.resource.kind} {change.resource.name}{note}")
    for difference in change.differences:
        have = "nothing" if difference.have is None else json.dumps(difference.have, ensure_ascii=False)
        want = "nothing" if difference.want is None else json.dumps(difference.want, ensure_ascii=False)
        show.say(f"      {difference.path}: {_cut(have)} -> {_cut(want)}")
    for request in change.requests:
        show.say(f"      {_cut(str(request))}", style="dim")


def _summary(changes: list[Change]) -> str:
    counted = {action: sum(change.action == action for change in changes) for action in _SIGNS}
    words = {"create": "to create", "change": "to change", "delete": "to delete", "keep": "as they should be"}
    if any(change.note for change in changes):
        words["keep"] = "kept"
    return (
        ", ".join(f"{counted[action]} {text}" for action, text in words.items() if counted[action]) or "nothing there"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _as_json(change: Change) -> dict[str, Any]:
    return {
        "action": change.action,
        "kind": change.resource.kind,
        "name": change.resource.name,
        "differences": [vars(difference) for difference in change.differences],
        "requests": [vars(request) for request in change.requests],
        "note": change.note,
    }
