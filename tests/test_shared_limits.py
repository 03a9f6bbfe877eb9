"""Limits that processes share: cooldowns, windows that hold for the sum of all, repeats that are counted together."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_support import Fleet

from resilient_adapter.core.rates import Rate
from resilient_adapter.guards.pacing import SlidingWindow
from resilient_adapter.guards.rate_limit import Waiter
from resilient_adapter.guards.shared_pace import SharedPace, windows
from resilient_adapter.guards.shared_rate_limit import SharedRateLimit
from resilient_adapter.guards.shared_retry_budget import SharedRetryBudget, repeats
from resilient_adapter.settings.schema import Settings
from resilient_adapter.state.store import Change, Record, Store

ORIGIN = "https://a.example"
PACE, COOLDOWN, BUDGET = (f"{kind}:{ORIGIN}" for kind in ("pace", "cooldown", "budget"))
READ, ORDER = 2, 1


class Processes:
    """Processes that share the limits of one origin.

    Args:
        count: how many.
        rate_limit: their settings.
    """

    def __init__(self, count: int = 3, **rate_limit: Any) -> None:
        self.fleet = Fleet()
        self.clock = self.fleet.clock
        self.backend = self.fleet.backend
        self.settings = rate_limit
        self.stores: list[Store] = []
        self.limits = [self.join() for _ in range(count)]

    def join(self, **rate_limit: Any) -> SharedRateLimit:
        """Return the line of one more process."""
        store = self.fleet.store()
        self.stores.append(store)
        values = Settings.from_mapping({"rate_limit": {**self.settings, **rate_limit}}).rate_limit
        return SharedRateLimit(values, self.clock, store=store, name=ORIGIN)

    def remaining(self) -> list[float]:
        """Return the cooldown of each, when all have heard."""
        self.fleet.hear()
        return [pytest.approx(limit.remaining(), abs=1e-5) for limit in self.limits]

    def record(self, key: str) -> Any:
        """Return what the store says."""
        (seen,) = self.backend.read([key])
        return None if seen.value is None else json.loads(seen.value)


class TestCooldown:
    def test_one_holds_in_all(self) -> None:
        """In a process that starts later too; it ends by itself, everywhere at once."""
        all_ = Processes()
        assert all_.limits[0].throttled(60.0) == 60.0
        assert all_.remaining() == [60.0] * 3
        all_.clock.advance(20.0)
        all_.limits.append(all_.join())
        assert all_.remaining() == [40.0] * 4
        assert not any(limit.idle for limit in all_.limits)
        all_.clock.advance(40.0)
        assert all_.remaining() == [0.0] * 4 and all_.record(COOLDOWN) is None

    @pytest.mark.parametrize(("first", "second", "left"), [
        (60.0, 10.0, 60.0), (10.0, 60.0, 60.0), (60.0, 60.0, 60.0), (0.0, 5.0, 5.0), (5.0, 0.0, 5.0), (0.0, 0.0, 0.0),
    ])  # fmt: skip
    @pytest.mark.parametrize("heard", [False, True])
    def test_the_later_end_counts(self, first: float, second: float, left: float, heard: bool) -> None:
        """Whoever was told of it, whether the other's was known by then or not."""
        all_ = Processes()
        all_.limits[0].throttled(first)
        if heard:
            all_.fleet.hear()
        all_.limits[1].throttled(second)
        assert all_.remaining() == [left] * 3

    def test_it_is_told_once(self) -> None:
        """Many requests are refused in one episode: only a later end is news to the others."""
        all_ = Processes()
        before = all_.backend.swaps
        for _ in range(10):
            for limit in all_.limits:
                limit.throttled(60.0)
            all_.fleet.hear()
        assert all_.backend.swaps <= before + 3  # whoever had not heard yet had to ask

    def test_a_person_ends_it(self) -> None:
        """By removing the record: those who wait go one after the other."""
        all_ = Processes()
        all_.limits[0].throttled(60.0)
        waiter = all_.limits[1].enter(READ)
        all_.fleet.hear()
        assert all_.limits[1].poll(waiter) > 50
        all_.stores[2].record(COOLDOWN).update(lambda value, now: Change(None))
        assert all_.remaining() == [0.0] * 3
        wait = all_.limits[1].poll(waiter)
        while wait:
            assert wait <= 60.0
            all_.clock.advance(wait)
            wait = all_.limits[1].poll(waiter)

    def test_old_news_of_its_end_do_not_end_it(self) -> None:
        """A reset that is heard late, while the next cooldown is told."""
        all_ = Processes(2)
        all_.limits[1].throttled(60.0)
        all_.fleet.hear()
        all_.stores[1].record(COOLDOWN).update(lambda value, now: Change(None))
        all_.backend.before_answer = all_.fleet.hear
        assert all_.limits[0].throttled(90.0) == 90.0
        assert all_.remaining() == [90.0] * 2

    def test_opening_what_is_open_changes_nothing(self) -> None:
        """Nobody waits for what has ended."""
        (limit,) = (all_ := Processes(1)).limits
        limit.open()
        assert limit.idle and all_.remaining() == [0.0]

    def test_a_rate_is_cut_once_for_one_episode(self) -> None:
        """In each process, however many of them were refused, and however often the end is put off."""
        all_ = Processes(2)
        for limit in all_.limits:
            for _ in range(50):
                limit.sent()
        one, other = all_.limits
        one.throttled(10.0)
        all_.fleet.hear()
        cut = [limit._cut_at for limit in all_.limits]
        assert cut == [all_.clock.monotonic()] * 2 and one._cubic is not None and other._cubic is not None
        cubic = other._cubic
        for later in (12.0, 30.0, 30.01):
            all_.clock.advance(1.5)
            one.throttled(later)
            other.throttled(None)
            all_.fleet.hear()
        assert [limit._cut_at for limit in all_.limits] == cut and other._cubic is cubic
        all_.clock.advance(70.0)
        other.throttled(5.0)
        assert other._cut_at > cut[1]

    @pytest.mark.parametrize("text", ["5", "[]", "{}", '{"until": 1}', '{"until": "x", "for": 1}', "nonsense"])
    def test_what_is_no_record_of_ours(self, text: str) -> None:
        """It closes nothing, opens nothing, and is replaced."""
        all_ = Processes(2)
        all_.limits[1].throttled(30.0)
        all_.fleet.hear()
        all_.backend.put(COOLDOWN, text)
        assert all_.remaining() == [30.0, 30.0]
        all_.limits[0].throttled(90.0)
        assert all_.remaining() == [90.0, 90.0]

    def test_without_the_store(self) -> None:
        """It holds here alone; back again, the later end of both holds in all."""
        all_ = Processes(2)
        all_.fleet.fail()
        assert all_.limits[0].throttled(60.0) == 60.0
        assert [limit.remaining() for limit in all_.limits] == [60.0, 0.0]
        all_.fleet.back()
        all_.limits[1].throttled(20.0)
        assert all_.remaining() == [60.0, 20.0]  # told by nobody: each process hears of it when it is told itself
        all_.limits[0].throttled(60.0)
        assert all_.remaining() == [60.0, 60.0]


