"""Everything by settings: where tokens come from, how often to repeat, when to leave a server alone.

In one terminal:   resilient-adapter gateway --port 8088 --token-ttl 5 --fault-rate 0.2
In another:
    export GATEWAY_PASSWORD=demo RESILIENT_ADAPTER_SETTINGS=examples/gateway.toml
    python examples/configured_by_settings.py

There `resilient-adapter settings` shows what is in effect, and where it came from.
"""

import logging
import os

import requests

import resilient_adapter

# The adapter says what it does to the standard logger `resilient_adapter` (or to structlog, where that is configured).
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8088")

session = requests.Session()
session.mount(url, resilient_adapter.ResilientAdapter())  # settings from environment and file

for path in ("account", "positions", "openOrders"):
    response = session.get(f"{url}/api/v1/{path}")
    print(path, response.json()["msg"])
