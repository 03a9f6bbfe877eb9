"""The rule book: what is done next, for every code, status and failure, method, attempt and mode.

First the precedence, a row for each rule and its exceptions. Then everything there is, against the contract's
sentences. Then the laws that hold in any situation whatever.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resilient_adapter.core.classify import Outcome, Rules, classify_failure, classify_response
from resilient_adapter.core.codes import CODES, with_policies
from resilient_adapter.core.decide import Action, Decision, Repair, Situation, Why, decide, unresolved
from resilient_adapter.core.model import Executed, Failure, Health, Recovery

DELIVER, REPEAT, REPAIR, RECONCILE = Action.DELIVER, Action.REPEAT, Action.REPAIR, Action.RECONCILE
REFRESH, RESYNC, USER = Repair.REFRESH_TOKEN, Repair.RESYNC_CLOCK, Repair.USER

RULES = Rules(
    table=with_policies({-1999: (Recovery.RETRY, Executed.NO), -1998: (Recovery.RESYNC_CLOCK, Executed.UNKNOWN)}),
    success_codes=frozenset({0, 200}),
    circuit_codes=frozenset({-1008}),
    circuit_statuses=frozenset({503}),
)


def answer(
    code: int | None = None, status: int = 200, *, method: str = "GET", retry_after: float | None = None
) -> Outcome:
    """Return what a response means."""
    return classify_response(RULES, method=method, status=status, code=code, msg=None, retry_after=retry_after)


def lost(failure: Failure) -> Outcome:
    """Return what it means that no response came."""
    return classify_failure(failure)


def proven(outcome: Outcome) -> Outcome:
    """Return an outcome after a reconciler found that the request was not executed."""
    return outcome._replace(executed=Executed.NO)


# --- the precedence, row by row

# What a request is to the rules. A GET is the default.
GET: dict[str, Any] = {}
POST = {"read_only": False, "repeatable": False}
KEYED = {"read_only": False, "repeatable": True}  # a POST with an idempotency header
DELETE = KEYED  # it changes something, and may be repeated all the same
NO_MORE_GET = {"repeatable": False}  # retry.methods without GET

RESET = lost(Failure.RESET)
TIMEOUT = lost(Failure.READ_TIMEOUT)
REFUSED = lost(Failure.REFUSED)
THROTTLED = {"throttle": 60.0}
ASKED = {"reconcilable": True}
IN_DOUBT = {"doubt": True}
TOKEN = {"repairs": frozenset({REFRESH})}
SIGNED = {"repairs": frozenset({RESYNC})}
OWN = {"repairs": frozenset({USER})}
REFRESHED = TOKEN | {"repaired": frozenset({REFRESH})}
RESYNCED = SIGNED | {"repaired": frozenset({RESYNC})}
EVERYTHING = {"repairs": frozenset(Repair), "reconcilable": True}
LAST = {"attempts": 3, "max_attempts": 3}
ONE_WAY = {"replayable": False}  # a body that cannot be rewound
OPEN = {"circuit_open": 5.0}
BROKE = {"budget": False}
LATE = {"time_left": 0.5}
STALE = {"signature_left": 0.5}

Row = tuple[str, Outcome, dict[str, Any], Action, Why]

ROWS: list[Row] = [
    # A success, and what else is no error
    ("a success is delivered", answer(0), GET, DELIVER, Why.DONE),
    ("so is one without a code", answer(None, 200), POST, DELIVER, Why.DONE),
    ("a success code outranks a bad status", answer(0, 500), POST, DELIVER, Why.DONE),
    ("a redirect is requests' business", answer(None, 307), POST, DELIVER, Why.DONE),
    ("a success ends doubt", answer(0), POST | IN_DOUBT | ASKED, DELIVER, Why.DONE),
    ("a mode that is set already is as asked for", answer(-2100), POST, DELIVER, Why.DONE),
    ("and ends doubt", answer(-2200), POST | IN_DOUBT | ASKED, DELIVER, Why.DONE),
    ("an order cancelled already is a cancel done", answer(-2012, method="DELETE"), DELETE, DELIVER, Why.DONE),
    ("but no success of a POST", answer(-2012, method="POST"), POST, DELIVER, Why.NOT_RECOVERABLE),
    # What no repeat would help
    ("a wrong request is delivered", answer(-1102), GET | TOKEN, DELIVER, Why.NOT_RECOVERABLE),
    ("whatever the method", answer(-2010, 400), POST | ASKED, DELIVER, Why.NOT_RECOVERABLE),
    ("whatever the status", answer(-2010, 503), GET, DELIVER, Why.NOT_RECOVERABLE),
    ("an order filled is no cancel done", answer(-2013, method="DELETE"), DELETE, DELIVER, Why.NOT_RECOVERABLE),
    ("a WebSocket's error is its business", answer(-3000), GET | TOKEN, DELIVER, Why.NOT_RECOVERABLE),
    ("403 is delivered", answer(None, 403), GET, DELIVER, Why.NOT_RECOVERABLE),
    ("404 is delivered", answer(None, 404), DELETE, DELIVER, Why.NOT_RECOVERABLE),
    ("501 is delivered", answer(None, 501), GET, DELIVER, Why.NOT_RECOVERABLE),
    ("a certificate does not get better", lost(Failure.CERTIFICATE), GET, DELIVER, Why.NOT_RECOVERABLE),
    ("nor does a bad URL", lost(Failure.INVALID), POST, DELIVER, Why.NOT_RECOVERABLE),
    # Proven not executed: any method is repeated
    ("a refused connection", REFUSED, POST, REPEAT, Why.PROCEED),
    ("a connect timeout", lost(Failure.CONNECT_TIMEOUT), POST, REPEAT, Why.PROCEED),
    ("a proxy that was not reached", lost(Failure.PROXY_REFUSED), POST, REPEAT, Why.PROCEED),
    ("a server that is busy", answer(-1008), POST, REPEAT, Why.PROCEED),
    ("and says so under a 503", answer(-1008, 503), POST, REPEAT, Why.PROCEED),
    ("a rate limit", answer(-1003), POST | THROTTLED, REPEAT, Why.PROCEED),
    ("a 429", answer(None, 429), POST | THROTTLED, REPEAT, Why.PROCEED),
    ("a code of the settings", answer(-1999), POST, REPEAT, Why.PROCEED),
    ("the reconciler is not asked then", REFUSED, POST | ASKED, REPEAT, Why.PROCEED),
    # Unknown: only what may be repeated is
    ("a GET after a reset", RESET, GET, REPEAT, Why.PROCEED),
    ("a DELETE after a reset", RESET, DELETE, REPEAT, Why.PROCEED),
    ("a POST with an idempotency key after a reset", RESET, KEYED, REPEAT, Why.PROCEED),
    ("it needs no reconciler", RESET, KEYED | ASKED, REPEAT, Why.PROCEED),
    ("a POST after a reset", RESET, POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after a read timeout", TIMEOUT, POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after a cut body", lost(Failure.CUT_BODY), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after a proxy's failure", lost(Failure.PROXY), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after what nobody knows", lost(Failure.OTHER), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST whose answer cannot be read", lost(Failure.UNREADABLE), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after -1000", answer(-1000), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after -1007", answer(-1007), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST that is being processed", answer(-2027), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after a 500", answer(None, 500), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a POST after a 504", answer(None, 504), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a 503 without an envelope proves nothing", answer(None, 503), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("nor does one with a code nobody lists", answer(-4999, 503), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("an unlisted code under a good status neither", answer(-4999), POST, DELIVER, Why.OUTCOME_UNKNOWN),
    ("that is delivered to a GET", answer(-4999), GET, DELIVER, Why.DONE),
    ("and to a DELETE", answer(-4999), DELETE, DELIVER, Why.DONE),
    ("an unlisted code under a 400 is the request's fault", answer(-4999, 400), POST, DELIVER, Why.NOT_RECOVERABLE),
    ("a GET that the settings do not let repeat", RESET, NO_MORE_GET, DELIVER, Why.OUTCOME_UNKNOWN),
    ("whatever left its outcome unknown", answer(-1007), NO_MORE_GET, DELIVER, Why.OUTCOME_UNKNOWN),
    ("is repeated where it was not executed", answer(-1008), NO_MORE_GET, REPEAT, Why.PROCEED),
    # The rest is reconciled, where there is a reconciler
    ("a POST after a reset, with a reconciler", RESET, POST | ASKED, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("a POST after -1007, with a reconciler", answer(-1007), POST | ASKED, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("an unlisted code, with a reconciler", answer(-4999), POST | ASKED, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("with no attempt left too: it sends no order", RESET, POST | ASKED | LAST, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("with a body that is gone too", RESET, POST | ASKED | ONE_WAY, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("past an open circuit", RESET, POST | ASKED | OPEN, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("with the budget spent", RESET, POST | ASKED | BROKE, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("proven not executed, it is repeated", proven(RESET), POST, REPEAT, Why.PROCEED),
    ("if an attempt is left", proven(RESET), POST | LAST, DELIVER, Why.ATTEMPTS),
    ("a failure without a recovery is not, even so", proven(lost(Failure.OTHER)), POST, DELIVER, Why.NOT_RECOVERABLE),
    # Doubt is sticky
    ("-1008 proves only itself harmless", answer(-1008), POST | IN_DOUBT, DELIVER, Why.OUTCOME_UNKNOWN),
    ("so does a refused connection", REFUSED, POST | IN_DOUBT | ASKED, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("so does a rate limit", answer(None, 429), POST | IN_DOUBT | ASKED, RECONCILE, Why.OUTCOME_UNKNOWN),
    ("so does a refusal", answer(-2010), POST | IN_DOUBT, DELIVER, Why.OUTCOME_UNKNOWN),
    ("and a token that expired meanwhile", answer(-1002), POST | IN_DOUBT | TOKEN, DELIVER, Why.OUTCOME_UNKNOWN),
    ("and a clock that drifted", answer(-1021), POST | IN_DOUBT | SIGNED, DELIVER, Why.OUTCOME_UNKNOWN),
    ("and the user's own recovery", answer(-1125), POST | IN_DOUBT | OWN, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a DELETE in doubt is repeated", answer(-1008), DELETE | IN_DOUBT, REPEAT, Why.PROCEED),
    ("a DELETE in doubt gets its token", answer(-1002), DELETE | IN_DOUBT | TOKEN, REPAIR, Why.PROCEED),
    ("a GET is never in doubt", answer(-1008), GET | IN_DOUBT, REPEAT, Why.PROCEED),
    # Repairs
    ("a refused token is refreshed", answer(-1002), GET | TOKEN, REPAIR, Why.PROCEED),
    ("a POST's too", answer(-1002), POST | TOKEN, REPAIR, Why.PROCEED),
    ("a 401 says the same", answer(None, 401), POST | TOKEN, REPAIR, Why.PROCEED),
    ("without a token source it is delivered", answer(-1002), GET, DELIVER, Why.NO_REPAIR),
    ("a signer does not help", answer(-1002), GET | SIGNED, DELIVER, Why.NO_REPAIR),
    ("a second -1002 ends it", answer(-1002), GET | REFRESHED, DELIVER, Why.REPAIRED_ALREADY),
    ("a clock that drifted is set", answer(-1021), POST | SIGNED, REPAIR, Why.PROCEED),
    ("without a signer it is delivered", answer(-1021), GET, DELIVER, Why.NO_REPAIR),
    ("a token source does not help", answer(-1021), GET | TOKEN, DELIVER, Why.NO_REPAIR),
    ("a second -1021 ends it", answer(-1021), GET | RESYNCED, DELIVER, Why.REPAIRED_ALREADY),
    ("each repair has its own turn", answer(-1021), REFRESHED | SIGNED, REPAIR, Why.PROCEED),
    ("a listen key is the user's", answer(-1125), GET, DELIVER, Why.NOT_RECOVERABLE),
    ("who may have a recovery for it", answer(-1125), GET | OWN, REPAIR, Why.PROCEED),
    ("a POST's too, with a recovery", answer(-3005), POST | OWN, REPAIR, Why.PROCEED),
    ("it happens once", answer(-1125), GET | OWN | {"repaired": frozenset({USER})}, DELIVER, Why.REPAIRED_ALREADY),
    ("a recovery for a code nobody else lists", answer(-4999, 400), POST | OWN, REPAIR, Why.PROCEED),
    ("whatever the status it comes under", answer(-4999), GET | OWN, REPAIR, Why.PROCEED),
    ("if its outcome is not unknown", answer(-4999), POST | OWN, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a repair that leaves the outcome unknown", answer(-1998), POST | SIGNED, DELIVER, Why.OUTCOME_UNKNOWN),
    ("a repair uses up no attempt", answer(-1002), GET | TOKEN | LAST, REPAIR, Why.PROCEED),
    ("a repair is not charged", answer(-1002), GET | TOKEN | BROKE, REPAIR, Why.PROCEED),
    ("a body that is gone cannot follow it", answer(-1002), GET | TOKEN | ONE_WAY, DELIVER, Why.BODY),
    ("nor can it once the deadline has passed", answer(-1002), GET | TOKEN | {"time_left": 0.0}, DELIVER, Why.DEADLINE),
    ("half a second of both is enough", answer(-1002), GET | TOKEN | LATE | STALE, REPAIR, Why.PROCEED),
    ("nor a signature of the caller's that is too old", answer(-1002), GET | TOKEN | {"signature_left": 0.0}, DELIVER,
     Why.SIGNATURE),
    # What a repeat needs
    ("an attempt", answer(-1001), GET | LAST, DELIVER, Why.ATTEMPTS),
    ("an attempt, throttled too", answer(-1003), GET | THROTTLED | LAST, DELIVER, Why.ATTEMPTS),
    ("more than one allowed", REFUSED, GET | {"attempts": 1, "max_attempts": 1}, DELIVER, Why.ATTEMPTS),
    ("the last but one is not the last", REFUSED, GET | {"attempts": 2, "max_attempts": 3}, REPEAT, Why.PROCEED),
    ("a body", REFUSED, POST | ONE_WAY, DELIVER, Why.BODY),
    ("a Retry-After that is not too long", answer(-1003), GET | {"throttle": 120.1}, DELIVER, Why.WAIT_TOO_LONG),
    ("the longest that is waited for", answer(-1003), GET | {"throttle": 120.0}, REPEAT, Why.PROCEED),
    ("that of a 503 counts too", answer(None, 503, retry_after=121.0), GET, DELIVER, Why.WAIT_TOO_LONG),
    ("a circuit that is closed", answer(-1008), GET | OPEN, DELIVER, Why.CIRCUIT_OPEN),
    ("for a POST too", answer(-1008), POST | OPEN, DELIVER, Why.CIRCUIT_OPEN),
    ("or the patience to wait for it", answer(-1008), GET | OPEN | {"wait_for_circuit": True}, REPEAT, Why.PROCEED),
    ("room in the deadline", answer(-1001), GET | LATE, DELIVER, Why.DEADLINE),
    ("for the wait and for a send after it", answer(-1001), GET | {"time_left": 1.0}, DELIVER, Why.DEADLINE),
    ("for a rate limit's wait too", answer(-1003), GET | THROTTLED | {"time_left": 59.0}, DELIVER, Why.DEADLINE),
    ("for the circuit's probe too", REFUSED, GET | OPEN | {"wait_for_circuit": True, "time_left": 4.0}, DELIVER,
     Why.DEADLINE),
    ("a signature that will still be good", answer(-1008), GET | STALE, DELIVER, Why.SIGNATURE),
    ("not one that ends with the wait", answer(-1008), GET | {"signature_left": 1.0}, DELIVER, Why.SIGNATURE),
    ("a budget", answer(-1001), GET | BROKE, DELIVER, Why.BUDGET),
    ("but not where it was throttled", answer(-1003), GET | THROTTLED | BROKE, REPEAT, Why.PROCEED),
    # One reason before another
    ("unknown goes before all", RESET, POST | LAST | ONE_WAY | OPEN | LATE | BROKE, DELIVER, Why.OUTCOME_UNKNOWN),
    ("the user's recovery before ours", answer(-1002), GET | EVERYTHING, REPAIR, Why.PROCEED),
    ("attempts before the rest", REFUSED, GET | LAST | ONE_WAY | OPEN | LATE | BROKE, DELIVER, Why.ATTEMPTS),
    ("the body before the wait", REFUSED, GET | ONE_WAY | OPEN | LATE | BROKE, DELIVER, Why.BODY),
    ("the circuit before the deadline", REFUSED, GET | OPEN | LATE | BROKE, DELIVER, Why.CIRCUIT_OPEN),
    ("the deadline before the budget", REFUSED, GET | LATE | BROKE, DELIVER, Why.DEADLINE),
]  # fmt: skip


@pytest.mark.parametrize(("outcome", "given", "action", "why"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_precedence(outcome: Outcome, given: dict[str, Any], action: Action, why: Why) -> None:
    """Each row is a rule, or an exception to one above it.

    Shadow comes to the same decision and marks it as not to be done; off delivers.
    """
    situation = Situation(outcome, **given)
    decision = decide(situation)
    assert (decision.action, decision.why, decision.shadowed) == (action, why, False)
    assert decide(situation._replace(mode="shadow")) == decision._replace(shadowed=action is not DELIVER)
    off = decide(situation._replace(mode="off"))
    assert (off.action, off.why) == (DELIVER, Why.DONE)


@pytest.mark.parametrize(
    ("outcome", "given", "repair"),
    [
        (answer(-1002), TOKEN, REFRESH),
        (answer(None, 401), {"repairs": frozenset({REFRESH, RESYNC})}, REFRESH),
        (answer(-1021), {"repairs": frozenset({REFRESH, RESYNC})}, RESYNC),
        (answer(-1002), {"repairs": frozenset(Repair)}, USER),
        (answer(-1021), {"repairs": frozenset(Repair)}, USER),
        (answer(-1125), OWN, USER),
        (answer(-1003), OWN | THROTTLED, USER),
        (answer(-1000), OWN, USER),
    ],
)
def test_which_repair_is_made(outcome: Outcome, given: dict[str, Any], repair: Repair) -> None:
    """The user's own recovery for a code goes before ours; else the code says which."""
    decision = decide(Situation(outcome, **given))
    assert (decision.action, decision.repair) == (REPAIR, repair)


