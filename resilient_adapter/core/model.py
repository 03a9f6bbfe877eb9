"""The words that the whole package shares: what happened, what it means, what to do about it.

Values only. Nothing here does anything, so every layer may import it.
"""

from enum import Enum
from typing import NamedTuple

from .frozen import Frozen


class Recovery(str, Enum):
    """How a request that failed may be made to succeed (the ``recovery`` column of the code table)."""

    RETRY = "retry"
    THROTTLE = "throttle"
    BREAK = "break"
    REFRESH_TOKEN = "refresh_token"
    RESYNC_CLOCK = "resync_clock"
    RENEW_LISTEN_KEY = "renew_listen_key"
    RECONNECT = "reconnect"
    FIX_REQUEST = "fix_request"
    NONE = "none"

    def __str__(self) -> str:
        return self.value


class Executed(str, Enum):
    """Whether the server may have carried the request out all the same."""

    NO = "no"
    UNKNOWN = "unknown"
    YES = "yes"

    def __str__(self) -> str:
        return self.value


class Failure(str, Enum):
    """What went wrong where no complete response came back. Transport exceptions are mapped to these."""

    REFUSED = "refused"  # no connection was made: refused, unreachable, or the name did not resolve
    CONNECT_TIMEOUT = "connect_timeout"
    NOT_SENT = "not_sent"  # the client's own pool was closed or empty: nothing went out
    PROXY_REFUSED = "proxy_refused"  # the proxy was not reached, or would not open a tunnel
    PROXY = "proxy"  # the proxy failed with the request on its way
    CERTIFICATE = "certificate"  # the server's certificate did not verify: nothing of the request went out
    INVALID = "invalid"  # the request could not be put on the wire at all (bad URL, bad header)
    READ_TIMEOUT = "read_timeout"
    RESET = "reset"  # reset or closed before a response, with the request on its way
    CUT_BODY = "cut_body"  # the response's body ended, or fell silent, before it was whole
    UNREADABLE = "unreadable"  # the body came, but its content encoding is broken
    OTHER = "other"  # anything else that a transport may raise

    def __str__(self) -> str:
        return self.value


class Health(str, Enum):
    """What an outcome says about the server's health: the only thing that a circuit is told."""

    SUCCESS = "success"  # it answered for itself: a success, or a verdict on the request
    FAILURE = "failure"
    NEUTRAL = "neutral"  # says nothing either way (throttled, a reset, a proxy's failure)

    def __str__(self) -> str:
        return self.value


class CodeInfo(Frozen):
    """What is known about one code of the API, or about one HTTP status.

    Attributes:
        code: the envelope's code (negative), or the HTTP status (positive).
        group: the section of the reference it belongs to (``general``, ``order``, ``http``, …).
        name: the reference's message for it.
        meaning: what happened, in a sentence.
        solution: what to do about it, in a sentence.
        recovery: what the adapter does about it.
        executed: whether the request may have been executed all the same.
    """

    code: int
    group: str
    name: str
    meaning: str
    solution: str
    recovery: Recovery
    executed: Executed

    def __str__(self) -> str:
        executed = {
            Executed.NO: "no, it was not executed",
            Executed.UNKNOWN: "unknown, it may have been executed",
            Executed.YES: "yes",
        }[self.executed]
        return (
            f"{self.code}  {self.name}  ({self.group})\n"
            f"  meaning   {self.meaning}\n"
            f"  solution  {self.solution}\n"
            f"  recovery  {self.recovery}\n"
            f"  executed  {executed}"
        )


class Envelope(NamedTuple):
    """The part of a JSON envelope that is read: its top-level code and message."""

    code: int | None
    msg: str | None = None
