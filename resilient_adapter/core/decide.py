"""The rule book: from a situation to what is done next. Pure; its whole precedence is a table in the tests.

In order:

1. What was executed, is no error, or has no recovery, is delivered; so is everything under ``mode="off"``.
2. A request whose outcome is unknown is repeated only if its method or a header allows it. Otherwise the
   reconciler is asked, where there is one, and the response or exception is delivered where not.
3. A repair (the user's own for a code, else token refresh or clock resync) happens at most once a call each and
   uses up no attempt.
4. A repeat needs, in this order: an attempt left, a body that can be sent again, a wait that is not longer than the
   settings allow, a circuit that is closed (or a wait for its probe), room in the deadline, a caller's signature
   that is still good by then, and, unless throttled, room in the retry budget.

Under ``mode="shadow"`` the decision is taken all the same, and delivered instead of done.
"""

from collections.abc import Set as AbstractSet
from enum import Enum

from .classify import Outcome
from .frozen import Frozen
from .model import Executed, Recovery


class Action(str, Enum):
    """What the loop is to do."""

    DELIVER = "deliver"
    REPEAT = "repeat"
    REPAIR = "repair"
    RECONCILE = "reconcile"


class Repair(str, Enum):
    """What is put right before a repeat."""

    USER = "user"  # the user's own recovery for the code
    REFRESH_TOKEN = "refresh_token"
    RESYNC_CLOCK = "resync_clock"

    def __str__(self) -> str:
        return self.value


class Why(str, Enum):
    """Why a call ends where it does: the ``detail`` of a give-up event."""

    DONE = "done"  # nothing to recover from
    NOT_RECOVERABLE = "the request itself has to be changed"
    NO_REPAIR = "nothing is configured that could repair it"
    REPAIRED_ALREADY = "the repair did not help"
    REPAIR_FAILED = "the repair failed"
    OUTCOME_UNKNOWN = "it may have been executed, and this request may not be repeated"
    ATTEMPTS = "no attempts left"
    BODY = "the body cannot be sent again"
    WAIT_TOO_LONG = "the server asks for a longer wait than the settings allow"
    CIRCUIT_OPEN = "the circuit is open"
    DEADLINE = "the wait does not fit into the deadline"
    SIGNATURE = "the caller's signature would be too old"
    BUDGET = "the retry budget is spent"
    JOURNAL = "the order journal cannot be written"
    PROCEED = "worth another send"

    def __str__(self) -> str:
        return self.value


class Situation(Frozen):
    """All that a decision depends on.

    Attributes:
        outcome: what the last send brought.
        mode: ``"enforce"``, ``"shadow"`` or ``"off"``.
        read_only: the method changes nothing (GET HEAD OPTIONS TRACE).
        repeatable: may be sent again although its outcome is unknown (its method, or an idempotency header).
        doubt: an earlier send of this call may have been executed.
        replayable: the body can be sent again.
        attempts: sends so far that count.
        max_attempts: sends allowed in all.
        repairs: repairs that are possible for this outcome.
        repaired: repairs that this call has had.
        reconcilable: there is a reconciler, and it has not been asked since the last send.
        backoff: seconds that the recipe would wait before the next repeat.
        throttle: seconds for which the origin is closed after this outcome, 0 where it is not.
        max_wait: the longest wait, in seconds, that a server may ask for.
        time_left: seconds until the call's deadline; infinity without one.
        circuit_open: seconds until the circuit's probe; None where it lets this request through.
        wait_for_circuit: ``circuit.when_open = "wait"``.
        signature_left: seconds for which a signature of the caller's own stays good; infinity without one.
        budget: the origin's retry budget has room.
    """

    outcome: Outcome
    mode: str = "enforce"
    read_only: bool = True
    repeatable: bool = True
    doubt: bool = False
    replayable: bool = True
    attempts: int = 1
    max_attempts: int = 3
    repairs: AbstractSet[Repair] = frozenset()
    repaired: AbstractSet[Repair] = frozenset()
    reconcilable: bool = False
    backoff: float = 1.0
    throttle: float = 0.0
    max_wait: float = 120.0
    time_left: float = float("inf")
    circuit_open: float | None = None
    wait_for_circuit: bool = False
    signature_left: float = float("inf")
    budget: bool = True


