"""Every test, in two processes of pytest side by side: `python tests/side_by_side.py [OPTION of pytest…]`.

Most tests wait for processes, and the tour for a language model: one after the other they leave a core idle. What
`BESIDE` does not name runs in the first process, so that no test can be forgotten. The first is shown while it runs,
the second, which gives way to it, when both have ended; the exit code is 0 when both are well.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE = ("tests/cli/test_demo.py", "tests/databricks", "tests/training")
"""The tour, and rooms that take about as long as the difference."""


def main(options: list[str]) -> int:
    """Run both; the exit code."""
    first = ["tests", *(f"--ignore={path}" for path in BESIDE)]
    second = [*BESIDE, "-o", "cache_dir=.pytest_cache/beside"]  # a process writes its cache as a whole
    with tempfile.TemporaryFile() as said:
        running = [  # the second gives way: callers in the first wait ten seconds for an engine that was killed
            subprocess.Popen(["nice", "-n", "10", *_pytest(second, options)], cwd=ROOT, stdout=said, stderr=said),
            subprocess.Popen(_pytest(first, options), cwd=ROOT),
        ]
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches both, which end what they started
        signal.signal(signal.SIGTERM, lambda *_: [one.terminate() for one in running])
        codes = [running[1].wait()]
        if running[0].poll() is None:
            print(f"waiting for {', '.join(BESIDE)}", flush=True)
        codes.append(running[0].wait())
        said.seek(0)
        sys.stdout.buffer.write(said.read())
    return int(any(codes))


def _pytest(paths: list[str], options: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *paths, *options]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
