"""What processes share, with real processes, a real store and a real server: whoever is asked, all of them know.

Facts are read off the gateway's journal: who asked when. Times are bounds that a busy machine keeps too; how long
things take is measured by tests/benchmarks/bench_shared.py.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fleet_support import PATH, Fleet, delivered, warned
from state_support import ValkeyServer, free_port, valkey

from resilient_adapter.cli import main
from resilient_adapter.testing import Answer, Fault, Gateway
from resilient_adapter.testing.messages import Received, Request

SIZE = 4
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
PATIENCE = 5.0  # seconds: that the machine is busy is no failure of the store
BUSY = Fault.code(-1008, 503)
_numbers = itertools.count(1)

Shared = dict[str, Any]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Run four processes for all tests here."""
    with Fleet(SIZE) as running:
        yield running


@pytest.fixture
def victim() -> Iterator[Fleet]:
    """Run a fifth process, which may be killed."""
    with Fleet(1, first=SIZE) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Run one server for all tests here that do not hurt it."""
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(params=["redis", "file"])
def shared(request: pytest.FixtureRequest, server: ValkeyServer, tmp_path: Path) -> Shared:
    """Return the settings ``shared`` of a store that no other test uses."""
    url = server.url if request.param == "redis" else (tmp_path / "state").as_uri()
    return {"url": url, "namespace": f"test-{next(_numbers)}"}


def who(entry: Request) -> int:
    """Return the number of the process that sent a request."""
    return int(entry.path.removeprefix(PATH))


def calls(gateway: Gateway, since: float = 0.0, until: float = float("inf")) -> list[Received]:
    """Return the calls, without logins, that arrived in a span of monotonic time."""
    return [entry for entry in gateway.received(PATH + "*") if since <= entry.time < until]


def eventually(happened: Callable[[], object], what: str) -> None:
    """Wait until something has happened."""
    give_up = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def all_call(gateway: Gateway, processes: Sequence[int] = range(SIZE), since: float | None = None) -> None:
    """Wait until every process has made a call after a monotonic time (None: now) that went well."""
    start = time.monotonic() if since is None else since

    def good() -> bool:
        return {who(entry) for entry in calls(gateway, start) if entry.code == 0} >= set(processes)

    eventually(good, f"not all of {list(processes)} make good calls")


class CountingGateway(Gateway):
    """A gateway that logs in slowly, and counts how many logins there are at a time."""

    def __init__(self, login: float = 0.1) -> None:
        super().__init__(require_token=True)
        self._login = login
        self._lock = threading.Lock()
        self._now = self.most = 0

    def handle(self, request: Request) -> Answer:
        if request.path != "/login":
            return super().handle(request)
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._login)
        with self._lock:
            self._now -= 1
        return super().handle(request)

    def logins(self) -> int:
        return len(self.received("/login"))


class TestTokens:
    @pytest.mark.parametrize("tokens", [True, False], ids=["shared", "not shared"])
    def test_one_login_at_a_time_and_one_in_all_where_tokens_are_shared(
        self, fleet: Fleet, shared: Shared, tokens: bool
    ) -> None:
        """For the first token, and for one that expires: one login; else one of each process, one after another."""
        most = 1 if tokens else SIZE
        settings = {"shared": {**shared, "tokens": tokens, **({"token_key": KEY} if tokens else {})}}
        with CountingGateway() as gateway:
            settings |= {"token": {"url": gateway.url + "/login"}}
            fleet.start(gateway.url, settings, patience=PATIENCE)
            all_call(gateway)
            assert 1 <= gateway.logins() <= most
            time.sleep(0.3)  # a call that meets two expiries is delivered as it stands
            gateway.expire_tokens()
            all_call(gateway)
            assert 2 <= gateway.logins() <= 2 * most
            results = fleet.stop()
        assert set(delivered(results)) == {0}
        assert gateway.most == 1
        assert warned(results) == [[]] * SIZE

    @pytest.mark.parametrize("tokens", [True, False], ids=["shared", "not shared"])
    def test_a_killed_process_that_was_logging_in_is_replaced(
        self, fleet: Fleet, victim: Fleet, shared: Shared, tokens: bool
    ) -> None:
        """Not before its lease ends: it might still be at it."""
        lease = 1.0
        settings = {"shared": {**shared, "tokens": tokens, **({"token_key": KEY} if tokens else {})}}
        with CountingGateway() as gateway:
            settings |= {"token": {"url": gateway.url + "/login"}}
            gateway.script(Fault.delay(30.0), path="/login")
            victim.start(gateway.url, settings, patience=PATIENCE, lease=lease)
            (first,) = gateway.wait_for(1, "/login", timeout=20)
            fleet.start(gateway.url, settings, patience=PATIENCE, lease=lease)
            victim.kill()
            all_call(gateway)
            results = fleet.stop()
            later = gateway.received("/login")[1:]
        # The lease was taken a moment before its login arrived.
        assert later[0].time > first.time + lease - 0.5
        assert len(later) <= (1 if tokens else SIZE)
        assert gateway.most == 1
        assert set(delivered(results)) == {0}


class TestCircuit:
    def test_a_circuit_that_one_process_opens_stops_the_others_until_a_person_resets_it(
        self, fleet: Fleet, shared: Shared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Within a second, although none of them has met a failure."""
        settings = {"shared": shared, "retry": {"max_attempts": 1}, "circuit": {"reset_timeout": 60, "reset_max": 60}}
        file = tmp_path / "settings.toml"
        file.write_text("[shared]\n" + "".join(f'{name} = "{value}"\n' for name, value in shared.items()))
        with Gateway() as gateway:
            fleet.start(gateway.url, settings, patience=PATIENCE)
            all_call(gateway)
            gateway.script(*[BUSY] * 100, path=PATH + "0")
            eventually(lambda: len([entry for entry in calls(gateway) if entry.code == -1008]) >= 5, "nothing failed")
            opened = time.monotonic()
            time.sleep(1.2)
            assert [who(entry) for entry in calls(gateway, opened + 1.0)] == []
            assert {who(entry) for entry in calls(gateway) if entry.code != 0} == {0}
            gateway.clear()
            assert main(["state", "--settings", str(file)]) == 0
            assert f"circuit  {gateway.url}  open, the next probe in" in capsys.readouterr().out
            assert main(["state", "--settings", str(file), "--reset"]) == 0
            assert "nothing is shared" in capsys.readouterr().out
            all_call(gateway)
            results = fleet.stop()
        assert set(delivered(results)) == {0, -1008, "CircuitOpenError"}

    def test_one_probe_speaks_for_all(self, fleet: Fleet, shared: Shared) -> None:
        """While a probe is on its way nobody else asks, and after a failed one nobody does for ``reset_timeout``."""
        wait, work = 0.4, 0.25
        circuit = {"reset_timeout": wait, "reset_factor": 1.0}
        settings = {"shared": shared, "retry": {"max_attempts": 1}, "circuit": circuit}
        well = threading.Event()

        def answer(request: Request) -> Answer:
            time.sleep(work)
            return Answer.success() if well.is_set() else Answer.error(-1008, status=503)

        with Gateway() as gateway:
            gateway.respond(PATH + "*", answer)
            fleet.start(gateway.url, settings, patience=PATIENCE)
            eventually(lambda: any(entry.code == -1008 for entry in calls(gateway)), "nothing failed")
            start = time.monotonic() + 1.0
            eventually(lambda: len(calls(gateway, start)) >= 3, "nobody probes")
            probes = [entry.time for entry in calls(gateway, start)]
            well.set()
            changed = time.monotonic()
            all_call(gateway, since=changed)
            healed = [entry.time for entry in calls(gateway, probes[-1])]
            fleet.stop()
        # The lease, its outcome and the gateway's journal are a moment apart.
        gaps = [later - earlier for earlier, later in itertools.pairwise(probes)]
        assert min(gaps) > wait + work - 0.1
        # All wait for the answer of the probe that was on its way when the server was well again.
        assert healed[1] - healed[0] > work - 0.1

    def test_a_killed_process_that_was_probing_is_replaced(self, fleet: Fleet, victim: Fleet, shared: Shared) -> None:
        """By one other, once its lease is over; a good probe then closes the circuit of all."""
        circuit = {"reset_timeout": 0.3, "reset_factor": 1.0}
        settings = {"shared": shared, "retry": {"max_attempts": 1}, "circuit": circuit}
        settings |= {"connect_timeout": 0.5, "read_timeout": 1.0}
        lease, work = 1.5, 0.3

        def answer(request: Request) -> Answer:
            time.sleep(work)
            return Answer.success()

        with Gateway() as gateway:
            gateway.respond(PATH + "*", answer)
            gateway.script(*[BUSY] * 5, Fault.delay(30.0), path=PATH + str(SIZE))
            victim.start(gateway.url, settings, threads=1, patience=PATIENCE)
            probe = gateway.wait_for(6, timeout=20)[5]
            victim.kill()
            fleet.start(gateway.url, settings, patience=PATIENCE)
            all_call(gateway, since=probe.time)
            later = calls(gateway, probe.time)[1:]
            fleet.stop()
        assert later[0].time > probe.time + lease - 0.2
        assert later[1].time > later[0].time + work - 0.1


