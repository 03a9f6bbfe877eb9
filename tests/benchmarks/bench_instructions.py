"""Instructions that a successful call takes in user space, over the same call through requests' own HTTPAdapter.

    python tests/benchmarks/bench_instructions.py [--calls 200] [--sizes 100 10000]

Counted by valgrind, so the same on a busy machine as on an idle one; what the system does for a call is not counted.
Each count is the difference of two runs, so that what a process does once drops out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from bench_call import cost, paced, plain, resilient, with_token
from support import row, server, sized, table

_KINDS = {"plain": plain, "adapter": resilient, "with a token source": with_token, "with pacing": paced}
_WARM = 60  # calls


def counted(url: str, kind: str, calls: int) -> int:
    """Return how many instructions a process takes that makes so many calls."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}", sys.executable, __file__]
    done = subprocess.run([*command, "--run", url, kind, str(calls)], capture_output=True, text=True, check=True)
    found = re.search(r"Collected : ([0-9]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def main() -> None:
    """Print a row for each kind of session and size of body."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=200, help="calls that are counted")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 10_000], help="bytes")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        url, kind, calls = args.run
        with _KINDS[kind](url.rpartition("/")[0]) as get:
            cost(get, url, int(calls))
        return
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed")
        return
    table("session", "body", "instructions a call", "ratio")
    with server(sized) as address, ThreadPoolExecutor(os.cpu_count()) as pool:
        for size in args.sizes:
            runs = {
                (kind, calls): pool.submit(counted, f"{address}/{size}", kind, calls)
                for kind in _KINDS
                for calls in (_WARM, _WARM + args.calls)
            }
            each = {
                kind: (runs[kind, _WARM + args.calls].result() - runs[kind, _WARM].result()) / args.calls
                for kind in _KINDS
            }
            for kind, instructions in each.items():
                name = "plain requests" if kind == "plain" else kind
                row(name, f"{size:,} B", f"{instructions:,.0f}", f"{instructions / each['plain']:.3f}")


if __name__ == "__main__":
    main()
