"""What adapters share, and how they are made, copied, forked, closed, mocked and tried out in the shadow."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import requests
import requests_mock
from adapter_support import RealClock, adapter, connect, numbers, outcome, plain, prepare
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util import Retry

import resilient_adapter as ra
from resilient_adapter import runtime
from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway

THROTTLED = Fault.code(-1003, retry_after=500)


def is_closed(session: requests.Session, gateway: Gateway) -> bool:
    """Tell whether a session knows that an origin wants to be left alone."""
    before = numbers(gateway)
    session.post(gateway.url + "/x")
    return numbers(gateway) == before


def close(session: requests.Session, gateway: Gateway) -> None:
    """Have an origin say that it wants to be left alone."""
    gateway.script(THROTTLED)
    session.get(gateway.url + "/x")


def module_level_token() -> str:
    """Return a token: a source that pickles."""
    return "t"


def another_token() -> str:
    """Return a token: another source."""
    return "t"


class TestSharing:
    def test_equal_adapters(self, gateway: Gateway, clock: FakeClock) -> None:
        """What one adapter learns of an origin is known to every other with equal settings and the same helpers."""
        signer = ra.HmacSigner("k", "s", origins=[gateway.url])
        arguments: dict[str, Any] = {"clock": clock, "token_source": module_level_token, "signer": signer}
        settings = {"token": {"origins": [gateway.url]}, "deadline": 100.0}
        close(connect(settings, **arguments), gateway)
        assert is_closed(connect(dict(settings), **arguments), gateway)
        for other in (
            {"settings": {**settings, "deadline": 99.0}},
            {"token_source": another_token},
            {"signer": ra.HmacSigner("k", "other", origins=[gateway.url])},
            {"reconciler": lambda request, send: None},
            {"clock": FakeClock()},
        ):
            given = {"settings": settings, **arguments, **other}
            assert not is_closed(connect(given.pop("settings"), **given), gateway)

    def test_what_cannot_be_hashed(self, gateway: Gateway, clock: FakeClock) -> None:
        """A helper that cannot be hashed is the same only as itself."""

        class Unhashable(list[str]):
            def __call__(self) -> str:
                return "t"

        settings = {"origins": [gateway.url]}
        source = Unhashable()
        close(connect(settings, clock=clock, token_source=source), gateway)
        assert is_closed(connect(settings, clock=clock, token_source=source), gateway)
        assert not is_closed(connect(settings, clock=clock, token_source=Unhashable()), gateway)

    def test_spellings_of_an_origin(self, gateway: Gateway, clock: FakeClock) -> None:
        """An origin is one however its URL is written; another port is another origin."""
        session = connect(clock=clock)
        close(session, gateway)
        before = numbers(gateway)
        for url in (gateway.url, gateway.url + "?a=b", gateway.url.replace("http:", "HTTP:") + "/", gateway.url + "#x"):
            assert session.get(url).status_code == 429
        assert session.get(gateway.url.replace("//", "//user:password@")).status_code == 429
        assert numbers(gateway) == before
        with Gateway() as other:
            assert not is_closed(session, other)

    def test_bounded_origins(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of ever more origins the one met longest ago is forgotten, but none that has something to remember."""
        monkeypatch.setattr(runtime, "MAX_ORIGINS", 3)
        monkeypatch.setattr(runtime, "_MAX_SPELLINGS", 6)
        shared = runtime.shared_runtime(
            ra.Settings.from_mapping({}), token_source=None, signer=None, reconciler=None, clock=clock
        )
        origins = [shared.origin(f"http://host-{number}.invalid/") for number in range(3)]
        origins[0].rate_limit.throttled(500)
        assert shared.origin("http://host-1.invalid/x") is origins[1]
        for number in range(3, 30):
            shared.origin(f"http://host-{number}.invalid/a?b=c")
            shared.origin(f"http://user-{number}@host-0.invalid/")
        assert shared.origin("http://host-0.invalid/") is origins[0]
        assert shared.origin("http://host-1.invalid/") is not origins[1]
        assert len(shared._origins) == 3 and len(shared._spellings) <= 6

    @pytest.mark.parametrize("settings", [{}, {"rate_limit": {"rate": "9/day"}}], ids=["idle", "paced"])
    def test_an_origin_in_use(
        self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
    ) -> None:
        """An origin that is called again and again is not the one that makes room, though all others are as busy."""
        monkeypatch.setattr(runtime, "MAX_ORIGINS", 20)
        monkeypatch.setattr(runtime, "_LOOKED_AT", 3)
        shared = runtime.shared_runtime(
            ra.Settings.from_mapping(settings), token_source=None, signer=None, reconciler=None, clock=clock
        )
        used = shared.origin("http://used.invalid/")
        for number in range(200):
            shared.origin(f"http://host-{number}.invalid/")
            assert shared.origin(f"http://used.invalid/{number}") is used
        assert len(shared._origins) == 20

    def test_bounded_runtimes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of ever more kinds of adapters the one made longest ago shares no more, and goes on working."""
        monkeypatch.setattr(runtime, "MAX_RUNTIMES", 2)
        first = adapter()._runtime
        clock = FakeClock()
        kept = adapter(clock=clock)._runtime
        for _ in range(5):
            adapter()
            assert adapter(clock=clock)._runtime is kept
        assert len(runtime._shared.runtimes) <= 66 and first.origin("http://a/").name == "http://a"

    def test_bounded_circuits(self, clock: FakeClock, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a circuit for each path, an open one outlives any number of others."""
        monkeypatch.setattr(runtime, "MAX_CIRCUITS", 2)
        session = connect({"circuit": {"scope": "endpoint", "fail_max": 1}, "retry": {"max_attempts": 1}}, clock=clock)
        gateway.script(Fault.status(503), path="/open")
        session.get(gateway.url + "/open")
        for number in range(9):
            session.get(f"{gateway.url}/{number}")
        with pytest.raises(ra.CircuitOpenError):
            session.get(gateway.url + "/open")


