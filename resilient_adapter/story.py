"""What a call has gone through, and how it is told: as events, as the report on what is delivered, as exceptions."""

from __future__ import annotations

from urllib.parse import urlsplit

import requests
from requests import PreparedRequest, Response

from . import transport
from .clock import Clock
from .core.classify import READ_ONLY_METHODS, Outcome
from .core.decide import Action, Decision, Repair, Why, unresolved
from .core.model import Executed, Recovery
from .core.report import Attempt, Resilience
from .errors import OutcomeUnknownError, ResilienceError, TokenRefreshError, api_error
from .guards.circuit import Transition
from .outgoing import Outgoing, Sender
from .runtime import Origin
from .telemetry.events import Event, EventName, Telemetry

#: Delivered quietly: nothing was given up, because nothing could have been done.
_QUIET = frozenset({Why.DONE, Why.NOT_RECOVERABLE})
_CIRCUIT_EVENTS = {
    "open": EventName.CIRCUIT_OPEN,
    "half_open": EventName.CIRCUIT_HALF_OPEN,
    "closed": EventName.CIRCUIT_CLOSED,
}


class Story:
    """A call up to now: the answer in hand, the sends before it, and what is told of them.

    Args:
        sender: what a delivered response is sent on through, where an auth hook answers it.
        outgoing: what is sent; an order is named by its client id.
        origin: where it goes.
        clock: the clock that every wait goes by.
        telemetry: told of every event.
        request: the caller's own.
        lookup: the call finds out about another, which reads the response: nothing is raised in its place.

    Attributes:
        request: the caller's own.
        method: the request's, upper case.
        started: monotonic instant at which the call began.
        attempts: every send, first to last.
        outcome: of the latest send; None before the first.
        response: of the latest send, or None.
        error: that the latest send raised, or None.
        doubt: an earlier send may have been executed.
        refresh_failed: the latest attempt to get a new token did not.
    """

    __slots__ = (
        "_clock",
        "_discarded",
        "_lookup",
        "_origin",
        "_outgoing",
        "_reached",
        "_sender",
        "_telemetry",
        "_waited",
        "attempts",
        "doubt",
        "error",
        "method",
        "outcome",
        "refresh_failed",
        "request",
        "response",
        "started",
    )

    def __init__(
        self,
        sender: Sender,
        outgoing: Outgoing,
        origin: Origin,
        clock: Clock,
        telemetry: Telemetry,
        request: PreparedRequest,
        *,
        lookup: bool,
    ) -> None:
        self._sender = sender
        self._outgoing = outgoing
        self._origin = origin
        self._clock = clock
        self._telemetry = telemetry
        self.request = request
        self._lookup = lookup
        self._waited = 0.0
        self._discarded: list[Response] = []
        self._reached: Exception | None = None  # of the latest send that was on its way when it failed
        self.method = (request.method or "").upper()
        self.started = clock.monotonic()
        self.attempts: list[Attempt] = []
        self.outcome: Outcome | None = None
        self.response: Response | None = None
        self.error: Exception | None = None
        self.doubt = False
        self.refresh_failed = False

    def latest(self) -> Outcome:
        """Return the outcome of the latest send, of which there has been one."""
        assert self.outcome is not None  # only before the first send is there none
        return self.outcome

    def challenged(self) -> bool:
        """Return whether an answer asks for credentials of another kind, which an auth hook above us is to give."""
        if self.response is None or self.outcome is None or self.outcome.code is not None:
            return False
        return transport.challenged(self.response)

    # --- it goes on

    def wait(self, seconds: float) -> None:
        """Wait; the next attempt tells for how long."""
        if seconds > 0:
            self._clock.sleep(seconds)
            self._waited += seconds

    def set_aside(self) -> None:
        """Let go of a response that is not delivered: its connection goes back, its cookies are kept."""
        if self.response is not None:
            transport.discard(self.response, clock=self._clock)
            if "Set-Cookie" in self.response.headers:
                self._discarded.append(self.response)

    def sending(self) -> None:
        """Put the answer in hand behind us: the next send is on its way."""
        if self.error is not None and self.latest().executed is not Executed.NO:
            self._reached = self.error
        self.response = self.error = None

    def add(self, outcome: Outcome, elapsed: float) -> None:
        """Add the send that has just ended, after so many seconds."""
        failure = outcome.failure
        self.attempts.append(
            Attempt(
                len(self.attempts) + 1,
                outcome.status,
                outcome.code,
                None if failure is None else failure.value,
                outcome.recovery,
                self._waited,
                elapsed,
            )
        )
        self._waited = 0.0

    # --- its end

    def deliver(self, why: Why) -> Response:
        """Hand over what the last send brought, with its story."""
        outcome = self.latest()
        unknown = bool(self.attempts) and unresolved(
            outcome, read_only=self.method in READ_ONLY_METHODS, doubt=self.doubt
        )
        report = self.report(unknown=unknown)
        # Nor is a good answer with a code that nobody lists a thing to warn of: some APIs have no other.
        good = not outcome.error and outcome.code is not None and len(self.attempts) == 1
        if why not in _QUIET and not good:
            self.emit(EventName.GIVE_UP, detail=why)
        raises = self._origin.settings.on_error == "raise" and not self._origin.shadow and not self._lookup
        response, error = self.response, self.error
        if self._reached is not None and outcome.executed is Executed.NO:
            # A repeat that never left tells nothing of the send before it: "connection refused" would read as if
            # nothing had been sent at all.
            error = self._reached
        # The traceback holds frames, and they hold this call: left here, the exception would hold itself.
        self.error = self._reached = None
        if response is not None:
            response.resilience = report  # type: ignore[attr-defined]
            # Digest auth sends through it: past us, were it the inner transport.
            response.connection = self._sender  # type: ignore[assignment]
            for older in reversed(self._discarded):
                transport.carry_cookies(older, response)
            # A stream that broke while it was read ahead breaks again where its caller reads it.
            wrong = outcome.error and (outcome.failure is None or response.status_code >= 400)
            if not raises or not (unknown or wrong) or self.challenged():
                return response
            raise self._typed(outcome, response, unknown, report)
        assert error is not None  # a send brings one or the other
        error.resilience = report  # type: ignore[attr-defined]
        try:
            if raises and unknown:
                raise self._typed(outcome, None, unknown, report) from error
            context = error.__context__
            try:
                raise error
            finally:
                # What led to it, and not what the caller may be handling as it makes this call.
                error.__context__ = context
        finally:
            error = None  # the traceback holds this frame

    def report(self, *, unknown: bool) -> Resilience:
        """Return what the caller is told: ``response.resilience``."""
        outcome = self.outcome
        code = None if outcome is None else outcome.code
        if code and code in self._origin.rules.success_codes:
            code = 0  # one to ask for, whatever an endpoint says for "success"
        return Resilience(
            tuple(self.attempts),
            code,
            None if outcome is None else outcome.info,
            self._clock.monotonic() - self.started,
            unknown,
        )

    # --- as exceptions

    def _typed(
        self, outcome: Outcome, response: Response | None, unknown: bool, report: Resilience
    ) -> requests.RequestException:
        """Return the exception that ``on_error="raise"`` raises for an outcome."""
        what = f"{self.method} {self._origin.name}{self._path()}"
        error: requests.RequestException
        if unknown:
            error = OutcomeUnknownError(
                f"{what}: it may or may not have been executed ({detail_of(outcome)}); find out before it is sent "
                "again",
                client_order_id=self._outgoing.client_order_id(),
                request=self.request,
                response=response,
            )
        elif self.refresh_failed and self._origin.token is not None:
            cause = self._origin.token.last_error
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

    def still_in_doubt(self) -> OutcomeUnknownError:
        """Return the exception of an order that is not sent, because an earlier send of it is in doubt."""
        error = OutcomeUnknownError(
            f"{self.method} {self._origin.name}{self._path()}: nothing was sent, because the same order was sent "
            "before, and may or may not have been executed; find out before it is sent again",
            client_order_id=self._outgoing.client_order_id(),
            request=self.request,
        )
        error.resilience = self.report(unknown=True)
        return error

    def told(self, error: ResilienceError) -> ResilienceError:
        """Return an exception of our own, with the story added to it."""
        error.request = self.request
        error.resilience = self.report(unknown=False)
        return error

    # --- as events

    def emit(self, name: EventName, *, wait: float = 0.0, detail: object = "") -> None:
        """Tell listeners and the log what is done now."""
        outcome = self.outcome
        self._telemetry.emit(
            Event(
                name=name.value,
                time=self._clock.time(),
                origin=self._origin.name,
                method=self.method,
                path=self._path(),
                attempt=len(self.attempts),
                code=None if outcome is None else outcome.code,
                status=None if outcome is None else outcome.status,
                recovery=None if outcome is None else outcome.recovery.value,
                wait=wait,
                detail=str(detail),
                shadow=self._origin.shadow,
            ),
            self._origin.settings.log.level,
        )

    def emit_circuit(self, changed: Transition) -> None:
        """Tell how the circuit has changed."""
        self.emit(_CIRCUIT_EVENTS[changed.new], wait=changed.retry_after or 0.0, detail=f"was {changed.old}")

    def emit_repeat(self, wait: float) -> None:
        """Tell of a repeat."""
        outcome = self.latest()
        throttled = outcome.recovery is Recovery.THROTTLE
        self.emit(EventName.THROTTLE if throttled else EventName.RETRY, wait=wait, detail=detail_of(outcome))

    def emit_news(self) -> None:
        """Tell what was done to prepare or repair the request."""
        for name, detail in self._outgoing.news:
            self.emit(name, detail=detail)
        self._outgoing.news.clear()

    def emit_shadow(self, decision: Decision) -> None:
        """Tell what would be done, were it not for ``mode="shadow"``."""
        if decision.action is Action.REPEAT:
            self.emit_repeat(decision.wait)
            return
        if decision.action is Action.RECONCILE:
            name = EventName.RECONCILE
        else:
            name = {
                Repair.USER: EventName.RECOVER,
                Repair.REFRESH_TOKEN: EventName.REFRESH,
                Repair.RESYNC_CLOCK: EventName.RESYNC,
            }[decision.repair or Repair.USER]
        self.emit(name, wait=decision.wait, detail=detail_of(self.latest()))

    def _path(self) -> str:
        return urlsplit(self.request.url or "").path


def detail_of(outcome: Outcome) -> str:
    """Return an outcome in words."""
    if outcome.failure is not None:
        return outcome.failure.value.replace("_", " ")
    if outcome.code is not None:
        name = outcome.info.name if outcome.info is not None and outcome.info.code == outcome.code else "unlisted code"
        return f"{outcome.code} {name}"
    return f"status {outcome.status}"
