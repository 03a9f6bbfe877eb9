"""Forks, and what other threads do with SQLite meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.state import sqlite
from resilient_adapter.state.file import FileBackend
from resilient_adapter.state.journal import Journal

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


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
        forks.after_in_parent()
    else:
        forks._changed.release()  # what a fork does that is interrupted before it is made
    thread.join()
    assert order == (["fork", "query"] if patience > 1 else ["query"])


def test_the_child_begins_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queries of the parent's threads are none of its own."""
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.02)
    forks = sqlite._Forks()
    with forks.kept_out():
        forks.before()
        forks.after_in_child()
        with forks.kept_out():
            pass
    forks.before()
    assert forks._queries <= 0
    forks.after_in_parent()
