"""One send's dealings with requests and urllib3: what an exception means, and how a body is read.

Everything that knows urllib3's insides is here, and each such place does without where they are missing.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import ssl
import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar
from urllib.parse import quote, unquote_plus

import requests
import urllib3
from requests import exceptions as rx
from urllib3 import exceptions as ux

from .clock import Clock
from .core.model import Failure
from .errors import without_frames

#: Longest JSON body that is read ahead of a caller who asked for a stream.
READ_AHEAD = 64 * 1024
#: What is read of a body that nobody wants before its connection is closed rather than reused.
_DRAIN = 64 * 1024
_DRAIN_SECONDS = 0.25
_PIECE = 256 * 1024
#: Longest body whose length is believed before it has come.
_ROOM = 64 * 1024 * 1024
_PIECE_OF_UNKNOWN = 64 * 1024
_PIECE_OF_DECODED = 10 * 1024  # requests' own
_ENDLESS = float("inf")
_CUT_OFF = "the call's deadline ended while the response's body was being read"


# --- what an exception means ---------------------------------------------------------------------------------------

# Not InvalidHeader: out of a send it is urllib3's word on a header of the response.
_NEVER_ON_THE_WIRE = (
    rx.InvalidURL,
    rx.InvalidSchema,
    rx.MissingSchema,
    rx.InvalidProxyURL,
    rx.UnrewindableBodyError,
)
# The last two are what mocks raise that take the place of HTTPAdapter.send.
_NO_SUCH_PROOF = (rx.RequestException, ConnectionError, TimeoutError)


def failure_of(error: Exception, *, own: bool = True) -> Failure:
    """Say what an exception of a send means. Whatever is not proven unsent is taken to have been on its way.

    Args:
        error: what the transport raised.
        own: it was raised by our own HTTPAdapter, of which more is known than of a transport handed in.
    """
    if isinstance(error, rx.ConnectTimeout):
        return Failure.CONNECT_TIMEOUT
    if isinstance(error, rx.Timeout):
        return Failure.READ_TIMEOUT
    if isinstance(error, rx.ProxyError):
        return Failure.PROXY_REFUSED if _proxy_refused(_reason(error)) else Failure.PROXY
    if isinstance(error, rx.SSLError):
        return Failure.CERTIFICATE if _has_cause(error, ssl.SSLCertVerificationError) else Failure.RESET
    if isinstance(error, rx.ChunkedEncodingError):
        return Failure.CUT_BODY
    if isinstance(error, rx.ContentDecodingError):
        return Failure.UNREADABLE
    if isinstance(error, rx.ConnectionError):
        reason = _reason(error)
        if isinstance(reason, ux.NewConnectionError):
            return Failure.REFUSED
        if isinstance(reason, (ux.ClosedPoolError, ux.EmptyPoolError)):
            return Failure.NOT_SENT
        if isinstance(reason, ux.ReadTimeoutError):
            return Failure.READ_TIMEOUT
        # Also what a mocking transport raises without a reason: for all that we know it was on its way.
        return Failure.RESET
    if isinstance(error, _NEVER_ON_THE_WIRE):
        return Failure.INVALID
    before = own and isinstance(error, (OSError, ValueError)) and not isinstance(error, _NO_SUCH_PROOF)
    if before and _before_the_wire(error):
        # A certificate bundle that is not there, a timeout or header that makes no sense: found before a byte goes
        # out. Every OSError of a socket has become a ConnectionError by here.
        return Failure.INVALID
    return Failure.OTHER


def as_timeout(error: Exception) -> Exception:
    """Return requests' timeout in place of the ConnectionError that a timed-out upload is to it; else the exception."""
    if isinstance(error, rx.ConnectionError) and not isinstance(error, rx.Timeout) and _has_cause(error, TimeoutError):
        timeout = rx.ReadTimeout(*error.args, request=error.request)
        timeout.__context__ = error
        return timeout
    return error


