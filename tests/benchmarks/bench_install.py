"""What install() does to a script that calls requests.get(): its time, as a ratio to plain requests.

``python tests/benchmarks/bench_install.py [CALLS]``. Both take turns in one run, in blocks, against a gateway in
another process, so that what the machine does meanwhile happens to both. 1.25 and more is the goal.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import requests

import resilient_adapter

CALLS = 300
BLOCKS = 15


def seconds(url: str, calls: int) -> float:
    """Return how long so many calls take."""
    started = time.perf_counter()
    for _ in range(calls):
        requests.get(url).json()
    return time.perf_counter() - started


def main(calls: int) -> None:
    """Measure and print."""
    code = "from resilient_adapter.testing.serve import serve; serve()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip() + "/api/v1/ticker"
        block = max(1, calls // BLOCKS)
        settings = resilient_adapter.Settings()
        try:
            plain, ours = [], []
            seconds(url, block)
            for _ in range(BLOCKS):
                plain.append(seconds(url, block))
                with resilient_adapter.install(settings):
                    ours.append(seconds(url, block))
        finally:
            server.terminate()
    ratios = sorted(before / after for before, after in zip(plain, ours, strict=True))
    print(f"requests.get(), {block * BLOCKS} calls each, in {BLOCKS} blocks taking turns")
    print(f"  plain           {sum(plain) / block / BLOCKS * 1e6:7.0f} µs a call")
    print(f"  under install() {sum(ours) / block / BLOCKS * 1e6:7.0f} µs a call")
    print(
        f"  ratio           {statistics.median(ratios):7.2f} times faster"
        f" (blocks from {ratios[0]:.2f} to {ratios[-1]:.2f}; goal 1.25)"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else CALLS)
