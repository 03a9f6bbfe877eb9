"""``demo``: one ordinary script against a gateway that misbehaves, plain and with the adapter, side by side."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import requests

from ..adapter import ResilientAdapter
from ..clock import SYSTEM_CLOCK
from ..core.codes import CODES
from ..settings import Settings
from ..telemetry.events import Event
from ..testing import Fault, Gateway

_CALL, _PLAIN = 18, 34
_API = "/api/*"
_LOGIN = {"user": "demo"}
_TIMEOUT = 5  # seconds
_ORDERS = 2
_WORTH_SAYING = 0.05  # seconds

SETTINGS: dict[str, Any] = {
    # Shorter waits than the defaults, which are the reference's own: a demo is watched.
    "retry": {"max_attempts": 6, "base": 0.3, "jitter": 0.2},
    "circuit": {"fail_max": 3, "reset_timeout": 0.6, "when_open": "wait"},
    "rate_limit": {"wait": 1.0},
}


def script(session: requests.Session, url: str) -> Iterator[tuple[str, Callable[[], requests.Response]]]:
    """An ordinary script. Nothing in it knows of the adapter.

    It yields its calls instead of making them, so that both runs can be shown in step.
    """

    def log_in() -> requests.Response:
        response = session.post(f"{url}/login", json=_LOGIN, timeout=_TIMEOUT)
        session.headers["Authorization"] = f"Bearer {response.json()['data']['token']}"
        return response

    def get(path: str) -> Callable[[], requests.Response]:
        return lambda: session.get(f"{url}/api/v1/{path}", params={"symbol": "BTCUSDT"}, timeout=_TIMEOUT)

    def order(side: str) -> Callable[[], requests.Response]:
        form = {"symbol": "BTCUSDT", "side": side, "quantity": "0.01", "newClientOrderId": f"demo-{side}"}
        return lambda: session.post(f"{url}/api/v1/order", data=form, timeout=_TIMEOUT)

    yield "log in", log_in
    yield "account", get("account")
    yield "ticker", get("ticker")
    yield "klines", get("klines")
    yield "depth", get("depth")
    yield "buy order", order("BUY")
    yield "trades", get("trades")
    yield "open orders", get("openOrders")
    yield "sell order", order("SELL")
    yield "positions", get("positions")
    yield "account", get("account")


def weather(gateway: Gateway) -> Iterator[str]:
    """What goes wrong, call by call; each step sets it up and names it."""
    yield ""
    yield ""
    gateway.script(Fault.code(-1003, status=429, retry_after=1), path=_API)
    yield "a rate limit, Retry-After: 1"
    gateway.script(Fault.reset("before"), Fault.close("before"), path=_API)
    yield "the connection drops, twice"
    gateway.script(Fault.cut_body(), path=_API)
    yield "the answer is cut off"
    gateway.script(Fault.code(-1008), Fault.code(-1008), path=_API)
    yield "the server is busy: the order was not executed"
    gateway.busy(1.5)
    yield "an overload of 1.5 s: the circuit opens"
    yield ""
    gateway.down()
    threading.Timer(0.5, gateway.up).start()
    yield "the server restarts: connections are refused for 0.5 s"
    gateway.expire_tokens()
    yield "the token expires"
    yield ""


class _Run:
    """One run of the script, with a gateway of its own in the same weather."""

    def __init__(self, gateway: Gateway, session: requests.Session) -> None:
        self.gateway = gateway
        self.script = script(session, gateway.url)
        self.weather = weather(gateway)
        self.answered = 0
        self.lost = 0

    def step(self) -> str:
        """Make the script's next call; return what its caller got."""
        _, make = next(self.script)
        try:
            code = make().json()["code"]
        except (requests.RequestException, ValueError, KeyError) as error:
            ending = type(error).__name__
        else:
            if code == 0:
                self.answered += 1
                return "ok"
            ending = f"{code} {CODES[code].name}"
        self.lost += 1
        return f"LOST: {ending}"


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="watch the adapter at work",
        description="Run one ordinary requests script twice against a gateway on loopback that misbehaves: plain, and "
        "with the adapter. Exit status 0 where the adapter's run lost nothing.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo. Returns 0 only if the run with the adapter lost nothing."""
    del args  # it takes none
    started = SYSTEM_CLOCK.monotonic()
    events: list[Event] = []

    def show(event: Event) -> None:
        events.append(event)
        _write(_told(event))

    with Gateway(require_token=True) as left, Gateway(require_token=True) as right:
        plain, resilient = requests.Session(), requests.Session()
        for session in (plain, resilient):
            session.trust_env = False
        settings = {**SETTINGS, "token": {"url": f"{right.url}/login", "json": _LOGIN}}
        resilient.mount(right.url, ResilientAdapter(Settings.from_mapping(settings), listeners=[show]))
        runs = _Run(left, plain), _Run(right, resilient)
        _write(_HEAD)
        for name, _ in script(plain, ""):
            for one in runs:
                one.gateway.clear()
            wrong, _ = [next(one.weather) for one in runs]
            if wrong:
                _write(f"{'':{_CALL}}~ {wrong}\n")
            lost = runs[0].step()
            _write(f"{name:{_CALL}}{lost:{_PLAIN}}")
            before = SYSTEM_CLOCK.monotonic()
            lost = runs[1].step()
            took = SYSTEM_CLOCK.monotonic() - before
            _write(lost + (f"  ({took:.1f} s)\n" if took > _WORTH_SAYING else "\n"))
        plain.close()
        resilient.close()
        _write(_totals(runs, events, SYSTEM_CLOCK.monotonic() - started))
        return _verdict(runs[1])


