"""Origins: the scheme, host and port that a URL belongs to (RFC 6454), written in one way only."""

from __future__ import annotations

import re

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# One pattern instead of urlsplit(): it takes a microsecond, and it refuses what two parsers read in two ways. To
# urllib3 a backslash ends the host, to urlsplit it does not: in "https://a\@b/" the one sees a, the other b, and
# a token for b must not be sent to a.
_ORIGIN = r"""
    ([A-Za-z][A-Za-z0-9+.\-]*) ://
    (?: [^/?\#\\\x00-\x20\x7f]* @ )?                                    # user and password
    ( \[ [0-9A-Fa-f:.]+ (?: %[^\]/?\#\\@\x00-\x20\x7f]+ )? \]              # an IPv6 address, with its zone
    | [^/?\#\\@:\[\]\x00-\x20\x7f"<>^`{|}]+ )
    (?: : ([0-9]{0,5}) )?
    (?= [/?\#] | \Z )
    """


def origin_of(url: str) -> str:
    """Return the origin of an absolute URL as ``scheme://host[:port]``.

    Lower case, IDNA host names in their ASCII form, IPv6 addresses in brackets, a default port dropped; user,
    password, path, query and fragment are no part of it (RFC 6454, section 4; RFC 3986, section 6.2.3).

    Raises:
        ValueError: it is not an absolute URL with a host, or not one that every parser would read alike.
    """
    match = re.match(_ORIGIN, url, re.VERBOSE)
    if match is None:
        raise ValueError("not an absolute URL of the form scheme://host[:port]")
    return _written(match)


def normalize_origin(url: str) -> str:
    """Return an origin that a person wrote (``https://API.example:443``), as :func:`origin_of` writes it.

    A lone slash at the end is forgiven, since prefixes for ``Session.mount`` end in one.

    Raises:
        ValueError: it is not an origin of an HTTP server, or more than an origin; the text never repeats it.
    """
    match = re.match(_ORIGIN, url, re.VERBOSE)
    if match is None or match[1].lower() not in ("http", "https"):
        raise ValueError("not an origin of the form http[s]://host[:port]")
    if "@" in url[: match.end()]:
        raise ValueError("an origin holds no user name or password")
    if url[match.end() :] not in ("", "/"):
        raise ValueError("an origin ends after the host and port: no path, query or fragment")
    return _written(match)


def _written(match: re.Match[str]) -> str:
    scheme, host = match[1].lower(), match[2]
    host = (host if host.isascii() else _ascii_host(host)).lower()
    port = int(match[3]) if match[3] else None
    if port is not None and port > 65535:
        raise ValueError("a port is at most 65535")
    if port is None or port == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def _ascii_host(host: str) -> str:
    # The standard library knows IDNA 2003, requests uses IDNA 2008. They part over a few letters ("ß" is "ss" to
    # the older), and there the older maps to a name that reads back differently: such a host is another server.
    try:
        encoded = host.encode("idna")
        same = encoded.decode("idna") == host.lower()
    except UnicodeError:
        same = False
    if not same:
        raise ValueError("a host name that has to be written in its ASCII form (xn--…)")
    return encoded.decode("ascii")
