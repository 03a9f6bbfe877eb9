"""install(): every session made from now on, and nothing else."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import requests_mock
from requests.adapters import HTTPAdapter
from requests.sessions import Session
from urllib3.util import Retry

import resilient_adapter as ra
from resilient_adapter.testing import FakeClock, Fault, Gateway

PLAIN_MOUNT = Session.mount
ROOT = Path(__file__).parents[1]
DROP = Fault.reset("before")


@pytest.fixture(autouse=True)
def nothing_left_installed() -> Iterator[None]:
    """Fail a test that leaves requests changed."""
    yield
    assert Session.mount is PLAIN_MOUNT


@pytest.fixture
def installed(clock: FakeClock) -> Iterator[Any]:
    """Install for one test, with waits that take no time."""
    with ra.install(ra.Settings(), clock=clock) as installation:
        yield installation


class Client(requests.Session):
    """A subclass as libraries write them: it sets things up, and makes itself a session only then."""

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__()
        self.mount(url + "/bulk", HTTPAdapter(pool_maxsize=2, pool_block=True))


class OwnAdapter(HTTPAdapter):
    """An adapter of somebody's own."""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about adapters that are not covered."""
    return [record.getMessage() for record in caplog.records if "left_alone" in record.getMessage()]


class TestWhatIsCovered:
    @pytest.mark.parametrize(
        "get",
        [
            requests.get,
            lambda url: requests.request("GET", url),
            lambda url: requests.Session().get(url),
            lambda url: requests.session().get(url),
            lambda url: requests.sessions.Session().get(url),
            lambda url: Client(url).get(url),
            lambda url: Client(url).get(url + "/bulk/1"),
            lambda url: requests.Session().send(requests.Request("GET", url).prepare()),
        ],
    )
    def test_every_way_to_a_session(self, installed: Any, gateway: Gateway, get: Any) -> None:
        """However a session is made, its calls survive a dropped connection, and say so."""
        gateway.script(DROP, None)
        response = get(gateway.url)
        assert response.json()["code"] == 0
        assert len(ra.resilience_of(response).attempts) == 2

    def test_every_module_that_has_taken_its_names_before(self, gateway: Gateway, clock: FakeClock) -> None:
        """``from requests import get, Session`` before install() makes no difference."""
        from requests import get, post

        session_class = requests.Session
        with ra.install(clock=clock):
            gateway.script(DROP, None, Fault.code(-1003, retry_after=1), None, DROP, None)
            codes = [get(gateway.url).json()["code"], post(gateway.url).json()["code"]]
            codes.append(session_class().get(gateway.url).json()["code"])
        assert codes == [0, 0, 0]

    def test_a_session_made_before_is_not_touched(self, gateway: Gateway, clock: FakeClock) -> None:
        """Neither are adapters that are mounted on it later."""
        old = requests.Session()
        with ra.install(clock=clock):
            old.mount(gateway.url + "/late", HTTPAdapter())
            assert {type(adapter) for adapter in old.adapters.values()} == {HTTPAdapter}
            gateway.script(DROP)
            with pytest.raises(requests.ConnectionError):
                old.get(gateway.url + "/late")
        old.close()
        assert len(gateway.journal) == 1

    def test_a_session_made_under_it_keeps_it(self, gateway: Gateway, clock: FakeClock) -> None:
        """What uninstall() changes are the sessions to come."""
        with ra.install(clock=clock):
            session = requests.Session()
        gateway.script(DROP, None)
        assert session.get(gateway.url).json()["code"] == 0
        assert not isinstance(requests.Session().get_adapter(gateway.url), ra.ResilientAdapter)
        session.close()

    def test_arguments_are_the_adapters_own(self, gateway: Gateway, clock: FakeClock) -> None:
        """Settings as a mapping, listeners and pool options reach the shared adapter; max_retries is refused."""
        events: list[ra.Event] = []
        gateway.script(DROP, None)
        with ra.install({"retry": {"max_attempts": 2}}, clock=clock, listeners=[events.append], pool_maxsize=3) as it:
            requests.get(gateway.url)
            assert it.adapter._pool_maxsize == 3
            assert it.adapter.settings.retry.max_attempts == 2
        assert [event.name for event in events] == ["retry"]
        with pytest.raises(ra.SettingsError, match="max_retries"):
            ra.install(max_retries=3)

    def test_a_transport_given_to_it_is_used_by_all(self, clock: FakeClock) -> None:
        """``install(transport=…)`` sends through that, and a session's close() leaves it open."""
        transport = requests_mock.Adapter()
        transport.register_uri("GET", "http://api.invalid/", [{"status_code": 502}, {"text": "fine"}])
        closed: list[bool] = []
        transport.close = lambda: closed.append(True)
        with ra.install(clock=clock, transport=transport):
            assert requests.get("http://api.invalid/").text == "fine"
            assert closed == []
        assert closed == [True]