class Decision(Frozen):
    """What to do.

    Attributes:
        action: deliver, repeat, repair or reconcile.
        why: the reason.
        wait: seconds to wait before a repeat.
        repair: which repair, for ``Action.REPAIR``.
        charged: the repeat is charged to the retry budget.
        shadowed: ``mode="shadow"``: this is what would be done; deliver instead.
    """

    action: Action
    why: Why
    wait: float = 0.0
    repair: Repair | None = None
    charged: bool = False
    shadowed: bool = False


_REPAIR_OF = {Recovery.REFRESH_TOKEN: Repair.REFRESH_TOKEN, Recovery.RESYNC_CLOCK: Repair.RESYNC_CLOCK}


def unresolved(outcome: Outcome, *, read_only: bool, doubt: bool) -> bool:
    """Return whether nobody can say if the request was executed.

    Doubt is sticky: an answer that proves only itself harmless (-1008 after a reset) says nothing of the send
    before it. Only a success, or an answer that says that the state asked for holds, ends it.
    """
    if read_only or outcome.executed is Executed.YES:
        return False
    return doubt or outcome.executed is Executed.UNKNOWN


def decide(situation: Situation) -> Decision:
    """Return what is to be done in a situation."""
    if situation.mode == "off":
        return Decision(Action.DELIVER, Why.DONE)
    decision = _decide(situation)
    if situation.mode == "shadow" and decision.action is not Action.DELIVER:
        return decision._replace(shadowed=True)
    return decision


def _decide(s: Situation) -> Decision:
    outcome = s.outcome
    if not s.repeatable and unresolved(outcome, read_only=False, doubt=s.doubt):
        # What reads can be asked for again by anyone; there is nothing to find out about it.
        if s.reconcilable and not s.read_only:
            return Decision(Action.RECONCILE, Why.OUTCOME_UNKNOWN)
        return Decision(Action.DELIVER, Why.OUTCOME_UNKNOWN)
    if outcome.executed is Executed.YES:
        return Decision(Action.DELIVER, Why.NOT_RECOVERABLE if outcome.error else Why.DONE)
    if Repair.USER in s.repairs:
        # The user's own word for a code goes before ours, also for one that nobody else lists.
        return _repair(s, Repair.USER)
    if not outcome.error:
        return Decision(Action.DELIVER, Why.DONE)
    repair = _REPAIR_OF.get(outcome.recovery)
    if repair is not None:
        return _repair(s, repair)
    if outcome.recovery in (Recovery.RETRY, Recovery.THROTTLE, Recovery.BREAK):
        return _repeat(s)
    return Decision(Action.DELIVER, Why.NOT_RECOVERABLE)


def _repair(s: Situation, repair: Repair) -> Decision:
    if repair in s.repaired:
        return Decision(Action.DELIVER, Why.REPAIRED_ALREADY)
    if repair not in s.repairs:
        return Decision(Action.DELIVER, Why.NO_REPAIR)
    if not s.replayable:
        return Decision(Action.DELIVER, Why.BODY)
    if s.time_left <= 0:
        return Decision(Action.DELIVER, Why.DEADLINE)
    if s.signature_left <= 0:
        return Decision(Action.DELIVER, Why.SIGNATURE)
    return Decision(Action.REPAIR, Why.PROCEED, repair=repair)


def _repeat(s: Situation) -> Decision:
    if s.attempts >= s.max_attempts:
        return Decision(Action.DELIVER, Why.ATTEMPTS)
    if not s.replayable:
        return Decision(Action.DELIVER, Why.BODY)
    throttled = s.outcome.recovery is Recovery.THROTTLE
    asked = s.throttle if throttled else s.outcome.retry_after or 0.0
    if asked > s.max_wait:
        return Decision(Action.DELIVER, Why.WAIT_TOO_LONG)
    wait = asked if throttled else max(s.backoff, asked)
    if s.circuit_open is not None:
        if not s.wait_for_circuit:
            return Decision(Action.DELIVER, Why.CIRCUIT_OPEN)
        wait = max(wait, s.circuit_open)
    if wait >= s.time_left:
        return Decision(Action.DELIVER, Why.DEADLINE)
    if wait >= s.signature_left:
        return Decision(Action.DELIVER, Why.SIGNATURE)
    if not throttled and not s.budget:
        return Decision(Action.DELIVER, Why.BUDGET)
    return Decision(Action.REPEAT, Why.PROCEED, wait=wait, charged=not throttled)
