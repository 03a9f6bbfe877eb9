"""Where records that processes share are kept: the one interface behind memory, file and Redis.

A record is a short text under a name, with a version and an end. It is changed by one atomic operation only, a
compare-and-set on its version (Herlihy, "Wait-Free Synchronization", 1991); all that is shared, leases and slots too,
is made of that. Time is the store's own, so that the clocks of those who share need not agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """The store cannot be used now. The text says why, in words for whoever runs it, and shows no secret."""


class Seen(NamedTuple):
    """A record, as it was seen.

    Attributes:
        key: its name.
        version: grows with every change, also from one life of the name to the next; 0 where there is no record.
        value: its text, or None where there is no record.
        now: the store's time when it was seen, in seconds since the epoch.
        swapped: it is what a :meth:`Backend.swap` has just made of it.
    """

    key: str
    version: int
    value: str | None
    now: float
    swapped: bool = False


class Listener(Protocol):
    """Hears of the changes that others, and oneself, make to records."""

    def heard(self, timeout: float) -> Sequence[Seen]:
        """Return the changes since the last time, in order; wait for the first of them, at most ``timeout`` seconds.

        A record that was removed has no value; one that ended by itself is not told of.

        Raises:
            StoreError: the connection is lost, and changes may have gone unheard.
        """
        ...

    def close(self) -> None:
        """Stop listening; nothing is heard any more. Never raises. A thread that waits in ``heard`` may wait on."""
        ...


class Backend(Protocol):
    """Keeps records. Thread-safe. Connects when it is first used, and again after a failure.

    No operation takes much longer than :data:`TIMEOUT` seconds, and as long again where it has to connect first; none
    is tried again by itself.
    """

    def swap(self, key: str, version: int, value: str | None, ttl: float, *, tell: bool = True) -> Seen:
        """Change a record, if it still is at a version.

        Args:
            key: its name.
            version: the version that it is taken to be at; 0 for no record.
            value: its new text; None removes it.
            ttl: seconds after which it ends by itself.
            tell: whether listeners hear of it.

        Returns:
            the record as it is now, ``swapped`` if this changed it. To remove what is not there succeeds.

        Raises:
            StoreError: nobody can say whether it was changed.
        """
        ...

    def read(self, keys: Sequence[str]) -> Sequence[Seen]:
        """Return the records of these names, in order, those that do not exist too.

        Raises:
            StoreError: they could not be read.
        """
        ...

    def keys(self) -> Sequence[str]:
        """Return the names of all records. It looks through the whole store: for people, not for a request.

        Raises:
            StoreError: they could not be read.
        """
        ...

    def listen(self) -> Listener:
        """Return what hears of every change from now on.

        Raises:
            StoreError: the store cannot be reached.
        """
        ...

    def reset_after_fork(self) -> None:
        """Let go of what belongs to the parent process, without a word on its connections."""
        ...

    def close(self) -> None:
        """Close all connections. Never raises; a later use connects again."""
        ...


#: Seconds that one operation on a store may take: a request waits for it no longer than that.
TIMEOUT = 0.2
