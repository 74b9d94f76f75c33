"""The command line: it shows what the rooms know, asks before it acts, and ends every error with a fix and a code."""

from __future__ import annotations

import importlib
import json
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from trimtab import errors, registry, settings
from trimtab.cli import show
from trimtab.project import Loaded
from trimtab.records.gateway import EngineState
from trimtab.records.lifecycle import CycleEnd, Progress
from trimtab.records.monitor import Interval, QualityReport, Window
from trimtab.records.registry import AliasMove, Traffic
from trimtab.store.control import Control

NOON = datetime(2026, 10, 3, 12, 0, tzinfo=UTC)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as `init` writes it, in the current folder; nothing is recorded yet."""
    for name in ("TRIMTAB_DATABASE_URL", "TRIMTAB_HOST", "TRIMTAB_PORT", "TRIMTAB_DASHBOARD_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert run("init", str(tmp_path / "triage"))[0] == 0
    monkeypatch.chdir(tmp_path / "triage")
    return tmp_path / "triage"


def moved(before: int | None, after: int | None, hour: int, actor: str, reason: str) -> AliasMove:
    at = NOON.replace(hour=hour)
    return AliasMove(
        model="triage", alias="champion", before=before, after=after, at=at, actor=actor, reason=reason, decision="d-7"
    )


@pytest.fixture
def control(folder: Path) -> Control:
    """Two champions one after the other: version 1 at 9:00, version 2 at 12:00."""
    control = Control(settings.load(folder))
    control.move([moved(None, 1, 9, "cli", "first version")])
    control.move([moved(1, 2, 12, "cycle-1", "better on 60 held-out rows")])
    return control


def stand_in(monkeypatch: pytest.MonkeyPatch, room: str, **functions: Any) -> None:
    """Puts functions in the place of a room: these tests are about the command line, not about what is behind it."""
    module = ModuleType(f"trimtab.{room}")
    vars(module).update(functions)
    parent, _, name = f"trimtab.{room}".rpartition(".")
    monkeypatch.setitem(sys.modules, f"trimtab.{room}", module)
    monkeypatch.setattr(importlib.import_module(parent), name, module, raising=False)


# ── prepare ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_init_writes_passes_check_and_carries_the_folders_name(folder: Path, run: Run) -> None:
    code, out, err = run("check")
    assert (code, out) == (0, "0 errors, 0 warnings\n")
    assert "Next: " in err
    assert "name: triage" in (folder / "trimtab.yaml").read_text()


@pytest.mark.parametrize("name", ["My Triage", "2026", "1e5", "true", "Übung", "-x"])
def test_what_init_writes_passes_check_in_a_folder_of_any_name(name: str, tmp_path: Path, run: Run) -> None:
    assert run("init", str(tmp_path / name))[0] == 0
    assert run("check", str(tmp_path / name))[:2] == (0, "0 errors, 0 warnings\n")


def test_init_overwrites_nothing_and_then_writes_nothing(tmp_path: Path, run: Run) -> None:
    (tmp_path / "labels.yaml").write_text("mine")
    code, _, err = run("init", str(tmp_path))
    assert code == 2
    assert "labels.yaml is there already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["labels.yaml"]


def test_check_prints_place_message_and_fix_and_the_same_as_json(folder: Path, run: Run) -> None:
    file = folder / "trimtab.yaml"
    file.write_text(file.read_text().replace("field: urgency", "field: urgncy"))
    line = file.read_text()[: file.read_text().index("urgncy")].count("\n") + 1
    code, out, _ = run("check")
    assert code == 2
    assert (
        f"trimtab.yaml:{line} gates.fairness.field: urgncy is not a field of the labels\n    fix: did you mean" in out
    )
    code, out, _ = run("check", "--json")
    assert code == 2
    (fault,) = json.loads(out)["faults"]
    assert (fault["line"], fault["field"], fault["value"]) == (line, "gates.fairness.field", "urgncy")


def test_schema_prints_nothing_but_the_schema(run: Run) -> None:
    code, out, err = run("schema")
    assert code == 0
    assert json.loads(out)["properties"]["name"]["type"] == "string"
    assert "yaml-language-server" in err


def test_setup_fetches_every_file_once_and_names_its_licence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimtab.providers import weights

    fetched: list[str] = []
    monkeypatch.setattr(weights, "fetch", lambda blobs, name: fetched.append(name) or blobs / name)
    code, out, _ = run("setup")
    assert code == 0
    assert fetched == list(weights.SOURCES)
    assert "98 MB, licence Apache-2.0" in out


def test_python_m_trimtab_is_trimtab() -> None:
    done = subprocess.run([sys.executable, "-m", "trimtab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("trimtab 0.")


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (errors.TrimtabError("it broke"), 1, ["error: it broke"]),
        (errors.Fixable("port 80 is taken", "choose another"), 2, ["error: port 80 is taken", "fix: choose another"]),
        (
            errors.ConfigError("is odd", "mend it", file="labels.yaml", line=3, field="intent"),
            2,
            ["error: labels.yaml:3 intent: is odd", "fix: mend it"],
        ),
        (errors.Conflict("[bold]moved[/bold] meanwhile"), 3, ["error: [bold]moved[/bold] meanwhile"]),
        (errors.Corrupt("changed"), 4, ["error: changed"]),
        (errors.EngineError("died"), 5, ["error: died"]),
        (errors.StepFailed("train failed"), 6, ["error: train failed"]),
        (KeyboardInterrupt(), 130, []),
    ],
)
def test_an_error_is_a_line_a_fix_and_a_code_and_never_a_traceback(
    error: BaseException, code: int, lines: list[str], folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def up(*_: Any, **__: Any) -> int:
        raise error

    stand_in(monkeypatch, "supervisor", up=up)
    left, out, err = run("up")
    assert (left, out) == (code, "")
    assert [line for line in err.splitlines() if line and not line.startswith("Next: ")] == lines


def test_a_faulty_file_stops_a_command_with_its_first_fault(folder: Path, run: Run) -> None:
    (folder / "trimtab.yaml").write_text("name: triage\nmodel: {base: echo, promt: x}\n")
    code, _, err = run("up")
    assert code == 2
    assert err.startswith("error: trimtab.yaml:2 model.p")
    assert "fix: " in err
    assert "run `trimtab check`" in err


def test_a_port_that_is_no_number_is_refused(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_PORT", "eighty")
    code, _, err = run("audit", "checkpoint")
    assert code == 2
    assert "TRIMTAB_PORT" in err


@pytest.mark.parametrize("words", [["status"], ["history"], ["rollback"], ["audit", "verify"], ["audit", "export"]])
def test_asking_where_nothing_is_recorded_says_so_and_leaves_no_trace(words: list[str], folder: Path, run: Run) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert "nothing is recorded" in err
    assert not (folder / ".trimtab").exists()


# ── serve and watch ───────────────────────────────────────────────────────────────────────────────────────────────


def test_register_up_cycle_approve_card_and_demo_call_their_room(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []

    def noted(result: Any = None) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            calls.append([arg for arg in args if not isinstance(arg, Loaded | settings.Settings)] + [kwargs])
            return result

        return function

    end = CycleEnd(cycle="c-1", at=NOON, outcome="rejected", summary="worse by 0.1")
    stand_in(monkeypatch, "supervisor", up=noted(7))
    stand_in(monkeypatch, "lifecycle", run_now=noted(end), approve=noted(), card=noted("# Model card\n"))
    stand_in(monkeypatch, "cli.demo", run=noted())
    assert run("up", "--open")[0] == 7
    code, out, _ = run("cycle", "run", "--reason", "new products")
    assert (code, out) == (0, "cycle c-1 rejected: worse by 0.1\n")
    assert run("approve", "c-9", "--by", "ana")[:2] == (0, "approved by ana\n")
    assert run("card", "--version", "3")[:2] == (0, "# Model card\n")
    assert run("demo", "tour", "--speed", "0.5")[0] == 0
    assert calls == [
        [{"open_browser": True}],
        ["new products", None, {}],
        ["c-9", "ana", {}],
        [3, {}],
        [Path("tour"), False, 0.5, True, {}],
    ]


def test_status_shows_everything_on_one_screen(control: Control, folder: Path, run: Run) -> None:
    canary = Traffic(model="triage", version=3, percent=10, at=NOON, reason="step 1 of 3")
    control.move([], canary)
    engine = EngineState(model="triage", version=2, state="failed", error="out of memory", at=NOON)
    control.set_engine(engine)
    window = Window(first=0, last=200, start=NOON, end=NOON)
    accuracy = Interval(estimate=0.71, low=0.64, high=0.77, method="wilson")
    report = QualityReport(
        model="triage", at=NOON, window=window, field="*", n=180, minimum=0.8, value=accuracy, verdict="breach"
    )
    control.put("quality_report", "triage/2/200", report)
    where = settings.load(folder)
    where.runtime.mkdir(parents=True)
    progress = Progress(cycle="c-1", attempt=1, step="train", fraction=0.42, eta_seconds=33, text="step 10", at=NOON)
    where.progress_file.write_text(progress.model_dump_json())
    code, out, _ = run("status")
    assert code == 0
    for words in (
        "version 2, since 2026-10-03 12:00:00 UTC (better on 60 held-out rows)",
        "version 3 answers 10% of callers (step 1 of 3)",
        "version 2 failed",
        "out of memory",
        "breach, accuracy 0.71 [0.64, 0.77], n = 180",
        "not measured yet",
        "c-1 attempt 1, train 42%, about 33 s left: step 10",
        "http://127.0.0.1:8080/v1",
        "http://127.0.0.1:8081",
    ):
        assert words in out
    assert len(out.splitlines()) < 24
    assert [line for line in out.splitlines() if line != line.rstrip()] == []


def test_history_lists_who_moved_what_when_and_why(control: Control, run: Run) -> None:
    code, out, _ = run("history")
    assert code == 0
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert rows == [
        "time (UTC) alias from to by reason",
        "2026-10-03 09:00:00 champion none version 1 cli first version",
        "2026-10-03 12:00:00 champion version 1 version 2 cycle-1 better on 60 held-out rows",
    ]


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-10-03 08:59", "no version of triage was champion"),
        ("2026-10-03 11:59", "version 1 was champion, since 2026-10-03 09:00:00 UTC, by cli: first version"),
        ("2026-10-03 14:05", "version 2 was champion, since 2026-10-03 12:00:00 UTC, by cycle-1"),
        ("2026-10-03 13:59+02:00", "version 1 was champion"),  # 11:59 UTC
        ("2026-10-03", "no version"),
    ],
)
def test_history_answers_what_was_live_at_a_moment(moment: str, words: str, control: Control, run: Run) -> None:
    code, out, _ = run("history", "--at", moment)
    assert code == 0
    assert words in out


def test_a_moment_that_is_none_is_refused(control: Control, run: Run) -> None:
    code, _, err = run("history", "--at", "last tuesday")
    assert code == 2
    assert "2026-10-03 14:05" in err


# ── roll back ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def _without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's copy of the aliases is the registry's affair, and slow to open."""
    monkeypatch.setattr(registry, "show_aliases", lambda *_: None)


