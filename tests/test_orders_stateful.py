"""The rule over all others, against every sequence of faults that Hypothesis can think of."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import requests
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient_adapter import ResilientAdapter, resilience_of
from resilient_adapter.testing import FakeClock
from resilient_adapter.testing.orders import ORDER_PATH, OrderGateway, order_faults

FAULTS = st.sampled_from([None, *order_faults()])
NAMES = st.sampled_from(["a", "b", "c"])


class Orders(RuleBasedStateMachine):
    """A script that repeats whatever it is told is safe to repeat, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.folder = tempfile.TemporaryDirectory()
        self.exchange = OrderGateway(clock=self.clock, visible_after=(0.0, 20.0)).start()
        self.serial = dict.fromkeys("abc", 0)
        self.session = requests.Session()

    @initialize(reconciler=st.booleans(), journal=st.booleans(), on_error=st.sampled_from(["return", "raise"]))
    def begin(self, reconciler: bool, journal: bool, on_error: str) -> None:
        """Choose how the adapter is set up."""
        orders: dict[str, Any] = {"journal": str(Path(self.folder.name, "journal"))} if journal else {}
        if reconciler:
            orders["query_path"] = ORDER_PATH
        self.settings = {"orders": orders, "on_error": on_error, "retry": {"budget": 0}}
        self.restart()

    def restart(self) -> None:
        """Mount a new adapter: with equal settings it shares what the old one knew."""
        self.adapter = ResilientAdapter(self.settings, clock=self.clock)
        self.session.mount("http://", self.adapter)

    @rule(name=NAMES, faults=st.lists(FAULTS, max_size=4), looks=st.lists(FAULTS, max_size=4), anew=st.booleans())
    def place(self, name: str, faults: list[Any], looks: list[Any], anew: bool) -> None:
        """Place an order, the same one again unless it is known to have been executed."""
        if anew:
            self.restart()
        order = f"{name}{self.serial[name]}"
        self.exchange.script(*faults, method="POST")
        self.exchange.script(*looks, method="GET")
        try:
            params = {"symbol": "B", "newClientOrderId": order}
            response = self.session.post(self.exchange.url + ORDER_PATH, params=params)
            unknown, good = resilience_of(response).outcome_unknown, resilience_of(response).code == 0
        except requests.RequestException as error:
            unknown, good = resilience_of(error).outcome_unknown, False
        self.exchange.clear()
        if good:
            assert self.exchange.executions(order) == 1, "delivered as executed"
            self.serial[name] += 1
        elif not unknown:
            assert self.exchange.executions(order) == 0, "executed, and reported as safe to repeat"

    @rule(seconds=st.sampled_from([1.0, 10.0, 100.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_executed_twice(self) -> None:
        """The ledger is the judge."""
        assert self.exchange.executed_twice() == []

    def teardown(self) -> None:
        """Close everything."""
        journal = self.adapter._runtime.orders.journal(self.settings["orders"].get("journal"))
        if journal is not None:
            journal.close()
        self.session.close()
        self.exchange.stop()
        self.folder.cleanup()


TestOrders = Orders.TestCase
TestOrders.__doc__ = "No order is executed twice, or reported as safe to repeat though it was executed."
TestOrders.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
