"""Tokens, end to end: one refresh for all, none too many, and nobody else ever sees one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from adapter_support import RealClock, closed_port, connect, numbers
from requests.auth import HTTPDigestAuth

import resilient_adapter as ra
from resilient_adapter.repairs.token_source import UrlTokenSource
from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway, Request


class Source:
    """A token source that counts how often it is asked."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.asked = 0
        self._make = make

    def __call__(self) -> Any:
        self.asked += 1
        value = self._make()
        if isinstance(value, BaseException):
            raise value
        return value


def numbered() -> Source:
    """Return a source of t1, t2, …"""
    source = Source(lambda: f"t{source.asked}")
    return source


@pytest.fixture
def guarded(clock: FakeClock) -> Iterator[Gateway]:
    """Serve an API that wants a token."""
    with Gateway(clock=clock, require_token=True) as gateway:
        yield gateway


def tokens(gateway: Gateway, **which: Any) -> list[str | None]:
    """Return what arrived as Authorization, request by request."""
    return [entry.headers.get("Authorization") for entry in gateway.received(**which)]


def session_for(gateway: Gateway, source: Any, settings: dict[str, Any] | None = None, **arguments: Any) -> Any:
    """Return a session that gives the gateway tokens from a source."""
    return connect({"origins": [gateway.url], **(settings or {})}, token_source=source, **arguments)


class TestWhatIsSet:
    def test_a_missing_token(self, guarded: Gateway, clock: FakeClock) -> None:
        """A request without a token is given one, from the first send on."""
        source = Source(guarded.issue_token)
        session = session_for(guarded, source, clock=clock)
        for _ in range(3):
            assert session.get(guarded.url + "/x").json()["code"] == 0
        assert source.asked == 1 and numbers(guarded) == 3

    def test_header_and_scheme(self, gateway: Gateway) -> None:
        """token.header and token.scheme say how it is carried; an empty scheme is none."""
        for scheme, text in (("", "t1"), ("JWT", "JWT t1")):
            gateway.reset_journal()
            session = session_for(gateway, numbered(), {"token": {"header": "X-Token", "scheme": scheme}})
            session.get(gateway.url + "/x")
            assert gateway.journal[0].headers["x-token"] == text
            assert "Authorization" not in gateway.journal[0].headers

    def test_the_callers_own(self, gateway: Gateway) -> None:
        """A token of the caller's own is kept, and no source is asked, as long as nobody refused it."""
        source = numbered()
        session = session_for(gateway, source)
        session.headers["Authorization"] = "Bearer mine"
        session.get(gateway.url + "/x")
        session.get(gateway.url + "/x", headers={"Authorization": b"Bearer bytes"})
        assert tokens(gateway) == ["Bearer mine", "Bearer bytes"] and source.asked == 0

    def test_the_callers_own_once_it_is_stale(self, gateway: Gateway) -> None:
        """A token of the caller's own that was refused is replaced, in this call and at once in later ones."""
        gateway.script(Fault.code(-1002))
        source = numbered()
        session = session_for(gateway, source)
        session.headers["Authorization"] = "Bearer mine"
        for _ in range(2):
            assert session.get(gateway.url + "/x").json()["code"] == 0
        assert tokens(gateway) == ["Bearer mine", "Bearer t1", "Bearer t1"] and source.asked == 1
        assert session.headers["Authorization"] == "Bearer mine"

    def test_a_merely_older_token(self, gateway: Gateway) -> None:
        """A request that carries an older token than ours is sent again with ours: no refresh."""
        source = numbered()
        session = session_for(gateway, source)
        session.get(gateway.url + "/x")
        gateway.script(Fault.code(-1002))
        response = session.get(gateway.url + "/x", headers={"Authorization": "Bearer old"})
        assert response.json()["code"] == 0
        assert tokens(gateway) == ["Bearer t1", "Bearer old", "Bearer t1"] and source.asked == 1

    @pytest.mark.parametrize("value", ["", "a b", "a\r\nb: c", "a\x00", "t\u00f6ken", "\x7f", b"bytes", 7, None])
    def test_values_that_cannot_be_sent(self, gateway: Gateway, value: Any, caplog: pytest.LogCaptureFixture) -> None:
        """A value that no header can hold is a failed refresh; it is not sent, and not shown."""
        caplog.set_level(logging.DEBUG)
        gateway.script(Fault.code(-1002))
        with pytest.raises(ra.TokenRefreshError) as caught:
            session_for(gateway, lambda: value, {"on_error": "raise"}).get(gateway.url + "/x")
        assert tokens(gateway) == [None]
        if isinstance(value, str) and value.strip():
            assert value not in str(caught.value) and value not in str(caught.value.__cause__)
            assert value not in caplog.text


