"""The line that requests stand in where an origin limits how many it takes."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from resilient_adapter.clock import SYSTEM_CLOCK, Clock
from resilient_adapter.core.rates import Rate
from resilient_adapter.guards.pacing import SlidingWindow
from resilient_adapter.guards.rate_limit import RateLimit, Waiter
from resilient_adapter.testing import FakeClock

ORDERS, MARKET_DATA = 0, 1


@dataclass(frozen=True)
class RateLimitSettings:
    """The defaults of the contract."""

    wait: float = 60.0
    max_wait: float = 120.0
    adaptive: bool = True
    rates: tuple[Rate, ...] = ()


def make(clock: Clock, **settings: Any) -> RateLimit:
    """Return a limit with these settings over the defaults."""
    values: Any = RateLimitSettings(**settings)
    return RateLimit(values, clock)


def go(limit: RateLimit, clock: Clock, priority: int = MARKET_DATA) -> int:
    """Stand in line until it is one's turn, and return how often that was asked."""
    waiter = limit.enter(priority)
    polls = 1
    while wait := limit.poll(waiter):
        clock.sleep(wait)
        polls += 1
    return polls


def let_go(limit: RateLimit, clock: FakeClock, arrivals: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Let requests come at these times (seconds from now, priority), each asking again when it was told to.

    Returns:
        when each went (seconds from now), and which one it was.
    """
    begin = clock.monotonic()
    events: list[tuple[float, int, Waiter | None]] = [(at, n, None) for n, (at, _) in enumerate(arrivals)]
    heapq.heapify(events)
    gone = []
    while events:
        at, n, waiter = heapq.heappop(events)
        clock.advance(max(0.0, begin + at - clock.monotonic()))
        waiter = waiter or limit.enter(arrivals[n][1])
        wait = limit.poll(waiter)
        now = clock.monotonic() - begin
        if wait:
            heapq.heappush(events, (now + wait, n, waiter))
        else:
            gone.append((now, n))
    return gone


def demand(limit: RateLimit, clock: FakeClock, rate: float, seconds: float) -> None:
    """Send so many requests per second without asking, for a while."""
    for _ in range(round(rate * seconds)):
        limit.sent()
        clock.advance(1 / rate)


class TestIdle:
    def test_nothing_holds_a_request(self, clock: FakeClock) -> None:
        """Without rates, and before the first throttle, nobody need ask."""
        limit = make(clock)
        demand(limit, clock, 1000.0, 20.0)
        assert limit.idle and limit.remaining() == 0.0 and limit.estimate(MARKET_DATA) == 0.0

    def test_rates_are_always_asked(self, clock: FakeClock) -> None:
        """With rates every request takes a slot, and one that is free is got at once."""
        limit = make(clock, rates=(Rate(10, 1.0),))
        assert not limit.idle and limit.estimate(MARKET_DATA) == 0.0
        assert go(limit, clock) == 1
        assert not limit.idle

    def test_who_asks_all_the_same_goes_at_once(self, clock: FakeClock) -> None:
        """A request that came into the line although nothing holds it passes, and the limit is idle again."""
        limit = make(clock)
        waiter = limit.enter(ORDERS)
        assert not limit.idle
        assert limit.poll(waiter) == 0.0
        assert limit.idle


class TestCooldown:
    @pytest.mark.parametrize(
        ("retry_after", "wait"), [(None, 60.0), (7.0, 7.0), (0.0, 0.0), (0.25, 0.25), (86400.0, 86400.0)]
    )
    def test_the_wait(self, clock: FakeClock, retry_after: float | None, wait: float) -> None:
        """The origin is closed for what the server asked for, else for ``wait``; for 0 not at all."""
        limit = make(clock)
        assert limit.throttled(retry_after) == wait == limit.remaining()
        assert limit.estimate(ORDERS) == wait
        assert not limit.idle

    def test_the_later_end_counts(self, clock: FakeClock) -> None:
        """A second throttle lengthens a cooldown, and never shortens it."""
        limit = make(clock)
        assert limit.throttled(10.0) == 10.0
        clock.advance(4.0)
        assert limit.throttled(2.0) == 6.0
        assert limit.throttled(0.0) == 6.0
        assert limit.throttled(9.0) == 9.0
        clock.advance(20.0)
        assert limit.remaining() == 0.0 and limit.throttled(0.0) == 0.0

    def test_a_lone_waiter_asks_twice(self, clock: FakeClock) -> None:
        """It is told the whole wait at once, and goes when that is over."""
        limit = make(clock)
        limit.throttled(None)
        begin = clock.monotonic()
        assert go(limit, clock) == 2
        assert clock.monotonic() - begin == pytest.approx(60.0)

    @pytest.mark.parametrize("adaptive", [False, True])
    def test_waiters_are_released_one_by_one(self, clock: FakeClock, adaptive: bool) -> None:
        """After a cooldown the first goes at once and the others follow at a pace, in order: no herd."""
        limit = make(clock, adaptive=adaptive)
        demand(limit, clock, 20.0, 10.0)
        limit.throttled(5.0)
        gone = let_go(limit, clock, [(0.01 * n, MARKET_DATA) for n in range(30)])
        assert [n for _, n in gone] == list(range(30))
        times = [at for at, _ in gone]
        assert times[0] == pytest.approx(5.0)
        rate = 20.0 * 0.7 if adaptive else 10.0
        assert times[1] - times[0] == pytest.approx(1 / rate, rel=0.01)
        # Slower than before the throttle for so long; at a constant pace where nothing was learned.
        assert (
            times[-1] - times[0] > 29 / 20.0 if adaptive else times == pytest.approx([5.0 + n / 10 for n in range(30)])
        )

    def test_those_who_slept_outside_the_line_are_no_herd_either(self, clock: FakeClock) -> None:
        """Who comes when the cooldown is over is held for a moment longer, so that not all go at once."""
        limit = make(clock, adaptive=False)
        limit.throttled(5.0)
        times = [at for at, _ in let_go(limit, clock, [(5.0 + n / 1000, ORDERS) for n in range(20)])]
        assert times == pytest.approx([5.0 + n / 10 for n in range(20)])

    def test_the_release_ends(self, clock: FakeClock) -> None:
        """Once all who waited have gone and a second has passed, nobody need ask any more."""
        limit = make(clock, adaptive=False)
        limit.throttled(5.0)
        let_go(limit, clock, [(0.0, ORDERS)] * 3)
        assert not limit.idle
        clock.advance(1.0)
        assert go(limit, clock) == 1
        assert limit.idle

    def test_rates_do_not_make_a_herd(self, clock: FakeClock) -> None:
        """Where the windows would let many go at once after a cooldown, the release is still spaced."""
        limit = make(clock, adaptive=False, rates=(Rate(1200, 60.0),))
        limit.throttled(5.0)
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 10)]
        assert times == pytest.approx([5.0 + n / 10 for n in range(10)])


class TestOrder:
    def test_first_come_first_served(self, clock: FakeClock) -> None:
        """Among equals the order of coming is the order of going."""
        limit = make(clock, rates=(Rate(1, 1.0),))
        gone = let_go(limit, clock, [(n / 100, MARKET_DATA) for n in range(20)])
        assert [n for _, n in gone] == list(range(20))

    def test_orders_before_market_data(self, clock: FakeClock) -> None:
        """An order that comes last goes before all market data that still waits."""
        limit = make(clock, rates=(Rate(1, 1.0),))
        gone = let_go(limit, clock, [(n / 100, MARKET_DATA) for n in range(5)] + [(0.5, ORDERS), (0.6, ORDERS)])
        assert [n for _, n in gone] == [0, 5, 6, 1, 2, 3, 4]

    def test_what_reduces_risk_before_all(self, clock: FakeClock) -> None:
        """A cancel that comes last goes before orders, and they before what only looks."""
        limit = make(clock, rates=(Rate(1, 1.0),))
        gone = let_go(limit, clock, [(0.0, 2), (0.1, 2), (0.2, 1), (0.3, 1), (0.4, 0)])
        assert [n for _, n in gone] == [0, 4, 2, 3, 1]

    def test_the_estimate_knows_the_line(self, clock: FakeClock) -> None:
        """Market data waits for all in line, an order for the orders only; asking changes nothing."""
        limit = make(clock, rates=(Rate(1, 1.0),))
        go(limit, clock)
        limit.enter(ORDERS)
        limit.enter(MARKET_DATA)
        limit.enter(MARKET_DATA)
        for _ in range(3):
            assert limit.estimate(ORDERS) == pytest.approx(2 * 1.01)
            assert limit.estimate(MARKET_DATA) == pytest.approx(4 * 1.01)

    def test_a_late_riser_holds_nobody_up(self, clock: FakeClock) -> None:
        """Where there are slots for those ahead too, who is behind them need not wait until they ask."""
        limit = make(clock, rates=(Rate(2, 1.0),))
        late, here, behind = (limit.enter(MARKET_DATA) for _ in range(3))
        assert limit.poll(here) == 0.0
        assert limit.poll(behind) > 0.0  # the second slot is the late one's
        assert limit.poll(late) == 0.0

    def test_a_turn_is_taken_once(self, clock: FakeClock) -> None:
        """Asking again after one's turn takes no second slot."""
        limit = make(clock, rates=(Rate(2, 1.0),))
        waiter = limit.enter(ORDERS)
        assert [limit.poll(waiter) for _ in range(5)] == [0.0] * 5
        assert limit.estimate(ORDERS) == 0.0


class TestLeave:
    def test_a_place_in_the_line(self, clock: FakeClock) -> None:
        """Who leaves makes room for those behind, who notice soon; leaving twice harms nobody."""
        limit = make(clock, rates=(Rate(1, 10.0),))
        go(limit, clock)
        first, second, third = (limit.enter(MARKET_DATA) for _ in range(3))
        assert limit.poll(first) == pytest.approx(10.05)
        assert limit.poll(third) == pytest.approx(10.3)  # not 30: those ahead may leave
        limit.leave(second)
        limit.leave(second)
        clock.advance(10.05)
        assert limit.poll(first) == 0.0
        assert limit.poll(third) == pytest.approx(10.05)

    def test_the_last_one(self, clock: FakeClock) -> None:
        """When the only waiter leaves, the limit is idle again."""
        limit = make(clock)
        limit.leave(limit.enter(ORDERS))
        assert limit.idle

    def test_a_turn_that_was_not_used(self, clock: FakeClock) -> None:
        """Its slot is free for the next, once."""
        limit = make(clock, rates=(Rate(1, 10.0), Rate(5, 60.0)))
        waiter = limit.enter(ORDERS)
        assert limit.poll(waiter) == 0.0
        assert limit.estimate(ORDERS) > 0.0
        for _ in range(2):
            limit.leave(waiter)
            assert limit.estimate(ORDERS) == 0.0
        assert go(limit, clock) == 1
        limit.leave(waiter)
        assert limit.estimate(ORDERS) > 0.0

    def test_a_turn_that_others_followed(self, clock: FakeClock) -> None:
        """Its slot passes unused: what others took since then stays counted."""
        limit = make(clock, rates=(Rate(2, 10.0),))
        waiter = limit.enter(ORDERS)
        limit.poll(waiter)
        go(limit, clock)
        limit.leave(waiter)
        assert limit.estimate(ORDERS) > 0.0

    def test_an_interrupted_poll(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who was interrupted in the middle of taking a turn can leave without taking another's place."""
        limit = make(clock, rates=(Rate(5, 10.0),))
        interrupted, other = limit.enter(ORDERS), limit.enter(ORDERS)
        with monkeypatch.context() as patch:
            patch.setattr(SlidingWindow, "take", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                limit.poll(interrupted)
        limit.leave(interrupted)
        assert limit.poll(other) == 0.0


class TestUsedWeight:
    @pytest.mark.parametrize(
        ("headers", "free"),
        [
            ({}, 5),
            ({"X-MBX-USED-WEIGHT-10S": "3"}, 3),
            ({"x-mbx-used-weight-10s": "3"}, 3),
            ({"X-MBX-USED-WEIGHT-10S": "1"}, 5),  # that was us
            ({"X-MBX-USED-WEIGHT-10S": "2"}, 5),  # that may have been us, a while ago
            ({"X-MBX-USED-WEIGHT-10S": "600"}, 0),
            ({"X-MBX-USED-WEIGHT-1M": "19"}, 1),
            ({"X-MBX-USED-WEIGHT-1M": "19", "X-MBX-USED-WEIGHT-10S": "6"}, 0),
            ({"X-MBX-USED-WEIGHT-1M": "19", "X-MBX-USED-WEIGHT-10S": "5"}, 1),
            ({"X-MBX-USED-WEIGHT-1H": "19"}, 5),  # of no window of ours
            ({"X-MBX-USED-WEIGHT-10S": "-3"}, 5),
            ({"X-MBX-USED-WEIGHT-10S": "lots"}, 5),
            ({"X-MBX-USED-WEIGHT-10S": "99999999999"}, 5),
        ],
    )
    def test_takes_slots_of_the_window_of_its_period(
        self, clock: FakeClock, headers: dict[str, str], free: int
    ) -> None:
        """What the server counted beyond our own requests is not ours to send; what cannot be read is passed over."""
        limit = make(clock, rates=(Rate(6, 10.0), Rate(20, 60.0), Rate(3, 0.5)))
        go(limit, clock)
        clock.advance(1.0)
        limit.observed(CaseInsensitiveDict(headers))
        sent = 0
        while not limit.estimate(ORDERS):
            go(limit, clock)
            sent += 1
            clock.advance(0.2)
        assert sent == free

    def test_nobody_looks_without_rates(self, clock: FakeClock) -> None:
        """Where nothing is paced there is nothing to take."""
        limit = make(clock)
        limit.observed({"X-MBX-USED-WEIGHT-1M": "1200"})
        assert limit.idle

    def test_a_full_window_stands_still_for_one_period(self, clock: FakeClock) -> None:
        """Whoever filled it, its slots are free again a period after that was heard."""
        limit = make(clock, rates=(Rate(5, 10.0),))
        limit.observed({"X-MBX-USED-WEIGHT-10S": "5000"})
        assert limit.estimate(ORDERS) == pytest.approx(10.0)
        clock.advance(10.0)
        assert limit.estimate(ORDERS) == 0.0

    def test_a_turn_given_back_is_no_slot_of_others(self, clock: FakeClock) -> None:
        """What the server has counted stays taken, and a turn of long ago is nothing to give back."""
        limit = make(clock, rates=(Rate(5, 10.0),))
        waiter = limit.enter(ORDERS)
        limit.poll(waiter)
        for used in ("4", "5"):
            limit.observed({"X-MBX-USED-WEIGHT-10S": used})
        late = limit.enter(ORDERS)
        limit.leave(waiter)
        assert limit.poll(late) > 0.0
        clock.advance(10.05)
        assert limit.poll(late) == 0.0
        clock.advance(10.05)
        limit.observed({"X-MBX-USED-WEIGHT-10S": "1"})
        limit.leave(late)
        assert limit.estimate(ORDERS) == 0.0

    def test_alone_with_the_server_its_count_says_nothing(self, clock: FakeClock) -> None:
        """As long as it counts our own requests only, whenever its windows begin, ours are as wide as ever."""
        limit = make(clock, rates=(Rate(5, 10.0),))
        used = [0]
        sent = 0
        for step in range(1000):
            if step % 100 == 37:
                used = [0]
            if not limit.estimate(ORDERS):
                go(limit, clock)
                used[0] += 1
                sent += 1
                limit.observed({"X-MBX-USED-WEIGHT-10S": str(used[0])})
            clock.advance(0.1)
        assert sent == 5 * 10


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class TestAdaptive:
    def test_slows_down_at_once(self, clock: FakeClock) -> None:
        """After a throttle the rate is 0.7 of what was sent, even where there is no cooldown."""
        limit = make(clock)
        demand(limit, clock, 100.0, 10.0)
        assert limit.throttled(0.0) == 0.0
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 21)]
        # A moment's worth of slots may be caught up, none here; the curve is steep at first.
        assert 20 / 100.0 < times[-1] - times[0] < 20 / 70.0

    def test_cuts_what_was_paced(self, clock: FakeClock) -> None:
        """Requests that stood in line count as sent, like those that did not have to."""
        limit = make(clock, rates=(Rate(20, 1.0),))
        let_go(limit, clock, [(n / 20, MARKET_DATA) for n in range(200)])
        limit.throttled(1.0)
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 6)]
        assert 5 / (times[5] - times[0]) == pytest.approx(20 * 0.7, rel=0.15)

    def test_probes_back_up(self, clock: FakeClock) -> None:
        """Under a demand that never ends the rate comes back to what it was, rests, and then exceeds it."""
        limit = make(clock)
        demand(limit, clock, 10.0, 10.0)
        limit.throttled(5.0)
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 100)]

        def sent(begin: float, end: float) -> int:
            return sum(begin <= at < end for at in times)

        assert sent(0.0, 5.0) == 0
        assert sent(5.0, 6.0) == pytest.approx(8, abs=1)
        assert sent(6.0, 8.0) == pytest.approx(20, abs=1)
        assert sent(8.0, 10.0) > 22

    def test_one_episode_is_one_cut(self, clock: FakeClock) -> None:
        """64 threads that are throttled together slow down once, not 64 times."""
        limit = make(clock)
        demand(limit, clock, 100.0, 10.0)
        for _ in range(64):
            limit.throttled(1.0)
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 11)]
        assert times[-1] - times[0] == pytest.approx(10 / 70.0, rel=0.05)

    @pytest.mark.parametrize(("sent", "rate"), [(40, 76.0), (100, 61.0)])
    def test_throttles_without_a_cooldown(self, clock: FakeClock, sent: int, rate: float) -> None:
        """Those within a second answer requests from before the cut; a later one cuts the cut rate again."""
        limit = make(clock)
        demand(limit, clock, 100.0, 10.0)
        limit.throttled(0.0)
        let_go(limit, clock, [(0.0, MARKET_DATA)] * sent)
        limit.throttled(0.0)
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 31)]
        assert 20 / (times[30] - times[10]) == pytest.approx(rate, rel=0.1)

    def test_a_new_episode_cuts_again(self, clock: FakeClock) -> None:
        """A throttle after the cooldown cuts from the rate in force, not from the sends before the first."""
        limit = make(clock)
        demand(limit, clock, 100.0, 10.0)
        limit.throttled(0.5)
        let_go(limit, clock, [(0.0, MARKET_DATA)] * 80)
        limit.throttled(1.0)
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 11)]
        assert times[0] == pytest.approx(1.0)
        assert 40 < 10 / (times[10] - times[0]) < 65

    @pytest.mark.parametrize(
        ("limits", "begin", "goodput", "refused"),
        [
            ([50], 60.0, 0.95, 0.001),
            ([10], 60.0, 0.95, 0.003),
            ([50, 20], 90.0, 0.9, 0.005),  # a limit that falls after a minute
            ([20, 50], 150.0, 0.9, 0.005),  # and one that rises
        ],
    )
    def test_learns_a_limit_that_nobody_tells(
        self, clock: FakeClock, limits: list[int], begin: float, goodput: float, refused: float
    ) -> None:
        """Beneath a demand that never ends, nearly all of the server's limit is used, and hardly anything refused."""
        limit = make(clock)
        server: deque[float] = deque()
        seen = []
        start, now = clock.monotonic(), 0.0
        while now < 180.0:
            go(limit, clock)
            now = clock.monotonic() - start
            while server and server[0] <= now - 1.0:
                server.popleft()
            good = len(server) < limits[0 if now < 60.0 else -1]
            if now >= begin:
                seen.append(good)
            if good:
                server.append(now)
            else:
                limit.throttled(1.0)
            clock.advance(0.001)
        assert sum(seen) >= goodput * limits[-1] * (180.0 - begin)
        assert seen.count(False) <= refused * len(seen)

    def test_ends_when_it_is_outgrown(self, clock: FakeClock) -> None:
        """Once the rate is twice what is wanted it holds nobody, and requests go without asking again."""
        limit = make(clock)
        demand(limit, clock, 10.0, 10.0)
        limit.throttled(5.0)
        let_go(limit, clock, [(5.0 + n / 5, MARKET_DATA) for n in range(10)])
        assert not limit.idle
        clock.advance(10.0)
        assert go(limit, clock) == 1
        assert limit.idle

    def test_does_not_end_while_somebody_waits(self, clock: FakeClock) -> None:
        """However high the rate has grown, those in line go at its pace, not all at once."""
        limit = make(clock)
        demand(limit, clock, 10.0, 10.0)
        limit.throttled(5.0)
        times = [at for at, _ in let_go(limit, clock, [(0.0, MARKET_DATA)] * 500)]
        assert all(later - sooner > 0.2 for sooner, later in zip(times, times[100:], strict=False))

    def test_can_be_switched_off(self, clock: FakeClock) -> None:
        """Without it a throttle with a Retry-After of 0 holds nobody."""
        limit = make(clock, adaptive=False)
        demand(limit, clock, 100.0, 10.0)
        assert limit.throttled(0.0) == 0.0
        assert limit.idle

    def test_lateness_is_caught_up(self, clock: FakeClock) -> None:
        """Threads that wake 5 ms late each time still send at the rate."""
        limit = make(clock)
        demand(limit, clock, 100.0, 10.0)
        limit.throttled(1.0)
        clock.advance(1.0)
        sent = 0
        begin = clock.monotonic()
        while clock.monotonic() < begin + 2.0:
            waiter = limit.enter(MARKET_DATA)
            while wait := limit.poll(waiter):
                clock.advance(wait + 0.005)
            sent += 1
        assert 2.0 * 80 < sent < 2.0 * 100


