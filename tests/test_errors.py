"""The exceptions: the tree, which code raises what, and that they cross processes whole."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from http.cookiejar import Cookie, CookieJar
from typing import Any

import pytest
import requests

import resilient_adapter as ra
from resilient_adapter import errors
from resilient_adapter.core.classify import Rules, classify_response
from resilient_adapter.core.codes import CODES, STATUSES, with_policies
from resilient_adapter.core.model import Executed, Recovery
from resilient_adapter.core.report import Attempt, Resilience

# --- the tree

#: Each exception and what it is, drawn as the contract draws it.
TREE: dict[type[Exception], tuple[type[Exception], ...]] = {
    ra.ResilienceError: (requests.RequestException,),
    ra.ApiError: (ra.ResilienceError,),
    ra.UnauthorizedError: (ra.ApiError,),
    ra.RateLimitError: (ra.ApiError,),
    ra.ServerBusyError: (ra.ApiError,),
    ra.TransientError: (ra.ApiError,),
    ra.InvalidRequestError: (ra.ApiError,),
    ra.SignatureError: (ra.ApiError,),
    ra.OrderError: (ra.ApiError,),
    ra.PositionError: (ra.ApiError,),
    ra.MarginError: (ra.ApiError,),
    ra.StreamError: (ra.ApiError,),
    ra.CircuitOpenError: (ra.ResilienceError, requests.ConnectionError),
    ra.DeadlineExceededError: (ra.ResilienceError, requests.Timeout),
    ra.OutcomeUnknownError: (ra.ResilienceError,),
    ra.TokenRefreshError: (ra.ResilienceError,),
    ra.JournalError: (ra.ResilienceError,),
    ra.SettingsError: (ValueError,),
}
DEFINED = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]


def test_the_tree_is_the_one_that_is_drawn() -> None:
    """Every exception of the module is in the tree, with its parents, and in the drawing of the module's docstring."""
    assert {kind: kind.__bases__ for kind in DEFINED} == TREE
    assert set(re.findall(r"[A-Z]\w+Error", (errors.__doc__ or "").replace("requests.ConnectionError", ""))) >= {
        kind.__name__ for kind in DEFINED
    }


@pytest.mark.parametrize("kind", [kind for kind in DEFINED if kind is not ra.SettingsError], ids=lambda k: k.__name__)
def test_what_catches_requests_errors_catches_ours(kind: type[Exception]) -> None:
    """A script that catches requests' exceptions need not know of these; only two of them claim to be others."""
    assert issubclass(kind, requests.RequestException)
    assert issubclass(kind, requests.ConnectionError) == (kind is ra.CircuitOpenError)
    assert issubclass(kind, requests.Timeout) == (kind is ra.DeadlineExceededError)
    assert not issubclass(kind, requests.HTTPError)
    assert kind.__doc__


def test_a_settings_error_is_not_about_a_request() -> None:
    """What catches requests' exceptions does not swallow a mistake in the settings."""
    assert not issubclass(ra.SettingsError, requests.RequestException)


# --- which code raises what

