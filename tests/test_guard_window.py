"""Counting what happened lately, in fixed memory."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.guards.window import Window
from resilient_adapter.testing import FakeClock

SPAN, BUCKETS = 10.0, 5
WIDTH = SPAN / BUCKETS


@pytest.mark.parametrize(
    ("after", "total"),
    [(0.0, 1), (5.0, 1), (9.99, 1), (10.0, 0), (10.01, 0), (1e9, 0)],
)
def test_an_event_is_counted_for_the_span(clock: FakeClock, after: float, total: int) -> None:
    """A lone event counts until the span is over, and not at its end."""
    window = Window(SPAN, clock, BUCKETS)
    window.add()
    clock.advance(after)
    assert window.total() == total


def test_nothing_happened(clock: FakeClock) -> None:
    """A new window has no events and no rate."""
    window = Window(SPAN, clock, BUCKETS)
    assert (window.total(), window.rate()) == (0, 0.0)


@given(st.lists(st.integers(0, 40).map(lambda quarters: quarters / 4), max_size=60))
def test_the_total_is_exact_but_for_one_bucket(gaps: list[float]) -> None:
    """The total lies between the events of the span less one bucket's width, and those of the span."""
    clock = FakeClock()
    window = Window(SPAN, clock, BUCKETS)
    times = []
    for gap in gaps:
        clock.advance(gap)
        window.add()
        times.append(clock.monotonic())
        now = clock.monotonic()
        sure = sum(1 for time in times if time > now - SPAN + WIDTH)
        possible = sum(1 for time in times if time > now - SPAN)
        assert sure <= window.total() <= possible


@given(st.lists(st.integers(0, 40).map(lambda quarters: quarters / 4), min_size=1, max_size=60), st.integers(1, 7))
def test_pieces_of_two_windows_are_the_same(gaps: list[float], buckets: int) -> None:
    """The latest pieces begin at a multiple of their width, in every window, whenever its first event was."""
    clock = FakeClock()
    window = Window(SPAN, clock, BUCKETS)
    times = []
    for gap in gaps:
        clock.advance(gap)
        window.add()
        times.append(clock.monotonic())
    since = (times[-1] // WIDTH - buckets + 1) * WIDTH
    assert window.total(buckets) == min(sum(time >= since for time in times), window.total())


def test_a_bucket_ends_after_it_has_begun() -> None:
    """Where a multiple of the width is rounded down to now, the bucket is the next one, not one for each event."""
    width, clock = 0.1, FakeClock()
    for n in range(1, 5000):
        window = Window(width * BUCKETS, clock, BUCKETS)
        clock._monotonic = n * width
        window.add()
        window.add()
        assert window.total() == 2 and not window._past


def test_memory_is_bounded(clock: FakeClock) -> None:
    """However long it counts, no more buckets are kept than the span has."""
    window = Window(SPAN, clock, BUCKETS)
    for _ in range(10_000):
        clock.advance(0.5)
        window.add()
    assert len(window._past) <= BUCKETS


@pytest.mark.parametrize(
    ("events", "gap", "rate"),
    [
        (1, 0.0, 0.5),  # one bucket's width is looked at, at least
        (8, 0.0, 4.0),
        (41, 0.1, 10.25),
        (1000, 0.1, 10.0),
    ],
)
def test_the_rate_is_measured_since_the_first_event(clock: FakeClock, events: int, gap: float, rate: float) -> None:
    """A burst that began a moment ago is not spread over the whole span."""
    window = Window(SPAN, clock, BUCKETS)
    for _ in range(events - 1):
        window.add()
        clock.advance(gap)
    window.add()
    assert window.rate() == pytest.approx(rate, rel=0.03)


def test_the_rate_of_the_latest_pieces(clock: FakeClock) -> None:
    """What was sent before them does not count, nor does the time."""
    window = Window(SPAN, clock, BUCKETS)
    for gap in [0.1] * 20 + [WIDTH / 100] * 200:
        clock.advance(gap)
        window.add()
    assert window.rate(2) == pytest.approx(100 / WIDTH, rel=0.1) and window.rate() < 80 / WIDTH
    clock.advance(2 * WIDTH)
    assert window.rate(2) == 0.0 < window.rate()


def test_clear(clock: FakeClock) -> None:
    """A cleared window counts from nothing."""
    window = Window(SPAN, clock, BUCKETS)
    window.add()
    clock.advance(WIDTH)
    window.add()
    window.clear()
    assert window.total() == 0
    window.add()
    assert window.total() == 1


class LateLock:
    """A lock that lets another thread in first, once."""

    def __init__(self, window: Window) -> None:
        self.window, self.lock = window, window._lock

    def __enter__(self) -> None:
        self.window._lock = self.lock
        self.window.add()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_bucket_is_begun_once(clock: FakeClock) -> None:
    """A thread that finds the bucket begun by another adds to that one, and nothing is lost."""
    window = Window(SPAN, clock, BUCKETS)
    window._lock = LateLock(window)
    window.add()
    assert window.total() == 2 and not window._past


def test_threads_lose_no_count() -> None:
    """Eight threads that count at once are all counted."""
    window = Window(SPAN, FakeClock(), BUCKETS)
    threads = [threading.Thread(target=lambda: [window.add() for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert window.total() == 8000


def test_a_held_lock_does_not_outlive_a_fork(clock: FakeClock) -> None:
    """A child process can count although a thread of its parent held the lock."""
    window = Window(SPAN, clock, BUCKETS)
    window._lock.acquire()
    window.reset_after_fork()
    window.add()
    assert window.total() == 1