@given(
    rates=st.lists(st.builds(Rate, st.integers(1, 12), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=3),
    arrivals=st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from([ORDERS, MARKET_DATA])), min_size=1, max_size=60),
    retry_after=st.sampled_from([None, 0.0, 1.0]),
    adaptive=st.booleans(),
)
def test_the_laws_of_the_line(
    rates: list[Rate], arrivals: list[tuple[float, int]], retry_after: float | None, adaptive: bool
) -> None:
    """All go, none during the cooldown, and no window, wherever it is laid, carries more than its limit."""
    clock = FakeClock(0.0)
    limit = make(clock, rates=tuple(rates), adaptive=adaptive)
    if retry_after is not None:
        limit.throttled(retry_after)
    arrivals.sort(key=lambda arrival: arrival[0])
    gone = let_go(limit, clock, arrivals)
    assert len(gone) == len(arrivals) and not any(limit._lanes)
    times = [at for at, _ in gone]
    assert times[0] > (retry_after or 0.0) - 1e-5
    for rate in rates:
        assert all(b - a >= rate.period for a, b in zip(times, times[rate.limit :], strict=False))
    if retry_after is None or not adaptive:
        for priority in (ORDERS, MARKET_DATA):
            # In order, but for slots that are free at the same moment. Not so while a rate probes back up: it is
            # faster than was foretold, so some may still sleep when there are slots enough for all.
            lane = [at for n, at in sorted((n, at) for at, n in gone) if arrivals[n][1] == priority]
            assert all(sooner <= later + 1e-5 for sooner, later in itertools.pairwise(lane))


