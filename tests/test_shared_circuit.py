"""One circuit for many processes: who opens it, who probes, and whose word counts."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from shared_support import Fleet

from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.core.model import Health
from resilient_adapter.guards.circuit import Circuit, Refusal, Ticket, Transition
from resilient_adapter.guards.circuit_storage import Storage
from resilient_adapter.guards.shared_circuit import CircuitRecord, SharedCircuit, View, view
from resilient_adapter.settings.schema import Settings
from resilient_adapter.state import file
from resilient_adapter.state.backend import Seen
from resilient_adapter.state.file import FileBackend
from resilient_adapter.state.store import Change, Store

S, F, N = Health.SUCCESS, Health.FAILURE, Health.NEUTRAL
KEY = "circuit:https://a.example"
LEASE = 30.0


def make(store: Store, clock: Any, jitter: float = 0.0, **settings: Any) -> SharedCircuit:
    """Return the circuit of one process."""
    values = Settings.from_mapping({"circuit": {"fail_max": 2, **settings}}).circuit
    return SharedCircuit("https://a.example", values, clock, lambda: jitter, store=store, key=KEY)


class Processes:
    """Processes that share one circuit: called A, B, C.

    Attributes:
        fleet: their stores.
        circuits: theirs, by name.
    """

    def __init__(self, **settings: Any) -> None:
        self.fleet = Fleet()
        self.clock = self.fleet.clock
        self.settings = settings
        self.circuits: dict[str, SharedCircuit] = {}
        self.stores: dict[str, Store] = {}
        self.tickets: dict[str, Ticket] = {}
        for name in "ABC":
            self.join(name)

    def join(self, name: str) -> SharedCircuit:
        """Start one more process."""
        self.stores[name] = store = self.fleet.store()
        self.circuits[name] = circuit = make(store, self.clock, **self.settings)
        return circuit

    def __getitem__(self, name: str) -> SharedCircuit:
        return self.circuits[name]

    def ask(self, name: str, lease: float = LEASE) -> Ticket | Refusal:
        """Ask for a request to go; its ticket is kept under the name."""
        got = self.circuits[name].admit(lease)
        if isinstance(got, Ticket):
            self.tickets[name] = got
        return got

    def probe(self, name: str, lease: float = LEASE) -> Ticket:
        """Ask for a request that must be the probe."""
        got = self.ask(name, lease)
        assert isinstance(got, Ticket) and got.probe, got
        return got

    def end(self, name: str, health: Health, retry_after: float | None = None) -> Transition | None:
        """End the request whose ticket is kept under the name, and let everybody hear."""
        transition = self.circuits[name].record(self.tickets[name], health, retry_after=retry_after)
        self.hear()
        return transition

    def trip(self, name: str, retry_after: float | None = None) -> float:
        """Fail until the circuit of a process opens; everybody hears. Returns the seconds until the probe."""
        transition = None
        while transition is None:
            ticket = self.ask(name)
            assert isinstance(ticket, Ticket) and not ticket.probe
            transition = self.end(name, F, retry_after)
        assert (transition.old, transition.new) == ("closed", "open") and transition.retry_after is not None
        return transition.retry_after

    def hear(self) -> None:
        """Let everybody hear of what has happened."""
        if not self.fleet.backend.down:
            self.fleet.hear()

    @property
    def states(self) -> str:
        """The state of each circuit, by its first letter."""
        return "".join(circuit.state[0] for circuit in self.circuits.values())

    def record(self) -> Any:
        """Return what the store says, as JSON."""
        (seen,) = self.fleet.backend.read([KEY])
        return None if seen.value is None else json.loads(seen.value)

    def view(self) -> View | None:
        """Return what the store says."""
        return view(self.record(), self.clock.time())


@pytest.fixture
def three() -> Iterator[Processes]:
    """Return three processes of which none knows of a failure."""
    return Processes()


def test_a_closed_circuit_asks_nobody(three: Processes) -> None:
    """Neither to let a request go nor to count how it went, failures that do not open it included."""
    asked = three.fleet.backend.swaps, three.fleet.backend.reads
    for health in (S, N, F, S, F, N, S):
        three.ask("A")
        assert three.circuits["A"].record(three.tickets["A"], health) is None
    assert (three.fleet.backend.swaps, three.fleet.backend.reads) == asked


def test_opened_by_one_it_is_open_in_all(three: Processes) -> None:
    """For as long, a process that starts later included; what was under way before says nothing any more."""
    late = three.ask("C")
    assert isinstance(late, Ticket)
    assert three.trip("A") == 2.0
    three.clock.advance(0.5)
    three.join("D")
    assert three.states == "oooo"
    assert [three.ask(name) for name in "ABCD"] == [Refusal(pytest.approx(1.5))] * 4
    assert three["C"].record(late, F) is three["C"].record(late, S) is None
    assert three.states == "oooo"


@pytest.mark.parametrize(("first", "second", "wait"), [(None, None, 2.0), (None, 50.0, 2.0), (50.0, None, 50.0)])
def test_two_that_open_it_at_once(three: Processes, first: float | None, second: float | None, wait: float) -> None:
    """It is open as the first of them said; the other goes by that."""
    for name, retry_after in (("A", first), ("B", second)):
        for _ in range(2):
            three.ask(name)
            opened = three[name].record(three.tickets[name], F, retry_after=retry_after)
        assert opened is not None and opened.new == "open"
    assert [circuit.refusal() for circuit in (three["A"], three["B"])] == [Refusal(pytest.approx(wait))] * 2
    three.hear()
    assert three["C"].refusal() == Refusal(pytest.approx(wait))


class TestProbes:
    def test_there_is_one_of_all(self, three: Processes) -> None:
        """Who asks first has it; the others, heard of it or not, are told when to ask again. Exempt ones pass by."""
        three.clock.advance(three.trip("B"))
        assert three.probe("A").transition == Transition("open", "half_open")
        for _ in range(2):
            assert [three.ask(name) for name in "ABC"] == [Refusal(0.1)] * 3
            passing = three["B"].pass_exempt(LEASE)
            assert not passing.probe and three["B"].record(passing, F) is None
            three.hear()
            assert three.states == "hhh"

    @pytest.mark.parametrize("exempt", [False, True])
    def test_its_success_closes_all(self, three: Processes, exempt: bool) -> None:
        """Whichever request it was; and all begin with an empty count."""
        three.clock.advance(three.trip("B"))
        three.tickets["A"] = three["A"].pass_exempt(LEASE) if exempt else three.probe("A")
        three.hear()
        assert three.end("A", S) == Transition("half_open", "closed")
        assert three.states == "ccc" and three.record() is None
        for name in "ABC":
            three.ask(name)
            assert three.end(name, F) is None
        assert three.states == "ccc"

    def test_its_failure_opens_all_for_longer(self, three: Processes) -> None:
        """Each probe, of whatever process, multiplies the wait, up to a bound; a Retry-After is the least of it."""
        three.clock.advance(three.trip("A"))
        waits = []
        for name in "BCABCA":
            three.probe(name)
            opened = three.end(name, F)
            assert (
                opened is not None
                and (opened.old, opened.new) == ("half_open", "open")
                and opened.retry_after is not None
            )
            assert three.states == "ooo"
            assert [circuit.refusal() for circuit in three.circuits.values()] == [
                Refusal(pytest.approx(opened.retry_after))
            ] * 3
            waits.append(opened.retry_after)
            three.clock.advance(opened.retry_after)
        assert waits == [4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        three.probe("C")
        assert three.end("C", F, retry_after=99.0) == Transition("half_open", "open", 99.0)
        assert three["B"].refusal() == Refusal(pytest.approx(99.0))
        three.clock.advance(99)
        three.probe("B")
        three.end("B", S)
        assert three.trip("C") == 2.0  # what has recovered begins anew

    @pytest.mark.parametrize("how", ["release", "neutral"])
    def test_without_a_verdict_another_probes_at_once(self, three: Processes, how: str) -> None:
        """The lease is given back: a probe that was interrupted leaves nobody waiting."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        three.hear()
        if how == "release":
            three["A"].release(three.tickets["A"])
            three.hear()
        else:
            assert three.end("A", N) is None
        seen = three.view()
        assert seen is not None and (seen.wait, seen.probe) == (0.0, None)
        three.probe("B")

    def test_the_place_is_taken_before_the_lease_is_given_back(
        self, three: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another thread that asks in between is refused, and has not taken the lease's name from it."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        release, met, once = Circuit.release, [], iter([True])

        def overtaken(circuit: Circuit, ticket: Ticket) -> None:
            release(circuit, ticket)
            if next(once, False):
                met.append(three["A"].admit(LEASE))

        monkeypatch.setattr(Circuit, "release", overtaken)
        three["A"].release(three.tickets["A"])
        assert met == [Refusal(0.1)]
        seen = three.view()
        assert seen is not None and seen.probe is None

    @pytest.mark.parametrize("health", [S, F, N])
    @pytest.mark.parametrize("heard", [False, True])
    @pytest.mark.parametrize("taken", [False, True])
    def test_a_late_outcome_counts_nothing(self, health: Health, heard: bool, taken: bool) -> None:
        """Its lease has ended, so another probes, or may: only that one's outcome counts."""
        three = Processes()
        three.clock.advance(three.trip("A"))
        three.probe("A")
        if heard:
            three.hear()
        three.clock.advance(LEASE)
        if taken:
            three.probe("B")
            if heard:
                three.hear()
        before = three.record()
        three["A"].record(three.tickets["A"], health)
        assert three.record() == before
        three.hear()
        assert "c" not in three.states
        if not taken:
            three.probe("B")
        assert three.end("B", S) == Transition("half_open", "closed")
        assert three.states == "ccc"

    def test_one_whose_process_died(self, three: Processes) -> None:
        """Nobody gives its lease back: it ends by itself."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        three.fleet.stores.remove(three.stores["A"])
        three.hear()
        three.clock.advance(LEASE - 0.05)
        assert three.ask("B") == Refusal(pytest.approx(0.05))
        three.clock.advance(0.06)
        three.probe("B")
        three.end("B", S)
        assert three["C"].state == "closed"

    def test_several_may_be_needed(self) -> None:
        """success_threshold counts those of all processes in a row, heard of before or not."""
        three = Processes(success_threshold=3)
        three.clock.advance(three.trip("A"))
        for name in "AB":
            three.probe(name)
            assert three.end(name, S) is None
            assert three.states == "hhh"
        three.probe("C")
        three.end("C", F)
        assert three.states == "ooo"
        three.clock.advance(4)
        # Nobody hears of the others' in the meantime.
        for name in "AB":
            three.probe(name)
            assert three[name].record(three.tickets[name], S) is None
        three.probe("C")
        assert three["C"].record(three.tickets["C"], S) == Transition("half_open", "closed")
        three.hear()
        assert three.states == "ccc" and three.record() is None

    def test_its_own_word_may_be_heard_before_the_answer(self, three: Processes) -> None:
        """The listening thread may be quicker: the change of state is told all the same, once."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        three.fleet.backend.before_answer = three.hear
        assert three["A"].record(three.tickets["A"], S) == Transition("half_open", "closed")
        three.hear()
        assert three.states == "ccc"

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_word_of_before_may_be_heard_before_the_answer(self, three: Processes, reset: bool) -> None:
        """News of the opening, or of a reset, that come while the lease is asked for take nobody's lease away."""
        for _ in range(2):
            three.ask("A")
            three["A"].record(three.tickets["A"], F)
        three.clock.advance(2.0)
        if reset:
            three.hear()
            three.stores["C"].record(KEY).update(lambda value, now: Change(None))
        three.fleet.backend.before_answer = three.fleet.hear
        ticket = three.probe("A")
        assert three["A"].state == "half_open" and isinstance(three.ask("A"), Refusal)
        assert three["A"].record(ticket, S) == Transition("half_open", "closed")
        three.hear()
        assert three.states == "ccc"

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_word_of_before_may_be_heard_after_the_answer(self, three: Processes, reset: bool) -> None:
        """The listening thread may be held up on its way to the circuit: what it brings is old, and passed over."""
        three.trip("A")
        three.clock.advance(2.0)
        old = None if reset else three.record()
        ticket = three.probe("A")
        three["A"]._hear(old, three.clock.time())
        assert three["A"].state == "half_open" and isinstance(three.ask("A"), Refusal)
        assert three["A"].record(ticket, S) == Transition("half_open", "closed")
        three["A"]._hear(old, three.clock.time())
        three.hear()
        assert three.states == "ccc"

    def test_news_do_not_take_the_place_of_who_is_asking(self) -> None:
        """Another thread would ask too, and take the lease that is given meanwhile for another process's."""
        three = Processes(success_threshold=3)
        three.clock.advance(three.trip("A"))
        met = []

        def others() -> None:
            three.probe("B")
            three.end("B", S)  # one of three: everybody hears that a probe is due
            met.append(three["A"].admit(LEASE))

        asked = three.fleet.backend.swap

        def swap(*args: Any, **options: Any) -> Seen:
            three.fleet.backend.swap = asked  # type: ignore[method-assign]
            others()
            return asked(*args, **options)

        three.fleet.backend.swap = swap  # type: ignore[method-assign]
        three.probe("A")
        assert met == [Refusal(0.1)]
        three.hear()
        assert three.end("A", S) is None
        seen = three.view()
        assert seen is not None and (seen.successes, seen.probe) == (2, None)

    def test_with_no_file_handle_left(self, three: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that is open already can be made without pybreaker, and goes by it as soon as that can be read."""
        three.trip("A")

        def load(circuit: Circuit) -> Any:
            raise OSError(24, "too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(Circuit, "_load", load)
            late = three.join("D")
            assert late.state == "closed"
        three.clock.advance(2.0)
        three.probe("A")
        three.end("A", F)
        assert late.state == "open"

    def test_an_interrupt_while_the_store_is_asked(self, three: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        """It passes, and the next request may probe."""
        three.clock.advance(three.trip("A"))
        swap = three.fleet.backend.swap
        monkeypatch.setattr(three.fleet.backend, "swap", interrupt)
        with pytest.raises(KeyboardInterrupt):
            three.ask("A")
        monkeypatch.setattr(three.fleet.backend, "swap", swap)
        three.probe("A")

    def test_an_interrupt_before_the_store_has_answered(self, three: Processes) -> None:
        """The lease that it may have given is given back: another process may probe at once."""
        three.clock.advance(three.trip("A"))
        three.fleet.backend.before_answer = interrupt
        with pytest.raises(KeyboardInterrupt):
            three.ask("A")
        three.probe("B")

    def test_an_interrupt_while_a_failure_is_told(self, three: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        """The lease is given back, and another process may probe."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        with monkeypatch.context() as patch:
            patch.setattr(CircuitRecord, "failed", interrupt)
            with pytest.raises(KeyboardInterrupt):
                three["A"].record(three.tickets["A"], F)
        three.probe("B")

    def test_threads_of_one_process_do_not_all_ask(self, three: Processes) -> None:
        """One asks the store; the others are refused meanwhile without a word to it."""
        three.clock.advance(three.trip("A"))
        others: list[Any] = []
        three.fleet.backend.before_answer = lambda: others.extend(three["A"].admit(LEASE) for _ in range(5))
        three.probe("A")
        assert others == [Refusal(0.1)] * 5

    def test_always_overtaken(self, three: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who cannot get a word in asks again a moment later."""
        three.clock.advance(three.trip("A"))

        def swap(key: str, version: int, value: str | None, ttl: float, *, tell: bool = True) -> Seen:
            seen = three.fleet.backend.read([key])[0]
            return seen._replace(version=version + 1)

        monkeypatch.setattr(three.fleet.backend, "swap", swap)
        assert three.ask("A") == Refusal(0.1)


def interrupt(*args: Any, **options: Any) -> Any:
    """Be interrupted by the user."""
    raise KeyboardInterrupt


class TestReset:
    def test_a_person_closes_all(self, three: Processes) -> None:
        """By removing the record; a probe that was on its way says nothing any more."""
        three.clock.advance(three.trip("A"))
        three.probe("B")
        three.hear()
        three.stores["C"].record(KEY).update(lambda value, now: Change(None))
        three.hear()
        assert three.states == "ccc"
        assert three["B"].record(three.tickets["B"], F) is None and three.states == "ccc"

    def test_what_is_closed_stays_so(self, three: Processes) -> None:
        """Also where a failure has been counted: that is no news to it."""
        three.ask("A")
        three.end("A", F)
        three["A"]._hear(None, 0.0)
        three["B"]._hear(None, 0.0)
        assert three.states == "ccc" and three.trip("A") == 2.0  # the first failure of two still counts


class TestLostRecords:
    def test_it_stays_open_here(self, three: Processes) -> None:
        """That its record is gone says nothing of the server: one probe of all finds out."""
        three.trip("A")
        three.fleet.backend.lose()
        for store in three.fleet.stores:
            store._deaf()
        three.hear()
        assert three.states == "ooo"
        three.clock.advance(2.0)
        three.probe("B")
        assert three.ask("A") == Refusal(0.1)
        assert three.end("B", S) == Transition("half_open", "closed")
        assert three.states == "ccc"

    def test_what_was_learnt_of_the_wait_is_kept(self, three: Processes) -> None:
        """A probe that fails then multiplies the wait that this process knows of."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        three.end("A", F)
        three.fleet.backend.lose()
        three.clock.advance(4.0)
        three.probe("B")
        opened = three.end("B", F)
        assert opened is not None and opened.retry_after == 8.0

    @pytest.mark.parametrize("health", [S, F, N])
    def test_a_probe_whose_lease_is_lost(self, three: Processes, health: Health) -> None:
        """Nobody can say that it still is the only one: its outcome closes nothing."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        three.hear()
        three.fleet.backend.lose()
        three.end("A", health)
        assert three.record() is None and "c" not in three.states


class TestFailingStore:
    @pytest.mark.parametrize("step", ["start", "trip", "probe", "outcome"])
    @pytest.mark.parametrize("health", [S, F, N])
    def test_each_goes_on_alone(self, step: str, health: Health) -> None:
        """Whenever it fails: the circuit works as one of one process does, and nothing is raised."""
        three = Processes()

        def now(this: str) -> None:
            three.fleet.backend.down |= this == step

        now("start")
        three.join("D")
        now("trip")
        three.trip("D")
        three.clock.advance(2.0)
        now("probe")
        three.probe("D")
        assert isinstance(three.ask("D"), Refusal)
        now("outcome")
        transition = three.end("D", health)
        if health is S:
            assert transition == Transition("half_open", "closed") and three["D"].state == "closed"
        elif health is F:
            assert transition == Transition("half_open", "open", 4.0) and three["D"].state == "open"
        else:
            assert transition is None
            three.probe("D")
        assert len(three.fleet.warnings) == 1

    def test_back_again_it_is_as_the_store_says(self, three: Processes) -> None:
        """What somebody else opened in the meantime is open; an open one that outlived its time may be probed."""
        three.fleet.stores.remove(three.stores["A"])
        three.stores["A"]._failed = True
        three.trip("B")
        assert three["A"].state == "closed"
        three.clock.advance(5)
        three.fleet.stores.append(three.stores["A"])
        three.fleet.back()
        assert three["A"].state == "open"
        three.probe("A")
        three.end("A", S)
        assert three["C"].state == "closed"

    def test_opened_alone_it_is_probed_with_the_others(self, three: Processes) -> None:
        """On its return the store knows of no open circuit: this process closes nothing for that."""
        three.fleet.fail()
        three.trip("A")
        three.fleet.back()
        assert three.states == "occ"
        three.clock.advance(2.0)
        three.probe("A")
        three.hear()
        assert three.states == "hhh"


class TestRecords:
    RECORD: ClassVar[dict[str, Any]] = {"until": 110.0, "for": 30.0, "reset_timeout": 4, "successes": 1, "probe": None}

    @pytest.mark.parametrize(("changes", "now", "seen"), [
        ({}, 100.0, View(10.0, 4.0, 1, None, 0.0)),
        ({}, 110.0, View(0.0, 4.0, 1, None, 0.0)),
        ({}, 0.0, View(30.0, 4.0, 1, None, 0.0)),  # the store's clock was set back
        ({"probe": {"id": "x", "until": 111.0, "for": 5.0}}, 110.0, View(0.0, 4.0, 1, "x", 1.0)),
        ({"probe": {"id": "x", "until": 111.0, "for": 5.0}}, 111.0, View(0.0, 4.0, 1, None, 0.0)),
        ({"probe": {"id": "x", "until": 111.0, "for": 5.0}}, 0.0, View(30.0, 4.0, 1, "x", 5.0)),
        ({"probe": {}}, 110.0, View(0.0, 4.0, 1, None, 0.0)),
        ({"more": "of a later version"}, 110.0, View(0.0, 4.0, 1, None, 0.0)),
    ])  # fmt: skip
    def test_what_one_says(self, changes: dict[str, Any], now: float, seen: View) -> None:
        """Seconds that are left, never more than they were set with."""
        assert view({**self.RECORD, **changes}, now) == seen

    @pytest.mark.parametrize("value", [
        None, 5, "open", [], {}, {"until": 1.0},
        {**RECORD, "until": "soon"}, {**RECORD, "until": None}, {**RECORD, "for": []}, {**RECORD, "successes": "many"},
        {**RECORD, "successes": float("inf")}, {**RECORD, "until": 10**400}, {**RECORD, "reset_timeout": {}},
        {**RECORD, "probe": "x"}, {**RECORD, "probe": 5}, {**RECORD, "probe": {"id": "x"}},
    ])  # fmt: skip
    def test_what_is_none(self, value: Any) -> None:
        """What others may have written there is no open circuit; and it closes none, and is replaced by one."""
        assert view(value, 100.0) is None
        if value is None:
            return
        three = Processes()
        three.fleet.backend.put(KEY, json.dumps(value))
        three.hear()
        assert three.states == "ccc"
        three.trip("A")
        assert three.states == "ooo"
        three.fleet.backend.put(KEY, json.dumps(value))
        three.hear()
        assert three.states == "ooo"
        three.clock.advance(2.0)
        three.probe("B")
        three.end("B", S)
        assert three.states == "ccc"

    def test_pybreaker_writes_down_what_it_will(self) -> None:
        """Its storage keeps whatever it is told, and the counts of both kinds."""
        storage = Storage()
        storage.increment_counter()
        storage.increment_success_counter()
        assert (storage.counter, storage.success_counter, storage.state, storage.opened_at) == (1, 1, "closed", None)
        storage.reset_counter()
        storage.reset_success_counter()
        assert (storage.counter, storage.success_counter) == (0, 0)


class TestThreads:
    def test_many_ask_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of all threads of all processes, by a real store, exactly one gets the probe."""
        monkeypatch.setattr(file, "TIMEOUT", 10.0)  # a busy machine is not what is tested
        stores = [Store(FileBackend(tmp_path / "state", "n"), SYSTEM_CLOCK, pytest.fail) for _ in range(3)]
        circuits = [make(store, SYSTEM_CLOCK, reset_timeout=0.0, fail_max=1) for store in stores]
        ticket = circuits[0].admit(LEASE)
        assert isinstance(ticket, Ticket)
        circuits[0].record(ticket, F)
        opened = [circuit for circuit in circuits if wait_until(lambda circuit=circuit: circuit.state != "closed")]
        assert opened == circuits
        start = threading.Barrier(12)
        got: list[Any] = []

        def ask(circuit: SharedCircuit) -> None:
            start.wait()
            got.append(circuit.admit(LEASE))

        threads = [threading.Thread(target=ask, args=(circuit,)) for circuit in circuits * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for store in stores:
            store.close()
        assert sum(isinstance(one, Ticket) for one in got) == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_fork(self, three: Processes) -> None:
        """The child is another process: its parent's probe is none of its own, and it waits for it like all."""
        three.clock.advance(three.trip("A"))
        three.probe("A")
        child = three["A"]
        with child._lock:
            child.reset_after_fork()
        assert three.ask("A") == Refusal(0.1)
        before = three.record()
        assert child.record(three.tickets["A"], S) is None and three.record() == before
        three.clock.advance(LEASE)
        three.probe("A")
        assert three.end("A", S) == Transition("half_open", "closed")


def wait_until(happens: Callable[[], bool]) -> bool:
    """Wait for something that another thread brings about."""
    event = threading.Event()
    for _ in range(2000):
        if happens():
            return True
        event.wait(0.005)
    return False


class SharedCircuitMachine(RuleBasedStateMachine):
    """Processes that hear late or soon, of one circuit; the store's own record is what they are held against."""

    THRESHOLD, LEASE = 2, 29.37

    def __init__(self) -> None:
        super().__init__()
        self.all = Processes(success_threshold=self.THRESHOLD, failure_rate=1.0)
        self.flying: list[tuple[str, Ticket, float]] = []  # whose, which, and until when a probe's lease lasts
        self.sure = True  # whether all that the record says, or its absence, is somebody's word

    @rule(name=st.sampled_from("ABC"), exempt=st.booleans())
    def request(self, name: str, exempt: bool) -> None:
        """A request asks to go."""
        before = self.all.view()
        now = self.all.clock.monotonic()
        circuit = self.all[name]
        got = circuit.pass_exempt(self.LEASE) if exempt else circuit.admit(self.LEASE)
        if isinstance(got, Refusal):
            assert got.retry_after > 0
        elif got.probe:
            # Only where the record says that one is due, and nobody else's is on its way.
            assert before is None or (before.wait == 0 and before.probe is None)
            assert not [1 for _, ticket, end in self.flying if ticket.probe and self.holds(ticket, end)]
            self.flying.append((name, got, now + self.LEASE))
            self.sure = True
        else:
            self.flying.append((name, got, 0.0))

    def holds(self, ticket: Ticket, end: float) -> bool:
        """Return whether a probe in flight still has its lease, by the store's record."""
        seen = self.all.view()
        return self.all.clock.monotonic() < end and seen is not None and seen.probe == self.names().get(id(ticket))

    def names(self) -> dict[int, str]:
        return {id(circuit._probe): circuit._probe.name for circuit in self.all.circuits.values() if circuit._probe}

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), health=st.sampled_from([S, S, F, F, N]), retry_after=st.sampled_from([None, 7.0]))
    def answer(self, data: st.DataObject, health: Health, retry_after: float | None) -> None:
        """Some request, perhaps one from long ago, comes to its end."""
        name, ticket, end = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        before, held = self.all.record(), ticket.probe and self.holds(ticket, end)
        seen = self.all.view()
        transition = self.all[name].record(ticket, health, retry_after=retry_after)
        after = self.all.record()
        if ticket.probe and not held:
            assert after == before, "an outcome without its lease"
            assert transition is None or transition.new == "open"
        elif ticket.probe:
            assert seen is not None
            closes = health is S and seen.successes + 1 >= self.THRESHOLD
            assert (after is None) is closes
            assert (transition is not None) is (closes or health is F)
            assert health is not S or closes or after["successes"] == seen.successes + 1
            self.sure = True
        elif after != before:
            assert seen is None and health is F and transition is not None
            self.sure = True

    @rule(name=st.sampled_from("ABC"))
    def hear(self, name: str) -> None:
        """One process hears of what has happened, and is then as the record says."""
        self.all.stores[name].listen(0)
        seen, circuit = self.all.view(), self.all[name]
        if seen is not None:
            assert circuit.state != "closed"
            due = seen.wait == 0 and seen.probe is None
            assert (circuit.refusal() is None) is due
        elif self.sure:
            assert circuit.state == "closed"

    @rule(seconds=st.sampled_from([0.7, 2.5, 4.4, 11.3, 31.0]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens for a while; a record may end by that."""
        was = self.all.record()
        self.all.clock.advance(seconds)
        if was is not None and self.all.record() is None:
            self.sure = False

    @rule()
    def lose(self) -> None:
        """The store is restarted empty, and all connections with it."""
        if self.all.record() is not None:
            self.sure = False
        self.all.fleet.backend.lose()
        self.all.fleet.hear()
        for store in self.all.fleet.stores:
            store._deaf()
            store.listen(0)

    @invariant()
    def one_probe(self) -> None:
        """At any time at most one probe holds a lease that has not ended."""
        assert sum(ticket.probe and self.holds(ticket, end) for _, ticket, end in self.flying) <= 1


TestSharedCircuitMachine = SharedCircuitMachine.TestCase
