"""The circuit breaker: when an origin is left alone, and how it is asked again."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient_adapter.core.model import Health
from resilient_adapter.guards import circuit as circuit_module
from resilient_adapter.guards.circuit import Circuit, Refusal, Ticket, Transition
from resilient_adapter.testing import FakeClock

S, F, N = Health.SUCCESS, Health.FAILURE, Health.NEUTRAL
LEASE = 30.0


@dataclass(frozen=True)
class CircuitSettings:
    """The defaults of the contract."""

    fail_max: int = 5
    reset_timeout: float = 2.0
    success_threshold: int = 1
    reset_factor: float = 2.0
    reset_max: float = 30.0
    failure_rate: float = 0.5
    window: float = 30.0
    min_calls: int = 20


def make(clock: FakeClock, jitter: float = 0.0, **settings: Any) -> Circuit:
    """Return a circuit whose every random number is the same."""
    values: Any = CircuitSettings(**settings)
    return Circuit("https://a.example", values, clock, lambda: jitter)


def admitted(circuit: Circuit, lease: float = LEASE) -> Ticket:
    """Return the ticket of a request that must be let through."""
    ticket = circuit.admit(lease)
    assert isinstance(ticket, Ticket), ticket
    return ticket


def call(circuit: Circuit, health: Health, retry_after: float | None = None) -> Transition | None:
    """Make one call that ends at once."""
    return circuit.record(admitted(circuit), health, retry_after=retry_after)


def trip(circuit: Circuit, retry_after: float | None = None) -> float:
    """Fail until the circuit opens, and return the seconds until the probe."""
    while (transition := call(circuit, F, retry_after)) is None:
        pass
    assert (transition.old, transition.new) == ("closed", "open") and transition.retry_after is not None
    return transition.retry_after


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([], "closed"),
        ([F] * 4, "closed"),
        ([F] * 5, "open"),
        ([F] * 4 + [S] + [F] * 4, "closed"),
        ([F] * 4 + [S] + [F] * 5, "open"),
        ([F] * 4 + [N] + [F], "open"),  # what says nothing ends no row
        ([N] * 100, "closed"),
        ([S] * 100 + [F] * 5, "open"),
        ([F, S] * 9 + [F], "closed"),  # half of them, but one call too few
        ([F, S] * 9 + [N] * 9 + [F], "closed"),  # what says nothing is no call
        ([F, S] * 10, "closed"),  # a success opens nothing
        ([F, S] * 10 + [F], "open"),
        ([F, S, S] * 40, "closed"),
        ([S] * 20 + [F, F, F, F, S] * 6 + [F], "closed"),  # 25 of 51
        ([S] * 20 + [F, F, F, F, S] * 6 + [F, F], "open"),  # 26 of 52
    ],
)
def test_what_opens(clock: FakeClock, outcomes: list[Health], state: str) -> None:
    """Failures in a row open the circuit, and so does their share of enough calls."""
    circuit = make(clock)
    for health in outcomes:
        call(circuit, health)
    assert circuit.state == state


@pytest.mark.parametrize(("pause", "state"), [(0.0, "open"), (28.0, "open"), (30.0, "closed"), (300.0, "closed")])
def test_the_share_is_that_of_the_window(clock: FakeClock, pause: float, state: str) -> None:
    """Calls that left the window count no more."""
    circuit = make(clock)
    for health in [F, S] * 10:
        call(circuit, health)
    clock.advance(pause)
    call(circuit, F)
    assert circuit.state == state


def fail_in_part(circuit: Circuit, calls: int, failures: int) -> None:
    """Make calls of which some fail, at most every other one, evenly spread and not the last one."""
    for n in range(calls):
        call(circuit, F if n * failures % calls < failures else S)


def row_that_opens(circuit: Circuit) -> int:
    """Fail until the circuit opens, and return how often."""
    row = 1
    while call(circuit, F) is None:
        row += 1
    return row


class TestFailingInPart:
    """A row of failures is no news of a server that is known to fail in part, unless chance does not explain it."""

    @pytest.mark.parametrize(
        ("calls", "failures", "settings", "row"),
        [
            (0, 0, {}, 5),
            (1000, 0, {}, 5),  # as pybreaker has it, however many calls there were
            (1000, 1, {}, 5),
            (1000, 20, {}, 5),
            (20, 9, {}, 5),
            (99, 45, {}, 5),  # too few calls to know a rate from
            (100, 5, {}, 5),
            (100, 15, {}, 7),
            (100, 30, {}, 10),
            (300, 90, {}, 11),
            (10_000, 3_000, {}, 14),
            (300, 135, {}, 16),
            (100, 30, {"fail_max": 8}, 10),
            (100, 30, {"fail_max": 12}, 12),  # never fewer than fail_max
            (100, 30, {"min_calls": 21}, 5),
            (20, 6, {"min_calls": 4}, 9),
            (300, 135, {"failure_rate": 0.3}, 11),  # a rate beyond failure_rate is taken for that
        ],
    )
    def test_the_row_that_opens(
        self, clock: FakeClock, calls: int, failures: int, settings: dict[str, Any], row: int
    ) -> None:
        """It is fail_max, or where a rate of failures is known, so long that chance would hardly make one."""
        circuit = make(clock, **{"failure_rate": 1.0, **settings})
        circuit._too_many_failed = lambda: False  # type: ignore[method-assign]
        fail_in_part(circuit, calls, failures)
        assert row_that_opens(circuit) == row

    @pytest.mark.parametrize(
        ("pause", "healthy", "row"),
        [
            (0.0, 0, 11),
            (0.0, 200, 8),  # in the same second: the rate is lower, and known from more calls
            (1.0, 200, 5),  # what was before the latest calls is no news any more
            (10.0, 0, 11),  # the latest calls, however long ago
            (30.0, 0, 5),  # but no longer ago than the window reaches
        ],
    )
    def test_the_rate_is_that_of_the_latest_calls(self, clock: FakeClock, pause: float, healthy: int, row: int) -> None:
        """A server that has come to itself, or has not been heard of for a while, is given no more credit."""
        circuit = make(clock)
        fail_in_part(circuit, 300, 90)
        clock.advance(pause)
        for _ in range(healthy):
            call(circuit, S)
        assert row_that_opens(circuit) == row

    def test_a_slow_row(self, clock: FakeClock) -> None:
        """A row that outlasts the window is judged without what was known before it."""
        circuit = make(clock)
        fail_in_part(circuit, 300, 90)
        for row in range(1, 5):
            clock.advance(10.0)
            assert call(circuit, F) is None, row
        assert call(circuit, F) is not None

    def test_a_clean_slate_has_no_rate(self, clock: FakeClock) -> None:
        """What failed before the circuit opened does not lengthen the row after it closed."""
        circuit = make(clock)
        fail_in_part(circuit, 300, 90)
        clock.advance(trip(circuit))
        call(circuit, S)
        assert row_that_opens(circuit) == 5

    @given(st.integers(100, 3000), st.floats(0.0, 0.49), st.integers(1, 8))
    @limits(max_examples=30)
    def test_the_longer_row_is_the_shortest_that_chance_does_not_explain(
        self, calls: int, rate: float, fail_max: int
    ) -> None:
        """At most a thousandth of such a row is to be expected of the calls before it, and of a shorter one more."""
        circuit = make(FakeClock(), fail_max=fail_max, failure_rate=1.0)
        failures = int(calls * rate)
        for _ in range(failures):
            circuit._failures.add()
        for _ in range(calls - failures):
            circuit._successes.add()
        row = row_that_opens(circuit)
        assert row >= fail_max
        assert calls * (failures / calls) ** row < 1e-3
        assert row == fail_max or calls * (failures / calls) ** (row - 1) >= 1e-3

    @pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.4])
    def test_chance_alone_hardly_opens_it(self, clock: FakeClock, rate: float) -> None:
        """Of 20 circuits that see 1000 calls fail by chance at a rate that they know, next to none opens."""
        opened = 0
        for seed in range(20):
            chance = Random(seed)
            circuit = make(clock)
            fail_in_part(circuit, 200, round(200 * rate))
            for _ in range(1000):
                if call(circuit, F if chance.random() < rate else S) is not None:
                    opened += 1
                    break
        assert opened <= 1

    @given(st.floats(0.05, 0.45), st.integers(0, 100))
    @limits(max_examples=30)
    def test_an_outage_is_noticed_all_the_same(self, rate: float, seed: int) -> None:
        """Whatever a server's failures were before, a couple of dozen in a row open the circuit."""
        circuit, chance = make(FakeClock()), Random(seed)
        for _ in range(300):
            if call(circuit, F if chance.random() < rate else S) is not None:
                return
        assert row_that_opens(circuit) <= 20


