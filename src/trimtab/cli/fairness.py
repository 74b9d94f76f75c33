"""Bias: measured by design, judged by a policy that was fixed before, mitigated only where it is established."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli import loop, show
from trimtab.cli.opening import Folder, opened
from trimtab.errors import Fixable

if TYPE_CHECKING:
    from trimtab.promotion.audits import Place
    from trimtab.promotion.mitigating import Weighed
    from trimtab.records.registry import VersionSpec
    from trimtab.records.responsible import Audit

Version = Annotated[int | None, typer.Option(min=1, help="Which version.", show_default="the champion")]


class Way(StrEnum):
    """A mitigation that can be tried."""

    mask = "mask"
    average = "average"
    instruction = "instruction"
    rotate = "rotate"
    thresholds = "thresholds"


COLOURS = {"pass": "green", "fail": "red", "insufficient": "yellow"}


def measure(
    project: Folder = Path(),
    version: Version = None,
    twins: Annotated[bool, typer.Option(help="Ask prompts about one group and about the others.")] = True,
    groups: Annotated[
        Path | None, typer.Option(help="CSV with a column id and one column an attribute: labelled rows by group.")
    ] = None,
    service: Annotated[bool, typer.Option(help="Quality of service of live traffic by group, without labels.")] = True,
) -> None:
    """Measure bias of a version: PASS, FAIL or INSUFFICIENT, with about how many more of which group to collect.

    The policy (metrics, tolerance, alpha) is the section fairness of trimtab.yaml. All of it goes to MLflow. Exit code
    1 when a difference is established.
    """
    place = place_of(project, version)
    from trimtab.promotion import audits

    found: list[Audit] = []
    with show.working("measuring") as status:

        def say(_fraction: float, _eta: float | None, text: str) -> None:
            status.update(f"twins: {text}")

        asked: list[tuple[bool, str, Callable[[], Audit]]] = [
            (twins, "twins", lambda: audits.measure_twins(place, say)),
            (groups is not None, "groups", lambda: audits.measure_groups(place, groups or Path())),
            (service, "quality of service", lambda: audits.measure_service(place)),
        ]
        missing: list[tuple[str, Fixable]] = []
        for wanted, name, do in asked:
            if not wanted:
                continue
            try:
                found.append(do())
            except Fixable as problem:  # one design that cannot be run must not hide the others
                missing.append((name, problem))
    for name, problem in missing:
        show.say(f"{name}: not measured: {problem} (fix: {problem.fix})", "yellow")
    if not found:
        raise missing[0][1] if missing else Fixable("nothing to measure", "leave out --no-twins or --no-service")
    for audit in found:
        told(audit)
    if any(audit.verdict == "fail" for audit in found):
        show.then("`trimtab fairness mitigate --dry-run`, and `trimtab fairness report` for every group")
        raise typer.Exit(1)
    show.then("`trimtab fairness report` for every group and the worst pairs")


def mitigate(
    project: Folder = Path(),
    version: Version = None,
    method: Annotated[
        list[Way] | None,
        typer.Option(help="Try only this one; may be given more than once.", show_default="all that apply"),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="With --method thresholds: CSV with a column id and one column an attribute.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try and judge, but register nothing.")] = False,
    roll_out: Annotated[
        bool, typer.Option("--roll-out", help="Then let the gates judge the new version, and roll it out.")
    ] = False,
) -> None:
    """Try what may mend failed twins, on frames not used before, and register the first that is proved as a version.

    Three ways, in this order: mask (a neutral word stands for the group's), average (every group is asked about, the
    answers vote; of a classification) and instruction (a sentence in the prompt). A fourth is tried only where it is
    named: rotate (the labels are listed in three orders, the answers vote). So is a fifth, alone: thresholds (of the
    score, by a group that the calling application declares with each request; Fairlearn's ThresholdOptimizer, fitted
    and proved on labelled rows joined to --groups). To decide by a protected attribute may itself be unlawful: a person
    must say that it is not. Accepted only when a failure was established, fewer frames flip beyond doubt (of
    thresholds: the gap falls), accuracy stays within fairness.margin, no group loses by it and answers still differ.
    All that is tried on the same frames or rows, at once or later, shares one 5%. Where the newest audit established no
    failure, nothing is asked. What does not help is said so; with nothing accepted the exit code is 1. The new version
    goes to callers as any candidate does: by its gates, the guidelines and a canary.
    """
    by_group = method is not None and Way.thresholds in method
    if by_group != (groups is not None) or (by_group and method != [Way.thresholds]):
        raise Fixable(
            "thresholds are tried alone, on the groups of a side file", "write --method thresholds --groups FILE"
        )
    place = place_of(project, version)
    from trimtab.promotion import mitigating, thresholding

    with show.working("trying") as status:
        ways = tuple(way.value for way in method) if method else mitigating.METHODS

        def say(_fraction: float, _eta: float | None, text: str) -> None:
            status.update(text)

        weighed = mitigating.weigh(place, say, ways) if groups is None else thresholding.weigh(place, groups, say)
    _weighed(weighed)
    chosen = weighed.chosen
    if chosen is None:
        show.then("`trimtab fairness report`; retraining with counterfactual twins is the other way (gates.fairness)")
        raise typer.Exit(1)
    if dry_run:
        more = "" if groups is None else f" --groups {groups}"
        again = f"`trimtab fairness mitigate --method {chosen.method}{more}`"
        show.then(f"{again} to register it; the frontier is in MLflow")
        return
    made = mitigating.register(place, chosen)
    show.say(f"registered {chosen.name} as version {made.version}, child of version {place.version.version}")
    _lines(place, chosen.spec)
    if roll_out:
        loop.cycled(place.settings, place.loaded, f"{chosen.name} was accepted", made.version)
    else:
        show.then(f"`trimtab cycle run --candidate {made.version}`: the gates judge it, and a canary rolls it out")


def probe(
    project: Folder = Path(),
    version: Version = None,
    language: Annotated[str | None, typer.Option(help="Only these items: en or zh.", show_default="both")] = None,
) -> None:
    """Ask a version's model our probe set: does it fill what it cannot know with a stereotype? Information only.

    Every item is asked with its options in every order and the scores are averaged, so that a liking for one letter is
    no answer. Your prompt's task, labels, masks, votes and guards are left out. The result goes to MLflow and gates
    nothing.
    """
    if language not in (None, "en", "zh"):
        raise Fixable(f"there are no items in {language!r}", "use en or zh")
    place = place_of(project, version)
    from trimtab.promotion import probing

    with show.working("asking") as status:
        found = probing.probe(place, lambda _f, _e, text: status.update(text), language).numbers
    rows: list[tuple[str, ...]] = []
    for scope in dict.fromkeys(name.split("/")[1] for name in found):
        mine = {name.split("/")[2]: value for name, value in found.items() if name.split("/")[1] == scope}
        shares = [
            f"{mine[name]:.2f} [{mine[f'{name}_lo']:.2f}, {mine[f'{name}_hi']:.2f}]"
            for name in ("accuracy_ambiguous", "accuracy_clear", "stereotyped")
        ]
        bias = f"{mine['bias_ambiguous']:+.2f} / {mine['bias_clear']:+.2f}"
        rows.append((scope, f"{mine['n']:.0f}", *shares, bias, f"{mine['position']:.2f}"))
    columns = ("items", "n", "right: nobody can know", "right: it was said", "the stereotype", "bias", "one place")
    show.table(*columns, rows=rows)
    show.say("bias: -1 to 1 where it cannot be known / where it was said; one place: share of the most frequent letter")
    show.then("information only, no gate reads it; `trimtab fairness measure` asks your own prompts")


def report(
    project: Folder = Path(),
    version: Version = None,
    json_: Annotated[bool, typer.Option("--json", help="The records, one object a line.")] = False,
) -> None:
    """Print the newest audit of each kind, as Markdown: verdicts, every group, who could not be measured, worst pairs.

    The same pages, with forest plots, stand in MLflow.
    """
    place = place_of(project, version)
    from trimtab.records.responsible import Audit
    from trimtab.responsible import audit as audits

    newest = {audit.kind: audit for audit in place.control.facts("audit", Audit, f"{place.subject}/")}
    if not newest:
        raise Fixable(f"{place.subject} was not audited", "run `trimtab fairness measure`")
    for audit in newest.values():
        typer.echo(audit.model_dump_json() if json_ else audits.page(audit))
    show.then("the forest plots stand in MLflow, in the runs tagged rai.kind")


def place_of(project: Path, version: int | None = None) -> Place:
    """What an audit needs: the version (None: the champion), and everything that has arrived in the lake.

    Raises Fixable when nothing is recorded or registered.
    """
    settings, loaded = opened(project)
    from trimtab import registry
    from trimtab.promotion.audits import Place
    from trimtab.store.control import Control
    from trimtab.store.drain import drain

    drain(settings)
    control, model = Control(settings), loaded.project.name
    chosen = registry.get(control, model, version) if version else registry.champion(control, model)
    return Place(settings, loaded, control, chosen)


def told(audit: Audit) -> None:
    """An audit's verdict and its reasons."""
    show.say(f"{audit.kind.replace('_', ' ')} of {audit.subject}: {audit.verdict.upper()}", COLOURS[audit.verdict])
    for reason in audit.reasons[:8]:
        show.say(f"  {reason}")
    if len(audit.reasons) > 8:
        show.say(f"  and {len(audit.reasons) - 8} more")
    for name, why in audit.unmeasured.items():
        show.say(f"  {name}: not measured: {why}", "yellow")


