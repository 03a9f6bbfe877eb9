"""The reconciler: patient, and never taking anything else for a proof."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import requests

from resilient_adapter import OrderReconciler, Settings
from resilient_adapter.repairs.reconcile import StillUnknownError, reconciler_from_settings
from resilient_adapter.testing import FakeClock

URL = "https://a.example/api/v1/order"
FOUND = b'{"code": 0, "msg": "success", "data": {"orderId": 1, "status": "FILLED"}}'
ABSENT = b'{"code": -2011, "msg": "Order not found"}'


def an_answer(body: bytes, status: int = 200) -> requests.Response:
    """Return a response that has been read."""
    response = requests.Response()
    response.status_code = status
    response._content = body
    response._content_consumed = True  # type: ignore[attr-defined]
    return response


class Send:
    """Answers look-ups from a list, the last one for ever, or as a function of the time since the start."""

    def __init__(
        self,
        *answers: Any,
        deadline: float = float("inf"),
        by_age: Callable[[float], Any] | None = None,
        recv_window: int | None = None,
        takes: float = 0.0,
    ) -> None:
        self.clock = FakeClock()
        self.start = self.sent_at = self.clock.monotonic()
        self.deadline = self.start + deadline
        self.recv_window = recv_window
        self.asked: list[tuple[float, requests.PreparedRequest]] = []
        self._answers = list(answers)
        self._by_age = by_age
        self._takes = takes

    @property
    def ages(self) -> list[float]:
        return [age for age, _ in self.asked]

    def __call__(self, request: requests.PreparedRequest) -> requests.Response:
        age = self.clock.monotonic() - self.start
        self.asked.append((age, request))
        self.clock.advance(self._takes)
        if self._by_age is not None:
            answer = self._by_age(age)
        else:
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, requests.Response) else an_answer(answer)


def an_order(**options: Any) -> requests.PreparedRequest:
    """Return an order with a client id, or with what is given."""
    options = options or {"params": {"newClientOrderId": "x1", "symbol": "BTCUSDT", "price": "1"}}
    return requests.Request("POST", options.pop("url", URL), **options).prepare()


def test_an_order_that_is_there_is_delivered_at_the_first_look() -> None:
    """The first look is ``settle`` seconds after the send, and its answer is what is returned."""
    send = Send(FOUND)
    found = OrderReconciler("/api/v1/order")(an_order(), send)
    assert found is not None and found.json()["data"]["status"] == "FILLED"
    assert send.ages == [2.0]


def test_an_order_that_becomes_visible_late_is_found() -> None:
    """A "not found" before ``give_up`` proves nothing."""
    send = Send(by_age=lambda age: FOUND if age >= 17 else ABSENT)
    assert OrderReconciler("/o")(an_order(), send) is not None
    assert send.ages == [2.0, 4.0, 8.0, 13.0, 18.0]


def test_an_order_that_never_shows_is_absent_at_give_up_and_not_before() -> None:
    """The last look is asked for exactly at ``give_up``."""
    send = Send(ABSENT)
    assert OrderReconciler("/o")(an_order(), send) is None
    assert send.ages == [2.0, 4.0, 8.0, 13.0, 18.0, 23.0, 28.0, 30.0]


def test_what_is_asked_before_give_up_is_not_believed_because_the_answer_took_long() -> None:
    """The instant of the question counts: the server looked at some time after it, perhaps at once."""
    send = Send(ABSENT, takes=10.0)
    assert OrderReconciler("/o")(an_order(), send) is None
    assert send.ages[-1] >= 30.0


@pytest.mark.parametrize(
    ("params", "signer_window", "believed_at"),
    [
        ({}, None, 5.0),
        ({}, 20000, 20.0),
        ({"recvWindow": "60000"}, None, 60.0),
        ({"recvWindow": "1000"}, 20000, 1.0),
        ({"recvWindow": "soon"}, None, 5.0),
    ],
)
def test_no_order_is_absent_before_its_receive_window_is_over(
    params: dict[str, str], signer_window: int | None, believed_at: float
) -> None:
    """The request's own window counts, else the signer's, else the reference's 5000 ms."""
    send = Send(ABSENT, recv_window=signer_window)
    order = an_order(params={"newClientOrderId": "x", **params})
    assert OrderReconciler("/o", settle=0.0, give_up=0.0)(order, send) is None
    assert send.ages[-1] == pytest.approx(believed_at)


