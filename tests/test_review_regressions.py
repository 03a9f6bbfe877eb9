"""What a review found and a test had missed: each of these was wrong once."""

from __future__ import annotations

import gc
import pickle
import ssl
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import requests
import urllib3
from adapter_support import RawServer, RealClock, adapter, closed_port, connect, numbers, prepare
from requests.adapters import BaseAdapter, HTTPAdapter
from shared_support import Fleet

import resilient_adapter as ra
from resilient_adapter.core.classify import classify_failure
from resilient_adapter.core.model import Executed, Failure
from resilient_adapter.errors import without_frames
from resilient_adapter.guards.rate_limit import RateLimit
from resilient_adapter.repairs.orders import Orders, Submission
from resilient_adapter.repairs.shared_token import SharedToken
from resilient_adapter.testing import FakeClock, Fault, Gateway
from resilient_adapter.transport import failure_of

ONCE = {"retry": {"max_attempts": 1}}


def half_a_body() -> Iterator[bytes]:
    """Yield a part of a body, and fail."""
    yield b"half an order"
    raise ValueError("the rest is gone")


class Raises(BaseAdapter):
    """A transport that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        raise self.error

    def close(self) -> None:
        pass


class Checks(ra.ResilientAdapter):
    """An adapter of a user's who has opinions on responses."""

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        super().build_response(req, resp).close()
        raise ValueError("not to my liking")


class WantsSettings(ra.ResilientAdapter):
    """An adapter of a user's that makes its pools by the settings."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        assert self.settings.mode == "enforce"
        super().init_poolmanager(*args, **options)


class PoolPerTenant(ra.ResilientAdapter):
    """An adapter of a user's that keeps the connections of tenants apart."""

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {**pool, "blocksize": int(request.headers["Tenant"])}


@contextmanager
def no_collector() -> Iterator[None]:
    """Leave cycles to themselves."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class TestUnknownIsNotReportedAsSafe:
    def test_a_response_with_two_lengths(self) -> None:
        """InvalidHeader out of a send is about the response's header: the order had arrived."""
        with (
            RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!") as server,
            pytest.raises(requests.exceptions.InvalidHeader) as caught,
        ):
            connect().post(server.url + "/order", json={})
        assert ra.resilience_of(caught.value).outcome_unknown
        del caught
        with warnings.catch_warnings():
            # urllib3 leaves the socket of a response that it cannot make to the collector.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def test_a_body_that_breaks_off_while_it_is_sent(self, gateway: Gateway) -> None:
        """A generator's own exception proves nothing: a part of the request is on the wire by then."""
        with pytest.raises(ValueError, match="the rest is gone") as caught:
            connect().post(gateway.url + "/order", data=half_a_body())
        assert ra.resilience_of(caught.value).outcome_unknown

    def test_a_subclass_that_refuses_the_response(self, gateway: Gateway) -> None:
        """A build_response that raises does so with the order executed."""
        session = requests.Session()
        session.mount("http://", Checks(ra.Settings.from_mapping({}), clock=FakeClock()))
        with pytest.raises(ValueError, match="not to my liking") as caught:
            session.post(gateway.url + "/order")
        assert ra.resilience_of(caught.value).outcome_unknown
        assert numbers(gateway) == 1

    def test_another_hosts_certificate(self) -> None:
        """A certificate error that the caller was just handling says nothing about this call's broken TLS."""
        broken = urllib3.exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
        session = connect(transport=Raises(requests.exceptions.SSLError(broken)))
        try:
            raise ssl.SSLCertVerificationError("self-signed")
        except ssl.SSLCertVerificationError:
            with pytest.raises(requests.exceptions.SSLError) as caught:
                session.post("https://127.0.0.1:1/order")
        assert ra.resilience_of(caught.value).outcome_unknown

    @pytest.mark.parametrize(
        ("error", "executed"),
        [
            (ConnectionResetError("reset"), Executed.UNKNOWN),
            (TimeoutError("timed out"), Executed.UNKNOWN),
            (OSError("could not find a suitable TLS CA certificate bundle"), Executed.NO),
            (ValueError("invalid header value"), Executed.NO),
        ],
    )
    def test_plain_oserrors(self, error: Exception, executed: Executed) -> None:
        """A mock in HTTPAdapter's place raises the language's own connection errors, which prove nothing."""
        assert classify_failure(failure_of(error)).executed is executed

    def test_a_certificate_that_did_not_verify(self) -> None:
        """What the exceptions of this very call say of a certificate still counts."""
        refused = urllib3.exceptions.SSLError(ssl.SSLCertVerificationError("self-signed"))
        maximum = urllib3.exceptions.MaxRetryError(None, "/", refused)  # type: ignore[arg-type]
        assert failure_of(requests.exceptions.SSLError(maximum)) is Failure.CERTIFICATE