@pytest.mark.parametrize(
    ("outcome", "given", "wait", "charged"),
    [
        (answer(-1001), {"backoff": 2.5}, 2.5, True),
        (answer(-1001, retry_after=1.0), {"backoff": 2.5}, 2.5, True),
        (answer(-1008, retry_after=7.0), {"backoff": 2.5}, 7.0, True),
        (answer(None, 503, retry_after=7.0), {"backoff": 2.5}, 7.0, True),
        (answer(None, 503, retry_after=0.0), {"backoff": 2.5}, 2.5, True),
        (REFUSED, {"backoff": 2.5}, 2.5, True),
        (REFUSED, {"backoff": 0.0}, 0.0, True),
        (answer(-1003), {"throttle": 60.0, "backoff": 2.5}, 60.0, False),
        (answer(-1003, retry_after=3.0), {"throttle": 3.0, "backoff": 8.0}, 3.0, False),
        (answer(None, 429, retry_after=0.0), {"throttle": 0.0, "backoff": 8.0}, 0.0, False),
        (answer(None, 429, retry_after=3.0), {"throttle": 20.0}, 20.0, False),  # another thread's 429 asked for more
        (REFUSED, {"circuit_open": 5.0, "wait_for_circuit": True, "backoff": 2.5}, 5.0, True),
        (REFUSED, {"circuit_open": 1.0, "wait_for_circuit": True, "backoff": 2.5}, 2.5, True),
        (answer(-1003), {"circuit_open": 5.0, "wait_for_circuit": True, "throttle": 2.0}, 5.0, False),
    ],
)
def test_how_long_a_repeat_waits(outcome: Outcome, given: dict[str, Any], wait: float, charged: bool) -> None:
    """Retry-After and nothing else where throttled, else the backoff, and never less than the server asked for."""
    decision = decide(Situation(outcome, **given))
    assert (decision.action, decision.wait, decision.charged) == (REPEAT, wait, charged)


