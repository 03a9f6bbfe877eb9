"""Where pybreaker keeps a circuit's state: here, so that a question costs no round trip, and as others tell it.

pybreaker's own CircuitRedisStorage asks the server two or three times a call under its lock, and gives every process
a probe of its own. This one is told what the shared record says, and pybreaker goes on from there.
"""

from __future__ import annotations

from datetime import datetime

import pybreaker


class Storage(pybreaker.CircuitBreakerStorage):
    """The state of one circuit, in memory.

    Attributes:
        state: pybreaker's name of it.
        counter: failures in a row.
        success_counter: probes in a row that have succeeded, of whatever process.
        opened_at: pybreaker's own note, by the wall clock; nothing here goes by it.
    """

    state: str = pybreaker.STATE_CLOSED
    counter: int = 0
    success_counter: int = 0
    opened_at: datetime | None = None

    def __init__(self) -> None:
        super().__init__("resilient_adapter")

    def increment_counter(self) -> None:
        self.counter += 1

    def reset_counter(self) -> None:
        self.counter = 0

    def increment_success_counter(self) -> None:
        self.success_counter += 1

    def reset_success_counter(self) -> None:
        self.success_counter = 0
