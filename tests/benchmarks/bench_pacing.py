"""64 threads at a server's limit: how much of it they use, and how much of what they send is answered -1003.

    python tests/benchmarks/bench_pacing.py [--threads 64] [--limit 100] [--seconds 30] [--slots 20000]

The server, in another process, takes ``--limit`` requests in any one second, and answers what is beyond with 429, -1003
and a Retry-After. The threads call as fast as they are let, in real time. Goodput is the limit's share that was used:
the time in which the server would have taken so many requests at best, over the time that it took. Afterwards: what
taking a slot costs that is free, in processor time, beside libraries that limit rates.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from support import Answer, all_at_once, envelope, get_json, missing, response, row, server, table

from resilient_adapter import ResilientAdapter, Settings
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.guards.rate_limit import RateLimit

_PERIOD = 1.0  # seconds


def limited(limit: int) -> Answer:
    """Take so many requests in any one second; ``/report`` tells what came, and forgets it."""
    lock = threading.Lock()
    taken: deque[float] = deque(maxlen=limit)
    seen: list[tuple[float, bool]] = []

    def answer(path: str, head: bytes) -> bytes:
        with lock:
            if path == "/report":
                report = json.dumps(seen).encode()
                seen.clear()
                return response(report)
            now = time.monotonic()
            left = taken[0] + _PERIOD - now if len(taken) == limit else 0.0
            seen.append((now, left <= 0))
            if left <= 0:
                taken.append(now)
        if left > 0:
            wait = f"Retry-After: {math.ceil(left)}\r\n"
            return response(envelope(-1003), status="429 Too Many Requests", headers=wait)
        return response(envelope(0))

    return answer


# --- contenders: each returns a session, or what stands for one


def roomy(session: Any, threads: int) -> Any:
    """Give a session room for all threads' connections."""
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_maxsize=threads))
    return session


def adapter(threads: int, rate: str | None) -> requests.Session:
    """Return a session with the adapter, and the limit told or not."""
    settings = Settings.from_mapping({} if rate is None else {"rate_limit": {"rate": rate}})
    session = roomy(requests.Session(), threads)
    session.mount("http://", ResilientAdapter(settings, pool_maxsize=threads))
    return session


def limiter_session(threads: int, limit: int) -> requests.Session:
    """Return requests-ratelimiter's session."""
    return roomy(importlib.import_module("requests_ratelimiter").LimiterSession(per_second=limit), threads)


class Limited:
    """A session behind pyrate-limiter."""

    def __init__(self, threads: int, limit: int) -> None:
        module = importlib.import_module("pyrate_limiter")
        self._limiter = module.Limiter(module.Rate(limit, module.Duration.SECOND))
        self._session = roomy(requests.Session(), threads)

    def get(self, url: str) -> requests.Response:
        """Call once there is a slot."""
        self._limiter.try_acquire("server")
        return self._session.get(url)


# --- what came of it


class Half:
    """What the server saw in some of the time.

    Args:
        seen: when each request came, and whether it was taken.
        limit: how many are taken in a period.
    """

    def __init__(self, seen: list[tuple[float, bool]], limit: int) -> None:
        self.refused = sum(not good for _, good in seen) / max(len(seen), 1)
        taken = [when for when, good in seen if good]
        # From one request to the one that could have come so many whole periods later: whether they come evenly or all
        # at once at a period's beginning makes no difference.
        periods = (len(taken) - 1) // limit
        self.goodput = periods * _PERIOD / (taken[periods * limit] - taken[0]) if periods > 0 else math.nan


def run(session: Any, address: str, threads: int, seconds: float) -> tuple[list[tuple[float, bool]], int, int]:
    """Let threads call for some seconds; return what the server saw, how many calls there were, and how many failed."""
    get_json(address + "/report")
    counts = [[0, 0] for _ in range(threads)]
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            counts[number][0] += 1
            counts[number][1] += session.get(address + "/order").json()["code"] != 0

    all_at_once(threads, work)
    seen = [(when, good) for when, good in get_json(address + "/report")]
    return seen, sum(calls for calls, _ in counts), sum(failed for _, failed in counts)


