"""Where shared records are kept: one contract for memory, file and Redis, and how each of them fails."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis.exceptions
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from state_support import ValkeyServer, free_port, valkey

from resilient_adapter.state import file as file_module
from resilient_adapter.state import redis as redis_module
from resilient_adapter.state.address import Host
from resilient_adapter.state.backend import Backend, Listener, Seen, StoreError
from resilient_adapter.state.file import FileBackend
from resilient_adapter.state.memory import MemoryBackend
from resilient_adapter.state.opening import open_backend
from resilient_adapter.state.redis import RedisBackend
from resilient_adapter.testing import Gateway

LONG = 60.0  # seconds to live, for what is not to end during a test
BOUND = 1.0  # seconds: an operation takes two fifths of it at most, and a busy machine makes them longer


class Store(NamedTuple):
    """A place for records. ``url`` is empty for memory, which no other process sees."""

    open: Callable[..., Backend]
    url: str = ""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Run one server for all tests of this process that do not hurt it."""
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(params=["memory", "file", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty place for records, of each kind."""
    if request.param == "memory":
        memory = MemoryBackend(time.time)
        return Store(lambda namespace="": memory)
    if request.param == "file":
        url = (tmp_path / "state").as_uri()
    else:
        running: ValkeyServer = request.getfixturevalue("server")
        running.ask("FLUSHALL")
        url = running.url
    return Store(lambda namespace="main": open_backend(url, namespace), url)


@pytest.fixture
def backend(store: Store) -> Iterator[Backend]:
    """Return what keeps records, of each kind."""
    opened = store.open()
    yield opened
    opened.close()


def until(happens: Callable[[], bool]) -> None:
    """Wait for something that others bring about."""
    give_up = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.005)


def all_heard(listener: Listener, count: int) -> list[tuple[str, str | None]]:
    """Return so many changes that were heard, and see to it that there are no more."""
    heard: list[Seen] = []
    give_up = time.monotonic() + 10
    while len(heard) < count and time.monotonic() < give_up:
        heard += listener.heard(1)
    heard += listener.heard(0)
    assert all((seen.version > 0) == (seen.value is not None) and not seen.swapped for seen in heard)
    return [(seen.key, seen.value) for seen in heard]


def quickly(operation: Callable[[], object]) -> str:
    """Return the text of the StoreError that an operation ends with, in good time."""
    started = time.monotonic()
    with pytest.raises(StoreError) as failure:
        operation()
    assert time.monotonic() - started < BOUND
    return str(failure.value)


class TestContract:
    def test_a_record_is_made_changed_and_removed(self, backend: Backend) -> None:
        """Each step names the version that it is based on; what has gone is at version 0."""
        before = time.time()
        made = backend.swap("k", 0, "one", LONG)
        assert made == Seen("k", made.version, "one", made.now, swapped=True) and made.version > 0
        assert before - 1 < made.now < time.time() + 1
        (seen,) = backend.read(["k"])
        assert seen == made._replace(now=seen.now, swapped=False) and seen.now >= made.now
        changed = backend.swap("k", made.version, "two", LONG)
        assert changed.swapped and changed.value == "two" and changed.version > made.version
        gone = backend.swap("k", changed.version, None, LONG)
        assert gone == Seen("k", 0, None, gone.now, swapped=True)
        (seen,) = backend.read(["k"])
        assert seen == Seen("k", 0, None, seen.now)

    @pytest.mark.parametrize("offset", [-1, 1])
    def test_a_swap_on_another_version_changes_nothing(self, backend: Backend, offset: int) -> None:
        """It tells what is there instead; that what is to be new exists, or what is to be there does not, included."""
        none = backend.swap("k", 1, "x", LONG)
        assert none == Seen("k", 0, None, none.now)
        made = backend.swap("k", 0, "one", LONG)
        for version in (0, made.version + offset):
            for value in ("x", None):
                kept = backend.swap("k", version, value, LONG)
                assert kept == made._replace(now=kept.now, swapped=False)
        assert [seen.value for seen in backend.read(["k"])] == ["one"]

    def test_nothing_can_be_removed(self, backend: Backend) -> None:
        """To remove what is not there succeeds: it is not there afterwards."""
        assert backend.swap("k", 0, None, LONG).swapped
        assert backend.keys() == []

    def test_records_are_read_together_in_order(self, backend: Backend) -> None:
        """Also those that do not exist, the same one twice, and none at all; all by one time of the store's."""
        backend.swap("a", 0, "1", LONG)
        backend.swap("b", 0, "2", LONG)
        seen = backend.read(["b", "x", "a", "b"])
        assert [(each.key, each.value) for each in seen] == [("b", "2"), ("x", None), ("a", "1"), ("b", "2")]
        assert len({each.now for each in seen}) == 1
        assert backend.read([]) == []

    def test_many_records(self, backend: Backend) -> None:
        """More than one round trip takes, or one look of a listener."""
        names = [f"k{number}" for number in range(600)]
        listener = backend.listen()
        for name in names:
            backend.swap(name, 0, name, LONG)
        assert [seen.value for seen in backend.read(names)] == names
        assert sorted(backend.keys()) == sorted(names)
        assert all_heard(listener, len(names)) == [(name, name) for name in names]
        listener.close()

    def test_a_record_ends_by_itself(self, backend: Backend) -> None:
        """Then it is gone for whoever reads, swaps or lists; its next life has a greater version. Nobody is told."""
        made = backend.swap("k", 0, "short", 0.03)
        backend.swap("other", 0, "long", LONG)
        listener = backend.listen()
        until(lambda: backend.read(["k"])[0].version == 0)
        assert backend.keys() == ["other"]
        lost = backend.swap("k", made.version, "x", LONG)
        assert lost == Seen("k", 0, None, lost.now)
        again = backend.swap("k", 0, "again", LONG)
        assert again.swapped and again.version > made.version
        assert all_heard(listener, 1) == [("k", "again")]
        listener.close()

    def test_a_change_sets_the_end_anew(self, backend: Backend) -> None:
        """The time to live is that of the last change."""
        made = backend.swap("k", 0, "short", 0.05)
        kept = backend.swap("k", made.version, "long", LONG)
        assert kept.swapped
        until(lambda: backend.read(["k"])[0].now > made.now + 0.06)
        assert backend.read(["k"])[0].value == "long"
        backend.swap("k", kept.version, "short", 0.001)
        until(lambda: backend.read(["k"])[0].value is None)

    def test_versions_never_come_twice(self, backend: Backend) -> None:
        """They grow over removal and re-creation, whatever is told, and as fast as one can write."""
        versions = []
        version = 0
        for number in range(60):
            made = backend.swap("k", version, str(number), LONG, tell=number % 2 == 0)
            assert made.swapped
            versions.append(made.version)
            version = backend.swap("k", made.version, None, LONG, tell=number % 3 == 0).version
        assert versions == sorted(set(versions))

    def test_of_those_who_swap_at_one_version_one_wins(self, store: Store) -> None:
        """Threads with connections of their own; the others are told what the winner has made of it."""
        backends = [store.open() for _ in range(8)]
        barrier = threading.Barrier(len(backends))
        versions = [0]

        def contend(number: int) -> list[Seen]:
            seen = []
            for turn in range(20):
                barrier.wait(10)
                seen.append(backends[number].swap("k", versions[turn], f"{turn}:{number}", LONG))
                if seen[-1].swapped:
                    versions.append(seen[-1].version)
                barrier.wait(10)
            return seen

        with ThreadPoolExecutor(len(backends)) as threads:
            for turn in zip(*threads.map(contend, range(len(backends))), strict=True):
                (winner,) = (seen for seen in turn if seen.swapped)
                assert {(seen.version, seen.value) for seen in turn} == {(winner.version, winner.value)}
        for each in backends:
            each.close()

    def test_threads_share_one_backend(self, backend: Backend) -> None:
        """What each adds to a count is in it at the end."""

        def add(number: int) -> None:
            for _ in range(10):
                seen = backend.read(["count"])[0]
                while not (seen := backend.swap("count", seen.version, str(int(seen.value or 0) + 1), LONG)).swapped:
                    pass

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(add, range(4)))
        assert backend.read(["count"])[0].value == "40"

    def test_listeners_hear_each_change_once_and_in_order(self, backend: Backend) -> None:
        """All that is told from now on, removals too, and nothing from before; each listener for itself."""
        before = backend.swap("k", 0, "before", LONG)
        first = backend.listen()
        one = backend.swap("k", before.version, "one", LONG)
        second = backend.listen()
        assert first.heard(5) == [one._replace(swapped=False)]
        untold = backend.swap("k", one.version, "untold", LONG, tell=False)
        assert not backend.swap("k", one.version, "lost", LONG).swapped
        backend.swap("k", untold.version, None, LONG)
        backend.swap("j", 0, "two", LONG)
        for listener in (first, second):
            assert all_heard(listener, 2) == [("k", None), ("j", "two")]
            listener.close()
            assert listener.heard(0) == []
            listener.close()

    def test_listeners_wait_for_the_first_change(self, backend: Backend) -> None:
        """They return as soon as there is one, and with nothing when the time is over."""
        listener = backend.listen()
        assert listener.heard(0.15) == [] and listener.heard(0) == []
        thread = threading.Timer(0.05, backend.swap, ("k", 0, "late", LONG))
        thread.start()
        assert [seen.value for seen in listener.heard(10)] == ["late"]
        thread.join()
        listener.close()

    @pytest.mark.parametrize(
        "text", ["", " ", "é \u0000 \U0001f600 \n\r\n", '{"a": "\\"/"}', "x" * 300_000, "0", "12 34", "*?[a]^\\"]
    )
    def test_texts_come_back_as_they_were(self, backend: Backend, text: str) -> None:
        """Any value; and any name, but for the very long."""
        key = text[:100]
        listener = backend.listen()
        made = backend.swap(key, 0, text, LONG)
        assert made.value == text and backend.keys() == [key]
        assert [(seen.key, seen.value) for seen in backend.read([key])] == [(key, text)]
        assert all_heard(listener, 1) == [(key, text)]
        listener.close()

    @settings(max_examples=25)
    @given(st.data())
    def test_the_law(self, data: st.DataObject) -> None:
        """Whatever is done, all three do what a table with a counter would do, and tell the same of it."""
        backends = self.fresh()
        listeners = [backend.listen() for backend in backends]
        model: dict[str, str] = {}
        versions: list[dict[str, int]] = [{} for _ in backends]
        told: list[tuple[str, str | None]] = []
        for _ in range(data.draw(st.integers(1, 12))):
            key = data.draw(st.sampled_from("ab"))
            value = data.draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
            right, tell = data.draw(st.booleans()), data.draw(st.booleans())
            for backend, known in zip(backends, versions, strict=True):
                at = known.get(key, 0)
                seen = backend.swap(key, at if right else at + 7, value, LONG, tell=tell)
                assert seen.swapped == right and seen.value == (value if right else model.get(key))
                assert not right or value is None or seen.version > at
                known[key] = seen.version
            if right:
                model = {**model, key: value} if value is not None else {k: model[k] for k in model if k != key}
                told += [(key, value)] if tell else []
            for backend, known in zip(backends, versions, strict=True):
                seen_all = {seen.key: seen for seen in backend.read("ab")}
                assert {k: s.value for k, s in seen_all.items() if s.version} == model
                assert sorted(backend.keys()) == sorted(model)
        for listener in listeners:
            assert all_heard(listener, len(told)) == told
            listener.close()

    @pytest.fixture(autouse=True)
    def _stores(self, server: ValkeyServer, tmp_path: Path) -> None:
        file = FileBackend(tmp_path / "law", "law")

        def fresh() -> list[Backend]:
            server.ask("FLUSHALL")
            for seen in file.read(file.keys()):
                file.swap(seen.key, seen.version, None, LONG)
            return [MemoryBackend(time.time), file, RedisBackend(server.url, "law")]

        self.fresh = fresh


@pytest.mark.parametrize("store", ["file", "redis"], indirect=True)
class TestBetweenProcesses:
    def test_namespaces_are_apart(self, store: Store) -> None:
        """Names, changes and lists, though one namespace's name begins like the other's."""
        one, two = store.open("a"), store.open("a*")
        listener = one.listen()
        assert one.swap("k", 0, "one", LONG).swapped and two.swap("k", 0, "two", LONG).swapped
        assert [backend.read(["k"])[0].value for backend in (one, two)] == ["one", "two"]
        assert one.keys() == two.keys() == ["k"]
        assert all_heard(listener, 1) == [("k", "one")]
        for opened in (listener, one, two):
            opened.close()

    def test_a_process_hears_of_another(self, store: Store) -> None:
        """What one has written the other hears of, reads, and builds on."""
        backend = store.open()
        listener = backend.listen()
        script = (
            "import sys; from resilient_adapter.state.opening import open_backend as o; b = o(sys.argv[1], 'main');"
            "[b.swap(f'k{n}', 0, str(n), 60) for n in range(5)]"
        )
        subprocess.run([sys.executable, "-c", script, store.url], check=True, timeout=60)
        assert all_heard(listener, 5) == [(f"k{n}", str(n)) for n in range(5)]
        seen = backend.read(["k3"])[0]
        assert backend.swap("k3", seen.version, "mine", LONG).swapped
        listener.close()
        backend.close()

    def test_processes_add_up(self, store: Store) -> None:
        """Two processes of three threads each: nothing that one has added is lost."""
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=add_up, args=(store.url,), daemon=True) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        backend = store.open()
        words = (backend.read(["words"])[0].value or "").split()
        assert len(words) == len(set(words)) == 60
        backend.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_fork_leaves_the_connections_to_the_parent(self, store: Store) -> None:
        """The child makes its own, and what it does to the others is not seen on the parent's."""
        backend = store.open()
        listener = backend.listen()
        made = backend.swap("k", 0, "parent", LONG)
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                backend.reset_after_fork()
                listener = backend.listen()
                changed = backend.swap("k", made.version, "child", LONG)
                status = 0 if changed.swapped and [s.value for s in listener.heard(5)] == ["child"] else 2
                listener.close()
                backend.close()
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert backend.read(["k"])[0].value == "child"
        assert all_heard(listener, 2) == [("k", "parent"), ("k", "child")]
        listener.close()
        backend.close()


def add_up(url: str) -> None:
    """Add thirty words to a text, each once."""
    backend = open_backend(url, "main")

    def add(thread: int) -> None:
        for number in range(10):
            word = f"{os.getpid()}:{thread}:{number}"
            seen = Seen("words", 0, None, 0)
            while word not in (seen.value or "").split():
                # A busy machine may make it wait for too long; then nobody can say whether it was added.
                with contextlib.suppress(StoreError):
                    seen = backend.swap("words", seen.version, f"{seen.value or ''} {word}", LONG)
                    continue
                with contextlib.suppress(StoreError):
                    seen = backend.read(["words"])[0]

    threads = [threading.Thread(target=add, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.close()
