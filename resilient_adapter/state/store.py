"""What processes tell each other: records as last heard of, and what is done where the store fails.

The happy path asks nobody: each record's latest value is kept here, and a thread of this module hears of the changes
that others make. Only a change costs a round trip. A store that fails fails no request: from the first error on each
process goes on with what it knows, by itself, until the thread has found the way back.
"""

from __future__ import annotations

import json
import random
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..clock import Clock
from .backend import Backend, Listener, Seen, StoreError

#: How often a change is tried again that others were quicker than. Each time one of them has got on.
_TRIES = 32
#: Seconds for which the thread listens before it looks whether the store has failed on somebody else.
_LISTEN = 1.0
#: Seconds before the first look for a store that failed, and the most that they double to. Half of them are left to
#: chance, so that a fleet does not come back as one.
_BACK_OFF, _BACK_OFF_MAX = 0.5, 15.0
#: Seconds that a store has to hold before its next failure counts as a first one.
_STEADY = 30.0
#: How many names are kept before those are dropped whose records nobody keeps any more.
_SWEEP = 256


class Change(NamedTuple):
    """What a record is to become.

    Attributes:
        value: what can be written as JSON; None removes the record.
        ttl: seconds after which it ends by itself.
    """

    value: Any
    ttl: float = 0.0


class Result(NamedTuple):
    """A record after an attempt to change it.

    Attributes:
        value: what it is now, None where there is none.
        now: the store's time, in seconds since the epoch.
        changed: whether it is what was asked for; else it was left alone.
    """

    value: Any
    now: float
    changed: bool


class Record:
    """One record, as last heard of. Made by :meth:`Store.record`.

    Attributes:
        heard: called with the value and the store's time whenever somebody else changed it, from whatever thread.
        key: its name.
        value: what it was when last heard of, None where there was none. Not to be changed in place.
    """

    __slots__ = ("__weakref__", "_at", "_lock", "_newest", "_store", "_tell", "_version", "heard", "key", "value")

    def __init__(self, store: Store, key: str, heard: Callable[[Any, float], object] | None, *, tell: bool) -> None:
        self.heard = heard
        self.key = key
        self.value: Any = None
        self._store = store
        self._tell = tell
        self._version = self._newest = 0
        self._at = float("-inf")  # the store's time of what is known
        self._lock = threading.Lock()

    def update(self, change: Callable[[Any, float], Change | None]) -> Result:
        """Change the record atomically, in the store, or while that cannot be used, here alone.

        Args:
            change: from the record's value and the store's time to what it is to become, None to leave it alone. It
                may be called several times, and must not change the value in place.
        """
        store = self._store
        for _ in range(_TRIES):
            with self._lock:
                version, value, at = self._version, self.value, self._at
            now = store.now()
            wanted = change(value, now)
            if wanted is None:
                return Result(value, now, changed=False)
            seen = store.swap(self.key, version, wanted, tell=self._tell)
            if seen is None:
                return self._alone(change)
            self._take(seen, at)
            if seen.swapped:
                return Result(wanted.value, seen.now, changed=True)
        return Result(self.value, store.now(), changed=False)

    def look(self) -> None:
        """See what the record is now, where an answer of the store has not come."""
        self._store._read([self])

    def now(self) -> float:
        """Return the store's time, as :meth:`Store.now`."""
        return self._store.now()

    def wait(self, seconds: float) -> None:
        """Wait until some record changes, at most so many seconds."""
        self._store.wait(seconds)

    def tell(self, seen: Seen, *, removed: bool) -> None:
        """Take what was heard, and tell whoever listens, unless it is old news.

        Args:
            seen: the record.
            removed: that it has no value is somebody's doing. It may also have ended, or its store have lost it.
        """
        if self._take(seen) and self.heard is not None and (self.value is not None or (removed and not seen.version)):
            self.heard(self.value, max(seen.now, self._store.now()))  # news may have been long on their way

    def doubt(self) -> None:
        """Take whatever is heard next for news: by the time of another store perhaps, and over what was done alone."""
        with self._lock:
            self._version, self._newest, self._at = -1, 0, float("-inf")

    def reset_after_fork(self) -> None:
        """Replace the lock: a thread that does not exist in this process may have held it."""
        self._lock = threading.Lock()

    def _take(self, seen: Seen, asked_at: float | None = None) -> bool:
        """Keep what was seen, unless it is old news; return whether it is news.

        Args:
            seen: the record.
            asked_at: the store's time of what was known when the store was asked, where this is its answer. That is old
                only if something newer has been heard since: the store's clock may have been set back.
        """
        value = _parsed(seen.value)
        with self._lock:
            if seen.now < self._at:
                old = self._at != asked_at
            else:  # two changes may fall into one moment of the store's clock
                old = seen.now == self._at and 0 < seen.version <= self._newest
            if old:
                return False
            news = seen.version != self._version
            self._newest = max(self._newest, seen.version)
            self._version, self.value, self._at = seen.version, value, seen.now
        return news

    def _alone(self, change: Callable[[Any, float], Change | None]) -> Result:
        with self._lock:
            now = self._store.now()
            wanted = change(self.value, now)
            if wanted is None:
                return Result(self.value, now, changed=False)
            self.value = wanted.value
            return Result(wanted.value, now, changed=True)


