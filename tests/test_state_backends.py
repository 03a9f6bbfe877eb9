"""Where shared records are kept: one contract for memory, file and Redis, and how each of them fails."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
import redis.exceptions
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from state_support import ValkeyServer, free_port, light_process, valkey

from resilient_adapter.state import file as file_module
from resilient_adapter.state import redis as redis_module
from resilient_adapter.state.address import Host
from resilient_adapter.state.backend import TIMEOUT, Backend, Listener, Seen, StoreError
from resilient_adapter.state.file import FileBackend
from resilient_adapter.state.memory import MemoryBackend
from resilient_adapter.state.opening import open_backend
from resilient_adapter.state.redis import RedisBackend

LONG = 60.0  # seconds to live, for what is not to end during a test
BOUND = 2.0  # seconds for what must not take for ever: two fifths of one, but for a busy machine


T = TypeVar("T")


class Store(NamedTuple):
    """A place for records. ``url`` is empty for memory, which no other process sees."""

    open: Callable[..., Backend]
    url: str = ""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let operations take longer than they may: on a busy machine they do, and that is not what is tested."""
    monkeypatch.setattr(file_module, "TIMEOUT", 10.0)
    monkeypatch.setattr(redis_module, "TIMEOUT", 10.0)


@pytest.fixture
def hurried(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let operations take no longer than they may."""
    monkeypatch.setattr(file_module, "TIMEOUT", TIMEOUT)
    monkeypatch.setattr(redis_module, "TIMEOUT", TIMEOUT)


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


def eventually(operation: Callable[[], T]) -> T:
    """Return what an operation returns once it does; on a busy machine it may not be in time at first."""
    returned: list[T] = []

    def works() -> bool:
        with contextlib.suppress(StoreError):
            returned.append(operation())
        return bool(returned)

    until(works)
    return returned[0]


def refused(operation: Callable[[], object]) -> str:
    """Return the text of the StoreError that an operation ends with."""
    with pytest.raises(StoreError) as failure:
        operation()
    return str(failure.value)


def given_up(operation: Callable[[], object]) -> str:
    """Return the text of the StoreError that an operation ends with, in good time."""
    started = time.monotonic()
    text = refused(operation)
    assert time.monotonic() - started < BOUND
    return text


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
        names = [f"k{number}" for number in range(1200)]
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

    def test_a_listener_is_closed_by_another_thread(self, backend: Backend) -> None:
        """Whoever waits in it comes back when the time is over at the latest, and hears nothing then."""
        listener = backend.listen()
        thread = threading.Timer(0.05, listener.close)
        thread.start()
        assert listener.heard(0.2) == []
        thread.join()
        backend.swap("k", 0, "v", LONG)
        assert listener.heard(0.1) == []

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
            for backend in backends:
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
            "from resilient_adapter.state.opening import open_backend as o; b = o(sys.argv[1], 'main');"
            "[b.swap(f'k{n}', 0, str(n), 60) for n in range(5)]"
        )
        assert light_process(script, store.url).wait(60) == 0
        assert all_heard(listener, 5) == [(f"k{n}", str(n)) for n in range(5)]
        seen = backend.read(["k3"])[0]
        assert backend.swap("k3", seen.version, "mine", LONG).swapped
        listener.close()
        backend.close()

    def test_processes_add_up(self, store: Store) -> None:
        """Two processes of three threads each: nothing that one has added is lost."""
        script = "import state_support; state_support.add_words(sys.argv[1])"
        processes = [light_process(script, store.url) for _ in range(2)]
        assert [process.wait(60) for process in processes] == [0, 0]
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


# --- a file that fails ------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a file may be made."""
    return tmp_path / "state"


class TestFile:
    @pytest.mark.skipif(os.name != "posix", reason="the modes of POSIX")
    def test_the_file_is_for_its_user_only(self, path: Path) -> None:
        """And so are the files that SQLite puts beside it."""
        backend = FileBackend(path, "n")
        backend.swap("k", 0, "v", LONG)
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
        assert modes == {"state": 0o600, "state-wal": 0o600, "state-shm": 0o600}
        backend.close()
        assert backend.read(["k"])[0].value == "v"
        backend.close()

    def test_a_relative_path_is_that_of_the_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A script may change its working directory."""
        monkeypatch.chdir(tmp_path)
        backend = FileBackend("state", "n")
        monkeypatch.chdir("/")
        backend.swap("k", 0, "v", LONG)
        backend.close()
        assert (tmp_path / "state").exists()

    def test_a_missing_folder_is_not_made(self, tmp_path: Path) -> None:
        """It may be a misspelt one; the text says what to do."""
        backend = FileBackend(tmp_path / "missing" / "state", "n")
        for operation in (backend.keys, backend.listen, lambda: backend.swap("k", 0, "v", LONG)):
            assert refused(operation) == (
                f"the file {backend.path} cannot be used: "
                f"there is no folder {tmp_path / 'missing'}; make it, or name another file"
            )
        (tmp_path / "missing").mkdir()
        assert backend.keys() == []
        backend.close()

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        """The text says so."""
        assert refused(FileBackend(tmp_path, "n").keys).endswith("it is a folder; name a file")

    def test_what_is_no_store(self, path: Path) -> None:
        """Garbage, another's database and that of a later version are left as they are."""
        path.write_bytes(b"garbage" * 1000)
        assert "it is no SQLite file" in refused(FileBackend(path, "n").keys)
        assert path.read_bytes() == b"garbage" * 1000
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE theirs (a)")
            assert "it is something else's database" in refused(FileBackend(path, "n").keys)
            connection.execute(f"PRAGMA application_id = {file_module._APPLICATION_ID}")
            connection.execute("PRAGMA user_version = 9")
            assert "a newer version of this package wrote it (schema 9" in refused(FileBackend(path, "n").keys)

    def test_an_empty_file_becomes_a_store(self, path: Path) -> None:
        """As one that mktemp(1) has made."""
        path.touch()
        backend = FileBackend(path, "n")
        assert backend.swap("k", 0, "v", LONG).swapped
        backend.close()

    def test_another_process_may_make_the_file_meanwhile(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between a look at it and the lock, say: it is made once."""
        first = FileBackend(path, "n")
        first.swap("k", 0, "v", LONG)
        second = FileBackend(path, "n")
        answers = iter([True])  # as it was a moment ago
        true_answer = file_module.is_new
        monkeypatch.setattr(file_module, "is_new", lambda connection: next(answers, false(true_answer(connection))))
        assert second.read(["k"])[0].value == "v"
        first.close()
        second.close()

    @pytest.mark.parametrize("failures", [3, 20, 99])
    def test_the_mode_is_changed_patiently(self, failures: int, hurried: None) -> None:
        """SQLite does not wait where two change it at once; so we do, but not for ever."""
        tries = iter([sqlite3.OperationalError("database is locked")] * failures)

        def step() -> None:
            for error in tries:
                raise error

        if failures > 20:
            with pytest.raises(sqlite3.OperationalError):
                file_module._patiently(step, sqlite3.OperationalError)
        else:
            file_module._patiently(step, sqlite3.OperationalError)
        hopeless = iter([sqlite3.OperationalError("disk I/O error")] * 2)
        with pytest.raises(sqlite3.OperationalError, match="I/O"):
            file_module._patiently(lambda: (_ for _ in ()).throw(next(hopeless)), sqlite3.OperationalError)
        assert len(list(hopeless)) == 1

    def test_a_locked_file(self, path: Path, hurried: None) -> None:
        """Whoever keeps it too long is not waited for. Later, all is well."""
        backend = FileBackend(path, "n")
        made = eventually(lambda: backend.swap("k", 0, "v", LONG))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            assert "another process has kept it locked" in given_up(lambda: backend.swap("k", made.version, "x", LONG))
            assert "another process has kept it locked" in given_up(lambda: backend.read(["k"]))
        assert eventually(lambda: backend.read(["k"]))[0].value == "v"
        assert eventually(lambda: backend.swap("k", made.version, "x", LONG)).value == "x"
        backend.close()

    def test_what_is_read_while_another_writes_is_what_it_writes(self, path: Path) -> None:
        """Not the state of before with a time of after: whoever then heard of the change would take it for old news."""
        writer, reader = FileBackend(path, "n"), FileBackend(path, "n")
        reader.read(["k"])
        asked, got = threading.Event(), []

        def read() -> None:
            asked.set()
            got.extend(reader.read(["k"]))

        thread = threading.Thread(target=read)
        write = writer._read

        def delayed(connection: sqlite3.Connection, key: str, now: int) -> Seen:
            thread.start()  # the writer knows what time it is by now
            asked.wait()
            thread.join(0.05)
            return write(connection, key, now)

        writer._read = delayed  # type: ignore[method-assign]
        changed = writer.swap("k", 0, "v", LONG)
        thread.join()
        assert [(seen.value, seen.version) for seen in got] == [("v", changed.version)] and got[0].now >= changed.now
        writer.close()
        reader.close()

    def test_a_thread_that_takes_too_long(self, path: Path, hurried: None) -> None:
        """The others do not wait for it for ever either."""
        backend = FileBackend(path, "n")
        eventually(backend.keys)
        with backend._file.opened():
            assert "another thread" in given_up(backend.keys)
        assert eventually(backend.keys) == []
        backend.close()

    def test_a_file_that_is_taken_away(self, path: Path, tmp_path: Path) -> None:
        """SQLite would go on writing to what has no name any more. The next use makes it anew."""
        backend = FileBackend(path, "n")
        made = backend.swap("k", 0, "v", LONG)
        listener = backend.listen()
        assert backend.keys() == ["k"]
        for each in tmp_path.glob("state*"):
            each.rename(tmp_path / f"old-{each.name}")
        assert "it was removed while it was in use" in refused(backend.keys)
        assert backend.swap("k", 0, "new", LONG).version > made.version
        assert "it was replaced while it was in use" in refused(lambda: listener.heard(0))
        assert backend.read(["k"])[0].value == "new"
        listener.close()
        for each in tmp_path.glob("state*"):
            each.rename(tmp_path / f"older-{each.name}")
        backend.listen().close()
        assert backend.swap("k", 0, "newer", LONG).swapped  # by listening, all of it is opened afresh
        backend.close()

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users of POSIX")
    @pytest.mark.parametrize(
        ("prepare", "told"),
        [
            ("os.chmod(path, 0o400)", "read-only"),
            ("os.chmod(path, 0)", "may not read and write it"),
            ("[os.unlink(folder + '/' + name) for name in os.listdir(folder)]; os.chmod(folder, 0o500)", "permissions"),
        ],
    )
    def test_what_is_not_allowed(self, prepare: str, told: str) -> None:
        """A read-only file, one that is somebody else's, a read-only folder: root may do it all, so it is not root."""
        script = f"""
import os
from resilient_adapter.state.file import FileBackend
import sqlite3
folder = sys.argv[1]
backend = FileBackend(folder + "/first", "n")  # imports what the other user may have no access to
backend.keys()
backend.close()
os.unlink(folder + "/first")
if os.geteuid() == 0:
    os.setuid(65534)
path = folder + "/state"
backend = FileBackend(path, "n")
backend.swap("k", 0, "v", 60)
backend.close()
{prepare}
try:
    backend.swap("j", 0, "w", 60)
except Exception as error:
    print(type(error).__name__, error)
os.chmod(folder, 0o700)
"""
        with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
            if os.geteuid() == 0:
                os.chown(folder, 65534, -1)
            with light_process(script, folder, libraries=False, stdout=subprocess.PIPE) as process:
                told_there = process.communicate(timeout=60)[0]
        assert told_there.startswith("StoreError the file /tmp/") and told in told_there

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (sqlite3.OperationalError("database or disk is full"), "the disk is full; make room"),
            (sqlite3.OperationalError("database is locked"), "another process"),
            (sqlite3.OperationalError("attempt to write a readonly database"), "it is read-only"),
            (sqlite3.OperationalError("unable to open database file"), "change their permissions"),
            (PermissionError(13, "Permission denied"), "change their permissions"),
            (sqlite3.DatabaseError("database disk image is malformed"), "it is damaged; remove it"),
            (sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
        ],
    )
    def test_every_trouble_has_its_words(self, path: Path, error: Exception, told: str) -> None:
        """What is wrong, and what to do about it; SQLite's own words for what is rare."""
        assert told in file_module.trouble(path, error)

    def test_what_is_written_is_taken_back_when_interrupted(self, path: Path) -> None:
        """Whatever is raised in the middle of it, and it is passed on as it is."""
        backend = FileBackend(path, "n")

        def write() -> None:
            with backend._file.opened() as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO records VALUES ('n k', 1, 'x', 9e15)")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write()
        assert backend.keys() == []
        backend.close()

    def test_what_is_over_is_pruned(self, path: Path) -> None:
        """Ended records, and changes that are older than a minute, so many at a time; the file does not grow."""
        backend = FileBackend(path, "n")
        for number in range(60):
            backend.swap(f"k{number}", 0, "v", 0.001)
        until(lambda: backend.keys() == [])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE changes SET number = number - 61000000")
            backend.swap("k", 0, "v", LONG)
            (records,) = connection.execute("SELECT count(*) FROM records").fetchone()
            (changes,) = connection.execute("SELECT count(*) FROM changes").fetchone()
            assert records < 60 and changes <= 60 + 1 - file_module._PRUNED
            backend.swap("j", 0, "v", LONG)
            backend.swap("j", 0, "v", LONG)
            backend.swap("i", 0, "v", LONG)
            assert connection.execute("SELECT count(*) FROM records").fetchone() == (3,)
            assert connection.execute("SELECT count(*) FROM changes").fetchone() == (3,)
        backend.close()

    def test_a_clock_that_is_set_back(self, path: Path) -> None:
        """Numbers go on from where they were."""
        backend = FileBackend(path, "n")
        backend.swap("j", 0, "v", LONG)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE changes SET number = number + 3600000000")
            (last,) = connection.execute("SELECT max(number) FROM changes").fetchone()
        assert backend.swap("k", 0, "v", LONG).version == last + 1
        backend.close()

    def test_a_listener_that_nobody_asks(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a minute, changes may be gone that it never saw: it says so, once."""
        backend = FileBackend(path, "n")
        listener = backend.listen()
        backend.swap("k", 0, "v", LONG)
        monkeypatch.setattr(listener, "_looked", listener._looked - file_module._KEPT)
        assert "nobody looked at its changes for too long" in refused(lambda: listener.heard(0))
        assert listener.heard(0) == []
        listener.close()
        backend.close()

    def test_killed_writers_leave_it_whole(self, path: Path) -> None:
        """In the middle of whatever they were doing, again and again: it stays usable, and nobody holds it."""
        backend = FileBackend(path, "main")
        script = (
            "from resilient_adapter.state.file import FileBackend as F; b = F(sys.argv[1], 'main'); v = 0;"
            "print(flush=True)\nwhile True: v = b.swap('k', v, 'x' * 5000, 60).version"
        )
        random.seed(1)
        version = 0
        for _ in range(5):
            writers = [light_process(script, str(path), libraries=False, stdout=subprocess.PIPE) for _ in range(4)]
            for writer in writers:
                assert writer.stdout is not None
                writer.stdout.readline()
                writer.stdout.close()
            time.sleep(random.random() * 0.05)
            for writer in writers:
                writer.kill()
                writer.wait()
            seen = backend.read(["k"])[0]
            assert seen.value in (None, "mine", "x" * 5000) and seen.version >= version  # "mine": none came to write
            mine = backend.swap("k", seen.version, "mine", LONG)
            assert mine.swapped
            version = mine.version
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        backend.close()

    def test_importing_it_imports_no_library(self) -> None:
        """Neither sqlite3 nor redis, before one of them is asked for: most programs share nothing."""
        script = (
            "from resilient_adapter.state.opening import open_backend as o;"
            "o('file:///tmp/x', 'n'); sys.exit(bool({'redis', 'sqlite3'} & set(sys.modules)))"
        )
        assert light_process(script).wait(60) == 0  # the package itself imports pybreaker, and that redis


def false(_: object) -> bool:
    """Return False."""
    return False


# --- a server that fails ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a port, and talk to each who connects, on a thread of its own."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def relay(source: socket.socket, target: socket.socket) -> None:
    """Pass on what arrives until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tls_in_front_of(port: int, authority: trustme.CA) -> Iterator[int]:
    """Speak TLS on a port, and pass on what is said to another. Not every build of a server can do that itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    def talk(connection: socket.socket) -> None:
        connection.settimeout(10)
        with (
            context.wrap_socket(connection, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", port)) as inside,
        ):
            threading.Thread(target=relay, args=(inside, outside), daemon=True).start()
            relay(outside, inside)

    with serving(talk) as front:
        yield front


def users(server: ValkeyServer, *rules: str) -> RedisBackend:
    """Return a backend of a user who may do only some things."""
    server.ask("ACL", "SETUSER", "trader", "reset", "on", ">hunter2", *rules)
    return RedisBackend(f"redis://trader:hunter2@127.0.0.1:{server.port}", "n")


class TestRedis:
    def test_killed_and_restarted_empty(self, tmp_path: Path) -> None:
        """Dead, it cannot be reached; back, it is used as if nothing had been, on connections that are new."""
        with valkey(tmp_path) as server:
            backend = RedisBackend(server.url, "n")
            made = backend.swap("k", 0, "v", LONG)
            listener = backend.listen()
            server.kill()
            for operation in (backend.keys, backend.listen, lambda: backend.swap("k", made.version, "w", LONG)):
                assert refused(operation) == (
                    f"Redis at 127.0.0.1:{server.port} cannot be used: it cannot be reached: Connection refused"
                )
            assert refused(lambda: listener.heard(5)).endswith("the connection was closed")
            assert "is not listened to any more" in refused(lambda: listener.heard(5))
            server.start()
            assert backend.read(["k"])[0].version == 0
            again = backend.swap("k", 0, "v", LONG)
            assert again.swapped and again.version > made.version
            # And without an error in between, where nobody asked while it was away.
            server.kill()
            server.start()
            assert backend.keys() == []
            listener.close()
            backend.close()

    def test_the_connection_breaks_in_the_middle(self) -> None:
        """Nobody can say whether it was changed."""

        def talk(connection: socket.socket) -> None:
            while b"EVALSHA" not in (data := connection.recv(65536)) and data:
                connection.sendall(b"+OK\r\n" * data.count(b"CLIENT"))

        with serving(talk) as port:
            backend = RedisBackend(f"redis://127.0.0.1:{port}", "n")
            assert refused(lambda: backend.swap("k", 0, "v", LONG)).endswith("the connection was closed")

    @pytest.mark.parametrize("password", ["", "hunter2"])
    def test_a_server_that_hangs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str, hurried: None
    ) -> None:
        """It is not waited for, on a connection that stands or on a new one; once it goes on, so do we."""
        monkeypatch.setattr(redis_module, "_SILENCE", 0.05)
        with valkey(tmp_path, *(["--requirepass", password] if password else [])) as server:
            backend = RedisBackend(f"redis://:{password}@127.0.0.1:{server.port}", "n")
            eventually(lambda: backend.swap("k", 0, "v", LONG))
            listener = eventually(backend.listen)
            assert listener.heard(0.3) == []  # it answers when it is asked
            server.signal(signal.SIGSTOP)
            for _ in range(2):
                assert given_up(lambda: backend.read(["k"])).endswith("it did not answer within 0.2 s")
            assert refused(lambda: listener.heard(60)).endswith("the connection is dead")
            server.signal(signal.SIGCONT)
            assert eventually(lambda: backend.read(["k"]))[0].value == "v"
            listener.close()
            backend.close()

    def test_a_connection_that_comes_late_is_kept(
        self, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, hurried: None
    ) -> None:
        """A name server may take its time: the call goes on without, and the next one finds what has come."""
        backend = RedisBackend(server.url, "n")
        true_connection, go = backend._new_connection, threading.Event()
        monkeypatch.setattr(backend, "_new_connection", lambda: go.wait(10) and true_connection())
        assert given_up(backend.keys).endswith("it did not answer within 0.2 s")
        go.set()
        until(lambda: len(backend._idle) == 1)
        (kept,) = backend._idle
        assert backend._connected() is kept
        backend.close()

    def test_a_connection_that_fails_late(
        self, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, hurried: None
    ) -> None:
        """Nobody is there to hear of it, and nothing is kept."""
        backend = RedisBackend(server.url, "n")
        go, gone = threading.Event(), threading.Event()

        def fail() -> None:
            go.wait(10)
            raise OSError("late")

        true_keep = backend._keep_late
        monkeypatch.setattr(backend, "_new_connection", fail)
        monkeypatch.setattr(backend, "_keep_late", lambda future: (true_keep(future), gone.set()))
        given_up(backend.keys)
        go.set()
        assert gone.wait(10) and backend._idle == []

    def test_at_the_end_of_the_program(self, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """No thread can be started any more, and so nothing connects: that is a StoreError too."""

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert "at interpreter shutdown" in refused(RedisBackend(server.url, "n").keys)

    def test_only_a_few_connections_are_kept(self, server: ValkeyServer) -> None:
        """Many threads at once need many; afterwards the rest is closed."""
        backend = RedisBackend(server.url, "n")
        connections = [backend._connected() for _ in range(redis_module._KEPT_OPEN + 1)]
        for connection in connections:
            backend._keep(connection)
        assert backend._idle == connections[:-1]
        backend.close()

    def test_unreachable_from_the_start(self) -> None:
        """Nobody listens there, or the name is nobody's."""
        port = free_port()
        assert "it cannot be reached: Connection refused" in refused(
            RedisBackend(f"redis://127.0.0.1:{port}", "n").keys
        )
        assert refused(RedisBackend("redis://nowhere.invalid", "n").keys) == (
            "Redis at nowhere.invalid:6379 cannot be used: its name cannot be resolved"
        )

    def test_what_is_not_redis(self, server: ValkeyServer) -> None:
        """A server of HTTP, and one that hangs up; a parameter of the URL that means nothing; a record of others."""
        answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        with serving(lambda connection: connection.recv(65536) and connection.sendall(answer)) as port:
            assert "no Redis server" in refused(RedisBackend(f"redis://127.0.0.1:{port}", "n").keys)
        with serving(lambda connection: None) as port:
            assert re.search("closed|reset", refused(RedisBackend(f"redis://127.0.0.1:{port}", "n").keys))
        for query in ("hunter2=hunter2", "ssl_hunter2=1", "db=hunter2"):
            backend = RedisBackend(f"{server.url.removesuffix('/0')}?{query}", "n")
            if query.startswith("hunter2"):
                assert backend.keys() == []  # as redis-py reads what is none of a connection's
            else:
                told = refused(backend.keys)
                assert told.endswith("the URL has a parameter that redis-py does not take") and "hunter2" not in told
            backend.close()
        backend = RedisBackend(server.url, "others")
        server.ask("SET", "{others}:text", "text")
        server.ask("LPUSH", "{others}:list", "text")
        assert "none of this package" in refused(lambda: backend.read(["text"]))
        for key in ("text", "list"):
            assert "it refuses" in refused(lambda key=key: backend.swap(key, 0, "v", LONG))
        server.ask("FLUSHALL")

    @pytest.mark.parametrize(
        ("has", "given", "told"),
        [
            ("hunter2", "", "it wants a password, and the URL has none"),
            ("hunter2", ":hunter3@", "it does not know this user and password"),
            ("hunter2", "trader:hunter2@", "it does not know this user and password"),
            ("", ":hunter2@", "it has no password, and the URL has one"),
        ],
    )
    def test_passwords(self, tmp_path: Path, has: str, given: str, told: str) -> None:
        """Each way to be wrong has its words, and none of them shows the password."""
        with valkey(tmp_path, *(["--requirepass", has] if has else [])) as server:
            backend = RedisBackend(f"redis://{given}127.0.0.1:{server.port}", "n")
            assert refused(backend.keys) == refused(backend.listen) == f"{backend} cannot be used: {told}"
            assert "hunter" not in f"{backend} {backend!r} {told}"

    def test_a_user_who_may_not(self, server: ValkeyServer) -> None:
        """Write, tell, listen, or touch these keys: the text says what is needed."""
        allowed = users(server, "~{n}:*", "resetchannels", "&{n}:*", "+@all")
        assert allowed.swap("k", 0, "v", LONG).swapped
        allowed.listen().close()
        allowed.close()
        for rules in (("~*", "&*", "+@all", "-set"), ("~{m}:*", "&*", "+@all"), ("~*", "resetchannels", "+@all")):
            backend = users(server, *rules)
            told = refused(lambda backend=backend: backend.swap("j", 0, "v", LONG))
            assert "its user may not do what is needed on {n}:*" in told and "hunter" not in told
            server.ask("FLUSHALL")
        assert "its user may not" in refused(users(server, "~*", "resetchannels", "+@all").listen)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--replicaof", "127.0.0.1", "1"], "it is a read-only replica"),
            (["--min-replicas-to-write", "1"], "it has too few replicas"),
            (["--maxmemory", "1"], "it is out of memory"),
            (["--cluster-enabled", "yes"], "its cluster is down"),
        ],
    )
    def test_a_server_that_takes_nothing(self, tmp_path: Path, options: Sequence[str], told: str) -> None:
        """It is read from where it lets us, and the text says why it is not written to."""
        with valkey(tmp_path, *options) as server:
            backend = RedisBackend(server.url, "n")
            assert told in refused(lambda: backend.swap("k", 0, "v", LONG))
            if "--cluster-enabled" not in options:
                assert backend.read(["k"])[0].version == 0
            backend.close()

    def test_scripts_that_are_forgotten(self, server: ValkeyServer) -> None:
        """By a restart, or by hand: they are sent again, in the same operation."""
        backend = RedisBackend(server.url, "n")
        made = backend.swap("k", 0, "v", LONG)
        server.ask("SCRIPT", "FLUSH")
        assert backend.swap("k", made.version, "w", LONG).swapped
        server.ask("FLUSHALL")
        backend.close()

    def test_an_operation_is_one_round_trip(self, server: ValkeyServer) -> None:
        """However it ends; as many are read at a time as there are."""
        backend = RedisBackend(server.url, "n")
        made = backend.swap("k", 0, "v", LONG)
        backend.read(["k"])
        server.ask("CONFIG", "RESETSTAT")
        backend.swap("k", 0, "w", LONG)
        backend.swap("k", made.version, "w", LONG)
        backend.read([str(number) for number in range(100)])
        calls = {name: int(stats["calls"]) for name, stats in server.ask("INFO", "commandstats").items()}
        assert calls["cmdstat_evalsha"] == 3 and calls["cmdstat_publish"] == 1
        assert not {"cmdstat_eval", "cmdstat_ping"} & set(calls)
        server.ask("FLUSHALL")
        backend.close()

    def test_databases_of_one_server_do_not_hear_each_other(self, server: ValkeyServer) -> None:
        """Though channels know no databases."""
        one, two = (RedisBackend(f"{server.url[:-1]}{db}", "n") for db in (1, 2))
        listener = one.listen()
        two.swap("k", 0, "two", LONG)
        one.swap("k", 0, "one", LONG)
        assert all_heard(listener, 1) == [("k", "one")]
        listener.close()
        server.ask("FLUSHALL")

    @pytest.mark.parametrize(
        "payload",
        [
            "",
            "hello",
            "[]",
            "[1, 2, 3]",
            '["k", "x", "v", "1"]',
            "7",
            '{"a": 1}',
            "[null",
            '["k", 1e999, "v", "1"]',
            "[" * 100_000,
        ],
    )
    def test_what_a_stranger_says_is_not_heard(self, server: ValkeyServer, payload: str) -> None:
        """And it does not end the listening."""
        backend = RedisBackend(server.url, "n")
        listener = backend.listen()
        server.ask("PUBLISH", "{n}:changes@0", payload)
        server.ask("PUBLISH", "{n}:changes@0", json.dumps(["k", "7", "v", "1500000"]))
        assert listener.heard(5) == [Seen("k", 7, "v", 1.5)]
        listener.close()

    def test_over_tls(self, server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a certificate that is trusted, and not with another; nor where one side does not speak it."""
        authority, other = trustme.CA(), trustme.CA()
        for name, each in (("ca", authority), ("other", other)):
            each.cert_pem.write_to_path(tmp_path / name)
        with tls_in_front_of(server.port, authority) as port:
            backend = RedisBackend(f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca'}", "tls")
            assert backend.swap("k", 0, "v", LONG).swapped
            listener = backend.listen()
            assert backend.swap("j", 0, "x" * 100_000, LONG).swapped
            assert all_heard(listener, 1) == [("j", "x" * 100_000)]
            listener.close()
            backend.close()
            distrust = RedisBackend(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path / 'other'}", "tls")
            assert re.search("TLS failed: .*certificate", refused(distrust.keys))
            assert "localhost" in refused(distrust.keys)
            plain = RedisBackend(f"redis://localhost:{port}", "tls")
            assert re.search("TLS|closed|reset", refused(plain.keys))
        monkeypatch.setattr(redis_module, "TIMEOUT", TIMEOUT)  # it waits for the rest of a command
        told = refused(RedisBackend(f"rediss://localhost:{server.port}?ssl_ca_certs={tmp_path / 'ca'}", "tls").keys)
        assert re.search("TLS|did not answer|closed|reset", told)
        server.ask("FLUSHALL")

    @pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="sockets of POSIX")
    def test_over_a_unix_socket(self) -> None:
        """Which needs a short path."""
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        try:
            with valkey(folder, "--unixsocket", str(folder / "s")):
                backend = RedisBackend(f"unix://{folder / 's'}?db=1", "n")
                assert backend.swap("k", 0, "v", LONG).swapped and backend.keys() == ["k"]
                backend.close()
            assert f"Redis at {folder / 's'} cannot be used: it cannot be reached" in refused(backend.keys)
        finally:
            shutil.rmtree(folder)

    def test_a_cluster(self, tmp_path: Path) -> None:
        """Any node will do: it says where the names of the namespace are, and all changes are heard there too."""
        buses = [str(free_port()), str(free_port())]
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder in folders:
            folder.mkdir()
        options = [("--cluster-enabled", "yes", "--cluster-port", bus) for bus in buses]
        with valkey(folders[0], *options[0]) as owner, valkey(folders[1], *options[1]) as other:
            owner.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            other.ask("CLUSTER", "MEET", "127.0.0.1", str(owner.port), buses[0])
            backend = RedisBackend(other.url, "n")
            eventually(lambda: backend.read(["k"]))
            assert backend.swap("k", 0, "v", LONG).swapped and backend.keys() == ["k"]
            assert backend._node == Host("127.0.0.1", owner.port)
            listener = RedisBackend(other.url, "n").listen()
            assert backend.swap("j", 0, "v", LONG).swapped
            assert all_heard(listener, 1) == [("j", "v")]
            listener.close()
            # Without the node that the URL names, the one that was found is used still.
            other.kill()
            backend.close()
            assert backend.read(["k"])[0].value == "v"
            owner.kill()
            assert "it cannot be reached" in refused(lambda: backend.read(["k"]))

    def test_nodes_that_send_each_to_another(self) -> None:
        """That is followed once, and no further."""

        def talk(connection: socket.socket) -> None:
            while data := connection.recv(65536):
                here = connection.getsockname()[1]
                connection.sendall(b"+OK\r\n" if b"EVALSHA" not in data else b"-MOVED 1 127.0.0.1:%d\r\n" % here)

        with serving(talk) as port:
            told = refused(lambda: RedisBackend(f"redis://127.0.0.1:{port}", "n").read(["k"]))
        assert told.endswith("its cluster is moving these names to another node")

    @pytest.mark.parametrize(
        ("error", "node"),
        [
            (redis.exceptions.ResponseError("MOVED 12 10.0.0.1:7000"), Host("10.0.0.1", 7000)),
            (redis.exceptions.ResponseError("MOVED 12 [::1]:7000"), Host("::1", 7000)),
            (redis.exceptions.ResponseError("MOVED 12 :7000"), Host("", 7000)),
            (redis.exceptions.MovedError("12 h:7000"), Host("h", 7000)),
            (redis.exceptions.ResponseError("MOVED away"), None),
            (redis.exceptions.ResponseError("ASK 12 h:7000"), None),
            (redis.exceptions.NoScriptError("12 h:7000"), None),
        ],
    )
    def test_where_a_cluster_sends_us(self, error: Exception, node: Host | None) -> None:
        """With a name, an IPv6 address, or no host at all, which means the one that was asked."""
        assert redis_module._moved_to(error) == node

    def test_sentinels(self, tmp_path: Path) -> None:
        """One after the other is asked, of which some may be away, and the server that they name is used."""
        folders = [tmp_path / "server", tmp_path / "sentinel"]
        for folder in folders:
            folder.mkdir()
        with valkey(folders[0]) as server:
            config = f"sentinel monitor main 127.0.0.1 {server.port} 1\n"
            with valkey(folders[1], sentinel=config) as sentinel:
                hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
                backend = RedisBackend(f"redis+sentinel://{hosts}/main/3", "n")
                assert backend.swap("k", 0, "v", LONG).swapped
                listener = backend.listen()
                assert backend.swap("j", 0, "v", LONG).swapped and all_heard(listener, 1) == [("j", "v")]
                assert "db3:keys=2" in str(server.ask("INFO", "keyspace")) or server.ask("INFO", "keyspace")["db3"]
                listener.close()
                backend.close()
                for order in (hosts, ",".join(reversed(hosts.split(",")))):
                    unknown = RedisBackend(f"redis+sentinel://:hunter2@{order}/other", "n")
                    assert "no sentinel that answers knows a service of this name" in refused(unknown.keys)
            told = refused(RedisBackend(f"redis+sentinel://:hunter2@{hosts}/main", "n").keys)
            assert "it cannot be reached: Connection refused" in told and "hunter2" not in told

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "still loading"),
            (redis.exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "cannot save"),
            (redis.exceptions.ConnectionError("max number of clients reached"), "too many clients"),
            (redis.exceptions.ResponseError("BUSY Redis is busy running a script"), "somebody's script"),
            (redis.exceptions.ResponseError("ASK 12 h:7000"), "moving these names"),
            (redis.exceptions.ResponseError("TRYAGAIN Multiple keys request"), "moving these names"),
            (
                # Redis 6 puts what stopped a script into a longer text.
                redis.exceptions.ResponseError(
                    "Error running script (call to f_0): @user_script:16: @user_script: 16: -READONLY You can't write"
                ),
                "read-only replica",
            ),
            (
                redis.exceptions.ResponseError(
                    "Error running script (call to f_0): @user_script:2: The user executing the script "
                    "can't run this command or subcommand"
                ),
                "its user may not",
            ),
            (
                redis.exceptions.ResponseError("unknown command 'EVALSHA', with args beginning with: 'hunter2'"),
                "it refuses: unknown command 'EVALSHA'",
            ),
            (redis.exceptions.TimeoutError("Timeout reading from h:1"), "it did not answer within 0.2 s"),
            (redis.exceptions.ConnectionError("Connection closed by server."), "the connection was closed"),
            (ssl.SSLError(1, "x"), "TLS failed: no reason given"),
        ],
    )
    def test_every_trouble_has_its_words(self, error: Exception, told: str) -> None:
        """Whatever the server's version, and whatever redis-py makes of it."""
        found = redis_module.trouble(error, "n")
        assert told in found and "hunter" not in found

    def test_a_server_that_repeats_the_password(self) -> None:
        """Neither the error nor what it came from shows it."""

        def talk(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n")

        with serving(talk) as port, pytest.raises(StoreError) as failure:
            RedisBackend(f"redis://:hunter2@127.0.0.1:{port}", "n").keys()
        assert str(failure.value).endswith("it refuses: unknown command 'AUTH'")
        assert failure.value.__cause__ is failure.value.__context__ is None