@pytest.mark.parametrize("why", Why)
def test_a_reason_is_words(why: Why) -> None:
    """Reasons end up in the log and in events: each reads as one, and no two read alike."""
    assert f"{why}" == str(why) == why.value
    assert [str(other) for other in Why].count(str(why)) == 1


@pytest.mark.parametrize("repair", Repair)
def test_a_repair_has_a_name(repair: Repair) -> None:
    """Repairs print as what they are called."""
    assert f"{repair}" == str(repair) == repair.value


# --- what is delivered says whether anybody knows

UNRESOLVED = [
    # outcome, read_only, doubt, unresolved
    (answer(0), False, False, False),
    (answer(0), False, True, False),
    (RESET, False, False, True),
    (RESET, True, False, False),
    (RESET, True, True, False),
    (proven(RESET), False, False, False),
    (REFUSED, False, False, False),
    (REFUSED, False, True, True),
    (answer(-1008), False, False, False),
    (answer(-1008), False, True, True),
    (answer(-1008), True, True, False),
    (answer(-2010), False, True, True),
    (answer(None, 404), False, True, True),
    (answer(-2011, method="DELETE"), False, True, True),  # nothing left to cancel: cancelled by us, or filled?
    (answer(-2011, method="DELETE"), False, False, False),
    (answer(-2013, method="DELETE"), False, True, True),
    (answer(-2012, method="DELETE"), False, True, False),  # cancelled: as asked for
    (answer(-2100), False, True, False),
    (answer(-4999), False, False, True),
    (answer(-4999), True, False, False),
    (answer(-4999, 400), False, False, False),
    (answer(None, 503), False, False, True),
    (answer(-1008, 503), False, False, False),
]


