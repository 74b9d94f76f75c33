"""The control API: what the dashboard shows and does, as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from pydantic import Field

from trimtab.errors import Conflict, Fixable, TrimtabError
from trimtab.promotion import apply
from trimtab.records.record import Record
from trimtab.records.registry import AliasMove
from trimtab.web.place import Place
from trimtab.web.view import View


class Rollback(Record):
    """Why, and who. Both stand in the record."""

    reason: str = Field(min_length=1)
    actor: str = Field(default="api", min_length=1)


def add(app: FastAPI, place: Place) -> None:
    """Add `GET /api/status` and `POST /api/rollback`.

    A rollback needs the header `x-trimtab: 1`, which a page from elsewhere cannot send unasked.
    """

    @app.get("/api/status")
    def status() -> View:
        return place.look()

    @app.post("/api/rollback")
    def rollback(body: Rollback, x_trimtab: Annotated[str | None, Header()] = None) -> AliasMove:
        if x_trimtab != "1":
            raise HTTPException(403, "a rollback needs the header x-trimtab: 1; it keeps foreign web pages out")
        return undo(place, None, actor=body.actor, reason=body.reason)

    app.add_exception_handler(TrimtabError, _answer)


def undo(place: Place, shown: AliasMove | None, *, actor: str, reason: str) -> AliasMove:
    """Put the champion before this one back; returns the move. Raises what `apply.rollback` raises."""
    model = place.loaded.project.name
    try:
        return apply.rollback(place.settings, place.control, model, actor=actor, reason=reason, shown=shown)
    finally:
        place.forget()


def _answer(_: Request, error: Exception) -> JSONResponse:
    """An error as JSON, with its fix if it has one."""
    assert isinstance(error, TrimtabError)  # noqa: S101 (registered for these alone)
    body = {"code": error.code, "message": str(error)} | ({"fix": error.fix} if isinstance(error, Fixable) else {})
    status = 409 if isinstance(error, Conflict) else 422 if isinstance(error, Fixable) else 500
    return JSONResponse({"error": body}, status)
