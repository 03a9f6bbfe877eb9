"""The pools beneath: urllib3's own in all but what they cost."""

from __future__ import annotations

import pickle
import queue
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import requests
import urllib3
from adapter_support import adapter, connect, in_threads, plain, prepare
from hypothesis import given
from hypothesis import strategies as st

import resilient_adapter as ra
from resilient_adapter import pools
from resilient_adapter.testing import FakeClock, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_adapter.testing import Gateway


def pool_of(url: str, **options: Any) -> Any:
    """Return the pool that an adapter uses for a URL."""
    return adapter(**options).get_connection_with_tls_context(prepare("GET", url), verify=True)


# --- the queue of connections ---

PUT = st.integers(0, 9)


@given(maxsize=st.integers(0, 3), steps=st.lists(st.none() | PUT, max_size=20))
def test_connections_are_kept_as_in_a_queue_of_the_standard_library(maxsize: int, steps: list[int | None]) -> None:
    """Last in, first out; empty and full at the same moments."""

    def outcome(kept: queue.LifoQueue[Any], step: int | None) -> object:
        try:
            got = kept.get(block=False) if step is None else kept.put(step, block=False)
        except (queue.Empty, queue.Full) as error:
            return type(error), kept.qsize()
        return got, kept.qsize()

    ours, theirs = pools._Stack(maxsize), queue.LifoQueue[Any](maxsize)
    for step in steps:
        assert outcome(ours, step) == outcome(theirs, step)


def test_threads_that_give_back_at_once_never_keep_more_than_the_pool_holds(gateway: Gateway) -> None:
    """And never the same connection twice."""
    pool = pool_of(gateway.url, pool_maxsize=4)
    barrier = threading.Barrier(16)

    def work() -> None:
        for _ in range(50):
            barrier.wait(timeout=10)
            connection = pool._get_conn()
            barrier.wait(timeout=10)
            pool._put_conn(connection)

    in_threads(16, work)
    kept = [pool.pool.get(block=False) for _ in range(pool.pool.qsize())]
    assert len(kept) == 4 and len({id(connection) for connection in kept}) == 4
    pool.close()


# --- which pools are of our kind ---


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_they_go_by_urllib3s_names(scheme: str) -> None:
    """Which are in the texts of its exceptions."""
    url = f"{scheme}://127.0.0.1:9/"
    ours = pool_of(url)
    theirs = requests.adapters.HTTPAdapter().get_connection_with_tls_context(prepare("GET", url), verify=True)
    assert isinstance(ours.pool, pools._Stack) and isinstance(ours, type(theirs))
    assert str(ours) == str(theirs) and type(ours).__qualname__ == type(theirs).__qualname__


class Blocking(ra.ResilientAdapter):
    """Has pools that block, whatever it is asked for."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block=True, **options)


def tuned() -> ra.ResilientAdapter:
    """Return an adapter whose pools were made to block afterwards."""
    made = adapter(pool_maxsize=1)
    made.poolmanager.connection_pool_kw["block"] = True
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: adapter(pool_maxsize=1, pool_block=True),
        lambda: Blocking(ra.Settings.from_mapping({}), pool_maxsize=1, clock=FakeClock()),
        tuned,
    ],
    ids=["asked for", "by a subclass", "afterwards"],
)
def test_at_those_that_block_threads_wait(gateway: Gateway, make: Callable[[], ra.ResilientAdapter]) -> None:
    """One connection is enough for all of them."""
    mounted = make()
    session = connect()
    session.mount("http://", mounted)
    gateway.script(*[Fault.delay(0.05)] * 4)
    statuses: list[int] = []
    in_threads(4, lambda: statuses.append(session.get(gateway.url).status_code))
    assert statuses == [200] * 4
    pool: Any = mounted.get_connection_with_tls_context(prepare("GET", gateway.url), verify=True)
    assert type(pool.pool) is queue.LifoQueue and pool.num_connections == 1


def test_what_is_put_in_the_place_of_a_manager_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock's, or none at all."""
    with monkeypatch.context() as patch:
        patch.setattr(requests.adapters, "PoolManager", Mock())
        assert isinstance(adapter().poolmanager, Mock)
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "init_poolmanager", Mock())
    assert not hasattr(adapter(), "poolmanager")


def test_a_kind_of_somebody_elses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As do the queues of a fork of urllib3 that stands in its place."""

    class Theirs(urllib3.HTTPConnectionPool):
        pass

    with monkeypatch.context() as patch:
        patch.setitem(urllib3.poolmanager.pool_classes_by_scheme, "http", Theirs)
        assert type(pool_of("http://127.0.0.1:9/")) is Theirs
        assert type(pool_of("https://127.0.0.1:9/")) is pools.HTTPSConnectionPool
    with monkeypatch.context() as patch:
        patch.setattr(urllib3.HTTPConnectionPool, "QueueCls", type("Theirs", (queue.LifoQueue,), {}))
        assert type(pool_of("http://127.0.0.1:9/")) is urllib3.HTTPConnectionPool
    assert urllib3.poolmanager.pool_classes_by_scheme["http"] is urllib3.HTTPConnectionPool


def test_out_of_a_pickle() -> None:
    """An adapter that comes out of a pickle makes them again."""
    copy = pickle.loads(pickle.dumps(adapter(clock=None)))
    assert type(copy.poolmanager.connection_from_url("http://127.0.0.1:9/")) is pools.HTTPConnectionPool


# --- what is sent through them ---


def test_what_is_put_in_the_place_of_urlopen_is_called(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names that requests calls it with, and what it adds to the headers goes on the wire, and nowhere else."""
    seen: list[dict[str, Any]] = []
    real = urllib3.HTTPConnectionPool.urlopen

    def trace(self: Any, *args: Any, **options: Any) -> Any:
        assert not args
        seen.append({**options, "headers": dict(options["headers"]), "timeout": 0, "retries": 0})
        options["headers"]["Trace-Id"] = "t"
        return real(self, *args, **options)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", trace)
    for session in (plain(), connect()):
        session.post(gateway.url + "/x", data={"a": "b"}, headers={"X-Own": "1", "x-lower": "ü".encode()})
    theirs, ours = seen
    assert ours == theirs and list(ours["headers"]) == list(theirs["headers"])
    one, other = gateway.received("/x")
    assert one.headers == other.headers and other.headers["Trace-Id"] == "t"
    request = connect().get(gateway.url + "/x").request
    assert "Trace-Id" not in request.headers and type(request.headers) is requests.structures.CaseInsensitiveDict


@pytest.mark.parametrize("headers", [{"X": "1"}, urllib3.HTTPHeaderDict({"X": "1"}), None])
def test_other_mappings_are_handed_on_as_they_are(gateway: Gateway, headers: Any) -> None:
    """Whoever calls the pool, and not through requests."""
    with pool_of(gateway.url) as pool:
        assert pool.urlopen("GET", "/x", headers=headers).status == 200
        assert pool.request("GET", "/x", headers=headers).status == 200
    assert [received.headers.get("X") for received in gateway.received("/x")] == (
        [None] if headers is None else ["1"]
    ) * 2