class TestRefresh:
    @pytest.mark.parametrize("fault", [Fault.code(-1002), Fault.code(-1002, status=401), Fault.status(401)], ids=repr)
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_refused_once(self, gateway: Gateway, fault: Fault, method: str) -> None:
        """-1002 and 401 are repeated at once with a new token, whatever the method; it uses up no attempt."""
        events: list[ra.Event] = []
        clock = FakeClock()
        gateway.script(fault)
        settings = {"retry": {"max_attempts": 1}}
        session = session_for(gateway, numbered(), settings, clock=clock, listeners=[events.append])
        response = session.request(method, gateway.url + "/x", json={"a": 1})
        assert response.json()["code"] == 0
        assert tokens(gateway) == ["Bearer t1", "Bearer t2"] and clock.sleeps == []
        assert [event.name for event in events] == ["refresh", "refresh"]
        assert [one.body for one in gateway.journal] == [b'{"a": 1}'] * 2
        assert len(ra.resilience_of(response).attempts) == 2

    def test_refused_twice(self, gateway: Gateway) -> None:
        """A second -1002 in the same call ends it: no third send, no third token."""
        gateway.script(*[Fault.code(-1002)] * 9)
        source = numbered()
        assert session_for(gateway, source).get(gateway.url + "/x").json()["code"] == -1002
        assert numbers(gateway) == 2 and source.asked == 2
        with pytest.raises(ra.UnauthorizedError):
            session_for(gateway, numbered(), {"on_error": "raise"}).get(gateway.url + "/x")

    def test_beside_other_troubles(self, gateway: Gateway) -> None:
        """A refresh does not take an attempt away from the repeats around it, and happens once a call."""
        gateway.script(Fault.reset(), Fault.code(-1002), Fault.status(502), None)
        assert session_for(gateway, numbered()).get(gateway.url + "/x").json()["code"] == 0
        assert tokens(gateway) == ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t2"]

    @pytest.mark.parametrize("status", [200, 401])
    def test_64_threads_at_an_expiry(self, status: int) -> None:
        """64 threads that hold the same expired token: one refresh, and no call fails."""
        clock = RealClock()
        with Gateway(require_token=True, unauthorized_status=status) as gateway:
            source = Source(gateway.issue_token)
            session = session_for(gateway, source, clock=clock)
            session.mount("http://", connect(
                {"origins": [gateway.url]}, token_source=source, clock=clock, pool_maxsize=64
            ).get_adapter("http://"))  # fmt: skip
            barrier = threading.Barrier(65)
            codes: list[int] = []

            def work() -> None:
                session.get(gateway.url + "/warm")
                barrier.wait(20)
                barrier.wait(20)
                codes.append(session.post(gateway.url + "/x").json()["code"])

            threads = [threading.Thread(target=work) for _ in range(64)]
            for thread in threads:
                thread.start()
            barrier.wait(20)
            assert source.asked == 1
            gateway.expire_tokens()
            barrier.wait(20)
            for thread in threads:
                thread.join(20)
            assert codes == [0] * 64
            assert source.asked == 2