#: HTTPAdapter's steps before it hands a request to its pool, and http.client's before it sends the first byte of it.
_BEFORE_THE_WIRE = frozenset(
    {
        "add_headers",
        "cert_verify",
        "connect",
        "get_connection",
        "get_connection_with_tls_context",
        "putheader",
        "putrequest",
        "request_url",
    }
)
_LIBRARIES = sys.stdlib_module_names | {"requests", "urllib3", __name__.partition(".")[0]}


def _before_the_wire(error: Exception) -> bool:
    # By what was under way. A signal's handler may raise anything at any moment, and so may whatever else is not the
    # libraries' own. Then, and once the pool is at work on its connection, it takes a step that is known to come before
    # the first byte; until then it is enough that it was not at making a response, which comes after.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    steps: set[str] = set()
    for number, frame in enumerate(frames):
        own = _is_of_a_library(frame)
        if own or _is_a_method_of_theirs(frame):
            steps.add(frame.f_code.co_name)
        if not own:
            below = next(filter(_is_of_a_library, frames[number:]), None)
            # Who traces calls goes around a pool's urlopen. What is called once that is at work is none of it.
            if "_make_request" in steps or below is None or not _is_of_a_pool(below):
                break
    else:
        if steps.isdisjoint(("_make_request", "build_response")):
            return True
    return not _BEFORE_THE_WIRE.isdisjoint(steps)


def _is_of_a_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES


def _is_of_a_pool(frame: FrameType) -> bool:
    return frame.f_code.co_name == "urlopen" and isinstance(_first_argument(frame), urllib3.HTTPConnectionPool)


def _is_a_method_of_theirs(frame: FrameType) -> bool:
    """Return whether a frame is of what somebody has put in the place of an adapter's or a connection's own step."""
    return isinstance(_first_argument(frame), (requests.adapters.HTTPAdapter, http.client.HTTPConnection))


def _first_argument(frame: FrameType) -> object:
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[0]) if names else None


def _reason(error: rx.RequestException) -> BaseException | None:
    """Return the urllib3 exception that requests wrapped: MaxRetryError's reason, or the first argument itself."""
    cause: Any = error.args[0] if error.args else None
    return getattr(cause, "reason", None) or (cause if isinstance(cause, BaseException) else None)


def _proxy_refused(reason: BaseException | None) -> bool:
    original = getattr(reason, "original_error", None)
    if isinstance(original, (ux.NewConnectionError, ux.ConnectTimeoutError)):
        return True
    # http.client's own words for a CONNECT that the proxy answered with anything but 200: the tunnel never was.
    return isinstance(original, OSError) and str(original).startswith("Tunnel connection failed")


def _has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    # requests, MaxRetryError, urllib3's SSLError and ssl's own are nested by argument. Not by context: that leads on to
    # whatever the caller was handling as it made this call, another host's certificate perhaps.
    seen: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, kind):
            return True
        if isinstance(one, BaseException) and all(one is not other for other in seen):
            seen.append(one)
            todo += [*one.args, getattr(one, "reason", None), one.__cause__]
    return False


def conceal_url(error: BaseException, sent: str, shown: str) -> None:
    """Put the caller's own URL in an exception's text in place of the one that was signed and sent.

    urllib3 writes the path with its query, and so the signature, into its messages.
    """
    todo: list[Any] = [error]
    seen: list[BaseException] = []
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or any(one is other for other in seen):
            continue
        seen.append(one)
        todo += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
        one.args = tuple(arg.replace(sent, shown) if isinstance(arg, str) else arg for arg in one.args)
        for name, value in list(vars(one).items()):
            if isinstance(value, str) and sent in value:  # urllib3 keeps its message beside the arguments, and the URL
                setattr(one, name, value.replace(sent, shown))


def conceal_raw_url(response: requests.Response, sent: str, shown: str) -> None:
    """Put the caller's own URL in what ``response.raw.geturl()`` tells, in place of the one that was signed."""
    if getattr(response.raw, "_request_url", None) == sent:
        response.raw._request_url = shown


