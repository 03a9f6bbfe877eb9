"""What neighbours do to a response or to a URL, without any of them installed."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from adapter_support import connect, numbers
from requests.adapters import BaseAdapter, HTTPAdapter

import resilient_adapter as ra
from resilient_adapter.testing import Gateway


class Watched:
    """Stands before a connection and sees what is read, as a cache does that keeps a copy; the rest it passes on."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.seen = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, size: int | None = None) -> bytes:
        piece: bytes = self._reader.read(size)
        self.seen += piece
        return piece


class Watching(HTTPAdapter):
    def build_response(self, request: Any, response: Any) -> requests.Response:
        self.watched = response._fp = Watched(response._fp)
        return super().build_response(request, response)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [100, 100_000])
def test_what_stands_before_a_connection_sees_every_byte(gateway: Gateway, size: int, stream: bool) -> None:
    """A body is never read past what a transport has put around its connection, and that is reused."""
    body = b'{"code":0,"data":"' + b"x" * size + b'"}'
    gateway.respond("/account", body)
    transport = Watching()
    with connect(transport=transport) as session:
        for _ in range(2):
            assert session.get(gateway.url + "/account", stream=stream).content == body
            assert transport.watched.seen == body
    assert gateway.connections == 1
    assert numbers(gateway) == 2


class Sockets(BaseAdapter):
    """Answers for whatever name stands in a URL, as transports for Unix sockets do."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = 503 if "busy" in (request.url or "") else 200
        response._content = b""
        return response

    def close(self) -> None:
        pass


@pytest.mark.parametrize("scheme", ["http+unix", "a", "transport-with-a-long-name"])
def test_origins_under_other_schemes(scheme: str) -> None:
    """Under any scheme each host has a circuit of its own: one that is busy does not stop another."""
    session = connect({"circuit": {"fail_max": 1}}, transport=Sockets())
    session.mount(f"{scheme}://", session.get_adapter("http://"))
    session.get(f"{scheme}://%2Fbusy/account")
    with pytest.raises(ra.CircuitOpenError):
        session.get(f"{scheme}://%2Fbusy/account")
    assert session.get(f"{scheme}://%2Fwell/account").status_code == 200
