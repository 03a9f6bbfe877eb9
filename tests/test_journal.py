"""The order journal: written before the send, true after a kill, never grown without end."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resilient_adapter import JournalError
from resilient_adapter.state import journal as module
from resilient_adapter.state.journal import Intent, Journal, State, is_alive, this_process
from resilient_adapter.testing import FakeClock

ORIGIN = "https://a.example"
DEAD = "999999999:1-boot"


def an_intent(name: str = "x1", key: str | None = None) -> Intent:
    """Return an order that is about to be sent."""
    return Intent(name, key or name, name, ORIGIN, "POST", "/order", {"symbol": "B"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a journal may be made."""
    return tmp_path / "orders.sqlite"


def a_journal(path: Path, clock: FakeClock, **options: object) -> Journal:
    """Return a journal."""
    return Journal(path, clock, **options)  # type: ignore[arg-type]


def made_by_the_dead(path: Path) -> None:
    """Make it look as if every line had been written by a process that is gone."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE orders SET process = ?", (DEAD,))
    connection.close()


def test_a_line_tells_the_story_of_an_order(path: Path, clock: FakeClock) -> None:
    """Intent, then outcome: the same line, with the time of each."""
    journal = a_journal(path, clock)
    line = journal.intend(an_intent())
    (entry,) = journal.entries()
    assert entry == (line, an_intent(), clock.time(), os.getpid(), State.SENT, None, None, None, clock.time())
    clock.advance(3)
    journal.note([line], State.EXECUTED, code=0, status=200)
    (after,) = journal.entries()
    assert after == entry._replace(state=State.EXECUTED, code=0, status=200, updated_at=clock.time())
    assert after.number == line
    journal.close()


def test_what_ran_in_this_process_before_it_became_another_program_is_gone() -> None:
    """``os.execv`` leaves number and start of a process as they are."""
    number, started, program = this_process().split(":")
    assert is_alive(this_process()) and is_alive(f"{this_process()}:thread-1")
    assert not is_alive(f"{number}:{started}:another") and not is_alive(f"{number}:{started}:{program}0")
    assert not is_alive(f"{number}:earlier:{program}")


def test_a_further_send_of_the_same_call_is_the_same_line(path: Path, clock: FakeClock) -> None:
    """It says when the order was last sent."""
    journal = a_journal(path, clock)
    line = journal.intend(an_intent())
    clock.advance(5)
    assert journal.intend(an_intent(), line=line) == line
    assert [entry.sent_at for entry in journal.entries()] == [clock.time()]
    journal.close()


def test_an_intent_without_an_outcome_is_unknown_once_its_process_is_gone(path: Path, clock: FakeClock) -> None:
    """While the process lives, the order may still be on the wire."""
    journal = a_journal(path, clock)
    line = journal.intend(an_intent())
    assert journal.entries(unresolved=True) == []
    made_by_the_dead(path)
    assert [(entry.number, entry.state) for entry in journal.entries(unresolved=True)] == [(line, State.UNKNOWN)]
    assert [entry.state for entry in journal.open(ORIGIN, "x1")] == [State.UNKNOWN]
    journal.close()


@pytest.mark.parametrize(("origin", "key", "found"), [
    (ORIGIN, "key", 1), (ORIGIN, "id", 1), (ORIGIN, "other", 0), ("https://b.example", "key", 0),
])  # fmt: skip
def test_an_order_is_recognised_by_its_key_and_by_the_id_it_was_given(
    path: Path, clock: FakeClock, origin: str, key: str, found: int
) -> None:
    """On its own origin only; what is settled is not open."""
    journal = a_journal(path, clock)
    line = journal.intend(an_intent("id", "key"))
    assert len(journal.open(origin, key)) == found
    journal.note([line], State.NOT_EXECUTED)
    assert journal.open(origin, key) == []
    journal.close()


def test_a_persons_word_settles_what_is_unknown_and_nothing_else(path: Path, clock: FakeClock) -> None:
    """An order that is on the wire, or whose fate is known, is left as it is."""
    journal = a_journal(path, clock)
    unknown, live, done = (journal.intend(an_intent()) for _ in range(3))
    journal.note([unknown], State.UNKNOWN)
    journal.note([done], State.EXECUTED)
    assert journal.resolve("x1") == 1 and journal.resolve("x1") == 0 and journal.resolve("nobody") == 0
    assert [entry.state for entry in journal.entries(id="x1")] == [State.RESOLVED, State.SENT, State.EXECUTED]
    assert (live, journal.entries(id="nobody"), str(State.RESOLVED)) == (2, [], "resolved")
    journal.close()


def test_one_at_a_time_holds_an_order(path: Path, clock: FakeClock) -> None:
    """Until it is released or settled, or whoever held it is dead, nobody else may find out about it."""
    journal = a_journal(path, clock)
    line = journal.intend(an_intent())
    journal.note([line], State.UNKNOWN)
    first, second = f"{this_process()}:1", f"{this_process()}:2"
    assert journal.hold([line], first) and journal.hold([line], first)
    assert not journal.hold([line], second)
    assert [entry.holder for entry in journal.entries()] == [first]
    journal.release(first)
    assert journal.hold([line], f"{DEAD}:1") and journal.entries()[0].holder is None
    assert journal.hold([line], second)
    journal.note([line], State.EXECUTED)
    assert not journal.hold([line], second) and not journal.hold([77], second)
    journal.close()


def test_a_proof_and_the_send_that_it_allows_are_one_step(path: Path, clock: FakeClock) -> None:
    """What was proven absent is closed in the transaction that opens the new line, held as the old one was."""
    journal = a_journal(path, clock)
    old = journal.intend(an_intent())
    journal.note([old], State.UNKNOWN)
    new = journal.intend(an_intent(), absent=[old], holder=this_process())
    assert [(entry.number, entry.state, entry.holder) for entry in journal.entries()] == [
        (old, State.NOT_EXECUTED, None),
        (new, State.SENT, this_process()),
    ]
    journal.close()


def test_old_lines_and_too_many_are_pruned_but_never_the_unknown(path: Path, clock: FakeClock) -> None:
    """By age, by number; what is unknown or on the wire stays for ever."""
    journal = a_journal(path, clock, keep_days=1.0, keep_rows=2)
    for name in "abcd":
        journal.note([journal.intend(an_intent(name))], State.EXECUTED)
    journal.note([journal.intend(an_intent("u"))], State.UNKNOWN)
    journal.intend(an_intent("s"))
    assert journal.prune() == 2 and [entry.intent.id for entry in journal.entries()] == ["c", "d", "u", "s"]
    clock.advance(86401)
    assert journal.prune() == 2 and [entry.intent.id for entry in journal.entries()] == ["u", "s"]
    journal.close()


def test_pruning_goes_by_itself(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so many intents."""
    monkeypatch.setattr(module, "_PRUNE_EVERY", 3)
    journal = a_journal(path, clock, keep_rows=1)
    for name in "abcd":
        journal.note([journal.intend(an_intent(name))], State.EXECUTED)
    assert [entry.intent.id for entry in journal.entries()] == ["b", "c", "d"]
    journal.close()


