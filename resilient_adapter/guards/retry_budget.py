"""The retry budget: in an outage, repeats stay a small share of what is sent anyway."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..settings.schema import RetrySettings

SPAN = 10.0  # seconds
_BUCKETS = 10
_ROUNDING = 1e-9  # a share of 0.29 of 100 is 29, whatever floats say


class RetryBudget:
    """How many repeats one origin may be sent. Thread-safe.

    Over the last ten seconds there may be ``budget`` repeats per first send and ``budget_floor`` per second beside
    that, so that a script that makes few calls may still repeat them (Google, *Site Reliability Engineering*,
    chapter "Handling Overload"; the floor is that of Finagle's RetryBudget). A ``budget`` of 0 sets no limit.

    Arguments:
        settings: the settings group ``retry``.
        clock: tells the time.

    Attributes:
        first_send: count a request that is sent for the first time; unlocked, called in every call.
    """

    def __init__(self, settings: RetrySettings, clock: Clock) -> None:
        self._share = settings.budget
        self._floor = settings.budget_floor * SPAN
        self._lock = threading.Lock()
        self._firsts = Window(SPAN, clock, _BUCKETS)
        self._repeats = Window(SPAN, clock, _BUCKETS)
        self.first_send: Callable[[], None] = self._firsts.add

    def available(self) -> bool:
        """Return whether a repeat may be sent now. Changes nothing."""
        return (
            not self._share or self._repeats.total() + 1 <= self._share * self._firsts.total() + self._floor + _ROUNDING
        )

    def spend(self) -> bool:
        """Take one repeat from the budget, if there is one: threads that ask at once cannot overdraw it.

        Returns:
            whether the repeat may be sent.
        """
        with self._lock:
            if not self.available():
                return False
            self._repeats.add()
            return True

    def reset_after_fork(self) -> None:
        """Make the budget usable in a child process: fresh locks."""
        self._lock = threading.Lock()
        self._firsts.reset_after_fork()
        self._repeats.reset_after_fork()
