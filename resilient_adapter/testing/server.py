"""A small HTTP/1.1 server: sockets, framing and threads. What is answered is somebody else's business.

One thread to each connection, because a fault may hold one up for as long as it likes. `http.server` would not do: it
reads no chunked requests, and its buffered files stand between a fault and the bytes and segments that it is made of.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import string
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .faults import WHOLE, Delivery
from .messages import REASONS, Answer, Headers, header_pairs


class Incoming(NamedTuple):
    """A request as it came over a connection."""

    connection: int
    method: str
    target: str
    headers: Headers
    body: bytes


class _Terms(NamedTuple):
    """What the framing of an answer depends on, beside the answer. The defaults are for a request that was not read."""

    method: str = "GET"
    version: str = "HTTP/1.1"
    keep_alive: bool = False


# Given the event that is set when the server goes down, returns what to answer and how; None: nothing any more.
Exchange: TypeAlias = Callable[[Incoming, threading.Event], "tuple[Answer, Delivery] | None"]

_HEAD_LIMIT = 65536  # bytes
_PIECE = 65536  # bytes
_LINGER = 0.5  # seconds in which a client may read on after we closed, before unread data of its own makes that a RST
_JOIN = 5.0  # seconds for a thread to end; only one that is stuck in a handler takes any
_BODILESS = (204, 304)
_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # SO_LINGER: on, 0 s: close() sends a RST


class Server:
    """Listens on one port. `start`, `stop`, `pause` and `resume` are called by one thread at a time.

    Args:
        host: the address to listen on.
        port: the port; 0: any free one.
        exchange: called for each request, in the thread of its connection.
    """

    def __init__(self, host: str, port: int, exchange: Exchange) -> None:
        self._address = (host, port)
        self.exchange = exchange
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._accepted = 0
        self._reserved: socket.socket | None = None  # bound, and not listening
        self._acceptor: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._halt = threading.Event()
        self.port = port

    @property
    def accepted(self) -> int:
        """How many connections have been accepted."""
        return self._accepted

    def start(self) -> None:
        """Bind and listen."""
        self._reserved = self._bind(self._address[1])
        self.port = self._reserved.getsockname()[1]
        self.resume()

    def stop(self) -> None:
        """Close everything, and wait for the threads to end."""
        self._shut_down()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def pause(self) -> None:
        """Refuse connections and close those there are, but keep the port."""
        if self._acceptor is not None:
            self._shut_down()
            # Bound but not listening: connections are refused, and nobody else can be given the port meanwhile.
            self._reserved = self._bind(self.port)

    def resume(self) -> None:
        """Listen (again)."""
        if self._reserved is None:
            return
        listener, self._reserved = self._reserved, None
        listener.listen(1024)
        listener.setblocking(False)
        wakened, self._waker = socket.socketpair()
        self._halt = threading.Event()
        self._acceptor = threading.Thread(
            target=self._accept, args=(listener, wakened, self._halt), name=f"gateway-{self.port}", daemon=True
        )
        self._acceptor.start()

    def _bind(self, port: int) -> socket.socket:
        host = self._address[0]
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            # Take a port whose old connections still linger; outside POSIX it would let two servers share one.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
            listener.bind((host, port))
        except BaseException:
            listener.close()
            raise
        return listener

    def _shut_down(self) -> None:
        if self._acceptor is not None and self._waker is not None:
            self._halt.set()
            # Nothing is sent: a connection that came at this moment may have woken the acceptor, and it is gone by now.
            self._waker.close()
            self._acceptor.join(_JOIN)
            self._acceptor = self._waker = None
        # Even where nobody is accepted any more: the thread of a handler that took its gateway down may still run.
        with self._lock:
            links = list(self._links)
            for link in links:
                link.shut_down()
        for link in links:
            if link.thread is not threading.current_thread():
                link.thread.join(_JOIN)

    def _accept(self, listener: socket.socket, wakened: socket.socket, halt: threading.Event) -> None:
        with listener, wakened, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wakened, selectors.EVENT_READ)
            while True:
                selector.select()
                if halt.is_set():
                    return
                try:
                    sock, _ = listener.accept()
                except OSError:  # pragma: no cover - the client was gone before it was accepted
                    continue
                with self._lock:
                    self._accepted += 1
                    link = _Link(self, sock, self._accepted, halt)
                    self._links.add(link)
                link.thread.start()

    def forget(self, link: _Link) -> None:
        """Close a connection. Under the lock: `stop` must never shut down a descriptor that is another's by now."""
        with self._lock:
            self._links.discard(link)
            link.sock.close()


class _RefusalError(Exception):
    """A request that is not HTTP, or none that this server can read."""

    def __init__(self, status: int) -> None:
        self.status = status


