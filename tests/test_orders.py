"""Orders in doubt: nothing is sent twice, and nobody is told that an unknown order is safe to repeat."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from adapter_support import Meddling

from resilient_adapter import (
    JournalError,
    OutcomeUnknownError,
    ResilienceError,
    ResilientAdapter,
    Settings,
    resilience_of,
)
from resilient_adapter.core.origin import origin_of
from resilient_adapter.repairs import orders as module
from resilient_adapter.repairs.orders import OrderRules, fingerprint
from resilient_adapter.repairs.parameters import parameters
from resilient_adapter.repairs.reconcile import StillUnknownError
from resilient_adapter.state.journal import Journal, State, this_process
from resilient_adapter.testing import FakeClock, Fault
from resilient_adapter.testing.orders import ORDER_PATH, OrderGateway

RECONCILED: dict[str, Any] = {"orders": {"query_path": ORDER_PATH}}
URL = "https://a.example" + ORDER_PATH


@pytest.fixture
def exchange(clock: FakeClock) -> Iterator[OrderGateway]:
    """Take orders."""
    with OrderGateway(clock=clock) as serving:
        yield serving


class Script:
    """A script that places orders through an adapter of its own."""

    def __init__(self, exchange: OrderGateway, clock: FakeClock, settings: dict[str, Any], **arguments: Any) -> None:
        self.url = exchange.url + ORDER_PATH
        self.events: list[Any] = []
        self.adapter = ResilientAdapter(settings, clock=clock, listeners=[self.events.append], **arguments)
        self.session = requests.Session()
        self.session.mount("http://", self.adapter)

    def order(self, client_id: str | None = "x1", **options: Any) -> requests.Response:
        """Place an order."""
        named = {} if client_id is None else {"newClientOrderId": client_id}
        return self.session.post(self.url, params={"symbol": "B", **named}, **options)

    def outcomes(self, count: int, client_id: str | None = "x1") -> list[Any]:
        """Place the same order from many threads at once, and return what each was given."""
        given: list[Any] = [None] * count
        barrier = threading.Barrier(count)

        def work(number: int) -> None:
            barrier.wait()
            try:
                given[number] = self.order(client_id)
            except requests.RequestException as error:
                given[number] = error

        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return given

    def close(self) -> None:
        """Let go of connections."""
        self.session.close()


@pytest.fixture
def a_script(exchange: OrderGateway, clock: FakeClock) -> Iterator[Callable[..., Script]]:
    """Return a maker of scripts against the exchange."""
    made: list[Script] = []

    def make(settings: dict[str, Any] | None = None, **arguments: Any) -> Script:
        made.append(Script(exchange, clock, {} if settings is None else settings, **arguments))
        return made[-1]

    yield make
    for script in made:
        script.close()


def lookups(exchange: OrderGateway) -> int:
    """Return how many look-ups the exchange was asked."""
    return len(exchange.received(ORDER_PATH, "GET"))


UNKNOWN = [
    Fault.reset("before"),
    Fault.reset("after"),
    Fault.close("after"),
    Fault.reset("body"),
    Fault.cut_body(),
    Fault.status(500),
    Fault.status(502, executed=True),
    Fault.status(503),
    Fault.status(504, executed=True),
    Fault.code(-1000),
    Fault.code(-1001, executed=True),
    Fault.code(-1006),
    Fault.code(-1007, executed=True),
    Fault.code(-2027, executed=True),
]


# --- in one call ---


@pytest.mark.parametrize("visible_after", [0.0, 12.0])
@pytest.mark.parametrize("fault", UNKNOWN, ids=repr)
def test_an_unknown_order_is_looked_up_and_executed_exactly_once(
    clock: FakeClock, fault: Fault, visible_after: float
) -> None:
    """Whether it was executed before the fault or not, and however late it shows: the script sees its state."""
    with OrderGateway(clock=clock, visible_after=visible_after) as exchange:
        script = Script(exchange, clock, RECONCILED)
        exchange.script(fault, method="POST")
        response = script.order()
        assert response.json()["data"]["clientOrderId"] == "x1"
        assert not resilience_of(response).outcome_unknown
        assert exchange.executions("x1") == 1
        script.close()


def test_a_repeat_that_becomes_unknown_is_looked_up_again(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock
) -> None:
    """Proven absent, repeated, unknown again: the second send is another one to find out about."""
    exchange.script(Fault.reset("before"), Fault.reset("after"), method="POST")
    response = a_script(RECONCILED).order()
    assert (response.json()["code"], exchange.executions("x1")) == (0, 1)
    assert len(resilience_of(response).attempts) == 2


def test_a_repeat_waits_until_absence_is_proven(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock
) -> None:
    """Thirty seconds after the send, not sooner."""
    exchange.script(Fault.reset("before"), method="POST")
    a_script(RECONCILED).order()
    first, second = exchange.received(ORDER_PATH, "POST")
    assert second.time - first.time >= 30.0


def test_an_absent_order_that_may_not_be_repeated_is_reported_as_not_executed(
    exchange: OrderGateway, a_script: Callable[..., Script]
) -> None:
    """The failure is delivered, and it is safe to repeat: nothing is in doubt."""
    exchange.script(Fault.code(-1007), method="POST")
    script = a_script({**RECONCILED, "retry": {"max_attempts": 1}})
    response = script.order()
    assert response.json()["code"] == -1007 and not resilience_of(response).outcome_unknown
    assert script.order().json()["code"] == 0 and exchange.executions("x1") == 1


# --- in doubt, from above ---


@pytest.mark.parametrize("on_error", ["return", "raise"])
@pytest.mark.parametrize("fault", UNKNOWN, ids=repr)
def test_an_order_in_doubt_is_not_sent_where_nobody_can_find_out(
    exchange: OrderGateway, a_script: Callable[..., Script], fault: Fault, on_error: str
) -> None:
    """Without a reconciler each further try raises OutcomeUnknownError, in both modes, and nothing is sent."""
    script = a_script({"on_error": on_error})
    exchange.script(fault, method="POST")
    try:
        outcome: Any = script.order()
    except requests.RequestException as error:
        outcome = error
    assert resilience_of(outcome).outcome_unknown
    for _ in range(3):
        with pytest.raises(OutcomeUnknownError, match="nothing was sent") as caught:
            script.order()
        assert caught.value.client_order_id == "x1" and caught.value.request is not None
        report = resilience_of(caught.value)
        assert report.outcome_unknown and report.attempts == ()
    assert len(exchange.received(ORDER_PATH)) == 1
    assert script.order("x2").json()["code"] == 0


NO_DOUBT = [None, Fault.code(-1008, 503), Fault.code(-2010), Fault.code(-1102), Fault.code(-1003, 429)]


@pytest.mark.parametrize("fault", NO_DOUBT, ids=repr)
def test_a_success_and_a_proven_failure_leave_no_doubt(
    exchange: OrderGateway, a_script: Callable[..., Script], fault: Fault | None
) -> None:
    """The next order with the same id is sent as ever."""
    script = a_script({"retry": {"max_attempts": 1}})
    exchange.script(fault, method="POST")
    script.order()
    assert script.order().json()["code"] == 0
    assert len(exchange.received(ORDER_PATH, "POST")) == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_orders_are_in_doubt(exchange: OrderGateway, a_script: Callable[..., Script], method: str) -> None:
    """Neither what is no POST, nor a POST without a client id where no paths are given."""
    script = a_script({"retry": {"max_attempts": 1}})
    url = exchange.url + "/other"
    exchange.script(Fault.status(500), Fault.status(500), path="/other")
    for _ in range(2):
        script.session.request(method, url, params={"newClientOrderId": "x"})
    exchange.script(Fault.status(500), Fault.status(500), path="/other")
    for _ in range(2):
        script.session.post(url, json={"login": "me"})
    assert len(exchange.received("/other")) == 4


def test_shadow_and_off_change_nothing(exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path) -> None:
    """The same order goes out again, as with plain requests, and no journal is made."""
    for mode in ("shadow", "off"):
        script = a_script({"mode": mode, "orders": {"journal": str(tmp_path / "journal")}})
        exchange.script(Fault.status(500), method="POST")
        script.order(mode)
        assert script.order(mode).json()["code"] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("executed", [True, False])
def test_doubt_ends_when_it_is_found_out(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock, executed: bool
) -> None:
    """Executed: its state is delivered and nothing sent. Absent: it is sent. Either way it was executed once."""
    script = a_script({**RECONCILED, "deadline": 10.0, "retry": {"max_attempts": 1}})
    exchange.script(Fault.reset("after" if executed else "before"), method="POST")
    exchange.script(*[Fault.status(502)] * 30, method="GET")
    with pytest.raises(requests.ConnectionError) as caught:
        script.order()
    assert resilience_of(caught.value).outcome_unknown
    exchange.clear()
    clock.advance(30)
    response = script.order()
    assert response.json()["data"]["clientOrderId"] == "x1" and not resilience_of(response).outcome_unknown
    assert len(resilience_of(response).attempts) == (0 if executed else 1)
    assert exchange.executions("x1") == 1
    told = [(event.name, event.detail) for event in script.events][-2:]
    assert told == [
        ("reconcile", "the same order is in doubt"),
        ("reconciled", "executed" if executed else "not executed"),
    ]


def test_an_open_circuit_does_not_stop_the_look_up(exchange: OrderGateway, a_script: Callable[..., Script]) -> None:
    """An executed order is delivered although no request would be let through."""
    script = a_script({**RECONCILED, "circuit": {"fail_max": 1, "reset_timeout": 1000, "reset_max": 1000}})
    exchange.script(Fault.status(503, executed=True), path=ORDER_PATH, method="POST")
    assert script.order().json()["data"]["status"] == "FILLED"
    with pytest.raises(requests.ConnectionError):
        script.order("x2")


def test_many_threads_with_the_same_order_in_doubt_make_one_look_up(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock
) -> None:
    """One asks for all; all are given the order's state, each a response of its own."""
    a_script({}).order("other")
    script = a_script({"orders": {"query_path": ORDER_PATH}, "deadline": 3.0, "retry": {"max_attempts": 1}})
    exchange.script(Fault.reset("after"), method="POST")
    exchange.script(*[Fault.status(502)] * 30, method="GET")
    with pytest.raises(requests.ConnectionError):
        script.order()
    exchange.clear()
    exchange.reset_journal()
    exchange.script(Fault.delay(0.3), method="GET")
    given = script.outcomes(32)
    assert [response.json()["data"]["clientOrderId"] for response in given] == ["x1"] * 32
    assert len({id(response) for response in given}) == 32
    assert (lookups(exchange), exchange.executions("x1")) == (1, 1)
    assert exchange.received(ORDER_PATH, "POST") == []