def served(
    all_: Processes, arrivals: Sequence[tuple[float, int]], late: Sequence[float] = (0.0,)
) -> list[tuple[float, int]]:
    """Let requests come at these times (seconds from now) to these processes, each asking again when it was told to.

    Args:
        all_: the processes.
        arrivals: times and numbers of processes.
        late: seconds by which each wakes up late, in turn.

    Returns:
        when each went (seconds from now), and of which process, in order.
    """
    begin = all_.clock.monotonic()
    lateness = itertools.cycle(late)
    events: list[tuple[float, int, int, Waiter | None]] = [(at, n, who, None) for n, (at, who) in enumerate(arrivals)]
    heapq.heapify(events)
    gone = []
    for _ in range(1000 * len(arrivals)):
        if not events:
            break
        at, n, who, waiter = heapq.heappop(events)
        all_.clock.advance(max(0.0, begin + at - all_.clock.monotonic()))
        limit = all_.limits[who]
        waiter = limit.enter(READ) if waiter is None else waiter
        wait = limit.poll(waiter)
        now = all_.clock.monotonic() - begin
        if wait:
            heapq.heappush(events, (now + wait + next(lateness), n, who, waiter))
        else:
            gone.append((now, who))
    assert not events, "some wait for ever"
    return gone


def latency(all_: Processes, seconds: Sequence[float]) -> None:
    """Let each answer of the store take a while, in turn."""
    turn = itertools.cycle(seconds)
    swap = all_.backend.swap

    def slow(*args: Any, **options: Any) -> Any:
        before, after = next(turn), next(turn)
        all_.clock.advance(before)
        seen = swap(*args, **options)
        all_.clock.advance(after)
        return seen

    all_.backend.swap = slow  # type: ignore[method-assign]