KINDS: dict[type[ra.ApiError], str] = {
    ra.UnauthorizedError: "-1002",
    ra.RateLimitError: "-1003",
    ra.ServerBusyError: "-1008",
    ra.TransientError: "-1000 -1001 -1006 -1007",
    ra.SignatureError: "-1021 -1022",
    ra.InvalidRequestError: "-1004 -1005 -1010 -1100 -1101 -1102 -1103 -1104 -1105 -1106 -1111 -1112 -1114 -1115 -1116"
    " -1117 -1118 -1119 -1120 -1121 -1125 -1127 -1128 -1130",
    ra.OrderError: "-2010 -2011 -2012 -2013 -2014 -2015 -2016 -2017 -2018 -2019 -2020 -2021 -2022 -2023 -2024 -2025"
    " -2026 -2027 -2028",
    ra.PositionError: "-2100 -2101 -2102 -2103 -2104 -2105",
    ra.MarginError: "-2200 -2201 -2202 -2203 -2204",
    ra.StreamError: "-3000 -3001 -3002 -3003 -3004 -3005 -3006",
}
OF_CODE = {int(code): kind for kind, codes in KINDS.items() for code in codes.split()}
UNLISTED: dict[int, type[ra.ApiError]] = {
    -1009: ra.InvalidRequestError,
    -1023: ra.InvalidRequestError,
    -1099: ra.InvalidRequestError,
    -1199: ra.InvalidRequestError,
    -2000: ra.OrderError,
    -2099: ra.OrderError,
    -2199: ra.PositionError,
    -2299: ra.MarginError,
    -3099: ra.StreamError,
    # None of the reference's hundreds
    -1: ra.ApiError,
    -999: ra.ApiError,
    -1200: ra.ApiError,
    -1999: ra.ApiError,
    -2300: ra.ApiError,
    -2900: ra.ApiError,
    -3100: ra.ApiError,
    -10001: ra.ApiError,
    -20100: ra.ApiError,
    # A code's sign is part of it
    1: ra.ApiError,
    1003: ra.ApiError,
    1100: ra.ApiError,
    2010: ra.ApiError,
}
WHAT = "POST https://api.example/order"
SECRET = "5ec2e7"
RULES = Rules(CODES, frozenset({0, 200}), frozenset({-1008}), frozenset({503}))


def request_of(url: str = f"https://api.example/order?signature={SECRET}", **options: Any) -> requests.PreparedRequest:
    """Return the caller's request."""
    return requests.Request("POST", url, **options).prepare()


def response_to(request: requests.PreparedRequest, status: int = 400, reason: str = "Bad Request") -> Any:
    """Return a response that was read."""
    response: Any = requests.Response()
    response.status_code, response.reason = status, reason
    response.request, response.url = request, request.url
    response.headers["X-Trace"] = "abc"
    response._content, response._content_consumed = b'{"code":-1102}', True
    return response


def raised(code: int | None, msg: str | None = None, status: int = 400, reason: str = "Bad Request") -> Any:
    """Return what an error answer raises."""
    outcome = classify_response(RULES, method="POST", status=status, code=code, msg=msg)
    request = request_of()
    return errors.api_error(outcome, WHAT, request, response_to(request, status, reason))


def test_every_code_has_a_type() -> None:
    """The table below leaves out none of the reference's codes."""
    assert sorted(OF_CODE) == sorted(CODES) and len(OF_CODE) == 70


@pytest.mark.parametrize(("code", "kind"), [*OF_CODE.items(), *UNLISTED.items()])
def test_a_code_raises_its_type(code: int, kind: type[ra.ApiError]) -> None:
    """A code has a type of its own, else that of its hundred, else ApiError, whatever the status."""
    for status in (200, 400, 503):
        error = raised(code, "as the server put it", status)
        assert type(error) is kind
        assert (error.code, error.msg, error.info) == (code, "as the server put it", CODES.get(code))
        assert error.response.status_code == status
        assert error.request.method == "POST"


@pytest.mark.parametrize("code", [*CODES, *UNLISTED])
def test_the_text_says_what_happened_and_what_to_do(code: int) -> None:
    """It has the code, the server's message, and the table's advice where there is some."""
    text = str(raised(code, "as the server put it"))
    assert text.startswith(f"{code}: as the server put it")
    assert text.endswith(f"({CODES[code].solution})" if code in CODES else "put it")


@pytest.mark.parametrize(
    ("code", "msg", "expected", "text"),
    [
        (-1102, "symbol is missing", "symbol is missing", "-1102: symbol is missing ("),
        (-1102, None, "Mandatory parameter missing", "-1102: Mandatory parameter missing ("),
        (-1102, "", "", "-1102 ("),
        (-1999, "house rule", "house rule", "-1999: house rule"),
        (-1999, None, "", "-1999"),
    ],
)
def test_a_missing_message_is_the_tables(code: int, msg: str | None, expected: str, text: str) -> None:
    """Where the envelope had no message, the table's name for the code stands in; an empty one is the server's word."""
    error = raised(code, msg)
    assert error.msg == expected
    assert str(error).startswith(text)


