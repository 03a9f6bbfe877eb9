"""Rates: how many requests in how many seconds, read from text such as ``"1200/min"``, and what a server counted."""

import re
from typing import NamedTuple

_UNITS = {
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}
_RATE = r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)?\s*([A-Za-z]+)\s*"

# A server that tells the used weight names the period in the header: a number and its largest unit, "1M", "10S".
_PERIODS = ((86400, "D"), (3600, "H"), (60, "M"), (1, "S"))
_WEIGHT = r"[0-9]{1,9}"


class Rate(NamedTuple):
    """At most ``limit`` requests in any ``period`` seconds."""

    limit: int
    period: float


def parse_rate(text: str) -> Rate:
    """Return the rate that a text such as ``"10/s"``, ``"1200/min"`` or ``"100/10s"`` stands for.

    Units: s, sec, second; min, minute; h, hour; d, day.

    Raises:
        ValueError: the text is no rate, or one that lets nothing through.
    """
    match = re.fullmatch(_RATE, text)  # compiled at its first use, which most programs never see
    unit = _UNITS.get(match[3].lower()) if match is not None else None
    if match is None or unit is None:
        raise ValueError('a rate is a number of requests per time: "10/s", "1200/min", "100/10s", "5000/h", "9/day"')
    limit, period = int(match[1]), float(match[2] or 1) * unit
    if limit < 1 or period <= 0:
        raise ValueError('a rate lets at least one request through in a time above 0, as "1/10s" does')
    return Rate(limit, period)


def used_weight_header(period: float) -> str | None:
    """Return the header that tells the weight used in a period, such as ``X-MBX-USED-WEIGHT-1M``.

    Args:
        period: seconds. No header tells of a period that is no whole number of them: None.
    """
    for seconds, unit in _PERIODS:
        if period % seconds == 0:
            return f"X-MBX-USED-WEIGHT-{period / seconds:.0f}{unit}"
    return None


def parse_used_weight(value: object) -> int | None:
    """Return the weight that a header tells, or None where it is missing, malformed, or of ten digits or more."""
    return int(value) if isinstance(value, str) and re.fullmatch(_WEIGHT, value.strip()) else None
