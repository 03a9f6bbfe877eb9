"""What a script signed by itself: how it stands in a request, and when it ends.

Apart from signing, because every call that fails asks this, and few programs sign.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

from requests import PreparedRequest

from ..core.frozen import Frozen

TIMESTAMP, RECV_WINDOW, SIGNATURE = "timestamp", "recvWindow", "signature"
DEFAULT_RECV_WINDOW = 5000

# As seconds since the epoch, 10**11 is the year 5138; as milliseconds, March 1973: the size alone tells the unit.
SECONDS_BELOW = 10**11


class CallerSigned(Frozen):
    """A request that its caller signed.

    Attributes:
        expires_at: when its receive window ends, in seconds since the epoch by the server's clock. 0.0, long over,
            where its timestamp cannot be read for certain.
    """

    expires_at: float


def caller_signature(request: PreparedRequest) -> CallerSigned | None:
    """Return when the request's own signature ends, or None where it carries none.

    A request is signed where it has both a ``signature`` and a ``timestamp`` parameter, in its query or its form body.
    The receive window is its own ``recvWindow``, else 5000 ms; one that is not a whole number counts as none at all.
    """
    parts = parts_of(request)
    if not (parts.values(SIGNATURE) and parts.values(TIMESTAMP)):
        return None
    sent_at = sent_at_of(parts)
    if sent_at is None:
        return CallerSigned(expires_at=0.0)
    windows = [_whole(value) or 0 for value in parts.values(RECV_WINDOW)]
    # Which of several windows the server goes by is not known: the shortest is safe.
    return CallerSigned(expires_at=(sent_at + min(windows, default=DEFAULT_RECV_WINDOW)) / 1000)


def strip_signature(query: str) -> str:
    """Return a query or form without its ``timestamp`` and ``signature``, the rest as it stands.

    Two requests with the same rest ask for the same thing.
    """
    return "&".join(
        segment for segment in query.split("&") if segment and name_of(segment) not in (TIMESTAMP, SIGNATURE)
    )


class Parts(Frozen):
    """A request's parameters as they are on the wire: encoded ``name=value`` segments in their order."""

    query: list[str]
    form: list[str] | None  # None: there is no form body
    other: str  # the text of a body that is no form, "" where there is none or it cannot be replayed

    def values(self, name: str) -> list[str]:
        return [_value(segment) for segment in self.query + (self.form or []) if name_of(segment) == name]

    def replace(self, name: str, value: str) -> Parts:
        def put(segments: list[str]) -> list[str]:
            return [
                f"{segment.partition('=')[0]}={value}" if name_of(segment) == name else segment for segment in segments
            ]

        return self._replace(query=put(self.query), form=None if self.form is None else put(self.form))


def parts_of(request: PreparedRequest) -> Parts:
    """Return a request's parameters."""
    query = split_url(request)[1]
    form = form_of(request)
    other = as_text(request.body) if form is None and isinstance(request.body, (str, bytes)) else ""
    return Parts(_segments(query), None if form is None else _segments(form), other)


def _segments(encoded: str) -> list[str]:
    return encoded.split("&") if encoded else []


def split_url(request: PreparedRequest) -> tuple[str, str, str]:
    """Return what comes before the query, the query, and the fragment with its ``#``; together the URL, unchanged."""
    rest, mark, fragment = (request.url or "").partition("#")
    base, _, query = rest.partition("?")
    return base, query, mark + fragment


def form_of(request: PreparedRequest) -> str | None:
    """Return a form body's text, None where the body is anything else."""
    if not isinstance(request.body, (str, bytes)) or request.headers.get("Content-Encoding"):
        return None
    media_type = as_text(request.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
    return as_text(request.body) if media_type == "application/x-www-form-urlencoded" else None


def set_form(request: PreparedRequest, form: str) -> None:
    """Put another form in the place of a request's own."""
    request.body = as_bytes(form) if isinstance(request.body, bytes) else form
    request.headers["Content-Length"] = str(len(as_bytes(form)))


def as_text(value: str | bytes) -> str:
    """Return a text; surrogates carry bytes that are no UTF-8 through it and back, unchanged."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def as_bytes(value: str) -> bytes:
    """Return the bytes of a text."""
    return value.encode("utf-8", "surrogateescape")


def name_of(segment: str) -> str:
    """Return the name in a ``name=value`` segment, decoded."""
    return unquote_plus(segment.partition("=")[0], errors="surrogateescape")


def _value(segment: str) -> str:
    return unquote_plus(segment.partition("=")[2], errors="surrogateescape")


def _whole(text: str) -> int | None:
    # With 15 digits it would be microseconds, for which there is no rule: nothing is signed by a guess.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 14 else None


def timestamp_of(parts: Parts) -> int | None:
    """Return the one timestamp, in its own unit; None where there is not exactly one, or its unit cannot be told."""
    written = parts.values(TIMESTAMP)
    return (_whole(written[0]) or None) if len(written) == 1 else None


def sent_at_of(parts: Parts) -> int | None:
    """Return the one timestamp in milliseconds."""
    value = timestamp_of(parts)
    return value * 1000 if value is not None and value < SECONDS_BELOW else value
