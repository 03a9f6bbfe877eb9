"""A day of calls to ever new hosts, paths and orders: what the process holds after a tenth of it, and at its end.

    python tests/benchmarks/bench_bounded.py [--steps 100000] [--sockets 12000] [--trace]

First on a clock of its own, over a transport that answers without a network. Each step calls a host that was never
called before, a path that was never called before, and places an order with a new client id; some hosts are dead, some
throttle, some paths fail, some orders get no answer and are looked up, the token ends now and then, and now and then a
session is made with other settings. Circuits are per endpoint, all hosts are paced. Then over real sockets to one
server under ever new names, with a journal of the orders: there the open handles matter.

Growth is what Python has allocated at the end over what it had after a tenth: 1 is none. It is counted in blocks, which
costs nothing; with ``--trace`` tracemalloc counts the bytes, and says what has grown where they have, but a step takes
four times as long. The exit status is 1 where there was growth of more than a twentieth.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import socket
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from support import Answer, envelope, response, row, server, table

from resilient_adapter import OrderReconciler, ResilientAdapter, Settings

_DAY = 86_400.0
_GROWTH = 1.05
_API = "http://api.example"
_SETTINGS: dict[str, Any] = {
    "circuit": {"scope": "endpoint"},
    "rate_limit": {"rate": "1200/min"},
    "token": {"origins": [_API]},
    "retry": {"base": 0.1, "jitter": 0.1},
}


class Clock:
    """Time that passes when it is slept, and remembers nothing of it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return seconds."""
        return self.now

    def time(self) -> float:
        """Return seconds since the epoch, or so."""
        return 1_700_000_000 + self.now

    def sleep(self, seconds: float) -> None:
        """Let them pass."""
        self.now += seconds


class Network(HTTPAdapter):
    """Answers without a network.

    Attributes:
        token: the one that is good.
    """

    def __init__(self) -> None:
        super().__init__()
        self.token = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Answer by what the host and path are called."""
        url = request.url or ""
        if "dead" in url:
            reason = urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]
            raise requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, url, reason))  # type: ignore[arg-type]
        if "lost" in url and request.method == "POST":
            raise requests.ReadTimeout("no answer")
        if "busy" in url:
            return self._answer(request, 503, -1008)
        if "limit" in url:
            return self._answer(request, 429, -1003, {"Retry-After": "1"})
        if url.startswith(_API) and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._answer(request, 401, -1002)
        return self._answer(request, 200, 0, data={"orderId": 1})

    def _answer(
        self,
        request: requests.PreparedRequest,
        status: int,
        code: int,
        headers: Mapping[str, str] | None = None,
        data: object = None,
    ) -> requests.Response:
        return self.build_response(
            request,
            urllib3.HTTPResponse(
                io.BytesIO(envelope(code, data)), status=status, headers=headers or {}, preload_content=False
            ),
        )


