"""What is written down of an order: what it is, and what is known of it."""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class State(str, Enum):
    """What is known of an order."""

    SENT = "sent"  # on the wire, as far as its process knows
    EXECUTED = "executed"
    NOT_EXECUTED = "not_executed"
    UNKNOWN = "unknown"
    RESOLVED = "resolved"  # was unknown, until a person said that it may be sent again

    def __str__(self) -> str:
        return self.value


class Intent(NamedTuple):
    """An order that is about to be sent.

    Attributes:
        id: what people call it: its client id, else its fingerprint.
        key: what the same order is recognised by: the caller's client id, else the fingerprint; and a digest of whose
            it is, and of what it carries.
        client_id: what it can be looked up by, or None.
        origin: scheme, host and port.
        method: the request's method.
        path: its path, without the query.
        carry: parameters that a look-up needs beside the client id.
    """

    id: str
    key: str
    client_id: str | None
    origin: str
    method: str
    path: str
    carry: Mapping[str, str]