def conceal_location(response: requests.Response, sent: str, shown: str) -> None:
    """Take what signing added out of where a redirect leads to: ``https://$host$request_uri`` repeats all of it.

    Args:
        response: a redirect.
        sent: the path and query that were sent.
        shown: the caller's own.
    """
    location = response.headers["Location"]
    ours = {unquote_plus(part) for part in _query(shown)}  # signing may have written them in another way
    added = [part for part in _query(sent) if unquote_plus(part) not in ours]
    if not any(part in location or quote(part, safe="") in location for part in added):
        return
    path, mark, query = location.replace(quote(sent, safe=""), quote(shown, safe="")).partition("?")
    query, hash_mark, fragment = query.partition("#")
    query = "&".join(part for part in query.split("&") if part not in added)
    location = path + (mark if query else "") + query + hash_mark + fragment
    response.headers["Location"] = location
    headers = getattr(response.raw, "headers", None)
    if headers is not None and "Location" in headers:
        headers["Location"] = location


def _query(path_url: str) -> list[str]:
    return path_url.partition("?")[2].split("&")


# --- what urllib3 logs ---------------------------------------------------------------------------------------------


_F = TypeVar("_F", bound=Callable[..., Any])
_unlogged: set[CodeType] = set()


def unlogged(function: _F) -> _F:
    """Have urllib3 log what this function sends without its query.

    Queries hold signatures, keys and listen keys, and at level DEBUG urllib3 logs each request line. Who asks for that
    pays for it: a function that sends does nothing for it.
    """
    _unlogged.add(function.__code__)
    return function


def _without_query(record: logging.LogRecord) -> bool:
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code not in _unlogged:
        frame = frame.f_back
    if frame.f_code in _unlogged and isinstance(record.args, tuple):
        record.args = tuple(
            f"{arg.partition('?')[0]}?..." if isinstance(arg, str) and "?" in arg else arg for arg in record.args
        )
    return True


logging.getLogger("urllib3.connectionpool").addFilter(_without_query)


# --- making a response ---------------------------------------------------------------------------------------------


def make_response(
    build: Callable[[requests.PreparedRequest, Any], requests.Response], request: requests.PreparedRequest, raw: Any
) -> requests.Response:
    """Return ``build(request, raw)``, requests' own way to make a response, without its search for cookies.

    For each response requests parses the URL and takes a jar's lock to find that there is no ``Set-Cookie``. It does
    without where it sees no original response, so that is out of its sight where there is nothing to find.

    Args:
        build: HTTPAdapter's ``build_response``.
        request: what was sent.
        raw: urllib3's response.
    """
    # Only urllib3's and http.client's own: what stands in for one of them (a tape's, a mock's) may not let itself be
    # changed, or tell of cookies in another way.
    original = getattr(raw, "_original_response", None)
    if (
        type(raw) is not urllib3.HTTPResponse
        or type(original) is not http.client.HTTPResponse
        or "Set-Cookie" in raw.headers
    ):
        return build(request, raw)
    raw._original_response = None
    try:
        return build(request, raw)
    finally:
        raw._original_response = original


# --- what a head says ----------------------------------------------------------------------------------------------

#: Schemes of HTTP authentication that log in for a connection (RFC 4559, section 6).
_PER_CONNECTION = frozenset({"negotiate", "ntlm", "kerberos", "credssp"})
#: Those that a hook above us answers, each in its own way.
_ANSWERED_ABOVE = _PER_CONNECTION | {"digest"}


def logs_in(request: requests.PreparedRequest) -> bool:
    """Return whether a request logs in for its connection, and not for itself alone."""
    value = request.headers.get("Authorization") or ""
    return _scheme(value.decode("latin-1") if isinstance(value, bytes) else value) in _PER_CONNECTION


def challenged(response: requests.Response) -> bool:
    """Return whether an answer asks for credentials that an auth hook above us is to give."""
    if response.status_code not in (401, 407):
        return False
    name = "WWW-Authenticate" if response.status_code == 401 else "Proxy-Authenticate"
    return _scheme(response.headers.get(name, "")) in _ANSWERED_ABOVE


def _scheme(value: str) -> str:
    return value.partition(" ")[0].partition(",")[0].lower()


def sever(response: requests.Response) -> None:
    """Close a response's connection, so that no other request takes the answer that is still to come for its own."""
    connection = getattr(response.raw, "connection", None)
    if connection is not None:
        connection.close()
        response.raw.release_conn()  # there is no body whose end would do so, and a bounded pool would wait for it


