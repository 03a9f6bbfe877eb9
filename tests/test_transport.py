"""What an exception of a send means, and what is done where a response is not what it usually is."""

from __future__ import annotations

import gzip
import http.client
import io
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import urllib3
from requests import exceptions as rx
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as ux

from resilient_adapter import transport
from resilient_adapter.core.model import Failure
from resilient_adapter.testing import FakeClock

POOL: Any = urllib3.HTTPConnectionPool("localhost")
CONNECTION: Any = urllib3.connection.HTTPConnection("localhost")


def wrapped(reason: Exception, kind: type[rx.RequestException] = rx.ConnectionError) -> rx.RequestException:
    """Return an exception as requests makes it of urllib3's."""
    return kind(ux.MaxRetryError(POOL, "/x", reason))


def proxied(original: Exception) -> rx.RequestException:
    """Return requests' exception for a failure between us and a proxy."""
    return wrapped(ux.ProxyError("Unable to connect to proxy", original), rx.ProxyError)


REFUSED = ux.NewConnectionError(CONNECTION, "refused")

MEANINGS: list[tuple[Exception, Failure]] = [
    (rx.ConnectTimeout(), Failure.CONNECT_TIMEOUT),
    (rx.ReadTimeout(), Failure.READ_TIMEOUT),
    (rx.Timeout(), Failure.READ_TIMEOUT),
    (wrapped(REFUSED), Failure.REFUSED),
    (wrapped(ux.NameResolutionError("host", CONNECTION, OSError())), Failure.REFUSED),  # type: ignore[arg-type]
    (wrapped(ux.ProtocolError("reset")), Failure.RESET),
    (rx.ConnectionError(ux.ProtocolError("reset")), Failure.RESET),
    (rx.ConnectionError("reset"), Failure.RESET),
    (rx.ConnectionError(), Failure.RESET),
    (rx.ConnectionError(ux.ReadTimeoutError(POOL, "/x", "silent")), Failure.READ_TIMEOUT),
    (rx.ConnectionError(ux.ClosedPoolError(POOL, "closed")), Failure.NOT_SENT),
    (rx.ConnectionError(ux.EmptyPoolError(POOL, "empty")), Failure.NOT_SENT),
    (proxied(REFUSED), Failure.PROXY_REFUSED),
    (proxied(ux.ConnectTimeoutError(CONNECTION, "late")), Failure.PROXY_REFUSED),
    (proxied(OSError("Tunnel connection failed: 403 Forbidden")), Failure.PROXY_REFUSED),
    (proxied(OSError("reset")), Failure.PROXY),
    (proxied(ux.ProtocolError("reset")), Failure.PROXY),
    (rx.ProxyError(), Failure.PROXY),
    (wrapped(ux.SSLError(ssl.SSLCertVerificationError("self-signed")), rx.SSLError), Failure.CERTIFICATE),
    (wrapped(ux.SSLError(ssl.SSLError("alert")), rx.SSLError), Failure.RESET),
    (rx.SSLError("eof"), Failure.RESET),
    (rx.ChunkedEncodingError(), Failure.CUT_BODY),
    (rx.ContentDecodingError(), Failure.UNREADABLE),
    (rx.InvalidURL(), Failure.INVALID),
    (rx.InvalidHeader(), Failure.OTHER),  # urllib3's word on a header of the response
    (ConnectionError(), Failure.OTHER),  # what mocks raise that take the place of HTTPAdapter.send
    (TimeoutError(), Failure.OTHER),
    (rx.InvalidSchema(), Failure.INVALID),
    (rx.MissingSchema(), Failure.INVALID),
    (rx.InvalidProxyURL(), Failure.INVALID),
    (rx.UnrewindableBodyError(), Failure.INVALID),
    (OSError("no bundle"), Failure.INVALID),
    (ValueError("no timeout"), Failure.INVALID),
    (rx.RequestException(), Failure.OTHER),
    (rx.TooManyRedirects(), Failure.OTHER),
    (LookupError(), Failure.OTHER),
    (TypeError(), Failure.OTHER),
]


@pytest.mark.parametrize(("error", "meaning"), MEANINGS, ids=lambda value: repr(value)[:60])
def test_meanings(error: Exception, meaning: Failure) -> None:
    """Each exception has one meaning; what is not proven unsent is taken to have been on its way."""
    assert transport.failure_of(error) is meaning


