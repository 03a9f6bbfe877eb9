"""responses: it patches HTTPAdapter.send, which is beneath us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from adapter_support import connect, numbers

import resilient_adapter as ra
from resilient_adapter.testing import FakeClock, Gateway

responses = pytest.importorskip("responses")

URL = "http://gateway.invalid/account"
BUSY = {"code": -1008, "msg": "busy"}
WELL = {"code": 0, "data": {}}


@pytest.fixture
def mock() -> Iterator[Any]:
    """Patch requests for one test."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as patched:
        yield patched


def test_it_stands_in_for_the_server(mock: Any) -> None:
    """Each attempt is one call of the mock, in the order they were registered; waits go by the clock handed in."""
    mock.get(URL, json=BUSY, status=503)
    mock.get(URL, json=BUSY)
    mock.get(URL, json=WELL)
    clock = FakeClock()
    response = connect(clock=clock).get(URL)
    assert response.json() == WELL
    assert len(mock.calls) == len(ra.resilience_of(response).attempts) == 3
    assert len(clock.sleeps) == 2


def test_a_session_made_before(mock: Any) -> None:
    """An adapter that has a connection open already is mocked as well."""
    mock.stop()
    with Gateway() as gateway:
        session = connect()
        session.get(gateway.url + "/account")
        mock.start()
        mock.get(gateway.url + "/account", json={"code": 0, "data": "mocked"})
        assert session.get(gateway.url + "/account").json()["data"] == "mocked"
        assert numbers(gateway) == 1


@pytest.mark.parametrize(("method", "sends"), [("GET", 3), ("POST", 1)])
def test_exceptions(mock: Any, method: str, sends: int) -> None:
    """A ConnectionError given for a body proves nothing: an order is sent once, and its outcome unknown."""
    mock.add(method, URL, body=requests.ConnectionError("broken"))
    with pytest.raises(requests.ConnectionError) as caught:
        connect().request(method, URL)
    assert len(mock.calls) == sends
    assert ra.resilience_of(caught.value).outcome_unknown is (method == "POST")


def test_an_address_that_nobody_registered(mock: Any) -> None:
    """What nobody registered is a ConnectionError: repeated like one, and then raised with responses' own text."""
    clock = FakeClock()
    with pytest.raises(requests.ConnectionError, match="Connection refused by Responses"):
        connect(clock=clock).get(URL)
    assert len(clock.sleeps) == 2


def test_what_passes_through_is_ours(mock: Any, gateway: Gateway) -> None:
    """A passthru goes to the server, with all repeats."""
    mock.add_passthru(gateway.url)
    gateway.respond("/account", {"code": -1001})
    response = connect().get(gateway.url + "/account")
    assert len(ra.resilience_of(response).attempts) == numbers(gateway) == 3


def test_streams_and_tokens(mock: Any) -> None:
    """A mocked stream is handed on whole, and carried the token."""
    mock.get(URL, json=WELL)
    session = connect({"origins": ["http://gateway.invalid"]}, token_source=lambda: "one")
    with session.get(URL, stream=True) as response:
        assert b"".join(response.iter_content(3)) == b'{"code": 0, "data": {}}'
    assert mock.calls[0].request.headers["Authorization"] == "Bearer one"
