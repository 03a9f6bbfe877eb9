"""The simulation: the laws that hold in its world, how it counts, and how the others are modelled."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from resilient_adapter import Settings
from resilient_adapter.simulation.contenders import RECIPES, Contender, contenders, simulate
from resilient_adapter.simulation.process import Process
from resilient_adapter.simulation.record import TICKS, Record
from resilient_adapter.simulation.world import (
    AFTER,
    LATENCY,
    QUEUE,
    WARM_UP,
    Answer,
    Call,
    Scenario,
    Send,
    Server,
    VirtualClock,
    play,
)

DEFAULTS = Settings.from_mapping({})
SMALL = Scenario(clients=20, rate=1.0, outage=10.0, processes=4)


def contender(name: str, scenario: Scenario = SMALL, settings: Settings = DEFAULTS) -> Contender:
    """Return the contender whose name begins so."""
    return next(one for one in contenders(settings, scenario) if one.name.startswith(name))


def figures(record: Record) -> tuple[Any, ...]:
    """Return all that a record says."""
    return (
        record.amplification,
        record.peak,
        record.recovery,
        record.failures,
        record.sends_per_call,
        tuple(record.requests),
        tuple(record.ended),
    )


# What holds in this world


scenarios = st.builds(
    Scenario,
    clients=st.integers(2, 5),
    rate=st.sampled_from([0.2, 1.0]),
    outage=st.sampled_from([5.0, 7.3, 20.0]),
    timeout=st.sampled_from([0.5, 5.0]),
    answer=st.sampled_from([-1008, -1007, -1003, 500]),
    hang=st.booleans(),
    partial=st.sampled_from([0.3, 1.0]),
    capacity=st.sampled_from([0.5, 1.2, 3.0]),
    processes=st.integers(1, 3),
    seed=st.integers(0, 3),
)

many_settings = st.sampled_from(
    [
        {},
        {"circuit": {"when_open": "wait"}, "deadline": 20.0},
        {"circuit": {"exempt": {"methods": ["GET"]}}, "retry": {"max_attempts": 6, "budget": 0.0}},
        {"rate_limit": {"rate": "5/s", "wait": 3.0}, "deadline": 0.0},
    ]
)


class TestLaws:
    @given(scenarios, many_settings)
    @limits(max_examples=15)
    def test_every_call_ends_once(self, scenario: Scenario, mapping: dict[str, Any]) -> None:
        """Whoever makes the calls, as many end as begin, and no more fail than end."""
        begun = sum(1 for _ in scenario.begins())
        for one in contenders(Settings.from_mapping(mapping), scenario):
            record = simulate(scenario, one)
            assert sum(record.begun) == sum(record.ended) == begun
            assert all(0 <= failed <= ended for failed, ended in zip(record.failed, record.ended, strict=True))

    @given(scenarios)
    @limits(max_examples=20)
    def test_without_retries_the_server_sees_the_demand(self, scenario: Scenario) -> None:
        """No retries: one request a call, an amplification of 1, and no request beside them."""
        record = simulate(scenario, contender("no retries", scenario))
        assert record.amplification == record.sends_per_call == 1.0
        assert record.begun == record.requests

    @given(scenarios)
    @limits(max_examples=5)
    def test_the_same_arguments_have_the_same_result(self, scenario: Scenario) -> None:
        """Nothing is left to chance but what the seed decides."""
        for one, again in zip(contenders(DEFAULTS, scenario), contenders(DEFAULTS, scenario), strict=True):
            assert figures(simulate(scenario, one)) == figures(simulate(scenario, again))

    def test_another_seed_has_another_result(self) -> None:
        """The seed decides when clients call and how long they wait."""
        other = dataclasses.replace(SMALL, seed=2)
        recipe = "the reference's recipe"
        assert figures(simulate(SMALL, contender(recipe))) != figures(simulate(other, contender(recipe, other)))

    @pytest.mark.parametrize("name", RECIPES)
    def test_no_recipe_sends_more_often_than_it_says(self, name: str) -> None:
        """A call is sent at least once and at most as often as its recipe allows."""
        record = simulate(SMALL, contender(name))
        assert 1 <= record.sends_per_call <= RECIPES[name].sends

    def test_one_circuit_for_all_spares_the_server(self) -> None:
        """Five failures and the probes are all that a server in trouble sees of one process; of four, more."""
        one, four = simulate(SMALL, contender("these settings, 1")), simulate(SMALL, contender("these settings, 4"))
        assert one.arrived == 5 + 2  # probes after 2 and 4 more seconds, and no sooner than a call comes
        assert one.arrived < four.arrived <= 4 * (one.arrived + 1)

    @pytest.mark.parametrize("answer", [-1008, 500])
    def test_a_partial_failure_opens_no_circuit(self, answer: int) -> None:
        """Where three in ten requests fail by chance, all that the budget allows is repeated, and nothing refused."""
        scenario = Scenario(clients=200, rate=1.0, outage=30.0, answer=answer, partial=0.3)
        ours = simulate(scenario, contender("these settings, 1", scenario))
        bare = simulate(scenario, contender("no retries", scenario))
        assert 1.2 < ours.sends_per_call <= 1.251  # 0.2 repeats a call, and 10 per second beside
        # Seven in ten of the repeats save a call.
        assert bare.failures - ours.failures == pytest.approx(0.7 * (ours.sends_per_call - 1) * ours.due, rel=0.1)

    def test_settings_are_simulated_in_force(self) -> None:
        """A mode that does nothing is not what one wants to see simulated."""
        off = Settings.from_mapping({"mode": "off"})
        name = "these settings, 1"
        assert figures(simulate(SMALL, contender(name, settings=off))) == figures(simulate(SMALL, contender(name)))

    def test_one_process_is_told_once(self) -> None:
        """Where several processes are one, they have one row."""
        names = [one.name for one in contenders(DEFAULTS, dataclasses.replace(SMALL, processes=1))]
        assert names == ["these settings, 1 process", *RECIPES]

    @pytest.mark.parametrize("name", ["these settings, 200", "the reference's recipe", "urllib3 Retry"])
    def test_a_sample_stands_for_all(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Clients that share nothing may be sampled: no figure changes by more than chance."""
        scenario = Scenario(clients=400, rate=0.5, outage=10.0, processes=200)
        whole = simulate(scenario, contender(name, scenario))
        monkeypatch.setattr("resilient_adapter.simulation.contenders._MANY_CALLS", 40)
        sample = simulate(scenario, contender(name, scenario))
        assert sum(sample.begun) == sum(whole.begun) / 5
        assert sample.amplification == pytest.approx(whole.amplification, rel=0.05)
        assert sample.peak == pytest.approx(whole.peak, rel=0.1)
        assert sample.failures == pytest.approx(whole.failures, rel=0.1)


