"""What callers are told: executed or unknown, delivered or raised."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from typing import Any

import pytest
import requests
from adapter_support import EXACT, RawServer, TalkingServer, closed_port, connect, numbers
from requests.adapters import BaseAdapter

import resilient_adapter as ra
from resilient_adapter.core.codes import CODES
from resilient_adapter.testing import FakeClock, Fault, Gateway

KEY = {"Idempotency-Key": "k1"}
ONCE = {"retry": {"max_attempts": 1}}
RAISE = {"on_error": "raise"}

# (what each send meets, method, whether the end is that nobody knows)
STICKY = [
    ([Fault.reset(), Fault.code(-1008), Fault.code(-1008)], "POST", True),
    ([Fault.reset(), Fault.code(-1003, retry_after=0), Fault.code(-1003, retry_after=0)], "POST", True),
    ([Fault.status(502), Fault.code(-2010)], "POST", True),
    ([Fault.code(-1007), Fault.status(401)], "POST", True),
    ([Fault.cut_body(), Fault.status(400)], "POST", True),
    ([Fault.status(503), Fault.code(-1008), Fault.code(-1100)], "PUT", True),
    ([Fault.reset("after"), Fault.code(-2011)], "DELETE", True),
    ([Fault.reset("after"), Fault.code(-1112)], "DELETE", True),
    ([Fault.code(-1000), Fault.status(404)], "DELETE", True),
    ([Fault.reset(), Fault.reset(), Fault.status(504)], "DELETE", True),
    # what ends the doubt
    ([Fault.reset(), None], "POST", False),
    ([Fault.reset(), Fault.code(-1008), None], "PUT", False),
    ([Fault.reset("after"), Fault.code(-2012)], "DELETE", False),
    ([Fault.reset("after"), Fault.code(-2100)], "PUT", False),
    ([Fault.status(502), Fault.code(-2200)], "POST", False),
    # there never was any
    ([Fault.code(-1008), Fault.code(-1008), Fault.code(-1008)], "POST", False),
    ([Fault.code(-1003, retry_after=0), Fault.code(-2010)], "POST", False),
    ([Fault.status(429, retry_after=0), Fault.status(400)], "POST", False),
    ([Fault.reset(), Fault.code(-1008), Fault.code(-1008)], "GET", False),
    ([Fault.status(502)] * 3, "GET", False),
    ([Fault.code(-1007), Fault.code(-2011)], "OPTIONS", False),
    ([Fault.code(-2011)], "DELETE", False),
]


class Dying(FakeClock):
    """Lets the server go down for good while somebody waits."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway

    def sleep(self, seconds: float) -> None:
        self._gateway.down()
        super().sleep(seconds)


def story_of(gateway: Gateway, faults: list[Fault | None], method: str, settings: dict[str, Any]) -> Any:
    """Return the response, or the exception, that such a row of faults ends in."""
    gateway.clear()
    gateway.script(*faults)
    try:
        return connect(settings).request(method, gateway.url + "/order", headers=KEY)
    except requests.RequestException as error:
        return error


