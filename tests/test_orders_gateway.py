"""The exchange that tests trade on: its ledger is the judge, so it must be right itself."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from resilient_adapter.testing import FakeClock, Fault
from resilient_adapter.testing.orders import ORDER_PATH, OrderGateway, order_faults


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Return a session without any adapter of ours."""
    with requests.Session() as session:
        yield session


def ask(session: requests.Session, exchange: OrderGateway, method: str, **params: Any) -> Any:
    """Send a request to the exchange, and return what it says."""
    return session.request(method, exchange.url + ORDER_PATH, params={"symbol": "B", **params}).json()


def test_an_order_is_executed_and_in_the_ledger(session: requests.Session, clock: FakeClock) -> None:
    """With its state for an answer, and found by its client id and symbol."""
    with OrderGateway(clock=clock) as exchange:
        placed = ask(session, exchange, "POST", newClientOrderId="x")
        assert placed["data"] == {"orderId": 1, "clientOrderId": "x", "symbol": "B", "status": "FILLED"}
        assert ask(session, exchange, "GET", origClientOrderId="x") == placed
        assert ask(session, exchange, "GET", origClientOrderId="x", symbol="C")["code"] == -2011
        assert ask(session, exchange, "GET", origClientOrderId="y")["code"] == -2011
        assert ask(session, exchange, "GET")["code"] == -1118
        assert ask(session, exchange, "POST", symbol="")["code"] == -1102
        ask(session, exchange, "POST")
        assert [(order.order_id, order.client_id) for order in exchange.ledger] == [(1, "x"), (2, None)]
        assert (exchange.executions("x"), exchange.executions(None), exchange.executions("y")) == (1, 1, 0)
        assert session.get(exchange.url + "/other").json()["code"] == 0


def test_a_client_id_is_unique_among_open_orders_only(session: requests.Session, clock: FakeClock) -> None:
    """As on exchanges: once filled or cancelled, it can be executed a second time, and the ledger tells."""
    with OrderGateway(clock=clock, open_share=1.0) as exchange:
        ask(session, exchange, "POST", newClientOrderId="x")
        assert ask(session, exchange, "POST", newClientOrderId="x")["code"] == -2010
        assert exchange.executed_twice() == []
        assert ask(session, exchange, "DELETE", origClientOrderId="x")["data"]["status"] == "CANCELED"
        assert ask(session, exchange, "DELETE", origClientOrderId="x")["code"] == -2012
        assert ask(session, exchange, "POST", newClientOrderId="x")["code"] == 0
        assert (exchange.executed_twice(), exchange.executions("x")) == (["x"], 2)
    with OrderGateway(clock=clock) as exchange:
        ask(session, exchange, "POST", newClientOrderId="x")
        assert ask(session, exchange, "DELETE", origClientOrderId="x")["code"] == -2013
        assert ask(session, exchange, "DELETE", origClientOrderId="y")["code"] == -2011


def test_an_order_may_be_visible_late(session: requests.Session, clock: FakeClock) -> None:
    """It is executed at once, but a look-up finds it later."""
    with OrderGateway(clock=clock, visible_after=5.0) as exchange:
        ask(session, exchange, "POST", newClientOrderId="x")
        assert exchange.executions("x") == 1
        assert ask(session, exchange, "GET", origClientOrderId="x")["code"] == -2011
        clock.advance(5)
        assert ask(session, exchange, "GET", origClientOrderId="x")["code"] == 0


@pytest.mark.parametrize("fault", order_faults(), ids=repr)
def test_the_ledger_knows_whether_an_order_was_executed_whatever_was_answered(
    session: requests.Session, clock: FakeClock, fault: Fault
) -> None:
    """A fault's own word decides."""
    with OrderGateway(clock=clock) as exchange:
        exchange.script(fault)
        with contextlib.suppress(requests.RequestException, ValueError):
            ask(session, exchange, "POST", newClientOrderId="x")
        assert exchange.executions("x") == int(fault.executed)


@pytest.mark.parametrize("form", [False, True])
def test_signed_requests(session: requests.Session, form: bool) -> None:
    """With a secret: -1022 without a good signature, -1021 outside the window, -1102 without a timestamp."""
    with OrderGateway(secret="s", recv_window=5000) as exchange:

        def send(secret: str, *, age: int = 0, window: int | None = None) -> Any:
            own = {} if window is None else {"recvWindow": window}
            return post(sign(urlencode({"symbol": "B", **own, "timestamp": int(exchange.time() * 1000) - age}), secret))

        def sign(text: str, secret: str = "s") -> str:
            return f"{text}&signature={hmac.digest(secret.encode(), text.encode(), 'sha256').hex()}"

        def post(text: str) -> Any:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            if form:
                return session.post(exchange.url + ORDER_PATH, data=text, headers=headers).json()["code"]
            return session.post(f"{exchange.url}{ORDER_PATH}?{text}").json()["code"]

        assert send("s") == 0 and send("other") == -1022
        assert send("s", age=6000) == -1021 and send("s", age=-2000) == -1021
        assert send("s", age=6000, window=10_000) == 0
        assert post("symbol=B") == -1022 and post(sign("symbol=B")) == -1102
