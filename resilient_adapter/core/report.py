"""What a call went through, as its caller sees it: ``response.resilience``."""

from typing import NamedTuple

from .model import CodeInfo, Recovery


class Attempt(NamedTuple):
    """One send of a call.

    Attributes:
        number: 1 for the first send.
        status: the HTTP status, or None where no response came.
        code: the envelope's code, or None where the body had none.
        error: what went wrong in transport (``"read_timeout"``, ``"reset"``, …), or None where a response came.
        recovery: what the table says to do about it.
        wait: seconds waited before this send, for whatever reason.
        elapsed: seconds that the send took, the body read ahead included.
    """

    number: int
    status: int | None
    code: int | None
    error: str | None
    recovery: Recovery
    wait: float
    elapsed: float


class Resilience(NamedTuple):
    """How a response, or an exception, came about.

    Attributes:
        attempts: every send, first to last; empty where nothing was sent (a local answer, a refusal).
        code: the envelope's code of what was delivered: 0 on success, whichever success code it was; None where the
            body had none.
        info: the table's record of that code, or of the HTTP status; None for a transport failure, and for a code that
            nobody lists under a good status.
        elapsed: seconds from the call's beginning to its delivery, waits included.
        outcome_unknown: True where the request may have been executed and nobody can say.
    """

    attempts: tuple[Attempt, ...]
    code: int | None
    info: CodeInfo | None
    elapsed: float
    outcome_unknown: bool = False
