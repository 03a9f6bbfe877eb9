"""Gateway: what it answers, what it refuses, what it remembers."""

from __future__ import annotations

import base64
import doctest
import importlib
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import format_datetime

import pytest
import requests

from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway, Received, Request


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Return a plain session: no adapter of ours."""
    with requests.Session() as plain:
        yield plain


def codes(gateway: Gateway) -> list[int | None]:
    """Return the code of every answer so far."""
    return [entry.code for entry in gateway.journal]


def bearer(token: str) -> dict[str, str]:
    """Return the header that presents a token."""
    return {"Authorization": f"Bearer {token}"}


# What it answers.


def test_any_path_is_echoed_in_the_reference_s_envelope(gateway: Gateway, session: requests.Session) -> None:
    """A success is code 0, msg "success" and data, whatever was asked."""
    response = session.post(gateway.url + "/api/v1/order?symbol=BTCUSDT", json={"side": "BUY"})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    assert response.json() == {
        "code": 0,
        "msg": "success",
        "data": {"method": "POST", "path": "/api/v1/order", "query": "symbol=BTCUSDT", "number": 1},
    }


def test_it_tells_its_time(session: requests.Session) -> None:
    """The server's clock goes by the clock handed in, ahead of it by the offset; a client's clock step moves it not."""
    clock = FakeClock()
    with Gateway(clock=clock) as gateway:
        url = gateway.url + "/api/gateway/time"
        assert session.get(url).json()["data"] == {"serverTime": 1_700_000_000_000}
        gateway.clock_offset = -7.5
        clock.advance(10)
        clock.step(3600)
        assert session.get(url).json()["data"] == {"serverTime": 1_700_000_002_500}
        assert gateway.time() == 1_700_000_002.5
        assert session.post(url).json()["data"]["method"] == "POST"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"\xef\xbb\xbf{\xff", b"\xef\xbb\xbf{\xff"),
        ("größer", "größer".encode()),
        ("", b""),
        ({"code": -1}, b'{"code":-1}'),
        ([1, 2], b"[1,2]"),
        (lambda request: f"hello {request.method}", b"hello GET"),
        (lambda request: {"number": request.number}, b'{"number":1}'),
    ],
)
def test_a_path_answers_what_the_test_wants(
    gateway: Gateway, session: requests.Session, body: bytes, sent: bytes
) -> None:
    """Bytes and strings verbatim, dicts and lists as JSON, and whatever a function makes of the request."""
    gateway.respond("/x", body, status=201, headers={"X-A": "b"}, content_type="text/odd")
    response = session.get(gateway.url + "/x")
    assert (response.content, response.status_code) == (sent, 201)
    assert (response.headers["X-A"], response.headers["Content-Type"]) == ("b", "text/odd")


def test_an_answer_stands_for_itself(gateway: Gateway, session: requests.Session) -> None:
    """An Answer's own status, code and execution count, from a function or not."""
    gateway.respond("/refused", Answer.error(-2010, status=400), status=201)
    gateway.respond("/lost", lambda request: Answer.error(-1006, "lost", executed=True, headers={"X-A": "b"}))
    assert session.post(gateway.url + "/refused").json() == {"code": -2010, "msg": "Insufficient balance"}
    assert session.post(gateway.url + "/lost").headers["X-A"] == "b"
    facts = [(entry.status, entry.code, entry.executed) for entry in gateway.journal]
    assert facts == [(400, -2010, False), (200, -1006, True)]


def test_an_answer_need_have_no_content_type_and_may_name_its_own(gateway: Gateway, session: requests.Session) -> None:
    """None leaves the header out, and one among the headers is not doubled."""
    gateway.respond("/none", b"x", content_type=None)
    gateway.respond("/own", b"x", headers={"content-type": "text/own"})
    assert "Content-Type" not in session.get(gateway.url + "/none").headers
    assert session.get(gateway.url + "/own").headers["Content-Type"] == "text/own"


def test_the_latest_response_that_matches_counts(gateway: Gateway, session: requests.Session) -> None:
    """By path or pattern, and by method; even in place of the gateway's own routes, and not for other paths."""
    gateway.respond("/api/*", b"any")
    gateway.respond("/api/order", b"post", method="POST")
    gateway.respond("/api/gateway/time", b"late")
    asked = [("GET", "/api/order"), ("POST", "/api/order"), ("GET", "/api/gateway/time")]
    answers = [session.request(method, gateway.url + path).text for method, path in asked]
    assert answers == ["any", "post", "late"]
    assert session.get(gateway.url + "/apis").json()["code"] == 0


