"""Records in this process: what tests and simulations share, and what is left where a store cannot be reached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .backend import Seen


class MemoryBackend:
    """Keeps records in this process.

    Args:
        time: tells the time, in seconds since the epoch.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._records: dict[str, tuple[Seen, float]] = {}  # and when it ends
        self._version = 0
        self._listeners: list[MemoryListener] = []
        self.reset_after_fork()

    def swap(self, key: str, version: int, value: str | None, ttl: float, *, tell: bool = True) -> Seen:
        with self._changed:
            now = self._time()
            current = self._read(key, now)
            if current.version != version:
                return current
            self._version += 1
            seen = Seen(key, 0 if value is None else self._version, value, now, swapped=True)
            if value is None:
                self._records.pop(key, None)
            else:
                self._records[key] = (seen._replace(swapped=False), now + ttl)
            if tell:
                for listener in self._listeners:
                    listener.changes.append(seen._replace(swapped=False))
                self._changed.notify_all()
            return seen

    def read(self, keys: Sequence[str]) -> list[Seen]:
        with self._changed:
            now = self._time()
            return [self._read(key, now) for key in keys]

    def keys(self) -> list[str]:
        with self._changed:
            now = self._time()
            return [key for key in list(self._records) if self._read(key, now).version]

    def listen(self) -> MemoryListener:
        with self._changed:
            listener = MemoryListener(self._changed, self._listeners)
            self._listeners.append(listener)
            return listener

    def reset_after_fork(self) -> None:
        self._changed = threading.Condition()

    def close(self) -> None:
        """Nothing is open."""

    def _read(self, key: str, now: float) -> Seen:
        seen, end = self._records.get(key, (Seen(key, 0, None, now), now + 1))
        if now >= end:
            del self._records[key]
            seen = Seen(key, 0, None, now)
        return seen._replace(now=now)


class MemoryListener:
    """Hears of the changes of a :class:`MemoryBackend`."""

    def __init__(self, changed: threading.Condition, listeners: list[MemoryListener]) -> None:
        self._changed = changed
        self._listeners = listeners
        self.changes: list[Seen] = []

    def heard(self, timeout: float) -> list[Seen]:
        with self._changed:
            if not self.changes and timeout > 0:
                self._changed.wait(timeout)
            changes, self.changes = self.changes, []
            return changes

    def close(self) -> None:
        with self._changed:
            if self in self._listeners:
                self._listeners.remove(self)
