"""What the order journal and the shared file both do when they open theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


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
