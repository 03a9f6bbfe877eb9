"""Peak memory of a program of one session, over the same program with plain requests: whole processes.

    python tests/benchmarks/bench_memory.py [--rounds 15]

Each imports, makes a session and calls a server on loopback: twenty times for 100 bytes (goal: at most 2 MB more), and
once for 10 MB, of which what counts is how much more that takes than the small ones (goal: at most 0.55 of it).
"""

from __future__ import annotations

import argparse

from bench_import import SESSIONS, possible
from processes import in_turn, median, over
from support import row, server, sized, table

_MB = 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="counted runs of each program")
    args = parser.parse_args()
    programs = possible(SESSIONS)
    with server(sized) as address:
        small = in_turn(programs, args.rounds, f"{address}/100", "20")
        large = in_turn(programs, args.rounds, f"{address}/10000000", "1")
    peaks = {name: median(used, "peak") for name, used in small.items()}
    table("a session, 20 calls", "peak memory", "over requests'", "CPU over requests' (middle half)")
    for name, used in small.items():
        more = (peaks[name] - peaks["requests"]) / _MB
        row(name, f"{peaks[name] / _MB:.1f} MB", f"{more:+.1f} MB", over(used, small["requests"], "cpu"))
    grown = {name: median(used, "peak") - peaks[name] for name, used in large.items()}
    table("a call of 10 MB", "peak memory beyond that of small calls", "over requests'")
    for name, more in grown.items():
        row(name, f"{more / _MB:.1f} MB", f"{more / grown['requests']:.2f}")


if __name__ == "__main__":
    main()
