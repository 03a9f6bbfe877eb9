"""The order journal: what is about to be sent is written down before it is sent, and its outcome after it.

An SQLite file in write-ahead mode, which any number of threads and processes may use at a time. An intent is on the
disk (``synchronous=FULL``) before its order goes out. An outcome is handed to the operating system only
(``synchronous=NORMAL``): a killed process loses none, and where a power failure does, the intent without an outcome
that is left says "unknown", which is the careful answer.

An intent without an outcome is unknown once the process that wrote it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..clock import Clock
from ..core.order import Intent, State
from ..errors import JournalError
from .sqlite import close_before_forks, is_new, patiently, pragma, without_forks

if TYPE_CHECKING:
    import sqlite3

_APPLICATION_ID = 0x5265734F  # "ResO": tells a journal from any other SQLite file
_VERSION = 1
_SCHEMA = (
    """
    CREATE TABLE orders (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        key TEXT NOT NULL,
        client_id TEXT,
        origin TEXT NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        carry TEXT NOT NULL,
        sent_at REAL NOT NULL,
        process TEXT NOT NULL,
        state TEXT NOT NULL,
        holder TEXT,
        code INTEGER,
        status INTEGER,
        updated_at REAL NOT NULL
    )
    """,
    "CREATE INDEX orders_by_key ON orders (origin, key)",
    "CREATE INDEX orders_by_id ON orders (id)",
    "CREATE INDEX orders_open ON orders (state) WHERE state IN ('sent', 'unknown')",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
_COLUMNS = (
    "number, id, key, client_id, origin, method, path, carry, sent_at, process, state, holder, code, status, updated_at"
)
_BUSY = 30.0  # seconds that another writer is waited for
_KEPT_OPEN = 8  # connections
_PRUNE_EVERY = 1000  # intents
_DAY = 86400.0


_OPEN = (State.SENT, State.UNKNOWN)


class Entry(NamedTuple):
    """One line of the journal: one call's dealings with one order.

    Attributes:
        number: of the line.
        intent: the order.
        sent_at: when it was last sent, in seconds since the epoch.
        pid: the process that sent it.
        state: what is known of it. An intent without an outcome whose process is gone is unknown.
        holder: who is finding out about it, or None where nobody is who is alive.
        code: the envelope's code of its last answer, or None.
        status: the HTTP status of it, or None.
        updated_at: when the line was last written, in seconds since the epoch.
    """

    number: int
    intent: Intent
    sent_at: float
    pid: int
    state: State
    holder: str | None
    code: int | None
    status: int | None
    updated_at: float


class Journal:
    """A journal's file. Every method may be called from any thread, and in any process.

    Args:
        path: the file.
        clock: the clock that tells the time of each line.
        create: make the file where there is none.
        keep_days: days for which lines are kept of which nothing is left to find out.
        keep_rows: how many of those are kept at most. What is unknown is never pruned.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock,
        *,
        create: bool = True,
        keep_days: float = 30.0,
        keep_rows: int = 100_000,
    ) -> None:
        self.path = Path(path).absolute()  # a script may change its working directory
        self._clock = clock
        self._create = create
        self._keep_days = keep_days
        self._keep_rows = keep_rows
        self._file: tuple[int, int] | None = None
        self._intents = 0
        self._idle: list[sqlite3.Connection] = []
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        close_before_forks(self)

    def close(self) -> None:
        """Close the connections that are not in use. The journal opens new ones when it needs them."""
        with without_forks():
            self.close_idle()

    def close_idle(self) -> None:
        """Do the same, while whoever calls sees to it that there is no fork."""
        _close_all(self._idle)

    def reset_after_fork(self) -> None:
        """Leave the parent's connections alone, in a child process: SQLite must not even close them there."""
        _abandoned.extend(self._idle)
        self._idle.clear()

    # --- what a call writes

    def intend(self, intent: Intent, *, line: int | None = None, absent: Sequence[int] = (), holder: str = "") -> int:
        """Write down that an order is about to be sent. It is on the disk when this returns.

        Args:
            intent: the order.
            line: the line of an earlier send in the same call.
            absent: lines that are proven not executed, which this send takes the place of.
            holder: who keeps others from sending the same order meanwhile; empty: nobody.

        Returns the number of the line.

        Raises:
            JournalError: it could not be written.
        """
        now = self._clock.time()
        with self._writing(durable=True) as connection:
            for number in absent:
                connection.execute(
                    "UPDATE orders SET state = ?, holder = NULL, updated_at = ? WHERE number = ?",
                    (State.NOT_EXECUTED.value, now, number),
                )
            if line is None:
                cursor = connection.execute(
                    "INSERT INTO orders (id, key, client_id, origin, method, path, carry, sent_at, process, state, "
                    "holder, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*intent[:6], json.dumps(intent.carry), now, this_process(), State.SENT.value, holder or None, now),
                )
                line = cursor.lastrowid
                assert line is not None  # an INSERT gives one
            else:
                connection.execute(
                    "UPDATE orders SET state = ?, holder = ?, sent_at = ?, updated_at = ? WHERE number = ?",
                    (State.SENT.value, holder or None, now, now, line),
                )
        self._intents += 1
        if self._intents % _PRUNE_EVERY == 0:
            self.prune()
        return line

    def note(
        self,
        lines: Sequence[int],
        state: State,
        *,
        code: int | None = None,
        status: int | None = None,
        holder: str = "",
    ) -> None:
        """Write down what became of orders.

        Raises:
            JournalError: it could not be written.
        """
        now = self._clock.time()
        with self._writing() as connection:
            for line in lines:
                connection.execute(
                    "UPDATE orders SET state = ?, code = ?, status = ?, holder = ?, updated_at = ? WHERE number = ?",
                    (state.value, code, status, holder or None, now, line),
                )

    def hold(self, lines: Sequence[int], holder: str) -> bool:
        """Keep other processes from finding out about orders, and from sending them again.

        Returns False where one of them is held already by somebody who is alive, or is settled by now.

        Raises:
            JournalError: it could not be written.
        """
        with self._writing() as connection:
            for line in lines:
                row = connection.execute("SELECT state, holder FROM orders WHERE number = ?", (line,)).fetchone()
                if row is None or row[0] not in _OPEN or (row[1] not in (None, holder) and is_alive(row[1])):
                    return False
            for line in lines:
                connection.execute("UPDATE orders SET holder = ? WHERE number = ?", (holder, line))
        return True

    def release(self, holder: str) -> None:
        """Let others find out about the orders that somebody held.

        Raises:
            JournalError: it could not be written.
        """
        with self._writing() as connection:
            connection.execute(
                "UPDATE orders SET holder = NULL WHERE state IN ('sent', 'unknown') AND holder = ?", (holder,)
            )

    # --- what is asked of it

    def open(self, origin: str, key: str, id: str | None = None) -> list[Entry]:  # noqa: A002 - its name
        """Return the lines of an order that are not settled, oldest first.

        Args:
            origin: scheme, host and port.
            key: what the order is recognised by.
            id: what people call it, where that is not the key: it may be the client id that another was given.

        Raises:
            JournalError: it could not be read.
        """
        return self._select(
            "WHERE origin = ? AND (key = ? OR id = ?) AND state IN ('sent', 'unknown')",
            (origin, key, key if id is None else id),
        )

    def executed(self, origin: str, key: str, id: str, *, since: int) -> list[Entry]:  # noqa: A002 - its name
        """Return the lines of an order that was executed, but for those before a number; the rest is as for `open`."""
        return self._select(
            "WHERE origin = ? AND (key = ? OR id = ?) AND state = 'executed' AND number >= ?", (origin, key, id, since)
        )

    def entries(self, *, id: str | None = None, unresolved: bool = False) -> list[Entry]:  # noqa: A002 - its name
        """Return the lines, oldest first.

        Args:
            id: only those of this order.
            unresolved: only those that are unknown.

        Raises:
            JournalError: it could not be read.
        """
        where = ""
        values: tuple[str, ...] = ()
        if unresolved:
            where = "WHERE state IN ('sent', 'unknown')"
        if id is not None:
            where, values = f"{where} {'AND' if where else 'WHERE'} id = ?", (id,)
        found = self._select(where, values)
        return [entry for entry in found if entry.state is State.UNKNOWN] if unresolved else found

    def resolve(self, id: str) -> int:  # noqa: A002 - its name
        """Take a person's word that an order may be sent again. Returns how many lines that settled.

        Raises:
            JournalError: it could not be written.
        """
        lines = [entry.number for entry in self.entries(id=id, unresolved=True)]
        if lines:
            self.note(lines, State.RESOLVED)
        return len(lines)

    def prune(self) -> int:
        """Forget the oldest lines of which nothing is left to find out. Returns how many.

        Raises:
            JournalError: it could not be written.
        """
        closed = "state NOT IN ('sent', 'unknown')"
        with self._writing() as connection:
            old = connection.execute(
                f"DELETE FROM orders WHERE {closed} AND updated_at < ?",
                (self._clock.time() - self._keep_days * _DAY,),
            ).rowcount
            many = connection.execute(
                f"DELETE FROM orders WHERE {closed} AND number <= (SELECT number FROM orders WHERE {closed} "
                "ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (self._keep_rows,),
            ).rowcount
        return old + many

    def _select(self, where: str, values: Sequence[object]) -> list[Entry]:
        with self._connection() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM orders {where} ORDER BY number", values).fetchall()
        return [_entry(row) for row in rows]

    # --- connections

    @contextlib.contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            yield connection  # what raises closes the connection, which takes everything back
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection. One per thread would outlive its thread, and one for all would need a lock around I/O."""
        import sqlite3

        connection = None
        with without_forks():
            try:
                try:
                    connection = self._idle.pop()
                except IndexError:
                    connection = self._open(sqlite3)
                self._check_file()
                yield connection
            except BaseException as error:
                if connection is not None:
                    connection.close()
                if isinstance(error, (sqlite3.Error, OSError)):
                    raise JournalError(f"the order journal {self.path} cannot be used: {error}") from error
                raise
            self._idle.append(connection)
            while len(self._idle) > _KEPT_OPEN:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    self._idle.pop().close()

    def _check_file(self) -> None:
        """See to it that the file is still the one that was opened: SQLite would go on writing to one that is gone."""
        found = os.stat(self.path)
        if self._file is None:
            self._file = (found.st_dev, found.st_ino)
        elif self._file != (found.st_dev, found.st_ino):
            raise OSError("it was replaced while it was in use")

    def _open(self, sqlite: Any) -> sqlite3.Connection:
        create = self._create and self._file is None
        connection: sqlite3.Connection = sqlite.connect(
            f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}",
            uri=True,
            timeout=_BUSY,
            isolation_level=None,
            check_same_thread=False,  # lent to one thread at a time
        )
        try:
            if create and is_new(connection):
                self._found(connection, sqlite)
            _check_kind(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _found(self, connection: sqlite3.Connection, sqlite: Any) -> None:
        self._patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), sqlite.OperationalError)
        connection.execute("BEGIN IMMEDIATE")
        if is_new(connection):  # another process may have been faster
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")

    def _patiently(self, step: Callable[[], object], busy: type[Exception]) -> None:
        patiently(step, busy, lambda: self._clock.sleep(0.02), 100)


def _check_kind(connection: sqlite3.Connection) -> None:
    if pragma(connection, "application_id") != _APPLICATION_ID:
        raise OSError("it is no order journal")
    version = pragma(connection, "user_version")
    if version > _VERSION:
        raise OSError(f"a newer version of this package wrote it (schema {version}; this one knows {_VERSION})")


def _entry(row: Sequence[Any]) -> Entry:
    number, *intent, carry, sent_at, process, state, holder, code, status, updated_at = row
    known = State(state)
    if known is State.SENT and not is_alive(process):
        known = State.UNKNOWN
    return Entry(
        number,
        Intent._make([*intent, json.loads(carry)]),
        sent_at,
        int(process.partition(":")[0]),
        known,
        holder if holder is not None and is_alive(holder) else None,
        code,
        status,
        updated_at,
    )


def _close_all(idle: list[sqlite3.Connection]) -> None:
    with contextlib.suppress(IndexError):  # another thread may take the last one
        while True:
            idle.pop().close()


#: Tells what runs in this process from what ran in it before.
_PROGRAM = os.urandom(8).hex()

#: The parent's connections in a child process: kept for good, so that nothing closes them.
_abandoned: list[Any] = []


# --- processes ------------------------------------------------------------------------------------------------------


def this_process() -> str:
    """Return what tells this process from every other, a later one with the same number included.

    And from what ran in it before it became another program (``os.execv``): that leaves number and start as they are.
    """
    return _process(os.getpid())


@lru_cache(maxsize=4)
def _process(pid: int) -> str:
    return f"{pid}:{_started(pid)}:{_PROGRAM}"


def is_alive(process: str) -> bool:
    """Return whether a process lives, by what :func:`this_process` returned in it; more may follow that.

    Where the operating system does not say, the process is taken for dead: then its orders are unknown, which is the
    careful answer.
    """
    number, started, *_ = (*process.split(":"), "")
    pid = int(number)
    if pid == os.getpid():
        return f"{process}:".startswith(f"{this_process()}:")
    if os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it lives, and is somebody else's
    except OSError:
        return False
    return started == _started(pid)


def _started(pid: int) -> str:
    """Return when a process was started, in ticks since the boot and with the boot's id; empty where nobody says."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("latin-1")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
    # proc(5): the 22nd field. The second, the program's name, may hold spaces and brackets itself.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return ""  # killed, and not buried yet
    return f"{fields[19]}-{boot}"