class TestNeverTwice:
    @pytest.mark.parametrize(
        "retries", [None, 1, urllib3.Retry(2), urllib3.Retry(None, read=2, allowed_methods=None)], ids=repr
    )
    def test_inner_retries_are_refused(self, retries: Any) -> None:
        """None stands for urllib3's default of three, or for no limit on the sum: neither is "no retries"."""
        with pytest.raises(ra.SettingsError, match=r"retry\.max_attempts"):
            adapter(max_retries=retries)

    @pytest.mark.parametrize("retries", [0, False, urllib3.Retry(0), urllib3.Retry(False)], ids=repr)
    def test_none_are_taken(self, retries: Any) -> None:
        """No retries, however written, are what there is anyway."""
        assert not adapter(max_retries=retries).max_retries.total

    def test_a_blank_idempotency_key_is_none(self, gateway: Gateway) -> None:
        """A server tells two orders by the key's value, and a blank one tells nothing."""
        gateway.script(Fault.reset("after"))
        with pytest.raises(requests.ConnectionError):
            connect().post(gateway.url + "/order", headers={"Idempotency-Key": ""})
        assert numbers(gateway) == 1

    def test_an_interrupt_as_the_doubt_is_noted(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """The doubt about an order is there however early an interrupt cuts off the taking note of it."""
        session = connect()
        note = Orders.doubt
        interrupts = iter([True])

        def interrupted(self: Orders, *args: Any) -> None:
            if next(interrupts, False):
                raise KeyboardInterrupt
            note(self, *args)

        monkeypatch.setattr(Orders, "doubt", interrupted)
        gateway.script(Fault.reset("after"))
        with pytest.raises(KeyboardInterrupt):
            session.post(gateway.url + "/order", data={"newClientOrderId": "one"})
        with pytest.raises(ra.OutcomeUnknownError):
            session.post(gateway.url + "/order", data={"newClientOrderId": "one"})
        assert numbers(gateway) == 1


class TestSecretsStayAtHome:
    def test_a_look_up_elsewhere(self, gateway: Gateway) -> None:
        """A reconciler that asks another origin sends it neither token nor key."""
        with Gateway() as other:

            def ask(_: Any, send: Callable[[Any], requests.Response]) -> None:
                send(requests.Request("GET", other.url + "/status").prepare())
                send(requests.Request("GET", gateway.url + "/status").prepare())

            gateway.script(Fault.reset("after"))
            connect(
                {"token": {"origins": [gateway.url]}},
                token_source=lambda: "a-token",
                signer=ra.HmacSigner("a-key", "a-secret", origins=[gateway.url]),
                reconciler=ask,
            ).post(gateway.url + "/order", json={})
            (there,) = other.journal
            here = gateway.received(path="/status")[0]
        assert "Authorization" not in dict(there.headers)
        assert "signature" not in there.query
        assert dict(here.headers)["Authorization"] == "Bearer a-token"
        assert "signature" in here.query

    def test_a_recovery_that_goes_elsewhere(self, gateway: Gateway) -> None:
        """A recovery may send the request to another origin, and the token does not go along."""
        with Gateway() as other:

            def elsewhere(request: requests.PreparedRequest, _: requests.Response) -> bool:
                request.url = other.url + "/fallback"
                return True

            gateway.script(Fault.code(-1125))
            settings = {"token": {"origins": [gateway.url]}}
            session = connect(settings, token_source=lambda: "a-token", recoveries={-1125: elsewhere})
            assert session.get(gateway.url + "/key").ok
            (there,) = other.journal
        assert "Authorization" not in dict(there.headers)


class TestNothingIsKeptAlive:
    """With the collector off: what is in a cycle keeps its sockets open until somebody runs it."""

    @pytest.mark.parametrize(
        ("settings", "fault", "stream"),
        [
            ({"circuit": {"fail_max": 1}}, Fault.code(-1008), False),
            ({"on_error": "raise"}, Fault.code(-1100), False),
            (ONCE, Fault.cut_body(), True),
            (ONCE, Fault.cut_body(), False),
        ],
        ids=["circuit", "raise", "cut stream", "cut body"],
    )
    def test_after_a_failure(self, gateway: Gateway, settings: dict[str, Any], fault: Fault, stream: bool) -> None:
        """A session that met a failure goes as soon as it is let go of, or as soon as it would with plain requests."""

        def is_kept(make: Callable[[], requests.Session]) -> bool:
            gateway.script(fault, fault)
            session = make()
            with no_collector():
                for _ in range(2):
                    with suppress(requests.RequestException):
                        session.get(gateway.url + "/price", stream=stream)
                gone = weakref.ref(session)
                del session
                return gone() is not None

        assert not is_kept(lambda: connect(settings)) or is_kept(requests.Session)

    def test_after_a_refresh_that_failed(self, gateway: Gateway) -> None:
        """The failure is remembered, and not the stack that met it."""

        def login() -> str:
            return str(requests.get(f"http://127.0.0.1:{closed_port()}/login", timeout=5).text)

        session = connect({"token": {"origins": [gateway.url]}}, token_source=login)
        with no_collector():
            session.get(gateway.url + "/price")
            gone = weakref.ref(session)
            del session
            assert gone() is None

    def test_frames_are_dropped_and_foreign_contexts_left_alone(self) -> None:
        """An exception that is kept has no frames, nor have those within it; its context keeps its own."""
        try:
            try:
                raise KeyError("the caller's own")
            except KeyError as error:
                theirs = error
                raise requests.ConnectionError(ValueError("inner")) from OSError("cause")
        except requests.ConnectionError as error:
            kept = without_frames(error)
        assert kept.__traceback__ is None
        assert kept.__context__ is None
        assert str(kept.__cause__) == "cause"
        assert theirs.__traceback__ is not None

    def test_an_interrupt_gives_a_streams_connection_back(self, gateway: Gateway) -> None:
        """An interrupt while a stream's answer is in hand leaves room in a bounded pool."""

        class Interrupting(FakeClock):
            def sleep(self, seconds: float) -> None:
                raise KeyboardInterrupt

        session = connect(clock=Interrupting(), pool_maxsize=1, pool_block=True)
        gateway.script(Fault.status(502))
        with pytest.raises(KeyboardInterrupt):
            session.get(gateway.url + "/price", stream=True)
        pool = session.get_adapter("http://").get_connection_with_tls_context(  # type: ignore[attr-defined]
            prepare("GET", gateway.url), verify=True
        )
        assert pool.pool.qsize() == 1


class TestSubclasses:
    def test_pools_made_anew(self, gateway: Gateway) -> None:
        """Who calls init_poolmanager again gets the pools that were asked for, not those remembered."""
        ours, request = adapter(), prepare("GET", gateway.url + "/price")
        before = ours.get_connection_with_tls_context(request, True)
        assert ours.get_connection_with_tls_context(request, True) is before
        ours.init_poolmanager(1, 1, block=True)
        assert ours.get_connection_with_tls_context(request, True) is not before

    @pytest.mark.skipif(
        not hasattr(HTTPAdapter, "build_connection_pool_key_attributes"), reason="this requests has no such hook"
    )
    def test_pools_of_their_own_choice(self, gateway: Gateway) -> None:
        """A subclass that tells pools apart by more than their origin is asked for each request."""
        ours = PoolPerTenant(ra.Settings.from_mapping({}))
        one, two = (
            ours.get_connection_with_tls_context(prepare("GET", gateway.url, headers={"Tenant": tenant}), True)
            for tenant in ("16384", "32768")
        )
        assert one is not two

    def test_settings_are_there_when_pools_are_made(self) -> None:
        """Also where it comes out of a pickle."""
        copy = pickle.loads(pickle.dumps(WantsSettings(ra.Settings.from_mapping({}))))
        assert copy.poolmanager is not None


class TestStreams:
    def test_a_redirects_body_is_left_alone(self, gateway: Gateway) -> None:
        """Not read ahead, whatever code it holds: a redirect is the session's business."""
        gateway.script(Fault.code(-1003, status=302, headers={"Location": "/there"}))
        response = connect().get(gateway.url + "/here", stream=True, allow_redirects=False)
        response.close()
        assert response.status_code == 302
        assert ra.resilience_of(response).code is None
        assert numbers(gateway) == 1


class TestDeadline:
    def test_reading_the_servers_time(self, gateway: Gateway) -> None:
        """The time is asked for within what is left of the call's deadline."""
        gateway.script(Fault.code(-1021), path="/order")
        gateway.script(Fault.delay(20.0), path="/api/gateway/time")
        clock = RealClock()
        session = connect(
            {"deadline": 0.5, "origins": [gateway.url]}, clock=clock, signer=ra.HmacSigner("a-key", "a-secret")
        )
        started = clock.monotonic()
        session.get(gateway.url + "/order")
        assert clock.monotonic() - started < 5


def test_inner_retries_set_after_the_adapter_was_made_are_refused_too(gateway: Gateway) -> None:
    """``adapter.max_retries`` set later would repeat beneath us just as well: nothing is sent."""
    session = requests.Session()
    adapter = ra.ResilientAdapter(ra.Settings.from_mapping({}))
    session.mount(gateway.url, adapter)
    adapter.max_retries = urllib3.Retry(2)
    with pytest.raises(ra.SettingsError, match=r"retry\.max_attempts"):
        session.post(gateway.url + "/x")
    assert gateway.journal == []


def test_an_unread_stream_does_not_keep_the_only_connection_from_a_repair(gateway: Gateway) -> None:
    """With one connection in a bounded pool, a login through the same session gets it while a 401 is in hand."""
    session = requests.Session()
    calls: list[str] = []

    def log_in() -> str:
        calls.append(session.post(gateway.url + "/login", timeout=5).json()["data"]["token"])
        return calls[-1]

    adapter = ra.ResilientAdapter(
        ra.Settings.from_mapping({"origins": [gateway.url]}), token_source=log_in, pool_block=True, pool_maxsize=1
    )
    session.mount(gateway.url, adapter)
    gateway.script(Fault.status(401, b"x" * 40_000), path="/x")
    response = session.get(gateway.url + "/x", stream=True)
    assert response.json()["code"] == 0
    assert len(calls) == 2
    session.close()


def test_a_doubt_outlives_a_redirect(gateway: Gateway) -> None:
    """A PUT that may have been executed, then sent elsewhere by a 307: nobody can say, and the response says so."""
    session = requests.Session()
    session.mount(gateway.url, ra.ResilientAdapter(ra.Settings.from_mapping({"retry": {"base": 0, "jitter": 0}})))
    gateway.script(Fault.reset("after"), Fault.status(307, headers={"Location": "/y"}), path="/x")
    response = session.put(gateway.url + "/x", allow_redirects=False)
    assert response.status_code == 307
    assert ra.resilience_of(response).outcome_unknown
    session.close()


def signs_once() -> Callable[[requests.PreparedRequest], None]:
    """Return a signer that has no key after its first signature."""
    signed: list[int] = []

    def sign(request: requests.PreparedRequest) -> None:
        signed.append(1)
        if len(signed) > 1:
            raise RuntimeError("no key")

    return sign


def test_a_repeat_that_cannot_be_prepared_delivers_the_doubt(gateway: Gateway) -> None:
    """A signer that raises before a repeat does not hide that the first send may have been executed."""
    session = requests.Session()
    settings = ra.Settings.from_mapping({"retry": {"base": 0, "jitter": 0}, "on_error": "raise"})
    session.mount(gateway.url, ra.ResilientAdapter(settings, signer=signs_once()))
    gateway.script(Fault.reset("after"), path="/x")
    with pytest.raises(ra.OutcomeUnknownError):
        session.put(gateway.url + "/x")
    session.close()


def test_a_signer_that_raises_before_a_read_is_repeated_is_heard(gateway: Gateway) -> None:
    """Where nothing is in doubt, a signer's own exception comes out as it was raised."""
    session = requests.Session()
    settings = ra.Settings.from_mapping({"retry": {"base": 0, "jitter": 0}})
    session.mount(gateway.url, ra.ResilientAdapter(settings, signer=signs_once()))
    gateway.script(Fault.code(-1001), path="/x")
    with pytest.raises(RuntimeError, match="no key"):
        session.get(gateway.url + "/x")
    session.close()


def test_a_proxy_that_is_not_there_says_nothing_of_the_origin(gateway: Gateway) -> None:
    """A connection refused on the way to a proxy, SOCKS proxies' included, opens no circuit of the origin's."""

    class Socks(BaseAdapter):
        """What a SOCKS proxy's failure looks like: the same exception as the origin's own."""

        def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
            refused = urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]
            raise requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, "/", refused))  # type: ignore[arg-type]

        def close(self) -> None:
            pass

    settings = ra.Settings.from_mapping({"retry": {"max_attempts": 1}, "circuit": {"fail_max": 1}})
    session = requests.Session()
    session.mount("http://", ra.ResilientAdapter(settings, transport=Socks(), clock=FakeClock()))
    session.proxies = {"http": "socks5://127.0.0.1:1"}
    for _ in range(3):
        with pytest.raises(requests.ConnectionError) as raised:
            session.get(gateway.url)
        assert not isinstance(raised.value, ra.CircuitOpenError)
        assert ra.resilience_of(raised.value).attempts[0].error == "proxy_refused"


