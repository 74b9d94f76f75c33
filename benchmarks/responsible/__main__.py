"""`make bench-responsible`: what the judgements, mitigations, guards and the audit chain are worth, one module a part.

Every module beside this one that has a `report` is a part: a function of the folder of public data (None: parts that
need it say so and go on) that prints its tables. Plots and JSON go to `out/` beside this file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def parts() -> list[str]:
    """The names of the parts, in alphabetical order."""
    return sorted(path.stem for path in HERE.glob("*.py") if "\ndef report(" in path.read_text())


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks/responsible", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of public data, with madlibs_identity/ and others in it")
    parser.add_argument("--only", nargs="*", default=parts(), choices=parts(), metavar="PART", help=", ".join(parts()))
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    (HERE / "out").mkdir(exist_ok=True)
    for name in options.only:
        started = time.monotonic()
        print(f"\n== {name} ==", flush=True)
        importlib.import_module(name).report(options.data)
        print(f"({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