def may_be_cut(response: requests.Response, content: bytes | None, *, wordless: bool) -> bool:
    """Return whether a head or a body that ended may not have been meant to.

    A connection that closes in the middle of the head, or of a body without a length, ends it as if it were whole. Of
    a head there may be a torn line left then; of a body, JSON that does not end.

    Args:
        response: the response, its body read.
        content: the body, or None where it is left to the caller.
        wordless: nothing at all, where there is no length either, may be what is left of an answer.
    """
    original = getattr(response.raw, "_original_response", None)
    if getattr(getattr(original, "msg", None), "defects", None):
        return True
    length, coding = response.headers.get("Content-Length"), response.headers.get("Transfer-Encoding")
    last = None if coding is None else str(coding).rpartition(",")[2].strip().lower()
    if last == "chunked" or (length is not None and str(length).strip()):
        return False  # what is missing is missed
    torn = length is not None or (last is not None and "chunked".startswith(last))
    if content is None:
        return torn
    if not content:
        return (torn or wordless) and original is not None and response.status_code not in (204, 205, 304)
    if content.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return True
    return False


def within(timeout: tuple[float | None, float | None], seconds: float) -> tuple[float | None, float | None]:
    """Return a connect and a read timeout, None for no limit, of which neither is longer than so many seconds."""
    if seconds == _ENDLESS:
        return timeout  # sockets know no endless timeout but None
    connect, read = (seconds if part is None else min(part, seconds) for part in timeout)
    return connect, read


# --- reading a body ------------------------------------------------------------------------------------------------


class BodyDeadlineError(rx.ReadTimeout):
    """The call's deadline ended while a body was still coming. Callers see requests' own ReadTimeout."""


def read_body(response: requests.Response, *, clock: Clock, deadline: float = _ENDLESS) -> bytes:
    """Read a response's body, as ``response.content`` would, and leave it there.

    One read where the body comes in one piece, and no piece is copied twice. requests' own 10 kB pieces cost 10 µs a
    call, and at 10 MB three times the processor and twice the memory.

    Args:
        response: as it came from a transport.
        clock: the clock that the deadline is on.
        deadline: monotonic instant at which a body that is still coming is cut off; infinity for never.

    Raises:
        requests.RequestException: exactly what ``response.content`` raises; a ReadTimeout at the deadline.
    """
    raw = response.raw
    if response._content is not False or not _readable(raw):  # type: ignore[comparison-overlap]
        return response.content or b""
    try:
        content = _read_all(raw, clock, deadline)
    except (ux.ProtocolError, ux.DecodeError, ux.ReadTimeoutError, ux.SSLError) as error:
        raise _as_requests(error)  # noqa: B904 - as requests does it: the context leads on to urllib3's, no cause
    response._content = content
    response._content_consumed = True
    return content


def _readable(raw: object) -> bool:
    # A transport handed in may bring a raw of its own, or have put something around the connection that read1() would
    # pass by (CacheControl's copy for the cache); a fork of urllib3 may have taken its place (niquests brings one),
    # and its read1() does not give the connection back.
    return (
        isinstance(raw, urllib3.HTTPResponse)
        and isinstance(getattr(raw, "_fp", None), http.client.HTTPResponse)
        and hasattr(raw, "read1")
        and hasattr(raw, "length_remaining")
        and hasattr(raw, "_flush_decoder")
        # A 204 or 304 that has a body all the same, in chunks: urllib3 counts it below its length of 0.
        and not (raw.chunked and raw.length_remaining is not None)
    )


def _read_all(raw: urllib3.HTTPResponse, clock: Clock, deadline: float) -> bytes:
    # What is encoded is decoded afterwards. urllib3's read1() would take a wire's length for that of a piece of what it
    # unpacks to, and end each body as only those in chunks are ended elsewhere: zstd minds, even where there is none.
    length = raw.length_remaining
    if length and length <= _PIECE and hasattr(raw, "_error_catcher"):
        body = _read_short(raw, length, clock, deadline)
    else:
        body = _read_long(raw, length, clock, deadline)
    return _decoded(raw, body) if "Content-Encoding" in raw.headers else body


