"""The retry budget: repeats stay a small share of what is sent anyway."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.guards.retry_budget import RetryBudget
from resilient_adapter.testing import FakeClock


def make(clock: FakeClock, budget: float = 0.2, floor: float = 10.0) -> RetryBudget:
    """Return a budget with these settings."""
    settings: Any = SimpleNamespace(budget=budget, budget_floor=floor)
    return RetryBudget(settings, clock)


@pytest.mark.parametrize(
    ("budget", "floor", "firsts", "allowed"),
    [
        (0.2, 10.0, 0, 100),
        (0.2, 10.0, 1000, 300),
        (0.2, 0.0, 0, 0),
        (0.2, 0.0, 4, 0),  # four fifths of a repeat are none
        (0.2, 0.0, 5, 1),
        (0.2, 0.0, 9, 1),
        (0.2, 0.1, 0, 1),
        (1.0, 0.0, 7, 7),
        (2.0, 0.5, 10, 25),
    ],
)
def test_so_many_repeats_are_allowed(clock: FakeClock, budget: float, floor: float, firsts: int, allowed: int) -> None:
    """So many whole repeats go as the share of first sends and the floor allow, and no further."""
    retries = make(clock, budget, floor)
    for _ in range(firsts):
        retries.first_send()
    for _ in range(allowed):
        assert retries.available() and retries.spend()
    assert not retries.available() and not retries.spend()


def test_a_budget_of_zero_sets_no_limit(clock: FakeClock) -> None:
    """Without a budget any number of repeats goes, even without a floor."""
    retries = make(clock, 0.0, 0.0)
    assert all(retries.spend() for _ in range(1000)) and retries.available()


def test_asking_spends_nothing(clock: FakeClock) -> None:
    """The question may be put any number of times."""
    retries = make(clock, 0.2, 0.1)
    assert all(retries.available() for _ in range(100))
    assert retries.spend()


def test_a_refused_repeat_is_not_counted(clock: FakeClock) -> None:
    """Only repeats that were sent use up the budget."""
    retries = make(clock, 1.0, 0.0)
    retries.first_send()
    assert retries.spend() and not any(retries.spend() for _ in range(10))
    retries.first_send()
    assert retries.spend()


@pytest.mark.parametrize(("after", "available"), [(8.9, False), (10.0, True)])
def test_the_budget_looks_ten_seconds_back(clock: FakeClock, after: float, available: bool) -> None:
    """What was spent is forgotten after ten seconds."""
    retries = make(clock, 0.2, 0.1)
    assert retries.spend()
    clock.advance(after)
    assert retries.available() is available


@given(
    st.lists(st.sampled_from(["first", "repeat", "repeat", "second passes"])),
    st.floats(0.01, 3.0),
    st.floats(0.0, 2.0),
)
def test_repeats_never_exceed_the_share(events: list[str], budget: float, floor: float) -> None:
    """Whatever the order of sends, each repeat that goes found fewer before it than were allowed."""
    clock = FakeClock()
    retries = make(clock, budget, floor)
    firsts: list[float] = []
    repeats: list[float] = []
    for event in events:
        now = clock.monotonic()
        if event == "first":
            retries.first_send()
            firsts.append(now)
        elif event == "second passes":
            clock.advance(1.0)
        else:
            alive = [[time for time in times if time > now - 10.0] for times in (firsts, repeats)]
            allowed = len(alive[1]) + 1 <= budget * len(alive[0]) + floor * 10 + 1e-9
            assert retries.available() is allowed
            assert retries.spend() is allowed
            if allowed:
                repeats.append(now)


def test_threads_do_not_overdraw(clock: FakeClock) -> None:
    """Of 64 threads that all want to repeat at once, exactly as many do as there is budget for."""
    retries = make(clock, 0.2, 2.0)
    barrier = threading.Barrier(64)
    granted: list[bool] = []

    def repeat() -> None:
        barrier.wait()
        granted.append(retries.spend())

    threads = [threading.Thread(target=repeat) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert granted.count(True) == 20 and len(granted) == 64


def test_a_held_lock_does_not_outlive_a_fork(clock: FakeClock) -> None:
    """A child process can spend although a thread of its parent held every lock."""
    retries = make(clock)
    for lock in (retries._lock, retries._firsts._lock, retries._repeats._lock):
        lock.acquire()
    retries.reset_after_fork()
    retries.first_send()
    assert retries.spend()
