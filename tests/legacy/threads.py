"""Many downloads at once, each thread with a session of its own."""

import sys
from concurrent.futures import ThreadPoolExecutor

import requests

base = sys.argv[1]


def fetch(n):
    with requests.Session() as session:
        session.params = {"limit": 500}
        with session.get("%s/api/v1/depth/%d" % (base, n), stream=True) as response:
            body = b"".join(response.iter_content(100))
            return n, response.status_code, len(body), response.json()["data"]["query"] if not body else "streamed"


with ThreadPoolExecutor(4) as pool:
    for line in pool.map(fetch, range(8)):
        print(*line)
