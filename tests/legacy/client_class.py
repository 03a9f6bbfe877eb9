"""A client class, on a Session of its own kind, that logs in once and keeps its token."""

import sys
from urllib.parse import urljoin

import requests


class Client(requests.Session):
    def __init__(self, base):
        self.base = base
        self.calls = 0
        super().__init__()
        self.headers["User-Agent"] = "legacy-client/0.3"
        self.mount(base + "/api/", requests.adapters.HTTPAdapter(pool_maxsize=2))

    def request(self, method, url, **kwargs):
        self.calls += 1
        response = super().request(method, urljoin(self.base, url), **kwargs)
        body = response.json()
        if body["code"] != 0:
            sys.exit("gateway says %s" % body["code"])
        return body["data"]


with Client(sys.argv[1]) as client:
    client.headers["Authorization"] = "Bearer " + client.post("/login", json={"user": "legacy"})["token"]
    for path in ("account", "positions", "openOrders"):
        print(path, client.get("/api/v1/" + path)["method"])
    print(client.put("/api/v1/leverage", data={"symbol": "BTCUSDT", "leverage": 3})["method"])
    print(client.delete("/api/v1/allOpenOrders?symbol=BTCUSDT")["query"])
    print(client.calls, "calls")