class TestOnePool:
    def test_requests_get_reuses_connections(self, installed: Any, gateway: Gateway) -> None:
        """300 calls of ``requests.get`` take one connection; their sessions' close() does not close it."""
        for _ in range(300):
            assert requests.get(gateway.url).status_code == 200
        assert gateway.connections == 1

    @pytest.mark.parametrize(("method", "connections"), [("PUT", 1), ("DELETE", 1), ("POST", 5), ("PATCH", 5)])
    def test_what_may_not_be_repeated_does_not_share_it(
        self, installed: Any, gateway: Gateway, method: str, connections: int
    ) -> None:
        """A kept connection that the server has just closed would put an order in doubt: it has its session's own."""
        for _ in range(5):
            requests.request(method, gateway.url)
        assert gateway.connections == connections
        session = requests.Session()
        for _ in range(5):
            session.request(method, gateway.url)
        assert gateway.connections == connections + (connections > 1)  # which that keeps, as ever

    @pytest.mark.parametrize("scheme", ["NTLM", "Negotiate", "negotiate", "Kerberos", b"NTLM"])
    def test_what_logs_in_for_a_connection_does_not_share_it(
        self, installed: Any, gateway: Gateway, scheme: Any
    ) -> None:
        """Nobody else is given the connection that a session has logged in on, before or after that session ends."""
        value = scheme + b" abc" if isinstance(scheme, bytes) else f"{scheme} abc"
        other = requests.Session()
        other.get(gateway.url)
        session = requests.Session()
        session.get(gateway.url)
        session.get(gateway.url, headers={"Authorization": value})
        session.get(gateway.url)  # on the connection that is logged in
        other.get(gateway.url)
        session.close()
        other.get(gateway.url)
        assert [entry.connection for entry in gateway.journal] == [1, 1, 2, 2, 1, 1]

    def test_credentials_of_other_kinds_share_it(self, installed: Any, gateway: Gateway) -> None:
        """Basic and Bearer are for one request each."""
        for value in ("Basic YTpi", "Bearer NTLM", ""):
            requests.get(gateway.url, headers={"Authorization": value})
        assert gateway.connections == 1

    def test_many_hosts(self, installed: Any) -> None:
        """What would have been many sessions' pools are all kept."""
        gateways = [Gateway().start() for _ in range(12)]
        try:
            for _ in range(2):
                for one in gateways:
                    requests.get(one.url)
            assert [one.connections for one in gateways] == [1] * 12
        finally:
            for one in gateways:
                one.stop()

    def test_threads_share_it(self, installed: Any, gateway: Gateway) -> None:
        """As many connections as threads, not as calls."""

        def work() -> None:
            for _ in range(10):
                with requests.Session() as session:
                    assert session.get(gateway.url).status_code == 200

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(gateway.journal) == 80
        assert gateway.connections <= 8

    def test_uninstall_closes_what_is_idle(self, gateway: Gateway) -> None:
        """No connection is left open behind it, and a session that lives on opens another."""
        with ra.install():
            session = requests.Session()
            session.get(gateway.url)
        session.get(gateway.url)
        session.get(gateway.url)
        assert gateway.connections == 2

    def test_state_is_shared(self, installed: Any, gateway: Gateway, clock: FakeClock) -> None:
        """A rate limit that one session met is waited for by the next."""
        gateway.script(Fault.code(-1003, status=429, retry_after=300))
        assert requests.get(gateway.url).status_code == 429
        assert requests.get(gateway.url).headers["Retry-After"] == "300"
        assert len(gateway.journal) == 1


