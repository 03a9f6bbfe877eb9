"""What processes tell each other: records as last heard of, and what is done where the store fails."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_support import in_threads
from hypothesis import given
from hypothesis import strategies as st
from shared_support import FailingBackend, Fleet, one_more, put

from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.state import store as store_module
from resilient_adapter.state.backend import Seen, StoreError
from resilient_adapter.state.file import FileBackend
from resilient_adapter.state.memory import MemoryBackend
from resilient_adapter.state.store import Change, Record, Result, Store, every, remaining, time_left
from resilient_adapter.testing import FakeClock

SOON = 10.0  # seconds within which what is heard at once is heard on the busiest machine
EPOCH = 1_700_000_000.0


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Return processes that share a store."""
    fleet = Fleet()
    yield fleet
    for store in fleet.stores:
        store.close()


class TestUpdate:
    def test_a_record_is_made_changed_left_alone_and_removed(self, fleet: Fleet) -> None:
        """Each answer has the value, the store's time, and whether it was changed."""
        record = fleet.store().record("k")
        assert record.value is None
        assert record.update(put({"a": 1})) == Result({"a": 1}, EPOCH, changed=True)
        fleet.clock.advance(1)
        assert record.update(lambda value, now: Change([value["a"], now], 60)) == ([1, EPOCH + 1], EPOCH + 1, True)
        assert record.update(lambda value, now: None) == Result([1, EPOCH + 1], EPOCH + 1, changed=False)
        assert record.update(put(None)) == Result(None, EPOCH + 1, changed=True)
        assert record.value is None and fleet.backend.keys() == []

    def test_leaving_it_alone_asks_nobody(self, fleet: Fleet) -> None:
        """What is known decides that, however old it is: the happy path costs no round trip."""
        record = fleet.store().record("k")
        asked = fleet.backend.swaps, fleet.backend.reads
        record.update(lambda value, now: None)
        assert (fleet.backend.swaps, fleet.backend.reads) == asked

    def test_a_record_ends_by_itself(self, fleet: Fleet) -> None:
        """After its seconds to live; whoever changes it then finds none."""
        mine, other = (fleet.store().record("k") for _ in range(2))
        mine.update(put("x", ttl=5.0))
        fleet.hear()
        fleet.clock.advance(5.0)
        before: list[Any] = []
        other.update(lambda value, now: before.append(value) or Change("y", 5.0))
        assert before == ["x", None] and mine.value == "x"

    def test_every_thread_of_every_process_gets_its_turn(self, fleet: Fleet) -> None:
        """A counter that eight threads of four processes raise loses nothing."""
        stores = [fleet.store() for _ in range(4)]

        def work(record: Record) -> None:
            for _ in range(50):
                while not record.update(one_more).changed:
                    pass

        threads = [
            threading.Thread(target=work, args=(record,))
            for record in (store.record("n") for store in stores)
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert fleet.store().record("n").value == 400

    @given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 2]), st.booleans()), max_size=40))
    def test_interleaved_changes_lose_nothing(self, steps: list[tuple[int, int | None, bool]]) -> None:
        """Whoever changes a counter while somebody else is about to, heard of it or not: each change counts once."""
        fleet = Fleet()
        stores = [fleet.store() for _ in range(3)]
        records = [store.record("n") for store in stores]
        count = 0
        for mine, other, hears in steps:
            between = [] if other is None else [records[other]]

            def change(value: Any, now: float, between: list[Record] = between) -> Change:
                nonlocal count
                while between:
                    changed = between.pop().update(one_more).changed
                    count += changed
                return one_more(value, now)

            changed = records[mine].update(change).changed
            count += changed
            assert records[mine].value == count
            if hears:
                stores[mine].listen(0)
        fleet.hear()
        assert [record.value or 0 for record in records] == [count] * 3

    def test_one_that_is_always_overtaken_gives_up(self, fleet: Fleet) -> None:
        """After some thirty times, in each of which another has got on; it says so, and what is there."""
        mine, other = (fleet.store().record("n") for _ in range(2))

        def change(value: Any, now: float) -> Change:
            other.update(one_more)
            return one_more(value, now)

        assert mine.update(change) == Result(32, EPOCH, changed=False)
        assert mine.update(one_more).value == 33

    @pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, "null", "NaN1"])
    def test_what_is_no_record_of_ours_is_none(self, fleet: Fleet, text: str) -> None:
        """It is nobody's word that the record was removed, and the next change replaces it."""
        told: list[Any] = []
        record = fleet.store().record("k", lambda value, now: told.append(value))
        fleet.backend.put("k", text)
        fleet.hear()
        other = fleet.store().record("k")
        assert record.value is other.value is None and told == []
        assert list(every(fleet.backend)) == []
        assert other.update(put("ours")).changed
        fleet.hear()
        assert told == ["ours"] and list(every(fleet.backend)) == [("k", "ours", EPOCH)]


