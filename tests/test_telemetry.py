"""What the adapter tells of itself: events for listeners, and lines for the log."""

from __future__ import annotations

import functools
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from resilient_adapter.telemetry import log
from resilient_adapter.telemetry.events import Event, EventName, Telemetry, fields

NAME = "resilient_adapter"
LEVELS = ["debug", "info", "warning", "error", "critical"]

#: The level at which each event is logged: what failed, what slows requests or gives them up, and the rest.
LEVEL_OF = {
    EventName.REFRESH_FAILED: "error",
    EventName.RESYNC_FAILED: "error",
    EventName.RECOVER_FAILED: "error",
    EventName.THROTTLE: "warning",
    EventName.RECONCILE: "warning",
    EventName.CIRCUIT_OPEN: "warning",
    EventName.GIVE_UP: "warning",
    EventName.RETRY: "info",
    EventName.REFUSED: "info",  # thousands in an outage, and each caller is told
    EventName.REFRESH: "info",
    EventName.RESYNC: "info",
    EventName.RECOVER: "info",
    EventName.RECONCILED: "info",
    EventName.CIRCUIT_HALF_OPEN: "info",
    EventName.CIRCUIT_CLOSED: "info",
}


def event(name: str = "retry", **given: Any) -> Event:
    """Return an event."""
    usual: dict[str, Any] = {
        "time": 1.7e9,
        "origin": "https://api.example",
        "method": "POST",
        "path": "/order",
        "attempt": 1,
        "code": -1008,
        "status": 503,
        "recovery": "break",
        "wait": 1.25,
        "detail": "-1008 Server busy",
    }
    return Event(name=name, **(usual | given))


class Keeper(logging.Handler):
    """A handler that keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.kept.append(record)


@contextmanager
def handled_by(handler: logging.Handler) -> Iterator[None]:
    """Let a handler, and no other, see what we log, at any level."""
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Return what the standard library's logging gets to see of us."""
    keeper = Keeper()
    with handled_by(keeper):
        yield keeper.kept


@pytest.fixture
def structured() -> Iterator[list[dict[str, Any]]]:
    """Return what a program that has configured structlog gets to see, and leave structlog as it was."""
    configured, before = structlog.is_configured(), structlog.get_config()
    entries: list[dict[str, Any]] = []

    def keep(logger: Any, method: str, entry: Any) -> Any:
        entries.append({"level": method, **entry})
        raise structlog.DropEvent

    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    yield entries
    if configured:
        structlog.configure(**before)
    else:
        structlog.reset_defaults()


# --- the event


def test_an_event_has_the_fields_of_the_contract() -> None:
    """Name, time, origin, method, path, attempt, code, status, recovery, wait and detail, and whether it was done.

    There is none for a query, a header or a body: what has no place to be kept cannot be told by mistake.
    """
    assert " ".join(event()._asdict()) == "name time origin method path attempt code status recovery wait detail shadow"
    assert event().shadow is False


def test_an_event_is_a_value() -> None:
    """Listeners may keep events, compare them, and change none for those after them."""
    assert event() == event() and event() != event(attempt=2)
    assert len({event(), event()}) == 1
    with pytest.raises(AttributeError, match="cannot be changed"):
        event().wait = 0.0  # type: ignore[misc]


def test_names_are_plain_strings() -> None:
    """A listener compares with the name it knows."""
    assert EventName.RETRY == "retry" and str(EventName.CIRCUIT_OPEN) == f"{EventName.CIRCUIT_OPEN}" == "circuit_open"


# --- listeners


def test_listeners_are_told_in_order() -> None:
    """Each listener gets each event, the first one first."""
    told: list[tuple[str, Event]] = []
    telemetry = Telemetry([lambda e: told.append(("a", e)), lambda e: told.append(("b", e))])
    one, two = event(attempt=1), event(attempt=2)
    telemetry.emit(one)
    telemetry.emit(two)
    assert told == [("a", one), ("b", one), ("a", two), ("b", two)]


def test_listeners_are_told_whatever_is_logged() -> None:
    """log.level is the log's, not the listeners'."""
    told: list[Event] = []
    telemetry = Telemetry([told.append], level="critical")
    for name in EventName:
        telemetry.emit(event(name))
    assert [one.name for one in told] == list(EventName)


def test_without_listeners_there_is_the_log(records: list[logging.LogRecord]) -> None:
    """Nobody has to listen."""
    Telemetry().emit(event())
    assert len(records) == 1


class Broken:
    """A listener that raises what a program may not want to see in a log."""

    def __call__(self, told: Event) -> None:
        """Fail."""
        raise ValueError("the listener's own secret, 5ec2e7")

    def method(self, told: Event) -> None:
        """Fail as a bound method."""
        self(told)


def broken(told: Event, more: int = 0) -> None:
    """Fail as a function."""
    raise ValueError("the listener's own secret, 5ec2e7")


