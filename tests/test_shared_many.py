"""What many processes ask of their store at once: no more than it can bear."""

from __future__ import annotations

from typing import Any

from shared_support import Fleet

from resilient_adapter.guards.shared_rate_limit import SharedRateLimit
from resilient_adapter.guards.shared_retry_budget import SharedRetryBudget, repeats
from resilient_adapter.settings.schema import Settings

RETRY = Settings.from_mapping({"retry": {"budget": 0}}).retry


def budget(fleet: Fleet) -> SharedRetryBudget:
    """Return the retry budget of one more process."""
    return SharedRetryBudget(RETRY, fleet.clock, store=fleet.store(), name="a")


def told(fleet: Fleet) -> int:
    """Return how many repeats the store knows of."""
    value: Any = fleet.store().record("budget:a").value
    return repeats(value, fleet.clock.time())


def test_repeats_are_told_of_once_a_second() -> None:
    """The first at once, those after it together, a second and a half later at most."""
    fleet = Fleet()
    one = budget(fleet)
    for _ in range(10):
        assert one.spend()
    assert fleet.backend.swaps == 1 and told(fleet) == 1
    fleet.clock.advance(1.5)
    assert one.spend()
    assert fleet.backend.swaps == 2 and told(fleet) == 11


def test_repeats_that_could_not_be_told_of_are_told_later() -> None:
    """Where others are quicker twice, nobody insists: in an outage all processes have something to tell."""
    fleet = Fleet()
    one = budget(fleet)

    def another(times: int) -> None:
        fleet.backend.put("budget:a", "[]")
        if times:
            fleet.backend.before_answer = lambda: another(times - 1)

    one.spend()
    fleet.backend.put("budget:a", "[]")  # not heard of: what is known is old
    fleet.clock.advance(1.5)
    fleet.backend.before_answer = lambda: another(5)
    assert one.spend()
    assert fleet.backend.swaps == 3 and told(fleet) == 0
    fleet.backend.before_answer = None
    fleet.clock.advance(1.5)
    assert one.spend()
    assert told(fleet) == 2


def test_one_cooldown_is_told_of_once() -> None:
    """Others whose requests were on their way are told the same by the server, a moment later."""
    fleet = Fleet()
    settings = Settings.from_mapping({"rate_limit": {}}).rate_limit
    lines = [SharedRateLimit(settings, fleet.clock, store=fleet.store(), name="a") for _ in range(5)]
    for line in lines:
        line.throttled(10.0)
        fleet.clock.advance(0.01)
        fleet.hear()
    assert fleet.backend.swaps == 1
    lines[0].throttled(11.0)
    fleet.hear()
    assert fleet.backend.swaps == 2
    assert lines[1].remaining() > 10.9
