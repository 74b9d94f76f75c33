"""The steps in a live workspace. The last rung of the ladder, and opt-in: TRIMTAB_LIVE=1, a Databricks login and
TRIMTAB_LIVE_CATALOG, a catalog in which you may create a schema. It has never been run by the authors.

It makes a schema of its own and removes it: places, a registered version, jobs (paused). No cluster and no endpoint,
which cost money; no Azure workspace.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

import place
from trimtab import project, registry
from trimtab.databricks import steps

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("TRIMTAB_LIVE") != "1",
        reason="needs a live workspace: set TRIMTAB_LIVE=1, TRIMTAB_LIVE_CATALOG and a Databricks login",
    ),
    pytest.mark.filterwarnings("default"),
]


def test_a_project_is_brought_in_scheduled_and_removed(tmp_path: Path) -> None:
    where, _ = place.make(tmp_path)
    schema = f"trimtab_{uuid.uuid4().hex[:8]}"
    target = {"catalog": os.environ["TRIMTAB_LIVE_CATALOG"], "schema": schema, "secret_scope": schema}
    lines = "".join(f"    {key}: {value}\n" for key, value in target.items())
    text = place.FILE.replace("name: desk", f"name: {schema.replace('_', '-')}")
    experiment = f"    experiment: /Shared/{schema}\n    paused: true\n"
    (tmp_path / "trimtab.yaml").write_text(f"{text}target:\n  databricks:\n{lines}{experiment}")
    loaded = project.load(tmp_path)
    version = registry.register_base(where, loaded)
    try:
        for prepare in (
            lambda: steps.prepare_init(loaded.project),
            lambda: steps.prepare_push(where, loaded, {"champion": version}),
            lambda: steps.prepare_schedule(loaded.project),
        ):
            steps.apply(prepare(), print)
            assert prepare().todo == []
    finally:
        steps.apply(steps.prepare_destroy(loaded.project), print)
    assert steps.prepare_destroy(loaded.project).todo == []
