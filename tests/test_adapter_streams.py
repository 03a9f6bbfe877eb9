"""stream=True: a short JSON body is looked into, and nobody who reads the stream can tell."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import requests
import urllib3
from adapter_support import RawServer, RealClock, connect, numbers, plain
from requests.adapters import BaseAdapter
from urllib3.response import HTTPResponse

import resilient_adapter as ra
from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway

LIMIT = 64 * 1024
CHUNKED = {"Transfer-Encoding": "chunked"}


def padded(size: int) -> bytes:
    """Return an envelope of so many bytes."""
    return b'{"code":0,"data":"' + b"x" * (size - 20) + b'"}'


LINES = b'{"code":0,\r\n"data":["\xc3\xa4",\n\n"b"\r]}'
CHUNKED = {"Transfer-Encoding": "chunked"}
GZIP = {"Content-Encoding": "gzip"}

PAYLOADS: dict[str, Answer] = {
    "small": Answer(200, LINES),
    "with a charset": Answer(200, LINES, content_type="application/json; charset=utf-8"),
    "problem": Answer(404, LINES, content_type="application/problem+json"),
    "at the limit": Answer(200, padded(LIMIT)),
    "beyond the limit": Answer(200, padded(LIMIT + 1)),
    "chunked": Answer(200, LINES, CHUNKED),
    "gzip": Answer(200, gzip.compress(padded(30_000), mtime=0), GZIP),
    "gzip beyond the limit": Answer(200, gzip.compress(padded(66_000), mtime=0), GZIP),
    "gzip chunked": Answer(200, gzip.compress(LINES, mtime=0), {**GZIP, **CHUNKED}),
    "deflate": Answer(200, zlib.compress(LINES), {"Content-Encoding": "deflate"}),
    "bad gzip": Answer(200, LINES, GZIP),
    "text": Answer(200, LINES, content_type="text/plain"),
    "no type": Answer(200, LINES, content_type=None),
    "empty": Answer(200, b""),
    "no content": Answer(204, b""),
    "closing": Answer(200, LINES, {"Connection": "close"}),
}


def twice(raw: HTTPResponse) -> Any:
    """Read a few bytes, then the rest, then beyond the end."""
    return raw.read(7), raw.tell(), raw.read(), raw.read(), raw.read(5), raw.tell(), raw.closed


def into(raw: HTTPResponse) -> Any:
    """Read into a buffer, until there is no more."""
    parts = []
    buffer = bytearray(50)
    while size := raw.readinto(buffer):
        parts.append(bytes(buffer[:size]))
    return b"".join(parts)


def copied(raw: HTTPResponse) -> bytes:
    """Copy it as a file."""
    target = io.BytesIO()
    shutil.copyfileobj(raw, target, 1100)
    return target.getvalue()


def piecewise(raw: HTTPResponse, **options: Any) -> Any:
    """Read a byte at a time."""
    parts = []
    while piece := raw.read(1, **options):
        parts.append(piece)
        if len(parts) > 200:
            break
    return b"".join(parts)


READERS: dict[str, Callable[[requests.Response], Any]] = {
    "content": lambda r: (r.content, r.content),
    "text": lambda r: r.text,
    "json": lambda r: r.json(),
    **{
        f"iter_content({size})": (lambda r, size=size: list(r.iter_content(size)))
        for size in (1024, 10_240, 10**7, None)
    },
    **{
        f"iter_content({size})": (lambda r, size=size: list(itertools.islice(r.iter_content(size), 2000)))
        for size in (1, 7)
    },
    "iter_content, joined": lambda r: b"".join(r.iter_content(1300)),
    "iter_content, decoded": lambda r: list(r.iter_content(300, decode_unicode=True)),
    "iter_content twice": lambda r: (list(r.iter_content(9)), list(r.iter_content(9))),
    "iteration": b"".join,
    **{f"iter_lines({size})": (lambda r, size=size: list(r.iter_lines(size))) for size in (31, 512)},
    "iter_lines, decoded": lambda r: list(r.iter_lines(chunk_size=7, decode_unicode=True)),
    "iter_lines, delimited": lambda r: list(r.iter_lines(delimiter=b",")),
    "read": lambda r: r.raw.read(),
    "read, decoded": lambda r: r.raw.read(decode_content=True),
    "read, not decoded": lambda r: r.raw.read(decode_content=False),
    "read a few": lambda r: r.raw.read(7),
    "read twice": lambda r: twice(r.raw),
    "read piecewise": lambda r: piecewise(r.raw),
    "read piecewise, decoded": lambda r: piecewise(r.raw, decode_content=True),
    "read none": lambda r: (r.raw.read(0), r.raw.read()),
    "stream": lambda r: b"".join(r.raw.stream()),
    "stream, decoded": lambda r: list(r.raw.stream(160, decode_content=True)),
    "stream, not decoded": lambda r: list(r.raw.stream(2**17, decode_content=False)),
    "read1": lambda r: b"".join(iter(r.raw.read1, b"")),
    "read1, decoded": lambda r: b"".join(iter(lambda: r.raw.read1(decode_content=True), b"")),
    "read1(n)": lambda r: [r.raw.read1(9) for _ in range(12)],
    "readinto": lambda r: into(r.raw),
    "copyfileobj": lambda r: copied(r.raw),
    "lines of raw": lambda r: list(r.raw),
    "readlines": lambda r: io.TextIOWrapper(r.raw, encoding="latin-1").read(),
    "json.load": lambda r: json.load(r.raw),
    "data": lambda r: (r.raw.data, r.raw.data),
    "read_chunked": lambda r: list(r.raw.read_chunked()),
    "facts": lambda r: (
        r.raw.length_remaining, r.raw.closed, r.raw.readable(), r.raw.chunked, r.raw.supports_chunked_reads(),
        r.raw.status, r.raw.tell(), r.raw.isclosed() if hasattr(r.raw, "isclosed") else None, r._content_consumed,
    ),
    "facts midway": lambda r: (r.raw.read(4), r.raw.length_remaining, r.raw.tell(), r.raw.closed),
    "facts at the end": lambda r: (r.content, r.raw.length_remaining, r.raw.tell(), r.raw.closed),
    "closed midway": lambda r: (r.raw.read(3), r.close(), r.raw.closed),
    "drained": lambda r: (r.raw.drain_conn(), r.raw.tell()),
    "content after a part": lambda r: (next(r.iter_content(4)), r.content),
    "text after raw": lambda r: (r.raw.read(4, decode_content=True), r.text),
    "with": lambda r: (r.__enter__().raw.read(2), r.__exit__(None, None, None), r.raw.closed),
}  # fmt: skip


def told(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the type of its exception."""
    try:
        return call()
    except Exception as error:
        return type(error)


