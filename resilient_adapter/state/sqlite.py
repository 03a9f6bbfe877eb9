"""What the order journal and the shared file both do with theirs: open it, and keep forks out of what they do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

#: Seconds that a fork waits for what other threads do with SQLite: one of them may wait for another process.
_PATIENCE = 0.5


class _Forks:
    """Forks of this process, and what must not be done while one is on its way.

    SQLite's own locks, and what it knows of those on a file, are copied into a child as they are. A child of a fork in
    the middle of another thread's query would wait for ever, or find the file locked for ever.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queries = 0
        self._wanted = False  # so that queries that follow each other do not keep a fork waiting

    @contextlib.contextmanager
    def kept_out(self) -> Iterator[None]:
        """Let no fork happen meanwhile, unless it takes too long; nor while this waits for its turn."""
        with self._changed:
            if self._wanted:
                self._changed.wait_for(lambda: not self._wanted, _PATIENCE)
            self._queries += 1
        try:
            yield
        finally:
            with self._changed:
                self._queries -= 1
                self._changed.notify_all()

    def before(self) -> None:
        self._changed.acquire()
        self._wanted = True
        self._changed.wait_for(lambda: self._queries <= 0, _PATIENCE)

    def after_in_parent(self) -> None:
        self._wanted = False
        self._changed.notify_all()
        self._changed.release()

    def after_in_child(self) -> None:
        self._reset()


_forks = _Forks()

#: Keeps this process from being forked, while a ``with`` block does something with SQLite.
without_forks = _forks.kept_out

if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child
    )


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