class TestLimits:
    def test_a_cooldown_that_one_process_is_given_holds_in_all(self, fleet: Fleet, shared: Shared) -> None:
        """Nobody asks before its end, and everybody does after it."""
        wait = 2.0
        with Gateway() as gateway:
            fleet.start(gateway.url, {"shared": shared}, patience=PATIENCE)
            all_call(gateway)
            gateway.script(Fault.code(-1003, 429, retry_after=wait), path=PATH + "0")
            eventually(lambda: any(entry.code == -1003 for entry in calls(gateway)), "nobody was throttled")
            (throttled,) = (entry.time for entry in calls(gateway) if entry.code == -1003)
            all_call(gateway, since=throttled + 1.0)
            results = fleet.stop()
            later = calls(gateway, throttled + 1.0)
        assert later[0].time > throttled + wait - 0.05
        assert set(delivered(results)) == {0}

    def test_the_sum_of_all_keeps_to_the_limit(self, fleet: Fleet, shared: Shared) -> None:
        """And uses it."""
        limit = 60
        settings = {"shared": shared, "rate_limit": {"rate": f"{limit}/s"}}
        with Gateway() as gateway:
            fleet.start(gateway.url, settings, threads=4, gap=0.01, patience=PATIENCE)
            all_call(gateway)
            # The first come in a burst, and a window passes before the next.
            start = calls(gateway)[0].time + 1.5
            time.sleep(max(0.0, start + 1.6 - time.monotonic()))
            results = fleet.stop()
            times = [entry.time for entry in calls(gateway)]
        most = max(sum(begin <= one < begin + 1.0 for one in times) for begin in times)
        steady = [one for one in times if start <= one < start + 1.5]
        # A busy machine delays some on their way, and those who wait for their turn.
        assert most <= 1.1 * limit
        assert len(steady) >= 0.75 * 1.5 * limit
        assert set(delivered(results)) == {0}
        assert sum(one.operations.get("swap", 0) for one in results) < 2 * len(times)


