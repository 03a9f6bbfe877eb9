"""What the benchmarks share: a server in a process of its own, threads that begin at once, and tables.

The server is as plain as it can be, a thread for each connection and one answer for each request, so that what is
measured is its clients.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

#: Answers a request, given its path and its whole head, with the bytes of a response.
Answer = Callable[[str, bytes], bytes]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


# --- the server


def response(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a response with a JSON body, as bytes; each line of ``headers`` ends with CR LF."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def envelope(code: int, data: object = None) -> bytes:
    """Return a body."""
    return json.dumps({"code": code, "msg": "success" if code == 0 else "error", "data": data}).encode()


def sized() -> Answer:
    """Answer ``/SIZE`` with a good body of so many bytes, ``/SIZE/MS`` after so many milliseconds."""

    def answer(path: str, head: bytes) -> bytes:
        size, _, delay = path[1:].partition("/")
        if delay:
            time.sleep(int(delay) / 1000)
        return response(b'{"code":0,"msg":"success","data":"' + b"x" * (int(size) - 36) + b'"}')

    return answer


@contextlib.contextmanager
def server(make: Callable[..., Answer], *arguments: object) -> Iterator[str]:
    """Run a server in a process of its own; yield its address.

    Args:
        make: a module's function, called there with the arguments: returns what answers.
        arguments: for it.

    ``/cpu`` is always answered with the processor seconds that the server has used.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()


def _serve(pipe: Connection, make: Callable[..., Answer], arguments: Sequence[object]) -> None:
    answer = make(*arguments)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        pipe.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve_one, args=(connection, answer), daemon=True).start()


def _serve_one(connection: socket.socket, answer: Answer) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(ConnectionError):
        while head := connection.recv(65536):
            length = _LENGTH.search(head)
            if length is not None:
                missing = head.index(b"\r\n\r\n") + 4 + int(length[1]) - len(head)
                while missing > 0:
                    missing -= len(connection.recv(missing))
            path = head.split(b" ", 2)[1].decode()
            connection.sendall(response(str(time.process_time()).encode()) if path == "/cpu" else answer(path, head))


# --- threads


def all_at_once(threads: int, work: Callable[[int], object]) -> float:
    """Let threads do some work, each given its number; return the seconds from their start to the end of the last."""
    ready = threading.Barrier(threads + 1)
    ends = [0.0] * threads
    errors: list[BaseException] = []

    def run(number: int) -> None:
        ready.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)
        ends[number] = time.perf_counter()

    running = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for thread in running:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
    return max(ends) - began


# --- peers and tables


def missing(*modules: str) -> list[str]:
    """Return those of some modules that are not installed."""
    return [name for name in modules if not _installed(name)]


def _installed(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # of a package that holds it
        return importlib.util.find_spec(module) is not None
    return False


def table(*columns: str) -> None:
    """Print the head of a markdown table."""
    print("", row_of(columns), "|" + "---|" * len(columns), sep="\n", flush=True)


def row(*cells: object) -> None:
    """Print one of its rows."""
    print(row_of(cells), flush=True)


def row_of(cells: Sequence[object]) -> str:
    """Return a row."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def get_json(url: str) -> Any:
    """Return what a URL of the server says, by plain requests."""
    import requests

    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=30).json()
