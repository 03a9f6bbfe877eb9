"""What a store has to bear from a fleet of very many processes, and what the fleet spares its API; on a virtual clock.

    python tests/benchmarks/shared_fleet.py [--processes 10000] [--rate 1] [--outage 30] [--delay 0.01]

The package's own circuits, cooldowns, retry budgets and token leases share records in memory, in place of a store:
what they ask for is counted. A change is known to the others after ``--delay`` seconds. Everything else is the world
of ``resilient-adapter simulate``. Beside each figure is what one reckons on paper.
"""

from __future__ import annotations

import argparse
import gc
import random
from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from support import row, table

from resilient_adapter import Settings, Token
from resilient_adapter.guards.shared_circuit import SharedCircuit
from resilient_adapter.guards.shared_rate_limit import SharedRateLimit
from resilient_adapter.guards.shared_retry_budget import SharedRetryBudget
from resilient_adapter.repairs.shared_token import SharedToken, fernet
from resilient_adapter.simulation.contenders import contenders, simulate
from resilient_adapter.simulation.process import Process
from resilient_adapter.simulation.record import Record
from resilient_adapter.simulation.world import Call, Scenario, VirtualClock, play
from resilient_adapter.state.backend import Seen
from resilient_adapter.state.memory import MemoryBackend
from resilient_adapter.state.store import Store

LOGIN = 0.1  # seconds that a login takes
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
LISTENER_PINGS = 2.0  # seconds of silence after which a listener of Redis asks whether the server is there