def test_opening_is_reported_once_with_its_wait(clock: FakeClock) -> None:
    """The failure that opens returns the transition; those before it return none."""
    circuit = make(clock)
    assert [call(circuit, F) for _ in range(4)] == [None] * 4
    assert call(circuit, F) == Transition("closed", "open", 2.0)
    assert circuit.refusal() == circuit.admit(LEASE) == Refusal(2.0)
    clock.advance(1.5)
    assert circuit.admit(LEASE) == Refusal(0.5)


def test_the_way_back(clock: FakeClock) -> None:
    """After the wait one request probes, tells of the half-open circuit, and closes it by its success."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    assert (circuit.state, circuit.refusal()) == ("open", None)
    ticket = admitted(circuit)
    assert ticket.probe and ticket.transition == Transition("open", "half_open")
    assert circuit.state == "half_open"
    assert circuit.record(ticket, S) == Transition("half_open", "closed")
    assert circuit.state == "closed" and circuit.refusal() is None
    assert not admitted(circuit).probe


def test_a_failed_probe_opens_again(clock: FakeClock) -> None:
    """One failure is enough for a half-open circuit, and its wait is longer."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    assert call(circuit, F) == Transition("half_open", "open", 4.0)
    assert circuit.admit(LEASE) == Refusal(4.0)


