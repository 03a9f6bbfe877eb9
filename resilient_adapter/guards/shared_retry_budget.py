"""A retry budget that says what it has spent, so that an operator sees the repeats of a whole fleet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..state.store import Change, Store
from .retry_budget import SPAN, RetryBudget

if TYPE_CHECKING:
    from ..clock import Clock
    from ..settings.schema import RetrySettings


class SharedRetryBudget(RetryBudget):
    """The retry budget of one process among many. Each has its own; what all spend is written down together.

    A budget is a share of what a process sends, so the fleet's repeats are that share of what the fleet sends: there is
    nothing to agree on.

    Args:
        settings: the settings group ``retry``.
        clock: tells the time.
        store: where the record is.
        name: the origin, as its name has it.
    """

    def __init__(self, settings: RetrySettings, clock: Clock, *, store: Store, name: str) -> None:
        super().__init__(settings, clock)
        self._record = store.record(f"budget:{name}", tell=False)

    def spend(self) -> bool:
        spent = super().spend()
        if spent:
            self._record.update(_one_more)
        return spent


def repeats(value: Any, now: float) -> int:
    """Return how many repeats a record tells of in the last ten seconds."""
    return sum(count for _, count in _latest(value, now))


def _one_more(value: Any, now: float) -> Change:
    second = math.floor(now)
    try:
        latest = _latest(value, now)
    except (TypeError, ValueError, OverflowError):
        latest = []  # no record of ours
    if latest and latest[-1][0] == second:
        latest[-1][1] += 1
    else:
        latest.append([second, 1])
    return Change(latest, SPAN)


def _latest(value: Any, now: float) -> list[list[int]]:
    return [[second, int(count)] for second, count in value or () if second > now - SPAN]