class TestSticky:
    @pytest.mark.parametrize(("faults", "method", "unknown"), STICKY)
    def test_returned(self, gateway: Gateway, faults: list[Fault | None], method: str, unknown: bool) -> None:
        """An answer that proves only itself harmless does not end the doubt about an earlier send."""
        end = story_of(gateway, faults, method, {})
        assert isinstance(end, requests.Response)
        assert ra.resilience_of(end).outcome_unknown is unknown
        assert numbers(gateway) == len(faults)

    @pytest.mark.parametrize(("faults", "method", "unknown"), STICKY)
    def test_raised(self, gateway: Gateway, faults: list[Fault | None], method: str, unknown: bool) -> None:
        """Under on_error="raise" doubt is OutcomeUnknownError, and nothing else is."""
        end = story_of(gateway, faults, method, RAISE)
        assert isinstance(end, ra.OutcomeUnknownError) is unknown
        assert ra.resilience_of(end).outcome_unknown is unknown
        if unknown:
            assert end.response is not None and end.request.url == gateway.url + "/order"

    def test_exceptions(self, gateway: Gateway) -> None:
        """requests' own exception stands where the last send ended in one, and says whether there is doubt."""
        for faults, method, unknown in (
            ([Fault.reset()] * 3, "GET", False),
            ([Fault.reset()] * 3, "PUT", True),
            ([Fault.reset()] * 3, "POST", True),
            ([Fault.code(-1008), Fault.reset(), Fault.reset()], "DELETE", True),
        ):
            error = story_of(gateway, faults, method, {})
            assert type(error) is requests.ConnectionError
            assert ra.resilience_of(error).outcome_unknown is unknown
            error = story_of(gateway, faults, method, RAISE)
            assert type(error) is (ra.OutcomeUnknownError if unknown else requests.ConnectionError)
            if unknown:
                assert type(error.__cause__) is requests.ConnectionError

    def test_proven_unsent(self) -> None:
        """A refused connection is requests' own ConnectionError in both modes, also for an order."""
        for mode in ("return", "raise"):
            with pytest.raises(requests.ConnectionError) as caught:
                connect({"on_error": mode}).post(f"http://127.0.0.1:{closed_port()}/order", json={})
            assert type(caught.value) is requests.ConnectionError
            assert not ra.resilience_of(caught.value).outcome_unknown

    def test_refused_after_doubt(self) -> None:
        """A connection refused after a reset does not prove that the first send was not executed."""
        with Gateway() as gateway:
            gateway.script(Fault.reset())
            with pytest.raises(ra.OutcomeUnknownError) as caught:
                connect(RAISE, clock=Dying(gateway)).post(gateway.url + "/order", headers=KEY)
            errors = [attempt.error for attempt in ra.resilience_of(caught.value).attempts]
            assert errors == ["reset", "refused", "refused"]

    @pytest.mark.parametrize(
        ("first", "told"),
        [
            (Fault.cut_body(), requests.exceptions.ChunkedEncodingError),
            (Fault.reset(), "Connection aborted"),
            (Fault.delay(0.6), requests.ReadTimeout),
            # an answer was no error to tell of: the latest news is that nobody is there any more
            (Fault.status(502), "Connection refused"),
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "PUT"])
    def test_refused_tells_nothing(self, first: Fault, told: type[Exception] | str, method: str) -> None:
        """Where repeats find nobody, the error of the send that was on its way is raised, not "connection refused"."""
        with Gateway() as gateway:
            gateway.script(first)
            with pytest.raises(requests.RequestException) as caught:
                connect(clock=Dying(gateway)).request(method, gateway.url + "/order", timeout=(5, 0.1))
            assert told in str(caught.value) if isinstance(told, str) else type(caught.value) is told
            story = ra.resilience_of(caught.value)
            assert [attempt.error for attempt in story.attempts][1:] == ["refused", "refused"]
            assert story.outcome_unknown is (method == "PUT")

    def test_interrupts_pass(self, gateway: Gateway) -> None:
        """A KeyboardInterrupt on the wire passes at once and untouched, and the next call is served."""

        class Interrupted(BaseAdapter):
            sends = 0

            def send(self, request: Any, **options: Any) -> Any:
                self.sends += 1
                raise KeyboardInterrupt

            def close(self) -> None:
                pass

        transport = Interrupted()
        session = connect(transport=transport)
        for number in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                session.post(gateway.url + "/order")
            assert transport.sends == number


class TestClientOrderId:
    @pytest.mark.parametrize("options", [
        {"json": {"newClientOrderId": "my-7", "symbol": "X"}},
        {"data": {"newClientOrderId": "my-7"}},
        {"params": {"newClientOrderId": "my-7"}},
        {"params": {"newClientOrderId": "my-7"}, "data": b"\xff\xfe", "headers": {"Content-Type": "application/json"}},
    ])  # fmt: skip
    def test_where_it_is_found(self, gateway: Gateway, options: dict[str, Any]) -> None:
        """The exception says which order to look up, wherever the request carried its id."""
        gateway.script(Fault.reset("after"))
        with pytest.raises(ra.OutcomeUnknownError) as caught:
            connect(RAISE).post(gateway.url + "/order", **options)
        assert caught.value.client_order_id == "my-7"
        assert pickle.loads(pickle.dumps(caught.value)).client_order_id == "my-7"

    def test_another_name(self, gateway: Gateway) -> None:
        """orders.client_id names the parameter; an order without one has none."""
        for sent, found in (({"cid": 7}, "7"), ({"newClientOrderId": "x"}, None), ([1], None), ({"cid": None}, None)):
            gateway.script(Fault.reset("after"))
            with pytest.raises(ra.OutcomeUnknownError) as caught:
                connect({**RAISE, "orders": {"client_id": "cid"}}).post(gateway.url + "/order", json=sent)
            assert caught.value.client_order_id == found