def test_asking_changes_nothing(clock: FakeClock) -> None:
    """Neither the state nor the refusal makes a circuit half-open, or takes the probe."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    for _ in range(3):
        assert (circuit.state, circuit.refusal()) == ("open", None)
    assert admitted(circuit).probe


def test_two_probes_never_fly_at_once(clock: FakeClock) -> None:
    """While a probe is under way others are refused, and told to ask again soon."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    admitted(circuit, lease=1.0)
    assert circuit.admit(LEASE) == circuit.refusal() == Refusal(0.1)
    clock.advance(0.95)
    refusal = circuit.admit(LEASE)
    assert isinstance(refusal, Refusal) and refusal.retry_after == pytest.approx(0.05)


def test_a_lease_expires(clock: FakeClock) -> None:
    """A probe that does not come back is replaced; what it says later is not heard."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    lost = admitted(circuit, lease=1.0)
    clock.advance(1.0)
    assert circuit.refusal() is None
    probe = admitted(circuit)
    assert probe.probe and probe.transition is None
    circuit.release(lost)
    assert circuit.record(lost, F) is None and circuit.record(lost, S) is None
    assert circuit.state == "half_open" and circuit.refusal() == Refusal(0.1)
    assert circuit.record(probe, S) == Transition("half_open", "closed")


def test_an_expired_lease_that_nobody_took_over_still_counts(clock: FakeClock) -> None:
    """A late verdict is better than none where no other probe is under way."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    probe = admitted(circuit, lease=1.0)
    clock.advance(60.0)
    assert circuit.record(probe, S) == Transition("half_open", "closed")


