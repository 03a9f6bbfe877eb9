"""What one call puts on the wire: the caller's request, and a copy of it with what only the wire may see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import requests
from requests import PreparedRequest, Response
from requests.structures import CaseInsensitiveDict
from requests.utils import rewind_body
from urllib3.util import Timeout

from . import transport
from .clock import Clock
from .errors import told_of
from .repairs.parameters import parameters
from .repairs.signed import caller_signature
from .runtime import Origin
from .telemetry.events import EventName

if TYPE_CHECKING:
    from .repairs.token import Refreshed

_INF = math.inf


class Sender(Protocol):
    """The adapter, as far as a call needs it: it puts one request on the wire, as ``HTTPAdapter.send`` would."""

    def transmit(self, request: PreparedRequest, *, stream: bool, timeout: Any, options: Mapping[str, Any]) -> Response:
        """Send once."""
        ...


class Outgoing:
    """A call's request on its way out: prepared afresh for every send, and repaired between them.

    The caller's own request is never changed. What is added for the wire (token, key, signature) is on a copy, and
    taken out of responses and exceptions again.

    Attributes:
        base: what sends are made from: the caller's own request, or what a recovery of the user's made of it.
        news: what was done to prepare or repair, for the loop to tell of: names of events and details.
        stretch: what timeouts are multiplied by.
    """

    __slots__ = (
        "_carried",
        "_clock",
        "_generation",
        "_home",
        "_options",
        "_origin",
        "_request",
        "_sends",
        "_sent",
        "_signs",
        "_timeout",
        "_variant",
        "base",
        "news",
        "stretch",
    )

    def __init__(
        self, request: PreparedRequest, origin: Origin, clock: Clock, timeout: Any, options: Mapping[str, Any]
    ) -> None:
        self._request = self._sent = self.base = request
        self._origin = origin
        self._clock = clock
        self._timeout = timeout
        self._options = options
        self._sends = 0
        self._carried: str | None = None  # the token that the latest send carried
        self._home = True  # what is sent goes to the call's own origin
        self._signs: bool | None = None
        self._variant: Any = None  # the recipe by which the caller signed, where our signer reproduces it
        self._generation = 0
        self.stretch = 1.0
        self.news: list[tuple[EventName, str]] = []

    # --- before every send

    def prepare(self, sender: Sender, deadline: float) -> PreparedRequest:
        """Return what is sent next.

        Args:
            sender: what the server's time is asked through, where that is due.
            deadline: monotonic instant until which a token is waited for.
        """
        origin, request = self._origin, self.base
        if self._sends and request._body_position is not None:  # type: ignore[attr-defined]
            rewind_body(request)
        self._sends += 1
        if self._home and not origin.shadow:
            if origin.token is not None and origin.token.concerns(request):
                request = self._stamped(request, deadline)
            if origin.signer is not None and self.signs():
                request = self._signed(request, sender, deadline)
        self._sent = request
        return request

    def _stamped(self, request: PreparedRequest, deadline: float) -> PreparedRequest:
        keeper = self._origin.token
        assert keeper is not None  # prepare() looked
        if not keeper.wants(request):
            # A caller's own token is left to the server to judge: no login, and no copy, for a request that has one.
            self._carried = keeper.carried(request)
            return request
        if keeper.due():
            self._tell_refresh(keeper.prepare(deadline))
        request = with_own_headers(request)
        self._carried = keeper.stamp(request)
        return request

    def _signed(self, request: PreparedRequest, sender: Sender, deadline: float) -> PreparedRequest:
        signer, server_clock = self._origin.signer, self._origin.server_clock
        if server_clock is not None:
            if server_clock.due(self._clock.monotonic()):
                # One sample, waiting for nobody: the estimate in hand is good, only old.
                server_clock.sync(lambda: self._server_time(sender, deadline), timeout=0.0)
            self._generation = server_clock.generation
        # At the last moment, after every wait: a signature ages.
        request = request.copy()
        if self._variant is None:
            signed: object = signer(request)
            if isinstance(signed, PreparedRequest):
                request = signed  # as requests' own AuthBase may: another one than it was given
        else:
            signer.resign(request, self._variant)
        return request

    def signs(self) -> bool:
        """Return whether our signer signs this request; settled once a call.

        What its caller signed is signed afresh only where the signer reproduces that signature: never a guess.
        """
        if self._signs is None:
            signer = self._origin.signer
            self._signs = (
                self._home
                and signer is not None
                and (
                    not hasattr(signer, "covers")
                    or signer.covers(self._origin.name, urlsplit(self.base.url or "").path)
                )
            )
            if self._signs and hasattr(signer, "reproduces") and caller_signature(self.base) is not None:
                self._variant = signer.reproduces(self.base)
                self._signs = self._variant is not None
        return self._signs

    def look_where_it_goes(self) -> None:
        """Keep token, key and signature back from a request that others made, where it goes to another origin."""
        self._home = self._origin.serves(self.base.url or "")

    def signature_left(self) -> float:
        """Return for how many seconds a signature that only its caller can renew stays good; infinity without one."""
        if self.signs():
            return _INF
        signed = caller_signature(self.base)
        if signed is None:
            return _INF
        server_clock = self._origin.server_clock
        # Not the server clock's own now_ms(): that is late by what the clocks may have drifted apart.
        ahead = 0.0 if server_clock is None else server_clock.offset or 0.0
        return signed.expires_at - (self._clock.time() + ahead)

    def timeout(self, left: float, *, own: bool) -> Any:
        """Return the timeout of the next send: the caller's, else the settings', within what is left.

        Args:
            left: seconds until the deadline; infinity without one.
            own: it is for our own HTTPAdapter, which takes urllib3's Timeout.
        """
        origin = self._origin
        if origin.shadow:
            return self._timeout
        if self._timeout is None and origin.patience < left and self.stretch == 1.0:
            return origin.timeout
        timeout = origin.timeout if self._timeout is None else self._timeout
        if not _is_timeout(timeout):
            return timeout  # requests itself says what is wrong with it
        connect, read = timeout_parts(timeout)
        if self.stretch != 1.0:
            connect = None if connect is None else connect * self.stretch
            read = None if read is None else read * self.stretch
            timeout = (connect, read)
        if left == _INF or (_INF if connect is None else connect) + (_INF if read is None else read) < left:
            return timeout  # it cannot overrun the deadline
        if own:
            return Timeout(connect=connect, read=read, total=left)
        return transport.within((connect, read), left)

    def client_order_id(self) -> str | None:
        """Return the client id of the order that is sent, None where it has none."""
        names = frozenset({self._origin.settings.orders.client_id})
        return next((value for _, value in parameters(self.base, names)), None)

    # --- after every send

    def conceal(self, response: Response | None, error: Exception | None) -> None:
        """Put the caller's own request back in place of the one that was sent, which holds secrets."""
        sent, request = self._sent, self._request
        if sent is request:
            return
        signed = sent.url != self.base.url
        if response is not None:
            response.request = request
            if signed and response.url == sent.url:
                response.url = self.base.url or ""
                transport.conceal_raw_url(response, sent.path_url, self.base.path_url)
            if signed and response.is_redirect:
                transport.conceal_location(response, sent.path_url, self.base.path_url)
        if error is not None:
            if isinstance(error, requests.RequestException) and error.request is sent:
                error.request = request
            if signed:
                transport.conceal_url(error, sent.path_url, self.base.path_url)

    # --- repairs

    def refresh(self, deadline: float) -> Refreshed:
        """Get a token newer than the one that was refused."""
        keeper = self._origin.token
        assert keeper is not None  # asked for only where there is a token
        how = keeper.refresh(self._carried, deadline)
        self._tell_refresh(how)
        return how

    def _tell_refresh(self, how: Refreshed | None) -> None:
        from .repairs.token import Refreshed

        if how is Refreshed.BY_US:
            self.news.append((EventName.REFRESH, "a new token"))
        elif how is Refreshed.FAILED:
            keeper = self._origin.token
            assert keeper is not None
            self.news.append((EventName.REFRESH_FAILED, keeper.last_failure))

    def resync(self, sender: Sender, deadline: float) -> bool:
        """Read the server's time. Returns whether a signature made now is worth sending."""
        server_clock = self._origin.server_clock
        if server_clock is None:
            return True  # a signer with a clock of its own: all that can be done is to let it sign afresh
        left = deadline - self._clock.monotonic()
        known = server_clock.generation
        synced = server_clock.sync(
            lambda: self._server_time(sender, deadline),
            generation=self._generation,
            timeout=None if left == _INF else max(left, 0.0),
        )
        if not synced:
            self.news.append((EventName.RESYNC_FAILED, "the server's time could not be read"))
        elif server_clock.generation != known:
            self.news.append(
                (EventName.RESYNC, f"the server is {server_clock.offset or 0.0:+.3f} s off the local clock")
            )
        return synced

    @transport.unlogged
    def _server_time(self, sender: Sender, deadline: float) -> int:
        from .repairs.server_clock import parse_server_time

        origin = self._origin
        signing = origin.settings.signing
        url = getattr(origin.signer, "time_url", None) or origin.name + signing.time_path
        request = requests.Request("GET", url).prepare()
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise requests.Timeout("the call's deadline has passed")
        timeout = transport.within(origin.timeout, left)
        response = sender.transmit(request, stream=False, timeout=timeout, options=self._options)
        return parse_server_time(
            transport.read_body(response, clock=self._clock, deadline=deadline), signing.time_field
        )

    def recover(self, recovery: Callable[[PreparedRequest, Response], bool], response: Response) -> bool:
        """Let the user's own recovery change a copy, which is sent next where it says so."""
        copy = self.base.copy()
        try:
            repaired = bool(recovery(copy, response))
        except Exception as error:
            self.news.append((EventName.RECOVER_FAILED, f"the recovery raised {told_of(error)}"))
            return False
        if repaired:
            self.base = copy
            self.look_where_it_goes()
            self._signs = None
            self.news.append((EventName.RECOVER, "the user's own"))
        return repaired


