"""What can go wrong with one request, as values."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .messages import REASONS, Answer, HeadersLike, RetryAfter, header_pairs

When: TypeAlias = Literal["before", "after", "body"]

_KEPT = 10  # bytes of a body that are sent before a fault in the midst of it


@dataclass(frozen=True)
class Delivery:
    """How an answer is put on the wire.

    Attributes:
        silent: not a byte of it is sent.
        keep: how many bytes of the body are sent, of more that were promised; None: all.
        chunked: in chunked transfer encoding, whatever the answer says.
        chunk: bytes sent at a time; 0: all at once.
        interval: seconds before each of those pieces.
        end: what becomes of the connection; ``"keep"``: kept alive, where HTTP allows it.
    """

    silent: bool = False
    keep: int | None = None
    chunked: bool = False
    chunk: int = 0
    interval: float = 0.0
    end: Literal["keep", "close", "reset"] = "keep"


WHOLE = Delivery()


@dataclass(frozen=True, repr=False)
class Fault:
    """What goes wrong with one request. Made by the functions below; equal to every other that does the same.

    Args:
        label: how it was made; its `repr`.
        executed: whether the request is carried out, that is handed to `Gateway.handle`.
        answer: what is answered in place of the handler's answer; None: the handler's.
        wait_before: seconds before the request is carried out, in real time.
        wait_after: seconds between that and the answer.
        delivery: how the answer is put on the wire.
    """

    label: str = field(compare=False)
    executed: bool = True
    answer: Answer | None = None
    wait_before: float = 0.0
    wait_after: float = 0.0
    delivery: Delivery = WHOLE

    def __repr__(self) -> str:
        return self.label

    @staticmethod
    def none() -> Fault:
        """Nothing: the request is served as ever. In a script, None means the same."""
        return Fault("Fault.none()")

    @staticmethod
    def code(
        code: int,
        status: int = 200,
        msg: str | None = None,
        *,
        retry_after: RetryAfter | None = None,
        headers: HeadersLike | None = None,
        executed: bool | None = None,
    ) -> Fault:
        """An error envelope, ``{"code": …, "msg": …}``.

        Args:
            code: the envelope's code, one that the reference lists or another.
            status: the HTTP status (200, as an envelope's errors often have).
            msg: its message; None: the table's.
            retry_after: a ``Retry-After`` header: seconds, or an HTTP date as a string.
            headers: further headers, ``{"Set-Cookie": …}`` say.
            executed: True: the request was carried out all the same, as it may have been with -1000, -1001, -1006,
                -1007 and -2027. None: it was not.
        """
        return Fault(
            _label("code", code, status=(status, 200), msg=(msg, None), retry_after=(retry_after, None),
                   headers=(headers, None), executed=(executed, None)),
            executed=bool(executed),
            answer=Answer.error(code, msg, status, header_pairs(headers, retry_after)),
        )  # fmt: skip

    @staticmethod
    def status(
        status: int,
        body: bytes | None = None,
        *,
        headers: HeadersLike | None = None,
        retry_after: RetryAfter | None = None,
        executed: bool = False,
    ) -> Fault:
        """An HTTP status without an envelope, as a proxy in front of the API would answer.

        Args:
            status: the HTTP status.
            body: plain text; None: the status's reason phrase.
            headers: further headers, ``{"Location": …}`` say.
            retry_after: a ``Retry-After`` header: seconds, or an HTTP date as a string.
            executed: whether the request was carried out all the same.
        """
        return Fault(
            _label("status", status, body=(body, None), headers=(headers, None), retry_after=(retry_after, None),
                   executed=(executed, False)),
            executed=executed,
            answer=Answer(
                status=status,
                body=REASONS.get(status, "").encode() if body is None else body,
                headers=header_pairs(headers, retry_after),
                content_type="text/plain",
            ),
        )  # fmt: skip

    @staticmethod
    def reset(when: When = "before") -> Fault:
        """The connection is reset (a TCP RST).

        Args:
            when: ``"before"``: once the request has been read, and it is not carried out; ``"after"``: it is carried
                out and nothing is answered; ``"body"``: it is carried out, and the answer breaks off in the body.
        """
        return _broken("reset", when)

    @staticmethod
    def close(when: When = "before") -> Fault:
        """The connection is closed in good order (a TCP FIN), with no answer or with half of one.

        Args:
            when: as for `reset`.
        """
        return _broken("close", when)

    @staticmethod
    def cut_body(keep: int = _KEPT, chunked: bool = False) -> Fault:
        """The request is carried out, but the answer's body ends early and the connection is closed.

        Args:
            keep: the bytes of the body that are sent; more are promised, even where the body has no more.
            chunked: whether the body is sent in chunks, the last of them missing, rather than with a length.
        """
        return Fault(
            _label("cut_body", keep=(keep, _KEPT), chunked=(chunked, False)),
            delivery=Delivery(keep=keep, chunked=chunked, end="close"),
        )

    @staticmethod
    def delay(seconds: float, before: bool = True) -> Fault:
        """The answer is a long time coming. It then comes, if anyone is still there.

        Args:
            seconds: real time, whatever clock the gateway has: a client's read timeout is real time too.
            before: whether the request is carried out after the delay (though its client may be gone by then), or at
                once with the answer held back.
        """
        label = _label("delay", seconds, before=(before, True))
        return Fault(label, wait_before=seconds) if before else Fault(label, wait_after=seconds)

    @staticmethod
    def drip(interval: float, chunk: int = 1) -> Fault:
        """The answer's body comes a little at a time.

        Args:
            interval: seconds before each piece, in real time.
            chunk: bytes in each piece.
        """
        return Fault(_label("drip", interval, chunk=(chunk, 1)), delivery=Delivery(chunk=chunk, interval=interval))


def _broken(end: Literal["reset", "close"], when: When) -> Fault:
    if when == "body":
        delivery = Delivery(keep=_KEPT, end=end)
    elif when in ("before", "after"):
        delivery = Delivery(silent=True, end=end)
    else:
        raise ValueError(f'when: "before", "after" or "body", not {when!r}')
    return Fault(_label(end, when=(when, "before")), executed=when != "before", delivery=delivery)


def _label(name: str, *args: object, **options: tuple[Any, Any]) -> str:
    """Return the call that makes the fault, leaving out each ``(value, default)`` that is the default."""
    parts = [repr(arg) for arg in args]
    parts += [f"{key}={reprlib.repr(value)}" for key, (value, default) in options.items() if value != default]
    return f"Fault.{name}({', '.join(parts)})"
