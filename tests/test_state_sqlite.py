"""Forks, and what other threads do with SQLite meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from resilient_adapter import ResilientAdapter
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.core.order import Intent
from resilient_adapter.state import sqlite
from resilient_adapter.state.file import FileBackend
from resilient_adapter.state.journal import Journal
from resilient_adapter.testing import Gateway

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def an_intent(name: str) -> Intent:
    """Return an order that is about to be sent."""
    return Intent(name, name, name, "https://a.example", "POST", "/order", {})


def in_a_child(do: Callable[[], object]) -> int:
    """Return with what status a fork of this process ends: 0 where nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            do()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Writer(threading.Thread):
    """A thread in the middle of a change, for a while.

    Args:
        seconds: how long it takes.
        where: gives its connection.
    """

    def __init__(self, seconds: float, where: Callable[[], object]) -> None:
        super().__init__()
        self._seconds = seconds
        self._where = where
        self.writing, self.enough = threading.Event(), threading.Event()
        self.start()
        assert self.writing.wait(10)

    def run(self) -> None:
        with self._where() as connection:  # type: ignore[attr-defined]
            connection.execute("BEGIN IMMEDIATE")
            self.writing.set()
            self.enough.wait(self._seconds)
            connection.execute("COMMIT")


def test_a_change_to_a_file_is_waited_for(tmp_path: Path) -> None:
    """The child would find the file locked for ever."""
    backend = FileBackend(tmp_path / "state", "n")
    writer = Writer(0.1, backend._file.opened)

    def write() -> None:
        backend.reset_after_fork()
        assert backend.swap("k", 0, "child", 60.0).swapped

    assert in_a_child(write) == 0
    assert not writer.enough.is_set()
    writer.join()
    assert backend.read(["k"])[0].value == "child"
    backend.close()


def test_a_change_to_a_journal_is_waited_for(tmp_path: Path) -> None:
    """An order of the child's could not be written down, and so not be sent."""
    journal = Journal(tmp_path / "orders", SYSTEM_CLOCK)
    journal.prune()
    writer = Writer(0.1, journal._connection)

    def write() -> None:
        journal.reset_after_fork()
        assert journal.prune() == 0

    assert in_a_child(write) == 0
    writer.join()
    journal.close()


def test_one_that_takes_too_long_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may itself wait for another process; the parent goes on, and so may the child where it needs no file."""
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.02)
    backend = FileBackend(tmp_path / "state", "n")
    writer = Writer(10.0, backend._file.opened)
    assert in_a_child(lambda: None) == 0
    writer.enough.set()
    writer.join()
    assert backend.swap("k", 0, "parent", 60.0).swapped
    backend.close()


@pytest.mark.parametrize("patience", [0.02, 10.0])
def test_a_query_waits_for_the_fork_that_waits(patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that follow each other do not keep it waiting; nor does a fork that never comes keep a query."""
    monkeypatch.setattr(sqlite, "_PATIENCE", patience)
    forks = sqlite._Forks()
    order: list[str] = []

    def query() -> None:
        with forks.kept_out():
            order.append("query")

    forks.before()
    thread = threading.Thread(target=query)
    thread.start()
    if patience > 1:
        order.append("fork")
        forks.wanted.pop()
        forks.tell()
    thread.join()
    assert order == (["fork", "query"] if patience > 1 else ["query"])


def test_two_forks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the one lets no query in before the other."""
    monkeypatch.setattr(sqlite, "_PATIENCE", 10.0)
    forks = sqlite._Forks()
    forks.before()
    forks.before()
    done = threading.Event()

    def query() -> None:
        with forks.kept_out():
            done.set()

    thread = threading.Thread(target=query)
    thread.start()
    forks.wanted.pop()
    forks.tell()
    assert not done.wait(0.02)
    forks.wanted.pop()
    forks.tell()
    assert done.wait(10)
    thread.join()


def test_an_interrupt_leaves_no_query_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes: each fork would wait for it."""
    forks = sqlite._Forks()

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(forks, "tell", interrupt)
    with pytest.raises(KeyboardInterrupt), forks.kept_out():
        pass
    assert not forks._queries