class Shared(MemoryBackend):
    """Records in memory that count what they are asked for in each second, and are heard of a while later.

    Args:
        clock: tells the time.
        delay: seconds from a change until the others know of it.
    """

    def __init__(self, clock: VirtualClock, delay: float) -> None:
        super().__init__(clock.monotonic)
        self._clock = clock
        self._delay = delay
        self._due: list[float] = []
        self.stores: list[Store] = []
        self.commands: Counter[int] = Counter()
        self.budget: Counter[int] = Counter()  # those that are about repeats
        self.changes: Counter[int] = Counter()

    def swap(self, key: str, version: int, value: str | None, ttl: float, *, tell: bool = True) -> Seen:
        second = int(self._clock.now // 1)
        (self.budget if key.startswith("budget:") else self.commands)[second] += 1
        seen = super().swap(key, version, value, ttl, tell=tell)
        if seen.swapped and tell:
            self.changes[second] += 1
            self._due.append(self._clock.now + self._delay)
        return seen

    def read(self, keys: Sequence[str]) -> list[Seen]:
        self.commands[int(self._clock.now // 1)] += 1
        return super().read(keys)

    def deliver(self) -> None:
        """Let all hear of the changes that are known by now."""
        while self._due and self._due[0] <= self._clock.now:
            self._due.pop(0)
            for store in self.stores:
                store.listen(0.0)

    def join(self, clock: VirtualClock) -> Store:
        """Return the store of one more process."""
        store = Store(self, clock, _never, threaded=False)
        store.listen(0.0)
        self.stores.append(store)
        return store


def _never(text: str) -> None:
    raise AssertionError(text)


class SharingProcess(Process):
    """A process of the simulation whose guards are shared."""

    def __init__(
        self, settings: Settings, clock: VirtualClock, chance: Callable[[], float], shared: Shared, answer: int
    ) -> None:
        super().__init__(settings, clock, chance, answer=answer)
        self._shared = shared
        store = shared.join(clock)
        self._circuit = SharedCircuit("server", settings.circuit, clock, chance, store=store, key="circuit:server")
        self._line = SharedRateLimit(settings.rate_limit, clock, store=store, name="server")
        self._budget = SharedRetryBudget(settings.retry, clock, store=store, name="server")
        self._admit = self._circuit.admit

    def call(self) -> Call:
        inner, answer = super().call(), None
        while True:
            self._shared.deliver()
            try:
                answer = yield inner.send(answer)
            except StopIteration as end:
                return bool(end.value)


class Outcome(NamedTuple):
    """What came of a scenario.

    Attributes:
        record: at the server.
        shared: at the store.
    """

    record: Record
    shared: Shared


def happen(scenario: Scenario, settings: Settings, delay: float) -> Outcome:
    """Let a scenario happen to a fleet that shares its guards."""
    clock = VirtualClock()
    chance = scenario.chance("clients").random
    shared = Shared(clock, delay)
    processes = [SharingProcess(settings, clock, chance, shared, scenario.answer) for _ in range(scenario.processes)]
    shared.commands.clear()
    return Outcome(play(scenario, [process.call for process in processes], clock), shared)


def expiry(processes: int, rate: float, delay: float) -> tuple[Shared, int]:
    """Let the token of a whole fleet expire at time 0; return the store, and how many logins there were."""
    clock = VirtualClock(0.0)
    shared = Shared(clock, delay)
    cipher, logins = fernet(KEY), 0
    tokens: list[Token | None] = [None] * processes
    number = 0
    events: list[tuple[float, int, int]] = []

    def run(until: float) -> None:
        while events and events[0][0] <= until:
            clock.now, _, process = events.pop(0)
            shared.deliver()
            need(process)
        clock.now = until
        shared.deliver()

    def log_in() -> Token:
        nonlocal logins
        logins += 1
        run(clock.now + LOGIN)
        return Token("fresh")

    def need(process: int) -> None:
        nonlocal number
        if tokens[process] is not None:
            return
        tokens[process] = fetchers[process].fetch(lambda token: token.value != "stale", log_in, clock.now)
        if tokens[process] is None:  # somebody has the lease: one hears when it is over
            number += 1
            insort(events, (clock.now + LOGIN / 10, number, process))

    def heard(process: int) -> Callable[[Token], object]:
        return lambda token: tokens.__setitem__(process, token)

    fetchers = [
        SharedToken(shared.join(clock), "token:server", cipher, clock, heard(process)) for process in range(processes)
    ]
    shared.commands.clear()
    chance = random.Random(1).random
    for process in range(processes):
        number += 1
        events.append((chance() / rate, number, process))
    events.sort()
    run(1.0 / rate + 1.0)
    assert all(tokens)
    return shared, logins


def _load(shared: Shared, begin: int, end: int) -> tuple[int, int, int, int]:
    """Return of some seconds: commands, those about repeats, most in a second, and changes that all were told of."""
    seconds = range(begin, end)
    most = max(shared.commands[second] + shared.budget[second] for second in seconds)
    commands, budget, changes = (
        sum(counted[second] for second in seconds) for counted in (shared.commands, shared.budget, shared.changes)
    )
    return commands, budget, most, changes


def main() -> None:
    """Print a row for each phase."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=1.0, help="calls per second of each process")
    parser.add_argument("--outage", type=float, default=30.0, help="seconds that the server answers -1008")
    parser.add_argument("--cooldown", type=float, default=10.0, help="seconds for which -1003 closes it")
    parser.add_argument("--delay", type=float, default=0.01, help="seconds until a change is known to all")
    args = parser.parse_args()
    gc.disable()  # nothing here is freed in time for it to matter
    n, demand, delay, outage = args.processes, args.processes * args.rate, args.delay, args.outage
    settings = Settings.from_mapping({"rate_limit": {"wait": args.cooldown}})
    scenario = Scenario(n, args.rate, outage, processes=n)
    sharing = happen(scenario, settings, delay)
    (alone,) = (one for one in contenders(settings, scenario) if one.parts == n and one.name.startswith("these"))
    throttled = happen(Scenario(n, args.rate, 1.0, answer=-1003, processes=n), settings, delay)
    tokens, logins = expiry(n, args.rate, delay)

    over = int(outage) + 35
    circuit = settings.circuit
    # Whoever comes while a lease is taken, and has not heard of it, asks for it in vain. Each failed probe doubles the
    # wait until the next, a twentieth longer on average for the jitter.
    probes, due, wait = 0, circuit.reset_timeout * 1.05, circuit.reset_timeout
    while due < outage:
        probes += 1
        wait = min(wait * circuit.reset_factor, circuit.reset_max)
        due += wait * 1.05

    print(f"{n:,} processes, {args.rate:g} calls/s each; a change is known to all after {1000 * delay:g} ms")
    table("phase", "commands", "on paper", "and of repeats", "most in a second", "changes told to all", "on paper",
          "messages")  # fmt: skip
    phases = [
        ("30 s of health", sharing, (-30, 0), 0, 0),
        (f"outage of {outage:g} s", sharing, (0, int(outage)), 1 + probes * (2 + demand * delay),
         1 + 2 * probes),
        ("and the 35 s after it", sharing, (int(outage), over), 2 + demand * delay, 2),
        ("-1003, and the cooldown", throttled, (0, int(args.cooldown)), 1, 1),
        ("the cooldown's end, 20 s", throttled, (int(args.cooldown), int(args.cooldown) + 20), 0, 0),
        ("a token's expiry", Outcome(sharing.record, tokens), (0, int(1 / args.rate) + 2), 2 + demand * delay, 2),
    ]  # fmt: skip
    for name, seen, (begin, end), paper, told in phases:
        commands, budget, most, changes = _load(seen.shared, begin, end)
        row(name, f"{commands:,}", f"{paper:,.0f}", f"{budget:,}", f"{most:,}", changes, told, f"{changes * n:,}")
    print(f"\nBeside these: {n / LISTENER_PINGS:,.0f} PING/s of Redis listeners that hear nothing; logins: {logins}.")

    table("in the outage", "requests at the server", "over the calls that began", "recovered after", "calls failed")
    for name, record in (("shared", sharing.record), ("each process by itself", simulate(scenario, alone))):
        recovery = "never" if record.recovery is None else f"{record.recovery:.1f} s"
        row(
            name,
            f"{record.amplification * demand * outage:,.0f}",
            f"{record.amplification:.4f}",
            recovery,
            f"{record.failures:,}",
        )


if __name__ == "__main__":
    main()
