"""Repeats: what is sent again, how often, after which wait, and within which time."""

from __future__ import annotations

import threading
from email.utils import formatdate
from typing import Any

import pytest
import requests
from adapter_support import EXACT, RealClock, adapter, closed_port, connect, numbers, plain
from requests.adapters import HTTPAdapter
from urllib3.util import Timeout

import resilient_adapter as ra
from resilient_adapter.testing import FakeClock, Fault, Gateway

BROKEN = {
    "reset": Fault.reset(),
    "closed": Fault.close(),
    "executed, then reset": Fault.reset("after"),
    "executed, then closed": Fault.close("after"),
    "reset in the body": Fault.reset("body"),
    "cut off": Fault.cut_body(),
    "cut off, chunked": Fault.cut_body(chunked=True),
}

# method, headers, may be repeated although nobody knows whether it was executed
METHODS = [
    ("GET", {}, True),
    ("OPTIONS", {}, True),
    ("TRACE", {}, True),
    ("PUT", {}, True),
    ("DELETE", {}, True),
    ("POST", {}, False),
    ("PATCH", {}, False),
    ("POST", {"Idempotency-Key": "a1"}, True),
    ("PATCH", {"idempotency-key": "a1"}, True),
]
_IDS = [f"{method}{'+key' if headers else ''}" for method, headers, _ in METHODS]