class TestFailures:
    def run(self, gateway: Gateway, make: Callable[[], Any], mode: str) -> tuple[Any, Source, FakeClock, Any]:
        clock = FakeClock()
        events: list[ra.Event] = []
        source = Source(make)
        settings = {"on_error": mode, "retry": {"jitter": 0.0}}
        session = session_for(gateway, source, settings, clock=clock, listeners=[events.append])
        return session, source, clock, events

    def test_returned(self, gateway: Gateway) -> None:
        """A failed refresh delivers the -1002, tells of it, and is not tried again for a backoff that grows."""
        gateway.script(*[Fault.code(-1002)] * 99)
        session, source, clock, events = self.run(gateway, lambda: OSError("secret reason"), "return")
        asked = []
        for second in range(8):
            assert session.get(gateway.url + "/x").json()["code"] == -1002
            asked.append(source.asked)
            clock.advance(1.0)
            assert numbers(gateway) == second + 1
        assert asked == [1, 2, 2, 3, 3, 3, 3, 4]  # again after 1, 2 and 4 s
        failed = [event for event in events if event.name == "refresh_failed"]
        assert len(failed) == 4 and failed[0].detail.startswith("OSError in __call__, test_adapter_tokens.py:")
        assert not any("secret" in event.detail for event in events)

    def test_raised(self, gateway: Gateway) -> None:
        """Under "raise" it is TokenRefreshError, whose cause is the source's own exception."""
        gateway.script(*[Fault.code(-1002)] * 9)
        session, source, _, _ = self.run(gateway, lambda: LookupError("no"), "raise")
        for _ in range(2):
            with pytest.raises(ra.TokenRefreshError) as caught:
                session.post(gateway.url + "/x?q=1")
            assert type(caught.value.__cause__) is LookupError
            assert caught.value.response is not None and caught.value.response.json()["code"] == -1002
            assert "q=1" not in str(caught.value)
            assert ra.resilience_of(caught.value).code == -1002
        assert source.asked == 1

    def test_a_recovery(self, gateway: Gateway) -> None:
        """Once the source works again, so do the calls, and the backoff begins anew."""
        gateway.script(*[Fault.code(-1002)] * 2)
        answers: list[Any] = [OSError(), OSError(), "t3"]
        session, _source, clock, _ = self.run(gateway, lambda: answers.pop(0), "return")
        for _ in range(2):
            assert session.get(gateway.url + "/x").json()["code"] == -1002
            clock.advance(1.0)
        clock.advance(1.0)
        assert session.get(gateway.url + "/x").json()["code"] == 0
        assert tokens(gateway) == [None, None, "Bearer t3"]

    def test_the_refused_token_again(self, gateway: Gateway) -> None:
        """A login that answers with the refused token is a failed refresh: it is not sent again, nor hammered."""
        gateway.script(*[Fault.code(-1002)] * 9)
        session, source, _, events = self.run(gateway, lambda: "same", "raise")
        for _ in range(3):
            with pytest.raises(ra.TokenRefreshError):
                session.get(gateway.url + "/x")
        assert numbers(gateway) == 3 and source.asked == 2
        assert [event.name for event in events].count("refresh_failed") == 1

    def test_waiting_ends_with_the_deadline(self, gateway: Gateway) -> None:
        """A call waits for another thread's refresh no longer than it has time; it is told so."""
        entered, leave = threading.Event(), threading.Event()
        clock = RealClock()

        def slow() -> str:
            entered.set()
            leave.wait(10)
            return "t1"

        source = Source(slow)
        session = session_for(gateway, source, {"deadline": 0.2, "on_error": "raise"}, clock=clock)
        raised: list[type[Exception]] = []

        def lead() -> None:
            try:
                session.get(gateway.url)
            except ra.DeadlineExceededError as error:
                raised.append(type(error))

        leader = threading.Thread(target=lead)
        leader.start()
        assert entered.wait(5)
        with pytest.raises(ra.DeadlineExceededError):
            session.get(gateway.url + "/x")
        leave.set()
        leader.join(5)
        assert numbers(gateway) == 0 and source.asked == 1
        assert raised == [ra.DeadlineExceededError]

    def test_an_interrupt(self, gateway: Gateway) -> None:
        """A KeyboardInterrupt inside the source leaves nobody waiting: the next thread asks."""
        entered, leave = threading.Event(), threading.Event()
        interrupted: list[BaseException] = []

        def first() -> Any:
            if source.asked > 1:
                return "t2"
            entered.set()
            leave.wait(10)
            return KeyboardInterrupt()

        source = Source(first)
        session = session_for(gateway, source)

        def lead() -> None:
            try:
                session.get(gateway.url + "/x")
            except KeyboardInterrupt as error:
                interrupted.append(error)

        codes: list[int] = []
        leader = threading.Thread(target=lead)
        leader.start()
        assert entered.wait(5)
        others = [threading.Thread(target=lambda: codes.append(session.get(gateway.url).json()["code"])) for _ in "ab"]
        for thread in others:
            thread.start()
        leave.set()
        for thread in (leader, *others):
            thread.join(5)
        assert interrupted and codes == [0, 0] and source.asked == 2


