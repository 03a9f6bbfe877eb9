"""The exceptions of the package, and the one place where a code becomes a type.

::

    ResilienceError(requests.RequestException)
    ├─ ApiError                    an error envelope, under on_error="raise"
    │  ├─ UnauthorizedError        -1002
    │  ├─ RateLimitError           -1003
    │  ├─ ServerBusyError          -1008
    │  ├─ TransientError           -1000 -1001 -1006 -1007
    │  ├─ InvalidRequestError      11xx and other 10xx
    │  ├─ SignatureError           -1021 -1022
    │  ├─ OrderError               20xx
    │  ├─ PositionError            21xx
    │  ├─ MarginError              22xx
    │  └─ StreamError              30xx
    ├─ CircuitOpenError(requests.ConnectionError)
    ├─ DeadlineExceededError(requests.Timeout)
    ├─ OutcomeUnknownError
    ├─ TokenRefreshError
    └─ JournalError
    SettingsError(ValueError)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
from requests.cookies import RequestsCookieJar, merge_cookies
from requests.hooks import default_hooks

if TYPE_CHECKING:
    from .core.classify import Outcome
    from .core.model import CodeInfo
    from .core.report import Resilience


class SettingsError(ValueError):
    """A setting that cannot be used.

    The message names the key, where its value came from, what is wrong with it and, for an unknown key,
    the nearest known one. Never the value of a secret.
    """


class ResilienceError(requests.RequestException):
    """Base of everything that the adapter itself raises while it serves a request.

    Attributes:
        request: the caller's request, as far as one was made.
        response: the last response, where there was one.
        resilience: what happened, attempt by attempt; None where the error was raised outside a call.
    """

    resilience: Resilience | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Not super().__reduce__(): OSError's would call the constructor with two arguments as errno and text,
        # and hooks (bound methods of auth objects) and half-sent bodies in a request do not pickle.
        state = dict(self.__dict__)
        state["request"] = _picklable_request(state.get("request"))
        response = state.get("response")
        if isinstance(response, requests.Response):
            state["response"] = _picklable_response(response)
        return (_rebuild, (type(self), self.args, state))


def told_of(error: BaseException) -> str:
    """Return what a log may say of an exception of the user's own code: its type, and where it was raised.

    Its text may hold anything; that of our own does not.
    """
    name, trace = type(error).__name__, error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return name
    code = trace.tb_frame.f_code
    ours = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]
    if ours and (isinstance(error, ResilienceError) or not isinstance(error, requests.RequestException)):
        return f"{name}: {error}"
    return f"{name} in {code.co_name}, {code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{trace.tb_lineno}"


def without_frames(error: BaseException) -> BaseException:
    """Return an exception that may be kept: without the frames that hold all that its callers had in hand.

    A context may be the caller's own exception, so it is let go of and left as it is.
    """
    todo: list[object] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseException) and (one.__traceback__ or one.__context__):
            one.__traceback__ = one.__context__ = None
            # requests' exceptions have urllib3's for arguments, and those a reason.
            todo += [*one.args, getattr(one, "reason", None), one.__cause__]
    return error


def _rebuild(cls: type[ResilienceError], args: tuple[Any, ...], state: dict[str, Any]) -> ResilienceError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _picklable_request(request: Any) -> Any:
    if not isinstance(request, requests.PreparedRequest):
        return None
    copy = request.copy()
    copy.hooks = default_hooks()
    if copy._cookies is not None and not isinstance(copy._cookies, RequestsCookieJar):  # type: ignore[attr-defined]
        copy._cookies = merge_cookies(RequestsCookieJar(), copy._cookies)  # type: ignore[attr-defined,no-untyped-call]
    if not isinstance(copy.body, (str, bytes, type(None))):
        copy.body = None
    if not isinstance(copy._body_position, (int, type(None))):  # type: ignore[attr-defined]
        copy._body_position = None  # type: ignore[attr-defined]
    return copy


def _picklable_response(response: requests.Response) -> requests.Response:
    # A body that was never read is left unread: pickling an exception must not block on a socket.
    state = {name: getattr(response, name, None) for name in response.__attrs__}
    if not response._content_consumed:  # type: ignore[attr-defined]
        state["_content"] = b""
    state["request"] = _picklable_request(response.request)
    state["history"] = [_picklable_response(r) for r in response.history]
    copy = requests.Response()
    copy.__setstate__(state)  # type: ignore[attr-defined]
    return copy


class ApiError(ResilienceError):
    """The API answered with an error envelope (raised under ``on_error="raise"``).

    Attributes:
        code: the envelope's code.
        msg: the envelope's message; the name that the table gives the code where it had none.
        info: the table's record of the code, or None for a code that nobody lists.
        response: the response, untouched.
    """

    def __init__(self, code: int, msg: str | None = None, info: CodeInfo | None = None, **kwargs: Any) -> None:
        self.code = code
        self.info = info
        self.msg = msg if msg is not None else (info.name if info is not None else "")
        text = f"{code}: {self.msg}" if self.msg else str(code)
        super().__init__(f"{text} ({info.solution})" if info is not None else text, **kwargs)


class UnauthorizedError(ApiError):
    """-1002: the token is invalid or expired, and could not be replaced."""


class RateLimitError(ApiError):
    """-1003: too many requests."""


class ServerBusyError(ApiError):
    """-1008: the server is overloaded; the request was not executed."""


class TransientError(ApiError):
    """-1000, -1001, -1006 or -1007 for a request that changes nothing: it may be sent again later."""


class InvalidRequestError(ApiError):
    """11xx, and the other 10xx: the request itself has to be changed."""


class SignatureError(ApiError):
    """-1021 or -1022: the timestamp or the signature was refused."""


class OrderError(ApiError):
    """20xx: the order was refused."""


class PositionError(ApiError):
    """21xx: the position does not allow it."""


class MarginError(ApiError):
    """22xx: the margin does not allow it."""


class StreamError(ApiError):
    """30xx: a WebSocket stream's error."""