@pytest.mark.parametrize(("outcome", "read_only", "doubt", "expected"), UNRESOLVED)
def test_unknown_is_sticky_for_what_changes_something(
    outcome: Outcome, read_only: bool, doubt: bool, expected: bool
) -> None:
    """Only a success, or an answer that says that the state asked for holds, undoes an earlier unknown outcome."""
    assert unresolved(outcome, read_only=read_only, doubt=doubt) is expected


# --- everything there is

READ_ONLY = {"GET", "HEAD", "OPTIONS", "TRACE"}
MAY_REPEAT = READ_ONLY | {"PUT", "DELETE"}  # the default of retry.methods
KEYED_POST = "POST with Idempotency-Key"
METHODS = [*sorted(MAY_REPEAT), "POST", "PATCH", KEYED_POST]

# The contract's first table, and its sentences on what was executed.
REPEATED = {-1000, -1001, -1006, -1007, -2027, -1003, -1008}
REFRESHED_CODES, RESYNCED_CODES = {-1002}, {-1021}
UNKNOWN_CODES = {-1000, -1001, -1006, -1007, -2027}
ALREADY_SO = {-2100, -2200}
REPEATED_STATUSES = {500, 502, 504, 429, 503}
UNKNOWN_STATUSES = {500, 502, 503, 504, 408, 499, 501, 520}
REPEATED_FAILURES = set(Failure) - {Failure.CERTIFICATE, Failure.INVALID, Failure.UNREADABLE, Failure.OTHER}
UNSENT = {
    Failure.REFUSED, Failure.CONNECT_TIMEOUT, Failure.NOT_SENT,
    Failure.PROXY_REFUSED, Failure.CERTIFICATE, Failure.INVALID,
}  # fmt: skip


