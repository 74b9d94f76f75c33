"""What must hold between the values of trimtab.yaml: a gate has data behind it, an alert a monitor, a plan an end.

Each rule notes its faults in the reading. A rule that leans on a value refused elsewhere stays silent (`needs`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from apscheduler.triggers.cron import CronTrigger

from trimtab import rotating
from trimtab.project.companions import KIND, LABELS, SWAPS, THRESHOLDS
from trimtab.project.reading import Loc, Reading, shown, suggestion
from trimtab.records.project import MONITORS, PYFUNC, Project
from trimtab.records.registry import LabelSet, Prompt, Thresholds

SERVED = ("smollm2-135m-instruct", "echo")
"""Bases that this release serves by name; gguf:PATH, pyfunc:… and PROVIDER:MODEL are the other ways."""

PROVIDERS: Loc = ("providers",)

NOT_YET = {"hf": "Hugging Face"}
"""Schemes of bases that are known and not served."""

WITHOUT_SECTION = {
    "azure": "base_url: https://NAME.openai.azure.com/openai/v1, key_env: AZURE_OPENAI_API_KEY",
    "databricks": "base_url: https://WORKSPACE/serving-endpoints, key_env: DATABRICKS_TOKEN",
    "vllm": "base_url: http://127.0.0.1:8000/v1",
}
"""What to write for providers that each have an address of their own."""


def look(
    reading: Reading,
    project: Project,
    labels: LabelSet | None,
    prompt: Prompt,
    thresholds: Thresholds | None,
    swaps: Mapping[str, Mapping[str, object]] | None,
) -> None:
    """Note every fault between values. `labels` and `swaps` are None when absent or faulty."""
    _providers(reading, project)
    _base(reading, project, ("model", "base"), project.model.base)
    _scoring(reading, project)
    _endpoint(reading, project)
    _average(reading, project)
    _rotate(reading, project, labels, prompt)
    _thresholds(reading, project, labels, thresholds)
    _limits(reading, project)
    _labels(reading, project)
    _quality_field(reading, project, labels)
    _alerts(reading, project)
    _retrain(reading, project)
    _fairness(reading, project, labels, swaps)
    _workspace(reading, project)


def _base(reading: Reading, project: Project, loc: Loc, base: str) -> None:
    scheme, colon, rest = base.partition(":")
    choices = "smollm2-135m-instruct, gguf:PATH, PROVIDER:MODEL, pyfunc:MODEL or echo"
    if base in SERVED:
        return
    if colon and scheme == "gguf":
        _gguf(reading, loc, rest)
    elif base.startswith(PYFUNC):
        _pyfunc(reading, loc, rest)
    elif scheme == "models":
        reading.fault(loc, f"{shown(base)} names no base", f"write pyfunc:{base} for a registered MLflow model")
    elif colon and project.provider(base) is not None:
        if not re.fullmatch(r"[^\s?#]+", rest):
            reading.fault(loc, f"{shown(base)} names no model", f"write {scheme}:MODEL")
    elif colon and scheme in NOT_YET:
        message = f"this release does not serve {NOT_YET[scheme]} models yet; serving {scheme}: arrives later"
        reading.fault(loc, message, f"use {choices} for now")
    elif colon and scheme in WITHOUT_SECTION:
        fix = f"add `providers: {{{scheme}: {{{WITHOUT_SECTION[scheme]}}}}}`"
        reading.fault(loc, f"there is no provider {scheme} in this file", fix, needs=[PROVIDERS])
    else:
        schemes = [f"{name}:" for name in ("gguf", "pyfunc", "openai", *WITHOUT_SECTION, *project.providers, *NOT_YET)]
        near = suggestion(f"{scheme}:" if colon else base, schemes if colon else SERVED)
        reading.fault(loc, f"unknown base {shown(base)}", f"{near}use {choices}", needs=[PROVIDERS])


def _providers(reading: Reading, project: Project) -> None:
    for name, provider in project.providers.items():
        loc: Loc = ("providers", name)
        ways = ("key_env", "token_file", "token_command", "credential")
        keys = [field for field in ways if getattr(provider, field)]
        if name in ("gguf", "pyfunc", "models", "echo", *NOT_YET):
            reading.fault(loc, f"{name} is not free as the name of a provider", "choose another name")
        if len(keys) > 1:
            fix = "keep one of key_env, token_file, token_command, credential"
            reading.fault((*loc, keys[1]), f"says a second time where the key comes from, after {keys[0]}", fix)
        host = re.sub(r"^https?://|[:/].*$", "", provider.base_url)
        if keys and provider.base_url.startswith("http://") and host not in ("127.0.0.1", "localhost"):
            reading.fault((*loc, "base_url"), "would send the key in the clear", "write https://, or remove the key")
        if provider.api_version is not None and (provider.kind or name) != "azure":
            reading.fault((*loc, "api_version"), "is Azure's", "remove it, or set kind: azure")
        if provider.credential is not None and (provider.kind or name) != "azure":
            reading.fault((*loc, "credential"), "is Azure's", "use token_command, or set kind: azure")
        if provider.scope is not None and provider.credential is None:
            reading.fault((*loc, "scope"), "is of an Entra token", "write credential: entra, or remove it")


def _endpoint(reading: Reading, project: Project) -> None:
    for index, base in enumerate(project.endpoint.fallback):
        loc: Loc = ("endpoint", "fallback", index)
        _base(reading, project, loc, base)
        if base == project.model.base or base in project.endpoint.fallback[:index]:
            reading.fault(loc, f"{shown(base)} is asked already", "name another base, or remove it")
    shadow = project.endpoint.shadow
    if shadow is None:
        return
    if (shadow.base is None) == (shadow.version is None):
        reading.fault(("endpoint", "shadow"), "needs a base or a version, and not both", "name one of them")
    elif shadow.base is not None:
        _base(reading, project, ("endpoint", "shadow", "base"), shadow.base)


def _gguf(reading: Reading, loc: Loc, name: str) -> None:
    try:
        with (reading.home / name).open("rb") as file:
            magic = file.read(4)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        reading.fault(loc, f"cannot read {shown(name)}: {reason}", "correct the path (relative to trimtab.yaml)")
        return
    if magic != b"GGUF":
        reading.fault(loc, f"{shown(name)} is not a GGUF file", "name a model converted for llama.cpp, *.gguf")


def _pyfunc(reading: Reading, loc: Loc, rest: str) -> None:
    if rest.startswith("models:/"):
        if not re.fullmatch(r"models:/[^/@]+(@[^/@]+|/[0-9]+)", rest):
            fix = "write pyfunc:models:/NAME@ALIAS or pyfunc:models:/NAME/VERSION"
            reading.fault(loc, f"{shown(rest)} names no model version", fix)
            return
    elif not (reading.home / rest / "MLmodel").is_file():
        fix = "give the folder that holds the file MLmodel (relative to trimtab.yaml), or pyfunc:models:/NAME@ALIAS"
        reading.fault(loc, f"there is no MLflow model at {shown(rest)}", fix)
        return
    message = "an MLflow model is code, and may hold a pickle: it runs with your rights"
    reading.fault(loc, message, "name only models whose makers you trust", severity="warning")


def _scoring(reading: Reading, project: Project) -> None:
    """A pyfunc model scores rows; what is about texts and prompts has no meaning there, and the other way round."""
    rows, kind = project.model.base.startswith(PYFUNC), project.task.kind
    if rows != (kind == "scoring"):
        message = f"{kind} is not what {shown(project.model.base)} does"
        fix = "write task: {kind: scoring}" if rows else "write classification or chat, or a base pyfunc:…"
        reading.fault(KIND, message, fix, needs=[("model", "base")])
    for name in ("prompt", "examples", "decoding", "price"):
        if rows and name in project.model.model_fields_set:
            reading.fault(("model", name), "is a language model's, and a pyfunc model scores rows", "remove it")
    if rows and project.monitor.input_drift is not None:
        reading.fault(("monitor", "input_drift"), "watches texts, and a pyfunc model takes rows", "remove it")
    if rows and project.guards.checks:
        message = "look at texts, and a pyfunc model takes rows: nothing would be looked at"
        reading.fault(("guards",), message, "remove guards, or look at the texts inside the model")
    others = enumerate(project.endpoint.fallback)
    named: list[tuple[Loc, str]] = [(("endpoint", "fallback", index), base) for index, base in others]
    if project.endpoint.shadow is not None and project.endpoint.shadow.base is not None:
        named.append((("endpoint", "shadow", "base"), project.endpoint.shadow.base))
    for loc, base in named:
        if base.startswith(PYFUNC) != rows:
            what = "takes rows" if not rows else "takes texts"
            reading.fault(loc, f"{shown(base)} {what}, and the model does not", "name a base of the same kind")


def _average(reading: Reading, project: Project) -> None:
    """A vote counts whole answers of labels, which chance must not decide."""
    if project.model.average is not None:
        _vote(reading, project, "average", "set kind: classification, or write model.masks, which need no labels")


def _vote(reading: Reading, project: Project, name: str, fix: str) -> None:
    loc: Loc = ("model", name)
    if project.task.kind != "classification":
        reading.fault(loc, f"is for answers of labels, and a {project.task.kind} has none", fix, needs=[KIND])
    elif project.model.decoding.temperature != 0:
        reading.fault(loc, "needs answers without chance", "write decoding: {temperature: 0}")


def _rotate(reading: Reading, project: Project, labels: LabelSet | None, prompt: Prompt) -> None:
    """There must be an order to rotate: that of a list in the prompt, or of the schema that a provider is sent."""
    if project.model.rotate:
        _vote(reading, project, "rotate", "set kind: classification, or remove it")
    for index, field in enumerate(project.model.rotate):
        loc: Loc = ("model", "rotate", index)
        values = labels.fields.get(field) if labels else ()
        if labels is not None and not values:
            _not_a_field(reading, loc, field, labels)
        elif values and project.provider(project.model.base) is None and not rotating.lists(prompt.system, values):
            message = f"the prompt does not list the labels of {shown(field)}, so they have no order"
            fix = f"write them into {project.model.prompt}, e.g. `{field}: {', '.join(values)}`, or remove it"
            reading.fault(loc, message, fix, needs=[("model", "prompt"), ("model", "base"), PROVIDERS])


def _thresholds(reading: Reading, project: Project, labels: LabelSet | None, told: Thresholds | None) -> None:
    """They decide between the two values of a field, by a score that the engine must tell."""
    model, base = project.model, project.model.base
    if told is None:
        return
    _vote(reading, project, "thresholds", "set kind: classification, or remove it")
    values = labels.fields.get(told.field) if labels else None
    if labels is not None and values is None:
        _not_a_field(reading, THRESHOLDS, told.field, labels)
    elif values is not None and set(values) != {told.favourable, told.other}:
        message = f"decides between {shown(told.favourable)} and {shown(told.other)}, and {told.field} has other values"
        reading.fault(THRESHOLDS, message, "fit them anew: `trimtab fairness mitigate --method thresholds`")
    if model.average is not None or model.rotate:
        other = "average" if model.average is not None else "rotate"
        message = f"does not go with model.{other}: a vote of several answers has no one score"
        reading.fault(THRESHOLDS, message, f"remove one of them, thresholds or {other}")
    if base == "echo":
        reading.fault(THRESHOLDS, "needs an engine that tells log-probabilities, and echo has none", "name a model")
    elif project.provider(base) is not None:
        message = f"needs an engine that tells log-probabilities; whether {shown(base)} does is not known here"
        fix = "see that `trimtab fairness measure` says nothing of `score: not measured`"
        reading.fault(THRESHOLDS, message, fix, severity="warning")


def _limits(reading: Reading, project: Project) -> None:
    """Limits are those of keys, and money can only be counted where there is a price."""
    endpoint = project.endpoint
    for name in ("rate_limit", "budget"):
        if endpoint.auth == "none" and getattr(endpoint, name) is not None:
            message, fix = "limits keys, and none are asked for", "write auth: keys, or remove it"
            reading.fault(("endpoint", name), message, fix, needs=[("endpoint", "auth")])
    if endpoint.budget is not None and _unpriced(project):
        message, fix = "needs a price, and this model has none", "add model.price, in USD per million tokens"
        if project.model.base.startswith(PYFUNC):
            message, fix = "is for tokens, and a pyfunc model has none", "remove it; a rate_limit counts requests"
        reading.fault(("endpoint", "budget"), message, fix, needs=[("model", "price"), ("model", "base")])


def _unpriced(project: Project) -> bool:
    """Whether nobody has said what the model's tokens cost: neither the file nor a list we have."""
    return project.model.price is None and project.model.base.partition(":")[0] not in ("openai", "azure")


