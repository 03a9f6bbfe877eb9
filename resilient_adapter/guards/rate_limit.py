"""The line that requests stand in where an origin limits how many it takes.

Three things can hold a request: a cooldown (the origin said -1003 or 429), the user's own windows
(``rate_limit.rate``), and the rate that throttles have taught (``rate_limit.adaptive``). Whoever may not go at
once stands in one line for all three: what reduces risk first, then other orders, then what only looks; and
among equals, first come first served.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

from ..core.rates import parse_used_weight, used_weight_header
from .pacing import Cubic, FixedWindow, SlidingWindow, Slots
from .window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..clock import Clock
    from ..settings.schema import RateLimitSettings

_MEASURED_OVER = 10.0  # seconds
_BUCKETS = 10
_LATELY = 2  # of them: what was sent when a throttle came

# How those who waited for the end of a cooldown are let go where nothing better is known: requests per second, and
# for how long at least, since some may have slept outside the line.
_RELEASE_RATE = 10.0
_RELEASE_FOR = 1.0

# Throttles that come so soon after a cut answer requests from before it: they are the same bad news.
_SAME_EPISODE = 1.0

# A rate that has grown to so many times what is wanted holds nobody any more. AWS stops growing at 2, too.
_OUTGROWN = 2.0

# A thread that wakes late must not lose the slots that passed meanwhile: so many seconds of them may be caught up.
_CATCH_UP = 0.05

# Those behind others ask again this often: the others may leave, and a rate that is probing back up grows.
_ASK_AGAIN = 0.25

# Requests that were long on their way may leave the server's window after ours: so much of a limit that it counts more
# than we do is no sign that somebody else uses it.
_LATE = 0.05


def _lanes() -> tuple[list[int], ...]:
    """Return an empty line: the numbers of those who wait, ascending, by priority."""
    return [], [], []


class Waiter:
    """A place in the line. Made by :meth:`RateLimit.enter`."""

    __slots__ = ("granted", "number", "priority")

    def __init__(self, priority: int, number: int) -> None:
        self.priority = priority
        self.number = number
        self.granted = False


class RateLimit:
    """When the next request to one origin may go. Thread-safe; waits for nobody, but says how long to wait.

    ::

        if limit.idle:
            limit.sent()
        else:
            waiter = limit.enter(priority)
            try:
                while wait := limit.poll(waiter):
                    clock.sleep(wait)
            except BaseException:
                limit.leave(waiter)
                raise

    Wait for the end of a cooldown in the line, not outside it: who comes when it is over goes to the end.

    Arguments:
        settings: the settings group ``rate_limit``.
        clock: tells the time.

    Attributes:
        idle: whether a request may go without asking. A plain attribute, read before every send.
        sent: count a request that went without asking; unlocked. What was sent lately is what a throttle cuts.
    """

    def __init__(self, settings: RateLimitSettings, clock: Clock) -> None:
        self._settings = settings
        self._now = clock.monotonic
        self._lock = threading.Lock()
        self._sends = Window(_MEASURED_OVER, clock, _BUCKETS)
        self.sent: Callable[[], None] = self._sends.add
        own = [SlidingWindow(rate) for rate in settings.rates]
        self._windows: list[Slots] = [*own]
        self._headers = [
            (header, rate, window)
            for rate, window in zip(settings.rates, own, strict=True)
            if (header := used_weight_header(rate.period)) is not None
        ]
        self._told: dict[str, FixedWindow] = {}  # the server's windows, by header, where others share them
        self._lanes = _lanes()
        self._number = 0
        self._latest: Waiter | None = None  # who took the latest slot
        self._closed_until = float("-inf")
        self._releasing = False
        self._cubic: Cubic | None = None
        self._cut_at = float("-inf")
        self._resumed_at = 0.0  # when sending begins again after the latest throttle
        self._spaced_until = float("-inf")  # where sends are spaced: when the next may go
        self.idle = not self._windows

    def throttled(self, retry_after: float | None) -> float:
        """Take note of a -1003 or 429: close the origin for a while and, if ``adaptive``, send slower from then on.

        Arguments:
            retry_after: seconds that the server asked for (0: none), or None where it did not say.

        Returns:
            seconds until the origin is open again. The later end counts, if it was closed already.
        """
        # Where only max_wait was set, below the default wait, it holds for that too.
        wait = min(self._settings.wait, self._settings.max_wait) if retry_after is None else retry_after
        with self._lock:
            now = self._now()
            episode_over = now >= max(self._closed_until, self._cut_at + _SAME_EPISODE)
            if self._settings.adaptive and episode_over:
                sent = self._sends.rate(_LATELY)
                before = self._cubic
                self._cubic = Cubic(sent) if before is None else before.throttled(now - self._resumed_at, sent)
                self._cut_at = now
            if wait > 0:
                self._closed_until = max(self._closed_until, now + wait)
                self._releasing = True
            self._resumed_at = max(now, self._closed_until)
            self._spaced_until = max(self._spaced_until, self._resumed_at)
            self._settle(now)
            return max(0.0, self._closed_until - now)

    def open(self) -> None:
        """End a cooldown before its time; those who wait go one after the other."""
        with self._lock:
            now = self._now()
            self._closed_until = min(self._closed_until, now)
            self._settle(now)

    def observed(self, headers: Mapping[str, str]) -> None:
        """Take note of the weight that the server says was used by all who share its limit (``X-MBX-USED-WEIGHT-1M``).

        Where ``rate_limit.rate`` has a window of the same period, what others use is then not ours to send, nor what
        requests weigh beyond one. As long as the server counts hardly more than we do, our own window is enough. A
        value that is no weight is passed over.

        Arguments:
            headers: those of a response, by names in any case.
        """
        for name, rate, own in self._headers:
            used = parse_used_weight(headers.get(name))
            if used is None:
                continue
            with self._lock:
                now = self._now()
                window = self._told.get(name)
                if window is None and used > own.used(now) + max(1.0, _LATE * rate.limit):
                    window = self._told[name] = FixedWindow(rate, now)
                    self._windows.append(window)
                if window is not None:
                    window.observed(used, now)

    def remaining(self) -> float:
        """Return seconds of cooldown that are left, 0.0 where there is none."""
        return max(0.0, self._closed_until - self._now())

    def estimate(self, priority: int) -> float:
        """Return about how many seconds a request that came now would wait, 0.0 if none. Changes nothing."""
        if self.idle:
            return 0.0
        with self._lock:
            now = self._now()
            ahead = sum(len(lane) for lane in self._lanes[: priority + 1])
            return self._free_at(ahead, now) - now

    def enter(self, priority: int) -> Waiter:
        """Stand in line.

        Arguments:
            priority: 0 for what reduces risk, 1 for other orders, 2 for what may wait for them.
        """
        with self._lock:
            self._number += 1
            self._lanes[priority].append(self._number)
            self.idle = False
            return Waiter(priority, self._number)

    def poll(self, waiter: Waiter) -> float:
        """Ask whether it is one's turn.

        Returns:
            0.0: send now, the slot is taken and the place given up. Else seconds after which to ask again.
        """
        with self._lock:
            if waiter.granted:
                return 0.0
            now = self._now()
            lane = self._lanes[waiter.priority]
            ahead = place = bisect_left(lane, waiter.number)
            ahead += sum(len(before) for before in self._lanes[: waiter.priority])
            # Those ahead may be late to ask: enough slots for them and for us are needed, not their absence.
            free_at = self._free_at(ahead, now)
            if free_at > now:
                return min(free_at, self._free_at(0, now) + _ASK_AGAIN) - now
            del lane[place]
            for window in self._windows:
                window.take(now)
            rate = self._spacing(now)
            if rate is not None:
                self._spaced_until = max(self._spaced_until, now - _CATCH_UP) + 1 / rate
            self._sends.add()
            waiter.granted = True
            self._latest = waiter
            self._settle(now)
            return 0.0

    def leave(self, waiter: Waiter) -> None:
        """Give up a place in the line, or a turn that was got and not used.

        The slot of such a turn is free again if nobody has taken one since; else it passes unused. Not to be called
        once the request has gone.
        """
        with self._lock:
            if not waiter.granted:
                lane = self._lanes[waiter.priority]
                place = bisect_left(lane, waiter.number)
                if lane[place : place + 1] == [waiter.number]:  # not so where an interrupt cut off its poll
                    del lane[place]
            elif waiter is self._latest:
                self._latest = None
                for window in self._windows:
                    window.give_back()
            self._settle(self._now())

    def reset_after_fork(self) -> None:
        """Make the line usable in a child process: fresh locks, and nobody in it."""
        self._lock = threading.Lock()
        self._sends.reset_after_fork()
        self._lanes = _lanes()
        self._latest = None
        self._settle(self._now())

    def _spacing(self, now: float) -> float | None:
        """Requests per second that are spaced evenly, if any are."""
        if self._cubic is not None:
            return self._cubic.rate(now - self._resumed_at)
        return _RELEASE_RATE if self._releasing else None

    def _free_at(self, n: int, now: float) -> float:
        """When the n-th next request (from 0) may go."""
        start = max(now, self._closed_until)
        free_at = max([start, *(window.free_at(n, start) for window in self._windows)])
        rate = self._spacing(start)
        return free_at if rate is None else max(free_at, self._spaced_until + n / rate)

    def _settle(self, now: float) -> None:
        """Drop what holds nobody any more. Called with the lock held."""
        waiting = any(self._lanes)
        if not waiting:
            if self._releasing and now >= self._closed_until + _RELEASE_FOR:
                self._releasing = False
            if self._cubic is not None:
                # Measured against the rate before the cut too: right after a cooldown nothing has been sent.
                wanted = max(self._cubic.reached, self._sends.rate())
                if self._cubic.rate(now - self._resumed_at) >= _OUTGROWN * wanted:
                    self._cubic = None
        self.idle = not (waiting or self._windows or self._releasing or self._cubic)
