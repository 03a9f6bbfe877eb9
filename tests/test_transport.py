"""What an exception of a send means, and what is done where a response is not what it usually is."""

from __future__ import annotations

import io
import ssl
from typing import Any

import pytest
import requests
import urllib3
from requests import exceptions as rx
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
    (rx.InvalidHeader(), Failure.INVALID),
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


class Broken(io.BytesIO):
    """A body whose reading fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"x")
        self._error = error

    def read1(self, size: int | None = -1) -> bytes:
        raise self._error


class TestReading:
    @pytest.mark.parametrize("deadline", [float("inf"), 2000.0])
    def test_a_mocks_body(self, deadline: float) -> None:
        """A body that comes from memory is read whole, with a deadline or without."""
        made = response(raw(io.BytesIO(b"x" * 200_000)))
        assert len(transport.read_body(made, clock=FakeClock(), deadline=deadline)) == 200_000
        assert made.content == b"x" * 200_000

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
    def test_exceptions(self, error: Exception, expected: type[Exception]) -> None:
        """urllib3's exceptions become those that response.content raises of them."""
        with pytest.raises(expected) as caught:
            transport.read_body(response(raw(Broken(error))), clock=FakeClock())
        assert type(caught.value) is expected

    def test_exceptions_ahead(self) -> None:
        """Reading ahead maps them as reading does, and whoever reads the stream meets them again."""
        for error, expected in (
            (ux.ProtocolError("cut"), rx.ChunkedEncodingError),
            (ux.ReadTimeoutError(POOL, None, "silent"), rx.ConnectionError),  # type: ignore[arg-type]
            (ux.SSLError("alert"), rx.SSLError),
        ):
            made = response(raw(Broken(error), {"Content-Length": "5"}), {"Content-Type": "application/json"})
            with pytest.raises(expected):
                transport.read_ahead(made, clock=FakeClock())
            with pytest.raises(type(error)):
                made.raw.read(3)

    def test_the_deadline(self) -> None:
        """A deadline that has passed is requests' own ReadTimeout."""
        clock = FakeClock()
        made = response(raw(io.BytesIO(b"abc")))
        with pytest.raises(rx.ReadTimeout):
            transport.read_body(made, clock=clock, deadline=clock.monotonic())
        assert made.raw.closed

    def test_what_is_not_read_ahead(self) -> None:
        """Only a JSON body of known, small length that nobody has read of is read ahead."""
        json = {"Content-Type": "application/json"}
        for made, ahead in (
            (response(raw(io.BytesIO(b"{}"), {"Content-Length": "2"}), json), False),  # no message: a mock's
            (response(io.BytesIO(b"{}"), json), False),
            (response(raw(io.BytesIO(b"{}")), json), False),
            (response(raw(io.BytesIO(b"{}"), {"Content-Length": "2"}), {"Content-Type": "text/html"}), False),
        ):
            assert transport.can_read_ahead(made) is ahead or made.raw._original_response is None

    def test_small_bodies_that_unpack_to_large_ones(self) -> None:
        """A body that was read ahead is unpacked in part only: it may hold a thousand times its size."""
        import gzip

        bomb = gzip.compress(b'{"code":0,"data":"' + b"x" * 5_000_000 + b'"}')
        made = response(
            raw(io.BytesIO(bomb), {"Content-Length": str(len(bomb)), "Content-Encoding": "gzip"}),
            {"Content-Type": "application/json"},
        )
        seen = transport.read_ahead(made, clock=FakeClock())
        assert seen.startswith(b'{"code":0,') and len(seen) <= 2 * 1024 * 1024
        assert len(made.raw.read(decode_content=True)) > 5_000_000

    def test_discarding(self) -> None:
        """What cannot be drained is closed."""
        for body in (io.BytesIO(b"abc"), Broken(ux.ProtocolError("cut"))):
            made = response(raw(body, {"Content-Length": "3"}))
            transport.discard(made, clock=FakeClock())
            assert body.closed
        odd = response(io.BytesIO(b"abc"))
        transport.discard(odd, clock=FakeClock())
        assert odd.raw.closed

    def test_cookies_without_messages(self) -> None:
        """Where there is no raw message, as with mocks, there are no cookies to carry over."""
        one, two = response(raw(io.BytesIO())), response(io.BytesIO())
        transport.carry_cookies(one, two)
        transport.carry_cookies(two, one)
