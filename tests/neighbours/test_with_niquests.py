"""niquests: installing it puts a fork of urllib3 in urllib3's place, and so beneath requests and us."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import requests
from adapter_support import adapter, connect, numbers, plain

import resilient_adapter as ra
from resilient_adapter.testing import Answer, Fault, Gateway

niquests = pytest.importorskip("niquests")

# The fork leaves sockets for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def rubbish_of_ones_own() -> Iterator[None]:
    """Collect what a test left behind while its warnings are still not heard."""
    yield
    gc.collect()


def test_repeats_over_one_connection(gateway: Gateway) -> None:
    """Envelopes are read, calls repeated, and the connection is reused for all of them."""
    session = connect()
    for _ in range(5):
        gateway.script(Fault.code(-1001), Fault.code(-1008, 503))
        assert session.get(gateway.url + "/account").json()["code"] == 0
    assert numbers(gateway) == 15
    assert gateway.connections == 1


@pytest.mark.parametrize(("method", "sends"), [("GET", 2), ("POST", 1)])
@pytest.mark.parametrize("fault", [Fault.reset(), Fault.close("after"), Fault.cut_body()], ids=repr)
def test_broken_connections(gateway: Gateway, method: str, sends: int, fault: Fault) -> None:
    """A connection that breaks is repeated for a GET; a POST's outcome is unknown."""
    gateway.script(fault)
    try:
        story = ra.resilience_of(connect().request(method, gateway.url + "/order"))
    except requests.RequestException as error:
        story = ra.resilience_of(error)
    assert numbers(gateway) == sends
    assert story.outcome_unknown is (method == "POST")


def test_tokens_and_cookies() -> None:
    """A refused token is refreshed, and what the discarded answer set is kept."""
    with Gateway(require_token=True) as gateway:
        session = connect({"origins": [gateway.url]}, token_source=gateway.issue_token)
        assert session.get(gateway.url + "/account").json()["code"] == 0
        gateway.expire_tokens()
        assert session.get(gateway.url + "/account").json()["code"] == 0
        gateway.script(Fault.code(-1001, headers={"Set-Cookie": "a=1"}))
        gateway.respond("/account", Answer(200, b'{"code":0}', (("Set-Cookie", "b=2"),)))
        session.get(gateway.url + "/account")
        assert session.cookies.get_dict() == {"a": "1", "b": "2"}


def test_streams(gateway: Gateway) -> None:
    """A stream is not read ahead there: it is judged by its HTTP status, and handed on whole."""
    gateway.script(Fault.status(502), Fault.code(-1001))
    response = connect().get(gateway.url + "/account", stream=True)
    assert response.json()["code"] == -1001
    assert [one.status for one in ra.resilience_of(response).attempts] == [502, 200]


def test_a_large_body(gateway: Gateway) -> None:
    """What plain requests reads there we read too."""
    gateway.respond("/large", b'{"code":0,"data":"' + b"x" * 3_000_000 + b'"}')
    assert connect().get(gateway.url + "/large").content == plain().get(gateway.url + "/large").content


def test_its_own_sessions_do_not_take_the_adapter(gateway: Gateway) -> None:
    """A niquests.Session is no requests.Session, and an adapter of requests is none for it: it breaks on the answer."""
    with niquests.Session() as session:
        session.trust_env = False
        session.mount("http://", adapter())
        with pytest.raises(AttributeError):
            session.get(gateway.url + "/account")
    assert numbers(gateway) == 1