class Store:
    """Records that several processes share. Thread-safe; nothing here raises because the store fails.

    Args:
        backend: where they are kept.
        clock: the clock that the store's time is told by between two looks at it.
        warn: given a text when the store fails, and when it is back.
        threaded: hear of changes by a thread of our own; without, whoever made this calls :meth:`listen`.
    """

    def __init__(self, backend: Backend, clock: Clock, warn: Callable[[str], object], *, threaded: bool = True) -> None:
        self.backend = backend
        self._clock = clock
        self._warn = warn
        self._threaded = threaded
        self._records: dict[str, weakref.WeakSet[Record]] = {}
        self._sweep_at = _SWEEP
        self._offset = clock.time() - clock.monotonic()  # the store's time less ours; corrected by every answer
        self._failed = False  # the store is not asked until the thread says otherwise
        self._closed = False
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None
        self._make_locks()

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._woken = threading.Event()

    def now(self) -> float:
        """Return the store's time, in seconds since the epoch, as well as it is known here."""
        return self._clock.monotonic() + self._offset

    def record(self, key: str, heard: Callable[[Any, float], object] | None = None, *, tell: bool = True) -> Record:
        """Return a record, as it is now. It is kept up to date as long as somebody keeps it.

        Args:
            key: its name.
            heard: what becomes its :attr:`Record.heard`; called with the value that is there already, too.
            tell: whether those who share it hear of the changes made through this.
        """
        record = Record(self, key, heard, tell=tell)
        with self._lock:
            if len(self._records) >= self._sweep_at:
                self._records = {name: kept for name, kept in self._records.items() if kept}
                self._sweep_at = max(_SWEEP, 2 * len(self._records))
            self._records.setdefault(key, weakref.WeakSet()).add(record)
        if self._threaded:
            self._start()
        self._read([record])
        return record

    def swap(self, key: str, version: int, wanted: Change, *, tell: bool) -> Seen | None:
        """Ask the backend for a change. Returns None where the store cannot be used."""
        if self._failed:
            return None
        value = None if wanted.value is None else json.dumps(wanted.value, separators=(",", ":"))
        began = self._clock.monotonic()
        try:
            seen = self.backend.swap(key, version, value, wanted.ttl, tell=tell)
        except Exception as error:  # a library that cannot be read, for want of a file handle say
            self._fail(error)
            return None
        self._learn_time(began, seen.now)
        return seen

    def wait(self, seconds: float) -> None:
        """Wait until some record changes, at most so many seconds."""
        with self._news:
            self._news.wait(seconds)

    @property
    def failed(self) -> bool:
        """Whether the store could not be used when it was last asked."""
        return self._failed

    # --- hearing

    def listen(self, timeout: float) -> None:
        """Listen for changes, at most so many seconds.

        Raises:
            StoreError: the store cannot be reached, or changes may have gone unheard.
        """
        listener = self._listener
        if listener is None:
            listener = self._listener = self.backend.listen()
            if self._failed:
                # One that can be read may still not be written to: it is not back before it is.
                self.backend.swap(f"writable:{random.getrandbits(64):x}", 0, "1", 1.0, tell=False)
                for record in self._alive():
                    record.doubt()
            # Only now, lest a change between the two goes unheard.
            self._read(self._alive(), failed=False)
        for seen in listener.heard(timeout):  # not self's: who is told may close the store
            with self._lock:
                records = list(self._records.get(seen.key, ()))
            for record in records:
                record.tell(seen, removed=True)
            with self._news:
                self._news.notify_all()

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._closed = True
        self._woken.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * _LISTEN)
        self._deaf()
        self.backend.close()

    def reset_after_fork(self) -> None:
        """Make the store usable in a child process: fresh locks, connections of its own, a thread of its own."""
        self._make_locks()
        self._listener = None
        self.backend.reset_after_fork()
        for record in self._alive():
            record.reset_after_fork()
        if self._thread is not None:
            self._thread = None
            self._start()

    def _start(self) -> None:
        try:
            with self._lock:
                if self._thread is None and not self._closed:
                    thread = threading.Thread(target=self._run, name="resilient_adapter shared", daemon=True)
                    thread.start()
                    self._thread = thread
        except RuntimeError as error:  # there are too many, or the program ends
            self._fail(error)

    def _run(self) -> None:
        pause = _BACK_OFF
        while not self._closed:
            began = self._clock.monotonic()
            try:
                self._up()
            except Exception as error:  # of who was told, too: once it is back, all are told again
                self._fail(error)
            self._deaf()
            if self._clock.monotonic() - began > _STEADY:
                pause = _BACK_OFF
            self._woken.wait(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _BACK_OFF_MAX)

    def _up(self) -> None:
        """Listen until the store fails, on us or on somebody else."""
        failed = self._failed
        self.listen(0.0)
        if failed:  # else whoever it has failed meanwhile knows better
            self._recovered()
        while not (self._failed or self._closed):
            self.listen(_LISTEN)

    def _deaf(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    # --- what is kept

    def _alive(self) -> list[Record]:
        with self._lock:
            return [record for kept in self._records.values() for record in kept]

    def _read(self, records: list[Record], *, failed: bool | None = None) -> None:
        """Take the records as they are in the store. Of one that is gone nobody can say why, so nobody is told."""
        if (self._failed if failed is None else failed) or not records:
            return
        began = self._clock.monotonic()
        try:
            for record, one in zip(records, self.backend.read([record.key for record in records]), strict=True):
                self._learn_time(began, one.now)
                record.tell(one, removed=False)
        except Exception as error:
            if failed is not None:
                raise
            self._fail(error)

    def _learn_time(self, began: float, now: float) -> None:
        # The store told its time somewhere between question and answer: half of that is the best guess (RFC 5905).
        self._offset = now - (began + self._clock.monotonic()) / 2

    # --- failing, and the way back

    def _fail(self, error: Exception) -> None:
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            # What is not the store's own may say anything.
            what = (
                error if isinstance(error, StoreError) else f"the shared store cannot be used: {type(error).__name__}"
            )
            self._warn(f"{what}; going on without it, each process by itself")

    def _recovered(self) -> None:
        with self._lock:
            back, self._failed = self._failed, False
        if back:
            self._warn("the shared store is back")


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # not ours: whoever changes it writes one that is


def remaining(until: float, length: float, now: float) -> float:
    """Return seconds until an instant of the store's time, never more than the length that it was set with.

    A store's clock that was set back would otherwise keep a circuit open, or an origin closed, for as long.
    """
    return max(0.0, min(until - now, length))


def time_left(value: Any, now: float) -> float:
    """Return seconds until the end that a record, or a part of one, tells of; 0.0 where it tells of none."""
    try:
        return remaining(float(value["until"]), float(value["for"]), now)
    except (TypeError, KeyError, ValueError, OverflowError):
        return 0.0


def every(backend: Backend) -> Iterable[tuple[str, Any, float]]:
    """Yield each record of a store: its name, its value, and the store's time.

    Raises:
        StoreError: they could not be read.
    """
    for seen in backend.read(sorted(backend.keys())):
        value = _parsed(seen.value)
        if value is not None:
            yield seen.key, value, seen.now
