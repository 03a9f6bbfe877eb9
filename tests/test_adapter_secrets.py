"""No secret is in a log, an event, a repr, or the text, request or response of an exception."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest
import requests
from adapter_support import closed_port, connect, prepare
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

import resilient_adapter as ra
from resilient_adapter.testing import Fault, Gateway

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
        shown += [str(one), repr(one), str(one.args), str(getattr(one, "url", ""))]
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
    caplog.set_level(logging.DEBUG, "resilient_adapter")
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
    caplog.set_level(logging.DEBUG, "resilient_adapter")
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


def test_user_and_password_of_the_url(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """A user and password in the URL are in no log and no event."""
    caplog.set_level(logging.DEBUG, "resilient_adapter")
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
    caplog.set_level(logging.DEBUG, "resilient_adapter")

    def broken(event: ra.Event) -> None:
        raise RuntimeError(SECRET)

    gateway.script(Fault.status(502))
    assert connect(listeners=[broken]).get(gateway.url).ok
    assert "RuntimeError" in caplog.text and SECRET not in caplog.text