def excess(times: Sequence[float], limit: int, period: float) -> float:
    """Return by how much too close together more than the limit were sent; nothing where they never were."""
    return max([period - (b - a) for a, b in zip(times, times[limit:], strict=False)], default=0.0)


RATES = {
    "2/s": [Rate(2, 1.0)],
    "10/s": [Rate(10, 1.0)],
    "150/s": [Rate(150, 1.0)],  # more than one slot under one stamp
    "6/2s": [Rate(6, 2.0)],
    "4/s 20/10s": [Rate(4, 1.0), Rate(20, 10.0)],
}


class TestPacing:
    @settings(max_examples=50)
    @given(
        rate=st.sampled_from(list(RATES)),
        count=st.integers(1, 4),
        gaps=st.lists(
            st.tuples(st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.02, 0.1, 0.6, 3.0]), st.integers(0, 3)), max_size=60
        ),
        late=st.lists(st.sampled_from([0.0, 0.0, 0.004, 0.03, 0.3]), min_size=1, max_size=7),
        slow=st.lists(st.sampled_from([0.0, 0.001, 0.004]), min_size=1, max_size=5),
    )
    def test_no_window_carries_more_than_its_limit(
        self, rate: str, count: int, gaps: list[tuple[float, int]], late: list[float], slow: list[float]
    ) -> None:
        """Of all processes together, wherever a period is laid over it, however late they and the store are."""
        all_ = Processes(count, rate=rate.split())
        latency(all_, slow)
        times = itertools.accumulate(gap for gap, _ in gaps)
        arrivals = [(at, who % count) for at, (_, who) in zip(times, gaps, strict=True)]
        sent = [at for at, _ in served(all_, arrivals, [*late, 0.0])]
        assert len(sent) == len(gaps)
        for limit, period in RATES[rate]:
            assert excess(sent, limit, period) <= 1e-6

    @pytest.mark.parametrize("count", [1, 4])
    def test_a_burst_goes_within_moments(self, count: int) -> None:
        """A long window's slots are not spread out over all of it: a hundred a minute may go now."""
        all_ = Processes(count, rate="100/min")
        sent = served(all_, [(0.0, n % count) for n in range(101)])
        assert sent[99][0] < 6.0 and sent[100][0] >= 60.0

    @pytest.mark.parametrize("count", [1, 2, 4, 8])
    def test_nearly_all_of_the_limit_is_used(self, count: int) -> None:
        """By as many as want it, however they share it; at most a tenth goes to what sharing costs."""
        all_ = Processes(count, rate="20/s")
        sent = served(all_, [(0.0, n % count) for n in range(200)])
        assert 9.0 <= sent[-1][0] <= 11.5

    @pytest.mark.parametrize(("rate", "count", "each"), [("30/s", 3, 60), ("10/s", 4, 30)])
    def test_they_share_it_evenly(self, rate: str, count: int, each: int) -> None:
        """Of several that want more than there is none gets much more than the others, whoever asked first."""
        all_ = Processes(count, rate=rate)
        sent = served(all_, [(0.0, n % count) for n in range(count * each)])
        first = [who for _, who in sent[: len(sent) // 2]]
        shares = [count * first.count(who) / len(first) for who in range(count)]
        assert min(shares) > 0.7 and max(shares) < 1.4, shares

    @pytest.mark.parametrize(("rate", "demand", "count", "most"), [
        ("1000/s", 200.0, 4, 0.25),  # where slots are plenty, some are taken beforehand
        ("20/s", 1000.0, 1, 0.4),  # where they are short, those who wait are served together
        ("20/s", 1000.0, 4, 1.0),
        ("600/min", 5.0, 2, 1.5),  # few calls in each process: one question each, and one more where it was overtaken
    ])  # fmt: skip
    def test_one_question_serves_several(self, rate: str, demand: float, count: int, most: float) -> None:
        """Questions to the store for each call, of a steady stream of them."""
        all_ = Processes(count, rate=rate)
        before = all_.backend.swaps
        arrivals = [(n / demand, n % count) for n in range(400)]
        served(all_, arrivals)
        assert (all_.backend.swaps - before) / len(arrivals) <= most

    def test_who_waits_does_not_ask_again(self) -> None:
        """While slots are in hand, or none is free yet, or another thread asks: nobody asks the store."""
        all_ = Processes(2, rate="2/s")
        limit = all_.limits[0]
        served(all_, [(0.0, 1), (0.0, 1)])
        waiter = limit.enter(READ)
        first = limit.poll(waiter)
        asked = all_.backend.swaps
        assert first > 0 and all(limit.poll(waiter) for _ in range(5)) and all_.backend.swaps == asked
        assert limit._pace is not None
        limit._pace._asked_until = math.inf
        assert limit.poll(limit.enter(READ)) > 0 and all_.backend.swaps == asked
        assert 0 < limit.estimate(READ) <= 2.0
        late = all_.join()
        assert late._pace is not None and late._pace.free_at(0, 5.0) == pytest.approx(5.01)  # nothing is known yet

    def test_a_slot_that_is_not_used_in_time_is_lost(self) -> None:
        """It is not saved up: who comes later has to ask again."""
        all_ = Processes(1, rate="100/s")
        (limit,) = all_.limits
        served(all_, [(n / 50, 0) for n in range(40)])
        assert limit._pace is not None
        all_.clock.advance(3.0)
        asked = all_.backend.swaps
        served(all_, [(0.0, 0)])
        assert all_.backend.swaps > asked and all(slot.end > all_.clock.monotonic() for slot in limit._pace._slots)

    def test_a_slot_may_go_by_while_the_store_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One in hand that ends meanwhile is lost, not used beside the next."""
        monkeypatch.setattr("resilient_adapter.guards.shared_pace._SPACING_MOST", 1.0)
        all_ = Processes(1, rate="10/s")
        (limit,) = all_.limits
        pace = limit._pace
        assert pace is not None
        slots, ask_at = pace.reserve(pace.wanted(10, 0.0, all_.clock.monotonic()))  # type: ignore[arg-type]
        pace.put(slots, ask_at)
        first, second = pace._slots[0], pace._slots[1]
        assert first.end < second.begin
        all_.clock.advance(second.begin - all_.clock.monotonic())
        now = all_.clock.monotonic()
        assert pace.free_at(0, now) == now
        pace.take(now)
        assert pace.free_at(0, now) > now

    def test_one_that_was_got_in_vain_is_lost(self) -> None:
        """Nobody else could use it in time."""
        all_ = Processes(1, rate="2/s")
        (limit,) = all_.limits
        waiter = limit.enter(READ)
        assert limit.poll(waiter) == 0.0 == limit.poll(waiter)
        limit.leave(waiter)
        first, second = (at for at, _ in served(all_, [(0.0, 0)] * 2))
        assert 0.0 < first < 0.5 and second > 1.0

    def test_who_has_other_limits_asks_for_those(self) -> None:
        """Nothing is raised, nobody waits for ever, and the record is that of whoever wrote last."""
        all_ = Processes(1, rate="5/s")
        all_.limits.append(all_.join(rate=["5/s", "30/min"]))
        all_.limits.append(all_.join(rate="300/s"))
        sent = served(all_, [(0.05 * n, n % 3) for n in range(60)])
        assert [who for _, who in sent].count(1) == 20

    @pytest.mark.parametrize("text", [
        "5", "[]", "{}", '{"windows": 5}', '{"windows": [5]}', '{"windows": [[]]}', '{"windows": [[1]]}',
        '{"windows": [[1, 2]], "latest": "x"}', '{"windows": [["x", 2]]}', '{"windows": [[Infinity, 2, 3]]}',
        '{"windows": [[NaN, 2, 3]]}', '{"windows": [[1, 2, null]]}', '{"windows": [[1, 2, {}]]}', "nonsense",
    ])  # fmt: skip
    def test_what_is_no_record_of_ours(self, text: str) -> None:
        """It is taken for none, and replaced."""
        all_ = Processes(2, rate="5/s")
        all_.backend.put(PACE, text)
        sent = [at for at, _ in served(all_, [(0.0, n % 2) for n in range(20)])]
        assert excess(sent, 5, 1.0) <= 1e-6
        assert len(windows([Rate(5, 1.0)], all_.record(PACE))) == 1

    @pytest.mark.parametrize("late", [False, True])
    def test_without_the_store(self, late: bool) -> None:
        """Each process keeps to the limit by itself, and nothing is raised."""
        all_ = Processes(2, rate="5/s")
        if late:
            served(all_, [(0.0, 0), (0.0, 1)])
        all_.fleet.fail()
        sent = served(all_, [(0.0, n % 2) for n in range(40)])
        for who in range(2):
            assert excess([at for at, one in sent if one == who], 5, 1.0) <= 1e-6
        assert len(all_.fleet.warnings) == 2

    def test_always_overtaken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who cannot get a word in has no slots, and asks again."""
        all_ = Processes(1, rate="5/s")
        (limit,) = all_.limits
        swap = all_.backend.swap
        monkeypatch.setattr(all_.backend, "swap", lambda key, *_, **__: swap(key, -7, None, 0.0))
        waiter = limit.enter(READ)
        assert limit.poll(waiter) > 0
        monkeypatch.setattr(all_.backend, "swap", swap)
        all_.clock.advance(1.0)
        assert limit.poll(waiter) == 0.0

    def test_an_interrupt_while_the_store_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It passes, and the next one asks."""
        all_ = Processes(1, rate="5/s")
        (limit,) = all_.limits

        def interrupt(*args: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(all_.backend, "swap", interrupt)
            waiter = limit.enter(READ)
            with pytest.raises(KeyboardInterrupt):
                limit.poll(waiter)
            limit.leave(waiter)
        assert served(all_, [(0.0, 0)]) == [(0.0, 0)]

    @pytest.mark.parametrize("rate", ["2/s", "10/s", "100/10s"])
    @pytest.mark.parametrize("late", [0.015, 0.03, 0.1, 0.3])
    def test_who_wakes_late_is_served_all_the_same(self, rate: str, late: float) -> None:
        """Slots are good for longer then: one process sends nearly half of its limit, or more."""
        all_ = Processes(1, rate=rate)
        (limit,) = all_.limits
        end, sent = all_.clock.monotonic() + 60.0, 0
        while all_.clock.monotonic() < end:
            waiter = limit.enter(READ)
            while wait := limit.poll(waiter):
                all_.clock.advance(wait + late)
            sent += 1
        assert sent >= 27 * (2 if rate == "2/s" else 10)

    def test_an_interrupt_around_the_question(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever asks and is cut off before it can say so is not waited for for ever."""
        all_ = Processes(1, rate="5/s")
        (limit,) = all_.limits

        def interrupt(*args: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(SharedPace, "reserve", interrupt)
            patch.setattr(SharedPace, "put", interrupt)
            waiter = limit.enter(READ)
            with pytest.raises(KeyboardInterrupt):
                limit.poll(waiter)
            limit.leave(waiter)
        ((at, _),) = served(all_, [(0.0, 0)])
        assert at <= 2.1

    @pytest.mark.parametrize("rate", [None, "5/s"])
    def test_a_fork(self, rate: str | None) -> None:
        """The child is another process: slots in hand are its parent's, its cooldown is everybody's."""
        all_ = Processes(1, **({} if rate is None else {"rate": rate}))
        (limit,) = all_.limits
        for _ in range(3):
            limit.enter(READ)
        limit.poll(limit.enter(ORDER))
        limit.throttled(9.0)
        with limit._lock:
            limit.reset_after_fork()
        assert limit._pace is None or not limit._pace._slots
        assert limit.remaining() == 9.0
        all_.clock.advance(20)
        assert len(served(all_, [(0.0, 0)])) == 1


class TestWindows:
    @given(
        limit=st.sampled_from([1, 3, 8, 250, 1001]),
        gaps=st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.2]), max_size=60),
    )
    def test_one_that_was_saved_goes_on(self, limit: int, gaps: list[float]) -> None:
        """As if it had been kept, through JSON and back."""
        rate = Rate(limit, 1.0)
        kept = SlidingWindow(rate, stamps=100)
        copy = kept
        now = 0.0
        for gap in gaps:
            now += gap
            copy = SlidingWindow(rate, stamps=100, saved=json.loads(json.dumps(copy.saved())))
            free = kept.free_at(0, now)
            assert copy.free_at(0, now) == free
            kept.take(max(now, free, kept.latest))
            copy.take(max(now, free, copy.latest))
            assert copy.used(now) == kept.used(now) and copy.latest == kept.latest

    @pytest.mark.parametrize(("limit", "taken", "now", "used"), [
        (10, [], 5.0, 0), (10, [1.0, 1.5, 2.0], 2.0, 3), (10, [1.0, 1.5, 2.0], 2.2, 2), (10, [1.0, 1.5, 2.0], 9.0, 0),
        (1000, [1.0] * 25, 1.5, 25), (1000, [1.0] * 25, 2.5, 0),
    ])  # fmt: skip
    def test_how_many_are_taken(self, limit: int, taken: list[float], now: float, used: int) -> None:
        """In the period that ends now."""
        window = SlidingWindow(Rate(limit, 1.0), stamps=100)
        for at in taken:
            window.take(at)
        assert window.used(now) == used
        assert window.latest == (taken[-1] if taken else float("-inf"))