# The world


class TestDemand:
    def test_calls_begin_in_order_and_evenly(self) -> None:
        """Every second sees as many calls begin, give or take the one at either end, and each client its own."""
        scenario = Scenario(clients=50, rate=2.0, outage=3.0)
        begins = list(scenario.begins())
        times = [time for time, _ in begins]
        assert times == sorted(times)
        assert times[0] >= -WARM_UP and times[-1] < scenario.outage + AFTER
        for second in range(-int(WARM_UP), int(scenario.outage + AFTER) - 1):
            assert abs(sum(second <= time < second + 1 for time in times) - scenario.demand) <= 1
        mine = [time for time, client in begins if client == 7]
        assert all(b - a == pytest.approx(0.5) for a, b in itertools.pairwise(mine))


class TestServer:
    def receive(self, *times: float, timeout: float = 30.0, **what: Any) -> list[tuple[Answer, float]]:
        """Return what requests at some times bring, of a server that takes half a second for one."""
        server = Server(Scenario(**{"clients": 2, "rate": 1.0, "outage": 10.0, "capacity": 1.0, **what}))
        return [(answer, pytest.approx(delay)) for answer, delay in (server.receive(at, timeout) for at in times)]

    def test_it_works_off_one_after_the_other(self) -> None:
        """A request waits for those before it, and is turned away where that takes longer than the queue is."""
        assert self.receive(20.0, 20.25, 20.3, 21.5) == [
            (Answer.OK, LATENCY),
            (Answer.OK, LATENCY + 0.25),
            (Answer.BUSY, LATENCY),
            (Answer.OK, LATENCY),
        ]
        assert QUEUE == 0.5

    def test_it_fails_from_the_beginning_of_the_outage_to_its_end(self) -> None:
        """The outage begins at 0, and its end is outside it."""
        answers = [answer for answer, _ in self.receive(-0.01, 0.0, 9.99, 10.0)]
        assert answers == [Answer.OK, Answer.FAILED, Answer.FAILED, Answer.OK]

    def test_it_may_hang(self) -> None:
        """A server that hangs brings nothing until the client gives up."""
        assert self.receive(1.0, timeout=3.0, hang=True) == [(Answer.NOTHING, 3.0)]

    @pytest.mark.parametrize(("at", "timeout"), [(1.0, 0.01), (20.0, 0.01)])
    def test_a_client_without_patience_gets_nothing(self, at: float, timeout: float) -> None:
        """No answer, good or bad, comes to who has gone."""
        assert self.receive(at, timeout=timeout) == [(Answer.NOTHING, timeout)]

    def test_it_may_fail_in_part(self) -> None:
        """A share of the requests fails; the others are answered as ever."""
        answers = [answer for answer, _ in self.receive(*(n / 1000 for n in range(5000)), partial=0.3, capacity=1e6)]
        assert answers.count(Answer.FAILED) / 5000 == pytest.approx(0.3, abs=0.03)
        assert set(answers) == {Answer.FAILED, Answer.OK}

    def test_an_answer_may_be_any_failure(self) -> None:
        """What the outage answers decides what the adapter does: a throttle is waited for, not repeated into."""
        throttle = dataclasses.replace(SMALL, answer=-1003)
        record = simulate(throttle, contender("these settings, 1", throttle))
        assert record.amplification < 0.2
        neutral = dataclasses.replace(SMALL, answer=500)
        assert simulate(neutral, contender("these settings, 1", neutral)).amplification > 1.5