class TestUninstall:
    def test_it_restores_the_very_attribute(self) -> None:
        """What is patched is one attribute, and it is the same object again afterwards."""
        before = dict(vars(Session))
        ra.install()
        assert {name for name in before if vars(Session)[name] is not before[name]} == {"mount"}
        ra.uninstall()
        assert dict(vars(Session)) == before

    def test_without_an_installation_it_does_nothing(self) -> None:
        """Nor does leaving a context that was uninstalled by hand."""
        ra.uninstall()
        with ra.install():
            ra.uninstall()
            assert Session.mount is PLAIN_MOUNT

    def test_nested(self, gateway: Gateway, clock: FakeClock) -> None:
        """The innermost installation serves the sessions made under it, and the outer one is back after it."""

        def attempts() -> int:
            gateway.script(DROP, DROP, DROP, None)
            try:
                with requests.Session() as session:
                    return len(ra.resilience_of(session.get(gateway.url)).attempts)
            except requests.ConnectionError as error:
                return -len(ra.resilience_of(error).attempts)
            finally:
                gateway.clear()

        with ra.install({"retry": {"max_attempts": 2}}, clock=clock):
            patched = Session.mount
            assert attempts() == -2
            with ra.install({"retry": {"max_attempts": 4}}, clock=clock):
                assert attempts() == 4
            assert Session.mount is patched
            assert attempts() == -2

    def test_nested_out_of_order(self) -> None:
        """Each context takes out its own, whatever the order."""
        outer = ra.install({"deadline": 1})
        inner = ra.install({"deadline": 2})
        outer.__exit__(None, None, None)
        assert requests.Session().get_adapter("http://").settings.deadline == 2
        inner.__exit__(None, None, None)

    def test_somebody_elses_patch_on_top_is_left_in_place(self) -> None:
        """Ours does nothing beneath it from then on, and can be installed again above it."""
        mounted: list[str] = []
        ra.install()
        ours = Session.mount

        def theirs(self: Session, prefix: str, adapter: Any) -> None:
            mounted.append(prefix)
            ours(self, prefix, adapter)

        Session.mount = theirs  # type: ignore[method-assign]
        try:
            ra.uninstall()
            assert Session.mount is theirs
            assert type(requests.Session().adapters["http://"]) is HTTPAdapter
            with ra.install():
                assert isinstance(requests.Session().adapters["http://"], ra.ResilientAdapter)
            assert Session.mount is theirs
        finally:
            Session.mount = PLAIN_MOUNT  # type: ignore[method-assign]
        assert mounted == ["https://", "http://"] * 2

    def test_a_subclass_in_the_place_of_session(self, monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
        """Where another package has put its own class there, sessions of the original one are covered as well."""
        monkeypatch.setattr(requests, "Session", Client)
        with ra.install():
            assert isinstance(Session().adapters["http://"], ra.ResilientAdapter)
            assert isinstance(Client(gateway.url).adapters["http://"], ra.ResilientAdapter)


class TestMountedByTheScript:
    def test_a_plain_adapter_is_covered_and_stays_itself(self, installed: Any, gateway: Gateway) -> None:
        """It is the same object, with its options, its own pool, and a close() that closes it."""
        adapter = HTTPAdapter(pool_connections=3, pool_maxsize=2, pool_block=True)
        session = requests.Session()
        session.mount("http://", adapter)
        gateway.script(DROP, None)
        assert session.get_adapter(gateway.url) is adapter
        assert session.get(gateway.url).json()["code"] == 0
        assert isinstance(adapter, ra.ResilientAdapter)
        assert (adapter._pool_connections, adapter._pool_maxsize, adapter._pool_block) == (3, 2, True)
        assert len(adapter.poolmanager.pools) == 1
        assert len(installed.adapter.poolmanager.pools) == 0
        session.close()
        assert len(adapter.poolmanager.pools) == 0

    @pytest.mark.parametrize(
        "repeats", [2, Retry(total=2), Retry(total=None, connect=2), Retry(2, status_forcelist=[503])]
    )
    def test_one_with_retries_is_left_alone(
        self, installed: Any, gateway: Gateway, caplog: pytest.LogCaptureFixture, repeats: Any
    ) -> None:
        """It works as ever, and there is one warning, whoever mounts how many of them."""
        gateway.script(Fault.status(502))
        for _ in range(2):
            with requests.Session() as session:
                session.mount("http://", HTTPAdapter(max_retries=repeats))
                session.mount("https://", HTTPAdapter(max_retries=repeats))
                response = session.get(gateway.url)
                assert type(session.get_adapter(gateway.url)) is HTTPAdapter
                assert not hasattr(response, "resilience")
        assert [entry.status for entry in gateway.journal] == [502, 200]
        (warning,) = warnings(caplog)
        assert "left_alone" in warning and "retry.max_attempts" in warning

    @pytest.mark.parametrize("none", [0, Retry(0), Retry(False), Retry(0, read=False)])
    def test_retries_that_are_none_are_no_retries(self, installed: Any, caplog: Any, none: Any) -> None:
        """``max_retries=0`` in any of its spellings is a plain adapter."""
        session = requests.Session()
        session.mount("http://", HTTPAdapter(max_retries=none))
        assert isinstance(session.get_adapter("http://"), ra.ResilientAdapter)
        assert warnings(caplog) == []

    def test_another_class_is_left_alone(
        self, installed: Any, gateway: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A class of somebody's own does something of its own; one warning for each such class."""
        with requests.Session() as session:
            for adapter in (OwnAdapter(), OwnAdapter(), requests_mock.Adapter()):
                session.mount("http://", adapter)
                assert session.get_adapter(gateway.url) is adapter
        assert [line.split()[1] for line in warnings(caplog)] == [
            f"adapter={__name__}.OwnAdapter",
            "adapter=requests_mock.adapter.Adapter",
        ]

    def test_the_warning_is_below_some_levels(self, caplog: pytest.LogCaptureFixture) -> None:
        """``log.level`` is heeded here too."""
        with ra.install({"log": {"level": "error"}}):
            requests.Session().mount("http://", OwnAdapter())
        assert warnings(caplog) == []

    def test_a_resilient_adapter_of_its_own_stays_in_charge(
        self, installed: Any, gateway: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A script that knows the package is not overruled, nor warned of."""
        own = ra.ResilientAdapter({"retry": {"max_attempts": 1}})
        with requests.Session() as session:
            session.mount("http://", own)
            gateway.script(Fault.status(502))
            assert session.get(gateway.url).status_code == 502
        assert warnings(caplog) == []
        assert type(own) is ra.ResilientAdapter

    def test_retries_given_later_turn_it_off(
        self, installed: Any, gateway: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        """``session.adapters[…].max_retries = …`` would repeat beneath us: from then on it is plain requests."""
        with requests.Session() as session:
            session.get_adapter(gateway.url).max_retries = Retry(1)
            gateway.script(Fault.status(502))
            assert session.get(gateway.url).status_code == 502
        assert len(warnings(caplog)) == 1

    def test_an_adapter_tuned_later_uses_its_own_pool(self, installed: Any, gateway: Gateway) -> None:
        """What a script sets on a session's adapter (a source address, an SSL context) has its effect."""
        with requests.Session() as session:
            session.get_adapter(gateway.url).poolmanager.connection_pool_kw["source_address"] = ("127.0.0.2", 0)
            gateway.script(DROP, None)
            assert session.get(gateway.url).json()["code"] == 0
            assert len(session.get_adapter(gateway.url).poolmanager.pools) == 1
        assert requests.get(gateway.url).ok
        assert len(installed.adapter.poolmanager.pools) == 1

    def test_adapters_written_to_directly_get_plain_requests(self, installed: Any, gateway: Gateway) -> None:
        """``session.adapters[…] = …`` goes past mount(): what is put there is used as it is."""
        with requests.Session() as session:
            session.adapters["http://"] = HTTPAdapter()
            assert not hasattr(session.get(gateway.url), "resilience")

    def test_a_session_whose_adapters_are_broken_raises_as_ever(self, installed: Any) -> None:
        """A subclass that mounts before it is a session gets requests' own AttributeError."""

        class Hasty(requests.Session):
            def __init__(self) -> None:
                self.mount("http://", HTTPAdapter())

        with pytest.raises(AttributeError, match="'Hasty' object has no attribute 'adapters'"):
            Hasty()


class TestCopiesAndPickles:
    def test_a_pickle_read_under_an_installation_is_covered(self, gateway: Gateway, clock: FakeClock) -> None:
        """By that installation, whichever it was written under; options are kept."""
        with ra.install({"deadline": 1}, token_source=None, listeners=[lambda event: None]):
            session = requests.Session()
            session.headers["X-Own"] = "kept"
            session.mount(gateway.url, HTTPAdapter(pool_maxsize=7))
            data = pickle.dumps(session)
        with ra.install({"deadline": 2}, clock=clock):
            gateway.script(DROP, None)
            again = pickle.loads(data)
            assert again.get(gateway.url).json()["code"] == 0
            assert again.get_adapter(gateway.url).settings.deadline == 2
            assert again.get_adapter(gateway.url)._pool_maxsize == 7
            again.close()
        assert gateway.journal[0].headers["X-Own"] == "kept"

    def test_a_pickle_read_without_one_is_plain(self, gateway: Gateway) -> None:
        """It holds no settings, and no secret of theirs."""
        signing = {"api_key": "k3y", "secret": "s3cr3t"}
        with ra.install({"origins": [gateway.url], "signing": signing}):
            data = pickle.dumps(requests.Session())
        assert b"s3cr3t" not in data
        session = pickle.loads(data)
        assert type(session.get_adapter(gateway.url)) is HTTPAdapter
        assert session.get(gateway.url).ok
        session.close()

    def test_copies_are_covered(self, installed: Any, gateway: Gateway) -> None:
        """``copy.copy`` and ``copy.deepcopy`` of a session are sessions made from now on too."""
        session = requests.Session()
        for twin in (copy.copy(session), copy.deepcopy(session)):
            twin.mount(gateway.url + "/own", HTTPAdapter(pool_maxsize=3))
            gateway.script(DROP, None, DROP, None)
            assert twin.get(gateway.url).json()["code"] == 0
            assert twin.get(gateway.url + "/own").json()["code"] == 0

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    def test_fork(self, gateway: Gateway) -> None:
        """A forked child is covered, with connections of its own: no answer reaches the wrong process."""
        with ra.install({"retry": {"base": 0.01, "jitter": 0}}):
            requests.get(gateway.url)
            before = gateway.connections
            gateway.script(DROP, None)
            child = os.fork()
            if child == 0:
                os.chdir(ROOT)  # where coverage looks for what a child has covered
                os._exit(requests.get(gateway.url).json()["code"])
            assert os.waitpid(child, 0)[1] == 0
            assert gateway.connections > before
            assert requests.get(gateway.url).ok

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers(self, gateway: Gateway, tmp_path: Path, method: str) -> None:
        """A script that installs at its top is covered in its workers, sessions handed to them included."""
        script = tmp_path / "workers.py"
        script.write_text(WORKERS)
        gateway.script(DROP, None, DROP, None)
        # Without the measuring of coverage, which forks badly.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        process = subprocess.run(
            [sys.executable, "-W", "error", str(script), method, gateway.url],
            capture_output=True,
            check=False,
            text=True,
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
        assert (process.returncode, process.stdout, process.stderr) == (0, "[0, 0]\n", "")
        assert len(gateway.journal) == 4


WORKERS = """
import multiprocessing, sys
import requests
import resilient_adapter
resilient_adapter.install({"retry": {"base": 0.01, "jitter": 0}})

def work(job):
    session, url = job
    return (session or requests).get(url).json()["code"]

if __name__ == "__main__":
    jobs = [(None, sys.argv[2]), (requests.Session(), sys.argv[2])]
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.map(work, jobs))
"""


class TestAsEver:
    def test_proxies_from_the_environment(
        self, installed: Any, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``HTTP_PROXY`` and ``NO_PROXY`` are heeded, and ``trust_env = False`` too."""
        monkeypatch.setenv("HTTP_PROXY", gateway.url)
        gateway.script(DROP, None)
        assert requests.get("http://api.invalid/here").json()["data"]["path"] == "/here"
        monkeypatch.setenv("NO_PROXY", "api.invalid")
        with requests.Session() as session, pytest.raises(requests.ConnectionError):
            session.get("http://api.invalid/here")
        monkeypatch.delenv("NO_PROXY")
        session = requests.Session()
        session.trust_env = False
        with pytest.raises(requests.ConnectionError):
            session.get("http://api.invalid/here")

    def test_netrc(self, installed: Any, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Credentials of .netrc are sent, again with a repeat."""
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password pass\n")
        monkeypatch.setenv("NETRC", str(netrc))
        gateway.script(DROP, None)
        requests.get(gateway.url)
        assert [entry.headers["Authorization"] for entry in gateway.journal] == ["Basic bWU6cGFzcw=="] * 2

    def test_streams(self, installed: Any, gateway: Gateway) -> None:
        """A stream outlives the session that began it."""
        gateway.respond("/big", b"x" * 300_000, content_type="text/plain")
        with requests.Session() as session:
            response = session.get(gateway.url + "/big", stream=True)
        assert sum(map(len, response.iter_content(10_000))) == 300_000

    def test_other_origins_are_left_alone_where_origins_are_set(self, gateway: Gateway, clock: FakeClock) -> None:
        """The settings' own origins are covered; what else the script calls gets plain requests."""
        with Gateway() as other, ra.install({"origins": [gateway.url]}, clock=clock):
            gateway.script(Fault.status(502), None)
            other.script(Fault.status(502), None)
            assert requests.get(gateway.url).status_code == 200
            assert requests.get(other.url).status_code == 502

    def test_requests_mock_is_above_us(self, installed: Any) -> None:
        """A mocker answers in our place, whichever was there first."""
        with requests_mock.Mocker() as mocker:
            mocker.get("http://api.invalid/", text="mocked")
            assert requests.get("http://api.invalid/").text == "mocked"

    def test_requests_mock_lets_real_ones_through_to_us(self, installed: Any, gateway: Gateway) -> None:
        """``real_http=True`` sends what it does not know through the session's own adapter."""
        gateway.script(DROP, None)
        with requests_mock.Mocker(real_http=True):
            assert requests.get(gateway.url).json()["code"] == 0

    def test_a_patched_send_is_seen(self, installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What replaces ``HTTPAdapter.send`` on the class, as mocks do, is beneath us: its failures are repeated."""
        statuses = [502, 200]

        def send(self: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            response = requests.Response()
            response.status_code = statuses.pop(0)
            response.raw = io.BytesIO()
            response.request = request
            return response

        monkeypatch.setattr(HTTPAdapter, "send", send)
        assert requests.get("http://api.invalid/").status_code == 200
        assert statuses == []

    def test_off_is_plain_requests(self, gateway: Gateway) -> None:
        """``mode = "off"`` still pools connections, and changes nothing else."""
        gateway.script(Fault.status(502))
        with ra.install({"mode": "off"}):
            assert [requests.get(gateway.url).status_code for _ in range(2)] == [502, 200]
        assert gateway.connections == 1
