"""The circuit as callers meet it: when it opens, whom it stops, and what they are told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from adapter_support import Meddling, closed_port, connect, numbers
from requests.adapters import BaseAdapter, HTTPAdapter

import resilient_adapter as ra
from resilient_adapter.testing import Answer, FakeClock, Fault, Gateway, Request

BUSY = Fault.code(-1008, status=503)


def settings(fail_max: int = 2, attempts: int = 1, **more: Any) -> dict[str, Any]:
    """Return settings under which a circuit opens soon, and calls are not repeated."""
    circuit = {"fail_max": fail_max, "reset_timeout": 10.0, **more.pop("circuit", {})}
    return {"retry": {"max_attempts": attempts, "jitter": 0.0}, "circuit": circuit, **more}


def trip(session: requests.Session, gateway: Gateway, failures: int = 2, path: str = "/x") -> None:
    """Open the circuit, by failures in a row."""
    gateway.script(*[BUSY] * failures, path=path)
    for _ in range(failures):
        assert session.get(gateway.url + path).status_code == 503
    gateway.reset_journal()


def is_open(session: requests.Session, url: str) -> bool:
    """Tell whether a call is refused."""
    try:
        session.get(url)
    except ra.CircuitOpenError:
        return True
    except requests.RequestException:
        pass
    return False


class TestOpening:
    @pytest.mark.parametrize("fault", [BUSY, Fault.code(-1008), Fault.status(503)], ids=repr)
    def test_an_overloaded_server(self, gateway: Gateway, clock: FakeClock, fault: Fault) -> None:
        """After fail_max failures in a row nothing is sent any more: CircuitOpenError, a ConnectionError."""
        session = connect(settings(3), clock=clock)
        gateway.script(*[fault] * 3)
        for _ in range(3):
            assert session.get(gateway.url + "/x").status_code in (200, 503)
        with pytest.raises(ra.CircuitOpenError) as caught:
            session.post(gateway.url + "/x?secret=1", data="d")
        error = caught.value
        assert isinstance(error, requests.ConnectionError)
        assert 10.0 <= error.retry_after <= 11.0 and "secret" not in str(error)
        assert error.request is not None and error.request.method == "POST" and error.response is None
        story = ra.resilience_of(error)
        assert story.attempts == () and not story.outcome_unknown
        assert numbers(gateway) == 3 and clock.sleeps == []

    def test_the_error_that_opens_it(self, gateway: Gateway) -> None:
        """The call whose failure opens the circuit gets that failure, and is not repeated."""
        events: list[ra.Event] = []
        session = connect(settings(2, attempts=9), listeners=[events.append])
        gateway.script(*[BUSY] * 9)
        response = session.get(gateway.url + "/x")
        assert response.status_code == 503 and response.json()["code"] == -1008
        assert numbers(gateway) == 2
        assert [event.name for event in events] == ["retry", "circuit_open", "give_up"]
        assert "circuit" in events[-1].detail

        with pytest.raises(ra.ServerBusyError):
            connect(settings(2, attempts=9, on_error="raise")).get(gateway.url + "/x")

    def test_refused_connections(self) -> None:
        """Refused connections count; the error that opens the circuit is requests' own."""
        url = f"http://127.0.0.1:{closed_port()}/x"
        session = connect(settings(2, attempts=5))
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(url)
        assert type(caught.value) is requests.ConnectionError
        assert len(ra.resilience_of(caught.value).attempts) == 2
        assert is_open(session, url)

    @pytest.mark.parametrize(("given", "ours", "counts"), [
        (None, 0.05, True), (0.05, 0.05, True), (0.06, 0.05, True), ((9, 0.05), 0.05, True),
        (0.05, 30.0, False), ((9, 0.05), 30.0, False), (0.05, 0, False),
    ])  # fmt: skip
    def test_timeouts(self, gateway: Gateway, given: Any, ours: float, counts: bool) -> None:
        """Timeouts count, but not one of the caller's that is shorter than ours."""
        gateway.script(*[Fault.delay(5)] * 2)
        session = connect(settings(2, read_timeout=ours))
        for _ in range(2):
            with pytest.raises(requests.ReadTimeout):
                session.get(gateway.url + "/x", timeout=given)
        assert is_open(session, gateway.url + "/x") is counts

    @pytest.mark.parametrize("fault", [
        Fault.code(-2010), Fault.code(-1100, status=400), Fault.code(-1002), Fault.status(404), Fault.status(500),
        Fault.status(502), Fault.code(-1001), Fault.code(-1007), Fault.code(-1003, retry_after=0), Fault.reset(),
        Fault.cut_body(), Fault.code(-9999), Fault.status(429, retry_after=0), Fault.code(-1000, status=500),
    ], ids=repr)  # fmt: skip
    def test_what_does_not_count(self, gateway: Gateway, fault: Fault) -> None:
        """Business errors, throttles, resets and a server's other troubles never open a circuit."""
        gateway.script(*[fault] * 30)
        session = connect(settings(2, circuit={"min_calls": 5}))
        for _ in range(30):
            assert not is_open(session, gateway.url + "/x")
        assert numbers(gateway) == 30

    def test_a_proxys_failure(self, gateway: Gateway) -> None:
        """A proxy that refuses says nothing of the server."""
        session = connect(settings(2))
        for _ in range(4):
            with pytest.raises(requests.exceptions.ProxyError):
                session.get(gateway.url, proxies={"http": f"http://127.0.0.1:{closed_port()}"})
        assert session.get(gateway.url).json()["code"] == 0

    def test_successes_between(self, gateway: Gateway) -> None:
        """A success, or a verdict on a request, ends a row of failures."""
        gateway.script(BUSY, None, BUSY, Fault.code(-2010), BUSY, Fault.status(404), BUSY)
        session = connect(settings(2))
        assert not any(is_open(session, gateway.url + "/x") for _ in range(8))

    def test_the_share_of_failures(self, gateway: Gateway) -> None:
        """circuit.failure_rate opens it without any row of failures."""
        gateway.script(*[BUSY, None] * 20)
        session = connect(settings(99, circuit={"min_calls": 10, "failure_rate": 0.5}))
        refused = [is_open(session, gateway.url + "/x") for _ in range(12)]
        assert refused[:10] == [False] * 10 and any(refused[10:])

    def test_own_codes_and_statuses(self, gateway: Gateway) -> None:
        """circuit.codes and circuit.statuses say what counts; so does a code with recovery "break"."""
        for circuit, codes, fault in (
            ({"codes": [-1001]}, {}, Fault.code(-1001)),
            ({"statuses": [500]}, {}, Fault.status(500)),
            ({}, {"-1999": {"recovery": "break", "executed": "no"}}, Fault.code(-1999)),
        ):
            gateway.script(*[fault] * 2)
            session = connect(settings(2, circuit=circuit, codes=codes))
            for _ in range(2):
                assert not is_open(session, gateway.url + "/x")
            assert is_open(session, gateway.url + "/x")

    def test_scope(self, gateway: Gateway, clock: FakeClock) -> None:
        """One circuit for the origin, or with scope "endpoint" one for each path, queries apart."""
        for scope, others in (("origin", True), ("endpoint", False)):
            session = connect(settings(2, circuit={"scope": scope}), clock=clock)
            trip(session, gateway)
            assert is_open(session, gateway.url + "/x?q=1")
            assert is_open(session, gateway.url + "/y") is others
            with Gateway() as other:
                assert not is_open(session, other.url + "/x")