def error_of(code: int) -> type[Exception]:
    """Return the type that the exception tree gives a code."""
    own = {-1002: ra.UnauthorizedError, -1003: ra.RateLimitError, -1008: ra.ServerBusyError, -1021: ra.SignatureError,
           -1022: ra.SignatureError}  # fmt: skip
    if code in own:
        return own[code]
    if code in (-1000, -1001, -1006, -1007):
        return ra.TransientError
    return {10: ra.InvalidRequestError, 11: ra.InvalidRequestError, 20: ra.OrderError, 21: ra.PositionError,
            22: ra.MarginError, 30: ra.StreamError}[-code // 100]  # fmt: skip


class TestEveryCode:
    @pytest.mark.parametrize("code", CODES)
    def test_returned(self, gateway: Gateway, code: int) -> None:
        """Under on_error="return" the response with the code is delivered as the server sent it, whatever the code."""
        gateway.script(*[Fault.code(code, status=400)] * 2)
        session = connect({**ONCE, "rate_limit": {"wait": 0.0}})
        for method in ("GET", "POST"):
            response = session.request(method, gateway.url + "/order")
            assert response.status_code == 400 and response.json()["code"] == code
            story = ra.resilience_of(response)
            assert story.code == code and story.info is ra.explain(code)
            may_be = str(CODES[code].executed) == "unknown"
            assert story.outcome_unknown is (method == "POST" and may_be)

    @pytest.mark.parametrize("code", CODES)
    def test_raised(self, gateway: Gateway, code: int) -> None:
        """Under on_error="raise" each code is the exception of its group, with all that is known; it pickles."""
        gateway.script(*[Fault.code(code)] * 3)
        session = connect({**ONCE, **RAISE, "rate_limit": {"wait": 0.0}})
        for method in ("GET", "POST", "DELETE"):

            def call(method: str = method) -> requests.Response:
                return session.request(method, gateway.url + "/order?a=b")

            if code in (-2100, -2200) or (code == -2012 and method == "DELETE"):
                assert call().json()["code"] == code
                continue
            with pytest.raises(ra.ResilienceError) as caught:
                call()
            error = caught.value
            if method != "GET" and str(CODES[code].executed) == "unknown":
                assert type(error) is ra.OutcomeUnknownError
                assert not isinstance(error, ra.ApiError)
            else:
                assert type(error) is error_of(code)
                assert isinstance(error, ra.ApiError)
                assert (error.code, error.msg, error.info) == (code, CODES[code].name, ra.explain(code))
            assert error.response is not None and error.response.json()["code"] == code
            assert error.request is not None and error.request.method == method
            assert "a=b" not in str(error)
            again = pickle.loads(pickle.dumps(error))
            assert type(again) is type(error) and again.resilience == error.resilience
            assert str(again) == str(error) and again.response.json()["code"] == code


class TestUnlisted:
    @pytest.mark.parametrize(("code", "status", "method", "unknown", "raised"), [
        (-1999, 200, "GET", False, None),
        (1, 200, "GET", False, None),
        (-1999, 200, "POST", True, ra.OutcomeUnknownError),
        (1, 201, "POST", True, ra.OutcomeUnknownError),
        (-1999, 400, "GET", False, ra.ApiError),
        (-1999, 400, "POST", False, ra.ApiError),
        (-1999, 500, "POST", True, ra.OutcomeUnknownError),
        (-1999, 401, "POST", False, ra.ApiError),
        (7, 404, "DELETE", False, ra.ApiError),
    ])  # fmt: skip
    def test_a_code_that_nobody_lists(
        self, gateway: Gateway, code: int, status: int, method: str, unknown: bool, raised: type[Exception] | None
    ) -> None:
        """It is judged by the status; with a good one it is delivered, and nobody knows whether a POST was executed."""
        gateway.script(*[Fault.code(code, status)] * 2)
        response = connect(ONCE).request(method, gateway.url + "/order")
        assert response.json()["code"] == code and ra.resilience_of(response).code == code
        assert ra.resilience_of(response).outcome_unknown is unknown
        if raised is None:
            assert connect({**ONCE, **RAISE}).request(method, gateway.url + "/order").json()["code"] == code
            return
        with pytest.raises(raised) as caught:
            connect({**ONCE, **RAISE}).request(method, gateway.url + "/order")
        assert type(caught.value) is raised
        if isinstance(caught.value, ra.ApiError):
            assert caught.value.code == code and caught.value.info is None

    def test_judged_by_the_status(self, gateway: Gateway) -> None:
        """An unlisted code under 502 is repeated as a 502 is."""
        gateway.script(Fault.code(-1999, status=502))
        assert connect().get(gateway.url + "/ping").json()["code"] == 0


class TestStatuses:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 451, 500, 501, 502, 503, 504, 599])
    def test_errors_without_an_envelope(self, gateway: Gateway, status: int) -> None:
        """An HTTP error without an envelope is requests' HTTPError, as raise_for_status() would have it."""
        gateway.script(*[Fault.status(status)] * 2)
        settings = {**ONCE, "rate_limit": {"wait": 0.0}}
        assert connect(settings).get(gateway.url + "/ping").status_code == status
        with pytest.raises(requests.HTTPError) as caught:
            connect({**settings, **RAISE}).get(gateway.url + "/ping?q=1")
        error = caught.value
        assert type(error) is requests.HTTPError
        assert error.response.status_code == status and error.request.url == gateway.url + "/ping?q=1"
        assert str(error).startswith(f"{status} ") and "q=1" not in str(error)
        assert ra.resilience_of(error).attempts[0].status == status

    @pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 304, 404, 500])
    def test_no_error(self, gateway: Gateway, status: int) -> None:
        """A status below 400 is no error; nor is any other with a success code."""
        if status < 400:
            gateway.respond("/x", b"", status, headers={"Location": "/y"} if status in (301, 302) else {})
        else:
            gateway.respond("/x", {"code": 200, "data": 1}, status)
        for method in ("GET", "POST", "DELETE"):
            response = connect(RAISE).request(method, gateway.url + "/x", allow_redirects=False)
            assert response.status_code == status
            assert not ra.resilience_of(response).outcome_unknown
        assert numbers(gateway) == 3

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_success_that_nobody_lists_is_no_warning(self, gateway: Gateway, method: str) -> None:
        """Some APIs say "200000" of every success: a POST's outcome is unknown then, and it is not shouted about."""
        gateway.respond("/x", {"code": "200000", "data": {}})
        events: list[ra.Event] = []
        response = connect(listeners=[events.append]).request(method, gateway.url + "/x")
        assert ra.resilience_of(response).outcome_unknown == (method == "POST") and events == []
        gateway.script(Fault.code(-1007), method="POST")
        connect(listeners=[events.append]).post(gateway.url + "/x")
        assert [event.name for event in events] == ["give_up"]

    def test_own_success_codes(self, gateway: Gateway) -> None:
        """success_codes replaces the defaults: what is not among them is no success."""
        gateway.respond("/x", {"code": 1, "data": 1}, 500)
        session = connect({**ONCE, **RAISE, "success_codes": [1]})
        report = ra.resilience_of(session.post(gateway.url + "/x"))
        assert report.code == 0  # as of every success: a script need not know which code says so
        assert report.attempts[-1].code == 1
        gateway.respond("/y", {"code": 0})
        with pytest.raises(ra.OutcomeUnknownError):
            session.post(gateway.url + "/y")

    @pytest.mark.parametrize("body", [
        b'{"code": -2010.0}', b'{"code": true}', b'{"code": null}', b'{"code": [-2010]}', b'{"data": {"code": -2010}}',
        b'[{"code": -2010}]', b'{"code": "x"}', b"-2010", b'{"code": -2010', b"",
    ])  # fmt: skip
    def test_what_is_no_code(self, gateway: Gateway, body: bytes) -> None:
        """Only a top-level integer code counts: anything else is judged by the status."""
        gateway.respond("/x", body)
        response = connect(RAISE).post(gateway.url + "/x")
        assert response.content == body
        assert ra.resilience_of(response).code is None

    def test_codes_written_as_strings(self, gateway: Gateway) -> None:
        """A code written as a string counts as the integer."""
        gateway.respond("/x", b'{"msg": "no", "code": "-2010"}')
        with pytest.raises(ra.OrderError):
            connect(RAISE).post(gateway.url + "/x")


