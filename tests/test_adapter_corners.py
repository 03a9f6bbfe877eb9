"""Two troubles at once: what happens where one rule meets another."""

from __future__ import annotations

import io
from typing import Any

import pytest
import requests
from adapter_support import Meddling, connect, numbers, prepare
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import Retry

import resilient_adapter as ra
from resilient_adapter.core.model import Health
from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway, Request


def origin_of(session: requests.Session, gateway: Gateway) -> Any:
    """Return what is kept for an origin."""
    return session.get_adapter(gateway.url)._runtime.origin(gateway.url)  # type: ignore[attr-defined]


def trip(session: requests.Session, gateway: Gateway) -> None:
    """Open a circuit whose fail_max is 1, as another thread would."""
    circuit = origin_of(session, gateway).circuit(gateway.url)
    circuit.record(circuit.admit(1.0), Health.FAILURE)


def nothing(*_: object) -> None:
    """Do nothing."""


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"token_source": "secret"}, "token_source must be callable, not str"),
            ({"signer": 5}, "signer must be callable, not int"),
            ({"reconciler": {}}, "reconciler must be callable, not dict"),
            ({"listeners": [nothing, "x"]}, "listeners must be callable, not str"),
            ({"recoveries": {-1125: "renew"}}, "recoveries[-1125] must be callable, not str"),
            ({"recoveries": {"renew": nothing}}, "recoveries: 'renew' is no code"),
            ({"recoveries": {-1.5: nothing}}, "recoveries: -1.5 is no code"),
            ({"recoveries": {True: nothing}}, "recoveries: True is no code"),
            ({"recoveries": {None: nothing}}, "recoveries: None is no code"),
            ({"transport": "http"}, "transport must have send, close, which str has not"),
            ({"clock": object()}, "clock must have monotonic, time, sleep, which object has not"),
        ],
    )
    def test_of_another_kind(self, arguments: dict[str, Any], says: str) -> None:
        """What could not be used is refused where it is given, not at the first call that needs it."""
        with pytest.raises(TypeError) as caught:
            ra.ResilientAdapter(ra.Settings.from_mapping({}), **arguments)
        assert str(caught.value) == says

    @pytest.mark.parametrize("retries", [1, Retry(total=2, allowed_methods=None), Retry(connect=1, read=0)])
    def test_transports_that_repeat(self, retries: Any) -> None:
        """A transport with retries of its own is refused: they would send an order twice, and tell nobody."""
        with pytest.raises(ra.SettingsError, match="transport: "):
            connect(transport=HTTPAdapter(max_retries=retries))

    @pytest.mark.parametrize("retries", [0, Retry(0, read=False), Retry(total=0)])
    def test_transports_that_do_not(self, gateway: Gateway, retries: Any) -> None:
        """requests' own default is taken, and so is every other way to say none."""
        assert connect(transport=HTTPAdapter(max_retries=retries)).post(gateway.url).ok
        assert connect(transport=HTTPAdapter()).post(gateway.url).ok

    def test_recoveries_by_text(self, gateway: Gateway) -> None:
        """A code may be written as settings files have it."""
        gateway.script(Fault.code(-1125))
        recoveries: Any = {"-1125": lambda request, response: True}
        assert connect(recoveries=recoveries).get(gateway.url).json()["code"] == 0


PACED: dict[str, Any] = {"rate_limit": {"rate": "1/s"}, "circuit": {"fail_max": 1, "reset_timeout": 10.0}}


class TestLineAndCircuit:
    def test_nobody_waits_in_line_for_a_refusal(self, gateway: Gateway) -> None:
        """A call that an open circuit would refuse is refused at once, not after its turn in line."""
        clock = FakeClock()
        session = connect(PACED, clock=clock)
        session.get(gateway.url)
        trip(session, gateway)
        with pytest.raises(ra.CircuitOpenError):
            session.get(gateway.url)
        assert clock.sleeps == []
        assert session.delete(gateway.url).ok  # what reduces risk waits for its turn alone
        assert 0.9 < sum(clock.sleeps) < 1.2

    def test_nor_for_a_local_answer(self, gateway: Gateway) -> None:
        """With when_open="respond" the local 503 comes at once too."""
        clock = FakeClock()
        session = connect({**PACED, "circuit": {**PACED["circuit"], "when_open": "respond"}}, clock=clock)
        session.get(gateway.url)
        trip(session, gateway)
        assert session.get(gateway.url).json()["code"] == -1008
        assert clock.sleeps == []

    def test_waiting_for_the_probe_and_then_for_ones_turn(self, gateway: Gateway) -> None:
        """With when_open="wait" the probe is waited for first."""
        clock = FakeClock()
        session = connect({**PACED, "circuit": {**PACED["circuit"], "when_open": "wait"}}, clock=clock)
        session.get(gateway.url)
        trip(session, gateway)
        assert session.get(gateway.url).ok
        assert 10.0 <= sum(clock.sleeps) <= 12.2

    def test_a_turn_that_is_not_used(self, gateway: Gateway) -> None:
        """A circuit that opens while a call waits for its turn refuses it, and somebody else gets the turn."""
        clock = Meddling()
        session = connect(PACED, clock=clock)
        session.get(gateway.url)
        clock.meddle = lambda: trip(session, gateway)
        with pytest.raises(ra.CircuitOpenError):
            session.get(gateway.url)
        before = sum(clock.sleeps)
        assert session.delete(gateway.url).ok
        assert sum(clock.sleeps) == before

    def test_a_line_that_grows_longer_than_the_deadline(self, gateway: Gateway) -> None:
        """An origin that closes while a call waits for its turn: refused, or the answer in hand delivered."""
        clock = Meddling()
        session = connect({**PACED, "deadline": 30.0}, clock=clock)
        session.get(gateway.url)
        clock.meddle = lambda: origin_of(session, gateway).rate_limit.throttled(60)
        with pytest.raises(ra.DeadlineExceededError):
            session.get(gateway.url)
        assert numbers(gateway) == 1
        clock.advance(100)
        gateway.script(Fault.code(-1003, retry_after=2))
        clock.meddle = lambda: origin_of(session, gateway).rate_limit.throttled(60)
        response = session.get(gateway.url)
        assert response.json()["code"] == -1003 and numbers(gateway) == 2

    def test_interrupted_in_the_shadow(self, gateway: Gateway) -> None:
        """An interrupt of a request that an open circuit would have refused passes too."""

        class Interrupted(BaseAdapter):
            def send(self, request: Any, **options: Any) -> Any:
                raise KeyboardInterrupt

            def close(self) -> None:
                pass

        session = connect({**PACED, "mode": "shadow"}, transport=Interrupted())
        trip(session, gateway)
        with pytest.raises(KeyboardInterrupt):
            session.get(gateway.url)