def test_a_code_of_the_settings_has_their_record() -> None:
    """A code that only the settings list is an ApiError with the record they made of it."""
    table = with_policies({-1999: (Recovery.RETRY, Executed.NO)})
    outcome = classify_response(RULES._replace(table=table), method="GET", status=200, code=-1999, msg=None)
    error: Any = errors.api_error(outcome, WHAT, request_of(), None)
    assert type(error) is ra.ApiError and error.info is table[-1999] and error.response is None


@pytest.mark.parametrize("status", [400, 403, 404, 418, 429, 499, 500, 502, 503, 504, 599])
def test_an_http_error_without_an_envelope_is_requests_own(status: int) -> None:
    """It reads as raise_for_status() would put it, but for the query."""
    error = raised(None, status=status, reason="As It Is")
    assert type(error) is requests.HTTPError
    side = "Client" if status < 500 else "Server"
    assert str(error) == f"{status} {side} Error: As It Is for {WHAT}"
    assert error.response.status_code == status and error.request.method == "POST"


@pytest.mark.parametrize("code", [None, *CODES, *UNLISTED])
def test_no_query_string_is_in_a_text(code: int | None) -> None:
    """Query strings hold signatures, and exceptions are logged."""
    error = raised(code)
    assert SECRET in error.request.url and SECRET in error.response.url  # the caller's own, untouched
    assert SECRET not in str(error) and SECRET not in repr(error)


# --- pickling

STORY = Resilience(
    (
        Attempt(1, None, None, "reset", Recovery.RETRY, 0.0, 0.2),
        Attempt(2, 200, -1102, None, Recovery.FIX_REQUEST, 1.5, 0.1),
    ),
    -1102,
    CODES[-1102],
    1.8,
    outcome_unknown=True,
)
MAKERS: dict[str, Callable[..., Any]] = {
    **{
        kind.__name__: lambda kind=kind, **made: kind(-1102, "msg", CODES[-1102], **made)
        for kind in TREE
        if issubclass(kind, ra.ApiError)
    },
    "CircuitOpenError": lambda **made: ra.CircuitOpenError("it is open", retry_after=2.5, **made),
    "OutcomeUnknownError": lambda **made: ra.OutcomeUnknownError("who knows", client_order_id="a-1", **made),
    **{
        kind.__name__: lambda kind=kind, **made: kind("as it is", **made)
        for kind in (ra.ResilienceError, ra.DeadlineExceededError, ra.TokenRefreshError, ra.JournalError)
    },
}
DATA = ("code", "msg", "info", "retry_after", "client_order_id", "resilience")