class Answer(NamedTuple):
    """What came back, and what the contract says of it."""

    code: int | None
    status: int
    failure: Failure | None
    remedy: str  # "repeat", "refresh", "resync" or "none"
    unknown: bool

    def settled(self, method: str) -> bool:
        """Return whether it is what was asked for."""
        if self.failure is not None or self.unknown:
            return False
        if self.code in CODES:
            return self.code in ALREADY_SO or (self.code == -2012 and method == "DELETE")
        return self.code in (0, 200) or self.status < 400

    def __str__(self) -> str:
        return str(self.failure) if self.failure is not None else f"{self.code}@{self.status}"


@cache
def outcome_of(came: Answer, method: str) -> Outcome:
    """Return what came back as the decision is given it."""
    return lost(came.failure) if came.failure is not None else answer(came.code, came.status, method=method)


def of_status(status: int, code: int | None) -> Answer:
    """Return an answer that its status judges."""
    remedy = "repeat" if status in REPEATED_STATUSES else "refresh" if status == 401 else "none"
    return Answer(code, status, None, remedy, status in UNKNOWN_STATUSES or (code is not None and status < 400))


def answers() -> Iterator[Answer]:
    """Yield every code and status, some that nobody lists, and every failure."""
    for code, status in product(CODES, (200, 503)):
        remedies = {"repeat": REPEATED, "refresh": REFRESHED_CODES, "resync": RESYNCED_CODES}
        remedy = next((name for name, codes in remedies.items() if code in codes), "none")
        yield Answer(code, status, None, remedy, code in UNKNOWN_CODES)
    for status in (200, 400, 401, 403, 404, 429, 500, 502, 503, 504, 201, 204, 302, 408, 418, 499, 501, 520):
        yield of_status(status, None)
        yield of_status(status, -4999)
        yield Answer(0, status, None, "none", unknown=False)
    for failure in Failure:
        remedy = "repeat" if failure in REPEATED_FAILURES else "none"
        yield Answer(None, 0, failure, remedy, unknown=failure not in UNSENT)


