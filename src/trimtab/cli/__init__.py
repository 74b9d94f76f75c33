"""The command line, in the order of the lifecycle. It parses, calls one function of a room, and shows the result.

Rooms are imported inside the commands, after the file was read: `trimtab --help` and a faulty file answer at once.
Every error Trimtab raises on purpose ends here: one line, its fix, and its exit code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trimtab import __version__
from trimtab.cli import (
    azure,
    bundle,
    compliance,
    databricks,
    erasure,
    evidence,
    fairness,
    guards,
    job,
    keys,
    live,
    loop,
    payloads,
    prepare,
    show,
)
from trimtab.errors import TrimtabError


class _Lifecycle(TyperGroup):
    """The commands in the order of the lifecycle (Typer would list groups first)."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for _, names in PANELS for name in names]


PANELS = (
    ("Prepare", ("init", "check", "schema", "setup")),
    ("Serve and watch", ("register", "up", "keys", "guards", "status", "history")),
    ("Retrain and roll out", ("cycle", "approve", "promote", "rollback", "job")),
    (
        "Evidence",
        (
            *("fairness", "compliance", "card", "explain", "audit"),
            *("requests", "erase", "hold", "retention", "subjects", "attributes"),
        ),
    ),
    ("Azure Databricks", ("azure", "databricks")),
    ("See it all in minutes", ("demo",)),
)
"""The commands by stage: the order of `trimtab --help`."""

_COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (prepare.init, "trimtab init my-triage"),
    (prepare.check, "trimtab check my-triage --json"),
    (prepare.schema, "trimtab schema > trimtab.schema.json"),
    (prepare.setup, "trimtab setup"),
    (live.register, "trimtab register"),
    (live.up, "TRIMTAB_PORT=9000 trimtab up --open"),
    (live.status, "trimtab status --project my-triage"),
    (live.history, 'trimtab history --at "2026-10-03 14:05"'),
    (loop.approve, "trimtab approve"),
    (loop.promote, 'trimtab promote 3 --reason "retrained on October"'),
    (loop.rollback, 'trimtab rollback --reason "wrong refunds since noon" --dry-run'),
    (evidence.card, "trimtab card --version 3 > system-card.md"),
    (evidence.explain, "trimtab explain 9f0c5b1e --json"),
    (erasure.erase, "trimtab erase alice@example.org --dry-run"),
    (erasure.hold, 'trimtab hold alice@example.org --reason "case 2026-17"'),
    (erasure.retention, "trimtab retention --dry-run"),
    (prepare.demo, "trimtab demo"),
)
_GROUPS: dict[str, tuple[str, tuple[tuple[Callable[..., None], str], ...]]] = {
    "keys": (
        "Say who may ask, and how much: API keys with scopes, limits and budgets.",
        (
            (keys.create, "trimtab keys create ci --scope predict --expires 90d --rate 600/min"),
            (keys.list_, "trimtab keys list"),
            (keys.rotate, "trimtab keys rotate key-3f9a12bc45d6 --grace 1h"),
            (keys.revoke, "trimtab keys revoke key-3f9a12bc45d6"),
        ),
    ),
    "guards": (
        "See and try what looks at questions and answers, and how well it was measured to.",
        (
            (guards.list_, "trimtab guards list"),
            (guards.test, 'trimtab guards test "mail me at ann@example.com" --project my-triage'),
            (guards.apply, "trimtab guards apply --dry-run"),
            (guards.card, "trimtab guards card injection"),
            (guards.audit, "trimtab guards audit"),
        ),
    ),
    "cycle": (
        "Run the retraining cycle.",
        ((loop.run, 'trimtab cycle run --reason "new product line"'),),
    ),
    "compliance": (
        "",
        (
            (compliance.key, "trimtab compliance key dpo@example.org --out dpo.key"),
            (
                compliance.waive,
                "trimtab compliance waive BIAS-02 --by dpo@example.org --key dpo.key --until 2026-12-31 --reason few",
            ),
            (
                compliance.attest,
                "trimtab compliance attest USE-01 --by dpo@example.org --key dpo.key --until 2026-12-31 --reason seen",
            ),
            (compliance.drill, "trimtab compliance drill rollback"),
        ),
    ),
    "requests": (
        "Take request rows out, readable.",
        ((payloads.export, 'trimtab requests export october.parquet --purpose "error review" --from 2026-10-01'),),
    ),
    "subjects": (
        "Back up the keys that open the lake, and put them back.",
        (
            (payloads.backup, "trimtab subjects backup /safe/keys-2026-12-01.json"),
            (payloads.restore, "trimtab subjects restore /safe/keys-2026-12-01.json"),
        ),
    ),
    "attributes": (
        "Keep protected attributes apart, for audits of fairness alone.",
        (
            (erasure.add, "trimtab attributes add people.csv"),
            (erasure.read, 'trimtab attributes read gender --purpose "bias audit 2026-q4"'),
        ),
    ),
    "fairness": (
        "Measure bias, mitigate what is established, and show the proof.",
        (
            (fairness.measure, "trimtab fairness measure --groups protected.csv"),
            (fairness.mitigate, "trimtab fairness mitigate --dry-run"),
            (fairness.probe, "trimtab fairness probe --language en"),
            (fairness.report, "trimtab fairness report > fairness.md"),
        ),
    ),
    "job": (
        "Run one step of the loop, as a scheduler does: profile, drift, curate, … deploy; or erase where the rows are.",
        (
            (job.profile, "trimtab job profile"),
            (job.drift, "trimtab job drift"),
            (job.curate, 'trimtab job curate --reason "new product line"'),
            (job.train, "trimtab job train"),
            (job.evaluate, "trimtab job evaluate"),
            (job.decide, "trimtab job decide"),
            (job.deploy, "trimtab job deploy"),
            (job.erase, "trimtab job erase --request 9f0c5b1e"),
        ),
    ),
    "audit": (
        "Check, pin and hand out the audit log.",
        (
            (evidence.verify, "trimtab audit verify --checkpoint kept-elsewhere.note"),
            (evidence.checkpoint, "trimtab audit checkpoint > kept-elsewhere.note"),
            (evidence.key, "trimtab audit key"),
            (evidence.export, "trimtab audit export > audit.jsonl"),
            (evidence.bundle, "trimtab audit bundle 2026-q4.zip --from 2026-10-01 --to 2027-01-01"),
        ),
    ),
    "azure": (
        "Create the Azure Databricks workspace that trimtab.yaml names, and write what Azure watches and schedules.",
        (
            (databricks.provision, "trimtab azure provision --apply"),
            (azure.alerts, "trimtab azure alerts --email oncall@example.com --write alerts.json"),
            (azure.data_factory, "trimtab azure data-factory --write retrain.json"),
        ),
    ),
    "databricks": (
        "Bring the same trimtab.yaml into a workspace, step by step: each command plans, --apply does it.",
        (
            (databricks.cluster, "trimtab databricks cluster --apply"),
            (databricks.init, "trimtab databricks init --apply"),
            (databricks.push, "trimtab databricks push --apply"),
            (databricks.deploy, "trimtab databricks deploy --canary 10 --apply"),
            (databricks.monitor, "trimtab databricks monitor --apply"),
            (databricks.schedule, "trimtab databricks schedule --apply"),
            (bundle.bundle, "trimtab databricks bundle --apply"),
            (databricks.destroy, "trimtab databricks destroy --confirm support-triage --apply"),
        ),
    ),
}

