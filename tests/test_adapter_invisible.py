"""Where nothing can be done, or nothing has to be, the adapter is not to be noticed: the standard is plain requests."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from adapter_support import RawServer, RealClock, adapter, closed_port, connect, numbers, outcome, plain, prepare
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

import resilient_adapter as ra
from resilient_adapter.testing import Answer, Fault, Gateway

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON = b'{"code":0,"msg":"success","data":{"n":"\xc3\xa4"}}'
DEEP = 100_000


def padded(size: int) -> bytes:
    """Return an envelope of so many bytes."""
    return b'{"code":0,"data":"' + b"x" * (size - 20) + b'"}'


# body, headers
BODIES: dict[str, tuple[bytes, dict[str, str]]] = {
    "empty": (b"", {}),
    "one byte": (b"1", {}),
    "small": (JSON, {}),
    **{f"{size} bytes": (padded(size), {}) for size in (8191, 8192, 8193, 10_240, 1_000_000)},
    "chunked": (JSON, {"Transfer-Encoding": "chunked"}),
    "1 MB chunked": (padded(1_000_000), {"Transfer-Encoding": "chunked"}),
    "empty chunked": (b"", {"Transfer-Encoding": "chunked"}),
    "gzip": (gzip.compress(JSON, mtime=0), {"Content-Encoding": "gzip"}),
    "gzip of 1 MB": (gzip.compress(padded(1_000_000), mtime=0), {"Content-Encoding": "gzip"}),
    "gzip of two members": (gzip.compress(JSON, mtime=0) + gzip.compress(b" ", mtime=0), {"Content-Encoding": "gzip"}),
    "gzip chunked": (gzip.compress(JSON, mtime=0), {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}),
    "deflate": (zlib.compress(JSON), {"Content-Encoding": "deflate"}),
    "raw deflate": (zlib.compress(JSON)[2:-4], {"Content-Encoding": "deflate"}),
    "deflate, gzip": (gzip.compress(zlib.compress(JSON), mtime=0), {"Content-Encoding": "deflate, gzip"}),
    "unknown encoding": (JSON, {"Content-Encoding": "rot13"}),
    "empty gzip": (b"", {"Content-Encoding": "gzip"}),
    "zstd": (zstd.compress(JSON), {"Content-Encoding": "zstd"}),
    "zstd of 1 MB": (zstd.compress(padded(1_000_000)), {"Content-Encoding": "zstd"}),
    "zstd chunked": (zstd.compress(JSON), {"Content-Encoding": "zstd", "Transfer-Encoding": "chunked"}),
    "empty zstd": (b"", {"Content-Encoding": "zstd"}),
    "part of a zstd": (zstd.compress(JSON)[:-4], {"Content-Encoding": "zstd"}),
    "part of a gzip": (gzip.compress(padded(50_000), mtime=0)[:-20], {"Content-Encoding": "gzip"}),
    "closing": (JSON, {"Connection": "close"}),
    "malformed": (b'{"code":0,"data":', {}),
    "two documents": (JSON + JSON, {}),
    "not JSON": (b"<html>", {"Content-Type": "text/html; charset=latin-1"}),
    "invalid UTF-8": (b'{"code":0,"msg":"\xff\xfe"}', {}),
    "nested arrays": (b"[" * DEEP + b"]" * DEEP, {}),
    "nested objects": (b'{"data":' * DEEP + b"1" + b"}" * DEEP, {}),
    "a huge integer": (b'{"code":' + b"9" * 10_000 + b"}", {}),
    "a huge exponent": (b'{"code":1e999999}', {}),
    "code as a string": (b'{"code":"0"}', {}),
    "code as a float": (b'{"code":-1001.0}', {}),
    "code as a boolean": (b'{"code":true}', {}),
    "code as null": (b'{"code":null}', {}),
    "code as a list": (b'{"code":[-1001]}', {}),
    "a nested code": (b'{"data":{"code":-1001}}', {}),
    "two codes": (b'{"code":-1001,"code":0}', {}),
    "a positive code": (b'{"code":200,"data":[]}', {}),
    "an unlisted code": (b'{"code":-9999,"data":[]}', {}),
    "an error of the caller's": (b'{"code":-2010,"msg":"no"}', {}),
    "NaN": (b'{"code":0,"data":NaN}', {}),
    "a BOM": (b"\xef\xbb\xbf" + JSON, {}),
    "UTF-16": ('{"code":0}'.encode("utf-16"), {}),
    "NULs": (b"\0" * 100, {}),
    "odd headers": (JSON, {"X-A": "\xe4", "Retry-After": "nonsense", "Set-Cookie": "a=b; Path=/"}),
}


class TestResponses:
    @pytest.mark.parametrize("name", BODIES)
    def test_bodies(self, gateway: Gateway, name: str) -> None:
        """A body of any size, encoding, content type or truth is handed on byte for byte, with the same headers."""
        body, headers = BODIES[name]
        gateway.respond("/x", Answer(200, body, headers, None if "Content-Type" in headers else "application/json"))
        url = gateway.url + "/x?a=b#fragment"
        for method in ("GET", "POST", "HEAD"):
            expected = outcome(plain().request(method, url))
            assert outcome(connect().request(method, url)) == expected
            assert outcome(connect({"deadline": 0}).request(method, url)) == expected
        assert numbers(gateway) == 9

    @pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 405, 501])
    def test_statuses(self, gateway: Gateway, status: int) -> None:
        """Each status is delivered with its reason, whether it has a body or may not have one."""
        gateway.respond("/x", b'{"data":1}', status)
        for method in ("GET", "PUT", "HEAD", "OPTIONS"):
            expected = outcome(plain().request(method, gateway.url + "/x"))
            assert outcome(connect().request(method, gateway.url + "/x")) == expected
        assert numbers(gateway) == 8

    @pytest.mark.parametrize("answer", [
        b"HTTP/1.1 200 OK\r\n\r\n" + JSON,
        b"HTTP/1.0 200 Fine\r\nContent-Type: application/json\r\n\r\n" + JSON,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(padded(100_000), mtime=0),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + JSON,
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n" + JSON,
        b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Encoding: zstd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ])  # fmt: skip
    def test_bodies_that_end_with_the_connection(self, answer: bytes) -> None:
        """A body without a length ends with its connection, as with plain requests; so do other liberties."""
        with RawServer(answer) as server:
            assert outcome(connect().get(server.url)) == outcome(plain().get(server.url))

    def test_any_body(self) -> None:
        """Whatever the bytes, the encoding and the chunking: what is delivered is what plain requests delivers."""
        with Gateway() as gateway:
            ours, theirs = connect({"retry": {"max_attempts": 1}}), plain()

            @hypothesis_settings(max_examples=80)
            @given(
                body=st.binary(max_size=300) | st.sampled_from([JSON, padded(9000), b'{"code":-2010}', b'{"code":']),
                encoding=st.sampled_from([None, "gzip", "deflate", "lie"]),
                chunked=st.booleans(),
                media=st.sampled_from([None, "application/json", "text/plain; charset=utf-8", "nonsense"]),
                status=st.sampled_from([200, 204, 400, 404]),
                stream=st.booleans(),
            )
            def check(
                body: bytes, encoding: str | None, chunked: bool, media: str | None, status: int, stream: bool
            ) -> None:
                # A 204 that says "chunked" has urllib3 wait for chunks, ours or not.
                headers = {"Transfer-Encoding": "chunked"} if chunked and status != 204 else {}
                if encoding is not None:
                    headers["Content-Encoding"] = encoding.replace("lie", "gzip")
                    pack: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
                    body = pack.get(encoding, bytes)(body)
                gateway.respond("/x", Answer(status, body, headers, media))
                assert told(lambda: outcome(ours.get(gateway.url + "/x", stream=stream))) == told(
                    lambda: outcome(theirs.get(gateway.url + "/x", stream=stream))
                )

            check()


class TestRequests:
    @pytest.mark.parametrize("options", [
        {},
        {"params": {"b": 1, "a": "\u00e4 &"}},
        {"data": {"b": 1, "a": "x y"}},
        {"data": b"bytes"},
        {"data": "text"},
        {"json": {"b": [1, None]}},
        {"files": {"f": ("a.txt", b"content")}},
        {"auth": ("user", "password")},
        {"cookies": {"c": "1"}},
        {"headers": {"X-A": "1", "Content-Type": "application/json", "Accept": None}},
        {"data": iter([b"a", b"b"])},
    ])  # fmt: skip
    def test_what_is_sent(self, gateway: Gateway, options: dict[str, Any]) -> None:
        """The server receives the very request that a bare session would send."""
        if hasattr(options.get("data"), "__next__"):
            pieces = list(options["data"])
            variants = [{"data": iter(pieces)}, {"data": iter(pieces)}]
        else:
            variants = [options, options]
        for session, variant in zip((plain(), connect()), variants, strict=True):
            assert session.post(gateway.url + "/x", **variant).ok
        theirs, ours = (
            (one.method, one.path, one.query, masked(one.body), {k: masked(v) for k, v in one.headers.items()})
            for one in gateway.journal
        )
        assert ours == theirs

    @pytest.mark.parametrize("path", [
        "", "/", "//", "///a//b", "//evil.invalid/a", "/a b", "/%7Ea/%zz", "/\u00e4?\u00f6=\u00fc#f", "?a",
        "/a;b=c?d=/e?f", "/..", "/a/../b",
    ])  # fmt: skip
    def test_request_lines(self, gateway: Gateway, path: str) -> None:
        """Whatever the path looks like, the request line is the one that a bare session sends."""
        for session in (plain(), connect()):
            told(lambda session=session: session.get(gateway.url + path))
        assert len(gateway.journal) == 2
        theirs, ours = ((entry.path, entry.query) for entry in gateway.journal)
        assert ours == theirs

    def test_the_request_is_left_alone(self, gateway: Gateway) -> None:
        """The caller's PreparedRequest is the one in the response, and has not changed, repeats and all."""
        settings = {"origins": [gateway.url], "retry": {"jitter": 0.0}}
        session = connect(settings, token_source=lambda: "secret", signer=ra.HmacSigner("key", "secret"))
        request = prepare("PUT", gateway.url + "/x?b=1&a=2", json={"q": 1}, headers={"X-A": "1"})
        before = (request.url, dict(request.headers), request.body, dict(request._cookies), request.method)  # type: ignore[attr-defined]
        headers, hooks = request.headers, request.hooks
        gateway.script(Fault.reset(), Fault.code(-1001), None)
        response = session.send(request)
        assert response.request is request
        assert response.url == before[0]
        assert (request.url, dict(request.headers), request.body, dict(request._cookies), request.method) == before  # type: ignore[attr-defined]
        assert request.headers is headers and request.hooks is hooks
        assert numbers(gateway, method="PUT") == 3

    def test_hooks_and_times(self, gateway: Gateway) -> None:
        """A response hook is called once, with the delivered response; elapsed is set."""
        gateway.script(Fault.status(502))
        seen: list[requests.Response] = []
        hook: Any = {"response": lambda response, **_: seen.append(response)}
        response = connect().get(gateway.url + "/x", hooks=hook)
        assert seen == [response] and response.elapsed.total_seconds() > 0

    def test_positional_arguments(self, gateway: Gateway) -> None:
        """adapter.send takes HTTPAdapter's arguments by position, as some caches pass them."""
        request = prepare("GET", gateway.url + "/x")
        response = adapter().send(request, True, 5.0, True, None, {})
        assert response.json()["code"] == 0
        assert response.raw is not None and response.connection is not None  # type: ignore[attr-defined]

    def test_connections(self, gateway: Gateway) -> None:
        """Sequential calls use one connection, as those of a bare session do."""
        session = connect()
        for number in range(10):
            session.get(f"{gateway.url}/{number}")
        assert gateway.connections == 1


