"""The clock that every wait and expiry in the package goes by."""

from __future__ import annotations

import time as _time
from typing import Protocol


class Clock(Protocol):
    """What the package needs of a clock; hand in another for tests and simulation."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    def time(self) -> float:
        """Return seconds since the epoch."""
        ...

    # Its argument has no name, as in time.sleep: the module ``time`` is a clock, too.
    def sleep(self, seconds: float, /) -> None:
        """Wait for that many seconds."""
        ...


class SystemClock:
    """The operating system's clock. All instances are equal: they tell the same time."""

    __slots__ = ()

    # The functions themselves, not methods around them: they are read several times in every call.
    monotonic = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)

    def sleep(self, seconds: float, /) -> None:
        """Wait for that many seconds; as gevent has it, where that has put a sleep of its own in this one's place."""
        _time.sleep(seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SystemClock)

    def __hash__(self) -> int:
        return hash(SystemClock)

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK = SystemClock()
