"""What is sent, sent again, and what becomes of connections, cookies and redirects on the way."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from adapter_support import adapter, connect, numbers, plain, prepare

import resilient_adapter as ra
from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway

TEXT = "first line\nsecond line \u00e4\n"


_open: list[Any] = []


def opened(path: Path, at: int = 0) -> Any:
    """Open a file at a position, until the end of the test."""
    file = path.open("rb")
    file.seek(at)
    _open.append(file)
    return file


class NoSeek(io.RawIOBase):
    """A body that can be read once: no tell, no seek."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)

    def tell(self) -> int:
        raise OSError("not seekable")


class NoTell:
    """A body with a length and a seek, that does not say where it is."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.len = len(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)

    def seek(self, *args: int) -> int:
        return self._data.seek(*args)


def piped(data: bytes) -> Any:
    """Return the reading end of a pipe that holds some bytes."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    _open.append(os.fdopen(reading, "rb"))
    return _open[-1]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Return a file with two lines."""
    file = tmp_path / "body.txt"
    file.write_text(TEXT, encoding="latin-1")
    yield file
    while _open:
        _open.pop().close()


REPLAYABLE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "none": lambda path: {},
    "bytes": lambda path: {"data": b"\x00\xff bytes"},
    "text": lambda path: {"data": "text"},
    "a form": lambda path: {"data": {"a": "1 2", "b": ["x", "y"]}},
    "JSON": lambda path: {"json": {"a": [1, None]}},
    "multipart": lambda path: {"files": {"f": opened(path)}, "data": {"k": "v"}},
    "a file": lambda path: {"data": opened(path)},
    "a file in its midst": lambda path: {"data": opened(path, 6)},
    "a file at its end": lambda path: {"data": opened(path, len(TEXT))},
    "bytes in memory": lambda path: {"data": io.BytesIO(b"memory")},
    "bytes in memory, midway": lambda path: {"data": _midway(io.BytesIO(b"memory"))},
    "text in memory": lambda path: {"data": io.StringIO("memory")},
}
ONCE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a generator": lambda path: {"data": (piece for piece in (b"one", b"two"))},
    "an iterator": lambda path: {"data": iter([b"one", b"two"])},
    "a pipe": lambda path: {"data": piped(b"piped")},
    "no seek": lambda path: {"data": NoSeek(b"unseekable")},
    "no tell": lambda path: {"data": NoTell(b"untellable")},
}


def _midway(body: io.BytesIO) -> io.BytesIO:
    body.seek(3)
    return body


class TestBodies:
    @pytest.mark.parametrize("name", REPLAYABLE)
    def test_sent_again_whole(self, gateway: Gateway, path: Path, name: str) -> None:
        """After a repeat the server has seen the same body twice: that which a bare session sends."""
        plain().put(gateway.url + "/x", **_same(REPLAYABLE[name](path)))
        gateway.script(Fault.reset(), Fault.code(-1001), Fault.status(502))
        session = connect({"retry": {"max_attempts": 4}})
        response = session.put(gateway.url + "/x", **_same(REPLAYABLE[name](path)))
        assert response.json()["code"] == 0
        bodies = [entry.body for entry in gateway.journal]
        assert len(bodies) == 5 and len(set(bodies)) == 1
        lengths = {entry.headers.get("Content-Length") for entry in gateway.journal}
        assert len(lengths) == 1

    @pytest.mark.parametrize("name", ONCE)
    def test_sent_once(self, gateway: Gateway, path: Path, name: str) -> None:
        """A body that cannot be rewound is sent once, whole; nothing is ever sent with an empty one."""
        events: list[ra.Event] = []
        for fault in (None, Fault.code(-1008), Fault.status(502), Fault.code(-1002)):
            gateway.reset_journal()
            gateway.script(fault)
            session = connect({"origins": [gateway.url]}, token_source=lambda: "t", listeners=[events.append])
            response = session.put(gateway.url + "/x", **ONCE[name](path))
            assert response.status_code == (502 if fault and fault.answer and fault.answer.status == 502 else 200)
            (entry,) = gateway.journal
            assert entry.body in (b"onetwo", b"piped", b"unseekable", b"untellable")
        assert "the body cannot be sent again" in [event.detail for event in events]

    def test_a_body_that_fails(self, gateway: Gateway) -> None:
        """A body that raises while it is read raises that, once, as with plain requests."""

        def body() -> Iterator[bytes]:
            yield b"one"
            raise ZeroDivisionError

        for session in (plain(), connect()):
            with pytest.raises(ZeroDivisionError):
                session.put(gateway.url + "/x", data=body())
        assert numbers(gateway) == 0

    def test_a_token_and_a_file(self, gateway: Gateway, path: Path) -> None:
        """The copy that carries a token shares the caller's file, and rewinds it."""
        gateway.script(Fault.code(-1002), Fault.reset())
        session = connect({"origins": [gateway.url]}, token_source=iter(["t1", "t2"]).__next__)
        with opened(path, 6) as file:
            assert session.put(gateway.url + "/x", data=file).json()["code"] == 0
        assert [entry.body for entry in gateway.journal] == [TEXT.encode("latin-1")[6:]] * 3


