"""Fault: what goes wrong with one request, as a value, and on the wire."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from resilient_adapter.core.codes import CODES
from resilient_adapter.testing import Answer, Fault, Gateway, Request

LONG = {"data": "x" * 50}


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Return a plain session: no adapter of ours."""
    with requests.Session() as plain:
        yield plain


# Values.


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Fault.none, "Fault.none()"),
        (lambda: Fault.code(-1003), "Fault.code(-1003)"),
        (lambda: Fault.code(-1003, 200, None), "Fault.code(-1003)"),
        (
            lambda: Fault.code(-1003, status=429, msg="no", retry_after=2, headers={"A": "b"}),
            "Fault.code(-1003, status=429, msg='no', retry_after=2, headers={'A': 'b'})",
        ),
        (lambda: Fault.code(-1007, executed=True), "Fault.code(-1007, executed=True)"),
        (lambda: Fault.status(503), "Fault.status(503)"),
        (lambda: Fault.status(599, b"?", executed=True), "Fault.status(599, body=b'?', executed=True)"),
        (Fault.reset, "Fault.reset()"),
        (lambda: Fault.reset("after"), "Fault.reset(when='after')"),
        (lambda: Fault.close("body"), "Fault.close(when='body')"),
        (Fault.cut_body, "Fault.cut_body()"),
        (lambda: Fault.cut_body(3, chunked=True), "Fault.cut_body(keep=3, chunked=True)"),
        (lambda: Fault.delay(1.5), "Fault.delay(1.5)"),
        (lambda: Fault.delay(1.5, before=False), "Fault.delay(1.5, before=False)"),
        (lambda: Fault.drip(0.1), "Fault.drip(0.1)"),
        (lambda: Fault.drip(0.1, chunk=4), "Fault.drip(0.1, chunk=4)"),
    ],
)
def test_a_fault_is_a_value_that_shows_how_it_was_made(make: Callable[[], Fault], text: str) -> None:
    """Two that are made alike are equal and hash alike, and the repr is the call that makes them."""
    assert repr(make()) == text
    assert make() == make()
    assert len({make(), make()}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Fault.none(), Fault.reset()),
        (Fault.code(-1003), Fault.code(-1008)),
        (Fault.code(-1003), Fault.code(-1003, status=429)),
        (Fault.code(-1003), Fault.code(-1003, retry_after=1)),
        (Fault.code(-1007), Fault.code(-1007, executed=True)),
        (Fault.reset("before"), Fault.reset("after")),
        (Fault.reset("before"), Fault.close("before")),
        (Fault.cut_body(1), Fault.cut_body(2)),
        (Fault.delay(1), Fault.delay(1, before=False)),
        (Fault.drip(1), Fault.drip(1, chunk=2)),
    ],
)
def test_faults_that_differ_are_unequal(one: Fault, other: Fault) -> None:
    """Whatever changes what a request meets makes another fault."""
    assert one != other


def test_a_moment_that_there_is_not_is_refused() -> None:
    """A misspelt `when` is told at once, not when the request comes."""
    with pytest.raises(ValueError, match="not 'afterwards'"):
        Fault.reset("afterwards")  # type: ignore[arg-type]


# Answers in place of the healthy one.


@pytest.mark.parametrize("code", sorted(CODES))
def test_an_error_code_comes_in_the_reference_s_envelope(
    gateway: Gateway, session: requests.Session, code: int
) -> None:
    """Every code of the table can be scripted: HTTP 200, code and message, and not executed."""
    gateway.script(Fault.code(code))
    response = session.post(gateway.url + "/api/v1/order")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == {"code": code, "msg": CODES[code].name}
    (entry,) = gateway.journal
    assert (entry.fault, entry.status, entry.code, entry.executed) == (Fault.code(code), 200, code, False)


def test_a_code_comes_with_the_status_and_headers_asked_for(gateway: Gateway, session: requests.Session) -> None:
    """Status, message, Retry-After and further headers, repeated ones too, are the test's choice."""
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    gateway.script(Fault.code(-1999, status=418, msg="teapot", retry_after="tomorrow", headers=headers))
    response = session.get(gateway.url)
    assert (response.status_code, response.json()) == (418, {"code": -1999, "msg": "teapot"})
    assert response.headers["Retry-After"] == "tomorrow"
    assert session.cookies.get_dict() == {"a": "1", "b": "2"}


