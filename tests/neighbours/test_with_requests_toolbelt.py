"""requests-toolbelt: bodies that cannot be rewound, a transport, and a session."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from adapter_support import adapter, connect, numbers

import resilient_adapter as ra
from resilient_adapter.testing import Fault, Gateway

requests_toolbelt = pytest.importorskip("requests_toolbelt")
sessions = pytest.importorskip("requests_toolbelt.sessions")


def encoder() -> Any:
    """Return a form with a file in it."""
    return requests_toolbelt.MultipartEncoder({"field": "value", "file": ("name.txt", io.BytesIO(b"x" * 100_000))})


BODIES: dict[str, Callable[[], Any]] = {
    "MultipartEncoder": encoder,
    "MultipartEncoderMonitor": lambda: requests_toolbelt.MultipartEncoderMonitor(encoder()),
    "StreamingIterator": lambda: requests_toolbelt.StreamingIterator(100_000, iter([b"x" * 50_000] * 2)),
    "StreamingIterator of a file": lambda: requests_toolbelt.StreamingIterator(100_000, io.BytesIO(b"x" * 100_000)),
}


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
class TestBodies:
    def test_they_arrive(self, gateway: Gateway, make: Callable[[], Any]) -> None:
        """What all is well with arrives whole."""
        assert connect().put(gateway.url + "/upload", data=make()).json()["code"] == 0
        (entry,) = gateway.journal
        assert entry.body.count(b"x" * 100_000) == 1

    @pytest.mark.parametrize("fault", [Fault.code(-1008, 503), Fault.code(-1001), Fault.reset()], ids=repr)
    def test_they_are_sent_once(self, gateway: Gateway, make: Callable[[], Any], fault: Fault) -> None:
        """None of them can be rewound: no repeat is sent empty, or hangs; what came back is delivered."""
        gateway.script(fault)
        try:
            story = ra.resilience_of(connect().put(gateway.url + "/upload", data=make()))
        except OSError as error:
            story = ra.resilience_of(error)
        assert numbers(gateway) == len(story.attempts) == 1

    def test_a_token_is_there_in_time(self, make: Callable[[], Any]) -> None:
        """The token that is due is got before the only send, not after it."""
        with Gateway(require_token=True) as gateway:
            session = connect({"origins": [gateway.url]}, token_source=gateway.issue_token)
            assert session.put(gateway.url + "/upload", data=make()).json()["code"] == 0


def test_bytes_can_be_repeated(gateway: Gateway) -> None:
    """``encoder.to_string()`` holds the form in memory, and can be sent as often as it takes."""
    gateway.script(Fault.code(-1008, 503), Fault.code(-1008, 503))
    form = encoder()
    response = connect().post(
        gateway.url + "/upload", data=form.to_string(), headers={"Content-Type": form.content_type}
    )
    assert response.json()["code"] == 0
    assert len({entry.body for entry in gateway.journal}) == 1
    assert numbers(gateway) == 3


def test_source_address_adapter() -> None:
    """``transport=SourceAddressAdapter(…)``: every attempt comes from that address."""
    bodies = [b'{"code":-1001}', b'{"code":0}']
    sources = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
            pass

        def do_GET(self) -> None:
            sources.append(self.client_address[0])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bodies.pop(0))

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=lambda: [server.handle_request() for _ in range(2)])
        thread.start()
        source = requests_toolbelt.SourceAddressAdapter("127.0.0.2")  # all of 127.0.0.0/8 is ours on Linux
        with connect(transport=source) as session:
            response = session.get(f"http://127.0.0.1:{server.server_address[1]}/account")
        thread.join()
    assert response.json() == {"code": 0}
    assert sources == ["127.0.0.2"] * 2


def test_base_url_session(gateway: Gateway) -> None:
    """A BaseUrlSession takes the adapter like any session, mounted for the whole URL."""
    gateway.script(Fault.code(-1001))
    with sessions.BaseUrlSession(gateway.url + "/api/v1/") as session:
        session.trust_env = False
        session.mount(gateway.url, adapter())
        response = session.get("account")
    assert response.json()["data"]["path"] == "/api/v1/account"
    assert len(ra.resilience_of(response).attempts) == 2