class Raw(io.RawIOBase):
    """A body whose reading fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        raise self._error


class TestBodiesOfOtherTransports:
    def make(self, error: Exception) -> Any:
        class Failing(BaseAdapter):
            sends = 0

            def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
                self.sends += 1
                response = requests.Response()
                response.status_code = 200
                response.raw = Raw(error)
                response.request, response.url = request, request.url
                return response

            def close(self) -> None:
                pass

        return Failing()

    def test_connections_that_break(self) -> None:
        """A connection error while a body is read is a body cut off, and repeated as such."""
        transport = self.make(requests.ConnectionError("reset"))
        with pytest.raises(requests.ConnectionError) as caught:
            connect(transport=transport).get("http://gateway.invalid/")
        assert [one.error for one in ra.resilience_of(caught.value).attempts] == ["cut_body"] * 3

    def test_other_faults(self) -> None:
        """Anything else that goes wrong there is passed on as it is, at once."""
        transport = self.make(LookupError("odd"))
        with pytest.raises(LookupError):
            connect(transport=transport).get("http://gateway.invalid/")
        assert transport.sends == 1


class TestTokensAndDeadlines:
    def test_a_refresh_that_takes_too_long(self, gateway: Gateway) -> None:
        """A refresh that outlasts the deadline: the -1002 in hand is delivered, whole, and its cookie kept once."""
        for stream in (False, True):
            clock = FakeClock()
            asked: list[int] = []

            def slow(clock: FakeClock = clock, asked: list[int] = asked) -> str:
                asked.append(1)
                if len(asked) > 1:
                    clock.advance(700.0)
                return f"t{len(asked)}"

            session = connect({"origins": [gateway.url]}, clock=clock, token_source=slow)
            gateway.script(Fault.code(-1002, headers={"Set-Cookie": "a=1"}))
            gateway.reset_journal()
            response = session.get(gateway.url, stream=stream)
            assert response.json()["code"] == -1002 and numbers(gateway) == 1
            assert session.cookies.get_dict() == {"a": "1"}

    def test_and_a_clock_that_is_due(self, gateway: Gateway) -> None:
        """The server's time is not asked for when there is no time left to send anything."""
        clock = FakeClock()
        asked: list[int] = []

        def slow() -> str:
            asked.append(1)
            if len(asked) > 1:
                clock.advance(700.0)
            return f"t{len(asked)}"

        signer = ra.HmacSigner("k", "s")
        session = connect({"origins": [gateway.url]}, clock=clock, token_source=slow, signer=signer)
        gateway.script(Fault.code(-1021), None, Fault.code(-1002), path="/x")
        assert session.get(gateway.url + "/x").json()["code"] == 0
        times = numbers(gateway, path="/api/gateway/time")
        assert session.get(gateway.url + "/x").json()["code"] == -1002
        assert numbers(gateway, path="/api/gateway/time") == times

    def test_headers_of_another_kind(self, gateway: Gateway) -> None:
        """A token is set on a request whose headers are a mapping of the caller's own."""

        class Headers(CaseInsensitiveDict[str]):
            pass

        request = prepare("GET", gateway.url + "/x")
        request.headers = Headers({"X-A": "1"})
        session = connect({"origins": [gateway.url]}, token_source=lambda: "t")
        session.get_adapter(gateway.url).send(request)
        assert gateway.journal[0].headers["Authorization"] == "Bearer t" and gateway.journal[0].headers["x-a"] == "1"
        assert "Authorization" not in request.headers


def test_a_clock_that_another_call_has_set(gateway: Gateway) -> None:
    """A -1021 for a signature from before another call's resync is signed afresh, without asking again."""
    events: list[ra.Event] = []
    session = connect({"origins": [gateway.url]}, signer=ra.HmacSigner("k", "s"), listeners=[events.append])

    def slow(request: Request) -> Answer:
        if len(gateway.received(path="/slow")) > 1:
            return Answer.success()
        gateway.script(Fault.code(-1021), path="/fast")
        assert session.get(gateway.url + "/fast").json()["code"] == 0
        return Answer.error(-1021)

    gateway.respond("/slow", slow)
    assert session.get(gateway.url + "/slow").json()["code"] == 0
    assert [event.name for event in events] == ["resync"]


def test_urls_without_a_path(gateway: Gateway) -> None:
    """A URL that was put together by hand, without a path, is sent as a bare adapter sends it."""
    request = prepare("GET", gateway.url)
    request.url = gateway.url
    assert connect().get_adapter(gateway.url).send(request).json()["data"]["path"] == "/"
