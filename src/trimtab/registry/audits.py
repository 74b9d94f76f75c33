"""Audits in MLflow: one run an audit, nested runs for mitigations, plots and tables beside the numbers.

The layout: tags rai.*, metrics rai/METRIC/ATTRIBUTE/gap…, artifacts rai/by_group.json, report.json, report.md,
forest.png, forest.svg; the verdict also stands at the model version, as the tag rai.gate.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from trimtab.records.record import utc_now
from trimtab.records.responsible import Audit
from trimtab.registry import client_of
from trimtab.responsible import audit as audits
from trimtab.responsible import plots
from trimtab.settings import Settings


def log_audit(
    settings: Settings,
    model: str,
    audit: Audit,
    number: int | None = None,
    *,
    parent: str | None = None,
    name: str = "",
) -> str:
    """Log an audit; returns its run. `number`: the model version that gets the verdict as a tag. Probes gate nothing:
    theirs is "information", and no tag."""
    client, verdict = client_of(settings), "information" if audit.kind == "probes" else audit.verdict
    tags = {
        "rai.kind": audit.kind,
        "rai.subject": audit.subject,
        "rai.policy_sha256": audit.policy_sha256,
        "rai.dataset_sha256": audit.evaluation_sha256,
        "rai.verdict": verdict,
        "rai.overused": str(audit.overused).lower(),
        "rai.log_root": audit.log_root,
        **({"mlflow.parentRunId": parent} if parent else {}),
    }
    experiment = client.get_experiment_by_name(model)
    where = experiment.experiment_id if experiment else client.create_experiment(model)
    run = client.create_run(where, tags=tags, run_name=name or f"audit {audit.kind}")
    identity, policy = run.info.run_id, audit.policy
    params = {
        "alpha": policy.alpha,
        "min_denominator": policy.minimum,
        "seed": policy.seed,
        "fairlearn": installed("fairlearn"),
        **{f"tau.{metric.replace('/', '.')}": tolerance.gap for metric, tolerance in policy.gating.items()},
        **{f"d0.{metric.replace('/', '.')}": tolerance.deadband for metric, tolerance in policy.gating.items()},
    }
    at = int(utc_now().timestamp() * 1000)
    found = [Metric(key, value, at, 0) for key, value in audits.metrics(audit).items()]
    told = [Param(key, str(value)) for key, value in params.items()]
    client.log_batch(identity, found, told, [RunTag("rai.n", str(audit.n))])
    client.log_table(identity, audits.rows(audit), "rai/by_group.json")
    if audit.examples:
        client.log_table(identity, {"pair": list(audit.examples)}, "rai/worst_pairs.json")
    client.log_inputs(identity, datasets=[_evaluated(audit)])
    client.log_dict(identity, audit.model_dump(mode="json"), "rai/report.json")
    client.log_text(identity, audits.page(audit), "rai/report.md")
    log_pictures(settings, identity, {"forest": plots.forest(audit)})
    client.set_terminated(identity)
    if number is not None and parent is None and audit.kind != "probes":
        client.set_model_version_tag(model, str(number), f"rai.gate.{audit.kind}", verdict)
    return identity


def _evaluated(audit: Audit) -> DatasetInput:
    """The evaluation set as MLflow's input: by its hash, for its texts may be customers'."""
    source = json.dumps({"sha256": audit.evaluation_sha256, "n": audit.n, "unit": audit.unit})
    dataset = Dataset(f"{audit.kind} evaluation set", audit.evaluation_sha256[:16], "trimtab", source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])


def log_pictures(settings: Settings, run: str, pictures: Mapping[str, Mapping[str, bytes]]) -> None:
    """Add plots to a run: each by name, in every format it comes in."""
    client = client_of(settings)
    with tempfile.TemporaryDirectory() as folder:
        for name, formats in pictures.items():
            for kind, data in formats.items():
                path = Path(folder) / f"{name}.{kind}"
                path.write_bytes(data)
                client.log_artifact(run, str(path), "rai")


def log_change(settings: Settings, run: str, before: Audit, after: Audit) -> None:
    """Add each flip rate before and after a mitigation to its run: rai/flip_rate/AXIS/before and /after; of declared
    groups each gap: rai/METRIC/ATTRIBUTE/gap/before and /after."""
    client = client_of(settings)
    for name, audit in (("before", before), ("after", after)):
        for metric, value in audits.metrics(audit).items():
            flips = metric.startswith("rai/flip_rate/") and metric.count("/") == 2
            if flips or (audit.kind == "groups" and metric.endswith("/gap")):
                client.log_metric(run, f"{metric}/{name}", value)


def log_note(settings: Settings, run: str, tags: Mapping[str, str], lines: Sequence[str]) -> None:
    """Add tags and a text to a run, e.g. why a mitigation was accepted or not."""
    client = client_of(settings)
    for key, value in tags.items():
        client.set_tag(run, key, value)
    client.log_text(run, "\n".join(lines) + "\n", "rai/acceptance.txt")