def test_many_threads_with_an_absent_order_send_it_once(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock
) -> None:
    """Whoever proves it absent sends it; the others are given what becomes of that."""
    script = a_script({**RECONCILED, "deadline": 3.0, "retry": {"max_attempts": 1}})
    exchange.script(Fault.reset("before"), method="POST")
    exchange.script(*[Fault.status(502)] * 30, method="GET")
    with pytest.raises(requests.ConnectionError):
        script.order()
    exchange.clear()
    clock.advance(60)
    exchange.script(Fault.delay(0.2), method="GET")
    exchange.script(Fault.delay(0.2), method="POST")
    given = script.outcomes(16)
    assert {response.json()["data"]["orderId"] for response in given} == {1}
    assert exchange.executions("x1") == 1


def test_many_threads_are_all_told_that_it_is_unknown(exchange: OrderGateway, a_script: Callable[..., Script]) -> None:
    """Nobody starts a look-up of their own after the one who asked for all has failed."""
    script = a_script({"retry": {"max_attempts": 1}}, reconciler=_slow_and_useless)
    exchange.script(Fault.reset("after"), method="POST")
    with pytest.raises(requests.ConnectionError):
        script.order()
    _slow_and_useless.calls = 0  # type: ignore[attr-defined]
    given = script.outcomes(16)
    assert {type(error) for error in given} == {OutcomeUnknownError}
    assert _slow_and_useless.calls == 1  # type: ignore[attr-defined]
    assert len(exchange.received(ORDER_PATH, "POST")) == 1


def _slow_and_useless(request: requests.PreparedRequest, send: Any) -> None:
    _slow_and_useless.calls = getattr(_slow_and_useless, "calls", 0) + 1  # type: ignore[attr-defined]
    threading.Event().wait(0.3)
    raise LookupError("nobody knows")


def test_a_persons_word_ends_a_doubt(exchange: OrderGateway, a_script: Callable[..., Script]) -> None:
    """``adapter.resolve`` says whether there was anything to resolve; then the order may be sent."""
    script = a_script()
    exchange.script(Fault.reset("before"), Fault.reset("before"), method="POST")
    for name in ("x1", "x2"):
        with pytest.raises(requests.ConnectionError):
            script.order(name)
    assert not script.adapter.resolve("nobody")
    assert script.adapter.resolve("x1") and not script.adapter.resolve("x1")
    assert script.order("x1").json()["code"] == 0
    with pytest.raises(OutcomeUnknownError):
        script.order("x2")