def _labels(reading: Reading, project: Project) -> None:
    """Classification has labels, and what judges answers by labels has classification."""
    classification, named = project.task.kind == "classification", project.task.labels is not None
    if classification and not named:
        message = "is missing: a classification has a list of values"
        reading.fault(LABELS, message, "add `labels: labels.yaml`, or set kind: chat", needs=[KIND])
    if not classification and named:
        reading.fault(
            LABELS, f"a {project.task.kind} has no labels", "remove it, or set kind: classification", needs=[KIND]
        )
    if classification and named:
        return
    need = "needs labels, and the task has none"
    fix = "give the task kind: classification and labels, or remove it"
    if project.gates.quality is not None and "quality" in project.gates.model_fields_set:
        reading.fault(("gates", "quality"), need, f"{fix} (quality: null)", needs=[LABELS, KIND])
    if project.monitor.quality is not None:
        reading.fault(("monitor", "quality"), need, fix, needs=[LABELS, KIND])
    if project.retrain.when:
        reading.fault(("retrain", "when"), need, fix, needs=[LABELS, KIND])


def _quality_field(reading: Reading, project: Project, labels: LabelSet | None) -> None:
    """Quality is judged on a field that the labels have, by the monitor as by the gate."""
    asked: dict[Loc, str] = {("gates", "quality_field"): project.gates.quality_field}
    if project.monitor.quality is not None:
        asked["monitor", "quality", "field"] = project.monitor.quality.field
    for loc, field in asked.items():
        if labels is not None and field not in ("*", *labels.fields):
            _not_a_field(reading, loc, field, labels, "* or ")