class Unpicklable:
    """What sockets, auth objects and files have in common."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, response: requests.Response, **options: Any) -> requests.Response:
        """Serve as a hook."""
        return response

    def read(self, *args: Any, **options: Any) -> bytes:
        """Serve as a body that must not be read."""
        raise AssertionError("pickling an exception must not read from a socket")

    stream = read


def crossed(error: Any, protocol: int = pickle.HIGHEST_PROTOCOL) -> Any:
    """Return an error as another process would get it."""
    return pickle.loads(pickle.dumps(error, protocol))


def facts(error: Any) -> tuple[Any, ...]:
    """Return what makes an error, beside its request and response."""
    return type(error), str(error), error.args, [getattr(error, name, None) for name in DATA]


def test_every_exception_is_tried() -> None:
    """An exception that is added is pickled too."""
    assert {*MAKERS, "SettingsError"} == {kind.__name__ for kind in DEFINED}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", MAKERS)
def test_all_pickle(name: str, protocol: int) -> None:
    """Type, text, data, story, request and response arrive."""
    request = request_of(json={"symbol": "X"}, cookies={"a": "b"})
    error = MAKERS[name](request=request, response=response_to(request))
    error.resilience = STORY
    for twin in (crossed(error, protocol), copy.copy(error), copy.deepcopy(error)):
        assert facts(twin) == facts(error)
        assert twin.resilience == STORY
        assert (twin.request.method, twin.request.url) == (request.method, request.url)
        assert (twin.request.body, twin.request.headers) == (request.body, request.headers)
        assert (twin.response.status_code, twin.response.reason) == (400, "Bad Request")
        assert (twin.response.content, twin.response.headers["X-Trace"]) == (b'{"code":-1102}', "abc")
        assert twin.response.request.url == request.url


@pytest.mark.parametrize("name", MAKERS)
def test_all_pickle_without_request_and_response(name: str) -> None:
    """Both are None where there were none, and so is the story of an error that was raised outside a call."""
    error = MAKERS[name]()
    twin = crossed(error)
    assert facts(twin) == facts(error)
    assert (twin.request, twin.response, twin.resilience) == (None, None, None)


def test_a_settings_error_pickles() -> None:
    """It is a ValueError with a text."""
    twin = crossed(ra.SettingsError("retry.max_attempts: not a number"))
    assert type(twin) is ra.SettingsError and str(twin) == "retry.max_attempts: not a number"


@pytest.mark.parametrize("name", MAKERS)
def test_a_pickled_error_pickles_again(name: str) -> None:
    """What crossed one process crosses the next."""
    request = request_of(json={})
    error = MAKERS[name](request=request, response=response_to(request))
    assert facts(crossed(crossed(error))) == facts(error)


@pytest.mark.parametrize("name", MAKERS)
def test_the_cause_need_not_pickle(name: str) -> None:
    """A cause or context that holds a socket stays behind; the error does not."""
    error, cause = MAKERS[name](), RuntimeError(Unpicklable())
    with pytest.raises(ra.ResilienceError) as caught:
        raise error from cause
    assert caught.value.__cause__ is cause
    assert facts(crossed(caught.value)) == facts(error)


def test_hooks_need_not_pickle() -> None:
    """Auth objects leave bound methods in a request's hooks; they are dropped from the copy alone."""
    hook = Unpicklable()
    request = request_of(hooks={"response": hook}, json={})
    response = response_to(request)
    twin = crossed(ra.ApiError(-1102, request=request, response=response))
    assert twin.request.hooks == twin.response.request.hooks == {"response": []}
    assert request.hooks == {"response": [hook]}


def endless() -> Iterator[bytes]:
    """Yield a body in parts."""
    yield b"part"


@pytest.mark.parametrize("body", [endless(), Unpicklable()], ids=["generator", "file"])
def test_a_streamed_body_stays_behind(body: Any) -> None:
    """A generator or an open file is no value; the rest of the request arrives, and the original keeps its body."""
    request = request_of()
    request.body, request._body_position = body, object()  # type: ignore[attr-defined]
    twin = crossed(ra.ApiError(-1102, request=request, response=response_to(request)))
    for arrived in (twin.request, twin.response.request):
        assert (arrived.body, arrived._body_position) == (None, None)
    assert twin.request.url == request.url
    assert request.body is body


@pytest.mark.parametrize(("body", "position"), [(b"bytes", 0), ("text", None), (None, None)])
def test_a_plain_body_arrives(body: Any, position: int | None) -> None:
    """What is a value arrives as it was."""
    request = request_of()
    request.body, request._body_position = body, position  # type: ignore[attr-defined]
    twin = crossed(ra.ApiError(-1102, request=request))
    assert (twin.request.body, twin.request._body_position) == (body, position)


