"""The gateway: what the API would answer, and what goes wrong on the way."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import random
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from ..clock import SYSTEM_CLOCK, Clock
from .faults import Delivery, Fault
from .messages import Answer, HeadersLike, Received, Request, RetryAfter, header_pairs
from .server import Incoming, Server

if TYPE_CHECKING:
    from typing_extensions import Self

Body: TypeAlias = "Answer | bytes | str | dict[str, Any] | list[Any]"

TIME_PATH = "/api/gateway/time"
LOGIN_PATH = "/login"

_TOKENS_KEPT = 1000  # of those issued; the oldest are forgotten, and refused, beyond that
_HEALTHY = Fault.none()


@dataclass
class _Token:
    expires_at: float  # on the server's clock
    uses: int | None  # left; None: any number


@dataclass(frozen=True)
class _Match:
    """Which requests something applies to."""

    path: str | None
    method: str | None = None

    def __call__(self, request: Request) -> bool:
        return (self.path is None or fnmatchcase(request.path, self.path)) and (
            self.method is None or self.method == request.method
        )


class Gateway:
    """An HTTP/1.1 keep-alive server on loopback that speaks the API's envelope, and fails as it is told to.

    A context manager; or call `start()` and `stop()`. These, `down()` and `up()` are for one thread at a time; every
    other method may be called from any thread, from a handler too.

    What it serves:

    ===========================  ==========================================================================
    ``GET /api/gateway/time``    ``data`` is ``{"serverTime": milliseconds}``
    ``POST /login``              ``data`` is ``{"token": "…", "expiresIn": seconds}``, a new token each time
    what `respond()` was given   that
    anything else                ``data`` is ``{"method", "path", "query", "number"}`` of the request
    ===========================  ==========================================================================

    A request passes these stages, and goes no further than the first that refuses it:

    1. `busy()`, then ``rate_limit``, then the token check. They apply to every path; the token check spares the first
       two of the table.
    2. The next fault of the first matching `script()`; where no script has one, `random_faults()`.
    3. `handle()`: the request is executed. A subclass that executes something real, orders say, overrides that.

    All times but those of `Fault.delay` and `Fault.drip` go by ``clock``.

    Args:
        host: a loopback address to listen on.
        port: the port; 0: any free one.
        clock: what time goes by: hand in the adapter's `FakeClock` where it has one.
        require_token: answer -1002 to requests without a valid ``Authorization: Bearer`` token.
        unauthorized_status: the HTTP status of that (200 or 401).
        jwt: issue JSON Web Tokens with an ``exp`` (unsecured ones, RFC 7519 section 6) rather than opaque strings.
        token_ttl: seconds for which a token is valid.
        token_uses: requests for which a token is valid; None: any number.
        rate_limit: ``(n, seconds)``: no more than n requests (at least 1) in any such period; others are answered
            -1003 with a ``Retry-After`` in whole seconds, and are not counted. None: no limit.
        rate_limit_status: the HTTP status of that (429 or 200).
        rate_limit_header: a header in which every answer tells how many requests were counted in the present period,
            such as ``X-MBX-USED-WEIGHT-1M``; None: no such header.
        journal_size: how many entries the journal keeps; the oldest go first.

    Attributes:
        clock_offset: seconds by which the server's clock is ahead of ``clock``. May be changed at any time, as may
            ``rate_limit`` and ``require_token``. A step of the client's `FakeClock` leaves the server's clock alone.

    Raises:
        ValueError: ``host`` is not a loopback address.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        clock: Clock = SYSTEM_CLOCK,
        require_token: bool = False,
        unauthorized_status: int = 200,
        jwt: bool = False,
        token_ttl: float = 3600.0,
        token_uses: int | None = None,
        rate_limit: tuple[int, float] | None = None,
        rate_limit_status: int = 429,
        rate_limit_header: str | None = None,
        journal_size: int = 100_000,
    ) -> None:
        self._host = _loopback(host)
        self._clock = clock
        self._epoch = clock.time() - clock.monotonic()
        self._unauthorized = Fault.code(-1002, unauthorized_status)
        self._jwt = jwt
        self._token_ttl = token_ttl
        self._token_uses = token_uses
        self._rate_limit_status = rate_limit_status
        self._rate_limit_header = rate_limit_header
        self._journal_size = journal_size
        self.clock_offset = 0.0
        self.require_token = require_token
        self.rate_limit = rate_limit

        self._server = Server("127.0.0.1" if host == "localhost" else host, port, self._exchange)
        # Guards everything below. Never held while a handler runs, a fault waits or a socket is used.
        self._changed = threading.Condition()
        self._number = 0
        self._journal: dict[int, Received] = {}
        self._connections_before = 0
        self._responses: list[tuple[_Match, Callable[[Request], Answer]]] = []
        self._scripts: list[tuple[_Match, deque[Fault]]] = []
        self._random: list[tuple[_Match, random.Random, float, Sequence[Fault]]] = []
        self._busy: tuple[float, Fault] | None = None
        self._admitted: deque[float] = deque()
        self._tokens: dict[str, _Token] = {}

    # Running.

    def start(self) -> Self:
        """Begin to listen, and return the gateway itself.

        Raises:
            OSError: the port is taken.
        """
        self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection, interrupt every delay, and wait for all threads to end."""
        self._server.stop()

    def down(self) -> None:
        """Close every connection and refuse new ones, as when the server is not running; requests under way are lost.

        The port stays reserved meanwhile.
        """
        self._server.pause()

    def up(self) -> None:
        """Listen again on the same port, after `down()`."""
        self._server.resume()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    @property
    def url(self) -> str:
        """Its origin, ``http://127.0.0.1:1234``; no slash at the end."""
        return f"http://{self._host}:{self._server.port}"

    def time(self) -> float:
        """Return the server's clock, in seconds since the epoch."""
        return self._epoch + self._clock.monotonic() + self.clock_offset

    # What it answers.

    def respond(
        self,
        path: str,
        body: Body | Callable[[Request], Body] = b"",
        status: int = 200,
        *,
        headers: HeadersLike | None = None,
        content_type: str | None = "application/json",
        method: str | None = None,
    ) -> None:
        """Say what to answer from now on; the latest that matches a request counts.

        Args:
            path: the path, or a pattern (``/api/v1/*``).
            body: bytes and strings (as UTF-8) are sent as they are, whatever they are; a dict or list as JSON; an
                `Answer` stands for itself. Or a function that is given the `Request` and returns one of these. (What
                it raises is answered with HTTP 500 and goes to `threading.excepthook`, which pytest reports.)
            status: the HTTP status.
            headers: see `Answer`.
            content_type: the media type; None: no such header.
            method: only for this method; None: for all.
        """
        pairs = header_pairs(headers)

        def handler(request: Request) -> Answer:
            content = body(request) if callable(body) else body
            if isinstance(content, Answer):
                return content
            if isinstance(content, (dict, list)):
                return replace(Answer.json(content, status, pairs), content_type=content_type)
            return Answer(status, content.encode() if isinstance(content, str) else content, pairs, content_type)

        with self._changed:
            self._responses.insert(0, (_Match(path, method), handler))

    def handle(self, request: Request) -> Answer:
        """Execute a request and return its answer. Override it to serve something else, and call it for the rest.

        It is called for a request exactly where that is executed: not before a fault that keeps it from being so, and
        also where a fault then loses its answer. It runs in the thread of the request's connection.
        """
        with self._changed:
            handler = next((handler for match, handler in self._responses if match(request)), None)
        if handler is not None:
            return handler(request)
        if request.path == TIME_PATH and request.method == "GET":
            return Answer.success({"serverTime": int(self.time() * 1000)})
        if request.path == LOGIN_PATH and request.method == "POST":
            return Answer.success({"token": self.issue_token(), "expiresIn": self._token_ttl})
        return Answer.success(
            {"method": request.method, "path": request.path, "query": request.query, "number": request.number}
        )

    def issue_token(self) -> str:
        """Return a new valid token, as ``POST /login`` does."""
        now = self.time()
        expires_at = round(now + self._token_ttl, 3)
        token = secrets.token_hex(16)
        if self._jwt:
            exp = int(expires_at) if expires_at.is_integer() else expires_at
            token = _jwt({"alg": "none"}, {"iat": int(now), "exp": exp, "jti": token})
        with self._changed:
            self._tokens[token] = _Token(expires_at, self._token_uses)
            if len(self._tokens) > _TOKENS_KEPT:
                del self._tokens[next(iter(self._tokens))]
        return token

    def expire_tokens(self) -> None:
        """Refuse every token issued so far."""
        with self._changed:
            self._tokens.clear()

    # What goes wrong.

    def script(self, *faults: Fault | None, path: str | None = None, method: str | None = None) -> None:
        """Queue faults for the requests to come, one each, in order; None lets one through in good health.

        Args:
            faults: what happens to the first matching request, to the second, ….
            path: only requests to this path, or to those that match a pattern (``/api/v1/*``); None: all.
            method: only requests with this method; None: all.
        """
        with self._changed:
            self._scripts = [script for script in self._scripts if script[1]]  # the others are played out
            self._scripts.append((_Match(path, method), deque(fault or _HEALTHY for fault in faults)))

    def random_faults(self, rate: float, faults: Iterable[Fault], seed: int, path: str | None = None) -> None:
        """Let requests fail at random, until `clear()`; the same way for the same seed and the same order of requests.

        Args:
            rate: the share of requests that fail, from 0 to 1.
            faults: which of these each of them meets is random too.
            seed: of the random numbers.
            path: only requests to this path, or to those that match a pattern; None: all.
        """
        with self._changed:
            self._random.append((_Match(path), random.Random(seed), rate, tuple(faults)))

    def busy(self, seconds: float = math.inf, retry_after: RetryAfter | None = None) -> None:
        """Answer HTTP 503 with -1008 to everything for so many seconds, or until `clear()`.

        Args:
            seconds: for how long.
            retry_after: a ``Retry-After`` header: seconds, or an HTTP date as a string.
        """
        fault = Fault.code(-1008, 503, retry_after=retry_after)
        with self._changed:
            self._busy = (self._clock.monotonic() + seconds, fault)

    def clear(self) -> None:
        """Put an end to scripts, random faults and `busy()`. Responses, tokens and the rate limit stay."""
        with self._changed:
            self._scripts.clear()
            self._random.clear()
            self._busy = None

    # What it received.

    @property
    def journal(self) -> list[Received]:
        """What was received, in order of arrival: a copy.

        A request is entered once it has been read, and its entry completed before the first byte of its answer is sent.
        """
        with self._changed:
            return list(self._journal.values())

    def received(self, path: str | None = None, method: str | None = None) -> list[Received]:
        """Return the journal's entries for a path, or for those that match a pattern, and for a method."""
        match = _Match(path, method)
        return [entry for entry in self.journal if match(entry)]

    def wait_for(
        self, count: int, path: str | None = None, method: str | None = None, timeout: float = 5.0
    ) -> list[Received]:
        """Wait until so many requests have arrived, and return their entries, as `received()` does.

        Args:
            count: how many, from the beginning of the journal.
            path: of this path, or of those that match a pattern; None: of all.
            method: with this method; None: with any.
            timeout: seconds of real time to wait.

        Raises:
            TimeoutError: they have not.
        """
        match = _Match(path, method)

        def entries() -> list[Received]:
            return [entry for entry in self._journal.values() if match(entry)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(entries()) >= count, timeout):
                raise TimeoutError(f"{len(entries())} of {count} requests arrived in {timeout} s")
            return entries()

    @property
    def connections(self) -> int:
        """How many connections were opened, since `reset_journal()` if that was called."""
        return self._server.accepted - self._connections_before

    def reset_journal(self) -> None:
        """Forget what was received, and count `connections` anew. Numbers go on where they were."""
        with self._changed:
            self._journal.clear()
            self._connections_before = self._server.accepted

    # One request.

    def _exchange(self, incoming: Incoming, halt: threading.Event) -> tuple[Answer, Delivery] | None:
        connection, method, target, headers, body = incoming
        if not target.startswith("/"):  # a client that takes us for its proxy sends a whole URL (RFC 9112, 3.2.2)
            url = urlsplit(target)
            target = f"{url.path or '/'}?{url.query}"
        path, _, query = target.partition("?")
        with self._changed:
            self._number += 1
            request = Request(self._number, self._clock.monotonic(), connection, method, path, query, headers, body)
            fault = self._gate(request) or self._next_fault(request)
            entry = Received(**vars(request), fault=None if fault == _HEALTHY else fault)
            self._journal[entry.number] = entry
            if len(self._journal) > self._journal_size:
                del self._journal[next(iter(self._journal))]
            used = len(self._admitted)
            self._changed.notify_all()

        answer = fault.answer
        news: dict[str, Any] = {}
        if fault.wait_before and halt.wait(fault.wait_before):
            return None
        if fault.executed:
            try:
                own = self.handle(entry)
            except Exception:
                self._note(entry, status=500)
                raise
            answer = answer or own
            news["executed"] = own.executed
        if fault.wait_after:
            self._note(entry, **news)
            if halt.wait(fault.wait_after):
                return None
        answer = answer or Answer()
        if self._rate_limit_header is not None:
            told = (self._rate_limit_header, str(used))
            answer = replace(answer, headers=(*header_pairs(answer.headers), told))
        if not fault.delivery.silent:
            news.update(status=answer.status, code=answer.code)
        self._note(entry, **news)
        return answer, fault.delivery

    def _note(self, entry: Received, **news: Any) -> None:
        entry = replace(entry, **news)
        with self._changed:
            if entry.number in self._journal:  # it may have been dropped meanwhile
                self._journal[entry.number] = entry

    # What follows is called with the lock held.

    def _gate(self, request: Request) -> Fault | None:
        now = request.time
        if self._busy is not None:
            until, fault = self._busy
            if now < until:
                return fault
            self._busy = None
        if self.rate_limit is not None:
            count, period = self.rate_limit
            while self._admitted and self._admitted[0] <= now - period:
                self._admitted.popleft()
            if len(self._admitted) >= count:
                wait = self._admitted[-count] + period - now
                return Fault.code(-1003, self._rate_limit_status, retry_after=max(1, math.ceil(wait)))
            self._admitted.append(now)
        spared = request.path in (TIME_PATH, LOGIN_PATH)
        return self._unauthorized if self.require_token and not spared and not self._authorized(request) else None

    def _authorized(self, request: Request) -> bool:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = self._tokens.get(value) if scheme.lower() == "bearer" else None
        if token is None or token.expires_at <= self.time() or token.uses == 0:
            return False
        if token.uses is not None:
            token.uses -= 1
        return True

    def _next_fault(self, request: Request) -> Fault:
        for match, faults in self._scripts:
            if faults and match(request):
                return faults.popleft()
        for match, rng, rate, choices in self._random:
            if match(request) and rng.random() < rate:
                return rng.choice(choices)
        return _HEALTHY


def _jwt(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims))
    return ".".join((*parts, ""))


def _loopback(host: str) -> str:
    """Return the host as a URL writes it.

    Raises:
        ValueError: it is not on the loopback interface.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"host: {host!r} is not a loopback address; the gateway is for this machine only")
    return f"[{host}]" if ":" in host else host