class TestOpen:
    def test_respond(self, gateway: Gateway, clock: FakeClock) -> None:
        """when_open="respond": a local 503 with code -1008 and Retry-After; under "raise" a ServerBusyError."""
        for mode in ("return", "raise"):
            session = connect(settings(2, circuit={"when_open": "respond"}, on_error=mode), clock=clock)
            gateway.script(BUSY, BUSY)
            for _ in range(2):
                with pytest.raises(ra.ServerBusyError) if mode == "raise" else contextlib.nullcontext():
                    session.get(gateway.url + "/x")
            gateway.reset_journal()
            if mode == "raise":
                with pytest.raises(ra.ServerBusyError) as caught:
                    session.get(gateway.url + "/x")
                response: Any = caught.value.response
            else:
                response = session.get(gateway.url + "/x")
            assert response.status_code == 503 and response.json()["code"] == -1008
            assert 10 <= int(response.headers["Retry-After"]) <= 11
            assert response.headers["Content-Type"] == "application/json" and response.reason == "Service Unavailable"
            assert response.raw.closed or response.raw.read() == b""
            assert ra.resilience_of(response).attempts == () and ra.resilience_of(response).code == -1008
            assert numbers(gateway) == 0
        streamed = connect(settings(2, circuit={"when_open": "respond"}), clock=clock).get(gateway.url, stream=True)
        assert list(streamed.iter_lines()) == [b'{"code": -1008, "msg": "Server busy (not sent)"}']

    def test_wait(self, gateway: Gateway, clock: FakeClock) -> None:
        """when_open="wait": wait for the probe, by the clock, and be it."""
        session = connect(settings(2, circuit={"when_open": "wait"}), clock=clock)
        trip(session, gateway)
        response = session.get(gateway.url + "/x")
        assert response.json()["code"] == 0
        assert 10.0 <= sum(clock.sleeps) <= 11.0
        assert ra.resilience_of(response).attempts[0].wait == pytest.approx(sum(clock.sleeps))

    def test_wait_within_a_call(self, gateway: Gateway, clock: FakeClock) -> None:
        """A call whose failure opens the circuit waits for the probe rather than for its backoff alone."""
        session = connect(settings(1, attempts=3, circuit={"when_open": "wait"}), clock=clock)
        gateway.script(BUSY)
        assert session.get(gateway.url + "/x").json()["code"] == 0
        assert 10.0 <= sum(clock.sleeps) <= 11.0

    def test_wait_beyond_the_deadline(self, gateway: Gateway, clock: FakeClock) -> None:
        """A wait for the probe that does not fit into the deadline is not begun."""
        session = connect(settings(2, circuit={"when_open": "wait"}, deadline=5.0), clock=clock)
        trip(session, gateway)
        with pytest.raises(ra.DeadlineExceededError):
            session.get(gateway.url + "/x")
        assert clock.sleeps == [] and numbers(gateway) == 0

    def test_retry_after(self, gateway: Gateway, clock: FakeClock) -> None:
        """A Retry-After on the 503 that opens it is the earliest probe, beyond reset_max too."""
        session = connect(settings(1), clock=clock)
        gateway.script(Fault.code(-1008, status=503, retry_after=45))
        session.get(gateway.url + "/x")
        clock.advance(44.0)
        assert is_open(session, gateway.url + "/x")
        clock.advance(6.0)
        assert not is_open(session, gateway.url + "/x")

    def test_waits_that_grow(self, gateway: Gateway, clock: FakeClock) -> None:
        """Each failed probe multiplies the wait for the next, up to reset_max."""
        session = connect(settings(1, circuit={"reset_factor": 2.0, "reset_max": 30.0}), clock=clock)
        gateway.busy()
        session.get(gateway.url + "/x")
        for wait in (10.0, 20.0, 30.0, 30.0):
            clock.advance(wait - 0.5)
            assert is_open(session, gateway.url + "/x")
            clock.advance(wait * 0.1 + 0.6)
            assert not is_open(session, gateway.url + "/x")
        assert numbers(gateway) == 5

    @pytest.mark.parametrize(("method", "options", "passes"), [
        ("DELETE", {}, True),
        ("POST", {"params": {"reduceOnly": "true"}}, True),
        ("POST", {"params": {"a": 1, "closePosition": "TRUE"}}, True),
        ("POST", {"data": {"reduceOnly": "true"}}, True),
        ("POST", {"data": {"reduceOnly": True}}, True),
        ("PUT", {"json": {"reduceOnly": True}}, True),
        ("POST", {"json": {"closePosition": "true"}}, True),
        ("POST", {"json": {"reduceOnly": False}}, False),
        ("POST", {"json": {"reduceOnly": None}}, False),
        ("POST", {"json": {"order": {"reduceOnly": True}}}, False),
        ("POST", {"json": ["reduceOnly"]}, False),
        ("POST", {"data": {"reduceOnly": "false"}}, False),
        ("POST", {"params": {"reduceOnly": ""}}, False),
        ("POST", {"params": {"REDUCEONLY": "true"}}, False),
        ("POST", {"data": b"reduceOnly=true"}, False),
        ("POST", {"data": b"{", "headers": {"Content-Type": "application/json"}}, False),
        ("POST", {"data": b"\xff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, False),
        ("POST", {"data": iter([b"reduceOnly=true"])}, False),
        ("GET", {}, False),
    ])  # fmt: skip
    def test_what_reduces_risk(
        self, gateway: Gateway, clock: FakeClock, method: str, options: dict[str, Any], passes: bool
    ) -> None:
        """A request that reduces risk is never stopped by an open circuit; any other is."""
        session = connect(settings(2), clock=clock)
        trip(session, gateway)
        if passes:
            assert session.request(method, gateway.url + "/order", **options).json()["code"] == 0
        else:
            with pytest.raises(ra.CircuitOpenError):
                session.request(method, gateway.url + "/order", **options)
        assert is_open(session, gateway.url + "/x")
        assert numbers(gateway) == int(passes)

    def test_risk_is_reduced_with_repeats(self, gateway: Gateway, clock: FakeClock) -> None:
        """An exempt request is repeated as ever, although its own failures opened the circuit."""
        session = connect(settings(2, attempts=3), clock=clock)
        gateway.script(BUSY, BUSY)
        assert session.delete(gateway.url + "/order").json()["code"] == 0
        assert numbers(gateway) == 3

    def test_own_exemptions(self, gateway: Gateway, clock: FakeClock) -> None:
        """circuit.exempt says which requests those are; empty lists say none."""
        session = connect(settings(2, circuit={"exempt": {"methods": [], "params": ["urgent"]}}), clock=clock)
        trip(session, gateway)
        assert session.post(gateway.url + "/y?urgent=true").ok
        with pytest.raises(ra.CircuitOpenError):
            session.delete(gateway.url + "/y")


class Gate:
    """A handler that holds requests until it is told to let them go."""

    def __init__(self, answer: Answer) -> None:
        self.entered = threading.Semaphore(0)
        self.leave = threading.Event()
        self._answer = answer

    def __call__(self, request: Request) -> Answer:
        self.entered.release()
        assert self.leave.wait(10)
        return self._answer


@pytest.fixture
def start() -> Iterator[Callable[..., threading.Thread]]:
    """Run functions in threads, and wait for all of them at the end."""
    threads: list[threading.Thread] = []

    def run(function: Callable[..., Any], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=function, args=args)
        thread.start()
        threads.append(thread)
        return thread

    yield run
    for thread in threads:
        thread.join(10)


class TestHalfOpen:
    def test_64_threads(self, gateway: Gateway, clock: FakeClock, start: Callable[..., threading.Thread]) -> None:
        """64 threads at a half-open circuit: exactly one probe is sent, the others are refused, then it closes."""
        events: list[str] = []
        session = connect(settings(2), clock=clock, listeners=[lambda event: events.append(event.name)])
        trip(session, gateway)
        clock.advance(11.0)
        gate = Gate(Answer.success())
        gateway.respond("/probe", gate)
        done: list[str] = []
        barrier = threading.Barrier(64)

        def call() -> None:
            barrier.wait(10)
            try:
                done.append(str(session.get(gateway.url + "/probe").status_code))
            except ra.CircuitOpenError:
                done.append("refused")
            if done.count("refused") == 63:
                gate.leave.set()

        threads = [start(call) for _ in range(64)]
        for thread in threads:
            thread.join(15)
        assert sorted(done) == ["200"] + ["refused"] * 63
        assert numbers(gateway, path="/probe") == 1
        assert session.get(gateway.url + "/x").ok
        assert [name for name in events if name.startswith("circuit")] == [
            "circuit_open", "circuit_half_open", "circuit_closed",
        ]  # fmt: skip

    def test_nothing_is_held(self, gateway: Gateway, start: Callable[..., threading.Thread]) -> None:
        """While the circuit is closed, requests are on the wire at once: none waits for another."""
        barrier = threading.Barrier(16)
        gateway.respond("/x", lambda request: (barrier.wait(10), Answer.success())[1])
        session = connect(settings())
        codes: list[int] = []
        threads = [start(lambda: codes.append(session.get(gateway.url + "/x").status_code)) for _ in range(16)]
        for thread in threads:
            thread.join(10)
        assert codes == [200] * 16

    def test_late_outcomes(self, gateway: Gateway, clock: FakeClock, start: Callable[..., threading.Thread]) -> None:
        """A failure of a request from before an outage does not reopen a circuit that has recovered."""
        session = connect(settings(1), clock=clock)
        gate = Gate(Answer.error(-1008, status=503))
        gateway.respond("/late", gate)
        late = start(session.get, gateway.url + "/late")
        assert gate.entered.acquire(timeout=5)
        trip(session, gateway, 1)
        clock.advance(11.0)
        assert session.get(gateway.url + "/x").ok
        gate.leave.set()
        late.join(5)
        assert session.get(gateway.url + "/x").ok

    def test_late_successes(self, gateway: Gateway, clock: FakeClock, start: Callable[..., threading.Thread]) -> None:
        """A success of a request from before the trip does not close an open circuit."""
        session = connect(settings(1), clock=clock)
        gate = Gate(Answer.success())
        gateway.respond("/late", gate)
        late = start(session.get, gateway.url + "/late")
        assert gate.entered.acquire(timeout=5)
        trip(session, gateway, 1)
        gate.leave.set()
        late.join(5)
        assert is_open(session, gateway.url + "/x")

    def test_leases_expire(self, gateway: Gateway, clock: FakeClock, start: Callable[..., threading.Thread]) -> None:
        """A probe that does not come back is given up after as long as a send may take."""
        session = connect(settings(1, connect_timeout=5.0, read_timeout=30.0), clock=clock)
        trip(session, gateway, 1)
        clock.advance(11.0)
        gate = Gate(Answer.success())
        gateway.respond("/hangs", gate)
        start(session.get, gateway.url + "/hangs")
        assert gate.entered.acquire(timeout=5)
        clock.advance(34.0)
        assert is_open(session, gateway.url + "/x")
        clock.advance(2.0)
        assert session.get(gateway.url + "/x").ok
        gate.leave.set()

    def test_probes_without_a_verdict(self, gateway: Gateway, clock: FakeClock) -> None:
        """A probe that proves nothing (a reset) leaves the next request to probe."""
        session = connect(settings(1), clock=clock)
        trip(session, gateway, 1)
        clock.advance(11.0)
        gateway.script(Fault.reset(), Fault.reset())
        for _ in range(2):
            with pytest.raises(requests.ConnectionError):
                session.get(gateway.url + "/x")
        assert session.get(gateway.url + "/x").ok

    def test_interrupts(self, gateway: Gateway, clock: FakeClock) -> None:
        """A KeyboardInterrupt during the probe frees its place, and counts as nothing."""

        class Interruptible(HTTPAdapter):
            interrupt = False

            def send(self, *args: Any, **options: Any) -> requests.Response:  # type: ignore[override]
                if self.interrupt:
                    self.interrupt = False
                    raise KeyboardInterrupt
                return super().send(*args, **options)

        transport = Interruptible()
        session = connect(settings(1), clock=clock, transport=transport)
        for _ in range(3):
            transport.interrupt = True
            with pytest.raises(KeyboardInterrupt):
                session.get(gateway.url + "/x")
        trip(session, gateway, 1)
        clock.advance(11.0)
        transport.interrupt = True
        with pytest.raises(KeyboardInterrupt):
            session.get(gateway.url + "/x")
        assert session.get(gateway.url + "/x").ok

    def test_interrupted_while_it_waits(self, gateway: Gateway) -> None:
        """A KeyboardInterrupt during a wait passes at once, and the line is not blocked by who left it."""

        class Interrupting(FakeClock):
            armed = True

            def sleep(self, seconds: float) -> None:
                if self.armed:
                    self.armed = False
                    raise KeyboardInterrupt
                super().sleep(seconds)

        session = connect(settings(9, attempts=3), clock=Interrupting())
        gateway.script(Fault.code(-1003, retry_after=5))
        with pytest.raises(KeyboardInterrupt):
            session.get(gateway.url + "/x")
        assert session.get(gateway.url + "/x").json()["code"] == 0

    def test_successes_that_are_needed(self, gateway: Gateway, clock: FakeClock) -> None:
        """circuit.success_threshold probes in a row have to succeed."""
        session = connect(settings(1, circuit={"success_threshold": 2}), clock=clock)
        trip(session, gateway, 1)
        clock.advance(11.0)
        assert session.get(gateway.url + "/x").ok
        gateway.script(BUSY)
        session.get(gateway.url + "/x")
        assert is_open(session, gateway.url + "/x")

    def test_a_refusal_with_an_answer_in_hand(self, gateway: Gateway) -> None:
        """A call that finds the circuit open on its way to a repeat delivers what it has, not our refusal."""

        for faults, stream in (([Fault.status(502)], False), ([Fault.code(-1001)], True), ([Fault.reset()], False)):
            clock = Meddling()
            session = connect(settings(1, attempts=3), clock=clock)
            clock.meddle = lambda session=session: trip(session, gateway, 1, "/other")
            gateway.script(*faults, path="/x")
            if faults[0].answer is None:
                with pytest.raises(requests.ConnectionError) as caught:
                    session.get(gateway.url + "/x")
                assert type(caught.value) is requests.ConnectionError
                continue
            response = session.get(gateway.url + "/x", stream=stream)
            assert response.content == faults[0].answer.body
            assert len(ra.resilience_of(response).attempts) == 1


def test_pybreakers_exceptions_stay_inside(gateway: Gateway, clock: FakeClock) -> None:
    """No exception of pybreaker's reaches a caller, nor is one in the chain of what does."""
    session = connect(settings(1), clock=clock)
    trip(session, gateway, 1)
    with pytest.raises(ra.CircuitOpenError) as caught:
        session.get(gateway.url + "/x")
    error: BaseException | None = caught.value
    while error is not None:
        assert "pybreaker" not in type(error).__module__
        error = error.__cause__ or error.__context__


def test_errors_of_a_transport(clock: FakeClock) -> None:
    """What a transport of another kind raises is passed on as it is, and proves nothing."""

    class Odd(BaseAdapter):
        def send(self, request: Any, **options: Any) -> Any:
            raise LookupError("odd")

        def close(self) -> None:
            pass

    for mode, raised in (("return", LookupError), ("raise", ra.OutcomeUnknownError)):
        session = connect(settings(1, on_error=mode), clock=clock, transport=Odd())
        for _ in range(2):
            with pytest.raises(raised) as caught:
                session.post("http://gateway.invalid/x")
            assert ra.resilience_of(caught.value).outcome_unknown
        with pytest.raises(LookupError):
            session.get("http://gateway.invalid/x")