def test_an_interrupt_on_the_wire_leaves_doubt(exchange: OrderGateway, a_script: Callable[..., Script]) -> None:
    """What was sent when Ctrl-C came may have been executed."""

    class Interrupted(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> requests.Response:
            super().send(*args, **options)
            raise KeyboardInterrupt

    script = a_script({}, transport=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        script.order()
    with pytest.raises(OutcomeUnknownError):
        script.order()
    assert exchange.executions("x1") == 1


def test_an_interrupt_during_the_look_up_leaves_the_doubt_to_the_next(
    exchange: OrderGateway, a_script: Callable[..., Script]
) -> None:
    """Nobody waits for a thread that has gone."""
    calls: list[int] = []

    def reconciler(request: requests.PreparedRequest, send: Any) -> requests.Response:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        query = requests.Request("GET", script.url, params={"origClientOrderId": "x1", "symbol": "B"}).prepare()
        response: requests.Response = send(query)
        return response

    script = a_script({}, reconciler=reconciler)
    exchange.script(Fault.reset("after"), method="POST")
    with pytest.raises(KeyboardInterrupt):
        script.order()
    assert script.order().json()["data"]["clientOrderId"] == "x1"
    assert exchange.executions("x1") == 1


def test_no_order_is_sent_where_there_is_no_room_for_one_more_doubt(
    exchange: OrderGateway, a_script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No doubt is dropped to make room."""
    monkeypatch.setattr(module, "MAX_DOUBTS", 1)
    script = a_script()
    exchange.script(Fault.reset("after"), method="POST")
    with pytest.raises(requests.ConnectionError):
        script.order()
    with pytest.raises(ResilienceError, match="nothing was sent") as caught:
        script.order("x2")
    assert not resilience_of(caught.value).outcome_unknown and len(exchange.received(ORDER_PATH)) == 1
    with pytest.raises(OutcomeUnknownError):
        script.order()


def test_a_forked_child_knows_what_its_parent_doubts(exchange: OrderGateway, a_script: Callable[..., Script]) -> None:
    """And waits for none of the parent's threads."""
    script = a_script()
    exchange.script(Fault.reset("after"), method="POST")
    with pytest.raises(requests.ConnectionError):
        script.order()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            script.order()
        except OutcomeUnknownError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_after_a_fork_the_journal_is_written_by_a_connection_of_the_childs(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock, tmp_path: Path
) -> None:
    """What a child process does first leaves an adapter with a journal usable: intents and outcomes go on."""
    path = tmp_path / "orders.sqlite"
    script = a_script({"orders": {"journal": str(path)}})
    assert script.order("before").ok
    script.adapter._runtime.reset_after_fork()
    assert script.order("after").ok
    journal = Journal(path, clock)
    states = {entry.intent.id: entry.state for entry in journal.entries()}
    journal.close()
    assert states == {"before": State.EXECUTED, "after": State.EXECUTED}


class Board:
    """One order in doubt, and as many submissions of it as a test needs."""

    def __init__(self, clock: FakeClock, **orders: Any) -> None:
        self.orders = module.Orders(clock)
        self.clock = clock
        self.rules = rules(**orders)
        self.request = a_request(params={"symbol": "B"} if orders else ID)
        first = self.submission()
        with first:
            first.sending(self.request)  # and then it ends, as an interrupt would end it
        self.told: list[Any] = []

    def submission(self) -> module.Submission:
        """Return another submission of the same order."""
        submission = self.orders.submission(self.rules, self.request)
        assert submission is not None
        return submission

    def follower(self, deadline: float = float("inf")) -> threading.Thread:
        """Start a thread that wants to send the order as well, and wait until it waits."""
        waits = threading.Event()

        def work() -> None:
            with self.submission() as submission:
                assert submission.in_doubt()
                waits.set()
                try:
                    self.told.append(submission.settle(lambda sent_at: None, deadline))
                except StillUnknownError as error:
                    self.told.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        waits.wait()
        return thread


def test_a_doubt_that_ends_as_it_is_looked_at_is_none(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for, and nobody else is kept waiting."""
    board = Board(clock)
    knows = board.orders.knows
    monkeypatch.setattr(board.orders, "knows", lambda key: knows(key) and board.orders.resolve("x"))
    with board.submission() as submission:
        assert not submission.in_doubt()
        assert not board.orders.in_doubt()


def test_a_deadline_ends_the_wait_for_another_thread(clock: FakeClock) -> None:
    """It is still unknown then; whoever leads is not disturbed."""
    board = Board(clock)
    with board.submission() as leader:
        assert leader.in_doubt()
        thread = board.follower(deadline=clock.monotonic())
        thread.join()
        assert isinstance(board.told[0], StillUnknownError)
        assert leader.settle(lambda sent_at: None, float("inf")) is None
    assert not board.orders.in_doubt()


def test_a_verdict_that_cannot_be_written_sends_nothing(
    exchange: OrderGateway, a_script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the journal fails while a doubt is settled, the order is not sent, and JournalError says why."""
    script = a_script({"retry": {"max_attempts": 1}})
    exchange.script(Fault.reset("before"), path=ORDER_PATH)
    with pytest.raises(requests.ConnectionError):
        script.order()

    def fail(*_: object) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(module.Submission, "settle", fail)
    with pytest.raises(JournalError, match="full"):
        script.order()
    assert not exchange.ledger


def test_one_that_gives_up_waiting_before_it_begins_is_not_waited_for(clock: FakeClock) -> None:
    """What ends between seeing the doubt and settling it leaves nothing behind."""
    board = Board(clock)
    leader, other = board.submission(), board.submission()
    assert leader.in_doubt() and other.in_doubt()
    with pytest.raises(KeyboardInterrupt), leader:
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), other:
        raise KeyboardInterrupt
    assert board.orders._flights == {} and board.orders.in_doubt()


def test_another_takes_the_lead_of_one_who_was_interrupted(clock: FakeClock) -> None:
    """And finds out for itself."""
    board = Board(clock)
    leader = board.submission()
    assert leader.in_doubt()
    thread = board.follower()
    with pytest.raises(KeyboardInterrupt), leader:
        leader.settle(_interrupt, float("inf"))
    thread.join()
    assert board.told == [None] and not board.orders.in_doubt()


def _interrupt(sent_at: float) -> None:
    raise KeyboardInterrupt


def test_an_answer_that_is_a_stream_is_not_shared(clock: FakeClock) -> None:
    """The others are told that it is unknown rather than given what they cannot read."""
    board = Board(clock)
    with board.submission() as leader:
        assert leader.in_doubt()
        thread = board.follower()
        assert leader.settle(lambda sent_at: requests.Response(), float("inf")) is not None
    thread.join()
    assert isinstance(board.told[0], StillUnknownError)


def test_a_send_that_becomes_unknown_during_a_look_up_voids_its_not_found(clock: FakeClock) -> None:
    """It was asked about an earlier send: it is asked again, about the later one."""
    board = Board(clock)
    asked: list[float] = []

    def ask(sent_at: float) -> None:
        asked.append(sent_at)
        clock.advance(1)
        if len(asked) == 1:
            board.orders.doubt(("https://a.example", "x", ""), 99, module.Doubt(0, "x", clock.monotonic()))

    with board.submission() as leader:
        assert leader.in_doubt() and leader.settle(ask, float("inf")) is None
    assert asked == [1000.0, 1001.0] and not board.orders.in_doubt()


def test_a_verdict_about_another_order_is_none_about_ours(clock: FakeClock) -> None:
    """Two equal orders that were given ids of their own, both unknown: each finds out about its own."""
    board = Board(clock, paths=[ORDER_PATH], add_client_id=True)
    first, second = board.submission(), board.submission()
    board.orders.resolve(fingerprint(board.request))
    for submission in (first, second):
        assert not submission.in_doubt() and submission.identified(board.request) is not board.request
        submission.sending(board.request)
    for submission in (first, second):
        submission._leave_doubt(None)
    found = requests.Response()
    found._content_consumed = True  # type: ignore[attr-defined]
    waiting = threading.Thread(target=lambda: board.told.append(second.settle(lambda sent_at: None, float("inf"))))
    with second:
        with first:
            first._board(doubtful=True)
            second._board(doubtful=True)
            waiting.start()
            assert first.settle(lambda sent_at: found, float("inf")) is found
        waiting.join()
    assert board.told == [None] and not board.orders.in_doubt()


def in_doubt_by_two_ids(board: Board) -> list[requests.PreparedRequest]:
    """Leave two equal orders in doubt that were given ids of their own; return requests for them by those."""
    board.orders.resolve(fingerprint(board.request))
    submissions = [board.submission(), board.submission()]
    requests_by_id = []
    for submission in submissions:
        assert not submission.in_doubt()
        requests_by_id.append(submission.identified(board.request))
        submission.sending(requests_by_id[-1])
    for submission in submissions:
        submission.__exit__(None, None, None)
    return requests_by_id


def test_who_names_an_order_is_not_given_the_state_of_another_that_is_equal(clock: FakeClock) -> None:
    """Two equal orders in doubt, each placed again by the id that it was given: each is found out about by itself."""
    board = Board(clock, paths=[ORDER_PATH], add_client_id=True)
    first, second = (board.orders.submission(board.rules, by_id) for by_id in in_doubt_by_two_ids(board))
    assert first is not None and second is not None
    found = requests.Response()
    found._content_consumed = True  # type: ignore[attr-defined]
    asked: list[float] = []

    def follow() -> None:
        with second:
            assert second.in_doubt()
            waits.set()
            board.told.append(second.settle(asked.append, float("inf")))  # type: ignore[func-returns-value]

    waits, thread = threading.Event(), threading.Thread(target=follow)
    with first:
        assert first.in_doubt()
        thread.start()
        waits.wait(10)
        assert first.settle(lambda sent_at: found, float("inf")) is found
    thread.join(10)
    assert board.told == [None] and len(asked) == 1  # absent: it may be sent
    assert not board.orders.in_doubt() and not board.orders._aliases and not board.orders._also


def test_an_equal_order_that_is_in_doubt_is_in_nobodys_way_who_names_another(clock: FakeClock) -> None:
    """A person has resolved the one, or it is proven absent: it may be sent, whatever became of the other."""
    board = Board(clock, paths=[ORDER_PATH], add_client_id=True)
    one, other = in_doubt_by_two_ids(board)
    absent = board.orders.submission(board.rules, one)
    assert absent is not None
    with absent:
        assert absent.in_doubt() and absent.settle(lambda sent_at: None, float("inf")) is None
    assert board.orders.resolve(name_of(other)) and not board.orders.in_doubt()
    one, other = in_doubt_by_two_ids(board)
    resolved = board.orders.submission(board.rules, other)
    assert resolved is not None and resolved.in_doubt()
    assert board.orders.resolve(name_of(other))  # after it had looked
    with resolved:
        assert resolved.settle(_interrupt, float("inf")) is None
    for request, doubtful in ((one, True), (other, False)):
        submission = board.orders.submission(board.rules, request)
        assert submission is not None
        with submission:
            assert submission.in_doubt() is doubtful


def name_of(request: requests.PreparedRequest) -> str:
    """Return the client id of an order."""
    return next(value for _, value in parameters(request, ["newClientOrderId"]))


def test_verdicts_about_other_orders_are_sat_out(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them there are, in the end we find out about our own."""
    board = Board(clock, paths=[ORDER_PATH], add_client_id=True)
    board.orders.resolve(fingerprint(board.request))
    first, second, third = (board.submission() for _ in range(3))
    for submission in (first, second, third):
        submission.identified(board.request)
        submission.sending(board.request)
    for submission in (first, second, third):
        submission._leave_doubt(None)
    follow = board.orders.follow
    landing: list[threading.Thread] = []

    def follow_and_be_overtaken(*args: Any) -> bool:
        leads = follow(*args)
        if not landing:
            third._board(doubtful=True)
            landing.append(threading.Timer(0.05, third.__exit__, (None, None, None)))
            landing[0].start()
        return leads

    with second:
        with first:
            first._board(doubtful=True)
            second._board(doubtful=True)
        monkeypatch.setattr(board.orders, "follow", follow_and_be_overtaken)
        assert second.settle(lambda sent_at: None, float("inf")) is None
    landing[0].join()


def test_one_verdict_settles_every_send_of_an_order(clock: FakeClock, tmp_path: Path) -> None:
    """Two sends with one id, both unknown: whoever waited writes down what was found out, too."""
    board = Board(clock)
    board.orders.resolve("x")
    board.rules = rules(journal=str(tmp_path / "journal"))
    first, second = board.submission(), board.submission()
    for submission in (first, second):
        submission.sending(board.request)
    for submission in (first, second):
        submission._leave_doubt(None)
    found = requests.Response()
    found._content_consumed = True  # type: ignore[attr-defined]
    with second:
        with first:
            first._board(doubtful=True)
            second._board(doubtful=True)
            assert first.settle(lambda sent_at: found, float("inf")) is found
        assert second.settle(_interrupt, float("inf")) is not None
    journal = board.orders.journal(str(tmp_path / "journal"))
    assert journal is not None and [entry.state for entry in journal.entries()] == [State.EXECUTED] * 2
    assert not board.orders.in_doubt()
    journal.close()


def test_an_order_that_was_given_an_id_is_in_doubt_for_those_that_are_given_none(clock: FakeClock) -> None:
    """As after a change of the settings: it asks for the same, and cannot be looked up."""
    board = Board(clock, paths=[ORDER_PATH])
    board.orders.resolve(fingerprint(board.request))
    key = ("https://a.example", fingerprint(board.request), "")
    board.orders.doubt(key, 99, module.Doubt(0, "ra-1", clock.monotonic()))
    with board.submission() as submission:
        assert submission.in_doubt()
        with pytest.raises(StillUnknownError):
            submission.settle(lambda sent_at: None, float("inf"))


# --- in doubt while it has to wait ---


class Waiting:
    """An order that has to wait twenty seconds for its turn, and what happens meanwhile."""

    def __init__(self, exchange: OrderGateway, clock: Meddling, settings: dict[str, Any]) -> None:
        self.exchange = exchange
        self.clock = clock
        self.script = Script(exchange, clock, {"retry": {"max_attempts": 1}, "deadline": 1000.0, **settings})
        self.rules = OrderRules(exchange.url, self.script.adapter.settings.orders)
        self.request = requests.Request("POST", self.script.url, params={"symbol": "B", **X1}).prepare()

    def must_wait(self, fault: Fault | None) -> None:
        """Send another request, after which the order has to wait."""
        self.exchange.script(fault, path="/x")
        self.script.session.get(self.exchange.url + "/x")
        self.clock.meddle = self.meddle

    def meddle(self) -> None:
        """Let a call that had begun before send the order, and get no answer."""
        requests.post(self.script.url, params={"symbol": "B", **X1}, timeout=10)
        self.doubt()

    def doubt(self) -> None:
        """Bring the order into doubt: another process does, where there is a journal."""
        order = self.rules.order(self.request)
        assert order is not None
        if self.rules.journal is None:
            doubt = module.Doubt(0, "x1", self.clock.monotonic())
            self.script.adapter._runtime.orders.doubt(order.key, 99, doubt)
            return
        journal = Journal(self.rules.journal, self.clock)
        journal.note([journal.intend(self.rules.intent(order, self.request, "x1"))], State.UNKNOWN)
        journal.close()

    def another_may_go(self) -> bool:
        """Return whether another request is sent, without the twenty seconds' wait."""
        before = sum(self.clock.sleeps)
        return self.script.session.get(self.exchange.url + "/x").ok and sum(self.clock.sleeps) - before < 5.0


X1 = {"newClientOrderId": "x1"}
PROBED = {"fail_max": 1, "reset_timeout": 20.0, "when_open": "wait"}
WAITS = [
    ({}, Fault.code(-1003, 429, retry_after=20)),
    ({"rate_limit": {"rate": "1/20s"}}, None),
    ({"circuit": PROBED}, Fault.status(503)),
]


@pytest.fixture(params=WAITS, ids=["cooldown", "pace", "probe"])
def a_waiting_order(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Waiting]]:
    """Return a maker of an order that has to wait, given settings of ``orders``."""
    settings, fault = request.param
    made: list[Waiting] = []
    clock = Meddling()

    def make(*, journaled: bool, **orders: Any) -> Waiting:
        journal = {"journal": str(tmp_path / "journal")} if journaled else {}
        made.append(Waiting(exchange, clock, {**settings, "orders": {**orders, **journal}}))
        made[-1].must_wait(fault)
        return made[-1]

    with OrderGateway(clock=clock) as exchange:
        yield make
    for waiting in made:
        waiting.script.close()


@pytest.mark.parametrize("journaled", [False, True])
def test_an_order_that_came_into_doubt_while_it_waited_is_looked_up_first(
    a_waiting_order: Callable[..., Waiting], journaled: bool
) -> None:
    """Executed by a call that had begun before: its state is delivered, and nothing sent."""
    waiting = a_waiting_order(journaled=journaled, query_path=ORDER_PATH)
    response = waiting.script.order()
    assert response.json()["data"]["clientOrderId"] == "x1" and resilience_of(response).attempts == ()
    assert waiting.exchange.executions("x1") == 1
    assert not waiting.script.adapter._runtime.orders.in_doubt()


def test_nor_is_one_sent_whose_id_another_was_given_meanwhile(a_waiting_order: Callable[..., Waiting]) -> None:
    """By a recovery; and then that one came into doubt."""
    waiting = a_waiting_order(journaled=False, query_path=ORDER_PATH)

    def come_into_doubt() -> None:
        requests.post(waiting.script.url, params={"symbol": "B", **X1}, timeout=10)
        order = waiting.rules.order(waiting.request)
        assert order is not None
        doubt = module.Doubt(0, "x1", waiting.clock.monotonic(), alias=order.key)
        waiting.script.adapter._runtime.orders.doubt((order.key[0], "old", ""), 99, doubt)

    waiting.clock.meddle = come_into_doubt
    response = waiting.script.order()
    assert response.json()["data"]["clientOrderId"] == "x1" and resilience_of(response).attempts == ()
    assert waiting.exchange.executions("x1") == 1
    assert not waiting.script.adapter._runtime.orders.in_doubt()


@pytest.mark.parametrize("journaled", [False, True])
def test_one_that_is_proven_absent_waits_for_its_turn_once_more(
    a_waiting_order: Callable[..., Waiting], journaled: bool
) -> None:
    """It is sent then, once."""
    waiting = a_waiting_order(journaled=journaled, query_path=ORDER_PATH)
    waiting.clock.meddle = waiting.doubt
    response = waiting.script.order()
    assert response.json()["code"] == 0 and len(resilience_of(response).attempts) == 1
    assert waiting.exchange.executions("x1") == len(waiting.exchange.received(ORDER_PATH, "POST")) == 1


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("fault", [Fault.code(-1008), Fault.code(-1003, retry_after=1)])
def test_one_that_was_refused_is_not_repeated_where_the_same_came_into_doubt_meanwhile(
    exchange: OrderGateway, tmp_path: Path, fault: Fault, journaled: bool
) -> None:
    """By another call, of another process perhaps; it is looked up first, as at the beginning."""
    journal = {"journal": str(tmp_path / "journal")} if journaled else {}
    waiting = Waiting(exchange, Meddling(), {"retry": {}, "orders": {"query_path": ORDER_PATH, **journal}})
    exchange.script(fault, method="POST")
    waiting.clock.meddle = waiting.meddle
    response = waiting.script.order()
    assert response.json()["data"]["clientOrderId"] == "x1" and len(resilience_of(response).attempts) == 1
    assert exchange.executions("x1") == 1 and not waiting.script.adapter._runtime.orders.in_doubt()


@pytest.mark.parametrize("journaled", [False, True])
def test_the_turn_of_an_order_that_is_not_sent_is_given_back(
    a_waiting_order: Callable[..., Waiting], journaled: bool
) -> None:
    """Where nobody can find out it is OutcomeUnknownError, and another request goes in its place."""
    waiting = a_waiting_order(journaled=journaled)
    with pytest.raises(OutcomeUnknownError, match="nothing was sent"):
        waiting.script.order()
    assert waiting.another_may_go()
    assert len(waiting.exchange.received(ORDER_PATH, "POST")) == 1


def test_the_turn_is_given_back_where_the_journal_cannot_be_read(
    a_waiting_order: Callable[..., Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be read, or no room for one more doubt: nothing is sent."""
    waiting = a_waiting_order(journaled=True)

    def fail(*_: object) -> None:
        raise JournalError("the disk is gone")

    with monkeypatch.context() as patched:
        waiting.clock.meddle = lambda: patched.setattr(Journal, "open", fail)
        with pytest.raises(JournalError, match="gone"):
            waiting.script.order()
    assert waiting.another_may_go()
    assert waiting.exchange.ledger == []


def test_an_order_for_whose_doubt_no_room_is_left_while_it_waits_is_not_sent(
    a_waiting_order: Callable[..., Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that would have been refused at once, and its turn is somebody else's."""
    waiting = a_waiting_order(journaled=True)
    waiting.clock.meddle = lambda: monkeypatch.setattr(module, "MAX_DOUBTS", 0)
    with pytest.raises(ResilienceError, match="nothing was sent") as caught:
        waiting.script.order()
    report = resilience_of(caught.value)
    assert (report.attempts, report.outcome_unknown) == ((), False)
    assert waiting.another_may_go()
    assert waiting.exchange.ledger == []


# --- other orders by the same id ---


OTHERS = [
    ({"symbol": "C", **X1}, {}),
    ({"symbol": "B", **X1}, {"X-MBX-APIKEY": "another"}),
]


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize(("params", "headers"), OTHERS, ids=["symbol", "account"])
def test_what_is_found_out_about_one_order_says_nothing_of_another(
    exchange: OrderGateway,
    a_script: Callable[..., Script],
    clock: FakeClock,
    tmp_path: Path,
    params: dict[str, str],
    headers: dict[str, str],
    journaled: bool,
) -> None:
    """An id is given again for another symbol, or by another account: each order has a doubt of its own."""
    journal = {"journal": str(tmp_path / "journal")} if journaled else {}
    settings: dict[str, Any] = {"orders": {"query_path": ORDER_PATH, **journal}, "retry": {"max_attempts": 1}}
    script = a_script({**settings, "deadline": 5.0})
    mine = {"params": {"symbol": "B", **X1}, "headers": {"X-MBX-APIKEY": "mine"}}
    exchange.script(*[Fault.reset("after")] * 2, method="POST")
    exchange.script(*[Fault.status(502)] * 100, method="GET")
    for order in (mine, {"params": params, "headers": headers}):
        with pytest.raises(requests.ConnectionError):
            script.session.post(script.url, **order)  # both are sent, though the first is in doubt
    assert len(exchange.ledger) == 2
    exchange.clear()
    clock.advance(60)
    if journaled:
        script = a_script({**settings, "deadline": 500.0})
    found = script.session.post(script.url, params=params, headers=headers)
    assert found.ok and resilience_of(found).attempts == ()
    # The doubt about the first is there as ever.
    exchange.script(*[Fault.status(502)] * 100, method="GET")
    script = a_script({**settings, "deadline": 5.0})
    with pytest.raises(OutcomeUnknownError):
        script.session.post(script.url, **mine)
    exchange.clear()
    assert resilience_of(script.session.post(script.url, **mine)).attempts == ()
    assert len(exchange.ledger) == 2


# --- the same order ---


def a_request(method: str = "POST", url: str = URL, **options: Any) -> requests.PreparedRequest:
    """Return a request as a session would prepare it."""
    return requests.Request(method, url, **options).prepare()


def rules(**orders: Any) -> OrderRules:
    """Return what an order looks like."""
    return OrderRules(origin_of(URL), Settings.from_mapping({"orders": orders}).orders)


ID = {"newClientOrderId": "x"}


@pytest.mark.parametrize(
    ("orders", "request_", "client_id"),
    [
        ({}, a_request(params=ID), "x"),
        ({}, a_request(data=ID), "x"),
        ({}, a_request(json=ID), "x"),
        ({}, a_request(json={"newClientOrderId": 7}), "7"),
        ({}, a_request(data='{"newClientOrderId": "x"}'), "x"),  # no word of what it is
        ({}, a_request(data=b' {"newClientOrderId": "x"}', headers={"Content-Type": "text/plain; charset=utf-8"}), "x"),
        ({"client_id": "cid"}, a_request(params={"cid": "y"}), "y"),
        ({"paths": ["/api/*"]}, a_request(params=ID), "x"),
        ({"paths": ["/api/*"]}, a_request(), None),
        ({"paths": ["/api/*"]}, a_request(params={"newClientOrderId": ""}), None),
        ({"add_client_id": True, "query_path": ORDER_PATH}, a_request(), None),
    ],
)
def test_what_an_order_is(orders: dict[str, Any], request_: requests.PreparedRequest, client_id: str | None) -> None:
    """A POST with a client id, or to a path that is given; recognised by the id, else by what it asks for."""
    order = rules(**orders).order(request_)
    assert order is not None and order.client_id == client_id
    assert order.key == ("https://a.example", client_id or fingerprint(request_), "")


@pytest.mark.parametrize(
    ("orders", "request_"),
    [
        ({}, a_request()),
        ({}, a_request("GET", params=ID)),
        ({}, a_request("DELETE", params=ID)),
        ({}, a_request(params={"newClientOrderId": ""})),
        ({}, a_request(data=b"newClientOrderId=x", headers={"Content-Type": "text/plain"})),
        ({}, a_request(data=b'{"newClientOrderId": "x"}', headers={"Content-Type": "image/png"})),
        ({}, a_request(data=b"newClientOrderId", headers={"Content-Type": "application/json"})),
        ({}, a_request(json=["newClientOrderId"])),
        ({}, a_request(json={"newClientOrderId": None})),
        ({"paths": ["/other"]}, a_request(params=ID)),
        ({"add_client_id": True, "query_path": "/other"}, a_request()),
    ],
)
def test_what_no_order_is(orders: dict[str, Any], request_: requests.PreparedRequest) -> None:
    """Nothing that was not asked for is treated as one."""
    assert rules(**orders).order(request_) is None


BTC, KEY = {**ID, "symbol": "BTC"}, {"X-MBX-APIKEY": "k"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (a_request(params=BTC), a_request(params=BTC), True),
        (a_request(params=BTC), a_request(json={**BTC, "price": "2"}), True),  # a retry may ask in another way
        (a_request(params=BTC), a_request(params={**BTC, "symbol": "ETH"}), False),  # an id for each symbol
        (a_request(params=BTC), a_request(params=ID), False),
        (a_request(params=BTC, headers=KEY), a_request(params=BTC, headers={"x-mbx-apikey": b"k"}), True),
        (a_request(params=BTC, headers=KEY), a_request(params=BTC, headers={"X-MBX-APIKEY": "l"}), False),
        (a_request(params=BTC, headers=KEY), a_request(params=BTC), False),
        (a_request(params={"a": 1}, headers=KEY), a_request(params={"a": 1}, headers={"X-MBX-APIKEY": "l"}), False),
    ],
)
def test_what_the_same_order_is(one: requests.PreparedRequest, other: requests.PreparedRequest, same: bool) -> None:
    """Of one id, or of one request, there may be orders for other symbols, and of other accounts."""
    order, again = (rules(paths=["/*"]).order(request) for request in (one, other))
    assert order is not None and again is not None
    assert (order.key == again.key) == same


SIGNED = {"timestamp": "1", "signature": "s"}
AGAIN = {"timestamp": "2", "signature": "t"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"params": {"a": 1, **SIGNED}}, {"params": {"a": 1, **AGAIN}}, True),
        ({"data": {"a": 1, **SIGNED}}, {"data": {"a": 1, **AGAIN}}, True),
        ({"json": {"a": 1, **SIGNED}}, {"json": {"a": 1, **AGAIN}}, True),
        ({"json": {"a": 1}}, {"json": {"a": 1}}, True),
        ({"data": "timestamp"}, {"data": "timestamp"}, True),
        ({"data": '["timestamp"]'}, {"data": '["timestamp"]'}, True),
        ({"params": {"a": 1}}, {"params": {"a": 2}}, False),
        ({"params": {"a": 1}}, {"data": {"a": 1}}, False),
        ({"json": {"a": 1, **SIGNED}}, {"json": {"a": 2, **SIGNED}}, False),
        ({"json": {"a": 1.0}}, {"json": {"a": 1.1}}, False),
        ({"data": iter([b"a"])}, {"data": iter([b"a"])}, False),
        ({"method": "PUT"}, {"method": "POST"}, False),
        ({"url": "https://a.example/a"}, {"url": "https://a.example/b"}, False),
    ],
)
def test_what_asks_for_the_same(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """All but ``timestamp`` and ``signature`` counts. A stream is like no other."""
    assert (fingerprint(a_request(**one)) == fingerprint(a_request(**other))) is same


def test_an_order_without_an_id_is_recognised_by_what_it_asks_for(
    exchange: OrderGateway, a_script: Callable[..., Script]
) -> None:
    """The same request is in doubt, another is not; its fingerprint is what a person resolves."""
    script = a_script({"orders": {"paths": [ORDER_PATH]}})
    exchange.script(Fault.reset("after"), method="POST")
    with pytest.raises(requests.ConnectionError):
        script.order(None)
    with pytest.raises(OutcomeUnknownError) as caught:
        script.order(None)
    assert caught.value.client_order_id is None
    assert script.session.post(script.url, params={"symbol": "C"}).json()["code"] == 0
    assert caught.value.request is not None
    assert script.adapter.resolve(fingerprint(caught.value.request))
    assert script.order(None).json()["code"] == 0


def test_json_that_does_not_say_what_it_is_is_an_order(exchange: OrderGateway, a_script: Callable[..., Script]) -> None:
    """``data=json.dumps(order)`` sets no ``Content-Type``; in doubt it is not sent again all the same."""
    script = a_script()
    body = json.dumps({"symbol": "B", **X1})
    assert "Content-Type" not in requests.Request("POST", script.url, data=body).prepare().headers
    exchange.script(Fault.close("after"), method="POST")
    with pytest.raises(requests.ConnectionError):
        script.session.post(script.url, data=body)
    with pytest.raises(OutcomeUnknownError) as caught:
        script.session.post(script.url, data=body)
    assert caught.value.client_order_id == "x1" and len(exchange.received(ORDER_PATH)) == 1


# --- a POST that may be repeated ---

REPEATED: dict[str, Any] = {"retry": {"methods": ["GET", "POST"]}}


@pytest.mark.parametrize("fault", [Fault.reset("after"), Fault.code(-1007, executed=True), Fault.status(502)], ids=repr)
@pytest.mark.parametrize(
    ("settings", "path", "headers", "sent"),
    [
        ({}, ORDER_PATH, {}, 1),
        ({"orders": {"query_path": ORDER_PATH}}, ORDER_PATH, {}, None),
        ({"orders": {"paths": ["/a*"]}}, ORDER_PATH, {}, 1),
        ({"orders": {"paths": ["/b*"]}}, ORDER_PATH, {}, 2),
        ({}, ORDER_PATH, {"Idempotency-Key": "k"}, 2),
        ({}, ORDER_PATH, {"Idempotency-Key": ""}, 1),
        ({}, "/other", {}, 2),
    ],
)
def test_an_order_is_not_among_the_posts_that_may_be_repeated(
    exchange: OrderGateway,
    a_script: Callable[..., Script],
    settings: dict[str, Any],
    path: str,
    headers: dict[str, str],
    sent: int | None,
    fault: Fault,
) -> None:
    """``retry.methods`` is for others: an unknown order is looked up, or in doubt; only a key makes a repeat safe."""
    script = a_script({**REPEATED, **settings})
    exchange.script(fault, method="POST")
    params = {"symbol": "B", **(X1 if path == ORDER_PATH else {})}
    try:
        outcome: Any = script.session.post(exchange.url + path, params=params, headers=headers)
    except requests.RequestException as error:
        outcome = error
    if sent is None:  # executed exactly once, whatever that takes
        assert outcome.json()["data"]["clientOrderId"] == "x1" and exchange.executions("x1") == 1
        assert lookups(exchange) >= 1
        return
    assert len(exchange.received(path, "POST")) == sent
    assert resilience_of(outcome).outcome_unknown == (sent == 1)
    if sent == 1:
        with pytest.raises(OutcomeUnknownError, match="nothing was sent"):
            script.session.post(exchange.url + path, params=params, headers=headers)


# --- a client id that a recovery gives ---


def renew(request: requests.PreparedRequest, response: requests.Response) -> bool:
    """Give the order another client id, as its own is taken."""
    assert request.url is not None
    request.url = request.url.replace("x1", "fresh")
    return True


TAKEN: dict[str, Any] = {
    "codes": {"-4116": {"recovery": "fix_request", "executed": "no"}},
    "retry": {"max_attempts": 1},
}


@pytest.mark.parametrize("executed", [True, False])
@pytest.mark.parametrize("journaled", [False, True])
def test_an_order_that_was_given_another_id_is_looked_up_by_that(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, journaled: bool, executed: bool
) -> None:
    """Within the call: its state is delivered, or it is proven absent."""
    journal = {"journal": str(tmp_path / "journal")} if journaled else {}
    script = a_script({**TAKEN, "orders": {"query_path": ORDER_PATH, **journal}}, recoveries={-4116: renew})
    exchange.script(Fault.code(-4116), Fault.reset("after" if executed else "before"), method="POST")
    if executed:
        assert script.order().json()["data"]["clientOrderId"] == "fresh"
    else:
        with pytest.raises(requests.ConnectionError) as caught:
            script.order()
        assert not resilience_of(caught.value).outcome_unknown
    assert {received.params["origClientOrderId"] for received in exchange.received(ORDER_PATH, "GET")} == {"fresh"}
    assert len(exchange.ledger) == executed and not script.adapter._runtime.orders.in_doubt()


@pytest.mark.parametrize("journaled", [False, True])
def test_an_order_that_was_given_another_id_stays_in_doubt_by_both(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock, tmp_path: Path, journaled: bool
) -> None:
    """The next try with the old id is not sent, though a look-up by that would say that there is none."""
    path = tmp_path / "journal"
    orders = {"query_path": ORDER_PATH, **({"journal": str(path)} if journaled else {})}
    script = a_script({**TAKEN, "orders": orders, "deadline": 5.0}, recoveries={-4116: renew})
    exchange.script(Fault.code(-4116), Fault.reset("after"), method="POST")
    exchange.script(*[Fault.status(502)] * 100, method="GET")
    with pytest.raises(requests.ConnectionError) as caught:
        script.order()
    assert resilience_of(caught.value).outcome_unknown
    exchange.clear()
    clock.advance(60)
    scripts = [script]
    if journaled:
        journal = Journal(path, clock)
        assert [(entry.intent.client_id, entry.state, entry.code) for entry in journal.entries()] == [
            ("x1", State.NOT_EXECUTED, -4116),
            ("fresh", State.UNKNOWN, None),
        ]
        journal.close()
        scripts.append(a_script({**TAKEN, "orders": orders, "deadline": 500.0}))
    for one in scripts:
        with pytest.raises(OutcomeUnknownError, match="nothing was sent"):
            one.order()
    assert len(exchange.ledger) == 1 and len(exchange.received(ORDER_PATH, "POST")) == 2
    assert script.adapter.resolve("fresh")
    assert script.order().json()["data"]["clientOrderId"] == "x1"


@pytest.mark.parametrize("executed", [True, False])
@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("how", ["given by a recovery", "added"])
def test_an_order_in_doubt_is_recognised_by_the_id_that_it_was_given(
    exchange: OrderGateway,
    a_script: Callable[..., Script],
    clock: FakeClock,
    tmp_path: Path,
    how: str,
    journaled: bool,
    executed: bool,
) -> None:
    """A script that takes it from the exception and places the order by it does not place it twice."""
    given = how == "given by a recovery"
    journal = {"journal": str(tmp_path / "journal")} if journaled else {}
    orders = {**(TAKEN if given else ADDED).get("orders", {}), "query_path": ORDER_PATH, **journal}
    settings = {**TAKEN, "orders": orders, "deadline": 5.0, "on_error": "raise"}
    script = a_script(settings, recoveries={-4116: renew})
    faults = [Fault.code(-4116)] if given else []
    exchange.script(*faults, Fault.reset("after" if executed else "before"), method="POST")
    exchange.script(*[Fault.status(502)] * 100, method="GET")
    params = {"symbol": "B", **({"newClientOrderId": "x1"} if given else {})}
    with pytest.raises(OutcomeUnknownError) as caught:
        script.session.post(script.url, params=params)
    name = caught.value.client_order_id
    assert name is not None and (name == "fresh" or not given)
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError, match="nothing was sent"):
            script.order(name)
    exchange.clear()
    clock.advance(60)
    assert script.order(name).json()["data"]["clientOrderId"] == name
    assert exchange.executions(name) == 1 and len(exchange.ledger) == 1
    kept = script.adapter._runtime.orders
    assert not kept.in_doubt() and not kept._aliases


def test_an_id_that_two_orders_were_given_is_in_doubt_as_long_as_one_of_them_is(clock: FakeClock) -> None:
    """A person's word about the one is none about the other."""
    orders = module.Orders(clock)
    one, two, given = (("https://a.example", name, "") for name in ("one", "two", "given"))
    for number, key in enumerate((one, two)):
        orders.doubt(key, number, module.Doubt(0, "given", 0.0, alias=given))
    assert orders.remembered_by(given) == one
    orders.forget(one, [0])
    assert orders.remembered_by(given) == two
    assert orders.resolve("two") and orders.remembered_by(given) == given


def test_an_id_that_an_order_was_given_is_free_once_a_person_has_resolved_it(
    exchange: OrderGateway, a_script: Callable[..., Script]
) -> None:
    """By either of its names."""
    for name in ("x1", "fresh"):
        script = a_script({**TAKEN, "on_error": "raise"}, recoveries={-4116: renew})
        exchange.script(Fault.code(-4116), Fault.reset("before"), method="POST")
        with pytest.raises(OutcomeUnknownError):
            script.order("x1")
        with pytest.raises(OutcomeUnknownError, match="nothing was sent"):
            script.order("fresh")
        assert script.adapter.resolve(name) and not script.adapter._runtime.orders._aliases
        assert script.order("fresh").ok


# --- a client id for those without ---

ADDED: dict[str, Any] = {"orders": {"query_path": ORDER_PATH, "paths": [ORDER_PATH], "add_client_id": True}}


@pytest.mark.parametrize(
    "options",
    [
        {"params": {"symbol": "B"}},
        {"data": {"symbol": "B"}},
        {"data": b"symbol=B", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"json": {"symbol": "B"}},
        {"data": '{"symbol": "B", "price": 0.10}', "headers": {"Content-Type": "application/json; charset=utf-8"}},
        {"params": {"symbol": "B"}, "json": {}},
        {"params": {"symbol": "B"}, "data": b"what is this?"},
        {"params": {"symbol": "B"}, "json": [1]},
        {"json": {"symbol": "B", "levels": [1, 2.5]}},
        {"json": {"symbol": "B", "levels": [], "note": "[{"}},
        {"data": {"symbol": "B", "levels": "[1, 2]"}},
    ],
)
def test_an_order_without_an_id_is_given_one(
    exchange: OrderGateway, a_script: Callable[..., Script], options: dict[str, Any]
) -> None:
    """Where its parameters are, the rest byte for byte as it was, the caller's own request untouched."""
    script = a_script(ADDED)
    request = requests.Request("POST", script.url, **options).prepare()
    before = (request.url, request.body, dict(request.headers))
    response = script.session.send(request)
    (received,) = exchange.received(ORDER_PATH, "POST")
    client_id = received.params["newClientOrderId"]
    assert response.json()["data"]["clientOrderId"] == client_id
    assert len(client_id) <= 36 and client_id.replace("-", "").isalnum() and client_id.isascii()
    assert received.headers.get("Content-Length") == (str(len(received.body)) if request.body else "0")
    body = request.body.encode() if isinstance(request.body, str) else request.body or b""
    assert received.body.startswith(body.rstrip(b"}"))
    assert (request.url, request.body, dict(request.headers)) == before
    assert response.request is request


@pytest.mark.parametrize(
    "options",
    [
        {"params": {"symbol": "B", "newClientOrderId": "mine"}},
        {"params": {"symbol": "B", "newClientOrderId": ""}},
        {"params": {"symbol": "B", **SIGNED}},
        {"data": b"\xff{}", "headers": {"Content-Type": "application/json"}},
        {"data": b"gzip", "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"}},
        # several orders at once: one id beside them would be none of theirs
        {"data": {"batchOrders": '[{"symbol": "B"}, {"symbol": "C"}]'}},
        {"data": b"batchOrders=%5B%7B%7D%5D", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"params": {"batchOrders": ' [{"symbol": "B"}]'}},
        {"params": {"batchOrders": '[{"symbol": "B"}]'}, "data": {"recvWindow": "100"}},
        {"json": {"batchOrders": [{"symbol": "B"}]}},
        {"json": {"batchOrders": '[{"symbol": "B"}]'}},
        {"json": [{"symbol": "B"}], "params": {"recvWindow": "100"}},
        {"data": '[{"symbol": "B"}]', "params": {"recvWindow": "100"}},
        {"json": {"batchOrders": [{"symbol": "B", "newClientOrderId": "mine"}]}},
    ],
)
def test_no_id_is_added_where_it_has_no_place(
    exchange: OrderGateway, a_script: Callable[..., Script], options: dict[str, Any]
) -> None:
    """One that is there stays, an empty one too; a signature of the caller's would break; a body may be opaque."""
    script = a_script(ADDED)
    request = requests.Request("POST", script.url, **options).prepare()
    script.session.send(request)
    (received,) = exchange.received(ORDER_PATH, "POST")
    body = request.body.encode() if isinstance(request.body, str) else request.body or b""
    assert f"{ORDER_PATH}?{received.query}".rstrip("?") == request.path_url and received.body == body


