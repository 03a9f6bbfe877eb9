"""One token for many processes, or one login at a time."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from shared_support import Fleet

from resilient_adapter.errors import SettingsError
from resilient_adapter.repairs.shared_token import LEASE, SharedToken, fernet, leased
from resilient_adapter.repairs.token import Refreshed, Token, TokenKeeper
from resilient_adapter.state.store import Store

KEY, OTHER_KEY = "A" * 43 + "=", "B" * 42 + "A="
NAME = "token:0123"
INFINITY = float("inf")


class Login:
    """A server's login: each token is another, and only the latest is good.

    Attributes:
        asked: which process has logged in, in order.
        during: called in the middle of the next login.
        fails: whether it answers with an error.
        lives: seconds that a token lives; None: for ever, as far as anybody knows.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.asked: list[str] = []
        self.during: Callable[[], object] | None = None
        self.fails = False
        self.lives: float | None = None

    def __call__(self, who: str) -> Token:
        self.asked.append(who)
        value = f"secret-{len(self.asked)}"
        during, self.during = self.during, None
        if during is not None:
            during()
        if self.fails:
            raise RuntimeError("no")
        return Token(value, None if self.lives is None else self.fleet.clock.time() + self.lives)

    @property
    def good(self) -> str:
        """The latest token."""
        return f"secret-{len(self.asked)}"


class Processes:
    """Processes with one token: each a keeper, by name."""

    def __init__(self, names: str = "ABC", key: str | None = KEY) -> None:
        self.fleet = Fleet()
        self.clock = self.fleet.clock
        self.login = Login(self.fleet)
        self.stores: dict[str, Store] = {}
        self.shared: dict[str, SharedToken] = {}
        self.keepers = {name: self.join(name, key) for name in names}

    def join(self, name: str, key: str | None = KEY) -> TokenKeeper:
        """Return the keeper of one more process."""
        store = self.stores[name] = self.fleet.store()

        def share(heard: Callable[[Token], object]) -> SharedToken:
            self.shared[name] = SharedToken(store, NAME, None if key is None else fernet(key), self.clock, heard)
            return self.shared[name]

        return TokenKeeper(
            lambda: self.login(name),
            header="Authorization",
            scheme="Bearer",
            refresh_ahead=30.0,
            clock=self.clock,
            random=lambda: 0.0,
            wait=(1.0, 2.0, 0.0, 60.0),
            shared=share,
        )

    def __getitem__(self, name: str) -> TokenKeeper:
        return self.keepers[name]

    def refused(self, name: str, deadline: float = INFINITY) -> Refreshed:
        """Let the server refuse a process's token."""
        return self.keepers[name].refresh(self.keepers[name].value(), deadline)

    def record(self) -> Any:
        """Return what the store says."""
        (seen,) = self.fleet.backend.read([NAME])
        return None if seen.value is None else json.loads(seen.value)

    def waiting(self, name: str, then: Callable[[], object] = lambda: None) -> list[float]:
        """Let time pass where a process waits for another, after something happens; returns the seconds it waits."""
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            self.clock.advance(seconds)
            then()

        self.stores[name].wait = wait  # type: ignore[method-assign]
        return waits