def _read_long(raw: urllib3.HTTPResponse, length: int | None, clock: Clock, deadline: float) -> bytes:
    size = _PIECE_OF_UNKNOWN if length is None else min(length, _PIECE) or 1
    piece = _read_piece(raw, size, clock, deadline)
    if raw.length_remaining == 0:
        return piece
    # Room for all of it at once: what has to grow is held twice for moments, and the more memory a call takes for
    # moments, the sooner malloc gives it back to the system, only to ask for it again in the next call.
    body = io.BytesIO(bytes(length) if length is not None and length <= _ROOM else b"")
    while piece:
        body.write(piece)
        del piece
        if raw.length_remaining == 0:
            break
        piece = _read_piece(raw, size, clock, deadline)
    body.truncate()
    return body.getvalue()


def _decoded(raw: Any, body: bytes) -> bytes:
    """Decode a whole body as ``response.content`` would: piece by piece, and ended only where it came in chunks."""
    head = {"Content-Encoding": raw.headers["Content-Encoding"]}
    decoder = urllib3.HTTPResponse(io.BytesIO(body), headers=head, preload_content=False)
    content = b"".join(decoder.stream(_PIECE_OF_DECODED, decode_content=True))
    if raw.chunked:
        decoder._init_decoder()
        content += decoder._flush_decoder()
    return content


def _read_short(raw: Any, length: int, clock: Clock, deadline: float) -> bytes:
    """Read a body that comes in few pieces, and as it is.

    As ``raw.read1()`` would, piece by piece, but with urllib3's way of catching errors put around all of them at once:
    for each, that would cost as much again as the reading.
    """
    reader = raw._fp
    sock: Any = None if deadline == _ENDLESS else _socket_of(raw)
    left = length
    pieces: list[bytes] = []
    bounded = False
    try:
        with raw._error_catcher():
            while left:
                if deadline != _ENDLESS:
                    time_left = deadline - clock.monotonic()
                    if time_left <= 0:
                        bounded = True
                        raise TimeoutError
                    bounded = _limit(sock, time_left)
                piece = reader.read1(left)
                if not piece:
                    break
                left -= len(piece)
                pieces.append(piece)
            raw._fp_bytes_read += length - left
            raw.length_remaining = left
            if left and raw.enforce_content_length:
                # As urllib3 does; in here, where it costs the connection.
                raise ux.IncompleteRead(raw._fp_bytes_read, left)
            reader.close()  # not every Python does so by itself; it is then that the connection goes back
    except ux.ReadTimeoutError as error:
        if bounded:
            raise BodyDeadlineError(_CUT_OFF) from error
        raise
    raw._uncached_read_occurred = True
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_piece(raw: urllib3.HTTPResponse, size: int, clock: Clock, deadline: float) -> bytes:
    bounded = deadline != _ENDLESS and _within(raw, clock, deadline)
    try:
        return raw.read1(size, decode_content=False)
    except ux.ReadTimeoutError as error:
        if bounded:
            raise BodyDeadlineError(_CUT_OFF) from error
        raise


def _within(raw: urllib3.HTTPResponse, clock: Clock, deadline: float) -> bool:
    """See to it that the next read ends by the deadline: a read timeout bounds a silence, not a body.

    Returns whether it is the deadline that a read will now time out at.
    """
    left = deadline - clock.monotonic()
    if left <= 0:
        raw.close()
        raise BodyDeadlineError(_CUT_OFF)
    return _limit(_socket_of(raw), left)


def _limit(sock: Any, seconds: float) -> bool:
    """See to it that a socket waits no longer than that. Returns whether it would have; None never does."""
    if sock is not None:
        timeout = sock.gettimeout()
        if timeout is None or timeout >= seconds:
            sock.settimeout(seconds)
            return True
    return False


