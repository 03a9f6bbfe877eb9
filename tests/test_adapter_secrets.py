"""No secret is in a log, an event, a repr, or the text, request or response of an exception."""

from __future__ import annotations

import logging
import traceback
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest
import requests
from adapter_support import closed_port, connect, prepare
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

import resilient_adapter as ra
from resilient_adapter.testing import Answer, Fault, Gateway, Request

TOKEN = "tok3n-s3cret"
API_KEY = "apikey-s3cret"
SECRET = "hmac-s3cret"
PASSWORD = "passw0rd-s3cret"

FAULTS: dict[str, Fault | None] = {
    "healthy": None,
    "reset": Fault.reset(),
    "closed": Fault.close("after"),
    "cut off": Fault.cut_body(),
    "reset in the body": Fault.reset("body"),
    "silent": Fault.delay(5),
    "bad gzip": Fault.status(200, b"nonsense", headers={"Content-Encoding": "gzip"}),
    "502": Fault.status(502),
    "404": Fault.status(404),
    "-1001": Fault.code(-1001),
    "-1002": Fault.code(-1002),
    "-1003": Fault.code(-1003, retry_after=1),
    "too long": Fault.code(-1003, retry_after=1000),
    "-1008": Fault.code(-1008, status=503),
    "-1021": Fault.code(-1021),
    "-2010": Fault.code(-2010),
    "unlisted": Fault.code(-9999),
    "refused": None,
    "no name": None,
    "no port": None,
    "proxy": None,
    "TLS": None,
}


def chain(error: BaseException) -> list[BaseException]:
    """Return an exception and all that it leads to: arguments, reasons, causes and contexts."""
    todo: list[Any] = [error]
    seen: list[BaseException] = []
    while todo:
        one = todo.pop()
        if isinstance(one, BaseException) and not any(one is other for other in seen):
            seen.append(one)
            todo += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return seen


def texts(end: Any) -> list[str]:
    """Return all that a response or an exception shows of itself."""
    if isinstance(end, requests.Response):
        shown = [repr(end), repr(end.resilience), end.url, str(end.request.url), repr(dict(end.request.headers))]  # type: ignore[attr-defined]
        return [*shown, repr(end.request.body), repr(end.raw), str(end.raw.geturl())]
    shown = traceback.format_exception(end)
    for one in chain(end):
        shown += [str(one), repr(one), str(one.args), *map(str, vars(one).values())]
        request = getattr(one, "request", None)
        if isinstance(request, requests.PreparedRequest):
            shown += [str(request.url), repr(dict(request.headers)), repr(request.body)]
        response = getattr(one, "response", None)
        if response is not None and response is not end:
            shown += [response.url, str(response.request.url), repr(dict(response.request.headers))]
    return shown


@pytest.mark.parametrize("on_error", ["return", "raise"])
@pytest.mark.parametrize("name", FAULTS)
def test_in_every_kind_of_trouble(gateway: Gateway, caplog: pytest.LogCaptureFixture, name: str, on_error: str) -> None:
    """A signed request with a token fails in every way there is, and nothing shows what the adapter added to it."""
    caplog.set_level(logging.DEBUG)
    url, options = gateway.url, {}
    if name == "refused":
        url = f"http://127.0.0.1:{closed_port()}"
    elif name == "no name":
        url = "http://gateway.invalid"
    elif name == "no port":
        url = "http://127.0.0.1:1"
    elif name == "proxy":
        options = {"proxies": {"http": f"http://user:{PASSWORD}@127.0.0.1:{closed_port()}"}}
    elif name == "TLS":
        url, options = url.replace("http:", "https:"), {"verify": "/no/such/bundle.pem"}
    for method, transport, body in (
        ("GET", None, {}), ("POST", None, {}), ("POST", HTTPAdapter(), {}), ("POST", None, {"data": {"f": "1"}}),
    ):  # fmt: skip
        gateway.clear()
        gateway.script(*[FAULTS[name]] * 3, path="/order")
        events: list[ra.Event] = []
        session = connect(
            {"origins": [url], "on_error": on_error, "retry": {"max_attempts": 3}, "log": {"level": "debug"}},
            token_source=lambda: TOKEN, signer=ra.HmacSigner(API_KEY, SECRET), listeners=[events.append],
            transport=transport,
        )  # fmt: skip
        request = prepare(method, url + "/order?symbol=QUERY-OF-THE-CALLER", **body)
        before = (request.url, dict(request.headers), request.body)
        end: Any
        try:
            end = session.send(request, timeout=0.1, **options)
            assert end.request is request
        except (requests.RequestException, OSError) as error:
            end = error
        assert getattr(end, "request", None) in (None, request)
        assert (request.url, dict(request.headers), request.body) == before
        mounted = session.get_adapter(url)
        quiet = [caplog.text, repr(events), repr(session), repr(mounted), repr(mounted.settings)]
        for record in caplog.records:
            quiet += [record.getMessage(), repr(vars(record))]
        assert "QUERY-OF-THE-CALLER" not in "\n".join(quiet)
        everything = "\n".join([*quiet, *texts(end)])
        for secret in (TOKEN, API_KEY, SECRET, "signature=", "timestamp=", "recvWindow=", "Bearer "):
            assert secret not in everything, secret
        if name != "proxy":
            assert PASSWORD not in everything
        if name in FAULTS and url == gateway.url and name != "proxy":
            arrived = gateway.received(path="/order")[-1]
            assert "signature" in arrived.params and arrived.headers["X-MBX-APIKEY"] == API_KEY