def test_64_threads_keep_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the system's clock, with all of them pressing, no window carries more, and next to nothing is given away."""
    taken: list[float] = []
    take = SlidingWindow.take

    def spy(window: SlidingWindow, now: float) -> None:
        taken.append(now)
        take(window, now)

    monkeypatch.setattr(SlidingWindow, "take", spy)
    limit = make(SYSTEM_CLOCK, rates=(Rate(32, 0.2),))
    barrier = threading.Barrier(64)

    def send() -> None:
        barrier.wait()
        for _ in range(3):
            go(limit, SYSTEM_CLOCK)

    threads = [threading.Thread(target=send) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 192
    assert all(later - earlier >= 0.2 for earlier, later in zip(taken, taken[32:], strict=False))
    assert not any(limit._lanes)


def test_a_fork_leaves_nobody_in_line(clock: FakeClock) -> None:
    """In a child the waiting threads do not exist: no lock is held, and the cooldown goes on."""
    limit = make(clock)
    for _ in range(3):
        limit.enter(MARKET_DATA)
    limit.reset_after_fork()
    assert limit.idle
    limit.throttled(5.0)
    for _ in range(3):
        limit.enter(MARKET_DATA)
    for lock in (limit._lock, limit._sends._lock):
        lock.acquire()
    limit.reset_after_fork()
    assert limit.estimate(MARKET_DATA) == 5.0
    assert not limit.idle
