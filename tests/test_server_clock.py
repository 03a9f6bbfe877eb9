"""The server's clock: how exact it is, what can move it, and how often the server is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.repairs import server_clock as module
from resilient_adapter.repairs.server_clock import ServerClock, parse_server_time
from resilient_adapter.testing import FakeClock

EPOCH = 1_700_000_000.0  # what FakeClock's wall clock starts at; its monotonic one starts at 1000


class Server:
    """A server whose clock is ahead of the local one, at the end of a line with given delays."""

    def __init__(self, clock: FakeClock, ahead: float = 0.0) -> None:
        self.clock = clock
        self.ahead = ahead
        self.start = clock.monotonic()
        self.delays: list[tuple[float, float] | BaseException] = []
        self.asked = 0

    def now(self) -> float:
        """Return the true time there, which no step of the local wall clock changes."""
        return EPOCH + (self.clock.monotonic() - self.start) + self.ahead

    def __call__(self) -> int:
        self.asked += 1
        delay = self.delays.pop(0) if self.delays else (0.0, 0.0)
        if isinstance(delay, BaseException):
            raise delay
        there, back = delay
        self.clock.advance(there)
        answer = int(self.now() * 1000)
        self.clock.advance(back)
        return answer


@pytest.fixture
def server(clock: FakeClock) -> Server:
    """Return a server that is ten seconds ahead."""
    return Server(clock, ahead=10.0)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Return what is released once for each thread that is about to wait for another's sync."""
    arrived = threading.Semaphore(0)

    class Watched(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            arrived.release()
            return super().wait(timeout)

    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Watched, Lock=threading.Lock))
    return arrived


