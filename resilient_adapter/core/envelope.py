"""Read the code and the message of a JSON envelope, whatever the bytes.

Two readers. :func:`first_code` looks at the first bytes only and costs the same for any size: it is for the
usual case, a success whose code comes first. :func:`read_envelope` judges the whole body as
``response.json()`` would and is for all the rest. Neither ever raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from .model import Envelope

# An integer as JSON writes it. Longer ones are no codes, and int() refuses digits by the thousand.
_INTEGER = r"-?(?:0|[1-9][0-9]{0,17})"
_CODE_FIRST = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"code"[ \t\r\n]*:[ \t\r\n]*("?)(%b)\1[ \t\r\n]*[,}]' % _INTEGER.encode()
)
# A JSON object in any of the encodings that json.loads detects: a BOM, or the NULs of UTF-16 and UTF-32, before it.
_OBJECT = rb"(?:\xef\xbb\xbf|\xff\xfe|(?:\0\0)?\xfe\xff)?[\0 \t\r\n]*\{"

_NOTHING = Envelope(None)


def first_code(body: bytes) -> int | None:
    """Return the code if it is the very first key of the body, else None (which decides nothing).

    What follows is not looked at. The first bytes are believed: a second ``code`` further on, or a body that
    is no JSON in the end, goes unseen. That is good enough for a success code, which the caller's own
    ``response.json()`` is about to check; ask :func:`read_envelope` before anything else is concluded.
    """
    match = _CODE_FIRST.match(body)
    return int(match[2]) if match is not None else None


def read_envelope(body: bytes) -> Envelope:
    """Return the top-level code and message of a JSON object.

    The code counts if it is an integer, or an integer written as a string (``"-1003"``); a float, a boolean,
    null or a nested code does not. The message counts if it is a string. Of duplicate keys the last one
    wins, as with :func:`json.loads`. What ``response.json()`` would refuse has neither code nor message.
    """
    if re.match(_OBJECT, body) is None:
        return _NOTHING
    try:
        fields = _decoder()(body)
        code, msg = fields.code, fields.msg
    except Exception:  # msgspec's own are ValueErrors only in its newer releases
        # msgspec is stricter than requests: a BOM, NaN, a lone surrogate, UTF-16 and broken UTF-8 end up here.
        try:
            document = _loads(body)
        except (ValueError, RecursionError):
            return _NOTHING
        code, msg = document.get("code"), document.get("msg")
    return Envelope(_integer(code), msg if isinstance(msg, str) else None)


def _integer(code: object) -> int | None:
    if type(code) is int:  # not isinstance: true and false are no codes
        return code
    if isinstance(code, str) and re.fullmatch(_INTEGER, code):
        return int(code)
    return None


def _loads(body: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(body)
    except UnicodeDecodeError:
        document = json.loads(body.decode("utf-8-sig", "replace"))
    return document


@cache
def _decoder() -> Callable[[bytes], Any]:
    import msgspec

    # Two fields and no others: msgspec checks the rest of the document but builds no objects of it.
    fields = msgspec.defstruct("_Fields", [("code", Any, None), ("msg", Any, None)])
    return msgspec.json.Decoder(fields).decode
