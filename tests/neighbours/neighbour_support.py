"""What the tests with neighbours have in common."""

from __future__ import annotations

import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "transfer-encoding"}


class Proxy:
    """A forward proxy on loopback (RFC 9110, section 7.6 and 9.3.6).

    Attributes:
        seen: each request line and ``Proxy-Authorization`` that came.
        refuse: a status to answer in place of forwarding or of a tunnel, once for each entry; 0: hang up instead.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.refuse: list[int] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
                pass

            def _refused(self) -> bool:
                proxy.seen.append((self.requestline, self.headers.get("Proxy-Authorization")))
                if not proxy.refuse:
                    return False
                status = proxy.refuse.pop(0)
                self.close_connection = True
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                return True

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self._refused():
                    return
                url = urlsplit(self.path)
                assert url.hostname is not None
                upstream = http.client.HTTPConnection(url.hostname, url.port or 80)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
                    target = url.path + (f"?{url.query}" if url.query else "")
                    upstream.request(self.command, target, body=body or None, headers=headers)
                    answer = upstream.getresponse()
                    content = answer.read()
                finally:
                    upstream.close()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP_BY_HOP | {"content-length", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = _forward  # noqa: N815 - names that http.server looks for

            def do_CONNECT(self) -> None:
                if self._refused():
                    return
                host, _, port = self.path.partition(":")
                self.close_connection = True
                with socket.create_connection((host, int(port))) as upstream:
                    self.send_response(200)
                    self.end_headers()
                    both = {upstream: self.connection, self.connection: upstream}
                    while True:
                        for readable in select.select(list(both), [], [])[0]:
                            piece = readable.recv(65536)
                            if not piece:
                                return
                            both[readable].sendall(piece)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