class TestRetryBudget:
    @staticmethod
    def make(fleet: Fleet, **retry: Any) -> SharedRetryBudget:
        """Return the budget of one more process."""
        values = Settings.from_mapping({"retry": {"budget": 0.2, "budget_floor": 1.0, **retry}}).retry
        return SharedRetryBudget(values, fleet.clock, store=fleet.store(), name=ORIGIN)

    @staticmethod
    def record(fleet: Fleet) -> Record:
        """Return the record, as it is now."""
        return fleet.store().record(BUDGET)

    def test_what_all_spend_is_counted(self) -> None:
        """Each has its own, and tells of it once a second; what was ten seconds ago is forgotten."""
        fleet = Fleet()
        one, other, third = (self.make(fleet) for _ in range(3))
        assert [one.spend() for _ in range(12)] == [True] * 10 + [False] * 2
        fleet.clock.advance(4.0)
        assert [other.spend() for _ in range(3)] == [True] * 3
        assert third.spend()
        now = fleet.clock.time()
        value = self.record(fleet).value
        assert value == [[now - 4, 1], [now, 2]] and repeats(value, now) == 3
        assert repeats(value, now + 6) == 2 and repeats(value, now + 10) == 0 and repeats(None, now) == 0
        fleet.clock.advance(7.0)
        other.spend()
        assert self.record(fleet).value == [[now, 2], [now + 7, 3]]
        fleet.clock.advance(10.0)
        assert self.record(fleet).value is None

    def test_it_is_written_down_once_in_a_while(self) -> None:
        """About once a second, at times of each process's own: not with each repeat."""
        fleet = Fleet()
        budgets = [self.make(fleet, budget_floor=1000.0) for _ in range(3)]
        for _ in range(200):
            for budget in budgets:
                assert budget.spend()
            fleet.clock.advance(0.03)
        assert 9 <= fleet.backend.swaps <= 3 * 2 * 13
        assert repeats(self.record(fleet).value, fleet.clock.time()) > 400

    def test_one_that_is_overtaken_tries_once_more_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What it could not write down is written with the next."""
        fleet = Fleet()
        budget = self.make(fleet)
        swap = fleet.backend.swap
        with monkeypatch.context() as patch:
            patch.setattr(fleet.backend, "swap", lambda key, *_, **__: swap(key, -7, None, 0.0))
            assert budget.spend()
        assert fleet.backend.swaps == 2 and self.record(fleet).value is None
        fleet.clock.advance(2.0)
        budget.spend()
        assert self.record(fleet).value == [[fleet.clock.time(), 2]]

    @pytest.mark.parametrize("text", ["5", '"ab"', "{}", "[5]", "[[5]]", "[[1e99, {}]]", '[["x", 1]]', "nonsense"])
    def test_what_is_no_record_of_ours(self, text: str) -> None:
        """It is replaced."""
        fleet = Fleet()
        budget = self.make(fleet)
        fleet.backend.put(BUDGET, text)
        assert budget.spend()
        assert self.record(fleet).value == [[fleet.clock.time(), 1]]

    def test_without_the_store(self) -> None:
        """It is spent all the same, and no more of it."""
        fleet = Fleet()
        budget = self.make(fleet)
        fleet.fail()
        assert [budget.spend() for _ in range(12)] == [True] * 10 + [False] * 2
        budget.reset_after_fork()
        assert not budget.spend()
