"""The gateway as a program of its own, to develop against."""

from __future__ import annotations

import signal
import time
from typing import Any

from .gateway import Gateway


def serve(host: str = "127.0.0.1", port: int = 0, **options: Any) -> None:
    """Run a `Gateway` until it is interrupted; see `run`.

    Args:
        host: a loopback address.
        port: the port; 0: any free one.
        options: as `Gateway`'s.

    Raises:
        ValueError: ``host`` is not a loopback address.
        OSError: the port is taken.
    """
    run(Gateway(host, port, **options))


def run(gateway: Gateway) -> None:
    """Start a gateway, print its URL, and stop it on SIGINT (Ctrl-C) or SIGTERM. Only in the main thread."""
    # SIGTERM is to do what SIGINT does; and SIGINT too, which a shell's background jobs are made to ignore.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with gateway:
            print(gateway.url, flush=True)  # noqa: T201 - its output, for scripts to read
            while True:
                time.sleep(3600)  # noqa: TID251 - until a signal comes
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
