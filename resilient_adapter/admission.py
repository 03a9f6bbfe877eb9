"""Guards admit: a call's way past the circuit and the line of its origin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from requests import Response

from .clock import Clock
from .core.classify import READ_ONLY_METHODS, Outcome
from .core.decide import Why
from .core.frozen import Frozen
from .errors import CircuitOpenError, DeadlineExceededError, ResilienceError
from .guards.circuit import Circuit, Refusal, Ticket
from .guards.rate_limit import Waiter
from .outgoing import Outgoing
from .repairs.parameters import parameters
from .runtime import Origin
from .story import Story
from .telemetry.events import EventName


class Refused(Frozen):
    """A send that is not made.

    Attributes:
        why: ends the call with the answer in hand, where there is one.
        wait: seconds until it might be made, where that is known.
        error: makes what is raised where no answer is in hand; None: a local answer is delivered. (Not the exception
            itself: its traceback would hold the frames that hold this.)
        status: the local answer's.
        reason: the status in words.
        code: of the local answer's envelope.
    """

    why: Why
    wait: float = 0.0
    error: Callable[[], ResilienceError] | None = None
    status: int = 503
    reason: str = "Service Unavailable"
    code: int = -1008


def too_late(what: str) -> Refused:
    """Return the refusal of a send for which no time is left."""
    text = f"{what} does not fit into the call's deadline: nothing was sent"
    return Refused(Why.DEADLINE, error=partial(DeadlineExceededError, text))


class Admission:
    """Admits the sends of one call, one after the other: each is asked for, and then recorded or released.

    Args:
        origin: whose guards are asked.
        outgoing: what is sent.
        story: told of what happens.
        clock: the clock that every wait goes by.
        deadline: monotonic instant at which the call ends; infinity for never.
        lookup: the call finds out about an order: an open circuit does not stop it.
    """

    _circuit: Circuit  # that of the latest send

    __slots__ = (
        "_circuit",
        "_clock",
        "_deadline",
        "_lookup",
        "_origin",
        "_outgoing",
        "_story",
        "_ticket",
        "_turn",
    )

    def __init__(
        self, origin: Origin, outgoing: Outgoing, story: Story, clock: Clock, deadline: float, *, lookup: bool
    ) -> None:
        self._origin = origin
        self._outgoing = outgoing
        self._story = story
        self._clock = clock
        self._deadline = deadline
        self._lookup = lookup
        self._ticket: Ticket | None = None
        self._turn: Waiter | None = None

    def ask(self) -> Refused | None:
        """Wait until the next send may be made. Returns the refusal where it may not."""
        origin = self._origin
        self._circuit = circuit = origin.circuit(self._story.request.url or "")
        while True:
            self._turn = None
            if origin.rate_limit.idle:
                origin.rate_limit.sent()
            else:
                # Nobody waits in line for a circuit that would refuse them at its end.
                refusal = circuit.refusal()
                if refusal is not None and not self._passes():
                    refused = self._refused(refusal)
                    if refused is not None:
                        return refused
                    continue
                refused = self._wait_in_line()
                if refused is not None:
                    return refused
            admitted = circuit.admit(origin.lease)
            if isinstance(admitted, Ticket):
                self._ticket = admitted
                if admitted.transition is not None:
                    self._story.emit_circuit(admitted.transition)
                return None
            if origin.shadow:
                self._story.emit(EventName.REFUSED, wait=admitted.retry_after, detail=Why.CIRCUIT_OPEN)
                self._ticket = None
                return None
            if self._passes():
                self._ticket = circuit.pass_exempt(origin.lease)
                return None
            if self._turn is not None:
                origin.rate_limit.leave(self._turn)  # a turn that is not used is somebody else's
            refused = self._refused(admitted)
            if refused is not None:
                return refused

    def answered(self, response: Response) -> None:
        """Tell the line of a response's headers, where it is paced or slowed down."""
        if self._turn is not None:
            self._origin.rate_limit.observed(response.headers)

    def record(self, outcome: Outcome) -> None:
        """Tell the circuit how the send went that was admitted."""
        if self._ticket is not None:
            changed = self._circuit.record(self._ticket, outcome.health, retry_after=outcome.retry_after)
            if changed is not None:
                self._story.emit_circuit(changed)

    def release(self) -> None:
        """Give the admission back: nothing was sent, or nothing is known of what became of it."""
        if self._ticket is not None:
            self._circuit.release(self._ticket)

    def give_back(self) -> None:
        """Give the admission back before the send: the turn in line is somebody else's as well."""
        self.release()
        if self._turn is not None:
            self._origin.rate_limit.leave(self._turn)

    def circuit_open(self) -> float | None:
        """Return seconds until the circuit's probe; None where it lets this call's request through."""
        refusal = self._circuit.refusal()
        return None if refusal is None or self._passes() else refusal.retry_after

    # --- the line

    def _wait_in_line(self) -> Refused | None:
        origin, clock = self._origin, self._clock
        line = origin.rate_limit
        priority = self._priority()
        if origin.shadow:
            place = line.enter(priority)
            wait = line.poll(place)
            if wait > 0:
                line.leave(place)
                self._story.emit(EventName.THROTTLE, wait=wait, detail="the origin is closed, or paced")
            return None
        if clock.monotonic() + line.estimate(priority) >= self._deadline and not self._closed_for_long():
            return too_late("the rate limit's wait")
        waiter = line.enter(priority)
        try:
            while True:
                wait = line.poll(waiter)
                if wait <= 0:
                    self._turn = waiter
                    return None
                if self._closed_for_long():
                    return Refused(Why.WAIT_TOO_LONG, line.remaining(), None, 429, "Too Many Requests", -1003)
                if clock.monotonic() + wait >= self._deadline:
                    return too_late("the rate limit's wait")
                self._story.wait(wait)
        finally:
            if self._turn is None:
                line.leave(waiter)

    def _closed_for_long(self) -> bool:
        """Return whether the origin is closed for longer than anyone is to wait."""
        return self._origin.rate_limit.remaining() > self._origin.settings.rate_limit.max_wait

    def _priority(self) -> int:
        # What reduces risk goes first, then what changes something, then what only looks.
        if self._story.method in READ_ONLY_METHODS:
            return 2
        return 0 if self._reduces_risk() else 1

    # --- the circuit

    def _refused(self, refusal: Refusal) -> Refused | None:
        """Act on an open circuit as the settings say; None to ask it again."""
        wait = refusal.retry_after
        how = self._origin.settings.circuit.when_open
        if how == "wait":
            if self._clock.monotonic() + wait >= self._deadline:
                return too_late("the wait for the circuit's probe")
            self._story.wait(wait)
            return None
        if how == "respond":
            return Refused(Why.CIRCUIT_OPEN, wait)
        text = f"the circuit of {self._origin.name} is open: nothing was sent; the next probe is in {wait:.1f} s"
        return Refused(Why.CIRCUIT_OPEN, wait, partial(CircuitOpenError, text, retry_after=wait))

    def _passes(self) -> bool:
        """Return whether an open circuit lets this request through: it reduces risk, or finds out about an order."""
        return self._origin.shadow or self._lookup or self._reduces_risk()

    def _reduces_risk(self) -> bool:
        origin = self._origin
        if self._story.method in origin.exempt_methods:
            return True
        return any(value.lower() == "true" for _, value in parameters(self._outgoing.base, origin.exempt_params))
