"""serve(): the gateway as a program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from resilient_adapter.testing import Fault, Gateway
from resilient_adapter.testing.serve import run, serve

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(os.name == "nt", reason="there are no POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    """It prints its URL, serves, and ends quietly with 0 on either signal."""
    code = "from resilient_adapter.testing.serve import serve; serve(rate_limit=(1, 60))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert [requests.get(url).status_code for _ in range(2)] == [200, 429]
            process.send_signal(number)
            output, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, "", "")


def test_a_gateway_of_ones_own_can_be_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """run() takes a gateway with its faults, and leaves signal handlers and port as they were."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    gateway = Gateway()
    gateway.random_faults(1, [Fault.code(-1000)], seed=1)
    seen: list[int] = []

    def visit(seconds: float) -> None:
        seen.append(requests.get(gateway.url).json()["code"])
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("resilient_adapter.testing.serve.time.sleep", visit)
    run(gateway)
    assert seen == [-1000]
    assert capsys.readouterr().out == f"{gateway.url}\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gateway.port))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(f"gateway-{gateway.port}")]


@pytest.mark.parametrize("host", ["0.0.0.0", "gateway.example"])
def test_it_does_not_serve_a_network(host: str) -> None:
    """Anything but loopback is refused before a socket is made."""
    with pytest.raises(ValueError, match="not a loopback address; the gateway is for this machine only"):
        serve(host)


def test_a_port_that_is_taken_leaves_the_signals_alone(gateway: Gateway) -> None:
    """The failure is the caller's to report."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="in use"):
        serve(port=gateway.port)
    assert signal.getsignal(signal.SIGTERM) == before
