"""Who makes the calls: the adapter, and what else is used to repeat requests.

The others are modelled by the formulas that their documentation gives. None of them is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from ..settings.schema import Settings
from .process import Process
from .record import Record
from .world import Answer, Call, Clients, Scenario, Send, VirtualClock, play


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
        began = clock.monotonic()
        for sent in range(1, self.sends + 1):
            if (yield send) is Answer.OK:
                return True
            if sent == self.sends or clock.monotonic() - began >= self.until:
                break
            yield self.wait(sent, random())
        return False


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
        clients: makes what begins its calls, for each of its processes.
    """

    name: str
    clients: Callable[[VirtualClock, Callable[[], float]], Clients]


def contenders(settings: Settings, scenario: Scenario) -> list[Contender]:
    """Return who is compared: these settings in one process and in several, and the recipes.

    Args:
        settings: the settings. Their timeout is replaced by the scenario's.
        scenario: says how many processes there are, and how long clients wait for an answer.
    """
    settings = dataclasses.replace(settings, mode="enforce", read_timeout=scenario.timeout)
    send = Send(scenario.timeout)

    def adapter(processes: int) -> Contender:
        name = "these settings, 1 process" if processes == 1 else f"these settings, {processes} processes"
        return Contender(
            name,
            lambda clock, random: [Process(settings, clock, random).call for _ in range(processes)],
        )

    def recipe(name: str, one: Recipe) -> Contender:
        return Contender(name, lambda clock, random: [lambda: one.call(send, clock, random)])

    return [
        *(adapter(processes) for processes in sorted({1, scenario.processes})),
        *(recipe(name, one) for name, one in RECIPES.items()),
    ]


def simulate(scenario: Scenario, contender: Contender) -> Record:
    """Let a scenario happen to a contender, and return what came of it; the same each time."""
    clock = VirtualClock()
    return play(scenario, contender.clients(clock, scenario.chance("clients").random), clock)
