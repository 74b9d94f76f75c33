"""Whether the CPU per request stays flat when several workers share one port."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from measure import cpu_seconds, load
from rounds import CONNECTIONS
from servers import Server, mock, trimtab_full

SECONDS_OF_A_ROUND = 2.0


def run(folder: Path, most: int, rounds: int) -> None:
    """Print what a request costs with 1, 2, … workers on a port, round by round in turn, and the ratio to one."""
    (folder / "upstream").mkdir()
    upstream = mock(folder / "upstream")
    counts = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    groups: dict[int, list[Server]] = {}
    try:
        for count in counts:
            groups[count] = _workers(folder / str(count), upstream.address, count)
        spent = {count: [_cost(folder, groups[count]) for _ in range(rounds)] for count in counts}
    finally:
        for server in [*(one for group in groups.values() for one in group), upstream]:
            server.stop()
    for count in counts:
        costs, ones = spent[count], spent[1]
        ratio = median(cost / one for cost, one in zip(costs, ones, strict=True))
        print(f"{count} workers: {median(costs):.1f} us of CPU a request, {ratio:.2f} times that of one")


def _workers(folder: Path, upstream: str, count: int) -> list[Server]:
    """So many gateways on one port, with one journal, one ledger, one folder of counts."""
    folder.mkdir()
    first = trimtab_full(upstream, folder, ("--share-port", "--worker", "0"))
    port = first.address.rpartition(":")[2]
    more = [("--share-port", "--worker", str(number), "--port", port) for number in range(1, count)]
    return [first, *(trimtab_full(upstream, folder, options) for options in more)]


def _cost(folder: Path, servers: list[Server]) -> float:
    """Microseconds of CPU a request, of all the workers together."""
    request = folder / "request"
    request.write_bytes(servers[0].request())
    pids = [server.process.pid for server in servers]
    warm = load(servers[0].address, pids[0], request, CONNECTIONS, 500)
    count = max(500, round(warm.requests / warm.seconds * SECONDS_OF_A_ROUND))
    before = sum(map(cpu_seconds, pids))
    load(servers[0].address, pids[0], request, CONNECTIONS, count)
    return (sum(map(cpu_seconds, pids)) - before) / count * 1e6
