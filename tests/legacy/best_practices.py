"""The two recipes of the error reference's Best Practices, put together as a user would, and used."""

import random
import sys
import time

import requests

BASE = sys.argv[1]
TOKEN = {}


def refresh_token():
    answer = requests.post(BASE + "/login", json={"user": "legacy"}).json()
    TOKEN["Authorization"] = "Bearer " + answer["data"]["token"]


def api_request(endpoint, params=None):
    reply = requests.get(BASE + endpoint, params=params, headers=TOKEN)
    body = reply.json()
    if body.get("code") != 0:
        code, text = body.get("code"), body.get("msg")
        if code == -1003:
            time.sleep(60)
            return api_request(endpoint, params)
        elif code == -1002:
            refresh_token()
            return api_request(endpoint, params)
        else:
            raise Exception(f"API Error {code}: {text}")
    return body["data"]


def retry_with_backoff(func, max_retries=3):
    for attempt in range(max_retries):
        try:
            return func()
        except Exception:
            if attempt == max_retries - 1:
                raise
            wait_time = (2**attempt) + random.random()
            time.sleep(wait_time)


for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
    data = retry_with_backoff(lambda: api_request("/api/v1/ticker", {"symbol": symbol}))
    print(data["path"], data["query"])
print(api_request("/api/v1/account")["path"])
try:
    retry_with_backoff(lambda: api_request("/api/v1/klines", {"symbol": "NOSUCH"}))
except Exception as e:
    print(e)