@pytest.mark.usefixtures("_without_mlflow")
@pytest.mark.parametrize(
    ("words", "answer", "code", "live"),
    [
        (["--dry-run"], "y\n", 0, 2),
        ([], "n\n", 1, 2),
        ([], "", 1, 2),
        ([], "y\n", 0, 1),
        (["--yes"], "", 0, 1),
    ],
)
def test_rollback_shows_what_it_will_do_and_does_it_only_when_told(
    words: list[str], answer: str, code: int, live: int, control: Control, run: Run
) -> None:
    left, out, _ = run("rollback", "--reason", "wrong refunds", *words, answer=answer)
    assert left == code
    assert "triage champion: version 2 -> version 1" in out
    assert "cycle-1: better on 60 held-out rows" in out
    assert control.alias("triage", "champion") == live


@pytest.mark.usefixtures("_without_mlflow")
def test_rollback_does_not_wait_for_a_faulty_file_to_be_mended(control: Control, folder: Path, run: Run) -> None:
    (folder / "trimtab.yaml").write_text("name: triage\nmodel: being edited\n")
    assert run("rollback", "--yes")[0] == 0
    assert control.alias("triage", "champion") == 1
    assert registry.history(control, "triage")[-1].actor.startswith("cli:")


@pytest.mark.usefixtures("_without_mlflow")
def test_there_is_nothing_before_the_first_champion(folder: Path, run: Run) -> None:
    Control(settings.load(folder)).move([moved(None, 1, 9, "cli", "first version")])
    code, _, err = run("rollback", "--yes")
    assert code == 2
    assert "no earlier champion" in err


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def exported(control: Control, run: Run, tmp_path: Path) -> list[str]:
    """What an auditor gets: the log, a checkpoint and the key, as the options of `audit verify`."""
    file, note = tmp_path / "audit.jsonl", tmp_path / "kept.note"
    file.write_text(run("audit", "export")[1])
    note.write_text(run("audit", "checkpoint")[1])
    return ["--file", str(file), "--checkpoint", str(note), "--key", run("audit", "key")[1].strip()]


