"""Records in a file, for the processes of one machine: an SQLite database in write-ahead mode.

Every change is a line of a list too, kept for a minute, which listeners read every tenth of a second; the number of
the line is the version of the record. Numbers are times in microseconds, but never less than one more than the last,
so that none comes twice. Time is SQLite's own, which is the operating system's.

A killed process leaves a whole file, and its half-done change is taken back. A power failure may lose the last changes
(``synchronous=NORMAL``), but not the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backend import TIMEOUT, Seen, StoreError
from .sqlite import close_before_forks, is_new, patiently, pragma, without_forks

if TYPE_CHECKING:
    import sqlite3

_APPLICATION_ID = 0x52657353  # "ResS": tells a store from any other SQLite file
_VERSION = 1
_SCHEMA = (
    """
    CREATE TABLE records (
        name TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        value TEXT NOT NULL,
        ends INTEGER NOT NULL
    )
    """,
    "CREATE INDEX records_by_end ON records (ends)",
    "CREATE TABLE changes (number INTEGER PRIMARY KEY, name TEXT, value TEXT, at INTEGER NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
# Milliseconds since the epoch. unixepoch('subsec') came with SQLite 3.42 only.
_NOW = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
_POLL = 0.1  # seconds between two looks of a listener
_KEPT = 60_000  # milliseconds for which changes are kept
_PRUNED = 50  # lines at a time: no swap pays for a long past


class FileBackend:
    """Keeps records in a file, made where it is missing.

    Args:
        path: the file, on a disk of this machine.
        namespace: what the names in it begin with; a word without spaces.
    """

    def __init__(self, path: str | os.PathLike[str], namespace: str) -> None:
        self.path = Path(path).absolute()  # a script may change its working directory
        self._prefix = f"{namespace} "
        self._file = _File(self.path)
        self._listening: weakref.WeakSet[_File] = weakref.WeakSet()

    def swap(self, key: str, version: int, value: str | None, ttl: float, *, tell: bool = True) -> Seen:
        name = self._prefix + key
        with self._file.opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            now = _now(connection)
            current = self._read(connection, key, now)
            if current.version != version:
                connection.execute("ROLLBACK")
                return current
            (last,) = connection.execute("SELECT max(number) FROM changes").fetchone()
            number = max((last or 0) + 1, now * 1000)
            # What nobody is told of takes up a number all the same.
            told = (name, value) if tell else (None, None)
            connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", (number, *told, now))
            if value is None:
                connection.execute("DELETE FROM records WHERE name = ?", (name,))
            else:
                ends = now + round(ttl * 1000)
                connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (name, number, value, ends))
            connection.execute(
                "DELETE FROM records WHERE name IN (SELECT name FROM records WHERE ends <= ? LIMIT ?)", (now, _PRUNED)
            )
            # Never the line just written: its number is at least as new as now.
            connection.execute(
                "DELETE FROM changes WHERE number IN (SELECT number FROM changes WHERE number < ? LIMIT ?)",
                ((now - _KEPT) * 1000, _PRUNED),
            )
            connection.execute("COMMIT")
        return Seen(key, 0 if value is None else number, value, now / 1000, swapped=True)

    def read(self, keys: Sequence[str]) -> list[Seen]:
        # Not while somebody writes: who does has looked at the clock already. What is read would not show the change,
        # but be of a later time, and whoever heard of the change afterwards would take it for old news.
        with self._file.reading("BEGIN IMMEDIATE") as connection:
            now = _now(connection)
            return [self._read(connection, key, now) for key in keys]

    def keys(self) -> list[str]:
        with self._file.reading() as connection:
            found = connection.execute("SELECT name FROM records WHERE ends > ?", (_now(connection),)).fetchall()
        return [name.removeprefix(self._prefix) for (name,) in found if name.startswith(self._prefix)]

    def listen(self) -> FileListener:
        # One listens again after a failure: what is wrong with one connection, its file removed say, may be with both.
        self._file.close()
        file = _File(self.path)
        self._listening.add(file)
        return FileListener(file, self._prefix)

    def reset_after_fork(self) -> None:
        for file in (self._file, *self._listening):
            file.abandon()

    def close(self) -> None:
        self._file.close()

    def _read(self, connection: sqlite3.Connection, key: str, now: int) -> Seen:
        row = connection.execute(
            "SELECT version, value FROM records WHERE name = ? AND ends > ?", (self._prefix + key, now)
        ).fetchone()
        version, value = row or (0, None)
        return Seen(key, version, value, now / 1000)


class FileListener:
    """Reads the list of changes every tenth of a second."""

    def __init__(self, file: _File, prefix: str) -> None:
        self._file = file
        self._prefix = prefix
        self._closed = threading.Event()
        with file.reading() as connection:
            self._looked = _now(connection)
            self._number: int = connection.execute("SELECT coalesce(max(number), 0) FROM changes").fetchone()[0]

    def heard(self, timeout: float) -> list[Seen]:
        left = timeout
        while not self._closed.is_set():
            changes = self._look()
            if changes or left <= 0:
                return changes
            self._closed.wait(min(left, _POLL))
            left -= _POLL
        return []

    def close(self) -> None:
        self._closed.set()
        self._file.close()

    def _look(self) -> list[Seen]:
        with self._file.reading() as connection:
            now = _now(connection)
            last, self._looked = self._looked, now
            changes = connection.execute(
                "SELECT number, name, value, at FROM changes WHERE number > ? ORDER BY number", (self._number,)
            ).fetchall()
        if changes:
            self._number = changes[-1][0]
        if now - last > _KEPT - 1000:
            raise StoreError(f"{self._file}: nobody looked at its changes for too long, and some are gone")
        return [
            Seen(name.removeprefix(self._prefix), 0 if value is None else number, value, at / 1000)
            for number, name, value, at in changes
            if name is not None and name.startswith(self._prefix)
        ]


def _now(connection: sqlite3.Connection) -> int:
    now: int = connection.execute(_NOW).fetchone()[0]
    return now


# --- the file ---------------------------------------------------------------------------------------------------------


class _File:
    """One connection to the file, for one thread at a time. Opened when it is first used, and again after a failure.

    SQLite lets one write at a time anyhow, and threads that queue for a lock are served sooner than connections that
    look every few milliseconds whether the file is free.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []  # one, or none
        self._identity: tuple[int, int] | None = None
        self._finalizer = weakref.finalize(self, _close_all, self._open)
        close_before_forks(self)

    def __str__(self) -> str:
        return f"the file {self.path}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection. What raises closes it, and so takes back what was begun."""
        import sqlite3

        with without_forks():
            lock = self._lock
            if not lock.acquire(timeout=TIMEOUT):
                raise StoreError(f"{self} is busy: another thread has used it for more than {TIMEOUT:g} s")
            try:
                if not self._open:
                    self._open.append(_open(self.path, sqlite3))
                    self._identity = None
                self._check_identity()
                yield self._open[0]
            except BaseException as error:
                _close_all(self._open)
                if isinstance(error, (sqlite3.Error, OSError)):
                    raise StoreError(f"{self} cannot be used: {trouble(self.path, error)}") from error
                raise
            finally:
                lock.release()

    @contextlib.contextmanager
    def reading(self, begin: str = "BEGIN") -> Iterator[sqlite3.Connection]:
        """Lend the connection for queries that all see the same state."""
        with self.opened() as connection:
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")

    def abandon(self) -> None:
        """Leave the parent's connection alone, in a child process: SQLite must not even close it there."""
        _abandoned.extend(self._open)
        self._open.clear()
        self._lock = threading.Lock()

    def close(self) -> None:
        with without_forks(), self._lock:
            _close_all(self._open)

    def close_idle(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                _close_all(self._open)
            finally:
                self._lock.release()

    def _check_identity(self) -> None:
        """See to it that the file is still the one that was opened: SQLite would go on writing to one that is gone."""
        found = os.stat(self.path)
        if self._identity is None:
            self._identity = (found.st_dev, found.st_ino)
        elif self._identity != (found.st_dev, found.st_ino):
            raise OSError("it was replaced while it was in use")


def trouble(path: Path, error: Exception) -> str:
    """Return what is wrong with a file, and what to do about it.

    Args:
        path: the file.
        error: SQLite's, or the operating system's.
    """
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it, or name another file"
    if path.is_dir():
        return "it is a folder; name a file"
    text = str(error)
    return next((answer for part, answer in _TROUBLES if part in text), text)


_TROUBLES = (
    ("locked", f"another process has kept it locked for more than {TIMEOUT:g} s"),
    ("not a database", "it is no SQLite file; name another, or remove it"),
    ("malformed", "it is damaged; remove it when no process uses it: a new one is made"),
    ("readonly", "it is read-only; let this user write to it and to its folder"),
    ("unable to open", "this user may not read and write it, or its folder; change their permissions"),
    ("Permission denied", "this user may not read and write it, or its folder; change their permissions"),
    ("full", "the disk is full; make room, or name a file on another"),
    ("No such file", "it was removed while it was in use"),
)


def _open(path: Path, sqlite: Any) -> sqlite3.Connection:
    # For this user only: tokens are encrypted in it, but who asks what is nobody else's business. SQLite gives the
    # files beside it the same mode. Only where it is missing: to close a file that SQLite has open in this process
    # would let go of SQLite's locks on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection: sqlite3.Connection = sqlite.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        if is_new(connection):
            _found(connection, sqlite)
        if pragma(connection, "application_id") != _APPLICATION_ID:
            raise OSError("it is something else's database; name another file")
        version = pragma(connection, "user_version")
        if version > _VERSION:
            raise OSError(f"a newer version of this package wrote it (schema {version}; this one knows {_VERSION})")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _found(connection: sqlite3.Connection, sqlite: Any) -> None:
    _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), sqlite.OperationalError)
    connection.execute("BEGIN IMMEDIATE")
    if is_new(connection):  # another process may have been faster
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.execute("COMMIT")


def _patiently(step: Callable[[], object], busy: type[Exception]) -> None:
    never = threading.Event()
    patiently(step, busy, lambda: never.wait(TIMEOUT / 20), 20)


def _close_all(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()


#: The parent's connections in a child process: kept for good, so that nothing closes them.
_abandoned: list[Any] = []
