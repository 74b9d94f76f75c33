"""The system card: what one version is, on what data, by what evidence it was let in. Pure; from records only.

Markdown under the headings of Annex IV of the EU AI Act, with the metadata block that Hugging Face reads (model-index).
The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from trimtab.records.guidelines import ComplianceReport, Drill, Guidelines
from trimtab.records.monitor import Interval
from trimtab.records.promotion import Decision, GateResult, RolloutLook
from trimtab.records.registry import AliasMove, ModelVersion, ProjectFile
from trimtab.records.training import DatasetVersion, HostedTuning, TrainingRun
from trimtab.responsible.compliance_report import FRAMEWORKS

NOT_RECORDED = "Not recorded."
NO_GUIDELINES = f"{NOT_RECORDED} The project has no guidelines."
NO_FILE = (
    f"{NOT_RECORDED} An earlier release registered this version and did not keep what trimtab.yaml and the guidelines "
    "said; `trimtab compliance --record` puts on record what they say now."
)
LATER = ("Gates", "Decision", "Rollout")
"""What a card can only say once the version was decided on."""


def render(
    version: ModelVersion,
    *,
    license: str,
    language: str = "en",
    dataset: DatasetVersion | None = None,
    training: TrainingRun | None = None,
    decision: Decision | None = None,
    moves: Sequence[AliasMove] = (),
    looks: Sequence[RolloutLook] = (),
    file: ProjectFile | None = None,
    guidelines: Guidelines | None = None,
    report: ComplianceReport | None = None,
    drills: Sequence[Drill] = (),
) -> str:
    """The card as Markdown. `license` is that of the base weights (a Hugging Face licence id, "unknown" if so).

    What has no record is named as not recorded. `moves` and `looks` of other versions are left out. `report` is the
    newest one that is on record; `file` and `guidelines` are what they said then.
    """
    spec = version.spec
    mine = [move for move in moves if version.version in (move.before, move.after)]
    own = [look for look in looks if look.candidate == version.version]
    unsaid = _unsaid(file)
    sections = {
        "1. General description": {"Purpose": _purpose(version), "Intended use": _use(guidelines, unsaid)},
        "2. Elements and development": {
            "What it is made of": _parts(version),
            "Data": _data(version, dataset),
            "Training": _training(version, training),
        },
        "3. Functioning and control": {
            "Fairness": _fairness(decision, dataset),
            "Human oversight": _oversight(guidelines, drills, unsaid),
        },
        "4. Performance metrics": {"Gates": _gates(decision)},
        "5. Risk management": {"Risks": _risks(guidelines, unsaid), "Clauses": _clauses(report)},
        "6. Changes": {"Decision": _decision(decision, mine), "Rollout": _rollout(own)},
        "7. Standards": {"What the clauses speak to": _standards(guidelines, unsaid)},
        "8. Declaration of conformity": {"": "None is made here: it is the provider's to draw up and sign."},
        "9. After it is live": {"Monitoring": _monitoring(file, guidelines)},
        "Check it yourself": {"": _verify(version, file)},
    }
    metadata = _metadata(version, license.lower(), language, dataset, decision)
    body = "\n\n".join(
        "\n\n".join([f"## {title}", *(f"### {name}\n\n{text}" if name else text for name, text in parts.items())])
        for title, parts in sections.items()
    )
    return f"---\n{metadata}---\n\n# {spec.model}, version {version.version}\n\n{body}\n"


def gaps(card: str) -> list[str]:
    """The headings of a card that have nothing on record, but for those that only a decision can fill."""
    parts = (part.partition("\n\n") for part in card.split("\n### ")[1:])
    return [name for name, _, text in parts if text.startswith(NOT_RECORDED) and name not in LATER]


def _unsaid(file: ProjectFile | None) -> str:
    """Why a heading that the guidelines fill is empty where there are none to read."""
    if file is None:
        return NO_FILE
    if not file.guidelines_sha256:
        return NO_GUIDELINES
    return f"{NOT_RECORDED} The guidelines `{file.guidelines_sha256}` are in a form that this release does not read."


def _use(guidelines: Guidelines | None, unsaid: str) -> str:
    if guidelines is None:
        return unsaid
    use = guidelines.intended_use
    lines = [
        f"{use.purpose} Answerable: {guidelines.owner}.",
        *([f"Where: {', '.join(use.domains)}."] if use.domains else []),
        *([f"By whom: {', '.join(use.users)}."] if use.users else []),
        *(f"- Not for: {use}" for use in guidelines.prohibited_use),
    ]
    return "\n".join(lines)


def _oversight(guidelines: Guidelines | None, drills: Sequence[Drill], unsaid: str) -> str:
    if guidelines is None or not guidelines.oversight:
        return unsaid if guidelines is None else f"{NOT_RECORDED} The guidelines name none."
    held = [(drill.at.isoformat(), drill.kind, drill.by, drill.seen) for drill in drills]
    drilled = table(("at", "drill", "by", "seen"), held) if held else "No drill was held yet."
    return f"{guidelines.oversight}\n\n{drilled}"


def _risks(guidelines: Guidelines | None, unsaid: str) -> str:
    if guidelines is None or not guidelines.risks:
        return unsaid if guidelines is None else f"{NOT_RECORDED} The guidelines name none."
    return "\n".join(f"- {risk}" for risk in guidelines.risks)


def _clauses(report: ComplianceReport | None) -> str:
    if report is None:
        return "No report on this version is kept yet: `trimtab compliance --record`."
    rows = [(f.clause, f.text, f.status, f.reason) for f in report.findings]
    return f"As found at {report.at.isoformat()}:\n\n" + table(("clause", "promise", "status", "found"), rows)


def _standards(guidelines: Guidelines | None, unsaid: str) -> str:
    places = sorted({place for clause in guidelines.clauses for place in clause.maps}) if guidelines else []
    if not places:
        return unsaid if guidelines is None else f"{NOT_RECORDED} No clause names an article or a control."
    named = {prefix: [place for place in places if place.split("-")[0] == prefix] for prefix in FRAMEWORKS}
    lines = [f"- {FRAMEWORKS[prefix]}: {', '.join(found)}" for prefix, found in named.items() if found]
    return "\n".join([*lines, "", "Named as what clauses speak to; whether they are met is not judged here."])


def _monitoring(file: ProjectFile | None, guidelines: Guidelines | None) -> str:
    if file is None:
        return NO_FILE
    if not file.watched:
        return f"{NOT_RECORDED} Nothing is monitored."
    periodic = [f"{c.id} is proved again {', '.join(c.on)}" for c in guidelines.clauses] if guidelines else []
    return "\n".join(f"- {line}" for line in [*file.watched, *periodic])


def _metadata(
    version: ModelVersion, license: str, language: str, dataset: DatasetVersion | None, decision: Decision | None
) -> str:
    spec = version.spec
    block: dict[str, Any] = {"license": license, "language": [language], "base_model": spec.base.name}
    task = "text-classification" if spec.labels else "text-generation"
    block |= {"pipeline_tag": task, "tags": ["trimtab"] + (["lora"] if spec.adapter_sha256 else [])}
    if dataset is not None:
        block["datasets"] = [f"{spec.model}-{dataset.hash[:12]}"]
        accuracy = _accuracy(decision)
        if accuracy is not None:
            metric = {"type": "accuracy", "name": "accuracy on the hold-out", "value": round(accuracy, 4)}
            source = {"type": block["datasets"][0], "name": "hold-out of this cycle", "split": "holdout"}
            result = {"task": {"type": task}, "dataset": source, "metrics": [metric]}
            block["model-index"] = [{"name": f"{spec.model}-v{version.version}", "results": [result]}]
    out = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(block, out)  # pyright: ignore[reportUnknownMemberType]
    return out.getvalue()


def _accuracy(decision: Decision | None) -> float | None:
    found = [
        gate.numbers.get("accuracy_candidate")
        for gate in (decision.gates if decision else ())
        if gate.gate == "quality"
    ]
    return found[0] if found else None


def _purpose(version: ModelVersion) -> str:
    spec = version.spec
    if spec.labels is None:
        task = "It answers in free text."
    else:
        fields = "; ".join(f"`{name}` ({', '.join(values)})" for name, values in spec.labels.fields.items())
        task = f"It answers with one label for each of: {fields}."
    quoted = "\n".join(f"> {line}".rstrip() for line in spec.prompt.system.splitlines())
    note = f"\n\nNote: {version.note}" if version.note else ""
    limits = "Uses beyond this task have not been judged."
    return f"{task} Its task, as its system prompt puts it:\n\n{quoted}\n\n{limits}{note}"


def _parts(version: ModelVersion) -> str:
    spec, decoding, sha = version.spec, version.spec.decoding, version.spec.base.sha256
    heat = "of the model" if decoding.temperature is None else f"{decoding.temperature:g}"
    rows = [
        ("base weights", f"{spec.base.name} ({spec.base.format})" + (f", SHA-256 `{sha}`" if sha else "")),
        ("adapter", f"LoRA, SHA-256 `{spec.adapter_sha256}`" if spec.adapter_sha256 else "none"),
        ("prompt", f"{len(spec.prompt.system)} characters, {len(spec.prompt.examples)} examples"),
        (
            "decoding",
            f"temperature {heat}, at most {decoding.max_tokens} tokens, seed {decoding.seed}"
            + (", forced into the label set" if decoding.constrained and spec.labels else ""),
        ),
        *spec.mitigations.items(),
        ("version hash", f"`{spec.hash}`"),
        ("file hash", f"`{version.config_hash}` (trimtab.yaml)"),
        ("registered", f"{version.created_at.isoformat()}, MLflow run `{version.run_id}`"),
        ("parent", f"version {version.parent}" if version.parent is not None else "none"),
    ]
    return table(("part", "value"), rows)


def _data(version: ModelVersion, dataset: DatasetVersion | None) -> str:
    if dataset is None:
        return _untuned(version)
    excluded = ", ".join(f"{n} {reason}" for reason, n in sorted(dataset.excluded.items())) or "none"
    new = "; ".join(f"{field}: {', '.join(values)}" for field, values in dataset.new_labels.items()) or "none"
    rows = [
        ("dataset hash", f"`{dataset.hash}`"),
        ("training rows", str(dataset.n_train)),
        ("hold-out rows", f"{dataset.n_holdout}, frozen before training"),
        ("texts for counterfactual pairs", f"{dataset.n_frames}, not trained on"),
        ("rows left out", excluded),
        ("labels that joined", new),
        ("mitigation", dataset.mitigation.replace("_", " ")),
        ("largest likeness of a training and a hold-out row", f"{dataset.nearest_leak:.3f}"),
        ("rows seen until", dataset.cut.isoformat()),
    ]
    return table(("data", "value"), rows)


def _untuned(version: ModelVersion) -> str:
    return NOT_RECORDED if version.spec.adapter_sha256 else "This version was not fine-tuned by a cycle."


def _training(version: ModelVersion, run: TrainingRun | None) -> str:
    if run is None:
        return _untuned(version)
    params = ", ".join(f"{name} {value}" for name, value in sorted(run.params.items()))
    return (
        f"{run.method.upper()}, {run.steps} steps in {run.seconds:.0f} s ({params}). "
        f"{run.losses(3, ' to ').capitalize()} (nats per answer token). Run `{run.key}`."
        + (f" {_at_provider(run.hosted)}" if run.hosted else "")
    )


def _at_provider(made: HostedTuning) -> str:
    files = ", ".join(f"{part} file `{name}`" for part, name in sorted(made.files.items()))
    return (
        f"Job `{made.job}` on {made.base} made `{made.model}`, which answers as `{made.served}`; {files}; "
        f"training file SHA-256 `{made.sha256}`."
    )


def _gates(decision: Decision | None) -> str:
    if decision is None or not decision.gates:
        return f"{NOT_RECORDED} This version did not pass through gates."
    rows = [(g.gate, g.verdict, str(g.n), _interval(g.value), g.limit, g.test) for g in decision.gates]
    judged = table(("gate", "verdict", "n", "value", "asked", "test"), rows)
    return "\n\n".join([judged, *(f"- **{gate.gate}**: {gate.detail}" for gate in decision.gates)])


def _fairness(decision: Decision | None, dataset: DatasetVersion | None) -> str:
    gate: GateResult | None = next((g for g in (decision.gates if decision else ()) if g.gate == "fairness"), None)
    if gate is None:
        return "Not measured. Nothing is known about how answers differ between people."
    verdicts = {
        "pass": "The answers do not depend on the declared names by more than the tolerance.",
        "fail": "The answers depend on the declared names.",
        "insufficient": "Too few pairs to say whether the answers depend on the declared names.",
    }
    lines = [f"{verdicts[gate.verdict]} {gate.detail}"]
    if "flip_rate" in gate.numbers:
        rate, upper = gate.numbers["flip_rate"], gate.numbers["flip_rate_upper"]
        lines.append(f"Of {gate.n} pairs, {rate:.1%} changed in any way (below {upper:.1%} at 95% confidence).")
    if gate.examples:
        lines.append("Pairs that differ:\n\n" + "\n".join(f"- {_cell(example)}" for example in gate.examples))
    if dataset is not None and dataset.mitigation == "counterfactual_augmentation":
        lines.append(
            "Mitigation: each training row that names its writer was also learned under a name of another group."
        )
    if dataset is not None and dataset.mitigation == "reweighing":
        lines.append("Mitigation: training rows were repeated or left out until group and label were independent.")
    lines.append(
        "Limits: the test (and the mitigation, where there is one) removes dependence on declared names only. It says "
        "nothing about names that are not declared, other hints at a group, or whether the labels themselves are fair."
    )
    return "\n\n".join(lines)


def _decision(decision: Decision | None, moves: Sequence[AliasMove]) -> str:
    lines: list[str] = []
    if decision is None:
        lines.append(f"{NOT_RECORDED} No decision stands behind this version.")
    else:
        held = f" Held against guidelines `{decision.guidelines}`." if decision.guidelines else ""
        rival = "no champion" if decision.champion is None else f"version {decision.champion}"
        lines.append(f"**{decision.outcome}** at {decision.at.isoformat()}, against {rival} (`{decision.key}`).{held}")
        lines.append("\n".join(f"- {reason}" for reason in decision.reasons))
    if moves:
        rows = [(m.at.isoformat(), m.alias, _version(m.before), _version(m.after), m.actor, m.reason) for m in moves]
        lines.append(table(("at", "alias", "from", "to", "by", "why"), rows))
    return "\n\n".join(lines)


def _rollout(looks: Sequence[RolloutLook]) -> str:
    if not looks:
        return NOT_RECORDED
    rows = [
        (
            look.at.isoformat(),
            f"{look.percent:g}%",
            f"{look.failures_canary}/{look.n_canary}",
            f"{look.failures_champion}/{look.n_champion}",
            f"{look.e_value:.3g} of {1 / look.alpha:g}",
            _interval(look.difference),
            look.verdict,
        )
        for look in looks
    ]
    head = ("at", "share", "canary failed", "champion failed", "evidence of harm", "difference", "verdict")
    return table(head, rows) + "\n\nThe evidence may be looked at any time: harm is called when it reaches its limit."


def _verify(version: ModelVersion, file: ProjectFile | None) -> str:
    book = f", its guidelines `{file.guidelines_sha256}`" if file and file.guidelines_sha256 else ""
    said = f" Use, oversight, risks and monitoring are as the project file `{file.hash}`{book} said." if file else ""
    return (
        "Every statement above stands in the project's records under the hashes named here. The version hash is the "
        "SHA-256 of the canonical JSON (sorted keys, no spaces) of everything that decides an answer; the files have "
        f"the SHA-256 named above; the MLflow run is `{version.run_id}`. Decisions and moves of aliases also stand in "
        "the project's audit log, where an edited entry contradicts every signed checkpoint after it: `trimtab audit "
        f"verify` checks it.{said}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line that cannot end its table cell or list item."""
    return " ".join(text.split()).replace("|", "\\|")


def _interval(value: Interval | None) -> str:
    if value is None:
        return "not measured"
    return f"{value.estimate:.3f} ({value.low:.3f} to {value.high:.3f}, {value.confidence:.0%})"


def _version(version: int | None) -> str:
    return "unset" if version is None else f"version {version}"