def test_a_body_that_was_not_read_is_left_unread() -> None:
    """Pickling takes the head of a streamed response and leaves its socket alone."""
    request = request_of()
    response: Any = requests.Response()
    response.status_code, response.raw, response.request = 503, Unpicklable(), request
    response.connection = Unpicklable()
    twin = crossed(ra.ServerBusyError(-1008, request=request, response=response))
    assert (twin.response.status_code, twin.response.content) == (503, b"")
    assert response._content_consumed is False and response.raw is not None


def test_the_redirects_before_it_arrive_too() -> None:
    """A response's history is pickled with the same care."""
    request = request_of(hooks={"response": Unpicklable()})
    first: Any = requests.Response()
    first.status_code, first.raw, first.request = 302, Unpicklable(), request
    response = response_to(request)
    response.history = [first]
    twin = crossed(ra.ApiError(-1102, request=request, response=response))
    assert [one.status_code for one in twin.response.history] == [302]
    assert response.history == [first]


def test_a_plain_cookie_jar_does_not_stand_in_the_way() -> None:
    """A request that was prepared by hand may hold the standard library's jar, which has a lock."""
    jar = CookieJar()
    cookie = ("a", "b", None, False, "api.example", True, False, "/", True, True, None, False, None, None, {})
    jar.set_cookie(Cookie(0, *cookie))
    request = request_of(cookies=jar)
    assert request.headers["Cookie"] == "a=b"
    twin = crossed(ra.ApiError(-1102, request=request, response=response_to(request)))
    assert twin.request.headers["Cookie"] == "a=b"


def test_an_object_that_is_no_prepared_request_stays_behind() -> None:
    """A mock's stand-in for a request is not pickled, and does not keep the error from it."""
    response = response_to(request_of())
    response.request = Unpicklable()
    twin = crossed(ra.ApiError(-1102, request=Unpicklable(), response=response))
    assert (twin.request, twin.response.request) == (None, None)
    assert twin.response.status_code == 400


# --- what they carry


def test_data_is_where_it_is_documented() -> None:
    """Each has what the contract names, and nothing has to be read out of a text."""
    assert ra.CircuitOpenError("x", retry_after=2.5).retry_after == 2.5
    assert ra.OutcomeUnknownError("x", client_order_id="a-1").client_order_id == "a-1"
    assert ra.OutcomeUnknownError("x").client_order_id is None
    assert ra.ApiError(-1102).info is None
    assert str(ra.ApiError(-1102)) == "-1102"
    assert ra.JournalError("x").resilience is None


def test_a_foreign_record_is_not_passed_off_as_the_codes() -> None:
    """Where the status judged an unlisted code, its record is no record of the code."""
    outcome = classify_response(RULES, method="GET", status=404, code=-1999, msg=None)
    assert outcome.info is STATUSES[404]
    error: Any = errors.api_error(outcome, WHAT, request_of(), None)
    assert error.info is None


def by_a_user(error: Exception) -> Exception:
    """Raise an exception here, and return it."""
    try:
        raise error
    except Exception as caught:
        return caught


def of_ours(error: Exception) -> Exception:
    """Raise an exception in the package, and return it."""
    try:
        exec("raise error", {"__name__": "resilient_adapter.somewhere"}, {"error": error})
    except Exception as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("secret"), "KeyError"),  # never raised
        (by_a_user(KeyError("secret")), r"KeyError in by_a_user, test_errors\.py:\d+"),
        (by_a_user(ra.TokenRefreshError("secret")), r"TokenRefreshError in by_a_user, test_errors\.py:\d+"),
        (of_ours(ValueError("a token must not be empty")), "ValueError: a token must not be empty"),
        (of_ours(ra.TokenRefreshError("the login was refused")), "TokenRefreshError: the login was refused"),
        (of_ours(requests.ConnectionError("/x?a=secret")), r"ConnectionError in <module>, <string>:1"),
    ],
)
def test_what_a_log_may_say_of_an_exception(error: Exception, told: str) -> None:
    """Of the user's own code: the type, and where it was raised; of ours the text too, which holds no secret."""
    assert re.fullmatch(told, errors.told_of(error))