def test_a_code_that_nobody_lists_has_a_message_all_the_same(gateway: Gateway, session: requests.Session) -> None:
    """The message names the code where the table has none."""
    gateway.script(Fault.code(-1999))
    assert session.get(gateway.url).json() == {"code": -1999, "msg": "Error -1999"}


def test_an_error_may_hide_that_the_request_was_executed(gateway: Gateway, session: requests.Session) -> None:
    """With executed=True the handler runs, and its answer is withheld."""
    orders: list[Request] = []

    def place(request: Request) -> Answer:
        orders.append(request)
        return Answer.success({"orderId": 1})

    gateway.respond("/order", place)
    gateway.script(Fault.code(-1007, executed=True), Fault.code(-1007), Fault.status(502, executed=True))
    codes = [session.post(gateway.url + "/order").content[:14] for _ in range(3)]
    assert codes == [b'{"code":-1007,', b'{"code":-1007,', b"Bad Gateway"]
    assert [entry.executed for entry in gateway.journal] == [True, False, True]
    assert [order.number for order in orders] == [1, 3]


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Fault.status(503), 503, b"Service Unavailable"),
        (Fault.status(500, b"<h1>oops</h1>"), 500, b"<h1>oops</h1>"),
        (Fault.status(520), 520, b""),
        (Fault.status(204), 204, b""),
        (Fault.status(304), 304, b""),
    ],
)
def test_a_status_comes_without_an_envelope(
    gateway: Gateway, session: requests.Session, fault: Fault, status: int, body: bytes
) -> None:
    """Any status, as a proxy might answer it; the connection stays usable."""
    gateway.script(fault)
    response = session.get(gateway.url)
    assert (response.status_code, response.content) == (status, body)
    assert session.get(gateway.url).json()["code"] == 0
    assert [(entry.status, entry.code, entry.executed) for entry in gateway.journal] == [
        (status, None, False),
        (200, 0, True),
    ]
    assert gateway.connections == 1


def test_a_status_may_bring_headers(gateway: Gateway, session: requests.Session) -> None:
    """A redirect is a status and a Location; Retry-After has an argument of its own."""
    gateway.script(Fault.status(302, headers={"Location": "/there"}, retry_after=3))
    response = session.get(gateway.url + "/here")
    assert response.history[0].headers["Retry-After"] == "3"
    assert response.json()["data"]["path"] == "/there"


# Broken connections. Told apart on a raw socket: what the client library makes of them is its own affair.


def read_all(client: socket.socket) -> tuple[bytes, str]:
    """Read to the end, and tell how it ended."""
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        return received, "reset"
    return received, "closed"


@pytest.mark.parametrize(
    ("fault", "executed", "status", "ending", "body"),
    [
        (Fault.reset(), False, None, "reset", None),
        (Fault.reset("after"), True, None, "reset", None),
        (Fault.reset("body"), True, 200, "reset", b'{"data":"x'),
        (Fault.close(), False, None, "closed", None),
        (Fault.close("after"), True, None, "closed", None),
        (Fault.close("body"), True, 200, "closed", b'{"data":"x'),
        (Fault.cut_body(keep=3), True, 200, "closed", b'{"d'),
        (Fault.cut_body(keep=0), True, 200, "closed", b""),
        (Fault.cut_body(keep=3, chunked=True), True, 200, "closed", b'3\r\n{"d\r\n'),
    ],
    ids=repr,
)
def test_a_connection_breaks_as_scripted(
    gateway: Gateway, fault: Fault, executed: bool, status: int | None, ending: str, body: bytes | None
) -> None:
    """Reset or closed; before, after or in the midst of the answer; executed or not, and the journal knows."""
    gateway.respond("/order", LONG)
    gateway.script(fault)
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        received, end = read_all(client)
    assert end == ending
    head, _, rest = received.partition(b"\r\n\r\n")
    assert (head.startswith(b"HTTP/1.1 200 OK\r\n"), rest) == (body is not None, body or b"")
    (entry,) = gateway.journal
    assert (entry.body, entry.fault, entry.status, entry.executed) == (b"hi", fault, status, executed)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.reset(), requests.ConnectionError),
        (Fault.reset("after"), requests.ConnectionError),
        (Fault.reset("body"), requests.exceptions.ChunkedEncodingError),
        (Fault.close(), requests.ConnectionError),
        (Fault.close("body"), requests.exceptions.ChunkedEncodingError),
        (Fault.cut_body(), requests.exceptions.ChunkedEncodingError),
        (Fault.cut_body(chunked=True), requests.exceptions.ChunkedEncodingError),
        (Fault.cut_body(keep=10_000), requests.exceptions.ChunkedEncodingError),
        (Fault.cut_body(keep=10_000, chunked=True), requests.exceptions.ChunkedEncodingError),
    ],
    ids=repr,
)
def test_requests_sees_a_broken_connection(
    gateway: Gateway, session: requests.Session, fault: Fault, error: type[Exception]
) -> None:
    """A broken answer is never taken for a whole one, however short it was to begin with."""
    gateway.script(fault)
    with pytest.raises(error):
        session.get(gateway.url)
    assert session.get(gateway.url).json()["code"] == 0
    assert gateway.connections == 2


