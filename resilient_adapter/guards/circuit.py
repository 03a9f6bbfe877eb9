"""The circuit breaker: an origin that keeps failing is left alone, then asked again by one request at a time.

pybreaker is the state machine (closed, open, half-open; Nygard, *Release It!*, chapter "Stability Patterns").
What it leaves open is done here: no lock while a request is on the wire, exactly one probe on a lease, outcomes
from before a trip dropped, a failure rate beside its consecutive failures, waits that grow, and our own clock.
"""

from __future__ import annotations

import random as _random
import threading
from typing import TYPE_CHECKING

from ..core.frozen import Frozen
from ..core.model import Health
from .window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from pybreaker import CircuitBreaker

    from ..clock import Clock
    from ..settings.schema import CircuitSettings
    from .circuit_storage import Storage

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"

_FROM_PYBREAKER = {"closed": CLOSED, "open": OPEN, "half-open": HALF_OPEN}

_BUCKETS = 30  # a second each with the default window

# How soon to ask again while somebody else's probe is on its way: its answer may come at any moment.
PROBE_POLL = 0.1

# How many rows of failures as long as one at hand may be expected by chance for it to be news. A circuit that opens by
# chance refuses some seconds' calls, so a thousandth costs well below 1 % of the calls; and it lengthens a row by no
# more than it has to: by three failures for each factor of a thousand at a rate of 0.1, by ten at 0.5.
_BY_CHANCE = 1e-3
# Of a server that fails in part more is to be known than that it may have failed: below so many times min_calls,
# fail_max failures in a row open its circuit whatever was before.
_KNOWN = 5

# Share of the wait that may come on top, so that a fleet's probes do not align. They add up from probe to probe. More
# would only keep callers out for longer: a probe is a call that would have gone anyhow, so that even of 200 processes
# with 20 calls per second each, whose circuits all open within a moment, the probes are 0.05 of the demand in their
# worst second, however they lie, and 0.34 of it in their worst tenth of a second (0.50 without jitter, 0.14 with 0.1).
_JITTER = 0.03


class Transition(Frozen):
    """A change of state: ``closed``, ``open`` or ``half_open``; where it opened, seconds until the first probe."""

    old: str
    new: str
    retry_after: float | None = None


class Refusal(Frozen):
    """A request may not go now.

    Attributes:
        retry_after: seconds after which it is worth asking again.
    """

    retry_after: float


class Ticket:
    """A request may go. Hand it back with its outcome.

    A ticket is recognised by identity: one for each time the circuit is closed, one for each probe. An outcome
    under any other is from before a trip, or from a probe that has been given up.

    Attributes:
        probe: whether this request decides if the circuit closes.
        transition: the change of state that this admission made, for whoever reports it.
        name: what other processes know the probe by; empty where there are none, or none that know of it.
    """

    __slots__ = ("name", "probe", "transition")

    def __init__(self, probe: bool = False, transition: Transition | None = None, name: str = "") -> None:
        self.probe = probe
        self.transition = transition
        self.name = name


# For a request that goes although the circuit would refuse it. It never is the current ticket, so says nothing.
_BYPASS = Ticket()


class _FailedError(Exception):
    """Tells pybreaker of a failure. Never leaves this module."""


