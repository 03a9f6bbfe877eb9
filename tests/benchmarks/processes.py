"""Programs as whole processes: what one takes from its start to its end, over what another does in the same run."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple


class Usage(NamedTuple):
    """What one process took.

    Attributes:
        cpu: processor seconds, its own and the system's for it.
        wall: seconds from its start to its end.
        peak: the most memory that it held at a time, in bytes.
    """

    cpu: float
    wall: float
    peak: int


@contextmanager
def cached_bytecode() -> Iterator[dict[str, str]]:
    """Yield an environment in which every program finds its modules compiled, once it has run before."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        yield {**kept, "PYTHONPYCACHEPREFIX": folder}


def run(program: str, environ: Mapping[str, str], *arguments: str) -> Usage:
    """Run a program in a process of its own.

    The peak counts from this process's own size on: keep that small.
    """
    command = [sys.executable, "-c", program, *arguments]
    started = time.perf_counter()
    pid = os.posix_spawn(sys.executable, command, environ)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"a program failed:\n{program}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(used.ru_utime + used.ru_stime, wall, used.ru_maxrss * unit)


def in_turn(programs: Mapping[str, str], rounds: int, *arguments: str) -> dict[str, list[Usage]]:
    """Return what each of some programs took, round by round, in which each runs once; a first round is not counted."""
    taken: dict[str, list[Usage]] = {name: [] for name in programs}
    with cached_bytecode() as environ:
        for program in programs.values():
            run(program, environ, *arguments)
        for number in range(rounds):
            # In either order: whoever comes second finds warmer caches.
            for name in list(programs)[:: -1 if number % 2 else 1]:
                taken[name].append(run(programs[name], environ, *arguments))
    return taken


def over(ours: list[Usage], theirs: list[Usage], figure: str) -> str:
    """Return the ratio of a figure, round by round, as a text: its median, and its middle half in brackets."""
    ratios = [getattr(own, figure) / getattr(other, figure) for own, other in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def median(taken: list[Usage], figure: str) -> float:
    """Return the median of a figure."""
    return statistics.median(getattr(one, figure) for one in taken)
