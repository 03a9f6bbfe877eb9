"""64 threads call as their token expires: how often it is refreshed, how many calls fail, how long it takes.

    python tests/benchmarks/bench_tokens.py [--threads 64] [--rounds 9] [--login 50]

The server answers 401 and -1002 to any token but the newest: a login ends the tokens before it, as one login per
account does on many APIs. Every thread holds the token that has just ended, and makes one call. The time is over that
of a bare single-flight, the least code that does it right: a lock, and a look whether another thread has refreshed
meanwhile. Contenders take turns in one run; medians of all rounds are shown, and the most refreshes and failures.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from support import Answer, all_at_once, envelope, get_json, missing, response, row, server, table

from resilient_adapter import ResilientAdapter, Settings

#: Makes a call and returns whether it succeeded.
Call = Callable[[], bool]


def accounts(delay: float) -> Answer:
    """Answer ``/account`` to the newest token only; ``/login`` gives a new one, after ``delay`` seconds."""
    lock = threading.Lock()
    newest = logins = 0

    def answer(path: str, head: bytes) -> bytes:
        nonlocal newest, logins
        if path == "/account":
            if f"Bearer token-{newest}\r\n".encode() in head:
                return response(envelope(0, "an account"))
            return response(envelope(-1002), status="401 Unauthorized")
        if path == "/login":
            time.sleep(delay)
            with lock:
                logins += 1
                newest += 1
                return response(
                    b'{"code":0,"access_token":"token-%d","token_type":"Bearer","expires_in":3600,'
                    b'"refresh_token":"again"}' % newest
                )
        with lock:
            if path == "/expire":
                newest += 1
            return response(str(logins).encode())

    return answer


class Client:
    """What every contender has: a session that all threads share, and a way to log in.

    Args:
        url: of the server.
        threads: how many share the session.
    """

    def __init__(self, url: str, threads: int) -> None:
        self.url = url
        self.threads = threads
        self.session = self.plain(requests.Session())

    def plain(self, session: Any) -> Any:
        """Return a session with room for all threads' connections."""
        session.trust_env = False
        session.mount("http://", HTTPAdapter(pool_maxsize=self.threads))
        return session

    def login(self) -> str:
        """Return a new token."""
        return get_json(self.url + "/login")["access_token"]

    def get(self, token: str) -> requests.Response:
        """Call with a token."""
        return self.session.get(self.url + "/account", headers={"Authorization": f"Bearer {token}"})


def good(answer: requests.Response) -> bool:
    """Return whether a call succeeded."""
    return answer.json()["code"] == 0


# --- contenders: each returns what makes a call, and what is done before a round


def single_flight(client: Client) -> Call:
    """Refresh under a lock, unless another thread has."""
    lock, token = threading.Lock(), client.login()

    def call() -> bool:
        nonlocal token
        used = token
        answer = client.get(used)
        if answer.status_code == 401:
            with lock:
                if token == used:
                    token = client.login()
            answer = client.get(token)
        return good(answer)

    return call


def adapter(client: Client) -> Call:
    """Leave it to the adapter."""
    settings = Settings.from_mapping({"origins": [client.url]})
    client.session.mount("http://", ResilientAdapter(settings, token_source=client.login, pool_maxsize=client.threads))
    return lambda: good(client.session.get(client.url + "/account"))


def lock_without_compare(client: Client) -> Call:
    """Refresh under a lock."""
    lock, token = threading.Lock(), client.login()

    def call() -> bool:
        nonlocal token
        answer = client.get(token)
        if answer.status_code == 401:
            with lock:
                token = client.login()
            answer = client.get(token)
        return good(answer)

    return call


def google_auth(client: Client) -> Call:
    """Leave it to google-auth's session: on a 401 each thread refreshes the credentials, twice at most."""
    credentials = importlib.import_module("google.auth.credentials")
    transport = importlib.import_module("google.auth.transport.requests")

    class Login(credentials.Credentials):  # type: ignore[name-defined, misc]
        def refresh(self, request: object) -> None:
            self.token = client.login()

    session = client.plain(transport.AuthorizedSession(Login()))
    return lambda: good(session.get(client.url + "/account"))


def requests_oauthlib(client: Client) -> Call:
    """Leave it to requests-oauthlib: a thread that sees the token past its end refreshes it."""
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # over plain HTTP, on loopback
    module = importlib.import_module("requests_oauthlib")
    session = client.plain(
        module.OAuth2Session(
            client_id="client", token=_ended(), auto_refresh_url=client.url + "/login", token_updater=lambda _: None
        )
    )

    def call() -> bool:
        return good(session.get(client.url + "/account"))

    call.before = lambda: setattr(session, "token", _ended())  # type: ignore[attr-defined]
    return call


def _ended() -> dict[str, object]:
    return {"access_token": "old", "refresh_token": "again", "token_type": "Bearer", "expires_in": "-1"}


CONTENDERS: list[tuple[str, Callable[[Client], Call], tuple[str, ...]]] = [
    ("bare single-flight", single_flight, ()),
    ("adapter", adapter, ()),
    ("a lock, without comparing", lock_without_compare, ()),
    ("google-auth: AuthorizedSession", google_auth, ("google.auth",)),
    ("requests-oauthlib: auto_refresh_url", requests_oauthlib, ("requests_oauthlib",)),
]


def main() -> None:
    """Print a row for each contender."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--login", type=float, default=50.0, help="milliseconds that a login takes")
    args = parser.parse_args()
    skipped = {name: missing(*modules) for name, _, modules in CONTENDERS}
    with server(accounts, args.login / 1000) as url:
        calls = {name: make(Client(url, args.threads)) for name, make, _ in CONTENDERS if not skipped[name]}
        refreshes: dict[str, list[int]] = {name: [] for name in calls}
        failures: dict[str, list[int]] = {name: [] for name in calls}
        walls: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(args.rounds + 1):
            for name, call in calls.items():
                getattr(call, "before", lambda: None)()
                before = get_json(url + "/expire")
                results = [False] * args.threads

                def work(thread: int, call: Call = call, results: list[bool] = results) -> None:
                    results[thread] = call()

                wall = all_at_once(args.threads, work)
                if number:  # the first round connects
                    refreshes[name].append(get_json(url + "/logins") - before)
                    failures[name].append(results.count(False))
                    walls[name].append(wall)
    bare = walls[CONTENDERS[0][0]]
    table(f"{args.threads} threads", "refreshes", "failed calls", "time", "over single-flight", "middle half")
    for name in calls:
        ratios = [own / theirs for own, theirs in zip(walls[name], bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        row(
            name,
            median_and_most(refreshes[name]),
            median_and_most(failures[name]),
            f"{statistics.median(walls[name]) * 1000:,.0f} ms",
            f"{middle:.2f}",
            f"{low:.2f} to {high:.2f}",
        )
    for name, modules in skipped.items():
        if modules:
            print(f"{name}: skipped, not installed: {', '.join(modules)}")


def median_and_most(values: list[int]) -> str:
    """Return both, where they differ."""
    middle, most = statistics.median(values), max(values)
    return f"{middle:g}" if middle == most else f"{middle:g}, at most {most}"


if __name__ == "__main__":
    main()