class TestStore:
    def test_calls_that_go_well_ask_the_store_nothing(self, fleet: Fleet, server: ValkeyServer, shared: Shared) -> None:
        """It hears of nobody once everybody has said hello."""
        with Gateway() as gateway:
            fleet.start(gateway.url, {"shared": shared}, gap=0.01, patience=PATIENCE)
            all_call(gateway)
            server.ask("CONFIG", "RESETSTAT")
            before = len(calls(gateway))
            eventually(lambda: len(calls(gateway)) > before + 500, "too few calls")
            commands = commands_of(server)
            results = fleet.stop()
        assert commands == 0
        assert warned(results) == [[]] * SIZE and set(delivered(results)) == {0}
        for one in results:
            # A record of the circuit, of the cooldown, of the budget; and all of them, once it listens.
            assert set(one.operations) == {"read"}
            assert one.operations["read"] <= 4

    def test_calls_go_on_when_the_server_is_killed_and_share_again_when_it_is_back(
        self, fleet: Fleet, tmp_path: Path
    ) -> None:
        """Nothing is raised; each process says once that it goes on alone, and once that it does not any more."""
        shared = {"namespace": "test"}
        limits = {"rate": "400/s"}  # so that calls ask the store
        with valkey(tmp_path) as server, Gateway() as gateway:
            fleet.start(gateway.url, {"shared": {**shared, "url": server.url}, "rate_limit": limits})
            all_call(gateway)
            server.kill()
            killed = time.monotonic()
            all_call(gateway, since=killed + 0.5)
            server.start()
            eventually(lambda: listeners(server) == SIZE, "not all are back")
            time.sleep(0.2)
            gateway.script(Fault.code(-1003, 429, retry_after=2), path=PATH + "0")
            eventually(lambda: any(entry.code == -1003 for entry in calls(gateway)), "nobody was throttled")
            (throttled,) = (entry.time for entry in calls(gateway) if entry.code == -1003)
            all_call(gateway, since=throttled + 1.0)
            results = fleet.stop()
            again = calls(gateway, throttled + 1.0)
        assert again[0].time > throttled + 1.95
        assert set(delivered(results)) == {0}
        for texts in warned(results):
            assert len(texts) == 2
            assert "going on without it, each process by itself" in texts[0]
            assert texts[1] == "the shared store is back"

    @pytest.mark.parametrize(
        ("what", "text"),
        [
            ("unreachable", "it cannot be reached: Connection refused"),
            ("stopped", "it did not answer within 0.2 s"),
            ("password", "it wants a password, and the URL has none"),
            ("wrong password", "it does not know this user and password"),
            ("replica", "it is a read-only replica; name the primary, or the sentinels"),
            ("full", "it is out of memory, and takes nothing new (maxmemory)"),
            ("no folder", "there is no folder"),
            ("no database", "it is no SQLite file; name another, or remove it"),
        ],
    )
    def test_a_store_that_is_of_no_use_is_named_once_and_calls_go_on(
        self, fleet: Fleet, tmp_path: Path, what: str, text: str
    ) -> None:
        """Each process paces its calls by itself, and says why."""
        with unusable(what, tmp_path) as url, Gateway() as gateway:
            settings = {"shared": {"url": url}, "rate_limit": {"rate": "200/s"}}
            # A busy machine is not to come first with a complaint of its own.
            fleet.start(gateway.url, settings, patience=0.2 if what == "stopped" else PATIENCE)
            all_call(gateway)
            all_call(gateway)
            results = fleet.stop()
        assert set(delivered(results)) == {0}
        for texts in warned(results):
            assert len(texts) == 1
            assert text in texts[0]
            assert texts[0].endswith("; going on without it, each process by itself")
            assert "secret" not in texts[0]


