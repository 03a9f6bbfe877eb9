"""requests-mock: around a session it takes our place, beneath us it takes the server's."""

from __future__ import annotations

import pytest
import requests
from adapter_support import connect, numbers

import resilient_adapter as ra
from resilient_adapter.testing import FakeClock, Gateway

requests_mock = pytest.importorskip("requests_mock")

URL = "http://gateway.invalid/account"
BUSY = {"code": -1008, "msg": "busy"}
WELL = {"code": 0, "data": {}}


class TestBeneath:
    """``ResilientAdapter(transport=requests_mock.Adapter())``."""

    def test_it_stands_in_for_the_server(self) -> None:
        """Each attempt is one request to the mock, and waits go by the clock handed in."""
        mock, clock = requests_mock.Adapter(), FakeClock()
        mock.register_uri("GET", URL, [{"json": BUSY, "status_code": 503}, {"json": BUSY}, {"json": WELL}])
        response = connect(transport=mock, clock=clock).get(URL)
        assert response.json() == WELL
        assert mock.call_count == len(ra.resilience_of(response).attempts) == 3
        assert len(clock.sleeps) == 2

    @pytest.mark.parametrize(("method", "sends"), [("GET", 3), ("POST", 1)])
    def test_exceptions(self, method: str, sends: int) -> None:
        """A ConnectionError that a mock raises proves nothing: an order is sent once, and its outcome unknown."""
        mock = requests_mock.Adapter()
        mock.register_uri(requests_mock.ANY, URL, exc=requests.ConnectionError)
        with pytest.raises(requests.ConnectionError) as caught:
            connect(transport=mock).request(method, URL)
        assert mock.call_count == sends
        assert ra.resilience_of(caught.value).outcome_unknown is (method == "POST")

    def test_a_connect_timeout_is_safe_to_repeat(self) -> None:
        """A ConnectTimeout that a mock raises proves that nothing was sent, as the real one does."""
        mock = requests_mock.Adapter()
        mock.register_uri("POST", URL, [{"exc": requests.ConnectTimeout}, {"json": WELL}])
        assert connect(transport=mock).post(URL).json() == WELL
        assert mock.call_count == 2

    def test_an_address_that_nobody_registered(self) -> None:
        """NoMockAddress is raised unchanged."""
        with pytest.raises(requests_mock.NoMockAddress):
            connect(transport=requests_mock.Adapter()).get(URL)

    def test_streams(self) -> None:
        """A mock's stream is handed on whole."""
        mock = requests_mock.Adapter()
        mock.register_uri("GET", URL, content=b'{"code":0}', headers={"Content-Type": "application/json"})
        with connect(transport=mock).get(URL, stream=True) as response:
            assert b"".join(response.iter_content(3)) == b'{"code":0}'

    def test_a_token(self) -> None:
        """What the mock was sent carries the token; what its caller sees does not."""
        mock = requests_mock.Adapter()
        mock.register_uri("GET", URL, [{"json": {"code": -1002}}, {"json": WELL}])
        tokens = iter(["one", "two"])
        session = connect({"origins": ["http://gateway.invalid"]}, token_source=lambda: next(tokens), transport=mock)
        response = session.get(URL)
        assert [one.headers["Authorization"] for one in mock.request_history] == ["Bearer one", "Bearer two"]
        assert "Authorization" not in response.request.headers


class TestAround:
    """``requests_mock.Mocker()`` and ``Mocker(session=…)``."""

    @pytest.mark.parametrize("of_one", [False, True], ids=["of all sessions", "of one session"])
    def test_it_takes_our_place(self, of_one: bool) -> None:
        """A Mocker answers before any adapter is asked: nothing is repeated, and there is no story."""
        session = connect()
        with requests_mock.Mocker(session=session) if of_one else requests_mock.Mocker() as mock:
            mock.get(URL, json=BUSY, status_code=503)
            response = session.get(URL)
        assert mock.call_count == 1
        with pytest.raises(AttributeError, match="ResilientAdapter"):
            ra.resilience_of(response)

    def test_what_it_lets_through_is_ours(self, gateway: Gateway) -> None:
        """Under real_http what no matcher takes goes through the adapter that is mounted."""
        gateway.busy(0.0)
        session = connect()
        with requests_mock.Mocker(real_http=True):
            response = session.get(gateway.url + "/account")
        assert ra.resilience_of(response).code == 0
        assert numbers(gateway) == 1
