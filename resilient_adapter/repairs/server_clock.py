"""What time it is on the server, estimated so that no timestamp is refused twice for the same reason.

A sample is one exchange: asked at one instant of our monotonic clock, answered at another, and the server read its
clock somewhere in between. Taking the middle is wrong by at most half the round trip, however unequal the two
directions were (Cristian, "Probabilistic clock synchronization", 1989), so the sample with the shortest round trip is
the best one; with time passing, all of them get worse by what two clocks drift apart (RFC 5905, sections 10 and 11.2).

The ``Date`` header of ordinary answers is deliberately not used: it has whole seconds, is often written by a proxy,
and a clock wrong enough for it to show is refused with -1021 anyway, which costs one send and is repaired exactly.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from ..clock import Clock
from .signed import SECONDS_BELOW

# Seconds that two clocks may drift apart in a second. RFC 5905 reckons with 15 ppm for a disciplined clock; commodity
# quartz without discipline is specified at about 50.
_DRIFT = 50e-6
# The server's own clock is read in whole milliseconds.
_RESOLUTION = 0.001

# Share of the receive window, as one over it, within which an answer is as good as any other.
_CLOSE = 100

# 10**14 ms is the year 5138, and beyond it only finer units are plausible.
_MILLISECONDS_BELOW = 10**14


class _Sample(NamedTuple):
    lead: float  # seconds by which the server's clock is ahead of our monotonic clock
    half: float  # half the round trip, in seconds: the error is at most this
    at: float  # when it was received, monotonic

    def drift(self, now: float) -> float:
        return _DRIFT * max(0.0, now - self.at)

    def uncertainty(self, now: float) -> float:
        return self.half + self.drift(now)


def _sample(server_ms: int, sent_at: float, received_at: float) -> _Sample:
    if received_at < sent_at:
        raise ValueError("a sample cannot be received before it was sent")
    return _Sample(server_ms / 1000 - (sent_at + received_at) / 2, (received_at - sent_at) / 2, received_at)


class _Flight:
    """One sync in progress: what the threads that wait for it wait on."""

    __slots__ = ("done", "succeeded")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.succeeded: bool | None = None  # None at the end: interrupted, it proved nothing


class ServerClock:
    """The server's time, as far as it is known; safe to use from many threads.

    Until the first sample it tells the wall time. From then on it rides the monotonic clock, so that a step of the
    operating system's clock cannot move it. It is wrong by at most half the best round trip, and by what the clocks
    have drifted apart since, which is subtracted: a timestamp in the server's future is refused sooner than an old one.
    Half a round trip early is not in the future by the time that it arrives: it was on its way for as long.

    A machine that was suspended may find its monotonic clock, and so this one, behind: that costs one -1021.

    Args:
        clock: the clock that everything goes by.
        fetch: asks the server once and returns its time in milliseconds; anything it raises is a failed sample.
        recv_window: the receive window of the requests that are signed by this clock, in milliseconds.
        samples: exchanges that a sync takes at most. The first often pays for the connection; more than one is
            worthwhile, unless it was answered within a hundredth of the receive window.
        interval: seconds after which an estimate should be renewed (see ``due``).
        backoff: seconds for which no sync is tried after one that failed.
    """

    def __init__(
        self,
        clock: Clock,
        fetch: Callable[[], int] | None = None,
        *,
        recv_window: int = 5000,
        samples: int = 3,
        interval: float = 600.0,
        backoff: float = 5.0,
    ) -> None:
        self._clock = clock
        self._fetch = fetch
        self._max_margin = recv_window / 4000
        self._close_enough = recv_window / 1000 / _CLOSE / 2
        self._samples = samples
        self._interval = interval
        self._backoff = backoff
        # Only ever replaced whole, so it is read without the lock.
        self._best: _Sample | None = None
        self._due_at = float("inf")
        self._generation = 0
        self._blocked_until = float("-inf")
        self._lock = threading.Lock()
        self._flight: _Flight | None = None

    def now_ms(self) -> int:
        """Return the server's time in milliseconds since the epoch."""
        best = self._best
        if best is None:
            return int(self._clock.time() * 1000)
        now = self._clock.monotonic()
        return int((now + best.lead - min(best.drift(now), self._max_margin)) * 1000)

    @property
    def offset(self) -> float | None:
        """Seconds by which the server is ahead of the local wall clock right now; None before the first sample."""
        best = self._best
        return None if best is None else self._clock.monotonic() + best.lead - self._clock.time()

    @property
    def generation(self) -> int:
        """How many syncs have succeeded: read it when signing, to tell ``sync`` which estimate was refused."""
        return self._generation

    def learn(self, server_ms: int, sent_at: float, received_at: float) -> None:
        """Take one sample into account.

        It is kept where it is more certain than the best one has become with age, or where the two cannot both be
        true: then the server's clock was set, and the newer one counts.

        Args:
            server_ms: the server's time in milliseconds since the epoch.
            sent_at: monotonic instant, in seconds, just before the question was sent.
            received_at: monotonic instant, in seconds, just after the answer came.

        Raises:
            ValueError: received before it was sent.
        """
        new = _sample(server_ms, sent_at, received_at)
        with self._lock:
            best = self._best
            if best is None:
                self._best = new
            else:
                aged = best.uncertainty(received_at)
                if new.half <= aged or abs(new.lead - best.lead) > new.half + aged + _RESOLUTION:
                    self._best = new
            self._due_at = received_at + self._interval

    def due(self, now: float) -> bool:
        """Return whether a fresh estimate is due: what keeps -1021 from coming back as the clocks drift apart.

        Never before the first sample (a clock that was never refused costs no request), and never while another
        thread is at it (the old estimate is good enough meanwhile).

        Args:
            now: monotonic instant, in seconds.
        """
        return now >= self._due_at and self._flight is None

    def sync(
        self,
        fetch: Callable[[], int] | None = None,
        *,
        generation: int | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Measure the server's time afresh; the best of the new samples replaces whatever was known.

        One thread measures, the others that ask meanwhile wait for it. The first sample that fails ends it: with none
        taken, the sync has failed, and for ``backoff`` seconds further ones fail at once, without a request.

        Args:
            fetch: in place of the one handed in at construction, where this call has its own timeouts, say.
            generation: the clock's ``generation`` when the refused request was signed. Where a sync has succeeded since
                then, that was the answer to the refusal, and nothing is asked. None: measure in any case.
            timeout: seconds that this call can spare: no second or third sample is begun after them, and another
                thread's sync is waited for no longer. None: as long as it takes.

        Returns:
            Whether the server's time was learned; False where there is no ``fetch`` at all.
        """
        ask = self._fetch if fetch is None else fetch
        if ask is None:
            return False
        while True:
            with self._lock:
                if generation is not None and self._generation != generation:
                    return True
                flight = self._flight
                if flight is None:
                    if self._clock.monotonic() < self._blocked_until:
                        return False
                    own = self._flight = _Flight()
                    break
            # Not by the clock handed in: this waits for another thread, not for time to pass.
            if not flight.done.wait(timeout):
                return False
            if flight.succeeded is not None:
                return flight.succeeded
            # The thread that measured was interrupted. Somebody else has to.
        return self._measure(own, ask, timeout)

    def _measure(self, flight: _Flight, ask: Callable[[], int], timeout: float | None) -> bool:
        started = sent_at = self._clock.monotonic()
        taken: list[_Sample] = []
        try:
            while True:
                try:
                    server_ms = ask()
                except Exception:
                    break
                received_at = self._clock.monotonic()
                taken.append(_sample(server_ms, sent_at, received_at))
                if len(taken) >= self._samples or taken[-1].half <= self._close_enough:
                    break
                if timeout is not None and received_at - started >= timeout:
                    break
                sent_at = self._clock.monotonic()
            flight.succeeded = bool(taken)
        finally:
            # Also on the way out of an interruption: what was learned is kept, and nobody is left waiting.
            with self._lock:
                now = self._clock.monotonic()
                if taken:
                    self._best = min(taken, key=lambda sample: sample.half)
                    self._generation += 1
                    self._due_at = now + self._interval
                elif flight.succeeded is False:
                    self._blocked_until = now + self._backoff
                    if self._best is not None:
                        self._due_at = now + self._interval
                self._flight = None
            flight.done.set()
        return bool(taken)

    def reset_after_fork(self) -> None:
        """Forget locks and syncs that threads of the parent hold; the estimate stays good in the child."""
        self._lock = threading.Lock()
        self._flight = None


def parse_server_time(body: bytes, field: str | None = None) -> int:
    """Return the server's time, in milliseconds since the epoch, from the body of its answer.

    The value is an integer or a string of digits. Below 10**11 it is read as seconds, from there to 10**14 as
    milliseconds.

    Args:
        body: the JSON document.
        field: the dotted path of the value. None: ``serverTime``, ``data.serverTime`` or ``data``, the first that
            holds a time.

    Raises:
        ValueError: no such value there.
    """
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("the server's time cannot be read: nested too deeply") from None
    for path in (field,) if field is not None else ("serverTime", "data.serverTime", "data"):
        milliseconds = _epoch_ms(_at(document, path))
        if milliseconds is not None:
            return milliseconds
    raise ValueError(f"the answer holds no time at {field or 'serverTime, data.serverTime or data'}")


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def _epoch_ms(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if type(value) is not int or not 0 < value < _MILLISECONDS_BELOW:  # not isinstance: True is no time
        return None
    return value * 1000 if value < SECONDS_BELOW else value
