"""Orders and what may end a call at any moment: Ctrl-C, a signal's handler, an exit asked for in a listener."""

from __future__ import annotations

import gc
import http.client
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests
import urllib3
from adapter_support import connect
from urllib3.connection import HTTPConnection

import resilient_adapter as ra
from resilient_adapter import pools
from resilient_adapter.repairs import orders as module
from resilient_adapter.state.journal import Journal, State
from resilient_adapter.testing import FakeClock, Fault
from resilient_adapter.testing.orders import ORDER_PATH, OrderGateway

PACKAGE = str(Path(ra.__file__).parent)
LOOKED_UP = {"query_path": ORDER_PATH}


class Passing(FakeClock):
    """A clock that is never asked twice at the same moment: nobody who waits for a deadline waits for ever."""

    def monotonic(self) -> float:
        self.advance(0.5)
        return super().monotonic()


@pytest.fixture
def exchange(clock: FakeClock) -> Iterator[OrderGateway]:
    """Take orders."""
    with OrderGateway(clock=clock) as serving:
        yield serving


def order(session: requests.Session, exchange: OrderGateway, client_id: str = "x1") -> requests.Response:
    """Place an order, without a body."""
    return session.post(exchange.url + ORDER_PATH, params={"symbol": "B", "newClientOrderId": client_id})


def sends(exchange: OrderGateway, method: str = "POST") -> int:
    """Return how many orders, or look-ups, have arrived."""
    return len(exchange.received(ORDER_PATH, method))


def orders_of(session: requests.Session, exchange: OrderGateway) -> module.Orders:
    """Return what a session's adapter keeps of orders."""
    kept: module.Orders = session.get_adapter(exchange.url)._runtime.orders  # type: ignore[attr-defined]
    return kept


# --- an answer in hand that is not delivered ---

PROBED = {"fail_max": 1, "reset_timeout": 5.0, "when_open": "wait"}

# (settings, what the order meets, the event whose listener does not return, whether it is in doubt then)
UNDELIVERED = [
    ({}, [Fault.reset("after")], "reconciled", True),
    ({}, [Fault.code(-1007, executed=True)], "reconciled", True),
    ({"retry": {"max_attempts": 1}, "circuit": PROBED}, [], "circuit_closed", True),
    # proven not executed before it
    ({}, [Fault.reset("before")], "reconciled", False),
    ({}, [Fault.code(-1008)], "retry", False),
    ({}, [Fault.code(-1003, retry_after=1)], "throttle", False),
    ({"retry": {"max_attempts": 1}}, [Fault.code(-1008)], "give_up", False),
]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize(("settings", "faults", "event", "doubt"), UNDELIVERED)
def test_an_answer_that_its_caller_never_got_is_in_doubt(
    exchange: OrderGateway,
    clock: FakeClock,
    tmp_path: Path,
    settings: dict[str, Any],
    faults: list[Fault],
    event: str,
    doubt: bool,
    journaled: bool,
    exception: type[BaseException],
) -> None:
    """The script's next try, in another process too where a journal is kept, looks it up and sends nothing twice."""
    told: list[str] = []

    def listen(one: ra.Event) -> None:
        told.append(one.name)
        if told.count(event) == 1 and one.name == event:
            raise exception

    orders = {**LOOKED_UP, "journal": str(tmp_path / "journal")} if journaled else LOOKED_UP
    session = connect({**settings, "orders": orders}, clock=clock, listeners=[listen])
    if event == "circuit_closed":
        exchange.script(Fault.status(503), path="/x")
        session.get(exchange.url + "/x")
    exchange.script(*faults, method="POST")
    with pytest.raises(exception):
        order(session, exchange)
    before = sends(exchange), sends(exchange, "GET")
    if journaled:
        journal = Journal(tmp_path / "journal", clock)
        assert [entry.state for entry in journal.entries()] == [State.UNKNOWN if doubt else State.NOT_EXECUTED]
        journal.close()
        session = connect({"orders": orders, "deadline": 1000.0}, clock=clock)
    response = order(session, exchange)
    assert response.json()["data"]["clientOrderId"] == "x1" and not ra.resilience_of(response).outcome_unknown
    assert exchange.executions("x1") == 1
    after = sends(exchange), sends(exchange, "GET")
    assert (after[0] - before[0], after[1] > before[1]) == ((0, True) if doubt else (1, False))
    assert order(session, exchange, "x2").ok and not orders_of(session, exchange).in_doubt()


# --- an exception of a signal's handler ---


class LateError(ValueError):
    """What a script's own alarm raises."""


