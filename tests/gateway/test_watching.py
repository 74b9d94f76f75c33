"""A file that is replaced is heard of at once; other files, and folders that are not there, are nobody's business."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.gateway.watching import watch


def replaced(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text("x")
    new.replace(path)


def written(path: Path) -> None:
    path.write_text("x")


@pytest.mark.parametrize("change", [replaced, written])
def test_it_tells_of_these_files_and_of_no_others(tmp_path: Path, change: Callable[[Path], None]) -> None:
    (tmp_path / "keys").mkdir()
    routes, keys = tmp_path / "routes.json", tmp_path / "keys" / "keys.json"

    async def listen() -> None:
        changed = asyncio.Event()
        assert watch([routes, keys], changed.set)
        for path in (routes, keys):
            change(tmp_path / "other.json")
            change(tmp_path / "keys" / "routes.json")
            await asyncio.sleep(0.05)
            assert not changed.is_set()
            change(path)
            await asyncio.wait_for(changed.wait(), 20)
            changed.clear()

    asyncio.run(listen())


def test_where_there_is_no_folder_it_says_so(tmp_path: Path) -> None:
    async def listen() -> bool:
        return watch([tmp_path / "nowhere" / "routes.json"], lambda: None)

    assert asyncio.run(listen()) is False
