"""Credentials that requests itself knows: digest, and what a .netrc file holds."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from adapter_support import connect, numbers
from requests.auth import HTTPDigestAuth

import resilient_adapter as ra
from resilient_adapter.testing import Answer, Fault, Gateway, Request


def md5(*parts: str) -> str:
    """Return a hash as RFC 7616 wants it."""
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()


class TestDigest:
    """RFC 7616: a 401 asks, and the answer to it is sent by requests through ``response.connection``."""

    def guard(self, gateway: Gateway, *, strict: bool = False) -> None:
        """Let the gateway ask for a digest; a strict one takes each count of a nonce once."""
        seen: set[str] = set()

        def answer(request: Request) -> Answer:
            told = dict(re.findall(r'(\w+)="?([^",]+)', request.headers.get("Authorization", "")))
            if told:
                secret = md5("me", "here", "hunter2")
                what = md5(request.method, told["uri"])
                good = told["response"] == md5(secret, told["nonce"], told["nc"], told["cnonce"], "auth", what)
                count = told["nonce"] + told["nc"] + told["cnonce"]
                if good and not (strict and count in seen):
                    seen.add(count)
                    return Answer.success({"body": len(request.body)})
            challenge = f'Digest realm="here", nonce="{request.number}", qop="auth"'
            return Answer(401, b"", (("WWW-Authenticate", challenge),), None)

        gateway.respond("/*", answer)

    @pytest.mark.parametrize("mode", ["return", "raise"])
    @pytest.mark.parametrize(
        "faults",
        [(), (Fault.code(-1001),), (None, Fault.code(-1008, 503)), (Fault.reset(), None, Fault.reset("after"))],
        ids=["well", "before", "after", "both"],
    )
    def test_it_is_seen_through(self, gateway: Gateway, mode: str, faults: tuple[Fault | None, ...]) -> None:
        """The question reaches requests, and both it and its answer are repeated like any request."""
        self.guard(gateway)
        gateway.script(*faults)
        response = connect({"on_error": mode}).get(gateway.url + "/account", auth=HTTPDigestAuth("me", "hunter2"))
        assert response.json()["code"] == 0
        assert [one.status_code for one in response.history] == [401]
        assert numbers(gateway) == 2 + sum(fault is not None for fault in faults)

    def test_bodies(self, gateway: Gateway) -> None:
        """A file goes out whole each time, with the question, the answer, and a repeat."""
        self.guard(gateway)
        gateway.script(None, Fault.code(-1008, 503))
        auth = HTTPDigestAuth("me", "hunter2")
        response = connect().post(gateway.url + "/order", data=io.BytesIO(b"x" * 1000), auth=auth)
        assert response.json()["data"] == {"body": 1000}
        assert [len(entry.body) for entry in gateway.journal] == [1000] * 3

    def test_beside_a_token_source(self, gateway: Gateway) -> None:
        """A question for a digest is not taken for a token that was refused."""
        self.guard(gateway)
        asked: list[int] = []

        def source() -> str:
            asked.append(1)
            return "token"

        session = connect({"origins": [gateway.url]}, token_source=source)
        response = session.get(gateway.url + "/account", auth=HTTPDigestAuth("me", "hunter2"))
        assert response.json()["code"] == 0
        assert len(asked) == 1

    def test_a_server_that_counts(self, gateway: Gateway) -> None:
        """A repeat carries the same count: a server that takes each once refuses it, and its 401 is delivered."""
        self.guard(gateway, strict=True)
        gateway.script(None, Fault.status(502, executed=True))
        response = connect().get(gateway.url + "/account", auth=HTTPDigestAuth("me", "hunter2"))
        assert [one.status for one in ra.resilience_of(response).attempts] == [502, 401]


class TestNetrc:
    @pytest.fixture(autouse=True)
    def netrc(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep a password for loopback in a .netrc."""
        path = tmp_path / ".netrc"
        path.write_text("machine 127.0.0.1 login me password hunter2\n", encoding="utf-8")
        path.chmod(0o600)
        monkeypatch.setenv("NETRC", str(path))

    def session(self, *arguments: Any, **options: Any) -> Any:
        """Return a session that trusts the environment."""
        session = connect(*arguments, **options)
        session.trust_env = True
        return session

    def test_every_attempt_has_it(self, gateway: Gateway) -> None:
        """The password is on every attempt, as it is on plain requests."""
        gateway.script(Fault.code(-1001))
        assert self.session().get(gateway.url + "/account").json()["code"] == 0
        assert [entry.headers["Authorization"] for entry in gateway.journal] == ["Basic bWU6aHVudGVyMg=="] * 2

    def test_a_token_comes_second(self) -> None:
        """To a token source it is the caller's own: sent first, and replaced for good once the server refuses it."""
        with Gateway(require_token=True) as gateway:
            session = self.session({"origins": [gateway.url]}, token_source=gateway.issue_token)
            for _ in range(2):
                assert session.get(gateway.url + "/account").json()["code"] == 0
            kinds = [entry.headers["Authorization"].split()[0] for entry in gateway.journal]
        assert kinds == ["Basic", "Bearer", "Bearer"]
