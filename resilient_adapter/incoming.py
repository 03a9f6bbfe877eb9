"""What one send brings, a response or an exception, read into an outcome."""

from __future__ import annotations

import json
import math
from typing import Any

from requests import PreparedRequest, Response
from requests.utils import select_proxy

from . import transport
from .clock import Clock
from .core.backoff import parse_retry_after
from .core.classify import READ_ONLY_METHODS, Outcome, classify_failure, classify_response
from .core.envelope import first_code, read_envelope
from .core.model import Executed, Failure
from .outgoing import Sender, timeout_parts
from .runtime import Origin

_NO_CONNECTION = (Failure.REFUSED, Failure.CONNECT_TIMEOUT)


def read(
    response: Response, origin: Origin, method: str, *, order: bool, stream: bool, clock: Clock, deadline: float
) -> Outcome:
    """Read as much of a response as it takes to judge it.

    Args:
        response: as it came from a transport.
        origin: where it came from.
        method: the request's, upper case.
        order: it answers an order.
        stream: the caller reads the body.
        clock: the clock that the deadline is on.
        deadline: monotonic instant at which a body that is still coming is cut off; infinity for never.

    Raises:
        requests.RequestException: what ``response.content`` raises; a ReadTimeout at the deadline.
    """
    rules = origin.rules
    status = response.status_code
    if status < 200:
        transport.sever(response)
    content = b""
    if stream:
        if not response.is_redirect and transport.can_read_ahead(response):
            content = transport.read_ahead(response, clock=clock, deadline=deadline)
    elif status < 300 or not ((response.is_redirect and not order) or transport.challenged(response)):
        # A redirect's body is its session's to read; an order's need not come to be followed. Of a challenge its hook
        # may want to see the connection, and so finds the body as it came.
        content = transport.read_body(response, clock=clock, deadline=deadline)
    code = first_code(content)
    msg = None
    if code not in rules.success_codes or status >= 400:
        # The first bytes are good enough for good news only.
        code, msg = read_envelope(content)
    retry_after = None
    if status >= 400 or (code is not None and code not in rules.success_codes):
        retry_after = parse_retry_after(
            response.headers.get("Retry-After"), now=clock.time(), date=response.headers.get("Date")
        )
    outcome = classify_response(rules, method=method, status=status, code=code, msg=msg, retry_after=retry_after)
    if order and response.is_redirect and status not in (307, 308):
        # The order may have been executed or not: what the session asks next will not say.
        return outcome._replace(executed=Executed.UNKNOWN)
    if (
        code is None
        and method not in READ_ONLY_METHODS
        and outcome.executed is Executed.YES
        and transport.may_be_cut(response, None if stream else content, wordless=order)
    ):
        return outcome._replace(executed=Executed.UNKNOWN)
    return outcome


def failed(
    error: Exception,
    response: Response | None,
    request: PreparedRequest,
    origin: Origin,
    *,
    timeout: Any,
    proxies: Any,
    own: bool,
) -> Outcome:
    """Judge a send that ended in an exception.

    Args:
        error: what was raised.
        response: whose body could not be read, or None where none had come.
        request: what was sent, as it was before it was prepared for the wire.
        origin: where it went.
        timeout: of the send.
        proxies: of the send.
        own: it was sent by our own HTTPAdapter, of whose exceptions more is known.
    """
    # Whatever was raised, the request was on its way once a response has come; and a body that is read as it is
    # sent may raise when a part of it is.
    unsent = response is None and isinstance(request.body, (str, bytes, type(None)))
    failure = transport.failure_of(error, own=own and unsent)
    if failure is Failure.RESET and response is not None:
        failure = Failure.CUT_BODY
    elif failure in _NO_CONNECTION and select_proxy(request.url or "", proxies):
        failure = Failure.PROXY_REFUSED  # a SOCKS proxy's failures look like the origin's own
    status = None if response is None else response.status_code
    part = 0 if failure is Failure.CONNECT_TIMEOUT else 1
    given, ours = timeout_parts(timeout)[part], origin.timeout[part]
    patient = given is None or (ours is not None and given >= ours)
    if isinstance(error, transport.BodyDeadlineError):
        patient = False
    return classify_failure(failure, status=status, patient=patient)


def local_answer(
    request: PreparedRequest,
    origin: Origin,
    method: str,
    *,
    status: int,
    reason: str,
    code: int,
    wait: float,
    connection: Sender,
) -> tuple[Response, Outcome]:
    """Return the answer, and its outcome, of a server that is not asked.

    Args:
        request: what is not sent.
        origin: where it would have gone.
        method: the request's, upper case.
        status: the HTTP status.
        reason: the status in words.
        code: the envelope's.
        wait: seconds after which to ask again.
        connection: what the response is said to have come through.
    """
    info = origin.rules.table[code]
    response = transport.local_response(
        request,
        status=status,
        reason=reason,
        body=json.dumps({"code": code, "msg": f"{info.name} (not sent)"}).encode(),
        retry_after=max(1, math.ceil(wait)),
        connection=connection,
    )
    outcome = classify_response(origin.rules, method=method, status=status, code=code, msg=info.name, retry_after=wait)
    return response, outcome
