"""urllib3's connection pools, without what a pool that does not block has no use for.

Each call takes a connection out of its pool and puts it back. urllib3's own queue tells waiting threads so both times,
where nobody ever waits; and what goes on the wire is copied as a case-insensitive mapping, and read as one several
times. Both cost a call 8 µs.
"""

from __future__ import annotations

import queue
from typing import Any

import urllib3
from requests.structures import CaseInsensitiveDict


class _Stack(queue.LifoQueue[Any]):
    """A last-in-first-out queue that nobody waits at."""

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        with self.mutex:
            if not self.queue:
                raise queue.Empty
            return self.queue.pop()

    def put(self, item: Any, block: bool = False, timeout: float | None = None) -> None:
        with self.mutex:
            if len(self.queue) >= self.maxsize > 0:
                raise queue.Full
            self.queue.append(item)


class _Hastened:
    QueueCls = _Stack

    def urlopen(self, *args: Any, **options: Any) -> Any:
        """Send a request, as urllib3 does."""
        headers = options.get("headers")
        if type(headers) is CaseInsensitiveDict and hasattr(headers, "_store"):
            options["headers"] = dict(headers._store.values())
        return super().urlopen(*args, **options)  # type: ignore[misc]


# By the names of urllib3's own: they are in the texts of exceptions.
class HTTPConnectionPool(_Hastened, urllib3.HTTPConnectionPool):
    """urllib3's pool for http."""


class HTTPSConnectionPool(_Hastened, urllib3.HTTPSConnectionPool):
    """urllib3's pool for https."""


_HASTENED = {urllib3.HTTPConnectionPool: HTTPConnectionPool, urllib3.HTTPSConnectionPool: HTTPSConnectionPool}


def hasten(manager: urllib3.PoolManager) -> None:
    """Have a manager make such pools in place of urllib3's own; kinds of anybody else's stay as they are.

    Args:
        manager: just made. Its pools do not block.
    """
    # A fork of urllib3 that has taken its place may keep connections in another kind of queue.
    if urllib3.HTTPConnectionPool.QueueCls is queue.LifoQueue:
        kinds = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: _HASTENED.get(kind, kind) for scheme, kind in kinds.items()}
