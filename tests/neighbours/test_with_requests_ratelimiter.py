"""requests-ratelimiter: beneath us it counts every attempt, above us only calls."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from adapter_support import adapter, connect, numbers

import resilient_adapter as ra
from resilient_adapter.testing import FakeClock, Fault, Gateway

requests_ratelimiter = pytest.importorskip("requests_ratelimiter")

AT_ONCE: dict[str, Any] = {"max_delay": 0}  # what does not fit into the rate is refused: the tests wait for nothing


def test_beneath_it_counts_every_attempt(gateway: Gateway) -> None:
    """``transport=LimiterAdapter(…)``: repeats count, and a rate of three is used up by one call of three sends."""
    gateway.script(Fault.code(-1001), Fault.code(-1001))
    session = connect(transport=requests_ratelimiter.LimiterAdapter(per_minute=3, **AT_ONCE))
    with session:
        assert session.get(gateway.url + "/account").json()["code"] == 0
        with pytest.raises(requests.Timeout):
            session.get(gateway.url + "/account")
    assert numbers(gateway) == 3


def test_above_it_counts_calls(gateway: Gateway) -> None:
    """``LimiterSession(…)``: repeats do not count, and more is sent than the rate allows."""
    gateway.script(Fault.code(-1001), Fault.code(-1001))
    with requests_ratelimiter.LimiterSession(per_minute=1, **AT_ONCE) as session:
        session.trust_env = False
        session.mount("http://", adapter())
        assert session.get(gateway.url + "/account").json()["code"] == 0
        with pytest.raises(requests.Timeout):
            session.get(gateway.url + "/account")
    assert numbers(gateway) == 3


def test_its_refusal_proves_nothing(gateway: Gateway) -> None:
    """Under max_delay it raises a Timeout, which from beneath looks like an answer that never came."""
    with connect(transport=requests_ratelimiter.LimiterAdapter(per_minute=1, **AT_ONCE)) as session:
        session.get(gateway.url + "/account")
        with pytest.raises(requests.Timeout) as caught:
            session.post(gateway.url + "/order")
    assert ra.resilience_of(caught.value).outcome_unknown
    assert numbers(gateway, method="POST") == 0


def test_the_setting_needs_no_neighbour(gateway: Gateway) -> None:
    """``rate_limit.rate`` counts every attempt too, and waits on the clock, within the deadline."""
    gateway.script(Fault.code(-1001))
    clock = FakeClock()
    session = connect({"rate_limit": {"rate": "2/min"}, "deadline": 30.0}, clock=clock)
    assert session.get(gateway.url + "/account").json()["code"] == 0
    with pytest.raises(ra.DeadlineExceededError) as caught:
        session.post(gateway.url + "/order")
    assert not ra.resilience_of(caught.value).outcome_unknown
    assert numbers(gateway) == 2
