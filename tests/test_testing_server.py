"""The gateway's HTTP, byte for byte (RFC 9112)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_adapter.testing import Answer, Gateway, Request


@pytest.fixture(scope="module")
def quiet() -> Iterator[Gateway]:
    """Serve for the whole module: only for tests that do not look at the journal as a whole."""
    with Gateway() as gateway:
        yield gateway


def talk(gateway: Gateway, sent: bytes) -> bytes:
    """Send bytes, close our side, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65536):
            received += data
    return received


CLOSE = b"Host: x\r\nConnection: close\r\n"


# Requests.


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (b"Content-Length: 0\r\n\r\n", b""),
        (b"\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"Transfer-Encoding: Chunked\r\n\r\n2;why=not\r\nhe\r\n003\r\nllo\r\n0\r\nTrailer: x\r\n\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    ],
)
def test_a_body_is_read_however_it_is_framed(quiet: Gateway, sent: bytes, body: bytes) -> None:
    """By its length, or in chunks with extensions and trailers; chunks outrank a length (section 6.3)."""
    answer = talk(quiet, b"POST /echo HTTP/1.1\r\n" + CLOSE + sent)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert quiet.journal[-1].body == body


@settings(max_examples=25)
@given(pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=5))
def test_chunks_add_up_to_the_body(quiet: Gateway, pieces: list[bytes]) -> None:
    """Whatever is sent in whatever pieces arrives as one."""
    assert requests.post(quiet.url + "/chunks", data=iter(pieces)).status_code == 200
    assert quiet.journal[-1].body == b"".join(pieces)


def test_requests_are_read_however_the_bytes_arrive(quiet: Gateway) -> None:
    """One byte at a time, an empty line before it: still the same request."""
    head = b"\r\nPOST /slow?a=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    text = head + b"1\r\nx\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", quiet.port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(len(text)):
            client.sendall(text[start : start + 1])
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    entry = quiet.journal[-1]
    assert (entry.path, entry.query, entry.body) == ("/slow", "a=1", b"x")


