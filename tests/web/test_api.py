"""The control API: the same picture as the page, and a rollback that only somebody who means it can ask for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import httpx
import loop_story
import pytest
from fastapi import FastAPI

from trimtab.errors import Conflict
from trimtab.store.lake import Lake
from trimtab.web import api
from trimtab.web.guard import Guard
from trimtab.web.place import Place
from trimtab.web.view import View

END = datetime(2026, 11, 22, 14, 9, tzinfo=UTC)
MEANT = {"x-trimtab": "1"}


def opened(story: loop_story.Story) -> Place:
    return Place(story.settings, story.loaded, story.control, Lake(story.settings))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://registry")
    return opened(loop_story.tell(tmp_path, END))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Shared by tests that leave it as it is."""
    return opened(loop_story.tell(tmp_path_factory.mktemp("untouched"), END))


def ask(place: Place, method: str, path: str, **how) -> httpx.Response:
    app = FastAPI()
    api.add(app, place)
    app.add_middleware(Guard, settings=place.settings)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081") as client:
            return await client.request(method, path, **how)

    return asyncio.run(send())


def champion(place: Place) -> int | None:
    return place.control.alias(loop_story.NAME, "champion")


def test_status_is_the_view(untouched: Place) -> None:
    answer = ask(untouched, "GET", "/api/status")
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert View.model_validate_json(answer.content).champion == 3


def test_a_rollback_is_made_and_told_although_mlflow_is_away(place: Place) -> None:
    body = {"reason": "wrong urgencies", "actor": "sam"}
    answer = ask(place, "POST", "/api/rollback", json=body, headers=MEANT)
    assert answer.status_code == 200
    assert (answer.json()["before"], answer.json()["after"], answer.json()["actor"]) == (3, 1, "sam")
    assert champion(place) == 1
    assert place.look().champion == 1
    assert place.look().history[-1].reason == "wrong urgencies"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, {"reason": "r"}, 403),
        (MEANT | {"origin": "http://evil.example"}, {"reason": "r"}, 403),
        (MEANT | {"host": "evil.example"}, {"reason": "r"}, 403),
        (MEANT, {"reason": ""}, 422),
        (MEANT, {}, 422),
    ],
)
def test_a_rollback_that_nobody_here_asked_for_moves_nothing(
    untouched: Place, headers: dict[str, str], body: dict[str, str], status: int
) -> None:
    assert ask(untouched, "POST", "/api/rollback", json=body, headers=headers).status_code == status
    assert champion(untouched) == 3


def test_without_an_earlier_champion_the_answer_carries_the_fix(tmp_path: Path) -> None:
    new = opened(loop_story.begin(tmp_path, END))
    answer = ask(new, "POST", "/api/rollback", json={"reason": "r"}, headers=MEANT)
    assert answer.status_code == 422
    assert answer.json()["error"]["fix"] == "see `trimtab history`"


def test_undo_does_not_take_back_a_move_that_the_person_did_not_see(place: Place) -> None:
    shown = place.look().undo
    assert shown is not None
    api.undo(place, shown, actor="somebody", reason="first")
    with pytest.raises(Conflict, match="moved meanwhile"):
        api.undo(place, shown, actor="dashboard", reason="second")
    assert champion(place) == 1
