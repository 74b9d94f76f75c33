"""Walk from an empty subscription to a scheduled loop and back, against stand-ins on this machine.

Prints each command, what it says, and each request that arrived at the border. The vendors' own clients make the
requests; Azure and Databricks are played by tests/databricks/standin.py. Nothing leaves this machine.

    .venv/bin/python examples/databricks/walk.py [FOLDER]        or: make demo-databricks
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests" / "databricks"))

import standin  # noqa: E402

from trimtab.cli import app  # noqa: E402

STEPS = (
    "register",
    "azure provision",
    "databricks cluster",
    "databricks init",
    "databricks push",
    "databricks deploy",
    "databricks monitor",
    "databricks schedule",
)


def main(folder: Path) -> int:
    """Walk through all steps in `folder`; how many requests arrived."""
    project = folder / "support-triage"
    shutil.copytree(HERE, project, ignore=shutil.ignore_patterns("*.py", "*.ipynb", "__pycache__", ".trimtab"))
    with standin.running() as playing:
        os.environ |= standin.environment(playing, folder) | {"AZURE_OPENAI_API_KEY": "a-key-for-the-stand-in"}
        for step in STEPS:
            if step == "databricks monitor":
                _first_request(playing)
            for words in ([step],) if step == "register" else ([step], [step, "--apply"], [step, "--apply"]):
                _run(playing, [*" ".join(words).split(), "--project", str(project)])
        confirmed = ["--confirm", "support-triage", "--apply", "--project", str(project)]
        _run(playing, ["databricks", "destroy", *confirmed])
        _run(playing, ["databricks", "destroy", "--workspace", *confirmed])
        return len(playing.seen)


def _run(playing: standin.Standin, words: list[str]) -> None:
    print(f"\n$ trimtab {' '.join(words[:-2])}", flush=True)
    before = len(playing.seen)
    app(words, standalone_mode=False)
    for request in playing.seen[before:]:
        print(f"    > {request}", flush=True)


def _first_request(playing: standin.Standin) -> None:
    """What comes about in a workspace: the first requests bring the inference table, the drift job its view."""
    table = "ml.support.support_triage_request_log"
    playing.of("tables")[table] = {"name": table.rpartition(".")[2], "table_id": "11111111-1111-1111-1111-111111111111"}


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="trimtab-databricks-"))
    where.mkdir(parents=True, exist_ok=True)
    print(f"\n{main(where)} requests, all answered on this machine; the project is in {where}")
