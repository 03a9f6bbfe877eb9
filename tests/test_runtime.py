"""What is kept for each origin, and for how long."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from shared_support import FailingBackend

import resilient_adapter as ra
from resilient_adapter import runtime as runtime_module
from resilient_adapter.core.model import Recovery
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