@pytest.mark.parametrize(
    ("value", "code"), [({"code": 7}, 7), ({"code": True}, None), ({"code": "7"}, None), ([7], None)]
)
def test_the_journal_shows_the_code_of_json_that_has_one(
    gateway: Gateway, session: requests.Session, value: dict[str, object], code: int | None
) -> None:
    """An integer code at the top level, and nothing else."""
    gateway.respond("/", value)
    session.get(gateway.url)
    assert codes(gateway) == [code]


def test_a_subclass_serves_what_it_likes(session: requests.Session) -> None:
    """handle() is the way to something real, and is called exactly for what is executed."""

    class Ledger(Gateway):
        orders = 0

        def handle(self, request: Request) -> Answer:
            if request.path != "/order":
                return super().handle(request)
            self.orders += 1
            return Answer.success({"orderId": self.orders})

    with Ledger() as gateway:
        gateway.script(Fault.reset("before"), Fault.reset("after"), Fault.code(-1008))
        for _ in range(2):
            with pytest.raises(requests.ConnectionError):
                session.post(gateway.url + "/order")
        assert session.post(gateway.url + "/order").json()["code"] == -1008
        assert session.post(gateway.url + "/order").json()["data"] == {"orderId": 2}
        assert session.get(gateway.url + "/else").json()["data"]["path"] == "/else"
        assert gateway.orders == len([entry for entry in gateway.received("/order") if entry.executed]) == 2


# Tokens.


def test_without_a_valid_token_nothing_is_executed(session: requests.Session) -> None:
    """-1002 for a missing, wrong or oddly presented token; time and login need none."""
    with Gateway(require_token=True) as gateway:
        token = session.post(gateway.url + "/login").json()["data"]["token"]
        assert session.get(gateway.url + "/api/gateway/time").json()["code"] == 0
        gateway.reset_journal()
        for headers in ({}, bearer("other"), bearer(""), {"Authorization": f"Basic {token}"}, {"Authorization": token}):
            response = session.get(gateway.url, headers=headers)
            assert (response.status_code, response.json()) == (200, {"code": -1002, "msg": "Unauthorized"})
        assert session.get(gateway.url, headers=bearer(token)).json()["code"] == 0
        assert session.get(gateway.url, headers={"authorization": f"bearer {token}"}).json()["code"] == 0
        assert [entry.executed for entry in gateway.journal] == [False] * 5 + [True] * 2
        assert {entry.fault for entry in gateway.journal[:5]} == {Fault.code(-1002)}


def test_a_refused_token_may_be_a_401(session: requests.Session) -> None:
    """The status of -1002 is the test's choice."""
    with Gateway(require_token=True, unauthorized_status=401) as gateway:
        response = session.get(gateway.url)
        assert (response.status_code, response.json()["code"]) == (401, -1002)


def test_tokens_expire_with_time(session: requests.Session) -> None:
    """On the server's clock, and not a moment early."""
    clock = FakeClock()
    with Gateway(clock=clock, require_token=True, token_ttl=60) as gateway:
        login = session.post(gateway.url + "/login").json()["data"]
        assert login["expiresIn"] == 60
        for seconds, code in ((59, 0), (1, -1002)):
            clock.advance(seconds)
            assert session.get(gateway.url, headers=bearer(login["token"])).json()["code"] == code


def test_tokens_expire_with_use(session: requests.Session) -> None:
    """After so many requests; each token has its own count."""
    with Gateway(require_token=True, token_uses=2) as gateway:
        for _ in range(2):
            header = bearer(gateway.issue_token())
            assert [session.get(gateway.url, headers=header).json()["code"] for _ in range(3)] == [0, 0, -1002]


def test_tokens_expire_when_told(session: requests.Session) -> None:
    """expire_tokens() ends all there are, and none that comes after."""
    with Gateway(require_token=True) as gateway:
        old = gateway.issue_token()
        gateway.expire_tokens()
        new = gateway.issue_token()
        assert session.get(gateway.url, headers=bearer(old)).json()["code"] == -1002
        assert session.get(gateway.url, headers=bearer(new)).json()["code"] == 0


