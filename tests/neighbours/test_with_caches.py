"""Caches: requests-cache is a session, above us; CacheControl is an adapter, beneath us."""

from __future__ import annotations

import gc
import time
from email.utils import formatdate
from typing import Any

import pytest
import requests
from adapter_support import adapter, numbers, plain

import resilient_adapter as ra
from resilient_adapter.testing import Answer, Fault, Gateway, Request

WELL = {"code": 0, "data": {}}
BROKEN = {"code": -1001, "msg": "disconnected"}


def fresh() -> dict[str, str]:
    """Return the headers of an answer that is good for a minute from now."""
    return {"Cache-Control": "max-age=60", "Date": formatdate(usegmt=True)}


class TestRequestsCache:
    @pytest.fixture
    def requests_cache(self) -> Any:
        """Return the module, where it is installed."""
        return pytest.importorskip("requests_cache")

    def test_above(self, requests_cache: Any, gateway: Gateway) -> None:
        """What we deliver after all repeats is kept; from the cache it does not come through us."""
        gateway.script(Fault.code(-1001))
        with requests_cache.CachedSession(backend="memory") as session:
            session.trust_env = False
            session.mount("http://", adapter())
            first = session.get(gateway.url + "/account")
            again = session.get(gateway.url + "/account")
        assert len(ra.resilience_of(first).attempts) == numbers(gateway) == 2
        assert again.from_cache and again.json() == first.json()
        with pytest.raises(AttributeError):
            ra.resilience_of(again)

    @pytest.mark.parametrize("filtered", [False, True])
    def test_errors_under_200(self, requests_cache: Any, gateway: Gateway, filtered: bool) -> None:
        """An error under HTTP 200 is kept as well, unless filter_fn looks at our story's code."""
        options = {"filter_fn": lambda response: ra.resilience_of(response).code == 0} if filtered else {}
        gateway.respond("/account", BROKEN)
        with requests_cache.CachedSession(backend="memory", **options) as session:
            session.trust_env = False
            session.mount("http://", adapter())
            session.get(gateway.url + "/account")
            gateway.respond("/account", WELL)
            assert session.get(gateway.url + "/account").json() == (WELL if filtered else BROKEN)

    def test_stale_if_error(self, requests_cache: Any, gateway: Gateway) -> None:
        """An open circuit's exception is an error like any other: stale_if_error answers from the cache."""
        with requests_cache.CachedSession(backend="memory", stale_if_error=True, expire_after=0.001) as session:
            session.trust_env = False
            session.mount("http://", adapter({"circuit": {"fail_max": 1}}))
            kept = session.get(gateway.url + "/account")
            gateway.busy()
            session.get(gateway.url + "/other")
            with pytest.raises(ra.CircuitOpenError):
                session.get(gateway.url + "/another")
            time.sleep(0.01)
            gateway.reset_journal()
            stale = session.get(gateway.url + "/account")
            assert stale.from_cache
            assert stale.json() == kept.json()
            assert numbers(gateway) == 0


class TestCacheControl:
    @pytest.fixture
    def cachecontrol(self) -> Any:
        """Return the module, where it is installed."""
        return pytest.importorskip("cachecontrol")

    def session(self, cachecontrol: Any, settings: dict[str, Any] | None = None) -> requests.Session:
        """Return a session that goes through us to a cache."""
        session = plain()
        session.mount("http://", adapter(settings, transport=cachecontrol.CacheControlAdapter()))
        return session

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_beneath(self, cachecontrol: Any, gateway: Gateway, stream: bool, chunked: bool) -> None:
        """What the server calls fresh is answered from the cache, whole, and comes through us."""
        headers = {**fresh(), **({"Transfer-Encoding": "chunked"} if chunked else {})}
        gateway.respond("/account", b'{"code":0,"data":"' + b"x" * 200_000 + b'"}', headers=headers)
        with self.session(cachecontrol) as session:
            bodies = [session.get(gateway.url + "/account", stream=stream).content for _ in range(3)]
            last = session.get(gateway.url + "/account")
        assert bodies[0] == bodies[1] == bodies[2] == last.content
        assert last.from_cache  # type: ignore[attr-defined]
        assert ra.resilience_of(last).code == 0
        assert numbers(gateway) == 1

    def test_a_small_stream(self, cachecontrol: Any, gateway: Gateway) -> None:
        """A JSON body that would be read ahead of its caller is kept as well."""
        gateway.respond("/account", WELL, headers=fresh())
        with self.session(cachecontrol) as session:
            for _ in range(2):
                assert session.get(gateway.url + "/account", stream=True).json() == WELL
        assert numbers(gateway) == 1

    @pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # CacheControl's copy of what is not read
    def test_an_error_in_a_stream(self, cachecontrol: Any, gateway: Gateway) -> None:
        """A stream is not read ahead of the cache: it is judged by its HTTP status."""
        gateway.script(Fault.code(-1008, 503), Fault.code(-1001))
        with self.session(cachecontrol) as session:
            response = session.get(gateway.url + "/account", stream=True)
            assert response.json()["code"] == -1001
        assert [one.status for one in ra.resilience_of(response).attempts] == [503, 200]
        gc.collect()

    def test_revalidation(self, cachecontrol: Any, gateway: Gateway) -> None:
        """An ETag is asked about, and 304 answered with what is kept."""

        date = (("Date", formatdate(usegmt=True)),)

        def answer(request: Request) -> Answer:
            if request.headers.get("If-None-Match") == '"1"':
                return Answer(304, b"", (("ETag", '"1"'),), None)
            return Answer(200, b'{"code":0}', (("ETag", '"1"'), ("Cache-Control", "no-cache"), *date))

        gateway.respond("/account", answer)
        with self.session(cachecontrol) as session:
            assert [session.get(gateway.url + "/account").json() for _ in range(3)] == [{"code": 0}] * 3
        assert [entry.status for entry in gateway.journal] == [200, 304, 304]

    def test_errors_are_not_kept(self, cachecontrol: Any, gateway: Gateway) -> None:
        """Repeats go past the cache to the server, and only the good answer is kept."""
        gateway.script(Fault.code(-1008, 503), Fault.code(-1001), Fault.reset())
        gateway.respond("/account", WELL, headers=fresh())
        with self.session(cachecontrol, settings={"retry": {"max_attempts": 4}}) as session:
            for _ in range(2):
                assert session.get(gateway.url + "/account").json() == WELL
        assert numbers(gateway) == 4

    def test_errors_that_the_server_calls_fresh(self, cachecontrol: Any, gateway: Gateway) -> None:
        """An error under HTTP 200 with a max-age is kept: every repeat meets the same one, from the cache."""
        gateway.respond("/account", BROKEN, headers=fresh())
        with self.session(cachecontrol) as session:
            response = session.get(gateway.url + "/account")
        assert len(ra.resilience_of(response).attempts) == 3
        assert numbers(gateway) == 1