class Held(NamedTuple):
    """What a process holds."""

    blocks: int
    traced: int  # bytes, where they are traced
    resident: int  # bytes
    handles: int
    snapshot: tracemalloc.Snapshot | None

    @classmethod
    def now(cls) -> Held:
        """Look."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            sys.getallocatedblocks(),
            tracemalloc.get_traced_memory()[0],
            pages * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir("/proc/self/fd")),
            tracemalloc.take_snapshot() if tracemalloc.is_tracing() else None,
        )


def quietly(call: Callable[[], object]) -> None:
    """Make a call that may fail."""
    try:
        call()
    except requests.RequestException:
        return


def a_day(steps: int) -> Iterator[None]:
    """Live through a day, step by step."""
    clock, network = Clock(), Network()

    def session_of(settings: Mapping[str, Any]) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.mount(
            "http://",
            ResilientAdapter(
                Settings.from_mapping({**_SETTINGS, **settings}),
                token_source=token,
                reconciler=find_out,
                transport=network,
                clock=clock,
            ),
        )
        return session

    def token() -> str:
        return str(network.token)

    find_out = OrderReconciler("/order")
    main = session_of({})
    for step in range(steps):
        clock.now = max(clock.now, step * _DAY / steps)
        # Often enough that whatever is bounded is full after a tenth of the day.
        kind = ("dead", "limit", "busy")[step // 3 % 3] if step % 3 == 0 else "host"
        for _ in range(2 if kind != "host" else 1):  # twice is enough to open a circuit
            quietly(lambda: main.get(f"http://{kind}-{step}.example/"))  # noqa: B023 - called at once
            quietly(lambda: main.get(f"{_API}/{'busy' if kind == 'busy' else 'path'}-{step}"))  # noqa: B023
        lost = "lost" if step % 50 == 0 else "order"
        params = {"symbol": "B", "newClientOrderId": f"{lost}-{step}"}
        quietly(lambda: main.post(f"{_API}/order", params=params))  # noqa: B023
        if step % 100 == 0:
            network.token += 1
        if step % 100 == 0:
            with session_of({"read_timeout": 30.0 + step / 1000}) as other:
                quietly(lambda: other.get(f"http://other-{step}.example/"))  # noqa: B023
        yield


def real() -> Answer:
    """Answer well, or as a server that is busy."""
    good, bad = response(envelope(0)), response(envelope(-1008), status="503 Service Unavailable")
    return lambda path, head: bad if path.startswith("/busy") else good


def by_sockets(steps: int, address: str, journal: str) -> Iterator[None]:
    """Call one server under ever new names, by real sockets and with a journal."""
    port = int(address.rpartition(":")[2])
    look_up = socket.getaddrinfo
    # Every name is this machine's: nothing leaves it.
    socket.getaddrinfo = lambda host, *others, **options: look_up("127.0.0.1", *others, **options)  # type: ignore[misc]
    try:
        with requests.Session() as session:
            session.trust_env = False
            settings = {"orders": {"journal": journal}, "retry": {"max_attempts": 1}, "circuit": {"scope": "endpoint"}}
            session.mount("http://", ResilientAdapter(Settings.from_mapping(settings)))
            for step in range(steps):
                host = f"http://host-{step}.example:{port}"
                quietly(lambda: session.get(f"{host}/path"))  # noqa: B023
                quietly(lambda: session.get(f"{host}/busy"))  # noqa: B023
                with session.get(f"{host}/stream", stream=True):
                    pass
                quietly(lambda: session.post(f"{host}/order", data={"newClientOrderId": f"order-{step}"}))  # noqa: B023
                yield
    finally:
        socket.getaddrinfo = look_up


def watch(name: str, day: Iterator[None], steps: int) -> bool:
    """Live through a day, print what was held, and return whether it stayed within bounds."""
    began = time.perf_counter()
    early: Held | None = None
    late = None
    for step, _ in enumerate(day, 1):
        if step == max(1, steps // 10):
            early = Held.now()
        if step == steps:
            late = Held.now()
    assert early is not None and late is not None
    growth = late.blocks / early.blocks
    traced = [f"{held.traced / 1e6:.1f} MB" for held in (early, late) if held.snapshot is not None]
    row(
        name,
        " to ".join(traced or (f"{early.blocks:,} blocks", f"{late.blocks:,}")),
        f"{growth:.3f}",
        f"{early.resident / 1e6:.0f} to {late.resident / 1e6:.0f} MB",
        f"{early.handles} to {late.handles}",
        f"{time.perf_counter() - began:.0f} s",
    )
    if growth <= _GROWTH:
        return True
    if early.snapshot is not None and late.snapshot is not None:
        for grown in late.snapshot.compare_to(early.snapshot, "lineno")[:8]:
            print("  grown:", grown)
    return False


def main() -> int:
    """Print a row for each kind of day; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="hosts, paths and orders, each")
    parser.add_argument("--sockets", type=int, default=12_000, help="hosts that are called by real sockets")
    parser.add_argument("--trace", action="store_true", help="count bytes, and say what has grown")
    args = parser.parse_args()
    if args.trace:
        tracemalloc.start()
    table("a day of calls to", "Python's memory, from 10 % to the end", "growth", "resident", "open handles", "took")
    bounded = watch(f"{args.steps:,} hosts, paths and orders", a_day(args.steps), args.steps)
    with server(real) as address, tempfile.TemporaryDirectory() as folder:
        day = by_sockets(args.sockets, address, str(Path(folder, "journal")))
        bounded &= watch(f"{args.sockets:,} hosts by real sockets, journal kept", day, args.sockets)
    return 0 if bounded else 1


if __name__ == "__main__":
    sys.exit(main())