# --- what is asked of a request -------------------------------------------------------------------------------------


def timeout_parts(timeout: Any) -> tuple[float | None, float | None]:
    """Return connect and read timeout, in seconds, of whatever requests takes for a timeout; None for no limit."""
    if isinstance(timeout, Timeout):
        return _least(timeout._connect, timeout.total), _least(timeout._read, timeout.total)
    if not _is_timeout(timeout):
        return None, None
    return timeout if isinstance(timeout, tuple) else (timeout, timeout)


def _is_timeout(timeout: Any) -> bool:
    if isinstance(timeout, Timeout):
        return True
    parts = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    return len(parts) == 2 and all(part is None or isinstance(part, (int, float)) for part in parts)


def _least(*values: Any) -> float | None:
    # What is neither a number nor None stands for the sockets' own default, which is no limit.
    return min((value for value in values if isinstance(value, (int, float))), default=None)


def is_replayable(request: PreparedRequest) -> bool:
    """Return whether the body can be sent twice: bytes, text, none, or a file whose position is known."""
    body = request.body
    if body is None or isinstance(body, (bytes, str, bytearray, memoryview)):
        return True
    return isinstance(request._body_position, int) and hasattr(body, "seek")


def with_own_headers(request: PreparedRequest) -> PreparedRequest:
    """Return a copy whose headers may be changed; the rest is shared. A full copy costs several times as much."""
    copy = PreparedRequest.__new__(PreparedRequest)
    copy.__dict__.update(request.__dict__)
    # Not CaseInsensitiveDict[str](): making one through its alias costs three times as much.
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    if type(request.headers) is CaseInsensitiveDict and hasattr(headers, "_store"):
        headers._store = request.headers._store.copy()  # type: ignore[attr-defined]  # at a tenth of what update() costs
    else:
        headers.update(request.headers)
    copy.headers = headers
    return copy
