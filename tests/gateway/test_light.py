"""The data plane stays light: what it imports is what it costs, in memory and at each start."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"numpy", "pandas", "polars", "pydantic", "sqlalchemy", "deltalake", "mlflow", "fastapi", "torch", "httpx"}


def test_importing_the_gateway_pulls_in_nothing_heavy() -> None:
    code = "import sys, trimtab.gateway.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"uvloop", "httptools", "msgspec"} <= loaded
    assert not HEAVY & loaded
