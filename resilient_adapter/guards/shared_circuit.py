"""One circuit for many processes: a record that says since when it is open, and whose probe is on its way.

A process counts failures by itself, and tells the others once they have opened its circuit. Whoever calls when a probe
is due takes the lease on it: one process of all does, and its outcome counts only as long as the lease is its own
(a fencing token, as in Kleppmann, "How to do distributed locking", 2016). No record: closed.
"""

from __future__ import annotations

import random as _random
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.model import Health
from ..state.store import Change, Record, Store, remaining
from .circuit import CLOSED, HALF_OPEN, OPEN, PROBE_POLL, Circuit, Refusal, Ticket, Transition

if TYPE_CHECKING:
    from ..clock import Clock
    from ..settings.schema import CircuitSettings

_KEPT = 60.0  # seconds for which an open circuit is remembered that nobody probes


class View(NamedTuple):
    """What a record says of an open circuit.

    Attributes:
        wait: seconds until a probe is due; 0 where it is.
        reset_timeout: the wait that it was opened with, without jitter; what the next failed probe multiplies.
        successes: probes in a row that have succeeded.
        probe: whose probe is on its way, or None.
        lease: seconds until that probe is given up.
    """

    wait: float
    reset_timeout: float
    successes: int
    probe: str | None
    lease: float


def view(value: Any, now: float) -> View | None:
    """Return what a record says at a time of the store's; None for closed, and for what is no record of ours."""
    try:
        probe = value["probe"]
        lease = remaining(probe["until"], probe["for"], now) if probe else 0.0
        return View(
            remaining(value["until"], value["for"], now),
            float(value["reset_timeout"]),
            int(value["successes"]),
            str(probe["id"]) if lease else None,
            lease,
        )
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


def _opened(now: float, wait: float, reset_timeout: float, successes: int = 0) -> dict[str, Any]:
    return {
        "until": now + wait,
        "for": wait,
        "reset_timeout": reset_timeout,
        "successes": successes,
        "probe": None,
    }


class CircuitRecord:
    """What one process does to the record of a circuit. What changes it asks the store, and returns what is so then.

    Args:
        record: the record.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    @property
    def gone(self) -> bool:
        """Whether there is none, as far as is known here."""
        return self._record.value is None

    def seen(self) -> View | None:
        """Return what it says, as far as is known here. This alone asks nobody."""
        return view(self._record.value, self._record.now())

    def open(self, wait: float, reset_timeout: float) -> None:
        """Tell that the circuit has opened. Where it is open already, that stays as it is.

        Args:
            wait: seconds until a probe is due.
            reset_timeout: the same without jitter.
        """

        def change(value: Any, now: float) -> Change | None:
            if view(value, now) is not None:
                return None
            return Change(_opened(now, wait, reset_timeout), wait + _KEPT)

        self._record.update(change)

    def acquire(self, probe: str, lease: float, reset_timeout: float) -> tuple[bool, View | None]:
        """Ask for the probe's lease.

        Args:
            probe: what the probe is to be known by.
            lease: seconds after which it is somebody else's turn.
            reset_timeout: what is known of it here, where the record has gone.

        Returns:
            whether it is ours; and the circuit as it is.
        """

        def change(value: Any, now: float) -> Change | None:
            known = view(value, now)
            if known is not None and (known.wait > 0 or known.probe is not None):
                return None
            # A record that has ended, or that its store has lost, closes nothing: it is for a probe to do that.
            base = _opened(now, 0.0, reset_timeout) if known is None else value
            return Change({**base, "probe": {"id": probe, "until": now + lease, "for": lease}}, lease + _KEPT)

        return self._update(change)

    def succeeded(self, probe: str, needed: int) -> tuple[bool, View | None]:
        """Tell that a probe has succeeded; one of ``needed`` in a row that close the circuit.

        Returns:
            whether the probe still had its lease; and the circuit as it is.
        """

        def change(_: Any, known: View, now: float) -> Change:
            if known.successes + 1 >= needed:
                return Change(None)
            return Change(_opened(now, 0.0, known.reset_timeout, known.successes + 1), _KEPT)

        return self._under(probe, change)

    def failed(self, probe: str, wait: float, reset_timeout: float) -> None:
        """Tell that a probe has failed; arguments as for :meth:`open`. One without its lease changes nothing."""
        self._under(probe, lambda _, __, now: Change(_opened(now, wait, reset_timeout), wait + _KEPT))

    def release(self, probe: str) -> None:
        """Give a probe's lease back without a verdict."""
        self._under(probe, lambda value, *_: Change({**value, "probe": None}, _KEPT))

    def withdraw(self, probe: str) -> None:
        """Give back a lease that was asked for, where it was given although no answer has come."""
        self._record.look()
        self.release(probe)

    def _under(self, probe: str, change: Callable[[Any, View, float], Change]) -> tuple[bool, View | None]:
        """Change the record, as long as a probe's lease on it lasts."""

        def checked(value: Any, now: float) -> Change | None:
            known = view(value, now)
            return change(value, known, now) if known is not None and known.probe == probe else None

        return self._update(checked)

    def _update(self, change: Callable[[Any, float], Change | None]) -> tuple[bool, View | None]:
        result = self._record.update(change)
        return result.changed, view(result.value, result.now)