def _not_a_field(reading: Reading, loc: Loc, field: str, labels: LabelSet, also: str = "") -> None:
    fix = f"{suggestion(field, labels.fields)}use {also}one of {', '.join(labels.fields)}"
    reading.fault(loc, f"{shown(field)} is not a field of the labels", fix)


def _alerts(reading: Reading, project: Project) -> None:
    for index, alert in enumerate(project.alerts):
        for place, monitor in enumerate(alert.on):
            loc: Loc = ("alerts", index, "on", place)
            if monitor in MONITORS and getattr(project.monitor, monitor) is None:
                _not_watched(reading, loc, monitor)
            if monitor.startswith("cost > ") and _unpriced(project):
                message, fix = "needs a price, and this model has none", "add model.price, in USD per million tokens"
                reading.fault(loc, message, fix, needs=[("model", "price"), ("model", "base")])
        if not alert.on:
            reading.fault(
                ("alerts", index, "on"),
                "names no monitor",
                "write [input_drift], [quality] or a threshold, e.g. [error_rate > 2%]",
            )
        if not alert.notify:
            reading.fault(("alerts", index, "notify"), "tells nobody", "write [log], or remove the alert")


def _retrain(reading: Reading, project: Project) -> None:
    _hosted(reading, project)
    for index, when in enumerate(project.retrain.when):
        loc: Loc = ("retrain", "when", index)
        if when.startswith("cron:"):
            _cron(reading, loc, when.removeprefix("cron:").strip())
        elif getattr(project.monitor, when) is None:
            _not_watched(reading, loc, when)


