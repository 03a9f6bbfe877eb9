"""The one loop: a call and its attempts.

Guards admit, repairs prepare, one send, its outcome, :func:`~resilient_adapter.core.decide.decide`, and then wait,
repair or deliver. The loop obeys decisions and takes none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from requests import PreparedRequest, Response

from . import incoming, transport
from .admission import Admission, Refused, too_late
from .clock import Clock
from .core.backoff import backoff
from .core.classify import READ_ONLY_METHODS, SERVER_TIMEOUT, Outcome
from .core.decide import Action, Decision, Repair, Situation, Why, decide, unresolved
from .core.frozen import Frozen
from .core.model import Executed, Recovery
from .errors import JournalError, ResilienceError
from .outgoing import Outgoing, Sender, is_replayable
from .runtime import Origin
from .story import Story, detail_of
from .telemetry.events import EventName, Telemetry

if TYPE_CHECKING:
    from .inquiry import Inquiry, Lookup, Reconciler
    from .repairs.orders import Submission

_INF = math.inf

Recoveries = Mapping[int, Callable[[PreparedRequest, Response], bool]]


class Equipment(Frozen):
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
    reconciler: Reconciler | None


class Call:
    """One call of ``adapter.send`` and the attempts that it takes.

    What is sent is kept by its :class:`Outgoing`, what has come back by its :class:`Story`, the guards' leave by its
    :class:`Admission`; the rest is what the decisions are about.

    Args:
        sender: the adapter, which sends.
        equipment: what the adapter brings.
        origin: where the request goes.
        request: the caller's own.
        stream: the caller reads the body.
        timeout: the caller's own, or None.
        options: what else the caller's send was given.
        lookup_until: the call finds out about an order, until a monotonic instant; None: it is a caller's.
    """

    __slots__ = (
        "_counted",
        "_reconciled",
        "_repaired",
        "_sent_at",
        "_swapped",
        "_throttle",
        "admission",
        "clock",
        "deadline",
        "equipment",
        "lookup",
        "options",
        "origin",
        "outgoing",
        "sender",
        "story",
        "stream",
        "submission",
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
        lookup_until: float | None = None,
    ) -> None:
        self.sender = sender
        self.equipment = equipment
        self.origin = origin
        self.stream = stream
        self.options = options
        self.clock = clock = equipment.clock
        self.lookup = lookup = lookup_until is not None
        self.outgoing = outgoing = Outgoing(request, origin, clock, timeout, options)
        self.story = story = Story(sender, outgoing, origin, clock, equipment.telemetry, request, lookup=lookup)
        orders = story.method == "POST" and not (lookup or origin.shadow)
        self.submission = origin.submission(request) if orders else None
        if lookup_until is not None:
            self.deadline = lookup_until
        else:
            self.deadline = story.started + origin.deadline if not origin.shadow else _INF
        self.admission = Admission(origin, outgoing, story, clock, self.deadline, lookup=lookup)
        self._sent_at = story.started
        self._counted = 0  # sends, but for those that a repair makes up for
        self._throttle = 0.0
        self._reconciled = False  # since the latest send
        self._repaired: frozenset[Repair] = frozenset()
        self._swapped = False

    # --- the loop

    def run(self) -> Response:
        """Make the call and return what is delivered, or raise it."""
        try:
            return self._run() if self.submission is None else self._run_order(self.submission)
        except Exception:
            raise
        except BaseException as error:
            self.admission.release()  # a probe that is cut off before or after its send must not keep others waiting
            if self.submission is not None:
                self.submission.__exit__(type(error), error, None)  # it may have been cut off in its own end
            if self.story.response is not None:
                self.story.response.close()  # nobody else can: a bounded pool would wait for its connection for ever
            raise

    def _run_order(self, submission: Submission) -> Response:
        with submission:
            try:
                found = self._inquiry().meet_doubt(submission, self._sent_at)
                return self._run() if found is None else self._deliver_found(found)
            except JournalError as error:
                if self.story.outcome is not None:
                    return self.story.deliver(Why.JOURNAL)
                raise self.story.told(error) from error.__cause__

    def _run(self) -> Response:
        story = self.story
        while True:
            instead = self._wait_for_turn()
            if instead is not None:
                return instead
            outcome = self._attempt()
            if outcome is None:
                return self._refuse(too_late("what came before the send"))
            if outcome.executed is Executed.YES and not outcome.error:
                return story.deliver(Why.DONE)
            decision = decide(self._situation(outcome))
            if self.stream and story.response is not None and decision.action in (Action.REPAIR, Action.RECONCILE):
                transport.hold(story.response, clock=self.clock)
            if decision.action is Action.RECONCILE and not decision.shadowed:
                found = self._reconcile()
                if found is not None:
                    return self._deliver_found(found)
                decision = decide(self._situation(story.latest()))
            if decision.shadowed:
                story.emit_shadow(decision)
                return story.deliver(Why.DONE)
            if decision.action is Action.DELIVER:
                return story.deliver(decision.why)
            if decision.action is Action.REPEAT:
                if not self._wait_for_repeat(decision):
                    return story.deliver(Why.BUDGET)
            elif not self._repair(decision.repair):
                return story.deliver(Why.REPAIR_FAILED)

    def _wait_for_turn(self) -> Response | None:
        """Wait until the next send may be made. Returns what is delivered instead, where it may not."""
        while True:
            refused = self.admission.ask()
            if refused is not None:
                return self._refuse(refused)
            if self.submission is None or not self._overtaken(self.submission):
                return None
            found = self._inquiry().meet_doubt(self.submission, self._sent_at)
            if found is not None:
                return self._deliver_found(found)

    def _overtaken(self, submission: Submission) -> bool:
        """Give the turn back where the same order came into doubt while we waited for it."""
        overtaken = True
        try:
            overtaken = submission.overtaken()
        except JournalError:
            raise
        except ResilienceError as error:
            raise self.story.told(error) from None
        finally:
            if overtaken:
                self.admission.give_back()
        return overtaken

    def _refuse(self, refused: Refused) -> Response:
        # What the server said, or the error that was met, is worth more than our reason not to ask again.
        story = self.story
        if story.outcome is not None:
            return story.deliver(refused.why)
        story.emit(EventName.REFUSED, wait=refused.wait, detail=refused.why)
        if refused.error is not None:
            raise story.told(refused.error())
        story.response, story.outcome = incoming.local_answer(
            story.request,
            self.origin,
            story.method,
            status=refused.status,
            reason=refused.reason,
            code=refused.code,
            wait=refused.wait,
            connection=self.sender,
        )
        return story.deliver(Why.DONE)

    # --- repairs prepare, one send, its outcome

    @transport.unlogged
    def _attempt(self) -> Outcome | None:
        """Prepare, send once, and tell the guards how it went. None where there was no time, or no way, to send."""
        clock, story, submission = self.clock, self.story, self.submission
        try:
            request = self._prepare()
            sent_at = clock.monotonic()
            left = self.deadline - sent_at
            if request is None or left <= 0:
                # What came before the send took too long. Sent now it could only time out, its outcome unknown.
                self.admission.release()
                return None
            # Not sooner: until now the call might have had to deliver the answer in hand.
            story.set_aside()
            timeout = self.outgoing.timeout(left, own=self.equipment.own)
            if submission is not None:
                submission.sending(self.outgoing.base)
            self._sent_at, self._reconciled = sent_at, False
            story.sending()
            if not story.attempts:
                self.origin.budget.first_send()
            self._counted += 1
            try:
                story.response = self.sender.transmit(
                    request, stream=self.stream, timeout=timeout, options=self.options
                )
                self.admission.answered(story.response)
                outcome = self._read(story.response)
            except Exception as error:
                outcome = self._failed(error, timeout)
            self.outgoing.conceal(story.response, story.error)
        except BaseException:
            # An interrupt proves nothing to anyone: no verdict, no lease left behind.
            self.admission.release()
            raise
        story.outcome = outcome
        if submission is not None:
            unknown = unresolved(outcome, read_only=False, doubt=story.doubt)
            submission.came_back(outcome, story.response, unknown=unknown)
        self.admission.record(outcome)
        if outcome.recovery is Recovery.THROTTLE:
            self._throttle = self._throttled(outcome)
        story.add(outcome, clock.monotonic() - sent_at)
        return outcome

    def _prepare(self) -> PreparedRequest | None:
        try:
            return self.outgoing.prepare(self.sender, self.deadline)
        except Exception:
            # A signer that raises, a body that will not rewind: the caller's to know, but not in place of an order
            # that may have been executed.
            if not self.story.doubt:
                raise
            return None
        finally:
            if self.outgoing.news:
                self.story.emit_news()

    def _read(self, response: Response) -> Outcome:
        return incoming.read(
            response,
            self.origin,
            self.story.method,
            order=self.submission is not None,
            stream=self.stream,
            clock=self.clock,
            deadline=self.deadline,
        )

    def _failed(self, error: Exception, timeout: Any) -> Outcome:
        story = self.story
        if story.response is None and self.clock.monotonic() >= self.deadline:
            error = transport.as_timeout(error)
        outcome = incoming.failed(
            error,
            story.response,
            self.outgoing.base,
            self.origin,
            timeout=timeout,
            proxies=self.options["proxies"],
            own=self.equipment.own,
        )
        story.error = error
        if not self.stream and story.response is not None:
            story.response.close()  # else its place in a bounded pool would be lost
            story.response = None
        return outcome

    def _throttled(self, outcome: Outcome) -> float:
        if self.origin.shadow:
            return outcome.retry_after if outcome.retry_after is not None else self.origin.settings.rate_limit.wait
        return self.origin.rate_limit.throttled(outcome.retry_after)

    # --- what a decision depends on

    def _situation(self, outcome: Outcome) -> Situation:
        origin, outgoing, story = self.origin, self.outgoing, self.story
        settings = origin.settings
        retry = settings.retry
        now = self.clock.monotonic()
        read_only = story.method in READ_ONLY_METHODS
        if not read_only and outcome.executed is Executed.UNKNOWN:
            story.doubt = True
        return Situation(
            outcome=outcome,
            mode=settings.mode,
            read_only=read_only,
            repeatable=self._repeatable(),
            doubt=story.doubt,
            replayable=is_replayable(outgoing.base),
            attempts=self._counted,
            max_attempts=retry.max_attempts,
            repairs=self._repairs(outcome),
            repaired=self._repaired,
            reconcilable=self._reconciler() is not None and not self._reconciled and not self.lookup,
            backoff=backoff(
                max(self._counted - 1, 0),
                base=retry.base,
                factor=retry.factor,
                jitter=retry.jitter,
                max_wait=retry.max_wait,
                u=random.random(),
            ),
            throttle=self._throttle,
            max_wait=settings.rate_limit.max_wait,
            time_left=self.deadline - now,
            circuit_open=self.admission.circuit_open(),
            wait_for_circuit=settings.circuit.when_open == "wait",
            signature_left=outgoing.signature_left(),
            budget=origin.budget.available(),
        )

    def _repeatable(self) -> bool:
        # An order is not, whatever retry.methods says of POST: it is found out about.
        methods = self.origin.settings.retry.methods if self.submission is None else ()
        return self.story.method in methods or any(
            self.outgoing.base.headers.get(name)
            for name in self.origin.idempotency_headers  # a blank one is none
        )

    def _repairs(self, outcome: Outcome) -> frozenset[Repair]:
        possible = set()
        if outcome.failure is None and outcome.code in self.equipment.recoveries:
            possible.add(Repair.USER)
        token = self.origin.token
        if token is not None and token.concerns(self.story.request) and not self.story.challenged():
            possible.add(Repair.REFRESH_TOKEN)
        if self.outgoing.signs():
            possible.add(Repair.RESYNC_CLOCK)
        return frozenset(possible)

    # --- wait, repair

    def _wait_for_repeat(self, decision: Decision) -> bool:
        """Wait as decided. Returns False where another thread took the last of the retry budget meanwhile."""
        if decision.charged and not self.origin.budget.spend():
            return False
        outcome = self.story.latest()
        self.story.emit_repeat(decision.wait)
        if outcome.code == SERVER_TIMEOUT:
            self.outgoing.stretch *= self.origin.settings.retry.timeout_factor
        if outcome.recovery is not Recovery.THROTTLE:
            self.story.wait(decision.wait)
        # A throttled repeat waits in the line with everyone else: one wait, for the whole origin.
        return True

    def _repair(self, repair: Repair | None) -> bool:
        """Put right what the repeat needs. Returns whether it may go."""
        assert repair is not None  # decide() names one with every Action.REPAIR
        self._repaired |= {repair}
        outgoing, story = self.outgoing, self.story
        if repair is Repair.REFRESH_TOKEN:
            from .repairs.token import Refreshed

            how = outgoing.refresh(self.deadline)
            if how is Refreshed.NOT_NEEDED and not self._swapped:
                # Nothing was refreshed, so the call still may: a script that logs in by itself carries a token that
                # ends together with ours.
                self._swapped = True
                self._repaired -= {repair}
            story.refresh_failed = how in (Refreshed.FAILED, Refreshed.HELD_BACK)
            repaired = not story.refresh_failed
        elif repair is Repair.RESYNC_CLOCK:
            repaired = outgoing.resync(self.sender, self.deadline)
        else:
            code = story.latest().code
            assert code is not None and story.response is not None  # decide() goes by the code of a response
            repaired = outgoing.recover(self.equipment.recoveries[code], story.response)
        story.emit_news()
        if repaired:
            self._counted -= 1  # a repair uses up no attempt
        return repaired

    # --- find out

    def _reconcile(self) -> Response | None:
        """Ask the reconciler. Returns what it found, where the request turns out to have been executed."""
        self._reconciled = True
        story = self.story
        outcome = story.latest()
        try:
            found = self._inquiry().find_out(detail_of(outcome), self.clock.monotonic())
        except Exception:
            return None
        story.doubt = False
        if found is None:
            story.outcome = outcome._replace(executed=Executed.NO)
        return found

    def _deliver_found(self, found: Response) -> Response:
        story = self.story
        story.set_aside()
        story.response, story.error = found, None
        story.outcome = self._read(found)._replace(executed=Executed.YES)
        return story.deliver(Why.DONE)

    def _inquiry(self) -> Inquiry:
        from .inquiry import Inquiry

        return Inquiry(self._reconciler(), self._lookup, self.outgoing, self.submission, self.story, self.deadline)

    def _reconciler(self) -> Reconciler | None:
        own = self.equipment.reconciler
        return self.origin.reconciler if own is None else own

    def _lookup(self, sent_at: float) -> Lookup:
        from .inquiry import Lookup

        return Lookup(
            self._look_up,
            clock=self.clock,
            deadline=self.deadline,
            sent_at=sent_at,
            recv_window=getattr(self.origin.signer, "recv_window", None),
        )

    def _look_up(self, request: PreparedRequest) -> Response:
        call = Call(
            self.sender,
            self.equipment,
            self.origin,
            request,
            stream=False,
            timeout=None,
            options=self.options,
            lookup_until=self.deadline,
        )
        call.outgoing.look_where_it_goes()
        return call.run()
