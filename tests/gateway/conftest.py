"""Fixtures: a place for one test, or one shared by the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateway_place import Place, entity


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One engine and one gateway for the tests of a file that leave them as they were."""
    place = Place(tmp_path_factory.mktemp("shared"))
    place.route(entity(place.engine()))
    place.gateway()
    yield place
    place.stop()


@pytest.fixture(scope="module")
def http(shared: Place) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        yield client