@contextlib.contextmanager
def unusable(what: str, folder: Path) -> Iterator[str]:
    """Run a store that cannot be used, for one reason or another; yield its URL."""
    if what == "unreachable":
        yield f"redis://127.0.0.1:{free_port()}"
    elif what == "no folder":
        yield (folder / "none" / "state").as_uri()
    elif what == "no database":
        (folder / "state").write_text("something else " * 100)
        yield (folder / "state").as_uri()
    else:
        options: dict[str, tuple[str, ...]] = {
            "replica": ("--replicaof", f"127.0.0.1 {free_port()}"),
            "full": ("--maxmemory", "1"),
            "password": ("--requirepass", "secret"),
            "wrong password": ("--requirepass", "secret"),
        }
        with valkey(folder, *options.get(what, ())) as server:
            if what == "stopped":
                server.signal(signal.SIGSTOP)
            user = ":secret-but-wrong@" if what == "wrong password" else ""
            yield f"redis://{user}127.0.0.1:{server.port}"


def commands_of(server: ValkeyServer) -> int:
    """Return how many commands others have sent, but for those that ask whether it is still there."""
    found = server.ask("INFO", "commandstats")
    return sum(each["calls"] for name, each in found.items() if name.removeprefix("cmdstat_") not in _OURS)


_OURS = ("config|resetstat", "info", "ping", "client|setinfo", "hello", "select", "pubsub|numsub")


def listeners(server: ValkeyServer) -> int:
    """Return how many processes are subscribed."""
    return int(server.ask("PUBSUB", "NUMSUB", "{test}:changes@0")[1])