_ALONE: dict[str, Callable[..., None]] = {"compliance": compliance.report}
"""What a group does without one of its commands."""


def _application() -> typer.Typer:
    panel = {name: title for title, names in PANELS for name in names}
    app = typer.Typer(cls=_Lifecycle, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.callback()(trimtab)
    for body, example in _COMMANDS:
        app.command(rich_help_panel=panel[body.__name__], help=_help(body), epilog=f"Example: {example}")(body)
    for name, (about, bodies) in _GROUPS.items():
        alone = _ALONE.get(name)
        group = typer.Typer(no_args_is_help=alone is None, help=about or None, epilog=f"Example: {bodies[0][1]}")
        if alone is not None:
            group.callback(invoke_without_command=True, help=_help(alone))(alone)
        for body, example in bodies:
            group.command(body.__name__.rstrip("_").replace("_", "-"), help=_help(body), epilog=f"Example: {example}")(
                body
            )
        app.add_typer(group, name=name, rich_help_panel=panel[name])
    return app


def _help(body: Callable[..., None]) -> str:
    """The docstring with its paragraphs on one line each, for the terminal to wrap."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (body.__doc__ or "").split("\n\n"))


def _print_version(wanted: bool) -> None:
    if wanted:
        show.say(f"trimtab {__version__}")
        raise typer.Exit


def trimtab(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Keep a large language model on course: register, serve, watch, retrain, judge, roll out, roll back."""


app = _application()


def main() -> None:
    """Entry point. Returns when all went well; exit codes otherwise: 1 failed, 2 something to mend, 3 somebody moved
    first, 4 stored bytes were changed, 5 the engine failed, 6 a step of a cycle failed, 130 interrupted.

    It returns because a job of Databricks counts every SystemExit of a wheel's entry point as a failure, 0 too. There
    an error leaves as itself: the run's page shows its words, where it would show the number of a SystemExit.
    """
    try:
        app(prog_name="trimtab")
    except TrimtabError as error:
        show.error(error)
        if "DATABRICKS_RUNTIME_VERSION" in os.environ:
            raise
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SystemExit as ended:
        if ended.code:
            raise
