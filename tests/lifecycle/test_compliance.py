"""Guidelines on real records: a signed word counts for its person alone, lost evidence holds the next promotion."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import triage
from triage import MODEL
from typer.testing import CliRunner

from place import free_port
from trimtab import project, registry
from trimtab import settings as environment
from trimtab.cli import app
from trimtab.errors import Fixable, Unproved
from trimtab.lifecycle import compliance, erasure, rows
from trimtab.lifecycle.evidence import card_on_record
from trimtab.lifecycle.explain import explain
from trimtab.project import Loaded
from trimtab.records.erasure import Tombstone
from trimtab.records.guidelines import ComplianceReport, SignedWord
from trimtab.records.monitor import Interval
from trimtab.records.promotion import Answers, Decision, GateResult
from trimtab.records.record import Record, utc_now
from trimtab.records.registry import AliasMove, ModelVersion, Prompt
from trimtab.records.responsible import Audit, Finding, Policy
from trimtab.records.training import DatasetVersion
from trimtab.store import audit, seals
from trimtab.store.control import Control
from trimtab.store.drain import drain
from trimtab.store.journal import Journal
from trimtab.store.lake import Lake

pytestmark = pytest.mark.filterwarnings("default")  # MLflow and its dependencies warn about themselves

DPO = "dpo@example.org"
GUIDELINES = """\
system: desk
owner: team@example.org
intended_use: {{purpose: Sorts messages., domains: [support], users: [staff]}}
prohibited_use: [credit decisions]
risks: [A message may be sorted wrongly.]
oversight: The head of the desk can roll back and stop it.
people: {{{dpo}: "{key}"}}
clauses:
- {{id: BIAS-01, text: Names do not matter., check: fairness.counterfactual, with: {{min_units: 30}}}}
- {{id: QUA-01, text: It is right often enough., check: quality, evidence_max_age: 30d}}
- {{id: LOG-01, text: What was answered is sealed., check: log.coverage, maps: [AIA-12]}}
- {{id: LOG-02, text: The log is whole., check: log.integrity, maps: [AIA-12]}}
- {{id: LOG-03, text: It is kept., check: log.retention, maps: [AIA-19]}}
- {{id: HUM-01, text: People can stop it., check: oversight.drill, maps: [AIA-14]}}
- {{id: TRA-01, text: It says what it is., check: disclosure.header, maps: [AIA-50]}}
- {{id: DOC-01, text: The card is filled., check: card.complete, maps: [AIA-11]}}
- {{id: USE-01, text: Staff is trained., check: attest, with: {{by: [{dpo}]}}, maps: [AIA-26.2]}}
"""
DONE = ("BIAS-01", "QUA-01", "LOG-01", "LOG-02", "LOG-03", "HUM-01", "TRA-01", "DOC-01", "USE-01")


class Desk:
    """A project with guidelines, 40 labelled answers, and version 2 that a decision speaks for."""

    def __init__(self, folder: Path) -> None:
        self.key = folder / "dpo.key"
        self.settings, _ = triage.write(folder / "desk", "echo", "{latency_p95: null}")
        root = self.settings.root
        with (root / "trimtab.yaml").open("a") as file:
            file.write("guidelines: guidelines.yaml\nmonitor: {input_drift: {window: 50}}\n")
        verifier = audit.Signer(self.key, DPO).verifier_key
        (root / "guidelines.yaml").write_text(GUIDELINES.format(dpo=DPO, key=verifier))
        self.loaded: Loaded = project.load(root)
        first = registry.register_base(self.settings, self.loaded)
        self.control = Control(self.settings)
        spec = first.spec.model_copy(update={"prompt": Prompt(system="Sort it!")})
        self.version: ModelVersion = registry.register(
            self.settings, self.control, spec, config_hash=self.loaded.hash, note="", parent=1
        )
        triage.answer(self.settings, 40)
        seals.seal(self.settings, self.control, MODEL, utc_now())

    def report(self, version: ModelVersion | None = None) -> ComplianceReport:
        return compliance.evaluate(self.settings, self.loaded, self.control, version or self.version, utc_now())

    def statuses(self) -> dict[str, str]:
        return {finding.clause: finding.status for finding in self.report().findings}

    def prove(self) -> None:
        """Everything that the clauses ask for."""
        now = utc_now()
        self.control.put("decision", "c/1", decision(now))
        for before, after in ((1, 2), (2, 1)):
            move = AliasMove(
                model=MODEL, alias="champion", before=before, after=after, at=now, actor="ana", reason="drill"
            )
            self.control.move([move])
        for kind in ("rollback", "kill_switch"):
            compliance.drill(self.settings, self.control, MODEL, kind, "ana", now)
        compliance.sign(self.control, self.loaded, self.word("attestation", "USE-01"), self.key, now)

    def word(self, kind, clause: str) -> SignedWord:
        now, asked = utc_now(), compliance.clause_of(self.loaded, clause)
        until = now + timedelta(days=9)
        return SignedWord(
            kind=kind, clause=clause, clause_sha256=asked.sha256, by=DPO, at=now, until=until, reason="seen"
        )

    def forget(self, kind: str) -> None:
        """What no command does: remove facts behind the system's back."""
        with sqlite3.connect(self.settings.home / "trimtab.db") as db:
            db.execute("DELETE FROM facts WHERE kind = ?", (kind,))
        db.close()


