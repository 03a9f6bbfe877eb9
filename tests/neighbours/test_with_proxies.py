"""HTTP proxies, through a real one on loopback: it may refuse, it may hang up, and it has its own credentials."""

from __future__ import annotations

import gc
import importlib.util
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from adapter_support import EXACT, closed_port, connect, numbers
from neighbour_support import Proxy

import resilient_adapter as ra
from resilient_adapter.testing import FakeClock, Fault, Gateway

BEYOND = "https://gateway.invalid/order"  # only a proxy could know where that is


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Run a proxy for one test."""
    with Proxy() as running:
        yield running


class TestForwarding:
    def test_every_attempt_goes_through_the_proxy(self, gateway: Gateway, proxy: Proxy) -> None:
        """A repeat takes the way that the first send took, with the whole URL in its request line."""
        gateway.script(Fault.code(-1001), Fault.reset())
        session = connect()
        session.proxies = {"http": proxy.url}
        response = session.get(gateway.url + "/account", params={"a": "1"})
        assert response.json()["code"] == 0
        assert [line for line, _ in proxy.seen] == [f"GET {gateway.url}/account?a=1 HTTP/1.1"] * len(proxy.seen)
        assert len(proxy.seen) == numbers(gateway) == 3

    def test_proxied_and_direct_requests_of_one_session(self, gateway: Gateway, proxy: Proxy) -> None:
        """The pool that is remembered for direct requests is not taken for proxied ones, nor the other way round."""
        session = connect()
        for turn in range(1, 4):
            session.get(gateway.url + "/direct")
            session.get(gateway.url + "/proxied", proxies={"http": proxy.url})
            assert len(proxy.seen) == turn
        assert numbers(gateway, path="/direct") == numbers(gateway, path="/proxied") == 3

    def test_the_environment(self, gateway: Gateway, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        """http_proxy and no_proxy mean what they mean to plain requests."""
        monkeypatch.setenv("http_proxy", proxy.url)
        session = connect()
        session.trust_env = True
        assert session.get(gateway.url + "/a").json()["code"] == 0
        assert len(proxy.seen) == 1
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert session.get(gateway.url + "/b").json()["code"] == 0
        assert len(proxy.seen) == 1

    def test_its_credentials_are_its_own(self, gateway: Gateway, proxy: Proxy) -> None:
        """The proxy's password goes to the proxy with every attempt, and to nobody else."""
        gateway.script(Fault.code(-1001))
        session = connect()
        response = session.get(gateway.url + "/account", proxies={"http": proxy.url.replace("//", "//user:hunter2@")})
        assert [basic for _, basic in proxy.seen] == ["Basic dXNlcjpodW50ZXIy"] * 2
        assert all("Proxy-Authorization" not in entry.headers for entry in gateway.journal)
        assert "hunter2" not in repr(response.resilience)  # type: ignore[attr-defined]

    def test_a_token_travels_through(self, proxy: Proxy) -> None:
        """A token that expires is refreshed behind a proxy as it is in front of none."""
        with Gateway(require_token=True) as gateway:
            session = connect({"origins": [gateway.url]}, token_source=lambda: ra.Token(gateway.issue_token()))
            session.proxies = {"http": proxy.url}
            assert session.get(gateway.url + "/account").json()["code"] == 0
            gateway.expire_tokens()
            assert session.get(gateway.url + "/account").json()["code"] == 0
            assert len(proxy.seen) == 3


