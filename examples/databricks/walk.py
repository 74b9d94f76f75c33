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

STEPS = {
    "register": "the model of trimtab.yaml as version 1, in this project",
    "azure provision": "resource group and Azure Databricks workspace, by ARM",
    "databricks cluster": "a cluster for notebooks, with its libraries",
    "databricks init": "catalog, schema, volume, registered model, experiment, secret scope",
    "databricks push": "the project's files into the volume, the model and its key to where the endpoint finds them",
    "databricks deploy": "the serving endpoint, with its inference table",
    "databricks monitor": "data profiling of the requests, and alerts",
    "databricks schedule": "the jobs: drift monitor, retraining behind its gates, erasure",
    "databricks destroy": "what these commands made, the last first; what is evidence or somebody else's is kept",
    "databricks destroy --workspace": "the Azure workspace and its resource group",
}
LEGEND = """Stand-ins on this machine play Azure and Databricks; the vendors' own clients talk to them.
Each step runs three times: the plan alone, then --apply, then again to see that nothing is left to do.
  + create   ~ change   - delete   = as it should be, or kept      below each: the request that would be made
  > a request as it arrived, and the status of its answer"""


def main(folder: Path) -> int:
    """Walk through all steps in `folder`; how many requests arrived."""
    project = folder / "support-triage"
    shutil.copytree(HERE, project, ignore=shutil.ignore_patterns("*.py", "*.ipynb", "__pycache__", ".trimtab"))
    print(LEGEND)
    planned = 0
    with standin.running() as playing:
        os.environ |= standin.environment(playing, folder) | {"AZURE_OPENAI_API_KEY": "a-key-for-the-stand-in"}
        for number, (step, what) in enumerate(STEPS.items(), 1):
            print(f"\n=== {number} of {len(STEPS)}. {step}: {what}", flush=True)
            if step == "databricks monitor":
                _first_request(playing)
            sure = ["--confirm", "support-triage"] if "destroy" in step else []
            for more in ([],) if step == "register" else ([], [*sure, "--apply"], [*sure, "--apply"]):
                sent = _run(playing, [*step.split(), *more, "--project", str(project)])
                planned += 0 if more or step == "register" else sent
        changed = len(playing.writes())
        print(f"\n{len(playing.seen)} requests arrived, {changed} of them changed something, {planned} while planning")
        return len(playing.seen)


def _run(playing: standin.Standin, words: list[str]) -> int:
    """Run a command and print what arrived; how many requests changed something."""
    print(f"\n$ trimtab {' '.join(words[:-2])}", flush=True)
    before = len(playing.seen)
    app(words, standalone_mode=False)
    arrived = playing.seen[before:]
    for request in arrived:
        print(f"    > {request}", flush=True)
    return sum(request in playing.writes() for request in arrived)


def _first_request(playing: standin.Standin) -> None:
    """What comes about in a workspace: the first requests bring the inference table, the drift job its view."""
    table = "ml.support.support_triage_request_log"
    playing.of("tables")[table] = {"name": table.rpartition(".")[2], "table_id": "11111111-1111-1111-1111-111111111111"}


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="trimtab-databricks-"))
    where.mkdir(parents=True, exist_ok=True)
    main(where)
    print(f"the project is in {where}")
