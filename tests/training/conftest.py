"""Shared by the tests of this room: a project's settings, and the tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_base as tiny

from trimtab import settings as settings_module
from trimtab.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TRIMTAB_BLOBS", str(tmp_path / "blobs"))
    return settings_module.load(tmp_path)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    tiny.write(path)
    return path