def test_pipelined_requests_are_answered_in_order(quiet: Gateway) -> None:
    """Two requests in one segment, and the beginning of a third that never ends: two answers."""
    first = b"POST /one HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    answer = talk(quiet, first + b"GET /two HTTP/1.1\r\nHost: x\r\n\r\nGET /thr")
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b'"/one"') < answer.index(b'"/two"')


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: nameless\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcdef", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000, 431),
    ],
)
def test_what_is_not_http_is_refused(quiet: Gateway, sent: bytes, status: int) -> None:
    """A request that cannot be read is answered so, the connection closed, and nothing journalled."""
    before = len(quiet.journal)
    answer = talk(quiet, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in answer
    assert len(quiet.journal) == before


def test_a_client_that_goes_away_is_no_request(quiet: Gateway) -> None:
    """Half a head, half a body or nothing at all: no answer, and no entry."""
    before = len(quiet.journal)
    for sent in (b"", b"G", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel"):
        assert talk(quiet, sent) == b""
    assert len(quiet.journal) == before


def test_the_server_asks_for_a_body_that_waits(quiet: Gateway) -> None:
    """Expect: 100-continue is answered before the body is sent (RFC 9110, 10.1.1)."""
    with socket.create_connection(("127.0.0.1", quiet.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ok")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert quiet.journal[-1].body == b"ok"


def test_the_server_does_not_ask_where_there_is_no_need(quiet: Gateway) -> None:
    """Not where the body is there already, and never an HTTP/1.0 client."""
    for version in (b"1.1", b"1.0"):
        head = b"POST / HTTP/%s\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n" % version
        assert b"100 Continue" not in talk(quiet, head + b"ok")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%20b?c=d&e", "/a%20b", "c=d&e"),
        ("/", "/", ""),
        ("/?", "/", ""),
        ("http://gateway.example:8088/a?b=c", "/a", "b=c"),
        ("http://gateway.example", "/", ""),
    ],
)
def test_a_target_is_taken_apart_and_left_as_it_was_sent(quiet: Gateway, target: str, path: str, query: str) -> None:
    """Path and query keep their encoding; a whole URL, as a proxy is sent, is understood."""
    talk(quiet, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (quiet.journal[-1].path, quiet.journal[-1].query) == (path, query)


def test_headers_ignore_case_and_join_and_hide_their_values(quiet: Gateway) -> None:
    """A header is found whatever its case, a repeated one holds all values, and a repr shows no credential."""
    talk(quiet, b"GET /headers HTTP/1.1\r\nX-A: a\r\nx-a: a\r\nAuthorization: Bearer hidden\r\n\r\n")
    entry = quiet.journal[-1]
    assert entry.headers["x-A"] == "a, a"
    assert dict(entry.headers) == {"X-A": "a, a", "Authorization": "Bearer hidden"}
    assert len(entry.headers) == 2
    assert "X-B" not in entry.headers
    assert repr(entry.headers) == "Headers(X-A, Authorization)"
    assert "hidden" not in repr(entry)


@pytest.mark.parametrize(
    ("kind", "body", "params"),
    [
        (None, b"b=2", {"a": "1"}),
        ("application/x-www-form-urlencoded; charset=utf-8", b"b=2&a=3&c=", {"a": "3", "b": "2", "c": ""}),
        ("application/json", b'{"b": true, "a": 3}', {"a": 3, "b": True}),
        ("application/json", b"[1]", {"a": "1"}),
        ("application/json", b"{", {"a": "1"}),
        ("text/plain", b"b=2", {"a": "1"}),
    ],
)
def test_parameters_are_found_wherever_they_are(
    quiet: Gateway, kind: str | None, body: bytes, params: dict[str, object]
) -> None:
    """In the query, in a form or in a JSON object; the body outranks the query, and what is neither adds nothing."""
    requests.post(quiet.url + "/params?a=1", data=body, headers={"Content-Type": kind} if kind else None)
    assert quiet.journal[-1].params == params


# Answers.


@pytest.mark.parametrize(
    ("version", "header", "kept", "said"),
    [
        (b"1.1", b"", True, None),
        (b"1.1", b"Connection: Close\r\n", False, b"Connection: close"),
        (b"1.1", b"Connection: upgrade, close\r\n", False, b"Connection: close"),
        (b"1.0", b"", False, b"Connection: close"),
        (b"1.0", b"Connection: keep-alive\r\n", True, b"Connection: keep-alive"),
    ],
)
def test_connections_are_kept_as_http_has_it(
    quiet: Gateway, version: bytes, header: bytes, kept: bool, said: bytes | None
) -> None:
    """HTTP/1.1 keeps them unless told not to, HTTP/1.0 only where asked."""
    request = b"GET / HTTP/%s\r\nHost: x\r\n%s\r\n" % (version, header)
    answer = talk(quiet, request * 2)
    assert answer.count(b"HTTP/1.1 200 OK") == (2 if kept else 1)
    assert (b"Connection:" in answer) is (said is not None)
    assert said is None or said in answer


def test_a_head_has_no_body_and_says_how_long_it_would_be(gateway: Gateway) -> None:
    """HEAD is answered with the headers of the GET, in a length or in chunks, and the connection stays usable."""
    gateway.respond("/plain", b"12345")
    gateway.respond("/chunks", b"12345", headers={"Transfer-Encoding": "chunked"})
    with requests.Session() as session:
        assert session.head(gateway.url + "/plain").headers["Content-Length"] == "5"
        assert session.head(gateway.url + "/chunks").headers["Transfer-Encoding"] == "chunked"
        assert session.get(gateway.url + "/plain").content == b"12345"
    assert gateway.connections == 1


def test_a_chunked_answer_is_framed_for_the_client(gateway: Gateway) -> None:
    """In chunks for HTTP/1.1, the empty body too; HTTP/1.0 knows none, and reads to the end of the connection."""
    gateway.respond("/", b"hello", headers={"Transfer-Encoding": "chunked"})
    gateway.respond("/empty", b"", headers={"transfer-encoding": "chunked"})
    assert talk(gateway, b"GET / HTTP/1.1\r\n\r\n").endswith(b"chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert talk(gateway, b"GET /empty HTTP/1.1\r\n\r\n").endswith(b"chunked\r\n\r\n0\r\n\r\n")
    answer = talk(gateway, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
    assert answer.endswith(b"Connection: close\r\n\r\nhello")
    assert b"chunked" not in answer


def test_an_answer_may_lie_about_its_length(gateway: Gateway) -> None:
    """A Content-Length of the test's own goes out as it is; where it is wrong the connection ends there."""
    gateway.respond("/honest", b"hello", headers={"Content-Length": "5"})
    gateway.respond("/short", b"hello", headers={"Content-Length": "500"})
    with requests.Session() as session:
        assert session.get(gateway.url + "/honest").content == b"hello"
        assert session.get(gateway.url + "/honest").content == b"hello"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            session.get(gateway.url + "/short")
    assert gateway.connections == 1
    assert b"Connection: close" in talk(gateway, b"GET /short HTTP/1.1\r\n\r\n")


def test_an_answer_may_end_the_connection(gateway: Gateway) -> None:
    """A Connection: close among the answer's headers is meant, and said once."""
    gateway.respond("/", b"x", headers={"Connection": "close"})
    assert talk(gateway, b"GET / HTTP/1.1\r\n\r\n" * 2).lower().count(b"connection: close") == 1


def test_an_answer_survives_what_the_client_still_sends(gateway: Gateway) -> None:
    """The connection is closed without a reset that would cost the client the answer (section 9.6)."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        gateway.wait_for(1)
        client.sendall(b"x" * 1000)
        received = b""
        while data := client.recv(65536):
            received += data
        client.sendall(b"x" * 1000)
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_large_body_goes_both_ways(gateway: Gateway) -> None:
    """Megabytes are nothing special."""
    gateway.respond("/big", lambda request: request.body)
    body = b"0123456789" * 300_000
    assert requests.post(gateway.url + "/big", data=body).content == body


# Life and death.


def test_stop_closes_every_connection_and_joins_every_thread() -> None:
    """Idle, half a request, or in the middle of an answer that nobody reads: nothing is left."""
    gateway = Gateway()
    gateway.start()
    gateway.respond("/big", b"x" * 50_000_000)
    clients = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(3)]
    clients[1].sendall(b"GET / HT")
    clients[2].sendall(b"GET /big HTTP/1.1\r\n\r\n")
    gateway.wait_for(1)
    gateway.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(f"gateway-{gateway.port}")]
    assert clients[0].recv(1) == clients[1].recv(1) == b""
    for client in clients:
        client.close()
    gateway.stop()  # once more does no harm


def test_a_connection_that_comes_as_it_stops() -> None:
    """The thread that accepts may be woken by that, and have ended before it is told to."""
    gateway = Gateway().start()
    server = gateway._server
    acceptor, halt = server._acceptor, server._halt.set
    assert acceptor is not None

    def halt_and_connect() -> None:
        halt()
        socket.create_connection(("127.0.0.1", server.port)).close()
        acceptor.join(5)

    server._halt.set = halt_and_connect  # type: ignore[method-assign]
    gateway.stop()
    assert not acceptor.is_alive()


def test_a_stopped_gateway_can_be_started_again(gateway: Gateway) -> None:
    """It listens again, with its journal, if not on the same port."""
    requests.get(gateway.url)
    gateway.stop()
    gateway.start()
    requests.get(gateway.url)
    assert [entry.number for entry in gateway.journal] == [1, 2]


def test_a_port_that_is_taken_is_told(gateway: Gateway) -> None:
    """Two servers do not share a port, and the failure leaks no socket."""
    with pytest.raises(OSError, match="in use"):
        Gateway(port=gateway.port).start()


def test_down_refuses_connections_and_up_takes_them_on_the_same_port(gateway: Gateway) -> None:
    """Connections are closed and refused while it is down; no third party gets the port; both may be said twice."""
    with requests.Session() as session:
        session.get(gateway.url)
        before = gateway.url
        gateway.down()
        gateway.down()
        for _ in range(3):
            with pytest.raises(requests.ConnectionError, match="refused"):
                session.get(gateway.url)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", gateway.port))
        gateway.up()
        gateway.up()
        assert session.get(before).json()["data"]["number"] == 2
    assert gateway.connections == 2


def test_a_gateway_that_is_down_can_be_stopped() -> None:
    """The reserved port is given back."""
    with Gateway() as gateway:
        gateway.down()
    with socket.socket() as other:
        other.bind(("127.0.0.1", gateway.port))


def test_a_handler_may_take_its_own_gateway_down(gateway: Gateway) -> None:
    """A crash in the middle of a request: its client hears nothing, and stop() waits for the handler to end."""
    noticed = threading.Event()

    def crash(request: Request) -> Answer:
        gateway.down()
        noticed.wait(5)
        return Answer.success()

    gateway.respond("/crash", crash)
    with pytest.raises(requests.ConnectionError, match="without response"):
        requests.get(gateway.url + "/crash")
    with pytest.raises(requests.ConnectionError, match="refused"):
        requests.get(gateway.url)
    assert not gateway.journal[0].executed
    noticed.set()
    gateway.stop()
    assert gateway.journal[0].executed


def test_a_handler_that_raises_is_heard_of(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gets a 500 and the exception goes where a thread's exceptions go; an OSError is no lost connection."""
    heard: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", heard.append)

    def broken(request: Request) -> Answer:
        raise OSError("bug in the test")

    gateway.respond("/broken", broken)
    response = requests.get(gateway.url + "/broken")
    assert (response.status_code, response.text) == (500, "the gateway's handler raised OSError")
    assert [str(each.exc_value) for each in heard] == ["bug in the test"]
    assert [(entry.status, entry.executed) for entry in gateway.journal] == [(500, False)]


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]")])
def test_it_listens_on_any_loopback_address(host: str, url: str) -> None:
    """IPv4, IPv6 or by name."""
    try:
        gateway = Gateway(host).start()
    except OSError:  # pragma: no cover
        pytest.skip("this machine has no such address")
    try:
        assert gateway.url == f"http://{url}:{gateway.port}"
        assert requests.get(gateway.url).json()["code"] == 0
    finally:
        gateway.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.1", "gateway.example", "::"])
def test_it_listens_nowhere_else(host: str) -> None:
    """A server that lets anybody log in has no business on a network."""
    with pytest.raises(ValueError, match="not a loopback address"):
        Gateway(host)
