"""Tokens by themselves: what may be one, when it ends, and who asks for the next."""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import PreparedRequest

from resilient_adapter.errors import SettingsError, TokenRefreshError
from resilient_adapter.repairs.token import Refreshed, Token, TokenKeeper, jwt_expiry
from resilient_adapter.repairs.token_source import source_from_settings
from resilient_adapter.settings.schema import Settings
from resilient_adapter.testing import FakeClock, Gateway

INFINITY = float("inf")


def jwt(claims: Any) -> str:
    """Return a JWT with these claims."""
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return "h." + base64.urlsafe_b64encode(body).rstrip(b"=").decode() + ".s"


def request(authorization: str | bytes | None = None) -> PreparedRequest:
    """Return a request with this header."""
    prepared = PreparedRequest()
    prepared.prepare(method="GET", url="http://localhost/", headers={})
    if authorization is not None:
        prepared.headers["Authorization"] = authorization  # type: ignore[assignment]
    return prepared


def keeper(source: Callable[[], Any], clock: FakeClock | None = None, **options: Any) -> TokenKeeper:
    """Return a keeper with waits of 1, 2, 4, … seconds."""
    given = {"header": "Authorization", "scheme": "Bearer", "refresh_ahead": 30.0, **options}
    return TokenKeeper(source, clock=clock or FakeClock(), random=lambda: 0.0, wait=(1.0, 2.0, 1.0, 60.0), **given)


class TestToken:
    @pytest.mark.parametrize("value", ["", " ", "a b", "a\n", "\ta", "\x7f", "\u00e4", None, 3, b"x", ["t"]])
    def test_what_is_none(self, value: Any) -> None:
        """What is empty, or cannot be a header's value, is refused without being shown."""
        with pytest.raises(ValueError, match="a token must") as caught:
            Token(value)
        if isinstance(value, str) and value.strip():
            assert value not in str(caught.value)

    @pytest.mark.parametrize("end", ["1795667798", "tomorrow", True, math.inf, math.nan, 1795667798000, b"1"])
    def test_ends_that_are_none(self, end: Any) -> None:
        """An end that is no number of seconds is refused where it is given, not met in a later call."""
        with pytest.raises(ValueError, match=r"expires_at must be (a number|in seconds)"):
            Token("x", end)
        assert Token("x", 1795667798).expires_at == 1795667798 and Token("x", 0.5).expires_at == 0.5

    def test_shown(self) -> None:
        """A token's repr does not show its value."""
        assert "secret" not in repr(Token("secret"))

    @pytest.mark.parametrize(("value", "expiry"), [
        (jwt({"exp": 12}), 12.0),
        (jwt({"exp": 12.5}), 12.5),
        (jwt({"exp": "12"}), None),
        (jwt({"exp": True}), None),
        (jwt({"exp": None}), None),
        (jwt({}), None),
        (jwt([1]), None),
        (jwt(b"no json"), None),
        (jwt(b"\xff"), None),
        (jwt(b'{"exp": 1' + b"0" * 400 + b"}"), None),
        (jwt(b"[" * 100_000), None),
        ("a.b", None),
        ("a.b.c.d", None),
        ("a.!.c", None),
        ("opaque", None),
    ])  # fmt: skip
    def test_when_it_ends(self, value: str, expiry: float | None) -> None:
        """The end is a JWT's exp where there is one that can be read; else it is not known."""
        assert jwt_expiry(value) == expiry
        assert Token(value).expires_at == expiry

    def test_a_given_end(self) -> None:
        """An end that is given goes before the JWT's."""
        assert Token(jwt({"exp": 12}), 7.0).expires_at == 7.0

    @given(st.text())
    def test_reading_never_raises(self, text: str) -> None:
        """Whatever the text, asking for its end raises nothing."""
        jwt_expiry(f"a.{text}.c")


class TestStamping:
    def test_where_one_is_missing(self) -> None:
        """Without a token nothing is set; with one it is, where there is none or a stale one."""
        tokens = iter(["t1", "t2"])
        one = keeper(lambda: next(tokens))
        bare = request()
        assert one.stamp(bare) is None and "Authorization" not in bare.headers
        assert one.prepare(INFINITY) is Refreshed.BY_US and one.value() == "t1"
        assert one.stamp(bare) == "t1" and bare.headers["Authorization"] == "Bearer t1"
        assert one.refresh("t1", INFINITY) is Refreshed.BY_US
        assert one.wants(request("Bearer t1")) and not one.wants(request("Bearer other"))
        for stale in (request("Bearer t1"), request(b"Bearer t1")):
            assert one.stamp(stale) == "t2" and stale.headers["Authorization"] == "Bearer t2"
        for kept in (request("Bearer other"), request("Basic x"), request(b"Bearer \xff")):
            before = kept.headers["Authorization"]
            one.stamp(kept)
            assert kept.headers["Authorization"] == before
        assert one.carried(request("Bearer other")) == "other"

    def test_older_ones_are_remembered(self) -> None:
        """Refused tokens are known to be stale, though not without bound."""
        one = keeper(lambda: "new")
        for number in range(100):
            one.refresh(f"old{number}", INFINITY)
        assert one.wants(request("Bearer old99")) and not one.wants(request("Bearer old0"))