class TestAheadOfTime:
    @contextmanager
    def start(self, clock: FakeClock, ttl: float, **token: Any) -> Iterator[tuple[Gateway, Source, Any]]:
        with Gateway(clock=clock, require_token=True, jwt=True, token_ttl=ttl) as gateway:
            source = Source(gateway.issue_token)
            yield gateway, source, session_for(gateway, source, {"token": token} if token else {}, clock=clock)

    def test_before_the_end(self, clock: FakeClock) -> None:
        """A JWT is refreshed before its exp, so that no call ever meets a -1002."""
        with self.start(clock, 100.0) as (gateway, source, session):
            for _ in range(60):
                assert session.get(gateway.url + "/x").json()["code"] == 0
                clock.advance(5.0)
            assert {entry.code for entry in gateway.journal} == {0}
            assert source.asked == 300 // 70 + 1  # every 70 s: 30 s ahead

    def test_own_lead(self, clock: FakeClock) -> None:
        """token.refresh_ahead says how long ahead; 0 is not before the end."""
        for ahead, at in ((10.0, 90.0), (0.0, 100.0)):
            with self.start(clock, 100.0, refresh_ahead=ahead) as (gateway, source, session):
                session.get(gateway.url)
                clock.advance(at - 0.5)
                session.get(gateway.url)
                assert source.asked == 1
                clock.advance(0.5)
                session.get(gateway.url)
                assert source.asked == 2

    def test_short_lives(self, clock: FakeClock) -> None:
        """A JWT that lives for less than the lead is not refreshed before every call."""
        with self.start(clock, 20.0) as (gateway, source, session):
            for _ in range(40):
                assert session.get(gateway.url).json()["code"] == 0
                clock.advance(1.0)
            assert source.asked <= 4

    def test_one_refresh_while_the_others_go_on(self, clock: FakeClock) -> None:
        """While one thread refreshes a token that is still good, the others send with it and wait for nobody."""
        with self.start(clock, 100.0) as (gateway, source, session):
            session.get(gateway.url)
            entered, leave = threading.Event(), threading.Event()
            issue = source._make

            def slow() -> Any:
                entered.set()
                leave.wait(10)
                return issue()

            source._make = slow
            clock.advance(75.0)
            leader = threading.Thread(target=session.get, args=(gateway.url + "/leader",))
            leader.start()
            assert entered.wait(5)
            for _ in range(3):
                assert session.get(gateway.url + "/other").json()["code"] == 0
            assert numbers(gateway, path="/leader") == 0 and source.asked == 2
            leave.set()
            leader.join(5)
            assert {entry.code for entry in gateway.journal} == {0}
            first, last = gateway.received(path="/other")[0], gateway.received(path="/leader")[0]
            assert first.headers["Authorization"] != last.headers["Authorization"]

    def test_failing_ahead_stops_nothing(self, clock: FakeClock) -> None:
        """A refresh ahead of time that fails while the token is good stops nothing, and is not hammered."""
        with self.start(clock, 100.0) as (gateway, source, session):
            session.get(gateway.url)
            source._make = OSError
            clock.advance(75.0)
            for _ in range(5):
                assert session.get(gateway.url).json()["code"] == 0
            assert source.asked == 2
            clock.advance(2.0)
            assert session.get(gateway.url).json()["code"] == 0
            assert source.asked == 3
            source._make = gateway.issue_token
            clock.advance(30.0)
            assert session.get(gateway.url).json()["code"] == 0
            assert {entry.code for entry in gateway.journal} == {0}

    def test_clocks_that_differ(self, clock: FakeClock) -> None:
        """A JWT that seems to be expired on arrival is used until it is refused: no refresh before every call."""
        with self.start(clock, 100.0) as (gateway, source, session):
            gateway.clock_offset = -3600.0
            for _ in range(5):
                assert session.get(gateway.url).json()["code"] == 0
            assert source.asked == 1
            gateway.expire_tokens()
            assert session.get(gateway.url).json()["code"] == 0
            assert source.asked == 2

    def test_an_expiry_that_is_given(self, gateway: Gateway, clock: FakeClock) -> None:
        """A Token with an expires_at of its own is refreshed by that."""
        source = Source(lambda: ra.Token(f"t{source.asked}", expires_at=clock.time() + 1000))
        session = session_for(gateway, source, clock=clock)
        for seconds, asked in ((0, 1), (969, 1), (2, 2)):
            clock.advance(seconds)
            session.get(gateway.url)
            assert source.asked == asked


