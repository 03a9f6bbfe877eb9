"""A dozen calls of requests.get, one after the other, by somebody who never met an error."""

import sys

import requests

for n in range(12):
    r = requests.get(sys.argv[1] + "/api/v1/price/%d" % n, params={"symbol": "BTCUSDT"}, timeout=2)
    r.raise_for_status()
    j = r.json()
    print(n, j["msg"], j["data"]["path"], len(r.content))
