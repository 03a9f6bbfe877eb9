"""Events: one for every retry, throttle, refresh, circuit change and give-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from ..core.frozen import Frozen
from . import log


class EventName(str, Enum):
    """The names that an event may have. Under ``mode="shadow"`` each says what would have been done."""

    RETRY = "retry"
    THROTTLE = "throttle"
    REFRESH = "refresh"
    REFRESH_FAILED = "refresh_failed"
    RESYNC = "resync"
    RESYNC_FAILED = "resync_failed"
    RECOVER = "recover"
    RECOVER_FAILED = "recover_failed"
    RECONCILE = "reconcile"
    RECONCILED = "reconciled"
    CIRCUIT_OPEN = "circuit_open"
    CIRCUIT_HALF_OPEN = "circuit_half_open"
    CIRCUIT_CLOSED = "circuit_closed"
    REFUSED = "refused"
    GIVE_UP = "give_up"

    def __str__(self) -> str:
        return self.value


class Event(Frozen):
    """One thing that the adapter did, or under ``mode="shadow"`` would have done.

    It holds no secret: no query string, header or body.

    Attributes:
        name: what was done (:class:`EventName`'s values).
        time: seconds since the epoch, by the adapter's clock.
        origin: scheme, host and port.
        method: the request's method.
        path: the request's path, without its query.
        attempt: number of the send that led to it; 0 before the first.
        code: the envelope's code, or None.
        status: the HTTP status, or None where no response came.
        recovery: what the table says to do, or None.
        wait: seconds that will be waited, 0 where none are.
        detail: the reason, in words.
        shadow: nothing was done, only told.
    """

    name: str
    time: float
    origin: str
    method: str
    path: str
    attempt: int
    code: int | None
    status: int | None
    recovery: str | None
    wait: float
    detail: str
    shadow: bool = False


Listener = Callable[[Event], object]


class Telemetry:
    """Hands events to listeners and to the log. A listener that raises is logged, and never breaks a request.

    Args:
        listeners: callables that are given each event, in order.
        level: lowest level that is logged: ``"debug"``, ``"info"``, ``"warning"``, ``"error"`` or ``"critical"``.
    """

    __slots__ = ("_level", "_listeners")

    def __init__(self, listeners: Sequence[Listener] = (), level: str = "info") -> None:
        self._listeners = tuple(listeners)
        self._level = log.LEVELS[level]

    def emit(self, event: Event, level: str | None = None) -> None:
        """Tell of an event.

        Args:
            event: what was done.
            level: lowest level that is logged, where the event's origin has one of its own.
        """
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:
                log.write("error", "listener_failed", {"listener": _name(listener), "error": type(error).__name__})
        lowest = self._level if level is None else log.LEVELS[level]
        own = _LEVEL_OF.get(event.name, "info")
        if log.LEVELS[own] >= lowest:
            log.write(own, event.name, fields(event))


def fields(event: Event) -> dict[str, object]:
    """Return what a log line says of an event: everything but its name, its time and what is empty."""
    return {
        key: value
        for key, value in event._asdict().items()
        if key not in ("name", "time") and value not in (None, "", False)
    }


def _name(listener: object) -> str:
    return getattr(listener, "__qualname__", type(listener).__qualname__)


# A refusal is "info": each caller is told of its own, and an open circuit makes thousands of them.
_LEVEL_OF: dict[str, str] = {
    EventName.THROTTLE: "warning",
    EventName.REFRESH_FAILED: "error",
    EventName.RESYNC_FAILED: "error",
    EventName.RECOVER_FAILED: "error",
    EventName.RECONCILE: "warning",
    EventName.CIRCUIT_OPEN: "warning",
    EventName.GIVE_UP: "warning",
}
