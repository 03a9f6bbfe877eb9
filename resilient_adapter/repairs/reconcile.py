"""What became of an order whose outcome is unknown: it is looked up by its client id, patiently.

A live order can stay invisible for many seconds, so one "not found" proves nothing. It is believed only when it is
asked for late enough: ``give_up`` seconds after the order's send, and not before its receive window has passed, after
which no server takes it any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import requests
from requests import PreparedRequest, Response

from ..clock import Clock
from ..core.envelope import read_envelope
from ..core.origin import origin_of
from ..settings.schema import Settings
from .parameters import parameters

_RECV_WINDOW = "recvWindow"
_DEFAULT_RECV_WINDOW = 5000  # milliseconds; the reference's ("Fixing Signature Errors")
_FIRST_PAUSE = 1.0  # seconds between the first two looks where they are not given by settle
_LONGEST_PAUSE = 5.0  # so that an order that has become visible is not left lying
# One "not found" may be of a server that has not caught up yet.
_LEAST_ABSENT = 2
_LEAST_LOOKS = 3  # an outcome that is old already deserves more than one try, too
# Of the order's own headers these tell of its body, or make its repeats one; the look-up has neither.
_BODY_HEADERS = frozenset(
    {"content-length", "content-type", "content-encoding", "transfer-encoding", "expect", "idempotency-key"}
)


class Send(Protocol):
    """What a reconciler is given to send other requests with.

    ``sent_at`` and ``recv_window`` may be missing: the order is then taken to have been sent just now, and to have the
    reference's receive window.
    """

    @property
    def clock(self) -> Clock:
        """The clock that every wait goes by."""
        ...

    @property
    def deadline(self) -> float:
        """The monotonic instant at which all of it ends."""
        ...

    def __call__(self, request: PreparedRequest) -> Response:
        """Send a request and return its response, read whole."""
        ...


class StillUnknownError(requests.RequestException):
    """A reconciler could not find out: the outcome is still unknown."""


class OrderReconciler:
    """Looks an order up by its client id: ``reconciler(request, send)``.

    Reconcilers are compared, hashed and pickled by value.

    Args:
        query_path: path at which an order is looked up with GET.
        client_id: parameter of the order that holds its client id, in its query, form or JSON body.
        query_param: parameter of the look-up that takes it.
        carry: parameters of the order that the look-up needs as well.
        not_found: codes by which the look-up says that there is no such order.
        settle: seconds from the order's send, or the end of it, to the first look.
        give_up: seconds from there until a clean "not found" is believed, which is never the first one.
        success_codes: top-level codes by which the look-up says that there is one. A body without an integer code is
            judged by its HTTP status.

    Raises:
        ValueError: an argument that cannot be used.
    """

    def __init__(
        self,
        query_path: str,
        *,
        client_id: str = "newClientOrderId",
        query_param: str = "origClientOrderId",
        carry: Iterable[str] = ("symbol",),
        not_found: Iterable[int] = (-2011,),
        settle: float = 2.0,
        give_up: float = 30.0,
        success_codes: Iterable[int] = (0, 200),
    ) -> None:
        if not query_path.startswith("/"):
            raise ValueError(f'query_path begins with "/", unlike {query_path!r}')
        if isinstance(carry, str):
            raise ValueError("carry is a sequence of names, not one string")
        if not 0 <= settle <= give_up:
            raise ValueError("settle is at least 0, and give_up at least settle")
        not_found, success_codes = tuple(not_found), tuple(success_codes)
        if both := set(not_found) & set(success_codes):
            raise ValueError(f"a code says that there is an order or that there is none, not both: {sorted(both)}")
        self.query_path = query_path
        self.client_id = client_id
        self.query_param = query_param
        self.carry = tuple(carry)
        self.not_found = not_found
        self.settle = settle
        self.give_up = give_up
        self.success_codes = success_codes

    def _value(self) -> tuple[object, ...]:
        return (
            self.query_path,
            self.client_id,
            self.query_param,
            self.carry,
            self.not_found,
            self.settle,
            self.give_up,
            self.success_codes,
        )

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, OrderReconciler) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        return f"OrderReconciler({self.query_path!r}, client_id={self.client_id!r}, query_param={self.query_param!r})"

    def __call__(self, request: PreparedRequest, send: Send) -> Response | None:
        """Find out what became of an order.

        Args:
            request: the order, as it was sent but for what the adapter added.
            send: sends other requests; ``send.clock`` and ``send.deadline`` (monotonic) are the call's, and
                ``send.sent_at`` (monotonic) is until when the order may have been on its way.

        Returns the response with the order's own state, or None where there is no such order.

        Raises:
            StillUnknownError: it could not be found out by then, or the order has no client id.
        """
        clock = send.clock
        query, identity = self._query(request)
        sent_at: float = getattr(send, "sent_at", clock.monotonic())
        believed_at = sent_at + max(self.give_up, self._window(request, send))
        look_at = sent_at + self.settle
        pause = self.settle or _FIRST_PAUSE
        looks = absent = 0
        while True:
            now = self._wait_until(look_at, send)
            found = self._look(query, identity, send)
            if isinstance(found, Response):
                return found
            looks += 1
            absent = absent + 1 if found is None else 0
            if now >= believed_at:
                if absent >= _LEAST_ABSENT:
                    return None
                if absent == 0 and looks >= _LEAST_LOOKS:
                    raise StillUnknownError(f"the order could not be looked up: {found}")
            now = clock.monotonic()
            look_at = now + pause
            if now < believed_at < look_at:
                look_at = believed_at
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _wait_until(self, instant: float, send: Send) -> float:
        """Wait for an instant; return the time it is."""
        now = send.clock.monotonic()
        if max(instant, now) >= send.deadline:
            raise StillUnknownError("the call's deadline ended before it was known what became of the order")
        while now < instant:
            send.clock.sleep(instant - now)
            now = send.clock.monotonic()
        return now

    def _look(self, query: PreparedRequest, identity: str, send: Send) -> Response | str | None:
        """Ask once. Returns the order's state; None: no such order; a text: why it is not known."""
        try:
            response = send(query.copy())
        except requests.RequestException as error:
            return type(error).__name__
        content = response.content or b""
        code = read_envelope(content).code
        status = response.status_code
        if code in self.not_found:
            return None
        if status >= 300 or (code is not None and code not in self.success_codes):
            return f"status {status}, code {code}"
        names = (self.client_id, self.query_param, "clientOrderId")
        return response if _tells_of(content, names, identity) else "an answer without the order"

    def _query(self, request: PreparedRequest) -> tuple[PreparedRequest, str]:
        given = dict(reversed(parameters(request, {self.client_id, *self.carry})))
        identity = given.get(self.client_id)
        if not identity:
            raise StillUnknownError("the order has no client id to look it up by")
        pairs = [(name, given[name]) for name in self.carry if name in given and name != self.client_id]
        url = request.url or ""
        try:
            origin = origin_of(url)
        except ValueError:
            # A scheme of a transport that was handed in (mock://).
            parts = urlsplit(url)
            origin = f"{parts.scheme}://{parts.netloc}"
        mark = "&" if "?" in self.query_path else "?"
        query = requests.Request(
            "GET", f"{origin}{self.query_path}{mark}{urlencode([*pairs, (self.query_param, identity)])}"
        ).prepare()
        # Whoever placed the order may look it up: the same key, the same token.
        own = {name: value for name, value in request.headers.items() if name.lower() not in _BODY_HEADERS}
        query.headers.update(own)
        return query, identity

    def _window(self, request: PreparedRequest, send: Send) -> float:
        """Return for how many seconds the server may still take the order, once it was sent."""
        own = [int(text) for _, text in parameters(request, (_RECV_WINDOW,)) if text.isascii() and text.isdigit()]
        return max(own or [getattr(send, "recv_window", None) or _DEFAULT_RECV_WINDOW]) / 1000


