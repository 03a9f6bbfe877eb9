"""Processor time of a successful call through the adapter, over the same call through requests' own HTTPAdapter.

    python tests/benchmarks/bench_call.py [--pairs 40] [--sizes 100 10000 1000000 10000000]

Both sessions call one server in another process over kept-alive connections on loopback, in turn, in one run: a ratio
of neighbours holds while the machine's speed drifts. What is timed is the processor time of the calling process.
Others that add to a call are measured the same way, each doing what it does by default, or what stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import requests
from support import missing, row, server, sized, table

from resilient_adapter import ResilientAdapter, Settings

#: Makes a call to a URL.
Get = Callable[[str], object]

_SMALL = 100  # bytes
_PLENTY = 1_000_000  # requests per second: a limit that never holds anybody


def session_of(adapter: requests.adapters.BaseAdapter | None = None) -> requests.Session:
    """Return a session as requests makes it, or with an adapter."""
    session = requests.Session()
    session.trust_env = False  # looking for proxies costs all the same, and would only blur the ratio
    if adapter is not None:
        session.mount("http://", adapter)
    return session


# --- ours


@contextlib.contextmanager
def plain(url: str) -> Iterator[Get]:
    """Call by a session as requests makes it."""
    with session_of() as session:
        yield session.get


@contextlib.contextmanager
def resilient(url: str) -> Iterator[Get]:
    """Call through the adapter, everything at its default."""
    with session_of(ResilientAdapter(Settings.from_mapping({}))) as session:
        yield session.get


@contextlib.contextmanager
def with_token(url: str) -> Iterator[Get]:
    """Call through the adapter with a token source."""
    settings = Settings.from_mapping({"origins": [url]})
    with session_of(ResilientAdapter(settings, token_source=lambda: "a-token")) as session:
        yield session.get


@contextlib.contextmanager
def paced(url: str) -> Iterator[Get]:
    """Call through the adapter with client-side pacing that never has to wait."""
    with session_of(ResilientAdapter(Settings.from_mapping({"rate_limit": {"rate": f"{_PLENTY}/s"}}))) as session:
        yield session.get


# --- peers


@contextlib.contextmanager
def pyresilience(url: str) -> Iterator[Get]:
    """Wrap ``session.get`` by a retry and a circuit breaker."""
    module = importlib.import_module("pyresilience")
    with session_of() as session:
        yield module.resilient(retry=module.RetryConfig(), circuit_breaker=module.CircuitBreakerConfig())(session.get)


@contextlib.contextmanager
def tenacity(url: str) -> Iterator[Get]:
    """Wrap ``session.get`` by a retry."""
    module = importlib.import_module("tenacity")
    with session_of() as session:
        yield module.retry(stop=module.stop_after_attempt(3), wait=module.wait_exponential_jitter(), reraise=True)(
            session.get
        )


@contextlib.contextmanager
def stamina(url: str) -> Iterator[Get]:
    """Wrap ``session.get`` by a retry."""
    module = importlib.import_module("stamina")
    with session_of() as session:
        yield module.retry(on=requests.RequestException)(session.get)


@contextlib.contextmanager
def limiter_session(url: str) -> Iterator[Get]:
    """Call by a LimiterSession whose limit never holds anybody."""
    with importlib.import_module("requests_ratelimiter").LimiterSession(per_second=_PLENTY) as session:
        session.trust_env = False
        yield session.get


@contextlib.contextmanager
def cache_control(url: str) -> Iterator[Get]:
    """Call through a cache, which keeps nothing of these answers."""
    with importlib.import_module("cachecontrol").CacheControl(session_of()) as session:
        yield session.get


@contextlib.contextmanager
def do_it_yourself(url: str) -> Iterator[Get]:
    """Put together a limiter session, a retry, a circuit breaker, and a look at the code in the body."""
    retry: Any = importlib.import_module("tenacity")
    breaker = importlib.import_module("pybreaker").CircuitBreaker()
    with importlib.import_module("requests_ratelimiter").LimiterSession(per_second=_PLENTY) as session:
        session.trust_env = False

        @retry.retry(stop=retry.stop_after_attempt(3), wait=retry.wait_exponential_jitter(), reraise=True)
        def call(url: str) -> object:
            response = breaker.call(session.get, url)
            if response.json()["code"] != 0:
                raise requests.HTTPError(response=response)
            return response

        yield call


Make = Callable[[str], contextlib.AbstractContextManager[Get]]

PEERS: list[tuple[str, Make, tuple[str, ...]]] = [
    ("pyresilience: retry, circuit", pyresilience, ("pyresilience",)),
    ("tenacity", tenacity, ("tenacity",)),
    ("stamina", stamina, ("stamina",)),
    ("requests-ratelimiter", limiter_session, ("requests_ratelimiter",)),
    ("CacheControl", cache_control, ("cachecontrol",)),
    ("do it yourself: limiter, tenacity, pybreaker, json", do_it_yourself, ("requests_ratelimiter", "tenacity")),
]


# --- measuring


def cost(get: Get, url: str, calls: int) -> float:
    """Return the processor seconds that a call takes."""
    started = time.process_time()
    for _ in range(calls):
        get(url)
    return (time.process_time() - started) / calls


def compare(make: Make, address: str, size: int, pairs: int) -> tuple[float, list[float]]:
    """Return the plain session's seconds a call, and the ratio of each pair."""
    url = f"{address}/{size}"
    calls = max(2, min(200, 20_000_000 // (size + 50_000)))
    with plain(address) as bare, make(address) as ours:
        for get in (bare, ours):
            cost(get, url, calls)
        seconds, ratios = [], []
        for pair in range(pairs):
            # In either order: whoever goes second finds warmer caches.
            if pair % 2:
                theirs, own = cost(bare, url, calls), cost(ours, url, calls)
            else:
                own, theirs = cost(ours, url, calls), cost(bare, url, calls)
            seconds.append(theirs)
            ratios.append(own / theirs)
    return statistics.median(seconds), ratios


def main() -> None:
    """Print a row for each kind of session and size of body."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=40, help="pairs of runs for each row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[_SMALL, 10_000, 1_000_000, 10_000_000], help="bytes")
    args = parser.parse_args()
    small = args.sizes[0]
    rows: list[tuple[str, Make, int]] = [("adapter", resilient, size) for size in args.sizes]
    rows += [("with a token source", with_token, small), ("with pacing", paced, small)]
    absent = {name: missing(*modules) for name, _, modules in PEERS}
    rows += [(name, make, small) for name, make, _ in PEERS if not absent[name]]
    # What parses the body grows with it.
    rows += [(name, make, size) for name, make, _ in PEERS[-1:] if not absent[name] for size in args.sizes[1:]]
    table("session", "body", "plain requests", "ratio, median", "middle half of the pairs")
    with server(sized) as address:
        for name, make, size in rows:
            seconds, ratios = compare(make, address, size, args.pairs)
            low, middle, high = statistics.quantiles(ratios, n=4)
            row(name, f"{size:,} B", f"{seconds * 1e6:,.0f} µs", f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    for name, modules in absent.items():
        if modules:
            print(f"{name}: skipped, not installed: {', '.join(modules)}")


if __name__ == "__main__":
    main()
