"""The rule over all others, at scale: orders from many threads through every fault, and processes killed at random.

Run one of::

    python tests/benchmarks/orders_campaign.py                    # a script that repeats what it may
    python tests/benchmarks/orders_campaign.py --recipe           # the reference's retry recipe around the session
    python tests/benchmarks/orders_campaign.py --no-reconciler    # nobody finds out
    python tests/benchmarks/orders_campaign.py --kills 50         # processes killed with SIGKILL, and their journal

``--orders``, ``--threads``, ``--rate`` (share of the requests that meet a fault), ``--speed`` and ``--seed`` change the
size. Time runs ``--speed`` times faster than the wall clock, for the adapter and the exchange alike, so that waits of
thirty seconds do not take a day. Orders are signed: an exchange that took one after its receive window had passed,
when a look-up has long said "not found", could not be traded on safely by anybody. Exit status 1 where the rule was
broken.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import requests

from resilient_adapter import ResilientAdapter, resilience_of
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.state.journal import Journal, State
from resilient_adapter.testing import Fault
from resilient_adapter.testing.orders import ORDER_PATH, OrderGateway, order_faults

SECRET = "campaign"
RECV_WINDOW = 25_000  # milliseconds of the fast clock; less than orders.give_up
READ_TIMEOUT = 0.5  # seconds of real time, whatever the clock
SLOW = (Fault.delay(2 * READ_TIMEOUT, before=True), Fault.delay(2 * READ_TIMEOUT, before=False))


class FastClock:
    """A clock that runs faster than the wall's."""

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def monotonic(self) -> float:
        """Return seconds since some instant."""
        return time.monotonic() * self._speed

    def time(self) -> float:
        """Return seconds since the epoch, or so."""
        return 1_700_000_000 + self.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds / self._speed)


class Campaign:
    """Orders from many threads, and the ledger that judges them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.clock = FastClock(options.speed)
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.orders = iter(range(options.orders))
        self.exchange = OrderGateway(
            clock=self.clock,
            visible_after=(0.0, 20.0),
            open_share=0.2,
            seed=options.seed,
            secret=SECRET,
            journal_size=1000,
        ).start()
        orders = {} if options.no_reconciler else {"query_path": ORDER_PATH}
        self.settings: dict[str, Any] = {
            "origins": [self.exchange.url],
            "signing": {"api_key": "key", "secret": SECRET, "recv_window": RECV_WINDOW},
            "orders": orders,
            "on_error": "raise" if options.recipe else "return",
            "read_timeout": READ_TIMEOUT,
            "retry": {"budget": 0},
        }

    def run(self) -> bool:
        """Place the orders, print what became of them, and return whether the rule held."""
        began = time.perf_counter()
        try:
            self.exchange.random_faults(self.options.rate, (*order_faults(), *SLOW), self.options.seed, path=ORDER_PATH)
            threads = [threading.Thread(target=self._work, args=(n,)) for n in range(self.options.threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self.exchange.stop()
        self.counts["executed twice"] = len(self.exchange.executed_twice())
        broken = ("executed twice", "executed, reported as safe to repeat", "reported as executed, was not")
        for name in broken:
            self.counts.setdefault(name, 0)
        for name, count in sorted(self.counts.items()):
            print(f"{count:8}  {name}")
        unknown, left = self.counts["ever unknown to the script"], self.counts["left to a human"]
        share = 1 - left / self.options.orders
        print(f"{share:8.2%}  of all orders resolved without a human ({left} were not, of {unknown} ever unknown)")
        print(f"{time.perf_counter() - began:8.1f}  seconds")
        return not any(self.counts[name] for name in broken)

    def _work(self, number: int) -> None:
        chance = random.Random(self.options.seed * 1000 + number)
        with requests.Session() as session:
            session.mount("http://", ResilientAdapter(self.settings, clock=self.clock))
            while True:
                with self.lock:
                    order = next(self.orders, None)
                if order is None:
                    return
                self._place(session, f"order-{order}", chance)

    def _place(self, session: requests.Session, name: str, chance: random.Random) -> None:
        """Place one order, again and again as the variant has it, and judge each word that was given of it."""
        tries = 3 if self.options.recipe else 6
        ever_unknown = False
        for attempt in range(tries):
            good, unknown = self._try(session, name)
            ever_unknown |= unknown
            executions = self.exchange.executions(name)
            if good:
                self._count("executed" if executions == 1 else "reported as executed, was not")
                break
            if not unknown and executions:
                self._count("executed, reported as safe to repeat")
                break
            # The recipe knows nothing of outcomes: it repeats whatever has failed.
            self.clock.sleep(2.0**attempt + chance.random())
        else:
            self._count("left to a human" if unknown else "not executed, and known to be so")
        if ever_unknown:
            self._count("ever unknown to the script")

    def _try(self, session: requests.Session, name: str) -> tuple[bool, bool]:
        params = {"symbol": "B", "newClientOrderId": name}
        outcome: Any
        try:
            outcome = session.post(self.exchange.url + ORDER_PATH, params=params)
        except requests.RequestException as error:
            outcome = error
        report = resilience_of(outcome)
        good = isinstance(outcome, requests.Response) and report.code == 0
        return good, report.outcome_unknown

    def _count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1


CHILD = """
import sys, threading, requests
from resilient_adapter import ResilientAdapter
url, journal, run = sys.argv[1:]
lock = threading.Lock()
def work(thread):
    session = requests.Session()
    session.mount("http://", ResilientAdapter({"orders": {"journal": journal}}))
    for number in range(100000):
        name = f"{run}-{thread}-{number}"
        session.post(url, params={"symbol": "B", "newClientOrderId": name})
        with lock:
            print(name, flush=True)
