"""Orders in doubt: while it is unknown whether one was executed, the same order is not sent again.

A doubt begins with the outcome that is unknown, and ends when it is found out what became of the order, or by a
person's word. In between the same order from above, a script's own retry loop say, is looked up first: by one thread
for all. Where it is proven absent that thread sends it, and the others wait for what becomes of that.

Doubts are kept in the process, and in the journal where there is one: then they outlive it, and bind other processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from requests import PreparedRequest, Response

from ..clock import Clock
from ..core.classify import Outcome
from ..core.model import Executed
from ..core.order import Intent, State
from ..errors import JournalError, ResilienceError
from ..settings.schema import OrdersSettings
from .parameters import add_parameter, holds_many, parameters
from .reconcile import StillUnknownError
from .signed import caller_signature, strip_signature

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..state.journal import Entry, Journal

#: Doubts that a process keeps. None is ever dropped to make room, so beyond them no further order is sent.
MAX_DOUBTS = 10_000

_LOOK = 0.05  # seconds in which a waiting thread sees that its deadline is over
_POLL = 0.25  # seconds between two looks at what another process finds out
_ROUNDING = 0.001  # seconds by which one instant may differ, told by two clocks
_ID_PREFIX = "ra-"
_FRESH = ("timestamp", "signature")
_SECRETS = frozenset({"signature"})

Key = tuple[str, str, str]
"""Origin; the caller's client id, or else the request's fingerprint; and whose order it is, and what else tells it."""


class Order(NamedTuple):
    """What a request asks for, as far as it matters whether another asks for the same.

    Attributes:
        key: what tells the order from others.
        client_id: the caller's client id, or None.
    """

    key: Key
    client_id: str | None


class Doubt(NamedTuple):
    """An order of which nobody knows whether it was executed.

    Attributes:
        line: its line in the journal; 0 without one.
        client_id: what it can be looked up by, or None.
        sent_at: monotonic instant until which its last send may have been on its way.
        held: another process is finding out about it.
        alias: the key of a request for it that carries the id it was given, where that is another.
    """

    line: int
    client_id: str | None
    sent_at: float
    held: bool = False
    alias: Key | None = None


class OrderRules:
    """What an order looks like on one origin.

    Args:
        origin: scheme, host and port.
        settings: the settings of ``orders`` that hold there.
        key_header: the header that says whose order it is, where its caller sets it.
    """

    def __init__(self, origin: str, settings: OrdersSettings, key_header: str = "X-MBX-APIKEY") -> None:
        self._origin = origin
        self._key_header = key_header
        self._name = settings.client_id
        self._paths = settings.paths
        self.adds_client_id = settings.add_client_id
        self._query_path = settings.query_path
        self.journal = settings.journal
        self._carry = tuple(name for name in settings.carry if name not in _SECRETS)

    def order(self, request: PreparedRequest) -> Order | None:
        """Return the order that a request asks for, or None where it is none.

        It is a POST to one of ``orders.paths``; without any, a POST with a client id. (Under ``orders.add_client_id``
        then also a POST to ``orders.query_path``: where orders are looked up, they are placed.)
        """
        if (request.method or "").upper() != "POST":
            return None
        path = urlsplit(request.url or "").path
        if self._paths and not any(fnmatchcase(path, pattern) for pattern in self._paths):
            return None
        client_id = next((value for _, value in parameters(request, (self._name,)) if value), None)
        if client_id is not None:
            # Of one id a server may have orders for many symbols, and of many accounts.
            return Order((self._origin, client_id, self._whose(request, self._carried(request))), client_id)
        if self._paths or (self.adds_client_id and path == self._query_path):
            return Order((self._origin, fingerprint(request), self._whose(request, {})), None)
        return None

    def _carried(self, request: PreparedRequest) -> dict[str, str]:
        return dict(reversed(parameters(request, self._carry)))

    def _whose(self, request: PreparedRequest, carried: Mapping[str, str]) -> str:
        account = request.headers.get(self._key_header) or ""
        if not (account or carried):
            return ""
        account = account.decode("latin-1") if isinstance(account, bytes) else account
        # Not the key itself: this is written down.
        return hashlib.sha256(json.dumps([account, sorted(carried.items())]).encode()).hexdigest()[:16]

    def identified(self, request: PreparedRequest, client_id: str) -> PreparedRequest | None:
        """Return a copy of a request with a client id; None where it has no place for one, or may not have one.

        What its caller has signed stays as it is, and one id beside a list of orders would be none of theirs.
        """
        if parameters(request, (self._name,)) or caller_signature(request) is not None or holds_many(request):
            return None
        copy = request.copy()
        return copy if add_parameter(copy, self._name, client_id) else None

    def intent(self, order: Order, request: PreparedRequest, client_id: str | None) -> Intent:
        """Return what the journal writes down of an order: no query, no body, no header."""
        origin, identity, _ = order.key
        method, path = (request.method or "").upper(), urlsplit(request.url or "").path
        carry = self._carried(request)
        return Intent(client_id or identity, _written(order.key), client_id, origin, method, path, carry)


class _Flight:
    """What is being found out about an order, by one thread for all who want to send it.

    Where the one who leads proves nothing to the others, one of them takes the lead: nobody sends it beside another.
    """

    __slots__ = ("_leader", "changed", "client_id", "response", "verdict", "waiting")

    def __init__(self, lock: threading.Lock, leader: Submission) -> None:
        self.changed = threading.Condition(lock)
        self.lead(leader)
        self.waiting = 0
        self.verdict: Executed | None = None
        self.response: Response | None = None
        self.client_id: str | None = None  # of the order that the verdict is about

    @property
    def led(self) -> bool:
        """Whether there is somebody who leads. An interrupt at the wrong moment leaves one who is gone."""
        return self._leader is not None and self._leader() is not None

    def lead(self, leader: Submission | None) -> None:
        """Say who leads; None: nobody does."""
        self._leader = None if leader is None else weakref.ref(leader)


class Orders:
    """The doubts of a process, for all of its origins.

    Args:
        clock: the clock that every wait goes by.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._numbers = itertools.count(1)
        self._journals: dict[str, Journal] = {}
        self._doubts: dict[Key, dict[int, Doubt]] = {}
        self._aliases: dict[Key, dict[Key, None]] = {}  # what orders go by as well: what they are remembered by
        self._also: dict[Key, set[Key]] = {}  # the same, the other way round
        self._flights: dict[Key, _Flight] = {}
        self.under_way: set[int] = set()  # submissions that have been sent, and whose calls have not ended
        self._lock = threading.Lock()

    def reset_after_fork(self) -> None:
        """Make what threads of the parent may hold usable in a child process. Doubts are the child's as well."""
        self._lock = threading.Lock()
        self._flights = {}
        self.under_way = set()
        for journal in self._journals.values():
            journal.reset_after_fork()

    def submission(self, rules: OrderRules, request: PreparedRequest) -> Submission | None:
        """Return a call's dealings with the order that a request asks for, or None where it is no order."""
        order = rules.order(request)
        return None if order is None else Submission(self, rules, order, self.journal(rules.journal))

    def journal(self, path: str | None) -> Journal | None:
        """Return the journal at a path, the same one for all; None without a path."""
        if path is None:
            return None
        from ..state.journal import Journal

        with self._lock:
            journal = self._journals.get(path)
            if journal is None:
                journal = self._journals[path] = Journal(path, self.clock)
            return journal

    def in_doubt(self) -> bool:
        """Return whether there is any doubt that must not be forgotten, or may be one soon."""
        return bool(self._doubts or self._flights or self.under_way)

    def resolve(self, identity: str) -> bool:
        """Take a person's word that an order in doubt may be sent again.

        Args:
            identity: its client id, or its fingerprint as the journal shows it.

        Returns whether there was an order in doubt by that name.

        Raises:
            JournalError: the journal could not be written.
        """
        with self._lock:
            journals = list(self._journals.values())
        lines = sum(journal.resolve(identity) for journal in journals)
        found = 0
        with self._lock:
            for key, doubts in list(self._doubts.items()):
                for number, doubt in list(doubts.items()):
                    if identity in (key[1], doubt.client_id):
                        del doubts[number]
                        found += 1
                self._tidy(key)
        return bool(lines or found)

    # --- for submissions

    def number(self) -> int:
        """Return a number for a submission: its doubts are told from those of others by it."""
        return next(self._numbers)

    def remembered_by(self, key: Key) -> Key:
        """Return the key that an order is remembered by. Looking takes no lock."""
        return key if key in self._doubts else next(iter(self._aliases.get(key, ())), key)

    def doubt(self, key: Key, number: int, doubt: Doubt) -> None:
        """Remember a doubt."""
        with self._lock:
            self._doubts.setdefault(key, {})[number] = doubt
            if doubt.alias is not None:
                self._aliases.setdefault(doubt.alias, {})[key] = None
                self._also.setdefault(key, set()).add(doubt.alias)

    def forget(self, key: Key, numbers: Iterable[int]) -> None:
        """Forget doubts that have ended."""
        with self._lock:
            doubts = self._doubts.get(key)
            if doubts is not None:
                for number in numbers:
                    doubts.pop(number, None)
                self._tidy(key)

    def _tidy(self, key: Key) -> None:
        doubts = self._doubts.get(key, {})
        if not doubts:
            self._doubts.pop(key, None)
        if key in self._flights or key not in self._also:
            return  # who comes by another key meanwhile is to join the flight
        kept = {doubt.alias for doubt in doubts.values()}
        for alias in self._also[key] - kept:
            self._also[key].discard(alias)
            self._aliases[alias].pop(key, None)
            if not self._aliases[alias]:
                del self._aliases[alias]
        if not self._also[key]:
            del self._also[key]

    def doubts(self, key: Key) -> dict[int, Doubt]:
        """Return the doubts there are about an order, by the submission that left them."""
        if key not in self._doubts:  # nearly always, and looking takes no lock
            return {}
        with self._lock:
            return dict(self._doubts.get(key, {}))

    def crowded(self) -> bool:
        """Return whether there is no room for one more doubt."""
        return len(self._doubts) >= MAX_DOUBTS

    def knows(self, key: Key) -> bool:
        """Return whether an order is in doubt, or being found out about. Looking takes no lock."""
        return key in self._doubts or key in self._flights

    def flight(self, leader: Submission) -> _Flight:
        """Return a flight that is led by a submission, for :meth:`board`."""
        return _Flight(self._lock, leader)

    def board(self, key: Key, own: _Flight, *, doubtful: bool) -> _Flight | None:
        """Return the flight of an order: one that is under way, else the caller's own; none where there is no doubt.

        Args:
            key: the order's.
            own: taken where there is none yet.
            doubtful: it is in doubt, whatever is remembered here.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                flight.waiting += 1
                return flight
            if not doubtful and key not in self._doubts:
                return None
            self._flights[key] = own
            return own

    def follow(self, key: Key, flight: _Flight, leader: Submission, deadline: float) -> bool:
        """Wait for a flight to end, or to need another to lead it. Returns whether the caller leads it now.

        Raises:
            StillUnknownError: the deadline, a monotonic instant, ended before.
        """
        with flight.changed:
            while flight.verdict is None and flight.led:
                if self.clock.monotonic() >= deadline:
                    self._leave(key, flight)
                    raise StillUnknownError("the deadline ended while another thread was finding out")
                flight.changed.wait(_LOOK)
            flight.waiting -= 1
            if flight.verdict is None:
                flight.lead(leader)
                return True
            return False

    def leave(self, key: Key, flight: _Flight) -> None:
        """Wait for a flight no longer."""
        with self._lock:
            self._leave(key, flight)

    def _leave(self, key: Key, flight: _Flight) -> None:
        flight.waiting -= 1
        if not (flight.led or flight.waiting) and self._flights.get(key) is flight:
            del self._flights[key]
            self._tidy(key)

    def land(
        self, key: Key, flight: _Flight, verdict: Executed | None, response: Response | None, client_id: str | None
    ) -> None:
        """Lead a flight no longer.

        Args:
            key: the order's.
            flight: the one that is led.
            verdict: what holds for everyone who waits; None: nothing does.
            response: the order's state, where it was executed.
            client_id: what it was looked up by, or sent with.
        """
        with self._lock:
            flight.lead(None)
            flight.verdict, flight.response, flight.client_id = verdict, response, client_id
            if (verdict is not None or not flight.waiting) and self._flights.get(key) is flight:
                del self._flights[key]
                self._tidy(key)
            flight.changed.notify_all()


class Submission:
    """One call's dealings with one order, as a context: at its end everyone learns what became of it.

    An end that was interrupted may be made once more.

    Args:
        orders: the doubts of the process.
        rules: what an order looks like there.
        order: the order.
        journal: the journal, or None.
    """

    __slots__ = (
        "__weakref__",
        "_absent",
        "_base",
        "_checked_at",
        "_client_id",
        "_clock",
        "_flight",
        "_holder",
        "_journal",
        "_leads",
        "_line",
        "_number",
        "_on_wire",
        "_order",
        "_orders",
        "_outcome",
        "_own_key",
        "_response",
        "_rules",
        "_seen",
        "_sent_at",
        "_settled",
        "_state",
    )

    def __init__(self, orders: Orders, rules: OrderRules, order: Order, journal: Journal | None) -> None:
        self._orders = orders
        self._rules = rules
        self._order = order
        self._own_key = order.key  # which the order need not be remembered by
        self._journal = journal
        self._clock = orders.clock
        self._number = orders.number()
        self._client_id = order.client_id
        self._flight: _Flight | None = None
        self._leads = False
        self._holder = ""  # our name in the journal, while we lead
        self._seen: set[int] = set()  # lines of others that were open when we looked
        self._absent: list[int] = []  # lines that are proven not executed, and still open to keep others out
        self._line: int | None = None
        self._settled: tuple[list[int], list[int]] = ([], [])  # doubts, and lines, that end with our answer's delivery
        self._on_wire = False  # or came back, and its caller does not have the answer yet
        self._base: PreparedRequest | None = None  # what our client id was read from
        self._checked_at = 0.0
        self._sent_at = 0.0
        self._state: State | None = None
        self._outcome: Outcome | None = None
        self._response: Response | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        flight, verdict = self._flight, None
        try:
            # What was not told, an interrupt or a mistake of ours in its way, is as unknown to the caller as ever.
            told = error is None or getattr(error, "resilience", None) is not None
            if told:
                self._told()
            if self._on_wire or (self._state is State.EXECUTED and not told):
                self._leave_doubt(None)
            if self._state is State.EXECUTED:
                verdict = Executed.YES
            elif self._state is State.UNKNOWN and (kind is None or issubclass(kind, Exception)):
                verdict = Executed.UNKNOWN  # interrupted we have proven nothing: somebody else may find out
            if self._leads:
                self._close_books()
        finally:
            if flight is not None and self._leads:
                # A stream is its caller's: the others could not read it, too.
                response = self._response if getattr(self._response, "_content_consumed", False) else None
                self._orders.land(self._order.key, flight, verdict, response, self._client_id)
            self._flight = None
            if flight is not None and not self._leads:
                self._orders.leave(self._order.key, flight)
            self._orders.under_way.discard(self._number)

    def _told(self) -> None:
        """The caller has the answer, or its exception: what it says of the order holds from now on."""
        if self._on_wire and self._state is State.EXECUTED:
            self._on_wire = False
            self._orders.forget(self._order.key, (self._number,))
            self._note_own(self._outcome)
        doubts, lines = self._settled
        self._settled = ([], [])
        self._orders.forget(self._order.key, doubts)
        self._note(lines, State.EXECUTED, None)

    # --- before anything is sent

    def in_doubt(self) -> bool:
        """Return whether it is unknown what became of the same order, or being found out right now.

        Raises:
            JournalError: the journal could not be read.
            ResilienceError: there are too many doubts already to take a further one.
        """
        self._recognise()
        self._board(doubtful=bool(self._journal is not None and self._doubts()))
        self._checked_at = self._clock.monotonic()
        if self._flight is not None:
            return True
        if self._orders.crowded():
            raise ResilienceError(
                f"{MAX_DOUBTS} orders are in doubt, and nothing was sent: find out about them, or resolve them"
            )
        return False

    def overtaken(self) -> bool:
        """Return whether the same order has come into doubt since :meth:`in_doubt`, while this one had to wait.

        Raises:
            JournalError: the journal could not be read.
        """
        if self._leads or self._sent_at:
            return False
        self._recognise()
        waited = self._clock.monotonic() - self._checked_at
        if not self._orders.doubts(self._order.key) and (self._journal is None or waited < _LOOK):
            return False
        return self.in_doubt()

    def _recognise(self) -> None:
        if self._flight is None:
            self._order = self._order._replace(key=self._orders.remembered_by(self._own_key))

    @property
    def _by_its_id(self) -> bool:
        """Whether the order is recognised by an id that it was given: orders with other ids are not ours then."""
        return self._order.key != self._own_key

    def identified(self, request: PreparedRequest) -> PreparedRequest:
        """Return what is to be sent: with a client id where one is to be added; for an order in doubt, its own."""
        self._base = request
        if self._order.client_id is not None or not self._rules.adds_client_id:
            return request
        earlier = next((doubt.client_id for doubt in self._doubts().values() if doubt.client_id), None)
        client_id = earlier or _ID_PREFIX + os.urandom(16).hex()
        copy = self._rules.identified(request, client_id)
        if copy is None:
            return request
        self._client_id, self._base = client_id, copy
        return copy

    def settle(self, ask: Callable[[float], Response | None], deadline: float) -> Response | None:
        """Find out what became of the order, or wait for whoever finds out.

        Args:
            ask: given the monotonic instant until which the order may have been on its way, finds out: returns its
                state, or None where it is absent; raises where that is not to be known.
            deadline: monotonic instant until which others are waited for.

        Returns the order's state where it was executed; None where it may be sent, by this call alone.

        Raises:
            StillUnknownError: it is still unknown. (What ``ask`` raises means the same.)
            JournalError: the journal could not be used.
        """
        self._board(doubtful=True)
        if not self._leads:
            executed = self._follow(deadline)
            if executed is not None:
                return executed
        # Until it is known better, those who wait are told that it is not.
        self._state = State.UNKNOWN
        while True:
            # Equal requests that we gave ids of their own are orders of their own.
            everyone = self._doubts()
            doubts = {number: doubt for number, doubt in everyone.items() if doubt.client_id == self._client_id}
            if any(doubt.held for doubt in doubts.values()) or not self._hold(doubts):
                self._pause(deadline)
                continue
            if len(everyone) > len(doubts) and not (doubts or self._sent_at or self._by_its_id):
                raise StillUnknownError("the order in doubt carries another client id")
            if not doubts:
                if not self._executed_elsewhere():
                    self._state = None
                    return None
                found = ask(self._clock.monotonic())
                if found is None:
                    raise StillUnknownError("another process has executed the order, and it is not to be found")
            else:
                sent_at = max(doubt.sent_at for doubt in doubts.values())
                found = ask(sent_at)
                if found is None and not self._same(everyone):
                    continue  # it was sent meanwhile, by a call that had begun before
                if found is None and len(everyone) > len(doubts) and not (self._sent_at or self._by_its_id):
                    self._orders.forget(self._order.key, doubts)
                    raise StillUnknownError("more than one such order is in doubt")
            lines = [doubt.line for doubt in doubts.values() if doubt.line]
            if found is None:
                self._orders.forget(self._order.key, doubts)
                self._state, self._absent = None, lines
            else:
                self._settled = (list(doubts), lines)
                self._state, self._response = State.EXECUTED, found
            return found

    def _board(self, *, doubtful: bool) -> None:
        if self._flight is None and (doubtful or self._orders.knows(self._order.key)):
            own = self._orders.flight(self)
            self._lead(own)  # ours before it is everyone's: an interrupt in between leaves nobody waiting
            self._flight = self._orders.board(self._order.key, own, doubtful=doubtful)
            self._leads = self._flight is own
            if not self._leads:
                self._holder = ""

    def _lead(self, flight: _Flight) -> None:
        from ..state.journal import this_process

        self._holder = f"{this_process()}:{id(self._orders)}-{self._number}"
        self._flight = flight
        self._leads = True

    def _follow(self, deadline: float) -> Response | None:
        """Wait for the one who leads. Returns the order's state where it was executed; None where we lead now."""
        key = self._order.key
        while True:
            flight, self._flight = self._flight, None
            assert flight is not None  # settle() has boarded one
            if self._orders.follow(key, flight, self, deadline):
                self._lead(flight)
                return None
            sent = self._number in self._orders.doubts(key)
            if flight.client_id == self._client_id or not (sent or self._by_its_id):
                break
            self._board(doubtful=True)  # it was about another order than ours
            if self._leads:
                return None
        if flight.verdict is Executed.UNKNOWN or flight.response is None:
            raise StillUnknownError("another thread could not find out what became of the order")
        response = _replica(flight.response)
        self._settled = ([self._number], [] if self._line is None else [self._line])
        self._state = State.EXECUTED
        return response

    # --- around every send

    def sending(self, request: PreparedRequest) -> None:
        """Write down that the order is about to be sent.

        Raises:
            JournalError: that could not be written, so it must not be sent.
        """
        self._sent_at = self._clock.monotonic()
        self._orders.under_way.add(self._number)
        if request is not self._base:
            self._take_id_of(request)
        if self._journal is not None:
            intent = self._rules.intent(self._order, request, self._client_id)
            line = None if self._line in self._absent else self._line
            self._line = self._journal.intend(intent, line=line, absent=self._absent, holder=self._holder)
            self._absent = []
        self._on_wire = True

    def came_back(self, outcome: Outcome, response: Response | None, *, unknown: bool) -> None:
        """Take note of what a send brought.

        Args:
            outcome: the send's outcome.
            response: its response, where one came.
            unknown: this send, or one before it of which nothing was found out, may have been executed.
        """
        self._outcome = outcome
        if unknown:
            self._leave_doubt(outcome)
        elif outcome.executed is Executed.YES:
            # Its caller does not have the answer yet, and may never get it: it is still to be forgotten.
            self._state, self._response = State.EXECUTED, response
        else:
            self._on_wire = False
            self._orders.forget(self._order.key, (self._number,))
            self._state = State.NOT_EXECUTED
            self._sent_at = 0.0  # as before it: another call's may come into doubt while this one waits to repeat
            if not self._leads:
                # While others wait for us the line stays open: no other process is to send what we may repeat.
                self._note_own(outcome)

    def _take_id_of(self, request: PreparedRequest) -> None:
        """Look the order up by the id that it is sent with: a recovery of the user's may have given it another."""
        self._base = request
        order = self._rules.order(request)
        client_id = None if order is None else order.client_id
        if client_id is not None and client_id != self._client_id:
            self._client_id = client_id
            if self._line is not None and self._state is State.NOT_EXECUTED:
                self._absent = [*self._absent, self._line]
            self._line = None

    def _leave_doubt(self, outcome: Outcome | None) -> None:
        self._state = State.UNKNOWN
        # Until now it may have been on its way: a server that was slow to answer may be slow to show it, too.
        doubt = Doubt(self._line or 0, self._client_id, self._clock.monotonic())
        self._orders.doubt(self._order.key, self._number, doubt)
        # By an id that it was given, a recovery's or our own, its caller may place it again.
        sent = None if self._base is None else self._rules.order(self._base)
        if sent is not None and sent.client_id is not None and sent.key != self._order.key:
            self._orders.doubt(self._order.key, self._number, doubt._replace(alias=sent.key))
        self._on_wire = False  # not sooner: an interrupt in between must leave the doubt as well
        self._note_own(outcome)

    # --- the books

    def _doubts(self) -> dict[int, Doubt]:
        """Return the doubts about the order, by the submission that left them, or by their line (below 0) of another.

        What the journal has as settled, by a person's word or by another process, is in doubt no longer.
        """
        doubts = self._orders.doubts(self._order.key)
        if self._journal is None:
            return doubts
        lines = {entry.number: entry for entry in self._lines(self._journal.open)}
        settled = [number for number, doubt in doubts.items() if doubt.line and doubt.line not in lines]
        self._orders.forget(self._order.key, settled)
        for number in settled:
            del doubts[number]
        owners = {doubt.line: number for number, doubt in doubts.items()}
        now, ahead = self._clock.monotonic(), self._clock.monotonic() - self._clock.time()
        for line, entry in lines.items():
            held = entry.holder not in (None, self._holder)
            owner = owners.get(line)
            if owner is not None:
                doubts[owner] = doubts[owner]._replace(held=held)
            elif held or entry.state is State.UNKNOWN:
                doubts[-line] = Doubt(line, entry.intent.client_id, min(entry.sent_at + ahead, now), held)
        self._seen.update(doubt.line for doubt in doubts.values() if doubt.line not in (0, self._line))
        return doubts

    def _lines(self, select: Callable[[str, str, str], list[Entry]]) -> list[Entry]:
        """Return lines of the order, as a method of the journal selects them by origin, key and id."""
        found = []
        for key in dict.fromkeys((self._order.key, self._own_key)):
            origin, identity, _ = key
            ours, others = _written(key), f"{identity} "
            # An id that was given to an order of a fingerprint is its own, whoever's it is now.
            found += [
                entry
                for entry in select(origin, ours, identity)
                if entry.intent.key == ours or not entry.intent.key.startswith(others)
            ]
        return found

    def _same(self, doubts: Mapping[int, Doubt]) -> bool:
        """Return whether these are the doubts that there are now, and none of them is about a later send."""
        now = self._doubts()
        return now.keys() == doubts.keys() and all(
            now[number].sent_at <= doubt.sent_at + _ROUNDING for number, doubt in doubts.items()
        )

    def _hold(self, doubts: Mapping[int, Doubt]) -> bool:
        lines = [doubt.line for doubt in doubts.values() if doubt.line]
        return self._journal is None or not lines or self._journal.hold(lines, self._holder)

    def _executed_elsewhere(self) -> bool:
        """Return whether another process has executed the order since it was seen to be in doubt.

        Who finds it absent sends it on a line of its own, which may be begun and ended between two of our looks.
        """
        if self._journal is None or not self._seen:
            return False
        executed = self._lines(partial(self._journal.executed, since=min(self._seen)))
        return any(entry.number != self._line for entry in executed)

    def _pause(self, deadline: float) -> None:
        if self._clock.monotonic() + _POLL >= deadline:
            raise StillUnknownError("the deadline ended while another process was finding out")
        self._clock.sleep(_POLL)

    def _note_own(self, outcome: Outcome | None) -> None:
        if self._line is not None and self._state is not None:
            self._note([self._line], self._state, outcome)

    def _note(self, lines: list[int], state: State, outcome: Outcome | None) -> None:
        if self._journal is None or not lines:
            return
        code, status = (None, None) if outcome is None else (outcome.code, outcome.status)
        # The order is sent already, and its answer is worth more to the caller than our trouble. The line stays open,
        # so nothing is taken for harmless; and the next order is told by its own intent.
        with contextlib.suppress(JournalError):
            self._journal.note(lines, state, code=code, status=status, holder=self._holder if self._leads else "")

    def _close_books(self) -> None:
        """Let other processes have what we held."""
        if self._journal is None:
            return
        if self._state is State.NOT_EXECUTED:
            self._note_own(self._outcome)
        self._note(self._absent, State.NOT_EXECUTED, None)
        with contextlib.suppress(JournalError):  # we are found to be gone, then
            self._journal.release(self._holder)