def decision(now) -> Decision:
    value = Interval(estimate=0.0, low=-0.01, high=0.03, method="Tango")
    fair = GateResult(
        gate="fairness", verdict="pass", test="twins", n=60, value=value, limit="", detail="Small.",
        numbers={"gap_upper": 0.03},
    )  # fmt: skip
    good = GateResult(gate="quality", verdict="pass", test="paired", n=60, value=value, limit="", detail="Good.")
    return Decision(
        key="c/1", model=MODEL, candidate=2, champion=1, outcome="promote", reasons=("All passed.",),
        gates=(fair, good), at=now,
    )  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("guided")
        patch.setenv("TRIMTAB_BLOBS", str(folder / "blobs"))
        patch.setenv("TRIMTAB_PORT", str(free_port()))
        numbers = itertools.count(1)  # MLflow is not what is tested here, and takes its time
        patch.setattr(registry, "_log_version", lambda *_: (number := next(numbers), f"run {number}"))
        patch.setattr(registry, "show_aliases", lambda *_: None)
        return Desk(folder)


def test_clauses_are_proved_one_by_one_and_lost_evidence_unproves_them(desk: Desk) -> None:
    bare = desk.report()
    assert {finding.clause for finding in bare.open} == {"BIAS-01", "QUA-01", "HUM-01", "USE-01"}
    held = compliance.at_promotion(desk.settings, desk.loaded, desk.control, desk.version, [], "c/0", utc_now())
    assert held is not None
    assert "BIAS-01" in {finding.clause for finding in held.open}
    assert desk.control.audit_entries()[-1].kind == "compliance"

    desk.prove()
    proved = desk.report()
    assert {finding.clause: finding.status for finding in proved.findings} == dict.fromkeys(DONE, "PASS")
    fair = proved.findings[0]
    assert fair.evidence[0].run == desk.version.run_id
    assert fair.evidence[0].artifact_sha256
    assert (fair.evidence[0].log_last, fair.evidence[0].log_root) == (proved.log_size, proved.log_root)
    later = compliance.evaluate(
        desk.settings, desk.loaded, desk.control, desk.version, utc_now() + timedelta(days=31), only=["QUA-01"]
    )
    assert later.findings[0].status == "STALE"

    assert "- Not for: credit decisions" in card_on_record(desk.control, desk.version)
    for lost, clauses in (("drill", {"HUM-01"}), ("attestation", {"USE-01"}), ("decision", {"BIAS-01", "QUA-01"})):
        desk.forget(lost)
        found = desk.statuses()
        assert {found[clause] for clause in clauses} == {"INSUFFICIENT"}
        assert found["LOG-02"] == "FAIL"  # the log knows that something is missing