ANSWERS = list(answers())


class Call(NamedTuple):
    """One point of everything there is."""

    method: str
    attempt: int
    mode: str
    doubt: bool
    reconciler: bool
    equipped: bool  # with a token source and a signer
    repaired: bool

    def situation(self, came: Answer) -> Situation:
        """Return it as the decision is given it."""
        outcome = outcome_of(came, self.method)
        return Situation(
            outcome,
            mode=self.mode,
            read_only=self.method in READ_ONLY,
            repeatable=self.method in MAY_REPEAT or self.method == KEYED_POST,
            doubt=self.doubt,
            attempts=self.attempt,
            max_attempts=3,
            repairs=frozenset({REFRESH, RESYNC}) if self.equipped else frozenset(),
            repaired=frozenset({REFRESH, RESYNC}) if self.repaired else frozenset(),
            reconcilable=self.reconciler,
            throttle=60.0 if outcome.recovery is Recovery.THROTTLE else 0.0,
            time_left=180.0,
        )


CALLS = [
    Call(*point)
    for point in product(METHODS, (1, 2, 3), ("enforce", "shadow", "off"), *[(False, True)] * 4)
]  # fmt: skip


def told(came: Answer, call: Call) -> Action:
    """Return what the contract's sentences say is done."""
    if call.mode == "off":
        return DELIVER
    changes = call.method not in READ_ONLY
    unknown = came.unknown or (call.doubt and changes and not came.settled(call.method))
    if unknown and call.method in ("POST", "PATCH"):
        return RECONCILE if call.reconciler else DELIVER
    if came.remedy == "repeat" and call.attempt < 3:
        return REPEAT
    if came.remedy in ("refresh", "resync") and call.equipped and not call.repaired:
        return REPAIR
    return DELIVER


@pytest.mark.parametrize("came", ANSWERS, ids=str)
def test_every_method_attempt_and_mode(came: Answer) -> None:
    """For each answer and failure, every kind of call does what the contract says."""
    wrong = []
    for call in CALLS:
        decision = decide(call.situation(came))
        action = told(came, call)
        shadowed = call.mode == "shadow" and action is not DELIVER
        if (decision.action, decision.shadowed) != (action, shadowed):
            wrong.append((call, action, decision))
    assert not wrong