class SharedCircuit(Circuit):
    """A circuit that is open in all processes, or in none.

    Closed, it asks nobody. No lock is held while the store is asked.

    Args:
        name: what it guards.
        settings: the settings group ``circuit``.
        clock: tells when an open circuit may be probed.
        random: for the jitter, in [0, 1).
        store: where its record is.
        key: the record's name.
    """

    def __init__(
        self,
        name: str,
        settings: CircuitSettings,
        clock: Clock,
        random: Callable[[], float] = _random.random,
        *,
        store: Store,
        key: str,
    ) -> None:
        super().__init__(name, settings, clock, random)
        record = store.record(key)
        self._shared = CircuitRecord(record)
        record.heard = self._hear  # not before there is what it looks at
        self._catch_up()

    def record(self, ticket: Ticket, health: Health, *, retry_after: float | None = None) -> Transition | None:
        if ticket.probe and health is Health.SUCCESS:
            return self._probe_succeeded(ticket)
        if health is Health.NEUTRAL:
            self.release(ticket)
            return None
        changed = super().record(ticket, health, retry_after=retry_after)
        if changed is None:
            return None
        wait = changed.retry_after or 0.0
        if ticket.probe:
            try:
                self._shared.failed(ticket.name, wait, self._reset_timeout)
            except BaseException:
                self._shared.withdraw(ticket.name)  # an interrupt: nobody waits for what is not told any more
                raise
        else:
            self._shared.open(wait, self._reset_timeout)
        self._catch_up()
        return changed

    def release(self, ticket: Ticket) -> None:
        ours = ticket.probe and ticket is self._probe
        super().release(ticket)
        if ours:
            self._shared.release(ticket.name)

    def _admit(self, lease: float) -> Ticket | Refusal:
        admitted = super()._admit(lease)
        if isinstance(admitted, Refusal) or not admitted.probe:
            return admitted
        # Nobody else here comes this far until the store has answered: the place is taken.
        name = uuid.uuid4().hex
        try:
            ours, seen = self._shared.acquire(name, lease, self._reset_timeout)
        except BaseException:
            super().release(admitted)
            self._shared.withdraw(name)  # an interrupt: no lease is left behind
            raise
        if ours:
            with self._lock:
                # Also where news of before have come in between.
                self._closed = None
                self._probe = admitted
                admitted.name = name
                self._half_open(0 if seen is None else seen.successes)
            return admitted
        super().release(admitted)
        self._catch_up()
        return self.refusal() or Refusal(PROBE_POLL)

    def _probe_succeeded(self, ticket: Ticket) -> Transition | None:
        if ticket is not self._probe:
            return None
        held, seen = self._shared.succeeded(ticket.name, self._settings.success_threshold)
        if not held:
            # It took longer than its lease: another process probes, or has.
            super().release(ticket)
            self._catch_up()
            return None
        with self._lock:
            if ticket is self._probe:
                # One more than are counted here, perhaps: others' may not have been heard of yet.
                self._half_open((self._settings.success_threshold if seen is None else seen.successes) - 1)
        changed = super().record(ticket, Health.SUCCESS)
        # The store's own word may have been heard sooner than its answer.
        return changed or (Transition(HALF_OPEN, CLOSED) if self.state == CLOSED else None)

    def _hear(self, value: Any, _: float) -> None:
        # Another thread may have asked the store since: what counts is what is known once the lock is held.
        if value is not None:
            self._catch_up()
            return
        # Another process's probe has succeeded, or a person said so.
        with self._lock:
            if self._shared.gone and self._breaker is not None and self.state != CLOSED:
                self._breaker.close()
                self._start_afresh()

    def _catch_up(self) -> None:
        """Be as the record says. Nothing is taken from one that is gone: to close is for a probe."""
        if self._shared.seen() is None:
            return
        try:
            breaker = self._breaker or self._load()
        except (ImportError, OSError):
            return  # no file handle is left: the store says so again
        with self._lock:
            seen = self._shared.seen()
            # Nothing is news to whoever is asking for the lease just now, and will look when it has the answer; nor,
            # to a probe, that it is on its way.
            if seen is None or (self._probe is not None and self._probe.name in ("", seen.probe)):
                return
            self._closed = None
            self._reset_timeout = seen.reset_timeout
            self._open_until = self._now() + seen.wait
            if seen.wait > 0 or not (seen.probe or seen.successes):
                self._probe = None
                if self.state != OPEN:
                    breaker.open()
                return
            self._half_open(seen.successes)
            self._probe = Ticket(probe=True, name=seen.probe) if seen.probe is not None else None
            self._lease_end = self._now() + seen.lease

    def _half_open(self, successes: int) -> None:
        """Be half-open, with so many probes in a row that have succeeded. Called with the lock held."""
        assert self._breaker is not None and self._storage is not None  # whoever probes has failed before
        if self.state != HALF_OPEN:
            self._breaker.half_open()
        self._storage.success_counter = successes
