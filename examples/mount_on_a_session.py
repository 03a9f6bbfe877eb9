"""Mount the adapter on a session that exists: the calls above it do not change.

    python examples/mount_on_a_session.py

A gateway on loopback stands in for the API: its token expires, and it asks for a pause.
"""

import requests

from resilient_adapter import ResilientAdapter
from resilient_adapter.testing import Fault, Gateway

with Gateway(require_token=True) as gateway:

    def log_in() -> str:
        return requests.post(gateway.url + "/login", timeout=5).json()["data"]["token"]

    session = requests.Session()
    session.mount(gateway.url, ResilientAdapter({"origins": [gateway.url]}, token_source=log_in))

    print("account:", session.get(gateway.url + "/api/v1/account").json()["msg"])

    gateway.expire_tokens()
    gateway.script(Fault.code(-1003, retry_after=1), path="/api/*")
    response = session.get(gateway.url + "/api/v1/positions")
    print("positions:", response.json()["msg"])
    for attempt in response.resilience.attempts:
        print(f"  send {attempt.number}: code {attempt.code}, after {attempt.wait:.0f} s")
