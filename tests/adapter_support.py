"""What the end-to-end tests of the adapter have in common: sessions, and the bounds of a backoff."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import requests

import resilient_adapter as ra
from resilient_adapter.testing import FakeClock

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

    from resilient_adapter.testing import Gateway

#: Waits without chance, for tests that name them exactly.
EXACT = {"retry": {"jitter": 0.0}}

SUCCESS = b'{"code":0,"msg":"success","data":{}}'


class RealClock:
    """Real time, equal to itself only: what a test learns of an origin dies with the test."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Meddling(FakeClock):
    """A clock on which something happens during the next sleep."""

    meddle: Callable[[], object] | None = None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            meddle()


def in_threads(count: int, work: Callable[[], object]) -> None:
    """Do the same in many threads, and wait until all of them have."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def adapter(settings: Mapping[str, Any] | None = None, **arguments: Any) -> ra.ResilientAdapter:
    """Return an adapter with these settings over the defaults, and a clock of its own where none is given."""
    arguments.setdefault("clock", FakeClock())
    return ra.ResilientAdapter(ra.Settings.from_mapping(settings or {}), **arguments)


def connect(settings: Mapping[str, Any] | None = None, **arguments: Any) -> requests.Session:
    """Return a session that has such an adapter mounted for everything."""
    session = requests.Session()
    session.trust_env = False
    mounted = adapter(settings, **arguments)
    session.mount("http://", mounted)
    session.mount("https://", mounted)
    return session


def plain() -> requests.Session:
    """Return a session without anything of ours: what the others are compared to."""
    session = requests.Session()
    session.trust_env = False
    return session


def prepare(method: str, url: str, **options: Any) -> PreparedRequest:
    """Return a request as a session prepares it."""
    return plain().prepare_request(requests.Request(method, url, **options))


def outcome(response: Response) -> tuple[Any, ...]:
    """Return all of a response that two sends of one request have in common."""
    headers = {name: value for name, value in response.headers.items() if name.lower() != "date"}
    return (
        response.status_code,
        response.reason,
        headers,
        response.content,
        response.url,
        response.encoding,
        response.text,
        response.cookies.get_dict(),
        [(one.status_code, one.url) for one in response.history],
        response.raw.headers.items(),
        response.raw.version,
    )


def numbers(gateway: Gateway, **which: Any) -> int:
    """Return how many requests have arrived."""
    return len(gateway.received(**which))


def closed_port() -> int:
    """Return a port on which nobody listens, and nobody else will: it stays bound until the process ends."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    _held.append(holder.detach())
    with socket.socket(fileno=_held[-1]) as again:
        port: int = again.getsockname()[1]
        _held[-1] = again.detach()
    return port


_held: list[int] = []


class RawServer:
    """Answers every connection with the same bytes, and closes it: for what no well-behaved server would send."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if connection.recv(65536).startswith(b"STOP"):
                    return
                connection.sendall(self._answer)

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with socket.create_connection(self._listener.getsockname()) as connection:
            connection.sendall(b"STOP")
        self._thread.join()
        self._listener.close()


class TalkingServer:
    """Keeps connections open and answers each request as told: for what one request leaves to the next.

    Requests with a body are not for it.

    Args:
        answer: given a request's first line, and its number on its connection, from 1, returns the bytes to send.

    Attributes:
        connections: how many have been made.
    """

    def __init__(self, answer: Callable[[str, int], bytes]) -> None:
        self.connections = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve)]
        self._open: list[socket.socket] = []

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self._open.append(connection)
            if connection.recv(4, socket.MSG_PEEK) == b"STOP":
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._talk, args=(connection,)))
            self._threads[-1].start()

    def _talk(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            number = 0
            while line := lines.readline():
                number += 1
                while lines.readline().strip():
                    pass
                connection.sendall(self._answer(line.decode(), number))

    def __enter__(self) -> TalkingServer:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        with socket.create_connection(self._listener.getsockname()) as connection:
            connection.sendall(b"STOP")
            self._threads[0].join()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for connection in self._open:
            connection.close()
        self._listener.close()
