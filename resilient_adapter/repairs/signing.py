"""Signatures: made afresh for every send, and the ones that a script made by itself.

The recipe is the reference's ("Fixing Signature Errors"): HMAC-SHA256 over the parameters, sorted alphabetically, their
values URL-encoded, with a timestamp within the receive window.

What a script signs by itself goes stale while we back off. It is signed afresh only where our secret, by one of the
recipes that are in use, reproduces the very signature that was sent: that proves the secret and the recipe right.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl, quote, unquote_plus, urlencode

from requests import PreparedRequest

from ..clock import SYSTEM_CLOCK
from ..core.origin import normalize_origin
from .server_clock import ServerClock
from .signed import (
    DEFAULT_RECV_WINDOW,
    RECV_WINDOW,
    SECONDS_BELOW,
    SIGNATURE,
    TIMESTAMP,
    Parts,
    as_bytes,
    as_text,
    form_of,
    name_of,
    parts_of,
    sent_at_of,
    set_form,
    split_url,
    timestamp_of,
)

_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"

_Over = Literal["query", "body", "query+body", "query&body"]
_Encoding = Literal["sent", "percent", "plain"]


class SigningVariant(NamedTuple):
    """A recipe by which a caller's own signature was made.

    Attributes:
        over: what was signed: the query, the body, one after the other, or the parameters of both joined by ``&``.
        ordered: whether parameters were sorted by name; otherwise they stood in the order that they were sent in.
        encoding: how they were encoded: as they were sent, with spaces as ``%20``, or not at all.
    """

    over: _Over
    ordered: bool
    encoding: _Encoding


# Any that matches will do: what is replaced afterwards are digits, which all of them treat alike.
_VARIANTS = tuple(
    SigningVariant(over, ordered, encoding)
    for encoding in get_args(_Encoding)
    for ordered in (False, True)
    for over in get_args(_Over)
)


class HmacSigner:
    """Signs requests by the reference's recipe.

    Called with a request, it changes it in place: ``timestamp`` (the server's time in ms) and ``recvWindow`` are added,
    the parameters sorted by name, URL-encoded and signed, ``signature`` is appended and the key set in its header. A
    ``timestamp`` and a ``signature`` that are there are replaced; a ``recvWindow`` that is there is kept: the caller's
    word on one request goes before the setting for all. Blank values stay, and repeated names keep their order.

    Encoding is that of forms (a space is ``+``), because it is how requests itself encodes ``params`` and ``data``: a
    server sees the values of a signed request as it would those of an unsigned one. What is signed is byte for byte
    what is sent.

    Parameters are those of the query, and a form body's. They are sent in the form where there is one (those of the
    query are moved there, the query's first), because only one string can be both what is signed and what is sent.
    Otherwise they are sent in the query. A body of another kind (JSON, a stream, a compressed form) is left alone, and
    **is not covered by the signature**.

    Signers are compared, hashed and pickled by value; the server's clock is no part of it.

    Args:
        api_key: sent in ``key_header``.
        secret: the HMAC key.
        recv_window: the receive window in milliseconds.
        key_header: the header that the key is sent in.
        time_url: where the server's time is read; None: the adapter's own setting.
        origins: the origins that it signs for (``https://host[:port]``); none: the adapter decides.
        paths: patterns, as in ``fnmatch``, of the paths that it signs; case counts.

    Attributes:
        server_clock: where the time comes from. A signer starts with one of its own, which tells the local time;
            whoever sends its requests sets another. Copies and pickles start anew.

    Raises:
        ValueError: an argument that cannot be used. Neither key nor secret is ever in its text.
        TypeError: a single string for ``origins`` or ``paths``.
    """

    server_clock: ServerClock

    def __init__(
        self,
        api_key: str,
        secret: str,
        *,
        recv_window: int = DEFAULT_RECV_WINDOW,
        key_header: str = "X-MBX-APIKEY",
        time_url: str | None = None,
        origins: Iterable[str] = (),
        paths: Iterable[str] = ("*",),
    ) -> None:
        # A key that http.client refused would be shown in the text of its exception.
        if not api_key or not (api_key.isascii() and api_key.isprintable()) or api_key != api_key.strip():
            raise ValueError("api_key must be printable ASCII without spaces around it, and not empty")
        if not secret:
            raise ValueError("secret must not be empty")
        if type(recv_window) is not int or recv_window <= 0:
            raise ValueError(f"recv_window must be a whole number of milliseconds above 0, not {recv_window!r}")
        if not re.fullmatch(_HEADER_NAME, key_header):
            raise ValueError(f"key_header is not the name of a header: {key_header!r}")
        if isinstance(origins, str) or isinstance(paths, str):
            raise TypeError("origins and paths are sequences of strings, not one string")
        self._api_key = api_key
        self._secret = secret
        self.recv_window = recv_window
        self.key_header = key_header
        self.time_url = time_url
        self.origins = tuple(normalize_origin(origin) for origin in origins)
        self.paths = tuple(paths)
        self.server_clock = ServerClock(SYSTEM_CLOCK, recv_window=recv_window)

    def _value(self) -> tuple[Any, ...]:
        return (
            self._api_key,
            self._secret,
            self.recv_window,
            self.key_header,
            self.time_url,
            self.origins,
            self.paths,
        )

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, HmacSigner) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        return (
            f"HmacSigner(api_key=***, secret=***, recv_window={self.recv_window}, key_header={self.key_header!r}, "
            f"origins={self.origins!r}, paths={self.paths!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["server_clock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.server_clock = ServerClock(SYSTEM_CLOCK, recv_window=self.recv_window)

    def covers(self, origin: str, path: str) -> bool:
        """Return whether requests to this origin and path are to be signed.

        A signer without origins of its own answers for the path alone: the adapter has to check its own origins.

        Args:
            origin: as ``core.origin.origin_of`` writes it.
            path: the URL's path, without its query.
        """
        if self.origins and origin not in self.origins:
            return False
        return any(fnmatchcase(path, pattern) for pattern in self.paths)

    def __call__(self, request: PreparedRequest) -> None:
        """Sign the request, in place."""
        base, query, fragment = split_url(request)
        form = form_of(request)
        parameters = [
            (name, value) for name, value in _decode(query) + _decode(form or "") if name not in (TIMESTAMP, SIGNATURE)
        ]
        if not any(name == RECV_WINDOW for name, _ in parameters):
            parameters.append((RECV_WINDOW, str(self.recv_window)))
        parameters.append((TIMESTAMP, str(self.server_clock.now_ms())))
        # Sorted by name alone, which is stable: repeated names keep their order.
        payload = urlencode(sorted(parameters, key=itemgetter(0)), errors="surrogateescape")
        signed = f"{payload}&{SIGNATURE}={self._sign(payload)}"
        if form is None:
            request.url = f"{base}?{signed}{fragment}"
        else:
            request.url = base + fragment
            set_form(request, signed)
        request.headers[self.key_header] = self._api_key

    def reproduces(self, request: PreparedRequest) -> SigningVariant | None:
        """Return the recipe by which our key and secret yield the signature that the caller made, byte for byte.

        None where none of them does, so that nothing is ever signed by a guess: also where the request carries another
        key, more than one timestamp or signature, or a timestamp whose unit cannot be told.
        """
        parts = parts_of(request)
        signatures = parts.values(SIGNATURE)
        if len(signatures) != 1 or sent_at_of(parts) is None:
            return None
        key = request.headers.get(self.key_header)
        if key is not None and not hmac.compare_digest(as_bytes(as_text(key)), as_bytes(self._api_key)):
            return None
        theirs = as_bytes(signatures[0])
        for variant in _VARIANTS:
            payload = _payload(parts, variant)
            if payload is not None and hmac.compare_digest(as_bytes(self._sign(payload)), theirs):
                return variant
        return None

    def resign(self, request: PreparedRequest, variant: SigningVariant) -> None:
        """Sign a caller's own request afresh, in place and in the caller's form.

        Its timestamp (in its own unit) and its signature are replaced. All else stays as it is, byte for byte: the
        order of the parameters, their encoding, and the headers, the one with the key included.

        Args:
            request: one whose signature ``reproduces`` accepted.
            variant: what ``reproduces`` returned for it.

        Raises:
            ValueError: the request is not one that ``reproduces`` accepts.
        """
        parts = parts_of(request)
        written = timestamp_of(parts)
        if written is None or len(parts.values(SIGNATURE)) != 1:
            raise ValueError("the request carries no signature of its caller that can be made afresh")
        now = self.server_clock.now_ms()
        parts = parts.replace(TIMESTAMP, str(now // 1000 if written < SECONDS_BELOW else now))
        payload = _payload(parts, variant)
        if payload is None:
            raise ValueError("the request was not signed in this way")
        parts = parts.replace(SIGNATURE, self._sign(payload))
        base, query, fragment = split_url(request)
        if query:
            request.url = f"{base}?{'&'.join(parts.query)}{fragment}"
        if parts.form is not None:
            set_form(request, "&".join(parts.form))

    def _sign(self, payload: str) -> str:
        return hmac.digest(as_bytes(self._secret), as_bytes(payload), "sha256").hex()


def _decode(encoded: str) -> list[tuple[str, str]]:
    return parse_qsl(encoded, keep_blank_values=True, errors="surrogateescape")


def _plain(segment: str) -> str:
    return unquote_plus(segment, errors="surrogateescape")


def _percent(segment: str) -> str:
    return "=".join(quote(_plain(part), safe="", errors="surrogateescape") for part in segment.split("=", 1))


_ENCODINGS: dict[str, Callable[[str], str]] = {"sent": str, "percent": _percent, "plain": _plain}


def _payload(parts: Parts, variant: SigningVariant) -> str | None:
    """Return what is signed by this variant, None where the request has no such thing."""

    def text(segments: list[str]) -> str:
        kept = [segment for segment in segments if name_of(segment) != SIGNATURE]
        if variant.ordered:
            kept.sort(key=name_of)
        return "&".join(_ENCODINGS[variant.encoding](segment) for segment in kept)

    body = parts.other if parts.form is None else text(parts.form)
    if variant.over == "query":
        payload = text(parts.query)
    elif variant.over == "body":
        payload = body
    elif variant.over == "query+body":
        payload = text(parts.query) + body
    else:
        payload = "" if parts.form is None else text(parts.query + parts.form)
    return payload or None
