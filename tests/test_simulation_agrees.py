"""The simulated adapter and the real one do the same: same sends, same timeouts, same waits, same end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import requests
from adapter_support import adapter, prepare
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from requests.adapters import BaseAdapter

import resilient_adapter as ra
from resilient_adapter.simulation.process import Process
from resilient_adapter.simulation.world import LATENCY, Answer, Send, VirtualClock
from resilient_adapter.testing import FakeClock

URL = "https://agrees.example/api"

#: What happened: a send and its timeout, a wait and its length, a call and whether it succeeded.
Story = list[tuple[str, float]]


def delay(answer: Answer, timeout: float) -> float:
    """Return how long an answer takes."""
    return timeout if answer is Answer.NOTHING else LATENCY


class Scripted(BaseAdapter):
    """A transport that answers by a script, and takes time for it."""

    def __init__(self, script: Iterator[Answer], failure: int, clock: FakeClock, story: Story) -> None:
        super().__init__()
        self.script, self.failure, self.clock, self.story = script, failure, clock, story

    def send(self, request: Any, stream: Any = False, timeout: Any = None, **_: Any) -> requests.Response:  # type: ignore[override]
        self.story.append(("send", timeout[1]))
        answer = next(self.script)
        self.clock.advance(delay(answer, timeout[1]))
        if answer is Answer.NOTHING:
            raise requests.ReadTimeout("nothing came", request=request)
        code = {Answer.OK: 0, Answer.BUSY: -1008, Answer.FAILED: self.failure}[answer]
        response = requests.Response()
        response.status_code = code if code > 0 else 503 if code == -1008 else 200
        response._content = b"no envelope" if code > 0 else json.dumps({"code": code}).encode()
        response.request, response.url = request, URL
        return response

    def close(self) -> None: ...


class Sleeps(FakeClock):
    """A clock that tells a story of its sleeps."""

    def __init__(self, story: Story) -> None:
        super().__init__()
        self.story = story

    def sleep(self, seconds: float) -> None:
        self.story.append(("wait", seconds))
        super().sleep(seconds)


def real(mapping: dict[str, Any], script: Iterator[Answer], failure: int, gaps: list[float]) -> Story:
    """Make the calls with the adapter itself."""
    story: Story = []
    clock = Sleeps(story)
    one = adapter(mapping, clock=clock, transport=Scripted(script, failure, clock, story))
    for gap in gaps:
        clock.advance(gap)
        try:
            response = one.send(prepare("GET", URL))
        except requests.RequestException:
            succeeded = False
        else:
            succeeded = ra.resilience_of(response).code == 0
        story.append(("succeeded", succeeded))
    return story


def simulated(
    mapping: dict[str, Any], script: Iterator[Answer], failure: int, gaps: list[float], chance: Callable[[], float]
) -> Story:
    """Make the same calls in a simulated process."""
    story: Story = []
    clock = VirtualClock(FakeClock().monotonic())
    process = Process(ra.Settings.from_mapping(mapping), clock, chance, answer=failure)
    for gap in gaps:
        clock.sleep(gap)
        call, answer = process.call(), None
        while True:
            try:
                step = call.send(answer)
            except StopIteration as end:
                story.append(("succeeded", end.value))
                break
            answer = None
            if isinstance(step, Send):
                story.append(("send", step.timeout))
                answer = next(script)
                clock.sleep(delay(answer, step.timeout))
            elif step > 0:
                story.append(("wait", step))
                clock.sleep(step)
    return story


def compare(mapping: dict[str, Any], answers: list[Answer], failure: int, gaps: list[float]) -> Story:
    """Check that both tell the same story, and return it."""

    def script() -> Iterator[Answer]:
        yield from answers
        while True:
            yield Answer.OK

    with mock.patch("random.random", random.Random(11).random):
        happened = real(mapping, script(), failure, gaps)
    assert simulated(mapping, script(), failure, gaps, random.Random(11).random) == happened
    return happened


settings_of_all_kinds = st.fixed_dictionaries(
    {
        "connect_timeout": st.sampled_from([0.0, 2.0]),
        "read_timeout": st.sampled_from([0.5, 4.0]),
        "deadline": st.sampled_from([0.0, 3.0, 30.0, 180.0]),
        "retry": st.fixed_dictionaries(
            {
                "max_attempts": st.integers(1, 5),
                "jitter": st.sampled_from([0.0, 1.0]),
                "methods": st.sampled_from([["GET"], ["PUT"]]),
                "budget": st.sampled_from([0.0, 0.1]),
                "budget_floor": st.sampled_from([0.1, 10.0]),
            }
        ),
        "rate_limit": st.fixed_dictionaries(
            {
                "rate": st.sampled_from([["100/s"], ["1/s", "5/min"]]),
                "wait": st.sampled_from([1.0, 20.0]),
                "max_wait": st.sampled_from([20.0, 120.0]),
                "adaptive": st.booleans(),
            }
        )
        | st.just({}),
        "circuit": st.fixed_dictionaries(
            {
                "fail_max": st.integers(1, 4),
                "reset_timeout": st.sampled_from([0.5, 2.0]),
                "success_threshold": st.integers(1, 2),
                "when_open": st.sampled_from(["raise", "respond", "wait"]),
                "exempt": st.sampled_from([{}, {"methods": ["GET"]}]),
            }
        ),
    }
)


@given(
    settings_of_all_kinds,
    st.lists(st.sampled_from(Answer), max_size=25),
    st.sampled_from([-1008, -1003, -1007, -1000, 500, 503, 429, 404]),
    st.lists(st.sampled_from([0.0, 0.3, 2.5, 40.0]), min_size=1, max_size=8),
)
@limits(max_examples=100)
def test_both_do_the_same(mapping: dict[str, Any], answers: list[Answer], failure: int, gaps: list[float]) -> None:
    """Given the same answers and the same random numbers, the simulation is the adapter."""
    compare(mapping, answers, failure, gaps)


FAST = {"read_timeout": 2.0, "retry": {"jitter": 0.0}}
ONE = {"jitter": 0.0, "max_attempts": 1}


@pytest.mark.parametrize(
    ("mapping", "answers", "failure", "gaps", "story"),
    [
        ({}, [Answer.OK], -1008, [0], [("send", 2.0), ("succeeded", True)]),
        ({}, [Answer.FAILED], 400, [0], [("send", 2.0), ("succeeded", False)]),
        (
            {},
            [Answer.FAILED, Answer.NOTHING],
            -1008,
            [0],
            [("send", 2.0), ("wait", 1.0), ("send", 2.0), ("wait", 2.0), ("send", 2.0), ("succeeded", True)],
        ),
        # Longer timeouts after -1007.
        ({}, [Answer.FAILED], -1007, [0], [("send", 2.0), ("wait", 1.0), ("send", 4.0), ("succeeded", True)]),
        # An open circuit.
        (
            {"circuit": {"fail_max": 1}},
            [Answer.BUSY],
            -1008,
            [0, 0],
            [("send", 2.0), ("succeeded", False), ("succeeded", False)],
        ),
        (
            {"circuit": {"fail_max": 1, "exempt": {"methods": ["GET"]}}, "retry": ONE},
            [Answer.BUSY],
            -1008,
            [0, 0],
            [("send", 2.0), ("succeeded", False), ("send", 2.0), ("succeeded", True)],
        ),
        (
            {"circuit": {"fail_max": 1, "reset_timeout": 0, "when_open": "wait"}, "rate_limit": {"rate": "9/s"}},
            [Answer.BUSY],
            -1008,
            [0],
            [("send", 2.0), ("wait", 1.0), ("send", 2.0), ("succeeded", True)],
        ),
        (
            {"circuit": {"fail_max": 1}, "rate_limit": {"rate": "9/s"}, "retry": ONE},
            [Answer.BUSY],
            -1008,
            [0, 0],
            [("send", 2.0), ("succeeded", False), ("succeeded", False)],
        ),
        # One repeat for one first send.
        (
            {"retry": {"jitter": 0.0, "budget": 1.0, "budget_floor": 0.0}},
            [Answer.BUSY, Answer.BUSY],
            -1008,
            [0],
            [("send", 2.0), ("wait", 1.0), ("send", 2.0), ("succeeded", False)],
        ),
        # What is left of the deadline is the timeout; a wait that does not fit into it is not begun.
        (
            {"deadline": 3.5},
            [Answer.NOTHING, Answer.NOTHING],
            -1008,
            [0],
            [("send", 2.0), ("wait", 1.0), ("send", 0.5), ("succeeded", False)],
        ),
        (
            {"deadline": 5.0, "rate_limit": {"rate": "1/10s"}},
            [],
            -1008,
            [0, 0],
            [("send", 2.0), ("succeeded", True), ("succeeded", False)],
        ),
        # A throttle is waited for in the line.
        (
            {"rate_limit": {"wait": 20.0, "adaptive": False}},
            [Answer.FAILED],
            -1003,
            [0],
            [("send", 2.0), ("wait", 20.0), ("send", 2.0), ("succeeded", True)],
        ),
    ],
)
def test_what_both_do(
    mapping: dict[str, Any], answers: list[Answer], failure: int, gaps: list[float], story: Story
) -> None:
    """The story of a call or two, by hand: neither of the two is right only because the other is wrong alike."""
    assert compare({**FAST, **mapping}, answers, failure, gaps) == story


def test_both_wait_for_the_probe() -> None:
    """Told to wait for an open circuit, in the line or not, both wait for its probe and send it."""
    circuit = {"fail_max": 1, "reset_timeout": 2.0, "when_open": "wait"}
    for rate_limit in ({}, {"rate": "9/s"}):
        story = compare(
            {**FAST, "circuit": circuit, "rate_limit": rate_limit, "retry": ONE}, [Answer.BUSY], -1008, [0, 0]
        )
        assert [what for what, _ in story] == ["send", "succeeded", "wait", "send", "succeeded"]