@pytest.mark.parametrize(
    ("listener", "name"),
    [
        (broken, "broken"),
        (Broken(), "Broken"),
        (Broken().method, "Broken.method"),
        (functools.partial(broken, more=1), "partial"),
    ],
)
def test_a_listener_that_raises_breaks_nothing(listener: Any, name: str, records: list[logging.LogRecord]) -> None:
    """It is named in the log with the type of its error, and the next listener is told, and the event is logged."""
    told: list[Event] = []
    Telemetry([told.append, listener, told.append]).emit(event())
    assert told == [event()] * 2
    failed, line = records
    assert failed.levelname == "ERROR"
    assert failed.getMessage() == f"listener_failed listener={name} error=ValueError"
    assert line.getMessage().startswith("retry ")
    assert "5ec2e7" not in failed.getMessage() + repr(vars(failed))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_passes_at_once(stop: type[BaseException]) -> None:
    """What is no Exception is no listener's failure."""
    told: list[Event] = []

    def interrupted(_: Event) -> None:
        raise stop

    with pytest.raises(stop):
        Telemetry([interrupted, told.append]).emit(event())
    assert told == []


# --- which events are logged


def test_every_event_has_a_level() -> None:
    """An event that is added fails here until somebody says how loud it is."""
    assert set(LEVEL_OF) == set(EventName)


@pytest.mark.parametrize("lowest", LEVELS)
@pytest.mark.parametrize("name", EventName)
def test_the_level_is_the_lowest_that_is_logged(name: EventName, lowest: str, records: list[logging.LogRecord]) -> None:
    """An event below it is not logged; one at it is."""
    level = LEVEL_OF[name]
    Telemetry(level=lowest).emit(event(name.value))
    expected = [level.upper()] if LEVELS.index(level) >= LEVELS.index(lowest) else []
    assert [record.levelname for record in records] == expected


def test_the_default_level_is_info(records: list[logging.LogRecord]) -> None:
    """log.level is "info" where nothing else is said, and an event of a name of its own is one."""
    Telemetry().emit(event("something_else"))
    assert [record.levelname for record in records] == ["INFO"]


def test_an_origin_may_have_a_level_of_its_own(records: list[logging.LogRecord]) -> None:
    """per_origin overrides log.level in both directions."""
    Telemetry(level="debug").emit(event(), "error")
    assert not records
    Telemetry(level="critical").emit(event(), "info")
    assert [record.levelname for record in records] == ["INFO"]


# --- the line


def test_a_line_says_what_is_known(records: list[logging.LogRecord]) -> None:
    """The name first, then each field that has something to say; the record carries them as values."""
    Telemetry().emit(event())
    assert records[0].name == NAME
    assert records[0].getMessage() == (
        "retry origin=https://api.example method=POST path=/order attempt=1 code=-1008 status=503 recovery=break"
        " wait=1.250 detail='-1008 Server busy'"
    )
    assert vars(records[0])[NAME] == {
        "event": "retry", "origin": "https://api.example", "method": "POST", "path": "/order", "attempt": 1,
        "code": -1008, "status": 503, "recovery": "break", "wait": 1.25, "detail": "-1008 Server busy",
    }  # fmt: skip


def test_what_is_empty_is_left_out() -> None:
    """No code=None and no wait=0: only what happened."""
    bare = event(attempt=0, code=None, status=None, recovery=None, wait=0.0, detail="")
    assert fields(bare) == {"origin": "https://api.example", "method": "POST", "path": "/order"}


def test_shadow_is_told() -> None:
    """What was not done is marked as such; what was done has no mark."""
    assert fields(event(shadow=True))["shadow"] is True
    assert "shadow" not in fields(event())


@pytest.mark.parametrize("name", EventName)
def test_no_field_is_lost_or_invented(name: EventName) -> None:
    """A line has the event's own fields and no others, but for the name and the time, which the log itself adds."""
    full = event(name.value, shadow=True)
    assert fields(full) == {key: value for key, value in vars(full).items() if key not in ("name", "time")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("two words", "'two words'"),
        ("", "''"),
        ("line\nbreak", r"'line\nbreak'"),
        ("carriage\rreturn", r"'carriage\rreturn'"),
        ("a\tb", r"'a\tb'"),
        ("\x1b[2Jcleared", r"'\x1b[2Jcleared'"),
        ("\N{LINE SEPARATOR}", r"'\u2028'"),
        ("größer", "größer"),
        (7, "7"),
        (-1008, "-1008"),
        (0.5, "0.500"),
        (2.0, "2.000"),
        (True, "True"),
        (EventName.RETRY, "retry"),
    ],
)
def test_a_value_stays_in_its_place(value: object, text: str, records: list[logging.LogRecord]) -> None:
    """Quoted where it holds blanks, and never a line, or a terminal's command, of its own."""
    log.write("info", "name", {"key": value, "more": 1})
    assert records[0].getMessage() == f"name key={text} more=1"


