"""What the order journal and the shared file both do with theirs: open it, and keep forks out of what they do."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import sqlite3

#: Seconds that a fork waits for what other threads do with SQLite: one of them may wait for another process.
_PATIENCE = 0.5


class Closable(Protocol):
    """Who keeps connections."""

    def close_idle(self) -> None:
        """Close those that are not in use; others are opened when they are needed."""


class _Forks:
    """Forks of this process, and what must not be done while one is on its way.

    SQLite's own locks, and what it knows of those on a file, are copied into a child as they are. A child of a fork in
    the middle of another thread's query would wait for ever, or find the file locked for ever. And where a connection
    is open at all, the child takes the parent's lock on the file for its own: as soon as the parent closes it, SQLite
    removes what the child has written and goes on writing. So a fork waits for queries, and closes what is idle.

    Nothing here is left undone by an interrupt, and no lock is held across a fork: whoever is cut off would keep all
    others waiting.
    """

    def __init__(self) -> None:
        self._keepers: weakref.WeakSet[Closable] = weakref.WeakSet()
        # One for each that is on its way, so that queries that follow each other do not keep it waiting.
        self.wanted: list[None] = []
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queries: dict[object, None] = {}

    def close_before(self, keeper: Closable) -> None:
        """Have the idle connections of a keeper closed before each fork, as long as it lives."""
        self._keepers.add(keeper)

    @contextlib.contextmanager
    def kept_out(self) -> Iterator[None]:
        """Let no fork happen meanwhile, unless it takes too long; nor while this waits for its turn."""
        query = object()
        try:
            with self._changed:
                if self.wanted:
                    self._changed.wait_for(lambda: not self.wanted, _PATIENCE)
                self._queries[query] = None
            yield
        finally:
            self._queries.pop(query, None)
            self.tell()

    def tell(self) -> None:
        """Wake all who wait."""
        with self._changed:
            self._changed.notify_all()

    def before(self) -> None:
        """Wait for queries, and close what is idle."""
        self.wanted.append(None)
        with self._changed:
            self._changed.wait_for(lambda: not self._queries, _PATIENCE)
        for keeper in list(self._keepers):
            keeper.close_idle()

    def after_in_child(self) -> None:
        """Begin afresh: what the parent's other threads do, they do not do here. Again it does nothing."""
        if self.wanted:
            self.wanted.clear()
            self._reset()


_forks = _Forks()

#: Keeps this process from being forked, while a ``with`` block does something with SQLite.
without_forks = _forks.kept_out
close_before_forks = _forks.close_before
#: Makes this usable in a child process, for hooks that come before the one below.
after_fork_in_child = _forks.after_in_child

if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    # pop() by itself: a signal that comes during the fork is raised in the first function of Python's that is called.
    os.register_at_fork(before=_forks.before, after_in_parent=_forks.wanted.pop, after_in_child=after_fork_in_child)
    os.register_at_fork(after_in_parent=_forks.tell)


def patiently(step: Callable[[], object], busy: type[Exception], pause: Callable[[], object], tries: int) -> None:
    """Do what SQLite does not wait for: where two change a file's mode at once, one of them is told "locked" at once.

    Args:
        step: what is to be done.
        busy: sqlite3's OperationalError, which this module does not import.
        pause: waits a moment before the next try.
        tries: how many there are, but for one more at the end.

    Raises:
        sqlite3.OperationalError: it is still locked after all of them; or at once, what else is wrong.
    """
    for _ in range(tries):
        try:
            step()
        except busy as error:
            if "locked" not in str(error):
                raise
            pause()
        else:
            return
    step()


def is_new(connection: sqlite3.Connection) -> bool:
    """Return whether nothing is in a file yet. One with a version or a table in it is somebody's, if not ours."""
    empty: bool = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    return empty and pragma(connection, "application_id") == 0 and pragma(connection, "user_version") == 0


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that a file has in its head."""
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