def test_the_id_is_the_same_for_every_repeat_and_another_for_every_order(
    exchange: OrderGateway, a_script: Callable[..., Script]
) -> None:
    """Repeats within the call carry one id; two orders that ask for the same are two orders."""
    script = a_script(ADDED)
    exchange.script(Fault.code(-1008), Fault.reset("before"), None, method="POST")
    script.order(None)
    script.order(None)
    ids = [received.params["newClientOrderId"] for received in exchange.received(ORDER_PATH, "POST")]
    assert len(ids) == 4 and len(set(ids[:3])) == 1 and ids[3] != ids[0]
    assert len(exchange.ledger) == 2


def test_a_retry_from_above_takes_the_id_of_the_order_in_doubt(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock
) -> None:
    """It is the same order, so it is looked up by the id that it was sent with, and sent with that."""
    script = a_script({**ADDED, "deadline": 5.0, "retry": {"max_attempts": 1}})
    for fault, executions in ((Fault.reset("after"), 1), (Fault.reset("before"), 2)):
        exchange.script(fault, method="POST")
        exchange.script(*[Fault.status(502)] * 30, method="GET")
        with pytest.raises(requests.ConnectionError):
            script.order(None)
        exchange.clear()
        first = exchange.received(ORDER_PATH, "POST")[-1].params["newClientOrderId"]
        clock.advance(60)
        assert script.order(None).json()["data"]["clientOrderId"] == first
        assert len(exchange.ledger) == executions


