"""32 threads that share a session: calls per second, and how long the slowest wait, over requests' own HTTPAdapter.

    python tests/benchmarks/bench_threads.py [--threads 32] [--rounds 9] [--seconds 1] [--delays 0 2 20]

One session is called by all threads at once, against an endpoint in another process that answers after so many
milliseconds. Contenders take turns in one run; a ratio is of neighbours, and the median of all rounds is shown. How
busy the server was meanwhile is shown too: where it is near 100 %, it is the server that was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import requests
from requests.adapters import HTTPAdapter
from support import all_at_once, get_json, percentile, row, server, sized, table

from resilient_adapter import ResilientAdapter, Settings

Get = Callable[[str], object]


class Run(NamedTuple):
    """What came of some seconds of calls."""

    rate: float  # calls per second
    p99: float  # seconds
    server: float  # share of a processor that the server took


def session_of(adapter: HTTPAdapter) -> requests.Session:
    """Return a session with an adapter."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", adapter)
    return session


@contextlib.contextmanager
def contenders(threads: int) -> Iterator[dict[str, Get]]:
    """Yield what makes a call, by name; the bare session first."""
    with (
        session_of(HTTPAdapter(pool_maxsize=threads)) as bare,
        session_of(ResilientAdapter(Settings.from_mapping({}), pool_maxsize=threads)) as ours,
    ):
        breaker = importlib.import_module("pybreaker").CircuitBreaker()
        yield {
            "plain requests": bare.get,
            "adapter": ours.get,
            "pybreaker.call around the session": lambda url: breaker.call(bare.get, url),
        }


def run(get: Get, address: str, path: str, threads: int, seconds: float) -> Run:
    """Let threads call for some seconds."""
    latencies: list[list[float]] = [[] for _ in range(threads)]
    url = address + path
    busy = get_json(address + "/cpu")

    def work(number: int) -> None:
        mine = latencies[number]
        began = time.perf_counter()
        end = began + seconds
        while began < end:
            get(url)
            now = time.perf_counter()
            mine.append(now - began)
            began = now

    took = all_at_once(threads, work)
    every = [one for mine in latencies for one in mine]
    return Run(len(every) / took, percentile(every, 0.99), (get_json(address + "/cpu") - busy) / took)


def spread(ratios: list[float]) -> str:
    """Return the median and the middle half of some ratios."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print a row for each endpoint and contender."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender in each round")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 2, 20], help="milliseconds")
    args = parser.parse_args()
    table("endpoint", "session", "calls/s", "over plain", "p99", "over plain's", "server busy")
    with server(sized) as address, contenders(args.threads) as gets:
        for delay in args.delays:
            path = f"/100/{delay}" if delay else "/100"
            runs: dict[str, list[Run]] = {name: [] for name in gets}
            for get in gets.values():
                run(get, address, path, args.threads, args.seconds / 4)  # connects
            for number in range(args.rounds):
                for name in list(gets) if number % 2 else list(gets)[::-1]:
                    runs[name].append(run(gets[name], address, path, args.threads, args.seconds))
            bare, *_ = runs.values()
            for name, own in runs.items():
                pairs = list(zip(own, bare, strict=True))
                row(
                    f"{delay} ms",
                    name,
                    f"{statistics.median(one.rate for one in own):,.0f}",
                    spread([one.rate / plain.rate for one, plain in pairs]),
                    f"{statistics.median(one.p99 for one in own) * 1000:.1f} ms",
                    spread([one.p99 / plain.p99 for one, plain in pairs]),
                    f"{statistics.median(one.server for one in own):.0%}",
                )


if __name__ == "__main__":
    main()
