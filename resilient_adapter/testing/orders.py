"""An exchange in miniature: orders are executed or not, whatever becomes of the answer, and a ledger is the judge."""

from __future__ import annotations

import hmac
import itertools
import random
import threading
from dataclasses import dataclass, replace
from typing import Any

from .faults import Fault
from .gateway import Gateway
from .messages import Answer, Request

ORDER_PATH = "/api/v1/order"
DUPLICATE = -2010  # what exchanges answer to a client id that an open order has, with a message that says so


@dataclass(frozen=True)
class Execution:
    """One line of the ledger: an order that was executed.

    Attributes:
        order_id: the exchange's own id of it.
        client_id: the client id that it carried, or None.
        params: its parameters.
        time: when, in seconds on the gateway's monotonic clock.
        visible_at: when a look-up finds it, on the same clock.
        status: ``"NEW"`` (open), ``"FILLED"`` or ``"CANCELED"``.
    """

    order_id: int
    client_id: str | None
    params: dict[str, Any]
    time: float
    visible_at: float
    status: str


class OrderGateway(Gateway):
    """A gateway that takes orders.

    ==================  =======================================================================================
    ``POST``            executes an order and answers with its state; -2010 where an open order that is visible
                        to the exchange has the same ``newClientOrderId``, -1102 without a ``symbol``
    ``GET``             the state of the order with ``origClientOrderId`` and ``symbol``, the newest if there
                        are several; -2011 where there is none, or none that is visible yet
    ``DELETE``          cancels it; -2011 where there is none, -2012 and -2013 where it is not open
    ==================  =======================================================================================

    A fault's ``executed`` decides whether an order is executed, and the `ledger` tells whether it was.

    Args:
        path: the path of orders.
        open_share: the share of the orders that stay open; the others are filled at once, and their client ids free.
        visible_after: seconds until a look-up finds an order; or two, between which chance decides.
        seed: of chance.
        secret: where given, requests to ``path`` have to be signed with it; else -1022.
        recv_window: milliseconds for which a signed request is good where it says nothing of it; else -1021.
        **options: as `Gateway`'s.
    """

    def __init__(
        self,
        *,
        path: str = ORDER_PATH,
        open_share: float = 0.0,
        visible_after: float | tuple[float, float] = 0.0,
        seed: int = 0,
        secret: str | None = None,
        recv_window: int = 5000,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._path = path
        self._open_share = open_share
        self._visible_after = visible_after if isinstance(visible_after, tuple) else (visible_after, visible_after)
        self._chance = random.Random(seed)
        self._secret = secret
        self._recv_window = recv_window
        self._orders_lock = threading.Lock()
        self._ids = itertools.count(1)
        self._ledger: dict[int, Execution] = {}
        self._by_client_id: dict[str | None, list[int]] = {}

    @property
    def ledger(self) -> list[Execution]:
        """What was executed, in order: a copy."""
        with self._orders_lock:
            return list(self._ledger.values())

    def executions(self, client_id: str | None) -> int:
        """Return how many orders with a client id were executed (None: without one)."""
        with self._orders_lock:
            return len(self._by_client_id.get(client_id, ()))

    def executed_twice(self) -> list[str]:
        """Return the client ids that were executed more than once."""
        with self._orders_lock:
            return [name for name, orders in self._by_client_id.items() if name is not None and len(orders) > 1]

    def handle(self, request: Request) -> Answer:
        """Take an order, tell of one or cancel one; anything else is `Gateway`'s."""
        if request.path != self._path or request.method not in ("POST", "GET", "DELETE"):
            return super().handle(request)
        refused = self._refused(request)
        if refused is not None:
            return Answer.error(refused)
        params = request.params
        now = self._clock.monotonic()
        with self._orders_lock:
            if request.method == "POST":
                return self._place(params, now)
            return self._find(params, now, cancel=request.method == "DELETE")

    def _place(self, params: dict[str, Any], now: float) -> Answer:
        if not params.get("symbol"):
            return Answer.error(-1102)
        client_id = params.get("newClientOrderId") or None
        earlier = self._by_client_id.setdefault(client_id, [])
        if client_id is not None and any(self._ledger[number].status == "NEW" for number in earlier):
            return Answer.error(DUPLICATE, "Duplicate order sent.")
        number = next(self._ids)
        status = "NEW" if self._chance.random() < self._open_share else "FILLED"
        order = Execution(number, client_id, params, now, now + self._chance.uniform(*self._visible_after), status)
        self._ledger[number] = order
        earlier.append(number)
        return _state(order)

    def _find(self, params: dict[str, Any], now: float, *, cancel: bool) -> Answer:
        if not params.get("origClientOrderId"):
            return Answer.error(-1118)
        found = [self._ledger[number] for number in self._by_client_id.get(params["origClientOrderId"], ())]
        found = [order for order in found if order.visible_at <= now and order.params["symbol"] == params.get("symbol")]
        if not found:
            return Answer.error(-2011)
        order = found[-1]
        if cancel:
            if order.status != "NEW":
                return Answer.error(-2012 if order.status == "CANCELED" else -2013)
            order = self._ledger[order.order_id] = replace(order, status="CANCELED")
        return _state(order)

    def _refused(self, request: Request) -> int | None:
        if self._secret is None:
            return None
        form = request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        signed, _, signature = (request.body.decode() if form else request.query).rpartition("&signature=")
        if not hmac.compare_digest(hmac.digest(self._secret.encode(), signed.encode(), "sha256").hex(), signature):
            return -1022
        try:
            age = self.time() * 1000 - int(request.params["timestamp"])
            window = int(request.params.get("recvWindow", self._recv_window))
        except (KeyError, ValueError):
            return -1102
        # As exchanges do it: a second of grace for clocks that are ahead.
        return None if -1000 < age <= window else -1021


def order_faults() -> tuple[Fault, ...]:
    """Return one of every fault that an order may meet, before its execution and after it."""
    return (
        Fault.code(-1000),
        Fault.code(-1000, executed=True),
        Fault.code(-1001),
        Fault.code(-1001, executed=True),
        Fault.code(-1006, executed=True),
        Fault.code(-1007),
        Fault.code(-1007, executed=True),
        Fault.code(-1008, status=503),
        Fault.code(-1003, status=429, retry_after=1),
        Fault.code(-2027, executed=True),
        Fault.status(500),
        Fault.status(500, executed=True),
        Fault.status(502),
        Fault.status(502, executed=True),
        Fault.status(503),
        Fault.status(503, executed=True),
        Fault.status(504),
        Fault.status(504, executed=True),
        Fault.reset("before"),
        Fault.reset("after"),
        Fault.reset("body"),
        Fault.close("before"),
        Fault.close("after"),
        Fault.close("body"),
        Fault.cut_body(),
        Fault.cut_body(chunked=True),
    )


def _state(order: Execution) -> Answer:
    return Answer.success(
        {
            "orderId": order.order_id,
            "clientOrderId": order.client_id,
            "symbol": order.params["symbol"],
            "status": order.status,
        }
    )