def test_two_equal_orders_in_doubt_are_two(
    exchange: OrderGateway, a_script: Callable[..., Script], clock: FakeClock
) -> None:
    """One that is found says nothing of the other; with one of them absent nothing is sent while the other is open."""
    script = a_script({**ADDED, "deadline": 5.0, "retry": {"max_attempts": 1}})
    orders = script.adapter._runtime.orders
    key = (exchange.url, fingerprint(requests.Request("POST", script.url, params={"symbol": "B"}).prepare()), "")
    for number, name in ((901, "ra-1"), (902, "ra-2")):
        orders.doubt(key, number, module.Doubt(0, name, clock.monotonic()))
    clock.advance(60)
    with pytest.raises(OutcomeUnknownError) as caught:
        script.order(None)
    assert caught.value.client_order_id == "ra-1" and exchange.ledger == []
    assert script.order(None).json()["data"]["clientOrderId"] == "ra-2"


# --- with a journal ---


def journaled(path: Path, **settings: Any) -> dict[str, Any]:
    """Return settings with a journal, and without a reconciler."""
    return {"orders": {"journal": str(path)}, **settings}


def test_the_journal_follows_every_order(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, clock: FakeClock
) -> None:
    """Its intent before the send, its outcome after it, and what a look-up needs; no query and no secret."""
    path = tmp_path / "journal"
    script = a_script(journaled(path, retry={"max_attempts": 1}))
    journal = Journal(path, clock)
    seen: list[list[State]] = []
    exchange.respond("/watch", lambda request: seen.append([entry.state for entry in journal.entries()]) or b"{}")
    script.session.post(exchange.url + "/watch", params={"newClientOrderId": "w", "signature": "secret"})
    exchange.script(Fault.code(-2010), Fault.code(-1007), None, path=ORDER_PATH, method="POST")
    for name in ("a", "b", "c"):
        script.order(name)
    assert seen == [[State.SENT]]
    entries = journal.entries()
    assert [(entry.intent.id, entry.state.value, entry.code) for entry in entries] == [
        ("w", "executed", None),
        ("a", "not_executed", -2010),
        ("b", "unknown", -1007),
        ("c", "executed", 0),
    ]
    assert entries[1].intent[3:] == (exchange.url, "POST", ORDER_PATH, {"symbol": "B"})
    assert b"secret" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert [entry.intent.id for entry in journal.entries(unresolved=True)] == ["b"]
    journal.close()
    script.adapter._runtime.orders.journal(str(path)).close()  # type: ignore[union-attr]