def _socket_of(raw: urllib3.HTTPResponse) -> Any:
    # The connection has let go of its socket where the server closes after this response; the reader holds it then.
    sock = getattr(raw.connection, "sock", None)
    if sock is None:
        reader = getattr(getattr(raw, "_fp", None), "fp", None)
        sock = getattr(getattr(reader, "raw", None), "_sock", None)
    return sock if hasattr(sock, "settimeout") else None


class _Replay(io.BytesIO):
    """A body read ahead, in the place of the connection it came from; raises at its end what the connection did."""

    fp = None  # http.client's responses have one, and urllib3 asks for it

    def __init__(self, body: bytes, reader: object, error: Exception | None = None) -> None:
        super().__init__(body)
        self._size = len(body)
        self._error = error
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        # What else http.client's response tells, its own still does: docker asks whether it is chunked.
        return getattr(self._reader, name)

    def isclosed(self) -> bool:
        # http.client's responses close themselves at their end, and urllib3 asks.
        return self.closed or (self._error is None and self.tell() >= self._size)

    def read(self, size: int | None = -1) -> bytes:
        if self.closed:
            return b""
        if size is None or size < 0:
            self._end(size)  # a whole that is not whole: not even its beginning
        return super().read(size) or self._end(size)

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(size) or self._end(size)

    def _end(self, size: int | None) -> bytes:
        if self._error is not None and size != 0:
            self.close()  # as http.client's response is after an error
            raise self._error
        return b""


def can_read_ahead(response: requests.Response) -> bool:
    """Return whether a caller's stream may be looked into: a JSON body of a known length of at most 64 KiB."""
    media = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return (media == "application/json" or media.endswith("+json")) and _can_put_back(response)


def _can_put_back(response: requests.Response) -> bool:
    raw = response.raw
    return (
        _readable(raw)
        and not raw.chunked
        and raw.length_remaining is not None
        and 0 < raw.length_remaining <= READ_AHEAD
        and all(hasattr(raw, name) for name in ("_fp", "_fp_bytes_read", "_original_response"))
        and raw.tell() == 0
    )


def read_ahead(response: requests.Response, *, clock: Clock, deadline: float = _ENDLESS) -> bytes:
    """Read the body of a stream and put it back, so that ``iter_content``, ``iter_lines`` and ``raw`` find it whole.

    Only for responses that :func:`can_read_ahead` allows. Returns the body as decoded from its content encoding. A
    body that is cut off raises what ``response.content`` would, and leaves the part that came, with the same
    exception at its end, for a caller that it is delivered to.
    """
    raw = response.raw
    length = raw.length_remaining
    wire = io.BytesIO()
    broken: Exception | None = None
    try:
        while raw.length_remaining:
            wire.write(_read_piece(raw, raw.length_remaining, clock, deadline))
    except (ux.HTTPError, BodyDeadlineError) as error:
        without_frames(error)  # the response keeps it, and they hold the response
        broken = error
    body = wire.getvalue()
    _put_back(raw, _Replay(body, raw._fp, _as_urllib3(broken, raw)), length)
    if broken is not None:
        raise _as_requests(broken) from broken
    decoder = urllib3.HTTPResponse(io.BytesIO(body), headers=raw.headers, preload_content=False)
    try:
        # Not all of it: a small body may unpack to a thousand times its size.
        return decoder.read(_PIECE, decode_content=True)
    except ux.DecodeError:
        return b""  # the caller meets it when reading; there is no code in it


def hold(response: requests.Response, *, clock: Clock) -> None:
    """Free a stream's connection while it is not decided yet whether the response is delivered, and keep it whole.

    What is done meanwhile (a login, a look-up) may need that connection: a pool may have no other. A body that is
    longer than 64 KiB, or of unknown length, keeps it; one that does not come promptly is cut off.
    """
    if _can_put_back(response):
        with contextlib.suppress(rx.RequestException):  # met again, by whoever reads it
            read_ahead(response, clock=clock, deadline=clock.monotonic() + _DRAIN_SECONDS)


def _put_back(raw: Any, replay: _Replay, length: int | None) -> None:
    raw._fp = replay
    raw._fp_bytes_read = 0
    raw._uncached_read_occurred = False  # or raw.data would not be kept
    raw.length_remaining = length