_HEAD = f"""\
One script, run twice against a gateway on loopback in the same weather.

    session = requests.Session()
    session.mount(url, ResilientAdapter(settings))      # the run on the right; nothing else differs

{"call":{_CALL}}{"plain requests":{_PLAIN}}with ResilientAdapter
{"-" * (_CALL - 2):{_CALL}}{"-" * (_PLAIN - 2):{_PLAIN}}{"-" * 44}
"""

_SAID = {
    "retry": "{what}, {wait:.1f} s > ",
    "throttle": "{what}, {wait:.1f} s > ",
    "refresh": "{what}, new token > ",
    "circuit_open": "circuit opens > ",
    "circuit_half_open": "probe > ",
    "circuit_closed": "closes > ",
    "give_up": "gives up: {detail} > ",
}


def _told(event: Event) -> str:
    what = event.detail if event.code is None else event.code
    return _SAID.get(event.name, f"{event.name} > ").format(what=what, detail=event.detail, wait=event.wait)


def _totals(runs: tuple[_Run, _Run], events: list[Event], elapsed: float) -> str:
    lines = [f"\n{'':{_CALL}}{'plain requests':{_PLAIN}}with ResilientAdapter"]
    rows: list[tuple[str, Callable[[_Run], int]]] = [
        ("calls answered", lambda one: one.answered),
        ("calls lost", lambda one: one.lost),
        ("sends", lambda one: len(one.gateway.journal)),
        ("orders placed", lambda one: len(_orders(one))),
    ]
    lines += [f"{title:{_CALL}}{count(runs[0])!s:{_PLAIN}}{count(runs[1])}" for title, count in rows]
    done = {name: sum(event.name == name for event in events) for name in ("retry", "throttle", "refresh")}
    lines.append(
        f"\nThe adapter repeated {done['retry']} sends after a backoff, {done['throttle']} after a rate limit, and got "
        f"{done['refresh']} new token{'' if done['refresh'] == 1 else 's'}. {elapsed:.1f} s in all.\n"
    )
    return "\n".join(lines)


def _orders(one: _Run) -> list[bytes]:
    return [entry.body for entry in one.gateway.received("/api/v1/order", "POST") if entry.executed]


def _verdict(one: _Run) -> int:
    orders = _orders(one)
    each_once = len(orders) == len(set(orders)) == _ORDERS
    return 0 if not one.lost and each_once else 1


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