def compare(threads: int, limit: int, seconds: float) -> None:
    """Print a row for each contender."""
    contenders: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
        f'adapter, `rate_limit.rate = "{limit}/s"`': (lambda: adapter(threads, f"{limit}/s"), ()),
        "adapter, the limit not told": (lambda: adapter(threads, None), ()),
        "requests-ratelimiter": (lambda: limiter_session(threads, limit), ("requests_ratelimiter",)),
        "pyrate-limiter around the session": (lambda: Limited(threads, limit), ("pyrate_limiter",)),
        "plain requests": (lambda: roomy(requests.Session(), threads), ()),
    }
    skipped = []
    table(
        f"{threads} threads, {limit}/s",
        "goodput over the limit",
        "answered -1003",
        "goodput, second half",
        "-1003, second half",
        "failed calls",
    )
    for name, (make, modules) in contenders.items():
        if missing(*modules):
            skipped.append(f"{name}: skipped, not installed")
            continue
        with server(limited, limit) as address:
            seen, calls, failed = run(make(), address, threads, seconds)
        middle = seen[0][0] + seconds / 2
        whole, later = Half(seen, limit), Half([one for one in seen if one[0] >= middle], limit)
        row(
            name,
            f"{whole.goodput:.1%}",
            f"{whole.refused:.2%}",
            f"{later.goodput:.1%}",
            f"{later.refused:.2%}",
            f"{failed:,} of {calls:,}",
        )
    print(*skipped, sep="\n")


# --- what a slot costs

_PLENTY = 1_000_000  # slots a second


def _ours() -> Callable[[], object]:
    settings = Settings.from_mapping({"rate_limit": {"rate": f"{_PLENTY}/s"}})
    line = RateLimit(settings.rate_limit, SYSTEM_CLOCK)

    def take() -> bool:
        return line.poll(line.enter(2)) == 0

    return take


def _pyrate_limiter() -> Callable[[], object]:
    module = importlib.import_module("pyrate_limiter")
    limiter = module.Limiter(module.Rate(_PLENTY, module.Duration.SECOND))
    return lambda: limiter.try_acquire("server", blocking=False)


def _limits() -> Callable[[], object]:
    module = importlib.import_module("limits")
    strategy = importlib.import_module("limits.strategies").MovingWindowRateLimiter(module.storage.MemoryStorage())
    item = module.RateLimitItemPerSecond(_PLENTY)
    return lambda: strategy.hit(item, "server")


def _throttled() -> Callable[[], object]:
    module = importlib.import_module("throttled")
    one = module.Throttled(key="server", quota=module.per_sec(_PLENTY), using="gcra", store=module.MemoryStore())
    return lambda: not one.limit().limited


def _token_bucket() -> Callable[[], object]:
    module = importlib.import_module("token_bucket")
    limiter = module.Limiter(_PLENTY, _PLENTY, module.MemoryStorage())
    return lambda: limiter.consume("server")


SLOTS: dict[str, tuple[Callable[[], Callable[[], object]], str | None]] = {
    "guards/rate_limit.py": (_ours, None),
    "pyrate-limiter": (_pyrate_limiter, "pyrate_limiter"),
    "limits, moving window": (_limits, "limits"),
    "throttled-py, GCRA": (_throttled, "throttled"),
    "token-bucket": (_token_bucket, "token_bucket"),
}

_IMPORT = "import requests, time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"


def slots(count: int) -> None:
    """Print a row for each library."""
    takes = {}
    for name, (make, module) in SLOTS.items():
        if module is None or not missing(module):
            takes[name] = make()
    rounds = 10
    costs: dict[str, list[float]] = {name: [] for name in takes}
    for number in range(rounds + 1):
        for name, take in takes.items():
            began = time.process_time()
            good = all(take() for _ in range(count // rounds))
            taken = (time.process_time() - began) / (count // rounds)
            if number:
                costs[name].append(taken)
            if not good:
                raise AssertionError(f"{name}: a slot was not free")
    table("a free slot", "processor time", "over ours", "import, with requests there already")
    ours = statistics.median(next(iter(costs.values())))
    for name, values in costs.items():
        module = SLOTS[name][1]
        middle = statistics.median(values)
        told = "" if module is None else f"{import_time(module) * 1000:.0f} ms"
        row(name, f"{middle * 1e6:.1f} µs", f"{middle / ours:.1f}", told)
    print(*(f"{name}: skipped, not installed" for name in SLOTS if name not in takes), sep="\n")


def import_time(module: str) -> float:
    """Return the seconds that an import takes in a new process, the least of five."""
    command = [sys.executable, "-c", _IMPORT.format(module)]
    return min(float(subprocess.check_output(command, text=True)) for _ in range(5))


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--limit", type=int, default=100, help="requests per second that the server takes")
    parser.add_argument("--seconds", type=float, default=30.0, help="of calls, for each contender")
    parser.add_argument("--slots", type=int, default=20_000, help="how many are taken of each library")
    args = parser.parse_args()
    compare(args.threads, args.limit, args.seconds)
    slots(args.slots)


if __name__ == "__main__":
    main()
