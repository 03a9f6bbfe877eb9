"""What is kept for each origin, and for how long."""

from __future__ import annotations

import gc
import json
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from shared_support import FailingBackend

import resilient_adapter as ra
from resilient_adapter import runtime as runtime_module
from resilient_adapter.core.model import Health, Recovery
from resilient_adapter.guards.circuit import Ticket
from resilient_adapter.repairs.orders import Doubt
from resilient_adapter.repairs.token import Refreshed, TokenKeeper
from resilient_adapter.runtime import Runtime, rules_of
from resilient_adapter.state.backend import Seen
from resilient_adapter.state.store import Store
from resilient_adapter.testing import FakeClock

SOON = 10.0  # seconds within which a thread ends that waits for nobody


def runtime(settings: dict[str, Any] | None = None, **arguments: Any) -> Runtime:
    """Return a runtime of these settings alone."""
    given: dict[str, Any] = {"token_source": None, "signer": None, "clock": FakeClock(), **arguments}
    return Runtime(ra.Settings.from_mapping(settings or {}), **given)


class TestOrigins:
    @pytest.mark.parametrize(("url", "name"), [
        ("http://a", "http://a"),
        ("http://a/", "http://a"),
        ("HTTP://A:80/x?y#z", "http://a"),
        ("https://a:443/x", "https://a"),
        ("https://a:80/x", "https://a:80"),
        ("http://user:secret@a/x", "http://a"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://a?b", "http://a"),
        ("http://a#b", "http://a"),
        ("http+unix://%2Fvar%2Fx/y", "http+unix://%2fvar%2fx"),
        ("http://user:secret@a:b/x", "a:b"),
        ("nonsense", "nonsense"),
        ("", ""),
    ])  # fmt: skip
    def test_names(self, url: str, name: str) -> None:
        """An origin has one name, without user, password, path and query, however it is written."""
        kept = runtime()
        origin = kept.origin(url)
        assert origin.name.lower() == name
        assert kept.origin(url) is origin

    def test_plain_ones(self) -> None:
        """Where origins are listed, every other is plain; under mode "off" all are."""
        kept = runtime({"origins": ["http://a"]})
        assert not kept.origin("http://a/").plain and kept.origin("http://b/").plain
        assert runtime({"mode": "off"}).origin("http://a/").plain
        both = runtime({"per_origin": {"http://a": {"mode": "off"}, "http://b": {"mode": "shadow"}}})
        assert both.origin("http://a/").plain and both.origin("http://b/").shadow
        assert not both.origin("http://c/").plain

    def test_what_is_busy(self) -> None:
        """An origin that is closed for a while, or whose circuit is not closed, has something to remember."""
        from resilient_adapter.core.model import Health

        clock = FakeClock()
        for scope in ("origin", "endpoint"):
            kept = runtime({"circuit": {"fail_max": 1, "scope": scope}}, clock=clock)
            origin = kept.origin("http://a/")
            assert not origin.busy()
            circuit = origin.circuit("http://a/x?y")
            assert origin.circuit("http://a/x") is circuit
            ticket = circuit.admit(1.0)
            circuit.record(ticket, Health.FAILURE)  # type: ignore[arg-type]
            assert origin.busy()
            throttled = kept.origin("http://b/")
            throttled.rate_limit.throttled(5)
            assert throttled.busy()

    def test_leases(self) -> None:
        """A probe is given as long as one send may take, within the deadline."""
        for settings, lease in (
            ({}, 35.0), ({"deadline": 20.0}, 20.0), ({"deadline": 0, "connect_timeout": 0, "read_timeout": 0}, 120.0),
        ):  # fmt: skip
            assert runtime(settings).origin("http://a").lease == lease

    def test_after_a_fork(self) -> None:
        """What a runtime keeps survives a fork; its locks are new."""
        kept = runtime(
            {"origins": ["http://a"], "circuit": {"scope": "endpoint"}},
            token_source=lambda: "t", signer=ra.HmacSigner("k", "s"),
        )  # fmt: skip
        origin = kept.origin("http://a/")
        origin.circuit("http://a/x")
        before = kept._lock, origin._lock
        kept.reset_after_fork()
        assert kept.origin("http://a/") is origin
        assert kept._lock is not before[0] and origin._lock is not before[1]
        plain = runtime()
        plain.origin("http://a/")
        plain.reset_after_fork()


class Asked(FailingBackend):
    """Records in memory.

    Attributes:
        asking: called once, when records are read next.
    """

    asking: Callable[[], object] | None = None

    def read(self, keys: Sequence[str]) -> list[Seen]:
        then, self.asking = self.asking, None
        if then is not None:
            then()
        return super().read(keys)


class TestNoLockIsHeldWhileTheStoreIsAsked:
    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> Asked:
        """Return the store of every runtime."""
        clock = FakeClock()
        backend = Asked(clock.time)
        store = Store(backend, clock, lambda text: self.warned(), threaded=False)
        monkeypatch.setattr(runtime_module, "shared_store", lambda *arguments: store)
        return backend

    def warned(self) -> None:
        """Do what a log's handler may: send somewhere."""
        self.kept.origin("http://alert/")

    def ends(self, step: Callable[[], object]) -> bool:
        """Return whether a step ends, in a thread of its own."""
        thread = threading.Thread(target=step, daemon=True)
        thread.start()
        thread.join(SOON)
        return not thread.is_alive()

    def test_where_it_fails(self, backend: Asked) -> None:
        """The log may be written to by way of an adapter."""
        self.kept = runtime()
        backend.down = True
        assert self.ends(lambda: self.kept.origin("http://a/"))

    def test_for_an_endpoint(self, backend: Asked) -> None:
        """A call to a path that is known does not wait for one to a new path; both get one circuit of a path."""
        origin = runtime({"circuit": {"scope": "endpoint"}}).origin("http://a/")
        known = origin.circuit("http://a/known")
        met: list[object] = []
        backend.asking = lambda: met.extend(map(origin.circuit, ("http://a/known", "http://a/new")))
        assert self.ends(lambda: met.append(origin.circuit("http://a/new")))
        assert met == [known, met[1], met[1]]

    @pytest.mark.parametrize("scope", ["origin", "endpoint"])
    def test_many_that_meet_at_once(self, backend: Asked, scope: str) -> None:
        """One of them makes the origin, and its circuit: the store is asked once for each record."""
        kept = runtime({"circuit": {"scope": scope}})
        alone = kept.origin("http://alone/").circuit("http://alone/x")
        reads, backend.reads = backend.reads, 0
        start = threading.Barrier(8)
        met: list[object] = []

        def meet() -> None:
            start.wait(SOON)
            met.append(kept.origin("http://a/").circuit("http://a/x"))

        threads = [threading.Thread(target=meet) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(met) == 8 and set(met) == {met[0]} != {alone} and backend.reads == reads

    def test_two_that_meet_at_once(self, backend: Asked) -> None:
        """They meet one origin."""
        kept = runtime()
        met: list[object] = []
        backend.asking = lambda: met.append(kept.origin("http://a/"))
        assert self.ends(lambda: met.append(kept.origin("http://a/")))
        assert met == [met[0], met[0]]


class TestSharing:
    """What ``shared.url`` makes of a runtime."""

    KEY = "A" * 43 + "="

    @pytest.fixture(autouse=True)
    def stores(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Forget the stores of a test."""
        monkeypatch.setattr(runtime_module, "_shared", runtime_module._Shared())
        yield
        for store in runtime_module._shared.stores.values():
            store.close()

    @staticmethod
    def settings(folder: Path, **more: Any) -> dict[str, Any]:
        """Return settings that share in a file there."""
        return {"shared": {"url": (folder / "state").as_uri(), **more.pop("shared", {})}, **more}

    @staticmethod
    def records(folder: Path) -> dict[str, str]:
        """Return all that the file holds, by name."""
        with sqlite3.connect(folder / "state") as connection:
            found = connection.execute("SELECT name, value FROM records").fetchall()
        connection.close()
        return dict(found)

    @staticmethod
    def trip(kept: Runtime, url: str) -> None:
        """Let the circuit of a URL open."""
        circuit = kept.origin(url).circuit(url)
        while circuit.state == "closed":
            ticket = circuit.admit(9.0)
            assert isinstance(ticket, Ticket)
            circuit.record(ticket, Health.FAILURE)

    def test_one_store_for_all(self, tmp_path: Path) -> None:
        """Of one address, one namespace and one clock, whatever else the adapters' settings are."""
        clock = FakeClock()
        adapters = [
            ra.ResilientAdapter(ra.Settings.from_mapping(self.settings(tmp_path, **more)), clock=clock)
            for more in ({}, {"deadline": 7.0}, {"shared": {"namespace": "another"}})
        ]
        first, second, other = (adapter._runtime for adapter in adapters)
        assert first is not second and first.store is second.store is not None
        assert other.store is not first.store and len(runtime_module._shared.stores) == 2
        assert runtime(self.settings(tmp_path)).store is not first.store  # another clock
        for adapter in adapters:
            adapter.close()

    def test_they_open_together(self, tmp_path: Path) -> None:
        """What one of them learns, the other knows: circuits, cooldowns, windows; and origins keep apart."""
        settings = self.settings(tmp_path, rate_limit={"rate": "100/s"})
        clock = FakeClock()
        one, other = runtime(settings, clock=clock), runtime({**settings, "deadline": 7.0}, clock=clock)
        self.trip(one, "http://a/x")
        one.origin("http://a/").rate_limit.throttled(60.0)
        there = other.origin("http://a/y")
        assert there.circuit("http://a/y").state == "open" and there.rate_limit.remaining() > 50
        assert other.origin("http://b/").circuit("http://b/").state == "closed"
        assert other.origin("http://b/").rate_limit.remaining() == 0
        assert set(self.records(tmp_path)) == {f"resilient_adapter {kind}:http://a" for kind in ("circuit", "cooldown")}

    @pytest.mark.parametrize("more", [
        {"mode": "off"},
        {"mode": "shadow"},
        {"origins": ["http://b"]},
        {"per_origin": {"http://a": {"mode": "shadow"}}},
        {"per_origin": {"http://a": {"mode": "off"}}},
    ])  # fmt: skip
    def test_what_only_watches_touches_nothing(self, tmp_path: Path, more: dict[str, Any]) -> None:
        """Nor does what is none of ours: no file is made, and no thread started."""
        threads = threading.active_count()
        kept = runtime(
            self.settings(tmp_path, token={"origins": more.get("origins", ["http://a"])}, **more),
            token_source=lambda: "t",
        )
        self.trip(kept, "http://a/x")
        kept.origin("http://a/").rate_limit.throttled(60.0)
        assert kept.origin("http://a/").budget.spend()
        token = kept.origin("http://a/").token
        assert token is None or "per_origin" in more or token.refresh(None, 1e9) is Refreshed.BY_US
        assert not (tmp_path / "state").exists() and threading.active_count() == threads

    def test_no_name_tells_a_secret(self, tmp_path: Path) -> None:
        """Neither query, user, password, path nor token, nor a login's; and no value holds a token."""
        login = "http://user:s3cret-password@a/s3cret-path?key=s3cret-query"
        kept = runtime(
            self.settings(
                tmp_path,
                circuit={"scope": "endpoint"},
                rate_limit={"rate": "100/s"},
                token={"url": login.replace("user:s3cret-password@", ""), "origins": ["http://a"]},
                shared={"tokens": True, "token_key": self.KEY},
            ),
            token_source=lambda: "s3cret-token",
        )
        self.trip(kept, login)
        origin = kept.origin(login)
        origin.rate_limit.poll(origin.rate_limit.enter(2))
        origin.rate_limit.throttled(60.0)
        origin.budget.spend()
        assert origin.token is not None and origin.token.refresh(None, 1e9) is Refreshed.BY_US
        records = self.records(tmp_path)
        kinds = sorted(name.split()[1].partition(":")[0] for name in records)
        assert kinds == ["budget", "circuit", "cooldown", "pace", "token"]
        for text in (*records, *records.values()):
            assert "s3cret" not in text and "user" not in text and "?" not in text, text

    def test_endpoints_have_circuits_of_their_own(self, tmp_path: Path) -> None:
        """Each with a name of its own, which does not show the path."""
        kept = runtime(self.settings(tmp_path, circuit={"scope": "endpoint"}))
        self.trip(kept, "http://a/x?1")
        self.trip(kept, "http://a/y")
        names = sorted(self.records(tmp_path))
        assert len(names) == 2 and all(name.startswith("resilient_adapter circuit:http://a#") for name in names)

    def test_tokens_are_shared_where_that_is_said(self, tmp_path: Path) -> None:
        """Between adapters that differ in nothing that tells one token from another; else each logs in, in turn."""
        asked: list[str] = []

        def keeper(name: str, **shared: Any) -> TokenKeeper:
            def source() -> str:
                asked.append(name)
                return f"{name}-{len(asked)}"

            kept = runtime(
                self.settings(tmp_path, origins=["http://a"], shared=shared), token_source=source, clock=clock
            )
            token = kept.origin("http://a/").token
            assert token is not None
            return token

        clock = FakeClock()
        for name in "ab":
            assert keeper(name).refresh(None, 1e9) is Refreshed.BY_US
        assert asked == ["a", "b"]
        shared = {"tokens": True, "token_key": self.KEY}
        one, other = keeper("c", **shared), keeper("d", **shared)
        assert one.refresh(None, 1e9) is Refreshed.BY_US and other.refresh(None, 1e9) is Refreshed.BY_ANOTHER
        assert one.value() == other.value() == "c-3"

    def test_an_origin_of_its_own_settings(self, tmp_path: Path) -> None:
        """One with another token takes part as well: by a record of its own."""
        kept = runtime(
            self.settings(
                tmp_path, origins=["http://a", "http://b"], per_origin={"http://b": {"token": {"header": "X"}}}
            ),
            token_source=lambda: "t",
        )
        for url in ("http://a/", "http://b/"):
            token = kept.origin(url).token
            assert token is not None and token.refresh(None, 1e9) is Refreshed.BY_US
        assert len([name for name in self.records(tmp_path) if " token:" in name]) == 2

    @pytest.mark.parametrize(("blocked", "shared", "says"), [
        ("cryptography.fernet", {"tokens": True, "token_key": KEY}, "shared.tokens needs the package cryptography"),
        ("redis", {"url": "redis://:hunter2@127.0.0.1:1/0"}, "shared.url: this needs redis-py"),
    ])  # fmt: skip
    def test_a_package_that_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str, shared: dict[str, Any], says: str
    ) -> None:
        """An error that says what to install, when the adapter is made."""
        if blocked == "redis":
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setitem(sys.modules, blocked, None)
        settings = ra.Settings.from_mapping(self.settings(tmp_path, origins=["http://a"], shared=shared))
        with pytest.raises(ra.SettingsError, match=says) as caught:
            ra.ResilientAdapter(settings, token_source=lambda: "t")
        assert "pip install 'resilient_adapter[redis]'" in str(caught.value) and "hunter2" not in str(caught.value)

    def test_a_store_that_fails_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Once, as a warning that says what; calls go on."""
        (tmp_path / "state").mkdir()
        with caplog.at_level(logging.WARNING):
            kept = runtime(self.settings(tmp_path))
            self.trip(kept, "http://a/x")
            self.trip(kept, "http://b/x")
        (warning,) = [record.getMessage() for record in caplog.records if "shared_store" in record.getMessage()]
        assert str(tmp_path / "state") in warning and "going on without it" in warning

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_fork(self, tmp_path: Path) -> None:
        """A child that opens its circuit opens its parent's, and has a thread that hears of its own."""
        adapter = ra.ResilientAdapter(ra.Settings.from_mapping(self.settings(tmp_path, circuit={"fail_max": 1})))
        kept = adapter._runtime
        url = "http://a/x"
        circuit = kept.origin(url).circuit(url)
        child = os.fork()
        if not child:
            try:
                assert kept.store is not None and kept.store._thread is not None and kept.store._thread.is_alive()
                self.trip(kept, url)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        pause = threading.Event()
        for _ in range(1000):
            if circuit.state == "open":
                break
            pause.wait(0.01)
        assert circuit.state == "open"
        assert json.loads(self.records(tmp_path)["resilient_adapter circuit:http://a"])["probe"] is None
        adapter.close()


class TestRules:
    def test_of_the_settings(self) -> None:
        """A code that the settings call "break" counts for the circuit without being listed a second time."""
        rules = rules_of(ra.Settings.from_mapping({"codes": {"-1999": {"recovery": "break", "executed": "no"}}}))
        assert rules.circuit_codes == {-1008, -1999}
        assert rules.table[-1999].recovery is Recovery.BREAK


class TestCredentials:
    def test_no_origin(self) -> None:
        """A token source, or a signer of the kind that knows origins, without one is a SettingsError."""
        with pytest.raises(ra.SettingsError, match="token_source"):
            runtime(token_source=lambda: "t")
        with pytest.raises(ra.SettingsError, match="signer"):
            runtime(signer=ra.HmacSigner("k", "s"))

    def test_signers(self) -> None:
        """A plain function signs wherever the adapter goes; an HmacSigner for its own origins, else the settings'."""

        def sign(request: object) -> None:
            pass

        assert runtime(signer=sign).origin("http://b/").signer is sign
        assert runtime({"origins": ["http://a"]}, signer=sign).origin("http://a/").signer is sign
        own = runtime(signer=ra.HmacSigner("k", "s", origins=["http://a"]))
        assert own.origin("http://a/").signer is not None and own.origin("http://b/").signer is None
        settings = {"origins": ["http://a"], "signing": {"api_key": "k", "secret": "s"}}
        assert runtime(settings).origin("http://a/").signer is not None
        assert runtime(settings).origin("http://a/").server_clock is not None


def test_a_runtime_that_knows_of_an_order_in_doubt_makes_no_room(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that makes an adapter anew for each order finds its doubts again; the others are let go of."""
    monkeypatch.setattr(runtime_module, "MAX_RUNTIMES", 3)
    monkeypatch.setattr(runtime_module, "_shared", runtime_module._Shared())

    def of(number: int) -> Runtime:
        return ra.ResilientAdapter(ra.Settings.from_mapping({"deadline": 10.0 + number}), clock=clock)._runtime

    doubtful = {number: of(number) for number in range(5) if number % 2 == 0}
    for number, one in doubtful.items():
        one.orders.doubt(("http://a", str(number), ""), 1, Doubt(0, "x", 0.0))
    for number in range(5, 25):
        of(number)
        assert len(runtime_module._shared.runtimes) <= 3 + len(doubtful)
    assert all(of(number) is one for number, one in doubtful.items())
    for one in doubtful.values():
        assert one.orders.resolve("x")
    for number in range(25, 29):
        of(number)
    assert len(runtime_module._shared.runtimes) == 3


def test_nor_does_one_whose_order_is_on_the_wire(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in doubt in a moment."""
    monkeypatch.setattr(runtime_module, "MAX_RUNTIMES", 1)
    monkeypatch.setattr(runtime_module, "_shared", runtime_module._Shared())
    settings = ra.Settings.from_mapping({"deadline": 7.0})
    kept = ra.ResilientAdapter(settings, clock=clock)._runtime
    request = requests.Request("POST", "http://a/", params={"newClientOrderId": "x"}).prepare()
    submission = kept.origin("http://a/").submission(request)
    assert submission is not None
    with submission:
        submission.sending(request)
        for number in range(5):
            ra.ResilientAdapter(ra.Settings.from_mapping({"deadline": 10.0 + number}), clock=clock)
        assert ra.ResilientAdapter(settings, clock=clock)._runtime is kept
    assert kept.orders.resolve("x") and not kept.in_doubt()


def test_stores_that_nobody_uses_are_closed_to_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever new places to share in do not pile up threads and handles; what a living adapter shares in stays open."""
    monkeypatch.setattr(runtime_module, "MAX_RUNTIMES", 3)
    monkeypatch.setattr(runtime_module, "_shared", runtime_module._Shared())

    def adapter(name: str) -> ra.ResilientAdapter:
        return ra.ResilientAdapter(
            ra.Settings.from_mapping({"shared": {"url": f"file://{tmp_path}/state", "namespace": name}})
        )

    kept = adapter("kept")
    for number in range(12):
        adapter(f"n{number}")
        gc.collect()
    stores = runtime_module._shared.stores
    assert len(stores) < 8 and kept._runtime.store in stores.values()
    for store in stores.values():
        store.close()