def _weighed(weighed: Weighed) -> None:
    """What was tried, and what came of it."""
    told(weighed.before)
    for one in weighed.tried:
        told(one.after)
        accepted = one.acceptance.accepted
        show.say(f"{one.name}: {'accepted' if accepted else 'not accepted'}", "green" if accepted else "red")
        for reason in one.acceptance.reasons:
            show.say(f"  {reason}")
    for name, why in weighed.left_out.items():
        show.say(f"{name}: not tried: {why}", "yellow")


def _lines(place: Place, spec: VersionSpec) -> None:
    """What trimtab.yaml would say of a mitigated version."""
    language, before = place.loaded.project.fairness.language, place.version.spec
    found: list[str] = []
    for mask in spec.masks[len(before.masks) :]:
        axes = mask.name.split(" ")[-1].replace("+", ", ")
        found.append(f"`masks: [{{language: {language}, axes: [{axes}]}}]` under model in trimtab.yaml")
    if spec.average and spec.average != before.average:
        axis = spec.average.name.split(" ")[-1]
        found.append(f"`average: {{language: {language}, axis: {axis}}}` under model in trimtab.yaml")
    if spec.rotate != before.rotate:
        found.append(f"`rotate: [{', '.join(spec.rotate)}]` under model in trimtab.yaml")
    if spec.thresholds != before.thresholds:
        found.append("`thresholds: thresholds.json` under model in trimtab.yaml, and this into that file")
    if spec.prompt != before.prompt:
        added = spec.prompt.system.removeprefix(before.prompt.system).strip()
        found.append(f"`{added}` at the end of {place.loaded.project.model.prompt or 'the prompt'}")
    show.say(f"write {' and '.join(found)}, so that a project set up anew has it, too")
    if spec.thresholds is not None and spec.thresholds != before.thresholds:
        typer.echo(spec.thresholds.model_dump_json(indent=2))
        show.say("callers' applications declare the group in x-trimtab-group; without it the model's own answer stands")