@pytest.mark.parametrize(
    ("kind", "step", "done", "unknown"),
    [
        (http.client.HTTPConnection, "_send_output", True, True),
        (http.client.HTTPResponse, "begin", False, True),
        (http.client.HTTPResponse, "begin", True, True),
        (HTTPConnection, "_new_conn", False, False),
        (http.client.HTTPConnection, "putrequest", False, False),
        (http.client.HTTPConnection, "putheader", True, False),
    ],
)
def test_a_value_error_out_of_the_wire_proves_nothing(
    exchange: OrderGateway,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
    step: str,
    done: bool,
    unknown: bool,
) -> None:
    """While an order is sent or its answer awaited it may have been executed; before that it was not sent."""
    real = getattr(kind, step)

    def late(*args: Any, **options: Any) -> None:
        monkeypatch.setattr(kind, step, real)
        if done:
            real(*args, **options)
        raise LateError

    monkeypatch.setattr(kind, step, late)
    session = connect({"on_error": "raise"}, clock=clock)
    with pytest.raises(ra.OutcomeUnknownError if unknown else LateError) as caught:
        order(session, exchange)
    assert ra.resilience_of(caught.value).outcome_unknown is unknown
    if unknown:
        with pytest.raises(ra.OutcomeUnknownError, match="nothing was sent"):
            order(session, exchange)
    else:
        assert order(session, exchange).ok
        assert exchange.executions("x1") == 1


@pytest.mark.parametrize("name", ["get_connection", "connect", "add_headers", "putheader", "urlopen"])
@pytest.mark.parametrize("called", [None, "a library", "a pool"])
def test_what_a_handler_is_called_proves_nothing(
    exchange: OrderGateway, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, name: str, called: str | None
) -> None:
    """Nor where in a library it fails, at a send of its own even: the order was sent before."""
    real = http.client.HTTPResponse.begin

    def handle(response: http.client.HTTPResponse) -> None:
        monkeypatch.setattr(http.client.HTTPResponse, "begin", real)
        real(response)
        if called == "a library":
            json.loads("{")
        elif called == "a pool":
            urllib3.HTTPConnectionPool("127.0.0.1", 9).urlopen("GET", "/", headers={"X": "漢"})
        raise ValueError

    handle.__code__ = handle.__code__.replace(co_name=name)
    monkeypatch.setattr(http.client.HTTPResponse, "begin", handle)
    session = connect({"on_error": "raise"}, clock=clock)
    for _ in range(2):
        with pytest.raises(ra.OutcomeUnknownError):
            order(session, exchange)
    assert exchange.executions("x1") == 1


def test_who_traces_calls_does_not_hide_that_nothing_was_sent(
    exchange: OrderGateway, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that cannot be sent is met before the first byte, with a tracer around the pool or without."""
    real = urllib3.HTTPConnectionPool.urlopen

    def trace(self: Any, *args: Any, **options: Any) -> Any:
        return real(self, *args, **options)

    session = connect({"on_error": "raise"}, clock=clock)
    for urlopen in (real, trace):
        monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", urlopen)
        with pytest.raises(UnicodeEncodeError) as caught:
            session.post(exchange.url + ORDER_PATH, params={"newClientOrderId": "x1"}, headers={"X": "漢"})
        assert not ra.resilience_of(caught.value).outcome_unknown
    assert not orders_of(session, exchange).in_doubt() and exchange.received() == []


class Picky(ra.ResilientAdapter):
    """Refuses what it is to send, in a step of HTTPAdapter's."""

    def add_headers(self, request: requests.PreparedRequest, **options: Any) -> None:
        raise LateError


def test_a_step_of_a_subclass_comes_before_the_wire(exchange: OrderGateway, clock: FakeClock) -> None:
    """What it raises is delivered, and the order is not in doubt."""
    session = connect()
    session.mount("http://", Picky(ra.Settings.from_mapping({"on_error": "raise"}), clock=clock))
    for _ in range(2):
        with pytest.raises(LateError) as caught:
            order(session, exchange)
        assert not ra.resilience_of(caught.value).outcome_unknown


# --- while it is boarded ---


@pytest.mark.parametrize("resolved", [False, True])
@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("reconciled", [True, False])
def test_an_interrupt_of_who_boards_leaves_nobody_waiting(
    exchange: OrderGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reconciled: bool,
    journaled: bool,
    resolved: bool,
) -> None:
    """Nobody leads then: the next one finds out, or is told that nobody can; a person's word frees the order."""
    orders: dict[str, Any] = LOOKED_UP if reconciled else {}
    orders = {**orders, "journal": str(tmp_path / "journal")} if journaled else orders
    session = connect({"orders": orders, "deadline": 100.0, "retry": {"max_attempts": 1}}, clock=Passing())
    exchange.script(Fault.reset("after"), method="POST")
    exchange.script(*[Fault.status(502)] * 300, method="GET")
    with pytest.raises(requests.ConnectionError):
        order(session, exchange)
    exchange.clear()
    board = module.Orders.board

    def board_and_be_gone(self: module.Orders, *args: Any, **options: Any) -> None:
        monkeypatch.setattr(module.Orders, "board", board)
        assert board(self, *args, **options) is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Orders, "board", board_and_be_gone)
    with pytest.raises(KeyboardInterrupt):
        order(session, exchange)
    adapter = session.get_adapter(exchange.url)
    assert isinstance(adapter, ra.ResilientAdapter)
    if resolved:
        assert adapter.resolve("x1")
        assert order(session, exchange).ok and sends(exchange) == 2  # it was said that it may be sent again
    elif reconciled:
        assert order(session, exchange).ok and sends(exchange) == 1
    else:
        with pytest.raises(ra.OutcomeUnknownError, match="nothing was sent"):
            order(session, exchange)
        assert adapter.resolve("x1") and order(session, exchange).ok
    assert not orders_of(session, exchange).in_doubt()