def test_a_send_long_ago_is_looked_up_at_once_and_believed_the_second_time() -> None:
    """What matters is the time since the order's send, not since the question came up."""
    send = Send(ABSENT)
    send.sent_at -= 3600
    assert OrderReconciler("/o")(an_order(), send) is None
    assert [age - send.ages[0] for age in send.ages] == [0.0, 2.0]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"code": 0, "data": {"clientOrderId": "x1", "status": "NEW"}}', True),
        (b'{"clientOrderId": "x1"}', True),
        (b'[{"clientOrderId": "y"}, {"clientOrderId": "x1"}]', True),
        (b'{"newClientOrderId": "x1", "clientOrderId": "other"}', True),
        (b'{"code": 0, "data": {"orderId": 7}}', True),  # it need not name the id
        (b'{"code": 0, "data": {"clientOrderId": "y"}}', False),
        (b'{"origClientOrderId": "y"}', False),
        (b'[{"clientOrderId": "y"}]', False),
        (b'{"code": 0, "data": {"list": [], "total": 0}}', False),
        (b'{"code": 0, "msg": "success", "order": null}', False),
        (b'{"code": 0, "msg": "success"}', False),
        (b'{"data": [{}]}', False),
        (b'{"data": "x"}', False),
    ],
)
def test_what_tells_of_an_order(body: bytes, found: bool) -> None:
    """Emptiness does not, however it is put, nor does an order by another id: then it is still unknown."""
    send = Send(body, deadline=100.0)
    if found:
        assert OrderReconciler("/o")(an_order(), send) is not None
    else:
        with pytest.raises(StillUnknownError):
            OrderReconciler("/o")(an_order(), send)


def test_without_a_send_time_the_order_is_taken_to_have_been_sent_now() -> None:
    """``send.sent_at`` is the adapter's; a send of one's own may have only a clock and a deadline."""
    send = Send(ABSENT)
    del send.sent_at, send.recv_window
    assert OrderReconciler("/o")(an_order(), send) is None
    assert send.ages[-1] == 30.0