@pytest.mark.parametrize("how", ["neutral", "released"])
def test_a_probe_without_a_verdict(clock: FakeClock, how: str) -> None:
    """It leaves the circuit half-open, and the next request probes at once."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    ticket = admitted(circuit)
    if how == "neutral":
        assert circuit.record(ticket, N) is None
    else:
        circuit.release(ticket)
    assert circuit.state == "half_open" and circuit.refusal() is None
    assert admitted(circuit).probe


def test_a_released_call_counts_nothing(clock: FakeClock) -> None:
    """An interrupted call neither ends a row of failures nor adds to it."""
    circuit = make(clock)
    for _ in range(4):
        call(circuit, F)
    circuit.release(admitted(circuit))
    assert circuit.state == "closed"
    assert call(circuit, F) is not None


@pytest.mark.parametrize("health", list(Health))
def test_outcomes_from_before_a_trip_are_dropped(clock: FakeClock, health: Health) -> None:
    """A request sent before the outage says nothing about the circuit that opened, or recovered, since."""
    circuit = make(clock, fail_max=1)
    late = [admitted(circuit) for _ in range(4)]
    wait = trip(circuit)
    assert circuit.record(late[0], health) is None and circuit.state == "open"
    clock.advance(wait)
    probe = admitted(circuit)
    assert circuit.record(late[1], health) is None and circuit.state == "half_open"
    assert circuit.refusal() is not None  # the probe's lease is untouched
    circuit.record(probe, S)
    assert circuit.record(late[2], health) is None and circuit.state == "closed"
    assert circuit.record(probe, F) is None and circuit.state == "closed"


def test_success_threshold(clock: FakeClock) -> None:
    """So many probes must succeed, one after the other; a failed one begins anew."""
    circuit = make(clock, success_threshold=2)
    clock.advance(trip(circuit))
    assert call(circuit, S) is None and circuit.state == "half_open"
    transition = call(circuit, F)
    assert transition is not None and transition.new == "open" and transition.retry_after is not None
    clock.advance(transition.retry_after)
    assert call(circuit, S) is None
    assert call(circuit, N) is None
    assert call(circuit, S) == Transition("half_open", "closed")


@pytest.mark.parametrize(("failures", "state"), [(9, "closed"), (10, "open")])
def test_recovery_begins_with_a_clean_slate(clock: FakeClock, failures: int, state: str) -> None:
    """After closing, neither the failures of the outage count nor the successes before it."""
    circuit = make(clock, fail_max=1000, min_calls=10, window=3000.0)
    for _ in range(30):
        call(circuit, S)
    clock.advance(trip(circuit))
    call(circuit, S)
    for _ in range(failures):
        call(circuit, F)
    assert circuit.state == state


@pytest.mark.parametrize(
    ("settings", "waits"),
    [
        ({}, [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]),
        ({"reset_factor": 1.0}, [2.0, 2.0, 2.0]),
        ({"reset_factor": 3.0, "reset_max": 10.0}, [2.0, 6.0, 10.0, 10.0]),
        ({"reset_timeout": 60.0}, [60.0, 60.0]),  # the cap is one on growth
    ],
)
def test_waits_grow(clock: FakeClock, settings: dict[str, Any], waits: list[float]) -> None:
    """Each failed probe multiplies the next wait, up to the cap; closing starts over."""
    circuit = make(clock, **settings)
    for _ in range(2):
        wait: float | None = trip(circuit)
        for expected in waits:
            assert wait == pytest.approx(expected)
            clock.advance(expected)
            transition = call(circuit, F)
            assert transition is not None
            wait = transition.retry_after
        clock.advance(wait or 0.0)
        call(circuit, S)


@pytest.mark.parametrize(
    ("took", "retry_after", "wait"),
    [
        (0.0, None, 8.0),
        (1.0, None, 7.0),
        (6.0, None, 2.0),
        (30.0, None, 2.0),  # never less than reset_timeout
        (3.0, 7.0, 7.0),  # a Retry-After counts from its answer
    ],
)
def test_a_probe_that_hangs_has_waited_already(
    clock: FakeClock, took: float, retry_after: float | None, wait: float
) -> None:
    """A wait that has grown is one from probe to probe: what the last one took goes off it."""
    circuit = make(clock)
    clock.advance(trip(circuit))
    call(circuit, F)
    clock.advance(4.0)
    probe = admitted(circuit)
    clock.advance(took)
    assert circuit.record(probe, F, retry_after=retry_after) == Transition("half_open", "open", wait)


def test_days_of_failed_probes_do_not_overflow(clock: FakeClock) -> None:
    """The growth is capped before a power of the factor leaves the range of a float."""
    circuit = make(clock)
    trip(circuit)
    for _ in range(1000):
        clock.advance(30.0)
        call(circuit, F)
    assert circuit.admit(LEASE) == Refusal(30.0)


@pytest.mark.parametrize(
    ("jitter", "retry_after", "wait"),
    [
        (0.0, None, 2.0),
        (0.5, None, 2.03),
        (0.999, None, 2.05994),
        (0.0, 1.0, 2.0),  # an earlier Retry-After hastens nothing
        (0.0, 0.0, 2.0),
        (0.0, 7.0, 7.0),
        (0.0, 600.0, 600.0),  # beyond reset_max
        (0.5, 7.0, 7.105),  # a fleet that was told the same must not come back as one
    ],
)
def test_the_first_wait(clock: FakeClock, jitter: float, retry_after: float | None, wait: float) -> None:
    """The wait is the longer of ours and the server's, with up to 3 % on top."""
    circuit = make(clock, jitter)
    assert trip(circuit, retry_after) == pytest.approx(wait)
    refusal = circuit.admit(LEASE)
    assert isinstance(refusal, Refusal) and refusal.retry_after == pytest.approx(wait)


