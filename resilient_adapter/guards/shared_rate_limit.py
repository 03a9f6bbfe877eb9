"""The line of one process among many: a cooldown holds in all of them, and the windows are those of their sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..state.store import Change, Store, time_left
from .rate_limit import RateLimit, Waiter
from .shared_pace import SharedPace

if TYPE_CHECKING:
    from ..clock import Clock
    from ..settings.schema import RateLimitSettings

_SAME = 0.05  # seconds by which two ends of one cooldown may differ, as two processes tell the time


class SharedRateLimit(RateLimit):
    """A :class:`RateLimit` whose cooldowns and windows other processes share.

    Args:
        settings: the settings group ``rate_limit``.
        clock: tells the time.
        store: where the records are.
        name: the origin, as their names have it.
    """

    def __init__(self, settings: RateLimitSettings, clock: Clock, *, store: Store, name: str) -> None:
        super().__init__(settings, clock)
        self._pace: SharedPace | None = None
        if settings.rates:
            self._pace = SharedPace(store.record(f"pace:{name}", tell=False), settings.rates, clock)
            self._windows = [self._pace]
        self._cooldown = store.record(f"cooldown:{name}")
        self._cooldown.heard = self._hear  # not before there is what it looks at
        self._hear(self._cooldown.value, self._cooldown.now())

    def throttled(self, retry_after: float | None) -> float:
        left = super().throttled(retry_after)

        def later(value: Any, now: float) -> Change | None:
            # Those whose requests were on their way are told the same, one after the other.
            known = time_left(value, now) >= left - _SAME
            return None if known else Change({"until": now + left, "for": left}, left)

        if left > 0:
            self._cooldown.update(later)
            known = self._known()
            if known > self.remaining() + _SAME:
                left = super().throttled(known)  # somebody's whom we had not heard of; or old news have opened the line
        return left

    def poll(self, waiter: Waiter) -> float:
        if self._pace is not None and not waiter.granted:
            self._reserve(self._pace)
        return super().poll(waiter)

    def reset_after_fork(self) -> None:
        super().reset_after_fork()
        if self._pace is not None:
            self._pace.reset_after_fork()

    def _reserve(self, pace: SharedPace) -> None:
        with self._lock:
            wanted = pace.wanted(sum(map(len, self._lanes)), self._sends.rate(), self._now())
        if wanted is None:
            return
        try:
            slots, ask_at = pace.reserve(wanted)
        except BaseException:
            with self._lock:
                pace.put([], 0.0)  # an interrupt: the next one asks
            raise
        with self._lock:
            pace.put(slots, ask_at)

    def _known(self) -> float:
        return time_left(self._cooldown.value, self._cooldown.now())

    def _hear(self, value: Any, now: float) -> None:
        left = time_left(value, now)
        if left > self.remaining() + _SAME:
            super().throttled(left)
        elif value is None and not self._known():
            self.open()  # somebody said so: one that ends by itself is not told of
