"""One project with two registered versions, and a stand-in for the workspace, for the tests of the annex."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import standin
from databricks_place import TARGET, Desk
from standin import Standin
from typer.testing import CliRunner

import place
from trimtab import project, registry
from trimtab.records.record import utc_now
from trimtab.records.registry import AliasMove, Traffic
from trimtab.store.control import Control


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Registered once: MLflow takes its time to make a database. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("desk")
    settings, loaded = place.make(folder)
    (folder / "trimtab.yaml").write_text(place.FILE + TARGET)
    registry.register_base(settings, project.load(folder))
    (folder / "prompt.md").write_text("Sort the message with care.\n")
    loaded, control = project.load(folder), Control(settings)
    second = registry.register_on(settings, loaded, control, "echo", "a better prompt")
    move = AliasMove(
        model="desk", alias="challenger", before=None, after=second.version, at=utc_now(), actor="t", reason="t"
    )
    control.move([move], Traffic(model="desk", version=second.version, percent=10, at=utc_now(), reason="t"))
    return Desk(settings, loaded, control)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """An empty stand-in that the vendors' clients find by their own variables."""
    with standin.running() as running:
        for name, value in standin.environment(running, tmp_path).items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def trimtab(desk: Desk, workspace: Standin) -> Callable[..., str]:
    """Run a command on the desk; what it says. Raises what Trimtab raises."""
    from trimtab.cli import app

    def run(*words: str) -> str:
        folder = [] if "--project" in words else ["--project", str(desk.settings.root)]
        done = CliRunner().invoke(app, [*words, *folder])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout if "--json" in words else done.output

    return run