def test_a_retry_after_does_not_grow(clock: FakeClock) -> None:
    """What the server asked for once is no base for our own waits."""
    circuit = make(clock)
    clock.advance(trip(circuit, 20.0))
    assert call(circuit, F, 50.0) == Transition("half_open", "open", 50.0)
    clock.advance(50.0)
    assert call(circuit, F) == Transition("half_open", "open", 8.0)


class TestExempt:
    def test_is_an_ordinary_call_while_closed(self, clock: FakeClock) -> None:
        """Its failures open the circuit like any other's."""
        circuit = make(clock)
        transitions = [circuit.record(circuit.pass_exempt(LEASE), F) for _ in range(5)]
        assert transitions[-1] == Transition("closed", "open", 2.0)

    @pytest.mark.parametrize("health", list(Health))
    def test_goes_past_an_open_circuit_and_says_nothing(self, clock: FakeClock, health: Health) -> None:
        """Its outcome neither brings the probe forward nor puts it off."""
        circuit = make(clock)
        trip(circuit)
        ticket = circuit.pass_exempt(LEASE)
        assert not ticket.probe
        assert circuit.record(ticket, health) is None
        circuit.release(ticket)
        assert circuit.admit(LEASE) == Refusal(2.0)

    @pytest.mark.parametrize("health", list(Health))
    def test_goes_beside_a_probe(self, clock: FakeClock, health: Health) -> None:
        """Its outcome leaves the probe's lease alone."""
        circuit = make(clock)
        clock.advance(trip(circuit))
        probe = admitted(circuit)
        assert circuit.record(circuit.pass_exempt(LEASE), health) is None
        assert circuit.admit(LEASE) == Refusal(0.1)
        assert circuit.record(probe, S) == Transition("half_open", "closed")

    def test_is_the_probe_where_one_is_due(self, clock: FakeClock) -> None:
        """It goes anyhow, so no second request need be risked."""
        circuit = make(clock)
        clock.advance(trip(circuit))
        ticket = circuit.pass_exempt(LEASE)
        assert ticket.probe and isinstance(circuit.admit(LEASE), Refusal)
        assert circuit.record(ticket, S) == Transition("half_open", "closed")


def test_pybreaker_is_loaded_by_the_first_failure() -> None:
    """A circuit in which nothing fails costs no import."""
    program = """
import sys
from types import SimpleNamespace
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.core.model import Health
from resilient_adapter.guards.circuit import Circuit
settings = SimpleNamespace(fail_max=5, reset_timeout=2.0, success_threshold=1, reset_factor=2.0, reset_max=30.0,
                           failure_rate=0.5, window=30.0, min_calls=20)
circuit = Circuit("a", settings, SYSTEM_CLOCK)
circuit.record(circuit.admit(1.0), Health.SUCCESS)
circuit.record(circuit.admit(1.0), Health.NEUTRAL)
circuit.release(circuit.pass_exempt(1.0))
assert circuit.state == "closed" and circuit.refusal() is None
print("pybreaker" in sys.modules)
circuit.record(circuit.admit(1.0), Health.FAILURE)
print("pybreaker" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("error", [ImportError, OSError(24, "Too many open files")])
def test_a_failure_that_cannot_be_counted_is_not_raised(
    error: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pybreaker cannot be read, for want of a file handle say, the call ends as it would without a circuit."""
    circuit = make(clock)

    def load() -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(circuit, "_load", load)
        assert call(circuit, F) is None and circuit.state == "closed"
    assert trip(circuit) == 2.0


def test_a_closed_circuit_takes_no_lock(clock: FakeClock) -> None:
    """Calls that succeed do not queue behind each other, before the first failure or after a row of them."""
    circuit = make(clock)
    for _ in range(2):
        call(circuit, S)
        with circuit._lock:
            assert call(circuit, S) is None
            assert circuit.refusal() is None and circuit.state == "closed"
        call(circuit, F)
        call(circuit, S)


def test_threads_that_fail_first_share_one_breaker(clock: FakeClock) -> None:
    """Who loads pybreaker second finds what the first one made, and its counts."""
    circuit = make(clock)
    assert circuit._load() is circuit._load()