def test_an_audit_by_groups_is_as_good_as_its_worst_group(desk: Desk) -> None:
    class Group(Record):
        attribute: str = "dialect"
        metric: str = "fpr"
        group: str
        n: int | None
        upper: float | None
        verdict: str
        note: str = "what else an audit says"

    class Audit(Record):
        at: datetime
        findings: tuple[Group, ...]
        policy: str = "p"

    good, weak = (
        Group(group="a", n=90, upper=0.04, verdict="pass"),
        Group(group="b", n=3, upper=None, verdict="insufficient"),
    )
    for number, groups in enumerate(
        [(good,), (good, weak), (good, weak, Group(group="c", n=50, upper=0.3, verdict="fail"))]
    ):
        desk.control.put("audit", f"models:/{MODEL}/2/groups/{number}", Audit(at=utc_now(), findings=groups))
    desk.control.put("audit", f"models:/{MODEL}/22/groups/0", Audit(at=utc_now(), findings=(good,)))
    gaps = compliance.group_gaps(desk.control, desk.version)
    assert [(gap.verdict, gap.n, gap.upper) for gap in gaps] == [
        ("pass", 90, 0.04),
        ("insufficient", 3, None),
        ("fail", 3, None),
    ]


def test_an_audit_by_twins_proves_what_no_cycle_has_measured(desk: Desk) -> None:
    def audit_of(verdict, upper: float | None) -> Audit:
        found = Finding(
            metric="favourable", attribute="gender", group="women", n=200, value=0.5, rest=0.5, gap=None, lower=None,
            upper=upper, p_adjusted=None, gating=True, verdict=verdict,
        )  # fmt: skip
        return Audit(
            kind="twins", subject=f"models:/{MODEL}/7", verdict=verdict, reasons=("Said.",), unit="frame", n=200,
            test="t", findings=(found,), policy=Policy(gating={}), policy_sha256="p", evaluation_sha256="e",
            at=utc_now(),
        )  # fmt: skip

    spec = desk.version.spec.model_copy(update={"prompt": Prompt(system="Another one.")})
    untried = desk.version.model_copy(update={"version": 7, "spec": spec})
    for number, (verdict, upper, status) in enumerate([("pass", 0.04, "PASS"), ("fail", 0.4, "FAIL")]):
        desk.control.put("audit", f"models:/{MODEL}/7/twins/{number}", audit_of(verdict, upper))
        found = next(one for one in desk.report(untried).findings if one.clause == "BIAS-01")
        assert found.status == status, found.reason


def test_a_word_counts_only_under_the_key_that_the_guidelines_name(desk: Desk, tmp_path: Path) -> None:
    word = desk.word("waiver", "QUA-01")
    with pytest.raises(Fixable):
        compliance.sign(desk.control, desk.loaded, word, tmp_path / "absent.key", utc_now())
    stranger = audit.Signer(tmp_path / "stranger.key", DPO)
    with pytest.raises(Fixable):
        compliance.sign(desk.control, desk.loaded, word, tmp_path / "stranger.key", utc_now())
    forged = word.model_copy(update={"note": stranger.note(compliance._text(word))})
    desk.control.put("waiver", "forged", forged)
    assert desk.statuses()["QUA-01"] != "WAIVED"
    signed = compliance.sign(desk.control, desk.loaded, word, desk.key, utc_now())
    longer = signed.model_copy(update={"until": signed.until + timedelta(days=900)})
    desk.control.put("waiver", "longer", longer)
    finding = next(f for f in desk.report().findings if f.clause == "QUA-01")
    assert (finding.status, finding.until) == ("WAIVED", signed.until)