def test_only_so_many_tokens_are_kept(session: requests.Session) -> None:
    """The oldest are forgotten, so that a gateway that runs for days does not grow."""
    with Gateway(require_token=True) as gateway:
        tokens = [gateway.issue_token() for _ in range(1001)]
        answers = [session.get(gateway.url, headers=bearer(token)).json()["code"] for token in tokens[:2]]
        assert answers == [-1002, 0]


@pytest.mark.parametrize(("ttl", "exp"), [(60.0, "1700000060"), (0.5, "1700000000.5")])
def test_a_jwt_carries_its_expiry(session: requests.Session, ttl: float, exp: str) -> None:
    """Three parts, the last one empty, and an exp that the server holds to; a whole number where it can be."""
    clock = FakeClock()
    with Gateway(clock=clock, require_token=True, jwt=True, token_ttl=ttl) as gateway:
        token = gateway.issue_token()
        header, claims, signature = (
            base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode() for part in token.split(".")
        )
        assert (json.loads(header), signature) == ({"alg": "none"}, "")
        assert f'"exp": {exp},' in claims
        assert json.loads(claims)["iat"] == 1_700_000_000
        assert session.get(gateway.url, headers=bearer(token)).json()["code"] == 0
        assert gateway.issue_token() != token
        clock.advance(ttl)
        assert session.get(gateway.url, headers=bearer(token)).json()["code"] == -1002


# Scripts, random faults, busy, rate limit.


def test_a_script_is_played_in_order_and_then_over(gateway: Gateway, session: requests.Session) -> None:
    """One fault to each request; None and Fault.none() are healthy, and so is what comes after."""
    gateway.script(Fault.code(-1000), None, Fault.code(-1001), Fault.none())
    for _ in range(5):
        session.get(gateway.url)
    assert codes(gateway) == [-1000, 0, -1001, 0, 0]
    assert [entry.fault for entry in gateway.journal] == [Fault.code(-1000), None, Fault.code(-1001), None, None]


def test_a_script_may_be_for_some_requests_only(gateway: Gateway, session: requests.Session) -> None:
    """By path, by pattern and by method; others pass and use nothing up."""
    gateway.script(Fault.code(-1001), path="/a")
    gateway.script(Fault.code(-1002), path="/b/*", method="POST")
    asked = [("GET", "/c"), ("GET", "/b/1"), ("POST", "/b/1"), ("POST", "/b/1"), ("GET", "/a"), ("GET", "/a")]
    for method, path in asked:
        session.request(method, gateway.url + path)
    assert codes(gateway) == [0, 0, -1002, 0, -1001, 0]


def test_scripts_queue_up(gateway: Gateway, session: requests.Session) -> None:
    """A second script is played after the first one that matches too."""
    gateway.script(Fault.code(-1000))
    gateway.script(Fault.code(-1001), path="/a")
    for _ in range(3):
        session.get(gateway.url + "/a")
    gateway.script(Fault.code(-1006))
    session.get(gateway.url + "/a")
    assert codes(gateway) == [-1000, -1001, 0, -1006]


def test_random_faults_are_the_same_for_the_same_seed(session: requests.Session) -> None:
    """So is their order; another seed is another day, and the rate is about what was asked for."""

    def play(seed: int) -> list[int | None]:
        with Gateway() as gateway:
            gateway.random_faults(0.3, [Fault.code(-1000), Fault.code(-1001)], seed, path="/a")
            for _ in range(100):
                session.get(gateway.url + "/a")
            session.get(gateway.url + "/b")
            return codes(gateway)

    first = play(1)
    assert first == play(1) != play(2)
    assert set(first) == {0, -1000, -1001}
    assert 15 <= 101 - first.count(0) <= 45
    assert first[-1] == 0


@pytest.mark.parametrize(("rate", "code"), [(0, 0), (1, -1000)])
def test_random_faults_know_never_and_always(
    gateway: Gateway, session: requests.Session, rate: float, code: int
) -> None:
    """Rates of 0 and 1 are exact."""
    gateway.random_faults(rate, [Fault.code(-1000)], seed=1)
    for _ in range(20):
        session.get(gateway.url)
    assert set(codes(gateway)) == {code}


