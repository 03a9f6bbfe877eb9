"""Work spread over processes; the session is made once, at the top."""

import multiprocessing
import sys

import requests

session = requests.Session()


def work(n):
    first = session.get(sys.argv[1] + "/api/v1/trades/%d" % n)
    second = requests.get(sys.argv[1] + "/api/v1/fees/%d" % n)
    return n, first.json()["data"]["path"], second.json()["data"]["path"]


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    with multiprocessing.Pool(2) as pool:
        for row in pool.map(work, range(4), chunksize=1):
            print(row)