def _written(key: Key) -> str:
    """Return a key but for its origin, as the journal has it."""
    _, identity, whose = key
    return f"{identity} {whose}" if whose else identity


def fingerprint(request: PreparedRequest) -> str:
    """Return what tells a request from others, but for its ``timestamp`` and ``signature``.

    A body that can be read once only, or not at all, makes the request like no other.
    """
    url, _, _ = (request.url or "").partition("#")
    base, _, query = url.partition("?")
    body = request.body
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogateescape")
    elif body is None:
        body = b""
    elif not isinstance(body, bytes):
        body = os.urandom(16)
    digest = hashlib.sha256()
    for part in ((request.method or "").upper().encode(), _wire(base), _wire(strip_signature(query)), _bare(body)):
        digest.update(b"%d:%b" % (len(part), part))
    return digest.hexdigest()


def _wire(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _bare(body: bytes) -> bytes:
    """Return a form or a JSON object without its timestamp and signature, anything else as it is."""
    if not any(name.encode() in body for name in _FRESH):
        return body
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return _wire(strip_signature(body.decode("utf-8", "surrogateescape")))
    if not isinstance(document, dict):
        return body
    return json.dumps({name: value for name, value in document.items() if name not in _FRESH}).encode()


def _replica(response: Response) -> Response:
    """Return a response of one's own with the same content."""
    replica = Response()
    replica.__dict__.update(response.__dict__)
    replica.headers = response.headers.copy()
    replica.history = list(response.history)
    return replica