INCONCLUSIVE = [
    requests.ConnectionError("reset"),
    requests.ReadTimeout("late"),
    an_answer(b"<h1>Not Found</h1>", 404),
    an_answer(b"", 404),
    an_answer(b'{"error": "not found"}', 404),
    an_answer(FOUND, 302),
    an_answer(FOUND, 500),
    b'{"code": -1022, "msg": "Invalid signature"}',
    b'{"code": -1000, "msg": "Unknown error"}',
    b'{"code": -2013, "msg": "Order filled"}',
    b"<html>a captive portal</html>",
    b"",
    b"[]",
    b"{}",
    b'"FILLED"',
    b'{"code": 0, "data": null}',
    b'{"code": 0, "data": []}',
    b'{"code": 0, "data": {}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("answer", INCONCLUSIVE, ids=lambda answer: repr(getattr(answer, "content", answer))[:40])
def test_what_proves_nothing_is_neither_an_order_nor_its_absence(answer: Any) -> None:
    """An error, a page of a proxy and an empty list leave it unknown: tried until ``give_up``, then raised."""
    send = Send(answer)
    with pytest.raises(StillUnknownError):
        OrderReconciler("/o")(an_order(), send)
    assert len(send.asked) == 8 and send.ages[-1] == 30.0


@pytest.mark.parametrize("answer", [an_answer(ABSENT, 404), an_answer(ABSENT, 400), b'{"code": "-2011"}'])
def test_the_code_says_not_found_whatever_the_status(answer: Any) -> None:
    """The envelope's code outranks the HTTP status."""
    assert OrderReconciler("/o")(an_order(), Send(answer)) is None


@pytest.mark.parametrize(
    "body", [b'{"orderId": 1, "status": "NEW"}', b'[{"orderId": 1}]', b'{"code": 200, "orderId": 1}']
)
def test_an_order_without_an_envelope_is_found_too(body: bytes) -> None:
    """A body without an integer code is judged by its HTTP status."""
    assert OrderReconciler("/o")(an_order(), Send(body)) is not None


def test_an_error_at_the_end_is_tried_again_where_the_send_is_long_ago() -> None:
    """Even an old outcome deserves more than one try."""
    send = Send(requests.ConnectionError("reset"), an_answer(b"", 502), FOUND)
    send.sent_at -= 3600
    assert OrderReconciler("/o")(an_order(), send) is not None
    assert len(send.asked) == 3


def test_errors_between_do_not_matter() -> None:
    """A clean "not found" at the end is believed although look-ups before it failed."""
    send = Send(by_age=lambda age: ABSENT if age >= 30 else requests.ConnectionError("reset"))
    assert OrderReconciler("/o")(an_order(), send) is None


@pytest.mark.parametrize("answer", [ABSENT, requests.ConnectionError("reset")])
def test_the_deadline_leaves_it_unknown(answer: Any) -> None:
    """No wait is begun that would overrun the call's deadline."""
    send = Send(answer, deadline=10.0)
    with pytest.raises(StillUnknownError, match="deadline"):
        OrderReconciler("/o")(an_order(), send)
    assert send.ages == [2.0, 4.0, 8.0] and send.clock.monotonic() <= send.deadline


@pytest.mark.parametrize(
    "options", [{"params": {"symbol": "X"}}, {"params": {"newClientOrderId": ""}}, {"data": iter([b"stream"])}]
)
def test_without_a_client_id_nothing_is_asked(options: dict[str, Any]) -> None:
    """It raises at once: there is nothing to look up."""
    send = Send(FOUND)
    with pytest.raises(StillUnknownError, match="client id"):
        OrderReconciler("/o")(an_order(**options), send)
    assert send.asked == []


@pytest.mark.parametrize(
    "options",
    [
        {"params": {"newClientOrderId": "x y", "symbol": "A&B", "price": 1}},
        {"data": {"newClientOrderId": "x y", "symbol": "A&B", "price": 1}},
        {"json": {"newClientOrderId": "x y", "symbol": "A&B", "price": 1}},
        {"params": {"symbol": "A&B"}, "json": {"newClientOrderId": "x y"}},
    ],
    ids=["query", "form", "json", "both"],
)
def test_the_look_up_is_made_of_the_orders_parameters(options: dict[str, Any]) -> None:
    """The client id and what is carried are found in query, form and JSON; nothing else goes along."""
    send = Send(FOUND)
    OrderReconciler("/api/v1/order")(an_order(**options), send)
    request = send.asked[0][1]
    assert (request.method, request.body) == ("GET", None)
    assert request.url == "https://a.example/api/v1/order?symbol=A%26B&origClientOrderId=x+y"
    assert "Content-Type" not in request.headers and "Content-Length" not in request.headers


def test_the_look_up_goes_with_the_orders_credentials_to_its_origin() -> None:
    """Whoever placed the order may look it up, at a path that may have a query of its own."""
    send = Send(FOUND)
    order = an_order(
        url="https://A.example:443/x",
        params={"newClientOrderId": "1"},
        headers={"X-MBX-APIKEY": "k", "Idempotency-Key": "i"},
    )
    OrderReconciler("/find?v=2")(order, send)
    request = send.asked[0][1]
    assert request.url == "https://a.example/find?v=2&origClientOrderId=1"
    assert request.headers["X-MBX-APIKEY"] == "k" and "Idempotency-Key" not in request.headers


def test_a_scheme_of_a_transport_handed_in_is_kept() -> None:
    """Mocks have schemes of their own."""
    send = Send(FOUND)
    order = requests.Request("POST", "mock:///x").prepare()
    order.url = "mock:///x?newClientOrderId=1"
    OrderReconciler("/o")(order, send)
    assert send.asked[0][1].url == "mock:///o?origClientOrderId=1"


def test_each_look_is_a_request_of_its_own() -> None:
    """What signs one in place does not sign the next one twice."""
    send = Send(ABSENT)
    OrderReconciler("/o")(an_order(), send)
    assert len({id(request) for _, request in send.asked}) == len(send.asked)


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "a"},
        {"query_param": "a"},
        {"carry": ()},
        {"not_found": (-1,)},
        {"settle": 1.0},
        {"give_up": 31.0},
        {"success_codes": (0,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_reconcilers_are_values(change: dict[str, Any]) -> None:
    """Equal arguments make equal reconcilers, so that adapters with them share their state; they pickle."""
    one = OrderReconciler("/o")
    assert one == OrderReconciler("/o", carry=["symbol"]) and hash(one) == hash(OrderReconciler("/o"))
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != OrderReconciler("/o", **change) and one != OrderReconciler("/p") and one != "/o"
    assert repr(one) == "OrderReconciler('/o', client_id='newClientOrderId', query_param='origClientOrderId')"


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        ("order", {}, "begins with"),
        ("/o", {"carry": "symbol"}, "sequence"),
        ("/o", {"settle": 3.0, "give_up": 2.0}, "settle"),
        ("/o", {"settle": -1.0}, "settle"),
        ("/o", {"not_found": [-1, 0]}, "not both"),
        ("/o", {"success_codes": [-2011, 0]}, "not both"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(path: str, options: dict[str, Any], says: str) -> None:
    """A mistake shows when the reconciler is made, not when an order is lost."""
    with pytest.raises(ValueError, match=says):
        OrderReconciler(path, **options)


def test_settings_alone_make_one() -> None:
    """``orders.query_path`` and what goes with it describe a reconciler; without the path there is none."""
    assert reconciler_from_settings(Settings.from_mapping({})) is None
    orders = {"query_path": "/q", "client_id": "c", "query_param": "p", "carry": ["s"], "not_found": [-1], "settle": 1}
    settings = Settings.from_mapping({"orders": {**orders, "give_up": 9}, "success_codes": [7]})
    assert reconciler_from_settings(settings) == OrderReconciler(
        "/q", client_id="c", query_param="p", carry=["s"], not_found=[-1], settle=1.0, give_up=9.0, success_codes=[7]
    )
    hasty = Settings.from_mapping({"orders": {"query_path": "/q", "give_up": 1}})
    assert reconciler_from_settings(hasty) == OrderReconciler("/q", settle=1.0, give_up=1.0)


def test_the_settings_success_codes_are_its_own() -> None:
    """What is no error for the adapter is none for a look-up."""
    body = b'{"code": 7, "data": {"id": 1}}'
    assert OrderReconciler("/o", success_codes=(7,))(an_order(), Send(body)) is not None
    with pytest.raises(StillUnknownError):
        OrderReconciler("/o")(an_order(), Send(body))
