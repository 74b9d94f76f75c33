"""Hatchling's hook: what is written in C is compiled into the wheel where a C compiler is, and left out where none is.
A wheel with it is for one kind of machine and any Python."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = "src/trimtab/native/build.py"


class CustomBuildHook(BuildHookInterface):
    """Called before the wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say so in the wheel's tag."""
        build = runpy.run_path(str(Path(self.root) / BUILD))
        for source in build["SOURCES"]:
            if why := build["compiled"](source):
                self.app.display_warning(f"without {source.name}: {why}")
                continue
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"], build_data["tag"] = False, f"py3-none-{platform}"
            library = build["library_of"](source)
            build_data["artifacts"].append(str(library.relative_to(self.root)))