def test_the_command_prints_writes_and_exits_by_what_holds(desk: Desk, tmp_path: Path) -> None:
    at = ["--project", str(desk.settings.root)]
    shown = CliRunner().invoke(app, ["compliance", *at, "--version", "2", "--format", "json", "--clause", "LOG-01"])
    assert shown.exit_code == 0, shown.output
    assert '"status": "PASS"' in shown.stdout
    held = CliRunner().invoke(app, ["compliance", *at, "--out", str(tmp_path / "r.html"), "--format", "html"])
    assert isinstance(held.exception, Unproved)
    assert held.exception.exit_code == 7
    assert "BIAS-01" in (tmp_path / "r.html").read_text()


def test_a_subject_is_held_then_erased_from_rows_and_datasets_and_the_versions_are_named(desk: Desk) -> None:
    settings, loaded, control, now = desk.settings, desk.loaded, desk.control, utc_now()
    folder = settings.datasets / ("da" * 32)
    folder.mkdir(parents=True)
    texts = {"7": "cannot sign in", "7~twin": "cannot sign in", "8": "a broken lamp"}
    lines = [
        f'{{"request_id":"{name}","at":"2026-01-01T00:00:00Z","input":"{text}","label":{{}}}}\n'
        for name, text in texts.items()
    ]
    (folder / "train.jsonl").write_text("".join(lines))
    labels = desk.version.spec.labels
    assert labels is not None
    dataset = DatasetVersion(
        hash="da" * 32, recipe="r", mitigation="none", path=str(folder), n_train=3, n_holdout=0, n_frames=0,
        labels=labels, nearest_leak=0.0, cut=now,
    )  # fmt: skip
    control.put("dataset", dataset.hash, dataset)
    tuned = desk.version.model_copy(update={"version": 3, "data_hash": dataset.hash})
    control.put("version", f"{MODEL}/3", tuned)

    journal = Journal(settings.journal)
    journal.closed(
        msgspec.structs.replace(triage._closed(40, int(now.timestamp() * 1000), "the same lamp again"), version=3)
    )
    journal.close()
    drain(settings)
    near = explain(replace(settings, blobs=environment.load().blobs), control, "40").nearest
    assert [row.request_id for row in near] == ["8", "7", "7~twin"]
    assert near[0].likeness > 0.5 > near[1].likeness

    erasure.ask(settings, loaded, control, "caller 7", "test", now)
    erasure.hold(settings, loaded, control, "caller 7", lift=False, reason="case", by="test", now=now)
    planned = erasure.plan(settings, loaded, control, "caller 7", rows.here(settings))
    assert (len(planned.rows), planned.feedback, planned.datasets, planned.versions) == (
        1,
        ["f7"],
        {"da" * 32: 2},
        (3,),
    )
    with pytest.raises(Fixable, match="legal hold"):
        erasure.erase(settings, loaded, control, planned, "test", now)
    erasure.hold(settings, loaded, control, "caller 7", lift=True, reason="over", by="test", now=now)
    planned = erasure.plan(settings, loaded, control, "caller 7", rows.here(settings))
    stone = erasure.erase(settings, loaded, control, planned, "test", now)
    assert (stone.rows, stone.feedback, stone.dataset_rows, stone.key_destroyed) == (1, 1, {"da" * 32: 2}, True)
    assert (folder / "train.jsonl").read_text() == lines[2]
    assert Lake(settings).find("7")["input_text"].to_list() == [None]
    told = explain(settings, control, "7")
    assert (told.question, told.version) == (None, f"{MODEL}/1")
    assert "were erased" in " ".join(told.missing)
    assert seals.faults(settings, control, MODEL, 0) == []
    assert control.facts("tombstone", Tombstone) == [stone]
    assert "caller 7" not in "".join(entry.body for entry in control.audit_entries())
    assert len(erasure.plan(settings, loaded, control, "caller 7", rows.here(settings)).rows) == 0


