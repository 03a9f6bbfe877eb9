"""Processor time of a successful call through the adapter, over the same call through requests' own HTTPAdapter.

    python tests/benchmarks/bench_call.py [--pairs 40] [--sizes 100 10000 1000000 10000000]

Both sessions call one server in another process over kept-alive connections on loopback, in turn, in one run: a ratio
of neighbours holds while the machine's speed drifts. What is timed is the processor time of the calling process.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import requests

from resilient_adapter import ResilientAdapter, Settings

SERVER = """
import socket, sys, threading

def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while head := connection.recv(65536):
            size = int(head.split(b" ", 2)[1].rpartition(b"/")[2])
            body = b'{"code":0,"msg":"success","data":"' + b"x" * (size - 36) + b'"}'
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
                               b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run the server in a process of its own; yield its address."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def plain(url: str) -> requests.Session:
    """Return a session as requests makes it."""
    del url
    return requests.Session()


def resilient(url: str) -> requests.Session:
    """Return a session with the adapter, everything at its default."""
    session = requests.Session()
    session.mount(url, ResilientAdapter(Settings.from_mapping({})))
    return session


def with_token(url: str) -> requests.Session:
    """Return a session with the adapter and a token source."""
    session = requests.Session()
    session.mount(url, ResilientAdapter(Settings.from_mapping({"origins": [url]}), token_source=lambda: "a-token"))
    return session


def paced(url: str) -> requests.Session:
    """Return a session with the adapter and client-side pacing that never has to wait."""
    session = requests.Session()
    session.mount(url, ResilientAdapter(Settings.from_mapping({"rate_limit": {"rate": "1000000/s"}})))
    return session


def cost(session: requests.Session, url: str, calls: int) -> float:
    """Return the processor seconds that a call takes."""
    started = time.process_time()
    for _ in range(calls):
        session.get(url)
    return (time.process_time() - started) / calls


def compare(make: Callable[[str], requests.Session], address: str, size: int, pairs: int) -> tuple[float, list[float]]:
    """Return the plain session's seconds a call, and the ratio of each pair."""
    url = f"{address}/{size}"
    calls = max(2, min(200, 20_000_000 // (size + 50_000)))
    with plain(address) as bare, make(address) as ours:
        for session in (bare, ours):
            session.trust_env = False  # looking for proxies costs both the same, and would only blur the ratio
            cost(session, url, calls)
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
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 10_000, 1_000_000, 10_000_000], help="bytes")
    args = parser.parse_args()
    rows = [("adapter", resilient, size) for size in args.sizes]
    rows += [("with a token source", with_token, args.sizes[0]), ("with pacing", paced, args.sizes[0])]
    print("| session | body | plain requests | ratio, median | middle half of the pairs |\n|---|---|---|---|---|")
    with server() as address:
        for name, make, size in rows:
            seconds, ratios = compare(make, address, size, args.pairs)
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"| {name} | {size:,} B | {seconds * 1e6:,.0f} µs | {middle:.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
