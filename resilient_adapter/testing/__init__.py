"""A gateway, a clock and faults, to test code against that uses the adapter (or that does not).

Nothing here needs more than the standard library, and nothing leaves the loopback interface.

>>> import requests
>>> from resilient_adapter.testing import Fault, Gateway
>>> with Gateway() as gateway:
...     gateway.script(Fault.code(-1003, status=429, retry_after=1), None)
...     throttled = requests.get(gateway.url + "/api/v1/ping")
...     healthy = requests.get(gateway.url + "/api/v1/ping")
...     [entry.code for entry in gateway.journal]
[-1003, 0]

===============  ======================================================================================
`Gateway`        an HTTP server that speaks the API's envelope, follows a script of faults, and remembers
                 what it received
`OrderGateway`   one that takes orders, with a ledger of what was executed (`Execution`)
`Fault`          what goes wrong with one request; `order_faults()` is one of every kind that an order may meet
`FakeClock`      a clock that sleeps at once, for ``ResilientAdapter(clock=…)`` and ``Gateway(clock=…)``
`Received`       one entry of ``gateway.journal``: a request, and what became of it
`Request`        what a handler of your own is given
`Answer`         what it returns
===============  ======================================================================================
"""

from __future__ import annotations

from .clock import FakeClock
from .faults import Fault
from .gateway import Gateway
from .messages import Answer, Received, Request
from .orders import Execution, OrderGateway, order_faults

__all__ = [
    "Answer",
    "Execution",
    "FakeClock",
    "Fault",
    "Gateway",
    "OrderGateway",
    "Received",
    "Request",
    "order_faults",
]