def reconciler_from_settings(settings: Settings) -> OrderReconciler | None:
    """Return the reconciler that ``orders`` describes, or None where ``orders.query_path`` is not given."""
    orders = settings.orders
    if orders.query_path is None:
        return None
    return OrderReconciler(
        orders.query_path,
        client_id=orders.client_id,
        query_param=orders.query_param,
        carry=orders.carry,
        not_found=[code for code in orders.not_found if code not in settings.success_codes],
        settle=min(orders.settle, orders.give_up),
        give_up=orders.give_up,
        success_codes=settings.success_codes,
    )


def _tells_of(content: bytes, names: Iterable[str], identity: str) -> bool:
    """Return whether an answer tells of an order by this id.

    A proxy's page does not, nor does a list without an entry, or an order that goes by another id.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    if isinstance(document, dict) and "data" in document:
        document = document["data"]
    if not isinstance(document, (dict, list)) or not _has_content(document):
        return False
    orders = [one for one in (document if isinstance(document, list) else [document]) if isinstance(one, dict)]
    named = [str(order[name]) for order in orders for name in names if order.get(name)]
    return not named or identity in named


def _has_content(value: object) -> bool:
    """Return whether there is anything in a JSON value but emptiness: ``{"orders": [], "total": 0}`` has none."""
    if isinstance(value, dict):
        return any(_has_content(item) for name, item in value.items() if name not in ("code", "msg"))
    return any(map(_has_content, value)) if isinstance(value, list) else bool(value)