def test_what_reduces_risk_goes_first_through_pacing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel and a reduce-only order stand before other orders, and these before what only looks."""
    places: list[int] = []
    enter = RateLimit.enter

    def entered(self: RateLimit, priority: int) -> Any:
        places.append(priority)
        return enter(self, priority)

    monkeypatch.setattr(RateLimit, "enter", entered)
    session = connect({"rate_limit": {"rate": "100/s"}})
    url = gateway.url + "/api/v1/order"
    session.delete(url)
    session.post(url, data={"reduceOnly": "true"})
    session.post(url, json={"closePosition": True})
    session.post(url, data={"reduceOnly": "false"})
    session.get(url)
    assert places == [0, 0, 0, 1, 2]


def test_an_interrupt_before_the_store_has_answered_leaves_no_lease_on_a_token() -> None:
    """Another process may log in at once."""
    fleet = Fleet()

    def interrupt() -> None:
        raise KeyboardInterrupt

    first, second = (SharedToken(fleet.store(), "token", None, fleet.clock, pytest.fail) for _ in range(2))
    fleet.backend.before_answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        first.fetch(lambda token: True, pytest.fail, 0.0)
    assert second.fetch(lambda token: True, lambda: ra.Token("new"), 0.0) == ra.Token("new")


@pytest.mark.parametrize("cut_off", ["listener", "books"])
def test_a_probe_that_is_cut_off_beside_its_send_frees_its_place(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, cut_off: str
) -> None:
    """An interrupt of a listener before it, or of the order's books after it, keeps nobody out for a lease."""
    interrupts = iter(())

    def interrupt(*args: Any, **options: Any) -> None:
        for _ in interrupts:
            raise KeyboardInterrupt

    clock = FakeClock()
    session = connect(
        {**ONCE, "circuit": {"fail_max": 1}},
        clock=clock,
        listeners=[lambda event: interrupt() if event.name == "circuit_half_open" else None],
    )
    gateway.script(Fault.code(-1008, status=503))
    assert session.get(gateway.url + "/x").status_code == 503
    clock.advance(3.0)
    interrupts = iter([True])
    if cut_off == "books":
        interrupts = iter(())
        monkeypatch.setattr(Submission, "came_back", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        session.post(gateway.url + "/order", data={"newClientOrderId": "one"})
    assert session.get(gateway.url + "/x").ok