class TestSources:
    def test_through_the_same_adapter(self, guarded: Gateway, clock: FakeClock) -> None:
        """A source that logs in through the very session it serves does not wait for itself."""
        events: list[ra.Event] = []

        def log_in() -> str:
            value: str = session.post(guarded.url + "/login").json()["data"]["token"]
            return value

        session = session_for(guarded, log_in, clock=clock, listeners=[events.append])
        assert session.get(guarded.url + "/x").json()["code"] == 0
        guarded.expire_tokens()
        assert session.get(guarded.url + "/x").json()["code"] == 0
        assert tokens(guarded, path="/login") == [None, None]
        guarded.script(Fault.code(-1002), path="/login")
        guarded.expire_tokens()
        assert session.get(guarded.url + "/x").json()["code"] == -1002

    def test_settings_alone(self, guarded: Gateway, clock: FakeClock) -> None:
        """token.url, .json and .field make a source; without origins it serves the origin of the URL."""
        session = connect({"token": {"url": guarded.url + "/login", "json": {"user": "u"}}}, clock=clock)
        assert session.get(guarded.url + "/x").json()["code"] == 0
        (login,) = guarded.received(path="/login")
        assert (login.method, login.json()) == ("POST", {"user": "u"})
        assert session.post(guarded.url + "/login").json()["code"] == 0  # the script's own login is left alone

        guarded.respond("/other", lambda request: {"deep": {"er": guarded.issue_token()}})
        settings = {"url": guarded.url + "/login2", "method": "GET", "field": "deep.er"}
        guarded.require_token = False
        guarded.respond("/login2", {"deep": {"er": "abc"}})
        connect({"token": settings}, clock=clock).get(guarded.url + "/y")
        assert guarded.received(path="/login2")[0].method == "GET"
        assert guarded.received(path="/login2")[0].body == b""
        assert tokens(guarded, path="/y") == ["Bearer abc"]

    def test_a_named_function(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """token.source names a function."""
        monkeypatch.setattr(threading, "_token_for_a_test", lambda: "named", raising=False)
        settings = {"origins": [gateway.url], "token": {"source": "threading:_token_for_a_test"}}
        connect(settings).get(gateway.url)
        assert tokens(gateway) == ["Bearer named"]

    @pytest.mark.parametrize("answer", [
        Answer.error(-1002, "s3cret"),
        Answer.error(-2010, status=400),
        Answer(500, b"s3cret"),
        Answer(200, b"s3cret"),
        Answer(200, b'{"code":0,"data":{"other":"s3cret"}}'),
        Answer(200, b'{"code":0,"data":{"token":7}}'),
        Answer(200, b'{"code":0,"data":"s3cret"}'),
        Answer(200, b'["s3cret"]'),
        Answer(200, b'{"code":0,"data":{"token":"s3cret with spaces"}}'),
        Answer(302, b"", {"Location": "/s3cret"}),
        None,
    ])  # fmt: skip
    def test_failing_logins(
        self, gateway: Gateway, answer: Answer | None, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A login that fails is a TokenRefreshError that names neither what was sent nor what was received."""
        caplog.set_level(logging.DEBUG)
        if answer is not None:
            gateway.respond("/login", answer)
        base = gateway.url if answer is not None else f"http://127.0.0.1:{closed_port()}"
        gateway.script(Fault.code(-1002), path="/x")
        events: list[ra.Event] = []
        settings = {
            "origins": [gateway.url, base],
            "on_error": "raise",
            "token": {"url": base + "/login?key=s3cret", "json": {"password": "s3cret"}},
        }
        session = connect(settings, clock=clock, listeners=[events.append])
        with pytest.raises(ra.TokenRefreshError) as caught:
            session.get(gateway.url + "/x")
        shown = [str(caught.value), repr(caught.value), caplog.text, repr(events)]
        cause = caught.value.__cause__
        assert isinstance(cause, (ra.TokenRefreshError, ValueError))
        while cause is not None:
            shown += [str(cause), repr(cause)]
            cause = cause.__cause__ or cause.__context__
        assert "s3cret" not in "\n".join(shown)
        assert tokens(gateway, path="/x") == [None]

    @pytest.mark.parametrize("fault", [Fault.delay(3.0), Fault.drip(0.05, chunk=1)], ids=["silent", "dripping"])
    def test_logins_that_take_too_long(self, guarded: Gateway, fault: Fault) -> None:
        """A login ends with the deadline of the call that it is made for; the next call may log in at once."""
        guarded.script(fault, path="/login")
        clock = RealClock()
        settings = {"deadline": 0.4, "read_timeout": 0.3 if fault.label.startswith("drip") else 30.0}
        session = connect({**settings, "token": {"url": guarded.url + "/login"}}, clock=clock)
        begun = clock.monotonic()
        with pytest.raises(ra.DeadlineExceededError):
            session.get(guarded.url + "/x")
        assert clock.monotonic() - begun < 2.0
        assert numbers(guarded, path="/x") == 0
        assert session.get(guarded.url + "/x").json()["code"] == 0
        assert numbers(guarded, path="/login") == 2

    def test_no_time_left_for_a_login(self, guarded: Gateway, clock: FakeClock) -> None:
        """A call whose time is over does not begin one."""
        source = UrlTokenSource(
            guarded.url + "/login", method="POST", body={}, field="data.token", success_codes=frozenset({0}),
            timeout=(1.0, 1.0),
        )  # fmt: skip
        with pytest.raises(ra.TokenRefreshError, match="no time left"):
            source.log_in(clock, clock.monotonic())
        assert numbers(guarded) == 0 and source()

    def test_no_origin(self) -> None:
        """A token source with no origin known is a SettingsError."""
        with pytest.raises(ra.SettingsError, match="token_source"):
            connect({}, token_source=lambda: "t")


class TestOrigins:
    def test_only_its_own(self, gateway: Gateway) -> None:
        """Only the token's origins are given it."""
        with Gateway() as other:
            session = connect({"token": {"origins": [gateway.url]}}, token_source=lambda: "t")
            for one in (gateway, other):
                session.get(one.url + "/x")
            assert tokens(gateway) == ["Bearer t"] and tokens(other) == [None]

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirects(self, gateway: Gateway, status: int) -> None:
        """A redirect to another origin carries nothing of ours; one within the origin carries the current token."""
        with Gateway() as other:
            source = numbered()
            signer = ra.HmacSigner("the-key", "the-secret")
            settings = {"origins": [gateway.url]}
            session = connect(settings, token_source=source, signer=signer)
            session_both = connect(
                {"token": {"origins": [gateway.url]}}, token_source=numbered(),
                signer=ra.HmacSigner("the-key", "the-secret", origins=[gateway.url]),
            )  # fmt: skip
            gateway.respond("/away", b"", status, headers={"Location": other.url + "/x"})
            gateway.respond("/home", b"", status, headers={"Location": "/x"})
            for one in (session, session_both):
                other.reset_journal()
                response = one.get(gateway.url + "/away")
                assert response.json()["code"] == 0
                (arrived,) = other.journal
                everything = f"{dict(arrived.headers)} {arrived.query}"
                for secret in ("Bearer", "the-key", "signature", "timestamp"):
                    assert secret not in everything
                assert "signature" not in response.history[0].url
            gateway.script(Fault.code(-1002), path="/home")
            gateway.reset_journal()
            assert session.get(gateway.url + "/home").json()["code"] == 0
            assert tokens(gateway, path="/home") == ["Bearer t1", "Bearer t2"]
            assert tokens(gateway, path="/x") == ["Bearer t2"]  # not the one of the request that was redirected

    def test_for_one_origin(self, gateway: Gateway) -> None:
        """per_origin may give an origin a token of its own."""
        with Gateway() as other:
            settings = {
                "origins": [gateway.url, other.url],
                "token": {"url": gateway.url + "/login"},
                "per_origin": {other.url: {"token": {"url": other.url + "/login"}}},
            }
            session = connect(settings)
            for one in (gateway, other):
                session.get(one.url + "/x")
                assert numbers(one, path="/login") == 1
            assert tokens(gateway, path="/x") != tokens(other, path="/x")


def digest(request: Request) -> Answer:
    """Ask for HTTP Digest authentication (RFC 7616)."""
    if request.headers.get("Authorization", "").startswith("Digest "):
        return Answer.success()
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    return Answer(401, b"", {"WWW-Authenticate": challenge, "Set-Cookie": "seen=1"})


@pytest.mark.parametrize("settings", [{}, {"on_error": "raise"}, {"token": {"header": "X-Token"}}])
def test_digest_sees_its_401_first(gateway: Gateway, settings: dict[str, Any]) -> None:
    """A 401 that asks for Digest is the auth hook's business: no refresh, and its own request is sent as it made it."""
    gateway.respond("/x", digest)
    source = numbered()
    for session in (connect(settings), session_for(gateway, source, settings)):
        response = session.post(gateway.url + "/x", data=b"body", auth=HTTPDigestAuth("u", "p"))
        assert response.json()["code"] == 0
        assert [one.status_code for one in response.history] == [401]
        assert [one.body for one in gateway.journal] == [b"body"] * 2
        assert tokens(gateway)[-1].startswith("Digest ")  # type: ignore[union-attr]
        assert session.cookies.get_dict() == {"seen": "1"}
        gateway.reset_journal()
    assert source.asked <= 1


def test_a_hook_that_looks_at_the_challenge(gateway: Gateway) -> None:
    """It finds the body unread, and so the connection: NTLM and Kerberos bind their answer to that."""
    gateway.respond("/x", Answer(401, b"who are you?", {"WWW-Authenticate": "NTLM"}))
    seen: list[Any] = []

    def look(response: requests.Response, **_: Any) -> None:
        seen.append((response.raw._fp.fp is not None, response.content))

    response = connect().get(gateway.url + "/x", hooks={"response": look})
    assert seen == [(True, b"who are you?")] and response.status_code == 401
    assert connect().get(gateway.url + "/x").text == "who are you?"


def test_digest_through_a_transport(gateway: Gateway) -> None:
    """The second request of Digest goes through the adapter too, also where a transport was handed in."""
    gateway.respond("/x", digest)
    session = connect(transport=requests.adapters.HTTPAdapter())
    gateway.script(None, Fault.code(-1001))
    response = session.get(gateway.url + "/x", auth=HTTPDigestAuth("u", "p"))
    assert response.json()["code"] == 0 and numbers(gateway) == 3
    assert len(ra.resilience_of(response).attempts) == 2