def test_of_a_transport_of_another_kind() -> None:
    """Of a transport that was handed in, an OSError or ValueError proves nothing: it may come from its sockets."""
    for error in (OSError(), ValueError()):
        assert transport.failure_of(error, own=False) is Failure.OTHER
    assert transport.failure_of(wrapped(REFUSED), own=False) is Failure.REFUSED


def test_chains_that_go_round() -> None:
    """Exceptions that lead back to themselves are looked through once."""
    one, two = rx.SSLError("a"), OSError("b")
    one.__cause__, two.__context__ = two, one
    assert transport.failure_of(one) is Failure.RESET
    one.args, two.args = ("/x?signature=1", two, 7), ("nothing", one)
    transport.conceal_url(one, "/x?signature=1", "/x")
    assert one.args[0] == "/x" and two.args[0] == "nothing"


def response(raw: Any, headers: dict[str, str] | None = None) -> requests.Response:
    """Return a response over some raw."""
    made = requests.Response()
    made.raw = raw
    made.status_code = 200
    made.headers.update(headers or {})
    return made


def raw(body: Any, headers: dict[str, str] | None = None) -> urllib3.HTTPResponse:
    """Return urllib3's response over a file, as mocks make it."""
    return urllib3.HTTPResponse(body, headers=headers, preload_content=False)


class Wire(io.BytesIO):
    """What a connection brings; its reading fails beyond the head where an error is given."""

    def __init__(self, head: bytes, body: bytes = b"", error: Exception | None = None) -> None:
        super().__init__(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)
        self._error = error

    def makefile(self, mode: str) -> Wire:
        return self

    def read1(self, size: int | None = -1) -> bytes:
        if self._error is not None:
            raise self._error
        return super().read1(size)


class Breaks(Wire):
    """Brings what there is, and then an exception; without one, the end."""

    def __init__(self, head: bytes, body: bytes, after: Exception | None) -> None:
        super().__init__(head, body)
        self._after = after

    def read(self, size: int | None = -1) -> bytes:
        return self.read1(size)

    def read1(self, size: int | None = -1) -> bytes:
        piece = super().read1(size)
        if not piece and self._after is not None:
            raise self._after
        return piece


class Pool(SimpleNamespace):
    """A pool of connections, as exceptions name it."""

    def __str__(self) -> str:
        return "a pool"


class Drips(Wire):
    """Brings one byte at a time, each after something else has happened."""

    def __init__(self, head: bytes, body: bytes, before: Callable[[], object], sock: object) -> None:
        super().__init__(head, body)
        self._before = before
        self.raw = SimpleNamespace(_sock=sock)

    def read1(self, size: int | None = -1) -> bytes:
        self._before()
        return super().read1(1)


def from_wire(wire: Wire, headers: dict[str, str] | None = None) -> requests.Response:
    """Return a response as requests makes it of what came over a connection."""
    message = http.client.HTTPResponse(wire)  # type: ignore[arg-type]
    message.begin()
    made = urllib3.HTTPResponse(
        message,  # type: ignore[arg-type]
        headers=dict(message.getheaders()), preload_content=False, original_response=message,
    )  # fmt: skip
    return response(made, headers)


JSON = {"Content-Type": "application/json"}


