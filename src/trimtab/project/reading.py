"""Read the files a user wrote: YAML with its line numbers, checked against the model, every fault with its place.

Nothing here raises for what a user can write: faults are collected, and reading goes on with what is right.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from trimtab.errors import ConfigError
from trimtab.records.file_model import FileModel
from trimtab.records.project import Project

M = TypeVar("M", bound=FileModel)

Loc = tuple[str | int, ...]
"""Where something stands in a document: keys and positions from the top."""


@dataclass(frozen=True)
class Document:
    """One YAML file. `data` is plain JSON data; `tree` is ruamel's round-trip tree, which remembers the lines."""

    file: str
    data: Any
    tree: Any

    def line(self, loc: Loc) -> int | None:
        """The 1-based line of the deepest part of `loc` that is there; None when none is."""
        line, node = None, self.tree
        for part in loc:
            try:
                line = (node.lc.item(part) if isinstance(part, int) else node.lc.key(part))[0] + 1
                node = node[part]
            except (AttributeError, KeyError, IndexError, TypeError):
                break
        return line

    def value(self, loc: Loc) -> Any:
        """What stands at `loc`, or None."""
        node = self.data
        for part in loc:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return None
        return node


@dataclass
class Reading:
    """The project file and what was found wrong in it and the files it names, so far.

    `digests`: SHA-256 of each file read, by the field that names it; `texts`: what those that are UTF-8 say, to the
    byte; `files`: their names. `broken`: places whose value
    was refused, so that no later check complains about a consequence.
    """

    home: Path
    main: Document
    faults: list[ConfigError] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    broken: list[Loc] = field(default_factory=list)

    def is_broken(self, loc: Loc) -> bool:
        """Whether the value at `loc`, or a section around it, was refused."""
        return any(loc[: len(bad)] == bad for bad in self.broken)

    def fault(
        self,
        loc: Loc,
        message: str,
        fix: str,
        *,
        document: Document | None = None,
        needs: Sequence[Loc] = (),
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Note a fault at `loc`, unless it only follows from a refused value there or at one of `needs`."""
        document = document or self.main
        if document is self.main and any(self.is_broken(place) for place in (loc, *needs)):
            return
        value = document.value(loc)
        self.faults.append(
            ConfigError(
                message,
                fix,
                file=document.file,
                line=document.line(loc),
                field=dotted(loc),
                value="" if value is None else shown(value),
                severity=severity,
            )
        )

    def text(self, loc: Loc, name: str) -> str | None:
        """The text of the file named at `loc`, or None with a fault noted. Its digest is kept."""
        try:
            path = self.home / name
            if not path.is_file():
                self.fault(loc, f"there is no file {name}", "create it, or correct the path (relative to trimtab.yaml)")
                return None
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            self.fault(loc, f"cannot read {shown(name)}: {reason}", "make it readable, or correct the path")
            return None
        self.digests[dotted(loc)] = hashlib.sha256(content).hexdigest()
        self.files.append(name)
        try:
            self.texts[dotted(loc)] = content.decode("utf-8")
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            self.fault(loc, f"{name} is not UTF-8 text", "save it as UTF-8")
            return None

    def yaml(self, loc: Loc, name: str) -> Document | None:
        """The YAML file named at `loc`, or None with a fault noted."""
        text = self.text(loc, name)
        if text is None:
            return None
        try:
            return parse(text, name)
        except ConfigError as fault:
            self.faults.append(fault)
            return None


def open_project(path: Path) -> Reading:
    """Read trimtab.yaml itself: `path` is the file or its folder. Raises ConfigError when it is absent or not YAML."""
    path = path / "trimtab.yaml" if path.is_dir() else path
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        fix = "run `trimtab init` to write a project, or name the folder of yours"
        raise ConfigError(f"cannot be read: {reason}", fix, file=str(path)) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8 text", "save it as UTF-8", file=path.name, line=line) from None
    digest = hashlib.sha256(content).hexdigest()
    return Reading(path.parent, parse(text, path.name), digests={"trimtab.yaml": digest}, files=[path.name])


def parse(text: str, file: str) -> Document:
    """A YAML text with its lines. Raises ConfigError when it is not one YAML document of plain data."""
    try:
        tree = YAML().load(io.StringIO(text))
        data = _plain(tree)
        json.dumps(data, ensure_ascii=False).encode()  # lone surrogates and the like are refused here
    except MarkedYAMLError as error:
        open_bracket = "flow" in (error.context or "")  # then the place to mend is where it opens
        mark = error.context_mark if open_bracket else error.problem_mark
        line = mark.line + 1 if mark else None
        raise ConfigError(f"not YAML: {_first(error.problem)}", _yaml_fix(error), file=file, line=line) from None
    except Exception as error:  # ruamel's constructors raise whatever Python raises on odd scalars and nesting
        problem = f"not YAML that can be read: {_first(str(error)) or type(error).__name__}"
        raise ConfigError(problem, "write plain mappings, lists, text and numbers", file=file) from None
    return Document(file, data, tree)


def project_of(reading: Reading) -> Project | None:
    """The project, its faults noted. A refused value is left out and the rest is read as if it were right, so that one
    reading finds all faults; None when even that is impossible."""
    data = reading.main.data
    if not isinstance(data, dict):
        reading.fault((), "is empty or not a mapping", "start with `name:` and `model:`, or run `trimtab init`")
        return None
    for again in range(_ROUNDS):
        try:
            return Project.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False)
        if again == 0:
            _note(reading, reading.main, Project, errors)
            reading.broken += [_replaceable(error["loc"]) for error in errors]
        data = _mended(data, errors)
    return None


def section_of(reading: Reading, document: Document, model: type[M], at: Loc = ()) -> M | None:
    """What stands at a place of another file, as its model; None with every fault noted."""
    try:
        return model.model_validate_json(json.dumps(document.value(at)), strict=True)
    except ValidationError as invalid:
        _note(reading, document, model, invalid.errors(include_url=False), at)
        return None


_ROUNDS = 6  # each one repairs a level of the file; the deepest field is gates.fairness.swaps


def _note(
    reading: Reading, document: Document, root: type[FileModel], errors: Iterable[ErrorDetails], at: Loc = ()
) -> None:
    for error in errors:
        loc = (*at, *error["loc"])
        message, fix = _explained(document.value(loc), root, error)
        reading.fault(loc, message, fix, document=document)


def _explained(found: Any, root: type[FileModel], error: ErrorDetails) -> tuple[str, str]:
    """A message and a fix for one of pydantic's errors about the value that was found."""
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(loc, root)
    info = _field(loc, root)
    about = f" ({_first(info.description).rstrip('.')})" if info and info.description else ""
    if kind == "missing":
        return "is missing", f"add `{loc[-1]}: …`{about}"
    value = shown(found)
    if kind == "refused":
        return f"{value}: {context['problem']}", context["fix"]
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{value} is not an allowed value", f"{suggestion(value, allowed)}use {' or '.join(allowed)}"
    if kind == "string_pattern_mismatch":
        example = info.examples[0] if info and info.examples else context["pattern"]
        return f"{value} does not have the right form", f"write it like {shown(example)}{about}"
    words = _first(error["msg"]).removeprefix("Input ")
    form = _FORMS.get(kind) or f"a value that {words}".replace("that should be", "that is")
    return f"{value} {words}", f"write {form}{about}"


_FORMS = {
    "string_type": "text, in quotes if it looks like a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list, e.g. [a, b]",
    "model_type": "a mapping, `key: value`",
}


def _unknown_key(loc: Loc, root: type[FileModel]) -> tuple[str, str]:
    model = _section(loc[:-1], root)
    known = [info.alias or name for name, info in model.model_fields.items()] if model else []
    key = str(loc[-1])
    elsewhere = [f"{section}.{key}" for section, names in _sections(root).items() if key in names]
    near = suggestion(key, known)
    if not near and elsewhere:
        near = f"it belongs at {elsewhere[0].removeprefix('.')}; "
    return f"unknown key {shown(key)}", f"{near}the keys here are {', '.join(known)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean …? ` for the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f"did you mean {close[0]}? " if close else ""


def shown(value: Any) -> str:
    """A value as a fault shows it: short, on one line, and without the path of a URL (webhooks carry secrets there)."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = re.sub(r"(https?://)([^/\s@]*@)?([^/?#\s]+)[/?#]\S*", r"\1\3/…", text)
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= 60 else f"{text[:59]}…"


def dotted(loc: Loc) -> str:
    """`gates.fairness.swaps`, `alerts[0].on[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in loc)
    return text.removeprefix(".")


def _plain(value: Any) -> Any:
    """JSON data of what ruamel built: keys are text; dates and tagged values are the text that was written."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _mended(data: Any, errors: Iterable[ErrorDetails]) -> Any:
    """The data without the refused values, and with stand-ins for required ones."""
    data = json.loads(json.dumps(data))
    for error in errors:
        if error["type"] == "missing":
            *parents, last = error["loc"]
            _at(data, parents)[last] = _stand_in(_field(error["loc"], Project))
        else:
            *parents, last = _replaceable(error["loc"])
            container = _at(data, parents)
            if isinstance(container, dict):  # gone already when two errors share a place
                container.pop(last, None)
    return data


def _at(data: Any, loc: Iterable[str | int]) -> Any:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return {}
    return data


def _replaceable(loc: Loc) -> Loc:
    """The nearest place at or above `loc` that is a key: a list loses no items, or its lines would shift."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    return loc


def _stand_in(info: FieldInfo | None) -> Any:
    kind = info.annotation if info else None
    if kind is str:
        return "echo"
    if kind is float:
        return 0.0
    return {} if isinstance(kind, type) and issubclass(kind, FileModel) else []


def _section(loc: Iterable[str | int], root: type[FileModel]) -> type[FileModel] | None:
    """The model of the section at `loc`."""
    model: type[FileModel] | None = root
    for part in loc:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part) if model else None
        model = _model(info.annotation) if info else None
    return model


def _field(loc: Loc, root: type[FileModel]) -> FieldInfo | None:
    loc = _replaceable(loc)
    model = _section(loc[:-1], root) if loc else None
    return model.model_fields.get(str(loc[-1])) if model else None


def _model(annotation: Any) -> type[FileModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, FileModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model(part))), None)


def _sections(model: type[FileModel], path: str = "") -> dict[str, set[str]]:
    """Every section's keys, by its dotted path."""
    found = {path: set(model.model_fields)}
    for name, info in model.model_fields.items():
        if inner := _model(info.annotation):
            found |= _sections(inner, f"{path}.{name}".removeprefix("."))
    return found


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n", 1)[0].split())


def _yaml_fix(error: MarkedYAMLError) -> str:
    if "duplicate key" in (error.problem or ""):
        return "write each key once"
    return "check the indentation, quotes and brackets of this line and the one before"
