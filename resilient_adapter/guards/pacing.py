"""How fast requests may go: windows that the user gives, what the server counts in them, a rate that throttles teach.

Neither locks nor reads a clock: :class:`~resilient_adapter.guards.rate_limit.RateLimit` does both for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..core.rates import Rate

_MAX_STAMPS = 1024

# The server counts arrivals, not sends, and one request may be a little longer on its way than the next. A period
# is taken to be longer by this share, and by no more than so many seconds: the jitter of a network does not grow
# with the period.
_MARGIN = 0.01
_MAX_MARGIN = 0.05


class Slots(Protocol):
    """What the line takes its slots from."""

    def free_at(self, n: int, start: float) -> float:
        """Return when the n-th next slot (from 0) is free, if from ``start`` on each is taken as soon as it is."""
        ...

    def take(self, now: float) -> None:
        """Take the next slot, at a time when it is free and that is no earlier than the one before."""
        ...

    def give_back(self) -> None:
        """Undo the latest :meth:`take`."""
        ...


class SlidingWindow:
    """At most ``rate.limit`` slots in any ``rate.period`` seconds, wherever one lays them.

    Kept are the times at which slots were taken. Of a limit beyond 1024, neighbours share one time, their latest:
    a limit of a million takes no more memory, and gives away less than 0.2 % of itself.

    Arguments:
        rate: the limit and the period.
        stamps: how many times are kept at most.
        saved: what :meth:`saved` of an equal window has returned.
    """

    __slots__ = ("_filled", "_per_stamp", "_period", "_since", "_stamps", "_stamps_max")

    def __init__(self, rate: Rate, *, stamps: int = _MAX_STAMPS, saved: list[float] | None = None) -> None:
        self._period = rate.period + min(rate.period * _MARGIN, _MAX_MARGIN)
        self._per_stamp = -(-rate.limit // stamps)
        self._stamps_max = rate.limit // self._per_stamp
        filled, self._since, *taken = saved or [self._per_stamp, float("-inf")]
        # Slots taken under the newest stamp, which are free since some time.
        self._filled = int(filled) if taken else self._per_stamp
        self._stamps: deque[float] = deque(taken, maxlen=self._stamps_max)

    @property
    def latest(self) -> float:
        """The time of the slot taken last; minus infinity before the first."""
        return self._stamps[-1] if self._stamps else float("-inf")

    def used(self, now: float) -> int:
        """Return how many slots are taken at a time."""
        late = len(self._stamps) - bisect_right(self._stamps, now - self._period)
        return max(0, late * self._per_stamp - (self._per_stamp - self._filled))

    def saved(self) -> list[float]:
        """Return the slots taken, as numbers."""
        return [self._filled, self._since, *self._stamps]

    def free_at(self, n: int, start: float) -> float:
        """Return when the n-th next slot (from 0) is free, if from ``start`` on each is taken as soon as it is."""
        beyond = n - (self._per_stamp - self._filled)
        if beyond < 0:
            return max(start, self._since)
        rounds, place = divmod(beyond // self._per_stamp, self._stamps_max)
        place -= self._stamps_max - len(self._stamps)
        free = start if place < 0 else max(start, self._stamps[place] + self._period)
        return free + rounds * self._period

    def take(self, now: float) -> None:
        """Take the next slot, at a time when it is free and that is no earlier than the one before."""
        if self._filled < self._per_stamp:
            self._stamps[-1] = now
            self._filled += 1
        else:
            if len(self._stamps) == self._stamps_max:
                self._since = self._stamps[0] + self._period
            self._stamps.append(now)  # drops the oldest, which is a period old
            self._filled = 1

    def give_back(self) -> None:
        """Undo the latest :meth:`take`."""
        self._filled -= 1
        if not self._filled:
            self._stamps.pop()
            self._filled = self._per_stamp


class FixedWindow:
    """The server's own window, as far as it tells: ``rate.limit`` slots in each period, for all who share them.

    It begins again every ``rate.period`` seconds, at times that nobody tells, but its count shows when it has. Kept are
    the most that it may have counted by now, and the latest time at which it may end: in doubt it is taken to be fuller
    and to last for longer than it does, for up to a period.

    Arguments:
        rate: its limit and period.
        now: when it was first heard of.
    """

    __slots__ = ("_count", "_end", "_limit", "_period", "_told")

    def __init__(self, rate: Rate, now: float) -> None:
        self._limit, self._period = rate
        self._count = self._told = 0
        self._end = now + self._period

    def observed(self, used: int, now: float) -> None:
        """Take note of what the server has counted.

        Arguments:
            used: by the time of its answer, in its present window, by everybody; beyond the limit it is taken for that.
            now: the present time.
        """
        self._begin_again(now)
        used = min(used, self._limit)
        if 2 * used < self._told:
            # Less than half of what it said before is no answer that others have overtaken: it has begun again since.
            self._count = self._told = used
            self._end = now + self._period
        else:
            self._told = max(self._told, used)
            self._count = max(self._count, used)

    def free_at(self, n: int, start: float) -> float:
        """Return when the n-th next slot (from 0) is free, as :meth:`SlidingWindow.free_at` does."""
        full = (self._count + n) // self._limit
        return self._end + (full - 1) * self._period if full and start < self._end else start

    def take(self, now: float) -> None:
        """Take the next slot."""
        self._begin_again(now)
        self._count += 1

    def give_back(self) -> None:
        """Undo the latest :meth:`take`."""
        self._count = max(self._count - 1, self._told)

    def _begin_again(self, now: float) -> None:
        if now >= self._end:
            self._count = self._told = 0
            self._end += ((now - self._end) // self._period + 1) * self._period


class Cubic:
    """A send rate that was cut by a throttle and grows back.

    The idea of the AWS SDKs' "adaptive" retry mode (AWS SDKs and Tools Reference Guide, "Retry behavior"): cut to
    ``BETA`` of what was sent, then along RFC 9438's cubic curve back to it, resting there, and beyond it ever faster.
    A throttle at about the rate of the one before has met the same limit again. Each such one halves the cut and
    doubles the time until more is tried: a limit that stays where it is gets tried less and less often.

    Arguments:
        reached: requests per second that were sent when the throttle came.
        cut: the share by which the rate is cut.
        plateau_at: seconds until it is back where it was; None: as RFC 9438 has it.
    """

    __slots__ = ("_cut", "_plateau_at", "reached")

    BETA = 0.7  # RFC 9438, section 4.6
    C = 0.4  # RFC 9438, section 5.1
    LEAST = 0.5  # requests per second: below that, probing back up would take minutes
    SAME = 0.1  # two throttles of one limit differ by this share at most
    LEAST_CUT = 0.05
    LONGEST = 60.0  # seconds

    def __init__(self, reached: float, *, cut: float = 1 - BETA, plateau_at: float | None = None) -> None:
        self.reached = max(reached, self.LEAST / (1 - cut))
        self._cut = cut
        self._plateau_at = (self.reached * cut / self.C) ** (1 / 3) if plateau_at is None else plateau_at

    def rate(self, elapsed: float) -> float:
        """Return requests per second, so many seconds after sending began again."""
        beyond = max(elapsed, 0.0) - self._plateau_at
        # Up to the plateau stretched to the time that it takes: beyond it as steep as ever, should the limit be gone.
        steep = self.C if beyond > 0 else self.reached * self._cut / self._plateau_at**3
        return steep * beyond**3 + self.reached

    def throttled(self, elapsed: float, sent: float) -> Cubic:
        """Return the rate that follows the next throttle.

        Arguments:
            elapsed: as for :meth:`rate`.
            sent: requests per second that were sent lately.
        """
        reached = min(sent, self.rate(elapsed))  # what was sent may include what was let go before the cut
        if abs(reached - self.reached) > self.SAME * self.reached:
            return Cubic(reached)
        cut, plateau_at = max(self._cut / 2, self.LEAST_CUT), min(2 * self._plateau_at, self.LONGEST)
        return Cubic(reached, cut=cut, plateau_at=plateau_at)
