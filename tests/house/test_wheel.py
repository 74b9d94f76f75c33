"""The wheel is whole: what the package reads at run time is in it, and it runs from there, away from any checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = "trimtab/examples/support-triage"
DATA = {
    "trimtab/trimtab.schema.json",
    "trimtab/retirements.json",
    "trimtab/web/style.css",
    f"{EXAMPLE}/trimtab.yaml",
    f"{EXAMPLE}/prompts/triage.md",
    f"{EXAMPLE}/tickets-period1.jsonl",
    f"{EXAMPLE}/tickets-period2.jsonl",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("trimtab-*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def unpacked(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    wheel.extractall(folder)
    return folder


def below(folder: Path) -> set[str]:
    """Every file below a folder of the checkout that belongs to the project, relative to that folder."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(file) for file in files if "__pycache__" not in file.parts and ".trimtab" not in file.parts}


def python(unpacked: Path, cwd: Path, *args: str) -> str:
    """What a fresh interpreter prints that finds the unpacked wheel first. Fails when it fails."""
    env = {**os.environ, "PYTHONPATH": str(unpacked), "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(args)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_it_holds_every_file_of_the_package_and_the_example(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert DATA - names == set()
    assert {f"trimtab/{file}" for file in below(ROOT / "src" / "trimtab")} - names == set()
    assert any(name.startswith("trimtab/cli/starter/") for name in names)
    example = {name for name in below(ROOT / "examples" / "support-triage") if not name.startswith("messages/")}
    assert {f"{EXAMPLE}/{name}" for name in example} - names == set()


def test_it_holds_no_tests_and_nothing_that_a_run_left_behind(wheel: zipfile.ZipFile) -> None:
    parts = {part for name in wheel.namelist() for part in Path(name).parts}
    assert parts & {"tests", ".trimtab", "__pycache__", "messages", "src"} == set()
    assert {name.split("/")[0].split("-")[0] for name in wheel.namelist()} == {"trimtab"}


def test_it_runs_away_from_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    found = python(unpacked, tmp_path, "-c", "import trimtab; print(trimtab.__file__)")
    assert Path(found.strip()) == unpacked / "trimtab" / "__init__.py"
    assert "init" in python(unpacked, tmp_path, "-m", "trimtab", "--help")
    python(unpacked, tmp_path, "-m", "trimtab", "init", "desk")
    assert below(tmp_path / "desk") == below(unpacked / "trimtab" / "cli" / "starter")
    for project in ("desk", str(unpacked / EXAMPLE)):
        assert "0 errors" in python(unpacked, tmp_path, "-m", "trimtab", "check", project)