class TestInTheWay:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("url", ["http://gateway.invalid/order", BEYOND])
    def test_a_proxy_that_is_not_there(self, method: str, url: str) -> None:
        """A proxy that refuses connections has passed nothing on, so every method is repeated; then ProxyError."""
        clock = FakeClock()
        gone = f"http://127.0.0.1:{closed_port()}"
        with pytest.raises(requests.exceptions.ProxyError) as caught:
            connect(EXACT, clock=clock).request(method, url, proxies={"http": gone, "https": gone})
        story = ra.resilience_of(caught.value)
        assert [attempt.error for attempt in story.attempts] == ["proxy_refused"] * 3
        assert not story.outcome_unknown
        assert clock.sleeps == [1.0, 2.0]

    @pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # http.client's own, in Python 3.10
    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("status", [403, 407, 502, 503])
    def test_a_refused_tunnel(self, proxy: Proxy, method: str, status: int) -> None:
        """Where CONNECT is refused there never was a tunnel: nothing was sent through it, whatever the method."""
        proxy.refuse = [status] * 3
        with pytest.raises(requests.exceptions.ProxyError) as caught:
            connect().request(method, BEYOND, proxies={"https": proxy.url})
        story = ra.resilience_of(caught.value)
        assert [attempt.error for attempt in story.attempts] == ["proxy_refused"] * 3
        assert not story.outcome_unknown
        del caught
        gc.collect()
        assert [line.split()[:2] for line, _ in proxy.seen] == [["CONNECT", "gateway.invalid:443"]] * 3

    def test_the_circuit_is_the_servers(self, gateway: Gateway) -> None:
        """A proxy's failures say nothing about the server: its circuit stays closed."""
        session = connect({"circuit": {"fail_max": 2}})
        gone = {"http": f"http://127.0.0.1:{closed_port()}"}
        for _ in range(4):
            with pytest.raises(requests.exceptions.ProxyError):
                session.get(gateway.url + "/account", proxies=gone)
        assert session.get(gateway.url + "/account").json()["code"] == 0

    @pytest.mark.parametrize(("method", "sends"), [("GET", 2), ("POST", 1)])
    @pytest.mark.parametrize("status", [0, 502, 503, 504])
    def test_a_proxy_that_gives_up_on_the_way(
        self, gateway: Gateway, proxy: Proxy, method: str, sends: int, status: int
    ) -> None:
        """Once a proxy has the request, nobody knows whether it passed it on: an order is sent once."""
        proxy.refuse = [status]
        session = connect()
        session.proxies = {"http": proxy.url}
        story = None
        try:
            story = ra.resilience_of(session.request(method, gateway.url + "/order"))
        except requests.ConnectionError as error:
            story = ra.resilience_of(error)
        assert len(proxy.seen) == sends
        assert story.outcome_unknown is (method == "POST")

    @pytest.mark.skipif(importlib.util.find_spec("socks") is not None, reason="PySocks is installed")
    def test_socks_without_pysocks(self) -> None:
        """A SOCKS proxy without PySocks is requests' own InvalidSchema, after one attempt and no wait."""
        clock = FakeClock()
        with pytest.raises(requests.exceptions.InvalidSchema, match="SOCKS") as caught:
            connect(clock=clock).post("http://gateway.invalid/", proxies={"http": "socks5h://127.0.0.1:1"})
        story = ra.resilience_of(caught.value)
        assert len(story.attempts) == 1
        assert not story.outcome_unknown
        assert clock.sleeps == []


class TestTunnel:
    def test_repeats_inside_one_tunnel(self, proxy: Proxy, tmp_path: Path) -> None:
        """HTTPS goes through one tunnel, and a repeat through the same; the certificate is checked as ever."""
        trustme = pytest.importorskip("trustme")
        authority = trustme.CA()
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(bundle))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        bodies = [b'{"code":-1001}', b'{"code":0}']

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
                pass

            def do_GET(self) -> None:
                body = bodies.pop(0)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                if not bodies:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

        server = HTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with server, connect() as session:
            url = f"https://localhost:{server.server_address[1]}/account"
            response = session.get(url, proxies={"https": proxy.url}, verify=str(bundle))
            thread.join()
        assert response.json() == {"code": 0}
        assert len(response.resilience.attempts) == 2  # type: ignore[attr-defined]
        assert [line.split()[0] for line, _ in proxy.seen] == ["CONNECT"]
