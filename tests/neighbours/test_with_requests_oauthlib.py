"""requests-oauthlib: OAuth 1 signs, and so belongs beneath the repeats; OAuth 2 has a token, and so has the adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_support import RealClock, adapter, connect, numbers

import resilient_adapter as ra
from resilient_adapter.testing import Answer, Fault, Gateway, Request

requests_oauthlib = pytest.importorskip("requests_oauthlib")
oauth1 = pytest.importorskip("oauthlib.oauth1")
oauth2 = pytest.importorskip("oauthlib.oauth2")

KEYS = ("client", "secret", "owner", "owner-secret")


class TestOAuth1:
    @pytest.fixture
    def strict(self, gateway: Gateway) -> Gateway:
        """Return a gateway that takes a signature once (RFC 5849, section 3.3)."""
        seen: set[str] = set()

        def answer(request: Request) -> Answer:
            header = request.headers.get("Authorization", "")
            nonce, timestamp = (
                re.findall(f'{name}="([^"]+)"', header)[0] for name in ("oauth_nonce", "oauth_timestamp")
            )
            signer = oauth1.Client(*KEYS, nonce=nonce, timestamp=timestamp)
            url = f"{gateway.url}{request.path}" + (f"?{request.query}" if request.query else "")
            body = request.body.decode() or None
            kind = {"Content-Type": request.headers["Content-Type"]} if body else None
            good = signer.sign(url, request.method, body, kind)[1]["Authorization"] == header and nonce not in seen
            seen.add(nonce)
            return Answer.success({}) if good else Answer(401, b"used nonce")

        gateway.respond("/*", answer)
        return gateway

    @pytest.mark.parametrize(
        ("method", "options"),
        [("GET", {"params": {"a": "ä b", "b": "2"}}), ("PUT", {"data": {"a": "ä b"}})],
        ids=["query", "form"],
    )
    def test_as_signer(self, strict: Gateway, method: str, options: dict[str, Any]) -> None:
        """``signer=OAuth1(…)``: every attempt has a nonce of its own, and none of it is left for the caller to see."""
        strict.script(Fault.status(502, executed=True), Fault.reset("after"))
        session = connect({"origins": [strict.url]}, signer=requests_oauthlib.OAuth1(*KEYS))
        response = session.request(method, strict.url + "/order", **options)
        assert response.json()["code"] == 0
        assert numbers(strict) == 3
        assert "Authorization" not in response.request.headers

    def test_as_auth(self, strict: Gateway) -> None:
        """``auth=OAuth1(…)`` signs once, above us: a server that takes each nonce once refuses the repeat."""
        strict.script(Fault.status(502, executed=True))
        response = connect().get(strict.url + "/order", auth=requests_oauthlib.OAuth1(*KEYS))
        assert [one.status for one in ra.resilience_of(response).attempts] == [502, 401]


class TestOAuth2:
    @pytest.fixture(autouse=True)
    def without_tls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Allow OAuth 2 over plain HTTP, for loopback."""
        monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")

    @pytest.fixture
    def login(self, gateway: Gateway) -> Iterator[str]:
        """Hand out tokens for the API, by client credentials; return where."""
        gateway.require_token = True
        with Gateway() as server:
            server.respond(
                "/token", lambda _: {"access_token": gateway.issue_token(), "token_type": "Bearer", "expires_in": 3600}
            )
            yield server.url + "/token"

    def test_session(self, gateway: Gateway, login: str) -> None:
        """An OAuth2Session takes the adapter like any session; its own token is on every attempt."""
        with requests_oauthlib.OAuth2Session(client=oauth2.BackendApplicationClient("client")) as session:
            session.trust_env = False
            session.mount("http://", adapter())
            session.fetch_token(login, client_secret="secret")
            gateway.script(Fault.code(-1001), Fault.reset())
            assert session.get(gateway.url + "/account").json()["code"] == 0
            assert numbers(gateway) == 3
            gateway.expire_tokens()
            assert session.get(gateway.url + "/account").json()["code"] == -1002
            assert numbers(gateway) == 4

    def test_token_source(self, gateway: Gateway, login: str) -> None:
        """A token source that asks by OAuth2Session gives every session a token, and a new one for a refused one."""

        def log_in() -> ra.Token:
            with requests_oauthlib.OAuth2Session(client=oauth2.BackendApplicationClient("client")) as session:
                session.trust_env = False
                token = session.fetch_token(login, client_secret="secret")
            return ra.Token(token["access_token"], token["expires_at"])

        session = connect({"origins": [gateway.url]}, token_source=log_in, clock=RealClock())
        assert session.get(gateway.url + "/account").json()["code"] == 0
        gateway.expire_tokens()
        assert session.get(gateway.url + "/account").json()["code"] == 0
        assert numbers(gateway) == 3
