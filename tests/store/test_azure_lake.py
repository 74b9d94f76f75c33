"""A lake in Azure's blob storage: many machines drain into it at once, each row exactly once. Beside
the ladder: on Azurite, Microsoft's own emulator; not that a subscription's firewall and roles let it in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import azurite
import polars as pl
import pytest
from deltalake import DeltaTable
from journal_writer import closed, feedback

from place import free_port
from trimtab import settings as trimtab_settings
from trimtab.errors import Fixable
from trimtab.settings import Settings
from trimtab.store import artifacts, blobs
from trimtab.store.drain import drain
from trimtab.store.journal import Journal, segments
from trimtab.store.lake import Lake

URL = f"abfss://lake@{azurite.ACCOUNT}.dfs.core.windows.net/desk"
MACHINE = """
import sys
from pathlib import Path
from trimtab import settings
from trimtab.store.drain import drain
from trimtab.store.journal import Journal
sys.path.insert(0, sys.argv[3])
from journal_writer import closed, feedback

where, name = settings.load(sys.argv[1]), sys.argv[2]
journal = Journal(where.journal)
for number in range(int(sys.argv[4])):
    journal.closed(closed(f"{name}-{number}"))
    journal.feedback(feedback(f"{name}-{number}", request_id=f"{name}-{number}"))
    if sys.argv[5] == "drain":
        drain(where)
        print(number, flush=True)
journal.close()
"""
"""A machine that writes rows and, told so, drains after each."""

pytestmark = pytest.mark.skipif(
    azurite.program() is None, reason="Azurite is not installed here: make test installs it where npm is"
)


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    with azurite.running(free_port()) as address:
        azurite.make_container(address, "lake")
        yield address


@pytest.fixture
def place(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A machine whose lake is in a folder of its own in the container."""
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", storage)
    monkeypatch.setenv("TRIMTAB_LAKE", f"{URL}/{tmp_path.name}")
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    return trimtab_settings.load(tmp_path / "here")


def machine(place: Settings, name: str, rows: int, drains: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MACHINE, str(place.root.parent / name), name, str(Path(__file__).parent)]
    return subprocess.Popen([*command, str(rows), drains], stdout=subprocess.PIPE, text=True, env={**os.environ})


def test_machines_that_drain_at_once_number_every_row_once_and_a_killed_one_goes_on(place: Settings) -> None:
    names, rows = ["one", "two", "three"], 6
    machines = {name: machine(place, name, rows, "drain") for name in names}
    victim = machines["three"]
    assert victim.stdout is not None
    assert victim.stdout.readline() == "0\n"
    victim.kill()
    for process in machines.values():
        process.communicate()
    assert [machines[name].returncode for name in names] == [0, 0, -9]
    drain(trimtab_settings.load(place.root.parent / "three"))  # the machine is back

    lake = Lake(place)
    found = lake.sample(0, 10**6, ["row", "databricks_request_id", "outcome"])
    assert found["row"].to_list() == list(range(lake.count()))
    ids = found["databricks_request_id"].to_list()
    assert len(ids) == len(set(ids))
    known = {f"{name}-{number}" for name in ("one", "two") for number in range(rows)} | {"three-0"}
    assert known <= set(ids)
    told = pl.scan_delta(DeltaTable(place.lake_table("feedback"))).collect()["feedback_id"].to_list()
    assert len(told) == len(set(told))
    assert known <= set(told) <= set(ids)
    assert lake.labelled()["label"].drop_nulls().to_list() == ['{"intent":"refund"}'] * len(told)
    assert segments(trimtab_settings.load(place.root.parent / "three").journal) == []
    assert not (place.root.parent / "one" / ".trimtab" / "lake" / "inference").exists()


def test_weights_and_data_sets_made_on_one_machine_are_there_on_another(place: Settings, tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(os.urandom(100_000))
    digest = artifacts.put_blob(place, weights)
    made = place.datasets / "abc"
    made.mkdir(parents=True)
    (made / "train.jsonl").write_text("{}\n")
    artifacts.share(place, made)

    other = replace(trimtab_settings.load(tmp_path / "there"), blobs=tmp_path / "other blobs")
    assert artifacts.blob(other, digest).read_bytes() == weights.read_bytes()
    assert (artifacts.dataset(other, "abc") / "train.jsonl").read_text() == "{}\n"
    with pytest.raises(Fixable, match="is not in"):
        artifacts.blob(other, "0" * 64)
    alone = replace(other, files_url=None, blobs=tmp_path / "no blobs")
    with pytest.raises(Fixable, match="is not in"):
        artifacts.blob(alone, digest)
    assert blobs.path_of(other.blobs, digest).exists()


def test_a_store_that_is_away_keeps_the_rows_in_the_journal(place: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(place.journal)
    journal.closed(closed("kept"))
    journal.feedback(feedback("kept"))
    journal.close()
    storage = os.environ["AZURITE_BLOB_STORAGE_URL"]
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Fixable, match="cannot be reached"):
        drain(place)
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", storage)
    assert drain(place) == 1
    assert Lake(place).count() == 1
