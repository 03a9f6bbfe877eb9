"""The operating system's clock."""

from __future__ import annotations

import time

import pytest

from resilient_adapter import ResilientAdapter
from resilient_adapter.clock import SYSTEM_CLOCK, Clock, SystemClock


def test_it_tells_the_system_time() -> None:
    """It reads the very clocks that ``time`` reads, and waits as long as it is told."""
    before = time.monotonic()
    assert before <= SYSTEM_CLOCK.monotonic() <= time.monotonic()
    assert abs(SYSTEM_CLOCK.time() - time.time()) < 60
    SYSTEM_CLOCK.sleep(0.001)
    assert time.monotonic() >= before + 0.001


def test_a_sleep_put_in_its_place_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent puts its own in the place of ``time.sleep``, perhaps after we were imported."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    SYSTEM_CLOCK.sleep(5.0)
    assert slept == [5.0]


def test_all_of_them_are_equal() -> None:
    """Adapters share their state where their clocks are equal, and all of these tell the same time."""
    assert SystemClock() == SYSTEM_CLOCK and hash(SystemClock()) == hash(SYSTEM_CLOCK)
    assert SystemClock() != time
    assert repr(SYSTEM_CLOCK) == "SystemClock()"


def test_the_module_time_is_a_clock() -> None:
    """It fits the protocol as it is: type checkers check this line."""
    clock: Clock = time
    assert ResilientAdapter({"mode": "off"}, clock=clock).settings.mode == "off"
