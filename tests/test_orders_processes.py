"""Orders across processes: what a killed one leaves behind, and what the next one makes of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from resilient_adapter import OutcomeUnknownError, ResilientAdapter
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.state.journal import Journal, State
from resilient_adapter.testing import Fault
from resilient_adapter.testing.orders import ORDER_PATH, OrderGateway

SCRIPT = """
import sys, requests
from resilient_adapter import ResilientAdapter
url, journal = sys.argv[1:]
session = requests.Session()
session.mount("http://", ResilientAdapter({"orders": {"journal": journal}}))
print("ready", flush=True)
for number in range(1000):
    name = f"o{number}"
    session.post(url, params={"symbol": "B", "newClientOrderId": name})
    print(name, flush=True)
"""


@pytest.mark.parametrize("fault", [Fault.delay(30.0, before=True), Fault.delay(30.0, before=False)], ids=repr)
def test_after_a_kill_the_journal_names_exactly_the_orders_that_are_unknown(tmp_path: Path, fault: Fault) -> None:
    """The one on the wire, whether it was executed or not; not those before it. The same order is not sent again."""
    path = tmp_path / "journal"
    with OrderGateway() as exchange:
        exchange.script(None, None, fault, method="POST")
        command = [sys.executable, "-c", SCRIPT, exchange.url + ORDER_PATH, str(path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        exchange.wait_for(3, path=ORDER_PATH, method="POST", timeout=20)
        child.kill()
        child.communicate()
        journal = Journal(path, SYSTEM_CLOCK)
        assert [(entry.intent.id, entry.state) for entry in journal.entries()] == [
            ("o0", State.EXECUTED),
            ("o1", State.EXECUTED),
            ("o2", State.UNKNOWN),
        ]
        journal.close()
        session = requests.Session()
        adapter = ResilientAdapter({"orders": {"journal": str(path)}})
        session.mount("http://", adapter)
        with pytest.raises(OutcomeUnknownError):
            session.post(exchange.url + ORDER_PATH, params={"symbol": "B", "newClientOrderId": "o2"})
        assert len(exchange.received(ORDER_PATH, "POST")) == 3
        adapter._runtime.orders.journal(str(path)).close()  # type: ignore[union-attr]
        session.close()


@pytest.mark.parametrize("after", [0.01, 0.05, 0.1])
def test_a_kill_at_any_moment_loses_no_order(tmp_path: Path, after: float) -> None:
    """Every execution is in the journal, as executed or as unknown; what it calls unknown is one order at most."""
    path = tmp_path / "journal"
    with OrderGateway() as exchange:
        command = [sys.executable, "-c", SCRIPT, exchange.url + ORDER_PATH, str(path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(after)
        child.kill()
        child.communicate()
        if path.exists():
            journal = Journal(path, SYSTEM_CLOCK, create=False)
            states = {entry.intent.id: entry.state for entry in journal.entries()} if exchange.received() else {}
            journal.close()
        else:
            states = {}
        executed = {order.client_id for order in exchange.ledger}
        assert executed <= set(states)
        assert {name for name, state in states.items() if state is State.EXECUTED} <= executed
        assert set(states.values()) <= {State.EXECUTED, State.UNKNOWN}
        assert list(states.values()).count(State.UNKNOWN) <= 1
