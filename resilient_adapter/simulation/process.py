"""The adapter in one process: its guards, and calls that go through them as those of :mod:`resilient_adapter.call` do.

Nothing is decided here. The package's own core classifies, decides and says how long to wait, its own guards admit;
only the loop that obeys them is written a second time, because in a simulation thousands of calls share a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from ..core.backoff import backoff
from ..core.classify import SERVER_TIMEOUT, Outcome, classify_failure, classify_response
from ..core.decide import Action, Situation, decide
from ..core.model import Executed, Failure, Recovery
from ..guards.circuit import Circuit, Refusal, Ticket
from ..guards.rate_limit import RateLimit
from ..guards.retry_budget import RetryBudget
from ..runtime import rules_of
from ..settings.schema import Settings
from .world import Answer, Call, Send, VirtualClock

_METHOD = "GET"
_PRIORITY = 1  # in the line, what only looks stands behind orders


class Process:
    """What is kept for the server in one process.

    Args:
        settings: the settings. Their ``mode`` is taken for ``"enforce"``.
        clock: the clock that everything goes by.
        random: for jitter, in [0, 1).
        answer: what the server answers in its outage: a code of the envelope, or an HTTP status.
    """

    def __init__(
        self, settings: Settings, clock: VirtualClock, random: Callable[[], float], *, answer: int = -1008
    ) -> None:
        self._settings = settings
        self._now = clock.monotonic
        self._random = random
        self._circuit = Circuit("server", settings.circuit, clock, random)
        self._line = RateLimit(settings.rate_limit, clock)
        self._budget = RetryBudget(settings.retry, clock)
        self._timeout = settings.read_timeout or float("inf")
        self._send = Send(self._timeout)
        self._deadline = settings.deadline or float("inf")
        # As long as one send may take, as in runtime.Origin.
        self._lease = min((settings.connect_timeout or 60.0) + (settings.read_timeout or 60.0), self._deadline)
        self._repeatable = _METHOD in settings.retry.methods
        self._exempt = _METHOD in settings.circuit.exempt.methods
        self._admit: Callable[[float], Ticket | Refusal]
        self._admit = self._circuit.pass_exempt if self._exempt else self._circuit.admit
        self._waits = settings.circuit.when_open == "wait"
        self._outcomes = {
            Answer.OK: _outcome(settings, 200),
            Answer.FAILED: _outcome(settings, answer),
            Answer.BUSY: _outcome(settings, -1008),
            Answer.NOTHING: classify_failure(Failure.READ_TIMEOUT),
        }

    def call(self) -> Call:
        """Make one call: a GET without a timeout of its own."""
        line, lease, now = self._line, self._lease, self._now
        deadline = now() + self._deadline
        sends, stretch = 0, 1.0
        while True:
            if line.idle:
                line.sent()
                admitted: Ticket | Refusal | None = self._admit(lease)
            else:
                admitted = yield from self._admit_in_line(deadline)
            if not isinstance(admitted, Ticket):
                if admitted is None or not self._waits or now() + admitted.retry_after >= deadline:
                    return False
                yield admitted.retry_after
                continue
            left = deadline - now()
            send = self._send if stretch == 1.0 and self._timeout < left else Send(min(self._timeout * stretch, left))
            if not sends:
                self._budget.first_send()
            sends += 1
            answer = yield send
            assert answer is not None  # what a Send brings
            outcome = self._outcomes[answer]
            if answer is Answer.NOTHING and send.timeout < self._timeout:
                outcome = classify_failure(Failure.READ_TIMEOUT, patient=False)
            self._circuit.record(admitted, outcome.health, retry_after=outcome.retry_after)
            throttled = outcome.recovery is Recovery.THROTTLE
            throttle = line.throttled(outcome.retry_after) if throttled else 0.0
            if outcome.executed is Executed.YES and not outcome.error:
                return True
            decision = decide(self._situation(outcome, sends, throttle, deadline))
            if decision.action is not Action.REPEAT:
                return False
            if decision.charged:
                self._budget.spend()  # there is room: nobody came in between
            if outcome.code == SERVER_TIMEOUT:
                stretch *= self._settings.retry.timeout_factor
            if not throttled:
                yield decision.wait

    def _admit_in_line(self, deadline: float) -> Generator[float, Any, Ticket | Refusal | None]:
        """Wait for a turn, and ask the circuit. Returns None where the turn would come too late."""
        line = self._line
        refusal = None if self._exempt else self._circuit.refusal()
        if refusal is not None:
            return refusal
        # A server that names no Retry-After is never closed for longer than anyone is to wait.
        if self._now() + line.estimate(_PRIORITY) >= deadline:
            return None
        turn = line.enter(_PRIORITY)
        while wait := line.poll(turn):
            if self._now() + wait >= deadline:
                line.leave(turn)
                return None
            yield wait
        admitted = self._admit(self._lease)
        if isinstance(admitted, Refusal):
            line.leave(turn)
        return admitted

    def _situation(self, outcome: Outcome, sends: int, throttle: float, deadline: float) -> Situation:
        retry = self._settings.retry
        refusal = None if self._exempt else self._circuit.refusal()
        return Situation(
            outcome=outcome,
            repeatable=self._repeatable,
            attempts=sends,
            max_attempts=retry.max_attempts,
            backoff=backoff(
                sends - 1,
                base=retry.base,
                factor=retry.factor,
                jitter=retry.jitter,
                max_wait=retry.max_wait,
                u=self._random(),
            ),
            throttle=throttle,
            max_wait=self._settings.rate_limit.max_wait,
            time_left=deadline - self._now(),
            circuit_open=None if refusal is None else refusal.retry_after,
            wait_for_circuit=self._waits,
            budget=self._budget.available(),
        )


def _outcome(settings: Settings, answer: int) -> Outcome:
    status, code = (answer, None) if answer > 0 else (503 if answer == -1008 else 200, answer)
    return classify_response(rules_of(settings), method=_METHOD, status=status, code=code, msg=None)


def is_failure(settings: Settings, answer: int) -> bool:
    """Return whether a code of the envelope, or an HTTP status, is an error under these settings."""
    return _outcome(settings, answer).error