def test_nothing_is_sent_where_the_journal_cannot_be_written(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path
) -> None:
    """JournalError, with a report that says that nothing was sent. What is no order goes on."""
    script = a_script(journaled(tmp_path / "missing" / "journal"))
    with pytest.raises(JournalError) as caught:
        script.order()
    report = resilience_of(caught.value)
    assert (report.attempts, report.outcome_unknown) == ((), False) and exchange.received() == []
    assert script.session.get(exchange.url + "/x").json()["code"] == 0


def test_a_journal_that_fails_between_sends_delivers_what_is_in_hand(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repeat is not sent, and the answer that there is says what happened."""
    script = a_script(journaled(tmp_path / "journal"))
    intend, calls = Journal.intend, []

    def fail_second(self: Journal, *args: Any, **options: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise JournalError("disk full")
        return intend(self, *args, **options)

    monkeypatch.setattr(Journal, "intend", fail_second)
    exchange.script(Fault.code(-1008), method="POST")
    response = script.order()
    assert response.json()["code"] == -1008 and not resilience_of(response).outcome_unknown
    assert len(exchange.received(ORDER_PATH)) == 1
    assert script.events[-1].detail == "the order journal cannot be written"
    script.adapter._runtime.orders.journal(str(tmp_path / "journal")).close()  # type: ignore[union-attr]


def test_an_outcome_that_cannot_be_written_is_delivered_all_the_same(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order was executed, and its answer is worth more than our trouble; an unknown one stays in doubt."""
    script = a_script(journaled(tmp_path / "journal"))

    def fail(self: Journal, *args: Any, **options: Any) -> None:
        raise JournalError("disk full")

    monkeypatch.setattr(Journal, "note", fail)
    assert script.order("x1").json()["code"] == 0
    exchange.script(Fault.reset("after"), method="POST")
    with pytest.raises(requests.ConnectionError):
        script.order("x2")
    with pytest.raises(OutcomeUnknownError):
        script.order("x2")
    script.adapter._runtime.orders.journal(str(tmp_path / "journal")).close()  # type: ignore[union-attr]


@pytest.mark.parametrize("executed", [True, False])
def test_doubt_outlives_the_adapter_where_a_journal_is_kept(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, clock: FakeClock, executed: bool
) -> None:
    """Another one, with other settings and the same journal, finds out first."""
    path = tmp_path / "journal"
    first = a_script(journaled(path))
    exchange.script(Fault.reset("after" if executed else "before"), method="POST")
    with pytest.raises(requests.ConnectionError):
        first.order()
    with pytest.raises(OutcomeUnknownError):
        a_script(journaled(path, deadline=100.0)).order()
    second = a_script({"orders": {"journal": str(path), "query_path": ORDER_PATH}})
    assert second.order().json()["data"]["clientOrderId"] == "x1"
    assert exchange.executions("x1") == 1
    # The first one learns of it from the journal.
    exchange.reset_journal()
    first.order("x1")
    assert len(exchange.received(ORDER_PATH, "POST")) == 1


def test_a_word_given_elsewhere_counts(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, clock: FakeClock
) -> None:
    """``orders --resolve`` in another process ends the doubt in this one; ``adapter.resolve`` writes it down."""
    path = tmp_path / "journal"
    script = a_script(journaled(path))
    exchange.script(Fault.reset("before"), Fault.reset("before"), method="POST")
    for name in ("x1", "x2"):
        with pytest.raises(requests.ConnectionError):
            script.order(name)
    journal = Journal(path, clock)
    assert journal.resolve("x1") == 1
    assert script.order("x1").json()["code"] == 0
    assert script.adapter.resolve("x2") and journal.entries(unresolved=True) == []
    journal.close()


def test_one_process_waits_for_another_that_is_finding_out(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, clock: FakeClock
) -> None:
    """Two runtimes, as two processes are: the one is finding out and sends, the other is given the order's state."""
    path = tmp_path / "journal"
    both = {"journal": str(path), "query_path": ORDER_PATH}
    first, second = a_script({"orders": both, "deadline": 0}), a_script({"orders": both, "deadline": 10_000.0})
    exchange.script(Fault.reset("before"), method="POST")
    exchange.script(*[Fault.status(502)] * 40, method="GET")
    with pytest.raises(requests.ConnectionError):
        first.order()
    exchange.clear()
    exchange.script(Fault.delay(0.2), Fault.delay(0.2), method="GET")
    exchange.script(Fault.delay(0.3), method="POST")
    given: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n, script=script: given.update({n: script.order()}))  # type: ignore[misc]
        for n, script in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {response.json()["data"]["orderId"] for response in given.values()} == {1}
    assert exchange.executions("x1") == 1


