"""What happened in a simulation, counted, and what it comes to."""

from __future__ import annotations

import math
from itertools import accumulate

_TICKS = 10  # what is counted is counted in tenths of a second

_GOOD = 0.99


class Record:
    """What happened, counted. Time is in seconds, and 0 is when the outage begins.

    Args:
        demand: calls per second.
        outage: seconds that it lasts.
        warm_up: seconds that are counted before it.
        after: seconds that are counted after it.

    Attributes:
        calls: calls that began. Each has ended, too, when all is over: it ``succeeded`` or it ``failed``.
        due: calls that began in the outage.
        due_sends: requests that these were sent as, whenever.
        arrived: requests that reached the server in the outage, whichever calls they were for.
    """

    def __init__(self, demand: float, outage: float, *, warm_up: float, after: float) -> None:
        self.demand = demand
        self.warm_up = warm_up
        self._outage = outage
        self.calls = self.succeeded = self.failed = 0
        self.due = self.due_sends = self.arrived = 0
        self._over = round((warm_up + outage) * _TICKS, 6)
        self._end = math.floor(self._over + after * _TICKS)
        # What comes later than the last call began is of no interest; it shares the last tick.
        self._requests = [0] * (self._end + 1)
        self._begun = [0] * (self._end + 1)
        self._ended = [0] * (self._end + 1)
        self._failed = [0] * (self._end + 1)

    # --- counting

    def begun(self, now: float, *, due: bool) -> None:
        """Count a call that begins; ``due``: in the outage."""
        self.calls += 1
        self.due += due
        self._begun[self._tick(now)] += 1

    def sent(self, now: float, *, due: bool) -> None:
        """Count a request that reaches the server; ``due``: for a call that began in the outage."""
        self.due_sends += due
        if 0 <= now < self._outage:
            self.arrived += 1
        self._requests[self._tick(now)] += 1

    def ended(self, now: float, *, succeeded: bool) -> None:
        """Count a call that ends."""
        tick = self._tick(now)
        self._ended[tick] += 1
        if succeeded:
            self.succeeded += 1
        else:
            self.failed += 1
            self._failed[tick] += 1

    def _tick(self, now: float) -> int:
        return min(int((now + self.warm_up) * _TICKS), self._end)

    # --- what it comes to

    @property
    def amplification(self) -> float:
        """Requests at the server in the outage, over the calls that began in it."""
        return self.arrived / self.due

    @property
    def sends_per_call(self) -> float:
        """Requests, whenever, for a call that began in the outage."""
        return self.due_sends / self.due

    @property
    def peak(self) -> float:
        """Most requests in a second after the outage, over the demand."""
        return max(_in_a_second(self._requests[self._recovers : self._end])) / self.demand

    @property
    def recovery(self) -> float | None:
        """Seconds after the outage from which on, in every second, 99 % of the calls that end succeed.

        None if there is no such time. A second in which calls begin and none ends is a bad one.
        """
        after = slice(self._recovers, self._end)
        begun, ended, failed = (_in_a_second(one[after]) for one in (self._begun, self._ended, self._failed))
        bad = [
            tick
            for tick, (came, went, lost) in enumerate(zip(begun, ended, failed, strict=True))
            if lost > (1 - _GOOD) * went or (came and not went)
        ]
        if not bad:
            return 0.0
        return None if bad[-1] == len(begun) - 1 else (bad[-1] + 1) / _TICKS

    @property
    def requests(self) -> list[int]:
        """Requests at the server in each second, from the beginning of what is counted on."""
        return _in_a_second(self._requests[: self._end])[::_TICKS]

    @property
    def _recovers(self) -> int:
        return math.ceil(self._over)


def _in_a_second(ticks: list[int]) -> list[int]:
    """Return the sums of each second that lies in some ticks, a tick apart."""
    sums = [0, *accumulate(ticks)]
    return [after - before for before, after in zip(sums, sums[_TICKS:], strict=False)]
