"""How fast requests may go: sliding windows, and the rate that throttles teach."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from resilient_adapter.core.rates import Rate
from resilient_adapter.guards.pacing import Cubic, SlidingWindow


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


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e4), st.floats(0.0, 1e4))
def test_the_curve_never_falls(reached: float, sooner: float, later: float) -> None:
    """Without another throttle the rate only grows."""
    assume(sooner <= later)
    cubic = Cubic(reached)
    assert 0.49 < cubic.rate(sooner) <= cubic.rate(later)
