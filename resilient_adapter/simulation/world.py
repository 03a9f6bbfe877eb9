"""The world that is simulated: a clock, clients that call, and a server that has an outage.

Time is in seconds, and 0 is when the outage begins. A call is a generator: it yields seconds to wait or a
:class:`Send`, is resumed when they are over or with the :class:`Answer`, and returns whether it succeeded.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import NamedTuple

from .record import TICKS, Record

#: Seconds of calls before the outage: a circuit's window reaches back as far by default.
WARM_UP = 30.0
#: Seconds of calls after it: twice what a circuit waits at most, by default, until it is probed again.
AFTER = 60.0

#: Seconds from a request to its answer where nothing is queued; being turned away takes as long.
LATENCY = 0.02
#: The server's queue, in seconds of work: a request that would wait longer is turned away.
QUEUE = 0.5


class Answer(IntEnum):
    """What a request brings its client."""

    OK = 0
    FAILED = 1  # the outage's answer
    BUSY = 2  # a 503 with code -1008: the server's queue is full
    NOTHING = 3  # within the timeout


class Send(NamedTuple):
    """One request, and how many seconds its client waits for the answer."""

    timeout: float


Call = Generator["float | Send", "Answer | None", bool]

Clients = Sequence[Callable[[], Call]]
"""What begins a call, for each process."""


_Event = tuple[float, int, Call, "Answer | None", bool]
"""When, a number, which call goes on, with what answer, and whether it began in the outage."""


class VirtualClock:
    """A :class:`~resilient_adapter.clock.Clock` that is set from one event to the next."""

    __slots__ = ("now",)

    def __init__(self, now: float = -WARM_UP) -> None:
        self.now = now

    def monotonic(self) -> float:
        """Return the time of the present event."""
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        """Let the time pass. Calls do not: they yield."""
        self.now += seconds


@dataclass(frozen=True)
class Scenario:
    """What happens.

    Attributes:
        clients: how many there are. Each begins its calls on a timer, whether or not those before have ended.
        rate: calls per second of one client.
        outage: seconds that it lasts.
        timeout: seconds that a client waits for an answer.
        answer: what the server answers at once in the outage: a code of the envelope, or an HTTP status.
        hang: it does not answer in the outage.
        partial: share of the requests that fail in the outage, each by chance.
        capacity: requests per second that the server can do, as a multiple of the demand.
        processes: how many processes the clients are spread over, where these share nothing.
        seed: of all that is left to chance.
    """

    clients: int
    rate: float
    outage: float
    timeout: float = 30.0
    answer: int = -1008
    hang: bool = False
    partial: float = 1.0
    capacity: float = 1.2
    processes: int = 1
    seed: int = 1

    @property
    def demand(self) -> float:
        """Calls per second of all clients together: what the server would see without retries."""
        return self.clients * self.rate

    def chance(self, what: str) -> Random:
        """Return the source of all that is left to chance in one part of the world."""
        return Random(f"{self.seed} {what}")

    def begins(self) -> Iterator[tuple[float, int]]:
        """Return when calls begin, in order, and whose they are.

        The clients' timers are spread evenly, each somewhere in a gap of its own: the demand has no peaks, so that
        whatever peak the server sees is of the retries' making.
        """
        chance = self.chance("timers").random
        period = 1 / self.rate
        offsets = [(client + chance()) / self.demand for client in range(self.clients)]
        start, end = -WARM_UP, self.outage + AFTER
        for rounds in range(math.ceil((end - start) / period)):
            for client, offset in enumerate(offsets):
                begin = start + rounds * period + offset
                if begin < end:
                    yield begin, client


class Server:
    """Works off one request after the other, turns away what it cannot queue, and fails in the outage."""

    def __init__(self, scenario: Scenario) -> None:
        self._outage = scenario.outage
        self._hang = scenario.hang
        self._partial = scenario.partial
        self._chance = scenario.chance("server").random
        self._work = 1 / (scenario.capacity * scenario.demand)  # seconds that one request takes
        self._free_at = -math.inf

    def receive(self, now: float, timeout: float) -> tuple[Answer, float]:
        """Return what a request brings its client, and after how many seconds."""
        answer, delay = Answer.FAILED, LATENCY
        if 0 <= now < self._outage and (self._partial >= 1 or self._chance() < self._partial):
            if self._hang:
                return Answer.NOTHING, timeout
        else:
            queued = max(self._free_at - now, 0.0)
            if queued > QUEUE:
                answer = Answer.BUSY
            else:
                # Worked off even if its client has gone by then: the server does not know.
                self._free_at = now + queued + self._work
                answer, delay = Answer.OK, LATENCY + queued
        return (answer, delay) if delay <= timeout else (Answer.NOTHING, timeout)


def play(scenario: Scenario, clients: Clients, clock: VirtualClock, *, scale: float = 1.0) -> Record:
    """Let a scenario happen, until every call has ended.

    Args:
        scenario: what happens.
        clients: what begins a call, for each process.
        clock: the clock that they go by.
        scale: how many times as many clients these stand for.
    """
    receive = Server(scenario).receive
    record = Record(scenario.demand, scenario.outage, warm_up=WARM_UP, after=AFTER, scale=scale)
    processes, outage = len(clients), scenario.outage
    begins = scenario.begins()
    begin, client = next(begins)
    # Events are kept by the tick that they fall into, and put in order only when it has come: one heap of all that
    # wait takes twice the time. The number keeps apart what happens at one time.
    later: defaultdict[int, list[_Event]] = defaultdict(list)
    brings: Answer | None
    number = tick = arrived = due_sends = 0
    while tick < record.ticks or later:
        events = later.pop(tick, [])
        tick += 1
        until = tick / TICKS - WARM_UP
        begun = requests = ended = failed = 0
        while begin < until:
            number += 1
            due = 0 <= begin < outage
            events.append((begin, number, clients[client % processes](), None, due))
            begun += 1
            record.due += due
            begin, client = next(begins, (math.inf, 0))
        events.sort()  # of a few runs that are in order: that takes next to no time
        for at, (now, _, call, answer, due) in enumerate(events, 1):
            clock.now = now
            try:
                step = call.send(answer)
            except StopIteration as end:
                ended += 1
                failed += not end.value
                continue
            if isinstance(step, Send):
                requests += 1
                due_sends += due
                arrived += 0 <= now < outage
                brings, delay = receive(now, step.timeout)
                then = now + delay
            else:
                brings, then = None, now + step
            number += 1
            slot = int((then + WARM_UP) * TICKS)
            if slot < tick:
                insort(events, (then, number, call, brings, due), at)
            else:
                later[slot].append((then, number, call, brings, due))
        record.tick(begun, requests, ended, failed)
    record.arrived, record.due_sends = arrived, due_sends
    return record
