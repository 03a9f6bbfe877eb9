"""A retry budget that says what it has spent, so that an operator sees the repeats of a whole fleet."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from ..state.store import Change, Store
from .retry_budget import SPAN, RetryBudget

if TYPE_CHECKING:
    from ..clock import Clock
    from ..settings.schema import RetrySettings


#: Seconds, about, until a process writes down again what it has spent, and how often it tries. All write to one record,
#: and in an outage all have something to write: a change for each repeat took ten round trips and more.
_TELL_EVERY = 1.0
_TRIES = 2


class SharedRetryBudget(RetryBudget):
    """The retry budget of one process among many. Each has its own; what all spend is written down together.

    A budget is a share of what a process sends, so the fleet's repeats are that share of what the fleet sends: there is
    nothing to agree on. What is written down is for people, a second late at times and short of the latest few.

    Args:
        settings: the settings group ``retry``.
        clock: tells the time.
        store: where the record is.
        name: the origin, as its name has it.
    """

    def __init__(self, settings: RetrySettings, clock: Clock, *, store: Store, name: str) -> None:
        super().__init__(settings, clock)
        self._record = store.record(f"budget:{name}", tell=False)
        self._now = clock.monotonic
        self._untold = 0
        self._tell_at = -math.inf

    def spend(self) -> bool:
        spent = super().spend()
        if spent:
            with self._lock:
                self._untold += 1
                count = self._untold if self._now() >= self._tell_at else 0
                if count:
                    self._untold = 0
                    self._tell_at = self._now() + _TELL_EVERY * random.uniform(0.5, 1.5)
            if count:
                self._tell(count)
        return spent

    def _tell(self, count: int) -> None:
        tries = 0

        def more(value: Any, now: float) -> Change | None:
            nonlocal tries
            tries += 1
            return _more(value, now, count) if tries <= _TRIES else None

        if not self._record.update(more).changed:
            with self._lock:
                self._untold += count


def repeats(value: Any, now: float) -> int:
    """Return how many repeats a record tells of in the last ten seconds."""
    return sum(count for _, count in _latest(value, now))


def _more(value: Any, now: float, count: int) -> Change:
    second = math.floor(now)
    try:
        latest = _latest(value, now)
    except (TypeError, ValueError, OverflowError):
        latest = []  # no record of ours
    if latest and latest[-1][0] == second:
        latest[-1][1] += count
    else:
        latest.append([second, count])
    return Change(latest, SPAN)


def _latest(value: Any, now: float) -> list[list[int]]:
    return [[second, int(count)] for second, count in value or () if second > now - SPAN]