def masked(value: Any) -> Any:
    """Return a text without a multipart boundary, which is random."""
    if isinstance(value, bytes):
        return re.sub(rb"[0-9a-f]{32}", b"#", value)
    return re.sub(r"[0-9a-f]{32}", "#", value)


def told(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the type, request and response of its exception, and what led to it."""
    try:
        try:
            raise LookupError("what its caller is handling")
        except LookupError:
            return call()
    except Exception as error:
        request = getattr(error, "request", None)
        led = type(error.__cause__), type(error.__context__)
        return type(error), None if request is None else request.url, getattr(error, "response", None), led


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """Listen, but let no connection come about: those to come time out."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"


BROKEN = {
    "reset": Fault.reset(),
    "closed": Fault.close(),
    "reset in the body": Fault.reset("body"),
    "cut off": Fault.cut_body(),
    "cut off, chunked": Fault.cut_body(chunked=True),
    "silent": Fault.delay(5),
    "bad gzip": Fault.status(200, b"\x1f\x8bnonsense", headers={"Content-Encoding": "gzip"}),
    "bad deflate": Fault.status(200, b"nonsense", headers={"Content-Encoding": "deflate"}),
}


class TestExceptions:
    def test_an_upload_that_nobody_reads(self) -> None:
        """At the call's deadline it is requests' own timeout, and it may have been executed."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
            with pytest.raises(requests.Timeout) as caught:
                connect({"deadline": 0.3}, clock=RealClock()).post(url, data=b"x" * 30_000_000)
        assert ra.resilience_of(caught.value).outcome_unknown

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("name", BROKEN)
    def test_on_the_wire(self, gateway: Gateway, name: str, method: str) -> None:
        """What breaks on the wire raises what it raises from a bare session, with the same request."""
        seen = []
        for session in (plain(), connect()):
            gateway.clear()
            gateway.script(*[BROKEN[name]] * 3)
            request = prepare(method, gateway.url + "/x")
            got = told(lambda session=session, request=request: session.send(request, timeout=0.1))
            assert isinstance(got[0], type)
            seen.append(got)
        assert seen[1] == seen[0]

    @pytest.mark.parametrize("answer", [
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ])  # fmt: skip
    def test_what_no_server_should_send(self, answer: bytes) -> None:
        """An answer that is no HTTP raises what it raises from a bare session."""
        with RawServer(answer) as server:
            expected = told(lambda: plain().get(server.url))
            assert issubclass(expected[0], requests.RequestException)
            assert told(lambda: connect().get(server.url)) == expected

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:{closed}/x", "http://nowhere.invalid/x", "https://127.0.0.1:{closed}/"]
    )
    def test_no_connection(self, url: str) -> None:
        """A connection that is not made raises the ConnectionError that plain requests raises."""
        url = url.format(closed=closed_port())
        expected = told(lambda: plain().get(url))
        assert issubclass(expected[0], requests.ConnectionError)
        assert told(lambda: connect().get(url)) == expected

    def test_connect_timeouts(self) -> None:
        """A connection that is not made in time raises ConnectTimeout, and proves that nothing was sent."""
        with deaf() as url:
            expected = told(lambda: plain().post(url, timeout=0.05))
            assert expected[0] is requests.ConnectTimeout
            with pytest.raises(requests.ConnectTimeout) as caught:
                connect().post(url, timeout=0.05)
        assert told(lambda: (_ for _ in ()).throw(caught.value))[:3] == expected[:3]
        story = ra.resilience_of(caught.value)
        assert [one.error for one in story.attempts] == ["connect_timeout"] * 3 and not story.outcome_unknown

    @pytest.mark.parametrize("timeout", [0, -1, "soon", True, (1, 2, 3), (1,), (0, 5), (5, "x"), [1, 2], object])
    def test_invalid_timeouts(self, gateway: Gateway, timeout: Any) -> None:
        """A timeout that makes no sense is refused as by a bare session, and nothing is sent."""
        expected = told(lambda: plain().get(gateway.url, timeout=timeout))
        assert isinstance(expected[0], type)
        assert told(lambda: connect().get(gateway.url, timeout=timeout)) == expected
        assert told(lambda: connect({"deadline": 0.9}).get(gateway.url, timeout=timeout))[0] is expected[0]
        assert gateway.journal == []

    @pytest.mark.parametrize("change", [
        {"headers": {"X-A": "a\r\nb: c"}},
        {"headers": {"X\n": "a"}},
        {"url": "http://:80/"},
        {"url": "http://127.0.0.1:99999/"},
        {"url": "http://[::1/"},
        {"url": "http://.example.invalid/"},
        {"url": ""},
        {"url": None},
        {"method": "GET X"},
    ])  # fmt: skip
    def test_what_cannot_be_sent(self, gateway: Gateway, change: dict[str, Any]) -> None:
        """A request that no transport could put on the wire is refused at once, as by a bare adapter."""
        request = prepare("GET", gateway.url + "/x")
        for name, value in change.items():
            setattr(request, name, value)
        expected = told(lambda: HTTPAdapter().send(request))
        assert isinstance(expected[0], type)
        assert told(lambda: adapter().send(request)) == expected

    @pytest.mark.parametrize("options", [
        {"verify": "/no/such/bundle.pem"},
        {"cert": "/no/such/cert.pem"},
        {"cert": ("/no/such/cert.pem", "/no/such/key.pem")},
    ])  # fmt: skip
    def test_certificates(self, gateway: Gateway, options: dict[str, Any]) -> None:
        """A CA path or a certificate that is not there raises what it always does, at once."""
        url = gateway.url.replace("http:", "https:")
        expected = told(lambda: plain().get(url, **options))
        assert issubclass(expected[0], OSError) and not issubclass(expected[0], requests.RequestException)
        assert told(lambda: connect().get(url, **options)) == expected
        assert gateway.connections == 0

    def test_a_server_without_tls(self) -> None:
        """A server that does not speak TLS is requests' SSLError."""
        with RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
            url = server.url.replace("http:", "https:")
            expected = told(lambda: plain().get(url))
            assert expected[0] is requests.exceptions.SSLError
            assert told(lambda: connect().get(url)) == expected

    def test_proxies(self, gateway: Gateway) -> None:
        """A proxy that refuses is a ProxyError; it proves that nothing was sent, and one that serves is used."""
        refusing = {"http": f"http://127.0.0.1:{closed_port()}"}
        expected = told(lambda: plain().post(gateway.url, proxies=refusing))
        assert expected[0] is requests.exceptions.ProxyError
        assert told(lambda: connect().post(gateway.url, proxies=refusing)) == expected
        serving = {"http": gateway.url}
        response = connect().get("http://somewhere.invalid/path", proxies=serving)
        assert response.json()["data"]["path"] == "/path"

    def test_streams(self, gateway: Gateway) -> None:
        """A stream that breaks off raises where it is read, as it always does; other faults at once."""
        for fault in BROKEN.values():
            seen = []
            for session in (plain(), connect()):
                gateway.clear()
                gateway.script(*[fault] * 3)
                seen.append(told(lambda session=session: session.get(gateway.url, stream=True, timeout=0.1).content))
            assert seen[1] == seen[0], fault


def test_off_is_plain(gateway: Gateway) -> None:
    """mode="off" is plain requests: no repeat, no timeout, nothing added to the response."""
    gateway.script(Fault.code(-1001))
    response = connect({"mode": "off"}).get(gateway.url + "/x")
    assert response.json()["code"] == -1001 and numbers(gateway) == 1
    assert not hasattr(response, "resilience")
    gateway.script(Fault.reset())
    with pytest.raises(requests.ConnectionError) as caught:
        connect({"mode": "off"}).get(gateway.url + "/x")
    assert not hasattr(caught.value, "resilience")


def test_other_origins_are_plain(gateway: Gateway) -> None:
    """Where origins are listed, every other one gets plain requests."""
    gateway.script(Fault.code(-1001))
    response = connect({"origins": ["https://gateway.example"]}).get(gateway.url + "/x")
    assert response.json()["code"] == -1001 and numbers(gateway) == 1
    assert not hasattr(response, "resilience")