class Circuit:
    """One circuit. Thread-safe; no lock is held beyond its own bookkeeping, and none while closed and healthy.

    ``fail_max`` failures in a row open it, as pybreaker means it, unless the server was failing in part before them:
    of 200 calls per second that fail with a chance of 0.3, five in a row fail every few seconds. Of n calls that fail
    with the chance p, at most ``n * p**r`` rows of r failures or more are to be expected (Feller, *An Introduction to
    Probability Theory and Its Applications*, vol. 1, XIII.7). Where that is a thousandth or more, the row goes on.
    n and p are those of the latest ``5 * min_calls`` calls or more in the window before the row; with fewer, or without
    a failure among them, ``fail_max`` it is. p is taken to be at most ``failure_rate``: what fails more often than that
    is to open. So 10 failures in a row are needed after 100 calls of which 30 failed, 11 after 300 of which 90 failed.

    Arguments:
        name: what it guards, for events.
        settings: the settings group ``circuit``.
        clock: tells when an open circuit may be probed.
        random: for the jitter, in [0, 1).
    """

    def __init__(
        self, name: str, settings: CircuitSettings, clock: Clock, random: Callable[[], float] = _random.random
    ) -> None:
        self.name = name
        self._settings = settings
        self._now = clock.monotonic
        self._random = random
        self._lock = threading.Lock()
        self._breaker: CircuitBreaker | None = None
        self._storage: Storage | None = None
        self._closed: Ticket | None = Ticket()  # None: anything but plainly closed, look under the lock
        self._streak = False  # whether pybreaker counts failures that a success would end
        self._successes = Window(settings.window, clock, _BUCKETS)
        self._failures = Window(settings.window, clock, _BUCKETS)
        self._probe: Ticket | None = None
        self._probed_at = self._lease_end = 0.0
        self._open_until = 0.0
        self._reset_timeout = settings.reset_timeout

    @property
    def state(self) -> str:
        """``closed``, ``open`` (also when a probe is due) or ``half_open``."""
        breaker = self._breaker
        # Not its .state: that has side effects.
        return CLOSED if breaker is None else _FROM_PYBREAKER[breaker.current_state]

    def refusal(self) -> Refusal | None:
        """Return the refusal that a request would meet now, or None if it would be let through. Changes nothing."""
        if self._closed is not None:
            return None
        with self._lock:
            return self._refusal()

    def admit(self, lease: float) -> Ticket | Refusal:
        """Ask for one request to go.

        Arguments:
            lease: seconds after which a probe that has not come back is given up, and another may go.
        """
        ticket = self._closed
        return self._admit(lease) if ticket is None else ticket

    def pass_exempt(self, lease: float) -> Ticket:
        """Return a ticket for a request that goes in any case because it reduces risk.

        It is an ordinary call while the circuit is closed, and the probe where one is due: it goes anyhow, so its
        outcome may serve. Where the circuit would refuse, it goes beside it and its outcome says nothing: it
        can neither bring the next probe forward nor put it off.

        Arguments:
            lease: as for :meth:`admit`.
        """
        admitted = self.admit(lease)
        return _BYPASS if isinstance(admitted, Refusal) else admitted

    def record(self, ticket: Ticket, health: Health, *, retry_after: float | None = None) -> Transition | None:
        """Tell how an admitted request went.

        Arguments:
            ticket: what :meth:`admit` gave.
            health: FAILURE counts, SUCCESS ends a row of failures or closes, NEUTRAL says nothing.
            retry_after: seconds that a failing server asked for; where this outcome opens the circuit, no probe
                goes sooner, ``reset_max`` or not.

        Returns:
            the change of state that this made, if it made one.
        """
        if health is Health.SUCCESS:
            if ticket is self._closed and not self._streak:
                self._successes.add()
                return None
        elif health is Health.NEUTRAL:
            self.release(ticket)
            return None
        # Imported before the lock is taken: the first time, that reads files.
        try:
            breaker = self._breaker or self._load()
        except (ImportError, OSError):
            # With no file handle left, as when connections fail for want of one. Not counted, rather than raised in
            # place of what became of an order.
            return None
        with self._lock:
            if ticket is self._closed:
                return self._record_closed(breaker, ticket, health, retry_after)
            if ticket is self._probe:
                return self._record_probe(breaker, health, retry_after)
            return None

    def release(self, ticket: Ticket) -> None:
        """Give a ticket back without a verdict. Where it was the probe's, the next request probes."""
        if ticket.probe:
            with self._lock:
                if ticket is self._probe:
                    self._probe = None

    def reset_after_fork(self) -> None:
        """Make the circuit usable in a child process: fresh locks, and the parent's probe is none of ours."""
        self._lock = threading.Lock()
        self._successes.reset_after_fork()
        self._failures.reset_after_fork()
        self._probe = None
        if self._storage is not None:
            # A breaker's own lock may have been held too, and cannot be replaced: another one on the same storage.
            self._breaker = self._on_storage(self._storage)

    def _refusal(self) -> Refusal | None:
        if self.state == OPEN:
            left = self._open_until - self._now()
        elif self._probe is not None:
            left = min(self._lease_end - self._now(), PROBE_POLL)
        else:
            return None
        return Refusal(left) if left > 0 else None

    def _admit(self, lease: float) -> Ticket | Refusal:
        with self._lock:
            breaker = self._breaker
            if breaker is None or breaker.current_state == "closed":
                # It closed while we waited for the lock, or an interrupt cut off the recording that emptied _closed.
                self._closed = self._closed or Ticket()
                return self._closed
            refusal = self._refusal()
            if refusal is not None:
                return refusal
            transition = None
            if self.state == OPEN:
                breaker.half_open()
                transition = Transition(OPEN, HALF_OPEN)
            self._probed_at = self._now()
            self._lease_end = self._probed_at + lease
            self._probe = Ticket(probe=True, transition=transition)
            return self._probe

    def _record_closed(
        self, breaker: CircuitBreaker, ticket: Ticket, health: Health, retry_after: float | None
    ) -> Transition | None:
        # Emptied first, and put back if the circuit stays closed: whatever interrupts in between, nobody
        # passes unlooked-at through a circuit that has opened.
        self._closed = None
        if health is Health.SUCCESS:
            _tell(breaker, health)
            self._successes.add()
        else:
            row = 1 + breaker.fail_counter
            breaker.fail_max = row + 1 if self._comes_by_chance(row) else self._settings.fail_max
            _tell(breaker, health)
            self._failures.add()
            if self.state == CLOSED and self._too_many_failed():
                breaker.open()
            if self.state == OPEN:
                return self._opened(CLOSED, retry_after)
        self._streak = health is Health.FAILURE
        self._closed = ticket
        return None

    def _record_probe(self, breaker: CircuitBreaker, health: Health, retry_after: float | None) -> Transition | None:
        self._probe = None
        _tell(breaker, health)
        if health is Health.FAILURE:
            settings = self._settings
            # By steps, not by a power: that overflows after half a day of failed probes.
            grown = min(self._reset_timeout * settings.reset_factor, settings.reset_max)
            self._reset_timeout = max(grown, settings.reset_timeout)
            return self._opened(HALF_OPEN, retry_after, took=self._now() - self._probed_at)
        if self.state == HALF_OPEN:  # success_threshold asks for more
            return None
        self._start_afresh()
        return Transition(HALF_OPEN, CLOSED)

    def _start_afresh(self) -> None:
        """Be closed, and remember nothing of what opened it."""
        self._reset_timeout = self._settings.reset_timeout
        self._streak = False
        self._successes.clear()
        self._failures.clear()
        self._probe = None
        self._closed = Ticket()

    def _comes_by_chance(self, row: int) -> bool:
        """Whether so many failures in a row are to be expected of a server that fails as this one did before them."""
        settings = self._settings
        if row < settings.fail_max:
            return False
        buckets = 1
        while True:
            # The row's last failure is not counted yet, and those that left the window are not counted any more.
            failures = max(self._failures.total(buckets) - (row - 1), 0)
            calls = failures + self._successes.total(buckets)
            if calls >= _KNOWN * settings.min_calls:
                return calls * min(failures / calls, settings.failure_rate) ** row >= _BY_CHANCE
            if buckets > _BUCKETS:
                return False
            buckets *= 2

    def _too_many_failed(self) -> bool:
        failures = self._failures.total()
        calls = failures + self._successes.total()
        return calls >= self._settings.min_calls and failures >= self._settings.failure_rate * calls

    def _opened(self, old: str, retry_after: float | None, *, took: float = 0.0) -> Transition:
        # A wait that has grown is one from probe to probe, less the seconds that the last one took: a server that hangs
        # is asked as often as one that fails at once. After any failure it is left alone for reset_timeout.
        wait = max(self._reset_timeout - took, self._settings.reset_timeout, retry_after or 0.0)
        # The jitter goes on top of a Retry-After too: a whole fleet may have been told the same.
        wait *= 1 + _JITTER * self._random()
        self._open_until = self._now() + wait
        return Transition(old, OPEN, wait)

    def _load(self) -> CircuitBreaker:
        # Not before something fails: the import of pybreaker costs 23 ms, and 127 where redis is installed.
        from .circuit_storage import Storage

        with self._lock:
            if self._breaker is None:
                self._storage = Storage()
                self._breaker = self._on_storage(self._storage)
            return self._breaker

    def _on_storage(self, storage: Storage) -> CircuitBreaker:
        import pybreaker

        return pybreaker.CircuitBreaker(
            fail_max=self._settings.fail_max,
            success_threshold=self._settings.success_threshold,
            state_storage=storage,
            throw_new_error_on_trip=False,
        )


def _tell(breaker: CircuitBreaker, health: Health) -> None:
    # Through the state object, not breaker.call(): what is told has happened already, and our lock is held.
    if health is Health.SUCCESS:
        breaker.state.call(_succeeded)
        return
    try:
        breaker.state.call(_failed)
    except _FailedError as error:
        # pybreaker's frames hold the exception, whose traceback holds them: a cycle that would keep alive all that the
        # callers have in hand, sessions with open sockets among it, until the garbage collector comes by.
        error.__traceback__ = None


def _succeeded() -> None:
    return None


def _failed() -> None:
    raise _FailedError