def test_refusals(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """What is refused without a send names neither the query nor anything secret."""
    caplog.set_level(logging.DEBUG)
    events: list[ra.Event] = []
    session = connect(
        {"origins": [gateway.url], "circuit": {"fail_max": 1}, "retry": {"max_attempts": 1}},
        token_source=lambda: TOKEN, signer=ra.HmacSigner(API_KEY, SECRET), listeners=[events.append],
    )  # fmt: skip
    gateway.script(Fault.status(503))
    session.get(gateway.url + "/x?symbol=QUERY")
    with pytest.raises(ra.CircuitOpenError) as caught:
        session.get(gateway.url + "/x?symbol=QUERY")
    shown = "\n".join([caplog.text, repr(events), str(caught.value), repr(caught.value)])
    for secret in (TOKEN, API_KEY, SECRET, "signature", "QUERY"):
        assert secret not in shown


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(
    "lead", [
        "{origin}{target}",
        "{origin}/y?{query}#here",
        "{origin}/y?next={quoted}",
        "{origin}/y?before=1&{query}&after=2",
    ],
)  # fmt: skip
def test_a_redirect_that_repeats_what_was_sent(gateway: Gateway, lead: str, elsewhere: bool) -> None:
    """``301 Location: https://$host$request_uri`` hands what signing added to nobody, and shows it to nobody."""
    with Gateway() as other:
        target = other if elsewhere else gateway

        def answer(request: Request) -> Answer:
            whole = f"{request.path}?{request.query}"
            location = lead.format(origin=target.url, target=whole, query=request.query, quoted=quote(whole, safe=""))
            location = location.replace("/x", "/y")
            return Answer(301, b"", {"Location": location})

        gateway.respond("/x", answer)
        session = connect({"origins": [gateway.url]}, signer=ra.HmacSigner(API_KEY, SECRET))
        response = session.get(gateway.url + "/x?symbol=B%20C")
        (first,), (second,) = gateway.received(path="/x"), target.received(path="/y")
        assert "symbol=B C" in unquote_plus(unquote_plus(second.query))
        assert (second.params.get("signature") is None) == elsewhere
        redirect = response.history[0]
        shown = [response.url, repr(response.headers), repr(redirect.headers), repr(redirect.raw.headers)]
        for text in (*shown, second.query if elsewhere else ""):
            assert "signature" not in text and first.params["timestamp"] not in text


def test_a_redirect_of_its_own(gateway: Gateway) -> None:
    """A Location that repeats nothing of what signing added is left as it is."""
    for location in ("/y", "/y?timestamp=1&signature=theirs", "https://h.invalid/?a=1&&b#c", ""):
        gateway.respond("/x", Answer(302, b"", {"Location": location}))
        session = connect({"origins": [gateway.url]}, signer=ra.HmacSigner(API_KEY, SECRET))
        response = session.get(gateway.url + "/x?a=1", allow_redirects=False)
        assert response.headers["Location"] == location


def test_what_urllib3_logs(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Its request lines come without a query where the adapter sends, and as ever where plain requests do."""
    caplog.set_level(logging.DEBUG)
    connect().get(gateway.url + "/ours?a=s3cret")
    connect().get(gateway.url + "/ours")
    connect({"mode": "off"}).get(gateway.url + "/plain?a=b")
    lines = [record.getMessage().partition(" ")[2] for record in caplog.records if "HTTP/1.1" in record.getMessage()]
    assert [line.split('"')[1] for line in lines] == [
        "GET /ours?... HTTP/1.1", "GET /ours HTTP/1.1", "GET /plain?a=b HTTP/1.1",
    ]  # fmt: skip


def test_user_and_password_of_the_url(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """A user and password in the URL are in no log and no event."""
    caplog.set_level(logging.DEBUG)
    events: list[ra.Event] = []
    session = connect({"retry": {"max_attempts": 2}}, listeners=[events.append])
    gateway.script(Fault.status(502), Fault.status(502))
    request = prepare("GET", gateway.url + "/x")
    request.url = gateway.url.replace("//", f"//user:{PASSWORD}@") + "/x"
    session.send(request)
    for broken in (f"http://user:{PASSWORD}@gateway.invalid:99999/x", f"nonsense://user:{PASSWORD}@\\host/x"):
        request = prepare("GET", gateway.url + "/x")
        request.url = broken
        with pytest.raises(requests.RequestException):
            session.get_adapter("http://a").send(request)
    assert events and PASSWORD not in caplog.text + repr(events)


def test_any_parameters(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the parameters, a signed request that fails shows the caller's own URL and nothing of the signature."""
    with Gateway() as gateway:
        session = connect(
            {"origins": [gateway.url], "retry": {"max_attempts": 1}}, signer=ra.HmacSigner(API_KEY, SECRET)
        )

        @hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(params=st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=4))
        def check(params: dict[str, str]) -> None:
            gateway.clear()
            gateway.script(Fault.reset())
            request = prepare("GET", gateway.url + "/order", params=params)
            with pytest.raises(requests.ConnectionError) as caught:
                session.send(request)
            shown = "\n".join([*texts(caught.value), caplog.text])
            signed = gateway.journal[-1].params["signature"]
            assert signed not in shown and API_KEY not in shown
            assert caught.value.request is request

        check()


def test_a_failing_listener(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is logged by name and type alone, and breaks nothing."""
    caplog.set_level(logging.DEBUG)

    def broken(event: ra.Event) -> None:
        raise RuntimeError(SECRET)

    gateway.script(Fault.status(502))
    assert connect(listeners=[broken]).get(gateway.url).ok
    assert "RuntimeError" in caplog.text and SECRET not in caplog.text
