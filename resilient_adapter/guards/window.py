"""Counting what happened lately, in fixed memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..clock import Clock


class Window:
    """How many events there were in the last ``span`` seconds.

    A bucket begins with its first event and ends at a multiple of its width (``span / buckets``), whichever window
    it is of: two of one span can be compared piece by piece. An event is counted for ``span`` seconds, or up to one
    bucket's width less. At most ``buckets + 1`` pairs of numbers are kept, and none before something happens.

    Arguments:
        span: seconds that are looked back.
        clock: tells the time.
        buckets: into how many pieces the span is cut.
    """

    __slots__ = ("_begin", "_count", "_end", "_lock", "_now", "_past", "_span", "_width")

    def __init__(self, span: float, clock: Clock, buckets: int) -> None:
        self._span = span
        self._width = span / buckets
        self._now = clock.monotonic
        self._count = 0
        self._begin = self._end = float("-inf")  # of the bucket being filled
        self._past: list[tuple[float, int]] = []  # the buckets before it: begin, count
        self._lock = threading.Lock()

    def add(self) -> None:
        """Count one event, now.

        The increment takes no lock: under CPython's GIL no thread switch falls inside it, and where one did, a
        count in thousands would be lost, or one bucket counted twice until it leaves the window. Shares and rates
        do not notice.
        """
        if self._now() >= self._end:
            self._turn()
        self._count += 1

    def total(self, buckets: int | None = None) -> int:
        """Return the number of events in the window.

        Arguments:
            buckets: look at so many of the latest pieces only, that of this moment among them.
        """
        with self._lock:
            return sum(count for _, count in self._latest(buckets, self._now()))

    def rate(self, buckets: int | None = None) -> float:
        """Return events per second since the first one looked at; at least one bucket's width is looked at.

        Arguments:
            buckets: as for :meth:`total`.
        """
        with self._lock:
            now = self._now()
            latest = self._latest(buckets, now)
            if not latest:
                return 0.0
            return sum(count for _, count in latest) / max(now - latest[0][0], self._width)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._past = []
            self._count = 0
            self._begin = self._end = float("-inf")

    def reset_after_fork(self) -> None:
        """Replace the lock: a thread that does not exist in this process may have held it."""
        self._lock = threading.Lock()

    def _turn(self) -> None:
        with self._lock:
            now = self._now()
            if now < self._end:  # another thread was quicker
                return
            self._past = self._alive(now)
            self._count = 0
            self._begin = now
            self._end = (now // self._width + 1) * self._width
            if self._end <= now:  # by rounding: then this is the first moment of the next one
                self._end += self._width

    def _latest(self, buckets: int | None, now: float) -> list[tuple[float, int]]:
        since = float("-inf") if buckets is None else (now // self._width - buckets + 1) * self._width
        return [bucket for bucket in self._alive(now) if bucket[0] >= since]

    def _alive(self, now: float) -> list[tuple[float, int]]:
        horizon = now - self._span
        buckets = [*self._past, (self._begin, self._count)]
        return [bucket for bucket in buckets if bucket[0] > horizon and bucket[1]]
