"""HTTP over Unix domain sockets, by requests-unixsocket (or its successor of the same import name)."""

from __future__ import annotations

import gc
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest
import requests
from adapter_support import adapter, plain

import resilient_adapter as ra

requests_unixsocket = pytest.importorskip("requests_unixsocket")

WELL = b'{"code":0}'
BUSY = b'{"code":-1008}'


@contextmanager
def serve(path: Path, *bodies: bytes) -> Iterator[str]:
    """Answer on a socket with these, one after the other and then the last; return its origin."""
    left = list(bodies)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
            pass

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(left.pop(0) if len(left) > 1 else left[0])

        do_POST = do_GET  # noqa: N815 - a name that http.server looks for

    with socketserver.UnixStreamServer(str(path), Handler) as server:  # type: ignore[type-var]
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield "http+unix://" + quote(str(path), safe="")
        finally:
            server.shutdown()
            thread.join()


def connect(settings: dict[str, Any] | None = None) -> requests.Session:
    """Return a session that goes through us to Unix sockets."""
    session = plain()
    session.mount("http+unix://", adapter(settings, transport=requests_unixsocket.UnixAdapter()))
    return session


def test_repeats(tmp_path: Path) -> None:
    """A call over a socket is repeated like any other, orders too where they were refused."""
    with serve(tmp_path / "a", BUSY, BUSY, WELL) as origin, connect() as session:
        response = session.post(origin + "/order", json={"a": 1})
    assert response.json()["code"] == 0
    assert len(ra.resilience_of(response).attempts) == 3


def test_circuits(tmp_path: Path) -> None:
    """Each socket is an origin of its own: one that is busy does not stop another."""
    with serve(tmp_path / "a", BUSY) as busy, serve(tmp_path / "b", WELL) as well:
        session = connect({"circuit": {"fail_max": 1}})
        session.get(busy + "/account")
        with pytest.raises(ra.CircuitOpenError):
            session.get(busy + "/account")
        assert session.get(well + "/account").json()["code"] == 0


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # UnixAdapter's own, where it cannot connect
@pytest.mark.parametrize(("method", "sends"), [("GET", 3), ("POST", 1)])
def test_nobody_there(tmp_path: Path, method: str, sends: int) -> None:
    """A socket that is not there looks, from its adapter's exception, like a broken connection: nothing is proven."""
    with connect() as session, pytest.raises(requests.ConnectionError) as caught:
        session.request(method, "http+unix://" + quote(str(tmp_path / "none"), safe="") + "/order")
    story = ra.resilience_of(caught.value)
    assert len(story.attempts) == sends
    assert story.outcome_unknown is (method == "POST")
    del caught
    gc.collect()
