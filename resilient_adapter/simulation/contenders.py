"""Who makes the calls: the adapter, and what else is used to repeat requests.

The others are modelled by the formulas that their documentation gives. None of them is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..settings.schema import Settings
from .process import Process
from .record import Record
from .world import Answer, Call, Clients, Scenario, Send, VirtualClock, play

# Samples hold at least so many calls per second, and so many parts: twice as many change no figure by a hundredth.
_MANY_CALLS = 2000
_MANY_PARTS = 20


class Recipe(NamedTuple):
    """Sends until one is answered well, waiting in between; nothing is remembered from one call to the next.

    Attributes:
        sends: how many at most.
        wait: from the number of sends so far and a random number in [0, 1), seconds to wait before the next.
        until: seconds from the beginning of a call after which it is not sent again.
    """

    sends: int
    wait: Callable[[int, float], float]
    until: float = float("inf")

    def call(self, send: Send, clock: VirtualClock, random: Callable[[], float]) -> Call:
        """Make one call."""
        began, sent = clock.monotonic(), 1
        while (yield send) is not Answer.OK:
            if sent == self.sends or clock.monotonic() - began >= self.until:
                return False
            yield self.wait(sent, random())
            sent += 1
        return True


RECIPES = {
    # "Retry Strategy": (2 ** attempt) + random.random(), max_retries=3, attempts counted from 0.
    "the reference's recipe": Recipe(3, lambda sent, u: 2.0 ** (sent - 1) + u),
    # urllib3.util.Retry(total=3, backoff_factor=1, status_forcelist=[503]): nothing before the first repeat, then
    # {backoff factor} * 2 ** ({errors in a row} - 1).
    "urllib3 Retry": Recipe(4, lambda sent, _: 2.0 ** (sent - 1) if sent > 1 else 0.0),
    # tenacity.wait_exponential_jitter, min(initial * 2 ** n + uniform(0, jitter), max), with the numbers that stamina
    # gives it: initial 0.1, jitter 1, max 5, stopped after 10 attempts or 45 seconds.
    "tenacity (stamina)": Recipe(10, lambda sent, u: min(0.1 * 2.0 ** (sent - 1) + u, 5.0), 45.0),
    "no retries": Recipe(1, lambda *_: 0.0),
}


class Contender(NamedTuple):
    """One row of the comparison.

    Attributes:
        name: what it is called there.
        clients: makes what begins its calls in a scenario, for each of its processes.
        parts: into how many parts its clients fall that share nothing with each other.
    """

    name: str
    clients: Callable[[Scenario, VirtualClock, Callable[[], float]], Clients]
    parts: int


def contenders(settings: Settings, scenario: Scenario) -> list[Contender]:
    """Return who is compared: these settings in one process and in several, and the recipes.

    Args:
        settings: the settings. Their read timeout is replaced by the scenario's.
        scenario: what will happen to them.
    """
    settings = settings._replace(mode="enforce", read_timeout=scenario.timeout)

    def adapter(processes: int) -> Contender:
        def clients(scenario: Scenario, clock: VirtualClock, random: Callable[[], float]) -> Clients:
            count = min(processes, scenario.processes)
            return [Process(settings, clock, random, answer=scenario.answer).call for _ in range(count)]

        return Contender(f"these settings, {processes} process{'es' * (processes > 1)}", clients, processes)

    def repeating(name: str, recipe: Recipe) -> Contender:
        def clients(scenario: Scenario, clock: VirtualClock, random: Callable[[], float]) -> Clients:
            return [partial(recipe.call, Send(scenario.timeout), clock, random)]

        return Contender(name, clients, scenario.clients)

    return [
        *(adapter(processes) for processes in sorted({1, scenario.processes})),
        *(repeating(name, recipe) for name, recipe in RECIPES.items()),
    ]


def simulate(scenario: Scenario, contender: Contender) -> Record:
    """Let a scenario happen to a contender, and return what came of it; the same each time.

    Of many clients that share nothing but the server, a sample is followed, against its share of the server.
    """
    scale = max(1, min(int(scenario.demand / _MANY_CALLS), contender.parts // _MANY_PARTS))
    sample = dataclasses.replace(
        scenario, clients=scenario.clients // scale, processes=max(1, scenario.processes // scale)
    )
    clock = VirtualClock()
    clients = contender.clients(sample, clock, scenario.chance("clients").random)
    return play(sample, clients, clock, scale=scenario.clients / sample.clients)