class TestReading:
    @pytest.mark.parametrize("deadline", [float("inf"), 2000.0])
    @pytest.mark.parametrize("size", [1, 20_000, 2_000_000])
    def test_bodies(self, deadline: float, size: int) -> None:
        """A body is read whole, with a deadline or without, from a connection or from a mock's memory."""
        body = b"x" * size
        for made in (
            from_wire(Wire(b"", body)),
            from_wire(Wire(b"Content-Length: %d\r\n" % size, body)),
            response(raw(io.BytesIO(body))),
        ):
            assert transport.read_body(made, clock=FakeClock(), deadline=deadline) == body
            assert made.content == body
            assert made.raw.tell() == size and not made.raw.length_remaining and made.raw.read() == b""

    def test_what_was_read(self) -> None:
        """A body that was read already is what it is; so is one without a raw."""
        made = response(raw(io.BytesIO(b"abc")))
        assert made.content == b"abc"
        assert transport.read_body(made, clock=FakeClock()) == b"abc"
        empty = requests.Response()
        empty.status_code = 0
        assert transport.read_body(empty, clock=FakeClock()) == b""

    @pytest.mark.parametrize(("error", "expected"), [
        (ux.ProtocolError("cut"), rx.ChunkedEncodingError),
        (ux.DecodeError("bad"), rx.ContentDecodingError),
        (ux.ReadTimeoutError(POOL, None, "silent"), rx.ConnectionError),  # type: ignore[arg-type]
        (ux.SSLError("alert"), rx.SSLError),
    ])  # fmt: skip
    @pytest.mark.parametrize("head", [b"", b"Content-Length: 5\r\n", b"Content-Length: 500000\r\n"])
    def test_exceptions(self, error: Exception, expected: type[Exception], head: bytes) -> None:
        """urllib3's exceptions become those that response.content raises of them."""
        with pytest.raises(expected) as caught:
            transport.read_body(from_wire(Wire(head, error=error)), clock=FakeClock())
        assert type(caught.value) is expected

    @pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), TimeoutError(), ssl.SSLError("alert"), None])
    @pytest.mark.parametrize("came", [0, 1, 9_999])
    def test_what_breaks_off(self, error: Exception | None, came: int) -> None:
        """It is exactly what response.content raises, in the same words, and the connection is closed."""
        raised = []
        for read in (lambda made: made.content, lambda made: transport.read_body(made, clock=FakeClock())):
            made = from_wire(Breaks(b"Content-Length: 10000\r\n", b"x" * came, error))
            done: list[str] = []
            made.raw._connection = SimpleNamespace(sock=None, close=lambda done=done: done.append("closed"))
            made.raw._pool = Pool(_put_conn=lambda connection, done=done: done.append("given back"))
            with pytest.raises(rx.RequestException) as caught:
                read(made)
            assert made.raw.closed and made._content is False
            raised.append((type(caught.value), str(caught.value), type(caught.value.args[0]), done))
        assert raised[0] == raised[1] and raised[0][-1] == ["closed", "given back"]

    def test_a_length_that_nobody_enforces(self) -> None:
        """Where urllib3 was told not to mind, what came is the body."""
        made = from_wire(Wire(b"Content-Length: 10\r\n", b"abc"))
        made.raw.enforce_content_length = False
        assert transport.read_body(made, clock=FakeClock()) == b"abc"

    def test_exceptions_ahead(self) -> None:
        """Reading ahead maps them as reading does, and whoever reads the stream meets them again."""
        for error, expected in (
            (ux.ProtocolError("cut"), rx.ChunkedEncodingError),
            (ux.ReadTimeoutError(POOL, None, "silent"), rx.ConnectionError),  # type: ignore[arg-type]
            (ux.SSLError("alert"), rx.SSLError),
        ):
            made = from_wire(Wire(b"Content-Length: 5\r\n", error=error), JSON)
            assert transport.can_read_ahead(made)
            with pytest.raises(expected):
                transport.read_ahead(made, clock=FakeClock())
            with pytest.raises(type(error)):
                made.raw.read(3)

    def test_the_deadline(self) -> None:
        """A deadline that has passed is requests' own ReadTimeout."""
        clock = FakeClock()
        made = from_wire(Wire(b"", b"abc"))
        with pytest.raises(rx.ReadTimeout):
            transport.read_body(made, clock=clock, deadline=clock.monotonic())
        assert made.raw.closed

    @pytest.mark.parametrize("timeout", [30.0, 2.0, None])
    @pytest.mark.parametrize("known", [False, True])
    def test_a_deadline_in_the_middle(self, timeout: float | None, known: bool) -> None:
        """No read waits beyond it, however the body comes; one that would stop waiting sooner by itself may."""
        clock, given = FakeClock(), []
        sock = SimpleNamespace(gettimeout=lambda: given[-1] if given else timeout, settimeout=given.append)
        wire = Drips(b"Content-Length: 99\r\n" if known else b"", b"x" * 99, lambda: clock.advance(1.0), sock)
        made = from_wire(wire)
        with pytest.raises(rx.ReadTimeout, match="deadline"):
            transport.read_body(made, clock=clock, deadline=clock.monotonic() + 4.5)
        assert given == {30.0: [4.5, 3.5, 2.5, 1.5, 0.5], 2.0: [1.5, 0.5], None: [4.5, 3.5, 2.5, 1.5, 0.5]}[timeout]
        assert made.raw.closed

    @pytest.mark.parametrize("head", [b"", b"Content-Length: 99\r\n", b"Content-Length: 500000\r\n"])
    @pytest.mark.parametrize(("timeout", "expected"), [(30.0, rx.ReadTimeout), (2.0, rx.ConnectionError)])
    def test_silence(self, head: bytes, timeout: float, expected: type[Exception]) -> None:
        """It ends at the deadline, or at a shorter timeout as for plain requests."""
        sock = SimpleNamespace(gettimeout=lambda: timeout, settimeout=lambda seconds: None)

        def silent() -> None:
            raise TimeoutError

        clock, made = FakeClock(), from_wire(Drips(head, b"x", silent, sock))
        with pytest.raises(expected) as caught:
            transport.read_body(made, clock=clock, deadline=clock.monotonic() + 4.5)
        assert isinstance(caught.value, rx.ReadTimeout) is (expected is rx.ReadTimeout)

    def test_what_is_not_read_ahead(self) -> None:
        """Only a JSON body of known, small length that nobody has read of is read ahead."""
        assert transport.can_read_ahead(from_wire(Wire(b"Content-Length: 2\r\n", b"{}"), JSON))
        begun = from_wire(Wire(b"Content-Length: 2\r\n", b"{}"), JSON)
        begun.raw.read(1)
        for made in (
            begun,
            from_wire(Wire(b"Content-Length: 2\r\n", b"{}"), {"Content-Type": "text/html"}),
            from_wire(Wire(b"Content-Length: 2\r\n", b"{}")),
            from_wire(Wire(b"Content-Length: 0\r\n"), JSON),
            from_wire(Wire(b"Content-Length: 65537\r\n"), JSON),
            from_wire(Wire(b"", b"{}"), JSON),
            from_wire(Wire(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"), JSON),
            response(raw(io.BytesIO(b"{}"), {"Content-Length": "2"}), JSON),
            response(io.BytesIO(b"{}"), JSON),
        ):
            assert not transport.can_read_ahead(made)

    def test_small_bodies_that_unpack_to_large_ones(self) -> None:
        """A body that was read ahead is unpacked in part only: it may hold a thousand times its size."""
        bomb = gzip.compress(b'{"code":0,"data":"' + b"x" * 5_000_000 + b'"}')
        made = from_wire(Wire(b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(bomb), bomb), JSON)
        seen = transport.read_ahead(made, clock=FakeClock())
        assert seen.startswith(b'{"code":0,') and len(seen) <= 2 * 1024 * 1024
        assert len(made.raw.read(decode_content=True)) > 5_000_000

    def test_a_timeout_by_another_name(self) -> None:
        """An upload that timed out is a ConnectionError to requests: it is told from one that broke."""
        stalled = rx.ConnectionError(ux.ProtocolError("Connection aborted.", TimeoutError("timed out")))
        made = transport.as_timeout(stalled)
        assert type(made) is rx.ReadTimeout and made.args == stalled.args and made.__context__ is stalled
        for other in (
            rx.ConnectionError(ux.ProtocolError("Connection aborted.", ConnectionResetError())), rx.ConnectTimeout(),
            rx.ReadTimeout(), ValueError(), rx.ConnectionError(),
        ):  # fmt: skip
            assert transport.as_timeout(other) is other

    def test_what_is_read_ahead_tells_what_the_connection_told(self) -> None:
        """Clients ask http.client's response beneath: whether it is chunked, its status, its headers."""
        made = from_wire(Wire(b"Content-Length: 2\r\nX-A: b\r\n", b"{}"), JSON)
        transport.read_ahead(made, clock=FakeClock())
        beneath = made.raw._fp
        assert (beneath.chunked, beneath.status, beneath.version) == (False, 200, 11)
        assert beneath.getheader("X-A") == "b" and not hasattr(beneath, "nonsense")
        assert made.raw.read() == b"{}"
        beneath.close()
        assert beneath.read() == b""  # as of http.client's own, and no ValueError as of a BytesIO

    def test_a_location_without_raw_headers(self) -> None:
        """A redirect of a transport handed in may have nothing beneath it that tells its headers."""
        made = response(io.BytesIO(), {"Location": "/y?a=1&signature=s"})
        transport.conceal_location(made, "/x?a=1&signature=s", "/x?a=1")
        assert made.headers["Location"] == "/y?a=1"

    @pytest.mark.parametrize(
        ("status", "header", "challenge", "expected"),
        [
            (401, "WWW-Authenticate", "Digest realm=x", True),
            (401, "WWW-Authenticate", "NTLM", True),
            (401, "WWW-Authenticate", "Negotiate, NTLM", True),
            (407, "Proxy-Authenticate", "Kerberos", True),
            (401, "WWW-Authenticate", "CredSSP", True),
            (401, "WWW-Authenticate", "Bearer realm=x", False),
            (401, "WWW-Authenticate", "Basic realm=x", False),
            (401, "Proxy-Authenticate", "NTLM", False),
            (401, "X", "NTLM", False),
            (200, "WWW-Authenticate", "Negotiate abc", False),  # the last word of a login, and no question
        ],
    )
    def test_challenges(self, status: int, header: str, challenge: str, expected: bool) -> None:
        """One that a hook above us answers is told from those that a token answers."""
        made = response(io.BytesIO(), {header: challenge})
        made.status_code = status
        assert transport.challenged(made) == expected

    def test_discarding(self) -> None:
        """What cannot be drained is closed."""
        for wire in (
            Wire(b"Content-Length: 3\r\n", error=ux.ProtocolError("cut")), Wire(b"", b"abc"),
            Wire(b"Content-Length: 99999\r\n", b"abc"), Wire(b"Content-Length: 3\r\n", b"abc"),
        ):  # fmt: skip
            made = from_wire(wire)
            transport.discard(made, clock=FakeClock())
            assert made.raw.closed
        odd = response(io.BytesIO(b"abc"))
        transport.discard(odd, clock=FakeClock())
        assert odd.raw.closed

    def test_cookies_without_messages(self) -> None:
        """Where there is no raw message, as with mocks, there are no cookies to carry over."""
        one, two = response(raw(io.BytesIO())), response(io.BytesIO())
        transport.carry_cookies(one, two)
        transport.carry_cookies(two, one)


def test_raw_urls() -> None:
    """What a raw response says of its URL is the caller's own; a raw that says nothing is left alone."""
    made = urllib3.HTTPResponse(io.BytesIO(), preload_content=False, request_url="/x?signature=1")
    transport.conceal_raw_url(response(made), "/x?signature=1", "/x")
    assert made.geturl() == "/x"
    transport.conceal_raw_url(response(made), "/other", "/y")
    assert made.geturl() == "/x"
    transport.conceal_raw_url(response(io.BytesIO()), "/x", "/y")


class TestResponsesAreMade:
    """Responses are requests' own, made without the search for cookies where there are none."""

    @staticmethod
    def raw(headers: dict[str, str], *, original: Any = True) -> Any:
        """Return what urllib3 brings: a response with, or without, http.client's own in it."""
        if original is True:
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            wire: Any = SimpleNamespace(makefile=lambda mode: io.BytesIO(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode()))
            original = http.client.HTTPResponse(wire)
            original.begin()
        return urllib3.HTTPResponse(
            io.BytesIO(b"{}"), headers=headers, status=200, preload_content=False, original_response=original
        )

    @pytest.mark.parametrize(
        ("headers", "original"),
        [
            ({"X": "1", "Content-Type": "application/json"}, True),
            ({"Set-Cookie": "a=1"}, True),
            ({"set-cookie": "a=1; Max-Age=0"}, True),
            ({"Set-Cookie": "a=1"}, None),
        ],
    )
    def test_as_requests_makes_them(self, headers: dict[str, str], original: Any) -> None:
        """Every attribute is what HTTPAdapter gives it, its cookies with it; the raw response is left as it was."""
        request = requests.Request("GET", "http://origin.example/x").prepare()
        raw = self.raw(headers, original=original)
        before = dict(vars(raw))
        build = HTTPAdapter().build_response
        ours, theirs = transport.make_response(build, request, raw), build(request, raw)
        assert vars(raw) == before and ours.cookies.get_dict() == theirs.cookies.get_dict()
        if original is True:
            raw._original_response.close()
        told = {name: value for name, value in vars(theirs).items() if name not in ("cookies", "connection")}
        assert {name: vars(ours)[name] for name in told} == told and vars(ours).keys() == vars(theirs).keys()

    def test_one_that_stands_in_for_urllib3s(self) -> None:
        """A tape's, say, which lets nothing of it be changed: it is left alone."""

        class Taped:
            headers = requests.structures.CaseInsensitiveDict[str]()
            status, reason = 200, "OK"

            @property
            def _original_response(self) -> Any:
                return SimpleNamespace(msg=http.client.HTTPMessage())

        request = requests.Request("GET", "http://origin.example/x").prepare()
        raw = Taped()
        made = transport.make_response(HTTPAdapter().build_response, request, raw)
        assert made.raw is raw and not made.cookies

    def test_one_that_cannot_be_made(self) -> None:
        """What building raises comes through, and the raw response is whole again."""
        raw = self.raw({})
        original = raw._original_response

        def build(request: Any, raw: Any) -> requests.Response:
            raise LookupError(raw._original_response)

        with pytest.raises(LookupError, match="None"):
            transport.make_response(build, requests.PreparedRequest(), raw)
        assert raw._original_response is original