# --- at any moment ---


class Interrupt:
    """Raises an exception at the nth call of, or return from, a function of a package in this thread.

    Attributes:
        where: the function it was raised in; "" where there were not so many.
        left: calls and returns until then.
    """

    def __init__(
        self, number: int, exception: type[BaseException] = KeyboardInterrupt, within: tuple[str, ...] = (PACKAGE,)
    ) -> None:
        self.left = number
        self.where = ""
        self._exception = exception
        self._within = within

    def __call__(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if not code.co_filename.startswith(self._within) or code.co_filename == pools.__file__:
            return None  # as in urllib3's own pools: a connection may be lost, and is closed as it is collected
        if code.co_flags & inspect.CO_GENERATOR:
            return None  # a generator's end swallows what is raised in it, as Python does at a signal
        if event == "call":
            frame.f_trace_lines = False
        elif event != "return":
            return self
        self.left -= 1
        if self.left == 0:
            self.where = f"{event} {Path(code.co_filename).name} {code.co_name}"
            raise self._exception
        return self if self.left > 0 else None

    def during(self, act: Callable[[], object]) -> bool:
        """Act, and return whether that was interrupted."""
        tracer = sys.gettrace()  # coverage's, perhaps
        sys.settrace(self)
        try:
            act()
        except self._exception:
            return True
        finally:
            sys.settrace(tracer)
        return False


# What is on its way from there to the caller is beyond us.
HANDED_OVER = ("return adapter.py send", "return call.py run")
STEP = 11


@pytest.mark.parametrize("fault", [None, Fault.reset("after"), Fault.reset("before")])
@pytest.mark.parametrize("journaled", [False, True])
def test_an_interrupt_at_any_moment_neither_sends_twice_nor_gets_stuck(
    tmp_path: Path, fault: Fault | None, journaled: bool
) -> None:
    """The same order again from above: it is executed once, its state is delivered, and nothing is in doubt."""
    gc.collect()  # lest finalizers of others are what is interrupted
    orders = {**LOOKED_UP, "settle": 0.0, "give_up": 1.0, **({"journal": str(tmp_path / "j")} if journaled else {})}
    bad = []
    with OrderGateway() as exchange, connect({"orders": orders}, clock=Passing()) as session:
        kept = orders_of(session, exchange)
        order(session, exchange)  # what is imported or made but once
        for number in range(1, 100_000, STEP):
            name = f"n{number}"
            exchange.script(fault, method="POST")
            interrupt = Interrupt(number)
            if not interrupt.during(lambda name=name: order(session, exchange, name)):  # type: ignore[misc]
                break
            exchange.clear()
            try:
                end: object = order(session, exchange, name).json()["data"]["clientOrderId"]
            except requests.RequestException as error:
                end = error
            fine = (end, exchange.executions(name), kept.in_doubt()) == (name, 1, False)
            if not fine and interrupt.where not in HANDED_OVER:
                bad.append((interrupt.where, end, exchange.executions(name)))
        if journaled:
            kept.journal(orders["journal"]).close()  # type: ignore[union-attr]
    assert bad == []
    assert interrupt.where == "" and number > 10 * STEP


WIRE = tuple(str(Path(module.__file__).parent) for module in (requests, urllib3, http.client))


@pytest.mark.parametrize("body", [None, {"note": "x"}])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is interrupted as it closes
def test_a_value_error_at_any_moment_of_a_send_is_never_taken_for_no_execution(body: dict[str, str] | None) -> None:
    """Where it is delivered as it is, the order may be placed again; else its outcome is unknown, and it may not."""
    gc.collect()
    told = []
    with OrderGateway() as exchange, connect({"on_error": "raise"}, clock=Passing()) as session:
        adapter = session.get_adapter(exchange.url)

        def place(name: str) -> requests.Response:
            params = {"symbol": "B", "newClientOrderId": name}
            request = requests.Request("POST", exchange.url + ORDER_PATH, params=params, data=body)
            return adapter.send(session.prepare_request(request))

        place("first")
        for number in range(1, 100_000):
            name = f"n{number}"
            interrupt = Interrupt(number, ValueError, WIRE)
            try:
                interrupted = interrupt.during(lambda name=name: place(name))  # type: ignore[misc]
            except ra.OutcomeUnknownError:
                told.append("unknown")
                with pytest.raises(ra.OutcomeUnknownError, match="nothing was sent"):
                    place(name)
            else:
                if interrupted:
                    told.append("not executed")
                    assert place(name).ok and exchange.executions(name), interrupt.where
                elif interrupt.where == "":
                    break
        twice = exchange.executed_twice()
    assert (twice, min(told.count("unknown"), told.count("not executed")) > 20) == ([], True)