def test_a_whole_log_verifies_here_and_from_its_export_alone(
    exported: list[str], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run("audit", "verify")[:2] == (0, "2 entries, whole\n")
    assert run("audit", "verify", *exported[2:4])[:2] == (0, "2 entries, whole\n")
    monkeypatch.chdir(tmp_path)  # an auditor's machine: no project here
    assert run("audit", "verify", *exported)[:2] == (0, "2 entries, whole\n")
    code, _, err = run("audit", "verify", *exported[:2])
    assert (code, "proves nothing by itself" in err) == (2, True)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: [lines[0].replace("first version", "worst version"), lines[1]], "edited, removed or reordered"),
        (lambda lines: lines[1:], "entry 1 is missing"),
        (lambda lines: lines[::-1], "entry 1 is missing"),
        (lambda lines: lines[:1], "the end was cut off"),
        (lambda lines: [lines[0], lines[1][:-9]], "line 2 is not an audit entry"),
        (lambda lines: [], "empty"),
    ],
)
def test_an_edited_export_fails_with_code_four_and_names_the_fault(
    change: Callable[[list[str]], list[str]], fault: str, exported: list[str], run: Run
) -> None:
    file = Path(exported[1])
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
    code, out, err = run("audit", "verify", *exported)
    assert code == 4
    assert fault in out
    assert "fault" in err