# Slow answers.


def send(gateway: Gateway) -> socket.socket:
    """Send an order, and wait until it has arrived."""
    client = socket.create_connection(("127.0.0.1", gateway.port))
    client.sendall(b"POST /order HTTP/1.1\r\nHost: x\r\n\r\n")
    gateway.wait_for(1)
    return client


@pytest.mark.parametrize("before", [True, False])
def test_a_request_that_hangs_is_executed_after_the_delay_or_before_it(gateway: Gateway, before: bool) -> None:
    """A client that times out finds its request in the journal, unanswered; executed already or not at all."""
    gateway.script(Fault.delay(60, before=before))
    with pytest.raises(requests.ReadTimeout):
        requests.post(gateway.url + "/order", timeout=0.05)
    gateway.wait_for(1)
    gateway.stop()
    (entry,) = gateway.journal
    assert (entry.status, entry.executed) == (None, not before)


def test_a_delayed_request_is_executed_though_nobody_waits_for_it(gateway: Gateway) -> None:
    """As an order can be, long after its client has given up."""
    executed = threading.Event()

    def place(request: Request) -> Answer:
        executed.set()
        return Answer.success()

    gateway.respond("/order", place)
    gateway.script(Fault.delay(0.05))
    send(gateway).close()
    assert executed.wait(5)


@pytest.mark.parametrize("before", [True, False])
def test_a_delay_ends_in_the_healthy_answer(gateway: Gateway, before: bool) -> None:
    """A client that waits long enough gets what it asked for."""
    gateway.script(Fault.delay(0.05, before=before))
    started = time.perf_counter()
    assert requests.get(gateway.url).json()["code"] == 0
    assert time.perf_counter() - started >= 0.05
    assert [(entry.status, entry.executed) for entry in gateway.journal] == [(200, True)]


@pytest.mark.parametrize(
    ("fault", "executed"),
    [(Fault.delay(60), False), (Fault.delay(60, before=False), True), (Fault.drip(60), True)],
    ids=repr,
)
def test_stop_does_not_wait_for_a_slow_answer(gateway: Gateway, fault: Fault, executed: bool) -> None:
    """A delay of a minute is interrupted, and a request that was not executed by then never is."""
    gateway.script(fault)
    client = send(gateway)
    started = time.perf_counter()
    gateway.stop()
    assert time.perf_counter() - started < 4
    assert gateway.journal[0].executed is executed
    received, _ = read_all(client)
    assert not received.endswith(b"}")
    client.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_drips(gateway: Gateway, chunked: bool) -> None:
    """The head comes first, and then a piece per interval."""
    gateway.respond("/", b"abcde", headers={"Transfer-Encoding": "chunked"} if chunked else {})
    gateway.script(Fault.drip(0.04, chunk=2))
    started = time.perf_counter()
    with requests.get(gateway.url, stream=True) as response:
        assert response.content == b"abcde"
    assert time.perf_counter() - started >= 3 * 0.04
    assert ("Content-Length" in response.headers) is not chunked
