"""A script that was written years ago. Nobody wants to touch it, and nobody has to.

In one terminal:   resilient-adapter gateway --port 8088 --token-ttl 5 --fault-rate 0.2
In another, first as it is, and then with the adapter:
    python examples/legacy_script.py http://127.0.0.1:8088
    export GATEWAY_PASSWORD=demo
    resilient-adapter run --settings examples/gateway.toml examples/legacy_script.py http://127.0.0.1:8088
"""

import sys

import requests

url = sys.argv[1]

for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
    answer = requests.get(url + "/api/v1/ticker", params={"symbol": symbol}).json()
    if answer["code"] != 0:
        sys.exit(f"{symbol}: API error {answer['code']}: {answer['msg']}")
    print(symbol, answer["msg"])
