"""Several processes in one: stores on one backend, which can be made to fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from resilient_adapter.state.backend import Listener, Seen, StoreError
from resilient_adapter.state.memory import MemoryBackend
from resilient_adapter.state.store import Change, Store
from resilient_adapter.testing import FakeClock


class FailingBackend(MemoryBackend):
    """Records in memory, which cannot be reached whenever a test says so.

    Attributes:
        down: whether every operation fails.
        read_only: whether changes do.
        swaps: how many changes were asked for.
        reads: how many times records were read.
        before_answer: called once, after the next change and before its answer.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self.down = self.read_only = self.closed = False
        self.swaps = self.reads = 0
        self.before_answer: Callable[[], object] | None = None
        super().__init__(time)

    def swap(self, key: str, version: int, value: str | None, ttl: float, *, tell: bool = True) -> Seen:
        self._fail(self.down or self.read_only)
        self.swaps += 1
        seen = super().swap(key, version, value, ttl, tell=tell)
        then, self.before_answer = self.before_answer, None
        if then is not None:
            then()
        return seen

    def read(self, keys: Sequence[str]) -> list[Seen]:
        self._fail(self.down)
        self.reads += 1
        return super().read(keys)

    def listen(self) -> Listener:
        self._fail(self.down)
        listener = super().listen()
        hear = listener.heard

        def heard(timeout: float) -> list[Seen]:
            self._fail(self.down)
            return hear(timeout)

        listener.heard = heard  # type: ignore[method-assign]
        return listener

    def close(self) -> None:
        self.closed = True

    def put(self, key: str, text: str) -> None:
        """Put a text there, whatever it is."""
        (seen,) = super().read([key])
        assert super().swap(key, seen.version, text, 3600.0).swapped

    def lose(self) -> None:
        """Lose all records, as a server does that is restarted empty."""
        self._records.clear()

    def text(self) -> str:
        """Return all that is kept, names and values."""
        return repr(self._records)

    @staticmethod
    def _fail(fails: bool) -> None:
        if fails:
            raise StoreError("a store at 127.0.0.1: it is down")


class Fleet:
    """Processes that share a store, on one clock.

    Attributes:
        clock: everybody's, the store's too.
        backend: the store.
        warnings: what they have warned of.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.backend = FailingBackend(self.clock.time)
        self.warnings: list[str] = []
        self.stores: list[Store] = []

    def store(self, *, threaded: bool = False) -> Store:
        """Return the store of one more process, which hears of nothing yet."""
        store = Store(self.backend, self.clock, self.warnings.append, threaded=threaded)
        if not threaded and not self.backend.down:
            store.listen(0)
        self.stores.append(store)
        return store

    def hear(self) -> None:
        """Let everybody hear of what has happened."""
        for store in self.stores:
            store.listen(0)

    def fail(self) -> None:
        """Make the store unreachable; listeners find out."""
        self.backend.down = True

    def back(self) -> None:
        """Make it reachable again, and let everybody find the way back."""
        self.backend.down = False
        for store in self.stores:
            store._deaf()
            store.listen(0)
            store._recovered()


def put(value: Any, ttl: float = 60.0) -> Callable[[Any, float], Change | None]:
    """Return a change to a value, whatever there was."""
    return lambda before, now: Change(value, ttl)


def one_more(value: Any, now: float) -> Change:
    """Count."""
    return Change((value or 0) + 1, 60.0)