class TestMaking:
    @pytest.mark.parametrize("retries", [1, 5, Retry(2), Retry(total=1, read=False), True])
    def test_inner_retries(self, retries: Any) -> None:
        """max_retries is refused, with a pointer to the setting: it would repeat beneath us."""
        with pytest.raises(ra.SettingsError, match=r"retry\.max_attempts"):
            adapter(max_retries=retries)

    @pytest.mark.parametrize("retries", [0, Retry(0), Retry(total=False), False, None])
    def test_no_inner_retries(self, gateway: Gateway, retries: Any) -> None:
        """A max_retries that repeats nothing is taken."""
        if retries is None:
            retries = Retry(0, read=False)
        assert connect(max_retries=retries).get(gateway.url).ok

    def test_settings(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mapping is laid over the environment; a Settings is taken as it is; None is the environment's."""
        monkeypatch.setenv("RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS", "7")
        assert ra.ResilientAdapter().settings.retry.max_attempts == 7
        assert ra.ResilientAdapter({"deadline": 9}).settings.retry.max_attempts == 7
        assert ra.ResilientAdapter({"retry": {"max_attempts": 2}}).settings.retry.max_attempts == 2
        settings = ra.Settings.from_mapping({})
        assert ra.ResilientAdapter(settings).settings is settings
        session = requests.Session()
        session.mount("http://", ra.ResilientAdapter(settings))
        assert session.get(gateway.url).ok

    def test_pools(self, gateway: Gateway) -> None:
        """HTTPAdapter's own options reach HTTPAdapter."""
        mounted = adapter(pool_connections=3, pool_maxsize=4, pool_block=True)
        assert (mounted._pool_connections, mounted._pool_maxsize, mounted._pool_block) == (3, 4, True)
        with pytest.raises(TypeError):
            adapter(no_such_option=1)


class TestCopies:
    def make(self, gateway: Gateway) -> requests.Session:
        settings = ra.Settings.from_mapping({"origins": [gateway.url], "retry": {"base": 0.0, "jitter": 0.0}})
        session = requests.Session()
        session.mount("http://", ra.ResilientAdapter(
            settings, token_source=module_level_token, recoveries={-1125: dict.get}, pool_maxsize=3
        ))  # fmt: skip
        return session

    def test_pickles_and_deep_copies(self, gateway: Gateway) -> None:
        """A session with an adapter pickles and copies deeply; the copy is as resilient, and shares what is shared."""
        session = self.make(gateway)
        session.get(gateway.url)
        for again in (
            pickle.loads(pickle.dumps(session)), copy.deepcopy(session), copy.copy(session),
            pickle.loads(pickle.dumps(copy.deepcopy(session))),
        ):  # fmt: skip
            gateway.script(Fault.reset(), Fault.code(-1001))
            response = again.get(gateway.url + "/x")
            assert response.json()["code"] == 0 and len(ra.resilience_of(response).attempts) == 3
            assert gateway.journal[-1].headers["Authorization"] == "Bearer t"
            mounted = again.get_adapter(gateway.url)
            assert mounted._runtime is session.get_adapter(gateway.url)._runtime
            assert mounted._pool_maxsize == 3 and mounted._equipment.recoveries == {-1125: dict.get}

    def test_responses_pickle(self, gateway: Gateway) -> None:
        """A delivered response pickles as any other does."""
        response = pickle.loads(pickle.dumps(connect().get(gateway.url)))
        assert response.json()["code"] == 0

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_forks(self, gateway: Gateway) -> None:
        """In a forked child the adapter works, whatever locks were held, on connections of its own."""
        script = """
            import os, signal, sys, threading
            import requests
            import resilient_adapter as ra

            url = sys.argv[1]
            session = requests.Session()
            adapter = ra.ResilientAdapter(ra.Settings.from_mapping({
                "origins": [url], "circuit": {"scope": "endpoint"}, "retry": {"base": 0.0, "jitter": 0.0},
            }), token_source=lambda: "t", signer=ra.HmacSigner("k", "s"))
            session.mount("http://", adapter)
            assert session.get(url + "/parent").ok
            runtime = adapter._runtime
            origin = runtime.origin(url)
            locks = [
                runtime._lock, origin._lock, origin.token._lock, origin.rate_limit._lock, origin.budget._lock,
                origin.circuit(url + "/child")._lock, origin.server_clock._lock, ra.runtime._shared.lock,
                adapter.poolmanager.pools.lock,
            ]
            held = threading.Event()
            done = threading.Event()

            def hold():
                for lock in locks:
                    lock.acquire()
                held.set()
                done.wait()
                for lock in locks:
                    lock.release()

            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()
            child = os.fork()
            if not child:
                signal.alarm(20)
                ok = session.get(url + "/child").json()["data"]["path"] == "/child"
                ra.ResilientAdapter(token_source=lambda: "u", settings={"origins": [url]})
                os._exit(0 if ok else 1)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            done.set()
            thread.join()
            assert session.get(url + "/parent").json()["data"]["path"] == "/parent"
            sys.exit(code)
        """
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), gateway.url],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert gateway.connections == 2
        assert [entry.path for entry in gateway.journal] == ["/parent", "/child", "/parent"]
        parent, child, again = gateway.journal
        assert parent.connection == again.connection != child.connection

    def test_a_fork_while_an_adapter_is_made(self) -> None:
        """An adapter that another thread is only just making has no pools yet that would have to be replaced."""
        half_made = ra.ResilientAdapter.__new__(ra.ResilientAdapter)
        half_made._pools = {}
        half_made._reset_after_fork()
        assert not hasattr(half_made, "poolmanager")


