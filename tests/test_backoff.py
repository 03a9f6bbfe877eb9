"""How long a repeat waits: the reference's recipe, and what a server asks for in ``Retry-After``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_adapter.core.backoff import backoff, parse_retry_after

DEFAULTS = {"base": 1.0, "factor": 2.0, "jitter": 1.0, "max_wait": 60.0}

UNIFORM = st.floats(0, 1, exclude_max=True)
REPEATS = st.integers(0, 5000)
RECIPES = st.fixed_dictionaries(
    {
        "base": st.floats(0, 1e6),
        "factor": st.floats(1, 100),
        "jitter": st.floats(0, 1e6),
        "max_wait": st.floats(0, 1e6),
    }
)


# --- the recipe


@pytest.mark.parametrize(
    ("repeat", "u", "wait"),
    [
        (0, 0.0, 1.0),
        (0, 0.5, 1.5),
        (1, 0.0, 2.0),
        (1, 0.25, 2.25),
        (2, 0.0, 4.0),
        (5, 0.999, 32.999),
        (6, 0.0, 60.0),  # 64 s would be more than max_wait
        (10**6, 0.0, 60.0),
    ],
)
def test_the_default_wait_is_the_references(repeat: int, u: float, wait: float) -> None:
    """With the defaults the wait is 2**n seconds and up to one more, and never over a minute."""
    assert backoff(repeat, u=u, **DEFAULTS) == pytest.approx(wait)


@given(REPEATS, UNIFORM, RECIPES)
@example(5000, 0.5, {"base": 0.0, "factor": 100.0, "jitter": 1.0, "max_wait": 60.0})
def test_the_wait_keeps_the_law_of_the_recipe(repeat: int, u: float, recipe: dict[str, float]) -> None:
    """A wait lies between base * factor**n and that plus the jitter, unless max_wait cuts it off."""
    try:
        least = recipe["base"] * recipe["factor"] ** repeat
    except OverflowError:
        least = math.inf if recipe["base"] else 0.0
    wait = backoff(repeat, u=u, **recipe)
    assert min(least, recipe["max_wait"]) <= wait <= min(least + recipe["jitter"], recipe["max_wait"])


@given(st.integers(0, 4999), UNIFORM, RECIPES)
def test_a_later_repeat_never_waits_less(repeat: int, u: float, recipe: dict[str, float]) -> None:
    """With the same luck the wait before repeat n + 1 is at least the wait before repeat n."""
    assert backoff(repeat, u=u, **recipe) <= backoff(repeat + 1, u=u, **recipe)


@given(REPEATS, RECIPES)
def test_without_jitter_chance_has_no_say(repeat: int, recipe: dict[str, float]) -> None:
    """A jitter of 0 makes every wait exact."""
    recipe |= {"jitter": 0.0}
    assert backoff(repeat, u=0.0, **recipe) == backoff(repeat, u=0.999, **recipe)


def test_a_factor_of_one_waits_the_same_each_time() -> None:
    """The wait is constant where the settings say so."""
    assert {backoff(n, base=3.0, factor=1.0, jitter=0.0, max_wait=60.0, u=0.0) for n in range(2000)} == {3.0}


# --- Retry-After

#: RFC 9110, section 5.6.7: one instant in the three formats that a recipient has to read.
INSTANT = datetime(1994, 11, 6, 8, 49, 37, tzinfo=timezone.utc).timestamp()
IMF_FIXDATE = "Sun, 06 Nov 1994 08:49:37 GMT"
FORMATS = [IMF_FIXDATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]


@pytest.fixture(params=["UTC0", "EST5EDT", "<+0545>-5:45"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test as in Greenwich, west of it, and east of it."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("007", 7.0),
        ("120", 120.0),
        (" 30 ", 30.0),
        ("\t30", 30.0),
        ("1.5", 1.5),  # beside the RFC, but servers send it
        ("0.25", 0.25),
        ("86400", 86400.0),
        ("999999999", 999999999.0),
    ],
)
def test_seconds_are_taken_as_they_are(value: str, seconds: float) -> None:
    """delay-seconds do not depend on any clock."""
    for now in (0.0, 1.7e9):
        assert parse_retry_after(value, now=now, date=IMF_FIXDATE) == seconds


@pytest.mark.parametrize("value", FORMATS)
def test_each_form_of_an_http_date_is_read_as_utc(value: str, time_zone: None) -> None:
    """All three formats of RFC 9110 mean the same instant, wherever the script runs."""
    assert parse_retry_after(value, now=INSTANT - 90) == 90.0


@pytest.mark.parametrize("value", FORMATS)
@pytest.mark.parametrize("late", [0, 1, 3600, 10**9])
def test_a_date_that_has_passed_is_no_wait(value: str, late: int, time_zone: None) -> None:
    """An HTTP-date in the past asks for 0 seconds, never for fewer."""
    assert parse_retry_after(value, now=INSTANT + late) == 0.0


@pytest.mark.parametrize("date", [f.replace(":49:37", ":49:07") for f in FORMATS])
@pytest.mark.parametrize("now", [0.0, INSTANT - 3600, INSTANT + 3600, 4e9])
def test_a_date_is_measured_from_the_servers_own_clock(date: str, now: float, time_zone: None) -> None:
    """Where the response has a Date, a local clock that is wrong changes nothing."""
    assert parse_retry_after(IMF_FIXDATE, now=now, date=date) == 30.0


@pytest.mark.parametrize("date", [None, "", "yesterday", "0", "Sun, 99 Nov 1994 08:49:37 GMT"])
def test_without_a_usable_date_the_local_clock_has_to_do(date: str | None) -> None:
    """A Date that is missing or malformed is not counted from."""
    assert parse_retry_after(IMF_FIXDATE, now=INSTANT - 12, date=date) == 12.0


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "\t\r\n",
        "-1",
        "-0.5",
        "+5",
        "1.",
        ".5",
        "1,5",
        "5, 10",  # two headers, joined
        "5 10",
        "5s",
        "10 seconds",
        "1e3",
        "0x10",
        "NaN",
        "inf",
        "Infinity",
        "\N{ARABIC-INDIC DIGIT FIVE}",
        "soon",
        "12:30",
        "Sun, 06 Nov 1994",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "1994-11-06T08:49:37Z",
        "GMT",
        ",",
    ],
)
def test_what_is_malformed_is_unusable(value: str | None) -> None:
    """What is neither of the RFC's forms counts as not said: the settings' own wait is used."""
    assert parse_retry_after(value, now=INSTANT) is None


@pytest.mark.parametrize("value", ["1700000000", "1700000000000", "9" * 400, "9" * 5000])
def test_a_number_too_long_to_be_a_wait_is_unusable(value: str) -> None:
    """Ten digits are no delay but an instant, sent by mistake: believed, they would close the origin for decades."""
    assert parse_retry_after(value, now=1.7e9) is None


def test_the_last_date_there_is_can_be_asked_for() -> None:
    """A date far away is a long wait, not an error."""
    assert parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", now=0.0) == 253402300799.0


PARTS = ["Sun,", "Sunday,", "06", "99", "Nov", "06-Nov-94", "1994", "08:49:37", ":", "-", ",", "GMT", "+9999", "-0000"]
ALMOST_DATES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=7).map(" ".join)


@given(st.text() | ALMOST_DATES, st.none() | st.text() | ALMOST_DATES, st.floats(0, 4e9))
def test_no_header_can_break_it(value: str, date: str | None, now: float) -> None:
    """Whatever the server sends, the result is None or a wait that can be waited: finite, and not negative."""
    wait = parse_retry_after(value, now=now, date=date)
    assert wait is None or 0 <= wait < math.inf


@given(st.integers(0, 4 * 10**9), st.integers(0, 4 * 10**9))
def test_a_date_asks_for_the_seconds_until_then(until: int, now: int) -> None:
    """Every date is read to the second."""
    value = format_datetime(datetime.fromtimestamp(until, timezone.utc), usegmt=True)
    assert parse_retry_after(value, now=now) == max(0, until - now)
