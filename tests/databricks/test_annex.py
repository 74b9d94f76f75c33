"""The annex can be deleted: nothing outside it needs it to be imported. No rung: it is about our own house."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "trimtab"


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """What a module imports when it is imported itself; `if TYPE_CHECKING:` is not run."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Try | ast.With):
            yield from imported(node.body)


def test_nothing_outside_imports_it_before_it_is_asked_for() -> None:
    outside = [path for path in SOURCE.rglob("*.py") if "databricks" not in path.relative_to(SOURCE).parts[:-1]]
    needs = [
        str(path)
        for path in outside
        if any(
            name.startswith(("trimtab.databricks", "databricks.", "azure."))
            for name in imported(ast.parse(path.read_text()).body)
        )
    ]
    assert needs == []


def test_without_it_a_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("Answer.\n")
    target = "target: {databricks: {catalog: ml, schema: support}}\n"
    (tmp_path / "trimtab.yaml").write_text(
        "name: desk\nmodel: {base: echo, prompt: prompt.md}\ntask: {kind: chat}\n" + target
    )
    code = (
        "import sys; sys.modules['trimtab.databricks'] = None; from trimtab.cli import main; "
        f"sys.argv = ['trimtab', 'databricks', 'init', '--project', {str(tmp_path)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install 'trimtab[databricks]'" in done.stderr
