"""guidelines.yaml is part of the project: a fault in it has a line and a fix, a change in it changes the hash."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import place
from trimtab import project

GOOD = """\
system: desk
owner: team@example.org
intended_use: {purpose: Sorts messages.}
people:
  dpo@example.org: dpo@example.org+0a1b2c3d+AaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaA
clauses:
- id: LOG-01
  text: What was answered is sealed.
  check: log.coverage
  with: {min: 0.99}
"""
BAD = """\
system: desk
owner: team@example.org
intended_use: {purpose: Sorts messages.}
people:
  dpo@example.org: somebody+00000000+AAAA
clauses:
- id: LOG-01
  text: What was answered is sealed.
  check: log.coverag
- id: LOG-01
  text: Groups are treated alike.
  check: fairness.group
- id: LOG-02
  text: What was answered is sealed.
  check: log.coverage
  with: {min: 2, most: 3}
- id: USE-01
  text: Staff is trained.
  check: attest
  with: {by: [nobody@example.org]}
"""


def written(folder: Path, text: str) -> Path:
    place.make(folder)
    (folder / "trimtab.yaml").write_text(place.FILE + "guidelines: guidelines.yaml\n")
    (folder / "guidelines.yaml").write_text(text)
    return folder


def test_the_file_is_read_and_stands_in_the_projects_hash(tmp_path: Path) -> None:
    loaded = project.load(written(tmp_path, GOOD))
    assert loaded.guidelines is not None
    assert loaded.guidelines.clauses[0].parameters == {"min": 0.99}
    changed = project.load(written(tmp_path, GOOD.replace("0.99", "0.5")))
    assert changed.guidelines is not None
    assert changed.hash != loaded.hash
    assert changed.guidelines_sha256 != loaded.guidelines_sha256
    assert changed.guidelines.clauses[0].sha256 != loaded.guidelines.clauses[0].sha256


def test_every_fault_has_its_line_and_a_fix(tmp_path: Path) -> None:
    faults = project.check(written(tmp_path, BAD), date(2026, 1, 1))
    found = {(fault.file, fault.line, fault.field): (str(fault), fault.fix) for fault in faults}
    assert {(line, field) for _, line, field in found} == {
        (5, "people.dpo@example.org"),
        (7, "clauses[0].id"),
        (9, "clauses[0].check"),
        (10, "clauses[1].id"),
        (12, "clauses[1].check"),
        (16, "clauses[2].with.min"),
        (16, "clauses[2].with.most"),
        (20, "clauses[3].with.by"),
    }
    message, fix = found["guidelines.yaml", 9, "clauses[0].check"]
    assert message == "unknown check log.coverag"
    assert fix.startswith("did you mean log.coverage?")


def test_a_clause_puts_its_guard_in_force_and_warns_where_the_project_file_says_less(tmp_path: Path) -> None:
    asked = """\
- {id: PRIV-01, text: No card goes on., check: guard.active, with: {guard: pii, direction: input, action: redact}}
- {id: PRIV-02, text: No card comes back., check: guard.active, with: {guard: pii, direction: output, action: block}}
- {id: SAFE-01, text: Nobody takes it over., check: guard.active, with: {guard: injection, action: block}}
"""
    loaded = project.load(written(tmp_path, GOOD + asked))
    assert loaded.guards is not None
    assert [(guard.name, guard.direction, guard.action) for guard in loaded.guards.checks] == [
        ("pii", "input", "redact"),
        ("pii-2", "output", "block"),
        ("injection", "both", "block"),
    ]
    with (tmp_path / "trimtab.yaml").open("a") as file:
        file.write("guards: {checks: [{kind: injection, action: shadow}]}\n")
    declared = project.load(tmp_path).guards
    assert declared is not None
    assert next((guard.name, guard.action) for guard in declared.checks) == ("injection", "shadow")
    (warned,) = project.check(tmp_path, date(2026, 1, 1))
    assert (warned.severity, warned.field) == ("warning", "clauses[3].with.guard")
    wrong = project.check(written(tmp_path, GOOD + asked.replace("action: block}}\n", "action: redact}}\n")), date.min)
    assert any("nothing to take out" in str(fault) for fault in wrong)