def test_a_request_leads_to_its_subject_and_one_that_names_nobody_is_erased_alone(tmp_path: Path) -> None:
    settings, loaded = triage.write(tmp_path, "echo", "{latency_p95: null}")
    control = Control(settings)
    triage.answer(settings, 6)
    now, journal = utc_now(), Journal(settings.journal)
    for number, client in ((6, "mine"), (7, "theirs")):
        closed = triage._closed(number, int(now.timestamp() * 1000), f"the lamp of nobody {number}")
        journal.closed(msgspec.structs.replace(closed, caller="", client_request_id=client))
    journal.close()
    assert erasure.plan_request(settings, loaded, control, "3", rows.here(settings)).subject == "caller 3"
    with pytest.raises(Fixable, match="no request 99"):
        erasure.plan_request(settings, loaded, control, "99", rows.here(settings))
    said = Answers(version=1, suite="s", answers=({"text": "about the lamp of nobody 6"},), seconds=(0.1,))
    control.put("answers", "desk/1/s", said)
    planned = erasure.plan_request(settings, loaded, control, "mine", rows.here(settings))
    assert (planned.subject, planned.name, planned.request_ids) == ("", "request 6", {"6"})
    stone = erasure.erase(settings, loaded, control, planned, "test", now)
    assert (stone.rows, stone.key_destroyed) == (1, False)
    lake = Lake(settings)
    assert [lake.find(request)["input_text"].to_list() for request in ("6", "7")] == [[None], ["the lamp of nobody 7"]]
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    assert not [path.name for path in files if b"lamp of nobody 6" in path.read_bytes()]
    assert seals.faults(settings, control, MODEL, 0) == []


def test_retention_empties_old_rows_deletes_older_ones_and_leaves_what_is_held(desk: Desk, tmp_path: Path) -> None:
    settings, control = desk.settings, desk.control
    path = settings.root / "trimtab.yaml"
    path.write_text(path.read_text() + "evidence: {retention: {content_days: 30, metadata_days: 200}}\n")
    loaded = project.load(settings.root)
    erasure.hold(settings, loaded, control, "caller 9", lift=False, reason="case", by="test", now=utc_now())
    assert len(erasure.due(settings, loaded, control, utc_now()).content) == 0
    then = utc_now() + timedelta(days=31)
    old = erasure.due(settings, loaded, control, then)
    assert (len(old.content), len(old.metadata), old.held) == (38, 0, 1)  # of 41: one erased, one held, the newest
    erasure.retain(settings, loaded, control, old, "test", then)
    texts = Lake(settings).sample(0, 41, ["row", "input_text"]).drop_nulls()
    assert texts["row"].to_list() == [9, 40]
    assert seals.faults(settings, control, MODEL, 0) == []
    much = utc_now() + timedelta(days=201)
    old = erasure.due(settings, loaded, control, much)
    assert len(old.metadata) == 39
    erasure.retain(settings, loaded, control, old, "test", much)
    assert Lake(settings).sample(0, 41, ["row"])["row"].to_list() == [9, 40]
    assert Lake(settings).count() == 41  # numbers are never used twice
    assert seals.faults(settings, control, MODEL, 0) == []


def test_no_row_goes_before_its_time_under_the_guidelines(desk: Desk) -> None:
    settings = desk.settings
    path = settings.root / "trimtab.yaml"
    said = "evidence: {retention: {content_days: 30, metadata_days: 90}}\n"
    path.write_text(path.read_text().partition("evidence:")[0] + said)
    loaded, now = project.load(settings.root), utc_now()
    assert erasure.kept_days(loaded) == (30, 183)  # LOG-03 asks for half a year where it names no number
    old = erasure.due(settings, loaded, desk.control, now + timedelta(days=120))
    assert old.metadata_before == now + timedelta(days=120) - timedelta(days=183)
    (warned,) = [fault for fault in project.check(settings.root, now.date()) if "fewer than" in str(fault)]
    assert (warned.file, warned.severity) == ("guidelines.yaml", "warning")
