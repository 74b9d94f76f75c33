"""Hatchling's hook: the fast path of the gateway is compiled into the wheel where a C compiler is, and left out where
none is. A wheel with it is for one kind of machine and any Python."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "src/trimtab/gateway/fast_path"


class CustomBuildHook(BuildHookInterface):
    """Called before the wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say so in the wheel's tag."""
        if why := runpy.run_path(str(Path(self.root) / FOLDER / "build.py"))["compiled"]():
            self.app.display_warning(f"without the gateway's fast path: {why}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"], build_data["tag"] = False, f"py3-none-{platform}"
        build_data["artifacts"].append(f"{FOLDER}/fast_path.so")
