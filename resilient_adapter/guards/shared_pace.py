"""Sliding windows for many processes: slots are reserved in one record, a few at a time, and used here.

The record keeps when slots are taken, in all windows together. A process reserves what its line is short of, each
slot with the time from which it is good. What is not used soon after that is lost, never saved up, so the sum of all
stays within the limit. One reservation serves several calls.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.rates import Rate
from ..state.store import Change, Record
from .pacing import SlidingWindow

if TYPE_CHECKING:
    from ..clock import Clock

#: So many times a window's slots are divided into: neighbours share one, their latest.
_STAMPS = 100
#: Share of the shortest window for which a slot is good once its time has come, and the most seconds. The record takes
#: it for used at the end of that, so this share of the limit is what sharing costs.
_GOOD_FOR, _GOOD_FOR_MOST = 0.02, 0.25
#: Threads that wake later than that, on a busy machine say, would get no slot ever: with each that they miss slots are
#: good for twice as long, up to so many seconds, and with each that they use for a little less.
_LATE_MOST, _EASE = 1.0, 0.98
#: Where no more than this share of the slots is taken, they are good for so many seconds, and enough are reserved for
#: all that time: nobody else is short of them.
_PLENTY, _AHEAD = 0.5, 0.5
#: Else they are spread out over their window, a little closer than they would have to be, so that one request for
#: slots serves all who wait: in one burst each of them would have to ask by itself. But by no more than so many
#: seconds: who may send a hundred a minute does not wait half of it for the second fifty.
_SPACING, _SPACING_MOST = 0.95, 0.1
#: Where there are too few, more are asked for so many seconds before the last one in hand is due, for all who have come
#: by then.
_LEAD = 0.015
#: Slots whose time is further away than so many seconds are left to whoever asks then; one is always taken.
_HORIZON = 1.0
#: Share of the slots up to there that one may take at a time where they are short. Whoever took them all would be the
#: first to ask again, too, and the others would get one each.
_SHARE = 0.25
#: How soon to ask again where nothing better is known, while somebody else asks.
_ASK_AGAIN = 0.01
#: Seconds after which whoever asks is not waited for any more: an interrupt may have kept it from saying so.
_ASKING = 2.0


class Wanted(NamedTuple):
    """What a process asks for.

    Attributes:
        need: slots for those who wait.
        rate: requests per second that were sent lately.
    """

    need: int
    rate: float


class Slot(NamedTuple):
    """Leave for one request, at some time from ``begin`` to ``end``, by the local clock.

    Attributes:
        begin: from when on it is good.
        end: until when.
        spare: slots are plenty, and nobody may come for this one.
    """

    begin: float
    end: float
    spare: bool


class SharedPace:
    """The slots that this process has in hand. Takes the place of a :class:`SlidingWindow`, for all windows at once.

    All but :meth:`reserve` is called with the lock of the line held.

    Args:
        record: the record.
        rates: the windows.
        clock: tells the time.
    """

    def __init__(self, record: Record, rates: Sequence[Rate], clock: Clock) -> None:
        self._record = record
        self._rates = rates
        self._now = clock.monotonic
        self._period = max(rate.period for rate in rates)
        shortest = min(rate.period for rate in rates)
        self._good_for = self._good_for_least = min(_GOOD_FOR * shortest, _GOOD_FOR_MOST)
        self._good_for_most = max(min(shortest, _LATE_MOST), self._good_for_least)
        self._slots: deque[Slot] = deque()
        self._asked_until = -math.inf  # somebody asks, and has until then
        self._ask_at = -math.inf

    def wanted(self, waiting: int, rate: float, now: float) -> Wanted | None:
        """Return what to reserve now, where anything is; whoever is told so has to call :meth:`reserve`.

        Args:
            waiting: how many stand in line.
            rate: requests per second that were sent lately.
            now: the time.
        """
        self._drop_late(now)
        need = waiting - len(self._slots)
        if need <= 0 or now < max(self._asked_until, self._ask_at):
            return None
        self._asked_until = now + _ASKING
        return Wanted(need, rate)

    def reserve(self, wanted: Wanted) -> tuple[list[Slot], float]:
        """Ask the record for slots; not under any lock.

        Returns:
            the slots, and from when on it is worth asking again, by the local clock.
        """
        slots: list[Slot] = []
        free = 0.0

        def change(value: Any, now: float) -> Change:
            nonlocal free
            slots.clear()
            logs = windows(self._rates, value)
            ahead = wanted.need + wanted.rate * _AHEAD
            spacing = max(
                0.0
                if log.used(now) + ahead <= _PLENTY * rate.limit
                else min(_SPACING * rate.period / rate.limit, _SPACING_MOST)
                for log, rate in zip(logs, self._rates, strict=True)
            )
            need = min(wanted.need, max(1, int(_SHARE * _HORIZON / spacing))) if spacing else wanted.need
            good_for = self._good_for if spacing else _AHEAD
            latest = _latest(value) if spacing else -math.inf
            while True:
                free = max(latest + spacing, *(log.free_at(0, now) for log in logs))
                if not _takes(need, wanted.rate * good_for, len(slots), free - now):
                    break
                latest = free
                slots.append(Slot(free, free + good_for, spare=not spacing))
                for log in logs:
                    log.take(max(free + good_for, log.latest))
            taken = {"windows": [log.saved() for log in logs], "latest": latest}
            return Change(taken, latest - now + 2 * self._period)

        result = self._record.update(change)
        if not result.changed:
            slots.clear()
        here = self._now() - self._record.now()
        return [Slot(slot.begin + here, slot.end + here, slot.spare) for slot in slots], free + here

    def put(self, slots: Sequence[Slot], ask_at: float) -> None:
        """Take what :meth:`reserve` has brought."""
        self._asked_until = -math.inf
        self._slots += slots
        self._ask_at = max(ask_at - _HORIZON, self._slots[-1].begin - _LEAD) if self._slots else ask_at

    def free_at(self, n: int, start: float) -> float:
        """Return when the n-th next request (from 0) may go, as far as is known."""
        good = [slot.begin for slot in self._slots if slot.end >= start]
        return max(start, good[n]) if n < len(good) else max(start + _ASK_AGAIN, self._ask_at)

    def take(self, now: float) -> None:
        """Use the next slot. The caller has made sure that its time has come."""
        self._drop_late(now)  # some may have gone by while the record was asked
        self._slots.popleft()
        self._good_for = max(_EASE * self._good_for, self._good_for_least)

    def give_back(self) -> None:
        """A slot that was taken in vain is lost: by the next time that somebody waits, it would be late."""

    def reset_after_fork(self) -> None:
        """Leave the slots in hand to the parent."""
        self._slots.clear()
        self._asked_until = -math.inf

    def _drop_late(self, now: float) -> None:
        while self._slots and self._slots[0].end < now:
            if not self._slots.popleft().spare:
                self._good_for = min(2 * self._good_for, self._good_for_most)


def _takes(need: int, ahead: float, taken: int, wait: float) -> bool:
    """Return whether one more slot is worth having that is good after so many seconds, for so many."""
    if wait <= 0:
        return taken < need + int(ahead)  # those beyond the need are lost unless somebody comes in time
    return taken < need and (not taken or wait <= _HORIZON)


def windows(rates: Sequence[Rate], value: Any) -> list[SlidingWindow]:
    """Return the windows as a record has them; empty ones where it has none, or others than these."""
    try:
        saved = [[float(number) for number in one] for one in value["windows"]]
        return [SlidingWindow(rate, stamps=_STAMPS, saved=one) for rate, one in zip(rates, saved, strict=True)]
    except (TypeError, KeyError, ValueError, OverflowError):
        return [SlidingWindow(rate, stamps=_STAMPS) for rate in rates]  # nothing yet, or other rates than ours


def _latest(value: Any) -> float:
    latest = value.get("latest") if isinstance(value, dict) else None
    return latest if isinstance(latest, (int, float)) else -math.inf