class TestKeeping:
    def test_not_due(self) -> None:
        """A token without an end is never refreshed ahead of time."""
        clock = FakeClock()
        one = keeper(lambda: "t", clock)
        assert one.due() and one.prepare(INFINITY) is Refreshed.BY_US
        clock.advance(10**9)
        assert not one.due() and one.prepare(INFINITY) is None

    def test_not_needed(self) -> None:
        """Where the token in hand is another than the refused one, nobody is asked."""
        one = keeper(lambda: "t")
        one.prepare(INFINITY)
        assert one.refresh("other", INFINITY) is Refreshed.NOT_NEEDED

    def test_held_back(self) -> None:
        """After a failure the source is left alone for a backoff; good tokens are used meanwhile."""
        clock = FakeClock()
        answers: list[Any] = []
        one = keeper(lambda: answers.pop(0), clock)
        assert one.prepare(INFINITY) is Refreshed.FAILED
        assert isinstance(one.last_error, IndexError)
        assert one.prepare(INFINITY) is Refreshed.HELD_BACK
        clock.advance(1.0)
        answers.append(Token("t", expires_at=clock.time() + 100))
        assert one.prepare(INFINITY) is Refreshed.BY_US and one.last_error is None
        clock.advance(71)
        assert one.prepare(INFINITY) is Refreshed.FAILED
        assert one.prepare(INFINITY) is None  # it is still good

    def test_the_same_token_again(self) -> None:
        """A source that returns the refused token, or an older one, has failed."""
        tokens = iter(["t1", "t1"])
        one = keeper(lambda: next(tokens))
        one.prepare(INFINITY)
        assert one.refresh("t1", INFINITY) is Refreshed.FAILED
        assert "t1" not in str(one.last_error)

    def test_in_the_source_itself(self) -> None:
        """The thread that asks the source neither waits for itself nor is given a token."""
        seen: list[Any] = []

        def source() -> str:
            bare = request()
            seen.extend([one.due(), one.stamp(bare), one.refresh(None, INFINITY), "Authorization" in bare.headers])
            return "t"

        one = keeper(source)
        assert one.prepare(INFINITY) is Refreshed.BY_US
        assert seen == [False, None, Refreshed.HELD_BACK, False]

    def test_waiting(self) -> None:
        """Those who come while the source is asked wait for its answer, or until their deadline, or until it fails."""
        for answer, ends in (("t", Refreshed.BY_ANOTHER), (OSError(), Refreshed.HELD_BACK)):
            entered, leave = threading.Event(), threading.Event()
            clock = FakeClock()

            def source(entered: threading.Event = entered, leave: threading.Event = leave, answer: Any = answer) -> Any:
                entered.set()
                leave.wait(10)
                if isinstance(answer, Exception):
                    raise answer
                return answer

            one = keeper(source, clock)
            leader = threading.Thread(target=one.prepare, args=(INFINITY,))
            leader.start()
            assert entered.wait(5)
            assert one.refresh(None, clock.monotonic()) is Refreshed.HELD_BACK
            results: list[Refreshed] = []
            waiting = threading.Thread(
                target=lambda one=one, results=results: results.append(one.refresh(None, INFINITY))
            )
            waiting.start()
            while not one._landed._waiters:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            leave.set()
            for thread in (leader, waiting):
                thread.join(5)
            assert results == [ends]

    def test_login_urls(self) -> None:
        """A request to the login itself is no concern of the keeper's."""
        one = keeper(lambda: "t", login_url="http://localhost/login")
        assert one.concerns(request())
        login = request()
        login.url = "http://localhost/login"
        assert not one.concerns(login)


class TestSources:
    def test_none(self) -> None:
        """Settings that describe no source make none."""
        assert source_from_settings(Settings.from_mapping({})) is None

    @pytest.mark.parametrize("source", ["no.such.module:f", "os:no_such", "os:sep"])
    def test_what_cannot_be_imported(self, source: str) -> None:
        """token.source that names nothing callable is a SettingsError that says so."""
        settings = Settings.from_mapping({"origins": ["http://a"], "token": {"source": source}})
        with pytest.raises(SettingsError, match=r"token\.source"):
            source_from_settings(settings)

    def test_a_named_one(self) -> None:
        """token.source is imported by its name."""
        settings = Settings.from_mapping({"origins": ["http://a"], "token": {"source": "os:getcwd"}})
        import os

        assert source_from_settings(settings) is os.getcwd

    def test_a_login(self, gateway: Gateway) -> None:
        """token.url is asked, and the field of its answer is the token."""
        settings = Settings.from_mapping({"token": {"url": gateway.url + "/login"}, "connect_timeout": 0})
        source = source_from_settings(settings)
        assert source is not None and len(str(source())) == 32
        assert gateway.journal[0].body == b""

    def test_a_login_without_a_server(self, gateway: Gateway) -> None:
        """No answer is a TokenRefreshError that says which exception it was, and leads to no other."""
        settings = Settings.from_mapping({"token": {"url": gateway.url + "/login?password=s3cret"}})
        source = source_from_settings(settings)
        gateway.down()
        assert source is not None
        with pytest.raises(TokenRefreshError, match="ConnectionError") as caught:
            source()
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__context__ is None
