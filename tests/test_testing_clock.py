"""FakeClock: time passes when it is told to."""

from __future__ import annotations

import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.clock import Clock
from resilient_adapter.testing import FakeClock


def test_it_starts_where_it_is_told_and_stands_still() -> None:
    """Two looks at the clock show the same time."""
    clock: Clock = FakeClock(monotonic=5.0, time=100.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 100.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 100.0)


def test_sleep_returns_at_once_and_is_noted() -> None:
    """A sleep moves both clocks by its seconds, and `sleeps` tells of it; advance() moves them unseen."""
    clock = FakeClock()
    clock.sleep(60)
    clock.advance(5)
    clock.sleep(0)
    assert (clock.monotonic(), clock.time()) == (1065.0, 1_700_000_065.0)
    assert clock.sleeps == [60, 0]


def test_a_step_moves_the_wall_clock_alone() -> None:
    """Setting the operating system's clock, back or forth, leaves the monotonic one as it was."""
    clock = FakeClock()
    clock.step(-3600)
    assert (clock.monotonic(), clock.time()) == (1000.0, 1_699_996_400.0)
    clock.step(7200)
    assert (clock.monotonic(), clock.time()) == (1000.0, 1_700_003_600.0)
    assert clock.sleeps == []


@pytest.mark.parametrize("seconds", [-1, -0.001, float("-inf"), float("nan")])
def test_time_does_not_go_back(seconds: float) -> None:
    """Negative seconds are refused, as time.sleep() refuses them, and change nothing."""
    clock = FakeClock()
    with pytest.raises(ValueError, match="cannot be advanced"):
        clock.sleep(seconds)
    with pytest.raises(ValueError, match="cannot be advanced"):
        clock.advance(seconds)
    assert (clock.monotonic(), clock.sleeps) == (1000.0, [])


@given(st.lists(st.integers(0, 10**6)))
def test_the_clock_shows_the_sum_of_its_sleeps(seconds: list[int]) -> None:
    """However the time is slept away, it adds up."""
    clock = FakeClock()
    for each in seconds:
        clock.sleep(each)
    assert clock.sleeps == seconds
    assert clock.monotonic() - 1000.0 == clock.time() - 1_700_000_000.0 == sum(seconds)


def test_threads_lose_no_second() -> None:
    """Sleeps from several threads all count."""
    clock = FakeClock()

    def nap() -> None:
        for _ in range(200):
            clock.sleep(1)

    threads = [threading.Thread(target=nap) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() == 2600.0
    assert len(clock.sleeps) == 1600


def test_sleeping_in_a_loop_lets_another_thread_run() -> None:
    """A thread that polls with the fake clock does not starve the one that it waits for."""
    clock = FakeClock()
    done = threading.Event()
    thread = threading.Thread(target=done.set)
    thread.start()
    while not done.is_set():
        clock.sleep(0.1)
    thread.join()
    assert clock.monotonic() >= 1000.0


def test_it_pickles_and_shows_its_time() -> None:
    """A clock travels with an adapter to another process, and its repr tells the time."""
    clock = FakeClock()
    clock.sleep(1.5)
    copy = pickle.loads(pickle.dumps(clock))
    assert repr(copy) == repr(clock) == "FakeClock(monotonic=1001.5, time=1700000001.5)"
    assert copy.sleeps == [1.5]
