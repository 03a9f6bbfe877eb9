"""Processor time of a call that an open circuit refuses.

    python tests/benchmarks/bench_refused.py [--rounds 15] [--calls 2000]

``adapter.send`` is called directly, as requests calls it, so that the time is the adapter's own; beside it what
``session.get`` takes in all, and pybreaker's and pyresilience's own refusals around a session. A good call by plain
requests, in the same run, says how fast the machine is.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import time
from collections.abc import Callable

import requests
from support import Answer, envelope, missing, response, row, server, table

from resilient_adapter import CircuitOpenError, ResilientAdapter, Settings

_LONG = 3600.0  # seconds until a probe would be due


def down() -> Answer:
    """Answer ``/down`` as a server that is overloaded, and all else well."""
    good, bad = response(envelope(0)), response(envelope(-1008), status="503 Service Unavailable")
    return lambda path, head: bad if path == "/down" else good


def cost(call: Callable[[], object], calls: int, refused: type[Exception] | tuple[()]) -> float:
    """Return the processor seconds of a call, each of which raises ``refused``, or is to return if that is empty."""
    started = time.process_time()
    for _ in range(calls):
        try:
            call()
        except refused:
            continue
        if refused:
            raise AssertionError("a call was not refused")
    return (time.process_time() - started) / calls


def adapter(when_open: str, url: str) -> ResilientAdapter:
    """Return an adapter whose circuit is open."""
    circuit = {"reset_timeout": _LONG, "reset_max": _LONG, "when_open": when_open}
    settings = Settings.from_mapping({"circuit": circuit, "retry": {"max_attempts": 1}})
    made = ResilientAdapter(settings)
    with requests.Session() as session:
        session.mount("http://", made)
        for _ in range(settings.circuit.fail_max):
            session.get(url + "/down")
    return made


def main() -> None:
    """Print a row for each kind of call."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=2000, help="refused calls in each round")
    args = parser.parse_args()
    kinds: dict[str, tuple[Callable[[], object], type[Exception] | tuple[()]]] = {}
    with server(down) as url, contextlib.ExitStack() as stack:
        bare, session = (stack.enter_context(requests.Session()) for _ in range(2))
        bare.trust_env = session.trust_env = False
        raising, responding = adapter("raise", url), adapter("respond", url)
        session.mount("http://", raising)
        request = bare.prepare_request(requests.Request("GET", url + "/"))
        kinds["plain requests: session.get, a good answer"] = (lambda: bare.get(url + "/"), ())
        kinds['adapter.send, `circuit.when_open = "raise"`'] = (lambda: raising.send(request), CircuitOpenError)
        kinds['adapter.send, `circuit.when_open = "respond"`'] = (lambda: responding.send(request), ())
        kinds["adapter: session.get"] = (lambda: session.get(url + "/"), CircuitOpenError)

        def failing(url: str = url) -> None:
            bare.get(url + "/down").raise_for_status()

        pybreaker = importlib.import_module("pybreaker")
        breaker = pybreaker.CircuitBreaker(reset_timeout=_LONG)
        for _ in range(breaker.fail_max):
            with contextlib.suppress(requests.HTTPError, pybreaker.CircuitBreakerError):
                breaker.call(failing)
        kinds["pybreaker.call around session.get"] = (lambda: breaker.call(failing), pybreaker.CircuitBreakerError)
        if not missing("pyresilience"):
            pyresilience = importlib.import_module("pyresilience")
            config = pyresilience.CircuitBreakerConfig(recovery_timeout=_LONG)
            guarded = pyresilience.resilient(circuit_breaker=config)(failing)
            for _ in range(config.failure_threshold):
                with contextlib.suppress(requests.HTTPError):
                    guarded()
            kinds["pyresilience around session.get"] = (guarded, pyresilience.CircuitOpenError)

        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(args.rounds + 1):
            for name, (call, refused) in kinds.items():
                taken = cost(call, args.calls if refused else args.calls // 10, refused)
                if number:
                    seconds[name].append(taken)
    table("call", "processor time", "middle half of the rounds", "over a good call")
    good = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        row(name, f"{middle * 1e6:.1f} µs", f"{low * 1e6:.1f} to {high * 1e6:.1f} µs", f"{middle / good:.3f}")
    if missing("pyresilience"):
        print("pyresilience: skipped, not installed")


if __name__ == "__main__":
    main()
