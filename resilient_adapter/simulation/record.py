"""What happened in a simulation, counted, and what it comes to."""

from __future__ import annotations

import math
from itertools import accumulate

TICKS = 100
"""How often in a second what was counted is noted."""

_GOOD = 0.99


class Record:
    """What happened, counted. Time is in seconds, and 0 is when the outage begins.

    Args:
        demand: calls per second.
        outage: seconds that it lasts.
        warm_up: seconds in which calls begin before it.
        after: seconds in which calls begin after it.
        scale: how many times as many clients those that are counted stand for.

    Attributes:
        ticks: how many ticks there are until no more calls begin.
        due: calls that began in the outage.
        due_sends: requests that these were sent as, whenever.
        arrived: requests that reached the server in the outage, whichever calls they were for.
        begun, requests, ended, failed: calls that began, requests that reached the server, calls that ended, and those
            of them that failed, in each tick from the beginning of the warm-up on.
    """

    def __init__(self, demand: float, outage: float, *, warm_up: float, after: float, scale: float = 1.0) -> None:
        self._demand = demand
        self._scale = scale
        self.due = self.due_sends = self.arrived = 0
        self.begun: list[int] = []
        self.requests: list[int] = []
        self.ended: list[int] = []
        self.failed: list[int] = []
        over = round((warm_up + outage) * TICKS, 6)
        # Later ticks are not looked at: that no more calls begin says nothing of the server.
        self.ticks = math.floor(over + after * TICKS)
        self._after = slice(math.ceil(over), self.ticks)

    def tick(self, begun: int, requests: int, ended: int, failed: int) -> None:
        """Note what was counted in the next tick."""
        self.begun.append(begun)
        self.requests.append(requests)
        self.ended.append(ended)
        self.failed.append(failed)

    @property
    def amplification(self) -> float:
        """Requests at the server in the outage, over the calls that began in it."""
        return self.arrived / self.due

    @property
    def sends_per_call(self) -> float:
        """Requests that a call is sent as that began in the outage."""
        return self.due_sends / self.due

    @property
    def peak(self) -> float:
        """Most requests in any second after the outage, over the demand."""
        return max(_in_a_second(self.requests[self._after])) / self._demand

    @property
    def recovery(self) -> float | None:
        """Seconds after the outage from which on, in any second, 99 % of the calls that end succeed.

        None if there is no such time. A second in which calls begin and none ends is a bad one.
        """
        begun, ended, failed = (_in_a_second(one[self._after]) for one in (self.begun, self.ended, self.failed))
        bad = [
            tick
            for tick, (came, went, lost) in enumerate(zip(begun, ended, failed, strict=True))
            if lost > (1 - _GOOD) * went or (came and not went)
        ]
        if not bad:
            return 0.0
        return None if bad[-1] == len(begun) - 1 else (bad[-1] + 1) / TICKS

    @property
    def failures(self) -> int:
        """Calls that failed in the end, whenever they began."""
        return round(sum(self.failed) * self._scale)

    @property
    def load(self) -> list[float]:
        """Requests at the server in each second from the beginning of the warm-up on, over the demand."""
        return [requests / self._demand for requests in _in_a_second(self.requests[: self.ticks])[::TICKS]]


def _in_a_second(ticks: list[int]) -> list[int]:
    """Return the sums of each second that lies in some ticks, one for each tick that it may begin with."""
    sums = [0, *accumulate(ticks)]
    return [after - before for before, after in zip(sums, sums[TICKS:], strict=False)]
