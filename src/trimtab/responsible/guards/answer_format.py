"""Whether an answer has the form it should: JSON, a JSON schema, labels of a list. Pure.

Of JSON Schema (draft 2020-12) the keywords of `records.json_schema` are checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def problem(text: str, schema: dict[str, Any] | None) -> str | None:
    """What is wrong with an answer, in a word; None when nothing is. Without a schema any JSON is right."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "not_json"
    return next(_wrong(value, schema), None) if schema is not None else None


def _wrong(value: Any, schema: Any) -> Iterator[str]:
    if schema is True:
        return
    if schema is False:
        yield "not_allowed"
        return
    kinds = schema.get("type")
    if kinds is not None and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield "type"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield "enum"
    if "const" in schema and value != schema["const"]:
        yield "const"
    if isinstance(value, dict):
        yield from _wrong_object(cast("dict[str, Any]", value), schema)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        if not schema.get("minItems", 0) <= len(items) <= schema.get("maxItems", len(items)):
            yield "items"
        for item in items:
            yield from _wrong(item, schema.get("items", True))
    elif isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield "length"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield "pattern"
    elif isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield "range"


def _wrong_object(value: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    properties = schema.get("properties", {})
    if any(name not in value for name in schema.get("required", ())):
        yield "required"
    for name, item in value.items():
        if name in properties:
            yield from _wrong(item, properties[name])
        else:
            yield from _wrong(item, schema.get("additionalProperties", True))


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, ()))