HEAD = b"HTTP/1.1 200 OK\r\n"
OF_JSON = HEAD + b"Content-Type: application/json\r\n"
ORDER, POST, PUT, GET = ("POST", {"newClientOrderId": "c"}), ("POST", {}), ("PUT", {}), ("GET", {})
EVERY = [ORDER, POST, PUT, GET]

# (what comes before the connection is closed, of whose requests the outcome is unknown then)
TORN = [
    # in the status line
    (b"HTTP/1", [ORDER, POST, PUT]),
    (b"HTTP/1.1 2", [ORDER, POST, PUT]),
    (b"HTTP/1.1 200", [ORDER]),
    (b"HTTP/1.1 200 O", [ORDER]),
    # in the head: a whole line that is none, or nothing after it
    (HEAD + b"Content-Ty", [ORDER, POST, PUT]),
    (HEAD + b"X-A: 1\r\nContent-Ty", [ORDER, POST, PUT]),
    (HEAD, [ORDER]),
    (HEAD + b"Content-Type: application/js", [ORDER]),
    (OF_JSON, [ORDER]),
    (OF_JSON + b"Content-Length: ", [ORDER, POST, PUT]),
    (OF_JSON + b"Content-Length: 3", [ORDER, POST, PUT]),
    (OF_JSON + b"Transfer-Encoding: chun", [ORDER, POST, PUT]),
    # in a body that ends with the connection
    (OF_JSON + b"\r\n", [ORDER]),
    (OF_JSON + b'\r\n{"data":{"code":', [ORDER, POST, PUT]),
    (OF_JSON + b'\r\n [{"orderId":1},', [ORDER, POST, PUT]),
    (HEAD + b'\r\n{"orderId":1', [ORDER, POST, PUT]),  # no word of what it is
    (OF_JSON + b"\r\n" + b"[" * 100_000, [ORDER, POST, PUT]),
    # in a body of a known length: requests' own error
    (OF_JSON + b'Content-Length: 90\r\n\r\n{"data":{}', [ORDER, POST, PUT]),
    # whole
    (OF_JSON + b'\r\n{"code":0}', []),
    (OF_JSON + b'\r\n{"orderId":1}', []),
    (OF_JSON + b"\r\n[]", []),
    (OF_JSON + b"Content-Length: 0\r\n\r\n", []),
    (OF_JSON + b"Content-Length: 0, 0\r\n\r\n", []),
    (OF_JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []),
    (OF_JSON + b"Transfer-Encoding: identity\r\n\r\n{}", []),
    (OF_JSON + b"Content-Length: +2\r\n\r\n{}", []),
    (OF_JSON + b'Content-Length: 4\r\n\r\n{"a"', []),  # all that was promised
    (b"HTTP/1.1 204 No Content\r\n\r\n", []),
    (b"HTTP/1.1 304 Not Modified\r\n\r\n", []),
    (HEAD + b"Content-Type: text/html\r\n\r\n<html>thank you", []),
    (HEAD + b"Content-Type: text/html\r\n\r\nthank you", []),
]


