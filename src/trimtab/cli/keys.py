"""Serve and watch: API keys. A secret is shown once, alone on standard output; nobody can show it again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from trimtab.cli import show
from trimtab.cli.loop import user
from trimtab.cli.opening import Folder, opened, recorded
from trimtab.errors import Fixable

T = TypeVar("T")
Identity = Annotated[str, typer.Argument(metavar="ID", help="The key, as `trimtab keys list` names it.")]


def create(
    name: Annotated[str, typer.Argument(help="Whose it is, for people, e.g. ci.")],
    project: Folder = Path(),
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="predict, feedback, models, metrics, admin or attributes; again for more.", show_default="predict"
        ),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="For how long, e.g. 90d or 12h.", show_default="for good")] = None,
    rate: Annotated[
        str | None, typer.Option(help="Most requests, e.g. 600/min.", show_default="endpoint.rate_limit")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Most tokens, e.g. 100k/min.", show_default="any number")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Most money, e.g. '50 USD/day'; again for hour, day and month.", show_default="endpoint's"),
    ] = None,
) -> None:
    """Create an API key and show its secret, once. Only a hash of it is kept.

    Clients send it as OpenAI's do: `Authorization: Bearer tt-…`, or in the header api-key.
    """
    settings, loaded = opened(project)
    from trimtab.providers import prices
    from trimtab.records import keys as records
    from trimtab.records.record import utc_now
    from trimtab.store import keys
    from trimtab.store.control import Control

    scopes = tuple(dict.fromkeys(scope or ["predict"]))
    unknown = [one for one in scopes if one not in records.SCOPES]
    if unknown:
        raise Fixable(f"--scope {unknown[0]} is not a scope", f"use {', '.join(records.SCOPES)}")
    model = loaded.project.model
    if budget and prices.of(model.base, model) is None:
        raise Fixable(f"--budget needs a price, and {model.base} has none", "add model.price to trimtab.yaml")
    key, secret = keys.create(
        Control(settings),
        loaded.project.name,
        name=name,
        scopes=tuple(one for one in records.SCOPES if one in scopes),
        by=f"cli:{user()}",
        now=utc_now(),
        expires=_parsed("--expires", expires, records.lifetime, "90d"),
        requests=_parsed("--rate", rate, records.rate, "600/min"),
        tokens=_parsed("--tokens", tokens, records.rate, "100k/min"),
        budgets=tuple(_given("--budget", text, records.budget, "50 USD/day") for text in budget or []),
    )
    show.say(secret)
    off = "" if loaded.project.endpoint.auth == "keys" else "; keys are asked for once endpoint.auth is keys"
    show.then(f"keep it in a safe place, it is not shown again; `trimtab keys revoke {key}` ends it{off}")


def list_(project: Folder = Path()) -> None:
    """List every key there ever was: whose, for what, until when, and its limits. Secrets are not kept."""
    _, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.records.record import utc_now
    from trimtab.store import keys

    now = utc_now()
    rows: list[tuple[str, ...]] = []
    for key in keys.known(control, loaded.project.name):
        made = key.created
        limits = [
            *([f"{made.requests} requests"] if made.requests else []),
            *([f"{made.tokens} tokens"] if made.tokens else []),
            *(str(budget) for budget in made.budgets),
        ]
        until = show.moment(made.expires_at) if made.expires_at else "for good"
        scopes, limited = ", ".join(made.scopes), ", ".join(limits) or "the endpoint's"
        rows.append((key.id, made.name, key.state(now), scopes, show.moment(made.at), until, limited))
    show.table("key", "name", "state", "scopes", "created (UTC)", "expires", "limits", rows=rows)
    show.then("`trimtab keys create NAME`, `trimtab keys revoke ID`")


def rotate(
    key: Identity,
    project: Folder = Path(),
    grace: Annotated[str, typer.Option(help="How long the secret before works on, e.g. 1h.")] = "0s",
) -> None:
    """Give a key a new secret and show it, once. The key keeps its id, its limits and what it has spent."""
    _, loaded = opened(project)
    _, control = recorded(project)
    from trimtab.records.keys import lifetime
    from trimtab.records.record import utc_now
    from trimtab.store import keys

    length: timedelta = _given("--grace", grace, lifetime, "1h")
    show.say(keys.rotate(control, loaded.project.name, key, f"cli:{user()}", utc_now(), length))
    show.then("give it to the key's clients; it is not shown again")


def revoke(key: Identity, project: Folder = Path()) -> None:
    """End a key for good. A running gateway refuses it within a second; requests in flight are answered."""
    from trimtab import project as file

    model = file.model_name(project)
    _, control = recorded(project)
    from trimtab.records.record import utc_now
    from trimtab.store import keys

    keys.revoke(control, model, key, f"cli:{user()}", utc_now())
    show.say(f"{key} is revoked")
    show.then("`trimtab keys list`")


def _parsed(option: str, text: str | None, parse: Callable[[str], T], example: str) -> T | None:
    return None if text is None else _given(option, text, parse, example)


def _given(option: str, text: str, parse: Callable[[str], T], example: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise Fixable(f"{option} {text!r} {error}", f"write it like {example}") from None
