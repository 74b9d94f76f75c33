"""Whether the gateway's memory stays flat: PSS of one worker over a long run of requests, and its slope."""

from __future__ import annotations

from pathlib import Path
from statistics import linear_regression

from measure import load, pss_mib
from servers import Server, mock, trimtab_full

BLOCKS = 50
ITS_OWN = ("Pss_Anon", "SwapPss")
"""Pages of no file. Those of files (Python itself) come and go with what else the machine runs."""


def run(folder: Path, requests: int) -> None:
    """Send the requests in blocks, plain and streamed, and print its own memory from time to time and the slope.

    The first fifth is warming up and not in the slope. Journal segments that are full are deleted, as a drain would.
    """
    (folder / "upstream").mkdir()
    upstream = mock(folder / "upstream")
    try:
        server = trimtab_full(upstream.address, folder)
        try:
            _run(server, folder, requests)
        finally:
            server.stop()
    finally:
        upstream.stop()


def _run(server: Server, folder: Path, requests: int) -> None:
    plain, streamed = folder / "plain", folder / "streamed"
    plain.write_bytes(server.request())
    streamed.write_bytes(server.request("chunks=20", stream=True))
    block, errors, most, seen = max(requests // BLOCKS, 100), 0, 0.0, list[tuple[float, float]]()
    for number in range(1, BLOCKS + 1):
        streams = block // 10
        errors += load(server.address, server.process.pid, plain, 32, block - streams).errors
        errors += load(server.address, server.process.pid, streamed, 32, streams).errors
        for old in sorted((folder / "journal").glob("*.seg"))[:-1]:
            old.unlink()
        seen.append((number * block, pss_mib(server.process.pid, ITS_OWN)))
        most = max(most, pss_mib(server.process.pid))
        if number % (BLOCKS // 10) == 0:
            print(f"{number * block:>9} requests: {seen[-1][1]:.2f} MiB of its own", flush=True)
    later = seen[BLOCKS // 5 :]
    slope, _ = linear_regression([x for x, _ in later], [y for _, y in later])
    print(
        f"{BLOCKS * block} requests (a tenth of them streams), {errors} errors; PSS of the worker at most {most:.1f} "
        f"MiB, {seen[-1][1]:.1f} MiB of it its own at the end; slope of its own behind the first fifth: "
        f"{slope * 1e6 * 1024:+.0f} KiB per million requests"
    )