class TestReading:
    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_every_way_to_read(self, gateway: Gateway, payload: str) -> None:
        """Read in whatever way: the bytes, their pieces and what is said of them are those of plain requests."""
        gateway.respond("/x", PAYLOADS[payload])
        ours, theirs = connect(), plain()
        differ = {}
        for name, read in READERS.items():
            seen = []
            for session in (theirs, ours):
                with session.get(gateway.url + "/x", stream=True) as response:
                    assert response._content is False  # type: ignore[comparison-overlap]
                    seen.append(told(lambda read=read, response=response: read(response)))
            if seen[0] != seen[1]:
                differ[name] = seen
        assert not differ
        assert numbers(gateway) == 2 * len(READERS)

    def test_head(self, gateway: Gateway) -> None:
        """The answer to a HEAD has no body to look into, whatever length it promises."""
        for session in (plain(), connect()):
            response = session.head(gateway.url + "/x", stream=True)
            assert response.raw.read() == b"" and int(response.headers["Content-Length"]) > 0
        assert numbers(gateway) == 2

    def test_without_a_length(self) -> None:
        """A body that ends with its connection is not read ahead."""
        with RawServer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + LINES) as server:
            response = connect().get(server.url, stream=True)
            assert b"".join(response.iter_content(3)) == LINES

    def test_a_raw_of_another_kind(self) -> None:
        """A transport's response that is not urllib3's is read as requests reads it, and its stream left alone."""

        class Files(BaseAdapter):
            answers = [b'{"code":-1001}', b'{"code":0}', b'{"code":-1001}']  # noqa: RUF012

            def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
                response = requests.Response()
                response.status_code = 200
                response.headers["Content-Type"] = "application/json"
                response.raw = io.BytesIO(self.answers.pop(0))
                response.request, response.url = request, request.url or ""
                return response

            def close(self) -> None:
                pass

        session = connect(transport=Files())
        assert session.get("http://gateway.invalid/").json()["code"] == 0
        response = session.get("http://gateway.invalid/", stream=True)
        assert ra.resilience_of(response).code is None and response.raw.read() == b'{"code":-1001}'