class TestShared:
    def test_one_login_serves_all(self) -> None:
        """For the first token, and for each that is refused, whoever finds out first and whether heard of or not."""
        all_ = Processes("ABCD")
        for time in range(1, 4):
            ended = [all_.refused(name) for name in "ABCD"]
            assert ended == [Refreshed.BY_US, *[Refreshed.BY_ANOTHER] * 3]
            assert {keeper.value() for keeper in all_.keepers.values()} == {all_.login.good}
            assert len(all_.login.asked) == time
        assert all_.login.asked == ["A"] * 3

    def test_news_of_it_are_taken(self) -> None:
        """A process that hears of another's token has it before its own is refused; that is not stale for it."""
        all_ = Processes()
        for name in "ABC":
            all_.refused(name)
        all_.refused("B")
        all_.fleet.hear()
        assert [keeper.value() for keeper in all_.keepers.values()] == ["secret-2"] * 3
        assert all_["A"].refresh("secret-1", INFINITY) is Refreshed.NOT_NEEDED
        assert all_.login.asked == ["A", "B"]

    def test_one_that_was_refused_here_is_not_taken(self) -> None:
        """Neither from the store nor from the news: this process knows better."""
        all_ = Processes()
        for name in "AB":
            all_.refused(name)
        all_["B"].refresh("secret-2", INFINITY)  # it was told of that one by a request that carried it
        assert all_.login.asked == ["A"] and all_["B"].value() == "secret-1"
        assert all_.refused("A") is Refreshed.BY_US and all_["A"].value() == "secret-2"
        all_.fleet.hear()
        assert all_["B"].value() == "secret-1"
        assert all_.refused("B") is Refreshed.BY_US and all_.login.asked == ["A", "A", "B"]

    def test_the_others_wait_for_a_login_under_way(self) -> None:
        """And find its token in the store, without one of their own."""
        all_ = Processes()
        ended: list[Refreshed] = []
        logged_in = threading.Event()
        asks = threading.Event()

        def during() -> None:
            waiter.start()
            assert asks.wait(10)

        def wait(seconds: float) -> None:
            asks.set()
            assert logged_in.wait(10)
            all_.stores["B"].listen(0)

        all_.stores["B"].wait = wait  # type: ignore[method-assign]
        waiter = threading.Thread(target=lambda: ended.append(all_.refused("B")))
        all_.login.during = during
        assert all_.refused("A") is Refreshed.BY_US
        logged_in.set()
        waiter.join()
        assert ended == [Refreshed.BY_ANOTHER] and all_.login.asked == ["A"]
        assert all_["B"].value() == all_["A"].value()

    def test_refreshed_ahead_of_its_end(self) -> None:
        """By one of all; the others go by the new one's end as soon as they hear of it."""
        all_ = Processes()
        all_.login.lives = 100.0
        for name in "ABC":
            assert all_[name].prepare(INFINITY) is not None
        all_.clock.advance(75.0)
        assert all_["B"].prepare(INFINITY) is Refreshed.BY_US
        all_.fleet.hear()
        assert [all_[name].prepare(INFINITY) for name in "ABC"] == [None] * 3
        assert all_.login.asked == ["A", "B"] and all_["C"].value() == "secret-2"

    def test_one_past_its_end_is_not_used(self) -> None:
        """It may lie in the store for a day: a process that starts later asks for another."""
        all_ = Processes("AB")
        all_.login.lives = 100.0
        all_.refused("A")
        all_.clock.advance(101.0)
        assert all_["B"].prepare(INFINITY) is Refreshed.BY_US
        assert all_.login.asked == ["A", "B"]

    def test_one_past_its_end_replaces_none(self) -> None:
        """A store that comes back may hold the one of before: a good one in hand is kept."""
        all_ = Processes("AB")
        all_.login.lives = 100.0
        for name in "AB":
            all_.refused(name)
        all_.fleet.fail()
        all_.clock.advance(101.0)
        assert all_["B"].prepare(INFINITY) is Refreshed.BY_US and all_["B"].value() == "secret-2"
        all_.fleet.back()
        assert all_["B"].value() == "secret-2"

    def test_nothing_in_the_store_can_be_read(self) -> None:
        """No token, nor part of one, under any name; two writings of one differ."""
        all_ = Processes()
        all_.refused("A")
        first = all_.record()["token"]
        assert "secret" not in all_.fleet.backend.text() and set(all_.record()) == {"lease", "at", "token"}
        all_.refused("A")
        assert all_.record()["token"] != first and "secret" not in all_.fleet.backend.text()

    @pytest.mark.parametrize("token", ["", "x", None, 5, [], "gAAAAA" + "B" * 80, "\u00e4"])
    def test_what_the_key_does_not_open_is_none(self, token: Any) -> None:
        """Somebody else's, or garbage: a token is asked for, and replaces it."""
        all_ = Processes("A")
        all_.fleet.backend.put(NAME, json.dumps({"token": token, "at": 1.0, "lease": None}))
        assert all_.refused("A") is Refreshed.BY_US and all_["A"].value() == "secret-1"

    def test_another_key(self) -> None:
        """Processes with different keys do not read each other's tokens: each asks for its own, in turn."""
        all_ = Processes("A")
        all_.keepers["X"] = all_.join("X", OTHER_KEY)
        all_.refused("A")
        assert all_.refused("X") is Refreshed.BY_US
        all_.fleet.hear()
        assert all_["A"].value() == "secret-1" and all_["X"].value() == "secret-2"
        assert all_.shared["A"].read(all_.record()) is None
        assert all_.shared["X"].read(all_.record()) == Token("secret-2")

    def test_without_cryptography(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error that says what to install."""
        monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
        with pytest.raises(SettingsError, match=r"shared\.tokens needs the package cryptography: pip install"):
            fernet(KEY)


class TestTurns:
    """Where tokens are not shared."""

    def test_whoevers_is_stale_logs_in(self) -> None:
        """One after the other, each for itself; the store holds no token."""
        all_ = Processes(key=None)
        assert [all_.refused(name) for name in "ABC"] == [Refreshed.BY_US] * 3
        assert [keeper.value() for keeper in all_.keepers.values()] == ["secret-1", "secret-2", "secret-3"]
        assert set(all_.record()) == {"lease", "at"}
        assert all_.refused("B") is Refreshed.BY_US
        all_.fleet.hear()
        assert all_["A"].value() == "secret-1" and all_.login.asked == ["A", "B", "C", "B"]

    def test_never_two_at_once(self) -> None:
        """While one logs in, the others wait for their turn."""
        all_ = Processes("ABCD", key=None)
        busy = threading.Semaphore(1)
        wrong: list[str] = []

        def during() -> None:
            all_.login.during = during
            if not busy.acquire(blocking=False):
                wrong.append("two at once")
            threading.Event().wait(0.002)
            busy.release()

        all_.login.during = during
        for store in all_.stores.values():
            store.wait = lambda seconds, store=store: store.listen(0.001)  # type: ignore[method-assign]
        threads = [threading.Thread(target=all_.refused, args=(name,)) for name in "ABCD"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and sorted(all_.login.asked) == list("ABCD")


@pytest.mark.parametrize("key", [KEY, None])
class TestLeases:
    def test_one_whose_holder_died_ends(self, key: str | None) -> None:
        """Others wait for it no longer than that, and look at their deadline meanwhile."""
        all_ = Processes("AB", key)
        all_.refused("A")
        all_.fleet.backend.put(NAME, json.dumps({"lease": self.held(all_, 2.0)}))
        waits = all_.waiting("B")
        assert all_.refused("B") is Refreshed.BY_US
        assert sum(waits) == pytest.approx(2.0, abs=0.02) and max(waits) <= 0.25

    @staticmethod
    def held(all_: Processes, left: float) -> dict[str, Any]:
        """Return the lease of a process that has died, with so many seconds left."""
        return {"id": "of the dead", "until": all_.clock.time() + left, "for": LEASE}

    def test_a_deadline_ends_the_waiting(self, key: str | None) -> None:
        """Nothing is raised, nobody is asked, and nothing is held back for the next call."""
        all_ = Processes("AB", key)
        all_.fleet.backend.put(NAME, json.dumps({"lease": self.held(all_, 10.0)}))
        waits = all_.waiting("B")
        assert all_.refused("B", all_.clock.monotonic() + 1.0) is Refreshed.HELD_BACK
        assert sum(waits) == pytest.approx(1.0) and all_.login.asked == []
        assert all_.refused("B", all_.clock.monotonic() - 1.0) is Refreshed.HELD_BACK
        assert all_.refused("B") is Refreshed.BY_US

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_login_that_ends_without_a_token_gives_it_back(self, key: str | None, error: type[BaseException]) -> None:
        """An error and an interrupt alike: the next process asks at once."""
        all_ = Processes("AB", key)

        def during() -> None:
            raise error

        all_.login.during = during
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                all_.refused("A")
        else:
            assert all_.refused("A") is Refreshed.FAILED and isinstance(all_["A"].last_error, RuntimeError)
        assert all_.record() == {"lease": None}
        waits = all_.waiting("B")
        assert all_.refused("B") is Refreshed.BY_US and waits == []

    def test_an_interrupt_while_the_lease_is_taken(self, key: str | None) -> None:
        """The store may have given it all the same: it is given back, and nobody was asked."""
        all_ = Processes("AB", key)

        def interrupt() -> None:
            raise KeyboardInterrupt

        all_.fleet.backend.before_answer = interrupt
        with pytest.raises(KeyboardInterrupt):
            all_.refused("A")
        assert all_.login.asked == [] and all_.record() == {"lease": None}
        waits = all_.waiting("B")
        assert all_.refused("B") is Refreshed.BY_US and waits == []
        assert all_.refused("A") is (Refreshed.BY_ANOTHER if key else Refreshed.BY_US)

    def test_a_failed_login_keeps_the_token_of_before(self, key: str | None) -> None:
        """It may still be good for the others."""
        all_ = Processes("AB", key)
        all_.refused("A")
        before = all_.record()
        all_.login.fails = True
        assert all_.refused("A") is Refreshed.FAILED
        assert all_.record() == before

    def test_one_that_was_overtaken(self, key: str | None) -> None:
        """It took longer than its lease, and another logged in since: that one's token is the one that holds."""
        all_ = Processes("AB", key)

        def during() -> None:
            all_.clock.advance(LEASE)
            assert all_.refused("B") is Refreshed.BY_US

        all_.login.during = during
        assert all_.refused("A") is Refreshed.BY_US
        assert all_.login.asked == ["A", "B"] and all_["B"].value() == "secret-2"
        assert all_["A"].value() == ("secret-2" if key else "secret-1")
        assert all_.record()["lease"] is None
        if key is not None:
            assert all_.shared["A"].read(all_.record()) == Token("secret-2")

    def test_one_that_was_overtaken_by_a_failure(self, key: str | None) -> None:
        """Nobody has a newer one: its own is used."""
        all_ = Processes("AB", key)

        def during() -> None:
            all_.clock.advance(LEASE)
            all_.login.fails = True
            assert all_.refused("B") is Refreshed.FAILED
            all_.login.fails = False

        all_.login.during = during
        assert all_.refused("A") is Refreshed.BY_US and all_["A"].value() == "secret-1"

    def test_a_record_that_was_lost_meanwhile(self, key: str | None) -> None:
        """The login counts here; the others log in for themselves."""
        all_ = Processes("AB", key)
        all_.login.during = all_.fleet.backend.lose
        assert all_.refused("A") is Refreshed.BY_US and all_["A"].value() == "secret-1"
        assert all_.record() is None
        assert all_.refused("B") is Refreshed.BY_US and all_["B"].value() == "secret-2"

    @pytest.mark.parametrize("when", ["before", "during"])
    def test_a_store_that_fails(self, key: str | None, when: str) -> None:
        """Each process logs in for itself; nothing is raised."""
        all_ = Processes("AB", key)
        if when == "during":
            all_.login.during = all_.fleet.fail
        else:
            all_.fleet.fail()
        for name in "AB":
            assert all_.refused(name) is Refreshed.BY_US
        assert all_.login.asked == ["A", "B"] and all_["A"].value() == "secret-1"
        assert all_.refused("A") is Refreshed.BY_US

    @pytest.mark.parametrize("text", [
        "5", "[]", '"x"', '{"lease": 5}', '{"lease": "x"}', '{"lease": {}}', '{"lease": {"until": "x", "for": 1}}',
        '{"lease": [1]}', '{"token": {}}', "nonsense",
    ])  # fmt: skip
    def test_what_is_no_record_of_ours(self, key: str | None, text: str) -> None:
        """It holds no lease and no token, and is replaced."""
        all_ = Processes("AB", key)
        all_.fleet.backend.put(NAME, text)
        assert all_.refused("A") is Refreshed.BY_US
        assert all_.record()["lease"] is None and leased(all_.record(), 0.0) == 0.0
        all_.fleet.backend.put(NAME, text)
        all_.fleet.hear()
        assert all_["A"].value() == "secret-1"

    def test_threads_of_one_process_are_served_by_one(self, key: str | None) -> None:
        """Whatever other processes do: the store is asked once for all of them."""
        all_ = Processes("A", key)
        keeper = all_["A"]
        entered = threading.Event()

        def during() -> None:
            entered.set()
            threading.Event().wait(0.02)

        all_.login.during = during
        ended: list[Refreshed] = []
        threads = [threading.Thread(target=lambda: ended.append(keeper.refresh(None, INFINITY))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all_.login.asked == ["A"] and ended.count(Refreshed.BY_US) == 1 and entered.is_set()