def test_the_child_begins_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queries of the parent's threads are none of its own, and their locks nobody's."""
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.02)
    forks = sqlite._Forks()
    with forks.kept_out(), forks._changed:
        forks.before()
        forks.after_in_child()
    assert not forks._queries and not forks.wanted
    with forks.kept_out():
        queries = dict(forks._queries)
        forks.after_in_child()  # a second hook, after a first that has begun to use it
        assert queries and forks._queries == queries
    thread = threading.Thread(target=forks.tell)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


class Child:
    """A fork of this process that does one thing after the other, each when it is told to."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        (ours, self._tell), (self._hear, theirs) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for step in steps:
                    os.read(ours, 1)
                    step()
                    os.write(theirs, b"1")
            finally:
                os._exit(0)
        os.close(ours)
        os.close(theirs)

    def step(self) -> bool:
        """Let it do the next thing; return whether it could."""
        os.write(self._tell, b"1")
        return os.read(self._hear, 1) == b"1"

    def end(self) -> None:
        """Wait until it has ended."""
        os.waitpid(self.pid, 0)
        os.close(self._tell)
        os.close(self._hear)


def seen_by_others(path: Path, query: str) -> list[str]:
    """Return what a process sees that has nothing to do with this one."""
    script = "import sqlite3, sys; print(*(one for one, in sqlite3.connect(sys.argv[1]).execute(sys.argv[2])))"
    command = [sys.executable, "-S", "-c", script, str(path), query]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_what_a_child_writes_stays_when_its_parent_is_done(tmp_path: Path, how: str) -> None:
    """As where a program makes itself a daemon. SQLite would remove the child's journal with the parent's last use."""
    path = tmp_path / "orders"
    journal = Journal(path, SYSTEM_CLOCK)

    def write(name: str) -> None:
        journal.intend(an_intent(name))

    write("parent")
    child = Child(journal.reset_after_fork, lambda: write("one"), lambda: write("two"))
    assert child.step() and child.step()
    if how == "closed":
        journal.close()
    else:
        journal._finalizer()
    assert child.step()
    child.end()
    assert seen_by_others(path, "SELECT id FROM orders ORDER BY number") == ["parent", "one", "two"]


def test_what_a_child_shares_is_shared_when_its_parent_is_done(tmp_path: Path) -> None:
    """The same for the shared file, of which a listener has a connection too."""
    path = tmp_path / "state"
    backend = FileBackend(path, "n")
    listener = backend.listen()
    assert backend.swap("parent", 0, "v", 60.0).swapped

    def swap(name: str) -> None:
        assert backend.swap(name, 0, "v", 60.0).swapped

    child = Child(backend.reset_after_fork, lambda: swap("one"), lambda: swap("two"))
    assert child.step() and child.step()
    assert [seen.key for seen in listener.heard(10)] == ["parent", "one"]  # nothing has gone unheard
    listener.close()
    backend.close()
    assert child.step()
    child.end()
    assert seen_by_others(path, "SELECT substr(name, 3) FROM records ORDER BY version") == ["parent", "one", "two"]


def test_a_child_hears_what_is_shared(tmp_path: Path) -> None:
    """The thread that hears of it is made anew there, whatever the parent's was doing."""
    url = (tmp_path / "state").as_uri()
    adapter = ResilientAdapter({"shared": {"url": url, "namespace": "n"}, "retry": {"max_attempts": 1}})
    session = requests.Session()
    session.mount("http://", adapter)
    with Gateway() as gateway:
        session.get(gateway.url + "/x")
        limit = adapter._runtime.origin(gateway.url).rate_limit

        def hears() -> None:
            give_up = SYSTEM_CLOCK.monotonic() + 10
            while not limit.remaining():
                assert SYSTEM_CLOCK.monotonic() < give_up
                SYSTEM_CLOCK.sleep(0.01)

        child = Child(hears)
        limit.throttled(60.0)
        assert child.step()
        child.end()