def test_an_intent_is_flushed_to_the_disk(path: Path, clock: FakeClock) -> None:
    """WAL, with synchronous=FULL for intents and NORMAL for outcomes."""
    journal = a_journal(path, clock)
    line = journal.intend(an_intent())
    (connection,) = journal._idle
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.note([line], State.EXECUTED)
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    journal.close()


# --- where it cannot be used ---


def not_a_database(path: Path) -> None:
    """Some other file."""
    path.write_bytes(b"not a database at all" * 100)


def another_database(path: Path) -> None:
    """Somebody else's SQLite file."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()


def a_newer_one(path: Path) -> None:
    """A journal of a later version."""
    Journal(path, FakeClock()).intend(an_intent())
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def a_folder(path: Path) -> None:
    """No file."""
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [(not_a_database, "not a database"), (another_database, "no order"), (a_newer_one, "newer"), (a_folder, "open")],
)
def test_a_file_that_is_no_journal_of_ours_is_refused_and_left_alone(
    path: Path, clock: FakeClock, make: object, says: str
) -> None:
    """Nothing is written to it, and the error names the file."""
    make(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(JournalError, match=says) as caught:
        a_journal(path, clock).intend(an_intent())
    assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_an_empty_file_is_a_journal_to_be(path: Path, clock: FakeClock) -> None:
    """As a temporary file's maker leaves it; but not for one who only reads."""
    path.touch()
    with pytest.raises(JournalError, match="no order journal"):
        a_journal(path, clock, create=False).entries()
    journal = a_journal(path, clock)
    journal.intend(an_intent())
    journal.close()


def test_a_folder_that_is_missing_is_not_made(tmp_path: Path, clock: FakeClock) -> None:
    """Nor is a journal, for one who only reads."""
    with pytest.raises(JournalError):
        a_journal(tmp_path / "no" / "orders", clock).intend(an_intent())
    with pytest.raises(JournalError):
        a_journal(tmp_path / "orders", clock, create=False).entries()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_was_taken_away_is_noticed(path: Path, clock: FakeClock) -> None:
    """SQLite alone would go on writing to a file that has no name any more."""
    journal = a_journal(path, clock)
    journal.intend(an_intent())
    for name in path.parent.iterdir():
        name.unlink()
    other = a_journal(path, clock)
    other.intend(an_intent())
    other.close()
    with pytest.raises(JournalError, match="replaced"):
        journal.intend(an_intent())
    for name in path.parent.iterdir():
        name.unlink()
    with pytest.raises(JournalError, match="unable to open"):
        journal.intend(an_intent())