# (what comes before the connection is closed, the same of a caller who reads the body)
TORN_STREAMS = [
    (HEAD + b"Content-Ty", [ORDER, POST, PUT]),
    (OF_JSON + b"Content-Length: ", [ORDER, POST, PUT]),
    (OF_JSON + b"Transfer-Encoding: chun", [ORDER, POST, PUT]),
    (OF_JSON + b"Transfer-Encoding: gzip, chun", [ORDER, POST, PUT]),
    (OF_JSON + b"Content-Length: +2\r\n\r\n{}", []),
    (OF_JSON + b"Transfer-Encoding: identity \r\n\r\n{}", []),
    (OF_JSON + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", []),
    (OF_JSON + b"\r\n", []),  # it may be that its body is nothing, and is theirs to see
    (OF_JSON + b'Content-Length: 10\r\n\r\n{"code":0}', []),
    (OF_JSON + b'Content-Length: 99999\r\n\r\n{"code":0}', []),
    (OF_JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []),
    (b"HTTP/1.1 204 No Content\r\n\r\n", []),
]


class Canned(BaseAdapter):
    """Answers without a connection, by a response that somebody has put together."""

    def __init__(self, status: int, headers: dict[str, Any] | None = None, body: bytes | None = None) -> None:
        super().__init__()
        self._answer = status, headers or {}, body

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        status, headers, body = self._answer
        response = requests.Response()
        response.status_code, response.request, response.url = status, request, request.url
        response.headers.update(headers)
        if body is not None:
            response._content = body
        return response

    def close(self) -> None:
        pass


class TestTornAnswers:
    @pytest.mark.parametrize(("answer", "unknown"), TORN, ids=lambda value: str(value)[-40:])
    def test_closed_in_the_midst(self, answer: bytes, unknown: list[tuple[str, dict[str, str]]]) -> None:
        """What is closed before its end proves nothing; what may have been all of it proves what it says."""
        for case in EVERY:
            method, params = case
            with RawServer(answer) as server:
                try:
                    end: Any = connect(ONCE).request(method, server.url + "/order", params=params)
                except requests.RequestException as error:
                    end = error
                assert ra.resilience_of(end).outcome_unknown is (case in unknown), case

    @pytest.mark.parametrize(("answer", "unknown"), TORN_STREAMS, ids=lambda value: str(value)[-40:])
    def test_a_streams_head(self, answer: bytes, unknown: list[tuple[str, dict[str, str]]]) -> None:
        """A head that was torn is seen without the body, which is left to the caller."""
        for case in EVERY:
            method, params = case
            with RawServer(answer) as server:
                response = connect(ONCE).request(method, server.url + "/order", params=params, stream=True)
            assert ra.resilience_of(response).outcome_unknown is (case in unknown), case

    @pytest.mark.parametrize(("status", "unknown"), [(200, False), (204, False), (102, True)])
    def test_of_another_transport(self, status: int, unknown: bool) -> None:
        """A response that came over no connection that is known cannot have been closed in the midst."""
        response = connect(transport=Canned(status)).post("http://gateway.invalid/", params=ORDER[1])
        assert ra.resilience_of(response).outcome_unknown is unknown

    @pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
    @pytest.mark.parametrize("value", [2, b"2", "2", b"chunked"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_headers_of_another_transport(self, name: str, value: Any, stream: bool) -> None:
        """Those that somebody wrote by hand need not be texts."""
        session = connect(transport=Canned(200, {name: value}, b"{}"))
        response = session.post("http://gateway.invalid/", params=ORDER[1], stream=stream)
        assert response.content == b"{}" and not ra.resilience_of(response).outcome_unknown

    def test_the_order_in_doubt(self) -> None:
        """With half an answer an order is in doubt: raised as that, and not sent again."""
        session = connect(RAISE)
        with RawServer(HEAD + b"Content-Type: application/js") as server:
            for sends in (1, 0):
                with pytest.raises(ra.OutcomeUnknownError) as caught:
                    session.post(server.url + "/order", params={"newClientOrderId": "c"})
                assert len(ra.resilience_of(caught.value).attempts) == sends


class TestInterimAnswers:
    @pytest.mark.parametrize("status", [102, 103, 199])
    @pytest.mark.parametrize(("method", "params"), [ORDER, POST, PUT])
    @pytest.mark.parametrize("stream", [False, True])
    def test_taken_for_no_answer(self, status: int, method: str, params: dict[str, str], stream: bool) -> None:
        """One that is all that came says nothing of what became of the request; whoever comes next reads none of it."""

        def answer(line: str, number: int) -> bytes:
            if "first" in line:
                return b"HTTP/1.1 %d Interim\r\nLink: </x>\r\n\r\n" % status
            late = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"code":-1008}'
            return (late if number > 1 else b"") + b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"code":0}'

        with TalkingServer(answer) as server, connect(ONCE, pool_maxsize=1, pool_block=True) as session:
            response = session.request(method, server.url + "/first", params=params, stream=stream)
            assert response.status_code == status and ra.resilience_of(response).outcome_unknown
            assert response.content == b""
            response = session.request(method, server.url + "/second", params={"newClientOrderId": "d"})
            assert response.json()["code"] == 0 and not ra.resilience_of(response).outcome_unknown
            assert server.connections == 2

    @pytest.mark.parametrize("on_error", ["return", "raise"])
    def test_to_a_read(self, on_error: str) -> None:
        """A request that only looks is given it as it is."""
        with TalkingServer(lambda line, number: b"HTTP/1.1 103 Early Hints\r\n\r\n") as server:
            for _ in range(2):
                response = connect({"on_error": on_error}).get(server.url)
                assert response.status_code == 103 and not ra.resilience_of(response).outcome_unknown

    def test_an_order_in_doubt(self) -> None:
        """Under on_error="raise" it is OutcomeUnknownError, and the same order is not sent again."""
        with TalkingServer(lambda line, number: b"HTTP/1.1 102 Processing\r\n\r\n") as server:
            session = connect(RAISE)
            for sends in (1, 0):
                with pytest.raises(ra.OutcomeUnknownError) as caught:
                    session.post(server.url + "/order", params={"newClientOrderId": "c"})
                assert len(ra.resilience_of(caught.value).attempts) == sends

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("on_error", ["return", "raise"])
    def test_a_redirect(self, status: int, on_error: str) -> None:
        """To an order it says neither that it was executed nor that it was not, unless it asks for the order again."""
        head = b"HTTP/1.1 %d There\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n" % status
        unknown = status < 307
        with (
            TalkingServer(lambda line, number: head) as server,
            connect({**ONCE, "on_error": on_error}, pool_maxsize=1, pool_block=True) as session,
        ):
            options: dict[str, Any] = {"params": ORDER[1], "allow_redirects": False}
            try:
                end: Any = session.post(server.url + "/order", **options)
            except ra.OutcomeUnknownError as error:
                assert on_error == "raise"
                end = error
            assert ra.resilience_of(end).outcome_unknown is unknown
            with pytest.raises(ra.OutcomeUnknownError, match="nothing was sent") if unknown else nullcontext():
                assert session.post(server.url + "/order", **options).status_code == status
            assert session.post(server.url + "/other", allow_redirects=False).status_code == status  # no order

    def test_continue_is_passed_over(self) -> None:
        """A 100 before the answer is no answer, and the one that counts is read."""
        whole = b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"code":0}'
        with TalkingServer(lambda line, number: whole) as server, connect() as session:
            for _ in range(2):
                response = session.post(server.url + "/order", params={"newClientOrderId": "c"})
                assert response.json()["code"] == 0 and not ra.resilience_of(response).outcome_unknown
            assert server.connections == 1


