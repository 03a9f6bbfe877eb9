"""The one loop: a call and its attempts.

Guards admit, repairs prepare, one send, its outcome, :func:`~resilient_adapter.core.decide.decide`, and then wait,
repair or deliver. The loop obeys decisions and takes none.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests import PreparedRequest, Response
from requests.utils import select_proxy

from . import transport
from .clock import Clock
from .core.backoff import backoff, parse_retry_after
from .core.classify import (
    READ_ONLY_METHODS,
    SERVER_TIMEOUT,
    Outcome,
    classify_failure,
    classify_response,
)
from .core.decide import Action, Decision, Repair, Situation, Why, decide, unresolved
from .core.envelope import first_code, read_envelope
from .core.model import Executed, Failure, Recovery
from .core.report import Attempt, Resilience
from .errors import (
    CircuitOpenError,
    DeadlineExceededError,
    JournalError,
    OutcomeUnknownError,
    ResilienceError,
    TokenRefreshError,
    api_error,
)
from .guards.circuit import Refusal, Ticket, Transition
from .guards.rate_limit import Waiter
from .outgoing import Outgoing, Sender, is_replayable, timeout_parts
from .repairs.orders import Submission
from .repairs.parameters import parameters
from .repairs.reconcile import StillUnknownError
from .repairs.token import Refreshed
from .runtime import Origin
from .telemetry.events import Event, EventName, Telemetry

_INF = math.inf
#: Delivered quietly: nothing was given up, because nothing could have been done.
_QUIET = frozenset({Why.DONE, Why.NOT_RECOVERABLE})
_CIRCUIT_EVENTS = {
    "open": EventName.CIRCUIT_OPEN,
    "half_open": EventName.CIRCUIT_HALF_OPEN,
    "closed": EventName.CIRCUIT_CLOSED,
}

_NO_CONNECTION = (Failure.REFUSED, Failure.CONNECT_TIMEOUT)

Recoveries = Mapping[int, Callable[[PreparedRequest, Response], bool]]


class Equipment(NamedTuple):
    """What an adapter brings to each of its calls.

    Attributes:
        own: requests go through our own HTTPAdapter, of whose exceptions more is known.
        clock: the clock that every wait goes by.
        telemetry: told of every event.
        recoveries: the user's own repairs, by code.
        reconciler: finds out about a request whose outcome is unknown, or None.
    """

    own: bool
    clock: Clock
    telemetry: Telemetry
    recoveries: Recoveries
    reconciler: Callable[[PreparedRequest, Lookup], Response | None] | None


class Lookup:
    """What a reconciler is given to send other requests with.

    They go through the same origin with its token, signature and retries, but past an open circuit: finding out what
    became of an order must not wait for the order's server to be well.

    Attributes:
        clock: the clock that every wait is to go by.
        deadline: monotonic instant at which the call ends; infinity for never.
        sent_at: monotonic instant at which the request whose outcome is unknown was last sent.
        recv_window: milliseconds for which the server takes what our signer signs; None without one.
    """

    def __init__(self, call: Call, sent_at: float) -> None:
        self._call = call
        self.clock = call.clock
        self.deadline = call.deadline
        self.sent_at = sent_at
        self.recv_window: int | None = getattr(call.origin.signer, "recv_window", None)

    def __call__(self, request: PreparedRequest) -> Response:
        """Send a request and return its response, read whole."""
        call = self._call
        nested = Call(
            call.sender,
            call.equipment,
            call.origin,
            request,
            stream=False,
            timeout=None,
            options=call.options,
            lookup=True,
        )
        nested.outgoing.look_where_it_goes()
        nested.deadline = self.deadline
        return nested.run()


class Call:
    """One call of ``adapter.send`` and the attempts that it takes."""

    __slots__ = (
        "attempts",
        "circuit",
        "clock",
        "counted",
        "deadline",
        "discarded",
        "doubt",
        "equipment",
        "error",
        "lookup",
        "method",
        "options",
        "origin",
        "outcome",
        "outgoing",
        "reached",
        "reconciled",
        "refresh_failed",
        "repaired",
        "request",
        "response",
        "sender",
        "sent_at",
        "started",
        "stream",
        "submission",
        "swapped",
        "throttle",
        "ticket",
        "turn",
        "waited",
    )

    def __init__(
        self,
        sender: Sender,
        equipment: Equipment,
        origin: Origin,
        request: PreparedRequest,
        *,
        stream: bool,
        timeout: Any,
        options: Mapping[str, Any],
        lookup: bool = False,
    ) -> None:
        self.sender = sender
        self.equipment = equipment
        self.origin = origin
        self.request = request
        self.stream = stream
        self.options = options
        self.lookup = lookup
        self.clock = equipment.clock
        self.outgoing = Outgoing(request, origin, equipment.clock, timeout, options)
        self.method = (request.method or "").upper()
        orders = self.method == "POST" and not (lookup or origin.shadow)
        self.submission = origin.submission(request) if orders else None
        self.started = self.sent_at = self.clock.monotonic()
        self.deadline = self.started + origin.deadline if not origin.shadow else _INF
        self.attempts: list[Attempt] = []
        self.counted = 0
        self.waited = 0.0
        self.throttle = 0.0
        self.doubt = False
        self.reconciled = False
        self.repaired: frozenset[Repair] = frozenset()
        self.refresh_failed = False
        self.swapped = False
        self.ticket: Ticket | None = None
        self.turn: Waiter | None = None
        self.discarded: list[Response] = []
        self.response: Response | None = None
        self.error: Exception | None = None
        self.reached: Exception | None = None  # of the latest send that was on its way when it failed
        self.outcome: Outcome | None = None

    # --- the loop

    def run(self) -> Response:
        """Make the call and return what is delivered, or raise it."""
        try:
            return self._run() if self.submission is None else self._run_order(self.submission)
        except Exception:
            raise
        except BaseException:
            if self.response is not None:
                self.response.close()  # nobody else can: a bounded pool would wait for its connection for ever
            raise

    def _run_order(self, submission: Submission) -> Response:
        with submission:
            try:
                known = self._meet_doubt()
                return self._run() if known is None else known
            except JournalError as error:
                if self.outcome is not None:
                    return self._deliver(Why.JOURNAL)
                raise self._told(error) from error.__cause__

    def _run(self) -> Response:
        while True:
            refused = self._admit()
            if refused is not None:
                return refused
            outcome = self._attempt()
            if outcome is None:
                return self._refuse_late("what came before the send")
            if outcome.executed is Executed.YES and not outcome.error:
                return self._deliver(Why.DONE)
            decision = decide(self._situation(outcome))
            if self.stream and self.response is not None and decision.action in (Action.REPAIR, Action.RECONCILE):
                transport.hold(self.response, clock=self.clock)
            if decision.action is Action.RECONCILE and not decision.shadowed:
                found = self._reconcile()
                if found is not None:
                    return found
                decision = decide(self._situation(self._outcome()))
            if decision.shadowed:
                self._tell_shadow(decision)
                return self._deliver(Why.DONE)
            if decision.action is Action.DELIVER:
                return self._deliver(decision.why)
            if decision.action is Action.REPEAT:
                if not self._wait_for_repeat(decision):
                    return self._deliver(Why.BUDGET)
            elif not self._repair(decision.repair):
                return self._deliver(Why.REPAIRED_ALREADY)

    # --- guards admit

    def _admit(self) -> Response | None:
        """Wait until the request may go. Returns a response to deliver instead, where it may not."""
        origin = self.origin
        self.circuit = circuit = origin.circuit(self.request.url or "")
        while True:
            self.turn = None
            if origin.rate_limit.idle:
                origin.rate_limit.sent()
            else:
                # Nobody waits in line for a circuit that would refuse them at its end.
                refusal = circuit.refusal()
                if refusal is not None and not self._passes():
                    local = self._refused(refusal)
                    if local is not None:
                        return local
                    continue
                local = self._wait_in_line()
                if local is not None:
                    return local
            admitted = circuit.admit(origin.lease)
            if isinstance(admitted, Ticket):
                self.ticket = admitted
                if admitted.transition is not None:
                    self._tell_circuit(admitted.transition)
                return None
            if origin.shadow:
                self._emit(EventName.REFUSED, wait=admitted.retry_after, detail=Why.CIRCUIT_OPEN)
                self.ticket = None
                return None
            if self._passes():
                self.ticket = circuit.pass_exempt(origin.lease)
                return None
            if self.turn is not None:
                origin.rate_limit.leave(self.turn)  # a turn that is not used is somebody else's
            local = self._refused(admitted)
            if local is not None:
                return local

    def _wait_in_line(self) -> Response | None:
        origin, clock = self.origin, self.clock
        line = origin.rate_limit
        priority = self._priority()
        if origin.shadow:
            place = line.enter(priority)
            wait = line.poll(place)
            if wait > 0:
                line.leave(place)
                self._emit(EventName.THROTTLE, wait=wait, detail="the origin is closed, or paced")
            return None
        if clock.monotonic() + line.estimate(priority) >= self.deadline and not self._closed_for_long():
            return self._refuse_late("the rate limit's wait")
        waiter = line.enter(priority)
        try:
            while True:
                wait = line.poll(waiter)
                if wait <= 0:
                    self.turn = waiter
                    return None
                if self._closed_for_long():
                    return self._refuse_throttled(line.remaining())
                if clock.monotonic() + wait >= self.deadline:
                    return self._refuse_late("the rate limit's wait")
                self._sleep(wait)
        finally:
            if self.turn is None:
                line.leave(waiter)

    def _closed_for_long(self) -> bool:
        """Return whether the origin is closed for longer than anyone is to wait."""
        return self.origin.rate_limit.remaining() > self.origin.settings.rate_limit.max_wait

    # What the server said, or the error that was met, is worth more than our reason not to ask again: each refusal
    # delivers the answer in hand, where there is one.

    def _refused(self, refusal: Refusal) -> Response | None:
        """Act on an open circuit as the settings say; None to ask it again."""
        wait = refusal.retry_after
        how = self.origin.settings.circuit.when_open
        if how == "wait":
            if self.clock.monotonic() + wait >= self.deadline:
                return self._refuse_late("the wait for the circuit's probe")
            self._sleep(wait)
            return None
        if self.outcome is not None:
            return self._deliver(Why.CIRCUIT_OPEN)
        self._emit(EventName.REFUSED, wait=wait, detail=Why.CIRCUIT_OPEN)
        if how == "respond":
            return self._local(503, "Service Unavailable", -1008, wait)
        raise self._told(
            CircuitOpenError(
                f"the circuit of {self.origin.name} is open: nothing was sent; the next probe is in {wait:.1f} s",
                retry_after=wait,
            )
        )

    def _refuse_late(self, what: str) -> Response:
        if self.outcome is not None:
            return self._deliver(Why.DEADLINE)
        self._emit(EventName.REFUSED, detail=Why.DEADLINE)
        raise self._told(DeadlineExceededError(f"{what} does not fit into the call's deadline: nothing was sent"))

    def _refuse_throttled(self, closed_for: float) -> Response:
        if self.outcome is not None:
            return self._deliver(Why.WAIT_TOO_LONG)
        self._emit(EventName.REFUSED, wait=closed_for, detail=Why.WAIT_TOO_LONG)
        return self._local(429, "Too Many Requests", -1003, closed_for)

    def _local(self, status: int, reason: str, code: int, wait: float) -> Response:
        info = self.origin.rules.table[code]
        body = json.dumps({"code": code, "msg": f"{info.name} (not sent)"}).encode()
        self.response = transport.local_response(
            self.request,
            status=status,
            reason=reason,
            body=body,
            retry_after=max(1, math.ceil(wait)),
            connection=self.sender,
        )
        self.outcome = classify_response(
            self.origin.rules, method=self.method, status=status, code=code, msg=info.name, retry_after=wait
        )
        return self._deliver(Why.DONE)

    def _priority(self) -> int:
        # What reduces risk goes first, then what changes something, then what only looks.
        if self.method in READ_ONLY_METHODS:
            return 2
        return 0 if self._reduces_risk() else 1

    def _passes(self) -> bool:
        """Return whether an open circuit lets this request through: it reduces risk, or finds out about an order."""
        return self.origin.shadow or self.lookup or self._reduces_risk()

    def _reduces_risk(self) -> bool:
        origin = self.origin
        if self.method in origin.exempt_methods:
            return True
        return any(value.lower() == "true" for _, value in parameters(self.outgoing.base, origin.exempt_params))

    # --- repairs prepare, one send, its outcome

    def _attempt(self) -> Outcome | None:
        """Prepare, send once, and tell the guards how it went. None where there was no time, or no way, to send."""
        origin, clock, ticket = self.origin, self.clock, self.ticket
        try:
            request = self._prepare()
            if request is None:
                self._release()
                return None
            sent_at = clock.monotonic()
            left = self.deadline - sent_at
            if left <= 0:
                # What came before the send took too long. Sent now it could only time out, its outcome unknown.
                self._release()
                return None
            # Not sooner: until now the call might have had to deliver the answer in hand.
            self._set_aside()
            timeout = self.outgoing.timeout(left, own=self.equipment.own)
            if self.submission is not None:
                self.submission.sending(self.outgoing.base)
            self.sent_at, self.reconciled = sent_at, False
            if self.error is not None and self._outcome().executed is not Executed.NO:
                self.reached = self.error
            self.response = self.error = None
            if not self.attempts:
                origin.budget.first_send()
            self.counted += 1
            try:
                self.response = self.sender.transmit(request, stream=self.stream, timeout=timeout, **self.options)
                outcome = self._read(self.response)
            except Exception as error:
                outcome = self._failed(error, timeout)
            self.outgoing.conceal(self.response, self.error)
        except BaseException:
            # An interrupt proves nothing to anyone: no verdict, no lease left behind.
            self._release()
            raise
        self.outcome = outcome
        if self.submission is not None:
            unknown = unresolved(outcome, read_only=False, doubt=self.doubt)
            self.submission.came_back(outcome, self.response, unknown=unknown)
        if ticket is not None:
            changed = self.circuit.record(ticket, outcome.health, retry_after=outcome.retry_after)
            if changed is not None:
                self._tell_circuit(changed)
        if outcome.recovery is Recovery.THROTTLE:
            self.throttle = self._throttled(outcome)
        failure = outcome.failure
        self.attempts.append(
            Attempt(
                len(self.attempts) + 1,
                outcome.status,
                outcome.code,
                None if failure is None else failure.value,
                outcome.recovery,
                self.waited,
                clock.monotonic() - sent_at,
            )
        )
        self.waited = 0.0
        return outcome

    def _prepare(self) -> PreparedRequest | None:
        try:
            return self.outgoing.prepare(self.sender, self.deadline)
        except Exception:
            # A signer that raises, a body that will not rewind: the caller's to know, but not in place of an order
            # that may have been executed.
            if not self.doubt:
                raise
            return None
        finally:
            if self.outgoing.news:
                self._tell_news()

    def _release(self) -> None:
        if self.ticket is not None:
            self.circuit.release(self.ticket)

    def _read(self, response: Response) -> Outcome:
        """Read as much of a response as it takes to judge it."""
        origin = self.origin
        status = response.status_code
        content = b""
        if self.stream:
            if not response.is_redirect and transport.can_read_ahead(response):
                content = transport.read_ahead(response, clock=self.clock, deadline=self.deadline)
        elif status < 300 or not response.is_redirect:
            content = transport.read_body(response, clock=self.clock, deadline=self.deadline)
        code = first_code(content)
        msg = None
        if code not in origin.rules.success_codes or status >= 400:
            # The first bytes are good enough for good news only.
            code, msg = read_envelope(content)
        retry_after = None
        if status >= 400 or (code is not None and code not in origin.rules.success_codes):
            retry_after = parse_retry_after(
                response.headers.get("Retry-After"), now=self.clock.time(), date=response.headers.get("Date")
            )
        return classify_response(
            origin.rules, method=self.method, status=status, code=code, msg=msg, retry_after=retry_after
        )

    def _failed(self, error: Exception, timeout: Any) -> Outcome:
        self.error = error
        # Whatever was raised, the request was on its way once a response has come; and a body that is read as it is
        # sent may raise when a part of it is.
        unsent = self.response is None and isinstance(self.outgoing.base.body, (str, bytes, type(None)))
        failure = transport.failure_of(error, own=self.equipment.own and unsent)
        if failure is Failure.RESET and self.response is not None:
            failure = Failure.CUT_BODY
        elif failure in _NO_CONNECTION and select_proxy(self.request.url or "", self.options["proxies"]):
            failure = Failure.PROXY_REFUSED  # a SOCKS proxy's failures look like the origin's own
        status = None if self.response is None else self.response.status_code
        if not self.stream:
            self.response = None
        part = 0 if failure is Failure.CONNECT_TIMEOUT else 1
        given, ours = timeout_parts(timeout)[part], self.origin.timeout[part]
        patient = given is None or (ours is not None and given >= ours)
        if isinstance(error, transport.BodyDeadlineError):
            patient = False
        return classify_failure(failure, status=status, patient=patient)

    def _throttled(self, outcome: Outcome) -> float:
        if self.origin.shadow:
            return outcome.retry_after if outcome.retry_after is not None else self.origin.settings.rate_limit.wait
        return self.origin.rate_limit.throttled(outcome.retry_after)

    # --- what a decision depends on

    def _situation(self, outcome: Outcome) -> Situation:
        origin = self.origin
        settings = origin.settings
        retry = settings.retry
        now = self.clock.monotonic()
        read_only = self.method in READ_ONLY_METHODS
        if not read_only and outcome.executed is Executed.UNKNOWN:
            self.doubt = True
        refusal = self.circuit.refusal()
        if refusal is not None and self._passes():
            refusal = None
        return Situation(
            outcome=outcome,
            mode=settings.mode,
            read_only=read_only,
            repeatable=self._repeatable(),
            doubt=self.doubt,
            replayable=is_replayable(self.outgoing.base),
            attempts=self.counted,
            max_attempts=retry.max_attempts,
            repairs=self._repairs(outcome),
            repaired=self.repaired,
            reconcilable=self._reconciler() is not None and not self.reconciled and not self.lookup,
            backoff=backoff(
                max(self.counted - 1, 0),
                base=retry.base,
                factor=retry.factor,
                jitter=retry.jitter,
                max_wait=retry.max_wait,
                u=random.random(),
            ),
            throttle=self.throttle,
            max_wait=settings.rate_limit.max_wait,
            time_left=self.deadline - now,
            circuit_open=None if refusal is None else refusal.retry_after,
            wait_for_circuit=settings.circuit.when_open == "wait",
            signature_left=self.outgoing.signature_left(),
            budget=origin.budget.available(),
        )

    def _repeatable(self) -> bool:
        return self.method in self.origin.settings.retry.methods or any(
            self.outgoing.base.headers.get(name)
            for name in self.origin.idempotency_headers  # a blank one is none
        )

    def _repairs(self, outcome: Outcome) -> frozenset[Repair]:
        possible = set()
        if outcome.failure is None and outcome.code in self.equipment.recoveries:
            possible.add(Repair.USER)
        token = self.origin.token
        if token is not None and token.concerns(self.request) and not self._challenged():
            possible.add(Repair.REFRESH_TOKEN)
        if self.outgoing.signs():
            possible.add(Repair.RESYNC_CLOCK)
        return frozenset(possible)

    def _challenged(self) -> bool:
        """Return whether an answer asks for credentials of another kind, which an auth hook above us is to give."""
        response = self.response
        if response is None or self.outcome is None or self.outcome.code is not None:
            return False
        scheme = response.headers.get("WWW-Authenticate", "").partition(" ")[0].lower()
        return scheme in ("digest", "negotiate", "ntlm")

    # --- wait, repair

    def _wait_for_repeat(self, decision: Decision) -> bool:
        """Wait as decided. Returns False where another thread took the last of the retry budget meanwhile."""
        if decision.charged and not self.origin.budget.spend():
            return False
        outcome = self._outcome()
        throttled = outcome.recovery is Recovery.THROTTLE
        self._emit(EventName.THROTTLE if throttled else EventName.RETRY, wait=decision.wait, detail=_detail(outcome))
        if outcome.code == SERVER_TIMEOUT:
            self.outgoing.stretch *= self.origin.settings.retry.timeout_factor
        if not throttled:
            self._sleep(decision.wait)
        # A throttled repeat waits in the line with everyone else: one wait, for the whole origin.
        return True

    def _repair(self, repair: Repair | None) -> bool:
        """Put right what the repeat needs. Returns whether it may go."""
        assert repair is not None  # decide() names one with every Action.REPAIR
        self.repaired |= {repair}
        outgoing = self.outgoing
        if repair is Repair.REFRESH_TOKEN:
            how = outgoing.refresh(self.deadline)
            if how is Refreshed.NOT_NEEDED and not self.swapped:
                # Nothing was refreshed, so the call still may: a script that logs in by itself carries a token that
                # ends together with ours.
                self.swapped = True
                self.repaired -= {repair}
            self.refresh_failed = how in (Refreshed.FAILED, Refreshed.HELD_BACK)
            repaired = not self.refresh_failed
        elif repair is Repair.RESYNC_CLOCK:
            repaired = outgoing.resync(self.sender, self.deadline)
        else:
            code = self._outcome().code
            assert code is not None and self.response is not None  # decide() goes by the code of a response
            repaired = outgoing.recover(self.equipment.recoveries[code], self.response)
        self._tell_news()
        if repaired:
            self.counted -= 1  # a repair uses up no attempt
        return repaired

    def _reconcile(self) -> Response | None:
        """Ask the reconciler. Returns what is delivered, where the request turns out to have been executed."""
        self.reconciled = True
        outcome = self._outcome()
        try:
            found = self._find_out(_detail(outcome))
        except Exception:
            return None
        self.doubt = False
        if found is None:
            self.outcome = outcome._replace(executed=Executed.NO)
            return None
        return self._deliver_found(found)

    def _meet_doubt(self) -> Response | None:
        """Find out first about an earlier send of the same order, where that is in doubt.

        Returns what is delivered, where it was executed.
        """
        submission = self.submission
        assert submission is not None  # run() looked
        try:
            doubtful = submission.in_doubt()
        except JournalError:
            raise
        except ResilienceError as error:
            raise self._told(error) from None
        self.outgoing.base = submission.identified(self.outgoing.base)
        if not doubtful:
            return None
        try:
            found = self._find_out("the same order is in doubt")
        except JournalError:
            raise
        except Exception as error:
            unknown = OutcomeUnknownError(
                f"{self.method} {self.origin.name}{self._path()}: nothing was sent, because the same order was sent "
                "before, and may or may not have been executed; find out before it is sent again",
                client_order_id=self._client_order_id(),
                request=self.request,
            )
            unknown.resilience = self._report(unknown=True)
            raise unknown from error
        return None if found is None else self._deliver_found(found)

    def _find_out(self, why: str) -> Response | None:
        """Ask the reconciler, or wait for another call that asks. It raises where the outcome is still unknown."""
        self._emit(EventName.RECONCILE, detail=why)
        try:
            if self.submission is None:
                found = self._ask(self.sent_at)
            else:
                found = self.submission.settle(self._ask, self.deadline)
        except Exception as error:
            self._emit(EventName.RECONCILED, detail=f"still unknown: {type(error).__name__}")
            raise
        self._emit(EventName.RECONCILED, detail="not executed" if found is None else "executed")
        return found

    def _ask(self, sent_at: float) -> Response | None:
        reconciler = self._reconciler()
        if reconciler is None:
            raise StillUnknownError("there is no reconciler to find out")
        return reconciler(self.outgoing.base, Lookup(self, sent_at))

    def _reconciler(self) -> Callable[[PreparedRequest, Lookup], Response | None] | None:
        own = self.equipment.reconciler
        return self.origin.reconciler if own is None else own

    def _deliver_found(self, found: Response) -> Response:
        self._set_aside()
        self.response, self.error = found, None
        self.outcome = self._read(found)._replace(executed=Executed.YES)
        return self._deliver(Why.DONE)

    def _set_aside(self) -> None:
        """Let go of a response that is not delivered: its connection goes back, its cookies are kept."""
        if self.response is not None:
            transport.discard(self.response, clock=self.clock)
            if "Set-Cookie" in self.response.headers:
                self.discarded.append(self.response)

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.clock.sleep(seconds)
            self.waited += seconds

    # --- deliver

    def _deliver(self, why: Why) -> Response:
        """Hand over what the last send brought, with its story."""
        outcome = self._outcome()
        unknown = bool(self.attempts) and unresolved(
            outcome, read_only=self.method in READ_ONLY_METHODS, doubt=self.doubt
        )
        report = self._report(unknown)
        if why not in _QUIET:
            self._emit(EventName.GIVE_UP, detail=why)
        raises = self.origin.settings.on_error == "raise" and not self.origin.shadow and not self.lookup
        response, error = self.response, self.error
        if self.reached is not None and outcome.executed is Executed.NO:
            # A repeat that never left tells nothing of the send before it: "connection refused" would read as if
            # nothing had been sent at all.
            error = self.reached
        # The traceback holds frames, and they hold this call: left here, the exception would hold itself.
        self.error = self.reached = None
        if response is not None:
            response.resilience = report  # type: ignore[attr-defined]
            # Digest auth sends through it: past us, were it the inner transport.
            response.connection = self.sender  # type: ignore[assignment]
            for older in reversed(self.discarded):
                transport.carry_cookies(older, response)
            # A stream that broke while it was read ahead breaks again where its caller reads it.
            wrong = outcome.error and (outcome.failure is None or response.status_code >= 400)
            if not raises or not (unknown or wrong) or self._challenged():
                return response
            raise self._typed(outcome, response, unknown, report)
        assert error is not None  # a send brings one or the other
        error.resilience = report  # type: ignore[attr-defined]
        try:
            if raises and unknown:
                raise self._typed(outcome, None, unknown, report) from error
            raise error
        finally:
            error = None  # the traceback holds this frame

    def _typed(
        self, outcome: Outcome, response: Response | None, unknown: bool, report: Resilience
    ) -> requests.RequestException:
        """Return the exception that ``on_error="raise"`` raises for an outcome."""
        what = f"{self.method} {self.origin.name}{self._path()}"
        error: requests.RequestException
        if unknown:
            error = OutcomeUnknownError(
                f"{what}: it may or may not have been executed ({_detail(outcome)}); find out before it is sent again",
                client_order_id=self._client_order_id(),
                request=self.request,
                response=response,
            )
        elif self.refresh_failed and self.origin.token is not None:
            cause = self.origin.token.last_error
            error = TokenRefreshError(
                f"{what}: the token was refused and could not be refreshed "
                f"({'in time' if cause is None else type(cause).__name__})",
                request=self.request,
                response=response,
            )
            error.__cause__ = cause
        else:
            error = api_error(outcome, what, self.request, response)
        error.resilience = report  # type: ignore[attr-defined]
        return error

    def _told(self, error: ResilienceError) -> ResilienceError:
        error.request = self.request
        error.resilience = self._report(unknown=False)
        return error

    def _report(self, unknown: bool) -> Resilience:
        outcome = self.outcome
        return Resilience(
            tuple(self.attempts),
            None if outcome is None else outcome.code,
            None if outcome is None else outcome.info,
            self.clock.monotonic() - self.started,
            unknown,
        )

    def _client_order_id(self) -> str | None:
        names = frozenset({self.origin.settings.orders.client_id})
        return next((value for _, value in parameters(self.outgoing.base, names)), None)

    def _outcome(self) -> Outcome:
        assert self.outcome is not None  # only before the first send is there none
        return self.outcome

    def _path(self) -> str:
        return urlsplit(self.request.url or "").path

    # --- tell

    def _emit(self, name: EventName, *, wait: float = 0.0, detail: object = "") -> None:
        outcome = self.outcome
        self.equipment.telemetry.emit(
            Event(
                name=name.value,
                time=self.clock.time(),
                origin=self.origin.name,
                method=self.method,
                path=self._path(),
                attempt=len(self.attempts),
                code=None if outcome is None else outcome.code,
                status=None if outcome is None else outcome.status,
                recovery=None if outcome is None else outcome.recovery.value,
                wait=wait,
                detail=str(detail),
                shadow=self.origin.shadow,
            ),
            self.origin.settings.log.level,
        )

    def _tell_circuit(self, changed: Transition) -> None:
        self._emit(_CIRCUIT_EVENTS[changed.new], wait=changed.retry_after or 0.0, detail=f"was {changed.old}")

    def _tell_news(self) -> None:
        for name, detail in self.outgoing.news:
            self._emit(name, detail=detail)
        self.outgoing.news.clear()

    def _tell_shadow(self, decision: Decision) -> None:
        outcome = self._outcome()
        if decision.action is Action.REPEAT:
            throttled = outcome.recovery is Recovery.THROTTLE
            name = EventName.THROTTLE if throttled else EventName.RETRY
        elif decision.action is Action.RECONCILE:
            name = EventName.RECONCILE
        else:
            name = {
                Repair.USER: EventName.RECOVER,
                Repair.REFRESH_TOKEN: EventName.REFRESH,
                Repair.RESYNC_CLOCK: EventName.RESYNC,
            }[decision.repair or Repair.USER]
        self._emit(name, wait=decision.wait, detail=_detail(outcome))


def _detail(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return outcome.failure.value.replace("_", " ")
    if outcome.code is not None:
        name = outcome.info.name if outcome.info is not None and outcome.info.code == outcome.code else "unlisted code"
        return f"{outcome.code} {name}"
    return f"status {outcome.status}"
