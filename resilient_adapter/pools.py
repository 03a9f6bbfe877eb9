"""urllib3's connection pools, without what a call has no use for.

Each call takes a connection out of its pool and puts it back. The queue that urllib3 keeps them in tells waiting
threads so both times, and where the pool does not block nobody ever waits. And headers are copied as the
case-insensitive mapping that requests has made of them, and read several times as that. Both cost a call 8 µs.
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
    QueueCls: type[queue.LifoQueue[Any]] = _Stack

    def __init__(self, *args: Any, **options: Any) -> None:
        if options.get("block"):
            self.QueueCls = queue.LifoQueue  # here threads do wait
        super().__init__(*args, **options)

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


def hasten(manager: object) -> None:
    """Have a manager of pools, just made, make such ones in place of urllib3's own; others' kinds stay as they are."""
    # A fork of urllib3 that has taken its place may keep connections in another kind of queue.
    if isinstance(manager, urllib3.PoolManager) and urllib3.HTTPConnectionPool.QueueCls is queue.LifoQueue:
        kinds = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: _HASTENED.get(kind, kind) for scheme, kind in kinds.items()}