class TestStreams:
    def test_an_error_envelope(self, gateway: Gateway) -> None:
        """Under stream=True a short JSON error is raised too, with a response that can still be read."""
        gateway.script(Fault.code(-2010))
        with pytest.raises(ra.OrderError) as caught:
            connect(RAISE).post(gateway.url + "/order", stream=True)
        assert caught.value.response is not None
        assert caught.value.response.json()["code"] == -2010

    def test_a_cut_off_body(self, gateway: Gateway) -> None:
        """A stream whose body is cut off ends as with plain requests for a GET, and in doubt for a POST."""
        gateway.script(*[Fault.cut_body()] * 3)
        response = connect(RAISE).get(gateway.url + "/x", stream=True)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            _ = response.content
        assert numbers(gateway) == 3
        gateway.clear()
        gateway.script(*[Fault.cut_body()] * 3)
        with pytest.raises(ra.OutcomeUnknownError):
            connect(RAISE).post(gateway.url + "/x", stream=True)


class TestReconciler:
    def run(self, gateway: Gateway, answer: Any, **settings: Any) -> tuple[Any, list[ra.Event]]:
        events: list[ra.Event] = []
        gateway.script(Fault.reset("after"), method="POST")
        clock = FakeClock()
        session = connect({**EXACT, **settings}, clock=clock, reconciler=answer, listeners=[events.append])
        try:
            return session.post(gateway.url + "/order", json={"newClientOrderId": "c"}), events
        except requests.RequestException as error:
            return error, events

    def test_executed(self, gateway: Gateway) -> None:
        """A response from the reconciler says that it was executed, and is delivered in place of the error."""

        def look(request: requests.PreparedRequest, send: Any) -> requests.Response:
            assert send.deadline == send.clock.monotonic() + 180.0
            found: requests.Response = send(requests.Request("GET", gateway.url + "/found").prepare())
            return found

        response, events = self.run(gateway, look, on_error="raise")
        assert response.json()["data"]["path"] == "/found"
        story = ra.resilience_of(response)
        assert not story.outcome_unknown and [one.error for one in story.attempts] == ["reset"]
        assert numbers(gateway, method="POST") == 1
        assert [event.name for event in events] == ["reconcile", "reconciled"]

    def test_not_executed(self, gateway: Gateway) -> None:
        """None from the reconciler says that it was not executed: it is sent again."""
        response, _ = self.run(gateway, lambda request, send: None, on_error="raise")
        assert response.json()["code"] == 0
        assert not ra.resilience_of(response).outcome_unknown
        assert numbers(gateway, method="POST") == 2

    def test_still_unknown(self, gateway: Gateway) -> None:
        """An exception from the reconciler leaves the outcome unknown: nothing is sent again."""

        def fail(request: requests.PreparedRequest, send: Any) -> requests.Response:
            raise LookupError("secret")

        error, events = self.run(gateway, fail)
        assert type(error) is requests.ConnectionError and ra.resilience_of(error).outcome_unknown
        error, events = self.run(gateway, fail, on_error="raise")
        assert type(error) is ra.OutcomeUnknownError and error.client_order_id == "c"
        assert numbers(gateway, method="POST") == 2
        assert not any("secret" in event.detail for event in events)

    @pytest.mark.parametrize("answer", [False, True, {}, {"status": "FILLED"}, "FILLED", object()])
    def test_neither_a_response_nor_none(self, gateway: Gateway, answer: object) -> None:
        """Anything else proves nothing: the outcome stays unknown, and the order may be looked up again."""
        answers = [answer, answer, None]
        session = connect({"on_error": "raise"}, reconciler=lambda request, send: answers.pop(0))
        gateway.script(Fault.reset("after"))
        for _ in range(2):
            with pytest.raises(ra.OutcomeUnknownError):
                session.post(gateway.url + "/order", json={"newClientOrderId": "c"})
        assert numbers(gateway) == 1
        assert session.post(gateway.url + "/order", json={"newClientOrderId": "c"}).json()["code"] == 0
        assert numbers(gateway) == 2 and answers == []

    @pytest.mark.parametrize("fault", [Fault.cut_body(), Fault.cut_body(chunked=True), Fault.reset("body")], ids=repr)
    def test_a_response_that_breaks_off(self, gateway: Gateway, fault: Fault) -> None:
        """What cannot be read proves nothing: the order stays in doubt until it is."""
        session = connect(RAISE, reconciler=lambda *_: requests.get(gateway.url + "/found", stream=True, timeout=10))
        gateway.script(Fault.reset("after"), method="POST")
        gateway.script(fault, fault, path="/found")
        for sends in (1, 0):
            with pytest.raises(ra.OutcomeUnknownError) as caught:
                session.post(gateway.url + "/order", json={"newClientOrderId": "c"})
            assert len(ra.resilience_of(caught.value).attempts) == sends
        response = session.post(gateway.url + "/order", json={"newClientOrderId": "c"})
        assert response.json()["data"]["path"] == "/found" and not ra.resilience_of(response).outcome_unknown
        assert numbers(gateway, method="POST") == 1

    def test_past_an_open_circuit(self, gateway: Gateway) -> None:
        """The look-up is sent although the circuit is open."""
        circuit = {"fail_max": 1, "reset_timeout": 30.0}

        def look(request: requests.PreparedRequest, send: Any) -> requests.Response:
            found: requests.Response = send(requests.Request("GET", gateway.url + "/found").prepare())
            return found

        gateway.script(Fault.status(503))
        session = connect({**EXACT, "circuit": circuit}, reconciler=look)
        response = session.post(gateway.url + "/order")
        assert response.json()["data"]["path"] == "/found"
        with pytest.raises(ra.CircuitOpenError):
            session.get(gateway.url + "/order")