def test_a_script_goes_before_random_faults(gateway: Gateway, session: requests.Session) -> None:
    """A scripted healthy answer is healthy."""
    gateway.random_faults(1, [Fault.code(-1000)], seed=1)
    gateway.script(None)
    for _ in range(2):
        session.get(gateway.url)
    assert codes(gateway) == [0, -1000]


def test_busy_refuses_everything_until_cleared(gateway: Gateway, session: requests.Session) -> None:
    """HTTP 503 and -1008, nothing is executed and no script used up; clear() ends it, and the script too."""
    gateway.script(Fault.code(-1000))
    gateway.busy(retry_after=7)
    response = session.post(gateway.url + "/login")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    assert response.json() == {"code": -1008, "msg": "Server busy"}
    assert not gateway.journal[0].executed
    gateway.random_faults(1, [Fault.code(-1001)], seed=1)
    gateway.clear()
    assert session.get(gateway.url).json()["code"] == 0


def test_busy_ends_by_itself(session: requests.Session) -> None:
    """After the seconds that were given, on the gateway's clock; the script goes on where it was."""
    clock = FakeClock()
    with Gateway(clock=clock) as gateway:
        gateway.script(Fault.code(-1000))
        gateway.busy(30)
        assert "Retry-After" not in session.get(gateway.url).headers
        clock.advance(29.9)
        session.get(gateway.url)
        clock.advance(0.1)
        for _ in range(2):
            session.get(gateway.url)
        assert codes(gateway) == [-1008, -1008, -1000, 0]


def test_a_retry_after_may_be_a_date(gateway: Gateway, session: requests.Session) -> None:
    """It is sent as it is written."""
    date = format_datetime(datetime(2030, 1, 1, tzinfo=timezone.utc), usegmt=True)
    gateway.busy(retry_after=date)
    assert session.get(gateway.url).headers["Retry-After"] == "Tue, 01 Jan 2030 00:00:00 GMT"


def test_the_rate_limit_is_a_sliding_window(session: requests.Session) -> None:
    """So many requests in any period; those refused are told how long to wait, and do not count."""
    clock = FakeClock()
    with Gateway(clock=clock, rate_limit=(2, 10.0)) as gateway:
        session.get(gateway.url)
        clock.advance(3.5)
        session.get(gateway.url)
        for seconds, wait in ((0.0, "7"), (6.4, "1")):
            clock.advance(seconds)
            response = session.get(gateway.url)
            assert (response.status_code, response.json()["code"]) == (429, -1003)
            assert response.headers["Retry-After"] == wait
        clock.advance(0.1)
        for _ in range(2):
            session.get(gateway.url)
        assert codes(gateway) == [0, 0, -1003, -1003, 0, -1003]
        gateway.rate_limit = None
        assert session.get(gateway.url).json()["code"] == 0


def test_the_rate_limit_may_hide_under_200(session: requests.Session) -> None:
    """The status of -1003 is the test's choice."""
    with Gateway(rate_limit=(1, 60), rate_limit_status=200) as gateway:
        assert [session.get(gateway.url).status_code for _ in range(2)] == [200, 200]
        assert codes(gateway) == [0, -1003]


def test_the_used_weight_is_told_where_it_is_asked_for(session: requests.Session) -> None:
    """Every answer, a refusal too, tells how many requests the present period has counted."""
    clock, header = FakeClock(), "X-MBX-USED-WEIGHT-10S"
    with Gateway(clock=clock, rate_limit=(2, 10.0), rate_limit_header=header) as gateway:
        assert [session.get(gateway.url).headers[header] for _ in range(3)] == ["1", "2", "2"]
        clock.advance(10.0)
        assert session.get(gateway.url).headers[header] == "1"
    with Gateway(rate_limit=(2, 10.0)) as gateway:
        assert header not in session.get(gateway.url).headers


# The journal.


