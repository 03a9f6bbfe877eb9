"""Legacy scripts, unchanged, each run plain and under ``resilient-adapter run``, in health and in trouble.

What is compared is all that one can see of a script from outside: standard output and error, the exit status, and what
the server received.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from resilient_adapter.testing import Answer, Fault, Received, Request
from resilient_adapter.testing.orders import OrderGateway

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

SETTINGS = """
origins = ["{url}"]
connect_timeout = 5
read_timeout = 0.5
retry = {{max_attempts = 30, base = 0.01, jitter = 0, max_wait = 0.02, budget = 0}}
rate_limit = {{wait = 0.05, adaptive = false}}
circuit = {{fail_max = 100, failure_rate = 1}}
"""
TOKEN = """
token = {{url = "{url}/login", json = {{user = "legacy"}}}}
"""
ORDERS = """
orders = {{query_path = "/api/v1/order", settle = 0.01, give_up = 0.05}}
"""

#: What the reference says may go wrong with any request, in every form, and is worth another send.
TRANSIENT = (
    Fault.code(-1000),
    Fault.code(-1000, executed=True),
    Fault.code(-1001),
    Fault.code(-1006, status=500),
    Fault.code(-1007, executed=True),
    Fault.code(-1008),
    Fault.code(-1008, status=503),
    Fault.status(500),
    Fault.status(502, executed=True),
    Fault.status(503),
    Fault.status(504),
    Fault.reset("before"),
    Fault.reset("after"),
    Fault.reset("body"),
    Fault.close("before"),
    Fault.close("after"),
    Fault.close("body"),
    Fault.cut_body(),
    Fault.cut_body(chunked=True),
)
#: After these the adapter sends slowly for a while, so not every script meets them.
THROTTLED = (Fault.code(-1003), Fault.code(-1003, status=429), Fault.status(429))
SILENCE = Fault.delay(0.8)


class Legacy(NamedTuple):
    """A script, and the trouble it gets into.

    Attributes:
        name: of its file.
        arguments: after the gateway's URL.
        trouble: what goes wrong.
        settings: what it takes beside :data:`SETTINGS`.
        input: its standard input.
        status: its exit status against a healthy gateway.
        require_token: the gateway answers -1002 without a token.
    """

    name: str
    trouble: Callable[[OrderGateway], None]
    arguments: tuple[str, ...] = ()
    settings: str = ""
    input: str = ""
    status: int = 0
    require_token: bool = False


def everything(gateway: OrderGateway) -> None:
    """Every fault, one after the other."""
    gateway.script(*TRANSIENT, path="/api/*")


def everywhere(gateway: OrderGateway) -> None:
    """Every fault, spread over parallel calls, some of them streams: of those only a body of known length is ours."""
    streamed = [fault for fault in TRANSIENT if not fault.delivery.chunked]
    for number in range(4):
        gateway.script(*streamed[number::4], path=f"/api/v1/depth/{number}")
        gateway.script(*TRANSIENT[number::4], path=f"/api/v1/trades/{number}")
        gateway.script(*TRANSIENT[number::4], path=f"/api/v1/fees/{number}")


def everything_and_more(gateway: OrderGateway) -> None:
    """Every fault, and a server that does not answer at all, or not so often."""
    gateway.script(SILENCE, *TRANSIENT, *THROTTLED, path="/api/*")


def tokens_end(gateway: OrderGateway) -> None:
    """Tokens are refused in the midst of it, and much else goes wrong."""
    gateway.script(*TRANSIENT[:9], Fault.code(-1002), path="/api/*", method="GET")
    gateway.script(*TRANSIENT[9:], Fault.code(-1002, status=401), path="/api/v1/leverage")
    gateway.script(Fault.status(503), Fault.code(-1002), path="/api/v1/allOpenOrders")


def answers_get_lost(gateway: OrderGateway) -> None:
    """Orders are executed and their answers lost, or they are not and that is not said; so with the look-up."""
    gateway.script(
        Fault.reset("after"), None, Fault.code(-1007, executed=True), Fault.code(-1008), Fault.status(502), None,
        path="/api/v1/order", method="POST",
    )  # fmt: skip
    gateway.script(Fault.status(502), Fault.reset("after"), path="/api/v1/order", method="GET")


SCRIPTS = [
    Legacy("best_practices", everything_and_more, settings=TOKEN, require_token=True),
    Legacy("ticker_loop", everything),
    Legacy("client_class", tokens_end, settings=TOKEN, require_token=True),
    Legacy("threads", everywhere),
    Legacy("processes", everywhere),
    Legacy("order_loop", answers_get_lost, settings=ORDERS),
    Legacy("tool", everything, ("--strict",), input="BTCUSDT\nNOSUCH ETHUSDT", status=3),
]


class Seen(NamedTuple):
    """What one can see of a run."""

    status: int
    output: str
    errors: str


class Run:
    """A script running against a gateway of its own."""

    def __init__(self, legacy: Legacy, folder: Path, *, covered: bool, healthy: bool) -> None:
        self.gateway = OrderGateway(require_token=legacy.require_token)
        self.gateway.respond("/api/v1/*", _answer)
        self.gateway.start()
        if not healthy:
            legacy.trouble(self.gateway)
        url = self.gateway.url
        command = [sys.executable]
        if covered:
            settings = folder / f"{url.rpartition(':')[2]}.toml"
            settings.write_text((SETTINGS + ("" if healthy else legacy.settings)).format(url=url))
            command += ["-m", "resilient_adapter", "run", "--settings", str(settings)]
        command += [str(HERE / f"{legacy.name}.py"), url, *legacy.arguments]
        # Without the measuring of coverage, beneath which workers that are forked hang, ours or not.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        environment |= {"PYTHONPATH": os.pathsep.join((str(HERE / "hurry"), str(ROOT)))}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(legacy.input)

    def seen(self) -> Seen:
        """Wait for its end."""
        output, errors = self.process.communicate(timeout=60)
        return Seen(self.process.returncode, output, errors)

    def close(self) -> None:
        """Stop both."""
        self.process.kill()
        self.process.communicate()
        self.gateway.stop()


def _answer(request: Request) -> Answer:
    # Unlike the gateway's own answer it is the same for every repeat.
    if "NOSUCH" in request.path + request.query:
        return Answer.error(-1120, "Invalid symbol", 400)
    data = {"method": request.method, "path": request.path, "query": request.query}
    return Answer.success(data)


def _request(entry: Received) -> str:
    headers = {name: value for name, value in entry.headers.items() if name != "Host"}
    if "Authorization" in headers:
        headers["Authorization"] = headers["Authorization"].split()[0]  # tokens are random
    return json.dumps([entry.method, entry.path, entry.query, headers, entry.body.decode()])


@pytest.fixture(params=SCRIPTS, ids=lambda legacy: legacy.name, scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Run, Seen]]]:
    """Run a script in all four ways at once."""
    legacy: Legacy = request.param
    ways = {"plain": (False, True), "covered": (True, True), "in trouble": (False, False), "saved": (True, False)}
    with ExitStack() as stack:
        started = {}
        for way, (covered, healthy) in ways.items():
            started[way] = Run(legacy, tmp_path_factory.mktemp(legacy.name), covered=covered, healthy=healthy)
            stack.callback(started[way].close)
        results = {way: (run, run.seen()) for way, run in started.items()}
        assert results["plain"][1].status == legacy.status, results["plain"][1].errors
        yield results


def test_against_a_healthy_server_nothing_changes(runs: dict[str, tuple[Run, Seen]]) -> None:
    """Output, errors and exit status are the same byte for byte, and the server receives the same requests."""
    (plain, before), (covered, after) = runs["plain"], runs["covered"]
    assert after == before
    # Threads and processes come in any order.
    assert Counter(map(_request, covered.gateway.journal)) == Counter(map(_request, plain.gateway.journal))
    assert covered.gateway.connections <= plain.gateway.connections


def test_in_trouble_it_is_as_if_nothing_had_happened(runs: dict[str, tuple[Run, Seen]]) -> None:
    """Under ``run`` a script prints and returns what it does in good health, though the server was asked again."""
    (plain, healthy), (saved, seen) = runs["plain"], runs["saved"]
    assert seen == healthy
    assert len(saved.gateway.journal) > len(plain.gateway.journal)
    assert any(entry.fault for entry in saved.gateway.journal)


def test_it_takes_the_adapter_to_save_it(runs: dict[str, tuple[Run, Seen]]) -> None:
    """Without the adapter the same trouble shows: in what is printed, in how it ends, or in an order sent twice."""
    (plain, healthy), (lost, seen) = runs["plain"], runs["in trouble"]
    assert seen != healthy or len(lost.gateway.ledger) > len(plain.gateway.ledger)


def test_no_order_is_executed_twice(runs: dict[str, tuple[Run, Seen]]) -> None:
    """Each order is executed once, whatever became of its answer; plain, the script's own loop sends some again."""
    assert runs["saved"][0].gateway.executed_twice() == []
    assert len(runs["saved"][0].gateway.ledger) == len(runs["plain"][0].gateway.ledger)
    if len(runs["plain"][0].gateway.ledger) > 0:
        assert runs["in trouble"][0].gateway.executed_twice() != []