def test_everything_is_everything() -> None:
    """The product leaves out no code, no failure and no action."""
    assert {came.code for came in ANSWERS} >= set(CODES) and len(CODES) == 70
    assert {came.failure for came in ANSWERS} >= set(Failure)
    assert {told(came, call) for came in ANSWERS for call in CALLS} == set(Action)


# --- laws

REPEATING = {Recovery.RETRY, Recovery.THROTTLE, Recovery.BREAK, Recovery.REFRESH_TOKEN, Recovery.RESYNC_CLOCK}
SECONDS = st.floats(0, 1e4)


@st.composite
def policies(draw: st.DrawFn) -> Outcome:
    """Return the outcome of a code with any policy that the settings may give it."""
    recovery, executed = draw(st.sampled_from(Recovery)), draw(st.sampled_from(Executed))
    assume(not (executed is Executed.YES and recovery in REPEATING))  # a SettingsError
    return Outcome(400, -1, None, None, None, recovery, executed, Health.NEUTRAL, True)


OUTCOMES = st.builds(
    lambda outcome, retry_after: outcome._replace(retry_after=retry_after),
    policies() | st.builds(outcome_of, st.sampled_from(ANSWERS), st.sampled_from(METHODS)),
    st.none() | SECONDS,
)
ANYTHING = {
    "read_only": st.booleans(),
    "repeatable": st.booleans(),
    "doubt": st.booleans(),
    "replayable": st.booleans(),
    "attempts": st.integers(0, 6),
    "max_attempts": st.integers(1, 6),
    "repairs": st.frozensets(st.sampled_from(Repair)),
    "repaired": st.frozensets(st.sampled_from(Repair)),
    "reconcilable": st.booleans(),
    "backoff": SECONDS,
    "throttle": SECONDS,
    "max_wait": SECONDS,
    "time_left": st.floats(-10, 1e4),
    "circuit_open": SECONDS,
    "wait_for_circuit": st.booleans(),
    "signature_left": st.floats(-10, 1e4),
    "budget": st.booleans(),
}


@st.composite
def situations(draw: st.DrawFn, **given: Any) -> Situation:
    """Return a situation in which a few things are not as usual: with everything in the way, nothing ever happens."""
    unusual = draw(st.sets(st.sampled_from(sorted(set(ANYTHING) - set(given))), max_size=5))
    return Situation(draw(OUTCOMES), **{name: draw(ANYTHING[name]) for name in sorted(unusual)}, **given)


def is_unknown(s: Situation) -> bool:
    """Return whether the request may have been executed: by this send, or by one before it that changes something."""
    sticky = s.doubt and not s.read_only and s.outcome.executed is not Executed.YES
    return s.outcome.executed is Executed.UNKNOWN or sticky


@given(situations(repeatable=False) | situations(repeatable=False, read_only=False, doubt=True))
def test_what_may_have_been_executed_is_not_sent_again(s: Situation) -> None:
    """The rule over all others: an unknown outcome is sent again only where that does no harm."""
    if is_unknown(s):
        assert decide(s).action in (DELIVER, RECONCILE)


@given(situations())
def test_what_was_executed_is_not_sent_again(s: Situation) -> None:
    """A success, or a state that holds already, is delivered; an error may have a recovery of the user's own."""
    if s.outcome.executed is Executed.YES and not (s.outcome.error and USER in s.repairs):
        assert decide(s).action is DELIVER


@given(situations(reconcilable=True) | situations(repeatable=False))
def test_only_the_unknown_is_reconciled(s: Situation) -> None:
    """The reconciler is asked where there is one, about what may not simply be repeated."""
    if decide(s).action is RECONCILE:
        assert s.reconcilable and not s.repeatable and is_unknown(s)


@given(situations())
def test_a_repeat_has_an_attempt_left_and_a_body(s: Situation) -> None:
    """Never more than max_attempts, and never half a request."""
    decision = decide(s)
    if decision.action is REPEAT:
        assert s.attempts < s.max_attempts
    if decision.action in (REPEAT, REPAIR):
        assert s.replayable


@given(situations())
def test_no_wait_overruns(s: Situation) -> None:
    """A wait ends before the deadline and before the caller's signature; nothing is sent once either has passed."""
    decision = decide(s)
    if decision.action in (REPEAT, REPAIR):
        assert 0 <= decision.wait < s.time_left
        assert decision.wait < s.signature_left