class TestHearing:
    def test_others_changes_are_told_and_ones_own_are_not(self, fleet: Fleet) -> None:
        """With value and time; once each."""
        told: list[Any] = []
        mine = fleet.store().record("k", lambda *heard: told.append(heard))
        other = fleet.store().record("k")
        mine.update(put(1))
        fleet.hear()
        assert told == [] and other.value == 1
        fleet.clock.advance(2)
        other.update(put(2))
        fleet.hear()
        fleet.hear()
        assert told == [(2, EPOCH + 2)] and mine.value == 2

    def test_what_is_there_already_is_told(self, fleet: Fleet) -> None:
        """Whoever asks for a record hears at once what it says; where there is none, nothing."""
        fleet.store().record("k").update(put(1))
        told: list[Any] = []
        fleet.store().record("k", lambda value, now: told.append(value))
        fleet.store().record("other", lambda value, now: told.append(value))
        assert told == [1]

    def test_two_of_a_name_hear_of_it(self, fleet: Fleet) -> None:
        """Both in one process; one that nobody keeps any more does not."""
        told: list[str] = []
        store = fleet.store()
        kept = [store.record("k", lambda value, now, name=name: told.append(name)) for name in "abc"]
        del kept[1]
        gc.collect()
        fleet.store().record("k").update(put(1))
        fleet.hear()
        assert sorted(told) == ["a", "c"]

    def test_a_removal_is_told_and_an_end_is_not(self, fleet: Fleet) -> None:
        """That a record ended, or got lost, is nobody's doing."""
        told: list[Any] = []
        mine = fleet.store().record("k", lambda value, now: told.append(value))
        other = fleet.store().record("k")
        other.update(put(1))
        other.update(put(None))
        fleet.hear()
        assert told == [1, None]
        other.update(put(1, ttl=1.0))
        fleet.hear()
        fleet.clock.advance(5)
        fleet.hear()
        assert told == [1, None, 1]
        fleet.backend.lose()
        fleet.stores[0]._deaf()
        fleet.stores[0].listen(0)
        assert told == [1, None, 1] and mine.value is None

    def test_quiet_changes_are_not_told(self, fleet: Fleet) -> None:
        """Those made through a record that tells nobody; they are found by whoever changes it next."""
        told: list[Any] = []
        mine = fleet.store().record("k", lambda value, now: told.append(value))
        fleet.store().record("k", tell=False).update(put(1))
        fleet.hear()
        assert told == [] and mine.value is None
        assert mine.update(one_more) == Result(2, EPOCH, changed=True)

    def test_old_news_are_passed_over(self, fleet: Fleet) -> None:
        """What comes late, after one's own newer change, changes nothing and is told to nobody."""
        told: list[Any] = []
        mine = fleet.store().record("k", lambda value, now: told.append(value))
        other = fleet.store().record("k")
        for value in (1, 2):
            other.update(put(value))
            fleet.clock.advance(1)
        mine.update(put(3))
        fleet.hear()
        assert told == [] and mine.value == 3

    def test_old_news_of_the_same_moment(self, fleet: Fleet) -> None:
        """A store's clock may tell milliseconds only: the version says what is older, of what was removed too."""
        told: list[Any] = []
        mine = fleet.store().record("k", lambda value, now: told.append(value))
        for value in (1, 2, None):
            mine.update(put(value))
        fleet.hear()
        assert told == [] and mine.value is None
        mine.update(put(3))
        mine.update(put(4))
        fleet.hear()
        assert told == [] and mine.value == 4

    def test_an_answer_that_news_have_overtaken_is_old(self, fleet: Fleet) -> None:
        """Between a change and its answer somebody else changed it again, and that was heard first."""
        told: list[Any] = []
        mine = fleet.store().record("k", lambda value, now: told.append(value))
        other = fleet.store().record("k")

        def meanwhile() -> None:
            fleet.clock.advance(1)
            other.update(put("theirs"))
            fleet.hear()

        fleet.backend.before_answer = meanwhile
        assert mine.update(put("ours")).value == "ours"
        assert mine.value == "theirs" and told[-1] == "theirs"

    def test_a_clock_that_is_set_back_makes_no_answer_old(self, fleet: Fleet) -> None:
        """The store's time is what its latest answer says."""
        store = fleet.store()
        record = store.record("k")
        record.update(put(1))
        fleet.clock.step(-3600)
        assert record.update(put(2)) == Result(2, EPOCH - 3600, changed=True)
        assert record.value == 2 and store.now() == EPOCH - 3600

    def test_a_thread_hears_of_them(self, fleet: Fleet) -> None:
        """At once, without anybody asking; who waits for news is woken."""
        heard = threading.Event()
        mine = fleet.store(threaded=True).record("k", lambda value, now: heard.set())
        other = fleet.store(threaded=True).record("k")
        woken = threading.Event()

        def wait() -> None:
            mine.wait(SOON)
            woken.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        while not woken.is_set():  # the thread may not wait yet when it is told the first time
            other.update(one_more)
            woken.wait(0.01)
        waiter.join()
        assert heard.wait(SOON) and mine.value >= 1

    def test_a_change_between_reading_and_listening_is_not_missed(self, fleet: Fleet) -> None:
        """Whoever begins to listen reads all again first."""
        told: list[Any] = []
        store = Store(fleet.backend, fleet.clock, fleet.warnings.append, threaded=False)
        record = store.record("k", lambda value, now: told.append(value))
        fleet.store().record("k").update(put(1))
        assert record.value is None
        store.listen(0)
        assert told == [1] and record.value == 1

    def test_names_that_nobody_keeps_are_forgotten(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """A day of ever new names takes no more room than those that are kept."""
        monkeypatch.setattr(store_module, "_SWEEP", 8)
        store = fleet.store()
        store._sweep_at = 8
        kept = [store.record(f"kept {n}") for n in range(6)]
        for n in range(100):
            store.record(f"{n}")
        assert len(store._records) <= 2 * len(kept) + 1
        assert {record.key for record in kept} <= set(store._records)


class TestTime:
    def test_it_is_the_stores(self) -> None:
        """Told by what was answered last, and in between by our own steady clock, however that one is set."""
        theirs, ours = FakeClock(time=5_000.0), FakeClock(time=EPOCH)
        store = Store(MemoryBackend(theirs.time), ours, pytest.fail, threaded=False)
        assert store.now() == EPOCH
        store.record("k")
        assert store.now() == 5_000.0
        ours.advance(7)
        ours.step(-99_999)
        assert store.now() == 5_007.0

    def test_half_the_way_is_taken_off(self, fleet: Fleet) -> None:
        """The answer's time is that of the middle between question and answer."""
        store = fleet.store()
        record = store.record("k")
        fleet.backend.before_answer = lambda: fleet.clock.advance(0.1)
        record.update(put(1))
        assert store.now() == pytest.approx(EPOCH + 0.05)

    @pytest.mark.parametrize(("until", "length", "now", "left"), [
        (110.0, 30.0, 100.0, 10.0),
        (110.0, 30.0, 110.0, 0.0),
        (110.0, 30.0, 500.0, 0.0),
        (130.0, 30.0, 100.0, 30.0),
        (130.0, 30.0, -3500.0, 30.0),  # a clock that was set back by an hour
        (math.nan, 30.0, 100.0, 0.0),
        (130.0, -5.0, 100.0, 0.0),
    ])  # fmt: skip
    def test_what_remains(self, until: float, length: float, now: float, left: float) -> None:
        """Never more than the length that an end was set with, and never less than nothing."""
        assert remaining(until, length, now) == left
        assert time_left({"until": until, "for": length}, now) == left

    @pytest.mark.parametrize("value", [
        None, 5, "x", [], {}, {"until": 200.0}, {"for": 5.0}, {"until": None, "for": 5.0}, {"until": "x", "for": 5.0},
        {"until": [], "for": {}}, {"until": 10**400, "for": 1.0},
    ])  # fmt: skip
    def test_what_tells_of_no_end_has_none(self, value: Any) -> None:
        """Whatever somebody has written there."""
        assert time_left(value, 100.0) == 0.0


class TestFailing:
    @pytest.mark.parametrize("down", ["from the start", "later"])
    def test_it_goes_on_alone(self, fleet: Fleet, down: str) -> None:
        """No error, one warning, no more questions; each process knows its own changes and nobody else's."""
        fleet.backend.down = down == "from the start"
        stores = [
            Store(fleet.backend, fleet.clock, fleet.warnings.append, threaded=False) for _ in range(2)
        ]  # fmt: skip
        mine, other = (store.record("n") for store in stores)
        if down == "later":
            mine.update(one_more)
            other.update(one_more)
            fleet.fail()
        start = mine.value or 0
        asked = fleet.backend.swaps
        for n in range(1, 4):
            assert mine.update(one_more) == Result(start + n, EPOCH, changed=True)
        assert mine.update(lambda value, now: None) == Result(start + 3, EPOCH, changed=False)
        other.update(one_more)
        assert (mine.value, stores[0].failed, fleet.backend.swaps) == (start + 3, True, asked)
        assert fleet.warnings == ["a store at 127.0.0.1: it is down; going on without it, each process by itself"] * 2

    def test_what_is_made_then_asks_nobody(self, fleet: Fleet) -> None:
        """A record that is first needed while the store is down begins empty, at once."""
        store = fleet.store()
        record = store.record("a")
        fleet.fail()
        record.update(put(1))
        fleet.backend.down = False
        reads = fleet.backend.reads
        assert store.record("b").value is None and fleet.backend.reads == reads

    def test_going_on_alone_is_atomic(self, fleet: Fleet) -> None:
        """Between the threads of the process."""
        record = fleet.store().record("n")
        fleet.fail()
        record.update(one_more)

        def work() -> None:
            for _ in range(200):
                record.update(one_more)

        in_threads(8, work)
        assert record.value == 1601

    def test_a_change_that_leaves_it_alone_after_all(self, fleet: Fleet) -> None:
        """What was to be changed may be as wanted already when the store has failed."""
        record = fleet.store().record("n")
        fleet.fail()
        wanted = iter([Change(1, 60.0), None])
        assert record.update(lambda value, now: next(wanted)) == Result(None, EPOCH, changed=False)

    def test_the_way_back(self, fleet: Fleet) -> None:
        """All is read again: what others did counts over what was done alone, and is told; one word that it is back."""
        told: list[Any] = []
        store = fleet.store()
        mine = store.record("n", lambda value, now: told.append(value))
        mine.update(put("before"))
        fleet.fail()
        mine.update(put("alone"))
        with pytest.raises(StoreError):
            store.listen(0)
        assert mine.value == "alone"
        fleet.back()
        assert (mine.value, told, store.failed) == ("before", ["before"], False)
        assert fleet.warnings[1:] == ["the shared store is back"]
        assert mine.update(put("after")).changed and fleet.store().record("n").value == "after"

    def test_what_the_store_has_lost_is_not_told(self, fleet: Fleet) -> None:
        """It was restarted empty: nobody has said that what was known is over."""
        told: list[Any] = []
        mine = fleet.store().record("n", lambda value, now: told.append(value))
        mine.update(put("before"))
        fleet.fail()
        mine.update(put("alone"))
        fleet.backend.lose()
        fleet.back()
        assert (mine.value, told) == (None, [])

    @pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
    def test_another_store_may_tell_another_time(self, fleet: Fleet, ahead: float) -> None:
        """What takes its place, or a local clock that was gone by until then, may be hours apart."""
        mine = fleet.store().record("n")
        mine.update(put("before", ttl=7200.0))
        fleet.fail()
        mine.update(put("alone"))
        fleet.clock.step(ahead)
        fleet.back()
        assert mine.value == "before"
        assert mine.update(put("after")).changed and mine.value == "after"

    def test_one_that_can_be_read_but_not_written_is_not_back(self, fleet: Fleet) -> None:
        """A replica, a full disk: no word of it until a change goes through."""
        store = fleet.store()
        record = store.record("n")
        fleet.backend.read_only = True
        record.update(put(1))
        assert store.failed
        store._deaf()
        with pytest.raises(StoreError):
            store.listen(0)
        assert store.failed and record.value == 1
        fleet.backend.read_only = False
        fleet.back()
        assert not store.failed and record.value is None

    def test_one_that_fails_while_it_is_read_again_is_not_back(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The way back ends there, and what was known is kept."""
        store = fleet.store()
        record = store.record("n")
        fleet.fail()
        record.update(put("alone"))
        fleet.backend.down = False

        def read(keys: Any) -> Any:
            raise StoreError("again")

        monkeypatch.setattr(fleet.backend, "read", read)
        store._deaf()
        with pytest.raises(StoreError, match="again"):
            store.listen(0)
        assert store.failed and record.value == "alone"

    def test_a_thread_finds_the_way_back(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """By itself, from a store that could not be reached at first; then it hears."""
        monkeypatch.setattr(store_module, "_BACK_OFF", 0.001)
        monkeypatch.setattr(store_module, "_BACK_OFF_MAX", 0.001)
        heard, back = threading.Event(), threading.Event()
        fleet.fail()

        def warn(text: str) -> None:
            fleet.warnings.append(text)
            if "is back" in text:
                back.set()

        store = Store(fleet.backend, fleet.clock, warn)
        fleet.stores.append(store)
        record = store.record("k", lambda value, now: heard.set())
        record.update(put("alone"))
        fleet.backend.down = False
        assert back.wait(SOON)
        Store(fleet.backend, fleet.clock, pytest.fail, threaded=False).record("k").update(put("theirs"))
        assert heard.wait(SOON) and record.value == "theirs"
        assert [text.partition(";")[0] for text in fleet.warnings] == [
            "a store at 127.0.0.1: it is down", "the shared store is back"
        ]  # fmt: skip

    @pytest.mark.parametrize("operation", ["swap", "read"])
    def test_a_library_that_cannot_be_read(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
        """Nor any other error fails a request; what is not the store's own word is not repeated."""

        def fail(*args: Any, **options: Any) -> Any:
            raise OSError(24, "Too many open files: a secret")

        store = fleet.store()
        monkeypatch.setattr(fleet.backend, operation, fail)
        assert store.record("n").update(one_more).value == 1
        assert fleet.warnings == [
            "the shared store cannot be used: OSError; going on without it, each process by itself"
        ]  # fmt: skip

    def test_no_thread_can_be_started(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until one can: the next who needs a record tries again."""
        monkeypatch.setattr(store_module, "_BACK_OFF", 0.001)

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        store = fleet.store(threaded=True)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert store.record("n").update(one_more).value == 1
        assert store.failed
        record = store.record("n")
        assert happens(lambda: not store.failed) and record.update(one_more).changed
        assert [text.partition(";")[0] for text in fleet.warnings] == [
            "the shared store cannot be used: RuntimeError", "the shared store is back"
        ]  # fmt: skip
        store.close()

    def test_one_who_is_told_raises(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its thread listens on, and tells it again."""
        monkeypatch.setattr(store_module, "_BACK_OFF", 0.001)
        told: list[Any] = []

        def hear(value: Any, now: float) -> None:
            told.append(value)
            if len(told) == 1:
                raise OSError(24, "Too many open files")

        store = fleet.store(threaded=True)
        kept = store.record("n", hear)
        assert happens(lambda: bool(fleet.backend._listeners))
        fleet.store().record("n").update(put("theirs"))
        assert happens(lambda: told == ["theirs", "theirs"]) and kept.value == "theirs"
        assert happens(lambda: not store.failed)
        store.close()


def happens(what: Callable[[], bool]) -> bool:
    """Return whether something is so before long."""
    end = SYSTEM_CLOCK.monotonic() + SOON
    while not what() and SYSTEM_CLOCK.monotonic() < end:
        SYSTEM_CLOCK.sleep(0.001)
    return what()


class Pauses(threading.Event):
    """Notes how long it is waited for, and lets nobody wait."""

    def __init__(self, then: Callable[[int], object]) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._then = then

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        self._then(len(self.pauses))
        return True


class TestBackOff:
    def test_looks_for_it_become_rare(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each pause is twice the one before, up to a quarter of a minute, give or take a half of it."""
        monkeypatch.setattr(store_module.random, "uniform", lambda low, high: low)
        low = self.run(fleet, 8)
        monkeypatch.setattr(store_module.random, "uniform", lambda low, high: high)
        high = self.run(fleet, 8)
        assert low == [0.25, 0.5, 1.0, 2.0, 4.0, 7.5, 7.5, 7.5]
        assert high == [3 * pause for pause in low]
        assert len(fleet.warnings) == 2  # one for each run

    def run(self, fleet: Fleet, count: int) -> list[float]:
        """Return the pauses between looks at a store that stays down."""
        fleet.fail()
        store = Store(fleet.backend, fleet.clock, fleet.warnings.append, threaded=False)

        def then(n: int) -> None:
            store._closed = n == count

        store._woken = pauses = Pauses(then)
        store._run()
        return pauses.pauses

    def test_one_that_held_for_a_while_begins_anew(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """Half a minute; one that comes and goes is looked for ever more rarely."""
        monkeypatch.setattr(store_module.random, "uniform", lambda low, high: 1.0)
        store = Store(fleet.backend, fleet.clock, fleet.warnings.append, threaded=False)
        holds = iter([1.0, 1.0, 29.0, 31.0, 1.0])

        def heard(timeout: float) -> list[Seen]:
            if timeout:
                fleet.clock.advance(next(holds))
                raise StoreError("gone")
            return []

        listen = fleet.backend.listen

        def listening() -> Any:
            listener = listen()
            listener.heard = heard
            return listener

        monkeypatch.setattr(fleet.backend, "listen", listening)

        def then(n: int) -> None:
            store._closed = n == 5

        store._woken = pauses = Pauses(then)
        store._run()
        assert pauses.pauses == [0.5, 1.0, 2.0, 0.5, 1.0]
        assert fleet.backend._listeners == []

    def test_the_thread_goes_to_look_when_others_have_failed(self, fleet: Fleet) -> None:
        """A change that failed ends its listening: the connection that listens may not have noticed."""
        store = Store(fleet.backend, fleet.clock, fleet.warnings.append, threaded=False)
        record = store.record("k")
        looked: list[bool] = []

        def listen(timeout: float) -> None:
            looked.append(store.failed)
            if timeout:
                fleet.backend.read_only = True
                record.update(put(1))

        store.listen = listen  # type: ignore[method-assign]
        store._up()
        assert looked == [False, False] and store.failed


class TestClose:
    def test_it_ends_the_thread_and_closes_the_backend(self, fleet: Fleet) -> None:
        """Nobody listens any more; a record that is asked for later starts no other thread."""
        store = fleet.store(threaded=True)
        kept = store.record("k")
        thread = store._thread
        assert thread is not None and thread.daemon
        store.close()
        assert not thread.is_alive() and fleet.backend.closed and fleet.backend._listeners == []
        fresh = Store(fleet.backend, fleet.clock, pytest.fail)
        fresh.close()
        assert fresh.record("k").value is kept.value is None and fresh._thread is None

    def test_by_its_own_thread(self, fleet: Fleet) -> None:
        """Whoever closes it because of what was heard does not wait for itself."""
        store = fleet.store(threaded=True)
        record = store.record("k", lambda value, now: store.close())
        Store(fleet.backend, fleet.clock, pytest.fail, threaded=False).record("k").update(put(1))
        assert store._thread is not None
        store._thread.join(SOON)
        assert not store._thread.is_alive() and record.value == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
class TestFork:
    def test_a_child_tells_and_hears_by_itself(self, tmp_path: Path) -> None:
        """Whatever locks its parent's threads held: on connections and by a thread of its own."""
        heard = threading.Event()
        store = Store(FileBackend(tmp_path / "state", "n"), SYSTEM_CLOCK, lambda text: None)
        record = store.record("k", lambda value, now: heard.set() if value == "child's" else None)
        record.update(put("parent's"))
        with store._lock, store._news, record._lock:
            child = os.fork()
            if not child:
                try:
                    self.be_the_child(store, record)
                    os._exit(0)
                finally:
                    os._exit(1)
        assert heard.wait(SOON)
        record.update(put("parent's again"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.close()

    def be_the_child(self, store: Store, record: Record) -> None:
        """Change the record, and wait until the parent has changed it again."""
        store.reset_after_fork()
        assert record.value == "parent's"
        heard = threading.Event()
        again = store.record("k", lambda value, now: heard.set() if value == "parent's again" else None)
        assert record.update(put("child's")).changed
        assert heard.wait(SOON) and again.value == "parent's again"

    def test_before_anybody_listened(self, fleet: Fleet) -> None:
        """No thread is started for a store that has no record."""
        store = fleet.store()
        store.reset_after_fork()
        assert store._thread is None and store.record("k").update(put(1)).changed
        unused = Store(FailingBackend(fleet.clock.time), fleet.clock, pytest.fail)
        unused.reset_after_fork()
        assert unused._thread is None