print("ready", flush=True)
for thread in range(4):
    threading.Thread(target=work, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def kills(options: argparse.Namespace) -> bool:
    """Kill processes at random moments; return whether the journal names exactly the orders that are unknown."""
    chance = random.Random(options.seed)
    wrong = unknown_in_all = placed = 0
    with tempfile.TemporaryDirectory() as folder, OrderGateway(seed=options.seed) as exchange:
        path = Path(folder, "journal")
        # Answers take a while, so that a kill finds orders on the wire, some executed and some not yet.
        exchange.random_faults(0.5, (Fault.delay(0.005), Fault.delay(0.005, before=False)), options.seed)
        for run in range(options.kills):
            command = [sys.executable, "-c", CHILD, exchange.url + ORDER_PATH, str(path), str(run)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.3))
            child.send_signal(signal.SIGKILL)
            told = set(child.communicate()[0].split())
            time.sleep(0.05)  # what was on the wire is executed by now, or never
            if not exchange.received(ORDER_PATH, "POST"):
                continue  # it may have been killed as it made the journal
            journal = Journal(path, SYSTEM_CLOCK, create=False)
            lines = {e.intent.id: e.state for e in journal.entries() if e.intent.id.startswith(f"{run}-")}
            journal.close()
            executed = {order.client_id for order in exchange.ledger if str(order.client_id).startswith(f"{run}-")}
            sent = {r.params["newClientOrderId"] for r in exchange.received(ORDER_PATH, "POST")}
            sent = {name for name in sent if name.startswith(f"{run}-")}
            unknown = {name for name, state in lines.items() if state is State.UNKNOWN}
            known = {name for name, state in lines.items() if state is State.EXECUTED}
            # Every order that went out is there; what is known is true; what the script was told is not unknown;
            # and each thread had one order under way at most.
            good = sent | executed <= set(lines) and known <= executed and not told & unknown and told <= known
            good = good and unknown | known == set(lines) and len(unknown) <= 4
            wrong += not good
            unknown_in_all += len(unknown)
            placed += len(lines)
    print(f"{options.kills:8}  kills")
    print(f"{placed:8}  orders in the journal")
    print(f"{unknown_in_all:8}  of them unknown")
    print(f"{wrong:8}  kills after which the journal was wrong")
    return not wrong


def main() -> int:
    """Run a campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--speed", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipe", action="store_true")
    parser.add_argument("--no-reconciler", action="store_true")
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    return 0 if (kills(options) if options.kills else Campaign(options).run()) else 1


if __name__ == "__main__":
    sys.exit(main())