class TestWhatIsRepeated:
    @pytest.mark.parametrize(("method", "headers", "repeatable"), METHODS, ids=_IDS)
    @pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
    def test_broken_connections(
        self, gateway: Gateway, fault: Fault, method: str, headers: dict[str, str], repeatable: bool
    ) -> None:
        """A connection that breaks with a request on its way is tried again where that cannot execute it twice."""
        gateway.script(fault, fault)
        session = connect()

        def call() -> requests.Response:
            return session.request(method, gateway.url + "/order", headers=headers)

        if repeatable:
            assert call().json()["code"] == 0
            assert numbers(gateway) == 3
        else:
            with pytest.raises(requests.RequestException) as caught:
                call()
            assert numbers(gateway) == 1
            assert ra.resilience_of(caught.value).outcome_unknown

    @pytest.mark.parametrize(("method", "headers", "repeatable"), METHODS, ids=_IDS)
    def test_answers_that_prove_nothing(
        self, gateway: Gateway, method: str, headers: dict[str, str], repeatable: bool
    ) -> None:
        """Codes and statuses after which the request may have been executed are repeated by the same rule."""
        for fault in (
            *(Fault.code(code) for code in (-1000, -1001, -1006, -1007, -2027)),
            *(Fault.code(code, status=500) for code in (-1000, -1001)),
            *(Fault.status(status) for status in (500, 502, 503, 504)),
        ):
            gateway.script(fault, fault)
            gateway.reset_journal()
            response = connect().request(method, gateway.url + "/order", headers=headers)
            assert numbers(gateway) == (3 if repeatable else 1), fault
            assert response.resilience.outcome_unknown is (not repeatable), fault  # type: ignore[attr-defined]
            gateway.clear()

    @pytest.mark.parametrize(("method", "headers", "repeatable"), METHODS, ids=_IDS)
    def test_answers_that_prove_it_unexecuted(
        self, gateway: Gateway, method: str, headers: dict[str, str], repeatable: bool
    ) -> None:
        """A busy or throttling server has not executed anything, so every method is repeated."""
        for fault in (
            Fault.code(-1008),
            Fault.code(-1008, status=503),
            Fault.code(-1003),
            Fault.code(-1003, status=429, retry_after=1),
            Fault.status(429, retry_after=1),
        ):
            gateway.script(fault, fault)
            gateway.reset_journal()
            response = connect().request(method, gateway.url + "/order", headers=headers)
            assert response.json()["code"] == 0, fault
            assert numbers(gateway) == 3, fault

    @pytest.mark.parametrize("fault", [Fault.code(-1100), Fault.code(-2010), Fault.code(-3000), Fault.code(-1125),
                                       Fault.code(-2012), Fault.code(-1022), Fault.status(400), Fault.status(403),
                                       Fault.status(404), Fault.status(418), Fault.status(501),
                                       Fault.code(-1021), Fault.code(-1002), Fault.status(401)], ids=repr)  # fmt: skip
    def test_what_a_repeat_would_not_change(self, gateway: Gateway, fault: Fault) -> None:
        """What the request itself is to blame for, or nobody here can repair, is delivered after one send."""
        gateway.script(fault)
        response = connect().get(gateway.url + "/order")
        assert numbers(gateway) == 1
        assert len(response.resilience.attempts) == 1  # type: ignore[attr-defined]
        assert response.status_code == fault.answer.status  # type: ignore[union-attr]

    @pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
    def test_refused_connections(self, method: str) -> None:
        """A connection that was refused carried nothing, so every method is repeated."""
        clock = FakeClock()
        with pytest.raises(requests.ConnectionError) as caught:
            connect(EXACT, clock=clock).request(method, f"http://127.0.0.1:{closed_port()}/order")
        story = ra.resilience_of(caught.value)
        assert [attempt.error for attempt in story.attempts] == ["refused"] * 3
        assert not story.outcome_unknown
        assert clock.sleeps == [1.0, 2.0]

    def test_an_order_gets_through_once_the_server_is_back(self) -> None:
        """A POST that met a refused connection is executed exactly once when the server listens again."""
        with Gateway() as gateway:
            gateway.down()

            class Repairing(FakeClock):
                def sleep(self, seconds: float) -> None:
                    super().sleep(seconds)
                    gateway.up()

            assert connect(clock=Repairing()).post(gateway.url + "/order", json={"a": 1}).json()["code"] == 0
            assert numbers(gateway) == 1

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_names_that_do_not_resolve(self, method: str) -> None:
        """A name that does not resolve is repeated for every method, and is requests' own ConnectionError."""
        with pytest.raises(requests.ConnectionError) as caught:
            connect().request(method, "http://gateway.invalid/order")
        assert [attempt.error for attempt in ra.resilience_of(caught.value).attempts] == ["refused"] * 3

    def test_read_timeouts(self, gateway: Gateway) -> None:
        """A read timeout is repeated for a GET and not for a POST."""
        for method, sends in (("GET", 3), ("POST", 1)):
            gateway.reset_journal()
            gateway.script(Fault.delay(5), Fault.delay(5), Fault.delay(5))
            with pytest.raises(requests.ReadTimeout) as caught:
                connect().request(method, gateway.url + "/order", timeout=0.05)
            assert numbers(gateway) == sends
            assert ra.resilience_of(caught.value).outcome_unknown is (method == "POST")
            gateway.clear()

    def test_attempts_are_the_setting(self, gateway: Gateway) -> None:
        """retry.max_attempts counts all sends, the first included."""
        for attempts in (1, 2, 5):
            gateway.reset_journal()
            gateway.script(*[Fault.status(502)] * attempts)
            response = connect({"retry": {"max_attempts": attempts}}).get(gateway.url + "/ping")
            assert response.status_code == 502
            assert numbers(gateway) == attempts

    def test_own_methods_and_headers(self, gateway: Gateway) -> None:
        """retry.methods and retry.idempotency_headers say what may be repeated; an empty list says nothing may."""
        for settings, headers, sends in (
            ({"methods": []}, {}, 1),
            ({"methods": [], "idempotency_headers": ["X-Once"]}, {"x-once": "1"}, 3),
            ({"idempotency_headers": []}, {"Idempotency-Key": "1"}, 1),
        ):
            gateway.reset_journal()
            gateway.script(Fault.reset(), Fault.reset())
            session = connect({"retry": settings})
            method = "PUT" if "methods" in settings else "POST"
            if sends == 1:
                with pytest.raises(requests.ConnectionError):
                    session.request(method, gateway.url + "/order", headers=headers)
            else:
                assert session.request(method, gateway.url + "/order", headers=headers).ok
            assert numbers(gateway) == sends
            gateway.clear()

    def test_settings_for_a_code(self, gateway: Gateway) -> None:
        """codes."-1999" makes an unlisted code one that is repeated, by its own word on whether it was executed."""
        for executed, sends in (("no", 3), ("unknown", 1)):
            gateway.reset_journal()
            gateway.script(Fault.code(-1999), Fault.code(-1999))
            session = connect({"codes": {"-1999": {"recovery": "retry", "executed": executed}}})
            response = session.post(gateway.url + "/order")
            assert numbers(gateway) == sends
            assert response.json()["code"] == (0 if sends == 3 else -1999)
            gateway.clear()

    def test_settings_for_an_origin(self, gateway: Gateway) -> None:
        """per_origin overrides a setting for that origin alone."""
        with Gateway() as other:
            session = connect({"per_origin": {gateway.url: {"retry": {"max_attempts": 1}}}})
            for one, sends in ((gateway, 1), (other, 2)):
                one.script(Fault.status(502))
                session.get(one.url + "/ping")
                assert numbers(one) == sends

    def test_the_retry_budget(self, gateway: Gateway) -> None:
        """Repeats beyond the budget are not sent, and a give-up says why; throttled repeats are not charged."""
        events: list[ra.Event] = []
        clock = FakeClock()
        settings = {"retry": {"budget": 1.0, "budget_floor": 0.0, "jitter": 0.0}}
        session = connect(settings, clock=clock, listeners=[events.append])
        gateway.script(*[Fault.status(502)] * 2)
        assert session.get(gateway.url + "/ping").status_code == 502
        assert numbers(gateway) == 2  # one repeat for one first send
        assert events[-1].name == "give_up" and "budget" in events[-1].detail
        gateway.script(*[Fault.code(-1003, retry_after=0)] * 2)
        assert session.get(gateway.url + "/ping").json()["code"] == 0

    def test_a_budget_that_another_thread_took(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last of the budget, taken between the decision and the repeat, is not spent twice."""
        mounted = adapter()
        session = requests.Session()
        session.mount("http://", mounted)
        monkeypatch.setattr(mounted._runtime.origin(gateway.url + "/").budget, "spend", lambda: False)
        gateway.script(Fault.status(502))
        assert session.get(gateway.url + "/ping").status_code == 502
        assert numbers(gateway) == 1


class TestWaits:
    def test_recipe(self, gateway: Gateway) -> None:
        """The waits are base * factor**n, as the reference has them."""
        clock = FakeClock()
        gateway.script(*[Fault.status(502)] * 4)
        settings = {"retry": {"max_attempts": 5, "base": 0.5, "factor": 3.0, "jitter": 0.0, "max_wait": 10.0}}
        response = connect(settings, clock=clock).get(gateway.url + "/ping")
        assert clock.sleeps == [0.5, 1.5, 4.5, 10.0]
        assert [attempt.wait for attempt in response.resilience.attempts] == [0.0, *clock.sleeps]  # type: ignore[attr-defined]

    def test_jitter(self, gateway: Gateway) -> None:
        """Chance adds between nothing and retry.jitter to each wait, and not always the same."""
        seen = set()
        for _ in range(12):
            clock = FakeClock()
            gateway.script(Fault.status(502), Fault.status(502))
            assert connect(clock=clock).get(gateway.url + "/ping").ok
            first, second = clock.sleeps
            assert 1.0 <= first <= 2.0 and 2.0 <= second <= 3.0
            seen.add(first)
        assert len(seen) > 1

    def test_retry_after_in_seconds(self, gateway: Gateway) -> None:
        """A throttle's Retry-After is waited for, to the second, before anything else is sent."""
        clock = FakeClock()
        gateway.script(Fault.code(-1003, status=429, retry_after=7))
        response = connect(clock=clock).get(gateway.url + "/ping")
        assert response.resilience.attempts[1].wait == pytest.approx(7, abs=0.3)  # type: ignore[attr-defined]
        assert sum(clock.sleeps) >= 7

    def test_retry_after_as_a_date(self, gateway: Gateway) -> None:
        """An HTTP date is measured from the response's own Date header, else from the local clock."""
        clock = FakeClock()
        now = int(clock.time())
        for headers, until in (
            ({"Date": formatdate(now - 3600, usegmt=True)}, now - 3600 + 20),
            ({}, now + 20),
        ):
            clock = FakeClock()
            gateway.script(Fault.status(429, headers={**headers, "Retry-After": formatdate(until, usegmt=True)}))
            response = connect(clock=clock).get(gateway.url + "/ping")
            assert response.resilience.attempts[1].wait == pytest.approx(20, abs=1)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("value", [None, "soon", "-5", "1e3", ""])
    def test_no_usable_retry_after(self, gateway: Gateway, value: str | None) -> None:
        """Without a usable Retry-After it is rate_limit.wait."""
        clock = FakeClock()
        gateway.script(Fault.code(-1003, retry_after=value))
        response = connect({"rate_limit": {"wait": 33.0}}, clock=clock).get(gateway.url + "/ping")
        assert response.resilience.attempts[1].wait == pytest.approx(33, abs=0.3)  # type: ignore[attr-defined]

    def test_busy_with_retry_after(self, gateway: Gateway) -> None:
        """A busy server's Retry-After lengthens the backoff and never shortens it."""
        for asked, waited in ((9, 9.0), (0, 1.0)):
            clock = FakeClock()
            gateway.script(Fault.code(-1008, status=503, retry_after=asked))
            assert connect(EXACT, clock=clock).get(gateway.url + "/ping").ok
            assert clock.sleeps == [waited]

    def test_attempts_tell_the_story(self, gateway: Gateway) -> None:
        """Each attempt records number, status, code, error, recovery, wait and elapsed; the whole its code and time."""
        clock = FakeClock()
        gateway.script(Fault.reset(), Fault.code(-1001), Fault.status(502), None)
        session = connect({"retry": {"max_attempts": 4, "jitter": 0.0}}, clock=clock)
        story = ra.resilience_of(session.get(gateway.url + "/ping"))
        assert [tuple(attempt)[:6] for attempt in story.attempts] == [
            (1, None, None, "reset", "retry", 0.0),
            (2, 200, -1001, None, "retry", 1.0),
            (3, 502, None, None, "retry", 2.0),
            (4, 200, 0, None, "none", 4.0),
        ]
        assert story.code == 0 and story.elapsed == 7.0 and not story.outcome_unknown
        assert all(attempt.elapsed == 0.0 for attempt in story.attempts)

    def test_what_is_known_of_the_end(self, gateway: Gateway) -> None:
        """resilience.code and .info are of what was delivered; None where the body had no code."""
        gateway.script(Fault.status(404), Fault.code(-2010))
        session = connect()
        first, second = (ra.resilience_of(session.get(gateway.url + "/ping")) for _ in range(2))
        assert first.code is None and first.info is not None and first.info.code == 404
        assert second.code == -2010 and second.info is ra.explain(-2010)

    def test_nothing_of_ours(self, gateway: Gateway) -> None:
        """What did not come through the adapter has no story to tell."""
        with pytest.raises(AttributeError, match="ResilientAdapter"):
            ra.resilience_of(requests.get(gateway.url + "/ping", timeout=5))


class TestTimeouts:
    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Return the timeouts that requests' own adapter is given, in order."""
        timeouts: list[Any] = []
        send = HTTPAdapter.send

        def spy(self: HTTPAdapter, *args: Any, **options: Any) -> requests.Response:
            timeouts.append(options["timeout"])
            return send(self, *args, **options)

        monkeypatch.setattr(HTTPAdapter, "send", spy)
        return timeouts

    def test_defaults(self, gateway: Gateway, seen: list[Any]) -> None:
        """A call without a timeout gets connect_timeout and read_timeout; 0 stands for none; a caller's own counts."""
        connect().get(gateway.url)
        connect({"connect_timeout": 0, "read_timeout": 7, "deadline": 0}).get(gateway.url)
        connect({"connect_timeout": 1, "read_timeout": 0, "deadline": 0}).get(gateway.url)
        connect().get(gateway.url, timeout=9)
        connect().get(gateway.url, timeout=(8, 9))
        connect({"deadline": 0}).get(gateway.url, timeout=(8, None))
        assert seen == [(5.0, 30.0), (None, 7.0), (1.0, None), 9, (8, 9), (8, None)]

    def test_longer_after_1007(self, gateway: Gateway, seen: list[Any]) -> None:
        """After -1007 each repeat's timeouts are multiplied; after anything else they are not."""
        gateway.script(Fault.code(-1007), Fault.code(-1007))
        connect().get(gateway.url, timeout=3)
        assert seen == [3, (6.0, 6.0), (12.0, 12.0)]
        seen.clear()
        gateway.script(Fault.code(-1007), Fault.code(-1001))
        connect({"retry": {"timeout_factor": 1.5}}).get(gateway.url, timeout=(2, 4))
        assert seen == [(2, 4), (3.0, 6.0), (3.0, 6.0)]
        seen.clear()
        gateway.script(Fault.code(-1007))
        connect({"connect_timeout": 0, "read_timeout": 0, "deadline": 0}).get(gateway.url)
        assert seen == [(None, None), (None, None)]

    def test_what_is_left_of_the_deadline(self, gateway: Gateway, seen: list[Any]) -> None:
        """A send gets no more time than the call has left."""
        clock = FakeClock()
        gateway.script(Fault.status(502), Fault.status(502))
        connect({"deadline": 10.0, "retry": {"jitter": 0.0, "base": 4.0, "factor": 1.0}}, clock=clock).get(
            gateway.url, timeout=(3, 6)
        )
        assert seen[0] == (3, 6)
        assert [(one.total, one._connect, one._read) for one in seen[1:]] == [(6.0, 3, 6), (2.0, 3, 6)]

    def test_a_transport_of_another_kind(self, gateway: Gateway) -> None:
        """A transport that was handed in gets the same as plain numbers, which any adapter understands."""

        class Tap(HTTPAdapter):
            timeouts: list[Any] = []  # noqa: RUF012

            def send(self, *args: Any, **options: Any) -> requests.Response:  # type: ignore[override]
                self.timeouts.append(options["timeout"])
                return super().send(*args, **options)

        session = connect({"deadline": 10.0}, transport=Tap())
        session.get(gateway.url)
        session.get(gateway.url, timeout=(None, 4))
        session.get(gateway.url, timeout=(4, None))
        assert Tap.timeouts == [(5.0, 10.0), (10.0, 4), (4, 10.0)]

    def test_a_timeout_of_urllib3(self, gateway: Gateway) -> None:
        """urllib3's own Timeout object goes for what it says, its total included."""
        gateway.script(Fault.delay(5))
        with pytest.raises(requests.ReadTimeout):
            connect({"retry": {"max_attempts": 1}}).get(gateway.url, timeout=Timeout(total=0.1))
        gateway.script(Fault.delay(5))
        with pytest.raises(requests.ReadTimeout):
            connect({"retry": {"max_attempts": 1}}).get(gateway.url, timeout=Timeout(connect=3, read=0.1))


class TestDeadline:
    def test_no_wait_is_begun_that_would_overrun_it(self, gateway: Gateway) -> None:
        """A wait that does not fit is not begun: the answer in hand is delivered."""
        clock = FakeClock()
        gateway.script(*[Fault.status(502)] * 9)
        settings = {"deadline": 6.0, "retry": {"max_attempts": 9, "jitter": 0.0}}
        response = connect(settings, clock=clock).get(gateway.url + "/ping")
        assert response.status_code == 502
        assert clock.sleeps == [1.0, 2.0]  # a third wait of 4 would end after it
        assert numbers(gateway) == 3

    def test_a_drip_is_cut_off(self, gateway: Gateway) -> None:
        """A body that drips is cut off at the deadline, though no silence in it is long."""
        clock = RealClock()
        for fault in (Fault.drip(0.03), Fault.drip(0.03, chunk=2)):
            gateway.script(fault)
            started = clock.monotonic()
            with pytest.raises(requests.Timeout) as caught:
                connect({"deadline": 0.3}, clock=clock).get(gateway.url + "/ping")
            assert clock.monotonic() - started < 1.0
            assert ra.resilience_of(caught.value).attempts

    def test_a_silence_is_cut_off(self, gateway: Gateway) -> None:
        """A send that would wait longer for its answer than the call has left ends in requests' own timeout."""
        clock = RealClock()
        gateway.script(Fault.delay(5))
        started = clock.monotonic()
        with pytest.raises(requests.ReadTimeout):
            connect({"deadline": 0.2}, clock=clock).get(gateway.url + "/ping")
        assert clock.monotonic() - started < 1.0

    def test_a_drip_without_a_deadline(self, gateway: Gateway) -> None:
        """Without a deadline a slow body is waited for, as plain requests would."""
        gateway.script(Fault.drip(0.005, chunk=5))
        assert connect({"deadline": 0}).get(gateway.url + "/ping").json()["code"] == 0


class TestCooldown:
    def test_too_long_a_wait_is_delivered(self, gateway: Gateway) -> None:
        """A Retry-After beyond rate_limit.max_wait is not waited for; later calls get a local 429 with what is left."""
        clock = FakeClock()
        events: list[ra.Event] = []
        session = connect({"rate_limit": {"max_wait": 100.0}}, clock=clock, listeners=[events.append])
        gateway.script(Fault.code(-1003, status=418, retry_after=500))
        first = session.post(gateway.url + "/order")
        assert first.status_code == 418 and first.headers["Retry-After"] == "500"
        assert clock.sleeps == [] and events[-1].name == "give_up"

        clock.advance(20)
        later = session.post(gateway.url + "/order")
        assert later.status_code == 429 and later.json()["code"] == -1003
        assert later.headers["Retry-After"] == "480"
        assert ra.resilience_of(later).attempts == () and not ra.resilience_of(later).outcome_unknown
        assert later.url == gateway.url + "/order" and later.request.method == "POST"
        assert numbers(gateway) == 1 and events[-1].name == "refused"

        clock.advance(400)
        assert session.post(gateway.url + "/order").json()["code"] == 0  # 80 s are left, and that is waited for
        assert sum(clock.sleeps) >= 80

    def test_raised(self, gateway: Gateway) -> None:
        """Under on_error="raise" the local 429 is a RateLimitError like any other."""
        session = connect({"on_error": "raise", "rate_limit": {"max_wait": 100.0}})
        gateway.script(Fault.code(-1003, retry_after=500))
        for _ in range(2):
            with pytest.raises(ra.RateLimitError) as caught:
                session.post(gateway.url + "/order")
            assert caught.value.response.headers["Retry-After"] == "500"  # type: ignore[union-attr]
        assert numbers(gateway) == 1

    def test_no_thread_sends_until_then(self, gateway: Gateway) -> None:
        """One thread's throttle closes the origin for all threads and sessions, also for another path."""
        clock = FakeClock()
        gateway_clock_start = clock.monotonic()
        sessions = [connect(clock=clock) for _ in range(8)]
        gateway.script(Fault.code(-1003, status=429, retry_after=30))
        times: list[float] = []
        gateway.respond("*", lambda request: (times.append(clock.monotonic()), {"code": 0})[1])
        sessions[0].get(gateway.url + "/first")
        assert times == [pytest.approx(gateway_clock_start + 30, abs=1)]

        gateway.script(Fault.code(-1003, status=429, retry_after=200))
        sessions[0].get(gateway.url + "/first")  # delivered: longer than is waited for
        closed_at = clock.monotonic()
        clock.advance(150)
        del times[:]
        threads = [
            threading.Thread(target=session.get, args=(f"{gateway.url}/{number}",))
            for number, session in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(times) == 8
        assert min(times) >= closed_at + 200

    def test_a_wait_that_does_not_fit(self, gateway: Gateway) -> None:
        """A cooldown that ends after a call's deadline: DeadlineExceededError where nothing was sent, in both modes."""
        for mode in ("return", "raise"):
            clock = FakeClock()
            session = connect({"deadline": 20.0, "on_error": mode}, clock=clock)
            gateway.reset_journal()
            gateway.script(Fault.code(-1003, retry_after=60))
            if mode == "return":
                assert session.get(gateway.url + "/ping").json()["code"] == -1003
            else:
                with pytest.raises(ra.RateLimitError):
                    session.get(gateway.url + "/ping")
            with pytest.raises(ra.DeadlineExceededError) as caught:
                session.post(gateway.url + "/order?secret=1")
            assert isinstance(caught.value, requests.Timeout)
            assert caught.value.request is not None and caught.value.request.method == "POST"
            assert ra.resilience_of(caught.value).attempts == ()
            assert "secret" not in str(caught.value)
            assert numbers(gateway) == 1 and clock.sleeps == []

    def test_the_answer_in_hand(self, gateway: Gateway) -> None:
        """Where the origin closes for longer while a call waits, the call delivers the answer that it has, whole."""
        clock = FakeClock()
        settings = {"rate_limit": {"max_wait": 100.0}}
        other = connect(settings, clock=clock)

        def meddle(event: ra.Event) -> None:
            if event.name == "throttle" and event.path == "/stream":
                gateway.script(Fault.code(-1003, retry_after=500))
                other.get(gateway.url + "/other")

        for stream in (False, True):
            clock.advance(1000)
            session = connect(settings, clock=clock, listeners=[meddle])
            gateway.script(Fault.code(-1003, status=429, retry_after=5, headers={"Set-Cookie": "a=1"}))
            response = session.get(gateway.url + "/stream", stream=stream)
            assert response.status_code == 429
            assert response.json() == {"code": -1003, "msg": "Rate limit exceeded"}
            assert session.cookies.get_dict() == {"a": "1"}

    def test_client_side_pacing(self, gateway: Gateway) -> None:
        """rate_limit.rate spaces what is sent; a call whose turn would come after its deadline is refused."""
        clock = FakeClock()
        session = connect({"rate_limit": {"rate": "2/min"}, "deadline": 30.0}, clock=clock)
        for _ in range(2):
            session.get(gateway.url + "/ping")
        assert clock.sleeps == []
        with pytest.raises(ra.DeadlineExceededError):
            session.get(gateway.url + "/ping")
        clock.advance(61)
        assert session.get(gateway.url + "/ping").ok
        assert numbers(gateway) == 3


class TestUsedWeight:
    HEADER = "x-mbx-used-weight-1m"

    @pytest.mark.parametrize(
        ("header", "mode", "refused"),
        [
            (HEADER, "enforce", 0),
            (None, "enforce", 1),  # nobody tells: throttled, and kept to from then on
            ("X-MBX-USED-WEIGHT-1H", "enforce", 1),  # of no window of ours
            (HEADER, "shadow", 10),
        ],
    )
    def test_what_others_use_is_left_to_them(
        self, clock: FakeClock, header: str | None, mode: str, refused: int
    ) -> None:
        """A limit shared with another program is kept to, where the server tells how much of it was used."""
        with Gateway(clock=clock, rate_limit=(20, 60.0), rate_limit_header=header) as gateway:
            other = plain()
            for _ in range(15):
                other.get(gateway.url)
            session = connect({"rate_limit": {"rate": "20/min"}, "mode": mode}, clock=clock)
            begin = clock.monotonic()
            codes = []
            for _ in range(15):
                codes.append(session.get(gateway.url).json()["code"])
                clock.advance(0.1)
            assert sum(entry.code == -1003 for entry in gateway.journal) == refused
            if mode == "enforce":
                assert codes == [0] * 15
                assert 60.0 <= clock.monotonic() - begin < 70.0