class TestConnections:
    @pytest.mark.parametrize("payload", PAYLOADS)
    @pytest.mark.parametrize("reader", ["content", "read", "closed midway", "iter_content(1024)", "drained", "facts"])
    def test_reuse(self, gateway: Gateway, payload: str, reader: str) -> None:
        """Streams that are read, or left, open no more connections than with plain requests."""
        gateway.respond("/x", PAYLOADS[payload])
        counts = []
        for session in (plain(), connect()):
            gateway.reset_journal()
            for _ in range(4):
                with session.get(gateway.url + "/x", stream=True) as response:
                    told(lambda response=response: READERS[reader](response))
            counts.append(gateway.connections)
        assert counts[1] <= counts[0]

    def test_two_at_once(self, gateway: Gateway) -> None:
        """Two streams that are read in turns do not get into each other's way."""
        gateway.respond("/a", padded(70_000))
        gateway.respond("/b", padded(100))
        session = connect()
        a, b = (session.get(gateway.url + path, stream=True) for path in ("/a", "/b"))
        pieces = [a.raw.read(10), b.raw.read(10), a.raw.read(), b.raw.read()]
        assert pieces[0] + pieces[2] == padded(70_000) and pieces[1] + pieces[3] == padded(100)


class TestReadAhead:
    @pytest.mark.parametrize(("answer", "sends"), [
        (Answer.error(-1001), 2),
        (Answer(200, gzip.compress(b'{"code":-1001}', mtime=0), GZIP), 2),
        (Answer(200, b'{"code":-1001}', content_type="application/vnd.x+json"), 2),
        (Answer(502, b"<html>"), 2),
        (Answer(200, b'{"code":-1001}', content_type="text/plain"), 1),
        (Answer(200, b'{"code":-1001}', CHUNKED), 1),
        (Answer(200, b'{"code":-1001,"data":"' + b"x" * LIMIT + b'"}'), 1),
        (Answer(200, b'{"code":-1001}', GZIP), 1),
    ])  # fmt: skip
    def test_an_error_that_can_be_seen_is_repeated(self, gateway: Gateway, answer: Answer, sends: int) -> None:
        """An error in a short JSON body of known length leads to a repeat; in any other it is the caller's to find."""
        answers = iter([answer, Answer.success()])
        gateway.respond("/x", lambda request: next(answers))
        response = connect().get(gateway.url + "/x", stream=True)
        assert numbers(gateway) == sends == len(ra.resilience_of(response).attempts)
        if sends == 2:
            assert response.raw.read() == Answer.success().body

    def test_bodies_that_break(self, gateway: Gateway) -> None:
        """A short JSON stream that breaks is repeated; the last one is delivered with what came of it, and breaks."""
        events: list[ra.Event] = []
        for fault in (Fault.cut_body(), Fault.reset("body"), Fault.close("body")):
            gateway.script(fault, None)
            assert connect().get(gateway.url + "/x", stream=True).json()["code"] == 0
            gateway.script(*[fault] * 3)
            response = connect(listeners=[events.append]).get(gateway.url + "/x", stream=True)
            assert response.raw.read(4) == b'{"co'
            assert response.raw.read(6) == b'de":0,'
            with pytest.raises(urllib3.exceptions.ProtocolError):
                response.raw.read(5)
            assert response.raw.read() == b"" and response.raw.closed  # as after any error
            assert events[-1].name == "give_up"
            response.close()

    def test_other_bodies_that_break(self, gateway: Gateway) -> None:
        """A stream that is not read ahead breaks where its caller reads it."""
        gateway.script(Fault.cut_body(chunked=True))
        response = connect().get(gateway.url + "/x", stream=True)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(response.iter_content(100))
        assert numbers(gateway) == 1

    def test_silence(self, gateway: Gateway) -> None:
        """A stream that falls silent while it is read ahead is repeated like any other, and then delivered."""
        gateway.script(*[Fault.drip(0.4, chunk=20)] * 2)
        response = connect({"retry": {"max_attempts": 2}}).get(gateway.url + "/x", stream=True, timeout=0.1)
        with pytest.raises(requests.ConnectionError):
            _ = response.content
        assert numbers(gateway) == 2

    def test_the_deadline(self, gateway: Gateway) -> None:
        """A stream that drips is read ahead until the deadline, and no longer."""

        class Late(FakeClock):
            def monotonic(self) -> float:
                self._monotonic += 1.0
                return super().monotonic()

        gateway.script(Fault.drip(0.005, chunk=1))
        response = connect({"deadline": 30.0}, clock=Late()).get(gateway.url + "/x", stream=True)
        with pytest.raises(requests.ConnectionError, match=r"timed out|deadline"):
            _ = response.content
        assert ra.resilience_of(response).attempts[0].error == "read_timeout"

    def test_discarded_streams(self, gateway: Gateway) -> None:
        """A stream that is not delivered gives its connection back where little is left of it, else closes it."""
        for answer, connections in (
            (Answer(502, b"<html>", content_type="text/html"), 1),
            (Answer(502, b"x" * LIMIT, content_type="text/html"), 1),
            (Answer(502, b"x" * (LIMIT + 1), content_type="text/html"), 2),
            (Answer(502, b"", content_type="text/html"), 1),
            (Answer.error(-1001), 1),
            (Answer(502, b"", CHUNKED, content_type="text/html"), 1),
            (Answer(502, b"x" * LIMIT, CHUNKED, content_type="text/html"), 1),
            (Answer(502, b"x" * 5 * LIMIT, CHUNKED, content_type="text/html"), 2),
        ):
            answers = iter([answer, Answer.success()])
            gateway.respond("/x", lambda request, answers=answers: next(answers))
            gateway.reset_journal()
            response = connect().get(gateway.url + "/x", stream=True)
            assert response.json()["code"] == 0
            assert gateway.connections == connections, answer

    def test_discarded_streams_that_break(self, gateway: Gateway) -> None:
        """What is wrong with the rest of a stream that nobody wants stops nothing; nor does its slowness."""
        gateway.respond("/x", Answer.success())
        for fault in (Fault.reset("body"), Fault.cut_body(1000), Fault.drip(0.2, chunk=1)):
            broken = Fault(
                "broken", executed=False, answer=Answer(502, b"x" * 100, content_type="text/html"),
                delivery=fault.delivery,
            )  # fmt: skip
            gateway.script(broken)
            settings = {"retry": {"base": 0.0, "jitter": 0.0}}
            response = connect(settings, clock=RealClock()).get(gateway.url + "/x", stream=True, timeout=5)
            assert response.json()["code"] == 0