def test_whoever_holds_an_order_for_ever_is_not_waited_for_beyond_the_deadline(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, clock: FakeClock
) -> None:
    """It is still unknown then, and nothing is sent."""
    path = tmp_path / "journal"
    script = a_script({"orders": {"journal": str(path), "query_path": ORDER_PATH}, "deadline": 5.0})
    journal = Journal(path, clock)
    intent = OrderRules(exchange.url, script.adapter.settings.orders).intent(
        module.Order((exchange.url, "x1", ""), "x1"), a_request(params=ID), "x1"
    )
    line = journal.intend(intent)
    journal.note([line], State.UNKNOWN)
    assert journal.hold([line], this_process() + ":elsewhere")
    with pytest.raises(OutcomeUnknownError):
        script.order()
    assert exchange.received() == []
    journal.note([line], State.RESOLVED)
    journal.close()


def test_settings_are_enough_for_a_json_body(exchange: OrderGateway, a_script: Callable[..., Script]) -> None:
    """The client id and what is carried are read from JSON as well."""
    exchange.script(Fault.reset("after"), method="POST")
    script = a_script(RECONCILED)
    response = script.session.post(script.url, data=json.dumps(ID | {"symbol": "B"}),
                                   headers={"Content-Type": "application/json"})  # fmt: skip
    assert response.json()["data"]["clientOrderId"] == "x"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("found_absent", [False, True])