@given(situations())
def test_no_wait_is_shorter_or_longer_than_it_may_be(s: Situation) -> None:
    """The server's wish and the backoff are kept, and a wish beyond the settings' is not waited for."""
    decision = decide(s)
    if decision.action is not REPEAT:
        assert decision.wait == 0
    elif s.outcome.recovery is Recovery.THROTTLE:
        assert s.throttle <= s.max_wait
        assert decision.wait == max(s.throttle, s.circuit_open or 0.0)
    else:
        asked = s.outcome.retry_after or 0.0
        assert asked <= s.max_wait
        assert decision.wait == max(asked, s.backoff, s.circuit_open or 0.0)


@given(situations(circuit_open=30.0) | situations(circuit_open=30.0, wait_for_circuit=True))
def test_an_open_circuit_stops_repeats(s: Situation) -> None:
    """Once it opens there are no more sends, unless the settings say to wait for its probe."""
    decision = decide(s)
    if decision.action is REPEAT and s.circuit_open is not None:
        assert s.wait_for_circuit and decision.wait >= s.circuit_open


@given(situations(repairs=frozenset(Repair)) | situations())
def test_a_repair_is_possible_and_the_first_of_its_kind(s: Situation) -> None:
    """A repair happens at most once a call, and only where there is something to repair with."""
    decision = decide(s)
    assert (decision.repair is not None) == (decision.action is REPAIR)
    if decision.repair is not None:
        assert decision.repair in s.repairs and decision.repair not in s.repaired


@given(situations())
def test_only_repeats_that_were_not_throttled_are_charged(s: Situation) -> None:
    """Throttled repeats and repairs cost the budget nothing, and an empty one stops only what it is charged for."""
    rich, broke = decide(s._replace(budget=True)), decide(s._replace(budget=False))
    assert rich.charged == (rich.action is REPEAT and s.outcome.recovery is not Recovery.THROTTLE)
    assert not broke.charged
    if rich.charged:
        assert (broke.action, broke.why) == (DELIVER, Why.BUDGET)
    else:
        assert broke == rich


@given(situations())
def test_shadow_agrees_and_never_acts(s: Situation) -> None:
    """Under shadow the decision is the same to the letter, and marked as not to be done."""
    enforced, shadowed = decide(s), decide(s._replace(mode="shadow"))
    assert not enforced.shadowed
    assert shadowed == enforced._replace(shadowed=enforced.action is not DELIVER)


@given(situations())
def test_off_delivers(s: Situation) -> None:
    """Plain requests."""
    assert decide(s._replace(mode="off")) == Decision(DELIVER, Why.DONE, 0.0, None, False, False)


TAKEN_AWAY: list[dict[str, Any]] = [
    {"repeatable": False},
    {"replayable": False},
    {"budget": False},
    {"doubt": True},
    {"read_only": False},
    {"max_attempts": 1},
    {"time_left": 0.0},
    {"signature_left": 0.0},
    {"max_wait": 0.0},
    {"circuit_open": 1.0, "wait_for_circuit": False},
    {"repaired": frozenset(Repair)},
    {"reconcilable": False},
    {"mode": "off"},
]


@given(situations())
def test_less_permission_never_sends_more(s: Situation) -> None:
    """What was delivered is not sent once a permission is taken away, and a repair does not become a repeat."""
    before = decide(s).action
    for taken in TAKEN_AWAY:
        after = decide(s._replace(**taken)).action
        assert before is after or after not in (REPEAT, REPAIR), taken


@given(
    st.lists(OUTCOMES, min_size=12, max_size=12),
    st.frozensets(st.sampled_from(Repair)),
    st.sampled_from(METHODS),
    st.integers(1, 5),
    st.booleans(),
)
def test_a_call_ends(
    outcomes: list[Outcome], repairs: frozenset[Repair], method: str, max_attempts: int, reconcilable: bool
) -> None:
    """However badly it goes, a call has max_attempts sends and one for each repair, and no order is sent in doubt."""
    read_only, repeatable = method in READ_ONLY, method in MAY_REPEAT or method == KEYED_POST
    sends = counted = 0
    doubt = False
    repaired: frozenset[Repair] = frozenset()
    for outcome in outcomes:
        assert repeatable or not doubt
        sends, counted = sends + 1, counted + 1
        doubt = doubt or (outcome.executed is Executed.UNKNOWN and not read_only)
        decision = decide(
            Situation(
                outcome,
                read_only=read_only,
                repeatable=repeatable,
                doubt=doubt,
                attempts=counted,
                max_attempts=max_attempts,
                repairs=repairs,
                repaired=repaired,
                reconcilable=reconcilable,
            )
        )
        if decision.repair is not None:
            repaired |= {decision.repair}
            counted -= 1
        elif decision.action is not REPEAT:
            break  # a reconciler that finds nothing out ends it too
    assert sends <= max_attempts + len(repairs)
