"""From what came back to what it means: one :class:`Outcome`, whether a response or an exception brought it.

The envelope's code outranks the HTTP status; a body without an integer code, or with one that nobody lists, is
judged by its status.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from .codes import STATUSES, unlisted_status
from .frozen import Frozen
from .model import CodeInfo, Executed, Failure, Health, Recovery

READ_ONLY_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

#: Codes that say that the state asked for already holds: no error, whoever asked.
ALREADY_SO = frozenset({-2100, -2200})
#: The same for a DELETE: the order was cancelled already.
ALREADY_CANCELLED = -2012
#: The code whose repeats are given longer timeouts.
SERVER_TIMEOUT = -1007


class Rules(Frozen):
    """What the settings add to the table: everything :func:`classify_response` needs beside the response."""

    table: Mapping[int, CodeInfo]
    success_codes: frozenset[int]
    circuit_codes: frozenset[int]
    circuit_statuses: frozenset[int]

    @cached_property
    def good(self) -> "dict[tuple[int, int], Outcome]":
        """The outcomes of good answers, by status and code, as far as they have been met."""
        return {}


class Outcome(NamedTuple):
    """One send, normalised.

    Attributes:
        status: the HTTP status, or None where no response came.
        code: the envelope's code, or None.
        msg: the envelope's message, or None.
        failure: what went wrong in transport, or None where a response came.
        info: the table's record that judged it; None for a transport failure, and for a code that nobody lists under a
            good status.
        recovery: how it may be put right.
        executed: whether the server may have carried this send out.
        health: what it tells the circuit.
        error: True where ``on_error="raise"`` raises.
        retry_after: seconds that the server asked for, or None.
    """

    status: int | None
    code: int | None
    msg: str | None
    failure: Failure | None
    info: CodeInfo | None
    recovery: Recovery
    executed: Executed
    health: Health
    error: bool
    retry_after: float | None = None


def classify_response(
    rules: Rules, *, method: str, status: int, code: int | None, msg: str | None, retry_after: float | None = None
) -> Outcome:
    """Judge a response by its code, else by its status.

    Args:
        rules: the table and the settings' say.
        method: the request's method, upper case.
        status: the HTTP status.
        code: the envelope's top-level code, or None where the body had none.
        msg: the envelope's message, or None.
        retry_after: what the response's ``Retry-After`` asks for, in seconds, or None.
    """
    if code is not None:
        if code in rules.success_codes:
            good = _good(rules, status, code)
            return good if msg is None and retry_after is None else good._replace(msg=msg, retry_after=retry_after)
        listed = rules.table.get(code)
        if listed is not None:
            already_so = code in ALREADY_SO or (code == ALREADY_CANCELLED and method == "DELETE")
            return Outcome(
                status,
                code,
                msg,
                None,
                listed,
                listed.recovery,
                Executed.YES if already_so else listed.executed,
                Health.FAILURE if code in rules.circuit_codes else _health(listed.recovery),
                not already_so,
                retry_after,
            )
    info = STATUSES.get(status) or unlisted_status(status)
    # "Ask there instead" (RFC 9110, sections 15.4.8 and 15.4.9): nothing was done here.
    executed = Executed.NO if status in (307, 308) else info.executed
    if code is not None and status < 400:
        executed = Executed.UNKNOWN  # the server says that something is wrong, and nobody knows what
    if status in rules.circuit_statuses or code in rules.circuit_codes:
        health = Health.FAILURE
    elif status >= 500:
        health = Health.NEUTRAL
    else:
        health = _health(info.recovery)
    # Of a code that nobody lists under a good status nothing is known: "OK" would contradict what it says.
    told = info if code is None or status >= 400 else None
    return Outcome(status, code, msg, None, told, info.recovery, executed, health, status >= 400, retry_after)


def _good(rules: Rules, status: int, code: int) -> Outcome:
    # What nearly every send comes to, so it is made once. There are a few hundred statuses at most.
    good = rules.good.get((status, code))
    if good is None:
        info = rules.table.get(code) or STATUSES[200]
        good = Outcome(status, code, None, None, info, Recovery.NONE, Executed.YES, Health.SUCCESS, False)
        rules.good[status, code] = good
    return good


def _health(recovery: Recovery) -> Health:
    # A server that is throttling or in trouble of its own says nothing of whether it is overloaded; one that judges
    # the request (its token, its parameters, its balance) is well.
    if recovery in (Recovery.RETRY, Recovery.THROTTLE, Recovery.BREAK):
        return Health.NEUTRAL
    return Health.SUCCESS


_FAILURES: Mapping[Failure, tuple[Recovery, Executed, Health]] = {
    Failure.REFUSED: (Recovery.RETRY, Executed.NO, Health.FAILURE),
    Failure.CONNECT_TIMEOUT: (Recovery.RETRY, Executed.NO, Health.FAILURE),
    Failure.NOT_SENT: (Recovery.RETRY, Executed.NO, Health.NEUTRAL),
    Failure.PROXY_REFUSED: (Recovery.RETRY, Executed.NO, Health.NEUTRAL),
    Failure.PROXY: (Recovery.RETRY, Executed.UNKNOWN, Health.NEUTRAL),
    Failure.CERTIFICATE: (Recovery.NONE, Executed.NO, Health.NEUTRAL),
    Failure.INVALID: (Recovery.NONE, Executed.NO, Health.NEUTRAL),
    Failure.READ_TIMEOUT: (Recovery.RETRY, Executed.UNKNOWN, Health.FAILURE),
    Failure.RESET: (Recovery.RETRY, Executed.UNKNOWN, Health.NEUTRAL),
    Failure.CUT_BODY: (Recovery.RETRY, Executed.UNKNOWN, Health.NEUTRAL),
    Failure.UNREADABLE: (Recovery.NONE, Executed.UNKNOWN, Health.SUCCESS),
    Failure.OTHER: (Recovery.NONE, Executed.UNKNOWN, Health.NEUTRAL),
}


def classify_failure(failure: Failure, *, status: int | None = None, patient: bool = True) -> Outcome:
    """Judge a send that brought no complete response.

    Args:
        failure: what went wrong.
        status: the HTTP status, where the head of a response had come.
        patient: False where a timeout shorter than the settings' own ended it. Such a timeout says more of the
            caller's patience than of the server, so it does not count against the circuit.
    """
    recovery, executed, health = _FAILURES[failure]
    if not patient and failure in (Failure.READ_TIMEOUT, Failure.CONNECT_TIMEOUT):
        health = Health.NEUTRAL
    return Outcome(status, None, None, failure, None, recovery, executed, health, True)