def beside(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run something in another thread; return the thread and where its result, or what it raised, will be."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


class TestEstimate:
    def test_before_the_first_sample_the_wall_clock_is_all_there_is(self, clock: FakeClock) -> None:
        """Without a sample the time is the operating system's, steps included, and no offset is claimed."""
        estimate = ServerClock(clock)
        assert (estimate.now_ms(), estimate.offset) == (1_700_000_000_000, None)
        clock.step(-3)
        assert estimate.now_ms() == 1_699_999_997_000

    def test_half_the_round_trip_is_corrected_for(self, clock: FakeClock) -> None:
        """An answer 200 ms after the question is read as 100 ms old."""
        estimate = ServerClock(clock)
        clock.advance(0.2)
        estimate.learn(1_700_000_005_100, 1000.0, 1000.2)
        assert estimate.offset == pytest.approx(5.0)  # the server's time now is 5.2 s past, ours 0.2 s
        assert estimate.now_ms() in (1_700_000_005_199, 1_700_000_005_200)  # float rounds down

    @given(
        ahead=st.floats(-1e6, 1e6),
        there=st.floats(0, 2),
        back=st.floats(0, 2),
        later=st.floats(0, 3600),
    )
    def test_the_error_is_at_most_half_the_round_trip_and_never_early_on_arrival(
        self, ahead: float, there: float, back: float, later: float
    ) -> None:
        """However unequal the two directions are: no timestamp is from the server's future by the time it is there."""
        clock = FakeClock()
        server = Server(clock, ahead)
        server.delays = [(there, back)]
        estimate = ServerClock(clock, server, samples=1)
        assert estimate.sync()
        clock.advance(later)
        offset = estimate.offset
        assert offset is not None
        assert abs(offset - ahead) <= (there + back) / 2 + 0.00101  # the server's clock has whole milliseconds
        late = server.now() * 1000 - estimate.now_ms()
        assert abs(late) <= ((there + back) / 2 + 50e-6 * later) * 1000 + 2.01
        assert late + there * 1000 >= -0.01

    def test_the_margin_is_at_most_a_quarter_of_the_receive_window(self, clock: FakeClock) -> None:
        """An estimate that nobody renewed for a day must not make every timestamp seconds late."""
        estimate = ServerClock(clock, recv_window=2000)
        estimate.learn(1_700_000_000_000, 1000.0, 1000.0)
        for later, late in ((1000.0, 50), (10_000.0, 500), (86_400.0, 500)):
            now = clock.monotonic()
            clock.advance(1000.0 + later - now)
            assert estimate.now_ms() == pytest.approx(1_700_000_000_000 + later * 1000 - late, abs=1)

    @pytest.mark.parametrize("seconds", [-86400.0, -1.0, 0.5, 86400.0])
    def test_a_step_of_the_operating_systems_clock_does_not_move_it(
        self, clock: FakeClock, server: Server, seconds: float
    ) -> None:
        """Once there is a sample, setting the wall clock changes the offset to it and nothing else."""
        estimate = ServerClock(clock, server)
        estimate.sync()
        before = estimate.now_ms()
        clock.step(seconds)
        assert estimate.now_ms() == before
        assert estimate.offset == pytest.approx(10.0 - seconds)

    def test_time_passes(self, clock: FakeClock, server: Server) -> None:
        """The estimate goes forward with the monotonic clock."""
        estimate = ServerClock(clock, server)
        estimate.sync()
        before = estimate.now_ms()
        clock.advance(7)
        assert estimate.now_ms() - before == pytest.approx(7000, abs=2)


class TestLearning:
    def learned(self, clock: FakeClock, *samples: tuple[float, float, float]) -> float:
        """Return the offset after samples (seconds waited before, error of the estimate, round trip)."""
        estimate = ServerClock(clock)
        for wait, error, round_trip in samples:
            clock.advance(wait)
            sent_at = clock.monotonic()
            clock.advance(round_trip)
            middle = clock.time() - round_trip / 2
            estimate.learn(round((middle + error) * 1000), sent_at, clock.monotonic())
        assert estimate.offset is not None
        return estimate.offset

    @pytest.mark.parametrize(
        ("second", "kept"),
        [
            pytest.param((0, 0.02, 0.05), 0.02, id="a shorter round trip is better"),
            pytest.param((0, 0.02, 0.1), 0.02, id="of two equal ones the newer counts"),
            pytest.param((0, 0.02, 0.2), 0.0, id="a longer one is worse"),
            pytest.param((900, 0.02, 0.2), 0.0, id="and still is after a quarter of an hour"),
            pytest.param((1100, 0.02, 0.2), 0.02, id="until drift has made the old one as doubtful"),
            pytest.param((0, 0.148, 0.2), 0.0, id="both can be true: at most 150 ms apart"),
            pytest.param((0, 0.155, 0.2), 0.155, id="both cannot: the server's clock was set"),
            pytest.param((0, -3600, 2.0), -3600, id="set back by an hour"),
        ],
    )
    def test_which_of_two_samples_counts(
        self, clock: FakeClock, second: tuple[float, float, float], kept: float
    ) -> None:
        """The more certain one, by round trip and age; the newer one where they contradict each other."""
        assert self.learned(clock, (0, 0.0, 0.1), second) == pytest.approx(kept, abs=0.001)

    def test_a_sample_cannot_come_before_it_was_asked_for(self, clock: FakeClock) -> None:
        """Instants the wrong way round are a mistake of the caller's, and nothing is learned from them."""
        estimate = ServerClock(clock)
        with pytest.raises(ValueError, match="before it was sent"):
            estimate.learn(1_700_000_000_000, 1000.0, 999.9)
        assert estimate.offset is None

    def test_a_drifting_clock_is_followed(self, clock: FakeClock, server: Server) -> None:
        """With a sample every ten minutes, a day of 40 ppm drift is never more than 80 ms wrong, and never early."""
        estimate = ServerClock(clock, server)
        server.delays = [(0.01, 0.01)] * 3
        assert estimate.sync()
        for _ in range(144):
            clock.advance(600)
            server.ahead -= 600 * 40e-6
            assert estimate.due(clock.monotonic())
            assert 0 <= server.now() * 1000 - estimate.now_ms() <= 80
            server.delays = [(0.01, 0.02)] * 3
            assert estimate.sync(timeout=0)


class TestDue:
    def test_a_clock_that_was_never_refused_costs_no_request(self, clock: FakeClock) -> None:
        """Before the first sample nothing is due, however long it takes."""
        estimate = ServerClock(clock)
        clock.advance(1e9)
        assert not estimate.due(clock.monotonic())

    @pytest.mark.parametrize(("after", "due"), [(0.0, False), (599.0, False), (600.0, True), (7000.0, True)])
    def test_an_estimate_is_to_be_renewed_every_interval(
        self, clock: FakeClock, server: Server, after: float, due: bool
    ) -> None:
        """Ten minutes after a sync a new one is due."""
        estimate = ServerClock(clock, server)
        estimate.sync()
        assert estimate.due(clock.monotonic() + after) is due

    def test_a_sample_learned_by_the_way_puts_it_off(self, clock: FakeClock, server: Server) -> None:
        """Whatever confirms the estimate makes asking for it needless."""
        estimate = ServerClock(clock, server, interval=60)
        estimate.sync()
        clock.advance(50)
        estimate.learn(int(server.now() * 1000), clock.monotonic(), clock.monotonic())
        assert not estimate.due(clock.monotonic() + 59)
        assert estimate.due(clock.monotonic() + 60)

    def test_a_failed_renewal_waits_for_its_next_turn(self, clock: FakeClock, server: Server) -> None:
        """A time endpoint that is down costs one request an interval; the old estimate stays."""
        estimate = ServerClock(clock, server, interval=60)
        estimate.sync()
        clock.advance(60)
        server.delays = [OSError("down")]
        assert not estimate.sync()
        assert not estimate.due(clock.monotonic() + 59)
        assert estimate.due(clock.monotonic() + 60)
        assert estimate.offset == pytest.approx(10.0)

    def test_nothing_is_due_while_somebody_is_at_it(self, clock: FakeClock, server: Server) -> None:
        """The other threads go on with the old estimate."""
        seen: list[bool] = []

        def fetch() -> int:
            seen.append(estimate.due(clock.monotonic()))
            return server()

        estimate = ServerClock(clock, server, interval=60)
        estimate.sync()
        clock.advance(60)
        assert estimate.due(clock.monotonic())
        assert estimate.sync(fetch)
        assert seen == [False]


class TestSync:
    def test_the_best_of_several_samples_counts(self, clock: FakeClock, server: Server) -> None:
        """Three are taken, and the one with the shortest round trip is believed."""
        server.delays = [(0.5, 0.1), (0.03, 0.03), (0.0, 0.3)]
        estimate = ServerClock(clock, server)
        assert estimate.sync()
        assert server.asked == 3
        assert estimate.offset == pytest.approx(10.0, abs=0.001)

    @pytest.mark.parametrize(
        ("round_trips", "window", "asked"),
        [([0.0], 5000, 1), ([0.049], 5000, 1), ([0.051] * 3, 5000, 3), ([0.3, 0.04], 5000, 2), ([0.049] * 3, 1000, 3)],
    )
    def test_a_quick_answer_is_enough(
        self, clock: FakeClock, server: Server, round_trips: list[float], window: int, asked: int
    ) -> None:
        """What is known to a hundredth of the receive window need not be known better."""
        server.delays = [(one / 2, one / 2) for one in round_trips]
        estimate = ServerClock(clock, server, recv_window=window)
        assert estimate.sync()
        assert server.asked == asked

    def test_what_was_refused_is_not_believed_any_longer(self, clock: FakeClock, server: Server) -> None:
        """A sync replaces even a more certain sample: the server moved by less than the new one can prove."""
        server.delays = [(0.0, 0.0)] * 3
        estimate = ServerClock(clock, server)
        estimate.sync()
        server.ahead += 1.2
        server.delays = [(1.5, 1.5)] * 3
        assert estimate.sync()
        assert estimate.offset == pytest.approx(11.2, abs=0.001)

    def test_without_a_way_to_ask_nothing_can_be_learned(self, clock: FakeClock) -> None:
        """No ``fetch`` at all is a sync that fails."""
        assert ServerClock(clock).sync() is False

    def test_a_call_may_bring_its_own_way_to_ask(self, clock: FakeClock, server: Server) -> None:
        """The one given to the call goes before the one given to the clock."""
        estimate = ServerClock(clock, lambda: pytest.fail("the other one was asked"))
        assert estimate.sync(server)
        assert estimate.offset == pytest.approx(10.0)

    def test_a_failure_is_not_hammered(self, clock: FakeClock, server: Server) -> None:
        """After one failed sample the sync has failed, and for five seconds nobody asks again."""
        server.delays = [ValueError("no time in it")]
        estimate = ServerClock(clock, server)
        assert not estimate.sync()
        clock.advance(4.9)
        assert not estimate.sync()
        assert (server.asked, estimate.offset) == (1, None)
        assert not estimate.due(clock.monotonic() + 1e9)
        clock.advance(0.2)
        assert estimate.sync()
        assert server.asked == 2

    def test_one_sample_is_enough(self, clock: FakeClock, server: Server) -> None:
        """A second sample that fails ends the sync, but the first one counts."""
        server.delays = [(0.1, 0.1), OSError("reset")]
        estimate = ServerClock(clock, server)
        assert estimate.sync()
        assert server.asked == 2
        assert estimate.offset == pytest.approx(10.0, abs=0.001)

    @pytest.mark.parametrize(("timeout", "asked"), [(0.0, 1), (0.25, 1), (0.3, 2), (0.6, 3), (None, 3)])
    def test_no_sample_is_begun_that_the_call_cannot_spare(
        self, clock: FakeClock, server: Server, timeout: float | None, asked: int
    ) -> None:
        """With 250 ms a sample, the time given decides how many are taken; one always is."""
        server.delays = [(0.125, 0.125)] * 3
        assert ServerClock(clock, server).sync(timeout=timeout)
        assert server.asked == asked

    def test_a_refusal_that_has_been_answered_costs_nothing(self, clock: FakeClock, server: Server) -> None:
        """A request signed before the last sync is not a reason for another one; one signed after it is."""
        estimate = ServerClock(clock, server)
        signed_in = estimate.generation
        assert estimate.sync(generation=signed_in)
        assert estimate.sync(generation=signed_in)
        assert (server.asked, estimate.generation) == (1, signed_in + 1)
        assert estimate.sync(generation=estimate.generation)
        assert server.asked == 2

    def test_an_interruption_passes_and_leaves_nothing_behind(self, clock: FakeClock, server: Server) -> None:
        """KeyboardInterrupt is not a failure of the server's: no backoff, and the next sync works."""
        server.delays = [KeyboardInterrupt()]
        estimate = ServerClock(clock, server)
        with pytest.raises(KeyboardInterrupt):
            estimate.sync()
        assert estimate.offset is None
        assert estimate.sync()

    def test_an_interruption_does_not_lose_what_was_learned(self, clock: FakeClock, server: Server) -> None:
        """A sample taken before the interruption counts."""
        server.delays = [(0.1, 0.1), KeyboardInterrupt()]
        estimate = ServerClock(clock, server)
        with pytest.raises(KeyboardInterrupt):
            estimate.sync()
        assert estimate.offset == pytest.approx(10.0, abs=0.001)


class TestThreads:
    def test_one_thread_asks_for_all(self, clock: FakeClock, server: Server, waiting: threading.Semaphore) -> None:
        """Eight refused requests at the same moment are one sync, whose result all of them get."""
        estimate = ServerClock(clock, server, samples=1)
        others: list[tuple[threading.Thread, list[object]]] = []

        def fetch() -> int:
            others.extend(beside(lambda: estimate.sync(generation=0)) for _ in range(7))
            for _ in range(7):
                assert waiting.acquire(timeout=10)
            return server()

        assert estimate.sync(fetch, generation=0)
        for thread, results in others:
            thread.join()
            assert results == [True]
        assert server.asked == 1

    def test_a_failure_is_shared_too(self, clock: FakeClock, server: Server, waiting: threading.Semaphore) -> None:
        """Those who waited for a sync that failed do not each try it again."""
        estimate = ServerClock(clock, server)
        others: list[tuple[threading.Thread, list[object]]] = []

        def fetch() -> int:
            others.append(beside(estimate.sync))
            assert waiting.acquire(timeout=10)
            raise OSError("down")

        assert not estimate.sync(fetch)
        thread, results = others[0]
        thread.join()
        assert (results, server.asked) == ([False], 0)

    def test_somebody_takes_over_from_one_that_was_interrupted(
        self, clock: FakeClock, server: Server, waiting: threading.Semaphore
    ) -> None:
        """An interrupted sync is neither a success nor a failure for those who waited for it."""
        estimate = ServerClock(clock, server)
        others: list[tuple[threading.Thread, list[object]]] = []

        def fetch() -> int:
            others.append(beside(estimate.sync))
            assert waiting.acquire(timeout=10)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            estimate.sync(fetch)
        thread, results = others[0]
        thread.join()
        assert (results, server.asked) == ([True], 1)

    def test_another_threads_sync_is_waited_for_no_longer_than_can_be_spared(
        self, clock: FakeClock, server: Server
    ) -> None:
        """With no time left, a thread that finds a sync in progress goes on without it."""
        estimate = ServerClock(clock, server, samples=1)
        outcome: list[object] = []

        def fetch() -> int:
            thread, results = beside(lambda: estimate.sync(timeout=0))
            thread.join(10)
            outcome.extend(results)
            return server()

        assert estimate.sync(fetch)
        assert outcome == [False]

    def test_no_lock_is_held_while_the_server_is_asked(self, clock: FakeClock, server: Server) -> None:
        """Other threads read the time and learn samples meanwhile."""
        estimate = ServerClock(clock, server, samples=1)
        outcome: list[object] = []

        def work() -> int:
            estimate.learn(1_700_000_000_000, 1000.0, 1000.0)
            return estimate.now_ms()

        def fetch() -> int:
            thread, results = beside(work)
            thread.join(10)
            outcome.extend(results)
            return server()

        assert estimate.sync(fetch)
        assert outcome == [1_700_000_000_000]

    def test_a_forked_child_keeps_the_estimate_and_none_of_the_locks(self, clock: FakeClock, server: Server) -> None:
        """A sync that a thread of the parent was in the middle of does not exist in the child."""
        estimate = ServerClock(clock, server, samples=1)
        assert estimate.sync()
        forked: list[bool] = []

        def fetch() -> int:
            estimate._lock.acquire()  # as another thread of the parent may, at the moment of the fork
            estimate.reset_after_fork()
            forked.append(estimate.offset == pytest.approx(10.0))
            forked.append(estimate.sync())
            return server()

        assert estimate.sync(fetch)
        assert forked == [True, True]


class TestServersAnswer:
    @pytest.mark.parametrize(
        ("body", "field", "expected"),
        [
            (b'{"serverTime": 1700000000123}', None, 1_700_000_000_123),
            (b'{"code": 0, "data": {"serverTime": 1700000000123}}', None, 1_700_000_000_123),
            (b'{"code": 0, "data": 1700000000123}', None, 1_700_000_000_123),
            (b'{"code": 0, "data": "1700000000123"}', None, 1_700_000_000_123),
            (b'{"serverTime": null, "data": {"serverTime": "1700000000123"}}', None, 1_700_000_000_123),
            (b'{"serverTime": 1, "data": 2}', None, 1000),
            (b'{"a": {"b": {"now": 1700000000123}}, "serverTime": 5}', "a.b.now", 1_700_000_000_123),
            (b'{"now": 1700000000}', "now", 1_700_000_000_000),
            (b'{"now": 99999999999}', "now", 99_999_999_999_000),
            (b'{"now": 100000000000}', "now", 100_000_000_000),
            (b'{"now": 99999999999999}', "now", 99_999_999_999_999),
            ('{"data": 1700000000123}'.encode("utf-16"), None, 1_700_000_000_123),
        ],
    )
    def test_the_time_is_found(self, body: bytes, field: str | None, expected: int) -> None:
        """At the field given, else in the usual places; whole numbers or digits, seconds below 10**11."""
        assert parse_server_time(body, field) == expected

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (b"", None),
            (b"<html>", None),
            (b"\xff\xfe\xfa", None),
            (b"[" * 200_000, None),
            (b"1700000000123", None),
            (b'[{"serverTime": 1700000000123}]', None),
            (b'{"code": -1003, "msg": "Too many requests", "data": null}', None),
            (b'{"serverTime": true}', None),
            (b'{"serverTime": 1700000000123.0}', None),
            (b'{"serverTime": 0}', None),
            (b'{"serverTime": -1700000000123}', None),
            (b'{"serverTime": "-1700000000123"}', None),
            (b'{"serverTime": "1700000000.123"}', None),
            ('{"serverTime": "١٧٠٠"}'.encode(), None),
            (b'{"serverTime": "' + b"9" * 5000 + b'"}', None),
            (b'{"serverTime": 1700000000123456}', None),
            (b'{"serverTime": 1700000000123}', "now"),
            (b'{"now": {"ms": 1700000000123}}', "now.ms.value"),
        ],
    )
    def test_no_time_is_made_up(self, body: bytes, field: str | None) -> None:
        """Whatever is no time in seconds or milliseconds, and no JSON object, is a ValueError."""
        with pytest.raises(ValueError, match=r"."):
            parse_server_time(body, field)