class CircuitOpenError(ResilienceError, requests.ConnectionError):
    """The circuit is open: nothing was sent, so nothing was executed.

    Attributes:
        retry_after: seconds until the circuit lets a probe through.
    """

    def __init__(self, message: str, *, retry_after: float, **kwargs: Any) -> None:
        self.retry_after = retry_after
        super().__init__(message, **kwargs)


class DeadlineExceededError(ResilienceError, requests.Timeout):
    """A wait that the call needed did not fit into its deadline: nothing was sent."""


class OutcomeUnknownError(ResilienceError):
    """The request may or may not have been executed. It is not safe to send it again.

    Attributes:
        client_order_id: the id to look the order up by, where the request carried one.
    """

    def __init__(self, message: str, *, client_order_id: str | None = None, **kwargs: Any) -> None:
        self.client_order_id = client_order_id
        super().__init__(message, **kwargs)


class TokenRefreshError(ResilienceError):
    """The token source failed, or returned the token that had been refused."""


class JournalError(ResilienceError):
    """The order journal could not be written, so the order was not sent."""


_BY_CODE: dict[int, type[ApiError]] = {
    -1002: UnauthorizedError,
    -1003: RateLimitError,
    -1008: ServerBusyError,
    **dict.fromkeys((-1000, -1001, -1006, -1007), TransientError),
    **dict.fromkeys((-1021, -1022), SignatureError),
}
_BY_HUNDRED: dict[int, type[ApiError]] = {
    10: InvalidRequestError,
    11: InvalidRequestError,
    20: OrderError,
    21: PositionError,
    22: MarginError,
    30: StreamError,
}


def api_error(
    outcome: Outcome, what: str, request: requests.PreparedRequest, response: requests.Response | None
) -> requests.RequestException:
    """Return the exception for an error that the server answered with.

    An envelope's code has a type of its own, else that of its hundred, else ApiError; an HTTP error without an
    envelope is requests' own HTTPError.

    Args:
        outcome: the answer, classified.
        what: method and address, without a query: query strings hold signatures.
        request: the caller's request.
        response: the answer itself.
    """
    code = outcome.code
    if code is None:
        side = "Client" if outcome.status is not None and outcome.status < 500 else "Server"
        reason = getattr(response, "reason", None)
        return requests.HTTPError(
            f"{outcome.status} {side} Error: {reason} for {what}", request=request, response=response
        )
    kind = _BY_CODE.get(code) or (_BY_HUNDRED.get(-code // 100) if code < 0 else None) or ApiError
    info = outcome.info if outcome.info is not None and outcome.info.code == code else None
    return kind(code, outcome.msg, info, request=request, response=response)