class TestTransports:
    def test_requests_mock(self, clock: FakeClock) -> None:
        """requests_mock's adapter as a transport answers below us: repeats and all."""
        mock = requests_mock.Adapter()
        mock.register_uri("GET", "http://gateway.invalid/x", [
            {"json": {"code": -1001}}, {"exc": requests.ConnectTimeout}, {"json": {"code": 0}},
        ])  # fmt: skip
        response = connect(transport=mock, clock=clock).get("http://gateway.invalid/x")
        assert response.json() == {"code": 0} and mock.call_count == 3
        assert [one.error for one in ra.resilience_of(response).attempts] == [None, "connect_timeout", None]

    def test_http_adapters_send_patched_on_the_class(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What patches HTTPAdapter.send on the class, as some mocking libraries do, is seen."""
        mock = requests_mock.Adapter()
        mock.register_uri("GET", "http://gateway.invalid/x", [{"status_code": 502}, {"json": {"code": 0}}])
        session = connect()
        monkeypatch.setattr(HTTPAdapter, "send", lambda self, request, **options: mock.send(request, **options))
        assert session.get("http://gateway.invalid/x").json() == {"code": 0}
        assert mock.call_count == 2

    def test_keywords(self, gateway: Gateway) -> None:
        """A transport is called with keywords, whatever a call passes by position, and closed with the adapter."""

        class Picky(BaseAdapter):
            closed = 0

            def send(self, request: Any, cacheable: Any = None, **options: Any) -> Any:  # type: ignore[override]
                assert cacheable is None
                assert set(options) == {"stream", "timeout", "verify", "cert", "proxies"}
                return HTTPAdapter().send(request, **options)

            def close(self) -> None:
                self.closed += 1

        transport = Picky()
        mounted = adapter(transport=transport)
        assert mounted.send(prepare("GET", gateway.url), False, (1, 2), True, None, {}).ok
        session = requests.Session()
        session.mount("http://", mounted)
        assert session.get(gateway.url).ok
        mounted.close()
        assert transport.closed == 1

    def test_urls_of_other_kinds(self, clock: FakeClock) -> None:
        """A transport may know URLs that we do not: they are its business."""
        mock = requests_mock.Adapter()
        mock.register_uri("GET", requests_mock.ANY, [{"json": {"code": -1001}}, {"json": {"code": 0}}] * 9)
        session = connect(transport=mock, clock=clock)
        for url in ("http+unix://%2Fvar%2Frun%2Fx.sock/y", "mock://user@x/y?q=1"):
            session.mount(url.partition("//")[0] + "//", session.get_adapter("http://a"))
            assert session.get(url).json() == {"code": 0}


class TestShadow:
    FAULTS = (
        (Fault.code(-1001), "retry"), (Fault.status(502), "retry"), (Fault.code(-1003, retry_after=9), "throttle"),
        (Fault.code(-1002), "refresh"), (Fault.status(401), "refresh"), (Fault.code(-1021), "resync"),
        (Fault.code(-1125), "recover"), (Fault.code(-2010), None), (Fault.status(404), None), (None, None),
    )  # fmt: skip

    @pytest.mark.parametrize(("fault", "told"), FAULTS)
    def test_one_request(self, gateway: Gateway, clock: FakeClock, fault: Fault | None, told: str | None) -> None:
        """In the shadow one request is sent, as plain requests sends it; what would have been done is only told."""
        events: list[ra.Event] = []
        session = connect(
            {"mode": "shadow", "origins": [gateway.url], "on_error": "raise", "rate_limit": {"wait": 5.0}},
            clock=clock, listeners=[events.append], token_source=module_level_token, signer=ra.HmacSigner("k", "s"),
            recoveries={-1125: lambda request, response: True},
        )  # fmt: skip
        results = []
        for one in (plain(), session):
            gateway.respond("*", Answer.success())
            gateway.script(fault)
            results.append(outcome(one.get(gateway.url + "/x?a=b")))
        assert results[0] == results[1]
        theirs, ours = gateway.journal
        assert dict(theirs.headers) == dict(ours.headers) and theirs.query == ours.query
        assert clock.sleeps == []
        assert [(event.name, event.shadow) for event in events] == ([] if told is None else [(told, True)])

    def test_exceptions(self, gateway: Gateway) -> None:
        """In the shadow an exception is requests' own; an order in doubt that would be looked up is told of."""
        events: list[ra.Event] = []
        session = connect({"mode": "shadow", "on_error": "raise"}, listeners=[events.append],
                          reconciler=lambda request, send: pytest.fail("it was asked"))  # fmt: skip
        gateway.script(Fault.reset(), Fault.reset())
        for method in ("GET", "POST"):
            with pytest.raises(requests.ConnectionError) as caught:
                session.request(method, gateway.url + "/x")
            assert type(caught.value) is requests.ConnectionError
        assert numbers(gateway) == 2
        assert [event.name for event in events] == ["retry", "reconcile"]

    def test_no_timeout(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the shadow no timeout is added, and no deadline cuts anything off."""
        timeouts: list[Any] = []
        send = HTTPAdapter.send

        def spy(self: HTTPAdapter, *args: Any, **options: Any) -> requests.Response:
            timeouts.append(options["timeout"])
            return send(self, *args, **options)

        monkeypatch.setattr(HTTPAdapter, "send", spy)
        session = connect({"mode": "shadow", "deadline": 0.05}, clock=RealClock())
        gateway.script(Fault.drip(0.02, chunk=10))
        assert session.get(gateway.url).ok
        session.get(gateway.url, timeout=7)
        assert timeouts == [None, 7]

    def test_nothing_is_refused(self, gateway: Gateway, clock: FakeClock) -> None:
        """In the shadow an open circuit and a paced origin hold nobody; they are told of."""
        events: list[ra.Event] = []
        session = connect(
            {"mode": "shadow", "circuit": {"fail_max": 1}, "rate_limit": {"rate": "3/min"}},
            clock=clock, listeners=[events.append],
        )  # fmt: skip
        gateway.script(Fault.status(503), path="/busy")
        assert session.get(gateway.url + "/busy").status_code == 503
        for _ in range(5):
            assert session.get(gateway.url + "/x").ok
        assert numbers(gateway) == 6 and clock.sleeps == []
        assert all(event.shadow for event in events)
        names = [event.name for event in events]
        assert names.count("throttle") == 3 and names.count("refused") == 5


def test_repr() -> None:
    """An adapter's repr shows nothing but what it is."""
    assert repr(adapter()) == "<ResilientAdapter mode='enforce'>"