def _as_urllib3(error: Exception | None, raw: Any) -> Exception | None:
    if isinstance(error, BodyDeadlineError):
        return ux.ReadTimeoutError(getattr(raw, "_pool", None), None, _CUT_OFF)  # type: ignore[arg-type]
    return error


def _as_requests(error: Exception) -> rx.RequestException:
    if isinstance(error, rx.RequestException):
        return error
    if isinstance(error, ux.ReadTimeoutError):
        return rx.ConnectionError(error)
    if isinstance(error, ux.SSLError):
        return rx.SSLError(error)
    if isinstance(error, ux.DecodeError):
        return rx.ContentDecodingError(error)
    return rx.ChunkedEncodingError(error)


def discard(response: requests.Response, *, clock: Clock) -> None:
    """Give a response's connection back to the pool: read what little is left of it, else close it.

    Merely dropped or closed, each would cost a new connection, and block a pool that is bounded. What was read
    already, ahead of the caller too, has given it back, and stays fit to be delivered.
    """
    raw = response.raw
    if isinstance(getattr(raw, "_fp", None), _Replay):
        return
    try:
        if response._content is False and _readable(raw):  # type: ignore[comparison-overlap]
            left = raw.length_remaining
            deadline = clock.monotonic() + _DRAIN_SECONDS
            drained = 0
            while raw.chunked and drained <= _DRAIN:
                piece = _read_piece(raw, _DRAIN, clock, deadline)
                if not piece:
                    break
                drained += len(piece)
            while left is not None and left <= _DRAIN:
                # An empty body has to be read too: it is then that its connection goes back.
                _read_piece(raw, left or 1, clock, deadline)
                left = raw.length_remaining or None
    except (ux.HTTPError, BodyDeadlineError):
        pass  # it is closed below, and nobody wanted it
    finally:
        response.close()


def carry_cookies(discarded: requests.Response, delivered: requests.Response) -> None:
    """Keep the cookies that a discarded response set, as an earlier line of the one that is delivered.

    A session takes its cookies from the raw message. Where there is none (a mock's, a cache's), there are none to
    keep. Later lines win, so older ones are put before them.
    """
    older = _message(discarded)
    newer = _message(delivered)
    if older is None or newer is None:
        return
    own = newer.get_all("Set-Cookie") or []
    # In one message a line that deletes a cookie is heeded before those that set it, so none may be left to be deleted.
    replaced = {_cookie(line) for line in own}
    lines = [line for line in older.get_all("Set-Cookie") or [] if _cookie(line) not in replaced]
    if lines:
        del newer["Set-Cookie"]
        # http.client's message adds a line when one is set; that of urllib3's fork would keep the last alone.
        add = getattr(newer, "add", newer.__setitem__)
        for line in [*lines, *own]:
            add("Set-Cookie", line)


def _cookie(line: str) -> tuple[str, ...]:
    """Return what tells one cookie from another: name, domain and path (RFC 6265, section 5.3)."""
    pair, *rest = (part.strip() for part in line.split(";"))
    named = (part.partition("=") for part in rest)
    attributes = {name.strip().lower(): value.strip().lower() for name, _, value in named}
    return pair.partition("=")[0].strip(), attributes.get("domain", "").lstrip("."), attributes.get("path", "")


def _message(response: requests.Response) -> Any:
    message = getattr(getattr(response.raw, "_original_response", None), "msg", None)
    return message if hasattr(message, "get_all") else None


def local_response(
    request: requests.PreparedRequest, *, status: int, reason: str, body: bytes, retry_after: int, connection: Any
) -> requests.Response:
    """Make the response of a server that was not asked: an envelope with a ``Retry-After``."""
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Retry-After": str(retry_after),
    }
    raw = urllib3.HTTPResponse(
        io.BytesIO(body), headers=headers, status=status, reason=reason, preload_content=False, request_url=request.url
    )
    response = requests.Response()
    response.status_code = status
    response.headers = requests.structures.CaseInsensitiveDict(headers)
    response.encoding = "utf-8"
    response.raw = raw
    response.reason = reason
    response.url = request.url or ""
    response.request = request
    response.connection = connection
    return response
