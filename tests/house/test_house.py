"""The shape of the house: sizes, names, docstrings, the order of the rooms, and a README whose commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "trimtab").rglob("*.py"))
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "base", "core", "manager", "handler", "service", "misc"}
HEAVY = (
    "mlflow",
    "torch",
    "pyspark",
    "fastapi",
    "nicegui",
    "polars",
    "sqlalchemy",
    "numpy",
    "deltalake",
    "scipy",
    "azure",
)
PAGES = tuple(f"{page}{language}.md" for page in ("README", "docs/azure-databricks") for language in ("", ".zh-CN"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public_without_docstring(tree: ast.Module) -> Iterator[str]:
    """Public functions and classes of a module, and public methods that are not properties (their names say it)."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node.name
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                is_method = isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.decorator_list
                if is_method and not method.name.startswith("_") and ast.get_docstring(method) is None:
                    yield f"{node.name}.{method.name}"


def test_no_module_is_over_500_lines() -> None:
    assert [named(path) for path in SOURCES if len(path.read_text().splitlines()) > 500] == []


def test_no_function_is_over_60_lines() -> None:
    long = [
        f"{named(path)}:{function.lineno} {function.name}"
        for path in SOURCES
        for function in functions(ast.parse(path.read_text()))
        if (function.end_lineno or 0) - function.lineno + 1 > 60
    ]
    assert long == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {named(path): {path.stem, *path.relative_to(ROOT).parts[:-1]} for path in SOURCES}
    assert [path for path, names in parts.items() if names & FORBIDDEN] == []


def test_every_module_and_every_public_name_says_what_it_is() -> None:
    silent = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        silent += [named(path)] if ast.get_docstring(tree) is None else []
        silent += [f"{named(path)} {name}" for name in public_without_docstring(tree)]
    assert silent == []


def test_the_rooms_only_import_downwards() -> None:
    lint = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize(
    "entry",
    ["import trimtab", "import trimtab.project", "from trimtab.cli import app; app(['--help'], standalone_mode=False)"],
)
def test_the_front_door_is_light(entry: str) -> None:
    code = f"import sys\n{entry}\nprint('LOADED', *sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]


# ── the READMEs ───────────────────────────────────────────────────────────────────────────────────────────────────


def blocks(readme: str) -> list[str]:
    return re.findall(r"^```[^\n]*\n(.*?)^```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def headings(readme: str) -> list[int]:
    """The levels of the headings, in order."""
    prose = re.sub(r"^```.*?^```", "", (ROOT / readme).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]


def commands(readme: str, program: str) -> set[str]:
    """What the code blocks pass to a program, without comments: `cycle run --reason x`."""
    lines = (line.strip().removeprefix("$ ") for block in blocks(readme) for line in block.splitlines())
    matches = (re.match(rf"(?:[A-Z_]+=\S+ )*{program}(?: ([^#|>&]*))?(?:[#|>&].*)?$", line) for line in lines)
    return {(match.group(1) or "").strip() for match in matches if match}


@pytest.mark.parametrize("page", ["README", "docs/azure-databricks"])
def test_both_languages_have_the_same_shape(page: str) -> None:
    english, chinese = f"{page}.md", f"{page}.zh-CN.md"
    assert headings(english) == headings(chinese)
    assert len(blocks(english)) == len(blocks(chinese))


@pytest.mark.parametrize("readme", PAGES)
def test_every_trimtab_command_of_the_readme_exists(readme: str) -> None:
    from trimtab.cli import app

    for line in commands(readme, "trimtab"):
        command, words = get_command(app), line.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        used = [word.split("=")[0] for word in words if word.startswith("-")]
        assert set(used) <= known, f"trimtab {line}: no such option"
        assert not hasattr(command, "commands") or used, f"trimtab {line}: no such command"


@pytest.mark.parametrize("readme", PAGES)
def test_every_make_target_of_the_readme_exists(readme: str) -> None:
    wanted = {word for line in commands(readme, "make") for word in line.split() if "=" not in word}
    makefile = (ROOT / "Makefile").read_text() if wanted else ""
    assert wanted <= set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


# ── the command line explains itself ──────────────────────────────────────────────────────────────────────────────


def every_command() -> Iterator[tuple[list[str], str]]:
    """The words of each command, and its help text."""
    from trimtab.cli import app

    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for words in [[name, inner] for inner in getattr(command, "commands", {})] or [[name]]:
            yield words, CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "300"}).output


def test_every_command_has_help_and_an_example_that_calls_it() -> None:
    from trimtab.cli import PANELS

    seen = set()
    for words, text in every_command():
        seen.add(words[0])
        assert len(re.split(r"[╭]", text)[0]) > 100, f"trimtab {' '.join(words)}: no help worth reading"
        assert re.search(rf"Example: .*trimtab {' '.join(words)}", text), f"trimtab {' '.join(words)}: no example"
    assert seen == {name for _, names in PANELS for name in names}
