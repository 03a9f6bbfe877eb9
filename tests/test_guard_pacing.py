"""How fast requests may go: sliding windows, and the rate that throttles teach."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from resilient_adapter.core.rates import Rate
from resilient_adapter.guards.pacing import Cubic, FixedWindow, SlidingWindow


def greedy(window: SlidingWindow, start: float, count: int) -> list[float]:
    """Take so many slots, each as soon as it is free, and return when."""
    times = []
    now = start
    for _ in range(count):
        now = window.free_at(0, now)
        window.take(now)
        times.append(now)
    return times


@pytest.mark.parametrize(
    ("rate", "period"),
    [
        (Rate(10, 1.0), 1.01),  # a hundredth more than was asked for
        (Rate(10, 0.1), 0.101),
        (Rate(1, 60.0), 60.05),  # but at most 50 ms
        (Rate(1200, 86400.0), 86400.05),
    ],
)
def test_a_period_is_taken_a_little_longer(rate: Rate, period: float) -> None:
    """A full window opens a moment late: requests are not equally long on their way to whoever counts them."""
    window = SlidingWindow(rate)
    times = greedy(window, 0.0, rate.limit + 1)
    assert times[-2] == 0.0 and times[-1] == pytest.approx(period)


@given(
    limit=st.sampled_from([1, 2, 3, 5, 8, 12, 17, 20]),
    stamps=st.sampled_from([4, 1024]),
    gaps=st.lists(st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]), min_size=30, max_size=150),
)
@example(limit=8, stamps=4, gaps=[0.0, 0.9, *[0.0] * 6, 0.11, 0.0])  # neighbours under one stamp, far apart
def test_no_window_carries_more_than_its_limit(limit: int, stamps: int, gaps: list[float]) -> None:
    """Wherever a period is laid over the slots taken, it holds at most the limit; memory is bounded."""
    window = SlidingWindow(Rate(limit, 1.0), stamps=stamps)
    now = 0.0
    taken = []
    for gap in gaps:
        now += gap
        if window.free_at(0, now) <= now:
            window.take(now)
            taken.append(now)
    assert all(later - earlier >= 1.0 for earlier, later in zip(taken, taken[limit:], strict=False))
    assert len(window._stamps) <= stamps


@given(
    limit=st.integers(1, 7),
    before=st.lists(st.floats(0.0, 1.0), max_size=20),
    pause=st.floats(0.0, 3.0),
)
def test_the_forecast_is_what_comes_true(limit: int, before: list[float], pause: float) -> None:
    """The n-th next slot is free when the forecast said, if all before it are taken at once."""
    window = SlidingWindow(Rate(limit, 1.0))
    now = 0.0
    for gap in before:
        now = window.free_at(0, now + gap)
        window.take(now)
    now += pause
    forecast = [window.free_at(n, now) for n in range(3 * limit)]
    assert greedy(window, now, 3 * limit) == pytest.approx(forecast)


@given(
    limit=st.integers(1, 12),
    stamps=st.sampled_from([4, 1024]),
    before=st.lists(st.floats(0.0, 1.0), max_size=20),
)
def test_a_slot_given_back_is_free_again(limit: int, stamps: int, before: list[float]) -> None:
    """Taking a slot and giving it back at once leaves as many free ones as there were."""
    window = SlidingWindow(Rate(limit, 1.0), stamps=stamps)
    now = 0.0
    for gap in before:
        now = window.free_at(0, now + gap)
        window.take(now)
    now = window.free_at(0, now)

    def free() -> int:
        return sum(window.free_at(n, now) <= now for n in range(limit))

    were_free = free()
    window.take(now)
    assert free() == were_free - 1
    window.give_back()
    assert free() == were_free


class TestFixedWindow:
    def free(self, window: FixedWindow, now: float) -> int:
        """Return how many slots are free now."""
        return sum(window.free_at(n, now) <= now for n in range(12))

    @pytest.mark.parametrize(
        ("own", "used", "free"),
        [
            (0, [], 10),
            (0, [7], 3),
            (3, [3], 7),
            (3, [2], 7),  # the others of ours are on their way
            (3, [4], 6),  # somebody else, or a request that weighs two
            (3, [5, 4], 5),  # answers overtake each other
            (3, [10], 0),
            (3, [999_999_999], 0),  # never more slots than there are
            (3, [6, 2], 8),  # a window has begun
            (3, [6, 3], 4),
            (3, [999_999_999, 4], 6),
            (0, [0, 0], 10),
        ],
    )
    def test_the_server_counts_for_all(self, own: int, used: list[int], free: int) -> None:
        """What it says that was used is not free, nor what we have taken; less than half of it is a new beginning."""
        window = FixedWindow(Rate(10, 60.0), 0.0)
        for _ in range(own):
            window.take(0.0)
        for count in used:
            window.observed(count, 1.0)
        assert self.free(window, 1.0) == free

    def test_it_begins_again(self) -> None:
        """A period after it was first heard of all is free at the latest, and so each period after that."""
        window = FixedWindow(Rate(10, 60.0), 5.0)
        window.observed(10, 5.0)
        assert [window.free_at(n, 6.0) for n in (0, 9, 10, 20)] == [65.0, 65.0, 125.0, 185.0]
        assert window.free_at(10, 65.0) == 65.0  # what is beyond is not for it to say
        window.take(200.0)
        window.observed(10, 201.0)
        assert window.free_at(0, 201.0) == 245.0  # in step with the first
        window.observed(1, 230.0)
        assert window.free_at(9, 230.0) == 290.0  # but a beginning that shows is not to be foretold

    def test_a_slot_given_back(self) -> None:
        """It is free again, but for what the server has counted meanwhile."""
        window = FixedWindow(Rate(10, 60.0), 0.0)
        for _ in range(3):
            window.take(0.0)
        window.give_back()
        assert self.free(window, 0.0) == 8
        window.observed(3, 1.0)
        window.give_back()
        assert self.free(window, 1.0) == 7
        window.take(59.0)
        window.observed(0, 60.0)
        window.give_back()
        assert self.free(window, 60.0) == 10

    def test_beside_others_hardly_anything_is_refused(self) -> None:
        """Who sends whenever it may, beside others that take half of the limit, meets next to no full window."""
        chance = Random(1)
        rate = Rate(100, 10.0)
        ours, told = SlidingWindow(rate), FixedWindow(rate, 0.0)
        used = sent = refused = 0
        for step in range(50_000):
            now = step / 100
            if step % 1000 == 370:
                used = 0
            used += used < 100 and chance.random() < 0.05
            if ours.free_at(0, now) <= now and told.free_at(0, now) <= now:
                ours.take(now)
                told.take(now)
                sent, refused, used = sent + (used < 100), refused + (used >= 100), min(used + 1, 100)
                told.observed(used, now)
        assert sent >= 49 * 50 and refused <= 0.01 * sent

    @given(
        limit=st.integers(1, 12),
        events=st.lists(
            st.tuples(st.sampled_from([0.0, 0.01, 0.2, 0.7]), st.sampled_from([0, 0, 1, 5])), min_size=20, max_size=100
        ),
        phase=st.floats(0.0, 0.99),
    )
    def test_what_is_told_is_kept_to(self, limit: int, events: list[tuple[float, int]], phase: float) -> None:
        """After each answer no more is free than the server has left, and nobody stands still for over a period."""
        now, began, used = 0.0, 0, 0
        ours, told = SlidingWindow(Rate(limit, 1.0)), None
        for gap, others in events:
            now += gap
            if int(now + phase) != began:
                began, used = int(now + phase), 0
            used += others
            free_at = max(ours.free_at(0, now), now if told is None else told.free_at(0, now))
            assert free_at <= now + 1.01
            if free_at <= now:
                ours.take(now)
                if told is not None:
                    told.take(now)
                used += 1
                told = told or FixedWindow(Rate(limit, 1.0), now)
                told.observed(used, now)
                assert self.free(told, now) <= max(limit - used, 0)


@pytest.mark.parametrize("limit", [1024, 1025, 1200, 2047, 100_000, 10**9])
def test_a_huge_limit_is_nearly_met_in_fixed_memory(limit: int) -> None:
    """A limit in the thousands keeps at most 1024 times, and gives away less than a thousandth of itself."""
    window = SlidingWindow(Rate(limit, 60.0))
    assert 0.999 * limit <= window._stamps_max * window._per_stamp <= limit
    assert window._stamps_max <= 1024


@pytest.mark.parametrize(
    ("reached", "elapsed", "rate"),
    [
        (100.0, -60.0, 70.0),  # before sending begins again
        (100.0, 0.0, 70.0),
        (100.0, 75 ** (1 / 3), 100.0),
        (100.0, 2 * 75 ** (1 / 3), 130.0),
        (100.0, 75 ** (1 / 3) + 10.0, 500.0),
        (1.0, 0.0, 0.7),
        (0.0, 0.0, 0.5),  # never so slow that probing back up takes minutes
    ],
)
def test_the_curve(reached: float, elapsed: float, rate: float) -> None:
    """The rate is cut to 0.7, climbs back to what it was, rests there, and goes on ever faster."""
    assert Cubic(reached).rate(elapsed) == pytest.approx(rate)


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e4), st.floats(0.0, 1e4), st.integers(0, 10))
def test_the_curve_never_falls(reached: float, sooner: float, later: float, throttles: int) -> None:
    """Without another throttle the rate only grows."""
    assume(sooner <= later)
    cubic = Cubic(reached)
    for _ in range(throttles):
        cubic = cubic.throttled(1e9, cubic.reached)
    assert 0.49 < cubic.rate(sooner) <= cubic.rate(later)


def test_a_limit_that_is_met_again_is_tried_less_often() -> None:
    """Each time the cut is half as deep and the wait for more twice as long, down to 0.05 and up to a minute."""
    cubic, cuts, plateaus = Cubic(100.0), [], []
    for _ in range(6):
        cubic = cubic.throttled(1e9, 100.0)
        cuts.append(1 - cubic.rate(0.0) / 100.0)
        plateaus.append(next(half / 2 for half in range(1000) if cubic.rate(half / 2) >= 100.0))
    assert cuts == pytest.approx([0.15, 0.075, 0.05, 0.05, 0.05, 0.05])
    assert plateaus == [8.5, 17.0, 34.0, 60.0, 60.0, 60.0]


@pytest.mark.parametrize(
    ("elapsed", "sent", "reached", "cut"),
    [
        (4.3, 100.0, 100.0, 0.15),  # the limit of before
        (4.3, 91.0, 91.0, 0.15),
        (4.3, 89.0, 89.0, 0.3),  # a lower one
        (9.0, 140.0, 140.0, 0.3),  # a higher one
        (9.0, 109.0, 109.0, 0.15),
        (0.0, 100.0, 70.0, 0.3),  # what was let go before the cut is no sign of what can be
        (0.0, 10.0, 10.0, 0.3),
    ],
)
def test_another_throttle(elapsed: float, sent: float, reached: float, cut: float) -> None:
    """One within a tenth of the last one's rate has met the same limit; any other begins anew."""
    again = Cubic(100.0).throttled(elapsed, sent)
    assert again.reached == pytest.approx(reached)
    assert again.rate(0.0) == pytest.approx(reached * (1 - cut))


def test_beyond_a_limit_the_curve_is_as_steep_as_ever() -> None:
    """However often a limit was met, once more is tried it is found soon whether the limit is gone."""
    cubic = Cubic(100.0)
    for _ in range(6):
        cubic = cubic.throttled(1e9, 100.0)
    assert cubic.rate(60.0 + 10.0) == pytest.approx(100.0 + 0.4 * 10.0**3)