def in_threads(count: int, task: Any) -> list[Any]:
    """Run a task in so many threads at once, and return what each returned."""
    barrier = threading.Barrier(count)
    results: list[Any] = []

    def run() -> None:
        barrier.wait()
        results.append(task())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


def test_64_threads_at_a_half_open_circuit(clock: FakeClock) -> None:
    """Exactly one of them is let through, and so again after each probe that failed."""
    circuit = make(clock)
    wait: float | None = trip(circuit)
    for _ in range(10):
        clock.advance(wait or 0.0)
        tickets = [got for got in in_threads(64, lambda: circuit.admit(LEASE)) if isinstance(got, Ticket)]
        assert len(tickets) == 1 and tickets[0].probe
        transition = circuit.record(tickets[0], F)
        assert transition is not None
        wait = transition.retry_after


def test_64_threads_that_fail_at_once(clock: FakeClock) -> None:
    """The circuit opens once: one of them is told, the others' outcomes are dropped."""
    circuit = make(clock)
    tickets = [admitted(circuit) for _ in range(64)]
    transitions = in_threads(64, lambda: circuit.record(tickets.pop(), F))
    assert [t for t in transitions if t is not None] == [Transition("closed", "open", 2.0)]


@pytest.mark.parametrize("told", [False, True])
def test_an_interrupt_while_a_failure_is_recorded(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Wherever it strikes, nobody is locked out, and nobody slips through a circuit that has opened."""
    circuit = make(clock, fail_max=1)

    def interrupted(breaker: Any, health: Health) -> None:
        if told:
            tell(breaker, health)
        raise KeyboardInterrupt

    tell = circuit_module._tell
    with monkeypatch.context() as patch:
        patch.setattr(circuit_module, "_tell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(circuit, F)
    assert circuit.state == ("open" if told else "closed")
    assert circuit.refusal() is None
    assert [isinstance(got, Ticket) and got.probe for got in (circuit.admit(LEASE), circuit.admit(LEASE))] == [
        told,
        False,
    ]
    assert isinstance(circuit.admit(LEASE), Refusal if told else Ticket)


class TestFork:
    @pytest.mark.parametrize("state", ["closed", "open", "half_open"])
    def test_the_state_is_kept_and_no_lock_stays_held(self, clock: FakeClock, state: str) -> None:
        """A child goes on where its parent was, whatever its threads held at that moment."""
        circuit = make(clock)
        for _ in range(4):
            call(circuit, F)
        if state != "closed":
            wait = trip(circuit)
        if state == "half_open":
            clock.advance(wait)
            admitted(circuit)
        breaker: Any = circuit._breaker
        for lock in (circuit._lock, circuit._successes._lock, circuit._failures._lock):
            lock.acquire()
        holder = threading.Thread(target=breaker._lock.acquire)
        holder.start()
        holder.join()
        circuit.reset_after_fork()
        assert circuit.state == state
        if state == "closed":
            assert call(circuit, F) == Transition("closed", "open", 2.0)
        elif state == "open":
            assert circuit.admit(LEASE) == Refusal(2.0)
        else:
            assert admitted(circuit).probe  # the parent's probe is not ours to wait for

    def test_before_anything_failed(self, clock: FakeClock) -> None:
        """A circuit that never loaded pybreaker does not load it for a fork."""
        circuit = make(clock)
        circuit.reset_after_fork()
        assert circuit._breaker is None and call(circuit, S) is None


class CircuitMachine(RuleBasedStateMachine):
    """The circuit beside a model of it that a page can hold: numbers and names, no locks, no pybreaker."""

    FAIL_MAX, THRESHOLD = 3, 2

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.circuit = make(self.clock, 0.5, fail_max=self.FAIL_MAX, success_threshold=self.THRESHOLD, min_calls=10**9)
        self.in_flight: list[tuple[Ticket, Any]] = []  # with what the model calls it
        self.state = "closed"
        self.names = 0
        self.current: Any = 0  # what an outcome must carry to be heard: the closed spell's name, or the live probe's
        self.failures = self.successes = self.failed_probes = 0
        self.open_until = self.lease_end = self.probed_at = 0.0

    def refused_for(self) -> float | None:
        now = self.clock.monotonic()
        if self.state == "open":
            left = self.open_until - now
        elif self.state == "half_open" and self.current is not None:
            left = min(self.lease_end - now, 0.1)
        else:
            return None
        return left if left > 0 else None

    def model_admits(self, ticket: Ticket, lease: float) -> Any:
        """Return what the model calls this admission, None for one that is not heard."""
        if self.state == "closed":
            assert not ticket.probe and ticket.transition is None
            return self.current
        assert ticket.probe
        assert ticket.transition == (Transition("open", "half_open") if self.state == "open" else None)
        if self.state == "open":
            self.successes = 0
        self.state = "half_open"
        self.names += 1
        self.current = self.names
        self.probed_at = self.clock.monotonic()
        self.lease_end = self.probed_at + lease
        return self.current

    def model_opens(self, retry_after: float | None) -> Transition:
        wait = 2.0
        if self.failed_probes:
            took = self.clock.monotonic() - self.probed_at
            wait = max(min(2.0 * 2.0**self.failed_probes, 30.0) - took, 2.0)
        wait = max(wait, retry_after or 0.0) * 1.015
        old, self.state, self.current = self.state, "open", None
        return Transition(old, "open", wait)

    def model_records(self, name: Any, health: Health, retry_after: float | None) -> Transition | None:
        if name is None or name != self.current:
            return None
        if self.state == "closed":
            if health is S:
                self.failures = 0
            elif health is F:
                self.failures += 1
                if self.failures >= self.FAIL_MAX:
                    return self.model_opens(retry_after)
            return None
        self.current = None
        if health is F:
            self.failed_probes += 1
            return self.model_opens(retry_after)
        if health is S:
            self.successes += 1
            if self.successes >= self.THRESHOLD:
                self.names += 1
                self.state, self.current, self.failures, self.failed_probes = "closed", self.names, 0, 0
                return Transition("half_open", "closed")
        return None

    @rule(lease=st.sampled_from([0.05, 1.0, 30.0]), exempt=st.booleans())
    def request(self, lease: float, exempt: bool) -> None:
        """A request asks to go."""
        left = self.refused_for()
        got = self.circuit.pass_exempt(lease) if exempt else self.circuit.admit(lease)
        if isinstance(got, Refusal):
            assert left is not None and not exempt
            assert got.retry_after == pytest.approx(left)
        elif left is not None:
            assert exempt and not got.probe
            self.in_flight.append((got, None))
        else:
            self.in_flight.append((got, self.model_admits(got, lease)))

    @precondition(lambda self: self.in_flight)
    @rule(
        data=st.data(),
        health=st.sampled_from([S, F, F, F, N]),
        retry_after=st.sampled_from([None, 0.0, 5.0, 100.0]),
    )
    def answer(self, data: st.DataObject, health: Health, retry_after: float | None) -> None:
        """Some request, perhaps one from long ago, comes to its end."""
        ticket, name = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        expected = self.model_records(name, health, retry_after)
        got = self.circuit.record(ticket, health, retry_after=retry_after)
        assert (got is None) is (expected is None)
        if got is not None and expected is not None:
            assert (got.old, got.new) == (expected.old, expected.new)
            assert got.retry_after == (None if expected.retry_after is None else pytest.approx(expected.retry_after))
            self.open_until = self.clock.monotonic() + (got.retry_after or 0.0)  # to the last bit

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        """Some request ends without a verdict."""
        ticket, name = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if self.state == "half_open" and name is not None and name == self.current:
            self.current = None
        self.circuit.release(ticket)

    @rule(seconds=st.sampled_from([0.05, 0.5, 2.1, 10.0, 31.5]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.clock.advance(seconds)

    @precondition(lambda self: self.state == "open")
    @rule()
    def wait_is_over(self) -> None:
        """Exactly the wait passes that a refused caller was told."""
        refusal = self.circuit.refusal()
        if refusal is not None:
            self.clock.advance(refusal.retry_after)
            assert self.circuit.refusal() is None

    @rule()
    def fork(self) -> None:
        """The process forks, and this is the child."""
        if self.state == "half_open":
            self.current = None
        self.circuit.reset_after_fork()

    @invariant()
    def agrees_with_the_model(self) -> None:
        """State and refusal are the model's."""
        assert self.circuit.state == self.state
        refusal, left = self.circuit.refusal(), self.refused_for()
        assert (refusal is None) is (left is None)
        if refusal is not None:
            assert refusal.retry_after == pytest.approx(left)


TestCircuitMachine = CircuitMachine.TestCase