def _hosted(reading: Reading, project: Project) -> None:
    """What a fine-tune at the provider needs, and what only Azure has."""
    section, base = project.retrain.hosted, project.model.base
    if project.retrain.method != "hosted":
        return
    here: Loc = ("retrain", "hosted")
    needs: list[Loc] = [("model", "base"), PROVIDERS, here]
    provider = project.provider(base)
    if provider is None:
        message = f"{shown(base)} is no provider's model, so nobody but us can fine-tune it"
        reading.fault(("retrain", "method"), message, "write method: lora, or name a hosted base", needs=needs)
        return
    azure = (provider.kind or base.partition(":")[0]) == "azure"
    if azure and section.model is None:
        fix = "add the model behind the deployment, e.g. gpt-4.1-mini-2025-04-14"
        reading.fault((*here, "model"), "is missing: on Azure a base is a deployment, not a model", fix, needs=needs)
    if azure and section.deployment is None:
        message, fix = (
            "is missing: on Azure a model answers only once it is deployed",
            "add `deployment: {resource: …}`",
        )
        reading.fault((*here, "deployment"), message, fix, needs=needs)
    for name in () if azure else ("deployment", "training_type"):
        if getattr(section, name) is not None:
            reading.fault((*here, name), "is Azure's", "remove it, or name a base at Azure", needs=needs)
    if section.max_usd is not None and section.price is None:
        message, fix = "needs a price to be held against", "add price, in USD per million tokens trained on"
        reading.fault((*here, "max_usd"), message, fix, needs=[(*here, "price")])


