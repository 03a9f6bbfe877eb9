"""Logging, through structlog where the program has configured it, else through the standard library.

A structlog that nobody has configured prints to standard output, and a library that prints is broken; so it is used
only where the program did configure it. Then it is imported already, which also spares everyone else its import.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_logger = logging.getLogger("resilient_adapter")
_logger.addHandler(logging.NullHandler())


def write(level: str, name: str, fields: Mapping[str, object]) -> None:
    """Write one event. A log that fails is passed over.

    Args:
        level: one of :data:`LEVELS`.
        name: what happened; structlog's ``event``.
        fields: what is known of it. Under the standard library they are rendered as ``key=value`` after the name,
            and the record carries them as the attribute ``resilient_adapter``.
    """
    # Standard output may be closed by now, or a handler raise: the answer to an order must not be lost over its log.
    with suppress(Exception):
        _write(level, name, fields)


def _write(level: str, name: str, fields: Mapping[str, object]) -> None:
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        # Asked for anew each time: a program may configure it again.
        getattr(structlog.get_logger("resilient_adapter"), level)(name, **fields)
        return
    number = LEVELS[level]
    if _logger.isEnabledFor(number):
        text = " ".join([name, *(f"{key}={_render(value)}" for key, value in fields.items())])
        _logger.log(number, "%s", text, extra={"resilient_adapter": {"event": name, **fields}})


def _render(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    # Quoted, a line break or a terminal's escape sequence in it stays what it is: part of a value.
    return text if text and text.isprintable() and " " not in text else repr(text)