class _Link:
    """One connection, its thread, and what was read from it and not used yet."""

    def __init__(self, server: Server, sock: socket.socket, number: int, halt: threading.Event) -> None:
        self._server = server
        self.sock = sock
        self._number = number
        self._halt = halt
        self._buffer = bytearray()
        name = f"gateway-{server.port}-connection-{number}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def shut_down(self) -> None:
        """Wake the thread from whatever it does on the socket, and close to the client."""
        with contextlib.suppress(OSError):  # it was closed from the other side
            self.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            self.sock.setblocking(True)  # on some systems it takes after the listener
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self._serve_one():
                pass
        except (OSError, EOFError):
            pass  # the client went away
        finally:
            self._server.forget(self)

    def _serve_one(self) -> bool:
        """Serve one request; return whether another may follow on this connection."""
        try:
            head = self._read_head()
            if head is None:
                return False
            method, target, version, headers = head
            body = self._read_body(headers, version)
        except _RefusalError as refused:
            text = REASONS[refused.status].encode()
            return self._send(Answer(refused.status, text, content_type="text/plain"), WHOLE, _Terms())
        tokens = {token.strip().lower() for token in headers.get("Connection", "").split(",")}
        keep_alive = "close" not in tokens if version != "HTTP/1.0" else "keep-alive" in tokens
        try:
            result = self._server.exchange(Incoming(self._number, method, target, headers, body), self._halt)
        except Exception as error:
            # The test's own handler is wrong: it should hear of that, and the client not be left waiting.
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self.thread)))
            text = f"the gateway's handler raised {type(error).__name__}".encode()
            result = Answer(500, text, content_type="text/plain"), WHOLE
        if result is None:
            return False
        return self._send(*result, _Terms(method, version, keep_alive))

    # Reading (RFC 9112).

    def _receive(self) -> None:
        data = self.sock.recv(_PIECE)
        if not data:
            raise EOFError
        self._buffer += data

    def _read_until(self, end: bytes) -> str:
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise _RefusalError(431)
            searched = max(0, len(self._buffer) - len(end) + 1)
            self._receive()
        text = self._buffer[:found].decode("latin-1")
        del self._buffer[: found + len(end)]
        return text

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _read_head(self) -> tuple[str, str, str, Headers] | None:
        while True:
            while self._buffer.startswith(b"\r\n"):  # a client may end a body with one too many (section 2.2)
                del self._buffer[:2]
            if len(self._buffer) > 1:
                break
            data = self.sock.recv(_PIECE)
            if not data:
                return None
            self._buffer += data
        first, *lines = self._read_until(b"\r\n\r\n").split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
            raise _RefusalError(400)
        pairs = []
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise _RefusalError(400)
            pairs.append((name, value.strip()))
        return parts[0], parts[1], parts[2], Headers(pairs)

    def _read_body(self, headers: Headers, version: str) -> bytes:
        coding = headers.get("Transfer-Encoding")
        length = headers.get("Content-Length", "0")
        if coding is not None and coding.lower() != "chunked":
            raise _RefusalError(501)
        if not (length.isascii() and length.isdigit()):
            raise _RefusalError(400)
        expects = headers.get("Expect", "").lower() == "100-continue" and version != "HTTP/1.0"
        if expects and not self._buffer:
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._read_chunks() if coding is not None else self._read_exactly(int(length))

    def _read_chunks(self) -> bytes:
        chunks = []
        while True:
            text = self._read_until(b"\r\n").partition(";")[0].strip()
            if not text or text.strip(string.hexdigits):  # int() alone would take signs and underscores
                raise _RefusalError(400)
            size = int(text, 16)
            if size == 0:
                break
            chunks.append(self._read_exactly(size))
            if self._read_exactly(2) != b"\r\n":
                raise _RefusalError(400)
        while self._read_until(b"\r\n"):
            pass  # trailers
        return b"".join(chunks)

    # Writing.

    def _send(self, answer: Answer, delivery: Delivery, terms: _Terms) -> bool:
        if delivery.silent:
            return self._end(delivery)
        body = answer.body if delivery.keep is None else answer.body[: delivery.keep]
        promised = len(answer.body) if delivery.keep is None else max(len(answer.body), len(body) + 1)
        head, chunked, keep_alive = _head(answer, delivery, promised, terms)
        if terms.method == "HEAD" or answer.status in _BODILESS:
            self.sock.sendall(head)
        else:
            size = delivery.chunk or len(body) or 1
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            if chunked:
                pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
                if delivery.keep is None:
                    pieces.append(b"0\r\n\r\n")
            if not delivery.chunk:
                self.sock.sendall(b"".join((head, *pieces)))
            elif not self._drip(head, pieces, delivery.interval):
                return False
        return keep_alive or self._end(delivery)

    def _drip(self, head: bytes, pieces: list[bytes], interval: float) -> bool:
        self.sock.sendall(head)
        for piece in pieces:
            if self._halt.wait(interval):
                return False
            self.sock.sendall(piece)
        return True

    def _end(self, delivery: Delivery) -> bool:
        if delivery.end == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return False
        # Closing a socket with unread data on it resets the connection, and the client may lose our answer (RFC 9112,
        # section 9.6): close our side first, and give the client a moment to close its own.
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.settimeout(_LINGER)
        while self.sock.recv(_PIECE):
            pass
        return False


def _head(answer: Answer, delivery: Delivery, promised: int, terms: _Terms) -> tuple[bytes, bool, bool]:
    """Return an answer's head, whether its body goes in chunks, and whether the connection is kept."""
    pairs = header_pairs(answer.headers)
    named = Headers(pairs)
    chunked = delivery.chunked or named.get("Transfer-Encoding", "").lower() == "chunked"
    keep_alive = terms.keep_alive and delivery.end == "keep" and named.get("Connection", "").lower() != "close"

    lines = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, '')}"]
    if answer.content_type is not None and "Content-Type" not in named:
        lines.append(f"Content-Type: {answer.content_type}")
    lines += [f"{name}: {value}" for name, value in pairs if name.lower() != "transfer-encoding"]
    if chunked and terms.version == "HTTP/1.0":
        chunked = keep_alive = False  # it knows no chunks: the end of the connection is the end of the body
    elif chunked:
        lines.append("Transfer-Encoding: chunked")
    elif "Content-Length" in named:
        keep_alive = keep_alive and named["Content-Length"] == str(promised)
    elif answer.status not in _BODILESS:
        lines.append(f"Content-Length: {promised}")
    if "Connection" not in named:
        if not keep_alive:
            lines.append("Connection: close")
        elif terms.version == "HTTP/1.0":
            lines.append("Connection: keep-alive")
    return "\r\n".join((*lines, "", "")).encode("latin-1"), chunked, keep_alive