def test_a_bundle_proves_its_period_to_an_auditor_and_not_when_it_was_changed(
    control: Control, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "evidence.zip"
    assert run("audit", "bundle", str(out))[:2] == (0, f"2 entries with their proofs in {out}\n")
    with zipfile.ZipFile(out) as archive:
        archive.extractall(tmp_path / "opened")
    verifier, key = tmp_path / "opened" / "verify_audit.py", run("audit", "key")[1].strip()

    def verified() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(verifier), "--key", key, str(out)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert (verified().returncode, verified().stdout) == (0, "2 entries, whole and in place\n")
    entries = tmp_path / "opened" / "entries.jsonl"
    entries.write_text(entries.read_text().replace("first version", "worst version"))
    with zipfile.ZipFile(out, "w") as archive:
        for file in (tmp_path / "opened").rglob("*.*"):
            archive.write(file, file.relative_to(tmp_path / "opened"))
    assert verified().returncode == 1
    assert "entries.jsonl is not what the manifest says" in verified().stdout
    code, _, err = run("audit", "bundle", str(out), "--from", "2031-01-01")
    assert (code, "choose a period inside the log" in err) == (2, True)


def test_an_edit_of_the_database_is_found(control: Control, folder: Path, run: Run) -> None:
    with sqlite3.connect(folder / ".trimtab" / "trimtab.db") as db:
        db.execute("UPDATE facts SET body = replace(body, 'cycle-1', 'cycle-2')")
    db.close()
    code, out, _ = run("audit", "verify")
    assert code == 4
    assert "differs from its audit entry 2" in out


def test_long_work_says_so_in_a_log_now_and_then_and_quick_work_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of silence look like a command that hangs; a line for each answer would be a flood."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(show, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    with show.working("trying") as status:
        for number in range(600):
            status.update(f"mask: {number} of 600 answers")
    lines = capsys.readouterr().err.splitlines()
    assert 600 / show.EVERY_SECONDS / 2 < len(lines) <= 600 / show.EVERY_SECONDS
    with show.working("looking") as status:
        status.update("done at once")
    assert capsys.readouterr().err == ""