def _not_watched(reading: Reading, loc: Loc, monitor: str) -> None:
    message = f"{monitor} is not watched"
    reading.fault(loc, message, f"add monitor.{monitor}, or remove it here", needs=[("monitor", monitor)])


_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_START = datetime(2024, 1, 1, tzinfo=UTC)  # any moment: whether a five-field schedule ever fires does not depend on it


def _cron(reading: Reading, loc: Loc, expression: str) -> None:
    fields = expression.split()
    numbers = r"(?<![\d/])\d(?!\d)"
    if len(fields) == 5 and re.search(numbers, fields[4]):
        named = re.sub(numbers, lambda match: _DAYS[min(int(match.group()), 7)], fields[4])
        message = "a day of the week as a number: 0 is Sunday to cron and Monday to the scheduler"
        reading.fault(loc, message, f"write names: 'cron: {' '.join([*fields[:4], named])}'")
        return
    try:
        trigger = CronTrigger.from_crontab(expression, timezone=UTC)
        fires = trigger.get_next_fire_time(None, _START) is not None
    except (ValueError, TypeError, OverflowError) as error:
        fix = "write five fields: minute hour day month weekday, e.g. 'cron: 0 3 * * SUN'"
        reading.fault(loc, f"{shown(expression)} is not a schedule: {error}", fix)
        return
    if not fires:
        reading.fault(loc, f"{shown(expression)} never comes", "name a day that exists")


def _workspace(reading: Reading, project: Project) -> None:
    if project.target.databricks is not None and project.evidence.erasure == "subject_keys":
        message = "encrypts the lake here; the inference table of a workspace holds requests as they are"
        fix = "let few read that table's schema, and delete from it there; write `erasure: rewrite` if that is known"
        reading.fault(("evidence", "erasure"), message, fix, severity="warning")


def _fairness(
    reading: Reading, project: Project, labels: LabelSet | None, swaps: Mapping[str, Mapping[str, object]] | None
) -> None:
    gate, here = project.gates.fairness, ("gates", "fairness")
    if gate is None:
        return
    if labels is None:
        message, fix = "needs labels, and the task has none", "give the task labels, or remove the gate"
        reading.fault(here, message, fix, needs=[LABELS, KIND])
    elif gate.field not in labels.fields:
        _not_a_field(reading, (*here, "field"), gate.field, labels)
    else:
        _favourable(reading, (*here, "favourable"), gate.favourable, labels.fields[gate.field])
    if not gate.sensitive:
        reading.fault((*here, "sensitive"), "names no sensitive feature", "write [name_group], or remove the gate")
    for index, feature in enumerate(gate.sensitive):
        if swaps is not None and feature not in swaps:
            fix = f"{suggestion(feature, swaps)}add it to {gate.swaps} with two groups of names"
            message = f"{shown(feature)} has no groups in {gate.swaps}"
            reading.fault((*here, "sensitive", index), message, fix, needs=[SWAPS])


def _favourable(reading: Reading, loc: Loc, favourable: tuple[str, ...], values: tuple[str, ...]) -> None:
    for index, value in enumerate(favourable):
        if value not in values:
            fix = f"{suggestion(value, values)}use some of {', '.join(values)}"
            reading.fault((*loc, index), f"{shown(value)} is not a value of that field", fix)
    if set(favourable) >= set(values):
        reading.fault(loc, "every value is favourable: no difference could show", "leave out the unfavourable values")
