"""The part of JSON Schema (draft 2020-12) that guards check. The others are named, so that nobody believes in them."""

from __future__ import annotations

from typing import Any, cast

KEYWORDS = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "minimum", "maximum"),
        *("minLength", "maxLength", "pattern", "minItems", "maxItems", "title", "description", "$schema", "default"),
    }
)


def unknown(schema: Any) -> list[str]:
    """Keywords of a schema that are not checked."""
    if not isinstance(schema, dict):
        return [] if isinstance(schema, bool) else ["(not an object)"]
    known = cast("dict[str, Any]", schema)
    inner = [*cast("dict[str, Any]", known.get("properties", {})).values()]
    inner += [known[name] for name in ("items", "additionalProperties") if name in known]
    return sorted({*(set(known) - KEYWORDS), *(word for one in inner for word in unknown(one))})