class TestClock:
    def test_it_stands_still(self) -> None:
        """Time passes from event to event, and where somebody sleeps on it."""
        clock = VirtualClock(5.0)
        assert clock.monotonic() == clock.monotonic() == clock.time() == 5.0
        clock.sleep(2.5)
        assert clock.monotonic() == 7.5

    def test_events_come_in_order(self) -> None:
        """Whatever calls wait for, the clock never goes back, and waits are exact."""
        clock, seen = VirtualClock(), []

        def call() -> Any:
            for wait in (0.0, 0.001, 0.5, 70.0):
                before = clock.now
                yield wait
                assert clock.now == before + wait
                seen.append(clock.now)
            return True

        record = play(Scenario(clients=3, rate=1.0, outage=2.0), [call], clock)
        assert sum(record.ended) == 3 * (WARM_UP + 2 + AFTER)
        assert seen == sorted(seen)


# How it is counted


def record(*seconds: tuple[int, int, int, int], outage: float = 1.0, after: float = 5.0) -> Record:
    """Return a record of seconds with calls begun, requests, calls ended and failed in the middle of each."""
    made = Record(10.0, outage, warm_up=1.0, after=after)
    for second in seconds:
        for tick in range(TICKS):
            made.tick(*(second if tick == TICKS // 2 else (0, 0, 0, 0)))
    return made


WELL = (10, 10, 10, 0)
ILL = (10, 10, 10, 10)


class TestRecord:
    @pytest.mark.parametrize(
        ("after", "recovery"),
        [
            ((WELL,) * 5, 0.0),
            ((ILL, *(WELL,) * 4), 0.51),
            ((WELL, ILL, *(WELL,) * 3), 1.51),
            ((WELL, (10, 10, 0, 0), *(WELL,) * 3), 1.51),  # nobody is answered
            ((WELL, (0, 0, 0, 0), *(WELL,) * 3), 0.0),  # nobody asks
            ((*(WELL,) * 4, ILL), None),
            ((WELL, (300, 300, 300, 3), *(WELL,) * 3), 0.0),
            ((WELL, (300, 300, 300, 4), *(WELL,) * 3), 1.51),
        ],
    )
    def test_recovery(self, after: tuple[Any, ...], recovery: float | None) -> None:
        """Recovered is who, from then on, has no second in which more than 1 % of the calls that end fail."""
        assert record(WELL, ILL, *after).recovery == recovery

    def test_peak(self) -> None:
        """The peak is that of any second after the outage, over the demand; what was in it does not count."""
        assert record(WELL, (10, 99, 0, 0), WELL, (10, 25, 10, 0), WELL, WELL, WELL).peak == 2.5

    def test_the_simulations_own_end_does_not_count(self) -> None:
        """What happens when no more calls begin says nothing of the server."""
        ended = record(WELL, ILL, *(WELL,) * 5, (0, 70, 70, 70))
        assert (ended.peak, ended.recovery, ended.load) == (1.0, 0.0, [1.0] * 7)

    def test_failures_of_a_sample(self) -> None:
        """A sample's failures stand for all of them."""
        made = Record(10.0, 1.0, warm_up=1.0, after=1.0, scale=2.5)
        made.tick(4, 4, 4, 4)
        assert made.failures == 10


# The others


def follow(call: Call, clock: VirtualClock, *answers: Answer) -> tuple[list[float | Send], bool | None]:
    """Follow a call until it wants an answer that there is none of; return its steps, and how it ended if it did.

    Time passes with its waits only.
    """
    steps: list[float | Send] = []
    rest, answer = list(answers), None
    while True:
        try:
            step = call.send(answer)
        except StopIteration as end:
            return steps, end.value
        steps.append(step)
        answer = None
        if not isinstance(step, Send):
            clock.sleep(step)
        elif rest:
            answer = rest.pop(0)
        else:
            return steps, None


class TestRecipes:
    def waits(self, name: str, *draws: float) -> list[float]:
        """Return what a recipe waits where nothing succeeds, one random number for each wait."""
        clock, rest = VirtualClock(0.0), iter(draws)
        call = RECIPES[name].call(Send(1.0), clock, lambda: next(rest, 0.0))
        steps, succeeded = follow(call, clock, *[Answer.FAILED] * 20)
        assert succeeded is False
        return [step for step in steps if not isinstance(step, Send)]

    def test_the_references_recipe(self) -> None:
        """2 ** attempt + random, three attempts."""
        assert self.waits("the reference's recipe", 0.25, 0.5) == [1.25, 2.5]

    def test_urllib3(self) -> None:
        """What urllib3 itself says that it waits."""
        retry, expected = urllib3.Retry(total=3, backoff_factor=1, status_forcelist=[503]), []
        for _ in range(3):
            retry = retry.increment("GET", "/", urllib3.HTTPResponse(status=503))
            expected.append(retry.get_backoff_time())
        assert self.waits("urllib3 Retry") == expected == [0, 2, 4]
        with pytest.raises(urllib3.exceptions.MaxRetryError):
            retry.increment("GET", "/", urllib3.HTTPResponse(status=503))

    def test_tenacity(self) -> None:
        """Exponential with jitter, capped; ten attempts."""
        assert self.waits("tenacity (stamina)", *[0.5] * 9) == pytest.approx(
            [0.6, 0.7, 0.9, 1.3, 2.1, 3.7, 5.0, 5.0, 5.0]
        )

    def test_tenacity_stops_after_45_seconds(self) -> None:
        """No attempt is made that begins when 45 seconds have passed."""
        clock = VirtualClock(0.0)
        call = RECIPES["tenacity (stamina)"].call(Send(20.0), clock, lambda: 0.0)
        for _ in range(2):
            assert isinstance(call.send(None), Send)
            clock.sleep(20.0)
            clock.sleep(call.send(Answer.NOTHING))  # type: ignore[arg-type]
        assert isinstance(call.send(None), Send)
        clock.sleep(20.0)
        assert follow(call, clock) == ([], False)

    def test_they_stop_at_a_success(self) -> None:
        """What was answered well is not sent again."""
        clock = VirtualClock()
        call = RECIPES["urllib3 Retry"].call(Send(1.0), clock, lambda: 0.0)
        assert follow(call, clock, Answer.OK) == ([Send(1.0)], True)


class TestProcess:
    """What one call alone does not meet: see also the stories that the real adapter has to tell the same."""

    def test_a_place_in_line_is_given_up_where_it_came_to_lead_nowhere(self) -> None:
        """A throttle that closes the server for longer than a call has left ends that call, too."""
        settings = Settings.from_mapping({"rate_limit": {"rate": "1/10s", "wait": 60.0}, "deadline": 30.0})
        clock = VirtualClock(0.0)
        process = Process(settings, clock, lambda: 0.0, answer=-1003)
        throttled, waiting = process.call(), process.call()
        assert isinstance(throttled.send(None), Send)
        wait = waiting.send(None)
        assert isinstance(wait, float) and wait < 30.0
        with pytest.raises(StopIteration):
            throttled.send(Answer.FAILED)
        clock.sleep(wait)
        assert follow(waiting, clock) == ([], False)

    @pytest.mark.parametrize(("when_open", "goes"), [("raise", False), ("wait", True)])
    def test_a_turn_is_given_back_where_the_circuit_opened_meanwhile(self, when_open: str, goes: bool) -> None:
        """Who waited in line for a server whose circuit opened does not use the turn up."""
        settings = Settings.from_mapping(
            {
                "read_timeout": 2.0,
                "rate_limit": {"rate": "2/10s"},
                "circuit": {"fail_max": 1, "when_open": when_open},
                "retry": {"max_attempts": 1},
            }
        )
        clock = VirtualClock(0.0)
        process = Process(settings, clock, lambda: 0.0)
        failing, other, waiting = process.call(), process.call(), process.call()
        assert isinstance(failing.send(None), Send) and isinstance(other.send(None), Send)
        wait = waiting.send(None)
        assert isinstance(wait, float) and wait > 2.0
        clock.sleep(wait - 0.5)
        with pytest.raises(StopIteration):
            failing.send(Answer.FAILED)
        while clock.now < wait:  # its place comes up while the circuit is open
            clock.sleep(0.5)
        steps, _ = follow(waiting, clock)
        if not goes:
            assert steps == []
            clock.sleep(2.5)
            assert follow(process.call(), clock, Answer.OK) == ([Send(2.0)], True)
            steps, _ = follow(process.call(), clock)
            assert steps == [Send(2.0)]
        else:
            assert isinstance(steps[0], float) and steps[-1] == Send(2.0)


def test_without_a_timeout_of_the_settings_it_waits_for_ever() -> None:
    """A process of its own may be simulated with settings that know no timeout."""
    settings = Settings.from_mapping({"read_timeout": 0, "connect_timeout": 0, "deadline": 0})
    assert Process(settings, VirtualClock(), lambda: 0.0).call().send(None) == Send(math.inf)