def _same(options: dict[str, Any]) -> dict[str, Any]:
    """Prepare multipart bodies with one boundary, which is random otherwise."""
    if "files" in options:
        request = prepare("PUT", "http://localhost/", **options)
        content = request.headers["Content-Type"]
        boundary = content.partition("boundary=")[2]
        assert isinstance(request.body, bytes)
        body = request.body.replace(boundary.encode(), b"boundary")
        return {"data": body, "headers": {"Content-Type": content.replace(boundary, "boundary")}}
    return options


class TestConnections:
    @pytest.mark.parametrize("fault", [
        Fault.code(-1001), Fault.code(-1008, status=503), Fault.status(502), Fault.status(502, b"x" * 100_000),
        Fault.code(-1003, status=429, retry_after=0), Fault.code(-1002), Fault.status(401), Fault.status(502, b""),
    ], ids=repr)  # fmt: skip
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_discarded_responses_give_theirs_back(self, gateway: Gateway, fault: Fault, method: str) -> None:
        """20 calls of which each is repeated use one connection."""
        source = iter(f"t{number}" for number in range(1000)).__next__
        session = connect({"origins": [gateway.url], "circuit": {"min_calls": 1000}}, token_source=source)
        for _ in range(20):
            gateway.script(fault)
            assert session.request(method, gateway.url + "/x").ok
        if method != "HEAD" or fault.answer.status >= 400:  # type: ignore[union-attr]
            assert numbers(gateway) == 40
        assert gateway.connections == 1

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_bounded_pool(self, gateway: Gateway, stream: bool) -> None:
        """pool_block=True with one connection does not wait for itself: not in repeats, refreshes or resyncs."""
        gateway.script(
            Fault.code(-1001), Fault.status(502, b"x" * 100_000), Fault.code(-1002), Fault.code(-1021),
            Fault.status(502, headers={"Transfer-Encoding": "chunked"}), path="/x",
        )  # fmt: skip
        session = connect(
            {"origins": [gateway.url], "retry": {"max_attempts": 9}},
            token_source=iter(["t1", "t2", "t3"]).__next__,
            signer=ra.HmacSigner("k", "s"),
            pool_block=True,
            pool_maxsize=1,
        )
        done: list[int] = []
        thread = threading.Thread(target=lambda: done.append(
            session.get(gateway.url + "/x", stream=stream).json()["code"]
        ), daemon=True)  # fmt: skip
        thread.start()
        thread.join(10)
        assert done == [0] and numbers(gateway, path="/x") == 6

    def test_a_bounded_pool_and_a_body_that_makes_no_sense(self, gateway: Gateway) -> None:
        """A body that cannot be decoded costs the pool no place."""
        odd = Answer(200, b"nonsense", {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"})
        gateway.respond("/odd", odd)
        session = connect({"retry": {"max_attempts": 1}}, pool_block=True, pool_maxsize=1)
        done: list[Any] = []

        def calls() -> None:
            for path in ("/odd", "/odd", "/x"):
                try:
                    done.append(session.get(gateway.url + path).status_code)
                except requests.exceptions.ContentDecodingError:
                    done.append("odd")

        thread = threading.Thread(target=calls, daemon=True)
        thread.start()
        thread.join(10)
        assert done == ["odd", "odd", 200]

    def test_a_url_without_a_path(self) -> None:
        """It goes to its own port, whatever pools are remembered: no prefix of a URL is taken for its origin."""
        mounted = adapter()
        for url, port in (("http://127.0.0.1:3000/", 3000), ("http://127.0.0.1:30007", 30007)):
            request = prepare("GET", "http://127.0.0.1/")
            request.url = url
            assert mounted.get_connection_with_tls_context(request, True).port == port

    def test_many_pools(self) -> None:
        """Pools are found again per origin; more origins than are remembered are served all the same."""
        gateways = [Gateway().start() for _ in range(4)]
        try:
            session = connect(pool_connections=2)
            for _ in range(3):
                for gateway in gateways:
                    assert session.get(gateway.url + "/x").ok
            adapter: Any = session.get_adapter("http://")
            assert len(adapter._pools) <= 2  # or connections would stay open that plain requests lets go of
        finally:
            for gateway in gateways:
                gateway.stop()

    def test_closed_and_used_again(self, gateway: Gateway) -> None:
        """A session that was closed can be used again, as a bare one can; its connections were closed."""
        session = connect()
        for number in (1, 2, 3):
            assert session.get(gateway.url + "/x").ok
            session.close()
            assert gateway.connections == number


class TestCookies:
    def test_of_discarded_responses(self, gateway: Gateway) -> None:
        """Cookies that a discarded response set are kept in the session; where both set one, the later wins."""
        for stream in (False, True):
            answers = iter([
                Answer.error(-1001, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=1")]),
                Answer.error(-1008, status=503, headers=[("Set-Cookie", "b=2"), ("Set-Cookie", "c=2")]),
                Answer.json({"code": 0}, headers=[("Set-Cookie", "c=3")]),
            ])  # fmt: skip
            gateway.respond("/x", lambda request, answers=answers: next(answers))
            session = connect()
            response = session.get(gateway.url + "/x", stream=stream)
            assert session.cookies.get_dict() == {"a": "1", "b": "2", "c": "3"}
            assert response.cookies.get_dict() == {"c": "3"} and response.headers["Set-Cookie"] == "c=3"
            assert response.history == []

    def test_of_the_last_response(self, gateway: Gateway) -> None:
        """Those of a response that is delivered after all, or that had none, are kept once."""
        gateway.script(*[Fault.status(502, headers={"Set-Cookie": "a=1"})] * 2, Fault.status(502))
        session = connect()
        session.get(gateway.url + "/x")
        assert session.cookies.get_dict() == {"a": "1"}

    def test_expired_ones(self, gateway: Gateway) -> None:
        """A cookie that a later response deletes is gone."""
        answers = iter([
            Answer.error(-1001, headers={"Set-Cookie": "a=1"}),
            Answer.json({"code": 0}, headers={"Set-Cookie": "a=; Max-Age=0"}),
        ])  # fmt: skip
        gateway.respond("/x", lambda request: next(answers))
        session = connect()
        session.get(gateway.url + "/x")
        assert session.cookies.get_dict() == {}


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
    def test_as_with_plain_requests(self, gateway: Gateway, status: int, method: str) -> None:
        """Redirects are followed as a bare session follows them: method, body, history and what is sent."""
        gateway.respond("/a", b'{"code":-1001}', status, headers={"Location": "/b", "Set-Cookie": "s=1"})
        gateway.respond("/b", {"code": 0})
        seen = []
        for session in (plain(), connect()):
            gateway.reset_journal()
            response = session.request(method, gateway.url + "/a", data=b"body", allow_redirects=True)
            seen.append((
                response.url, response.content, [(one.status_code, one.content) for one in response.history],
                session.cookies.get_dict(),
                [(one.method, one.path, one.body, dict(one.headers)) for one in gateway.journal],
            ))  # fmt: skip
        assert seen[0] == seen[1]

    @pytest.mark.parametrize("stream", [False, True])
    def test_not_followed(self, gateway: Gateway, stream: bool) -> None:
        """With allow_redirects=False the redirect is delivered, and .next is what it always is."""
        gateway.respond("/a", b'{"code":-1001}', 302, headers={"Location": "/b"})
        for mode in ("return", "raise"):
            response = connect({"on_error": mode}).post(
                gateway.url + "/a", data=b"x", allow_redirects=False, stream=stream
            )
            assert response.status_code == 302 and response.content == b'{"code":-1001}'
            assert response.next is not None and response.next.url == gateway.url + "/b"
            assert not ra.resilience_of(response).outcome_unknown
        assert numbers(gateway) == 2

    def test_a_redirects_body_is_left_alone(self, gateway: Gateway) -> None:
        """The body of a redirect is not read by the adapter: requests does that, or not."""
        gateway.respond("/a", b"long" * 100, 302, headers={"Location": "/b"})
        mounted = connect().get_adapter(gateway.url)
        response = mounted.send(prepare("GET", gateway.url + "/a"))
        assert not response._content_consumed and response.raw.read() == b"long" * 100  # type: ignore[attr-defined]

    def test_repeats_on_the_way(self, gateway: Gateway) -> None:
        """Each hop is a call of its own: it is repeated as often as it takes, and has its own story."""
        gateway.respond("/a", b"", 302, headers={"Location": "/b"})
        gateway.script(Fault.reset(), path="/a")
        gateway.script(Fault.code(-1001), Fault.status(502), path="/b")
        response = connect().get(gateway.url + "/a")
        assert response.json()["code"] == 0
        assert len(ra.resilience_of(response).attempts) == 3
        assert len(ra.resilience_of(response.history[0]).attempts) == 2

    def test_other_statuses_with_a_location(self, gateway: Gateway) -> None:
        """A 304, or a 3xx without a Location, is no redirect: its body is read as ever."""
        gateway.respond("/a", b'{"code":-2010}', 300)
        response = connect().get(gateway.url + "/a")
        assert response.json()["code"] == -2010 and ra.resilience_of(response).code == -2010


class TestRecoveries:
    def test_the_users_own(self, gateway: Gateway) -> None:
        """A recovery may change the request, a copy that is sent next; it is repeated once and uses up no attempt."""
        events: list[ra.Event] = []

        def renew(request: requests.PreparedRequest, response: requests.Response) -> bool:
            assert response.json()["code"] == -1125
            request.url = str(request.url).replace("old", "new")
            request.headers["X-Renewed"] = "1"
            return True

        session = connect({"retry": {"max_attempts": 1}}, recoveries={-1125: renew}, listeners=[events.append])
        gateway.script(Fault.code(-1125))
        response = session.put(gateway.url + "/stream?key=old")
        assert response.json()["code"] == 0
        assert [entry.query for entry in gateway.journal] == ["key=old", "key=new"]
        assert "X-Renewed" not in response.request.headers and str(response.request.url).endswith("key=old")
        assert [event.name for event in events] == ["recover"]
        gateway.script(Fault.code(-1125), Fault.code(-1125))
        assert session.put(gateway.url + "/stream").json()["code"] == -1125
        assert numbers(gateway) == 4

    def test_refusing_and_failing(self, gateway: Gateway) -> None:
        """A recovery that says no, or raises, ends it: the response is delivered, the request unchanged."""
        events: list[ra.Event] = []

        def no(request: requests.PreparedRequest, response: requests.Response) -> bool:
            request.url = "http://gateway.invalid/"
            return False

        def broken(request: requests.PreparedRequest, response: requests.Response) -> bool:
            raise RuntimeError("secret")

        for recovery in (no, broken):
            session = connect(recoveries={-3005: recovery}, listeners=[events.append])
            gateway.script(Fault.code(-3005))
            assert session.get(gateway.url + "/x").json()["code"] == -3005
        assert numbers(gateway) == 2
        assert any(
            event.name == "recover_failed" and "RuntimeError in broken, test_ad" in event.detail for event in events
        )
        assert not any("secret" in event.detail for event in events)

    def test_instead_of_ours(self, gateway: Gateway) -> None:
        """A recovery for a code that we know goes before what we would do."""
        clock = FakeClock()
        session = connect(recoveries={-1001: lambda request, response: True}, clock=clock)
        gateway.script(Fault.code(-1001))
        assert session.post(gateway.url + "/x").json()["code"] in (0, -1001)
        assert session.get(gateway.url + "/x").ok
        gateway.script(Fault.code(-1001))
        assert session.get(gateway.url + "/x").json()["code"] == 0
        assert clock.sleeps == []
