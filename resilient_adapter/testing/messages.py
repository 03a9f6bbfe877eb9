"""What goes in and out of the gateway: requests, answers, and the journal's entries. Values only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl

from ..core.codes import CODES

if TYPE_CHECKING:
    from .faults import Fault

HeadersLike: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]]"
RetryAfter: TypeAlias = "float | str"
REASONS: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}


def header_pairs(headers: HeadersLike | None, retry_after: RetryAfter | None = None) -> tuple[tuple[str, str], ...]:
    """Return headers as pairs (a name may occur twice), with a ``Retry-After`` where one is given."""
    if headers is None:
        headers = ()
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    return pairs if retry_after is None else (*pairs, ("Retry-After", str(retry_after)))


class Headers(Mapping[str, str]):
    """A request's headers by name, whatever the case; the values of a repeated one joined by commas (RFC 9110, 5.3).

    Its `repr` shows the names alone: values may be credentials.
    """

    __slots__ = ("_items",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._items: dict[str, tuple[str, str]] = {}
        for name, value in pairs:
            key = name.lower()
            earlier = self._items.get(key)
            self._items[key] = (name, value) if earlier is None else (earlier[0], f"{earlier[1]}, {value}")

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


@dataclass(frozen=True)
class Request:
    """A request as the gateway read it; what `Gateway.handle` and the callables of `Gateway.respond` are given.

    Attributes:
        number: 1, 2, … in the order of arrival; never used twice in the life of a gateway.
        time: seconds on the gateway's monotonic clock when the request had been read.
        connection: which connection it came over (1, 2, … in the order they were accepted).
        method: as sent.
        path: the target's path, as sent (percent-encoding untouched).
        query: the query string, as sent, without the question mark; empty where there is none.
        headers: a mapping that ignores case.
        body: the body, its transfer encoding undone.
    """

    number: int
    time: float
    connection: int
    method: str
    path: str
    query: str = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters wherever they were put: the query, then a form's fields or a JSON object's members.

        Of a name given twice the last value counts. A body that is neither adds nothing.
        """
        params: dict[str, Any] = dict(parse_qsl(self.query, keep_blank_values=True))
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "application/x-www-form-urlencoded":
            params.update(parse_qsl(self.body.decode("latin-1"), keep_blank_values=True))
        elif kind == "application/json":
            try:
                members = self.json()
            except ValueError:
                members = None
            if isinstance(members, dict):
                params.update(members)
        return params

    def json(self) -> Any:
        """Return the body, decoded.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body)


@dataclass(frozen=True)
class Received(Request):
    """One entry of the journal: a request, and what became of it so far.

    Attributes:
        fault: what went wrong with it, busy, rate limit and token check included; None for a healthy request.
        status: the HTTP status that was answered; None where nothing was, or not yet.
        code: the code of the envelope that was answered; None where it had none, or where the body was the test's own.
        executed: whether the request was carried out, whatever was answered.
    """

    fault: Fault | None = None
    status: int | None = None
    code: int | None = None
    executed: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer, as a handler returns it.

    Args:
        status: the HTTP status.
        body: sent as it is.
        headers: a mapping, or pairs where a name occurs twice. A ``Content-Length`` given here is sent even where it
            is a lie (the connection is closed afterwards); ``Transfer-Encoding: chunked`` has the body sent in chunks.
        content_type: the media type; None: no such header.
        code: the envelope's code, for the journal.
        executed: whether the request was carried out, for the journal.
    """

    status: int = 200
    body: bytes = b""
    headers: HeadersLike = ()
    content_type: str | None = "application/json"
    code: int | None = None
    executed: bool = True

    @classmethod
    def success(cls, data: Any = None) -> Answer:
        """Return the reference's success response: ``{"code": 0, "msg": "success", "data": …}``."""
        return cls.json({"code": 0, "msg": "success", "data": {} if data is None else data})

    @classmethod
    def error(
        cls,
        code: int,
        msg: str | None = None,
        status: int = 200,
        headers: HeadersLike | None = None,
        executed: bool = False,
    ) -> Answer:
        """Return the reference's error response: ``{"code": …, "msg": …}``.

        Args:
            code: the envelope's code, one that the reference lists or another.
            msg: its message; None: the table's.
            status: the HTTP status (200, as an envelope's errors often have).
            headers: see `Answer`.
            executed: whether the request was carried out all the same.
        """
        if msg is None:
            msg = CODES[code].name if code in CODES else f"Error {code}"
        return cls.json({"code": code, "msg": msg}, status=status, headers=header_pairs(headers), executed=executed)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: HeadersLike = (), executed: bool = True) -> Answer:
        """Return any value as JSON; where it is an object with an integer ``code``, the journal shows that."""
        code = value.get("code") if isinstance(value, dict) else None
        return cls(
            status=status,
            body=json.dumps(value, separators=(",", ":")).encode(),
            headers=headers,
            code=code if type(code) is int else None,
            executed=executed,
        )