def test_a_write_that_fails_is_taken_back_whole(path: Path, clock: FakeClock) -> None:
    """A full disk, say: nothing of the transaction stays, and the journal works again afterwards."""
    journal = a_journal(path, clock)
    line = journal.intend(an_intent())
    with pytest.raises(JournalError):
        journal.note([line, object()], State.EXECUTED)  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt), journal._writing() as connection:  # noqa: PT012 - the context is what is tested
        connection.execute("UPDATE orders SET state = 'executed'")
        raise KeyboardInterrupt
    assert journal.entries()[0].state is State.SENT
    journal.close()


def test_a_lock_of_another_is_waited_for_when_the_mode_is_set(path: Path, clock: FakeClock) -> None:
    """Two processes may set the journal's mode at once; only a lock that never ends is an error."""
    journal = a_journal(path, clock)
    calls: list[int] = []

    def step() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise sqlite3.OperationalError("database is locked")

    journal._patiently(step, sqlite3.OperationalError)
    assert len(calls) == 3 and clock.sleeps == [0.02, 0.02]

    def broken() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError, match="disk"):
        journal._patiently(broken, sqlite3.OperationalError)

    def never() -> None:
        raise sqlite3.OperationalError("database is locked")

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        journal._patiently(never, sqlite3.OperationalError)


# --- threads and processes ---


def test_threads_share_a_journal(path: Path, clock: FakeClock) -> None:
    """Eight of them, from the first line on, lose nothing, and leave a few connections at most."""
    journal = a_journal(path, clock)

    def work(name: int) -> None:
        for n in range(5):
            journal.note([journal.intend(an_intent(f"{name}-{n}"))], State.EXECUTED)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.intent.id for entry in journal.entries()} == {f"{a}-{b}" for a in range(12) for b in range(5)}
    assert {entry.state for entry in journal.entries()} == {State.EXECUTED}
    journal.close()


def test_few_connections_are_kept_open(path: Path, clock: FakeClock) -> None:
    """As many as are in use at a time, but not for ever."""
    journal = a_journal(path, clock)
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(journal._connection())
    assert len(journal._idle) == module._KEPT_OPEN
    journal.close()


CHILD = """
import sys, time
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.state.journal import Intent, Journal, State
journal = Journal(sys.argv[1], SYSTEM_CLOCK)
for n in range(int(sys.argv[2])):
    name = f"{sys.argv[3]}-{n}"
    line = journal.intend(Intent(name, name, name, "o", "POST", "/", {}))
    print(name, flush=True)
    if n % 2:
        journal.note([line], State.EXECUTED)
print("done", flush=True)
time.sleep(60)
"""


def test_processes_share_a_journal_and_the_killed_ones_orders_are_unknown(path: Path, clock: FakeClock) -> None:
    """Four processes found it at once; after kill -9 exactly the orders without an outcome are unknown."""
    command = [sys.executable, "-c", CHILD, str(path), "4"]
    children = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)]
    for child in children:
        assert child.stdout is not None
        while child.stdout.readline().strip() != "done":
            assert child.poll() is None
    journal = a_journal(path, clock)
    assert journal.entries(unresolved=True) == []
    for child in children:
        child.send_signal(signal.SIGKILL)
        # Killed, and not yet buried by its parent: dead all the same.
    for child in children:
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    unknown = {entry.intent.id for entry in journal.entries(unresolved=True)}
    assert unknown == {f"{a}-{b}" for a in range(4) for b in (0, 2)}
    journal.close()


def test_a_fork_leaves_the_parents_connections_alone(path: Path, clock: FakeClock) -> None:
    """A child opens its own; both write on."""
    journal = a_journal(path, clock)
    journal.intend(an_intent("parent"))
    child = os.fork()
    if child == 0:
        try:
            journal.reset_after_fork()
            journal.intend(an_intent("child"))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    journal.intend(an_intent("parent again"))
    assert [(entry.intent.id, entry.state) for entry in journal.entries()] == [
        ("parent", State.SENT),
        ("child", State.UNKNOWN),
        ("parent again", State.SENT),
    ]
    journal.close()


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    """By when it was started; a zombie is dead."""
    assert is_alive(this_process()) and is_alive(this_process() + ":7")
    assert not is_alive(f"{os.getpid()}:1-another-boot")
    assert not is_alive(DEAD) and not is_alive("1:1-another-boot")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{child.pid}:{module._started(child.pid)}"
    assert is_alive(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(name)
    child.communicate()
    assert not is_alive(name)


def test_without_proc_the_number_alone_tells_processes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have no such file system."""
    monkeypatch.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    assert module._started(1) == ""


@pytest.mark.parametrize("error", [PermissionError(), None])
def test_another_users_process_lives(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that is not permitted has found somebody."""

    def kill(pid: int, number: int) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(os, "kill", kill)
    assert is_alive(f"1:{module._started(1)}")


def test_where_the_system_does_not_say_a_process_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its orders are unknown, which is the careful answer. One's own is known to live."""
    own, other = this_process(), f"1:{module._started(1)}"
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "name", "other")
        alive = (is_alive(own), is_alive(other))
    assert alive == (True, False)