def test_the_journal_tells_what_was_received(session: requests.Session) -> None:
    """Everything about a request, and what became of it."""
    clock = FakeClock()
    with Gateway(clock=clock) as gateway:
        clock.advance(5)
        session.put(gateway.url + "/a?b=c", data=b"body", headers={"X-A": "b"})
        (entry,) = gateway.journal
    assert (entry.number, entry.time, entry.connection) == (1, 1005.0, 1)
    assert (entry.method, entry.path, entry.query, entry.body) == ("PUT", "/a", "b=c", b"body")
    assert entry.headers["x-a"] == "b"
    assert (entry.fault, entry.status, entry.code, entry.executed) == (None, 200, 0, True)
    assert repr(entry) == (
        "Received(number=1, time=1005.0, connection=1, method='PUT', path='/a', "
        "fault=None, status=200, code=0, executed=True)"
    )


def test_the_journal_is_a_copy_and_can_be_asked(gateway: Gateway, session: requests.Session) -> None:
    """By path or pattern and by method; a list that was taken does not change any more."""
    before = gateway.journal
    for method, path in (("GET", "/a/1"), ("POST", "/a/1"), ("POST", "/a/2")):
        session.request(method, gateway.url + path)
    assert before == []

    def numbers(entries: list[Received]) -> list[int]:
        return [entry.number for entry in entries]

    assert numbers(gateway.received()) == [1, 2, 3]
    assert numbers(gateway.received("/a/1")) == [1, 2]
    assert numbers(gateway.received("/a/*", "POST")) == [2, 3]
    assert numbers(gateway.received(method="DELETE")) == []


def test_the_journal_can_begin_anew(gateway: Gateway, session: requests.Session) -> None:
    """Entries and the count of connections go; numbers go on."""
    for _ in range(2):
        requests.get(gateway.url)
    session.get(gateway.url)
    assert gateway.connections == 3
    gateway.reset_journal()
    assert (gateway.journal, gateway.connections) == ([], 0)
    session.get(gateway.url)
    requests.get(gateway.url)
    assert [(entry.number, entry.connection) for entry in gateway.journal] == [(4, 3), (5, 4)]
    assert gateway.connections == 1


def test_the_journal_keeps_only_so_much(session: requests.Session) -> None:
    """The oldest entries go first."""
    with Gateway(journal_size=2) as gateway:
        for _ in range(4):
            session.get(gateway.url)
        assert [entry.number for entry in gateway.journal] == [3, 4]


def test_an_entry_that_was_dropped_does_not_come_back(gateway: Gateway) -> None:
    """A request that is still being served when the journal begins anew is no part of the new one."""

    def begin_anew(request: Request) -> bytes:
        gateway.reset_journal()
        return b""

    gateway.respond("/", begin_anew)
    assert requests.get(gateway.url).status_code == 200
    assert gateway.journal == []


def test_every_request_of_many_threads_is_entered_once(gateway: Gateway) -> None:
    """In order, with numbers that nobody shares, over a connection each."""

    def ask() -> None:
        with requests.Session() as session:
            for _ in range(20):
                session.get(gateway.url)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.number for entry in gateway.journal] == list(range(1, 161))
    assert gateway.connections == 8


def test_requests_are_served_side_by_side(gateway: Gateway) -> None:
    """Handlers run at the same time, and the journal shows a request before it is answered."""
    barrier = threading.Barrier(3)

    def meet(request: Request) -> bytes:
        barrier.wait(5)
        return b"met"

    gateway.respond("/meet", meet)
    threads = [threading.Thread(target=requests.get, args=(gateway.url + "/meet",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    entries = gateway.wait_for(2, "/meet", "GET")
    assert [(entry.status, entry.executed) for entry in entries] == [(None, False)] * 2
    barrier.wait(5)
    for thread in threads:
        thread.join()
    assert [entry.status for entry in gateway.journal] == [200, 200]


def test_waiting_for_requests_has_an_end(gateway: Gateway) -> None:
    """A TimeoutError says how many came."""
    requests.get(gateway.url + "/a")
    assert len(gateway.wait_for(1, path="/a")) == 1
    with pytest.raises(TimeoutError, match=r"1 of 2 requests arrived in 0\.01 s"):
        gateway.wait_for(2, timeout=0.01)
    with pytest.raises(TimeoutError, match="0 of 1"):
        gateway.wait_for(1, method="POST", timeout=0.01)


@pytest.mark.parametrize("name", ["resilient_adapter.testing", "resilient_adapter.testing.clock"])
def test_the_documentation_s_examples_run(name: str) -> None:
    """What the docstrings show is what happens."""
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried and not failed
