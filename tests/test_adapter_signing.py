"""Signed requests end to end: the server's clock, and signatures that the script made by itself."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from adapter_support import EXACT, connect, numbers

import resilient_adapter as ra
from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway, Request


@pytest.fixture
def strict(clock: FakeClock) -> Any:
    """Serve an API that checks timestamps by a clock of its own."""

    class Strict(Gateway):
        def handle(self, request: Request) -> Answer:
            if request.path.startswith("/order"):
                age = self.time() * 1000 - int(request.params["timestamp"])
                if not -1000 < age < 5000:
                    return Answer.error(-1021)
            return super().handle(request)

    with Strict(clock=clock) as gateway:
        yield gateway


def signed_by_hand(clock: FakeClock, secret: str = "s", **params: Any) -> str:
    """Return a query as a script signs it."""
    query = urlencode(sorted({**params, "timestamp": int(clock.time() * 1000)}.items()))
    return f"{query}&signature={hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest()}"


class TestResync:
    @pytest.mark.parametrize("offset", [-3600.0, -7.0, 0.0, 7.0, 3600.0])
    def test_clocks_that_differ(self, strict: Gateway, clock: FakeClock, offset: float) -> None:
        """-1021 is answered by reading the server's time and signing afresh, once; later calls need no more."""
        strict.clock_offset = offset
        events: list[ra.Event] = []
        settings = {"origins": [strict.url], "signing": {"api_key": "k", "secret": "s"}, "retry": {"max_attempts": 1}}
        session = connect(settings, clock=clock, listeners=[events.append])
        for _ in range(3):
            assert session.post(strict.url + "/order", data={"a": 1}).json()["code"] == 0
        differ = abs(offset) > 1
        assert numbers(strict, path="/order") == (4 if differ else 3)
        assert [event.name for event in events] == (["resync"] if differ else [])
        assert clock.sleeps == []
        clock.advance(3600.0)  # the estimate is renewed before it is refused
        asked = numbers(strict, path="/api/gateway/time")
        assert session.get(strict.url + "/order").json()["code"] == 0
        assert numbers(strict, path="/api/gateway/time") == asked + int(differ)

    def test_no_time_to_be_had(self, strict: Gateway, clock: FakeClock) -> None:
        """Where the server's time cannot be read, the -1021 is delivered, and an event says why."""
        strict.clock_offset = 60.0
        strict.respond("/api/gateway/time", b"nonsense")
        events: list[ra.Event] = []
        signer = ra.HmacSigner("k", "s", origins=[strict.url])
        session = connect({"on_error": "raise"}, clock=clock, signer=signer, listeners=[events.append])
        with pytest.raises(ra.SignatureError):
            session.get(strict.url + "/order")
        assert [event.name for event in events] == ["resync_failed", "give_up"]
        assert numbers(strict, path="/order") == 1

    def test_a_signer_with_a_clock_of_its_own(self, strict: Gateway, clock: FakeClock) -> None:
        """A function that signs is called for every send; after a -1021 once more."""
        stamps = iter([0, int(clock.time() * 1000)])

        def sign(request: requests.PreparedRequest) -> None:
            request.url = f"{request.url}?timestamp={next(stamps)}"

        session = connect({"deadline": 0}, clock=clock, signer=sign)
        response = session.get(strict.url + "/order")
        assert response.json()["code"] == 0 and response.url == strict.url + "/order"

    def test_a_signer_that_returns_another_request(self, gateway: Gateway) -> None:
        """As one for ``auth=`` may: what it returns is sent, and nothing of it stays with the response."""

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            signed = request.copy()
            signed.headers["X-Key"] = "k"
            return signed

        response = connect(signer=sign).get(gateway.url + "/order")
        assert gateway.journal[0].headers["X-Key"] == "k" and "X-Key" not in response.request.headers

    def test_another_time_url(self, strict: Gateway, clock: FakeClock) -> None:
        """time_url and signing.time_field say where the server's time is."""
        strict.clock_offset = 60.0
        strict.respond("/clock", lambda request: {"now": {"ms": int(strict.time() * 1000)}})
        signer = ra.HmacSigner("k", "s", origins=[strict.url], time_url=strict.url + "/clock")
        session = connect({"signing": {"time_field": "now.ms"}, "deadline": 0}, clock=clock, signer=signer)
        assert session.get(strict.url + "/order").json()["code"] == 0

    def test_paths(self, gateway: Gateway) -> None:
        """Only the paths that are to be signed are."""
        signer = ra.HmacSigner("k", "s", origins=[gateway.url], paths=["/order*"])
        session = connect(signer=signer)
        for path in ("/order/1", "/market"):
            session.get(gateway.url + path)
        assert ["signature" in entry.params for entry in gateway.journal] == [True, False]


class TestSignedByTheCaller:
    def test_repeated_within_the_window(self, gateway: Gateway, clock: FakeClock) -> None:
        """What its caller signed is repeated only as long as the receive window is open."""
        gateway.script(*[Fault.status(502)] * 9)
        session = connect({"retry": {"jitter": 0.0, "max_attempts": 9}}, clock=clock)
        response = session.get(f"{gateway.url}/order?{signed_by_hand(clock, a=1)}")
        assert response.status_code == 502
        assert clock.sleeps == [1.0, 2.0] and numbers(gateway) == 3  # a third wait of 4 would end after 5 s
        assert len({entry.query for entry in gateway.journal}) == 1

    def test_signed_afresh(self, gateway: Gateway, clock: FakeClock) -> None:
        """Where our secret reproduces the caller's signature, every repeat is signed afresh, and never otherwise."""
        for secret, sends in (("s", 4), ("other", 3)):
            gateway.clear()
            gateway.reset_journal()
            gateway.script(*[Fault.status(502)] * 3)
            settings = {"origins": [gateway.url], "retry": {"jitter": 0.0, "max_attempts": 4}}
            session = connect(settings, clock=clock, signer=ra.HmacSigner("k", "s"))
            url = f"{gateway.url}/order?{signed_by_hand(clock, secret, a=1)}"
            response = session.get(url)
            assert numbers(gateway) == sends
            assert response.url == url and "X-MBX-APIKEY" not in response.request.headers
            stamps = [entry.params["timestamp"] for entry in gateway.journal]
            assert len(set(stamps)) == (4 if secret == "s" else 1)
            for entry in gateway.journal:
                query, _, signature = entry.query.partition("&signature=")
                assert hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest() == signature

    def test_with_a_server_clock(self, strict: Gateway, clock: FakeClock) -> None:
        """A receive window ends by the server's clock, where that is known."""
        strict.clock_offset = 4.0
        settings = {**EXACT, "origins": [strict.url], "signing": {"api_key": "k", "secret": "s"}}
        session = connect(settings, clock=clock)
        strict.clock_offset = 60.0
        assert session.get(strict.url + "/order").json()["code"] == 0
        strict.clock_offset = 4.0
        strict.script(Fault.status(502), path="/other")
        assert session.get(f"{strict.url}/other?{signed_by_hand(clock, 'unknown')}").status_code == 502
        assert numbers(strict, path="/other") == 1
