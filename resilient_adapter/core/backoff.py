"""How long to wait: the reference's recipe, and ``Retry-After``."""

from __future__ import annotations

import math
import re
from datetime import timezone
from email.utils import parsedate_to_datetime

# Nine digits are 31 years. Ten are an instant that was sent by mistake: believed, it would close an origin for decades.
_DELAY_SECONDS = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"


def backoff(repeat: int, *, base: float, factor: float, jitter: float, max_wait: float, u: float) -> float:
    """Return the seconds to wait before a repeat: ``base * factor**repeat + U(0, jitter)``, at most ``max_wait``.

    Args:
        repeat: 0 for the first repeat, 1 for the second, …
        base: seconds before the first repeat, without jitter.
        factor: what each further repeat multiplies it by.
        jitter: width, in seconds, of the uniform random part.
        max_wait: upper bound in seconds, of both parts together.
        u: a uniform random number in [0, 1).

    Source: the reference's "Retry Strategy", ``(2 ** attempt) + random.random()``.
    """
    try:
        wait = base * factor**repeat
    except OverflowError:
        wait = math.inf if base else 0.0
    return min(wait + u * jitter, max_wait)


def parse_retry_after(value: str | None, *, now: float, date: str | None = None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or None where it is missing or unusable.

    Args:
        value: the header, in either form of RFC 9110, section 10.2.3: delay-seconds or an HTTP-date.
        now: the local time, in seconds since the epoch.
        date: the response's own ``Date`` header. An HTTP-date is measured from it where it is usable, so that a
            clock that differs from the server's does not lengthen or shorten the wait.

    An HTTP-date in the past is a wait of 0. Negative or malformed values are unusable, and so is a number of ten
    digits or more. Fractions of a second, which the RFC does not know but servers send, are taken.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(_DELAY_SECONDS, value):
        return float(value)
    until = _http_date(value)
    if until is None:
        return None
    started = _http_date(date)
    return max(0.0, until - (now if started is None else started))


def _http_date(value: str | None) -> float | None:
    if not value:
        return None
    try:
        date = parsedate_to_datetime(value)
        # The asctime format names no zone, and an HTTP-date is always in UTC (RFC 9110, section 5.6.7).
        return (date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
