"""A clock whose time passes only when it is told to."""

from __future__ import annotations

import threading
import time as _time

# One lock for all clocks: a clock without a lock of its own pickles and copies like any other value.
_LOCK = threading.Lock()


class FakeClock:
    """A `Clock` for tests: ``sleep()`` returns at once, and time has passed.

    Hand the same one to the adapter and to the `Gateway`, and waits of minutes take no time, exactly.
    It may be used from several threads.

    Args:
        monotonic: what `monotonic()` starts at, in seconds.
        time: what `time()` starts at, in seconds since the epoch.

    Attributes:
        sleeps: the seconds of every `sleep()`, in order.

    >>> clock = FakeClock()
    >>> clock.sleep(60)
    >>> clock.monotonic(), clock.sleeps
    (1060.0, [60])
    """

    def __init__(self, monotonic: float = 1000.0, time: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._time = time
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return self._monotonic

    def time(self) -> float:
        """Return seconds since the epoch."""
        return self._time

    def sleep(self, seconds: float) -> None:
        """Advance by ``seconds``, note them in `sleeps`, and let other threads run.

        Raises:
            ValueError: ``seconds`` is negative (as `time.sleep` does).
        """
        self._advance(seconds, slept=True)
        _time.sleep(0)  # noqa: TID251 - not to wait, but to let other threads run

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, on both clocks.

        Raises:
            ValueError: ``seconds`` is negative: a monotonic clock does not go back.
        """
        self._advance(seconds, slept=False)

    def step(self, seconds: float) -> None:
        """Move `time()` by ``seconds``, forward or back, as when the operating system's clock is set."""
        with _LOCK:
            self._time += seconds

    def _advance(self, seconds: float, *, slept: bool) -> None:
        if not seconds >= 0:  # NaN is refused too
            raise ValueError(f"a clock cannot be advanced by {seconds!r} s")
        with _LOCK:
            self._monotonic += seconds
            self._time += seconds
            if slept:
                self.sleeps.append(seconds)

    def __repr__(self) -> str:
        return f"FakeClock(monotonic={self._monotonic!r}, time={self._time!r})"