def test_a_percent_sign_is_no_format(records: list[logging.LogRecord]) -> None:
    """A path may be percent-encoded."""
    log.write("info", "name", {"path": "/a%20b%s"})
    assert records[0].getMessage() == "name path=/a%20b%s"


@pytest.mark.parametrize("level", LEVELS)
def test_the_programs_own_level_counts_too(level: str, records: list[logging.LogRecord]) -> None:
    """A program may silence our logger as any other."""
    logging.getLogger(NAME).setLevel(logging.CRITICAL + 1)
    log.write(level, "name", {})
    assert not records


def test_the_logger_has_a_null_handler() -> None:
    """A library adds no other handler: what is done with its lines is the program's business."""
    assert [type(handler) for handler in logging.getLogger(NAME).handlers] == [logging.NullHandler]
    assert logging.getLogger(NAME).propagate


# --- structlog


@pytest.mark.parametrize("level", LEVELS)
def test_structlog_is_used_where_the_program_configured_it(
    level: str, structured: list[dict[str, Any]], records: list[logging.LogRecord]
) -> None:
    """It gets the fields as values, at the same level, and the standard library is not told a second time."""
    log.write(level, "name", {"key": 1.5, "more": "two words"})
    assert structured == [{"level": level, "event": "name", "key": 1.5, "more": "two words"}]
    assert not records


def test_an_event_for_structlog(structured: list[dict[str, Any]]) -> None:
    """The event's name is structlog's event; its fields are keys."""
    Telemetry().emit(event("give_up", wait=0.0))
    assert structured == [
        {
            "level": "warning", "event": "give_up", "origin": "https://api.example", "method": "POST",
            "path": "/order", "attempt": 1, "code": -1008, "status": 503, "recovery": "break",
            "detail": "-1008 Server busy",
        }
    ]  # fmt: skip


def test_log_level_filters_before_structlog(structured: list[dict[str, Any]]) -> None:
    """What is below log.level does not reach structlog, whatever it would let through."""
    Telemetry(level="warning").emit(event("retry"))
    assert structured == []


def test_structlogs_own_filter_counts(structured: list[dict[str, Any]]) -> None:
    """A program that filters by level does so for us too, also once it changes its mind."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    Telemetry().emit(event("give_up"))
    assert structured == []
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    Telemetry().emit(event("give_up"))
    assert len(structured) == 1


def test_a_failing_listener_is_told_to_structlog(structured: list[dict[str, Any]]) -> None:
    """One log for everything."""
    Telemetry([broken]).emit(event())
    assert structured[0] == {"level": "error", "event": "listener_failed", "listener": "broken", "error": "ValueError"}


def test_structlog_that_nobody_configured_is_not_used(
    records: list[logging.LogRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    """Imported but not configured it would print to standard output."""
    assert not structlog.is_configured()
    Telemetry().emit(event())
    assert len(records) == 1
    assert capsys.readouterr() == ("", "")


# --- a log that fails


def test_a_structlog_that_raises_breaks_no_request(structured: list[dict[str, Any]]) -> None:
    """Standard output may be closed by now, and an order's answer must not be lost over it."""
    closed = io.StringIO()
    closed.close()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(closed)
    )
    told: list[Event] = []
    Telemetry([broken, told.append]).emit(event())
    assert told == [event()]


class Raising(logging.Handler):
    """A handler that lets its errors out, as the standard library's do not."""

    def emit(self, record: logging.LogRecord) -> None:
        """Fail."""
        raise OSError("no space left on device")


def test_a_handler_that_raises_breaks_no_request() -> None:
    """The same under the standard library."""
    told: list[Event] = []
    with handled_by(Raising()):
        Telemetry([broken, told.append]).emit(event())
    assert told == [event()]


# --- a program that has configured nothing

PROGRAM = """
import sys
{first}
from resilient_adapter.telemetry import log
from resilient_adapter.telemetry.events import Event, EventName, Telemetry

def broken(event):
    raise ValueError

telemetry = Telemetry([broken], level="debug")
for name in EventName:
    telemetry.emit(Event(name.value, 0.0, "https://api.example", "GET", "/", 1, None, 500, "retry", 1.0, "status 500"))
for level in log.LEVELS:
    log.write(level, "name", {{"key": 1}})
sys.exit({last})
"""


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("", "'structlog' in sys.modules"),
        ("import structlog", "structlog.is_configured()"),
    ],
    ids=["without structlog", "with structlog"],
)
def test_nothing_is_printed_where_no_logging_is_configured(first: str, last: str) -> None:
    """A library that prints is broken; nor does it import or configure structlog of its own accord."""
    program = PROGRAM.format(first=first, last=last)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