def test_what_another_process_has_executed_meanwhile_is_not_sent(
    clock: FakeClock, tmp_path: Path, found_absent: bool, there: bool
) -> None:
    """It was in doubt when we looked, and is settled when we come to it: its state is delivered, or it is unknown."""
    path = tmp_path / "journal"
    other = Journal(path, clock)
    intent = rules().intent(module.Order(("https://a.example", "x", ""), "x"), a_request(params=ID), "x")
    line = other.intend(intent)
    other.note([line], State.UNKNOWN)
    other.intend(intent)  # on the wire, in a process that is alive: in nobody's way
    board = module.Orders(clock)
    submission = board.submission(rules(journal=str(path)), a_request(params=ID))
    assert submission is not None
    found = requests.Response()
    with submission:
        assert submission.in_doubt()
        if found_absent:  # and sent again, on a line of its own
            line = other.intend(intent, absent=[line], holder=f"{this_process()}:elsewhere")
        other.note([line], State.EXECUTED)
        if there:
            assert submission.settle(lambda sent_at: found, float("inf")) is found
        else:
            with pytest.raises(StillUnknownError, match="another process"):
                submission.settle(lambda sent_at: None, float("inf"))
    other.close()
    board.journal(str(path)).close()  # type: ignore[union-attr]


def test_a_doubt_that_has_ended_when_we_come_to_lead_keeps_nobody_from_sending(clock: FakeClock) -> None:
    """A person's word, say, given while it was being found out."""
    board = Board(clock)
    with board.submission() as leader:
        assert leader.in_doubt()
        board.orders.resolve("x")
        assert leader.settle(_interrupt, float("inf")) is None


def test_a_refusal_after_the_proof_leaves_no_doubt(
    exchange: OrderGateway, a_script: Callable[..., Script], tmp_path: Path, clock: FakeClock
) -> None:
    """Proven absent, and then refused or not sent: the journal says not executed, with what the last send brought."""
    path = tmp_path / "journal"
    orders = {"journal": str(path), "query_path": ORDER_PATH}
    script = a_script({"orders": orders, "retry": {"max_attempts": 2}})
    exchange.script(Fault.reset("before"), Fault.code(-2010), method="POST")
    assert script.order().json()["code"] == -2010
    journal = Journal(path, clock)
    assert [(entry.state, entry.code) for entry in journal.entries()] == [
        (State.NOT_EXECUTED, None),
        (State.NOT_EXECUTED, -2010),
    ]
    script = a_script({"orders": orders, "retry": {"max_attempts": 1}})
    exchange.script(Fault.reset("before"), method="POST")
    with pytest.raises(requests.ConnectionError) as caught:
        script.order()
    assert not resilience_of(caught.value).outcome_unknown
    assert [entry.state for entry in journal.entries()] == [State.NOT_EXECUTED] * 3
    journal.close()
