"""Places orders, and tries each again until it has an answer: the loop that buys twice."""

import sys
import time

import requests

session = requests.Session()
for n in range(4):
    order = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "0.01", "recvWindow": 300}
    order["newClientOrderId"] = "legacy-%d" % n
    while True:
        try:
            answer = session.post(sys.argv[1] + "/api/v1/order", data=order, timeout=5).json()
        except (requests.RequestException, ValueError):
            time.sleep(1)
            continue
        if answer["code"] in (-1000, -1001, -1003, -1007, -1008):
            time.sleep(5)
            continue
        break
    print(order["newClientOrderId"], answer["code"], answer["data"]["clientOrderId"], answer["data"]["status"])
