"""What ``shared.url`` says: where the store is, how redis-py is told of it, and what may be shown of it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from ..core.origin import origin_of

_SENTINEL_PORT = 26379
_SENTINELS = re.compile(
    r"""
    (rediss?) \+sentinel://
    (?: ([^@/?\#]*) @ )?                # user and password of the server
    ([^@/?\#]+)                         # the sentinels
    / ([^@/?\#]+)                       # the name that they know the service by
    (?: / ([0-9]+) )? /?
    (\?[^\#]*)?
    """,
    re.VERBOSE,
)
_UNIX = re.compile(r"unix://(?:[^@/?#]*@)?(/[^?#@]+)(\?[^#]*)?")
_SERVER = re.compile(r"rediss?://[^/?#]*(?:/[0-9]*)?(\?[^#]*)?")
_HOST = re.compile(r"(\[[^]]+\]|[^:,\[\]]+)(?::([0-9]+))?")


class Host(NamedTuple):
    """Where a server or a sentinel listens."""

    name: str
    port: int


class RedisAddress(NamedTuple):
    """Where a Redis server is.

    Attributes:
        url: as redis-py takes it. With sentinels, "{}" stands where they say the server is.
        shown: what may be shown of it: no user, no password.
        sentinels: who knows where the server is.
        service: the name that they know it by. They are spoken to by TLS where the server is.
    """

    url: str
    shown: str
    sentinels: Sequence[Host] = ()
    service: str = ""

    def __repr__(self) -> str:
        return f"RedisAddress({self.shown})"


def check_store_url(url: str) -> None:
    """See to it that a URL says where a store is.

    Raises:
        ValueError: it does not. The text repeats nothing of it.
    """
    if not url.startswith("file:"):
        redis_address(url)
    elif not re.fullmatch(r"file:///[^?#\0]+", url):
        raise ValueError("not the address of a file: it begins with file:///")


def file_path(url: str, windows: bool = os.name == "nt") -> str:
    """Return the path that a ``file:///`` URL names.

    Args:
        url: the URL.
        windows: whether "file:///C:/state" is meant to be a drive's.
    """
    path = unquote(url.removeprefix("file://"))
    return path[1:] if windows and re.match(r"/[A-Za-z]:", path) else path


def redis_address(url: str) -> RedisAddress:
    """Return what a URL says of a Redis server: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``.

    Raises:
        ValueError: it is none of these. The text repeats nothing of it.
    """
    if match := _SENTINELS.fullmatch(url):
        scheme, user, listed, service, db, query = match.groups()
        sentinels = tuple(_host(each) for each in listed.split(","))
        return RedisAddress(
            f"{scheme}://{'' if user is None else _literal(user) + '@'}{{}}/{db or 0}{_literal(query or '')}",
            f"{unquote(service)} (sentinels {', '.join(written(host) for host in sentinels)})",
            sentinels,
            unquote(service),
        )
    if match := _UNIX.fullmatch(url):
        return RedisAddress(url, unquote(match[1]))
    if _SERVER.fullmatch(url):
        # What has no clear host cannot be shown without its password either: "redis://user:a/b@host".
        host = _host(origin_of(url).partition("://")[2], 6379)
        return RedisAddress(url, written(host))
    if re.match("rediss?://", url):
        origin_of(url)
        raise ValueError("the path of such an address is the number of a database")
    raise ValueError("not an address of the form redis://HOST, unix:///SOCKET or redis+sentinel://HOST,HOST/SERVICE")


def written(host: Host) -> str:
    """Return a host and its port as a URL has them."""
    return f"{f'[{host.name}]' if ':' in host.name else host.name}:{host.port}"


def _host(text: str, port: int = _SENTINEL_PORT) -> Host:
    origin_of(f"redis://{text}")
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError("not a HOST or HOST:PORT")
    return Host(match[1].strip("[]"), int(match[2] or port))


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
